"""The sandbox on the deployment's own topics, on a real broker: fills at those books, silence, kills, a lost broker."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from infra.kafka import KafkaLog
from infra.log import Log, partition_of, slots_of
from infra.memory_log import MemoryLog
from infra.secrets import keep_secret
from infra.servers.ports import kept_ports
from producers.sandbox.aside import Aside
from producers.sandbox.logged import Logged, Tail
from producers.sandbox.recording import Recording
from producers.sandbox.thread import SandboxThread
from streams.messages import Heartbeat, Market, OrderBook, Trade, encode, key_of
from streams.process import topic_specs

from .conftest import connect, receive
from .test_sandbox_orders import call, ended, error_of, limit, until

if TYPE_CHECKING:
    from infra.servers.kafka import KafkaServer

MARKET = "KRW-BTC"
PARTITION = partition_of(key_of("upbit", MARKET), 12)
ASK, BID = 100_000_000.0, 99_999_000.0


class Writer:
    """The feed's part: books, trades and heartbeats of one market, each a millisecond after the last."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self._publisher = log.publisher(linger_ms=0)
        self._last_ms = 0

    def _times(self) -> dict[str, Any]:
        self._last_ms = max(time.time_ns() // 1_000_000, self._last_ms + 1)
        now = {"exchange_ms": self._last_ms, "received_ns": time.time_ns()}
        return {"exchange": "upbit", "market": MARKET, "source": "upbit", "session": 1, **now}

    def _write(self, topic: str, value: bytes) -> str:
        (end,) = (bounds[1] for slot, bounds in self.log.bounds(slots_of(self.log, [topic])).items()
                  if slot.partition == (PARTITION if topic != "markets" else 0))  # fmt: skip
        self._publisher.publish(topic, key_of("upbit", MARKET), value)
        self._publisher.flush()
        return f"{self.log.prefix}{topic}/{PARTITION}/{end}"

    def book(self, ask: tuple[float, float] = (ASK, 1.0), bid: tuple[float, float] = (BID, 0.5)) -> str:
        """Write a book; gives its place in the log."""
        sides = {"ask_prices": [ask[0]], "ask_sizes": [ask[1]], "bid_prices": [bid[0]], "bid_sizes": [bid[1]]}
        return self._write("orderbooks", encode(OrderBook(**self._times(), **sides)))

    def trade(self, price: float, size: float, *, is_buy: bool = False, trade_id: int | None = None) -> str:
        """Write a trade; gives its place in the log."""
        times = self._times()
        at_ms = times["exchange_ms"]
        values = {"trade_ms": at_ms, "trade_id": trade_id or at_ms, "price": price, "size": size, "is_buy": is_buy}
        return self._write("trades", encode(Trade(**times, **values)))

    def heartbeat(self) -> None:
        """Vouch for the partition."""
        at_ms = self._times()["exchange_ms"]
        self._write("orderbooks", encode(Heartbeat(
            exchange="upbit", source="upbit", session=1, count=0, event_ms=at_ms, complete_from_ms=0, markets=[MARKET]
        )))  # fmt: skip

    def market(self) -> None:
        """Tell of the market itself."""
        self._write("markets", encode(Market(
            exchange="upbit", market=MARKET, event_ms=1, tick_size=1000, minimum_total=5000, maximum_total=10**9,
            korean_name="비트코인", english_name="Bitcoin",
        )))  # fmt: skip


@pytest.fixture
def writer(kafka_log: KafkaLog) -> Writer:
    kafka_log.create_topics(topic_specs())
    return Writer(kafka_log)


@pytest.fixture
def following(writer: Writer, tmp_path: Path) -> Iterator[Callable[..., SandboxThread]]:
    running: list[SandboxThread] = []
    log = writer.log
    assert isinstance(log, KafkaLog)

    def start(**values: Any) -> SandboxThread:
        thread = SandboxThread(
            tmp_path, kind="follow", followed_log=lambda: KafkaLog(log.bootstrap, log.prefix), is_limited=False,
            **values,
        )  # fmt: skip
        thread.__enter__()
        running.append(thread)
        until(lambda: thread.status()["is_warm"], 20)
        return thread

    yield start
    for thread in running:
        thread.stop()


def truth(sandbox: Any) -> dict[str, Any]:
    return dict(sandbox.control("GET", "/sandbox/truth"))


@pytest.mark.kafka
def test_orders_are_filled_at_the_followed_books(writer: Writer, following: Callable[..., SandboxThread]) -> None:
    writer.market()
    writer.trade(BID, 7.0)
    first = writer.book()
    sandbox = following()
    with urllib.request.urlopen(sandbox.url + "/v1/market/all", timeout=5) as answer:
        assert json.loads(answer.read()) == [
            {"market": MARKET, "korean_name": "비트코인", "english_name": "Bitcoin"}
        ]  # fmt: skip
    _, takes, _ = call(sandbox, "POST", "/v1/orders", limit("100000000", "0.01", time_in_force="ioc"))
    taken = ended(sandbox, takes["uuid"])
    assert (taken["state"], taken["trades"][0]["price"]) == ("done", "100000000")
    _, rests, _ = call(sandbox, "POST", "/v1/orders", limit("99999000", "0.006"))
    until(lambda: len(sandbox.sandbox.exchange.state.resting[MARKET]) == 1)
    client = connect(
        sandbox.ws_url, *({"type": kind, "codes": [MARKET], "isOnlyRealtime": True} for kind in ("orderbook", "trade"))
    )
    until(lambda: sandbox.status()["connections"] == 1)
    writer.trade(BID, 0.4, trade_id=7)
    through = writer.trade(BID, 0.102, trade_id=8)
    writer.trade(BID, 0.102, trade_id=8)  # delivered twice: the log promises at least once
    last = writer.trade(BID - 1000, 0.5, trade_id=9)
    assert ended(sandbox, rests["uuid"])["state"] == "done"
    bodies = [receive(client)[1] for _ in range(3)]
    assert [(body["type"], body["sequential_id"]) for body in bodies] == [("trade", 7), ("trade", 8), ("trade", 9)]
    assert bodies[0]["best_ask_price"] == ASK
    client.shutdown()
    found = truth(sandbox)
    assert [(fill["order"], fill["book"], fill["lots"], fill["is_maker"]) for fill in found["fills"]] == [
        (takes["uuid"], first, 1_000_000, False),
        (rests["uuid"], through, 200_000, True),
        (rests["uuid"], last, 400_000, True),
    ]
    assert [row["optimistic_volume"] for row in found["orders"]] == ["0.01", "0.006"]
    assert sandbox.status()["follow"]["skipped"] == {"repeated trade": 1}
    log = writer.log
    assert isinstance(log, KafkaLog)
    played = Recording(Logged(lambda: KafkaLog(log.bootstrap, log.prefix), {}))  # the same topics as a recording
    sources = [line.source for line in played.source.lines()]
    assert (len(sources), sources[1], sources[5]) == (6, first, last)


@pytest.mark.kafka
def test_a_silent_market_takes_no_orders_until_it_speaks_again(
    writer: Writer, following: Callable[..., SandboxThread]
) -> None:
    writer.book()
    sandbox = following(stale_seconds=1.0)
    quiet = limit("99999000", "0.001")
    until(lambda: error_of_order(sandbox, quiet) == (403, "market_offline"), 10)
    writer.heartbeat()  # nothing changed, and somebody says so
    until(lambda: call(sandbox, "POST", "/v1/orders", quiet)[0] == 201)


def error_of_order(sandbox: Any, body: dict[str, Any]) -> tuple[int, Any]:
    answer = call(sandbox, "POST", "/v1/orders", body)
    return (answer[0], None) if answer[0] == 201 else error_of(answer)


def test_before_the_log_has_a_book_every_order_is_refused(memory_log: MemoryLog, tmp_path: Path) -> None:
    memory_log.create_topics(topic_specs())
    log = MemoryLog("", beside=memory_log)
    with SandboxThread(tmp_path, kind="follow", followed_log=lambda: log) as empty:
        until(lambda: empty.status()["is_warm"])
        assert error_of(call(empty, "POST", "/v1/orders", limit())) == (403, "market_offline")
        assert call(empty, "GET", "/v1/accounts")[1][0]["balance"] == "10000000"
        status = empty.status()
        assert (status["feed"], status["synthetic"], status["markets"]) == ("follow", False, 0)


class Process:
    """`observator process sandbox` in a run folder, with the faces that the helpers of orders want."""

    access_key = "paper-main"

    def __init__(self, home: Path, log: KafkaLog) -> None:
        self.home = home
        settings = {
            "HOME": str(home), "FEED__KIND": "upbit", "KAFKA__BOOTSTRAP": log.bootstrap, "KAFKA__PREFIX": log.prefix,
            "SANDBOX__IS_LIMITED": "false", "FEED__STALE_SECONDS": "600",
        }  # fmt: skip
        environment = os.environ | {f"OBSERVATOR_{name}": value for name, value in settings.items()}
        command = (sys.executable, "-P", "-m", "observator", "process", "sandbox")
        self.process = subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[2])
        until(self._answers, 60)

    def _answers(self) -> bool:
        try:
            return bool(self.control("GET", "/sandbox/status")["is_warm"])
        except (OSError, KeyError):
            return False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{kept_ports(self.home)['sandbox']}"

    @property
    def secret_key(self) -> str:
        return keep_secret(self.home / "run" / "secrets", self.access_key)

    def control(self, method: str, path: str) -> Any:
        token = keep_secret(self.home / "run" / "secrets", "sandbox-control")
        request = urllib.request.Request(
            self.url + path, method=method, headers={"Authorization": f"Bearer {token}"}
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())

    def end(self, how: int) -> None:
        self.process.send_signal(how)
        self.process.wait(20)


