from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from consumers.trade.fold import Fold, Output
from consumers.trade.reasons import Reason
from consumers.trade.state import Parameters, State, encode, money_context
from streams import messages as m

KEY = "upbit:KRW-BTC"
T0 = 1_700_000_000_000


def rules(**changes: Any) -> m.ExitRules:
    return m.ExitRules(
        **{name: Decimal(value) if name.endswith("percent") else value for name, value in changes.items()}
    )


def again(fold: Fold) -> Fold:
    """The same fold after a restart from its snapshot."""
    return Fold(Parameters(), money_context(), state=msgspec.json.decode(encode(fold.state), type=State))


def book(make: SimpleNamespace, fold: Fold, bin_ms: int, bid: float) -> list[Output]:
    outputs: list[Output] = fold.take(make.features(bin_ms, bid + 5.0))
    return outputs


def test_take_profit_is_watched(make: SimpleNamespace) -> None:
    fold = make.started(exits=rules(take_profit_percent="1"))
    entry = make.entered(fold, T0)
    assert book(make, fold, T0 + 1000, 100_999.0) == []
    sale = make.order_of(book(make, fold, T0 + 2000, 101_000.0))
    assert (sale.cause_kind, sale.purpose, sale.order_type) == ("take-profit", "protective-exit", "market")
    assert (sale.cause_id, sale.quantity) == (entry.id, Decimal("0.06"))


def test_a_trailing_stop_hangs_from_the_highest_bid_and_survives_a_restart(make: SimpleNamespace) -> None:
    fold = make.started(exits=rules(trailing_percent="0.5"))
    make.entered(fold, T0)
    assert book(make, fold, T0 + 1000, 102_000.0) == []
    assert book(make, fold, T0 + 2000, 101_500.0) == []
    fold = again(fold)
    assert fold.state.accounts["paper"].positions[KEY].high_bid == Decimal("102000.0")
    assert book(make, fold, T0 + 2500, 101_490.1) == []
    sale = make.order_of(book(make, fold, T0 + 3000, 101_490.0))
    assert (sale.cause_kind, sale.purpose) == ("trailing", "protective-exit")


def test_a_stop_comes_before_the_trailing_stop(make: SimpleNamespace) -> None:
    fold = make.started(exits=rules(trailing_percent="0.5"))
    make.entered(fold, T0)
    book(make, fold, T0 + 1000, 100_000.0)
    assert make.order_of(book(make, fold, T0 + 2000, 98_000.0)).cause_kind == "stop"


def test_a_time_stop_takes_the_place_of_the_horizon(make: SimpleNamespace) -> None:
    fold = make.started(exits=rules(time_stop_ms=20_000), hysteresis_percent=Decimal(-10))
    make.entered(fold, T0)
    assert make.orders_of(fold.pulse(T0 + 19_000)) == []
    fold = again(fold)
    sale = make.order_of(fold.pulse(T0 + 20_000))
    assert (sale.cause_kind, sale.purpose) == ("time-stop", "exit")


def test_stale_data_are_told_once_where_the_position_is_held(make: SimpleNamespace) -> None:
    fold = make.started(exits=rules(time_stop_ms=600_000))
    make.entered(fold, T0)
    assert fold.pulse(T0 + 10_000) == []
    assert make.reasons_of(fold.pulse(T0 + 11_000)) == [Reason.STALE_POSITION]
    fold = again(fold)
    assert fold.pulse(T0 + 12_000) == []
    assert fold.state.accounts["paper"].day.refusals[Reason.STALE_POSITION] == 1
    book(make, fold, T0 + 20_000, 100_000.0)
    assert fold.pulse(T0 + 21_000) == []
    assert make.reasons_of(fold.pulse(T0 + 31_000)) == [Reason.STALE_POSITION]


def test_stale_data_sell_where_the_account_says_so(make: SimpleNamespace) -> None:
    fold = make.started(exits=rules(time_stop_ms=600_000, on_stale="sell"))
    make.entered(fold, T0)
    assert fold.pulse(T0 + 10_000) == []
    sale = make.order_of(fold.pulse(T0 + 11_000))
    assert (sale.cause_kind, sale.purpose, sale.quantity) == ("stale", "protective-exit", Decimal("0.06"))


