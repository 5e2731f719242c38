from collections.abc import Iterable
from decimal import Decimal
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from consumers.trade.entries import entry_intent, judge
from consumers.trade.fold import Fold, Output
from consumers.trade.glance import Glance
from consumers.trade.ledgers import ledger_key
from consumers.trade.reasons import WORDS, Reason, text_of
from consumers.trade.rules import plan_of
from consumers.trade.state import (
    Account,
    Bin,
    Parameters,
    Shared,
    day_of,
    decode_account,
    decode_shared,
    encode,
    money_context,
)
from models.strategies.registry import STRATEGIES
from streams import messages as m
from streams.market import costs

KEY = "upbit:KRW-BTC"
T0 = 1_700_000_000_000


def started(make: SimpleNamespace, **changes: Any) -> Fold:
    fold = Fold(Parameters(), money_context())
    fold.take(make.settings(**changes))
    return fold


def feed(fold: Fold, messages: Iterable[Any]) -> list[Output]:
    outputs: list[Output] = []
    for message in messages:
        outputs += fold.take(message)
    return outputs


def one_bin(make: SimpleNamespace, fold: Fold, bin_ms: int, *expected: float, mid: float = 100_000.0) -> list[Output]:
    signals = [make.signal(bin_ms, h, e) for h, e in zip((5000, 10000), expected, strict=False)]
    return feed(fold, [make.features(bin_ms, mid), *signals])


def orders_of(outputs: list[Output]) -> list[m.OrderIntent]:
    return [output for output in outputs if isinstance(output, m.OrderIntent)]


def only_intent(outputs: list[Output]) -> m.OrderIntent:
    (intent,) = orders_of(outputs)
    return intent


def reason_of(outputs: list[Output]) -> str:
    (veto,) = outputs
    assert isinstance(veto, m.Veto)
    return veto.reason


def entered(make: SimpleNamespace, fold: Fold, bin_ms: int = T0, quantity: str = "0.06") -> m.OrderIntent:
    intent = only_intent(one_bin(make, fold, bin_ms, 50.0, 20.0))
    fold.take(make.filled(intent, quantity, "100000", bin_ms + 700))
    return intent


def test_entry_buys_for_the_best_net_horizon(make: SimpleNamespace) -> None:
    fold = started(make)
    intent = only_intent(one_bin(make, fold, T0, 20.0, 50.0))
    assert (intent.side, intent.order_type, intent.funds) == ("buy", "price", Decimal(6000))
    assert intent.cause_id == make.signal(T0, 10000).id
    assert intent.id == m.intent_id("paper", "signal", intent.cause_id, "entry")
    assert intent.expires_ms == T0 + 5000
    assert intent.cost_bp == pytest.approx(11.0)
    assert fold.state.accounts["paper"].orders[intent.id].due_ms == T0 + 10000
    assert fold.state.accounts["paper"].reserved == Decimal(6003)


def test_the_threshold_is_the_exact_edge(make: SimpleNamespace) -> None:
    """Oracle: 10 bp of fees, 1 bp of spread, 5 bp of threshold."""
    cost = costs.round_trip(costs.levels_of(make.levels(100_000.0)) or pytest.fail("no levels"), 6000.0, 0.05)
    assert cost is not None
    needed = costs.needed_bp(cost, 0.05)
    assert needed == pytest.approx(16.0)
    assert only_intent(one_bin(make, started(make), T0, needed, 0.0)).purpose == "entry"
    below = needed - 1e-9
    outputs = one_bin(make, started(make), T0, below, 0.0)
    assert reason_of(outputs) == Reason.BELOW_COST
    (veto,) = outputs
    assert isinstance(veto, m.Veto)
    assert (veto.best_expected_bp, veto.needed_bp, veto.horizon_ms) == (below, needed, 5000)


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.floats(-100, 100), st.floats(0.0, 0.2), st.floats(0.0, 0.3), st.floats(0.1, 300.0), st.floats(0.001, 0.2))
def test_no_entry_below_cost_and_threshold(
    expected: float, fee: float, threshold: float, half: float, size: float
) -> None:
    account = Account(
        settings=m.AccountSettings(
            account="a", pocket="p", venue="paper", is_trading=True, budget=Decimal(10**6), entry_funds=Decimal(6000),
            threshold_percent=Decimal(repr(threshold)), fee_percent=Decimal(repr(fee)), stop_percent=Decimal("1.5"),
            hysteresis_percent=Decimal(0), horizons_ms=[5000], markets=[],
        ),
        is_trading=True,
    )  # fmt: skip
    bids = [100_000.0 - half * (1 + i) for i in range(5)]
    asks = [100_000.0 + half * (1 + i) for i in range(5)]
    fold = Fold(Parameters(capacity_percent=Decimal(10_000)), money_context())
    fold.state.accounts["a"] = account
    fold.take(
        m.Features(
            exchange="upbit", market="KRW-BTC", bin_ms=T0, grid_ms=1000, schema="s", source="x", session=1, n_bins=1,
            n_books=1, n_trades=0, mid=100_000.0, spread=2 * half, values=[], accumulators=[],
            levels=[*bids, *[size] * 5, *asks, *[size] * 5],
        )
    )  # fmt: skip
    outputs = fold.take(
        m.Signal(
            id="s1", exchange="upbit", market="KRW-BTC", bin_ms=T0, horizon_ms=5000, schema="s", model_id="l",
            expected_bp=expected, sigma_bp=1.0, mid=100_000.0, is_licensed=True, feed="synthetic",
        )
    )  # fmt: skip
    (output,) = outputs
    left, quantity, paid = 6000.0, 0.0, 0.0
    for price in asks:
        part = min(size, left / price)
        quantity, paid, left = quantity + part, paid + part * price, left - part * price
    if left > 1e-6:
        assert isinstance(output, m.Veto)
        assert output.reason == Reason.THIN_BOOK
        return
    rest, brought = quantity, 0.0
    for price in bids:
        part = min(size, rest)
        rest, brought = rest - part, brought + part * price
    needed = ((paid - brought) / quantity / 100_000.0) * 1e4 + 200 * fee + 100 * threshold
    if expected >= needed + 1e-6:
        assert isinstance(output, m.OrderIntent)
    elif expected <= needed - 1e-6:
        assert isinstance(output, m.Veto)
        assert output.reason in {Reason.BELOW_COST, Reason.THIN_BOOK}


