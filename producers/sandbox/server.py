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
from typing import Any, cast

import uvloop
from aiohttp import web

from infra.errors import AlreadyRunning
from infra.secrets import keep_secret
from infra.servers.ports import claim_port
from infra.settings import Settings
from producers.sandbox import http_log
from producers.sandbox.authority import keep_authority
from producers.sandbox.candles import Candles
from producers.sandbox.clock import MarketClock
from producers.sandbox.configuration import Configuration, from_settings
from producers.sandbox.control import Control
from producers.sandbox.derived import Derived
from producers.sandbox.drivers import wall_ms
from producers.sandbox.exchange import Exchange
from producers.sandbox.faults import Faults
from producers.sandbox.feeds import Frame
from producers.sandbox.follow import Follow
from producers.sandbox.form_queries import form_as_query
from producers.sandbox.front import HOSTS, Front, ProtocolFactory
from producers.sandbox.history import past_of
from producers.sandbox.hub import Hub
from producers.sandbox.journal import Journal
from producers.sandbox.keys import Keys
from producers.sandbox.limits import Limits
from producers.sandbox.maintenance import Maintenance, offline
from producers.sandbox.market import described, drive, open_market
from producers.sandbox.notices import Notices
from producers.sandbox.private import PrivateSockets
from producers.sandbox.quotation import Quotation
from producers.sandbox.rest import Rest, errors, limited_by_address
from producers.sandbox.settle import Settlement
from producers.sandbox.tickers import Tickers
from streams.market.ledger import ATOM_DIGITS

logger = logging.getLogger(__name__)


class Sandbox:
    """All parts of one sandbox, put together by plain arguments."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.feed = open_market(configuration)
        self.subscribed = asyncio.Event()
        if configuration.starts_at_once:
            self.subscribed.set()
        self.limits = Limits(configuration.limits, is_limited=configuration.is_limited)
        self.faults = Faults()
        self.notices = Notices()
        self.candles = Candles(past_of(self.feed))
        self.tickers = Tickers(self.candles, self.notices, lambda: self.feed.clock_ms, self.feed.opening_e8)
        self.feed.closing_e8 = self.tickers.closing_e8
        self.hub = Hub(
            self.feed, self.subscribed.set, limits=self.limits, derived=Derived(self.candles, self.tickers),
            faults=self.faults.sockets,
        )  # fmt: skip
        self.journal = Journal(configuration.journal_path)
        self.clock = MarketClock(lambda: self.feed.clock_ms, asyncio.get_running_loop().call_later)
        self.exchange = Exchange(
            self.feed,
            self.journal,
            now_ms=self.feed.now_ms if isinstance(self.feed, Follow) else wall_ms,
            later=self.clock.later,
            publish=self._publish,
            burn_refused_identifiers=configuration.burn_refused_identifiers,
            fill_delay_s=configuration.fill_delay_ms / 1000,
            cancel_delay_s=configuration.cancel_delay_ms / 1000,
            smp_default=configuration.smp_default,
            settlement=Settlement(self.feed, self.clock) if isinstance(self.feed, Follow) else None,
        )
        self.keys = Keys(configuration.keys_path, configuration.secrets_path, self.exchange.accounts, wall_ms)
        self.rest = Rest(
            self.exchange, self.feed, self.faults, self.keys, self.limits, nonces=configuration.nonces
        )  # fmt: skip
        self.private = PrivateSockets(self.rest.open_socket, limits=self.limits, faults=self.faults.sockets)
        maintenance = Maintenance(self.exchange, self.candles)
        self.faults.sockets.on_offline += [self.hub.drop_all, self.private.drop_all, maintenance.begin]
        self.faults.sockets.on_online.append(maintenance.end)
        self.exchange.listeners.append(self.private.tell)
        self.port = 0
        self.front: Front | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._is_over = threading.Event()
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
            keys=self.keys,
            notices=self.notices,
        )
        app = web.Application(
            middlewares=[form_as_query, errors, offline(self.faults.sockets), limited_by_address(self.limits)]
        )
        app.add_routes(Quotation(self.feed, self.candles, self.tickers, self.notices).routes())
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

    def _publish(self, frames: list[Frame]) -> None:
        for frame in frames:
            self.hub.publish(frame)
        self.hub.flush()

    async def serve(self, stop: Callable[[], bool], ready: Callable[[], None] = lambda: None) -> None:
        """Listen until `stop` says so; raises `AlreadyRunning` where the port is taken."""
        self._open_exchange()
        await self.exchange.settled()
        runner = web.AppRunner(self.app(), access_log=None, logger=http_log.logger, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.SockSite(runner, _listener(self.configuration.host, self.configuration.port))
            await site.start()
            self.port = runner.addresses[0][1]
            await self._open_front(cast("ProtocolFactory", runner.server))
            threading.Thread(target=self.candles.past.warm, args=(self._is_over.is_set,), name="past").start()
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
            self._is_over.set()
            for task in self._tasks:
                task.cancel()
            if self.front is not None:
                await self.front.close()
            await self.hub.close()
            await self.private.close()
            await runner.cleanup()
            self.exchange.close()

    async def _open_front(self, server: ProtocolFactory) -> None:
        """Listen for clients with fixed addresses, where wanted."""
        settings = self.configuration
        if settings.front_port is None:
            return
        self.front = Front(keep_authority(settings.secrets_path.parent, HOSTS), server)
        await self.front.start(_listener(settings.host, settings.front_port))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()

    async def _drive(self) -> None:
        await drive(
            self.feed, self.hub, self.exchange.on_frame, self.configuration, before=self.clock.run_until,
            subscribed=self.subscribed,
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
            "private_connections": len(self.private.connections),
            "sent": dict(self.hub.sent),
            "orders": len(self.exchange.orders),
            "limited": dict(self.limits.refused),
            "cut_off": self.hub.cut_off + self.private.cut_off,
            "flooded": self.hub.flooded + self.private.flooded,
            "warm_ms": self.feed.warm_ms,
            "clock_ms": self.feed.clock_ms,
            "exchange_ms": self.feed.clock_ms,
            "speed": self.configuration.speed,
        }
        return body | described(self.feed, self.configuration)


def _listener(host: str, port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Requests are small. One read of a flood of tiny frames must not hold the loop for long.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise AlreadyRunning(f"port {port} of the sandbox is in use: {error.strerror}") from error
    return listener


def run(settings: Settings, stop: threading.Event) -> None:
    """Serve until `stop` is set. Raises `AlreadyRunning` beside another sandbox in the same run folder."""
    port = settings.sandbox.port or claim_port(settings.home, "sandbox")
    configuration = from_settings(settings, port)

    async def serve() -> None:
        await Sandbox(configuration).serve(stop.is_set)

    uvloop.run(serve())
