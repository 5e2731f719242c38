"""The whole executor in threads: in-memory log, real sandbox exchange over HTTP, real journal."""

import contextlib
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from consumers.execute.attempts import Rules
from consumers.execute.executor import run_executor
from consumers.execute.intake import GROUP
from consumers.execute.journal import JournalFailed
from consumers.execute.keyring import ExchangeKey, HeldKeys
from consumers.execute.limits import RiskLimits
from consumers.execute.options import Options, manifest_of, options_of
from infra.errors import AlreadyRunning
from infra.log import Slot, TopicSpec
from infra.memory_log import MemoryLog
from infra.settings import Settings
from producers.sandbox.synthetic import Plan
from producers.sandbox.thread import SandboxThread
from streams import messages as m
from streams import topics

RULES = Rules(longest_flight_s=0.5, settle_margin_s=0.1, look_up_every_s=0.05, sweep_every_s=0.2)
NOW = 1_700_000_000_000


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxThread]:
    home = tmp_path_factory.mktemp("sandbox")
    with SandboxThread(home, kind="synthetic", plan=Plan(market_count=2), warmup_seconds=0) as sandbox:
        yield sandbox
        assert sandbox.status()["limited"] == {}, "the executor went over the exchange's rate limits"


def market_of(sandbox: SandboxThread) -> str:
    return str(sandbox.control("GET", "/v1/market/all")[0]["market"])


