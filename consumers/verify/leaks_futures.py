"""Other futures of a history: what lies after a time is altered, deleted, added to, put in another order, or cut off.

Called by `consumers.verify.leaks`. "After t" is market data whose event time is t or later, and everything written
later than t + lateness. What lies before is never touched, and heartbeats count what their log really holds: every
future is one that might have happened. Pure and deterministic.
"""

import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

import msgspec

from consumers.verify.disturbed import Written
from consumers.verify.leaks_market import whole_second
from streams import topics
from streams.messages import Heartbeat, Hole, MarketData, OrderBook, Trade, encode, key_of

Entry = tuple[int, Written, MarketData | None]
"""Where a record stood in the history (-1: nowhere), the record, and what it says (None: cannot be read)."""
Counted = tuple[str, int, str, int]
"""Whose records a heartbeat counts: topic, partition, source, session."""


@lru_cache(maxsize=20_000)
def said(topic: str, value: bytes) -> MarketData | None:
    """What a record says; None where it cannot be read."""
    try:
        message: MarketData = topics.decode(topic, value)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return message


@dataclass(frozen=True, slots=True)
class Tape:
    """A history with what its records say."""

    records: list[Written]
    messages: list[MarketData | None]
    at_ms: list[int]
    event_ms: list[int]
    """Event time of market data; -1 for everything else, which has none."""
    owed: dict[int, int]
    """By where a heartbeat stands: what it counts beyond what the history shows."""
    begins: dict[Counted, int]
    """Where the first heartbeat of a session stands that the history shows from its beginning: none of its records
    was written before it."""
    others: dict[int, Written] = field(default_factory=dict)
    """By where a record stands: the same record with other values, made when first asked for."""

    @classmethod
    def of(cls, records: Iterable[Written]) -> "Tape":
        """Read a history; raises `ValueError` where a time of writing goes back."""
        kept = list(records)
        for number, (before, record) in enumerate(pairwise(kept), 1):
            if record.at_ms < before.at_ms:
                raise ValueError(f"record {number} was written at {record.at_ms}, the one before it at {before.at_ms}")
        messages = [said(record.topic, record.value) for record in kept]
        events = [message.exchange_ms if isinstance(message, OrderBook | Trade) else -1 for message in messages]
        seen: dict[Counted, int] = {}
        owed: dict[int, int] = {}
        begins: dict[Counted, int] = {}
        for number, (record, message) in enumerate(zip(kept, messages, strict=True)):
            if isinstance(message, OrderBook | Trade):
                _count(seen, record, message)
            elif isinstance(message, Heartbeat):
                counted = _counted(record, message)
                owed[number] = message.count - seen.get(counted, 0)
                if message.count == 0 and counted not in seen:
                    begins.setdefault(counted, number)
        return cls(kept, messages, [record.at_ms for record in kept], events, owed, begins)

    def entries(self) -> list[Entry]:
        """All of it."""
        return list(zip(range(len(self.records)), self.records, self.messages, strict=True))

    def is_after(self, number: int, cut_ms: int, lateness_ms: int) -> bool:
        """Whether a record of market data lies after a time."""
        event_ms = self.event_ms[number]
        return event_ms >= 0 and (event_ms >= cut_ms or self.at_ms[number] > cut_ms + lateness_ms)

    def begin_of(self, number: int) -> int:
        """Where the session of a record begins in its partition; -1 where the history does not show that."""
        message = self.messages[number]
        if not isinstance(message, OrderBook | Trade):
            return -1
        return self.begins.get(_counted(self.records[number], message), -1)


Future = Callable[[Tape, int, int, random.Random], list[Written]]
"""Another future of a history after `cut_ms`, given what may be waited for."""


def _counted(record: Written, message: OrderBook | Trade | Heartbeat) -> Counted:
    return record.topic, record.partition, message.source, message.session


def _count(seen: dict[Counted, int], record: Written, message: OrderBook | Trade) -> None:
    key = _counted(record, message)
    seen[key] = seen.get(key, 0) + 1


