"""The second pass: a group of files as the records that the live feed would have written, with their append times.

Called by `producers.imports.importing`. Heartbeats, holes and the passing over of repeated trades are the feed's own
code (`producers.upbit.source:Source`); constant memory, whatever the files' size.
"""

import base64
import heapq
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from infra.errors import BadMessage, BadSettings
from infra.log import partition_of
from producers.imports.rows import NS_PER_MS, Row
from producers.imports.survey import Group, Survey, kind_of, time_ms
from producers.upbit.outlet import KEPT_BYTES
from producers.upbit.source import BOOKS, TRADES, Output, Source
from streams.messages import DeadLetter, OrderBook, Trade, encode
from streams.topics import TOPICS

PROCESS = "import"
PARTITIONS = TOPICS[BOOKS].partitions
SILENCE_MS = 30_000
"""Nobody can say that nothing happened while a file is silent for longer: that stretch is a hole."""


class Timed(NamedTuple):
    """One record and when it was appended."""

    append_ms: int
    output: Output


class _Came(NamedTuple):
    """A row of one of the files, at its time in ns, which never goes back within the file."""

    at_ns: int
    survey: Survey
    row: Row


class Session:
    """One group as records. `counts` fills while it is read."""

    def __init__(self, group: Group, grid_ms: int, lateness_ms: int) -> None:
        self._group = group
        self._source = Source(
            group.exchange,
            group.exchange,
            group.session,
            group.markets,
            grid_ms=grid_ms,
            lateness_ms=lateness_ms,
            speed=1.0,
            partitions=PARTITIONS,
        )
        self._silent = {BOOKS: not group.has_books, TRADES: not group.has_trades}
        self._newest: dict[str, OrderBook] = {}
        self.counts: Counter[str] = Counter()

    def records(self) -> Iterator[Timed]:
        """All of them, in order of their append times."""
        now_ns = 0
        for came in self._rows():
            at_ns = max(now_ns, came.at_ns)
            if now_ns and at_ns - now_ns > SILENCE_MS * NS_PER_MS:
                self._source.on_disconnected(f"the file is silent for {(at_ns - now_ns) // 10**9} s")
                self.counts["holes"] += 1
            else:
                yield from self._ticks(at_ns)
            now_ns = at_ns
            yield from self._take(came, now_ns)
        yield from self._said(now_ns, self._source.finish())

    def _rows(self) -> Iterator[_Came]:
        """The rows of all files in order of their times; of one moment trades come before books."""
        surveys = sorted(self._group.surveys, key=lambda survey: (survey.books > 0, survey.sha256))
        return heapq.merge(*(self._rows_of(survey) for survey in surveys), key=lambda came: came.at_ns)

    def _rows_of(self, survey: Survey) -> Iterator[_Came]:
        at_ns = rows = 0
        is_received = self._group.is_received
        for row in survey.file.rows(self._group.session, Counter()):
            rows += 1
            at_ms = time_ms(row, is_received=is_received)
            at_ns = max(at_ns, row.received_ns if is_received else (at_ms or 0) * NS_PER_MS)
            yield _Came(at_ns or survey.first_ms * NS_PER_MS, survey, row)
        if rows != survey.rows:
            raise BadSettings(f"{survey.file.path.name} was changed while it was read. Nothing was imported.")

    def _ticks(self, now_ns: int) -> Iterator[Timed]:
        """Heartbeats that were due before now, each at its own time."""
        while (due_ns := self._source.due_ns()) is not None and due_ns <= now_ns:
            said = self._source.tick(due_ns)
            if not said:
                return
            yield from self._said(due_ns, said)

    def _take(self, came: _Came, now_ns: int) -> Iterator[Timed]:
        self.counts["rows"] += 1
        for item in came.row.items:
            try:
                outputs = self._source.take(item, now_ns)
            except BadMessage as error:
                yield self._buried(came, now_ns, str(error), encode(item))
                continue
            if isinstance(item, Trade):
                is_repeated = not outputs or not outputs[-1].key
                self.counts["repeated trades, left out" if is_repeated else "trades"] += 1
            else:
                self._count_book(item)
            yield from self._said(now_ns, outputs)
        for reason, raw in came.row.dead:
            yield self._buried(came, now_ns, reason, raw)

    def _count_book(self, book: OrderBook) -> None:
        before, self._newest[book.market] = self._newest.get(book.market), book
        is_repeated = before is not None and (
            (before.exchange_ms, before.bid_prices, before.bid_sizes, before.ask_prices, before.ask_sizes)
            == (book.exchange_ms, book.bid_prices, book.bid_sizes, book.ask_prices, book.ask_sizes)
        )
        self.counts["repeated books, kept"] += is_repeated
        self.counts["books"] += 1

    def _said(self, now_ns: int, outputs: list[Output]) -> Iterator[Timed]:
        """Put the time to records; of a topic that the files have no data for not even heartbeats are written."""
        for output in outputs:
            if not self._silent[output.topic]:
                self.counts["heartbeats and holes"] += not output.key
                yield Timed(now_ns // NS_PER_MS, output)

    def _buried(self, came: _Came, now_ns: int, reason: str, raw: bytes) -> Timed:
        self.counts["dead letters"] += 1
        self.counts[f"dead letter: {kind_of(reason)}"] += 1
        letter = DeadLetter(
            process=PROCESS,
            topic=f"file:{came.survey.file.path.name}",
            partition=0,
            offset=came.row.number,
            key="",
            reason=reason,
            value=base64.b64encode(raw[:KEPT_BYTES]).decode(),
            event_ms=now_ns // NS_PER_MS,
        )
        partition = partition_of(PROCESS, TOPICS["dead-letters"].partitions)
        return Timed(now_ns // NS_PER_MS, Output("dead-letters", partition, PROCESS, encode(letter)))
