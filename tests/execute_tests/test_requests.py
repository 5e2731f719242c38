"""People's requests through the whole executor: real Kafka, real sandbox exchange, real journal."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import observator
from consumers.execute.attempts import Rules
from consumers.execute.executor import run_executor
from consumers.execute.keyring import FileKeyRing
from consumers.execute.options import Options
from consumers.execute.requests.answers import row_of
from consumers.execute.requests.assistant import is_control
from consumers.execute.requests.form import Typed
from consumers.execute.requests.verbs import Counter
from infra.errors import BadSettings, Stop
from infra.kafka import KafkaLog
from infra.log import TopicSpec, slots_of
from infra.settings import Settings
from producers.sandbox.synthetic import Plan
from producers.sandbox.thread import SandboxThread
from streams import messages as m
from streams import topics
from streams.market.features import NAMES, SCHEMA

pytestmark = pytest.mark.kafka

RULES = Rules(longest_flight_s=0.5, settle_margin_s=0.1, look_up_every_s=0.05, sweep_every_s=0.2)
POCKET = "paper-main"
NEEDED = (
    "order-intents", "order-events", "order-requests", "controls", "markets", "balances", "dead-letters", "orderbooks",
    "features", "signals", "commands", "manifests",
)  # fmt: skip
LATE_MS = 8_000
D = Decimal


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxThread]:
    home = tmp_path_factory.mktemp("sandbox")
    with SandboxThread(home, kind="synthetic", plan=Plan(market_count=2), warmup_seconds=0) as sandbox:
        yield sandbox
        assert sandbox.status()["limited"] == {}, "the executor went over the exchange's rate limits"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def until(check: Callable[[], Any], seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.03)
    return found


class Running:
    """An executor in a thread over a log that outlives it."""

    def __init__(self, home: Path, sandbox: SandboxThread, log: KafkaLog) -> None:
        log.create_topics(
            [TopicSpec(name, topics.TOPICS[name].partitions, topics.TOPICS[name].config) for name in NEEDED]
        )
        self.log, self.sandbox, self.home = log, sandbox, home
        self.options = Options(
            home=home,
            address=sandbox.url,
            keys=FileKeyRing(sandbox.configuration.home / "run" / "secrets"),
            pocket=POCKET,
            rules=RULES,
            late_request_ms=LATE_MS,
            has_websocket=False,
        )
        self.market = str(sandbox.control("GET", "/v1/market/all")[0]["market"])
        self.failure: BaseException | None = None
        self.count = 0
        self.read: list[Any] = []
        self.publisher = log.publisher(linger_ms=0)
        slots = slots_of(log, ["order-events"])
        self._reader = log.reader(dict.fromkeys(slots, 0))

    def start(self) -> "Running":
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        return self

    def _run(self) -> None:
        try:
            run_executor(self.options, self.log, self.stop)
        except BaseException as error:  # noqa: BLE001 - handed to the test's thread
            self.failure = error

    def end(self) -> None:
        self.stop.set()
        self.thread.join(20)
        assert not self.thread.is_alive()
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        self._reader.close()
        self.publisher.close()

    def publish(self, message: m.Message | bytes, topic: str = "order-requests", key: str = POCKET) -> None:
        self.publisher.publish(topic, key, message if isinstance(message, bytes) else m.encode(message))
        self.publisher.flush(60)

    def request(self, *, is_control_wanted: bool = False, **values: Any) -> m.OrderRequested:
        """One whose first firing is in the wanted group."""
        while True:
            self.count += 1
            name = f"{self.home.name}-{self.count}".replace("_", "")
            if is_control(name, 1) == is_control_wanted:
                break
        fields: dict[str, Any] = {
            "id": name,
            "account": "paper",
            "pocket": POCKET,
            "exchange": "upbit",
            "market": self.market,
            "side": "buy",
            "order_type": "price",
            "funds": D(10_000),
            "is_assisted": False,
            "event_ms": now_ms(),
            "by": "test",
        }
        return m.OrderRequested(**(fields | values))

    def ask(self, **values: Any) -> m.OrderRequested:
        request = self.request(**values)
        self.publish(request)
        return request

    def events(self) -> list[Any]:
        if self.failure is not None:
            raise self.failure
        while records := self._reader.read(1000, 0.0):
            self.read += [topics.decode("order-events", record.value) for record in records]
        return self.read

    def told(self, request: m.OrderRequested) -> list[m.RequestTold]:
        return [event for event in self.events() if isinstance(event, m.RequestTold) and event.id == request.id]

    def states(self, request: m.OrderRequested) -> list[str]:
        return [event.state for event in self.told(request)]

    def ends(self, request: m.OrderRequested, state: str = "done") -> m.RequestTold:
        until(lambda: state in self.states(request))
        return next(event for event in self.told(request) if event.state == state)

    def orders(self, request: m.OrderRequested, number: int = 1) -> list[dict[str, Any]]:
        """What the exchange accepted for one firing, first leg to last."""
        names = [f"{request.id}/{number}", *(f"{request.id}/{number}/{leg}" for leg in range(2, 9))]
        ids = [m.intent_id("paper", "request", name, "manual") for name in names]
        truth = {order["identifier"].split("-")[1]: order for order in self.sandbox.truth()}
        return [truth[of] for of in ids if of in truth]

    def book(self, bid: float, ask: float, size: float = 1e9) -> None:
        self.publish(
            m.OrderBook(
                exchange="upbit", market=self.market, source="t", session=1, exchange_ms=now_ms(), received_ns=0,
                bid_prices=[bid], bid_sizes=[size], ask_prices=[ask], ask_sizes=[size],
            ),
            "orderbooks",
            m.key_of("upbit", self.market),
        )  # fmt: skip

    def lean(self, imbalance: float, expected_bp: float) -> None:
        """A feature row and a forecast."""
        key = m.key_of("upbit", self.market)
        values: list[float | None] = [0.0] * len(NAMES)
        values[NAMES.index("imbalance_l5")] = imbalance
        row = m.Features(
            exchange="upbit", market=self.market, bin_ms=now_ms(), grid_ms=1000, schema=SCHEMA, source="t", session=1,
            n_bins=300, n_books=1, n_trades=0, mid=None, spread=None, values=values, levels=[], accumulators=[],
        )  # fmt: skip
        self.publish(row, "features", key)
        for horizon_ms, bp in ((5000, expected_bp), (60_000, -expected_bp)):
            signal = m.Signal(
                id="s", exchange="upbit", market=self.market, bin_ms=row.bin_ms, horizon_ms=horizon_ms, schema=SCHEMA,
                model_id="t", expected_bp=bp, sigma_bp=1.0, mid=1.0, is_licensed=False, feed="synthetic",
            )  # fmt: skip
            self.publish(signal, "signals", key)


@pytest.fixture
def running(tmp_path: Path, sandbox: SandboxThread, kafka_log: KafkaLog) -> Iterator[Running]:
    running = Running(tmp_path, sandbox, kafka_log).start()
    running.ends(running.ask(funds=D(1)), "refused")  # it takes requests
    yield running
    sandbox.clear_faults()
    running.end()
    running.close()


def test_buy_now_once_although_it_comes_twice(running: Running) -> None:
    request = running.ask()
    running.publish(request)
    done = running.ends(request)
    assert running.states(request) == ["waiting", "fired", "done"]
    assert done.funds is not None
    assert D(9_900) < done.funds <= D(10_000)
    assert (done.saved, done.is_control) == (None, False)
    assert len(running.orders(request)) == 1
    sent = [event for event in running.events() if isinstance(event, m.OrderSent)]
    assert [event.intent_id for event in sent] == [done.intent_id]
    assert done.intent_id == m.intent_id("paper", "request", f"{request.id}/1", "manual")


def test_refusals_and_an_unreadable_record(running: Running) -> None:
    small = running.ask(funds=D(4_000))
    running.publish(b'{"type":"nonsense"}')
    off_tick = running.ask(order_type="limit", price=D("100000.5"), quantity=D(1), funds=None)
    assert running.ends(small, "refused").reason == "under-minimum"
    assert running.ends(off_tick, "refused").values["above"] == "100100"
    rich = running.ask(funds=D(900_000_000))
    refused = running.ends(rich, "refused")
    assert refused.reason == "refused"
    assert refused.values["name"]
    running.publish(m.RequestCancelled(account="paper", pocket=POCKET, request_id="no", event_ms=1, by="t"))
    nobody = running.request(id="no")
    assert running.ends(nobody, "refused").reason == "no-request"
    assert running.orders(small) == running.orders(off_tick) == running.orders(rich) == []
    slots = slots_of(running.log, ["dead-letters"])
    until(lambda: sum(end for _, end in running.log.bounds(slots).values()) == 1)


def test_a_schedule_fires_once_each_over_a_restart_and_what_is_too_old_is_missed(running: Running) -> None:
    at_ms = now_ms() + 3000
    daily = running.ask(at_ms=at_ms, every_ms=86_400_000, times=3)
    assert running.ends(daily, "waiting").reason == "waits-for-time"
    running.end()
    time.sleep(max(0.0, (at_ms - now_ms()) / 1000))
    running.start()
    until(lambda: running.states(daily)[-2:] == ["fired", "waiting"])
    assert running.told(daily)[-1].reason == "done"
    assert len(running.orders(daily, 1)) == 1
    old = running.ask(event_ms=now_ms() - LATE_MS - 1000)
    assert running.ends(old, "missed").values == {"missed": "1"}
    often = running.ask(at_ms=now_ms() - 9_500, every_ms=3000, times=5)
    until(lambda: "done" in running.states(often), 40)
    late = [event for event in running.told(often) if event.reason == "late"]
    assert [event.values["missed"] for event in late] == ["3"]
    assert [len(running.orders(often, number)) for number in range(1, 6)] == [0, 0, 0, 1, 1]


def test_at_a_price_from_the_feed_and_over_rest_where_it_is_silent(running: Running) -> None:
    ask = running.sandbox.control("GET", f"/v1/orderbook?markets={running.market}")[0]["orderbook_units"][0][
        "ask_price"
    ]
    over_rest = running.ask(trigger="at-or-below", trigger_price=D(str(ask)) * 2)
    running.ends(over_rest)
    for_feed = running.ask(trigger="at-or-below", trigger_price=D(1000))
    running.ends(for_feed, "waiting")
    running.book(998.0, 1001.0)
    running.book(998.0, 1001.0)
    time.sleep(0.5)
    assert running.states(for_feed) == ["waiting"]
    running.book(998.0, 1000.0)
    running.ends(for_feed)
    assert len(running.orders(for_feed)) == 1


def test_change_and_cancel(running: Running) -> None:
    request = running.ask(at_ms=now_ms() + 60_000)
    running.ends(request, "waiting")
    new = m.OrderRequested(
        **{name: getattr(request, name) for name in request.__struct_fields__}
        | {"funds": D(20_000), "at_ms": now_ms() + 300}
    )
    running.publish(m.RequestChanged(account="paper", pocket=POCKET, request=new, event_ms=now_ms(), by="t"))
    assert running.ends(request).funds > D(19_000)
    running.publish(m.RequestChanged(account="paper", pocket=POCKET, request=new, event_ms=now_ms(), by="t"))
    until(lambda: running.told(request)[-1].reason == "already-over")
    waiting = running.ask(at_ms=now_ms() + 60_000)
    running.publish(m.RequestCancelled(account="other", pocket=POCKET, request_id=waiting.id, event_ms=1, by="t"))
    assert running.ends(waiting, "refused").reason == "not-yours"
    running.publish(m.RequestCancelled(account="paper", pocket=POCKET, request_id=waiting.id, event_ms=1, by="t"))
    running.ends(waiting, "cancelled")
    assert running.orders(waiting) == []
    resting = running.ask(order_type="limit", price=D(1000), quantity=D(10), funds=None)
    until(lambda: running.orders(resting))
    running.publish(m.RequestCancelled(account="paper", pocket=POCKET, request_id=resting.id, event_ms=1, by="t"))
    assert running.ends(resting, "cancelled").funds == 0
    until(lambda: running.orders(resting)[0]["state"] == "cancel")


def test_the_assistant_posts_and_sends_the_rest_at_the_deadline(running: Running) -> None:
    """The book leans our way, but nobody sells to us there: after the deadline the rest goes to the market."""
    running.book(1000.0, 1001.0)
    running.lean(-0.5, -1.0)
    request = running.ask(funds=D(100_000), is_assisted=True, patience_ms=5000)
    until(lambda: running.orders(request))
    first = running.orders(request)[0]
    assert (first["ord_type"], D(first["price"])) == ("limit", D(1000))
    fired_ms = next(event.event_ms for event in running.told(request) if event.state == "fired")
    while running.states(request)[-1] != "done":
        running.book(1000.0, 1001.0)
        running.lean(-0.5, -1.0)
        time.sleep(0.2)
    first, second = running.orders(request)
    assert first["state"] == "cancel"
    assert D(first["executed_volume"]) == 0
    assert second["ord_type"] == "price"
    done = running.ends(request)
    assert done.funds is not None
    assert done.funds <= D(100_000)
    assert 5000 <= done.event_ms - fired_ms < 15_000
    assert done.saved is not None


def test_the_assistant_gives_up_when_the_book_turns(running: Running) -> None:
    running.book(1000.0, 1001.0)
    running.lean(-0.5, -1.0)
    request = running.ask(funds=D(100_000), is_assisted=True, patience_ms=600_000)
    until(lambda: running.orders(request))
    running.book(1000.0, 1001.0)
    running.lean(0.9, 5.0)
    done = running.ends(request)
    assert [order["ord_type"] for order in running.orders(request)] == ["limit", "price"]
    assert done.event_ms - request.event_ms < 60_000


def test_the_control_group_is_sent_at_once_and_what_is_saved_is_shown(running: Running) -> None:
    running.book(1000.0, 1001.0)
    running.lean(-0.5, -1.0)
    control = running.ask(funds=D(100_000), is_assisted=True, is_control_wanted=True)
    done = running.ends(control)
    assert done.is_control
    assert done.saved is not None
    assert [order["ord_type"] for order in running.orders(control)] == ["price"]
    counter = Counter(Settings(home=running.home), running.log)
    found = counter.savings()
    assert (found["control"]["orders"], found["assisted"]["orders"]) == (1, 0)
    assert found["difference"]["mean_bp"] is None


def test_a_cancelled_assisted_order_leaves_nothing_at_the_exchange(running: Running) -> None:
    running.book(1000.0, 1001.0)
    running.lean(-0.5, -1.0)
    request = running.ask(funds=D(100_000), is_assisted=True, patience_ms=60_000)
    until(lambda: running.orders(request))
    running.publish(m.RequestCancelled(account="paper", pocket=POCKET, request_id=request.id, event_ms=1, by="t"))
    assert running.ends(request, "cancelled").funds == 0
    assert [order["state"] for order in running.orders(request)] == ["cancel"]


def test_the_command_lines_side(running: Running) -> None:
    """Sell a share of what is held, list, change, cancel, and say what is wrong."""
    counter = Counter(Settings(home=running.home), running.log)
    bought = counter.draft("buy", running.market.lower(), Typed(funds="20,000", is_assisted=False))
    assert any("Buy" in line for line in bought.lines)
    told = counter.send(bought.request)
    assert told.state == "done"
    base = running.market.partition("-")[2]
    until(lambda: counter._available("sell", running.market), 10)
    draft = counter.draft("sell", running.market, Typed(percent="50", is_assisted=False))
    assert draft.request.quantity is not None
    sold = counter.send(draft.request)
    assert sold.state == "done"
    assert D(running.orders(draft.request)[0]["volume"]) == draft.request.quantity
    assert base in draft.lines[0]
    later = counter.draft("buy", running.market, Typed(funds="9000", at="2096-01-01 09:00", every="1d", times=3))
    assert counter.send(later.request).reason == "waits-for-time"
    short = later.request.id[:8]
    changed = counter.redraft(short, Typed(funds="8000"))
    assert counter.send(changed.request, is_change=True).state == "waiting"
    row = next(row_of(one) for one in counter.requests() if one.request.id == later.request.id)
    assert (row["amount"], row["state"], row["at"]) == ("8000", "waiting", "2096-01-01 09:00:00 KST")
    assert counter.cancel(short).state == "cancelled"
    with pytest.raises(BadSettings, match="is over"):
        counter.redraft(short, Typed(funds="8000"))
    with pytest.raises(BadSettings, match="5000"):
        counter.draft("buy", running.market, Typed(funds="4000"))
    with pytest.raises(BadSettings, match="no account"):
        Counter(Settings(home=running.home), running.log, "nobody")
    with pytest.raises(BadSettings, match="no request"):
        counter.cancel("zzzzzzzz")


def test_nobody_answers(tmp_path: Path, sandbox: SandboxThread, kafka_log: KafkaLog, monkeypatch) -> None:
    running = Running(tmp_path, sandbox, kafka_log)
    monkeypatch.setattr("consumers.execute.requests.verbs.ANSWER_S", 0.3)
    counter = Counter(Settings(home=tmp_path), running.log)
    draft = counter.draft("buy", running.market, Typed(funds="9000"))
    with pytest.raises(Stop, match="observator status"):
        counter.send(draft.request)
    running.close()


def test_the_verbs(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBSERVATOR_KAFKA__BOOTSTRAP", running.log.bootstrap)
    monkeypatch.setenv("OBSERVATOR_KAFKA__PREFIX", running.log.prefix)

    def observe(*words: str, code: int = 0, typed: str | None = None) -> str:
        found = CliRunner().invoke(observator.app, ["--home", str(running.home), "order", *words], input=typed)
        assert found.exit_code == code, found.output
        return found.stdout

    told = json.loads(observe("buy", running.market, "--funds", "30000", "--at-once", "--yes", "--json"))
    assert (told["state"], told["reason"]) == ("done", "done")
    assert "체결" in told["text_ko"]
    assert "Aborted" not in observe("sell", running.market, "--quantity", "0.00000001", "--yes", code=1)
    observe("buy", running.market, "--funds", "30000", typed="n\n", code=1)
    assert "KST" in observe("buy", running.market, "--funds", "9000", "--at", "2096-01-01 09:00", typed="y\n")
    (row,) = json.loads(observe("list", "--json"))
    assert (row["state"], row["amount"], row["market"]) == ("waiting", "9000", running.market)
    assert row["id"] in observe("list")
    assert "waiting" in observe("change", row["id"], "--funds", "8000", "--yes")
    assert "취소" in observe("cancel", row["id"], "--language", "ko")
    assert "Nothing waits" in observe("list")
    states = [row["state"] for row in json.loads(observe("list", "--all", "--json"))]
    assert states == ["refused", "done", "refused", "cancelled"]
    assert json.loads(observe("savings", "--json"))["assisted"]["orders"] == 0
    assert "control" in observe("savings")
