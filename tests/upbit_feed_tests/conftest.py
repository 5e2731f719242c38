"""A stand-in for the exchange that does what a test says, frame by frame; and a feed in a thread."""

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from aiohttp import web

from infra.log import Log, Slot, TopicSpec, slots_of
from infra.settings import Settings
from streams import topics

NOW_MS = 1_790_134_773_000


def book(market: str, exchange_ms: int, bid: float = 99.0, ask: float = 101.0) -> bytes:
    return json.dumps(
        {
            "ty": "orderbook", "cd": market, "tms": exchange_ms, "tas": 1.0, "tbs": 2.0,
            "obu": [{"ap": ask, "bp": bid, "as": 1.0, "bs": 2.0}], "st": "REALTIME", "lv": 0,
        }
    ).encode()  # fmt: skip


def trade(market: str, exchange_ms: int, trade_id: int) -> bytes:
    return json.dumps(
        {
            "ty": "trade", "cd": market, "tms": exchange_ms, "ttms": exchange_ms - 40, "tp": 100.0, "tv": 0.5,
            "ab": "BID", "sid": trade_id, "st": "REALTIME",
        }
    ).encode()  # fmt: skip


class FakeExchange:
    """REST and websocket on a port of its own, in a thread; the test tells it what to send."""

    def __init__(self) -> None:
        self.markets = ["KRW-BTC", "KRW-ETH"]
        self.ticks: list[dict[str, Any]] = []
        self.status: dict[str, Any] = {}
        self.subscriptions: list[list[dict[str, Any]]] = []
        self.calls: list[str] = []
        self.body: bytes | None = None
        self.bid = 99.0
        """Best bid of every book over REST; 0: it answers 500."""
        self.endings: dict[str, dict[str, Any]] = {}
        """What the tickers say besides, per market."""
        self.is_refusing = False
        """Whether no websocket is opened."""
        self.port = 0
        self._sockets: list[web.WebSocketResponse] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()
        self._done = asyncio.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(10)
        self._loop.close()

    def send(self, frame: bytes | str) -> None:
        async def out() -> None:
            if isinstance(frame, str):
                await self._sockets[-1].send_str(frame)
            else:
                await self._sockets[-1].send_bytes(frame)

        asyncio.run_coroutine_threadsafe(out(), self._loop).result(5)

    def send_raw(self, data: bytes) -> None:
        """Bytes as they are on the wire."""

        def write() -> None:
            transport = self._sockets[-1]._req.transport  # type: ignore[union-attr]
            assert isinstance(transport, asyncio.Transport)
            transport.write(data)

        self._loop.call_soon_threadsafe(write)

    def drop(self) -> None:
        """Break the connection without a word."""

        def abort() -> None:
            transport = self._sockets[-1]._req.transport  # type: ignore[union-attr]
            assert isinstance(transport, asyncio.Transport)
            transport.abort()

        self._loop.call_soon_threadsafe(abort)

    def say_goodbye(self) -> None:
        asyncio.run_coroutine_threadsafe(self._sockets[-1].close(code=1001, message=b"bye"), self._loop).result(5)

    def wait_subscribed(self, count: int = 1) -> None:
        wait_until(lambda: len(self.subscriptions) >= count)

    def _serve(self) -> None:
        self._loop.run_until_complete(self._main())

    async def _main(self) -> None:
        app = web.Application()
        app.add_routes(
            [
                web.get("/v1/market/all", self._all), web.get("/v1/orderbook/instruments", self._instruments),
                web.get("/v1/trades/ticks", self._ticks), web.get("/sandbox/status", self._status),
                web.get("/websocket/v1", self._websocket), web.get("/v1/orderbook", self._orderbook),
            ]
        )  # fmt: skip
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        self._ready.set()
        await self._done.wait()
        await runner.cleanup()

    async def _all(self, request: web.Request) -> web.Response:
        self.calls.append(str(request.rel_url))
        if self.body is not None:
            return web.Response(body=self.body, content_type="application/json")
        return web.json_response(
            [
                {
                    "market": market, "korean_name": "이름", "english_name": "name",
                    "market_event": {"warning": False, "caution": {"PRICE_FLUCTUATIONS": market == "KRW-ETH"}},
                }
                for market in self.markets
            ]
        )  # fmt: skip

    async def _instruments(self, request: web.Request) -> web.Response:
        codes = request.query["markets"].split(",")
        return web.json_response(
            [
                {"market": code, "quote_currency": "KRW", "tick_size": "1000", "supported_levels": ["0"]}
                for code in codes
            ]
        )

    async def _orderbook(self, request: web.Request) -> web.Response:
        self.calls.append(str(request.rel_url))
        if not self.bid:
            return web.Response(status=500)
        best = {"ask_price": self.bid + 2.0, "bid_price": self.bid, "ask_size": 1.0, "bid_size": 2.0}
        pad = {"ask_price": 0.0, "bid_price": self.bid - 1.0, "ask_size": 0.0, "bid_size": 4.0}
        return web.json_response(
            [
                {"market": code, "timestamp": NOW_MS, "orderbook_units": [best, pad], "level": 0}
                for code in request.query["markets"].split(",")
            ]
        )

    async def _ticks(self, request: web.Request) -> web.Response:
        self.calls.append(str(request.rel_url))
        cursor = int(request.query.get("cursor", 1 << 62))
        days_ago = int(request.query.get("days_ago", 0))
        rows = [
            row
            for row in self.ticks
            if row["market"] == request.query["market"]
            and row["sequential_id"] < cursor
            and row.get("days_ago", 0) == days_ago
        ]
        rows.sort(key=lambda row: -int(row["sequential_id"]))
        return web.json_response(rows[: int(request.query["count"])])

    async def _status(self, _request: web.Request) -> web.Response:
        return web.json_response(self.status)

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        assert "Origin" not in request.headers
        if self.is_refusing:
            raise web.HTTPServiceUnavailable
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type is web.WSMsgType.TEXT and message.data != "PING":
                asked = json.loads(message.data)
                if asked[1]["type"] == "ticker":
                    for code in asked[1]["codes"]:
                        await socket.send_bytes(json.dumps({"code": code, **self.endings.get(code, {})}).encode())
                    continue
                self._sockets.append(socket)
                self.subscriptions.append(asked)
        return socket


