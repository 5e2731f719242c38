"""The executor's parts one by one: lanes, budgets, journal failures, relay, clock, start-up, private websocket."""

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from consumers.execute import events, forgotten
from consumers.execute.attempts import Burn, OnAbsent, OnAnswer, Rules, after_burning, on_absent, on_answer
from consumers.execute.bookkeeping import record_order
from consumers.execute.clock import FRESH_MS, OTHER_MARKET_MS, MarketClock
from consumers.execute.controls import Controls
from consumers.execute.desk import Desk, Parts, Task
from consumers.execute.executor import run_executor
from consumers.execute.gateway import UpbitGateway
from consumers.execute.halts import HaltGate
from consumers.execute.halts_keeper import HaltKeeper
from consumers.execute.intake import Intake
from consumers.execute.journal import Journal, JournalFailed
from consumers.execute.keyring import ExchangeKey, FileKeyRing, HeldKeys
from consumers.execute.lanes import Lane
from consumers.execute.limits import RiskGate, RiskLimits, sellable
from consumers.execute.options import Options
from consumers.execute.reconcile import Reconciliation
from consumers.execute.relay import publish_outbox, relay
from consumers.execute.venue import (
    Accepted,
    Answer,
    Duplicate,
    Execution,
    Holding,
    Order,
    OrderRequest,
    Refused,
    Replacing,
    Unclear,
    burning_request,
    request_of,
)
from consumers.execute.wakeup import Wakeups, identifier_of
from infra.errors import AlreadyRunning, DeliveryFailed, DeliveryPending, ExchangeUnavailable, Unsupported
from infra.log import Record, Slot, TopicSpec
from infra.memory_log import MemoryLog
from producers.sandbox.synthetic import Plan
from producers.sandbox.thread import SandboxThread
from streams import messages as m
from streams import topics


def intent_of(name: str, **values: object) -> m.OrderIntent:
    fields: dict[str, object] = {
        "id": name,
        "account": "paper",
        "pocket": "paper-main",
        "exchange": "upbit",
        "market": "KRW-BTC",
        "side": "sell",
        "order_type": "market",
        "price": None,
        "quantity": Decimal(6),
        "funds": None,
        "time_in_force": "",
        "purpose": "exit",
        "cause_kind": "signal",
        "cause_id": name,
        "event_ms": 1000,
        "expires_ms": 2000,
        "reason": "test",
    }
    return m.OrderIntent(**(fields | values))  # type: ignore[arg-type]


RECORD = Record("order-intents", 0, 0, 0, "paper-main", b"")


def order_of(identifier: str, state: str = "wait", **values: object) -> Order:
    fields: dict[str, object] = {
        "uuid": f"u-{identifier}",
        "identifier": identifier,
        "market": "KRW-BTC",
        "order_type": "market",
        "state": state,
        "price": None,
        "quantity": Decimal(6),
        "executed_quantity": Decimal(0),
        "paid_fee": Decimal(0),
        "executions": (),
    }
    return Order(**(fields | values))  # type: ignore[arg-type]


