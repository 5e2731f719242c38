"""The processes' log files under `logs/`: their last lines, and what is added, over rotations.

Read by the command line and the demo; written by supervisord alone.
"""

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from infra.errors import Stop


def read(
    home: Path, process: str | None = None, *, follow: bool = False, lines: int = 200, pause_s: float = 0.3
) -> Iterator[tuple[str, str]]:
    """(process, line) of one log or of all; the last `lines` of each, then with `follow` whatever is added.

    Logs that appear later are followed as well, from their first line.
    """
    folder = home / "logs"
    names = [process] if process else _names(folder)
    tails = {name: _Tail(folder / f"{name}.log") for name in names}
    if process and not tails[process].file.exists():
        raise Stop(f"There is no log of a process {process!r} in {folder}.")
    for name, tail in tails.items():
        for line in tail.fresh()[-lines:]:
            yield name, line
    while follow:
        for name in () if process else _names(folder):
            tails.setdefault(name, _Tail(folder / f"{name}.log"))
        for name, tail in tails.items():
            for line in tail.fresh():
                yield name, line
        time.sleep(pause_s)


def _names(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.log"))


def last_lines(home: Path, process: str, count: int = 8) -> list[str]:
    """The end of a process's log; empty where there is none."""
    return _Tail(home / "logs" / f"{process}.log").fresh()[-count:]


def readable(line: str) -> str:
    """A structured line in the words of a person; any other line as it is."""
    if not line.startswith("{"):
        return line
    try:
        found = json.loads(line)
        at = datetime.fromtimestamp(found["time_ms"] / 1000, UTC)
        trace = f"\n{found['trace']}" if "trace" in found else ""
        return f"{at:%H:%M:%S}.{at.microsecond // 1000:03d} {found['level']} {found['logger']}: {found['text']}{trace}"
    except (ValueError, KeyError, TypeError):
        return line


class _Tail:
    """What was added to a log since the last look, over rotations."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._inode = 0
        self._at = 0
        self._rest = b""

    def fresh(self) -> list[str]:
        try:
            with self.file.open("rb") as stream:
                found = os.fstat(stream.fileno())
                if found.st_ino != self._inode or found.st_size < self._at:
                    self._inode, self._at, self._rest = found.st_ino, 0, b""
                stream.seek(self._at)
                data = stream.read()
        except FileNotFoundError:
            return []
        self._at += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [line.decode(errors="replace") for line in whole]
