"""The number of a new session: the start time in ms, at least the last one in the log plus one."""

from collections.abc import Iterable

import msgspec

from infra.errors import LogUnavailable
from infra.log import Log, Record, Slot, slots_of
from producers.upbit.source import BOOKS, TRADES

TAIL = 200
"""Records read from the end of each partition; each carries its session."""
_TRIES = 100


class _Stamp(msgspec.Struct, gc=False):
    session: int = 0


_decode = msgspec.json.Decoder(_Stamp).decode


def next_session(log: Log, wall_ms: int) -> int:
    """Read the tails of both topics and choose; raises `LogUnavailable`, `TopicMissing`."""
    return max(wall_ms, last_session(log, slots_of(log, (BOOKS, TRADES))) + 1)


def last_session(log: Log, slots: Iterable[Slot]) -> int:
    """The largest session at the end of these partitions, 0 where there is none."""
    bounds = log.bounds(slots)
    starts = {slot: max(first, end - TAIL) for slot, (first, end) in bounds.items() if end > first}
    if not starts:
        return 0
    largest = 0
    reader = log.reader(starts)
    try:
        for _ in range(_TRIES):
            records = reader.read(TAIL, 0.2)
            largest = max([largest, *(_session_of(record) for record in records)])
            if all(reader.position(slot) >= bounds[slot][1] for slot in starts):
                return largest
    finally:
        reader.close()
    raise LogUnavailable("the ends of orderbooks and trades cannot be read")


def _session_of(record: Record) -> int:
    """The session of a record; 0 for what is no message (it must not keep the feed from starting)."""
    try:
        return _decode(record.value).session
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0