class Exchange:
    """An exchange of one order that says what it is told to say."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.orders: dict[str, Order] = {}
        self.open: list[Order] = []
        self.cancelled: list[str] = []
        self.replaced: list[tuple[str, str]] = []
        self.held: list[Holding] = []
        self.wanted: list[Decimal | None] = []
        self.is_away = False
        self.is_deaf = False

    def place(self, request: OrderRequest, identifier: str) -> Answer:
        self.wanted.append(request.volume)
        answer = self.answers.pop(0) if self.answers else Accepted(order_of(identifier))
        if isinstance(answer, Accepted):
            self.orders[identifier] = answer.order
        return answer

    def find(self, identifier: str) -> Order | None:
        if self.is_away:
            raise ExchangeUnavailable("away")
        return self.orders.get(identifier)

    def order(self, uuid: str) -> Order | None:
        return self.find(uuid.removeprefix("u-"))

    def replace(self, uuid: str, _request: OrderRequest, identifier: str) -> Answer:
        self.replaced.append((uuid, identifier))
        return self.answers.pop(0) if self.answers else Replacing(f"u-{identifier}")

    def by_identifiers(self, identifiers: Sequence[str]) -> list[Order]:
        return [order for order in map(self.find, identifiers) if order is not None]

    def by_uuids(self, uuids: Sequence[str]) -> list[Order]:
        return [order for order in map(self.order, uuids) if order is not None]

    def open_orders(self) -> list[Order]:
        if self.is_away:
            raise ExchangeUnavailable("away")
        return self.open

    def closed_orders(self, _market: str) -> list[Order]:
        return []

    def cancel(self, uuid: str) -> bool:
        if self.is_deaf:
            raise ExchangeUnavailable("no answer")
        self.cancelled.append(uuid)
        return True

    def holdings(self) -> list[Holding]:
        return self.held


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "db" / "execution.sqlite")
    with journal.transaction() as db:
        db.execute("INSERT INTO held VALUES ('paper', '', 'KRW-BTC', '1000', '0', '0', '0')")  # what exits may sell
    yield journal
    journal.close()


def desk_of(journal: Journal, exchange: Exchange, now: list[float] | None = None) -> Desk:
    now = now or [0.0]

    def now_s() -> float:
        return now[0]

    clock = MarketClock(now_s, lambda: 0)
    return Desk(Parts(journal, exchange, RiskGate(RiskLimits(), now_s), clock, now_s, Rules()))


# --- the protocol


def test_what_follows_from_an_answer() -> None:
    assert on_answer(Accepted(order_of("i")), "entry") is OnAnswer.ACKNOWLEDGE
    assert on_answer(Refused("x", ""), "exit") is OnAnswer.REJECT
    assert on_answer(Refused("x", "", is_passing=True), "entry") is OnAnswer.REJECT
    assert on_answer(Refused("x", "", is_passing=True), "protective-exit") is OnAnswer.NEXT_ATTEMPT
    assert on_answer(Duplicate(), "exit") is OnAnswer.LOOK_UP
    assert on_answer(Unclear("x"), "entry") is OnAnswer.LOOK_UP


def test_an_entry_never_takes_another_attempt() -> None:
    rules = Rules()
    for burn in Burn:
        assert on_absent("entry", burn, rules.settle_s - 0.1, rules) is OnAbsent.WAIT
        assert on_absent("entry", burn, rules.settle_s, rules) is OnAbsent.EXPIRE
    assert rules.settle_s > rules.longest_flight_s


def test_a_persons_order_is_like_an_entry_in_doubt_and_a_replacement_ends() -> None:
    rules = Rules()
    assert on_absent("manual", Burn.BURNED, 100.0, rules) is OnAbsent.EXPIRE
    assert on_absent("exit", Burn.NONE, 100.0, rules, is_replacing=True) is OnAbsent.BURN
    assert on_absent("exit", Burn.BURNED, 100.0, rules, is_replacing=True) is OnAbsent.EXPIRE
    assert on_answer(Refused("too_many_requests", "", is_passing=True), "manual") is OnAnswer.REJECT


def test_an_exit_burns_first() -> None:
    rules = Rules()
    assert on_absent("exit", Burn.NONE, rules.settle_s, rules) is OnAbsent.BURN
    assert on_absent("exit", Burn.REFUSED, rules.settle_s, rules) is OnAbsent.BURN
    assert on_absent("exit", Burn.BURNED, 0.0, rules) is OnAbsent.WAIT
    assert on_absent("exit", Burn.BURNED, rules.settle_s, rules) is OnAbsent.NEXT_ATTEMPT
    assert on_absent("exit", Burn.KEPT, rules.settle_s, rules) is OnAbsent.NEXT_ATTEMPT
    assert after_burning(Burn.NONE, Refused("invalid_price_ask", "")) is Burn.REFUSED
    assert after_burning(Burn.REFUSED, Refused("invalid_price_ask", "")) is Burn.KEPT
    assert after_burning(Burn.REFUSED, Duplicate()) is Burn.BURNED
    assert after_burning(Burn.NONE, Unclear("x")) is Burn.NONE
    assert after_burning(Burn.NONE, Refused("x", "", is_passing=True)) is Burn.NONE
    for name in ("no-key", "no_authorization_ip", "market_offline", "insufficient_funds_ask"):
        assert after_burning(Burn.NONE, Refused(name, "")) is Burn.NONE
        assert after_burning(Burn.REFUSED, Refused(name, "")) is Burn.REFUSED


def test_requests() -> None:
    sell = intent_of("a")
    assert request_of(sell) == OrderRequest("KRW-BTC", "ask", "market", None, Decimal(6), "")
    best = intent_of("a", side="buy", order_type="best", funds=Decimal(7000), quantity=None, time_in_force="ioc")
    assert request_of(best) == OrderRequest("KRW-BTC", "bid", "best", Decimal(7000), None, "ioc")
    burning = burning_request(sell)
    assert burning.price is not None
    assert burning.price > 10**9
    cheap = burning_request(best).price
    assert cheap is not None
    assert cheap < Decimal("1e-9")


# --- journal


def test_a_full_disk_stops_everything(journal: Journal) -> None:
    journal.add_intent(intent_of("a"), RECORD)
    exchange = Exchange()
    journal._store.connection.execute("PRAGMA query_only=ON")
    with pytest.raises(JournalFailed, match="nothing is sent"):
        desk_of(journal, exchange).send("a")
    assert not exchange.orders
    journal._store.connection.execute("PRAGMA query_only=OFF")
    row = journal.intent("a")
    assert row is not None
    assert row.state == "NEW"


def test_a_transaction_is_all_or_nothing(journal: Journal) -> None:
    def fail() -> None:
        with journal.transaction():
            journal.add_intent(intent_of("a"), RECORD)
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail()
    assert journal.intent("a") is None


def test_one_journal_one_executor(journal: Journal, tmp_path: Path) -> None:
    assert journal.newest_intent() is None
    with pytest.raises(AlreadyRunning, match="stop it first"):
        Journal(tmp_path / "db" / "execution.sqlite")


def test_a_damaged_journal_lets_the_lock_go(tmp_path: Path) -> None:
    path = tmp_path / "execution.sqlite"
    path.write_bytes(b"no database" * 100)
    for _ in range(2):
        with pytest.raises(JournalFailed, match="not a database"):
            Journal(path)


def test_the_journal_is_durable(journal: Journal, tmp_path: Path) -> None:
    assert journal._store.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert journal._store.connection.execute("PRAGMA synchronous").fetchone() == (2,)
    journal.add_intent(intent_of("a"), RECORD)
    with sqlite3.connect(tmp_path / "db" / "execution.sqlite") as other:
        assert other.execute("SELECT state FROM intent").fetchall() == [("NEW",)]
    other.close()


# --- desk


def test_fees_are_shared_exactly() -> None:
    executions = [Execution(str(n), Decimal(1), Decimal(1), Decimal(funds)) for n, funds in enumerate((1, 1, 1))]
    shares = events.shares_of_fee(Decimal(1), executions)
    assert sum(shares) == 1
    assert events.shares_of_fee(Decimal(2), [Execution("x", Decimal(1), Decimal(0), Decimal(0))]) == [Decimal(2)]


def test_fills_in_several_looks(journal: Journal) -> None:
    intent = intent_of("a", order_type="limit", price=Decimal(10))
    journal.add_intent(intent, RECORD)
    desk = desk_of(journal, Exchange())
    desk.send("a")
    clock = MarketClock(lambda: 0.0, lambda: 0)
    one = Execution("t1", Decimal(10), Decimal(2), Decimal(20))
    two = Execution("t2", Decimal(10), Decimal(4), Decimal(40))
    part = order_of("ob-a-1", executed_quantity=Decimal(2), paid_fee=Decimal("0.01"), executions=(one,))
    assert record_order(journal, clock, intent, "ob-a-1", part)
    assert not record_order(journal, clock, intent, "ob-a-1", part)
    behind = order_of("ob-a-1", "done", executed_quantity=Decimal(6), executions=(one,))
    assert not record_order(journal, clock, intent, "ob-a-1", behind)
    whole = order_of("ob-a-1", "done", executed_quantity=Decimal(6), paid_fee=Decimal("0.03"), executions=(one, two))
    assert record_order(journal, clock, intent, "ob-a-1", whole)
    assert not record_order(journal, clock, intent, "ob-a-1", whole)
    told = [row.payload for row in journal.unpublished()]
    assert b'"is_final":false' in told[-2]
    assert b'"is_final":true' in told[-1]
    assert b'"fee":"0.02"' in told[-1]
    assert b'"executed_funds":"60"' in told[-1]


def test_partly_filled_then_cancelled(journal: Journal) -> None:
    intent = intent_of("a", order_type="limit", price=Decimal(10))
    journal.add_intent(intent, RECORD)
    exchange = Exchange()
    desk = desk_of(journal, exchange)
    assert desk.send("a")[0].kind == "follow"
    one = Execution("t1", Decimal(10), Decimal(2), Decimal(20))
    exchange.orders["ob-a-1"] = order_of(
        "ob-a-1", "cancel", executed_quantity=Decimal(2), paid_fee=Decimal("0.01"), executions=(one,)
    )
    assert desk.follow("ob-a-1") == []
    assert desk.follow("ob-a-1") == []
    row = journal.intent("a")
    assert row is not None
    assert row.state == "CANCELLED"
    assert b"order-cancelled" in journal.unpublished()[-1].payload


def test_an_order_the_exchange_forgot_is_asked_for_again(journal: Journal) -> None:
    journal.add_intent(intent_of("a"), RECORD)
    exchange = Exchange()
    desk = desk_of(journal, exchange)
    desk.send("a")
    exchange.orders.clear()
    delays = [desk.follow("ob-a-1")[0].delay_s for _ in range(9)]
    assert delays == sorted(delays)
    assert delays[-1] == Rules().follow_slowest_s


def test_an_order_the_exchange_forgot_for_good_stops_the_account(journal: Journal) -> None:
    journal.add_intent(intent_of("a"), RECORD)
    entry = {"purpose": "entry", "side": "buy", "order_type": "price", "funds": Decimal(6000), "quantity": None}
    journal.add_intent(intent_of("b", **entry, expires_ms=10**15), RECORD)
    exchange, now = Exchange(), [0.0]
    desk = desk_of(journal, exchange, now)
    desk.send("a")
    known = exchange.orders.pop("ob-a-1")
    for _ in range(forgotten.ANSWERS):
        assert desk.follow("ob-a-1")[0].kind in {"follow", "poll"}
    exchange.orders["ob-a-1"] = known
    desk.follow("ob-a-1")
    exchange.orders.clear()
    for _ in range(forgotten.ANSWERS - 1):
        now[0] += 1 + forgotten.SECONDS / forgotten.ANSWERS
        assert desk.follow("ob-a-1")[0].kind in {"follow", "poll"}
    exchange.open = [order_of("ob-a-1")]
    assert desk.follow("ob-a-1")[0].kind == "poll"
    exchange.open = []
    for _ in range(forgotten.ANSWERS):
        now[0] += 1 + forgotten.SECONDS / forgotten.ANSWERS
        tasks = desk.follow("ob-a-1")
    row = journal.intent("a")
    assert row is not None
    assert (tasks, row.state, desk.follow("ob-a-1")) == ([], "LOST", [])
    assert desk.send("b") == []
    told = [msgspec.json.decode(one.payload) for one in journal.unpublished()]
    assert [one["type"] for one in told[-2:]] == ["order-unknown", "order-rejected"]
    assert (told[-2]["is_lost"], told[-1]["name"]) == (True, "order-lost")
    exchange.orders["ob-a-1"] = known
    assert [task.kind for task in desk.sweep()] == ["follow"]
    assert journal.lost("paper") == []


def test_an_accepted_ledger_lets_the_account_go_on_and_bad_controls_are_told_once(
    journal: Journal, tmp_path: Path
) -> None:
    log = MemoryLog()
    log.create_topics([TopicSpec(t.name, t.partitions, t.config) for t in topics.TOPICS.values()])
    journal.add_intent(intent_of("a"), RECORD)
    desk_of(journal, Exchange()).send("a")
    attempt = journal.attempt("ob-a-1")
    assert attempt is not None
    journal.settle(attempt, attempt_state="LOST", intent_state="LOST", uuid="u")
    publisher = log.publisher()
    publisher.publish("controls", "paper", b"?")
    publisher.publish("controls", "paper", m.encode(m.LedgerAccepted(account="paper", holdings={}, event_ms=5, by="t")))
    publisher.publish("controls", "paper", b"{")
    for count in (3, 0):
        halts = HaltKeeper(tmp_path, HaltGate())
        controls = Controls(log, journal, RiskGate(RiskLimits(), lambda: 0.0), lambda: 0, halts)
        assert controls.step(0.01) == count
        assert not controls.is_behind()
        controls.close()
        halts.close()
    row = journal.intent("a")
    assert row is not None
    assert (row.state, journal.lost("paper")) == ("EXPIRED", [])
    assert journal.left_of("paper", "", "KRW-BTC") == 0  # the person says that it holds nothing
    assert msgspec.json.decode(journal.unpublished()[-1].payload)["type"] == "order-expired"
    slots = [Slot("dead-letters", partition) for partition in range(4)]
    reader = log.reader(dict.fromkeys(slots, 0))
    letters = [topics.decode("dead-letters", record.value) for record in reader.read(10, 0.1)]
    assert [(one.process, one.topic, one.offset) for one in letters] == [
        ("execute", "controls", 0),
        ("execute", "controls", 2),
    ]


def test_cancel_before_it_was_sent(journal: Journal) -> None:
    journal.add_intent(intent_of("a"), RECORD)
    cancel = m.CancelIntent(id="c", account="paper", pocket="paper-main", intent_id="a", event_ms=0, reason="test")
    assert journal.add_cancel(cancel)
    assert not journal.add_cancel(cancel)
    desk = desk_of(journal, Exchange())
    assert desk.cancel("c") == [Task("cancel", "c")]
    assert desk.cancel("c") == []
    assert desk.cancel("c") == []
    assert desk.send("a") == []


def test_cancel_while_in_doubt_waits(journal: Journal) -> None:
    journal.add_intent(intent_of("a"), RECORD)
    exchange = Exchange()
    exchange.answers = [Unclear("timeout")]
    desk = desk_of(journal, exchange)
    assert desk.send("a")[0].kind == "resolve"
    journal.add_cancel(
        m.CancelIntent(id="c", account="paper", pocket="paper-main", intent_id="a", event_ms=0, reason="test")
    )
    assert [task.kind for task in desk.cancel("c")] == ["cancel"]
    exchange.orders["ob-a-1"] = order_of("ob-a-1")
    assert desk.resolve("ob-a-1") == [Task("follow", "ob-a-1")]
    assert desk.resolve("ob-a-1") == [Task("follow", "ob-a-1")]
    assert [task.kind for task in desk.cancel("c")] == ["cancel", "follow"]
    assert exchange.cancelled == ["u-ob-a-1"]


def test_an_account_in_doubt_takes_no_entry(journal: Journal) -> None:
    journal.add_intent(intent_of("a"), RECORD)
    entry = intent_of("b", purpose="entry", side="buy", order_type="price", funds=Decimal(6000), quantity=None)
    journal.add_intent(entry, RECORD)
    exchange = Exchange()
    exchange.answers = [Unclear("timeout")]
    desk = desk_of(journal, exchange)
    desk.send("a")
    assert [task.kind for task in desk.send("b")] == ["send"]
    assert list(exchange.orders) == []


def test_a_burning_order_that_was_taken_is_cancelled(journal: Journal) -> None:
    journal.add_intent(intent_of("a"), RECORD)
    exchange = Exchange()
    exchange.answers = [Unclear("timeout")]
    now = [0.0]
    desk = desk_of(journal, exchange, now)
    desk.send("a")
    desk.resolve("ob-a-1")
    now[0] = 100.0
    assert desk.resolve("ob-a-1")[0].kind == "follow"
    assert exchange.cancelled == ["u-ob-a-1"]


def test_a_burning_order_that_was_taken_is_cancelled_though_the_first_cancel_finds_no_answer(journal: Journal) -> None:
    journal.add_intent(intent_of("a"), RECORD)
    exchange = Exchange()
    exchange.answers = [Unclear("timeout"), Accepted(order_of("ob-a-1", order_type="limit"))]
    now = [0.0]
    desk = desk_of(journal, exchange, now)
    desk.send("a")
    desk.resolve("ob-a-1")
    now[0] = 100.0
    exchange.is_deaf = True
    with pytest.raises(ExchangeUnavailable):
        desk.resolve("ob-a-1")
    exchange.is_deaf = False
    assert desk.resolve("ob-a-1")[0].kind == "follow"
    assert exchange.cancelled == ["u-ob-a-1"]


def test_an_exit_whose_identifier_was_never_burned_takes_no_next_attempt(journal: Journal) -> None:
    journal.add_intent(intent_of("a"), RECORD)
    exchange = Exchange()
    exchange.answers = [Unclear("timeout"), *[Refused("no_authorization_ip", "")] * 2, Duplicate()]
    now = [0.0]
    desk = desk_of(journal, exchange, now)
    desk.send("a")
    desk.resolve("ob-a-1")
    for now[0] in (10.0, 20.0):
        assert [(task.kind, task.delay_s) for task in desk.resolve("ob-a-1")] == [("resolve", 0.5)]
    now[0] = 30.0
    assert [(task.kind, task.delay_s) for task in desk.resolve("ob-a-1")] == [("resolve", 0.0)]
    now[0] = 40.0
    assert [task.kind for task in desk.resolve("ob-a-1")] == ["send"]


def test_no_key_and_no_such_identifier(journal: Journal) -> None:
    journal.add_intent(intent_of("a", pocket="somebody"), RECORD)
    journal.add_intent(intent_of("b" * 70), RECORD)
    exchange = Exchange()
    desk = desk_of(journal, exchange)
    assert desk.send("a") == []
    assert desk.send("b" * 70) == []
    assert desk.send("nobody") == []
    assert not exchange.orders
    told = [row.payload for row in journal.unpublished()]
    assert b"no-key" in told[0]
    assert b"bad-identifier" in told[1]
    with pytest.raises(KeyError):
        desk.resolve("nobody")


# --- what may be sold


MAIN = "paper-main"


def traded(journal: Journal, name: str, pocket: str, quantity: int, side: m.Side = "sell") -> None:
    """An order of a pocket that is wholly filled."""
    intent = intent_of(name, pocket=pocket, side=side, purpose="exit" if side == "sell" else "entry")
    journal.add_intent(intent, RECORD)
    assert journal.begin_attempt(name, 1, f"t-{name}", events.sent(intent, 1, f"t-{name}", 1), 1)
    attempt = journal.attempt(f"t-{name}")
    assert attempt is not None
    execution = Execution(f"f-{name}", Decimal(1), Decimal(quantity), Decimal(quantity))
    with journal.transaction():
        journal.add_fill(attempt, f"u-{name}", execution, Decimal(0))
        journal.settle(attempt, attempt_state="DONE", intent_state="DONE", uuid=f"u-{name}")


def test_an_exit_sells_no_more_than_was_bought_less_what_others_sell(journal: Journal) -> None:
    exchange = Exchange()
    desk = desk_of(journal, exchange)
    journal.add_intent(intent_of("rests", quantity=Decimal(990)), RECORD)
    desk.send("rests")
    for name, quantity, purpose in (("more", 11, "exit"), ("none", None, "protective-exit"), ("all", 10, "exit")):
        amount = None if quantity is None else Decimal(quantity)
        journal.add_intent(intent_of(name, quantity=amount, purpose=purpose), RECORD)
        desk.send(name)
    assert list(exchange.orders) == ["ob-rests-1", "ob-all-1"]
    refused = [row.payload for row in journal.unpublished() if b"order-rejected" in row.payload]
    assert [b"not-ours" in payload for payload in refused] == [True, True]


def test_an_exit_sells_nothing_from_a_pocket_that_the_account_did_not_buy_in(journal: Journal) -> None:
    """An account that was given another pocket while it held: what lies there is somebody else's."""
    held = [sellable(*journal.held(intent_of("a", pocket=pocket))) for pocket in (MAIN, "other")]
    assert held == [1000, 1000]  # an account that never ordered anything names no pocket
    traded(journal, "in", MAIN, 6, "buy")
    traded(journal, "out", "other", 4, "buy")
    journal.correct_held("paper", "", "KRW-BTC", sold=Decimal(1000))
    for pocket, left in ((MAIN, 6), ("other", 4), ("third", 0)):
        assert sellable(*journal.held(intent_of("a", pocket=pocket))) == left
    traded(journal, "half", "other", 2)
    journal.add_intent(intent_of("rests", pocket=MAIN, quantity=Decimal(5)), RECORD)
    desk_of(journal, Exchange()).send("rests")
    assert sellable(*journal.held(intent_of("a", pocket=MAIN))) == 1
    assert sellable(*journal.held(intent_of("a", pocket="other"))) == 2
    journal.correct_held("paper", "", "KRW-BTC", sold=Decimal(7))  # a person said so: one is left in all
    assert sellable(*journal.held(intent_of("a", pocket="other"))) == 0


