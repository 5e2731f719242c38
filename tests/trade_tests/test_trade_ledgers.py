from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import msgspec

from consumers.trade.fold import Fold, Output
from consumers.trade.reasons import Reason
from consumers.trade.state import Parameters, State, decode_account, encode, money_context
from streams import messages as m

KEY = "upbit:KRW-BTC"
T0 = 1_700_000_000_000
TWO = [
    m.StrategySettings(id="a", entry_funds=Decimal(6000)),
    m.StrategySettings(id="b", entry_funds=Decimal(7000), parameters={"threshold_percent": "0.3"}),
]


def lost(intent: m.OrderIntent) -> m.OrderUnknown:
    return m.OrderUnknown(
        account="paper", pocket="paper-main", intent_id=intent.id, attempt=1, identifier="i", text="", is_lost=True,
        event_ms=T0,
    )  # fmt: skip


def told_of(outputs: list[Output]) -> list[tuple[str, str]]:
    return [(one.strategy, one.reason) for one in outputs if isinstance(one, m.Veto)]


def test_the_first_strategy_takes_the_market_and_the_other_refuses(make: SimpleNamespace) -> None:
    fold = make.started(strategies=TWO)
    outputs = make.one_bin(fold, T0, 50.0, 20.0)
    intent = make.order_of(outputs)
    assert (intent.strategy, intent.funds) == ("a", Decimal(6000))
    assert told_of(outputs) == [("b", Reason.MARKET_TAKEN)]
    fold.take(make.filled(intent, "0.06", "100000", T0 + 700))
    assert list(fold.state.accounts["paper"].positions) == ["a|upbit:KRW-BTC"]
    assert told_of(make.one_bin(fold, T0 + 1000, 50.0, 20.0)) == [("a", Reason.POSITION_OPEN)]
    sale = make.order_of(fold.pulse(T0 + 5000))
    assert sale.strategy == "a"
    fold.take(make.filled(sale, "0.06", "100000", T0 + 5100))
    assert make.order_of(make.one_bin(fold, T0 + 6000, 50.0, 20.0)).strategy == "b"


def test_each_strategy_has_its_own_parameters_and_markets(make: SimpleNamespace) -> None:
    fold = make.started(strategies=TWO)
    assert told_of(make.one_bin(fold, T0, 17.0, 17.0)) == [("b", Reason.BELOW_COST)]
    fold = make.started(strategies=[m.StrategySettings(id="a", markets=["KRW-ETH"]), m.StrategySettings(id="b")])
    outputs = make.one_bin(fold, T0, 50.0, 50.0)
    assert told_of(outputs) == [("a", Reason.MARKET_NOT_CHOSEN)]
    assert make.order_of(outputs).strategy == "b"


def both(make: SimpleNamespace, **changes: Any) -> tuple[Fold, list[m.OrderIntent]]:
    fold = make.started(strategies=TWO, is_netting=True, **changes)
    intents = make.orders_of(make.one_bin(fold, T0, 50.0, 20.0))
    for intent, quantity in zip(intents, ("0.06", "0.07"), strict=True):
        fold.take(make.filled(intent, quantity, "100000", T0 + 700))
    return fold, intents


def test_with_netting_both_hold_the_market_in_ledgers_of_their_own(make: SimpleNamespace) -> None:
    fold, intents = both(make)
    assert [one.strategy for one in intents] == ["a", "b"]
    assert len({one.id for one in intents}) == 2
    assert len({one.cause_id for one in intents}) == 1
    account = fold.state.accounts["paper"]
    assert {key: one.quantity for key, one in account.positions.items()} == {
        f"a|{KEY}": Decimal("0.06"), f"b|{KEY}": Decimal("0.07"),
    }  # fmt: skip
    sales = make.orders_of(fold.take(make.features(T0 + 1000, 98_000.0)))
    assert [(one.strategy, one.quantity) for one in sales] == [("a", Decimal("0.06")), ("b", Decimal("0.07"))]
    fold.take(make.filled(sales[1], "0.07", "98000", T0 + 1100))
    assert list(account.positions) == [f"a|{KEY}"]
    assert not account.is_ledger_broken


def test_an_expectation_that_ends_both_gives_two_sales(make: SimpleNamespace) -> None:
    fold, _ = both(make)
    sales = make.orders_of(make.one_bin(fold, T0 + 1000, -5.0, -5.0))
    assert {one.cause_kind for one in sales} == {"expectation"}
    assert len({one.id for one in sales}) == 2


