"""The synthetic market's past: trades before the sandbox's start, drawn from the seed a day at a time when asked for.

Candles of every unit are sums of these trades, so they agree with each other and with the trades call. Days that lie
more than a month before the start are the same in every run; the last month leads to the price at which the market
starts. The trades are fewer and larger than the live ones; the turnover is alike.
"""

import contextlib
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from producers.sandbox.candle_rows import COLUMNS, HIGH, LOW, START, Candle, Extremes, grouped, of_row, sum_rows
from producers.sandbox.candles import NoPast, Past
from producers.sandbox.feeds import Feed, Print
from producers.sandbox.history_kernels import MOST_TRADES, day_rows, day_trades, fold_trades
from producers.sandbox.periods import DAY_MS, FIXED_MS, MINUTE_MS, MONTH, start_of
from producers.sandbox.synthetic import Synthetic
from streams.market.ticks import E8

Ints = npt.NDArray[np.int64]

_TURNOVER = 1_000_000.0
"""Won per live trade, with the takers that move the price; the past has fewer trades of more won each."""
_KEPT_DAYS = 64
"""Days of trades that are kept for the next question, over all markets."""
_HELD_MONTHS = 12
"""Whole months of past before the one in which the sandbox starts: 52 weeks are always there."""


class Origin(NamedTuple):
    """What a market's past is drawn from."""

    seed: np.uint64
    base_e8: int
    tick_e8: int
    anchor: float
    """How far from the listed price the market starts."""
    mean: float
    """Trades per minute."""
    lots: float
    """Mean size of a trade."""


def origins_of(feed: Synthetic) -> dict[str, Origin]:
    """The markets of a synthetic feed as it stands now, before its first step."""
    found = {}
    ticks = {row.market: row.tick_e8 for row in feed.markets()}
    for row in feed.rows:
        book = feed.book(row.market)
        start_e8 = book.bids[0].price_e8 if book and book.bids else row.price_e8
        mean = min(max(3.0 * row.trades_per_second, 0.2), 3.0)
        won = _TURNOVER * 60.0 * row.trades_per_second / mean
        digest = hashlib.blake2b(f"{feed.plan.seed}:{row.market}".encode(), digest_size=8).digest()
        found[row.market] = Origin(
            np.uint64(int.from_bytes(digest, "little")), row.price_e8, ticks[row.market], start_e8 / row.price_e8 - 1.0,
            mean, won / (row.price_e8 / E8) * E8,
        )  # fmt: skip
    return found


