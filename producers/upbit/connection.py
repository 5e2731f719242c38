"""One websocket connection to Upbit's public stream, on websocket-client. Used by the feed and by the recorder.

Reads the socket in large pieces, so that a burst costs one system call and each frame carries the time at which its
bytes were read. Never interprets a frame. Every failure is `ExchangeUnavailable`.
"""

import contextlib
import json
import select
import socket
import ssl
import time
import uuid
from collections.abc import Callable, Sequence
from typing import cast

import websocket

from infra.errors import ExchangeUnavailable

CHUNK_BYTES = 262_144
GATHER_S = 0.01
"""Frames may wait this long for company: to wake for each one costs half as much again as the work on it."""
GATHER_MANY_S = 0.025
"""So long where many come: among them the newest is a moment old all the same, and only its age delays a bin's end."""
MANY_BYTES = 20_000
BURST_BYTES = CHUNK_BYTES // 2
"""After so large a piece nothing is waited for: the other side has more than we take."""
PARTIAL_TIMEOUT_S = 0.05
CONNECT_TIMEOUT_S = 5.0
_DATA = (websocket.ABNF.OPCODE_TEXT, websocket.ABNF.OPCODE_BINARY)
_WHOLE_TEXT = 0x81
_WHOLE_BINARY = 0x82


class _BufferedSocket:
    """A socket with a large buffer, out of which whole plain data frames are cut directly.

    That is the one thing done by hand here, because websocket-client needs 7 us of Python per frame for it and the
    whole feed has 50. Every other frame it reads itself, through `recv`.
    """

    def __init__(self, plain: socket.socket) -> None:
        self._socket = plain
        self._is_tls = isinstance(plain, ssl.SSLSocket)
        self._poll = select.poll()
        self._poll.register(plain, select.POLLIN)
        self._data = b""
        self._at = 0
        self.gather_s = GATHER_S
        """How long the next bytes may wait for company, by how many came last."""
        self.now_ns = time.monotonic_ns()
        self.wall_ns = time.time_ns()

    def fill(self, timeout_s: float) -> bool:
        """Read what is there, now or within the time; False where nothing came. Raises `OSError`, `EOFError`."""
        if timeout_s > self.gather_s > 0.0:
            time.sleep(self.gather_s)
            timeout_s -= self.gather_s
        is_decrypted = isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()  # poll does not see that
        return bool(is_decrypted or self._poll.poll(max(0.0, timeout_s) * 1000)) and self._read()

    def data_frame(self) -> bytes | None:
        """The payload of the next frame where it is whole, unfragmented data; else None and nothing is taken."""
        data = self._data
        at = self._at
        if len(data) - at < 2 or (data[at] != _WHOLE_BINARY and data[at] != _WHOLE_TEXT) or data[at + 1] > 127:
            return None
        start, end = _bounds(data, at)
        if end > len(data):
            return None
        self._at = end
        return data[start:end]

    def has_bytes(self) -> bool:
        """Whether anything is there."""
        return self._at < len(self._data)

    def has_frame(self) -> bool:
        """Whether a whole frame of any kind is there."""
        return len(self._data) - self._at >= 2 and _bounds(self._data, self._at)[1] <= len(self._data)

    def recv(self, size: int) -> bytes:
        """At most `size` bytes, as websocket-client asks for them; none at the end of the stream."""
        if self._at >= len(self._data):
            try:
                if not self._read():
                    raise TimeoutError("the rest of a TLS record is on its way")
            except EOFError:
                return b""
        start = self._at
        self._at = start + size
        return self._data[start : self._at]

    def _read(self) -> bool:
        """Take what is there; False where it is but a part of a TLS record. Raises `OSError`, `EOFError`."""
        pieces: list[bytes] = []
        size = 0
        try:
            while size < CHUNK_BYTES and (not pieces or (self._is_tls and self._poll.poll(0))):
                piece = self._socket.recv(CHUNK_BYTES)  # TLS gives one record at a time, however much is there
                if not piece:
                    break
                pieces.append(piece)
                size += len(piece)
        except TimeoutError:
            if not pieces:
                return False
        if not pieces:
            raise EOFError("the other side closed")
        self.gather_s = GATHER_S if size < MANY_BYTES else GATHER_MANY_S if size < BURST_BYTES else 0.0
        self._data = b"".join((self._data[self._at :], *pieces))
        self._at = 0
        self.now_ns = time.monotonic_ns()
        self.wall_ns = time.time_ns()
        return True

    def send(self, data: bytes) -> int:
        """Send."""
        return self._socket.send(data)

    def gettimeout(self) -> float | None:
        """The time-out of `recv` and `send`."""
        return self._socket.gettimeout()

    def settimeout(self, timeout_s: float | None) -> None:
        """Set it."""
        self._socket.settimeout(timeout_s)

    def fileno(self) -> int:
        """The descriptor, for select."""
        return self._socket.fileno()

    def shutdown(self, how: int) -> None:
        """Close one or both directions."""
        self._socket.shutdown(how)

    def close(self) -> None:
        """Close."""
        self._socket.close()