def refused(make: SimpleNamespace, *, prepare: Iterable[Any] = (), expected: float = 50.0, **changes: Any) -> str:
    fold = started(make, **changes)
    feed(fold, prepare)
    return reason_of(one_bin(make, fold, T0, expected, expected))


def test_each_account_setting_refuses_with_its_own_reason(make: SimpleNamespace) -> None:
    assert refused(make, is_trading=False) == Reason.TRADING_STOPPED
    assert refused(make, venue="live") == Reason.LIVE_NOT_OFFERED
    assert refused(make, markets=["KRW-ETH"]) == Reason.MARKET_NOT_CHOSEN
    assert refused(make, budget=Decimal(6002)) == Reason.BUDGET
    assert refused(make, entry_funds=Decimal(4999)) == Reason.BELOW_MINIMUM
    assert refused(make, entry_funds=Decimal(5050)) == Reason.UNSELLABLE_AFTER_STOP
    assert refused(make, maximum_positions=0) == Reason.MAXIMUM_POSITIONS
    assert refused(make, expected=10.0) == Reason.BELOW_COST
    assert refused(make, entry_funds=Decimal(100_000_000)) == Reason.THIN_BOOK


def test_each_control_refuses_with_its_own_reason(make: SimpleNamespace) -> None:
    warmed = m.Warmed(event_ms=T0 + 1, by="t")
    assert refused(make, prepare=[warmed]) == Reason.WARM_UP
    for account in ("*", "paper"):
        halt = m.Halt(account=account, kind="no-new-orders", event_ms=T0, by="t")
        assert refused(make, prepare=[halt]) == Reason.HALTED
        stopped = m.TradingStopped(account=account, event_ms=T0, by="t")
        assert refused(make, prepare=[stopped]) == Reason.TRADING_STOPPED
    market = m.Market(
        exchange="upbit", market="KRW-BTC", event_ms=T0, tick_size=Decimal(1), minimum_total=Decimal(5000),
        maximum_total=Decimal(10**9), is_caution=True,
    )  # fmt: skip
    assert refused(make, prepare=[market]) == Reason.CAUTION


def test_trading_goes_on_after_start_and_lifted(make: SimpleNamespace) -> None:
    fold = started(make, is_trading=False)
    feed(
        fold,
        [
            m.Halt(account="*", kind="no-new-orders", event_ms=T0, by="t"),
            m.Halt(account="*", kind="lifted", event_ms=T0, by="t"),
            m.TradingStarted(account="paper", event_ms=T0, by="t"),
            m.TradingStarted(account="nobody", event_ms=T0, by="t"),
            m.Warmed(event_ms=T0, by="t"),
        ],
    )
    assert only_intent(one_bin(make, fold, T0, 50.0, 20.0))


def test_before_any_warmed_record_a_market_that_warms_up_takes_no_entry(make: SimpleNamespace) -> None:
    fold = Fold(Parameters(is_warm_up_expected=True), money_context())
    fold.take(make.settings())
    assert reason_of(one_bin(make, fold, T0, 50.0, 50.0)) == Reason.WARM_UP
    fold.take(m.Warmed(event_ms=T0 + 1000, by="t"))
    assert only_intent(one_bin(make, fold, T0 + 1000, 50.0, 20.0))


def test_signals_and_books_refuse_with_their_reasons(make: SimpleNamespace) -> None:
    fold = started(make, horizons_ms=[5000])
    unlicensed = make.signal(T0, is_licensed=False, refusal="synthetic-model")
    assert reason_of(feed(fold, [make.features(T0), unlicensed])) == "synthetic-model"
    assert fold.state.accounts["paper"].day.best_expected_bp == 50.0
    assert reason_of(feed(started(make, horizons_ms=[5000]), [make.signal(T0)])) == Reason.NO_BOOK
    plain = make.signal(T0 + 2000, is_licensed=False)
    assert reason_of(feed(fold, [make.features(T0 + 2000), plain])) == Reason.UNLICENSED
    late = started(make, horizons_ms=[5000])
    late.pulse(T0 + 4000)
    assert reason_of(feed(late, [make.features(T0), make.signal(T0)])) == Reason.STALE_SIGNAL
    stale = started(make, horizons_ms=[5000])
    assert reason_of(feed(stale, [make.features(T0 - 11_000), make.signal(T0)])) == Reason.STALE_FEED


