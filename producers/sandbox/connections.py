"""One websocket client of the sandbox: what it wants, what waits for it, what it asked too often.

Called by `sockets`. Frames are bytes that all subscribers share; what a client does not read is counted here and
bounded by whoever holds the connections.
"""

import asyncio
from dataclasses import dataclass, field

from aiohttp import web

from producers.sandbox.subscriptions import Wanted


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
    name: str
    """What its messages are counted under."""
    account: str = ""
    permissions: tuple[str, ...] = ()
    wanted: tuple[Wanted, ...] = ()
    is_simple: bool = False
    is_list: bool = False
    is_pinged: bool = False
    last_seen: float = 0.0
    last_up: float = 0.0
    pending: list[bytes] = field(default_factory=list)
    queue: asyncio.Queue[bytes] | None = None
    """Only where compression was negotiated: the library compresses, one frame at a time."""
    queued_bytes: int = 0
    routed: list[tuple[str, str]] = field(default_factory=list)
    """(kind, market) of the streams it gets."""
    refusals: int = 0
    """Requests past the quota since the last one that was carried out."""
    control_second: int = 0
    control_frames: int = 0

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

    def controls_in_second(self, now: float) -> int:
        """Count one ping or pong; how many came in this second."""
        if int(now) != self.control_second:
            self.control_second, self.control_frames = int(now), 0
        self.control_frames += 1
        return self.control_frames

    def drop(self) -> None:
        """Cut the line without a word."""
        self.wanted = ()
        self.pending.clear()
        self.transport.abort()

    async def send_compressed(self) -> None:
        """Pass the queue on through the library; runs for the life of a compressed connection."""
        assert self.queue is not None
        loop = asyncio.get_running_loop()
        while True:
            payload = await self.queue.get()
            try:
                await self.socket.send_bytes(payload)
            except (ConnectionError, RuntimeError):  # the client left; its listener cleans up
                return
            self.queued_bytes -= len(payload)
            self.last_seen = loop.time()
