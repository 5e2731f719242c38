"""The exchange's own memory: an append-only file of JSON lines; requests that wait together share one flush to disk.

Called by `exchange`. Nothing may be told to its owner before `after` or `synced` says that the disk has it. A line cut
off by a kill is cut away at the next start. One process holds the file at a time.
"""

import asyncio
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.errors import AlreadyRunning, BadSettings

REFUSE_SECONDS = 0.2
"""How long new entries are refused after the disk refused some, so that a full disk is not asked at every request."""


@dataclass(slots=True)
class _Group:
    """Entries that reach the disk together, and who waits for them."""

    lines: list[bytes] = field(default_factory=list)
    calls: list[Callable[[], None]] = field(default_factory=list)
    waiters: list[asyncio.Future[bool]] = field(default_factory=list)

    def end(self, *, is_stored: bool) -> None:
        """Tell everybody who waits; what was to be told of lost entries is not told."""
        loop = asyncio.get_running_loop()
        for call in self.calls if is_stored else ():
            loop.call_soon(call)
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(is_stored)


class Journal:
    """An open journal; `entries` first, then `append`. Inside a running loop appended entries are flushed in groups."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.lost: Callable[[], None] = lambda: None
        """Called when appended entries could not be stored: whoever acted on them must read `entries` again."""
        self.flushes = 0
        self._group = _Group()
        self._flying: _Group | None = None
        self._flight: Future[None] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._refused_until = 0.0
        self._dies_after: float | None = None
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise AlreadyRunning(f"another sandbox holds {path}") from None

    def entries(self) -> Iterator[dict[str, Any]]:
        """Everything stored so far; raises `BadSettings` where the file is damaged before its last line."""
        end = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    entries = json.loads(line)
                except ValueError:
                    raise BadSettings(f"{self.path} is damaged in line {number}: move it away to start anew") from None
                end += len(line)
                yield from entries if isinstance(entries, list) else (entries,)  # older journals: one a line
        os.ftruncate(self._file, end)
        os.lseek(self._file, end, os.SEEK_SET)

    def append(self, *entries: dict[str, Any]) -> None:
        """Add entries, all or none of them; an `OSError` (disk full) says that none stands.

        Inside a running loop they are stored a moment later, together with those of others; without one at once.
        """
        data = json.dumps(entries, separators=(",", ":"), ensure_ascii=False) + "\n"  # one line: a cut takes all
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._store(data.encode())
            return
        if time.monotonic() < self._refused_until:
            raise OSError("the journal's disk refused a moment ago")
        self._group.lines.append(data.encode())
        if self._writer is None:
            self._writer = loop.create_task(self._write())

    def after(self, call: Callable[[], None]) -> None:
        """Call when everything appended so far is stored, never if it cannot be."""
        group = self._newest()
        if group is None:
            call()
        else:
            group.calls.append(call)

    async def synced(self) -> None:
        """Wait until everything appended so far is stored; raises `OSError` where it could not be."""
        group = self._newest()
        if group is None:
            return
        waiter = asyncio.get_running_loop().create_future()
        group.waiters.append(waiter)
        if not await waiter:
            raise OSError("the journal could not be written")

    def _newest(self) -> _Group | None:
        return self._group if self._group.lines else self._flying

    async def _write(self) -> None:
        try:
            while self._group.lines:
                self._flying, self._group = self._group, _Group()
                self._flight = self._thread.submit(self._store, b"".join(self._flying.lines))
                await asyncio.wrap_future(self._flight)
                flown, self._flying = self._flying, None
                flown.end(is_stored=True)
        except OSError:
            self._lose()
        finally:
            self._writer = None

    def _lose(self) -> None:
        """What was appended meanwhile was built on what is lost, and is lost with it."""
        groups = [group for group in (self._flying, self._group) if group is not None]
        self._flying, self._flight, self._group = None, None, _Group()
        self._refused_until = time.monotonic() + REFUSE_SECONDS
        self.lost()
        for group in groups:
            group.end(is_stored=False)

    def die_at_next_write(self, share: float) -> None:
        """Kill this process at its next write, after this share of the bytes (a fault)."""
        self._dies_after = share

    def _store(self, data: bytes) -> None:
        """Write and flush, or leave the file as it was."""
        if self._dies_after is not None:
            os.write(self._file, data[: int(len(data) * self._dies_after)])
            os.kill(os.getpid(), signal.SIGKILL)
        start = os.lseek(self._file, 0, os.SEEK_CUR)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fdatasync(self._file)
        except OSError:
            os.ftruncate(self._file, start)
            os.lseek(self._file, start, os.SEEK_SET)
            raise
        self.flushes += 1

    def close(self) -> None:
        """Store what still waits, unless it was built on what is lost, and let go of the file."""
        self.lost = lambda: None
        self._thread.shutdown(wait=True)
        lines, self._group.lines = self._group.lines, []
        flight = self._flight
        try:
            if lines and (flight is None or not (flight.cancelled() or flight.exception())):
                self._store(b"".join(lines))
        finally:
            os.close(self._file)
