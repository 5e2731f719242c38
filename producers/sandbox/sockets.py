"""The websocket side of the sandbox: connections, subscriptions, frames out, keep-alive.

Called by the server. A frame is spelled once per style and its bytes are shared by all subscribers; plain connections
get many frames in one write. During warm-up nothing is dropped (the driver waits for `drained`); at live pace a
client that does not read is cut off before its backlog grows past a limit.
"""

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from aiohttp import WSCloseCode, WSMsgType, web

from producers.sandbox.feeds import Feed, Frame, Style
from producers.sandbox.subscriptions import QUOTATION_KINDS, Refused, Request, Wanted, list_answer, read

logger = logging.getLogger(__name__)

BACKLOG_BYTES = 64 * 1024 * 1024
BUSY_BYTES = 1024 * 1024
IDLE_SECONDS = 120.0
UP_SECONDS = 10.0
STUCK_SECONDS = 60.0
UP = b'{"status":"UP"}'


def framed(payload: bytes) -> bytes:
    """A whole unmasked binary websocket frame."""
    size = len(payload)
    if size < 126:
        return bytes((0x82, size)) + payload
    if size < 65536:
        return b"\x82\x7e" + size.to_bytes(2, "big") + payload
    return b"\x82\x7f" + size.to_bytes(8, "big") + payload


@dataclass(eq=False)
class Connection:
    """One client."""

    socket: web.WebSocketResponse
    transport: asyncio.Transport
    account: str = ""
    wanted: tuple[Wanted, ...] = ()
    is_simple: bool = False
    is_list: bool = False
    is_pinged: bool = False
    last_seen: float = 0.0
    last_up: float = 0.0
    stuck_since: float = 0.0
    pending: list[bytes] = field(default_factory=list)
    queue: asyncio.Queue[bytes] | None = None
    """Only where compression was negotiated: the library compresses, one frame at a time."""
    queued_bytes: int = 0

    def push(self, payload: bytes, frame: bytes | None = None) -> None:
        """Queue one message; `frame` is its shared framed form."""
        if self.queue is None:
            self.pending.append(frame if frame is not None else framed(payload))
        else:
            self.queue.put_nowait(payload)
            self.queued_bytes += len(payload)

    def flush(self, now: float) -> None:
        """Write what is queued in one go."""
        if self.pending:
            if not self.transport.is_closing():
                self.transport.write(b"".join(self.pending))
            self.pending.clear()
            self.last_seen = now

    def backlog(self) -> int:
        """Bytes that the client has not taken yet."""
        return self.queued_bytes + (0 if self.transport.is_closing() else self.transport.get_write_buffer_size())

    async def send_compressed(self) -> None:
        """Pass the queue on through the library; runs for the life of a compressed connection."""
        assert self.queue is not None
        while True:
            payload = await self.queue.get()
            await self.socket.send_bytes(payload)
            self.queued_bytes -= len(payload)
            self.last_seen = asyncio.get_running_loop().time()


