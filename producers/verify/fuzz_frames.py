"""Mutated websocket frames over real lines, public and private: bytes, JSON, and the frames' own headers.

Called by `fuzz`. After each frame comes a ping; the frame is dealt with when the server has answered that or closed.
"""

import asyncio
import base64
import json
import os
import random
from collections import Counter
from typing import Any

from infra.upbit.signing import sign
from producers.verify.fuzz_rest import VALUES
from producers.verify.sandbox_process import SandboxProcess

HANG_S = 30.0
_PING, _PONG, _CLOSE = 9, 10, 8
_PUBLIC: tuple[list[dict[str, Any]], ...] = (
    [{"ticket": "t"}, {"type": "orderbook", "codes": ["KRW-BTC.5", "KRW-XRP"], "level": 0}, {"format": "SIMPLE"}],
    [{"ticket": "t"}, {"type": "trade", "codes": ["KRW-XRP"], "is_only_snapshot": True}, {"format": "JSON_LIST"}],
    [{"ticket": "t"}, {"type": "ticker", "codes": ["KRW-XRP"], "isOnlyRealtime": True}, {"format": "SIMPLE_LIST"}],
    [{"ticket": "t"}, {"type": "candle.1s", "codes": ["KRW-XRP"]}, {"format": "DEFAULT"}],
    [{"ticket": "t"}, {"method": "LIST_SUBSCRIPTIONS"}],
)
_PRIVATE: tuple[list[dict[str, Any]], ...] = (
    [{"ticket": "t"}, {"type": "myOrder", "codes": ["KRW-XRP"]}, {"format": "SIMPLE"}],
    [{"ticket": "t"}, {"type": "myAsset"}],
    [{"ticket": "t"}, {"method": "LIST_SUBSCRIPTIONS"}, {"format": "SIMPLE_LIST"}],
)
_KEYS = (
    "ticket", "type", "codes", "level", "format", "method", "is_only_snapshot", "is_only_realtime", "isOnlySnapshot",
    "isOnlyRealtime", "",
)  # fmt: skip
_RAW = (b"PING", b" PING\n", b"ping", b"", b"[" * 60_000, b'[{"ticket":' * 9_000, b"\xff" * 9, b"x" * 100_000, b"\x00")


def frame(payload: bytes, *, first: int = 0x82, is_masked: bool = True) -> bytes:
    """One client frame; its mask is zero."""
    size = len(payload)
    mask = 0x80 if is_masked else 0
    if size < 126:
        head = bytes((first, mask | size))
    elif size < 65536:
        head = bytes((first, mask | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, mask | 127)) + size.to_bytes(8, "big")
    return head + (bytes(4) if is_masked else b"") + payload


def changed_bytes(data: bytes, draw: random.Random) -> bytes:
    """Some bytes flipped, put in, taken out or repeated."""
    found = bytearray(data)
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(found) + 1)
        act = draw.randrange(4)
        if act == 0 and at < len(found):
            found[at] = draw.randrange(256)
        elif act == 1:
            found[at:at] = bytes(draw.randrange(256) for _ in range(draw.randint(1, 4)))
        elif act == 2:
            del found[at : at + draw.randint(1, 8)]
        else:
            found[at:at] = found[at : at + draw.randint(1, 40)] * draw.randint(1, 5)
    return bytes(found)


def changed_json(request: list[dict[str, Any]], draw: random.Random) -> bytes:
    """A request with a value, a key or a part of another kind than it should be."""
    parts: list[Any] = [dict(part) for part in request]
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(parts) or 1)
        act = draw.randrange(6)
        if act == 0 and parts and isinstance(parts[at], dict):
            parts[at][draw.choice(_KEYS)] = draw.choice(VALUES)
        elif act == 1 and parts and isinstance(parts[at], dict) and parts[at]:
            parts[at][draw.choice(list(parts[at]))] = draw.choice(VALUES)
        elif act == 2 and parts:
            parts.pop(at)
        elif act == 3:
            parts.insert(at, draw.choice(VALUES))
        elif act == 4 and parts:
            parts.append(parts[at])
        else:
            draw.shuffle(parts)
    return json.dumps(draw.choice(VALUES) if draw.random() < 0.03 else parts).encode()


