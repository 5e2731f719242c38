"""Reads a closed stretch of the log to its end: for state that is rebuilt at a start, gaps that are read in, exports.

"To the end" is a matter of positions, not of records: the last offsets of a stretch may be transaction markers.
"""

import time
from collections.abc import Iterable, Iterator, Mapping

from infra.errors import LogUnavailable, RecordsLost
from infra.log import Log, Record, Slot

BATCH = 1_000
QUIET_S = 30.0


def read_range(
    log: Log, starts: Mapping[Slot, int], ends: Mapping[Slot, int] | None = None, *, quiet_s: float = QUIET_S
) -> Iterator[Record]:
    """Yield what stands in [start, end) of each partition; without `ends` up to what is written now.

    Raises `RecordsLost` where a start is no longer kept, `LogUnavailable` when nothing moves for `quiet_s`.
    """
    bounds = log.bounds(starts)
    for slot, start in starts.items():
        if start < bounds[slot][0]:
            lost = f"offsets {start} to {bounds[slot][0]}"
            raise RecordsLost(f"{slot.topic}-{slot.partition}: {lost} were deleted before they were read")
    stops = {slot: min(ends[slot], bounds[slot][1]) if ends else bounds[slot][1] for slot in starts}
    open_slots = {slot: start for slot, start in starts.items() if start < stops[slot]}
    if not open_slots:
        return
    reader = log.reader(open_slots)
    try:
        moved_s = time.monotonic()
        while open_slots:
            records = reader.read(BATCH, 0.2)
            yield from (record for record in records if record.offset < stops[record.slot])
            before = sum(open_slots.values())
            open_slots = {slot: reader.position(slot) for slot in open_slots}
            if sum(open_slots.values()) > before:
                moved_s = time.monotonic()
            elif time.monotonic() - moved_s > quiet_s:
                raise LogUnavailable(f"nothing came for {quiet_s:.0f} s at {open_slots}")
            done = [slot for slot, position in open_slots.items() if position >= stops[slot]]
            reader.pause(done)
            for slot in done:
                del open_slots[slot]
    finally:
        reader.close()


def latest_by_key(log: Log, slots: Iterable[Slot]) -> dict[tuple[Slot, str], Record]:
    """The last record of each key: the content of a compacted topic."""
    starts = {slot: first for slot, (first, _) in log.bounds(slots).items()}
    return {(record.slot, record.key): record for record in read_range(log, starts)}