def tick(market: str, trade_id: int, trade_ms: int, **more: Any) -> dict[str, Any]:
    return {
        "market": market, "timestamp": trade_ms, "trade_price": 100.0, "trade_volume": 0.25, "ask_bid": "ASK",
        "sequential_id": trade_id, "trade_date_utc": "2026-09-23", "trade_time_utc": "00:00:00", **more,
    }  # fmt: skip


def wait_until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


def create_topics(log: Log) -> None:
    log.create_topics([TopicSpec(topic.name, topic.partitions, topic.config) for topic in topics.TOPICS.values()])


def messages_of(log: Log, *names: str) -> list[tuple[Slot, Any]]:
    """All records of some topics, decoded, in order within each partition."""
    slots = slots_of(log, names)
    bounds = log.bounds(slots)
    reader = log.reader({slot: bounds[slot][0] for slot in slots})
    found = []
    while any(reader.position(slot) < bounds[slot][1] for slot in slots):
        found += [(record.slot, topics.decode(record.topic, record.value)) for record in reader.read(1000, 0.2)]
    reader.close()
    return found


class RunningFeed:
    """The feed's process function in a thread."""

    def __init__(self, settings: Settings, log: Log) -> None:
        from producers.upbit import feed  # noqa: PLC0415 - the SDK takes a second to import

        self.log = log
        self.stop = threading.Event()
        self.error: BaseException | None = None

        def work() -> None:
            try:
                feed.run(settings, log, self.stop)
            except BaseException as error:  # noqa: BLE001 - handed to the test
                self.error = error

        self.thread = threading.Thread(target=work)
        self.thread.start()

    def messages(self, *names: str) -> list[Any]:
        return [message for _, message in messages_of(self.log, *names)]

    def kinds(self) -> list[str]:
        return [message.kind for message in self.messages("feed-events")]

    def end(self) -> None:
        self.stop.set()
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture
def exchange() -> Iterator[FakeExchange]:
    with FakeExchange() as running:
        yield running


@pytest.fixture
def start_feed(memory_log: Log, tmp_path: Path) -> Iterator[Callable[..., RunningFeed]]:
    create_topics(memory_log)
    started: list[RunningFeed] = []

    def start(port: int, log: Log = memory_log, **feed: Any) -> RunningFeed:
        settings = Settings.model_validate({"home": tmp_path, "sandbox": {"port": port}, "feed": feed})
        started.append(RunningFeed(settings, log))
        return started[-1]

    yield start
    for one in started:
        one.end()


@pytest.fixture(scope="session")
def recordings_folder() -> Path:
    folder = Path(os.environ.get("OBSERVATOR_DATA", "../shared/data")) / "upbit_ws"
    if not folder.is_dir():
        pytest.skip(f"no recordings at {folder}")
    return folder


@pytest.fixture(scope="session")
def wire() -> Any:
    """The spelling helpers above, for test modules (they cannot import each other)."""

    class Wire:
        now_ms = NOW_MS
        book = staticmethod(book)
        trade = staticmethod(trade)
        tick = staticmethod(tick)
        wait_until = staticmethod(wait_until)
        create_topics = staticmethod(create_topics)
        messages_of = staticmethod(messages_of)

    return Wire
