"""The websocket side of the sandbox: accepting, listening, quotas, keep-alive. `hub` and `private` say what is sent.

Called by the server. No client can slow the others: requests past the quota are answered and not carried out, a flood
ends the connection, and a client that does not read is cut off before its backlog grows past a limit.
"""

import asyncio
import itertools
import logging
import math
from typing import cast

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from producers.sandbox.connections import Connection, framed
from producers.sandbox.keys import RIGHTS
from producers.sandbox.limits import REMAINING, Limits, Verdict
from producers.sandbox.subscriptions import Refused, Request, list_answer, read

logger = logging.getLogger(__name__)

BACKLOG_BYTES = 16 * 1024 * 1024
ALL_BACKLOGS_BYTES = 128 * 1024 * 1024
IDLE_SECONDS = 120.0
UP_SECONDS = 10.0
LARGEST_REQUEST = 128 * 1024
CONTROLS_PER_SECOND = 100
CLOSE_SECONDS = 0.15
"""Between the close frame and the end of the line."""
FLOOD = 20
"""So many requests past the quota without one inside it end the connection. The real number is not documented."""
UP = b'{"status":"UP"}'
_CLOSE_FRAME = b"\x88\x02" + int(WSCloseCode.OK).to_bytes(2, "big")
_QUOTAS = ("websocket-message", "websocket-message-minute")


