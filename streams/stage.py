"""The feature stage: decoded records of one partition in offset order to `Features`. Pure, shared by every runner.

`streams.runner` (plain loop), `streams.app` (Faust) and the in-memory runner call it; it reads no clock, no settings
object and no log. A restart goes through `streams.restart`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streams.market import kernels
from streams.market.bins import UNKNOWN, HalfBins, WholeBin, join
from streams.market.features import BOOK_AGE_CAP_S, SCHEMA
from streams.messages import Features, Heartbeat, Hole, MarketData, OrderBook, Trade

BOOKS, TRADES = "orderbooks", "trades"
INPUTS = (BOOKS, TRADES)

BOOK_PART = kernels.LEVELS
"""Length of the book half of a row; the levels and the trade half follow."""


@dataclass(frozen=True, slots=True)
class StageOptions:
    """What the stage needs to know."""

    grid_ms: int = 1000
    window_bins: int = 300


@dataclass(slots=True)
class Run:
    """The run of consecutive complete bins that ends at the newest one: rows oldest first, at most W of them."""

    window: int
    ring: kernels.Floats = field(init=False)
    mids: kernels.Floats = field(init=False)
    end: int = 0
    length: int = 0
    last_index: int = UNKNOWN

    def __post_init__(self) -> None:
        """Make room for twice W rows, so that the newest W always lie in one piece; its memory is taken at once."""
        self.ring = np.full((2 * self.window, kernels.ROW), 0.0)
        self.mids = np.zeros(2 * self.window)

    def push(self, index: int, row: kernels.Floats) -> None:
        """Append the next bin."""
        if self.end == 2 * self.window:
            keep = self.window - 1
            self.ring[:keep] = self.ring[self.end - keep : self.end]
            self.mids[:keep] = self.mids[self.end - keep : self.end]
            self.end = keep
        self.ring[self.end] = row
        self.mids[self.end] = kernels.own_mid(row)
        self.end += 1
        self.length = min(self.length + 1, self.window)
        self.last_index = index

    def clear(self) -> None:
        """A hole ends the run."""
        self.end = self.length = 0
        self.last_index = UNKNOWN

    def vector(self, bin_ms: int, grid_ms: int, out: kernels.Floats) -> None:
        """Compute the feature vector at the end of the run into `out`."""
        first = self.end - self.length
        rows, mids = self.ring[first : self.end], self.mids[first : self.end]
        kernels.vector(rows, mids, self.length, bin_ms, grid_ms, BOOK_AGE_CAP_S, out)


History = Mapping[int, Features]
"""The records of one market's closed complete bins, by bin index."""