class Sockets:
    """Accepting, listening, keep-alive; `Hub` is the public side, `private.PrivateSockets` the other."""

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self._kinds = kinds
        self.connections: set[Connection] = set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one client until it leaves."""
        return await self.serve(request, "")

    async def serve(self, request: web.Request, account: str) -> web.WebSocketResponse:
        """Serve one client, of an account on the private side."""
        socket = web.WebSocketResponse(compress=True, max_msg_size=1024 * 1024, timeout=5.0)
        await socket.prepare(request)
        loop = asyncio.get_running_loop()
        transport = cast("asyncio.Transport", request.transport)  # uvloop's own class stands outside that tree
        connection = Connection(socket, transport, account=account, last_seen=loop.time())
        sender = None
        if socket.compress:
            connection.queue = asyncio.Queue()
            sender = loop.create_task(connection.send_compressed())
        self.connections.add(connection)
        try:
            await self._listen(connection)
        finally:
            self.connections.discard(connection)
            self.on_change()
            if sender is not None:
                sender.cancel()
        return socket

    async def _listen(self, connection: Connection) -> None:
        async for message in connection.socket:
            connection.last_seen = asyncio.get_running_loop().time()
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                break
            text = message.data if isinstance(message.data, bytes) else message.data.encode()
            if text.strip() == b"PING":
                connection.is_pinged = True
                connection.last_up = connection.last_seen
                continue
            try:
                self._apply(connection, read(text, self._kinds))
            except Refused as refusal:
                connection.flush(connection.last_seen)
                await connection.socket.send_bytes(refusal.frame)
                await connection.socket.close(code=WSCloseCode.OK)
                return

    def _apply(self, connection: Connection, request: Request) -> None:
        connection.is_simple, connection.is_list = request.is_simple, request.is_list
        if request.is_listing:
            connection.push(list_answer(request.ticket, connection.wanted, is_simple=request.is_simple))
        else:
            connection.wanted = request.wanted
            self.on_subscribed(connection)
        self.on_change()
        connection.flush(asyncio.get_running_loop().time())

    def on_subscribed(self, connection: Connection) -> None:
        """A connection has a new subscription."""

    def on_change(self) -> None:
        """Connections or subscriptions changed."""

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
                    await connection.socket.close(code=WSCloseCode.OK)

    async def close(self) -> None:
        """Say goodbye to everybody."""
        for connection in list(self.connections):
            connection.flush(asyncio.get_running_loop().time())
            await connection.socket.close(code=WSCloseCode.GOING_AWAY)


class Hub(Sockets):
    """All public connections of one feed."""

    def __init__(self, feed: Feed, on_first: Callable[[], None]) -> None:
        super().__init__(QUOTATION_KINDS)
        self._feed = feed
        self._on_first = on_first
        self._routes: dict[tuple[str, str], list[tuple[Connection, Style]]] = {}
        self.sent: Counter[str] = Counter()
        self.cut_off = 0

    def on_subscribed(self, connection: Connection) -> None:
        """Send snapshots; the first subscription starts the market."""
        for wanted in connection.wanted:
            if not wanted.has_snapshot:
                continue
            for market, depth in wanted.codes.items():
                style = Style(connection.is_simple, connection.is_list, depth, is_snapshot=True)
                for frame in self._feed.snapshots(market, wanted.kind):
                    connection.push(frame.spell(style))
                    self.sent["snapshot:" + frame.kind] += 1
        self._on_first()

    def on_change(self) -> None:
        """Rebuild who gets what."""
        routes: dict[tuple[str, str], list[tuple[Connection, Style]]] = defaultdict(list)
        for connection in self.connections:
            for wanted in connection.wanted:
                if wanted.has_stream:
                    for market, depth in wanted.codes.items():
                        style = Style(connection.is_simple, connection.is_list, depth)
                        routes[wanted.kind, market].append((connection, style))
        self._routes = dict(routes)

    # --- frames -----------------------------------------------------------------------------------------------

    def publish(self, frame: Frame) -> None:
        """Queue a frame to everybody who wants it; `flush` sends."""
        targets = self._routes.get((frame.kind, frame.market))
        if not targets:
            return
        shared: dict[Style, tuple[bytes, bytes]] = {}
        for connection, style in targets:
            if style not in shared:
                payload = frame.spell(style)
                shared[style] = (payload, framed(payload))
            connection.push(*shared[style])
            self.sent[frame.kind] += 1

    def publish_to_all(self, payload: bytes) -> None:
        """Queue bytes that have no market (a frame of a recording that cannot be read) to every subscriber."""
        for connection in self.connections:
            if connection.wanted:
                connection.push(payload)
                self.sent["other"] += 1

    def flush(self) -> None:
        """Write what is queued; cut off whoever does not read."""
        now = asyncio.get_running_loop().time()
        for connection in self.connections:
            connection.flush(now)
            if connection.backlog() > BACKLOG_BYTES:
                self._cut_off(connection)

    async def drained(self, left_bytes: int | None = None) -> None:
        """Wait until every client has taken nearly all; a client that takes nothing for a minute is cut off."""
        left_bytes = BUSY_BYTES if left_bytes is None else left_bytes
        loop = asyncio.get_running_loop()
        for connection in list(self.connections):
            started = loop.time()
            last = connection.backlog()
            while connection in self.connections and (backlog := connection.backlog()) > left_bytes:
                if backlog < last:
                    started, last = loop.time(), backlog
                if loop.time() - started > STUCK_SECONDS:
                    self._cut_off(connection)
                    break
                await asyncio.sleep(0.002)

    def _cut_off(self, connection: Connection) -> None:
        self.cut_off += 1
        logger.warning("a client that does not read was cut off with %d bytes waiting", connection.backlog())
        connection.wanted = ()
        self.on_change()
        connection.transport.abort()
