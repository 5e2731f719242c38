"""The deployment's own `orderbooks` and `trades` as a market, live: what paper orders meet while the feed is real.

Made by `market`, moved on by `drivers`. What stood in the log before the start makes the newest books known; of it only
what came after the last record that a market's waiting orders have met happens to them (`begin`). A market whose
partition fell silent, heartbeats included, has no book for what is asked meanwhile: an old price is no price.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol

from infra.log import Slot
from producers.sandbox.feeds import BookView, Frame, MarketRow
from producers.sandbox.logged import Batch, Tail
from producers.sandbox.outside import Line, Outside, print_of
from streams.market.ticks import E8
from streams.messages import Heartbeat, Hole

logger = logging.getLogger(__name__)

_LOOKBACK = 2_000
"""Records before a place that are read again without effect: ids of trades that may repeat, and the last heartbeat."""
_MARGIN_MS = 2_000
"""A match lies up to this much before its message, by which a hole is measured."""


class Place(NamedTuple):
    """How far a market has come in the log: the last records of its partition that happened to its orders."""

    partition: int
    books: int
    trades: int
    newest: int
    """Offset of the newest book."""
    clock_ms: int


class Settling(Protocol):
    """What is done while the records of a gap happen to waiting orders."""

    def on_begin(self, market: str) -> None:
        """The next record is the first that the market's orders have not met; its newest book is the one they knew."""

    def on_hole(self, market: str, from_ms: int, to_ms: int) -> None:
        """Nothing is known of this stretch of market time."""

    def on_covered(self, market: str, from_ms: int, to_ms: int) -> None:
        """Trades of this hole were fetched."""

    def on_caught_up(self) -> None:
        """Everything that stood in the log has happened."""


