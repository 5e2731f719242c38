"""The limits of an entry, one by one, through the fold."""

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from consumers.trade import risk
from consumers.trade.fold import Fold
from consumers.trade.reasons import Reason
from consumers.trade.replay import Shard
from consumers.trade.runner import Trader
from consumers.trade.state import Parameters, decode_account, decode_shared, encode, money_context
from infra.log import TopicSpec
from infra.memory_log import MemoryLog
from streams import messages as m
from streams import topics
from streams.market import kernels

KEY = "upbit:KRW-BTC"
T0 = 1_700_000_000_000
TRADED = [0.0] * 27


def limited(**limits: Any) -> m.RiskLimits:
    return m.RiskLimits(**{name: Decimal(str(value)) for name, value in limits.items()})


def traded(funds: float) -> list[float | None]:
    numbers: list[float | None] = [*TRADED]
    numbers[risk.BOUGHT_FUNDS] = funds
    return numbers


def test_where_a_bins_turnover_stands_in_its_row() -> None:
    length = kernels.ROW - kernels.TRADES
    assert kernels.BOUGHT_FUNDS - kernels.TRADES - length == risk.BOUGHT_FUNDS
    assert kernels.SOLD_FUNDS - kernels.TRADES - length == risk.SOLD_FUNDS


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (limited(order_funds=5999), Reason.ORDER_FUNDS),
        (limited(market_exposure=6002), Reason.MARKET_EXPOSURE),
        (limited(exposure=6002), Reason.EXPOSURE),
        (m.RiskLimits(orders_per_day=0), Reason.ORDERS_PER_DAY),
        (limited(market_share_percent=10), Reason.MARKET_SHARE),
        (limited(order_funds=6000, market_exposure=6003, exposure=6003), ""),
    ],
)
def test_each_limit_refuses_at_its_edge(make: SimpleNamespace, limits: m.RiskLimits, reason: str) -> None:
    outputs = make.one_bin(make.started(limits=limits), T0, 50.0, 20.0)
    assert make.reasons_of(outputs) == ([reason] if reason else [])


def test_the_markets_largest_order_and_its_end(make: SimpleNamespace) -> None:
    for changes, reason in (
        ({"maximum_total": Decimal(5999)}, Reason.ABOVE_MAXIMUM),
        ({"is_delisted": True}, Reason.DELISTED),
        ({"delisting_ms": T0 + 30 * 86_400_000}, Reason.DELISTED),
        ({"is_warning": True}, Reason.CAUTION),
    ):
        fold = make.started(make.market(**changes))
        assert make.reasons_of(make.one_bin(fold, T0, 50.0, 20.0)) == [reason]


def test_a_limit_price_must_stand_near_the_book(make: SimpleNamespace) -> None:
    fold = make.started(make.features(T0), limits=limited(price_band_percent=1))
    account = fold.state.accounts["paper"]

    def refused(price: int) -> bool:
        wanted = risk.Wanted("upbit", "KRW-BTC", Decimal(6000), T0, Decimal(price))
        return risk.refusal(account, wanted, fold.crowd, fold.parameters) == Reason.PRICE_BAND

    assert [refused(price) for price in (98_999, 99_000, 101_000, 101_001)] == [True, False, False, True]


def test_losses_stop_entries_until_the_day_is_over_and_a_drawdown_for_good(make: SimpleNamespace) -> None:
    for limits, is_over in ((limited(daily_loss=100), True), (limited(drawdown=100), False)):
        fold = make.started(limits=limits, stop_percent=Decimal(15), cooldown_ms=0, horizons_ms=[5000])
        entry = make.order_of(make.one_bin(fold, T0, 50.0))
        fold.take(make.filled(entry, "0.06", "100000", T0 + 100))
        leave = make.order_of(fold.pulse(T0 + 60_000))
        fold.take(make.filled(leave, "0.06", "98300", T0 + 60_100))
        reason = Reason.DAILY_LOSS if is_over else Reason.DRAWDOWN
        assert make.reasons_of(make.one_bin(fold, T0 + 61_000, 50.0)) == [reason]
        outputs = make.one_bin(fold, T0 + 86_400_000, 50.0)
        assert bool(make.orders_of(outputs)) is is_over