def recounted(tape: Tape, entries: Iterable[Entry]) -> list[Written]:
    """The records of another future, with heartbeats that count what is there."""
    seen: dict[Counted, int] = {}
    written: list[Written] = []
    for number, record, message in entries:
        if isinstance(message, OrderBook | Trade):
            _count(seen, record, message)
        elif isinstance(message, Heartbeat):
            count = seen.get(_counted(record, message), 0) + tape.owed.get(number, 0)
            if count != message.count:
                written.append(record._replace(value=encode(msgspec.structs.replace(message, count=count))))
                continue
        written.append(record)
    return written


def other_values(message: OrderBook | Trade, rng: random.Random) -> OrderBook | Trade:
    """The same event at the same time, with other prices, sizes and side."""
    factor = rng.choice((0.5, 0.9, 1.1, 2.0))
    if isinstance(message, Trade):
        return msgspec.structs.replace(
            message, price=message.price * factor, size=message.size * rng.uniform(2, 9), is_buy=not message.is_buy
        )
    return msgspec.structs.replace(
        message,
        bid_prices=[price * factor for price in message.bid_prices],
        ask_prices=[price * factor for price in message.ask_prices],
        bid_sizes=[size * rng.uniform(2, 9) for size in message.bid_sizes],
        ask_sizes=[size * rng.uniform(0.1, 0.5) for size in message.ask_sizes],
    )


def other(tape: Tape, number: int) -> Written:
    """A record of market data with other values, always the same ones; anything else as it is."""
    found = tape.others.get(number)
    if found is None:
        record, message = tape.records[number], tape.messages[number]
        if isinstance(message, OrderBook | Trade):
            record = record._replace(value=encode(other_values(message, random.Random(number))))  # noqa: S311 a test input
        found = tape.others[number] = record
    return found


# --- the futures ------------------------------------------------------------------------------------------------------


def altered(tape: Tape, cut_ms: int, lateness_ms: int, rng: random.Random) -> list[Written]:
    """All market data after the cut say something else."""
    del rng
    return [
        other(tape, number) if tape.is_after(number, cut_ms, lateness_ms) else record
        for number, record in enumerate(tape.records)
    ]


def deleted(tape: Tape, cut_ms: int, lateness_ms: int, rng: random.Random) -> list[Written]:
    """Market data after the cut never were: all of them, or some by lot."""
    share = rng.choice((1.0, 0.5))
    kept = (
        entry
        for entry in tape.entries()
        if not tape.is_after(entry[0], cut_ms, lateness_ms) or rng.random() >= share
    )  # fmt: skip
    return recounted(tape, kept)


def inserted(tape: Tape, cut_ms: int, lateness_ms: int, rng: random.Random) -> list[Written]:
    """Further market data after the cut: at it to the millisecond, late ones and back-filled ones of before it.

    A hole of before it that is declared too late is among them.
    """
    added = [(-1, record, said(record.topic, record.value)) for record in _additions(tape, cut_ms, lateness_ms, rng)]
    entries = sorted([*tape.entries(), *added], key=lambda entry: entry[1].at_ms)
    return recounted(tape, entries)


def reordered(tape: Tape, cut_ms: int, lateness_ms: int, rng: random.Random) -> list[Written]:
    """Market data after the cut come in another order; what was written by the cut stays written by it.

    None comes before the heartbeat that begins its session: a producer writes that one first.
    """
    entries = tape.entries()
    after = [number for number in range(len(entries)) if tape.is_after(number, cut_ms, lateness_ms)]
    split = bisect_right(after, cut_ms + lateness_ms, key=lambda number: tape.at_ms[number])
    for part in (after[:split], after[split:]):
        for place, number in zip(part, _mixed(tape, part, rng), strict=True):
            moved = tape.records[number]._replace(at_ms=tape.at_ms[place])
            entries[place] = (number, moved, tape.messages[number])
    return recounted(tape, entries)