def test_an_exit_of_more_than_there_is_sells_what_there_is(journal: Journal) -> None:
    exchange = Exchange()
    short = Refused("insufficient_funds_ask", "")
    desk = desk_of(journal, exchange)
    journal.add_intent(intent_of("a", purpose="protective-exit"), RECORD)
    exchange.answers, exchange.held = [short], [Holding("BTC", Decimal(4), Decimal(1), Decimal(0))]
    assert desk.send("a") == [Task("send", "a", 0.0)]
    desk.send("a")
    assert exchange.wanted == [6, 4]
    assert list(exchange.orders) == ["ob-a-2"]
    journal.add_intent(intent_of("b"), RECORD)
    exchange.answers = [short, short]  # somebody was faster again: the next decision is trade's
    desk.send("b")
    assert desk.send("b") == []
    journal.add_intent(intent_of("c"), RECORD)
    exchange.answers, exchange.held = [short], []
    desk.send("c")
    assert desk.send("c") == []
    journal.add_intent(intent_of("d", purpose="manual"), RECORD)
    exchange.answers = [short]
    assert desk.send("d") == []  # a person said how much
    assert exchange.wanted == [6, 4, 6, 4, 6, 6]
    told = [row.payload for row in journal.unpublished() if b"order-rejected" in row.payload]
    names = [name for payload in told for name in (b"insufficient_funds_ask", b"nothing-there") if name in payload]
    assert names == [b"insufficient_funds_ask", b"nothing-there", b"insufficient_funds_ask"]