class Running:
    """An executor in a thread over a log that outlives it."""

    def __init__(self, home: Path, sandbox: SandboxThread, **options: Any) -> None:
        self.log = MemoryLog(clock_ms=lambda: time.time_ns() // 1_000_000)
        self.log.create_topics([TopicSpec(t.name, t.partitions, t.config) for t in topics.TOPICS.values()])
        self.sandbox = sandbox
        self.options = Options(
            home=home,
            address=sandbox.url,
            keys=HeldKeys({"paper-main": ExchangeKey(sandbox.access_key, sandbox.secret_key)}),
            pocket="paper-main",
            rules=RULES,
            **options,
        )
        self.stop = threading.Event()
        self.failure: BaseException | None = None
        self.count = 0
        self.prefix = f"{home.name}-"

    def start(self) -> "Running":
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        return self

    def _run(self) -> None:
        try:
            run_executor(self.options, self.log, self.stop, manifest=manifest_of(Settings(home=self.options.home)))
        except BaseException as error:  # noqa: BLE001 - handed to the test's thread
            self.failure = error

    def end(self) -> None:
        self.stop.set()
        self.thread.join(20)
        assert not self.thread.is_alive()
        if self.failure is not None:
            raise self.failure

    def publish(self, message: m.Message | bytes, topic: str = "order-intents") -> None:
        publisher = self.log.publisher()
        publisher.publish(topic, "paper-main", message if isinstance(message, bytes) else m.encode(message))
        publisher.close()

    def intent(self, **values: Any) -> m.OrderIntent:
        self.count += 1
        fields: dict[str, Any] = {
            "id": f"{self.prefix}{self.count}".replace("_", ""),
            "account": "paper",
            "pocket": "paper-main",
            "exchange": "upbit",
            "market": values.get("market") or market_of(self.sandbox),
            "side": "buy",
            "order_type": "price",
            "price": None,
            "quantity": None,
            "funds": Decimal(10000),
            "time_in_force": "",
            "purpose": "entry",
            "cause_kind": "signal",
            "cause_id": str(self.count),
            "event_ms": NOW,
            "expires_ms": NOW + 60_000,
            "reason": "test",
        }
        return m.OrderIntent(**(fields | values))

    def records(self, topic: str) -> list[Any]:
        slots = [Slot(topic, partition) for partition in range(self.log.partitions(topic))]
        reader = self.log.reader(dict.fromkeys(slots, 0))
        found = []
        while records := reader.read(1000, 0.0):
            found += [topics.decode(topic, record.value) for record in records]
        reader.close()
        return found

    def events(self, intent: m.OrderIntent) -> list[Any]:
        return [event for event in self.records("order-events") if getattr(event, "intent_id", "") == intent.id]

    def kinds(self, intent: m.OrderIntent) -> list[str]:
        return [m.tag_of(type(event)) for event in self.events(intent)]

    def last(self, intent: m.OrderIntent) -> str:
        return ["", *self.kinds(intent)][-1]


def until(check: Callable[[], bool], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.02)


@pytest.fixture
def running(tmp_path: Path, sandbox: SandboxThread) -> Iterator[Running]:
    running = Running(tmp_path, sandbox).start()
    yield running
    sandbox.clear_faults()
    running.end()


def bought(running: Running) -> m.OrderFilled:
    """Buy something and return the last fill."""
    intent = running.intent()
    running.publish(intent)
    until(lambda: "order-filled" in running.kinds(intent) and running.events(intent)[-1].is_final)
    last: m.OrderFilled = running.events(intent)[-1]
    return last


def test_buy_and_sell(running: Running) -> None:
    entry = running.intent()
    running.publish(entry)
    running.publish(entry)
    until(lambda: "order-filled" in running.kinds(entry))
    assert running.kinds(entry)[:2] == ["order-sent", "order-accepted"]
    fill = running.events(entry)[-1]
    assert fill.is_final
    assert fill.side == "buy"
    assert Decimal(9900) < fill.executed_funds <= Decimal(10000)
    assert fill.paid_fee == fill.executed_funds * Decimal("0.0005")
    leave = running.intent(
        side="sell", order_type="market", funds=None, quantity=fill.executed_quantity, purpose="exit", expires_ms=0
    )
    running.publish(leave)
    until(lambda: "order-filled" in running.kinds(leave))
    assert running.events(leave)[-1].is_final
    truth = [order for order in running.sandbox.truth() if entry.id in order["identifier"]]
    assert len(truth) == 1
    until(lambda: any(balance.currency == "KRW" for balance in running.records("balances")))
    assert [manifest.process for manifest in running.records("manifests")] == ["execute"]
    slots = [Slot("order-intents", partition) for partition in range(12)]
    until(lambda: sum(running.log.committed(GROUP, slots).values()) == 3)


def test_a_transaction_leaves_no_lag(running: Running) -> None:
    transactor = running.log.transactor("trade-test")
    intent = running.intent()
    transactor.begin()
    transactor.publish("order-intents", "paper-main", m.encode(intent))
    transactor.commit(None, "trade", {})
    until(lambda: "order-filled" in running.kinds(intent))
    slots = [Slot("order-intents", partition) for partition in range(12)]
    ends = {slot: end for slot, (_, end) in running.log.bounds(slots).items() if end}
    until(lambda: running.log.committed(GROUP, ends) == ends)


def test_limit_order_and_cancel(running: Running) -> None:
    price = Decimal(1000)
    entry = running.intent(order_type="limit", price=price, quantity=Decimal(10), funds=None)
    running.publish(entry)
    until(lambda: running.kinds(entry) == ["order-sent", "order-accepted"])
    running.publish(
        m.CancelIntent(
            id=f"c-{entry.id}",
            account="paper",
            pocket="paper-main",
            intent_id=entry.id,
            event_ms=NOW,
            reason="test",
        )
    )
    until(lambda: running.last(entry) == "order-cancelled")
    assert running.events(entry)[-1].executed_quantity == 0
    running.publish(
        m.CancelIntent(
            id="c-nothing", account="paper", pocket="paper-main", intent_id="nobody", event_ms=NOW, reason="test"
        )
    )
    with contextlib.closing(sqlite3.connect(running.options.journal_path)) as database:
        until(lambda: database.execute("SELECT DISTINCT state FROM cancel").fetchall() == [("DONE",)])


def order_at(running: Running, intent: m.OrderIntent) -> dict[str, Any]:
    found = [order for order in running.sandbox.truth() if f"-{intent.id}-" in str(order["identifier"])]
    assert len(found) == 1
    return dict(found[0])


def test_cancel_and_replace(running: Running) -> None:
    values: dict[str, Any] = {"order_type": "limit", "quantity": Decimal(10), "funds": None}
    old = running.intent(price=Decimal(1000), **values)
    running.publish(old)
    until(lambda: running.kinds(old) == ["order-sent", "order-accepted"])
    new = running.intent(price=Decimal(2000), replaces=old.id, **values)
    running.publish(new)
    until(lambda: running.last(old) == "order-cancelled" and "order-accepted" in running.kinds(new))
    assert running.kinds(new) == ["order-sent", "order-accepted"]  # no doubt is told of what is as it must be
    assert (order_at(running, old)["state"], order_at(running, new)["state"]) == ("cancel", "wait")
    less = running.intent(price=Decimal(1500), replaces=new.id, **(values | {"quantity": Decimal(6)}))
    running.publish(less)
    until(lambda: running.last(new) == "order-cancelled" and "order-accepted" in running.kinds(less))
    states = [order_at(running, intent)["state"] for intent in (old, new, less)]
    assert states == ["cancel", "cancel", "wait"]
    late = running.intent(price=Decimal(1000), replaces=old.id, **values)
    running.publish(late)
    until(lambda: "order-accepted" in running.kinds(late))  # it was cancelled with all of it left
    done = bought(running)
    never = running.intent(price=Decimal(1000), replaces=done.intent_id, **values)
    running.publish(never)
    until(lambda: running.kinds(never) == ["order-rejected"])
    assert running.events(never)[0].name == "nothing-to-replace"


@pytest.mark.parametrize("name", ["lost-answer", "lost-request"])
def test_an_unclear_cancel_and_replace_leaves_one_order(running: Running, name: str) -> None:
    values: dict[str, Any] = {"order_type": "limit", "quantity": Decimal(10), "funds": None}
    old = running.intent(price=Decimal(1000), **values)
    running.publish(old)
    until(lambda: running.kinds(old) == ["order-sent", "order-accepted"])
    running.sandbox.fault(name, path="/v1/orders/cancel_and_new")
    new = running.intent(price=Decimal(2000), replaces=old.id, **values)
    running.publish(new)
    until(lambda: running.last(new) in {"order-accepted", "order-expired"})
    open_ones = [order for order in running.sandbox.truth() if order["state"] == "wait"]
    mine = [order for order in open_ones if any(f"-{one.id}-" in str(order["identifier"]) for one in (old, new))]
    assert len(mine) == 1
    if name == "lost-answer":
        until(lambda: running.last(old) == "order-cancelled")


def test_best_orders(running: Running) -> None:
    entry = running.intent(order_type="best", time_in_force="ioc")
    running.publish(entry)
    until(lambda: running.last(entry) in {"order-filled", "order-cancelled"})
    held = running.events(entry)[-1].executed_quantity
    assert held > 0
    until(lambda: order_at(running, entry)["state"] in {"done", "cancel"})
    leave = running.intent(
        side="sell", order_type="best", time_in_force="fok", quantity=held, funds=None, purpose="exit"
    )
    running.publish(leave)
    until(lambda: running.last(leave) in {"order-filled", "order-cancelled"})


def test_more_than_was_bought_here_is_not_sold(running: Running) -> None:
    fill = bought(running)
    most = fill.executed_quantity
    leave = running.intent(
        side="sell", order_type="market", funds=None, quantity=most + 1, purpose="protective-exit", strategy=""
    )
    running.publish(leave)
    until(lambda: running.kinds(leave) == ["order-rejected"])
    assert running.events(leave)[0].name == "not-ours"
    other = running.intent(
        side="sell", order_type="market", funds=None, quantity=most, purpose="exit", strategy="another"
    )
    running.publish(other)
    until(lambda: running.kinds(other) == ["order-rejected"])


def test_refused_by_the_exchange(running: Running) -> None:
    entry = running.intent(order_type="limit", price=Decimal("1000.5"), quantity=Decimal(10), funds=None)
    running.publish(entry)
    until(lambda: "order-rejected" in running.kinds(entry))
    assert running.events(entry)[-1].name == "invalid_price_bid"


@pytest.mark.parametrize("name", ["lost-answer", "late-answer", "server-error"])
def test_an_answer_that_never_came(running: Running, name: str) -> None:
    values = {"is_done": True} if name == "server-error" else {}
    running.sandbox.fault(name, seconds=4.0, **values)
    entry = running.intent()
    running.publish(entry)
    until(lambda: "order-filled" in running.kinds(entry))
    assert "order-unknown" in running.kinds(entry)
    assert running.kinds(entry).count("order-accepted") == 1


def test_a_lost_entry_expires_and_a_lost_exit_does_not(running: Running) -> None:
    fill = bought(running)
    running.sandbox.fault("lost-request")
    entry = running.intent()
    running.publish(entry)
    until(lambda: "order-expired" in running.kinds(entry))
    running.sandbox.fault("lost-request")
    leave = running.intent(
        side="sell", order_type="market", funds=None, quantity=fill.executed_quantity, purpose="protective-exit"
    )
    running.publish(leave)
    until(lambda: "order-filled" in running.kinds(leave))
    assert [event.attempt for event in running.events(leave) if isinstance(event, m.OrderSent)] == [1, 2]


def test_an_exit_without_burning_waits_out_the_flight(running: Running) -> None:
    fill = bought(running)
    running.sandbox.control("POST", "/sandbox/switches", {"burn_refused_identifiers": False})
    try:
        running.sandbox.fault("late-request", seconds=0.4)
        running.sandbox.fault("lost-answer")
        leave = running.intent(
            side="sell", order_type="market", funds=None, quantity=fill.executed_quantity, purpose="exit"
        )
        running.publish(leave)
        until(lambda: "order-filled" in running.kinds(leave))
        accepted = [order for order in running.sandbox.truth() if leave.id in order["identifier"]]
        assert len(accepted) == 1
    finally:
        running.sandbox.control("POST", "/sandbox/switches", {"burn_refused_identifiers": True})


def test_a_late_request_is_ours(tmp_path: Path, sandbox: SandboxThread) -> None:
    running = Running(tmp_path, sandbox, timeout_s=0.2).start()
    sandbox.fault("late-request", seconds=2.0)
    entry = running.intent()
    running.publish(entry)
    until(lambda: "order-expired" in running.kinds(entry))
    until(lambda: "order-filled" in running.kinds(entry))
    kinds = running.kinds(entry)
    assert kinds.index("order-expired") < kinds.index("order-accepted")
    running.end()


def test_too_many_requests_only_delays_an_exit(running: Running) -> None:
    fill = bought(running)
    running.sandbox.fault("rate-limited")
    leave = running.intent(
        side="sell", order_type="market", funds=None, quantity=fill.executed_quantity, purpose="exit"
    )
    running.publish(leave)
    until(lambda: "order-filled" in running.kinds(leave))
    running.sandbox.fault("rate-limited")
    entry = running.intent()
    running.publish(entry)
    until(lambda: "order-rejected" in running.kinds(entry))


def test_a_slow_answer_to_an_entry_does_not_hold_up_an_exit(running: Running) -> None:
    fill = bought(running)
    running.sandbox.fault("late-answer", seconds=2.5)
    entry = running.intent()
    running.publish(entry)
    until(lambda: running.kinds(entry) == ["order-sent"])
    began_s = time.monotonic()
    leave = running.intent(
        side="sell", order_type="market", funds=None, quantity=fill.executed_quantity, purpose="protective-exit"
    )
    running.publish(leave)
    until(lambda: "order-filled" in running.kinds(leave))
    assert running.kinds(entry) == ["order-sent"]
    assert time.monotonic() - began_s < 2.5
    until(lambda: "order-filled" in running.kinds(entry))


def test_an_entry_does_not_wait_while_another_one_is_looked_at(running: Running) -> None:
    running.sandbox.fault("late-answer", method="GET", path="/v1/order", seconds=2.5)
    first, second = running.intent(), running.intent()
    running.publish(first)
    until(lambda: any(row["drawn"] for row in running.sandbox.control("GET", "/sandbox/faults")["faults"]))
    running.publish(second)
    until(lambda: "order-accepted" in running.kinds(second))
    assert running.kinds(first) == ["order-sent", "order-accepted"]
    until(lambda: "order-filled" in running.kinds(first) and "order-filled" in running.kinds(second))


def test_stale_halted_too_large_and_unreadable(running: Running) -> None:
    running.publish(
        m.Market(
            exchange="upbit",
            market=market_of(running.sandbox),
            event_ms=NOW,
            tick_size=Decimal(1),
            minimum_total=Decimal(5000),
            maximum_total=Decimal(10**9),
        ),
        "markets",
    )
    running.publish(b'{"type":"nonsense"}')
    running.publish(b"\xff\xfe")
    running.publish(m.Halt(account="other", kind="sell-all", event_ms=NOW, by="test"), "controls")
    large = running.intent(funds=Decimal(2_000_000))
    stale = running.intent(expires_ms=NOW - 1)
    running.publish(large)
    running.publish(stale)
    until(lambda: running.kinds(large) == ["order-rejected"] and running.kinds(stale) == ["order-expired"])
    assert running.events(large)[0].name == "over-maximum"
    until(lambda: len(running.records("dead-letters")) == 2)
    running.publish(m.Halt(account="*", kind="no-new-orders", event_ms=NOW, by="test"), "controls")
    running.end()
    running.start()
    halted = running.intent()
    running.publish(halted)
    until(lambda: running.kinds(halted) == ["order-rejected"])
    assert running.events(halted)[0].name == "halted"
    running.publish(m.Halt(account="*", kind="lifted", event_ms=NOW + 1, by="test"), "controls")
    small = running.intent(funds=Decimal(3000))
    time.sleep(0.2)
    running.publish(small)
    until(lambda: running.kinds(small) == ["order-rejected"])
    assert running.events(small)[0].name == "under-minimum"


def test_only_one(running: Running) -> None:
    until(running.options.journal_path.exists)
    with pytest.raises(AlreadyRunning, match="another order executor"):
        run_executor(running.options, running.log, threading.Event())


def test_a_journal_that_cannot_be_written_ends_the_process(tmp_path: Path, sandbox: SandboxThread) -> None:
    running = Running(tmp_path, sandbox).start()
    fill = bought(running)
    with contextlib.closing(sqlite3.connect(running.options.journal_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        running.publish(running.intent())
        until(lambda: not running.thread.is_alive(), 30)
        other.execute("ROLLBACK")
    assert isinstance(running.failure, JournalFailed)
    running.failure = None
    running.start()
    leave = running.intent(
        side="sell", order_type="market", funds=None, quantity=fill.executed_quantity, purpose="exit"
    )
    running.publish(leave)
    until(lambda: "order-filled" in running.kinds(leave))
    running.end()


@pytest.mark.postgres
def test_on_postgresql(tmp_path: Path, sandbox: SandboxThread, empty_postgres: Any) -> None:
    first = Running(tmp_path / "first", sandbox, database=empty_postgres.address, lease_s=2.0).start()
    fill = bought(first)
    second = Running(tmp_path / "second", sandbox, database=empty_postgres.address, lease_s=2.0)
    second.log, second.count = first.log, 100
    second.start()  # waits for the lease
    leave = first.intent(side="sell", order_type="market", funds=None, quantity=fill.executed_quantity, purpose="exit")
    first.publish(leave)
    until(lambda: "order-filled" in first.kinds(leave))
    assert second.thread.is_alive()
    first.end()
    bought(second)  # it took over
    empty_postgres.stop()
    try:
        until(lambda: not second.thread.is_alive(), 30)
        assert isinstance(second.failure, JournalFailed)
        second.failure = None
        second.start()  # waits for the database
        waiting = second.intent()
        second.publish(waiting)
        time.sleep(0.5)
        assert second.kinds(waiting) == []
    finally:
        empty_postgres.start()
    until(lambda: "order-filled" in second.kinds(waiting))
    second.end()


def test_limits_per_minute(tmp_path: Path, sandbox: SandboxThread) -> None:
    running = Running(tmp_path, sandbox, limits=RiskLimits(orders_per_minute=1), has_websocket=False).start()
    first, second = running.intent(), running.intent()
    running.publish(first)
    until(lambda: "order-filled" in running.kinds(first))
    running.publish(second)
    until(lambda: running.kinds(second) == ["order-rejected"])
    running.end()


def test_the_process_entry(tmp_path: Path) -> None:
    """In a process of its own: the guard against the real exchange cannot be taken back."""
    code = f"""
import threading
from pathlib import Path
from consumers.execute.executor import run
from infra.log import TopicSpec
from infra.memory_log import MemoryLog
from infra.settings import Settings
from streams import topics
log = MemoryLog()
log.create_topics([TopicSpec(t.name, t.partitions, t.config) for t in topics.TOPICS.values()])
stop = threading.Event()
threading.Timer(0.5, stop.set).start()
run(Settings(home=Path({str(tmp_path)!r})), log, stop)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    options = options_of(Settings(home=tmp_path))
    assert options.address.startswith("http://127.0.0.1:")
    assert options.journal_place == tmp_path / "db" / "execution.sqlite"
    assert "hush" not in repr(ExchangeKey("pocket", "hush"))