def test_unlicensed_horizons_do_not_count(make: SimpleNamespace) -> None:
    fold = started(make)
    feed(fold, [make.features(T0), make.signal(T0, 5000, 99.0, is_licensed=False)])
    assert only_intent(fold.take(make.signal(T0, 10000, 20.0))).cause_id == make.signal(T0, 10000).id


def test_a_bin_is_decided_when_its_last_horizon_came_or_at_the_next_pulse_or_bin(make: SimpleNamespace) -> None:
    fold = started(make)
    assert feed(fold, [make.features(T0), make.signal(T0, 5000, 1.0)]) == []
    assert reason_of(fold.pulse(T0 + 1000)) == Reason.BELOW_COST
    assert fold.take(make.signal(T0, 10000, 99.0)) == []
    fold = started(make)
    assert feed(fold, [make.features(T0), make.signal(T0, 5000, 50.0), make.signal(T0, 60000, 99.0)]) == []
    assert only_intent(fold.take(make.signal(T0 + 1000, 5000, 1.0))).cause_id == make.signal(T0, 5000).id
    fold = started(make)
    feed(fold, [make.features(T0), make.signal(T0, 60000, 99.0)])
    assert reason_of(fold.pulse(T0 + 1000)) == Reason.HORIZON_NOT_CHOSEN
    assert fold.pulse(T0 + 1000) == []


def test_an_account_decides_once_on_a_bin_that_others_still_wait_for(make: SimpleNamespace) -> None:
    fold = started(make, horizons_ms=[5000])
    fold.take(make.settings(account="slow", pocket="paper-slow"))
    feed(fold, [make.features(T0)])
    assert only_intent(fold.take(make.signal(T0, 5000, 50.0))).account == "paper"
    decided = fold.pulse(T0 + 1000)
    assert [one.account for one in decided] == ["slow"]
    assert fold.state.accounts["paper"].day.orders == 1
    assert fold.state.accounts["paper"].reasons == {}


def test_a_repeated_record_changes_nothing(make: SimpleNamespace) -> None:
    fold = started(make)
    intent = only_intent(one_bin(make, fold, T0, 50.0, 20.0))
    before = encode(fold.state)
    assert one_bin(make, fold, T0, 50.0, 20.0) == []
    assert encode(fold.state) == before
    fill = make.filled(intent, "0.06", "100000", T0 + 700)
    fold.take(fill)
    before = encode(fold.state)
    assert feed(fold, [fill, make.ended("cancelled", intent, T0 + 800)]) == []
    assert encode(fold.state) == before


def test_pending_position_and_cool_down_hold_entries_back(make: SimpleNamespace) -> None:
    fold = started(make)
    intent = only_intent(one_bin(make, fold, T0, 50.0, 20.0))
    assert reason_of(one_bin(make, fold, T0 + 1000, 50.0, 20.0)) == Reason.ORDER_PENDING
    fold.take(make.filled(intent, "0.06", "100000", T0 + 1500))
    assert reason_of(one_bin(make, fold, T0 + 2000, 50.0, 20.0)) == Reason.POSITION_OPEN
    sale = only_intent(fold.take(make.features(T0 + 5000)))
    fold.take(make.filled(sale, "0.06", "100000", T0 + 5100))
    assert reason_of(one_bin(make, fold, T0 + 6000, 50.0, 20.0)) == Reason.COOL_DOWN
    assert only_intent(one_bin(make, fold, T0 + 16_000, 50.0, 20.0)).purpose == "entry"


def test_a_failed_entry_frees_the_budget_and_cools_down(make: SimpleNamespace) -> None:
    for kind in ("rejected", "expired", "cancelled"):
        fold = started(make, budget=Decimal(6003))
        intent = only_intent(one_bin(make, fold, T0, 50.0, 20.0))
        account = fold.state.accounts["paper"]
        assert account.free == 0
        fold.take(make.ended(kind, intent, T0 + 500))
        assert (account.free, account.orders[intent.id].state) == (Decimal(6003), kind)
        assert reason_of(one_bin(make, fold, T0 + 1000, 50.0, 20.0)) == Reason.COOL_DOWN


def test_horizon_over_sells_exactly_what_was_bought(make: SimpleNamespace) -> None:
    fold = started(make)
    entry = entered(make, fold, quantity="0.059999991")
    assert fold.pulse(T0 + 4000) == []
    sale = only_intent(fold.pulse(T0 + 5000))
    assert (sale.side, sale.order_type, sale.quantity) == ("sell", "market", Decimal("0.05999999"))
    assert (sale.purpose, sale.cause_kind, sale.cause_id) == ("exit", "time-stop", entry.id)
    assert fold.pulse(T0 + 6000) == []
    fold.take(make.filled(sale, "0.059999991", "100100", T0 + 6100))
    account = fold.state.accounts["paper"]
    bought, sold = Decimal("0.059999991") * 100_000, Decimal("0.059999991") * 100_100
    assert account.realised == sold - bought - (sold + bought) * Decimal("0.0005")
    assert account.paid_fees == (sold + bought) * Decimal("0.0005")
    assert (account.positions, account.invested, account.day.entries, account.day.exits) == ({}, 0, 1, 1)
    assert account.free == account.settings.budget + account.realised


