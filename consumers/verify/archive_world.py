"""The log of `verify archive`: made from a seed, with days, hours, transactions and a compacted topic in it; and the
judgement of an archive against it. Pure but for reading the archive.
"""

import io
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from consumers.archive.checking import check
from consumers.archive.days import CLOSE_AFTER_MS, following, place_of, start_ms
from infra.log import Record, Slot
from infra.memory_log import MemoryLog
from infra.store import Store
from streams import messages as m
from streams.archive_spans import spans_of
from streams.parts import DamagedPart, Part, records_of
from streams.process import topic_specs

TOPICS = ["orderbooks", "trades", "controls", "order-intents", "account-states"]
BEGIN_MS = start_ms("2026-11-18") + 20 * 3_600_000
DAYS = 4
BURSTS = 8
"""So often the log is written to for some minutes, between hours in which nothing comes."""
_PARTITIONS = 2
_MINUTE_MS = 60_000


@dataclass(slots=True)
class Judged:
    """What an archive has, held against the log."""

    records: int = 0
    missing: int = 0
    twice: int = 0
    other: int = 0
    """Not what the log has at that offset."""
    told_missing: int = 0
    """Offsets that the archive itself names as lost."""
    faults: list[str] = field(default_factory=list)
    bytes: Counter[str] = field(default_factory=Counter)
    json_bytes: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def is_exact(self) -> bool:
        """Each record of the log once, and nothing else."""
        return not (self.missing or self.twice or self.other or self.faults)


def records_of_seed(seed: int, count: int) -> list[Record]:
    """So many records over four days, in the order in which they were appended; the clock goes back once by a minute,
    order intents leave out the offsets of transaction markers, account states those that compaction took.
    """
    rng = random.Random(seed)  # noqa: S311 - a trial's, not a secret's
    ends: Counter[Slot] = Counter()
    found: list[Record] = []
    at_ms = BEGIN_MS
    for number in range(count):
        at_ms += rng.randrange(1_000)
        if number % (count // BURSTS) == 0:
            at_ms += DAYS * 86_400_000 // BURSTS
        if number == count // 3:
            at_ms -= _MINUTE_MS
        topic = rng.choices(TOPICS, (6, 3, 1, 1, 1))[0]
        slot = Slot(topic, rng.randrange(1 if topic == "controls" else _PARTITIONS))
        value = _value(rng, topic, at_ms)
        found.append(Record(topic, slot.partition, ends[slot], at_ms, f"upbit:KRW-{slot.partition}", value))
        ends[slot] += 1 + (topic == "order-intents") + (rng.randrange(3) if topic == "account-states" else 0)
    return found


def log_of(records: Sequence[Record], firsts: Mapping[Slot, int]) -> MemoryLog:
    """A log that holds just these, and has deleted what lies before `firsts`."""
    log = MemoryLog(clock_ms=lambda: 0)
    log.create_topics([spec for spec in topic_specs() if spec.name in TOPICS])
    for record in records:
        log.append(record)
    for slot, first in firsts.items():
        log.truncate(slot, first)
    return log


def wall_ms(records: Sequence[Record]) -> int:
    """When all of them were appended and the last day is over by as much as it takes to close it."""
    day, _ = place_of(max(record.append_ms for record in records))
    return start_ms(following(day)) + CLOSE_AFTER_MS + _MINUTE_MS


def judge(store: Store, records: Sequence[Record], lost: Mapping[Slot, range], *, is_closed: bool = True) -> Judged:
    """Read the whole archive back; `lost` is what the log had deleted before anybody could read it, `is_closed` says
    that all its days are over.
    """
    found = Judged()
    expected: dict[Slot, dict[int, Record]] = {}
    for record in records:
        if record.offset not in lost.get(record.slot, ()):
            expected.setdefault(record.slot, {})[record.offset] = record
    there = {slot: _read(store, spans, found) for slot, spans in spans_of(store.names()).items()}
    for slot in expected.keys() | there.keys():
        _compare(expected.get(slot, {}), there.get(slot, []), found)
    checked = check(store)
    found.faults += checked.faults
    found.told_missing = sum(
        last - first + 1
        for spans in spans_of(store.names()).values()
        for first, last, name in spans
        if Part.of_name(name) is None
    )
    if found.told_missing != sum(len(one) for one in lost.values()):
        found.faults.append(f"{found.told_missing} offsets are named missing, {lost} are")
    wanted = {place_of(record.append_ms)[0] for record in records}
    if is_closed and (open_days := wanted - set(checked.days)):
        found.faults.append(f"not complete: {', '.join(sorted(open_days))}")
    return found


def _read(store: Store, spans: Sequence[tuple[int, int, str]], found: Judged) -> list[Record]:
    records: list[Record] = []
    for _, _, name in spans:
        if Part.of_name(name) is None:
            continue
        data = store.read(name)
        try:
            read = list(records_of(io.BytesIO(data), name))
        except DamagedPart as error:
            found.faults.append(str(error))
            continue
        records += read
        if read:
            found.bytes[read[0].topic] += len(data)
    return records


def _compare(expected: Mapping[int, Record], there: Sequence[Record], found: Judged) -> None:
    seen = Counter(record.offset for record in there)
    found.records += len(there)
    found.missing += len(expected.keys() - seen.keys())
    found.twice += sum(count - 1 for count in seen.values())
    found.other += sum(1 for record in there if expected.get(record.offset) != record)
    for record in there:
        found.counts[record.topic] += 1
        found.json_bytes[record.topic] += len(record.value)


def _value(rng: random.Random, topic: str, at_ms: int) -> bytes:
    if topic == "orderbooks" and rng.random() < 0.9:
        mid = 50_000_000 + rng.randrange(200) * 1_000
        return m.encode(
            m.OrderBook(
                exchange="upbit", market="KRW-BTC", source="upbit-0", session=1, exchange_ms=at_ms,
                received_ns=at_ms * 1_000_000 + rng.randrange(1_000_000),
                bid_prices=[float(mid - 1_000 * level) for level in range(15)],
                bid_sizes=[round(rng.random(), 8) for _ in range(15)],
                ask_prices=[float(mid + 1_000 * level) for level in range(1, 16)],
                ask_sizes=[round(rng.random(), 8) for _ in range(15)],
            )
        )  # fmt: skip
    if topic in {"orderbooks", "trades"} and rng.random() < 0.1:
        return b"\xffnot a message" + rng.randbytes(4)
    stopped = m.TradingStopped(account=f"a{rng.randrange(9)}", by="verify archive", event_ms=at_ms)
    return m.encode(stopped)
