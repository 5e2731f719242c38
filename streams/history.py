"""Recorded records of one run, from its log or from its archive, with one interface; and the order they came in.

Called by replays, checks, reports and readers of the archive. It only reads. What is missing, damaged, of another run
or told twice in two ways is an error with file and range, never left out.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from infra.errors import BadSettings, TopicMissing
from infra.log import Log, Record, Slot, TopicSpec, slots_of
from infra.memory_log import MemoryLog
from infra.settings import Settings
from infra.store import Store, store_at
from streams.archived import ArchiveHistory
from streams.shared_reader import SharedReader, check_kept
from streams.topics import TOPICS

Spans = Mapping[Slot, tuple[int, int]]
"""First offset, and the next one after the last, per partition."""

_RANKS = {topic: rank for rank, topic in enumerate(TOPICS)}
__all__ = [
    "ArchiveHistory", "History", "LogHistory", "Spans", "loaded", "merged", "open_history", "open_store_history",
    "read_all", "spans_between",
]  # fmt: skip


class History(Protocol):
    """Recorded records of one run."""

    def spans(self, topics: Iterable[str]) -> dict[Slot, tuple[int, int]]:
        """First offset kept and the next after the last, per partition; partitions without any are left out."""

    def read(self, slot: Slot, first: int, end: int) -> Iterator[Record]:
        """Each record in [`first`, `end`) once, in offset order; raises `RecordsLost` where a stretch is missing."""

    def appended_at(self, slot: Slot, first: int, end: int, append_ms: int) -> int:
        """The first offset in [`first`, `end`) that was appended at or after a time; `end` where none was."""


class LogHistory:
    """The records that a log keeps."""

    def __init__(self, log: Log) -> None:
        self.log = log

    def spans(self, topics: Iterable[str]) -> dict[Slot, tuple[int, int]]:
        """What the log keeps now; topics that it does not have are left out."""
        slots = [slot for topic in topics for slot in self._slots(topic)]
        return {slot: span for slot, span in sorted(self.log.bounds(slots).items()) if span[0] < span[1]}

    def read(self, slot: Slot, first: int, end: int) -> Iterator[Record]:
        """Records of one partition."""
        yield from self.read_together({slot: (first, end)})[slot]

    def read_together(self, spans: Spans) -> dict[Slot, Iterator[Record]]:
        """The same for several partitions, by one reader: one for each would be a hundred connections."""
        return SharedReader(self.log, spans).iterators()

    def appended_at(self, slot: Slot, first: int, end: int, append_ms: int) -> int:
        """As the log says; raises `RecordsLost` as `read` does."""
        if first >= end:
            return end
        check_kept(self.log, {slot: (first, end)})
        return min(max(first, self.log.appended_at([slot], append_ms)[slot]), end)

    def _slots(self, topic: str) -> list[Slot]:
        try:
            return slots_of(self.log, [topic])
        except TopicMissing:
            return []


def read_all(history: History, spans: Spans) -> dict[Slot, Iterator[Record]]:
    """An iterator per partition; a log is read by one reader for all of them."""
    if isinstance(history, LogHistory):
        return history.read_together(spans)
    return {slot: history.read(slot, *span) for slot, span in spans.items()}


def merged(history: History, spans: Spans) -> Iterator[Record]:
    """Yield the records in THE recorded order, in constant memory.

    By append time, made monotone within each partition, then the topic's place in `streams.topics.TOPICS`, partition
    and offset. The same history and spans always give the same order.
    """
    heap: list[tuple[int, int, int, Record, Iterator[Record]]] = []
    for slot, records in read_all(history, spans).items():
        if (record := next(records, None)) is not None:
            heap.append((record.append_ms, _rank(slot.topic), slot.partition, record, records))
    heapq.heapify(heap)
    while heap:
        at, rank, partition, record, records = heap[0]
        yield record
        following = next(records, None)
        if following is None:
            heapq.heappop(heap)
        else:
            later = following.append_ms
            heapq.heapreplace(heap, (max(at, later), rank, partition, following, records))


def spans_between(
    history: History, topics: Iterable[str], from_ms: int | None, to_ms: int | None
) -> dict[Slot, tuple[int, int]]:
    """The offsets appended in [`from_ms`, `to_ms`), per partition that has any; None leaves a side open.

    The log's clock is taken to go forward. Where it went back, an edge lies at one of the places where it passed that
    time, the same for both of its neighbours: each edge is looked for from the beginning, and a later time is never
    found before an earlier one, whatever the order. So stretches that abut in time abut in offsets.
    """
    found = {}
    for slot, (first, end) in history.spans(topics).items():
        low = first if from_ms is None else history.appended_at(slot, first, end, from_ms)
        high = end if to_ms is None else history.appended_at(slot, first, end, to_ms)
        if low < high:
            found[slot] = (low, high)
    return found


def loaded(history: History, spans: Spans, prefix: str = "") -> MemoryLog:
    """The records as a log in memory, with their offsets and append times; every topic is there."""
    log = MemoryLog(prefix, clock_ms=lambda: 0)
    counts = {topic.name: topic.partitions for topic in TOPICS.values()}
    for slot in spans:
        counts[slot.topic] = max(counts.get(slot.topic, 0), slot.partition + 1)
    log.create_topics([TopicSpec(name, count, {}) for name, count in counts.items()])
    for slot, span in spans.items():
        for record in history.read(slot, *span):
            log.append(record)
    return log


@contextmanager
def open_history(settings: Settings, where: str, tell: Callable[[str], None] = print) -> Iterator[History]:
    """The history that `where` names: `log`, `archive` (that of the settings), a folder, or `s3://bucket/folder`.

    A broker of the run folder that does not run is started for as long as this lasts, which `tell` is told.
    """
    if where == "log":
        from infra.servers.broker import kept_log  # noqa: PLC0415 - an archive needs no broker

        with kept_log(settings, tell) as log:
            yield LogHistory(log)
        return
    yield open_store_history(settings, where)


def open_store_history(settings: Settings, where: str) -> ArchiveHistory:
    """The archive that `where` names; raises `BadSettings` where there is none."""
    from infra.store import open_store  # noqa: PLC0415 - beside the one other place that opens stores

    store: Store = open_store(settings) if where == "archive" else store_at(where, settings)
    try:
        return ArchiveHistory(store)
    except FileNotFoundError:
        raise BadSettings(
            f"There is no archive in {store.url}: it has no archive.json. Name `log`, `archive`, the folder of an"
            " archive or s3://bucket/folder."
        ) from None


def _rank(topic: str) -> int:
    return _RANKS.get(topic, len(_RANKS))
