"""Candles of every unit, made from the prints of the feed; what lies before the sandbox's start comes from a `Past`.

Fed by the hub with every trade frame, read by the REST quotation, the tickers and the websocket. A print costs a list
entry; the sums are done when somebody asks or a batch is full. Memory is bounded per market. It reads no clock. Prints
belong to the period of their trade time; inside a candle they are ordered by trade time, equal times by arrival, so
that a late print changes what it would have changed in time.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Protocol

from infra.upbit.wire import KST
from producers.sandbox.candle_rows import (
    Candle,
    Extremes,
    Prints,
    Ring,
    Tier,
    candle_of,
    extremes_of,
    grouped,
    joined,
    wider,
)  # fmt: skip
from producers.sandbox.feeds import Frame, Print
from producers.sandbox.periods import DAY_MS, MINUTE_MS, SECOND_MS, end_of, start_of

KEPT = {"1s": 1_800, "1m": 3_000, "30m": 4_320, "1d": 4_000}
"""Closed candles that are kept per market: half an hour, 50 hours, 90 days, eleven years of a busy market."""
KEPT_PRINTS = 10_000
_BATCH = 256
_BASES = {"1s": "1s", "1m": "1m", "3m": "1m", "5m": "1m", "10m": "1m", "15m": "1m"} | dict.fromkeys(
    ("30m", "60m", "240m"), "30m"
)


class Past(Protocol):
    """What was traded before the sandbox's start."""

    until_ms: int
    """The start."""

    def warm(self, is_over: Callable[[], bool]) -> None:
        """Do the long work ahead of the first question; run in a thread of its own until `is_over`."""

    def before(self, market: str, unit: str, end_ms: int) -> Iterator[Candle]:
        """Candles of a unit whose start lies before `end_ms`, newest first."""

    def sums(self, market: str, from_ms: int, to_ms: int) -> tuple[int, int]:
        """Lots and value (1e-16) of the minutes in [from, to), as far as they lie in the last two days."""

    def extremes(self, market: str, from_ms: int, to_ms: int) -> Extremes | None:
        """The highest and the lowest price of the days that start in [from, to)."""

    def prints(self, market: str, from_ms: int, to_ms: int) -> Iterator[Print]:
        """Trades of [from, to), newest first."""

    def last(self, market: str) -> Print | None:
        """The newest trade, or None for a market without a past."""


class NoPast:
    """A market that begins with its first print."""

    until_ms = 0

    def warm(self, is_over: Callable[[], bool]) -> None:
        """There is none."""
        _ = is_over

    def before(self, market: str, unit: str, end_ms: int) -> Iterator[Candle]:
        """None."""
        _ = market, unit, end_ms
        return iter(())

    def sums(self, market: str, from_ms: int, to_ms: int) -> tuple[int, int]:
        """None."""
        _ = market, from_ms, to_ms
        return 0, 0

    def extremes(self, market: str, from_ms: int, to_ms: int) -> Extremes | None:
        """None."""
        _ = market, from_ms, to_ms
        return None

    def prints(self, market: str, from_ms: int, to_ms: int) -> Iterator[Print]:
        """None."""
        _ = market, from_ms, to_ms
        return iter(())

    def last(self, market: str) -> Print | None:
        """None."""
        _ = market
        return None


class _Series:
    """One market's live candles: prints go into the open second, closed seconds into the longer units."""

    def __init__(self) -> None:
        self.pending: list[tuple[Print, int]] = []
        self.kept = Prints(KEPT_PRINTS)
        self.newest: tuple[Print, int] | None = None
        self._second: Candle | None = None
        self._seconds = Tier(SECOND_MS, Ring(KEPT["1s"]))
        self._seconds.ring.reserve()
        self._longer = {
            "1m": Tier(MINUTE_MS, Ring(KEPT["1m"])),
            "30m": Tier(30 * MINUTE_MS, Ring(KEPT["30m"])),
            "1d": Tier(DAY_MS, Ring(KEPT["1d"])),
        }

    def fold(self) -> None:
        """Bring in what is pending."""
        for trade, at_ms in self.pending:
            self.kept.append(trade)
            candle = candle_of(trade, at_ms)
            if self._second is None:
                self._second = candle
            elif candle.start_ms == self._second.start_ms:
                self._second = joined(self._second, candle)
            elif candle.start_ms > self._second.start_ms:
                self._close(self._second)
                self._second = candle
            else:  # a late print: its second is closed already
                self._close(candle)
        self.pending.clear()

    def _close(self, second: Candle) -> None:
        self._seconds.merge(second)
        for tier in self._longer.values():
            tier.merge(second)

    def rows(self, base: str, end_ms: int) -> Iterator[Candle]:
        """Candles of a kept unit that start before `end_ms`, newest first; the open second is one of its own."""
        if self._second is not None and self._second.start_ms < end_ms:
            yield self._second
        yield from (self._seconds if base == "1s" else self._longer[base]).rows(end_ms)

    def whole_from_ms(self, base: str) -> int:
        """From where on nothing was forgotten."""
        return (self._seconds if base == "1s" else self._longer[base]).ring.whole_from_ms

    def sums(self, from_ms: int, to_ms: int) -> tuple[int, int]:
        """Lots and value (1e-16) of the closed minutes in [from, to), with the open second where it lies there."""
        lots, value = self._longer["1m"].sums(from_ms, to_ms)
        second = self._second
        if second is not None and from_ms <= second.start_ms < to_ms:
            return lots + second.lots, value + second.value
        return lots, value


