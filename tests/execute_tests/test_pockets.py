"""Many pockets in one executor: lanes that share fairly, keys that are missing, refused, or come later."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from consumers.execute.desk import Task
from consumers.execute.executor import run_executor
from consumers.execute.keyring import ExchangeKey, HeldKeys
from consumers.execute.lanes import Lane
from consumers.execute.limits import RiskLimits
from consumers.execute.options import Options
from consumers.execute.pockets import PocketVenue
from consumers.execute.venue import KeyRefused, OrderRequest, Refused
from infra.log import Slot, TopicSpec
from infra.memory_log import MemoryLog
from producers.sandbox.synthetic import Plan
from producers.sandbox.thread import SandboxThread
from streams import messages as m
from streams import topics

NOW = 1_700_000_000_000


def until(check: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.02)


def test_a_pocket_that_hangs_holds_only_its_share() -> None:
    release, done = threading.Event(), Counter[str]()
    holding = Counter[str]()
    lock = threading.Lock()

    def run(task: Task) -> list[Task]:
        with lock:
            holding[task.pocket] += 1
        if task.pocket == "hangs":
            release.wait(30)
        with lock:
            done[task.pocket] += 1
        return []

    lane = Lane("test", run, lambda _: None, time.monotonic, workers=4, share=1)
    for number in range(50):
        lane.put(Task("send", f"hangs-{number}", pocket="hangs"))
    for number in range(1000):
        lane.put(Task("send", f"p-{number}", pocket=f"p-{number}"))
    lane.start()
    until(lambda: sum(done.values()) == 1000)
    assert (holding["hangs"], done["hangs"]) == (1, 0)
    release.set()
    until(lambda: done["hangs"] == 50)
    assert lane.close(5)


class Two:
    """A sandbox with several pockets and one executor for all of them."""

    def __init__(self, home: Path, sandbox: SandboxThread) -> None:
        self.sandbox = sandbox
        self.log = MemoryLog(clock_ms=lambda: time.time_ns() // 1_000_000)
        self.log.create_topics([TopicSpec(t.name, t.partitions, t.config) for t in topics.TOPICS.values()])
        self.keys = HeldKeys({"paper-main": ExchangeKey(sandbox.access_key, sandbox.secret_key)})
        limits = RiskLimits(orders_per_minute=900)
        options = Options(home=home, address=sandbox.url, keys=self.keys, pocket="paper-main", limits=limits)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=run_executor, args=(options, self.log, self.stop), daemon=True)
        self.thread.start()
        self.count = 0

    def account(self, name: str) -> ExchangeKey:
        body = {"access_key": name, "balances": {"KRW": "10000000"}}
        return ExchangeKey(name, str(self.sandbox.control("POST", "/sandbox/accounts", body)["secret_key"]))

    def order(self, pocket: str) -> m.OrderIntent:
        self.count += 1
        intent = m.OrderIntent(
            id=f"{pocket}x{self.count}", account=pocket, pocket=pocket, exchange="upbit",
            market=str(self.sandbox.control("GET", "/v1/market/all")[0]["market"]), side="buy", order_type="price",
            price=None, quantity=None, funds=Decimal(10000), time_in_force="", purpose="entry", cause_kind="signal",
            cause_id=str(self.count), event_ms=NOW, expires_ms=NOW + 600_000, reason="test",
        )  # fmt: skip
        publisher = self.log.publisher()
        publisher.publish("order-intents", pocket, m.encode(intent))
        publisher.close()
        return intent

    def records(self, topic: str) -> list[Any]:
        reader = self.log.reader({Slot(topic, number): 0 for number in range(self.log.partitions(topic))})
        found = []
        while records := reader.read(1000, 0.0):
            found += [topics.decode(topic, record.value) for record in records]
        reader.close()
        return found

    def end_of(self, intent: m.OrderIntent) -> Any:
        """The event that ended an order; None while it has not."""
        last = [event for event in self.records("order-events") if event.intent_id == intent.id][-1:]
        ended = last and (isinstance(last[0], m.OrderRejected) or getattr(last[0], "is_final", False))
        return last[0] if ended else None

    def wait_for(self, *intents: m.OrderIntent) -> list[Any]:
        until(lambda: all(self.end_of(intent) is not None for intent in intents))
        return [self.end_of(intent) for intent in intents]


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    with SandboxThread(tmp_path / "s", kind="synthetic", plan=Plan(market_count=1), warmup_seconds=0) as sandbox:
        two = Two(tmp_path / "e", sandbox)
        yield two
        two.stop.set()
        two.thread.join(20)
        assert not two.thread.is_alive()


def test_every_pocket_by_itself(two: Two) -> None:
    good = two.account("good")
    two.keys.keys |= {"good": good, "bad": ExchangeKey("nobody", "s" * 64)}
    first = two.wait_for(two.order("paper-main"), two.order("good"), two.order("none"), two.order("bad"))
    assert [getattr(end, "name", "filled") for end in first[:3]] == ["filled", "filled", "no-key"]
    assert first[3].name in {"invalid_access_key", "key-refused"}
    again = two.wait_for(two.order("bad"), two.order("good"))
    assert again[0].name in {"invalid_access_key", "key-refused"}
    assert getattr(again[1], "name", "filled") == "filled"
    assert two.keys.refusals == [("bad", "invalid_access_key")]  # told once
    two.keys.keys |= {"bad": two.account("bad"), "none": two.account("none")}
    later = two.wait_for(two.order("bad"), two.order("none"))
    assert [getattr(end, "name", "filled") for end in later] == ["filled", "filled"]
    until(lambda: {one.pocket for one in two.records("balances")} == {"paper-main", "good", "bad", "none"})


def test_a_refused_key_is_tried_again_soon_then_less_and_less_often() -> None:
    asked_s: list[float] = []
    now, is_good = [0.0], [False]

    class Gateway:
        def find(self, _identifier: str) -> None:
            asked_s.append(now[0])
            if not is_good[0]:
                refuse[0]("jwt_verification")
                refuse[0]("jwt_verification")  # another call that was under way

    refuse: list[Callable[[str], None]] = []

    def connect(_key: ExchangeKey, _pace: object, on_refused: Callable[[str], None]) -> Any:
        refuse[:] = [on_refused]
        return Gateway()

    def ask_until(end_s: float) -> list[float]:
        asked_s.clear()
        while now[0] < end_s:
            try:
                venue.find("1")
                now[0] += 0.25
            except KeyRefused as error:
                now[0] += error.retry_s
        return asked_s

    keys = HeldKeys({"p": ExchangeKey("a", "b")})
    venue = PocketVenue("p", keys, connect, lambda: now[0])
    assert ask_until(200.0) == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    is_good[0] = True
    assert ask_until(400.0)[:3] == [243, 243.25, 243.5]
    assert venue.trouble() is None
    is_good[0] = False
    assert ask_until(405.0)[:3] == [400, 401, 403]  # it was good meanwhile: from the start
    assert keys.refusals == [("p", "jwt_verification")]


def test_a_refused_key_is_asked_for_no_more_but_tried_again_after_a_while() -> None:
    asked: list[str] = []
    now = [0.0]

    class Gateway:
        def find(self, identifier: str) -> None:
            asked.append(identifier)
            refuse[0]("invalid_access_key")

        def place(self, _request: OrderRequest, identifier: str) -> Refused:
            asked.append(identifier)
            return Refused("insufficient_funds_bid", "")

    refuse: list[Callable[[str], None]] = []

    def connect(_key: ExchangeKey, _pace: object, on_refused: Callable[[str], None]) -> Any:
        refuse[:] = [on_refused]
        return Gateway()

    keys = HeldKeys({"p": ExchangeKey("a", "b")})
    venue = PocketVenue("p", keys, connect, lambda: now[0])
    assert venue.trouble() is None
    venue.find("1")
    trouble = venue.trouble()
    assert trouble is not None
    assert trouble.name == "key-refused"
    with pytest.raises(KeyRefused):
        venue.find("2")
    request = OrderRequest("KRW-BTC", "bid", "price", Decimal(6000), None, "")
    answer = venue.place(request, "3")
    assert isinstance(answer, Refused)
    assert not answer.is_passing
    assert asked == ["1"]
    now[0] = 1.0
    venue.find("4")
    assert asked == ["1", "4"]
    assert keys.refusals == [("p", "invalid_access_key")]
    keys.keys["p"] = ExchangeKey("c", "d")
    assert venue.trouble() is None
    venue.place(request, "5")
    assert asked[-1] == "5"
    del keys.keys["p"]
    with pytest.raises(KeyRefused, match="no key"):
        venue.find("6")