class Line:
    """One connection that takes mutated frames until the server closes it, and is then opened anew."""

    def __init__(self, fuzzer: "FrameFuzzer", number: int) -> None:
        self._fuzzer = fuzzer
        self._is_private = number % 2 == 1
        self._is_compressed = number % 5 == 4
        self._draw = random.Random(fuzzer.seed * 10_000 + number)  # noqa: S311 - repeatable, not secret
        self._pings = 0
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self) -> None:
        """Send frames as long as some are left."""
        try:
            while self._fuzzer.take():
                try:
                    await asyncio.wait_for(self._one(), HANG_S)
                except TimeoutError:
                    self._fuzzer.hangs += 1
                    await self._leave()
                except (ConnectionError, asyncio.IncompleteReadError):
                    self._fuzzer.ends["line ended"] += 1
                    await self._leave()
        finally:
            await self._leave()

    async def _one(self) -> None:
        reader, writer = self._streams or await self._open()
        data, is_cut = self._drawn()
        writer.write(data)
        if is_cut:
            await self._leave()
            self._fuzzer.ends["cut off midway by the client"] += 1
            return
        self._pings += 1
        token = self._pings.to_bytes(4, "big")
        writer.write(frame(token, first=0x80 | _PING))
        while True:
            opcode, payload = await _read(reader)
            if opcode == _PONG and payload == token:
                self._fuzzer.ends["went on"] += 1
                return
            if opcode == _CLOSE:
                self._fuzzer.ends[f"closed with {int.from_bytes(payload[:2], 'big')}"] += 1
                await self._leave()
                return

    def _drawn(self) -> tuple[bytes, bool]:
        """The bytes of the next frame, and whether the client leaves in its middle."""
        draw = self._draw
        request = draw.choice(_PRIVATE if self._is_private else _PUBLIC)
        good = json.dumps(request).encode()
        kind = draw.random()
        if kind < 0.35:
            payload = changed_bytes(good, draw)
        elif kind < 0.75:
            payload = changed_json(request, draw)
        elif kind < 0.8:
            payload = draw.choice(_RAW)
        else:
            payload = good
        if kind < 0.92:
            return frame(payload, first=draw.choice((0x81, 0x82))), False
        if kind < 0.95:
            whole = frame(payload)
            return whole[: draw.randrange(len(whole))], True
        if kind < 0.96:
            return bytes((0x82, 0xFF)) + (2 ** draw.randrange(17, 63)).to_bytes(8, "big") + bytes(4), True
        return frame(payload[:2_000], first=draw.randrange(256), is_masked=draw.random() < 0.8), False

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sandbox, keys = self._fuzzer.sandbox, self._fuzzer.keys
        streams = reader, writer = await asyncio.open_connection("127.0.0.1", sandbox.port)
        path = "/websocket/v1/private" if self._is_private else "/websocket/v1"
        lines = [
            f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{sandbox.port}", "Upgrade: websocket", "Connection: Upgrade",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}", "Sec-WebSocket-Version: 13",
        ]  # fmt: skip
        if self._is_private:
            lines.append("Authorization: " + sign(*keys))
        if self._is_compressed:
            lines.append("Sec-WebSocket-Extensions: permessage-deflate")
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n")[0]:
            writer.close()
            raise RuntimeError(f"a correct handshake was refused: {head[:200]!r}")
        self._fuzzer.lines += 1
        self._streams = streams
        return streams

    async def _leave(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


async def _read(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readexactly(2)
    size = head[1] & 0x7F
    if size > 125:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    return head[0] & 0x0F, await reader.readexactly(size)


class FrameFuzzer:
    """Many lines at once, and the score."""

    def __init__(self, sandbox: SandboxProcess, access_key: str, secret_key: str, seed: int) -> None:
        self.sandbox = sandbox
        self.keys = access_key, secret_key
        self.seed = seed
        self.sent = 0
        self.lines = 0
        self.hangs = 0
        self.ends: Counter[str] = Counter()
        self._left = 0

    def take(self) -> bool:
        """Whether one more frame is to be sent."""
        if self._left <= 0:
            return False
        self._left -= 1
        self.sent += 1
        return True

    async def run(self, count: int, lines: int) -> None:
        """Send so many frames."""
        self._left = count
        await asyncio.gather(*(Line(self, number).run() for number in range(lines)))