@pytest.mark.kafka
@pytest.mark.slow
def test_a_killed_process_settles_the_gap_and_goes_on(writer: Writer, tmp_path: Path) -> None:
    assert isinstance(writer.log, KafkaLog)
    writer.book()
    first = Process(tmp_path, writer.log)
    try:
        _, rests, _ = call(first, "POST", "/v1/orders", limit("99999000", "0.006", identifier="kept"))
        until(lambda: truth(first)["orders"])
        time.sleep(0.1)  # its first match comes 30 ms after the answer
        began = writer.trade(BID, 0.502)
        until(lambda: truth(first)["fills"])
    finally:
        first.end(signal.SIGKILL)
    gap = writer.trade(BID, 0.001)  # nobody follows: the next process settles it
    writer.book(bid=(BID, 0.25))
    second = Process(tmp_path, writer.log)
    try:
        _, order, _ = call(second, "GET", "/v1/order", query="identifier=kept")
        assert (order["uuid"], order["state"], order["executed_volume"]) == (rests["uuid"], "wait", "0.003")
        assert error_of(call(second, "POST", "/v1/orders", limit(identifier="kept"))) == (400, "duplicated_identifier")
        went_on = writer.trade(BID, 0.01)
        until(lambda: len(truth(second)["fills"]) == 3)
        found = truth(second)
        places = [(fill["book"], fill["lots"]) for fill in found["fills"]]
        assert places == [(began, 200_000), (gap, 100_000), (went_on, 300_000)]
        assert [fill["at_ms"] for fill in found["fills"]] == [fill["book_ms"] for fill in found["fills"]]
        assert found["unsettled"] == []
    finally:
        second.end(signal.SIGTERM)
    assert second.process.returncode == 0