def test_unrealised_loss_counts_too(make: SimpleNamespace) -> None:
    fold = make.started(
        limits=limited(daily_loss=100), stop_percent=Decimal(15), maximum_positions=5, horizons_ms=[5000]
    )
    make.feed(fold, [make.features(T0), make.signal(T0)])
    entry = next(iter(fold.state.accounts["paper"].orders.values()))
    fold.take(m.OrderFilled(**_fill(entry.intent_id, T0)))
    make.feed(fold, [make.features(T0 + 1000, 98_300.0)])
    other = {"market": "KRW-ETH"}
    outputs = make.feed(fold, [make.features(T0 + 1000, **other), make.signal(T0 + 1000, **other)])
    assert make.reasons_of(outputs) == [Reason.DAILY_LOSS]


def _fill(intent_id: str, event_ms: int) -> dict[str, Any]:
    return {
        "account": "paper", "pocket": "paper-main", "intent_id": intent_id, "uuid": "u", "fill_id": "f",
        "exchange": "upbit", "market": "KRW-BTC", "side": "buy", "price": Decimal(100_000),
        "quantity": Decimal("0.06"), "funds": Decimal(6000), "fee": Decimal(3), "executed_quantity": Decimal("0.06"),
        "executed_funds": Decimal(6000), "paid_fee": Decimal(3), "is_final": True, "event_ms": event_ms,
    }  # fmt: skip


def test_too_many_cancelled_orders_stop_entries_from_the_twentieth_on(make: SimpleNamespace) -> None:
    fold = make.started(limits=m.RiskLimits(cancel_ratio=0.5), cooldown_ms=0, horizons_ms=[5000])
    for number in range(20):
        entry = make.order_of(make.one_bin(fold, T0 + number * 1000, 50.0))
        fold.take(make.ended("cancelled", entry, T0 + number * 1000 + 500))
    assert make.reasons_of(make.one_bin(fold, T0 + 20_000, 50.0)) == [Reason.CANCEL_RATIO]


def test_our_share_of_a_minute_is_of_what_traded_in_it(make: SimpleNamespace) -> None:
    fold = make.started(limits=limited(market_share_percent=10), horizons_ms=[5000])
    make.feed(fold, [make.features(T0, accumulators=traded(60_000.0))])
    assert make.order_of(make.one_bin(fold, T0 + 50_000, 50.0)).funds == 6000
    late = make.started(limits=limited(market_share_percent=10), horizons_ms=[5000])
    make.feed(late, [make.features(T0, accumulators=traded(60_000.0))])
    assert make.reasons_of(make.one_bin(late, T0 + 60_000, 50.0)) == [Reason.MARKET_SHARE]


@pytest.mark.parametrize(("user", "is_refused"), [("kim", True), ("lee", False), ("", False)])
@pytest.mark.parametrize("comes", ["before", "after", "changes"])
def test_nobody_buys_from_their_own_resting_order(
    make: SimpleNamespace, user: str, comes: str, *, is_refused: bool
) -> None:
    """Whether the second account is there before the order rests, comes later, or becomes that person's later."""
    rules = m.ExitRules(take_profit_percent=Decimal("0.02"), is_take_profit_resting=True)
    fold = make.started(make.market(tick="10"), horizons_ms=[5000], exits=rules, user="kim")
    entry = make.order_of(make.one_bin(fold, T0, 50.0))
    fold.take(make.filled(entry, "0.06", "100000", T0 + 100))
    if comes != "after":
        earlier = user if comes == "before" else "park"
        fold.take(make.settings(account="second", pocket="p2", horizons_ms=[5000], user=earlier, is_trading=False))
        assert list(fold.crowd.resting_sells(fold.state.accounts["second"], "upbit:KRW-BTC")) == []
    resting = make.order_of(make.feed(fold, [make.features(T0 + 1000)]))
    assert resting.price == 100_020
    if comes == "before":
        fold.take(m.TradingStarted(account="second", event_ms=T0 + 1500, by="t"))
    else:
        fold.take(make.settings(account="second", pocket="p2", horizons_ms=[5000], user=user))
    outputs = [one for one in make.one_bin(fold, T0 + 2000, 50.0) if one.account == "second"]
    assert make.reasons_of(outputs) == ([Reason.OWN_ORDER] if is_refused else [])


def crowded(make: SimpleNamespace, count: int, **parameters: Any) -> Fold:
    fold = Fold(Parameters(**parameters), money_context())
    for number in range(count):
        fold.take(make.settings(account=f"a{number}", pocket=f"p{number}", horizons_ms=[5000], cooldown_ms=0))
    return fold


