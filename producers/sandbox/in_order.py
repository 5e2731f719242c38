"""Records of many partitions in one order: by append time made monotone, rank of the topic, partition, offset.

Called by `logged.Tail`. It is the order in which a replay merges the same log (`streams.history`), so that what happens
on records live happens on them again when they are read a second time. It must never give a record twice.
"""

import heapq
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from infra.log import Record, Slot
from producers.sandbox.outside import Line
from streams.topics import TOPICS

HOLD_S = 0.05
"""How long a record at the end of the log waits for one of another partition that was appended before it and is still
on its way. Nothing waits where the log is read from the past."""

_RANKS = {name: rank for rank, name in enumerate(TOPICS)}
_Key = tuple[int, int, int, int]
"""(append time made monotone, rank of the topic, partition, offset)."""


class _Waiting(NamedTuple):
    key: _Key
    line: Line
    slot: Slot
    read_s: float
    is_old: bool


class InOrder:
    """What was read and may not be passed on yet, of the partitions that are read."""

    def __init__(self, starts: Iterable[Slot], hold_s: float = HOLD_S) -> None:
        self._hold_s = hold_s
        self._floors: dict[Slot, tuple[int, int, int]] = {
            slot: (0, _RANKS[slot.topic], slot.partition) for slot in starts
        }
        self._heap: list[_Waiting] = []
        self._counts: Counter[Slot] = Counter()
        self._last: _Key = (0, 0, 0, 0)
        self.late = 0
        """Records that came after one that was appended later had been passed on."""

    def add(self, record: Record, line: Line | None, read_s: float, *, is_old: bool) -> None:
        """Take one record as it was read; without a line it only tells how far its partition has come."""
        before_ms, rank, partition = self._floors[record.slot]
        append_ms = max(before_ms, record.append_ms)
        self._floors[record.slot] = (append_ms, rank, partition)
        if line is None:
            return
        key = (append_ms, rank, partition, record.offset)
        self.late += key < self._last
        heapq.heappush(self._heap, _Waiting(key, line, record.slot, read_s, is_old))
        self._counts[record.slot] += 1

    def due(self, left: Iterable[Slot], now_s: float) -> list[tuple[int, Line]]:
        """What can be passed on, with its append time: nothing can come before it any more, or it has waited long
        enough at the log's end.

        `left` are the partitions whose past has not been read to its end.
        """
        unread = [self._floors[slot] for slot in left if slot in self._floors]
        unread_floor = min(unread, default=None)
        floor = min(self._floors.values(), default=None)
        lines: list[tuple[int, Line]] = []
        while self._heap:
            first = self._heap[0]
            place = first.key[:3]
            is_past = floor is not None and place <= floor
            is_next = unread_floor is None and (first.is_old or now_s - first.read_s >= self._hold_s)
            if not is_past and not is_next:
                break
            heapq.heappop(self._heap)
            self._counts[first.slot] -= 1
            self._last = max(self._last, first.key)
            lines.append((first.key[0], first.line))
        return lines

    def seconds_until_due(self, now_s: float) -> float:
        """How long the first of them still waits, at most; endless where nothing waits."""
        return max(0.0, self._hold_s - (now_s - self._heap[0].read_s)) if self._heap else float("inf")

    @property
    def has_old(self) -> bool:
        """Whether something waits that stood in the log when the reading began."""
        return any(waiting.is_old for waiting in self._heap)

    def fuller_than(self, count: int) -> set[Slot]:
        """Partitions of which more lines wait."""
        return {slot for slot, waiting in self._counts.items() if waiting > count}
