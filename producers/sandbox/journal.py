"""The exchange's own memory: an append-only file of JSON lines, flushed to disk before anything is answered.

Called by `exchange`. A line cut off by a kill is cut away at the next start. One process holds the file at a time.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infra.errors import AlreadyRunning, BadSettings


class Journal:
    """An open journal; `entries` first, then `append`."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise AlreadyRunning(f"another sandbox holds {path}") from None

    def entries(self) -> Iterator[dict[str, Any]]:
        """Everything written so far; raises `BadSettings` where the file is damaged before its last line."""
        end = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    entry = json.loads(line)
                except ValueError:
                    raise BadSettings(f"{self.path} is damaged in line {number}: move it away to start anew") from None
                end += len(line)
                yield entry
        os.ftruncate(self._file, end)
        os.lseek(self._file, end, os.SEEK_SET)

    def append(self, *entries: dict[str, Any]) -> None:
        """Write some entries and return when the disk has them; on an `OSError` (disk full) none of them stands."""
        data = "".join(json.dumps(entry, separators=(",", ":"), ensure_ascii=False) + "\n" for entry in entries)
        start = os.lseek(self._file, 0, os.SEEK_CUR)
        rest = memoryview(data.encode())
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fdatasync(self._file)
        except OSError:
            os.ftruncate(self._file, start)
            os.lseek(self._file, start, os.SEEK_SET)
            raise

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)
