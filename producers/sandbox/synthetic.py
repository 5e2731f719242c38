"""The synthetic market: a seeded order-flow simulation of thirty-level books and trades, with a settable edge.

Called by the sandbox server and by tests. The same seed and settings give the same frames byte for byte in simulated
time as long as nobody trades in it; whoever trades takes from these very books. Resting orders of users are not shown
in the book yet. It must never read a clock: its driver says how far to run.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from producers.sandbox import kernels
from producers.sandbox.catalogue import Listing, listings
from producers.sandbox.feeds import BookView, Frame, MarketRow, Print, Style
from producers.sandbox.periods import DAY_MS
from producers.sandbox.spelling import Speller
from streams.market.matching import Level
from streams.market.ticks import E8, tick_e8


@dataclass(frozen=True, slots=True)
class Plan:
    """What a synthetic market is made from; two equal plans give equal streams."""

    market_count: int = 10
    markets: tuple[str, ...] = ()
    books_per_second: float = 5.0
    seed: int = 7
    linear_edge: float = 1.0
    nonlinear_edge: float = 0.0

    def listings(self) -> list[Listing]:
        """The markets, `market_count` of the catalogue or those that are named."""
        if not self.markets:
            return listings(self.market_count)
        known = {row.market: row for row in listings(500)}
        return [known[market] for market in self.markets if market in known]


def _parameters(row: Listing, plan: Plan, at_ms: int) -> list[float]:
    tick = tick_e8(row.market, row.price_e8, at_ms)
    tick_bp = tick / row.price_e8 * 1e4
    step_ticks = max(1, round(1.6 / tick_bp))
    step_bp = 0.5 * tick_bp * step_ticks
    move_rate = max(0.8 / step_bp**2, 0.95 / step_bp)
    price = row.price_e8 / E8
    values = {
        kernels.TICK_BP: tick_bp,
        kernels.STEP_TICKS: step_ticks,
        kernels.SPREAD_TICKS: max(1, round(1.0 / tick_bp)),
        kernels.MOVE_RATE: move_rate,
        kernels.TRADE_RATE: row.trades_per_second,
        kernels.LEVEL_LOTS: 8_000_000.0 / price * E8,
        kernels.TRADE_LOTS: 250_000.0 / price * E8,
        kernels.LINEAR: plan.linear_edge,
        kernels.NONLINEAR: plan.nonlinear_edge,
        kernels.GAP_TICKS: max(1.0, 0.6 / tick_bp),
        kernels.BASE_TICKS: row.price_e8 // tick,
        kernels.MINIMUM_LOTS: 5_000.0 / price * E8,
        kernels.EXCITING: kernels.BRANCHING / (0.3 * move_rate + row.trades_per_second) / kernels.EXCITED_SECONDS,
    }
    return [float(values[k]) for k in range(kernels.PARAMETERS)]


Books = tuple[kernels.Ints, kernels.Ints, kernels.Ints, kernels.Ints]
"""Bid ticks, bid lots, ask ticks, ask lots; one row per market."""


def _empty_books(count: int) -> Books:
    shape = (count, kernels.LEVELS)
    return (
        np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    )  # fmt: skip


class Inside(NamedTuple):
    """What nobody outside can see, one entry or row per market; lots and ticks best first."""

    signal: kernels.Floats
    second: kernels.Floats
    bid_ticks: kernels.Ints
    bid_lots: kernels.Ints
    ask_ticks: kernels.Ints
    ask_lots: kernels.Ints
    tick_bp: kernels.Floats


def compile_kernels() -> None:
    """Have numba compile (or load) everything now, so that no request waits for it."""
    tiny = Synthetic(Plan(market_count=1), 0)
    for frame in tiny.run_until(2_000):
        for is_simple in (False, True):
            frame.spell(Style(is_simple, is_list=False))
    tiny.take(tiny.rows[0].market, tiny._book(0).asks[:1], is_buy=True)  # noqa: SLF001 - our own class


class Synthetic:
    """A running synthetic market. `run_until` moves it on and yields what the exchange would send."""

    kind = "synthetic"
    is_synthetic = True
    has_queue = False
    is_closed = False

    def __init__(self, plan: Plan, start_ms: int) -> None:
        self.plan = plan
        self.rows = plan.listings()
        count = len(self.rows)
        self._index = {row.market: m for m, row in enumerate(self.rows)}
        self._ticks = np.array([tick_e8(r.market, r.price_e8, start_ms) for r in self.rows], dtype=np.int64)
        self._parameters = np.array([_parameters(r, plan, start_ms) for r in self.rows])
        self._latent = np.zeros((count, kernels.LATENTS))
        self._books = _empty_books(count)
        seeds = np.random.SeedSequence(plan.seed).generate_state(count + 1, np.uint64).astype(np.uint64)
        self._rng: kernels.Words = seeds[1:].copy()
        self._trades = np.zeros((kernels.MAX_TRADES, 3), dtype=np.int64)
        kernels.open_books(*self._books, self._latent, self._parameters, self._rng)
        self._interval_ms = 1000.0 / plan.books_per_second
        self._times_ms = np.full(count, start_ms, dtype=np.int64)
        self._queue = [(start_ms + int(self._interval_ms * (m + 1) / count), m) for m in range(count)]
        heapq.heapify(self._queue)
        self._jitter = np.random.Generator(np.random.PCG64(int(seeds[0])))
        self._waits: list[int] = []
        self._newest: list[Print | None] = [None] * count
        self._last_sid = [0] * count
        self._speller = Speller()
        self._clock_ms = start_ms
        self.is_warm = False
        self.warm_ms: int | None = None
        self.is_ended = False
        self.closing_e8: Callable[[str, int], int] | None = None

    # --- time -------------------------------------------------------------------------------------------------

    @property
    def clock_ms(self) -> int:
        """Simulated time up to which the market has run."""
        return self._clock_ms

    @property
    def next_ms(self) -> int:
        """When the next book is due."""
        return self._queue[0][0]

    def _wait_ms(self) -> int:
        if not self._waits:
            self._waits = (self._interval_ms * self._jitter.uniform(0.4, 1.6, 4096)).astype(np.int64).tolist()
        return max(self._waits.pop(), 1)

    def run_until(self, until_ms: int) -> Iterator[Frame]:
        """Move on to `until_ms`, yielding each frame at its own time (trades of a step before its book)."""
        while self._queue[0][0] <= until_ms:
            at_ms, m = self._queue[0]
            heapq.heapreplace(self._queue, (at_ms + self._wait_ms(), m))
            self._clock_ms = at_ms
            yield from self._step(m, at_ms)
        self._clock_ms = max(self._clock_ms, until_ms)

    def resume_at(self, at_ms: int) -> None:
        """Go on from here at a later time: nothing happened while the sandbox was down."""
        later_ms = at_ms - self._clock_ms
        self._times_ms += later_ms
        self._queue = [(due_ms + later_ms, m) for due_ms, m in self._queue]
        self._clock_ms = at_ms

    def _step(self, m: int, at_ms: int) -> Iterator[Frame]:
        last_ms = int(self._times_ms[m])
        count = kernels.step(
            m, (at_ms - last_ms) / 1000.0, *self._books, self._latent, self._parameters, self._rng, self._trades
        )
        self._times_ms[m] = at_ms
        for i, (tick, lots, is_buy) in enumerate(self._trades[:count].tolist()):
            trade_ms = max(at_ms - 40 + 35 * i // count, last_ms + 1)
            level = Level(tick * int(self._ticks[m]), lots)
            yield self._print_trade(m, trade_ms, at_ms, level, is_buy=bool(is_buy))
        yield self._book_frame(m, at_ms)

    # --- frames -----------------------------------------------------------------------------------------------

    def _print_trade(self, m: int, trade_ms: int, at_ms: int, level: Level, *, is_buy: bool) -> Frame:
        """Record one execution and give its frame."""
        sid = max(trade_ms * 10_000, self._last_sid[m] + 1)
        self._last_sid[m] = sid
        trade = Print(trade_ms, level.price_e8, level.lots, is_buy, sid)
        self._newest[m] = trade
        return self._trade_frame(m, at_ms, trade)

    def _trade_frame(self, m: int, at_ms: int, trade: Print) -> Frame:
        market, tick = self.rows[m].market, int(self._ticks[m])
        bid_ticks, bid_lots, ask_ticks, ask_lots = self._books
        best = (
            int(ask_ticks[m, 0]) * tick, int(ask_lots[m, 0]), int(bid_ticks[m, 0]) * tick, int(bid_lots[m, 0])
        )  # fmt: skip
        day_ms = trade.trade_ms - trade.trade_ms % DAY_MS
        cache: dict[Style, bytes] = {}

        def spell(style: Style) -> bytes:
            style = style._replace(depth=30)
            if style not in cache:
                closing_e8 = self.rows[m].price_e8 if self.closing_e8 is None else self.closing_e8(market, day_ms)
                cache[style] = self._speller.trade(market, at_ms, trade, closing_e8, best, style)
            return cache[style]

        return Frame("trade", market, at_ms, spell, trade)

    def _book_frame(self, m: int, at_ms: int) -> Frame:
        market, tick, books = self.rows[m].market, int(self._ticks[m]), self._books
        cache: dict[Style, bytes] = {}

        def spell(style: Style) -> bytes:
            if style not in cache:
                bids, asks = (books[0][m], books[1][m]), (books[2][m], books[3][m])
                cache[style] = self._speller.book(market, at_ms, bids, asks, style, tick)
            return cache[style]

        return Frame("orderbook", market, at_ms, spell)

    def snapshots(self, market: str, kind: str) -> list[Frame]:
        """The newest book, or the newest trade where there was one."""
        m = self._index.get(market)
        if m is None or int(self._times_ms[m]) == 0:
            return []
        if kind == "orderbook":
            return [self._book_frame(m, int(self._times_ms[m]))]
        trade = self._newest[m]
        return [] if trade is None else [self._trade_frame(m, int(self._times_ms[m]), trade)]

    def inside(self) -> Inside:
        """The state now, for checks of what is planted; copied, but for the tick sizes."""
        latent = self._latent
        bid_ticks, bid_lots, ask_ticks, ask_lots = (side.copy() for side in self._books)
        return Inside(
            latent[:, kernels.SIGNAL].copy(),
            latent[:, kernels.SECOND].copy(),
            bid_ticks,
            bid_lots,
            ask_ticks,
            ask_lots,
            self._parameters[:, kernels.TICK_BP],
        )

    # --- what the exchange asks -------------------------------------------------------------------------------

    def markets(self) -> list[MarketRow]:
        """All rows; the tick size never changes within a run (prices are held inside their band)."""
        return [
            MarketRow(row.market, row.korean_name, row.english_name, int(tick))
            for row, tick in zip(self.rows, self._ticks, strict=True)
        ]

    def book(self, market: str) -> BookView | None:
        """The book as it stands now."""
        m = self._index.get(market)
        return None if m is None else self._book(m)

    def _book(self, m: int) -> BookView:
        tick = int(self._ticks[m])
        bids, asks = (
            [Level(t * tick, n) for t, n in zip(ticks[m].tolist(), lots[m].tolist(), strict=True)]
            for ticks, lots in (self._books[:2], self._books[2:])
        )
        return BookView(bids, asks, self._clock_ms)

    def take(self, market: str, taken: Sequence[Level], *, is_buy: bool) -> list[Frame]:
        """Take sizes out of the book; gives the trade frames and the book frame that follow."""
        m = self._index[market]
        tick = int(self._ticks[m])
        side = 1 if is_buy else 0
        ticks, lots = self._books[2 * side], self._books[2 * side + 1]
        frames = []
        now_ms = self._clock_ms
        for level in taken:
            where = np.flatnonzero(ticks[m] == level.price_e8 // tick)
            if where.size:
                i = int(where[0])
                lots[m, i] = max(int(lots[m, i]) - level.lots, 0)
            frames.append(self._print_trade(m, now_ms, now_ms, level, is_buy=is_buy))
        self._close_up(m, side)
        frames.append(self._book_frame(m, now_ms))
        return frames

    def cross(self, market: str, traded: Sequence[Level], *, is_buy: bool) -> list[Frame]:
        """Users traded with each other: the book stands as it was; gives the trade frames."""
        m, now_ms = self._index[market], self._clock_ms
        return [self._print_trade(m, now_ms, now_ms, level, is_buy=is_buy) for level in traded]

    def _close_up(self, m: int, side: int) -> None:
        """Remove emptied levels and show new ones at the far end."""
        ticks, lots = self._books[2 * side], self._books[2 * side + 1]
        keep = np.flatnonzero(lots[m])
        if keep.size == 0:
            keep = np.array([kernels.LEVELS - 1])
            lots[m, -1] = int(self._parameters[m, kernels.MINIMUM_LOTS])
        n = keep.size
        ticks[m, :n], lots[m, :n] = ticks[m, keep], lots[m, keep]
        ticks[m, n:] = 0
        lots[m, n:] = 0
        kernels.refill(m, side, ticks, lots, self._latent, self._parameters, self._rng)

    def opening_e8(self, market: str) -> int:
        """The price the market started from."""
        return self.rows[self._index[market]].price_e8

    # --- over a restart -----------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write the market's state beside the journal, whole or not at all (prices go on after a restart)."""
        partial = path.with_suffix(".partial.npz")
        np.savez(
            partial, plan=np.frombuffer(repr(self.plan).encode(), dtype=np.uint8), times=self._times_ms,
            latent=self._latent, rng=self._rng, clock=np.array([self._clock_ms]), books=np.stack(self._books),
        )  # fmt: skip
        partial.replace(path)

    def restore(self, path: Path) -> bool:
        """Continue from a saved state of the same plan; says whether there was one."""
        if not path.exists():
            return False
        try:
            with np.load(path) as saved:
                if saved["plan"].tobytes() != repr(self.plan).encode():
                    return False
                self._times_ms, self._latent, self._rng = saved["times"], saved["latent"], saved["rng"]
                bid_ticks, bid_lots, ask_ticks, ask_lots = saved["books"]
                self._books = (bid_ticks, bid_lots, ask_ticks, ask_lots)
                self._clock_ms = int(saved["clock"][0])
        except (OSError, ValueError, KeyError):
            return False
        self._queue = [(max(int(t) + self._wait_ms(), self._clock_ms + 1), m) for m, t in enumerate(self._times_ms)]
        heapq.heapify(self._queue)
        return True