class History:
    """The past of all markets of a synthetic feed; a `candles.Past`. Draws what is asked for and keeps a part of it."""

    def __init__(self, origins: dict[str, Origin], until_ms: int) -> None:
        self._origins = origins
        self.until_ms = until_ms
        self._last_day = (until_ms - 1) // DAY_MS
        start_ms = until_ms
        for _ in range(_HELD_MONTHS + 1):
            start_ms = start_of(MONTH, start_ms - 1)
        self._first_day = start_ms // DAY_MS
        self._trades: OrderedDict[tuple[str, int], Ints] = OrderedDict()
        self._days: dict[str, Ints] = {}
        self._minutes: dict[str, Ints] = {}
        self._buffer = np.zeros((MOST_TRADES, 4), dtype=np.int64)
        self._rows = np.zeros((MOST_TRADES, COLUMNS), dtype=np.int64)

    def trades_of(self, market: str, day: int) -> Ints:
        """The trades of a day, oldest first."""
        key = (market, day)
        found = self._trades.get(key)
        if found is None:
            origin = self._origins[market]
            count = day_trades(
                origin.seed, day, self._last_day, self.until_ms, origin.anchor, origin.base_e8, origin.tick_e8,
                origin.mean, origin.lots, self._buffer,
            )  # fmt: skip
            found = self._trades[key] = self._buffer[:count].copy()
            if len(self._trades) > _KEPT_DAYS:
                self._trades.popitem(last=False)
        else:
            self._trades.move_to_end(key)
        return found

    def days_of(self, market: str) -> Ints:
        """A stored row per day, oldest first."""
        found = self._days.get(market)
        if found is None:
            origin = self._origins[market]
            rows = np.zeros((self._last_day - self._first_day + 1, COLUMNS), dtype=np.int64)
            trades = np.zeros((MOST_TRADES, 4), dtype=np.int64)  # its own: `warm` runs in a thread
            count = day_rows(
                origin.seed, self._first_day, self._last_day, self.until_ms, origin.anchor, origin.base_e8,
                origin.tick_e8, origin.mean, origin.lots, trades, rows,
            )  # fmt: skip
            found = self._days[market] = rows[:count].copy()
        return found

    def warm(self, is_over: Callable[[], bool]) -> None:
        """Draw every market's days ahead of the first question; run in a thread, which steps back for all others."""
        with contextlib.suppress(OSError):  # a system that knows no priority of a thread
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        for market in self._origins:
            if is_over():
                return
            self.days_of(market)

    def sums(self, market: str, from_ms: int, to_ms: int) -> tuple[int, int]:
        """Lots and value (1e-16) of the minutes in [from, to), as far as they lie in the last two days."""
        if market not in self._origins or from_ms >= self.until_ms:
            self._minutes.pop(market, None)
            return 0, 0
        rows = self._minutes.get(market)
        if rows is None:
            parts = []
            for day in (self._last_day - 1, self._last_day):
                trades = self.trades_of(market, day)
                parts.append(self._rows[: fold_trades(trades, len(trades), MINUTE_MS, self._rows)].copy())
            rows = self._minutes[market] = np.concatenate(parts)
        return sum_rows(rows[np.searchsorted(rows[:, START], from_ms) : np.searchsorted(rows[:, START], to_ms)])

    def extremes(self, market: str, from_ms: int, to_ms: int) -> Extremes | None:
        """Of the days that start in [from, to)."""
        if market not in self._origins:
            return None
        days = self.days_of(market)
        days = days[np.searchsorted(days[:, START], from_ms) : np.searchsorted(days[:, START], to_ms)]
        if not len(days):
            return None
        high, low = days[::-1][days[::-1, HIGH].argmax()], days[::-1][days[::-1, LOW].argmin()]
        return Extremes(int(high[HIGH]), int(high[START]), int(low[LOW]), int(low[START]))

    def before(self, market: str, unit: str, end_ms: int) -> Iterator[Candle]:
        """Candles of a unit whose start lies before `end_ms`, newest first."""
        if market not in self._origins:
            return
        length_ms = FIXED_MS.get(unit, DAY_MS)
        if length_ms == DAY_MS:
            days = self.days_of(market)
            count = int(np.searchsorted(days[:, START], end_ms))
            yield from grouped(unit, (of_row(days[i].tolist()) for i in range(count - 1, -1, -1)))
            return
        for day in range(min(self._last_day, (end_ms - 1) // DAY_MS), self._first_day - 1, -1):
            trades = self.trades_of(market, day)
            count = fold_trades(trades, len(trades), length_ms, self._rows)
            rows = self._rows[:count]
            for row in rows[: np.searchsorted(rows[:, START], end_ms)][::-1].tolist():
                yield of_row(row)

    def prints(self, market: str, from_ms: int, to_ms: int) -> Iterator[Print]:
        """Trades of [from, to), newest first."""
        if market not in self._origins:
            return
        newest = min(self._last_day, (to_ms - 1) // DAY_MS)
        for day in range(newest, max(self._first_day, from_ms // DAY_MS) - 1, -1):
            for at_ms, price, lots, is_buy in self.trades_of(market, day)[::-1].tolist():
                if from_ms <= at_ms < to_ms:
                    yield Print(at_ms, price, lots, bool(is_buy), at_ms * 10_000)

    def last(self, market: str) -> Print | None:
        """The newest trade before the start."""
        return next(self.prints(market, self._first_day * DAY_MS, self.until_ms), None)


def past_of(feed: Feed) -> Past:
    """The past of a market: drawn for a synthetic one, none for others. Has numba compile what a request needs."""
    if not isinstance(feed, Synthetic):
        return NoPast()
    history = History(origins_of(feed), feed.clock_ms)
    for row in feed.rows[:1]:
        history.days_of(row.market)
        history.sums(row.market, 0, history.until_ms)
    return history
