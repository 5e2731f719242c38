"""The door for clients whose addresses are fixed: an HTTP proxy that takes `CONNECT` to the exchange's own name and
answers there itself, over TLS with a certificate of the test authority.

Started by the server beside its plain port. It never opens a connection to anywhere: whatever a client asks for,
nothing leaves the machine.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import cast

from producers.sandbox.authority import Authority

logger = logging.getLogger(__name__)

HOSTS = ("api.upbit.com",)
"""For whom the sandbox stands in; every other name is refused."""
_LONGEST_HEAD = 8192
_HEAD_SECONDS = 10.0
_HANDSHAKE_SECONDS = 10.0

ProtocolFactory = Callable[[], asyncio.Protocol]


class Front:
    """The proxy; `serve_plain` makes the protocol of the plain port, which speaks inside the TLS as well."""

    def __init__(self, authority: Authority, serve_plain: ProtocolFactory) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.load_cert_chain(authority.identity)
        self.context.set_alpn_protocols(["http/1.1"])
        self._serve_plain = serve_plain
        self._server: asyncio.Server | None = None
        self.doors: set[Door] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self, listener: socket.socket) -> None:
        """Take connections of a bound socket."""
        self._server = await asyncio.get_running_loop().create_server(lambda: Door(self), sock=listener)
        self.port = listener.getsockname()[1]

    async def close(self) -> None:
        """Listen no more and drop who is still knocking; those let in belong to the server."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self.tasks):
            task.cancel()
        for door in tuple(self.doors):
            door.drop()

    async def let_in(self, transport: asyncio.Transport) -> None:
        """Speak TLS from here on and hand the connection to the server."""
        waiting = Waiting()
        loop = asyncio.get_running_loop()
        try:
            secured = await loop.start_tls(
                transport, waiting, self.context, server_side=True, ssl_handshake_timeout=_HANDSHAKE_SECONDS
            )
        except (OSError, ssl.SSLError):
            transport.abort()
            logger.info("a client of the front gave up the handshake: it does not trust the test authority")
            return
        if secured is None or waiting.is_lost:
            return
        protocol = self._serve_plain()
        secured.set_protocol(protocol)
        protocol.connection_made(secured)
        if waiting.held:
            protocol.data_received(bytes(waiting.held))


class Waiting(asyncio.Protocol):
    """Holds what a client says in the moment between the handshake's end and the server's taking over."""

    def __init__(self) -> None:
        self.held = bytearray()
        self.is_lost = False

    def data_received(self, data: bytes) -> None:
        """Keep it for the server."""
        self.held += data

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there to be served."""
        del exc
        self.is_lost = True


class Door(asyncio.Protocol):
    """One connection until its `CONNECT` is answered."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._head = bytearray()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give it a moment to say where it wants to go."""
        self._transport = cast("asyncio.Transport", transport)
        self._timer = asyncio.get_running_loop().call_later(_HEAD_SECONDS, self.drop)
        self._front.doors.add(self)

    def data_received(self, data: bytes) -> None:
        """Collect the request's head and answer it."""
        if self._transport is None:
            return
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0 and len(self._head) <= _LONGEST_HEAD:
            return
        if end < 0 or end + 4 != len(self._head):  # what follows a CONNECT before its answer is nothing we know
            self._refuse("400 Bad Request", "this proxy takes CONNECT requests only")
            return
        method, _, rest = self._head[:end].split(b"\r\n", 1)[0].decode("latin-1").partition(" ")
        target = rest.partition(" ")[0]
        if method != "CONNECT":
            self._refuse("405 Method Not Allowed", "this proxy takes CONNECT requests only")
        elif target.lower() not in {f"{host}:443" for host in HOSTS}:
            self._refuse("403 Forbidden", f"this proxy leads to {', '.join(HOSTS)} in the sandbox and nowhere else")
        else:
            self._open()

    def connection_lost(self, exc: Exception | None) -> None:
        """It left before it was let in."""
        del exc
        self._leave()

    def drop(self) -> None:
        """End it without a word."""
        if self._transport is not None:
            self._transport.abort()
            self._leave()

    def _open(self) -> None:
        transport = self._leave()
        transport.pause_reading()  # the first words of the handshake are for the TLS layer, which resumes it
        transport.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        task = asyncio.get_running_loop().create_task(self._front.let_in(transport))
        self._front.tasks.add(task)
        task.add_done_callback(self._front.tasks.discard)

    def _refuse(self, status: str, text: str) -> None:
        transport = self._leave()
        body = f"{text}\n".encode()
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        transport.write(head.encode() + body)
        transport.close()

    def _leave(self) -> asyncio.Transport:
        """Let go of the connection: what happens to it next is somebody else's."""
        transport, self._transport = self._transport, None
        if self._timer is not None:
            self._timer.cancel()
        self._front.doors.discard(self)
        return cast("asyncio.Transport", transport)