class Candles:
    """All markets."""

    def __init__(self, past: Past | None = None) -> None:
        self.past: Past = past or NoPast()
        self._series: dict[str, _Series] = {}

    def on_frame(self, frame: Frame) -> None:
        """Take a trade frame's print; other frames say nothing here."""
        if frame.print is not None:
            self.add(frame.market, frame.print, frame.exchange_ms)

    def add(self, market: str, trade: Print, at_ms: int) -> None:
        """Take a print that was told at `at_ms`."""
        series = self._series.get(market)
        if series is None:
            series = self._series[market] = _Series()
        if series.newest is None or trade.trade_ms >= series.newest[0].trade_ms:
            series.newest = (trade, at_ms)
        series.pending.append((trade, at_ms))
        if len(series.pending) >= _BATCH:
            series.fold()

    def _folded(self, market: str) -> _Series | None:
        series = self._series.get(market)
        if series is not None and series.pending:
            series.fold()
        return series

    # --- candles ------------------------------------------------------------------------------------------------

    def before(self, market: str, unit: str, to_ms: int) -> Iterator[Candle]:
        """Candles whose period starts before `to_ms`, newest first; periods without a trade have none."""
        end_ms = end_of(unit, to_ms - 1)
        base = _BASES.get(unit, "1d")
        series = self._folded(market)
        whole_from_ms = 0 if series is None else series.whole_from_ms(base)
        oldest = None
        for candle in () if series is None else grouped(unit, series.rows(base, end_ms)):
            if candle.start_ms < whole_from_ms:  # a part of it is forgotten
                break
            if oldest is not None:
                yield oldest
            oldest = candle
            if candle.start_ms >= self.past.until_ms:  # nothing of the past can be in it
                yield candle
                oldest = None
        for candle in self.past.before(market, unit, end_ms):
            if oldest is not None and oldest.start_ms == candle.start_ms:  # the period in which the live part begins
                yield joined(candle, oldest)
            else:
                if oldest is not None:
                    yield oldest
                if not whole_from_ms or end_of(unit, candle.start_ms) <= self.past.until_ms:
                    yield candle
            oldest = None
        if oldest is not None:
            yield oldest

    def newest(self, market: str, unit: str) -> Candle | None:
        """The newest candle, of the current period or, without a trade in it, of an earlier one."""
        series = self._folded(market)
        if series is not None and series.newest is not None:
            newest = series.newest[0]
        elif (past := self.past.last(market)) is not None:
            newest = past
        else:
            return None
        return next(self.before(market, unit, start_of(unit, newest.trade_ms) + 1), None)

    def row(self, market: str, unit: str) -> dict[str, Any] | None:
        """The newest candle as the websocket tells it."""
        candle = self.newest(market, unit)
        return None if candle is None else row_of(market, unit, candle)

    def sums(self, market: str, from_ms: int, to_ms: int) -> tuple[int, int]:
        """Lots and value (1e-16) of the minutes in [from, to), at most two days ago."""
        lots, value = self.past.sums(market, from_ms, to_ms)
        series = self._folded(market)
        if series is None:
            return lots, value
        live = series.sums(from_ms, to_ms)
        return lots + live[0], value + live[1]

    def extremes(self, market: str, from_ms: int, to_ms: int) -> Extremes | None:
        """The highest and the lowest price of the days that start in [from, to)."""
        found = self.past.extremes(market, from_ms, to_ms)
        series = self._folded(market)
        for day in () if series is None else series.rows("1d", to_ms):
            if day.start_ms < from_ms:
                break
            found = wider(found, extremes_of(day._replace(start_ms=start_of("1d", day.start_ms))))
        return found

    # --- prints -------------------------------------------------------------------------------------------------

    def last(self, market: str) -> tuple[Print, int] | None:
        """The newest print and when it was told."""
        series = self._series.get(market)
        if series is not None and series.newest is not None:
            return series.newest
        past = self.past.last(market)
        return None if past is None else (past, past.trade_ms)

    def prints(self, market: str, from_ms: int, to_ms: int) -> Iterator[Print]:
        """Trades of [from, to), newest first: the live ones that are kept, then those before the start."""
        series = self._folded(market)
        live = iter(()) if series is None else series.kept.newest_first()
        kept = (trade for trade in live if from_ms <= trade.trade_ms < to_ms)
        return chain(kept, self.past.prints(market, from_ms, to_ms))


def row_of(market: str, unit: str, candle: Candle) -> dict[str, Any]:
    """A candle as the websocket tells it: prices, sizes and turnover as integers of 1e-8."""
    return {
        "type": f"candle.{unit}",
        "code": market,
        "candle_date_time_utc": utc_text(candle.start_ms),
        "candle_date_time_kst": korean_text(candle.start_ms),
        "opening_price": candle.open_e8,
        "high_price": candle.high_e8,
        "low_price": candle.low_e8,
        "trade_price": candle.close_e8,
        "candle_acc_trade_volume": candle.lots,
        "candle_acc_trade_price": candle.value_e8,
        "timestamp": candle.stamp_ms,
    }


def utc_text(at_ms: int) -> str:
    """`2026-03-11T14:40:00`."""
    return f"{datetime.fromtimestamp(at_ms // 1000, UTC):%Y-%m-%dT%H:%M:%S}"


def korean_text(at_ms: int) -> str:
    """The same moment in Korea, without a zone."""
    return f"{datetime.fromtimestamp(at_ms // 1000, KST):%Y-%m-%dT%H:%M:%S}"