def test_a_position_is_sold_before_its_market_ends(make: SimpleNamespace) -> None:
    fold = make.started(exits=rules(time_stop_ms=600_000, delisting_sell_ms=5_000))
    make.entered(fold, T0)
    fold.take(make.market(delisting_ms=T0 + 9_000))
    assert fold.pulse(T0 + 3_000) == []
    sale = make.order_of(again(fold).pulse(T0 + 4_000))
    assert (sale.cause_kind, sale.purpose, sale.quantity) == ("delisting", "protective-exit", Decimal("0.06"))


def test_a_day_before_is_what_nothing_else_is_said_and_null_never(make: SimpleNamespace) -> None:
    for changes, count in (({}, 1), ({"delisting_sell_ms": None}, 0)):
        fold = make.started(exits=rules(time_stop_ms=600_000, **changes))
        make.entered(fold, T0)
        fold.take(make.market(delisting_ms=T0 + 86_405_000))
        assert make.orders_of(fold.pulse(T0 + 4_000)) == []
        assert len(make.orders_of(fold.pulse(T0 + 5_000))) == count


# --- a take profit that rests at the exchange ---------------------------------------------------------------------


def resting(make: SimpleNamespace, tick: str = "50", **changes: Any) -> tuple[Fold, m.OrderIntent]:
    fold = make.started(
        make.market(tick), exits=rules(take_profit_percent="1", is_take_profit_resting=True), **changes
    )  # fmt: skip
    make.entered(fold, T0)
    return fold, make.order_of(book(make, fold, T0 + 1000, 100_000.0))


def test_a_take_profit_rests_on_a_tick_above_its_price(make: SimpleNamespace) -> None:
    _, order = resting(make, tick="300")
    assert (order.side, order.order_type, order.price) == ("sell", "limit", Decimal(101_100))
    assert (order.quantity, order.cause_kind, order.purpose) == (Decimal("0.06"), "take-profit", "exit")


def test_nothing_rests_while_the_entry_fills_or_the_tick_is_not_known(make: SimpleNamespace) -> None:
    wanted = rules(take_profit_percent="1", is_take_profit_resting=True)
    fold = make.started(exits=wanted)
    make.entered(fold, T0)
    assert book(make, fold, T0 + 1000, 100_000.0) == []
    fold = make.started(make.market(), exits=wanted)
    entry = make.order_of(make.one_bin(fold, T0, 50.0, 20.0))
    fold.take(make.filled(entry, "0.03", "100000", T0 + 700, is_final=False))
    assert book(make, fold, T0 + 1000, 100_000.0) == []


def test_a_filled_take_profit_ends_the_position(make: SimpleNamespace) -> None:
    fold, order = resting(make)
    assert book(make, fold, T0 + 2000, 101_000.0) == []
    fold.take(make.filled(order, "0.06", "101000", T0 + 2100))
    account = fold.state.accounts["paper"]
    assert (account.positions, account.realised) == ({}, Decimal("53.970"))
    assert make.reasons_of(make.one_bin(fold, T0 + 3000, 50.0, 50.0)) == [Reason.COOL_DOWN]


@pytest.mark.parametrize("is_restarted", [False, True])
def test_another_exit_cancels_first_and_sells_the_rest_when_the_end_is_told(
    make: SimpleNamespace, *, is_restarted: bool
) -> None:
    fold, order = resting(make)
    fold.take(make.filled(order, "0.01", "101000", T0 + 1500, is_final=False))
    (cancel,) = book(make, fold, T0 + 2000, 98_000.0)
    assert isinstance(cancel, m.CancelIntent)
    assert cancel.intent_id == order.id
    if is_restarted:
        fold = again(fold)
    assert book(make, fold, T0 + 3000, 97_000.0) == []
    assert fold.pulse(T0 + 9000) == []
    sale = make.order_of(fold.take(make.cancelled(order, "0.01", "101000", T0 + 9100)))
    assert (sale.cause_kind, sale.purpose, sale.quantity) == ("stop", "protective-exit", Decimal("0.05"))
    fold.take(make.filled(sale, "0.05", "97000", T0 + 9200))
    account = fold.state.accounts["paper"]
    assert (account.positions, account.is_ledger_broken, account.day.exits) == ({}, False, 1)