def test_expectation_below_the_hysteresis_ends_a_position(make: SimpleNamespace) -> None:
    fold = started(make, hysteresis_percent=Decimal("0.01"))
    entered(make, fold)
    assert not [o for o in one_bin(make, fold, T0 + 1000, 1.0, -5.0) if isinstance(o, m.OrderIntent)]
    sale = only_intent(one_bin(make, fold, T0 + 2000, 0.99, 50.0))
    assert (sale.purpose, sale.cause_kind) == ("exit", "expectation")
    assert sale.cause_id == make.signal(T0 + 2000, 5000).id


def test_stop_loss_is_a_protective_exit_that_no_veto_holds(make: SimpleNamespace) -> None:
    fold = started(make)
    entered(make, fold)
    feed(
        fold,
        [
            m.Halt(account="*", kind="no-new-orders", event_ms=T0, by="t"),
            m.TradingStopped(account="*", event_ms=T0, by="t"),
        ],
    )
    assert fold.take(make.features(T0 + 1000, 98_505.1)) == []
    sale = only_intent(fold.take(make.features(T0 + 2000, 98_505.0)))
    assert (sale.purpose, sale.cause_kind, sale.quantity) == ("protective-exit", "stop", Decimal("0.06"))


def test_sell_all_cancels_entries_and_sells(make: SimpleNamespace) -> None:
    fold = started(make)
    entered(make, fold)
    feed(fold, [make.features(T0, market="KRW-ETH"), make.signal(T0, market="KRW-ETH")])
    pending = only_intent(fold.take(make.signal(T0, 10000, market="KRW-ETH")))
    cancel, sale = fold.take(m.Halt(account="*", kind="sell-all", event_ms=T0 + 900, by="t"))
    assert isinstance(cancel, m.CancelIntent)
    assert cancel.intent_id == pending.id
    assert isinstance(sale, m.OrderIntent)
    assert (sale.purpose, sale.cause_kind) == ("protective-exit", "halt")
    fold.take(make.filled(pending, "0.06", "100000", T0 + 950))
    assert only_intent(fold.pulse(T0 + 1000)).market == "KRW-ETH"


def test_a_failed_exit_is_tried_again_with_a_new_cause_bounded_by_pulses(make: SimpleNamespace) -> None:
    fold = started(make)
    entered(make, fold)
    sales = [only_intent(fold.pulse(T0 + 5000))]
    fold.take(make.ended("rejected", sales[0], T0 + 5100))
    assert feed(fold, [make.features(T0 + 5000), make.features(T0 + 5500)]) == []
    now = T0 + 5000
    for _ in range(40):
        now += 1000
        for output in orders_of(fold.pulse(now)):
            sales.append(output)
            fold.take(make.ended("expired", output, now))
    assert [sale.cause_id.partition("/")[2] for sale in sales] == ["", "1", "2", "3", "4", "5"]
    assert len({sale.id for sale in sales}) == len(sales)
    stop = only_intent(fold.take(make.features(now, 90_000.0)))
    assert (stop.purpose, stop.cause_kind) == ("protective-exit", "stop")


def test_an_unknown_order_is_waited_for_and_a_late_fill_counts(make: SimpleNamespace) -> None:
    fold = started(make)
    intent = only_intent(one_bin(make, fold, T0, 50.0, 20.0))
    common = {"account": "paper", "pocket": "paper-main", "intent_id": intent.id, "attempt": 1, "identifier": "i"}
    feed(
        fold,
        [
            m.OrderSent(**common, event_ms=T0 + 600),
            m.OrderAccepted(**common, uuid="u", event_ms=T0 + 610),
            m.OrderUnknown(**common, text="time-out", event_ms=T0 + 700),
        ],
    )
    account = fold.state.accounts["paper"]
    assert account.orders[intent.id].state == "unknown"
    assert reason_of(one_bin(make, fold, T0 + 1000, 50.0, 20.0)) == Reason.ORDER_PENDING
    fold.take(make.ended("expired", intent, T0 + 2000))
    fold.take(make.filled(intent, "0.06", "100000", T0 + 3000))
    assert account.positions[KEY].quantity == Decimal("0.06")
    assert only_intent(fold.pulse(T0 + 5000)).quantity == Decimal("0.06")


def test_a_rest_below_the_minimum_is_dust_and_leaves_with_the_next_position(make: SimpleNamespace) -> None:
    fold = started(make)
    entered(make, fold)
    sale = only_intent(fold.pulse(T0 + 5000))
    part = make.filled(sale, "0.04", "100000", T0 + 5100, is_final=False)
    fold.take(part)
    fold.take(
        m.OrderCancelled(
            account="paper", pocket="paper-main", intent_id=sale.id, uuid="u", executed_quantity=Decimal("0.04"),
            executed_funds=Decimal(4000), paid_fee=Decimal(2), event_ms=T0 + 5200,
        )
    )  # fmt: skip
    account = fold.state.accounts["paper"]
    assert account.positions[KEY].quantity == Decimal("0.02")
    assert fold.pulse(T0 + 7000) == []
    assert account.positions == {}
    assert account.rests[KEY].quantity == Decimal("0.02")
    assert account.invested == Decimal(2001)
    entered(make, fold, T0 + 20_000)
    assert account.rests == {}
    assert only_intent(fold.pulse(T0 + 25_000)).quantity == Decimal("0.08")