@pytest.mark.kafka
@pytest.mark.slow
def test_a_lost_broker_is_sat_out(breakable_broker: "KafkaServer", tmp_path: Path) -> None:
    bootstrap, prefix = breakable_broker.bootstrap, f"follow{time.monotonic_ns()}-"
    with KafkaLog(bootstrap, prefix) as log:
        log.create_topics(topic_specs())
        writer = Writer(log)
        writer.book()
        opened = {
            "kind": "follow",
            "followed_log": lambda: KafkaLog(bootstrap, prefix),
            "stale_seconds": 2.0,
            "cash": "1000000000",
        }
        with SandboxThread(tmp_path, **opened, is_limited=False) as sandbox:
            until(lambda: sandbox.status()["is_warm"], 20)
            breakable_broker.kill()
            started = time.monotonic()
            order = limit("100000000", "0.001", time_in_force="ioc")
            until(lambda: error_of_order(sandbox, order) == (403, "market_offline"), 15)
            assert time.monotonic() - started < 10  # the loop answered all the while
            breakable_broker.start()
            with KafkaLog(bootstrap, prefix) as again:
                again.create_topics(topic_specs())  # waits until the topics serve again
                writer, places = Writer(again), []

                def accepted() -> bool:
                    places.append(writer.book())
                    return error_of_order(sandbox, order)[0] == 201

                until(accepted, 30)
            until(lambda: truth(sandbox)["fills"] and truth(sandbox)["fills"][-1]["book"] in places)


def test_records_that_were_deleted_and_a_log_that_is_away_are_waited_for(memory_log: MemoryLog) -> None:
    memory_log.create_topics(topic_specs())
    writer = Writer(memory_log)
    place = writer.book()
    logs = iter([MemoryLog("nowhere-", beside=memory_log), MemoryLog("", beside=memory_log)])
    tail = Tail(lambda: next(logs))
    assert tail.read()[:4] == ([], [], {}, False)  # its topics are missing
    batch = tail.read()
    assert [line.source for line in batch.lines] == [place]
    assert (set(batch.appended_ms), batch.is_caught_up) == ({PARTITION}, True)
    tail.close()


def test_what_blocks_is_read_beside_the_loop() -> None:
    closed = threading.Event()
    numbers = iter(range(50))

    def read() -> int | None:
        return next(numbers, None)

    async def run() -> list[int]:
        return [number async for number in Aside(read, closed.set).batches()]

    assert asyncio.run(run()) == list(range(50))
    assert closed.wait(5)

    def broken() -> int:
        raise OSError("gone")

    async def fail() -> None:
        async for _ in Aside(broken).batches():
            pass

    with pytest.raises(OSError, match="gone"):
        asyncio.run(fail())