# --- limits


def test_limits() -> None:
    now = [0.0]
    gate = RiskGate(RiskLimits(Decimal(10_000), 2), lambda: now[0])
    entry = intent_of("a", purpose="entry", order_type="limit", price=Decimal(1000))
    names = [refusal.name for refusal in [gate.refusal(intent_of("x", quantity=None))] if refusal]
    assert names == ["bad-amount"]
    assert gate.refusal(entry) is None
    market = m.Market(
        exchange="upbit", market="KRW-BTC", event_ms=0, tick_size=Decimal(1), minimum_total=Decimal(7000),
        maximum_total=Decimal(10**9),
    )  # fmt: skip
    gate.take_market(market)
    refusal = gate.refusal(entry)
    assert refusal is not None
    assert refusal.name == "under-minimum"
    large = gate.refusal(intent_of("b", funds=Decimal(20_000)))
    assert large is not None
    assert large.name == "over-maximum"
    assert gate.refusal(intent_of("b", funds=Decimal(8000))) is None
    many = gate.refusal(intent_of("b", funds=Decimal(8000)))
    assert many is not None
    assert many.name == "too-many"
    now[0] = 61.0
    assert gate.refusal(intent_of("b", funds=Decimal(8000))) is None


# --- lanes


def test_a_lane_keeps_the_earliest_and_tries_again() -> None:
    done: list[str] = []
    is_done = threading.Event()
    lane: Lane

    def run(task: Task) -> list[Task]:
        done.append(task.id)
        if done.count("troubled") == 1 and task.id == "troubled":
            raise ExchangeUnavailable("away")
        if task.id == "last":
            is_done.set()
        return [Task("send", "last", 0.0)] if task.id == "troubled" else []

    lane = Lane("test", run, lambda task: lane.put(task), time.monotonic)  # noqa: PLW0108 - it is bound a line later
    lane.put(Task("send", "later", 60.0))
    lane.put(Task("send", "twice", 0.2))
    lane.put(Task("send", "twice", 0.0))
    lane.put(Task("send", "twice", 0.3))
    lane.put(Task("send", "troubled"))
    lane.start()
    assert is_done.wait(10)
    assert lane.close(5)
    assert done == ["twice", "troubled", "troubled", "last"]