def test_a_sale_of_more_than_was_bought_stops_entries(make: SimpleNamespace) -> None:
    fold = started(make)
    entered(make, fold)
    sale = only_intent(fold.pulse(T0 + 5000))
    fold.take(make.filled(sale, "0.07", "100000", T0 + 5100))
    assert fold.state.accounts["paper"].is_ledger_broken
    assert reason_of(one_bin(make, fold, T0 + 20_000, 50.0, 20.0)) == Reason.LEDGER_DIFFERS


def test_a_sale_without_a_position_stops_entries(make: SimpleNamespace) -> None:
    fold = started(make)
    entered(make, fold)
    sale = only_intent(fold.pulse(T0 + 5000))
    fold.take(make.ended("expired", sale, T0 + 5100))
    again = only_intent(fold.pulse(T0 + 7000))
    fold.take(make.filled(again, "0.06", "100000", T0 + 7100))
    fold.take(make.filled(sale, "0.06", "100000", T0 + 7200))
    account = fold.state.accounts["paper"]
    assert account.is_ledger_broken
    assert account.realised == Decimal(-6) + Decimal(6000) - Decimal(3)


def test_a_refused_stop_backs_off_and_is_told_once(make: SimpleNamespace) -> None:
    fold = started(make)
    entered(make, fold)
    sales = [only_intent(fold.take(make.features(T0 + 1000, 90_000.0)))]
    alarms = fold.take(make.ended("rejected", sales[0], T0 + 1000))
    times, now = [T0 + 1000], T0 + 1000
    for _ in range(120):
        now += 1000
        for sale in orders_of(fold.pulse(now)):
            assert sale.purpose == "protective-exit"
            sales.append(sale)
            times.append(now)
            alarms += fold.take(make.ended("rejected", sale, now))
    waits = [after - before for before, after in pairwise(times)]
    assert waits[:5] == [1000, 2000, 4000, 8000, 16000]
    assert set(waits[5:]) == {30_000}
    assert reason_of(alarms) == Reason.EXIT_REFUSED
    assert fold.state.accounts["paper"].day.refusals == {"exit-refused": 1, "stale-position": 1}
    assert one_bin(make, fold, now + 100, 50.0, 20.0, mid=90_000.0) == []
    assert fold.state.accounts["paper"].day.refusals["exit-refused"] == 2
    fold.take(m.Halt(account="*", kind="no-new-orders", event_ms=now, by="t"))
    assert only_intent(one_bin(make, fold, now + 1100, 50.0, 20.0, mid=90_000.0)).side == "sell"
    assert fold.state.accounts["paper"].reasons[KEY] == Reason.EXIT_REFUSED
    sale = next(order for order in fold.state.accounts["paper"].orders.values() if order.is_open)
    sold = msgspec.structs.replace(sales[-1], id=sale.intent_id)
    assert fold.take(make.filled(sold, "0.06", "90000", now + 30_000)) == []
    assert KEY not in fold.state.accounts["paper"].reasons


def lost(intent: m.OrderIntent, event_ms: int) -> m.OrderUnknown:
    return m.OrderUnknown(
        account="paper", pocket="paper-main", intent_id=intent.id, attempt=1, identifier="i", text="", is_lost=True,
        event_ms=event_ms,
    )  # fmt: skip


def accepted(**holdings: str) -> m.LedgerAccepted:
    held = {f"upbit:{market.replace('_', '-')}": Decimal(quantity) for market, quantity in holdings.items()}
    return m.LedgerAccepted(account="paper", holdings=held, event_ms=T0, by="t")


def test_a_lost_entry_stops_the_account_until_its_ledger_is_accepted(make: SimpleNamespace) -> None:
    fold = started(make)
    intent = only_intent(one_bin(make, fold, T0, 50.0, 20.0))
    account = fold.state.accounts["paper"]
    fold.take(lost(intent, T0 + 1000))
    fold.take(make.ended("expired", intent, T0 + 1100))
    assert account.reserved == Decimal(6003)
    assert reason_of(one_bin(make, fold, T0 + 2000, 50.0, 20.0)) == Reason.LEDGER_DIFFERS
    assert fold.take(accepted(KRW_BTC="0.05")) == []
    assert (account.is_ledger_broken, account.reserved, account.invested) == (False, 0, Decimal(6003))
    fold.take(make.filled(intent, "0.05", "100000", T0 + 3000))
    assert account.positions[KEY].quantity == Decimal("0.05")
    assert only_intent(fold.pulse(T0 + 5000)).quantity == Decimal("0.05")


def test_a_lost_exit_is_not_tried_again_before_its_ledger_is_accepted(make: SimpleNamespace) -> None:
    fold = started(make)
    entered(make, fold)
    sale = only_intent(fold.pulse(T0 + 5000))
    account = fold.state.accounts["paper"]
    fold.take(lost(sale, T0 + 6000))
    assert orders_of(fold.pulse(T0 + 60_000)) == []
    fold.take(accepted(KRW_BTC="0.06"))
    assert only_intent(fold.pulse(T0 + 61_000)).quantity == Decimal("0.06")
    assert not account.is_ledger_broken
    fold.take(accepted())
    assert account.positions == {}
    assert (account.realised, account.invested) == (Decimal(-6003), 0)


