"""Several partitions of a log as iterators that share one reader; called by `streams.history` only.

It keeps a few thousand records per partition at most: partitions that are ahead are paused.
"""

from collections import deque
from collections.abc import Iterator, Mapping

from infra.errors import RecordsLost
from infra.log import Log, Record, Slot

_BATCH = 2_000
_WAIT_S = 0.1
"""Short: at the end of a partition may stand nothing but a transaction marker, which never comes."""
_KEPT = 4_000
"""Records that wait per partition before it is paused."""


class SharedReader:
    """Reads `spans` of a log; the reader is closed when the last iterator is at its end.

    Raises `RecordsLost` where the log does not keep all of a span.
    """

    def __init__(self, log: Log, spans: Mapping[Slot, tuple[int, int]]) -> None:
        self._log = log
        self._ends = {slot: end for slot, (_, end) in spans.items()}
        self._starts = {slot: first for slot, (first, _) in spans.items()}
        self._waiting: dict[Slot, deque[Record]] = {slot: deque() for slot in spans}
        self._left = {slot for slot, (first, end) in spans.items() if first < end}
        self._paused: set[Slot] = set()
        check_kept(log, {slot: spans[slot] for slot in self._left})
        self._reader = None if not self._left else log.reader({slot: self._starts[slot] for slot in self._left})

    def iterators(self) -> dict[Slot, Iterator[Record]]:
        """One per partition, in the order given."""
        return {slot: self._records(slot) for slot in self._ends}

    def close(self) -> None:
        """Let go of the log; what waits can still be had."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _records(self, slot: Slot) -> Iterator[Record]:
        waiting = self._waiting[slot]
        try:
            while True:
                while waiting:
                    yield waiting.popleft()
                if slot not in self._left:
                    return
                self._fill(slot)
        finally:
            self._finish(slot)

    def _fill(self, slot: Slot) -> None:
        """Read until something of `slot` waits or it is at its end."""
        assert self._reader is not None
        if slot in self._paused:
            self._paused.discard(slot)
            self._reader.resume([slot])
        while slot in self._left and not self._waiting[slot]:
            for record in self._reader.read(_BATCH, _WAIT_S):
                if record.offset < self._ends[record.slot]:
                    self._waiting[record.slot].append(record)
            self._settle()

    def _settle(self) -> None:
        """Pause what is ahead, and drop what is at its end."""
        assert self._reader is not None
        done = [one for one in self._left if self._reader.position(one) >= self._ends[one]]
        self._left.difference_update(done)
        ahead = [one for one, records in self._waiting.items() if len(records) >= _KEPT and one not in self._paused]
        stopped = [one for one in {*done, *ahead} if one not in self._paused]
        if stopped:
            self._reader.pause(stopped)
            self._paused.update(stopped)
        if not self._left:
            self.close()

    def _finish(self, slot: Slot) -> None:
        """An iterator that is thrown away needs nothing more."""
        self._waiting[slot].clear()
        self._left.discard(slot)
        if not self._left:
            self.close()


def check_kept(log: Log, spans: Mapping[Slot, tuple[int, int]]) -> None:
    """Raise `RecordsLost` for a span that the log does not keep whole: what never comes would be waited for."""
    kept = log.bounds(spans) if spans else {}
    for slot, (first, end) in sorted(spans.items()):
        low, high = kept[slot]
        if first < low or end > high:
            has = f"keeps {low} to {high - 1}" if low < high else "keeps none"
            raise RecordsLost(
                f"{slot.topic}-{slot.partition}: offsets {first} to {end - 1} are wanted, the log {has}: the others"
                " were deleted, or are of another log. Read them from the archive (`--from archive`)."
            )
