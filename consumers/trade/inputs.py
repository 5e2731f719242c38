"""The order in which trade takes its inputs: how a batch is ordered, recorded, and read again.

Used by `consumers.trade.runner` (live) and `consumers.trade.replay`. Knows records and offsets, decides nothing.
"""

import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from consumers.trade.fold import Fold, Input, Output
from infra.catch_up import QUIET_S, read_range
from infra.errors import BadMessage, LogUnavailable, RecordsLost
from infra.log import Log, Record, Slot, slots_of
from streams import messages as m
from streams import topics

TOPICS = ("controls", "markets", "order-events", "features", "quotes", "signals")
"""What trade reads, in the order in which one batch is folded: people, then orders, then prices, then forecasts."""
_RANK = {topic: rank for rank, topic in enumerate(TOPICS)}
_BUFFERED = 5_000


class Stretch(NamedTuple):
    """Consecutive records of one partition."""

    slot: Slot
    records: list[Record]

    @property
    def entry(self) -> m.TradeInput:
        """How it is recorded."""
        first, last = self.records[0].offset, self.records[-1].offset
        return m.TradeInput(
            kind="range", topic=self.slot.topic, partition=self.slot.partition, first=first, last=last
        )  # fmt: skip


def in_order(records: Iterable[Record]) -> list[Stretch]:
    """One batch as stretches, in the order in which it is folded."""
    by_slot: dict[Slot, list[Record]] = {}
    for record in records:
        by_slot.setdefault(record.slot, []).append(record)
    slots = sorted(by_slot, key=lambda slot: (_RANK[slot.topic], slot.partition))
    return [Stretch(slot, by_slot[slot]) for slot in slots]


def read(record: Record) -> Input:
    """Read a record; raises `BadMessage`, which says why it cannot be used."""
    try:
        message: Input = topics.decode(record.topic, record.value)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadMessage(str(error)) from error
    return message


def pulse_entry(event_ms: int) -> m.TradeInput:
    """How a pulse is recorded."""
    return m.TradeInput(kind="pulse", event_ms=event_ms)


def slot_name(slot: Slot) -> str:
    """Name of a partition in a cursor."""
    return f"{slot.topic}/{slot.partition}"


PULSE = "pulse"
"""The cursor's entry for the last pulse taken."""
LAST_PARTITION = "last-partition"
"""The cursor's entry for the last of the pocket partitions that the process owned; without it: all of them."""


def is_covered(entry: m.TradeInput, cursor: Mapping[str, int]) -> bool:
    """Whether a state at `cursor` has taken this input already."""
    if entry.kind == "pulse":
        return entry.event_ms <= cursor.get(PULSE, 0)
    return entry.last < cursor.get(f"{entry.topic}/{entry.partition}", 0)


class Ranges(Protocol):
    """Fetches recorded ranges again: from a log, or from a history."""

    def take(self, slot: Slot, first: int, last: int) -> list[Record]:
        """Return the records of [`first`, `last`]; raises `RecordsLost` where they are gone."""


class RangeReader:
    """Fetches recorded ranges again, in any order of partitions, forwards within each."""

    def __init__(self, log: Log, starts: Mapping[Slot, int]) -> None:
        self._reader = log.reader(starts)
        self._buffers: dict[Slot, deque[Record]] = {slot: deque() for slot in starts}
        self._paused: set[Slot] = set()

    def take(self, slot: Slot, first: int, last: int) -> list[Record]:
        """Return the records of [`first`, `last`]; raises `RecordsLost` where the log has deleted them."""
        buffer = self._buffers[slot]
        if slot in self._paused and not self._reaches(buffer, last):
            self._reader.resume([slot])
            self._paused.discard(slot)
        moved_s = time.monotonic()
        while not self._reaches(buffer, last) and self._reader.position(slot) <= last:
            for record in self._reader.read(_BUFFERED, 1.0):
                self._buffers[record.slot].append(record)
                moved_s = time.monotonic()
            self._pause_full(slot)
            if time.monotonic() - moved_s > QUIET_S:
                raise LogUnavailable(f"nothing came for {QUIET_S:.0f} s of {slot.topic}/{slot.partition} at {last}")
        taken: list[Record] = []
        while buffer and buffer[0].offset <= last:
            record = buffer.popleft()
            if record.offset >= first:
                taken.append(record)
        if not taken or taken[0].offset != first or taken[-1].offset != last:
            raise RecordsLost(f"trade's recorded input {slot.topic}/{slot.partition} {first}-{last} is gone")
        return taken

    def close(self) -> None:
        """Leave."""
        self._reader.close()

    @staticmethod
    def _reaches(buffer: Sequence[Record], last: int) -> bool:
        return bool(buffer) and buffer[-1].offset >= last

    def _pause_full(self, wanted: Slot) -> None:
        full = [s for s, b in self._buffers.items() if len(b) > _BUFFERED and s != wanted and s not in self._paused]
        if full:
            self._reader.pause(full)
            self._paused.update(full)


def read_to_end(log: Log, slots: Sequence[Slot], starts: Mapping[Slot, int] | None = None) -> Iterator[Record]:
    """Yield what stands in some partitions now, committed records only; a start that is no longer kept is the first."""
    bounds = log.bounds(slots)
    return read_range(log, {slot: max(bounds[slot][0], (starts or {}).get(slot, 0)) for slot in slots})


def behind(log: Log, positions: Mapping[Slot, int]) -> str | None:
    """What could be read but is not: for the watchdog. Behind a position may stand transaction markers only."""
    for slot, (first, end) in log.bounds(positions).items():
        position = max(positions[slot], first)
        if position >= end:
            continue
        reader = log.reader({slot: position})
        try:
            records = reader.read(1, 1.0)
        finally:
            reader.close()
        if records:
            return f"{slot.topic}-{slot.partition}: next is {position}, offset {records[0].offset} can be read"
    return None


def first_offsets(log: Log, pockets: Collection[int]) -> dict[Slot, int]:
    """Where each input partition begins; of the orders only those of the pockets that are ours."""
    slots = [slot for slot in slots_of(log, TOPICS) if slot.topic != "order-events" or slot.partition in pockets]
    return {slot: bounds[0] for slot, bounds in log.bounds(slots).items()}


def fold_entry(fold: Fold, entry: m.TradeInput, ranges: Ranges) -> list[Output]:
    """Fold one recorded input again; unreadable records are passed over as they were the first time."""
    if entry.kind == "pulse":
        return fold.pulse(entry.event_ms)
    outputs: list[Output] = []
    for record in ranges.take(Slot(entry.topic, entry.partition), entry.first, entry.last):
        try:
            outputs += fold.take(read(record))
        except BadMessage:
            continue
    return outputs