def test_an_accepted_ledger_is_shared_out_over_the_strategies(make: SimpleNamespace) -> None:
    fold, _ = both(make)
    account = fold.state.accounts["paper"]
    sales = make.orders_of(fold.pulse(T0 + 5000))
    fold.take(lost(sales[1]))
    assert account.is_ledger_broken
    held = {KEY: Decimal("0.05")}
    fold.take(m.LedgerAccepted(account="paper", holdings=held, event_ms=T0, by="t"))
    assert {key: one.quantity for key, one in account.positions.items()} == {f"a|{KEY}": Decimal("0.05")}
    fold.take(m.LedgerAccepted(account="paper", holdings={KEY: Decimal("0.06")}, event_ms=T0, by="t"))
    assert account.positions[f"a|{KEY}"].quantity == Decimal("0.06")
    assert not account.is_ledger_broken


def test_a_strategy_that_was_taken_away_leaves_by_the_exit_rules(make: SimpleNamespace) -> None:
    fold, _ = both(make)
    fold.take(make.settings(strategies=[TWO[0]], is_netting=True))
    assert [one.strategy for one in make.orders_of(fold.pulse(T0 + 5000))] == ["a", "b"]


def test_exits_of_a_strategy_come_before_those_of_the_account(make: SimpleNamespace) -> None:
    own = m.ExitRules(take_profit_percent=Decimal(1))
    fold = make.started(
        strategies=[m.StrategySettings(id="a", exits=own), m.StrategySettings(id="b")],
        is_netting=True, exits=m.ExitRules(take_profit_percent=Decimal(3)),
    )  # fmt: skip
    for intent in make.orders_of(make.one_bin(fold, T0, 50.0, 20.0)):
        fold.take(make.filled(intent, "0.06", "100000", T0 + 700))
    assert [one.strategy for one in make.orders_of(fold.take(make.features(T0 + 1000, 101_500.0)))] == ["a"]
    assert [one.strategy for one in make.orders_of(fold.take(make.features(T0 + 2000, 103_100.0)))] == ["b"]


def test_a_strategy_that_cannot_be_used_refuses_and_says_why(make: SimpleNamespace) -> None:
    wrong = [
        m.StrategySettings(id="x", kind="nobody"),
        m.StrategySettings(id="y", parameters={"threshold_percent": "much"}),
        m.StrategySettings(id="z", parameters={"thresh": "1"}),
        m.StrategySettings(id="a|b"),
        m.StrategySettings(id="ok"),
        m.StrategySettings(id="ok", kind="nobody"),
    ]
    fold = make.started(strategies=wrong)
    outputs = make.one_bin(fold, T0, 50.0, 20.0)
    assert told_of(outputs) == [(one.id, Reason.STRATEGY_UNUSABLE) for one in wrong[:4]]
    assert make.order_of(outputs).strategy == "ok"
    problems = fold.plans.problems(fold.state.accounts["paper"])
    assert ["nobody" in problems[0], "'y'" in problems[1], "thresh" in problems[2], "|" in problems[3]] == [True] * 4
    assert len(problems) == 4


def test_the_largest_number_of_positions_counts_ledgers(make: SimpleNamespace) -> None:
    fold = make.started(strategies=TWO, is_netting=True, maximum_positions=1)
    outputs = make.one_bin(fold, T0, 50.0, 20.0)
    assert make.order_of(outputs).strategy == "a"
    assert told_of(outputs) == [("b", Reason.MAXIMUM_POSITIONS)]


def test_ledgers_come_back_from_a_snapshot(make: SimpleNamespace) -> None:
    fold, _ = both(make)
    back = Fold(Parameters(), money_context(), state=msgspec.json.decode(encode(fold.state), type=State))
    assert encode(back.state) == encode(fold.state)
    for one in (fold, back):
        sales = make.orders_of(one.pulse(T0 + 5000))
        assert [sale.strategy for sale in sales] == ["a", "b"]