def test_many_accounts_take_turns_and_everybody_has_one(make: SimpleNamespace) -> None:
    fold = crowded(make, 40, turn_accounts=10, capacity_percent=Decimal(100))
    entered: list[set[str]] = []
    for second in range(4):
        orders = make.orders_of(make.one_bin(fold, T0 + second * 1000, 50.0))
        entered.append({order.account for order in orders})
        for order in orders:
            fold.take(make.ended("rejected", order, T0 + second * 1000 + 1))
    assert all(entered)
    assert sum(map(len, entered)) == len(set().union(*entered)) == 40


def test_accounts_share_what_the_book_can_bear_and_nobody_is_always_first(make: SimpleNamespace) -> None:
    fold = crowded(make, 4, capacity_percent=Decimal("0.3"))  # of 5 million
    first: set[str] = set()
    for second in range(24):
        outputs = make.one_bin(fold, T0 + second * 1000, 50.0)
        orders = make.orders_of(outputs)
        assert sum(order.funds * Decimal("1.0005") for order in orders) <= Decimal("0.003") * 5_002_000
        first.add(orders[0].account)
        for order in orders:
            fold.take(make.ended("rejected", order, T0 + second * 1000 + 1))
    assert len(orders) == 2
    assert first == {"a0", "a1", "a2", "a3"}
    assert fold.state.accounts["a0"].day.refusals.get(Reason.CAPACITY, 0) > 0


def test_protective_exits_pass_every_limit(make: SimpleNamespace) -> None:
    fold = make.started(horizons_ms=[5000])
    entry = make.order_of(make.one_bin(fold, T0, 50.0))
    fold.take(make.filled(entry, "0.06", "100000", T0 + 100))
    nothing = m.RiskLimits(
        order_funds=Decimal(0), market_exposure=Decimal(0), exposure=Decimal(0), orders_per_day=0,
        daily_loss=Decimal(0), drawdown=Decimal(0), market_share_percent=Decimal(0),
    )  # fmt: skip
    fold.take(make.settings(horizons_ms=[5000], limits=nothing))
    fold.take(make.market(is_delisted=True, is_warning=True))
    outputs = make.feed(fold, [make.features(T0 + 1000, 90_000.0)])
    assert make.order_of(outputs).purpose == "protective-exit"


def test_what_limits_are_measured_from_survives_and_older_states_can_be_read(make: SimpleNamespace) -> None:
    fold = make.started(horizons_ms=[5000])
    entry = make.order_of(make.one_bin(fold, T0, 50.0))
    fold.take(make.filled(entry, "0.06", "100000", T0 + 100))
    make.feed(fold, [make.features(T0 + 1000, 110_000.0, accumulators=traded(7.0))])
    fold.pulse(T0 + 1500)
    account = fold.state.accounts["paper"]
    assert account.peak == Decimal("0.06") * Decimal("109995.0") - 6003
    assert (account.day.orders, account.day.start) == (1, 0)
    again = decode_account(encode(account))
    assert (again.peak, again.day.orders, again.day.start) == (account.peak, 1, 0)
    assert decode_shared(encode(fold.state.shared)).turnovers[KEY].sums == [7.0]
    old = encode(account).replace(b'"peak":', b'"peak_of_old":').replace(b'"start":', b'"start_of_old":')
    assert decode_account(old).peak is None


def test_a_restart_makes_no_entry_that_another_account_had_prevented(make: SimpleNamespace) -> None:
    """The one who entered is stored with its entry, the refused one is older: folded again, it must be refused."""
    now = [T0]
    log = MemoryLog(clock_ms=lambda: now[0])
    log.create_topics([TopicSpec(t.name, t.partitions, t.config) for t in topics.TOPICS.values()])
    publisher = log.publisher()
    for name in ("a", "b", "c"):
        account = make.settings(account=name, pocket=f"p-{name}", horizons_ms=[5000])
        publisher.publish("controls", name, m.encode(account))
    parameters = Parameters(capacity_percent=Decimal("0.15"))
    trader = Trader(log, Shard(), parameters)
    trader.step(now[0], 0.0)
    trader.commit(now[0])
    for message, topic in ((make.features(T0), "features"), (make.signal(T0, 5000), "signals")):
        publisher.publish(topic, KEY, m.encode(message))
    now[0] += 10
    trader.step(now[0], 0.0)
    orders = {name: len(one.orders) for name, one in trader.fold.state.accounts.items()}
    assert sorted(orders.values()) == [0, 0, 1]
    restored = Trader(log, Shard(), parameters)
    assert {name: len(one.orders) for name, one in restored.fold.state.accounts.items()} == orders