class Follow(Outside):
    """The followed market."""

    kind = "follow"
    has_snapshots = True

    def __init__(self, tail: Tail, *, stale_ms: int, now_ms: Callable[[], int]) -> None:
        super().__init__()
        self.tail = tail
        self.is_warm = False
        self.settling: Settling | None = None
        self._stale_ms = stale_ms
        self._wall_ms = now_ms
        self._life = 0
        self._partitions: dict[str, int] = {}
        self._appended_ms: dict[int, int] = {}
        self._ticks: dict[str, int] = {}
        self._taken: dict[Slot, int] = {}
        """Offset of the last record taken."""
        self._places: dict[str, Place] = {}
        """Up to where the waiting orders of a market have met the log already; empty once it is caught up."""
        self._acting_ms: int | None = None
        """Time of the record that is just happening."""
        self._heard_ms: dict[tuple[str, str], int] = {}
        """(topic, market) -> up to when its records are complete."""
        self._holes: dict[str, list[tuple[int, int]]] = {}
        self._lost_ms: dict[str, int] = {}
        """Markets of whose records some are gone from the log, and the time from which on."""
        self._begun: set[str] = set()

    def begin(self, places: Mapping[str, Place]) -> None:
        """Read again from where the waiting orders of these markets stood; everything else from near the end."""
        if not places:
            return
        self.is_warm = False
        self._places = dict(places)
        for known in (self._newest, self._taken, self._heard_ms, self._holes, self._lost_ms):
            known.clear()
        self._begun.clear()
        starts: dict[Slot, int] = {}
        for place in places.values():
            firsts = {
                Slot("orderbooks", place.partition): min(place.books - _LOOKBACK, place.newest),
                Slot("trades", place.partition): place.trades - _LOOKBACK,
            }
            for slot, first in firsts.items():
                starts[slot] = min(starts.get(slot, first), max(first, 0))
        self._life = self.tail.restart(starts)

    def place(self, market: str) -> Place | None:
        """How far a market has come; None before its first book, and before it has come to where it was."""
        newest, partition = self._newest.get(market), self._partitions.get(market)
        if newest is None or partition is None or (market in self._places and market not in self._begun):
            return None
        books, trades = (self._taken.get(Slot(topic, partition), -1) for topic in ("orderbooks", "trades"))
        return Place(partition, books, trades, int(newest.source.rsplit("/", 1)[1]), self._clock_ms)

    def now_ms(self) -> int:
        """The time of the record that is just happening, else this machine's: fills are dated by the market."""
        return self._wall_ms() if self._acting_ms is None else self._acting_ms

    # --- records --------------------------------------------------------------------------------------------------

    def take_batch(self, batch: Batch, before: Callable[[int], None]) -> Iterator[Frame]:
        """Move on line by line; gives the frame of each that happens to orders while its book is the newest.

        `before` is told each such line's time first, so that however the lines are cut into batches, what was due until
        then happens on the book before it.
        """
        if batch.life != self._life:
            return
        for slot, first in batch.starts.items():
            self._note_start(slot, first)
        self._appended_ms |= batch.appended_ms
        for row in batch.markets:
            self._ticks[row.market] = int(row.tick_size * E8)
            self._names[row.market] = (row.korean_name or row.market, row.english_name or row.market)
        for line in batch.lines:
            if line.kind in {"heartbeat", "hole"}:
                self._hear(line)
            else:
                yield from self._take(line, before)
            self._note_taken(line)
        if batch.is_caught_up and not self.is_warm:
            self._end_catching_up()

    def _end_catching_up(self) -> None:
        for market in list(self._places):
            self._begin_market(market, self._wall_ms())
        self._places.clear()
        self._begun.clear()
        self.is_warm = True
        if self.settling is not None:
            self.settling.on_caught_up()

    def _note_taken(self, line: Line) -> None:
        slot, offset = _coordinates(line)
        self._taken[slot] = max(self._taken.get(slot, -1), offset)

    def _take(self, line: Line, before: Callable[[int], None]) -> Iterator[Frame]:
        if not self._happens(line, line.market):
            if self._places:  # what was asked for before the outage is due by every market's time
                self._act(line, before)
            self._move(line)
            return
        self._begin_market(line.market, line.exchange_ms)
        if (lost_ms := self._lost_ms.pop(line.market, None)) is not None and self.settling is not None:
            self.settling.on_hole(line.market, lost_ms, line.exchange_ms)
        self._act(line, before)
        try:
            self._acting_ms = line.exchange_ms
            frame = self._move(line)
            self._note_taken(line)
            if frame is not None:
                yield frame
        finally:
            self._acting_ms = None

    def _act(self, line: Line, before: Callable[[int], None]) -> None:
        """Let happen what falls due before a line, at its time."""
        self._acting_ms = line.exchange_ms
        try:
            before(line.exchange_ms)
        finally:
            self._acting_ms = None

    def _move(self, line: Line) -> Frame | None:
        if line.kind == "backfill":
            return self._fetched(line)
        if line.kind == "orderbook":
            self._partitions[line.market] = _coordinates(line)[0].partition
        return self.take_line(line)

    def _happens(self, line: Line, market: str) -> bool:
        """Whether a record is news to the market's orders: live, or after the place up to which they have met it."""
        place = self._places.get(market)
        if place is None:
            return self.is_warm
        slot, offset = _coordinates(line)
        return offset > (place.books if slot.topic == "orderbooks" else place.trades)

    def _begin_market(self, market: str, at_ms: int) -> None:
        place = self._places.get(market)
        if place is None or market in self._begun:
            return
        self._begun.add(market)
        self._clock_ms = max(self._clock_ms, place.clock_ms)
        if self.settling is not None:
            self._acting_ms = at_ms
            self.settling.on_begin(market)
            self._acting_ms = None

    # --- what is missing ------------------------------------------------------------------------------------------

    def _hear(self, line: Line) -> None:
        """A partition's word on what it holds: a hole, a session that begins later than the last one ended."""
        body, topic = line.body, _coordinates(line)[0].topic
        if isinstance(body, Hole):
            for market in body.markets:
                self._note_hole(line, market, body.from_ms, body.to_ms)
        elif isinstance(body, Heartbeat):
            for market in body.markets:
                heard_ms = self._heard_ms.get((topic, market))
                if heard_ms is not None and body.complete_from_ms > heard_ms:
                    self._note_hole(line, market, heard_ms, body.complete_from_ms)
                self._heard_ms[topic, market] = max(heard_ms or 0, body.event_ms)

    def _note_start(self, slot: Slot, first: int) -> None:
        """Reading begins at `first`: what came before it and was not taken is gone from the log."""
        known = {market: place.partition for market, place in self._places.items()}
        for market, partition in (self._partitions | known).items():
            place = self._places.get(market)
            if partition != slot.partition or slot.topic == "markets":
                continue
            met = self._taken.get(slot, first - 1)
            if place is not None:
                met = place.books if slot.topic == "orderbooks" else place.trades
            if first > met + 1:
                logger.warning("%s/%d keeps nothing before %d: a gap of %s", slot.topic, slot.partition, first, market)
                self._lost_ms.setdefault(market, self._clock_ms if place is None else place.clock_ms)
        self._taken[slot] = max(self._taken.get(slot, -1), first - 1)

    def _note_hole(self, line: Line, market: str, from_ms: int, to_ms: int) -> None:
        known = self._holes.setdefault(market, [])
        if any(a <= from_ms and to_ms <= b for a, b in known):
            return
        known.append((from_ms, to_ms))
        if self.settling is not None and self._happens(line, market):
            self.settling.on_hole(market, from_ms, to_ms)

    def _fetched(self, line: Line) -> Frame | None:
        """A trade fetched after a hole: it happens to those who waited then, and is news to nobody else."""
        trade = print_of(line)
        if trade is None:
            return None
        hole = next(
            (h for h in self._holes.get(line.market, ()) if h[0] - _MARGIN_MS <= trade.trade_ms < h[1]), None
        )  # fmt: skip
        if hole is None or trade.sequential_id in self._recent_ids.get(line.market, ()):
            return None
        if self.settling is not None and self._happens(line, line.market):
            self.settling.on_covered(line.market, *hole)
        return Frame("backfill", line.market, line.exchange_ms, lambda _style: b"", trade, line.source)

    # --- what the exchange asks -------------------------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        """Before the log was read to its end, and while it knows no market."""
        return not (self.is_warm and self._rows)

    def book(self, market: str) -> BookView | None:
        """The newest book; None before the log was read to its end, and where nobody vouches for it any more."""
        if self._acting_ms is None and (not self.is_warm or self.lag_ms(market) > self._stale_ms):
            return None
        return super().book(market)

    def lag_ms(self, market: str) -> int:
        """Time since anything came from the market's partition."""
        partition = self._partitions.get(market)
        return self._wall_ms() - self._appended_ms.get(-1 if partition is None else partition, 0)

    def markets(self) -> list[MarketRow]:
        """Markets with a book, with the tick that the exchange told."""
        return [row._replace(tick_e8=self._ticks.get(row.market, row.tick_e8)) for row in super().markets()]


def _coordinates(line: Line) -> tuple[Slot, int]:
    """Partition and offset of a line's record, without the run's prefix."""
    topic, partition, offset = line.source.rsplit("/", 2)
    return Slot("trades" if topic.endswith("trades") else "orderbooks", int(partition)), int(offset)
