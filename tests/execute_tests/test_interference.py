"""Somebody else's hand: what is only shown, what stops an account, and what an exit may still sell."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consumers.execute import events
from consumers.execute.interference import Ledger, Stake, at_most, check, ended_elsewhere, pauses
from consumers.execute.interference_watch import Watch, note_end, paused_of, resume
from consumers.execute.journal import Journal
from consumers.execute.venue import Execution, Holding, Order
from infra.log import Record
from streams import messages as m

ZERO = Decimal(0)


def coins(quantity: str, currency: str = "BTC") -> Holding:
    return Holding(currency, Decimal(quantity), ZERO, ZERO)


def order(identifier: str = "", state: str = "wait", **values: Any) -> Order:
    fields: dict[str, Any] = {
        "uuid": f"u-{identifier}", "identifier": identifier, "market": "KRW-BTC", "order_type": "limit",
        "state": state, "price": Decimal(100), "quantity": Decimal(1), "executed_quantity": ZERO, "paid_fee": ZERO,
    }  # fmt: skip
    return Order(**(fields | values))


def intent(name: str = "i1", **values: Any) -> m.OrderIntent:
    fields: dict[str, Any] = {
        "id": name, "account": "a", "pocket": "p", "exchange": "upbit", "market": "KRW-BTC", "side": "sell",
        "order_type": "limit", "price": Decimal(100), "quantity": Decimal(1), "funds": None, "time_in_force": "",
        "purpose": "exit", "cause_kind": "take-profit", "cause_id": "c", "event_ms": 1, "expires_ms": 2, "reason": "",
    }  # fmt: skip
    return m.OrderIntent(**(fields | values))


def ledger(*stakes: Stake, **beside: str) -> Ledger:
    known = {currency: Decimal(quantity) for currency, quantity in beside.items()}
    return Ledger(stakes, frozenset({"ob-i1-1"}), "ob", known)


def kinds(holdings: Sequence[Holding], known: Ledger, orders: Sequence[Order] = ()) -> list[tuple[str, str]]:
    return [(finding.kind, finding.account) for finding in check(holdings, orders, known)]


OURS = Stake("a", "KRW-BTC", Decimal(2))


@pytest.mark.parametrize(
    ("quantity", "known", "found"),
    [
        ("2", ledger(OURS), []),
        ("5", ledger(OURS), [("external-coins", "")]),
        ("5", ledger(OURS, BTC="3"), []),
        ("1.9", ledger(OURS), [("coins-missing", "a")]),
        ("4", ledger(OURS, BTC="3"), [("external-coins", ""), ("coins-moved", "a")]),
        ("6", ledger(OURS, BTC="3"), [("external-coins", ""), ("coins-moved", "a")]),
        ("1", ledger(OURS, BTC="3"), [("coins-missing", "a")]),
        ("1", ledger(OURS, BTC="-1"), []),
        ("1.9", ledger(OURS._replace(is_moving=True)), []),
        ("4", ledger(OURS._replace(held=ZERO), BTC="3"), [("external-coins", "")]),
        ("1", ledger(OURS._replace(manual=Decimal(-4)), BTC="3"), []),
    ],
)
def test_coins_against_the_ledger(quantity: str, known: Ledger, found: list[tuple[str, str]]) -> None:
    assert kinds([coins(quantity)], known) == found


def test_everybody_who_holds_the_coin_in_the_pocket_is_stopped() -> None:
    known = ledger(OURS, Stake("b", "KRW-BTC", Decimal(1)), Stake("c", "KRW-ETH", Decimal(1)))
    found = check([coins("1"), coins("1", "ETH")], [], known)
    assert sorted(pauses(found)) == ["a", "b"]


def test_money_may_come_and_go() -> None:
    assert kinds([coins("2"), coins("100", "KRW")], ledger(OURS)) == []


def test_orders_made_elsewhere_are_shown_and_one_with_our_mark_stops_the_account() -> None:
    mine, theirs, marked = order("ob-i1-1"), order("", uuid="x"), order("ob-other-1")
    assert kinds([coins("2")], ledger(OURS), [mine]) == []
    assert kinds([coins("2")], ledger(OURS), [theirs]) == [("external-order", "")]
    assert kinds([coins("2")], ledger(OURS), [marked]) == [("external-order", ""), ("order-foreign", "a")]


@pytest.mark.parametrize(
    ("wanted", "state", "is_ours", "is_found"),
    [
        ({}, "cancel", False, True),
        ({}, "cancel", True, False),
        ({}, "done", False, False),
        ({"time_in_force": "ioc"}, "cancel", False, False),
        ({"order_type": "market", "price": None}, "cancel", False, False),
    ],
)
def test_who_ended_an_order(wanted: dict[str, Any], state: str, *, is_ours: bool, is_found: bool) -> None:
    finding = ended_elsewhere(intent(**wanted), order("ob-i1-1", state), is_cancelled_by_us=is_ours)
    assert (finding is not None) is is_found


def test_an_exit_is_cut_to_what_is_there() -> None:
    leave = intent(quantity=Decimal(2))
    assert at_most(leave, [coins("3")]) is leave
    cut = at_most(leave, [coins("0.5"), coins("9", "ETH")])
    assert cut is not None
    assert cut.quantity == Decimal("0.5")
    assert at_most(leave, [coins("9", "ETH")]) is None


# --- over a real journal


class Exchange:
    """A pocket that says what it is told to say."""

    def __init__(self) -> None:
        self.coins: list[Holding] = []
        self.orders: list[Order] = []

    def holdings(self) -> list[Holding]:
        return self.coins

    def open_orders(self) -> list[Order]:
        return self.orders


@pytest.fixture(params=["sqlite", "postgres"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Journal]:
    is_file = request.param == "sqlite"
    journal = Journal(tmp_path / "execution.sqlite" if is_file else request.getfixturevalue("empty_postgres").address)
    yield journal
    journal.close()


def bought(journal: Journal, name: str, quantity: str, **values: Any) -> None:
    """Journal a filled buy."""
    buy = intent(name, side="buy", purpose="entry", **values)
    journal.add_intent(buy, Record("order-intents", 0, 0, 1, "p", b""))
    journal.begin_attempt(name, 1, f"ob-{name}-1", events.sent(buy, 1, f"ob-{name}-1", 1), 1)
    attempt = journal.attempt(f"ob-{name}-1")
    assert attempt is not None
    with journal.transaction():
        journal.add_fill(attempt, "u", Execution(f"f-{name}", Decimal(100), Decimal(quantity), Decimal(100)), ZERO)
        journal.settle(attempt, attempt_state="DONE", intent_state="DONE", uuid="u")


def told(journal: Journal) -> list[m.AccountPaused]:
    rows = [row.payload for row in journal.unpublished() if b"account-paused" in row.payload]
    return [msgspec.json.decode(row, type=m.AccountPaused) for row in rows]


def test_a_pause_needs_two_looks_is_told_once_and_holds_until_a_person_resumes(journal: Journal) -> None:
    bought(journal, "i1", "2")
    exchange, watch = Exchange(), Watch(journal, "p", "ob")
    exchange.coins = [coins("5")]
    assert [finding.kind for finding in watch.look(exchange, 10)] == ["external-coins"]  # type: ignore[arg-type]  # all that it asks
    assert watch.look(exchange, 11) == []  # type: ignore[arg-type]  # same
    exchange.coins = [coins("1")]
    watch.look(exchange, 12)  # type: ignore[arg-type]  # same
    assert (paused_of(journal, "a"), watch.next_s) == ("", 2.0)
    for event_ms in (13, 14, 15):
        watch.look(exchange, event_ms)  # type: ignore[arg-type]  # same
    assert "exchange holds 1" in paused_of(journal, "a")
    assert [(one.account, one.pocket, one.reason, one.event_ms) for one in told(journal)] == [
        ("a", "p", "coins-missing", 13)
    ]
    again = Watch(journal, "p", "ob")
    again.look(exchange, 16)  # type: ignore[arg-type]  # same
    assert paused_of(journal, "a")
    assert resume(journal, "a", 17)
    assert not resume(journal, "a", 18)
    for event_ms in (19, 20, 21):
        again.look(exchange, event_ms)  # type: ignore[arg-type]  # same
    assert paused_of(journal, "a") == ""
    exchange.coins = [coins("0.5")]
    for event_ms in (22, 23):
        again.look(exchange, event_ms)  # type: ignore[arg-type]  # same
    assert "exchange holds 0.5" in paused_of(journal, "a")


def test_coins_behind_a_resting_order_are_looked_at_while_it_does_not_move(journal: Journal) -> None:
    bought(journal, "i1", "2")
    rests = intent("i2")
    journal.add_intent(rests, Record("order-intents", 0, 1, 1, "p", b""))
    journal.begin_attempt("i2", 1, "ob-i2-1", events.sent(rests, 1, "ob-i2-1", 1), 1)
    exchange, watch = Exchange(), Watch(journal, "p", "ob")
    exchange.coins, exchange.orders = [coins("1")], [order("ob-i2-1")]
    attempt = journal.attempt("ob-i2-1")
    assert attempt is not None
    for state in ("UNKNOWN", "ACKED"):
        assert told(journal) == []
        journal.settle(attempt, attempt_state=state, intent_state=state, uuid="u2")
        for event_ms in (1, 2):
            watch.look(exchange, event_ms)  # type: ignore[arg-type]  # all that it asks
    assert [one.reason for one in told(journal)] == ["coins-missing"]
    resume(journal, "a", 3)
    exchange.orders = [order("ob-i2-1", executed_quantity=Decimal("0.5"))]
    exchange.coins = [coins("0.5")]
    for event_ms in (4, 5):
        assert watch.look(exchange, event_ms) == []  # type: ignore[arg-type]  # the fill is not booked yet
    exchange.coins, exchange.orders = [coins("1")], [order("ob-i2-1")]
    for event_ms in (6, 7, 8):
        watch.look(exchange, event_ms)  # type: ignore[arg-type]  # what is there now was accepted
    assert len(told(journal)) == 1


def test_what_a_person_sells_through_us_is_no_interference(journal: Journal) -> None:
    bought(journal, "i1", "2")
    exchange, watch = Exchange(), Watch(journal, "p", "ob")
    exchange.coins = [coins("5")]
    watch.look(exchange, 1)  # type: ignore[arg-type]  # all that it asks
    sale = intent("i2", purpose="manual", order_type="market", price=None)
    journal.add_intent(sale, Record("order-intents", 0, 1, 1, "p", b""))
    journal.begin_attempt("i2", 1, "ob-i2-1", events.sent(sale, 1, "ob-i2-1", 1), 1)
    exchange.coins = [coins("2")]
    for event_ms in (2, 3):
        assert watch.look(exchange, event_ms) == []  # type: ignore[arg-type]  # it is under way
    attempt = journal.attempt("ob-i2-1")
    assert attempt is not None
    with journal.transaction():
        journal.add_fill(attempt, "u2", Execution("f2", Decimal(100), Decimal(3), Decimal(300)), ZERO)
        journal.settle(attempt, attempt_state="DONE", intent_state="DONE", uuid="u2")
    for event_ms in (4, 5):
        assert watch.look(exchange, event_ms) == []  # type: ignore[arg-type]  # same
    assert told(journal) == []


def test_an_order_that_somebody_cancelled_stops_the_account_and_one_of_ours_does_not(journal: Journal) -> None:
    for name in ("i1", "i2", "i3", "i4"):
        replaces = "i3" if name == "i4" else ""
        journal.add_intent(intent(name, replaces=replaces), Record("order-intents", 0, 0, 1, "p", b""))
    cancel = m.CancelIntent(id="c", account="a", pocket="p", intent_id="i2", event_ms=1, reason="r")
    journal.add_cancel(cancel)
    note_end(journal, intent("i2"), order("ob-i2-1", "cancel"), 5)
    note_end(journal, intent("i3"), order("ob-i3-1", "cancel"), 5)
    note_end(journal, intent("i1", purpose="manual"), order("ob-i1-1", "cancel"), 5)
    assert paused_of(journal, "a") == ""
    note_end(journal, intent("i1"), order("ob-i1-1", "cancel"), 5)
    assert "somebody else" in paused_of(journal, "a")
    assert [one.reason for one in told(journal)] == ["order-ended"]