def test_an_accepted_ledger_moves_positions_and_lets_entries_go_on(make: SimpleNamespace) -> None:
    fold = started(make)
    entered(make, fold)
    account = fold.state.accounts["paper"]
    account.is_ledger_broken = True
    fold.take(accepted(KRW_BTC="0.03", KRW_ETH="5"))
    assert (account.positions[KEY].quantity, account.invested) == (Decimal("0.03"), Decimal("3001.5"))
    fold.take(accepted(KRW_BTC="0.06"))
    assert (account.positions[KEY].quantity, account.invested) == (Decimal("0.06"), Decimal(6003))
    assert list(account.positions) == [KEY]
    fold.take(accepted())
    assert only_intent(one_bin(make, fold, T0 + 20_000, 50.0, 20.0)).purpose == "entry"


def test_a_closed_order_is_forgotten_only_when_nothing_can_be_told_of_it(make: SimpleNamespace) -> None:
    fold = started(make, cooldown_ms=0)
    first = only_intent(one_bin(make, fold, T0, 50.0, 20.0))
    fold.take(msgspec.structs.replace(lost(first, T0), is_lost=False))
    fold.take(make.ended("expired", first, T0))
    for at in range(1, 101):
        intent = only_intent(one_bin(make, fold, T0 + at * 1000, 50.0, 20.0))
        fold.take(make.ended("rejected", intent, T0 + at * 1000))
    account = fold.state.accounts["paper"]
    assert len(account.orders) == 101
    again = Fold(Parameters(), money_context(), state=msgspec.json.decode(encode(fold.state), type=type(fold.state)))
    for one in (fold, again):
        one.pulse(T0 + 3_600_000)
        one.take(make.ended("rejected", intent, T0))
    assert list(account.orders) == [first.id]
    assert encode(again.state) == encode(fold.state)
    fold.take(make.filled(first, "0.06", "100000", T0 + 3_600_000))
    assert account.positions[KEY].quantity == Decimal("0.06")


def test_a_fill_of_an_order_that_is_not_known_stops_entries_unless_it_is_old(make: SimpleNamespace) -> None:
    fold = started(make)
    intent = msgspec.structs.replace(entered(make, fold), id="nobody")
    fold.pulse(T0 + 3_600_000)
    fold.take(make.filled(intent, "0.06", "100000", T0 + 700))
    assert not fold.state.accounts["paper"].is_ledger_broken
    fold.take(make.filled(intent, "0.06", "100000", T0 + 3_600_000))
    assert fold.state.accounts["paper"].is_ledger_broken


def test_prices_for_the_stop_fall_back_to_the_mid_or_to_nothing(make: SimpleNamespace) -> None:
    fold = started(make)
    entered(make, fold)
    no_levels: list[float | None] = [None] * 20
    assert fold.take(make.features(T0 + 1000, 99_000.0, levels=no_levels)) == []
    blind = msgspec.structs.replace(make.features(T0 + 2000), levels=no_levels, mid=None)
    assert fold.take(blind) == []
    assert only_intent(fold.take(make.features(T0 + 3000, 98_000.0, levels=no_levels))).cause_kind == "stop"


def test_a_late_sale_of_dust_counts(make: SimpleNamespace) -> None:
    fold = started(make)
    intent = only_intent(one_bin(make, fold, T0, 50.0, 20.0))
    fold.take(make.filled(intent, "0.06", "100000", T0 + 700))
    sale = only_intent(fold.pulse(T0 + 5000))
    fold.take(make.filled(sale, "0.03", "100000", T0 + 5100, is_final=False))
    fold.take(make.ended("expired", sale, T0 + 5200))
    assert fold.pulse(T0 + 7000) == []
    account = fold.state.accounts["paper"]
    assert account.rests[KEY].quantity == Decimal("0.03")
    fold.take(make.filled(sale, "0.04", "100000", T0 + 7100))
    assert account.rests[KEY].quantity == Decimal("0.02")
    fold.take(make.filled(sale, "0.06", "100000", T0 + 7200))
    assert (account.rests, account.invested, account.is_ledger_broken) == ({}, 0, False)
    assert account.realised == Decimal(-6)


def test_a_plan_exit_waits_for_the_entry_to_end(make: SimpleNamespace) -> None:
    fold = started(make)
    intent = only_intent(one_bin(make, fold, T0, 50.0, 20.0))
    fold.take(make.filled(intent, "0.03", "100000", T0 + 700, is_final=False))
    assert fold.pulse(T0 + 5000) == []
    fold.take(make.filled(intent, "0.06", "100000", T0 + 5100))
    assert only_intent(fold.pulse(T0 + 6000)).quantity == Decimal("0.06")


def test_refusals_are_counted_per_kst_day_and_told_when_they_change(make: SimpleNamespace) -> None:
    fold = started(make)
    assert reason_of(one_bin(make, fold, T0, 1.0, 2.0)) == Reason.BELOW_COST
    assert one_bin(make, fold, T0 + 1000, 1.0, 3.0) == []
    fold.take(m.TradingStopped(account="paper", event_ms=T0, by="t"))
    assert reason_of(one_bin(make, fold, T0 + 2000, 1.0, 2.0)) == Reason.TRADING_STOPPED
    day = fold.state.accounts["paper"].day
    assert day.refusals == {Reason.BELOW_COST: 2, Reason.TRADING_STOPPED: 1}
    assert (day.forecasts, day.best_expected_bp, day.best_market) == (6, 3.0, "KRW-BTC")
    assert day.best_needed_bp == pytest.approx(16.0)
    next_day = T0 + 86_400_000
    one_bin(make, fold, next_day, 1.0, 2.0)
    assert fold.state.accounts["paper"].day.refusals == {Reason.TRADING_STOPPED: 1}
    assert day_of(next_day) != day_of(T0)
    assert day_of(1_700_060_399_999) == "2023-11-15"
    assert day_of(1_700_060_400_000) == "2023-11-16"


