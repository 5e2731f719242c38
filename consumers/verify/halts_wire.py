"""A wire between the executor and the exchange that notes when which request passed; nothing is changed on it.

Called by `halts_stage`. An order is noted by its identifier when its body comes by, a cancel by its order's id.
"""

import asyncio
import re
import threading
import time
from contextlib import suppress
from typing import NamedTuple, Self
from urllib.parse import urlsplit

_ORDER = re.compile(rb'"(?:new_)?identifier"\s*:\s*"([^"]+)"')
_CANCEL = re.compile(rb"DELETE /v1/order\?uuid=([0-9A-Za-z-]+)")
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")
_KEPT = 512
"""Bytes that are looked at again with the next piece, should a request be cut in two."""


class Passed(NamedTuple):
    """One request that came by."""

    kind: str
    """`order` or `cancel`."""
    name: str
    at_s: float
    """By the monotonic clock."""


class Wire:
    """Listens on a free port of this machine and passes everything on."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._passed: list[Passed] = []
        self.statuses: dict[int, int] = {}
        """How many answers of each status came back."""
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="wire", daemon=True)
        self.url = ""

    def __enter__(self) -> Self:
        """Start to listen."""
        self._thread.start()
        self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        """Cut every line."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def passed(self, first: int = 0) -> list[Passed]:
        """What came by, from number `first` on."""
        return self._passed[first:]

    def _run(self) -> None:
        async def listen() -> asyncio.Server:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            self._ready.set()
            return server

        async def cut(server: asyncio.Server) -> None:
            server.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)  # sockets are closed in the turn after their writers

        try:
            server = self._loop.run_until_complete(listen())
            self._loop.run_forever()
            self._loop.run_until_complete(cut(server))
        finally:
            self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(self._pass(reader, back, is_request=True), self._pass(there, writer, is_request=False))
        finally:
            back.close()
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_request: bool) -> None:
        before = b""
        with suppress(OSError):
            while piece := await reader.read(65_536):
                if is_request:
                    before = self._note(before, piece, time.monotonic())
                else:
                    for status in _STATUS.findall(piece):
                        self.statuses[int(status)] = self.statuses.get(int(status), 0) + 1
                writer.write(piece)
                await writer.drain()
        with suppress(OSError):
            writer.close()

    def _note(self, before: bytes, piece: bytes, at_s: float) -> bytes:
        """Note the requests that end in this piece; returns what the next one is read with."""
        text, end = before + piece, 0
        for kind, pattern in (("order", _ORDER), ("cancel", _CANCEL)):
            for found in pattern.finditer(text):
                if found.end() > len(before):
                    self._passed.append(Passed(kind, found[1].decode(), at_s))
                    end = max(end, found.end())
        return text[max(end, len(text) - _KEPT) :]