class PartitionStage:
    """State of one partition: the half bins of both topics, and the run of each market."""

    def __init__(
        self,
        options: StageOptions,
        *,
        from_start: Mapping[str, bool] | None = None,
        history: Mapping[str, History] | None = None,
    ) -> None:
        self._options = options
        starts = from_start or {}
        self.sides = {topic: HalfBins(options.grid_ms, reads_from_start=starts.get(topic, True)) for topic in INPUTS}
        self._history = dict(history or {})
        self._runs: dict[str, Run] = {}
        self._next: dict[str, int] = {}
        self._out = np.zeros(kernels.OUT)

    def apply(self, topic: str, message: MarketData) -> list[Features]:
        """Fold one record; return the rows it closed."""
        side = self.sides[topic]
        if isinstance(message, OrderBook):
            side.take_book(message)
        elif isinstance(message, Trade):
            side.take_trade(message)
        elif isinstance(message, Hole):
            side.take_hole(message)
        else:
            return self._on_heartbeat(side, message)
        return []

    def counts(self) -> dict[str, int]:
        """How many records of each topic were used, and how many were not, by reason."""
        return {f"{topic} {why}": n for topic, side in self.sides.items() for why, n in side.counts.items()}

    def is_settled(self, market: str) -> bool:
        """Whether every bin that is still to be joined was seen whole."""
        books, trades = (self.sides[topic] for topic in INPUTS)
        if market not in books.halves or market not in trades.halves:
            return False
        known_from = max(books.halves[market].known_from, trades.halves[market].known_from)
        return known_from <= min(books.closed_to(market), trades.closed_to(market))

    def is_whole(self, market: str) -> bool:
        """Whether the market's run needs nothing from before what was read: it began here, or is full already."""
        halves = [side.halves[market] for side in self.sides.values() if market in side.halves]
        if all(half.is_from_session_start for half in halves):
            return True
        reach = min(side.closed_to(market) for side in self.sides.values()) - max(half.known_from for half in halves)
        return self.is_settled(market) and reach >= self._options.window_bins

    def markets(self) -> set[str]:
        """Markets that a session has spoken for."""
        return set(self.sides[BOOKS].halves) | set(self.sides[TRADES].halves)

    def _on_heartbeat(self, side: HalfBins, beat: Heartbeat) -> list[Features]:
        rows: list[Features] = []
        for key in side.take_heartbeat(beat):
            books, trades = self.sides[BOOKS].halves.get(key), self.sides[TRADES].halves.get(key)
            if books is None or trades is None:
                continue
            joined, self._next[key] = join(books, trades, self._next.get(key, UNKNOWN))
            known_from = max(books.known_from, trades.known_from)
            exchange, market = key.split(":", 1)
            rows.extend(
                self._row(exchange, market, self._runs[key], whole)
                for whole in joined
                if self._push(key, known_from, whole)
            )
        return rows

    def _push(self, key: str, known_from: int, whole: WholeBin) -> bool:
        run = self._runs.get(key)
        if run is None:
            run = self._runs[key] = Run(self._options.window_bins)
        if whole.row is None:
            if whole.index >= known_from:
                run.clear()
            return False
        if run.length == 0 and whole.index == known_from:
            self._recall(key, run, known_from)
        run.push(whole.index, whole.row)
        return True

    def _recall(self, key: str, run: Run, known_from: int) -> None:
        """Put the bins before `known_from` back into the run, from the history given."""
        history = self._history.pop(key, {})
        first = known_from
        while first - 1 in history and known_from - first < self._options.window_bins:
            first -= 1
        for index in range(first, known_from):
            run.push(index, row_of(history[index]))

    def _row(self, exchange: str, market: str, run: Run, whole: WholeBin) -> Features:
        grid_ms = self._options.grid_ms
        bin_ms = (whole.index + 1) * grid_ms
        run.vector(bin_ms, grid_ms, self._out)
        values = _nullable(self._out)
        row = run.ring[run.end - 1]
        return Features(
            exchange=exchange,
            market=market,
            bin_ms=bin_ms,
            grid_ms=grid_ms,
            schema=SCHEMA,
            source=whole.owner[1],
            session=whole.owner[0],
            n_bins=run.length,
            n_books=int(row[kernels.N_BOOKS]),
            n_trades=int(row[kernels.N_TRADES]),
            mid=values[kernels.MID],
            spread=values[kernels.SPREAD],
            values=values[: kernels.N_FEATURES],
            levels=self._levels(run),
            accumulators=_nullable(row[:BOOK_PART]) + _nullable(row[kernels.TRADES :]),
            received_ns=whole.received_ns,
        )

    @staticmethod
    def _levels(run: Run) -> list[float | None]:
        """Best five levels of the run's last book; empty places are None."""
        for i in range(run.end - 1, run.end - run.length - 1, -1):
            if run.ring[i, kernels.N_BOOKS] > 0.0:
                levels: list[float] = run.ring[i, kernels.LEVELS : kernels.TRADES].tolist()
                return [value if value > 0.0 else None for value in levels]
        return [None] * (kernels.TRADES - kernels.LEVELS)


def row_of(features: Features) -> kernels.Floats:
    """Read a closed bin's row back from its record; the exact inverse of what the record was written from."""
    row = np.zeros(kernels.ROW)
    numbers = [0.0 if value is None else value for value in features.accumulators]
    row[:BOOK_PART] = numbers[:BOOK_PART]
    row[kernels.TRADES :] = numbers[BOOK_PART:]
    if features.n_books:
        row[kernels.LEVELS : kernels.TRADES] = [0.0 if value is None else value for value in features.levels]
    return row


def _nullable(numbers: kernels.Floats) -> list[float | None]:
    values: list[Any] = numbers.tolist()
    if not math.isnan(sum(values)):
        return values
    return [None if math.isnan(value) else value for value in values]