def test_accounts_of_other_shards_are_not_ours(make: SimpleNamespace) -> None:
    fold = Fold(Parameters(), money_context(), lambda pocket: pocket == "mine")
    fold.take(make.settings())
    assert fold.state.accounts == {}
    fold.take(make.settings(account="b", pocket="mine"))
    fold.take(make.settings(account="a", pocket="mine", horizons_ms=[5000]))
    assert list(fold.state.accounts) == ["a", "b"]
    outputs = one_bin(make, fold, T0, 50.0, 20.0)
    assert [o.account for o in outputs if isinstance(o, m.OrderIntent)] == ["a", "b"]
    fold.take(make.settings(account="b", pocket="mine", is_trading=False))
    assert not fold.state.accounts["b"].is_trading
    assert fold.take(make.ended("rejected", only_intent(outputs[:1]), T0)) == []


def test_state_comes_back_equal_from_its_snapshot(make: SimpleNamespace) -> None:
    fold = started(make)
    entered(make, fold)
    only_intent(fold.pulse(T0 + 5000))
    one_bin(make, fold, T0 + 6000, 1.0)
    account, shared = fold.state.accounts["paper"], fold.state.shared
    assert decode_account(encode(account)) == account
    assert decode_shared(encode(shared)) == shared
    assert encode(decode_shared(encode(shared))) == encode(shared)


def test_judging_changes_nothing_and_needs_a_cost(make: SimpleNamespace) -> None:
    fold = started(make)
    account, glance = (
        fold.state.accounts["paper"],
        Glance(KEY, Bin(bin_ms=T0, signals={5000: make.signal(T0)}), Shared()),
    )
    plan = plan_of(account.settings, STRATEGIES)
    before = encode(fold.state)
    verdict = judge(account, plan, plan.rules[""], glance, fold.crowd, Parameters())
    assert verdict.reason == Reason.NO_BOOK
    with pytest.raises(ValueError, match="without a reason"):
        entry_intent(account, plan.rules[""], verdict, Parameters())
    assert encode(fold.state) == before


def test_every_reason_has_words_in_both_languages() -> None:
    assert set(WORDS) == set(Reason)
    assert all(english and korean for english, korean in WORDS.values())
    assert text_of("below-cost") == WORDS[Reason.BELOW_COST][0]
    assert text_of("no-skill", "ko").endswith("(no-skill)")


steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["bin", "bin", "bin", "pulse", "fill", "part", "rejected", "expired", "cancelled", "late", "halt", "lift"]
        ),
        st.floats(-60, 60),
        st.integers(0, 3),
    ),
    max_size=60,
)


EXITS = m.ExitRules(
    take_profit_percent=Decimal("0.5"), is_take_profit_resting=True, trailing_percent=Decimal("0.8"), on_stale="sell"
)
WORLDS: list[dict[str, Any]] = [
    {},
    {"exits": EXITS},
    {"exits": EXITS, "strategies": [m.StrategySettings(id="a"), m.StrategySettings(id="b")]},
    {"exits": EXITS, "strategies": [m.StrategySettings(id="a"), m.StrategySettings(id="b")], "is_netting": True},
]


@pytest.mark.parametrize("changes", WORLDS, ids=["plain", "resting", "two strategies", "netting"])
@hypothesis_settings(max_examples=120, deadline=None)
@given(path=steps)
def test_budget_is_never_negative_and_nothing_is_sold_that_was_not_bought(
    changes: dict[str, Any], path: list[tuple[str, float, int]]
) -> None:
    world = World(**changes)
    for action, number, which in path:
        world.check(world.act(action, number, which))
    assert not world.account.is_ledger_broken