class Sockets:
    """Accepting, listening, keep-alive; `hub.Hub` is the public side, `private.PrivateSockets` the other."""

    def __init__(self, kinds: tuple[str, ...], limits: Limits) -> None:
        self._kinds = kinds
        self._limits = limits
        self._numbers = itertools.count()
        self.connections: set[Connection] = set()
        self.cut_off = 0
        self.flooded = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one client until it leaves."""
        return await self.serve(request, "")

    async def serve(self, request: web.Request, account: str) -> web.StreamResponse:
        """Serve one client, of an account on the private side."""
        socket = web.WebSocketResponse(compress=True, max_msg_size=LARGEST_REQUEST, timeout=1.0, autoping=False)
        if remaining := request.get(REMAINING):  # as captured
            socket.headers["Remaining-Req"] = remaining.replace("websocket-connect", "websocket")
            socket.headers["Limit-By-Ip"] = "No" if account else "Yes"
        await socket.prepare(request)
        loop = asyncio.get_running_loop()
        transport = cast("asyncio.Transport", request.transport)  # uvloop's own class stands outside that tree
        connection = Connection(
            socket,
            transport,
            f"socket-{id(self)}-{next(self._numbers)}",
            account=account,
            permissions=request.get(RIGHTS, ()),
            last_seen=loop.time(),
        )
        sender = None
        if socket.compress:
            connection.queue = asyncio.Queue()
            sender = loop.create_task(connection.send_compressed())
        self.connections.add(connection)
        try:
            await self._listen(connection)
        finally:
            self.connections.discard(connection)
            connection.wanted = ()
            self.on_change(connection)
            for quota in _QUOTAS:
                self._limits.forget(connection.name, quota)
            if sender is not None:
                sender.cancel()
        return socket

    # --- requests ---------------------------------------------------------------------------------------------

    async def _listen(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        async for message in connection.socket:
            connection.last_seen = loop.time()
            if message.type in (WSMsgType.PING, WSMsgType.PONG):
                if self._is_flood_of_controls(connection):
                    return
                if message.type is WSMsgType.PING:
                    await connection.socket.pong(message.data)
                continue
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return
            if not await self._answer(connection, message):
                return

    async def _answer(self, connection: Connection, message: WSMessage) -> bool:
        """Carry out one request; says whether the connection goes on."""
        now = connection.last_seen
        text = message.data if isinstance(message.data, bytes) else message.data.encode()
        if text.strip() == b"PING":
            if not connection.is_pinged:
                connection.is_pinged, connection.last_up = True, now
            return not self._is_flood_of_controls(connection)
        verdict = self._counted(connection)
        if not verdict.is_allowed:
            connection.refusals += 1
            if connection.refusals > FLOOD:
                self._end_flood(connection)
                return False
            connection.push(_over_quota(verdict).frame)
            connection.flush(now)
            return True
        connection.refusals = 0
        try:
            self._apply(connection, read(text, self._kinds))
        except Refused as refusal:
            await self._refuse(connection, refusal)
            return False
        return True

    async def _refuse(self, connection: Connection, refusal: Refused) -> None:
        """Answer a request that was not understood and close, as captured: the error, 1000, and a moment later the end.

        Nothing more is read, so that what a flood still sends costs nothing.
        """
        connection.flush(connection.last_seen)
        connection.wanted, connection.is_pinged = (), False
        self.on_change(connection)  # nothing may follow the close frame
        if not connection.transport.is_closing():
            connection.transport.write(framed(refusal.frame) + _CLOSE_FRAME)
            connection.transport.pause_reading()
            await asyncio.sleep(CLOSE_SECONDS)
            connection.transport.close()

    def _counted(self, connection: Connection) -> Verdict:
        """Count one request by the second and by the minute."""
        for quota in _QUOTAS:
            verdict = self._limits.take(connection.name, quota)
            if not verdict.is_allowed:
                break
        return verdict

    def _apply(self, connection: Connection, request: Request) -> None:
        self.check(connection, request)
        connection.is_simple, connection.is_list = request.is_simple, request.is_list
        if request.is_listing:
            connection.push(list_answer(request.ticket, connection.wanted, is_simple=request.is_simple))
        else:
            connection.wanted = request.wanted
            self.on_subscribed(connection)
        self.on_change(connection)
        connection.flush(asyncio.get_running_loop().time())

    def check(self, connection: Connection, request: Request) -> None:
        """A request was understood; raises `Refused` where it is not permitted."""

    def on_subscribed(self, connection: Connection) -> None:
        """A connection has a new subscription."""

    def on_change(self, connection: Connection) -> None:
        """A connection's subscription or format changed, or it left."""

    # --- time -------------------------------------------------------------------------------------------------

    async def keep_alive(self) -> None:
        """Send `UP` to those who pinged and close idle connections, once a second."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1.0)
            now = loop.time()
            for connection in list(self.connections):
                if connection.is_pinged and now - connection.last_up >= UP_SECONDS:
                    connection.last_up = now
                    connection.push(UP)
                    connection.flush(now)
                elif now - connection.last_seen > IDLE_SECONDS:
                    self.drop(connection)  # as captured: no close frame
            self.watch_backlogs()

    # --- clients that do harm ---------------------------------------------------------------------------------

    def watch_backlogs(self) -> None:
        """Cut off whoever does not read; where all together wait for too much, the one that waits for most."""
        waiting = 0
        largest, most = None, 0
        for connection in list(self.connections):
            backlog = connection.backlog()
            if backlog > BACKLOG_BYTES:
                self.cut(connection)
                continue
            waiting += backlog
            if backlog > most:
                largest, most = connection, backlog
        if waiting > ALL_BACKLOGS_BYTES and largest is not None:
            self.cut(largest)

    def cut(self, connection: Connection) -> None:
        """End a connection that does not read."""
        self.cut_off += 1
        logger.warning("a client that does not read was cut off with %d bytes waiting", connection.backlog())
        self.drop(connection)

    def drop(self, connection: Connection) -> None:
        """Cut a line without a word; nothing is queued to it any more."""
        connection.drop()
        self.on_change(connection)

    def _is_flood_of_controls(self, connection: Connection) -> bool:
        """Count a ping; too many in a second end the connection."""
        if connection.controls_in_second(connection.last_seen) <= CONTROLS_PER_SECOND:
            return False
        self._end_flood(connection)
        return True

    def _end_flood(self, connection: Connection) -> None:
        self.flooded += 1
        logger.warning("a client that sends a flood was cut off")
        self.drop(connection)

    def drop_all(self) -> None:
        """Cut every line without a word; what the beginning of a maintenance window is told to."""
        for connection in list(self.connections):
            self.drop(connection)

    async def close(self) -> None:
        """Say goodbye to everybody."""
        now = asyncio.get_running_loop().time()
        for connection in self.connections:
            connection.flush(now)
        await asyncio.gather(
            *(connection.socket.close(code=WSCloseCode.GOING_AWAY) for connection in list(self.connections)),
            return_exceptions=True,  # one that is gone already must not keep the others waiting
        )


def _over_quota(verdict: Verdict) -> Refused:
    """The names are documented, the texts are not; the line stays open."""
    if verdict.status == 429:
        return Refused("Too Many Requests", "요청 수 제한을 초과했습니다.")
    seconds = math.ceil(verdict.wait_s)
    return Refused("I'm a teapot", f"요청 수 제한을 반복하여 초과하였습니다. {seconds}초 후에 다시 시도해주세요.")
