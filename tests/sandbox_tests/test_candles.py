"""Candles against an independent recomputation from the raw trades, and the synthetic market's past."""

import itertools
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.sandbox import candles as candles_module
from producers.sandbox.candle_rows import Candle
from producers.sandbox.candles import Candles
from producers.sandbox.feeds import Print
from producers.sandbox.history import History, origins_of
from producers.sandbox.notices import Notices
from producers.sandbox.periods import DAY_MS, FIXED_MS, MONTH, WEEK, YEAR, end_of, start_of
from producers.sandbox.synthetic import Plan, Synthetic
from producers.sandbox.tickers import Tickers

UNITS = [*FIXED_MS, WEEK, MONTH, YEAR]
START_MS = 1_798_761_000_000
"""2026-12-31T23:50:00Z: ten minutes before a new day, month and year."""
FOREVER = 1 << 45
M = "KRW-BTC"


def period(unit: str, at_ms: int) -> datetime:
    """Start of a period by the calendar, not by the code under test."""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)
    if unit == YEAR:
        return datetime(at.year, 1, 1, tzinfo=UTC)
    if unit == MONTH:
        return datetime(at.year, at.month, 1, tzinfo=UTC)
    day = datetime(at.year, at.month, at.day, tzinfo=UTC)
    if unit == WEEK:
        return day - timedelta(days=day.isoweekday() - 1)
    if unit == "1d":
        return day
    seconds = 1 if unit == "1s" else int(unit[:-1]) * 60
    return day + timedelta(seconds=int((at - day).total_seconds()) // seconds * seconds)


def recomputed(unit: str, trades: Iterable[tuple[Print, int]]) -> list[dict[str, Any]]:
    """Slow, with decimals, from the raw trades as they arrived: newest period first, none for an empty one."""
    groups: dict[datetime, list[tuple[Print, int]]] = defaultdict(list)
    for trade, at_ms in trades:
        groups[period(unit, trade.trade_ms)].append((trade, at_ms))
    found = []
    for start, group in sorted(groups.items(), reverse=True):
        ordered = [trade for trade, _ in sorted(group, key=lambda pair: pair[0].trade_ms)]
        prices = [Decimal(trade.price_e8).scaleb(-8) for trade in ordered]
        sizes = [Decimal(trade.lots).scaleb(-8) for trade in ordered]
        found.append(
            {
                "start": start, "open": prices[0], "high": max(prices), "low": min(prices), "close": prices[-1],
                "size": sum(sizes), "value": sum(p * s for p, s in zip(prices, sizes, strict=True)),
                "sold": sum(s for s, trade in zip(sizes, ordered, strict=True) if not trade.is_buy),
                "stamp": max(at_ms for _, at_ms in group),
            }
        )  # fmt: skip
    return found


def as_decimals(candle: Candle) -> dict[str, Any]:
    return {
        "start": datetime.fromtimestamp(candle.start_ms / 1000, UTC), "open": Decimal(candle.open_e8).scaleb(-8),
        "high": Decimal(candle.high_e8).scaleb(-8), "low": Decimal(candle.low_e8).scaleb(-8),
        "close": Decimal(candle.close_e8).scaleb(-8), "size": Decimal(candle.lots).scaleb(-8),
        "value": Decimal(candle.value).scaleb(-16), "sold": Decimal(candle.sold_lots).scaleb(-8),
        "stamp": candle.stamp_ms,
    }  # fmt: skip


def all_of(candles: Candles, unit: str, market: str = M) -> list[dict[str, Any]]:
    return [as_decimals(candle) for candle in candles.before(market, unit, FOREVER)]


# --- live -------------------------------------------------------------------------------------------------------------


def test_every_unit_agrees_with_the_raw_trades_of_a_synthetic_market() -> None:
    feed = Synthetic(Plan(market_count=2, books_per_second=4.0), START_MS)
    candles = Candles()
    trades: dict[str, list[tuple[Print, int]]] = defaultdict(list)
    for frame in feed.run_until(START_MS + 1_500_000):
        candles.on_frame(frame)
        if frame.print is not None:
            trades[frame.market].append((frame.print, frame.exchange_ms))
    for market, raw in trades.items():
        assert len(raw) > 500
        for unit in UNITS:
            expected = recomputed(unit, raw)
            assert all_of(candles, unit, market) == expected
            assert len(expected) > 1 or unit == WEEK, "the market runs over the end of a year, which is a Thursday"


PRINTS = st.lists(
    st.tuples(
        st.integers(0, 200_000), st.integers(1, 40), st.integers(1, 10**12), st.booleans(), st.integers(0, 5_000)
    ),
    min_size=1, max_size=60,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(PRINTS, st.integers(0, 60))
def test_late_prints_count_where_they_belong(drawn: list[tuple[int, int, int, bool, int]], asked_after: int) -> None:
    candles = Candles()
    raw = []
    for i, (offset, ticks, lots, is_buy, delay) in enumerate(drawn):
        trade = Print(START_MS + 500_000 + offset, ticks * 10**8, lots, is_buy, i)
        raw.append((trade, trade.trade_ms + delay))
        candles.add(M, *raw[-1])
        if i == asked_after:
            candles.newest(M, "1m")  # asking in between changes nothing
    for unit in UNITS:
        assert all_of(candles, unit) == recomputed(unit, raw)


@pytest.mark.parametrize("unit", UNITS)
def test_to_is_exclusive_and_newest_comes_first(unit: str) -> None:
    candles = Candles()
    raw = [(Print(START_MS + i * 977_777, (i % 7 + 1) * 10**8, 10**8, True, i), START_MS) for i in range(700)]
    for trade, at_ms in raw:
        candles.add(M, trade, at_ms)
    starts = [row["start"] for row in recomputed(unit, raw)]
    for start in (starts[0], starts[-1], starts[len(starts) // 2]):
        at_ms = int(start.timestamp()) * 1000
        for to_ms, expected in (
            (at_ms, [s for s in starts if s < start]),
            (at_ms + 1, [s for s in starts if s <= start]),
        ):
            got = [candle.start_ms for candle in candles.before(M, unit, to_ms)]
            assert got == [int(s.timestamp()) * 1000 for s in expected]


def test_memory_is_bounded_and_no_candle_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candles_module, "KEPT", {"1s": 20, "1m": 12, "30m": 5, "1d": 3})
    monkeypatch.setattr(candles_module, "KEPT_PRINTS", 16)
    candles = Candles()
    raw = [(Print(START_MS + i * 20_000, (i % 11 + 1) * 10**8, 10**8, i % 2 == 0, i), START_MS) for i in range(6_000)]
    for trade, at_ms in raw:
        candles.add(M, trade, at_ms)
    for unit in UNITS:
        got = all_of(candles, unit)
        assert got == recomputed(unit, raw)[: len(got)], "what is left is whole"
        assert 1 <= len(got) <= 30
    assert [trade.sequential_id for trade in candles.prints(M, 0, FOREVER)][:3] == [5999, 5998, 5997]
    assert 16 <= len(list(candles.prints(M, 0, FOREVER))) <= 18 + 256


def test_periods_follow_each_other() -> None:
    for unit in UNITS:
        at_ms = START_MS
        for _ in range(40):
            start_ms, end_ms = start_of(unit, at_ms), end_of(unit, at_ms)
            assert start_ms <= at_ms < end_ms
            assert datetime.fromtimestamp(start_ms / 1000, UTC) == period(unit, at_ms)
            assert start_of(unit, end_ms) == end_ms
            at_ms = end_ms


# --- the past ---------------------------------------------------------------------------------------------------

QUIET = "KRW-OB025"


def started(start_ms: int = START_MS, seed: int = 7) -> tuple[Synthetic, Candles]:
    feed = Synthetic(Plan(market_count=25, seed=seed), start_ms)
    return feed, Candles(History(origins_of(feed), feed.clock_ms))


def test_the_past_agrees_with_its_own_trades_in_every_unit() -> None:
    _, candles = started()
    for market in (M, QUIET, "KRW-SHIB"):
        from_ms = START_MS - 3 * DAY_MS
        raw = [(trade, trade.trade_ms + 40) for trade in candles.prints(market, from_ms, FOREVER)][::-1]
        assert len(raw) > 400
        assert [trade.sequential_id for trade, _ in raw] == sorted({trade.sequential_id for trade, _ in raw})
        for unit in ("1s", "1m", "5m", "30m", "240m", "1d"):
            expected = [row for row in recomputed(unit, raw) if row["start"].timestamp() * 1000 >= from_ms + DAY_MS]
            got = itertools.islice(candles.before(market, unit, FOREVER), len(expected))
            assert [as_decimals(candle) for candle in got] == expected


def test_longer_units_of_the_past_are_made_of_days() -> None:
    _, candles = started()
    days = list(candles.before(M, "1d", FOREVER))
    assert len(days) > 364
    for unit in (WEEK, MONTH, YEAR):
        for candle in candles.before(M, unit, FOREVER):
            inside = [day for day in days if start_of(unit, day.start_ms) == candle.start_ms]
            assert candle.value == sum(day.value for day in inside)
            assert candle.lots == sum(day.lots for day in inside)
            assert (candle.open_e8, candle.close_e8) == (inside[-1].open_e8, inside[0].close_e8)
            assert candle.high_e8 == max(day.high_e8 for day in inside)


def test_the_past_is_the_same_at_every_call_and_long_ago_in_every_run() -> None:
    _, one = started()
    _, two = started()
    assert all_of(one, "1d") == all_of(two, "1d")
    assert all_of(one, "1d") == all_of(one, "1d")
    assert list(one.prints(M, START_MS - DAY_MS, FOREVER)) == list(two.prints(M, START_MS - DAY_MS, FOREVER))
    _, later = started(START_MS + 5 * DAY_MS)
    old_ms = START_MS - 40 * DAY_MS
    assert list(one.before(M, "60m", old_ms))[:100] == list(later.before(M, "60m", old_ms))[:100]
    _, other = started(seed=8)
    assert next(one.before(M, "60m", old_ms)) != next(other.before(M, "60m", old_ms))


def test_the_past_joins_the_live_market_without_a_jump() -> None:
    for start_ms in (START_MS, START_MS + 601_000):  # also one second after midnight
        feed, candles = started(start_ms)
        first: dict[str, Print] = {}
        for frame in feed.run_until(start_ms + 120_000):
            candles.on_frame(frame)
            if frame.print is not None:
                first.setdefault(frame.market, frame.print)
        ticks = {row.market: row.tick_e8 for row in feed.markets()}
        for market, trade in first.items():
            last = candles.past.last(market)
            assert last is not None
            assert last.trade_ms < start_ms <= trade.trade_ms
            assert abs(trade.price_e8 - last.price_e8) < max(0.004 * trade.price_e8, 6 * ticks[market])
        minutes = list(itertools.islice(candles.before(M, "1m", FOREVER), 60))
        assert minutes[0].start_ms > start_ms > minutes[-1].start_ms
        for newer, older in itertools.pairwise(minutes):
            assert abs(newer.open_e8 - older.close_e8) < 0.004 * older.close_e8


def test_the_period_of_the_start_holds_both_parts() -> None:
    feed, candles = started(START_MS + 30_000)  # in the middle of a minute
    raw = [(trade, trade.trade_ms + 40) for trade in candles.prints(M, START_MS - DAY_MS, FOREVER)][::-1]
    for frame in feed.run_until(START_MS + 400_000):
        candles.on_frame(frame)
        if frame.print is not None and frame.market == M:
            raw.append((frame.print, frame.exchange_ms))
    for unit in ("1m", "15m", "240m", "1d"):
        expected = recomputed(unit, raw)
        got = [as_decimals(candle) for candle in itertools.islice(candles.before(M, unit, FOREVER), 2)]
        assert got[0] == expected[0]
        if unit != "1d":
            assert got[1] == expected[1]


def test_a_cheap_coin_of_a_busy_day_fits() -> None:
    candles = Candles()
    raw = [(Print(START_MS + i * 1_000, 1_720_000, 10**17 + i, i % 2 == 0, i), START_MS) for i in range(300)]
    for trade, at_ms in raw:
        candles.add(M, trade, at_ms)
    candles.add(M, Print(START_MS + 2 * DAY_MS, 10**8, 1, True, 300), START_MS)
    assert all_of(candles, "1d")[1:] == recomputed("1d", raw)


def test_a_quiet_market_has_empty_periods_without_rows() -> None:
    _, candles = started()
    starts = [candle.start_ms for candle in itertools.islice(candles.before(QUIET, "1m", FOREVER), 200)]
    assert len(set(starts)) == 200
    assert starts[0] - starts[-1] > 300 * 60_000


# --- tickers --------------------------------------------------------------------------------------------------------


def test_a_ticker_agrees_with_the_raw_trades() -> None:
    feed, candles = started()
    tickers = Tickers(candles, Notices(), lambda: feed.clock_ms, feed.opening_e8)
    raw = list(candles.prints(M, START_MS - 2 * DAY_MS, FOREVER))[::-1]
    for frame in feed.run_until(START_MS + 900_000):
        candles.on_frame(frame)
        if frame.print is not None and frame.market == M:
            raw.append(frame.print)
    row = tickers.row(M)
    assert row is not None
    day_ms = start_of("1d", feed.clock_ms)
    assert day_ms > START_MS, "a new day has begun"
    today = [trade for trade in raw if trade.trade_ms >= day_ms]
    day = [trade for trade in raw if trade.trade_ms >= start_of("1m", feed.clock_ms) - DAY_MS + 60_000]
    before = [trade for trade in raw if trade.trade_ms < day_ms]
    change = raw[-1].price_e8 - before[-1].price_e8
    assert (row["trade_price"], row["prev_closing_price"]) == (raw[-1].price_e8, before[-1].price_e8)
    assert (row["opening_price"], row["signed_change_price"]) == (today[0].price_e8, change)
    assert row["signed_change_rate"] == round(change / before[-1].price_e8 * 10**10)
    assert row["acc_trade_volume"] == row["acc_ask_volume"] + row["acc_bid_volume"] == sum(t.lots for t in today)
    assert row["acc_trade_price"] == sum(t.lots * t.price_e8 for t in today)
    assert row["acc_trade_volume_24h"] == sum(t.lots for t in day)
    assert row["acc_trade_price_24h"] == sum(t.lots * t.price_e8 for t in day)
    year = [candle for candle in candles.before(M, "1d", FOREVER) if candle.start_ms > day_ms - 364 * DAY_MS]
    assert row["highest_52_week_price"] == max(candle.high_e8 for candle in year)
    assert row["lowest_52_week_price"] == min(candle.low_e8 for candle in year)