OLD_STATE = b"""{"settings":{"type":"account-settings","account":"paper","pocket":"paper-main","venue":"paper",
"is_trading":true,"budget":"1000000","entry_funds":"6000","threshold_percent":"0.05","fee_percent":"0.05",
"stop_percent":"1.5","hysteresis_percent":"0","horizons_ms":[5000,10000],"markets":[],"maximum_positions":10,
"cooldown_ms":10000,"event_ms":0},"is_trading":true,"halt":"","positions":{"upbit:KRW-BTC":{"exchange":"upbit",
"market":"KRW-BTC","entry_intent":"i1","opened_ms":1700000000000,"due_ms":1700000005000,"horizon_ms":5000,
"quantity":"0.06","funds":"6000.00","cost":"6003.0000","bought":"0.06","sold":"0","exit":null}},"orders":{"i1":
{"intent_id":"i1","exchange":"upbit","market":"KRW-BTC","side":"buy","purpose":"entry","reserved":"6003.00",
"due_ms":1700000005000,"horizon_ms":5000,"signal_id":"s","event_ms":1700000000000,"state":"filled",
"executed_quantity":"0.06","executed_funds":"6000.00","paid_fee":"3.0000","exits":0,"was_in_doubt":false,
"is_lost":false,"ended_ms":1700000000000}},"rests":{},"closed_ms":{},"decided":{"upbit:KRW-BTC":1700000000000},
"reasons":{},"realised":"0","paid_fees":"3.0000","is_ledger_broken":false,"paused":"","day":{"day":"2023-11-15",
"forecasts":2,"entries":1,"exits":0,"refusals":{},"best_expected_bp":50.0,"best_needed_bp":16.0,
"best_market":"KRW-BTC"}}"""


def test_a_state_from_before_strategies_is_read_and_goes_on(make: SimpleNamespace) -> None:
    account = decode_account(OLD_STATE)
    assert account.settings == make.settings()
    fold = Fold(Parameters(), money_context())
    fold.state.accounts["paper"] = account
    sale = make.order_of(fold.pulse(T0 + 5000))
    assert (sale.strategy, sale.quantity, sale.cause_id) == ("", Decimal("0.06"), "i1")
    assert sale.id == m.intent_id("paper", "time-stop", "i1", "exit")


# --- a person's own orders ----------------------------------------------------------------------------------------


def by_hand(make: SimpleNamespace, **changes: Any) -> m.OrderFilled:
    intent = SimpleNamespace(
        id=changes.pop("id", "hand"), account="paper", pocket="paper-main", exchange="upbit", market="KRW-BTC",
        side=changes.pop("side", "buy"),
    )  # fmt: skip
    fill: m.OrderFilled = make.filled(intent, "0.01", "100000", T0, purpose="manual", **changes)
    return fill


def test_a_persons_orders_count_as_exposure_and_touch_no_ledger(make: SimpleNamespace) -> None:
    fold = make.started()
    make.entered(fold, T0)
    account = fold.state.accounts["paper"]
    free = account.free
    for _ in range(2):
        assert fold.take(by_hand(make)) == []
    assert (account.exposure(), account.exposure(KEY)) == (Decimal("7003.5"), Decimal("7003.5"))
    assert account.exposure("upbit:KRW-ETH") == 0
    assert (account.positions[KEY].quantity, account.free) == (Decimal("0.06"), free)
    fold.take(by_hand(make, id="sale", side="sell"))
    fold.take(by_hand(make, id="of coins from elsewhere", side="sell"))
    assert (account.exposure(), account.manual, account.is_ledger_broken) == (Decimal(6003), {}, False)
    assert make.order_of(fold.pulse(T0 + 5000)).quantity == Decimal("0.06")
    assert account.realised == 0


def test_a_part_sold_by_hand_takes_its_share_and_ended_orders_are_forgotten(make: SimpleNamespace) -> None:
    fold = make.started()
    fold.pulse(T0)
    account = fold.state.accounts["paper"]
    make.feed(fold, [by_hand(make), by_hand(make, id="part", side="sell", executed_quantity=Decimal("0.004"))])
    assert account.manual[KEY].quantity == Decimal("0.006")
    assert account.manual[KEY].cost == Decimal("600.3")
    fold.take(by_hand(make, id="open", is_final=False))
    assert set(account.manual_orders) == {"hand", "part", "open"}
    fold.pulse(T0 + 3_600_000)
    fold.take(make.ended("rejected", make.order_of(make.one_bin(fold, T0 + 3_600_000, 50.0, 20.0)), T0))
    assert set(account.manual_orders) == {"open"}
    gone = SimpleNamespace(id="open", account="paper", pocket="paper-main")
    fold.take(make.ended("cancelled", gone, T0))
    assert account.manual_orders["open"].is_ended
    assert account.exposure() > Decimal(600)


def test_a_pause_ends_by_a_persons_word(make: SimpleNamespace) -> None:
    fold = make.started()
    fold.take(m.AccountPaused(account="paper", pocket="paper-main", reason="foreign-order", text="", event_ms=T0))
    assert make.reasons_of(make.one_bin(fold, T0, 50.0, 20.0)) == [Reason.PAUSED]
    fold.take(m.AccountResumed(account="paper", event_ms=T0, by="t"))
    assert make.order_of(make.one_bin(fold, T0 + 1000, 50.0, 20.0)).purpose == "entry"