def test_a_lane_runs_a_task_once_at_a_time_and_fails_loudly() -> None:
    running: list[int] = [0, 0]
    lock = threading.Lock()

    def run(task: Task) -> list[Task]:
        if task.kind == "cancel":
            raise JournalFailed("full")
        with lock:
            running[0] += 1
            running[1] = max(running)
        time.sleep(0.05)
        with lock:
            running[0] -= 1
        return []

    lane = Lane("test", run, lambda _: None, time.monotonic, workers=3)
    lane.start()
    for _ in range(10):
        lane.put(Task("follow", "same"))
        time.sleep(0.01)
    lane.put(Task("cancel", "x"))
    end_s = time.monotonic() + 5
    while lane.failure is None and time.monotonic() < end_s:
        time.sleep(0.01)
    assert isinstance(lane.failure, JournalFailed)
    assert lane.close(5)
    assert running[1] == 1


def test_a_task_that_hangs_delays_no_other() -> None:
    release, started = threading.Event(), {"slow": threading.Event(), "exit": threading.Event()}
    runs: list[str] = []

    def run(task: Task) -> list[Task]:
        runs.append(task.id)
        started[task.id].set()
        if task.id == "slow":
            release.wait(10)
        return []

    lane = Lane("test", run, lambda _: None, time.monotonic, workers=3)
    lane.start()
    lane.put(Task("follow", "slow"))
    assert started["slow"].wait(5)
    lane.put(Task("follow", "slow"))  # the exchange wakes it again meanwhile
    lane.put(Task("send", "exit"))
    assert started["exit"].wait(5)
    release.set()
    end_s = time.monotonic() + 5
    while runs.count("slow") < 2 and time.monotonic() < end_s:
        time.sleep(0.01)
    assert lane.close(5)
    assert sorted(runs) == ["exit", "slow", "slow"]


