"""Matching and ledger: money is conserved to the last digit whatever happens."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.market import crossing, matching
from streams.market.ledger import ATOMS, ATOMS_PER_LOT, InsufficientFunds, Ledger
from streams.market.matching import Level, Order
from streams.market.ticks import E8

ME = "me"
levels = st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 5 * E8)), min_size=1, max_size=6)
kinds = st.sampled_from(
    [("limit", ""), ("limit", "ioc"), ("limit", "fok"), ("price", ""), ("market", ""), ("best", "ioc"), ("best", "fok")]
)


def make(*, is_buy: bool, kind: Any, tif: str, price: int, lots: int) -> Order:
    is_total = is_buy and kind != "limit"
    return Order(
        uuid="u", account=ME, market="KRW-BTC", is_buy=is_buy, kind=kind,
        price_e8=price if kind == "limit" else None,
        total=price * lots * matching.NOTIONAL if is_total else None,
        lots=None if is_total else lots, fee_e4=5, time_in_force=tif,
    )  # fmt: skip


def funded() -> Ledger:
    ledger = Ledger()
    ledger.deposit(ME, "KRW", 10**9 * ATOMS)
    ledger.deposit(ME, "BTC", 10**3 * ATOMS)
    return ledger


def totals(ledger: Ledger) -> tuple[int, int]:
    return ledger.holding(ME, "KRW").total, ledger.holding(ME, "BTC").total


@settings(max_examples=400, deadline=None)
@given(
    is_buy=st.booleans(),
    kind=kinds,
    price=st.integers(1, 3000),
    lots=st.integers(1, 10 * E8),
    book=levels,
    cuts=st.integers(0, 6),
)
def test_an_order_conserves_money(
    *, is_buy: bool, kind: tuple[str, str], price: int, lots: int, book: Any, cuts: int
) -> None:
    name, tif = kind
    if name == ("market" if is_buy else "price"):
        name = "limit"
    ledger = funded()
    before = totals(ledger)
    order = make(is_buy=is_buy, kind=name, tif=tif, price=price * E8, lots=lots)
    matching.place(ledger, order)
    assert totals(ledger) == before
    assert ledger.holding(ME, order.lock_currency).locked == order.locked
    side = [Level(p * E8, n) for p, n in sorted(book, reverse=not is_buy)]
    taken = [Level(step.price_e8, step.lots) for step in crossing.cross(order, crossing.offers(order, side, []))]
    for level in taken[: cuts or None]:
        execution = matching.executed(order, level, "f", is_maker=False, at_ms=1, book_ms=1)
        matching.fill(ledger, order, execution)
        assert ledger.holding(ME, order.lock_currency).locked == order.locked
    funds = sum(fill.funds for fill in order.fills)
    fees = sum(fill.fee for fill in order.fills)
    bought = sum(fill.lots for fill in order.fills) * ATOMS_PER_LOT
    assert fees * 2000 == funds == order.executed_funds
    matching.end(ledger, order, 2)
    sign = 1 if is_buy else -1
    assert totals(ledger) == (before[0] - sign * funds - fees, before[1] + sign * bought)
    for held in ledger.holdings.values():
        assert held.locked == 0
        assert held.available >= 0
    limit_reached = [
        level for level in taken if (level.price_e8 > price * E8) == is_buy and level.price_e8 != price * E8
    ]
    assert name != "limit" or limit_reached == []


@settings(max_examples=200, deadline=None)
@given(
    prices=st.lists(st.tuples(st.integers(1, 9), st.booleans(), st.integers(1, 50)), max_size=8),
    trade=st.tuples(st.integers(1, 9), st.integers(1, 100), st.booleans()),
)
def test_a_trade_fills_best_prices_first_and_no_more_than_itself(prices: Any, trade: Any) -> None:
    orders = [make(is_buy=b, kind="limit", tif="", price=p, lots=n) for p, b, n in prices]
    for i, order in enumerate(orders):
        order.created_ms = i
    price, lots, is_buy = trade
    reached = matching.reached_by_trade(orders, Level(price, lots), is_buy=is_buy)
    assert sum(level.lots for _, level in reached) <= lots
    assert all(order.is_buy != is_buy for order, _ in reached)
    seen = [(order.price_e8 or 0, order.created_ms) for order, _ in reached]
    assert seen == sorted(seen, key=lambda s: (s[0] if is_buy else -s[0], s[1]))


def test_a_crossing_book_is_shared_by_the_resting_orders() -> None:
    orders = [
        make(is_buy=True, kind="limit", tif="", price=100, lots=7),
        make(is_buy=True, kind="limit", tif="", price=99, lots=7),
    ]
    reached = matching.reached_by_book(orders, [], [Level(98, 5), Level(99, 4), Level(100, 9)])
    assert [(order.price_e8, level) for order, level in reached] == [(100, Level(100, 7)), (99, Level(99, 2))]
    assert matching.reached_by_book(orders, [Level(97, 1)], [Level(101, 1)]) == []


def test_a_better_price_gives_the_difference_back() -> None:
    ledger = Ledger()
    ledger.deposit(ME, "KRW", 1000 * ATOMS)
    order = make(is_buy=True, kind="limit", tif="", price=100 * E8, lots=E8)
    matching.place(ledger, order)
    matching.fill(
        ledger, order, matching.executed(order, Level(90 * E8, E8 // 2), "f", is_maker=False, at_ms=1, book_ms=1)
    )
    assert ledger.holding(ME, "KRW").locked == order.locked
    # 50 for the other half, the fee reserved for 100 less the fee paid for 45.
    assert order.locked * 10_000 == (50 * 10_000 + 500 - 225) * ATOMS
    assert ledger.holding(ME, "BTC").average_e8 == 90 * E8


def test_the_ledger_refuses_what_is_not_there() -> None:
    ledger = Ledger()
    ledger.deposit(ME, "KRW", 5)
    for refused in (
        lambda: ledger.lock(ME, "KRW", 6), lambda: ledger.lock(ME, "BTC", 1), lambda: ledger.unlock(ME, "KRW", 1),
        lambda: ledger.spend(ME, "KRW", 1), lambda: ledger.lock(ME, "KRW", -1),
    ):  # fmt: skip
        with pytest.raises(InsufficientFunds):
            refused()
    with pytest.raises(ValueError, match="negative"):
        ledger.deposit(ME, "KRW", -1)
    assert dict(ledger.of(ME))["KRW"].available == 5