def _mixed(tape: Tape, places: Sequence[int], rng: random.Random) -> Iterator[int]:
    """One of the orders in which no record stands before the begin of its session, each with the same chance."""
    waiting = sorted(places, key=tape.begin_of, reverse=True)
    begun: list[int] = []
    for place in places:
        while waiting and tape.begin_of(waiting[-1]) < place:
            begun.append(waiting.pop())
        lot = rng.randrange(len(begun))
        begun[lot], begun[-1] = begun[-1], begun[lot]
        yield begun.pop()


def truncated(tape: Tape, cut_ms: int, lateness_ms: int, rng: random.Random) -> list[Written]:
    """The log ends at the cut, byte for byte what it was until then."""
    del rng
    return tape.records[: bisect_right(tape.at_ms, cut_ms + lateness_ms)]


FUTURES: dict[str, Future] = {
    "altered values": altered,
    "deletion": deleted,
    "insertion": inserted,
    "reordering": reordered,
    "truncated history": truncated,
}


def _speakers(tape: Tape, cut_ms: int) -> Iterator[tuple[Written, OrderBook | Trade]]:
    """The newest record of each market and topic before a time, of the newest session among the last few."""
    found: dict[tuple[str, str], tuple[Written, OrderBook | Trade]] = {}
    end = bisect_right(tape.at_ms, cut_ms)
    for number in range(end - 1, max(-1, end - 400), -1):
        message = tape.messages[number]
        if isinstance(message, OrderBook | Trade):
            key = (tape.records[number].topic, message.market)
            known = found.get(key)
            if known is None or (message.session, message.source) > (known[1].session, known[1].source):
                found[key] = (tape.records[number], message)
    yield from found.values()


_AT = (0, 1, 130, 300)
"""Milliseconds after the cut of what is added at it."""
_BEFORE = (1, 300, 900, 1_700)
"""Milliseconds before the cut of what is added too late."""


def _additions(tape: Tape, cut_ms: int, lateness_ms: int, rng: random.Random) -> Iterator[Written]:
    for record, message in _speakers(tape, cut_ms):
        for number, step_ms in enumerate(_AT):
            at_ms = min(cut_ms + step_ms + 10, cut_ms + max(0, lateness_ms - 1))
            yield _moved(record, message, cut_ms + step_ms, at_ms, rng, number)
        for number, step_ms in enumerate(_BEFORE, len(_AT)):
            at_ms = cut_ms + lateness_ms + 1 + rng.randrange(2_000)
            for is_backfill in (False, True) if isinstance(message, Trade) else (False,):
                yield _moved(record, message, cut_ms - step_ms, at_ms, rng, number, is_backfill=is_backfill)
        if isinstance(message, Trade):
            at_ms = cut_ms + lateness_ms + 1
            hole = Hole(
                exchange=message.exchange, source=message.source, session=message.session, from_ms=cut_ms - 3_000,
                to_ms=cut_ms, markets=[message.market], reason="told late",
            )  # fmt: skip
            yield Written(at_ms, record.topic, record.partition, "", encode(hole))


def _moved(
    record: Written,
    message: OrderBook | Trade,
    event_ms: int,
    at_ms: int,
    rng: random.Random,
    number: int,
    *,
    is_backfill: bool = False,
) -> Written:
    """A further record after the manner of one that is there."""
    changed = other_values(message, rng)
    changed = msgspec.structs.replace(changed, exchange_ms=event_ms, received_ns=at_ms * 1_000_000)
    if isinstance(changed, Trade):
        changed = msgspec.structs.replace(
            changed,
            trade_ms=whole_second(event_ms),
            trade_id=changed.trade_id + 10**9 + 2 * number + is_backfill,
            origin="backfill" if is_backfill else "stream",
        )
    return Written(at_ms, record.topic, record.partition, key_of(message.exchange, message.market), encode(changed))