# --- clock


def test_market_time() -> None:
    now, wall = [0.0], [1_000_000_000]
    clock = MarketClock(lambda: now[0], lambda: wall[0], speed=2.0)
    assert clock.now_ms() == 0
    clock.observe(5_000_000, wall[0])
    now[0] = 1.0
    assert clock.now_ms() == 5_002_000
    intent = intent_of("a", event_ms=5_001_000, expires_ms=5_004_000)
    assert not clock.is_stale(intent, wall[0])
    assert clock.is_stale(intent, wall[0] - 2_000)
    now[0] = 60.0
    assert not clock.is_stale(intent, wall[0]), "a market that stood still makes nothing stale"
    clock.observe(5_001_000, wall[0] - 1_000)
    assert clock.now_ms() == 5_003_000
    clock.observe(5_004_001, wall[0])
    assert clock.is_stale(intent, wall[0])
    far = 5_000_000 + 3 * OTHER_MARKET_MS
    clock.observe(far, wall[0])
    clock.observe(5_000_000, wall[0] - FRESH_MS - 1)
    assert clock.now_ms() == far
    clock.observe(5_000_000, wall[0])
    assert clock.now_ms() == 5_000_000
    assert clock.wall_ms() == wall[0]


# --- start-up


def test_start_up_compares_orders(journal: Journal) -> None:
    exchange = Exchange()
    desk = desk_of(journal, exchange)
    for name in ("open", "ended", "waiting", "given-up"):
        journal.add_intent(intent_of(name), RECORD)
    desk.send("open")
    desk.send("ended")
    exchange.answers = [Unclear("timeout")]
    desk.send("given-up")
    attempt = journal.attempt("ob-given-up-1")
    assert attempt is not None
    journal.settle(attempt, attempt_state="ABSENT", intent_state="EXPIRED")
    done = Execution("t", Decimal(1), Decimal(6), Decimal(6))
    exchange.orders["ob-ended-1"] = order_of("ob-ended-1", "done", executed_quantity=Decimal(6), executions=(done,))
    exchange.open = [order_of("ob-open-1"), order_of("ob-given-up-1"), order_of("foreign")]
    journal.add_cancel(
        m.CancelIntent(id="c", account="paper", pocket="paper-main", intent_id="open", event_ms=0, reason="")
    )
    is_done, tasks = Reconciliation(desk, journal, exchange, "paper-main", 0.5).step(0)
    assert is_done
    assert {(task.kind, task.id) for task in tasks} == {
        ("poll", "paper-main"),
        ("follow", "ob-given-up-1"),
        ("send", "waiting"),
        ("cancel", "c"),
    }
    assert not journal.add_external("u-foreign", "foreign", "KRW-BTC", 0)
    ended, given_up = journal.intent("ended"), journal.intent("given-up")
    assert ended is not None
    assert given_up is not None
    assert (ended.state, given_up.state) == ("DONE", "ACKED")
    assert desk.adopt(order_of("ob-given-up-1")) == []


def test_start_up_waits_for_the_exchange_and_for_every_doubt(journal: Journal) -> None:
    exchange, now = Exchange(), [0.0]
    journal.add_intent(intent_of("a", purpose="entry"), RECORD)
    exchange.answers = [Unclear("timeout")]
    desk = desk_of(journal, exchange, now)
    desk.send("a")
    start = Reconciliation(desk, journal, exchange, "paper-main", 0.5)
    exchange.is_away = True
    with pytest.raises(ExchangeUnavailable):
        start.step(0)
    exchange.is_away = False
    assert start.step(0) == (False, [Task("start", "paper-main", 0.5)])
    now[0] = 100.0
    assert start.step(0) == (True, [])
    row = journal.intent("a")
    assert row is not None
    assert row.state == "EXPIRED"


