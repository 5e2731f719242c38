"""What becomes of an open position while the feed brings nothing: prices over REST, by the account's policy."""

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from consumers.trade.fold import Fold
from consumers.trade.reasons import Reason
from consumers.trade.start import MarketClock
from consumers.trade.state import Parameters, State, encode, money_context
from streams import messages as m

KEY = "upbit:KRW-BTC"
T0 = 1_700_000_000_000


def quote(event_ms: int, bid: float, market: str = "KRW-BTC", **changes: Any) -> m.Quote:
    fields: dict[str, Any] = {
        "exchange": "upbit", "market": market, "source": "upbit", "event_ms": event_ms, "exchange_ms": event_ms - 90,
        "received_ns": 0, "bid_prices": [bid], "bid_sizes": [1.0], "ask_prices": [bid + 10.0], "ask_sizes": [1.0],
    }  # fmt: skip
    return m.Quote(**{**fields, **changes})


def held(make: SimpleNamespace, **rules: Any) -> Fold:
    fold: Fold = make.started(exits=m.ExitRules(**{"time_stop_ms": 600_000, **rules}))
    make.entered(fold, T0)
    return fold


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_stop_fires_by_a_price_over_rest(make: SimpleNamespace, *, is_restarted: bool) -> None:
    fold = held(make)
    assert fold.take(quote(T0 + 8_000, 99_000.0)) == []
    assert fold.pulse(T0 + 12_000) == []
    if is_restarted:
        fold = Fold(Parameters(), money_context(), state=msgspec.json.decode(encode(fold.state), type=State))
    sale = make.order_of(fold.take(quote(T0 + 12_500, 98_500.0)))
    assert (sale.cause_kind, sale.purpose, sale.order_type) == ("stop", "protective-exit", "market")
    assert (sale.quantity, sale.event_ms) == (Decimal("0.06"), T0 + 12_500)


def test_a_price_that_fell_before_the_feed_counted_as_stale_fires_with_the_pulse(make: SimpleNamespace) -> None:
    fold = held(make)
    assert fold.take(quote(T0 + 9_000, 90_000.0)) == []
    assert fold.pulse(T0 + 10_000) == []
    assert make.order_of(fold.pulse(T0 + 11_000)).cause_kind == "stop"


def test_a_trailing_stop_and_a_take_profit_follow_prices_over_rest(make: SimpleNamespace) -> None:
    fold = held(make, trailing_percent=Decimal("0.5"), take_profit_percent=Decimal(5))
    fold.pulse(T0 + 11_000)
    assert fold.take(quote(T0 + 11_500, 102_000.0)) == []
    assert make.order_of(fold.take(quote(T0 + 12_500, 101_000.0))).cause_kind == "trailing"
    fold = held(make, take_profit_percent=Decimal(1))
    fold.pulse(T0 + 11_000)
    assert make.order_of(fold.take(quote(T0 + 11_500, 101_000.0))).cause_kind == "take-profit"


def test_hold_waits_and_tells(make: SimpleNamespace) -> None:
    fold = held(make, on_stale="hold")
    assert make.reasons_of(fold.pulse(T0 + 11_000)) == [Reason.STALE_POSITION]
    assert fold.take(quote(T0 + 12_000, 50_000.0)) == []
    assert fold.pulse(T0 + 13_000) == []
    assert make.order_of(make.feed(fold, [make.features(T0 + 14_000, 98_000.0)])).cause_kind == "stop"


def test_nobody_is_alarmed_while_rest_answers_and_all_are_when_it_stops(make: SimpleNamespace) -> None:
    fold = held(make)
    for second in range(5, 20):
        assert fold.take(quote(T0 + second * 1000, 100_000.0)) == []
        assert fold.pulse(T0 + second * 1000) == []
    assert fold.pulse(T0 + 29_000) == []
    assert make.reasons_of(fold.pulse(T0 + 30_000)) == [Reason.STALE_POSITION]
    assert fold.take(quote(T0 + 30_500, 100_000.0)) == []
    assert fold.pulse(T0 + 31_000) == []
    assert not fold.state.accounts["paper"].positions[KEY].is_stale_told


def test_sell_waits_as_long_as_it_says_and_is_watched_meanwhile(make: SimpleNamespace) -> None:
    fold = held(make, on_stale="sell", stale_sell_ms=20_000)
    for second in range(11, 31):
        assert fold.pulse(T0 + second * 1000) == []
    sale = make.order_of(fold.pulse(T0 + 31_000))
    assert (sale.cause_kind, sale.purpose) == ("stale", "protective-exit")
    fold = held(make, on_stale="sell", stale_sell_ms=20_000)
    fold.pulse(T0 + 12_000)
    assert make.order_of(fold.take(quote(T0 + 12_500, 98_000.0))).cause_kind == "stop"


def test_an_old_price_over_rest_is_none(make: SimpleNamespace) -> None:
    fold = held(make)
    fold.pulse(T0 + 30_000)
    assert fold.take(quote(T0 + 19_000, 50_000.0)) == []
    assert fold.take(quote(T0 - 1000, 50_000.0)) == []
    assert fold.take(quote(T0 + 18_000, 40_000.0)) == []
    assert fold.pulse(T0 + 31_000) == []


def test_a_living_feed_is_not_overruled_and_forgets_the_price_over_rest(make: SimpleNamespace) -> None:
    fold = held(make)
    assert fold.take(quote(T0 + 4_000, 50_000.0)) == []
    assert fold.pulse(T0 + 5_000) == []
    make.feed(fold, [make.features(T0 + 3_000)])
    assert KEY in fold.state.shared.quotes
    make.feed(fold, [make.features(T0 + 5_000)])
    assert fold.state.shared.quotes == {}


def test_no_entry_is_decided_on_a_price_over_rest(make: SimpleNamespace) -> None:
    fold = make.started()
    make.feed(fold, [make.features(T0)])
    fold.pulse(T0 + 12_000)
    assert fold.take(quote(T0 + 12_000, 100_000.0)) == []
    late = [make.signal(T0 + 12_000, horizon, 80.0) for horizon in (5000, 10000)]
    assert make.reasons_of(make.feed(fold, late)) == [Reason.STALE_FEED]


def test_an_empty_side_sells_nothing(make: SimpleNamespace) -> None:
    fold = held(make)
    fold.pulse(T0 + 12_000)
    assert fold.take(quote(T0 + 12_500, 1.0, bid_prices=[], bid_sizes=[])) == []


def test_a_trade_that_starts_while_the_feed_is_dead_takes_the_time_from_rest() -> None:
    clock = MarketClock(1.0)
    clock.begin(T0, 5_000)
    assert clock.now(6_000) == T0 + 1_000
    clock.begin(T0 + 90_000, 6_000)
    assert clock.now(6_000) == T0 + 1_000
