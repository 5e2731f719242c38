"""Kill switches in a whole executor: real sandbox exchange, real journal and files, with a log and without one."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import observator
from consumers.execute.attempts import Rules
from consumers.execute.executor import run_executor
from consumers.execute.halts_file import HaltFolder, Standing
from consumers.execute.halts_verbs import NO_EXECUTOR, SETTLED, Verbs
from consumers.execute.keyring import ExchangeKey, HeldKeys
from consumers.execute.options import Options
from infra.errors import BadSettings
from infra.kafka import KafkaLog
from infra.log import Log, Slot, TopicSpec
from infra.memory_log import MemoryLog
from infra.servers.kafka import KafkaServer
from infra.settings import Settings
from producers.sandbox.synthetic import Plan
from producers.sandbox.thread import SandboxThread
from streams import messages as m
from streams import topics

RULES = Rules(longest_flight_s=0.5, settle_margin_s=0.1, look_up_every_s=0.05, sweep_every_s=0.2)
NOW = 1_700_000_000_000
NOBODY = "127.0.0.1:1"
"""Where no broker is."""


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxThread]:
    home = tmp_path_factory.mktemp("sandbox")
    with SandboxThread(home, kind="synthetic", plan=Plan(market_count=2), warmup_seconds=0) as sandbox:
        yield sandbox
        assert sandbox.status()["limited"] == {}, "the executor went over the exchange's rate limits"


class Deployment:
    """A run folder, a log, and one life of an executor after the other."""

    def __init__(self, home: Path, sandbox: SandboxThread) -> None:
        self.home = home
        self.sandbox = sandbox
        self.folder = HaltFolder(home)
        self.log = MemoryLog(clock_ms=lambda: time.time_ns() // 1_000_000)
        self.log.create_topics([TopicSpec(t.name, t.partitions, t.config) for t in topics.TOPICS.values()])
        self.account = f"{home.name}".replace("_", "")
        self.count = 0
        self.said: list[str] = []
        self.market = str(sandbox.control("GET", "/v1/market/all")[0]["market"])
        self._life: tuple[threading.Thread, threading.Event] | None = None
        self._failures: list[BaseException] = []

    def start(self, log: Log | None = None) -> "Deployment":
        stop = threading.Event()
        keys = HeldKeys({"paper-main": ExchangeKey(self.sandbox.access_key, self.sandbox.secret_key)})
        options = Options(home=self.home, address=self.sandbox.url, keys=keys, pocket="paper-main", rules=RULES)

        def run() -> None:
            try:
                run_executor(options, log or self.log, stop)
            except BaseException as error:  # noqa: BLE001 - handed to the test's thread
                self._failures.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self._life = thread, stop
        return self

    def end(self) -> None:
        if self._life is not None:
            thread, stop = self._life
            stop.set()
            thread.join(30)
            assert not thread.is_alive()
            self._life = None
        if self._failures:
            raise self._failures[0]

    def verbs(self) -> Verbs:
        return Verbs(Settings(home=self.home, kafka={"bootstrap": NOBODY}), self.said.append)

    def intent(self, **values: Any) -> m.OrderIntent:
        self.count += 1
        fields: dict[str, Any] = {
            "id": f"{self.account}-{self.count}", "account": self.account, "pocket": "paper-main",
            "exchange": "upbit", "market": self.market, "side": "buy", "order_type": "price", "price": None,
            "quantity": None, "funds": Decimal(10000), "time_in_force": "", "purpose": "entry",
            "cause_kind": "signal", "cause_id": str(self.count), "event_ms": NOW, "expires_ms": NOW + 600_000,
            "reason": "test",
        }  # fmt: skip
        return m.OrderIntent(**(fields | values))

    def resting(self, **values: Any) -> m.OrderIntent:
        """A buy far below the market."""
        price = {"order_type": "limit", "funds": None, "price": Decimal(1000), "quantity": Decimal(10)}
        return self.intent(**(price | values))

    def publish(self, intent: m.OrderIntent) -> m.OrderIntent:
        publisher = self.log.publisher()
        publisher.publish("order-intents", "paper-main", m.encode(intent))
        publisher.close()
        return intent

    def kinds(self, intent: m.OrderIntent) -> list[str]:
        return [m.tag_of(type(event)) for event in self.records("order-events") if event.intent_id == intent.id]

    def records(self, topic: str) -> list[Any]:
        slots = [Slot(topic, partition) for partition in range(self.log.partitions(topic))]
        reader = self.log.reader(dict.fromkeys(slots, 0))
        found = []
        while records := reader.read(1000, 0.0):
            found += [topics.decode(topic, record.value) for record in records]
        reader.close()
        return found

    def standing(self, account: str | None = None) -> Standing | None:
        answer = self.folder.answer()
        return None if answer is None else answer.standings.get(account or self.account)

    def orders(self) -> list[dict[str, Any]]:
        return [one for one in self.sandbox.truth() if str(one["identifier"]).startswith(f"ob-{self.account}-")]

    def held(self) -> Decimal:
        """What the pocket has of the coin."""
        coin = self.market.partition("-")[2]
        rows = self.sandbox.control("GET", "/sandbox/truth")["balances"]
        mine = (row for row in rows if (row["account"], row["currency"]) == ("paper-main", coin))
        return sum((Decimal(row["balance"]) + Decimal(row["locked"]) for row in mine), Decimal(0))


def until(check: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.02)


@pytest.fixture
def deployment(tmp_path: Path, sandbox: SandboxThread) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path, sandbox)
    yield deployment
    sandbox.clear_faults()
    deployment.end()


def test_a_halt_closes_settles_survives_and_is_lifted(deployment: Deployment) -> None:
    deployment.start()
    rests = deployment.publish(deployment.resting())
    until(lambda: "order-accepted" in deployment.kinds(rests))
    outcome = deployment.verbs().halt(deployment.account, "no-new-orders", 30)
    assert outcome.code == SETTLED, deployment.said
    assert deployment.kinds(rests)[-1:] == ["order-cancelled"] or deployment.orders()[0]["state"] == "cancel"
    assert outcome.figures["closed_ms"] <= outcome.figures["settled_ms"]
    refused = deployment.publish(deployment.resting())
    until(lambda: deployment.kinds(refused) == ["order-rejected"])
    manual = deployment.publish(deployment.resting(purpose="manual"))
    until(lambda: deployment.kinds(manual) == ["order-rejected"])
    deployment.end()
    deployment.start()
    again = deployment.publish(deployment.resting())
    until(lambda: deployment.kinds(again) == ["order-rejected"])
    assert len(deployment.orders()) == 1
    halts = [record for record in deployment.records("controls") if isinstance(record, m.Halt)]
    assert [(halt.account, halt.kind) for halt in halts] == [(deployment.account, "no-new-orders")]
    lifted = deployment.verbs().resume(deployment.account, has_looked=True, ask=None)
    assert lifted.figures["state"] == "lifted"
    passes = deployment.publish(deployment.resting())
    until(lambda: "order-accepted" in deployment.kinds(passes))
    deployment.verbs().halt(deployment.account, "no-new-orders", 30)


def test_a_request_in_flight_is_waited_for(deployment: Deployment) -> None:
    deployment.start()
    first = deployment.publish(deployment.resting())
    until(lambda: "order-accepted" in deployment.kinds(first))
    deployment.sandbox.fault("late-request", seconds=1.0)
    late = deployment.publish(deployment.resting())
    until(lambda: "order-sent" in deployment.kinds(late))
    halt = deployment.folder.order(m.Halt(account="*", kind="no-new-orders", event_ms=1, by="test"))
    until(lambda: (found := deployment.standing("*")) is not None and found.halt == halt)
    seen: list[Standing] = []

    def is_settled() -> bool:
        seen.append(deployment.standing("*") or seen[-1])
        return seen[-1].is_settled

    until(is_settled)
    assert any(one.in_flight for one in seen)
    assert {order["state"] for order in deployment.orders()} == {"cancel"}
    deployment.folder.order(m.Halt(account="*", kind="lifted", event_ms=2, by="test"))


def test_sell_all_without_a_log_is_done_by_the_executor_alone(deployment: Deployment) -> None:
    """Bought with a log; then it is gone, the executor is restarted, and the halt came while it was down."""
    before = deployment.held()
    deployment.start()
    entry = deployment.publish(deployment.intent())
    until(lambda: "order-filled" in deployment.kinds(entry))
    rests = deployment.publish(deployment.resting())
    until(lambda: "order-accepted" in deployment.kinds(rests))
    assert deployment.held() > before
    deployment.end()
    outcome = deployment.verbs().halt(deployment.account, "sell-all", 30)
    assert outcome.code == NO_EXECUTOR
    waiting = deployment.publish(deployment.resting())
    with ExitStack() as stack:
        log = stack.enter_context(KafkaLog(NOBODY, "none-"))
        deployment.start(log)
        until(lambda: (found := deployment.standing()) is not None and found.is_settled)
        deployment.end()
    assert deployment.held() == before
    assert [order["state"] for order in deployment.orders()] == ["cancel", "cancel"], "a market buy ends so too"
    deployment.start()
    until(lambda: deployment.kinds(waiting) == ["order-rejected"])
    halts = [record for record in deployment.records("controls") if isinstance(record, m.Halt)]
    assert [(halt.account, halt.kind) for halt in halts] == [(deployment.account, "sell-all")]


@contextmanager
def process_of(deployment: Deployment, bootstrap: str, prefix: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """`observator process execute` itself, as the supervisor starts it."""
    sandbox, home = deployment.sandbox, deployment.home
    secrets = home / "run" / "secrets"
    secrets.mkdir(parents=True, exist_ok=True)
    (secrets / sandbox.access_key).write_text(sandbox.secret_key)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OBSERVATOR_")}
    environ |= {"OBSERVATOR_HOME": str(home), "OBSERVATOR_KAFKA__BOOTSTRAP": bootstrap}
    environ |= {"OBSERVATOR_KAFKA__PREFIX": prefix, "OBSERVATOR_SANDBOX__PORT": str(sandbox.port)}
    command = [sys.executable, "-P", "-m", "observator", "process", "execute"]
    with (home / "out").open("wb") as out:
        process = subprocess.Popen(command, env=environ, stdout=out, stderr=out, cwd=Path(observator.__file__).parent)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def test_the_process_closes_cancels_and_sells_without_a_broker(deployment: Deployment) -> None:
    """Bought and left open with a log; then executor and broker are gone, and the executor alone comes back."""
    before = deployment.held()
    deployment.start()
    entry, rests = deployment.publish(deployment.intent()), deployment.publish(deployment.resting())
    until(lambda: "order-filled" in deployment.kinds(entry) and "order-accepted" in deployment.kinds(rests))
    deployment.end()
    with process_of(deployment, NOBODY) as process:
        until(lambda: deployment.folder.is_answered() or process.poll() is not None)
        outcome = deployment.verbs().halt(deployment.account, "sell-all", 60)
        assert outcome.code == SETTLED, (deployment.said, (deployment.home / "out").read_text())
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert deployment.held() == before
    assert {order["state"] for order in deployment.orders()} == {"cancel"}, "a market buy ends so too"
    assert "Traceback" not in (deployment.home / "out").read_text()


@pytest.mark.kafka
def test_the_process_joins_the_log_once_its_topics_are_there(
    deployment: Deployment, broker: KafkaServer, kafka_log: KafkaLog
) -> None:
    with process_of(deployment, broker.bootstrap, kafka_log.prefix) as process:
        until(lambda: deployment.folder.is_answered() or process.poll() is not None)
        until(lambda: "not trading until the log answers" in (deployment.home / "out").read_text())
        kafka_log.create_topics([TopicSpec(t.name, t.partitions, t.config) for t in topics.TOPICS.values()])
        slots = [Slot(name, number) for name in ("manifests", "logs") for number in range(kafka_log.partitions(name))]
        reader, seen = kafka_log.reader(dict.fromkeys(slots, 0)), set[str]()

        def is_there() -> bool:
            seen.update(record.topic for record in reader.read(100, 0.1))
            return len(seen) == 2 or process.poll() is not None

        until(is_there)
        reader.close()
        assert process.poll() is None, (deployment.home / "out").read_text()
    assert "Traceback" not in (deployment.home / "out").read_text()


def test_trade_and_the_executor_together_never_sell_more_than_was_bought(deployment: Deployment) -> None:
    """Nobody sells, so the executor does; trade's own sale comes after all and finds nothing of ours."""
    before = deployment.held()
    deployment.start()
    entry = deployment.publish(deployment.intent())
    until(lambda: "order-filled" in deployment.kinds(entry))
    fills = [one for one in deployment.records("order-events") if isinstance(one, m.OrderFilled)]
    outcome = deployment.verbs().halt(deployment.account, "sell-all", 60)
    assert outcome.code == SETTLED, deployment.said
    assert deployment.held() == before
    late = deployment.intent(
        side="sell", order_type="market", funds=None, quantity=fills[-1].executed_quantity, purpose="protective-exit",
        cause_kind="halt",
    )  # fmt: skip
    deployment.publish(late)
    until(lambda: deployment.kinds(late) == ["order-rejected"])
    assert deployment.held() == before
    sales = [one for one in deployment.records("order-events") if isinstance(one, m.OrderFilled) and one.side == "sell"]
    assert {(one.purpose, one.strategy) for one in sales} == {("protective-exit", "")}


def test_lifting_wants_a_deliberate_act(deployment: Deployment) -> None:
    verbs = deployment.verbs()
    assert verbs.resume("a", has_looked=False, ask=None).figures["state"] == "not-halted"
    verbs.halt("a", "no-new-orders", 1)
    verbs.halt("*", "sell-all", 1)
    for ask in (None, lambda _: "b"):
        with pytest.raises(BadSettings):
            verbs.resume("a", has_looked=False, ask=ask)
    with pytest.raises(BadSettings):
        verbs.resume("*", has_looked=False, ask=lambda _: "*")
    deployment.said.clear()
    outcome = verbs.resume("*", has_looked=False, ask=lambda _: "all")
    assert outcome.figures["still"] == {"a": "no-new-orders"}
    assert deployment.said[-1] == "Still halted: 'a' (no-new-orders)."
    assert verbs.resume("a", has_looked=False, ask=lambda _: " a ").figures["still"] == {}