def test_woken_for_an_order_that_was_given_up(journal: Journal) -> None:
    journal.add_intent(intent_of("a"), RECORD)
    exchange = Exchange()
    exchange.answers = [Unclear("timeout")]
    desk = desk_of(journal, exchange)
    desk.send("a")
    attempt = journal.attempt("ob-a-1")
    assert attempt is not None
    journal.settle(attempt, attempt_state="ABSENT", intent_state="EXPIRED")
    assert desk.follow("ob-a-1") == []
    exchange.orders["ob-a-1"] = order_of("ob-a-1")
    assert [task.kind for task in desk.follow("ob-a-1")] == ["follow"]


# --- telling


class Flaky:
    """A publisher that fails first."""

    def __init__(self, failures: list[Exception]) -> None:
        self.failures = failures
        self.values: list[bytes] = []
        self.is_closed = False

    def publish(self, topic: str, key: str, value: bytes, partition: int | None = None) -> None:
        del topic, key, partition
        self.values.append(value)

    def flush(self, timeout_s: float = 10.0) -> None:
        del timeout_s
        if self.failures:
            raise self.failures.pop(0)

    def close(self) -> None:
        self.is_closed = True
        if self.failures:
            raise self.failures.pop(0)


def test_an_event_is_marked_only_when_acknowledged(journal: Journal) -> None:
    journal.tell([events.rejected(intent_of("a"), 0, "x", "y", 0)])
    flaky = Flaky([DeliveryFailed("lost")])
    with pytest.raises(DeliveryFailed):
        publish_outbox(journal, flaky, lambda: 1)
    assert len(journal.unpublished()) == 1
    flaky.failures = [DeliveryPending("not yet")]
    assert publish_outbox(journal, flaky, lambda: 1) == 1
    assert journal.unpublished() == []
    assert flaky.values[0] == flaky.values[1]


def test_the_relay_takes_a_new_publisher(journal: Journal) -> None:
    made: list[Flaky] = []

    class Log(MemoryLog):
        def publisher(self, *, linger_ms: float = 5.0) -> Flaky:  # type: ignore[override]
            del linger_ms
            made.append(Flaky([DeliveryFailed("lost"), DeliveryFailed("still")] if not made else []))
            return made[-1]

    journal.tell([events.rejected(intent_of("a"), 0, "x", "y", 0)])
    stop = threading.Event()
    thread = threading.Thread(target=relay, args=(journal, Log(), stop, lambda: 1))
    thread.start()
    end_s = time.monotonic() + 5
    while journal.unpublished() and time.monotonic() < end_s:
        time.sleep(0.02)
    stop.set()
    thread.join(5)
    assert len(made) == 2
    assert all(publisher.is_closed for publisher in made)
    assert journal.unpublished() == []


# --- private websocket


def test_frames() -> None:
    assert identifier_of(b'{"type":"myOrder","identifier":"ob-a-1"}') == "ob-a-1"
    assert identifier_of('{"type":"myAsset"}') == ""
    assert identifier_of('{"type":"myOrder","identifier":null}') == ""
    assert identifier_of("no json") == ""
    assert identifier_of("[]") == ""
    with pytest.raises(Unsupported):
        Wakeups("wss://api.upbit.com/websocket/v1/private", HeldKeys({}), lambda _: None, threading.Event())


def test_the_websocket_wakes(tmp_path: Path) -> None:
    with SandboxThread(tmp_path, kind="synthetic", plan=Plan(market_count=1), warmup_seconds=0) as sandbox:
        seen: list[str] = []
        stop = threading.Event()
        keys = HeldKeys({"paper-main": ExchangeKey(sandbox.access_key, sandbox.secret_key)})
        wakeups = Wakeups(f"{sandbox.ws_url}/private", keys, seen.append, stop, idle_s=2.0)
        thread = threading.Thread(target=wakeups.run)
        thread.start()
        wakeups.want("paper-main")
        wakeups.want("nobody")
        market = sandbox.control("GET", "/v1/market/all")[0]["market"]
        gateway = UpbitGateway(sandbox.url, sandbox.access_key, sandbox.secret_key)
        end_s = time.monotonic() + 10
        count = 0
        while not seen and time.monotonic() < end_s:
            count += 1
            wakeups.want("paper-main")
            gateway.place(OrderRequest(market, "bid", "price", Decimal(10_000), None, ""), f"wake-{count}")
            time.sleep(0.2)
        gateway.close()
        while wakeups.connected and time.monotonic() < end_s:
            time.sleep(0.05)
        assert not wakeups.connected  # idle: closed
        stop.set()
        thread.join(5)
        assert seen
        assert seen[0].startswith("wake-")


def test_no_websocket_is_no_trouble() -> None:
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    keys = HeldKeys({"paper-main": ExchangeKey("a", "s" * 64)})
    wakeups = Wakeups("ws://127.0.0.1:1/websocket/v1/private", keys, lambda _: None, stop)
    wakeups.want("paper-main")
    wakeups.run()


def test_an_executor_that_is_stopped_while_the_exchange_is_away(tmp_path: Path) -> None:
    stop = threading.Event()
    keys = HeldKeys({"paper-main": ExchangeKey("a", "s" * 64)})
    options = Options(home=tmp_path, address="http://127.0.0.1:1", keys=keys, pocket="paper-main")
    log = MemoryLog()
    log.create_topics([TopicSpec(t.name, t.partitions, t.config) for t in topics.TOPICS.values()])
    threading.Timer(0.3, stop.set).start()
    run_executor(options, log, stop)


# --- what a second look found


def sold(number: int, quantity: int) -> Execution:
    return Execution(f"t{number}", Decimal(100), Decimal(quantity), Decimal(100 * quantity))


