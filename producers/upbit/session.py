"""Where a new session begins: its number, and what the log tells of the sessions before it.

The number is the start time in ms, at least the last one in the log plus one. What was missed while no feed ran is
everything from the last heartbeats on; it is back-filled like a hole within a session.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from infra.errors import LogUnavailable
from infra.log import Log, Record, Slot, slots_of
from producers.upbit.backfill import MARGIN_MS
from producers.upbit.source import BOOKS, TRADES

TAIL = 200
"""Records read from the end of each partition; each carries its session."""
DEEPEST = 51_200
"""Records read at most from the end of a partition of trades to find the time before its last heartbeat."""
_DEEPER = 4
_TRIES = 100


class Beginning(NamedTuple):
    """What a session begins with."""

    session: int
    since_ms: int = 0
    """Up to here every partition of `trades` was closed by the source's earlier sessions; 0 where there was none."""
    known: tuple[tuple[str, int], ...] = ()
    """(market, trade id) at the end of what those published: a back-fill need not bring them again."""


class _Stamp(msgspec.Struct, gc=False):
    type: str = ""
    exchange: str = ""
    source: str = ""
    session: int = 0
    event_ms: int = 0
    market: str = ""
    trade_id: int = 0


_decode = msgspec.json.Decoder(_Stamp).decode
_Stamps = dict[Slot, list[_Stamp]]


def next_session(log: Log, wall_ms: int, exchange: str, source: str) -> Beginning:
    """Read the tails of both topics and choose; raises `LogUnavailable`, `TopicMissing`."""
    bounds = {slot: ends for slot, ends in log.bounds(slots_of(log, (BOOKS, TRADES))).items() if ends[1] > ends[0]}
    stamps = _read(log, bounds, TAIL)
    last = max((stamp.session for found in stamps.values() for stamp in found), default=0)
    trades = {slot: _of(found, exchange, source) for slot, found in stamps.items() if slot.topic == TRADES}
    depth = TAIL
    while depth < DEEPEST:
        short = {slot: bounds[slot] for slot, found in trades.items() if _is_short(found, bounds[slot], depth)}
        if not short:
            break
        depth *= _DEEPER
        trades |= {slot: _of(found, exchange, source) for slot, found in _read(log, short, depth).items()}
    return Beginning(
        max(wall_ms, last + 1),
        min((beats[-1] for found in trades.values() if (beats := _beats(found))), default=0),
        tuple((stamp.market, stamp.trade_id) for found in trades.values() for stamp in found if stamp.trade_id),
    )


def _read(log: Log, bounds: Mapping[Slot, tuple[int, int]], depth: int) -> _Stamps:
    """The last `depth` records of each partition."""
    found: _Stamps = {slot: [] for slot in bounds}
    if not bounds:
        return found
    reader = log.reader({slot: max(first, end - depth) for slot, (first, end) in bounds.items()})
    try:
        quiet = 0
        while quiet < _TRIES:
            records = reader.read(TAIL * len(bounds), 0.2)
            for record in records:
                found[record.slot].append(_stamp_of(record))
            if all(reader.position(slot) >= end for slot, (_, end) in bounds.items()):
                return found
            quiet = 0 if records else quiet + 1
    finally:
        reader.close()
    raise LogUnavailable("the ends of orderbooks and trades cannot be read")


def _of(stamps: Iterable[_Stamp], exchange: str, source: str) -> list[_Stamp]:
    """Those of one source."""
    return [stamp for stamp in stamps if (stamp.exchange, stamp.source) == (exchange, source)]


def _beats(stamps: Iterable[_Stamp]) -> list[int]:
    return [stamp.event_ms for stamp in stamps if stamp.type == "heartbeat"]


def _is_short(stamps: Iterable[_Stamp], bounds: tuple[int, int], depth: int) -> bool:
    """Whether more has to be read, to see every trade that a back-fill from the last heartbeat on could bring again."""
    first, end = bounds
    beats = _beats(stamps)
    return end - depth > first and (not beats or beats[-1] - beats[0] < 2 * MARGIN_MS)


def _stamp_of(record: Record) -> _Stamp:
    """An empty one for what is no message (it must not keep the feed from starting)."""
    try:
        return _decode(record.value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Stamp()
