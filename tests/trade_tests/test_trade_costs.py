from decimal import Context, Decimal
from types import SimpleNamespace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.market import costs

CONTEXT = Context(prec=28)
prices = st.floats(0.5, 1e8)
sizes = st.lists(st.floats(0.001, 1e4), min_size=5, max_size=5)


def book(mid: float, bid_sizes: list[float], ask_sizes: list[float]) -> costs.Levels:
    tick = mid * 1e-4
    bids = costs.Ladder(tuple(mid - tick * (i + 0.5) for i in range(5)), tuple(bid_sizes))
    asks = costs.Ladder(tuple(mid + tick * (i + 0.5) for i in range(5)), tuple(ask_sizes))
    return costs.Levels(bids, asks)


def test_cost_of_a_size_that_the_best_levels_hold_is_fees_and_spread(make: SimpleNamespace) -> None:
    levels = costs.levels_of(make.levels(100_000.0, half=5.0))
    assert levels is not None
    cost = costs.round_trip(levels, 6000.0, 0.05)
    assert cost is not None
    assert cost.fees_bp == pytest.approx(10.0)
    assert cost.spread_bp == pytest.approx(1.0)
    assert cost.slippage_bp == 0.0
    assert costs.needed_bp(cost, 0.05) == pytest.approx(16.0)


def test_slippage_is_the_walk_beyond_the_best_level() -> None:
    levels = costs.Levels(costs.Ladder((99.0, 98.0), (1.0, 9.0)), costs.Ladder((101.0, 102.0), (1.0, 9.0)))
    cost = costs.round_trip(levels, 101.0 + 102.0, 0.0)
    assert cost is not None
    assert cost.spread_bp == pytest.approx(200.0)
    assert cost.slippage_bp == pytest.approx((0.5 + 0.5) / 100.0 * 1e4)


@given(prices, sizes, sizes, st.floats(1.0, 1e6), st.floats(1.0, 1e6), st.floats(0.0, 1.0))
def test_cost_grows_with_size_and_is_never_below_fees_and_spread(
    mid: float, bid_sizes: list[float], ask_sizes: list[float], one: float, other: float, fee: float
) -> None:
    levels = book(mid, bid_sizes, ask_sizes)
    small, large = (costs.round_trip(levels, funds, fee) for funds in sorted((one, other)))
    if small is None:
        assert large is None
    elif large is not None:
        assert large.total_bp >= small.total_bp - 1e-6
    for cost in (small, large):
        assert cost is None or cost.total_bp >= cost.fees_bp + cost.spread_bp >= cost.fees_bp == 200.0 * fee


@given(prices, sizes, sizes, st.floats(1.0, 1e6), st.floats(0.0, 0.2))
def test_cost_is_what_a_round_trip_loses(
    mid: float, bid_sizes: list[float], ask_sizes: list[float], funds: float, fee: float
) -> None:
    """Oracle: buy and sell at once and count the money."""
    levels = book(mid, bid_sizes, ask_sizes)
    cost = costs.round_trip(levels, funds, fee)
    if cost is None:
        return
    quantity = costs.bought_for(levels.asks, funds)
    assert quantity is not None
    proceeds = costs.sold_for(levels.bids, quantity)
    assert proceeds is not None
    lost = (funds - proceeds) / (quantity * levels.mid) * 1e4
    assert cost.spread_bp + cost.slippage_bp == pytest.approx(lost, rel=1e-6, abs=1e-6)


def test_books_that_cannot_be_used() -> None:
    nothing: list[float | None] = [None] * 20
    assert costs.levels_of(nothing) is None
    assert costs.levels_of([1.0]) is None
    crossed: list[float | None] = [*nothing]
    crossed[0], crossed[5], crossed[10], crossed[15] = 101.0, 1.0, 100.0, 1.0
    assert costs.levels_of(crossed) is None
    crossed[0] = 99.0
    levels = costs.levels_of(crossed)
    assert levels is not None
    assert levels.bids == costs.Ladder((99.0,), (1.0,))
    assert costs.round_trip(levels, 1e9, 0.05) is None
    assert costs.round_trip(levels._replace(bids=costs.Ladder((99.0,), (0.1,))), 50.0, 0.05) is None
    with pytest.raises(ValueError, match="funds above zero"):
        costs.round_trip(levels, 0.0, 0.05)


@given(
    st.floats(0.01, 1e9),
    st.sampled_from(["1000", "500", "1", "0.1", "0.01"]),
    st.sampled_from(["buy", "sell"]),
    st.sampled_from(["passive", "aggressive"]),
)
def test_order_price_is_whole_ticks_on_the_right_side(
    price: float, tick: str, side: Literal["buy", "sell"], style: str
) -> None:
    size, is_aggressive = Decimal(tick), style == "aggressive"
    if price < float(size):
        return
    found = costs.order_price(price, size, side, CONTEXT, is_aggressive=is_aggressive)
    assert found % size == 0
    exact = Decimal(repr(price))
    assert (found <= exact) if (side == "buy") != is_aggressive else (found >= exact)
    assert abs(found - exact) < size


def test_order_price_refuses_what_is_no_price() -> None:
    with pytest.raises(ValueError, match="below one tick"):
        costs.order_price(0.4, Decimal(1), "buy", CONTEXT)
    with pytest.raises(ValueError, match="no order price"):
        costs.order_price(-1.0, Decimal(1), "buy", CONTEXT)


@given(st.decimals(0, 10**9, places=12, allow_nan=False))
def test_order_quantity_never_exceeds_what_is_there(quantity: Decimal) -> None:
    found = costs.order_quantity(quantity, CONTEXT)
    assert 0 <= quantity - found < costs.QUANTITY_STEP


def test_order_quantity_of_a_float() -> None:
    assert costs.order_quantity(0.1234567899, CONTEXT) == Decimal("0.12345678")