def test_an_exit_that_was_given_up_and_sold_after_all_is_told_on_top(journal: Journal) -> None:
    journal.add_intent(intent_of("a"), RECORD)
    for number in (1, 2):
        identifier = f"ob-a-{number}"
        told = events.sent(intent_of("a"), number, identifier, 0)
        assert journal.begin_attempt("a", number, identifier, told, 0)
        attempt = journal.attempt(identifier)
        assert attempt is not None
        journal.settle(attempt, attempt_state="ABSENT", intent_state="RETRY")
    exchange = Exchange()
    desk = desk_of(journal, exchange)
    for number in (2, 1):
        order = order_of(
            f"ob-a-{number}", "done", executed_quantity=Decimal(6), paid_fee=Decimal(3), executions=(sold(number, 6),)
        )
        desk.adopt(order)
        desk.record(order.identifier, order)
    rows = [msgspec.json.decode(row.payload) for row in journal.unpublished()]
    fills = [(row["executed_quantity"], row["executed_funds"], row["paid_fee"]) for row in rows if "fill_id" in row]
    assert [tuple(map(Decimal, amounts)) for amounts in fills] == [(6, 600, 3), (12, 1200, 6)]


def test_a_burning_order_that_a_look_up_finds_is_cancelled(journal: Journal) -> None:
    journal.add_intent(intent_of("a"), RECORD)
    exchange = Exchange()
    exchange.answers = [Unclear("timeout")]
    desk = desk_of(journal, exchange)
    desk.send("a")
    exchange.orders["ob-a-1"] = order_of("ob-a-1", order_type="limit")
    assert [task.kind for task in desk.resolve("ob-a-1")] == ["follow"]
    assert exchange.cancelled == ["u-ob-a-1"]


def test_a_burning_order_is_known_by_its_price_where_a_limit_order_was_wanted(journal: Journal) -> None:
    intent = intent_of("a", order_type="limit", price=Decimal(1000))
    journal.add_intent(intent, RECORD)
    exchange = Exchange()
    exchange.answers = [Unclear("timeout")]
    desk = desk_of(journal, exchange)
    desk.send("a")
    exchange.orders["ob-a-1"] = order_of("ob-a-1", order_type="limit", price=burning_request(intent).price)
    desk.resolve("ob-a-1")
    assert exchange.cancelled == ["u-ob-a-1"]


def test_many_orders_take_few_looks(journal: Journal) -> None:
    exchange = Exchange()
    desk = desk_of(journal, exchange)
    for number in range(250):
        journal.add_intent(intent_of(f"n{number}", quantity=Decimal(1)), RECORD)
        desk.send(f"n{number}")
    looks: list[int] = []
    known = exchange.by_uuids
    exchange.by_uuids = lambda uuids: (looks.append(len(uuids)), known(uuids))[1]  # type: ignore[method-assign]
    exchange.orders["ob-n7-1"] = order_of("ob-n7-1", "cancel")
    assert desk.poll() == [Task("follow", "ob-n7-1"), Task("poll", "paper-main", Rules().follow_slowest_s)]
    assert looks == [250]
    desk.follow("ob-n7-1")
    assert len(journal.attempts("ACKED", pocket="paper-main")) == 249
    assert journal.attempts("ACKED", pocket="another") == []


def test_decisions_behind_one_that_must_wait_are_not_passed_over(journal: Journal) -> None:
    failures: list[Exception] = [DeliveryFailed("the log is away")]

    class Log(MemoryLog):
        def publisher(self, *, linger_ms: float = 5.0) -> Flaky:  # type: ignore[override]
            del linger_ms
            return Flaky(failures)

    log = Log()
    log.create_topics([TopicSpec(t.name, t.partitions, t.config) for t in topics.TOPICS.values()])
    writer = MemoryLog.publisher(log)
    for value in (b"not json", m.encode(intent_of("a")), m.encode(intent_of("b"))):
        writer.publish("order-intents", "paper-main", value)
    tasks: list[Task] = []
    intake = Intake(log, journal, MarketClock(lambda: 0.0, lambda: 0), tasks.append, lambda _: None)
    with pytest.raises(DeliveryFailed):
        intake.step(0.0)
    assert intake.step(0.0) == 3
    assert [task.id for task in tasks] == ["a", "b"]
    assert journal.intents("NEW") == ["a", "b"]
    intake.close()


def test_decisions_that_came_together_are_journalled_together(journal: Journal, memory_log: MemoryLog) -> None:
    memory_log.create_topics([TopicSpec(t.name, t.partitions, t.config) for t in topics.TOPICS.values()])
    writer = memory_log.publisher()
    for value in (*(m.encode(intent_of(name)) for name in "abc"), b"not json", m.encode(intent_of("d"))):
        writer.publish("order-intents", "paper-main", value)
    seen: list[list[str]] = []
    intake = Intake(
        memory_log, journal, MarketClock(lambda: 0.0, lambda: 0), lambda _: seen.append(journal.intents("NEW")),
        lambda _: None,
    )  # fmt: skip
    assert intake.step(0.0) == 5
    assert seen == [["a", "b", "c"]] * 3 + [["a", "b", "c", "d"]]
    intake.close()


def test_a_burning_order_among_the_open_ones_is_cancelled_at_the_start(journal: Journal) -> None:
    journal.add_intent(intent_of("a"), RECORD)
    exchange = Exchange()
    exchange.answers = [Unclear("timeout")]
    desk = desk_of(journal, exchange)
    desk.send("a")
    desk.adopt(order_of("ob-a-1", order_type="limit"))
    assert exchange.cancelled == ["u-ob-a-1"]


def test_a_key_counts_once_it_is_in_its_file(tmp_path: Path) -> None:
    ring = FileKeyRing(tmp_path)
    assert ring.key_of("paper-main") is None
    (tmp_path / "paper-main").touch()
    assert ring.key_of("paper-main") is None
    (tmp_path / "paper-main").write_text("key\n")
    assert ring.key_of("paper-main") == ExchangeKey("paper-main", "key")
    assert ring.key_of("../paper-main") is None