class Connection:
    """Connected from the start; raises `ExchangeUnavailable` when the exchange does not answer in time."""

    def __init__(self, url: str, *, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        try:
            # Upbit counts a request with an Origin header as a browser's: one in ten seconds
            self._web = websocket.create_connection(
                url, timeout=timeout_s, skip_utf8_validation=True, suppress_origin=True
            )
        except (websocket.WebSocketException, OSError) as error:
            raise ExchangeUnavailable(f"{url} cannot be reached: {error}") from error
        assert self._web.sock is not None
        self._buffer = _BufferedSocket(self._web.sock)
        self._web.sock = cast("socket.socket", self._buffer)
        self._web.settimeout(PARTIAL_TIMEOUT_S)
        self._is_split = False
        self.last_frame_ns = time.monotonic_ns()
        """When the last frame of any kind came in, pongs included, by the monotonic clock."""

    def subscribe(self, markets: Sequence[str]) -> None:
        """Ask for books with all levels and trades from now on, short keys. Replaces an earlier subscription."""
        codes = list(markets)
        request = [
            {"ticket": str(uuid.uuid4())},
            {"type": "orderbook", "codes": codes, "is_only_realtime": True},
            {"type": "trade", "codes": codes, "is_only_realtime": True},
            {"format": "SIMPLE"},
        ]
        self._send(json.dumps(request), websocket.ABNF.OPCODE_TEXT)
        self._send("PING", websocket.ABNF.OPCODE_TEXT)

    def ask_tickers(self, markets: Sequence[str]) -> None:
        """Ask for one ticker per market, long keys, and nothing after it."""
        request = [{"ticket": str(uuid.uuid4())}, {"type": "ticker", "codes": list(markets), "is_only_snapshot": True}]
        self._send(json.dumps(request), websocket.ABNF.OPCODE_TEXT)

    def ping(self) -> None:
        """Ask for a sign of life; the pong moves `last_frame_ns`."""
        self._send("", websocket.ABNF.OPCODE_PING)

    @property
    def now_ns(self) -> int:
        """When the bytes of the last frame came in, by the monotonic clock."""
        return self._buffer.now_ns

    @property
    def wall_ns(self) -> int:
        """The same by the wall clock."""
        return self._buffer.wall_ns

    def receive(self, patience_s: Callable[[], float]) -> bytes | None:
        """The next data frame; None when none came in time, or something that is none.

        `patience_s` says how long to wait, and is asked only when nothing is there.
        Raises `ExchangeUnavailable` when the connection ended.
        """
        buffer = self._buffer
        try:
            if self._is_split:
                return self._other_frame() if buffer.has_bytes() or buffer.fill(patience_s()) else None
            raw = buffer.data_frame()
            if raw is None and not buffer.has_frame():
                if not buffer.fill(patience_s()):
                    return None
                raw = buffer.data_frame()
            if raw is not None:
                self.last_frame_ns = buffer.now_ns
                return raw
            return self._other_frame() if buffer.has_frame() else None
        except (websocket.WebSocketException, OSError, EOFError) as error:
            raise ExchangeUnavailable(f"the connection was lost: {error}") from error

    def _other_frame(self) -> bytes | None:
        """Leave pings, pongs, closes and pieces of messages to websocket-client."""
        self._is_split = True
        try:
            opcode, frame = self._web.recv_data_frame(control_frame=True)
        except websocket.WebSocketTimeoutException:
            return None  # the rest of a message in pieces is on its way; websocket-client keeps what is there
        self._is_split = False
        self.last_frame_ns = self._buffer.now_ns
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            raise ExchangeUnavailable(f"the exchange closed the connection: {_close_text(frame.data)}")
        return bytes(frame.data) if opcode in _DATA else None

    def close(self) -> None:
        """Say goodbye if that is possible at once, and close."""
        with contextlib.suppress(websocket.WebSocketException, OSError):
            self._web.send_close()
        self._buffer.close()

    def _send(self, data: str, opcode: int) -> None:
        try:
            self._web.send(data, opcode)
        except (websocket.WebSocketException, OSError) as error:
            raise ExchangeUnavailable(f"the connection was lost: {error}") from error


def _close_text(data: bytes) -> str:
    code = int.from_bytes(data[:2], "big") if len(data) >= 2 else 0
    return f"{code} {data[2:].decode(errors='replace')}".strip()


def _bounds(data: bytes, at: int) -> tuple[int, int]:
    """Start and end of the payload of the frame at `at`; beyond the data where the header is not whole."""
    size = data[at + 1] & 0x7F
    start = at + 2
    if size == 126:
        start = at + 4
        size = int.from_bytes(data[at + 2 : start], "big")
    elif size == 127:
        start = at + 10
        size = int.from_bytes(data[at + 2 : start], "big")
    if data[at + 1] > 127:
        start += 4
    return start, start + size