class World:
    """A fold, and an exchange that fills as one could: never more than the order, never coins that are not there."""

    def __init__(self, **changes: Any) -> None:
        self.fold = Fold(Parameters(), money_context())
        for market in ("KRW-BTC", "KRW-ETH"):
            self.fold.take(
                m.Market(
                    exchange="upbit", market=market, event_ms=T0, tick_size=Decimal(50), minimum_total=Decimal(5000),
                    maximum_total=Decimal(10**9),
                )
            )  # fmt: skip
        self.fold.take(
            m.AccountSettings(
                account="paper", pocket="p", venue="paper", is_trading=True, budget=Decimal(20_000),
                entry_funds=Decimal(6000), threshold_percent=Decimal("0.05"), fee_percent=Decimal("0.05"),
                stop_percent=Decimal("1.5"), hysteresis_percent=Decimal(0), horizons_ms=[5000], markets=[],
                cooldown_ms=2000, **changes,
            )
        )  # fmt: skip
        self.account = self.fold.state.accounts["paper"]
        self.now, self.mid = T0, 100_000.0
        self.intents: dict[str, m.OrderIntent] = {}
        self.done: dict[str, tuple[Decimal, Decimal, Decimal]] = {}
        self.coins: dict[str, Decimal] = {}
        self.has_late_buy = False

    def act(self, action: str, number: float, which: int) -> list[Output]:
        if action == "bin":
            self.now += 1000
            self.mid *= 1 + number / 5000
            return feed(self.fold, self.bin(number))
        if action == "pulse":
            self.now += 3000
            return self.fold.pulse(self.now)
        if action in {"halt", "lift"}:
            kind: Any = "sell-all" if action == "halt" else "lifted"
            return self.fold.take(m.Halt(account="*", kind=kind, event_ms=self.now, by="t"))
        is_late = action == "late"
        among = [i for i in self.intents.values() if is_late or self.account.orders[i.id].is_open]
        if not among:
            return []
        chosen = among[which % len(among)]
        if chosen.side == "buy" and not self.account.orders[chosen.id].is_open:
            self.has_late_buy = True  # what was given back may be used already: nobody can know before
        if action in {"rejected", "expired", "cancelled"}:
            return self.fold.take(self.end(action, chosen))
        share = Decimal("0.4") if action == "part" else Decimal(1)
        return self.fold.take(self.fill(chosen, share, is_final=action != "part"))

    def check(self, outputs: list[Output]) -> None:
        account = self.account
        for output in outputs:
            if isinstance(output, m.OrderIntent):
                assert output.id not in self.intents
                self.intents[output.id] = output
                if output.side == "sell":
                    assert output.quantity is not None
                    held = account.positions[ledger_key(output.strategy, m.key_of("upbit", output.market))]
                    assert 0 < output.quantity <= held.quantity
                    selling = [o for o in account.orders.values() if o.is_open and o.side == "sell"]
                    assert [o.intent_id for o in selling if o.ledger == account.orders[output.id].ledger] == [output.id]
        assert account.free >= 0 or self.has_late_buy
        assert account.reserved >= 0
        for position in account.positions.values():
            assert position.quantity > 0
            assert position.sold <= position.bought
            assert position.cost >= 0
        for ledger, coins in self.coins.items():
            held = [kept[ledger].quantity for kept in (account.positions, account.rests) if ledger in kept]
            assert sum(held) == coins
        self.intents = {name: intent for name, intent in self.intents.items() if name in account.orders}

    def bin(self, number: float) -> list[Any]:
        market = "KRW-BTC" if int(number) % 2 else "KRW-ETH"
        sizes = [10.0] * 5
        bids = [self.mid * (1 - 1e-5 * (i + 1)) for i in range(5)]
        asks = [self.mid * (1 + 1e-5 * (i + 1)) for i in range(5)]
        return [
            m.Features(
                exchange="upbit", market=market, bin_ms=self.now, grid_ms=1000, schema="s", source="x", session=1,
                n_bins=1, n_books=1, n_trades=0, mid=self.mid, spread=1.0, values=[], accumulators=[],
                levels=[*bids, *sizes, *asks, *sizes],
            ),
            m.Signal(
                id=f"{market}-{self.now}", exchange="upbit", market=market, bin_ms=self.now, horizon_ms=5000,
                schema="s", model_id="l", expected_bp=number, sigma_bp=1.0, mid=self.mid, is_licensed=True,
                feed="synthetic",
            ),
        ]  # fmt: skip

    def fill(self, intent: m.OrderIntent, share: Decimal, *, is_final: bool) -> m.OrderFilled:
        """Fill up to `share` of the order; the totals are cumulative."""
        price = Decimal(100_000) if intent.side == "buy" else Decimal(str(round(self.mid)))
        whole = intent.quantity if intent.quantity is not None else (intent.funds or Decimal(0)) / price
        quantity, funds, fee = self.done.get(intent.id, (Decimal(0), Decimal(0), Decimal(0)))
        more = max((whole * share).quantize(Decimal("0.00000001")) - quantity, Decimal(0))
        ledger = ledger_key(intent.strategy, m.key_of("upbit", intent.market))
        coins = self.coins.get(ledger, Decimal(0))
        if intent.side == "sell":
            more = min(more, coins)
        self.coins[ledger] = coins + more if intent.side == "buy" else coins - more
        totals = (quantity + more, funds + more * price, fee + more * price * Decimal("0.0005"))
        self.done[intent.id] = totals
        return m.OrderFilled(
            account=intent.account, pocket=intent.pocket, intent_id=intent.id, uuid="u", fill_id=str(totals[0]),
            exchange=intent.exchange, market=intent.market, side=intent.side, price=price, quantity=more,
            funds=more * price, fee=totals[2] - fee, executed_quantity=totals[0], executed_funds=totals[1],
            paid_fee=totals[2], is_final=is_final, event_ms=0,
        )  # fmt: skip

    def end(self, kind: str, intent: m.OrderIntent) -> m.OrderEvent:
        common: dict[str, Any] = {
            "account": intent.account, "pocket": intent.pocket, "intent_id": intent.id, "event_ms": self.now,
        }  # fmt: skip
        if kind == "cancelled":
            quantity, funds, fee = self.done.get(intent.id, (Decimal(0), Decimal(0), Decimal(0)))
            return m.OrderCancelled(
                **common, uuid="u", executed_quantity=quantity, executed_funds=funds, paid_fee=fee
            )  # fmt: skip
        if kind == "rejected":
            return m.OrderRejected(**common, attempt=1, text="", name="x")
        return m.OrderExpired(**common, attempt=1, text="")
