"""Somebody else trades in the pocket of a running executor: real sandbox exchange over HTTP, real journal."""

import threading
import time
from collections.abc import Callable, Iterator
from decimal import ROUND_DOWN, Decimal
from pathlib import Path
from typing import Any

import pytest

from consumers.execute.attempts import Rules
from consumers.execute.executor import run_executor
from consumers.execute.gateway import UpbitGateway
from consumers.execute.keyring import ExchangeKey, HeldKeys
from consumers.execute.options import Options
from consumers.execute.venue import Accepted, OrderRequest
from infra.log import Slot, TopicSpec
from infra.memory_log import MemoryLog
from producers.sandbox.synthetic import Plan
from producers.sandbox.thread import SandboxThread
from streams import messages as m
from streams import topics

RULES = Rules(
    longest_flight_s=0.5, settle_margin_s=0.1, look_up_every_s=0.05, sweep_every_s=0.2, look_for_others_s=0.1
)  # fmt: skip
NOW = 1_700_000_000_000


class Scene:
    """An executor, and another hand with the same key."""

    def __init__(self, home: Path, sandbox: SandboxThread) -> None:
        self.log = MemoryLog(clock_ms=lambda: time.time_ns() // 1_000_000)
        self.log.create_topics([TopicSpec(t.name, t.partitions, t.config) for t in topics.TOPICS.values()])
        self.market, self.beside = (str(one["market"]) for one in sandbox.control("GET", "/v1/market/all")[:2])
        self.currency = self.market.partition("-")[2]
        self.name = home.name.replace("_", "")
        self.other = UpbitGateway(sandbox.url, sandbox.access_key, sandbox.secret_key, timeout_s=3.0)
        self.stop = threading.Event()
        self.failures: list[BaseException] = []
        keys = HeldKeys({"paper-main": ExchangeKey(sandbox.access_key, sandbox.secret_key)})
        options = Options(home=home, address=sandbox.url, keys=keys, pocket="paper-main", rules=RULES)
        self.thread = threading.Thread(target=self._run, args=(options,), daemon=True)
        self.thread.start()
        self.count = 0

    def _run(self, options: Options) -> None:
        try:
            run_executor(options, self.log, self.stop)
        except BaseException as error:  # noqa: BLE001 - handed to the test's thread
            self.failures.append(error)

    def end(self) -> None:
        self.stop.set()
        self.thread.join(20)
        self.other.close()
        assert not self.failures

    def publish(self, message: m.Message, topic: str = "order-intents") -> None:
        publisher = self.log.publisher()
        publisher.publish(topic, "paper-main", m.encode(message))
        publisher.close()

    def order(self, **values: Any) -> m.OrderIntent:
        self.count += 1
        fields: dict[str, Any] = {
            "id": f"{self.name[-30:]}{self.count}", "account": "paper", "pocket": "paper-main", "exchange": "upbit",
            "market": self.market, "side": "buy", "order_type": "price", "price": None, "quantity": None,
            "funds": Decimal(20_000), "time_in_force": "", "purpose": "entry", "cause_kind": "signal",
            "cause_id": "c", "event_ms": NOW, "expires_ms": NOW + 600_000, "reason": "test",
        }  # fmt: skip
        intent = m.OrderIntent(**(fields | values))
        self.publish(intent)
        return intent

    def sale(self, quantity: Decimal, purpose: m.Purpose = "protective-exit") -> m.OrderIntent:
        return self.order(side="sell", order_type="market", funds=None, quantity=quantity, purpose=purpose)

    def events(self) -> list[Any]:
        slots = [Slot("order-events", partition) for partition in range(self.log.partitions("order-events"))]
        reader, found = self.log.reader(dict.fromkeys(slots, 0)), []
        while records := reader.read(1000, 0.0):
            found += [topics.decode("order-events", record.value) for record in records]
        reader.close()
        return found

    def last(self, intent: m.OrderIntent) -> Any:
        """The event that ended an order, once it is there."""
        ends = (m.OrderCancelled, m.OrderRejected, m.OrderExpired)

        def find() -> Any:
            for event in self.events():
                is_mine = getattr(event, "intent_id", "") == intent.id
                if is_mine and (isinstance(event, ends) or (isinstance(event, m.OrderFilled) and event.is_final)):
                    return event
            return None

        until(lambda: find() is not None)
        return find()

    def pauses(self) -> list[m.AccountPaused]:
        return [event for event in self.events() if isinstance(event, m.AccountPaused)]

    def sell_by_hand(self, quantity: Decimal) -> None:
        request = OrderRequest(self.market, "ask", "market", None, quantity, "")
        assert isinstance(self.other.place(request, f"hand-{time.time_ns()}"), Accepted)

    def resume(self) -> None:
        self.publish(m.AccountResumed(account="paper", event_ms=NOW, by="test"), "controls")


def until(check: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxThread]:
    home = tmp_path_factory.mktemp("sandbox")
    with SandboxThread(home, kind="synthetic", plan=Plan(market_count=2), warmup_seconds=0) as sandbox:
        yield sandbox


@pytest.fixture
def scene(tmp_path: Path, sandbox: SandboxThread) -> Iterator[Scene]:
    scene = Scene(tmp_path, sandbox)
    yield scene
    scene.end()


def test_a_stop_sells_what_a_person_left_of_a_strategys_coins(scene: Scene) -> None:
    """Half is sold by hand through us, so nothing pauses; and half of the next by another hand, before a resumption."""
    bought = scene.last(scene.order()).executed_quantity
    half = (bought / 2).quantize(Decimal("0.00000001"))
    assert isinstance(scene.last(scene.sale(half, "manual")), m.OrderFilled)
    assert scene.last(scene.sale(bought)).executed_quantity == bought - half
    assert scene.last(scene.sale(half)).name == "nothing-there"
    assert scene.pauses() == []
    bought = scene.last(scene.order()).executed_quantity
    half = (bought / 2).quantize(Decimal("0.00000001"))
    scene.sell_by_hand(half)
    until(lambda: bool(scene.pauses()))
    scene.resume()
    until(lambda: isinstance(scene.last(scene.order(market=scene.beside)), m.OrderFilled))
    assert scene.last(scene.sale(bought)).executed_quantity == bought - half


def test_coins_of_ours_are_sold_elsewhere(scene: Scene) -> None:
    """Entries stop until a person resumes; the protective exit sells what is left, and no more."""
    bought = scene.last(scene.order())
    half = (bought.executed_quantity / 2).quantize(Decimal("0.00000001"))
    scene.sell_by_hand(half)
    until(lambda: bool(scene.pauses()))
    assert (scene.pauses()[0].reason, scene.pauses()[0].account) == ("coins-missing", "paper")
    assert scene.last(scene.order()).name == "paused"
    sold = scene.last(scene.sale(bought.executed_quantity))
    assert isinstance(sold, m.OrderFilled)
    assert sold.executed_quantity == bought.executed_quantity - half
    assert scene.last(scene.sale(half)).name == "nothing-there"
    scene.resume()
    until(lambda: isinstance(scene.last(scene.order()), m.OrderFilled))
    time_is_up = time.monotonic() + 1.0
    until(lambda: time.monotonic() > time_is_up)  # some more looks: what was accepted stops nobody again
    assert len(scene.pauses()) == 1


def test_what_was_there_before_and_what_is_not_ours_is_left_alone(scene: Scene) -> None:
    """The exit sells no coin that was there before; an exit beyond what was bought is refused."""
    there = sum((one.available for one in scene.other.holdings() if one.currency == scene.currency), Decimal(0))
    request = OrderRequest(scene.market, "bid", "price", Decimal(50_000), None, "")
    assert isinstance(scene.other.place(request, f"hand-{time.time_ns()}"), Accepted)
    bought = scene.last(scene.order())
    assert scene.last(scene.sale(bought.executed_quantity * 2)).name == "not-ours"
    assert isinstance(scene.last(scene.sale(bought.executed_quantity)), m.OrderFilled)
    left = sum((one.available for one in scene.other.holdings() if one.currency == scene.currency), Decimal(0))
    assert left > there


def test_a_resting_order_of_ours_is_cancelled_elsewhere(scene: Scene) -> None:
    bought = scene.last(scene.order())
    rests = scene.order(
        side="sell", order_type="limit", funds=None, quantity=bought.executed_quantity, purpose="exit",
        price=(bought.price * 2).quantize(Decimal(1), ROUND_DOWN) // 1000 * 1000,
    )  # fmt: skip
    until(lambda: any(getattr(event, "intent_id", "") == rests.id for event in scene.events()))
    until(lambda: any(order.identifier == f"ob-{rests.id}-1" for order in scene.other.open_orders()))
    order = next(one for one in scene.other.open_orders() if one.identifier == f"ob-{rests.id}-1")
    scene.other.cancel(order.uuid)
    assert isinstance(scene.last(rests), m.OrderCancelled)
    until(lambda: [pause.reason for pause in scene.pauses()] == ["order-ended"])
    assert isinstance(scene.last(scene.sale(bought.executed_quantity)), m.OrderFilled)
