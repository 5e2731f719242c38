"""Tickers: a market's newest trade, its day, the last 24 hours and 52 weeks, as rows of integers.

Read by the REST quotation and the websocket. The day is that of the newest trade, in UTC. The last 24 hours are counted
in whole minutes, 1,440 with the current one; 52 weeks are 364 days with today.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from infra.upbit.wire import KST
from producers.sandbox.candle_rows import Candle, Extremes, extremes_of, wider
from producers.sandbox.candles import Candles
from producers.sandbox.feeds import Print
from producers.sandbox.notices import Notices
from producers.sandbox.periods import DAY_MS, MINUTE_MS

WEEKS_52_DAYS = 364
E10 = 10**10


class _Before(NamedTuple):
    """What a day's tickers take from the days before it."""

    day_ms: int
    extremes: Extremes | None


class _Minutes(NamedTuple):
    """Sums of the 1,439 minutes before one."""

    minute_ms: int
    lots: int
    value: int


def rate_e10(change_e8: int, closing_e8: int) -> int:
    """A change as a rate of 1e-10, rounded half away from zero."""
    if closing_e8 <= 0:
        return 0
    size = (2 * abs(change_e8) * E10 + closing_e8) // (2 * closing_e8)
    return size if change_e8 >= 0 else -size


def changed(change_e8: int) -> str:
    """The word for a change."""
    return "RISE" if change_e8 > 0 else "FALL" if change_e8 < 0 else "EVEN"


class Tickers:
    """All markets; `opening_e8` stands in for the closing price of a day that nobody saw."""

    def __init__(
        self, candles: Candles, notices: Notices, clock_ms: Callable[[], int], opening_e8: Callable[[str], int]
    ) -> None:
        self._candles = candles
        self._notices = notices
        self._clock_ms = clock_ms
        self._opening_e8 = opening_e8
        self._closings: dict[str, tuple[int, int]] = {}
        self._before: dict[str, _Before] = {}
        self._minutes: dict[str, _Minutes] = {}

    def closing_e8(self, market: str, day_ms: int) -> int:
        """Closing price of the last day with trades before the day that starts at `day_ms`."""
        found = self._closings.get(market)
        if found is None or found[0] != day_ms:
            last = next(self._candles.before(market, "1d", day_ms), None)
            closing_e8 = self._opening_e8(market) if last is None else last.close_e8
            found = self._closings[market] = (day_ms, closing_e8)
        return found[1]

    def _extremes(self, market: str, day: Candle) -> Extremes:
        """Of the 52 weeks that end with a day."""
        found = self._before.get(market)
        if found is None or found.day_ms != day.start_ms:
            from_ms = day.start_ms - (WEEKS_52_DAYS - 1) * DAY_MS
            earlier = self._candles.extremes(market, from_ms, day.start_ms)
            found = self._before[market] = _Before(day.start_ms, earlier)
        both = wider(found.extremes, extremes_of(day))
        assert both is not None
        return both

    def _last_day(self, market: str) -> tuple[int, int]:
        """Lots and value (1e-16) of the last 24 hours."""
        now_ms = self._clock_ms()
        minute_ms = now_ms - now_ms % MINUTE_MS
        found = self._minutes.get(market)
        if found is None or found.minute_ms != minute_ms:
            sums = self._candles.sums(market, minute_ms - DAY_MS + MINUTE_MS, minute_ms)
            found = self._minutes[market] = _Minutes(minute_ms, *sums)
        lots, value = self._candles.sums(market, minute_ms, minute_ms + MINUTE_MS)
        return found.lots + lots, found.value + value

    def row(self, market: str) -> dict[str, Any] | None:
        """The ticker of a market, None before its first trade.

        Prices and sizes are of 1e-8, turnovers of 1e-16, rates of 1e-10. It has the fields of both sides, REST and
        websocket.
        """
        newest = self._candles.last(market)
        day = self._candles.newest(market, "1d")
        if newest is None or day is None:
            return None
        trade, told_ms = newest
        closing_e8 = self.closing_e8(market, day.start_ms)
        change = day.close_e8 - closing_e8
        rate = rate_e10(change, closing_e8)
        lots, value = self._last_day(market)
        return (
            _trade_part(market, trade)
            | {
                "opening_price": day.open_e8,
                "high_price": day.high_e8,
                "low_price": day.low_e8,
                "trade_price": day.close_e8,
                "prev_closing_price": closing_e8,
                "change": changed(change),
                "change_price": abs(change),
                "change_rate": abs(rate),
                "signed_change_price": change,
                "signed_change_rate": rate,
                "acc_trade_price_24h": value,
                "acc_trade_volume_24h": lots,
                "timestamp": max(told_ms, trade.trade_ms),
            }
            | _day_sums(day)
            | _year(self._extremes(market, day))
            | self._state(market)
        )

    def _state(self, market: str) -> dict[str, Any]:
        notice = self._notices.of(market)
        return {
            "market_state": notice.state,
            "is_trading_suspended": notice.state != "ACTIVE",
            "delisting_date": None if notice.delisting_date is None else notice.delisting_date.isoformat(),
            "market_warning": "CAUTION" if notice.is_warning or notice.cautions else "NONE",
        }


def _trade_part(market: str, trade: Print) -> dict[str, Any]:
    moment = datetime.fromtimestamp(trade.trade_ms // 1000, UTC)
    korean = moment.astimezone(KST)
    return {
        "type": "ticker",
        "code": market,
        "market": market,
        "trade_date": f"{moment:%Y%m%d}",
        "trade_time": f"{moment:%H%M%S}",
        "trade_date_kst": f"{korean:%Y%m%d}",
        "trade_time_kst": f"{korean:%H%M%S}",
        "trade_timestamp": trade.trade_ms,
        "trade_volume": trade.lots,
        "ask_bid": "BID" if trade.is_buy else "ASK",
    }


def _day_sums(day: Candle) -> dict[str, int]:
    return {
        "acc_trade_price": day.value,
        "acc_trade_volume": day.lots,
        "acc_ask_volume": day.sold_lots,
        "acc_bid_volume": day.lots - day.sold_lots,
    }


def _year(extremes: Extremes) -> dict[str, Any]:
    return {
        "highest_52_week_price": extremes.high_e8,
        "highest_52_week_date": _date(extremes.high_ms),
        "lowest_52_week_price": extremes.low_e8,
        "lowest_52_week_date": _date(extremes.low_ms),
    }


def _date(day_ms: int) -> str:
    return f"{datetime.fromtimestamp(day_ms // 1000, UTC):%Y-%m-%d}"
