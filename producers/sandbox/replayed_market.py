"""Books and trades of the log once more, as a followed market: what the matching meets when paper fills are made again.

Called by `replayed`. The follower is the sandbox's own (`follow`); it is told record by record, in the recorded order.
"""

from collections.abc import Iterator
from typing import Any

from infra.errors import RecordsLost
from infra.log import Slot
from producers.sandbox.feeds import BookView, Frame
from producers.sandbox.follow import Follow, Place
from producers.sandbox.logged import Batch, Tail, told_line_of
from producers.sandbox.outside import Line
from streams.history import History, merged

_FAR = 20_000
"""Records that nobody waits in are passed over from so many on."""
_NEVER_MS = 10**15


class _Quiet(Tail):
    """In the place of a tail that reads on."""

    def __init__(self) -> None:
        super().__init__(_no_log)


def _no_log() -> Any:
    raise AssertionError("a replay reads no log by itself")


class PlayedPartition:
    """One partition's books and trades, passed on in the recorded order to one follower."""

    def __init__(self, history: History, partition: int, prefix: str) -> None:
        self.follow = Follow(_Quiet(), stale_ms=_NEVER_MS, now_ms=lambda: 0)
        self.follow.is_warm = True
        self._history = history
        self._prefix = prefix
        self._books, self._trades = Slot("orderbooks", partition), Slot("trades", partition)
        self._ends = {slot: end for slot, (_, end) in history.spans(["orderbooks", "trades"]).items()}
        self._at: dict[Slot, int] = {}
        self._lines: Iterator[tuple[Slot, int, Frame | None]] = iter(())

    @property
    def is_begun(self) -> bool:
        """Whether it stands anywhere."""
        return bool(self._at)

    def jump(self, place: Place) -> None:
        """Stand at a place, whatever lies before it."""
        self._at = {self._books: place.books + 1, self._trades: place.trades + 1}
        ends = {slot: self._ends.get(slot, 0) for slot in self._at}
        self._lines = self._read({slot: (first, ends[slot]) for slot, first in self._at.items() if first < ends[slot]})

    def is_far(self, place: Place) -> bool:
        """Whether a place lies so far ahead that its records are better passed over."""
        return place.books - self._at[self._books] > _FAR

    def show(self, place: Place, market: str) -> None:
        """Make the book of a place the market's newest, where it lies in what was passed over."""
        known = self.follow.place(market)
        if known is not None and known.newest == place.newest:
            return
        for record in self._history.read(self._books, place.newest, place.newest + 1):
            line = told_line_of(record, self._prefix)
            if line is not None and line.market == market:
                for _ in self.follow.take_batch(_batch(line), _nothing_due):
                    pass

    def advance(self, place: Place) -> Iterator[Frame]:
        """Frames up to a place; raises `RecordsLost` where it cannot be reached."""
        wanted = {self._books: place.books, self._trades: place.trades}
        while any(self._at[slot] <= last for slot, last in wanted.items()):
            found = next(self._lines, None)
            if found is None:
                missing = next(slot for slot, last in wanted.items() if self._at[slot] <= last)
                raise RecordsLost(
                    f"{missing.topic}/{missing.partition} is not there up to offset {wanted[missing]}, on which paper"
                    f" orders were filled: it ends at {self._at[missing] - 1}"
                )
            slot, offset, frame = found
            self._at[slot] = offset + 1
            if frame is not None:
                yield frame

    def _read(self, spans: dict[Slot, tuple[int, int]]) -> Iterator[tuple[Slot, int, Frame | None]]:
        """Each record with its frame, while its book is the newest; None for one that tells nothing."""
        for record in merged(self._history, spans):
            line = told_line_of(record, self._prefix)
            frames = iter(()) if line is None else self.follow.take_batch(_batch(line), _nothing_due)
            frame = next(frames, None)
            yield record.slot, record.offset, frame
            for _ in frames:
                raise AssertionError("one line gives at most one frame")


def _batch(line: Line) -> Batch:
    return Batch([line], [], {}, is_caught_up=True)


def _nothing_due(_exchange_ms: int) -> None:
    """Say that nothing is due: when things happened stands in the journal."""


class PlayedBooks:
    """What the matching asks of a market, over all partitions."""

    kind = "follow"
    is_synthetic = False
    has_queue = True

    def __init__(self) -> None:
        self.of: dict[str, PlayedPartition] = {}

    def book(self, market: str) -> BookView | None:
        """The newest book of a market."""
        found = self.of.get(market)
        return None if found is None else found.follow.book(market)

    def take(self, *_: object, **__: object) -> list[Frame]:
        """Nothing changes: the market is somebody else's."""
        return []

    cross = take