def test_a_take_profit_that_fills_while_it_is_cancelled_leaves_nothing_to_sell(make: SimpleNamespace) -> None:
    fold, order = resting(make)
    book(make, fold, T0 + 2000, 98_000.0)
    assert fold.take(make.filled(order, "0.06", "101000", T0 + 2100)) == []
    assert fold.state.accounts["paper"].positions == {}


def test_a_plan_exit_that_waits_becomes_protective_when_the_price_falls(make: SimpleNamespace) -> None:
    fold, order = resting(make)
    assert [type(one) for one in fold.pulse(T0 + 5000)] == [m.CancelIntent]
    assert book(make, fold, T0 + 6000, 98_000.0) == []
    assert make.order_of(fold.take(make.ended("cancelled", order, T0 + 6100))).cause_kind == "stop"


def test_a_halt_takes_the_resting_order_back(make: SimpleNamespace) -> None:
    fold, order = resting(make)
    (cancel,) = fold.take(m.Halt(account="*", kind="sell-all", event_ms=T0 + 1500, by="t"))
    assert isinstance(cancel, m.CancelIntent)
    assert make.order_of(fold.take(make.ended("cancelled", order, T0 + 1600))).cause_kind == "halt"


def test_no_take_profit_is_placed_under_a_halt(make: SimpleNamespace) -> None:
    fold = make.started(make.market(), exits=rules(take_profit_percent="1", is_take_profit_resting=True))
    make.entered(fold, T0)
    fold.take(m.Halt(account="*", kind="no-new-orders", event_ms=T0 + 800, by="t"))
    assert book(make, fold, T0 + 1000, 100_000.0) == []


def test_a_take_profit_that_is_refused_again_and_again_is_watched_instead(make: SimpleNamespace) -> None:
    fold, order = resting(make)
    fold.state.accounts["paper"].positions[KEY].due_ms = T0 + 600_000
    orders, now = [order], T0 + 1000
    fold.take(make.ended("rejected", order, now))
    for _ in range(40):
        now += 1000
        for one in make.orders_of(book(make, fold, now, 100_000.0)):
            orders.append(one)
            fold.take(make.ended("rejected", one, now))
    assert [one.event_ms - T0 for one in orders] == [1000, 2000, 4000]
    assert len({one.id for one in orders}) == 3
    assert make.order_of(book(make, fold, now + 1000, 101_000.0)).order_type == "market"


def test_a_rest_of_the_take_profit_that_nobody_can_sell_is_dust(make: SimpleNamespace) -> None:
    fold, order = resting(make)
    assert fold.take(make.cancelled(order, "0.05", "101000", T0 + 2000)) == []
    account = fold.state.accounts["paper"]
    assert (account.positions, account.rests[KEY].quantity) == ({}, Decimal("0.01"))


def test_the_resting_order_follows_a_changed_rule(make: SimpleNamespace) -> None:
    fold, order = resting(make)
    fold.take(make.settings(exits=rules(take_profit_percent="2", is_take_profit_resting=True)))
    (cancel,) = book(make, fold, T0 + 2000, 100_000.0)
    assert isinstance(cancel, m.CancelIntent)
    assert fold.take(make.ended("cancelled", order, T0 + 2100)) == []
    assert make.order_of(book(make, fold, T0 + 3000, 100_000.0)).price == Decimal(102_000)


def test_a_lost_resting_order_waits_for_a_person_and_then_leaves(make: SimpleNamespace) -> None:
    fold, order = resting(make)
    common = {"account": "paper", "pocket": "paper-main", "intent_id": order.id, "attempt": 1, "identifier": "i"}
    fold.take(m.OrderUnknown(**common, text="", is_lost=True, event_ms=T0 + 1100))
    assert [type(one) for one in book(make, fold, T0 + 2000, 98_000.0)] == [m.CancelIntent]
    assert fold.pulse(T0 + 9000) == []
    held = {KEY: Decimal("0.06")}
    fold.take(m.LedgerAccepted(account="paper", holdings=held, event_ms=T0 + 9000, by="t"))
    assert make.order_of(fold.pulse(T0 + 10_000)).quantity == Decimal("0.06")
