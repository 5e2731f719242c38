"""The executor's own limits over a real journal, and what an exit may sell."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from consumers.execute import events
from consumers.execute.account_book import AccountBook
from consumers.execute.journal import Journal
from consumers.execute.limits import RiskGate, RiskLimits, sellable
from consumers.execute.venue import Execution
from infra.log import Record
from streams import messages as m

DAY_MS = 86_400_000
NOON_MS = 1_763_694_000_000  # 12:00 in Korea


class World:
    """A journal, its gate and two clocks."""

    def __init__(self, place: Path | str, **limits: Any) -> None:
        self.now_ms = NOON_MS
        self.journal = Journal(place)
        self.limits = RiskLimits(**limits)
        self.gate = self.new_gate()
        self.count = 0

    def new_gate(self) -> RiskGate:
        return RiskGate(self.limits, lambda: self.now_ms / 1000, AccountBook(self.journal, lambda: self.now_ms))

    def settings(self, **limits: Any) -> None:
        self.gate.take_account(
            m.AccountSettings(
                account="a", pocket="p", venue="paper", is_trading=True, budget=Decimal(limits.pop("budget", 10**9)),
                entry_funds=Decimal(6000), threshold_percent=Decimal(0), fee_percent=Decimal("0.05"),
                stop_percent=Decimal(1), hysteresis_percent=Decimal(0), horizons_ms=[5000], markets=[],
                limits=m.RiskLimits(**limits),
            )
        )  # fmt: skip

    def intent(self, funds: int | None = 6000, **values: Any) -> m.OrderIntent:
        self.count += 1
        fields: dict[str, Any] = {
            "id": f"i{self.count}", "account": "a", "pocket": "p", "exchange": "upbit", "market": "KRW-BTC",
            "side": "buy", "order_type": "price", "price": None, "quantity": None,
            "funds": None if funds is None else Decimal(funds),
            "time_in_force": "", "purpose": "entry", "cause_kind": "signal", "cause_id": "c", "event_ms": 1,
            "expires_ms": 2, "reason": "",
        }  # fmt: skip
        intent = m.OrderIntent(**(fields | values))
        self.journal.add_intent(intent, Record("order-intents", 0, self.count, self.now_ms, "p", b""))
        return intent

    def ask(self, intent: m.OrderIntent) -> str:
        refusal = self.gate.refusal(intent)
        return "" if refusal is None else refusal.name

    def send(self, intent: m.OrderIntent) -> None:
        name = f"{intent.id}-1"
        self.journal.begin_attempt(intent.id, 1, name, events.sent(intent, 1, name, 1), self.now_ms)

    def fill(self, intent: m.OrderIntent, quantity: str, price: str, state: str = "DONE") -> None:
        attempt = self.journal.attempt(f"{intent.id}-1")
        assert attempt is not None
        funds = Decimal(quantity) * Decimal(price)
        execution = Execution(f"f-{intent.id}", Decimal(price), Decimal(quantity), funds)
        with self.journal.transaction():
            self.journal.add_fill(attempt, "u", execution, funds * Decimal("0.0005"))
            self.journal.set_totals(attempt.identifier, Decimal(quantity), funds, funds * Decimal("0.0005"))
            self.journal.settle(attempt, attempt_state=state, intent_state=state, uuid="u")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "execution.sqlite")
    yield world
    world.journal.close()


@pytest.fixture(params=["sqlite", "postgres"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """On both databases, where their statements matter."""
    is_file = request.param == "sqlite"
    world = World(tmp_path / "execution.sqlite" if is_file else request.getfixturevalue("empty_postgres").address)
    yield world
    world.journal.close()


def market(**values: Any) -> m.Market:
    fields: dict[str, Any] = {
        "exchange": "upbit", "market": "KRW-BTC", "event_ms": 0, "tick_size": Decimal(1),
        "minimum_total": Decimal(5000), "maximum_total": Decimal(10**9),
    }  # fmt: skip
    return m.Market(**(fields | values))


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"minimum_total": Decimal(7000)}, "under-minimum"),
        ({"maximum_total": Decimal(5500)}, "over-market-maximum"),
        ({"is_caution": True}, "caution"),
        ({"is_warning": True}, "caution"),
        ({"is_delisted": True}, "delisted"),
        ({"delisting_ms": 1_900_000_000_000}, "delisted"),
        ({}, ""),
    ],
)
def test_what_the_exchange_says_of_the_market(world: World, values: dict[str, Any], name: str) -> None:
    world.gate.take_market(market(**values))
    assert world.ask(world.intent()) == name


def test_a_person_may_buy_what_the_exchange_warns_of_but_not_what_is_delisted(world: World) -> None:
    world.gate.take_market(market(is_caution=True))
    assert world.ask(world.intent(purpose="manual")) == ""
    world.gate.take_market(market(delisting_ms=1_900_000_000_000))
    assert world.ask(world.intent(purpose="manual")) == ""
    world.gate.take_market(market(is_delisted=True))
    assert world.ask(world.intent(purpose="manual")) == "delisted"
    assert world.ask(world.intent(side="sell", funds=None, quantity=Decimal(9000), purpose="manual")) == ""


def test_the_price_band_stands_on_the_side_that_costs_money_while_the_price_is_fresh(world: World) -> None:
    def ask(side: str, price: str) -> str:
        return world.ask(
            world.intent(side=side, order_type="limit", price=Decimal(price), funds=None, quantity=Decimal(60))
        )

    assert ask("buy", "300") == ""
    world.gate.take_price("KRW-BTC", Decimal(100))
    assert (ask("buy", "110"), ask("buy", "110.1"), ask("buy", "10")) == ("", "price-band", "")
    assert (ask("sell", "90"), ask("sell", "89.9"), ask("sell", "900")) == ("", "price-band", "")
    world.now_ms += 60_000
    assert ask("buy", "300") == ""


def test_exposure_counts_what_is_held_what_is_open_and_what_waits_before(either: World) -> None:
    either.settings(market_exposure=Decimal(20_000), exposure=Decimal(40_000))
    first = either.intent()
    assert either.ask(first) == ""
    either.send(first)
    either.fill(first, "1", "6000")  # 6,003 held
    second = either.intent()
    waits = either.intent()
    assert either.ask(second) == ""
    either.send(second)  # 6,003 open
    assert either.ask(waits) == ""  # 18,009 with it
    assert either.ask(either.intent()) == "over-market-exposure"
    assert either.ask(either.intent(market="KRW-ETH")) == ""
    assert either.ask(either.intent(12_000, market="KRW-XRP")) == "over-exposure"
    leave = either.intent(side="sell", funds=None, quantity=Decimal(1), purpose="exit")
    either.send(leave)
    either.fill(leave, "1", "5000")
    assert either.ask(waits) == ""


def test_the_budget_is_that_of_strategies_alone(either: World) -> None:
    either.settings(budget=13_000)
    by_hand = either.intent(9000, purpose="manual")
    either.send(by_hand)
    either.fill(by_hand, "1", "9000")
    first = either.intent()
    assert either.ask(first) == ""
    either.send(first)
    either.fill(first, "1", "6000")
    assert either.ask(either.intent()) == ""
    assert either.ask(either.intent(8000)) == "over-budget"
    assert either.ask(either.intent(8000, purpose="manual")) == ""


def test_losses_are_measured_over_restarts_and_a_new_day_begins_anew(either: World) -> None:
    either.settings(daily_loss=Decimal(100))
    first = either.intent()
    assert either.ask(first) == ""
    either.send(first)
    either.fill(first, "1", "6000")
    either.gate.take_price("KRW-BTC", Decimal(5904))
    assert either.ask(either.intent()) == ""  # 99 lost, the fee among them
    either.gate.take_price("KRW-BTC", Decimal(5903))
    assert either.ask(either.intent()) == "daily-loss"
    either.gate = either.new_gate()
    either.gate.take_price("KRW-BTC", Decimal(5903))
    assert either.ask(either.intent()) == "daily-loss"
    either.now_ms += DAY_MS
    assert either.ask(either.intent()) == ""


def test_the_drawdown_does_not_begin_anew(world: World) -> None:
    world.settings(drawdown=Decimal(100))
    first = world.intent()
    world.ask(first)
    world.send(first)
    world.fill(first, "1", "6000")
    world.gate.take_price("KRW-BTC", Decimal(5000))
    assert world.ask(world.intent()) == "drawdown"
    world.now_ms += DAY_MS
    assert world.ask(world.intent()) == "drawdown"


def test_orders_of_the_day_count_over_restarts(tmp_path: Path) -> None:
    world = World(tmp_path / "execution.sqlite", orders_per_day=2)
    for _ in range(2):
        intent = world.intent()
        assert world.ask(intent) == ""
        world.send(intent)
    world.gate = world.new_gate()
    assert world.ask(world.intent()) == "too-many-today"
    world.now_ms += DAY_MS
    assert world.ask(world.intent()) == ""
    world.journal.close()


def test_an_accounts_own_limits_hold_over_restarts_and_never_loosen_the_deployments(either: World) -> None:
    either.settings(order_funds=Decimal(5500))
    either.gate = either.new_gate()
    assert either.ask(either.intent()) == "over-maximum"
    either.settings(order_funds=Decimal(10**9))
    assert either.ask(either.intent(2_000_000)) == "over-maximum"


def test_nothing_that_was_not_bought_is_sold() -> None:
    assert sellable(Decimal(5), Decimal(2), Decimal(1)) == 2
    assert sellable(Decimal(5), Decimal(5), Decimal(1)) == 0


def test_a_persons_orders_have_a_ledger_apart(world: World) -> None:
    entry = world.intent()
    world.send(entry)
    world.fill(entry, "1", "6000")
    by_hand = world.intent(side="sell", funds=None, quantity=Decimal(5), purpose="manual")
    world.send(by_hand)
    world.fill(by_hand, "5", "6000")  # coins that were there before
    leave = world.intent(side="sell", funds=None, quantity=Decimal(1), purpose="exit")
    assert sellable(*world.journal.held(leave)) == 1
