"""What `sell-all` does with a sale that is refused: on a real journal, with a clock that the test moves."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from consumers.execute import events
from consumers.execute.clock import MarketClock
from consumers.execute.desk_parts import Task
from consumers.execute.halts import HaltGate
from consumers.execute.halts_file import Standing
from consumers.execute.halts_keeper import HaltKeeper
from consumers.execute.halts_settle import LONGEST_S, PATIENCE_S, HaltSettler
from consumers.execute.journal import Journal
from consumers.execute.venue import Execution
from infra.log import Record
from streams import messages as m

NOW = 1_700_000_000_000
HELD = Decimal("0.5")


def intent(name: str, **values: Any) -> m.OrderIntent:
    fields: dict[str, Any] = {
        "id": name, "account": "a", "pocket": "p", "exchange": "upbit", "market": "KRW-BTC", "side": "buy",
        "order_type": "price", "price": None, "quantity": None, "funds": Decimal(10000), "time_in_force": "",
        "purpose": "entry", "cause_kind": "signal", "cause_id": name, "event_ms": NOW, "expires_ms": NOW + 60_000,
        "reason": "test",
    }  # fmt: skip
    return m.OrderIntent(**(fields | values))


class Life:
    """One life of the settler, on whatever the journal holds; the clock goes on over lives."""

    def __init__(self, home: Path, at_s: float = 1000.0) -> None:
        self.at_s = at_s
        self.tasks: list[Task] = []
        self.journal = Journal(home / "execution.sqlite")
        self.gate = HaltGate()
        self.keeper = HaltKeeper(home, self.gate)
        self.keeper.attach(self.journal)
        clock = MarketClock(lambda: self.at_s, lambda: NOW, 1.0)
        clock.observe(NOW, NOW)
        self.settler = HaltSettler(self.journal, self.gate, self.keeper, clock, self.tasks.append, lambda: self.at_s)

    def end(self) -> None:
        self.keeper.close()
        self.journal.close()

    def buy(self) -> None:
        one = intent("bought")
        self.journal.add_intent(one, Record("order-intents", 0, 0, NOW, one.account, b""))
        self.journal.begin_attempt(one.id, 1, "ob-1", events.sent(one, 1, "ob-1", NOW), NOW)
        attempt = self.journal.attempt("ob-1")
        assert attempt is not None
        self.journal.add_fill(attempt, "u", Execution("t", Decimal(20000), HELD, Decimal(10000)), Decimal(5))
        self.journal.settle(attempt, attempt_state="DONE", intent_state="DONE", uuid="u")

    def halt(self) -> None:
        with self.journal.transaction():
            self.keeper.take(m.Halt(account="a", kind="sell-all", event_ms=NOW, by="test"), self.journal)

    def step(self, later_s: float = 0.0) -> Standing:
        self.at_s += later_s
        self.settler.step()
        standing = self.keeper.standing("a")
        assert standing is not None
        return standing

    def sales(self) -> list[str]:
        """What was ordered since the last time this was asked."""
        found = [task.id for task in self.tasks if task.kind == "send"]
        self.tasks.clear()
        return found

    def refuse(self, name: str) -> None:
        """The sale that was ordered now is refused."""
        (sale,) = self.sales()
        row = self.journal.intent(sale)
        assert row is not None
        assert row.intent.quantity == HELD
        self.journal.end_intent(sale, "REJECTED", events.rejected(row.intent, 0, name, "test", NOW))


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    life = Life(tmp_path)
    life.buy()
    life.halt()
    assert not life.step().is_settled
    assert not life.sales(), "trade has its time first"
    yield life
    life.end()


@pytest.mark.parametrize("name", ["no-key", "key-refused", "insufficient_funds_ask", "not-ours"])
def test_a_sale_refused_for_a_passing_reason_comes_again_and_nothing_is_settled_before(life: Life, name: str) -> None:
    standing = life.step(PATIENCE_S)
    pause_s = PATIENCE_S
    for _ in range(6):
        life.refuse(name)
        standing = life.step(pause_s - 0.1)
        assert not life.sales(), "it was not due yet"
        assert (standing.is_settled, standing.unsold) == (False, 1)
        assert name in standing.text
        standing = life.step(0.1)
        pause_s = min(pause_s * 2, LONGEST_S)
    assert pause_s == LONGEST_S
    assert not standing.is_settled
    assert len(life.sales()) == 1


@pytest.mark.parametrize("name", ["under_min_total_ask", "nothing-there"])
def test_what_can_never_be_sold_is_tried_once_named_and_settled(life: Life, tmp_path: Path, name: str) -> None:
    life.step(PATIENCE_S)
    life.refuse(name)
    for _ in range(3):
        standing = life.step(LONGEST_S)
        assert (standing.is_settled, standing.unsold) == (True, 0)
        assert "could not be sold" in standing.text
    assert not life.sales()
    life.end()
    again = Life(tmp_path, life.at_s)
    for _ in range(3):
        standing = again.step(LONGEST_S)
    assert standing.is_settled
    assert not again.sales(), "the journal knows it over a restart"
    life.journal, life.keeper = again.journal, again.keeper


def test_a_restart_goes_on_with_the_next_sale(life: Life, tmp_path: Path) -> None:
    life.step(PATIENCE_S)
    life.refuse("no-key")
    life.end()
    again = Life(tmp_path, life.at_s)
    assert not again.step().is_settled
    again.step(PATIENCE_S)
    again.refuse("no-key")
    life.journal, life.keeper = again.journal, again.keeper
