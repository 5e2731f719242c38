"""The sandbox's process: one asyncio loop that holds the market, the websockets, the REST side and the control side.

Entry `run(settings, stop)` is called by the command line, `Sandbox` by tests through `thread`. Listens on the loopback
unless told otherwise. It is never part of a live deployment.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import Any

import uvloop
from aiohttp import web

from infra.errors import AlreadyRunning
from infra.servers.ports import claim_port
from infra.settings import Settings
from producers.sandbox.closed import ClosedMarket
from producers.sandbox.configuration import Configuration, from_settings, keep_secret
from producers.sandbox.control import Control
from producers.sandbox.drivers import drive_recording, drive_synthetic, open_synthetic, wall_ms
from producers.sandbox.exchange import Exchange
from producers.sandbox.faults import Faults
from producers.sandbox.feeds import Feed, Frame
from producers.sandbox.journal import Journal
from producers.sandbox.private import PrivateSockets
from producers.sandbox.quotation import Quotation
from producers.sandbox.recording import Recording
from producers.sandbox.rest import Rest, errors
from producers.sandbox.sockets import Hub
from producers.sandbox.synthetic import Synthetic, compile_kernels
from streams.market.ledger import ATOM_DIGITS

logger = logging.getLogger(__name__)


class Sandbox:
    """All parts of one sandbox, put together by plain arguments."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.feed = _feed(configuration)
        self.subscribed = asyncio.Event()
        self.hub = Hub(self.feed, self.subscribed.set)
        self.faults = Faults()
        self.journal = Journal(configuration.journal_path)
        self.exchange = Exchange(
            self.feed,
            self.journal,
            now_ms=wall_ms,
            later=asyncio.get_running_loop().call_later,
            publish=self._publish,
            burn_refused_identifiers=configuration.burn_refused_identifiers,
            fill_delay_s=configuration.fill_delay_ms / 1000,
            cancel_delay_s=configuration.cancel_delay_ms / 1000,
        )
        self.rest = Rest(self.exchange, self.feed, self.faults, self._secret_of)
        self.private = PrivateSockets(self.rest.authorize)
        self.exchange.listeners.append(self.private.tell)
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._stop = asyncio.Event()

    def app(self) -> web.Application:
        """The routes."""
        secrets_path = self.configuration.secrets_path
        control = Control(
            self.exchange,
            self.feed,
            self.faults,
            keep_secret(secrets_path, "sandbox-control"),
            status=self.status,
            secret_for=lambda account: keep_secret(secrets_path, account),
        )
        app = web.Application(middlewares=[errors])
        app.add_routes(Quotation(self.feed).routes())
        app.add_routes(self.rest.routes())
        app.add_routes(control.routes())
        app.router.add_get("/websocket/v1", self.hub.handle)
        app.router.add_get("/websocket/v1/private", self.private.handle)
        return app

    def _open_exchange(self) -> None:
        """Read the journal; the account that exists by default gets its cash once."""
        self.exchange.open()
        account = self.configuration.access_key
        if account not in self.exchange.accounts:
            cash = int(Decimal(self.configuration.cash).scaleb(ATOM_DIGITS))
            self.exchange.open_account(account, {"KRW": cash})
        keep_secret(self.configuration.secrets_path, account)

    def _secret_of(self, account: str) -> str | None:
        if account not in self.exchange.accounts:
            return None
        return keep_secret(self.configuration.secrets_path, account)

    def _publish(self, frames: list[Frame]) -> None:
        for frame in frames:
            self.hub.publish(frame)
        self.hub.flush()

    async def serve(self, stop: Callable[[], bool], ready: Callable[[], None] = lambda: None) -> None:
        """Listen until `stop` says so; raises `AlreadyRunning` where the port is taken."""
        self._open_exchange()
        runner = web.AppRunner(self.app(), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.SockSite(runner, _listener(self.configuration))
            await site.start()
            self.port = runner.addresses[0][1]
            self._spawn(self._drive())
            self._spawn(self.hub.keep_alive())
            self._spawn(self.private.keep_alive())
            logger.info("the sandbox listens on port %d with a %s market", self.port, self.feed.kind)
            ready()
            while not stop() and self._failure is None:  # noqa: ASYNC110 - a thread's event is polled
                await asyncio.sleep(0.05)
            if self._failure is not None:
                raise self._failure
        finally:
            for task in self._tasks:
                task.cancel()
            await self.hub.close()
            await self.private.close()
            await runner.cleanup()
            self.journal.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()

    async def _drive(self) -> None:
        settings = self.configuration
        if isinstance(self.feed, Synthetic):
            await drive_synthetic(
                self.feed, self.hub, self.exchange.on_frame, speed=settings.speed, subscribed=self.subscribed,
                path=settings.market_path,
            )  # fmt: skip
        elif isinstance(self.feed, Recording):
            await drive_recording(
                self.feed, self.hub, self.exchange.on_frame, speed=settings.speed, subscribed=self.subscribed
            )  # fmt: skip

    def status(self) -> dict[str, Any]:
        """What the sandbox is and how far it got."""
        body: dict[str, Any] = {
            "feed": self.feed.kind,
            "synthetic": self.feed.is_synthetic,
            "is_subscribed": self.subscribed.is_set(),
            "is_warm": self.feed.is_warm and self.subscribed.is_set(),
            "is_ended": self.feed.is_ended,
            "markets": len(self.feed.markets()),
            "connections": len(self.hub.connections),
            "sent": dict(self.hub.sent),
            "orders": len(self.exchange.orders),
            "cut_off": self.hub.cut_off,
            "warm_ms": self.feed.warm_ms,
            "clock_ms": self.feed.clock_ms,
            "exchange_ms": self.feed.clock_ms,
            "speed": self.configuration.speed,
        }
        if isinstance(self.feed, Synthetic):
            body["plan"] = repr(self.configuration.plan)
        elif isinstance(self.feed, Recording):
            body["recording"] = {
                "frames": dict(self.feed.frames_by_kind), "skipped": dict(self.feed.skipped)
            }  # fmt: skip
        return body


def _feed(configuration: Configuration) -> Feed:
    if configuration.kind == "recording":
        assert configuration.recording is not None
        return Recording(configuration.recording)
    if configuration.kind != "synthetic":
        return ClosedMarket(configuration.kind)
    compile_kernels()
    feed = Synthetic(configuration.plan, wall_ms() - configuration.warmup_seconds * 1000)
    configuration.market_path.parent.mkdir(parents=True, exist_ok=True)
    open_synthetic(feed, configuration.market_path, configuration.warmup_seconds)
    return feed


def _listener(configuration: Configuration) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((configuration.host, configuration.port))
    except OSError as error:
        listener.close()
        raise AlreadyRunning(f"port {configuration.port} of the sandbox is in use: {error.strerror}") from error
    return listener


def run(settings: Settings, stop: threading.Event) -> None:
    """Serve until `stop` is set. Raises `AlreadyRunning` beside another sandbox in the same run folder."""
    port = settings.sandbox.port or claim_port(settings.home, "sandbox")
    configuration = from_settings(settings, port)

    async def serve() -> None:
        await Sandbox(configuration).serve(stop.is_set)

    uvloop.run(serve())
