"""Listens to the pockets' private websockets (`myOrder`) and says which of our orders changed.

Only a wake-up: the truth about an order is always fetched by REST, so a lost or early message harms nothing. `executor`
runs it in one thread for all pockets; a connection is opened when a pocket has an order at the exchange and closed
when it has had none for a while.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from threading import Event, Lock

import aiohttp
from upbit.lib.jwt_auth import create_jwt_token

from consumers.execute.guard import check_address
from consumers.execute.keyring import ExchangeKey, KeyRing

logger = logging.getLogger(__name__)

PING_S = 20.0
POLL_S = 0.2
IDLE_S = 60.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
BETWEEN_S = 0.21
"""Upbit takes five connections a second."""
_SUBSCRIPTION = json.dumps([{"ticket": "observator-execute"}, {"type": "myOrder"}])


class Wakeups:
    """One connection for each pocket that is wanted, in one thread."""

    def __init__(
        self, address: str, keys: KeyRing, on_order: Callable[[str], None], stop: Event, *, idle_s: float = IDLE_S
    ) -> None:
        """`address` is the private websocket's; `on_order(identifier)` is called for every message about an order."""
        check_address(address)
        self._address = address
        self._keys = keys
        self._on_order = on_order
        self._stop = stop
        self._idle_s = idle_s
        self._wanted_s: dict[str, float] = {}
        self._lock = Lock()
        self._door = asyncio.Lock()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.connected: set[str] = set()
        """Pockets with an open connection."""

    def want(self, pocket: str) -> None:
        """The pocket has an order at the exchange now."""
        with self._lock:
            self._wanted_s[pocket] = time.monotonic() + self._idle_s

    def run(self) -> None:
        """Until `stop`."""
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        async with aiohttp.ClientSession(trust_env=False) as session:
            while not self._stop.is_set():
                for pocket in self._wanted():
                    task = self._tasks.get(pocket)
                    if task is None or task.done():
                        self._tasks[pocket] = asyncio.create_task(self._listen(session, pocket))
                await asyncio.sleep(POLL_S)
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _wanted(self) -> list[str]:
        with self._lock:
            now_s = time.monotonic()
            self._wanted_s = {pocket: until_s for pocket, until_s in self._wanted_s.items() if until_s > now_s}
            return list(self._wanted_s)

    def _is_wanted(self, pocket: str) -> bool:
        with self._lock:
            return self._wanted_s.get(pocket, 0.0) > time.monotonic()

    async def _listen(self, session: aiohttp.ClientSession, pocket: str) -> None:
        """One pocket's connection while it is wanted; reconnects by itself."""
        pause_s = FIRST_PAUSE_S
        while self._is_wanted(pocket) and (key := self._keys.key_of(pocket)) is not None:
            try:
                async with self._door:
                    await asyncio.sleep(BETWEEN_S)
                    socket = await self._connect(session, key)
                async with socket:
                    await socket.send_str(_SUBSCRIPTION)
                    pause_s = FIRST_PAUSE_S
                    self.connected.add(pocket)
                    await self._read(socket, pocket)
            except (aiohttp.ClientError, OSError) as error:
                logger.info("the private websocket of %s is away (%s): orders are polled", pocket, error)
            finally:
                self.connected.discard(pocket)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _connect(self, session: aiohttp.ClientSession, key: ExchangeKey) -> aiohttp.ClientWebSocketResponse:
        """No Origin header goes out: Upbit would count the request as a browser's, one in ten seconds."""
        token = create_jwt_token(key.access_key, key.secret_key)
        header = {"Authorization": f"Bearer {token}"}
        timeout = aiohttp.ClientWSTimeout(ws_close=1.0)
        return await session.ws_connect(self._address, headers=header, heartbeat=PING_S, timeout=timeout)

    async def _read(self, socket: aiohttp.ClientWebSocketResponse, pocket: str) -> None:
        while self._is_wanted(pocket):
            try:
                message = await socket.receive(timeout=self._idle_s / 4)
            except TimeoutError:
                continue
            if message.type not in {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY}:
                return
            if identifier := identifier_of(message.data):
                self._on_order(identifier)


def identifier_of(frame: str | bytes) -> str:
    """The identifier in a `myOrder` frame; empty for anything else, malformed frames included."""
    try:
        message = json.loads(frame)
    except ValueError:
        return ""
    if not isinstance(message, dict) or message.get("type") != "myOrder":
        return ""
    return str(message.get("identifier") or "")
