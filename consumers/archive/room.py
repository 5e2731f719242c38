"""How much the archive may take on this machine, and what goes wrong for how long: told once, at each change.

Called by the process and its keeper. It deletes nothing: where there is no more room, writing waits and says so.
"""

import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from infra.servers.kafka import LOWEST_FREE_BYTES
from infra.store import StoreFull

logger = logging.getLogger(__name__)

WARN_AT = 0.8
LEFT_FREE_BYTES = 8 * LOWEST_FREE_BYTES
"""What the archive leaves of a disk without a budget: the broker needs room too."""


class Troubles:
    """What is wrong now, by a word each; both threads tell it, and status shows it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: dict[str, str] = {}

    def say(self, what: str, text: str) -> None:
        """It is so; a line is written where it was not so before."""
        with self._lock:
            is_new = what not in self._now
            self._now[what] = text
        if is_new:
            logger.warning("%s", text)

    def over(self, what: str, text: str) -> None:
        """It is so no longer."""
        with self._lock:
            was = self._now.pop(what, None)
        if was is not None:
            logger.info("%s", text)

    def all(self) -> dict[str, str]:
        """As they stand."""
        with self._lock:
            return dict(self._now)


class Room:
    """The bytes that the archive's folder takes, counted as parts come and go, against what it may take."""

    def __init__(
        self,
        path: Path,
        used: int,
        budget_gb: float,
        troubles: Troubles,
        *,
        free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        self.used = used
        self._lock = threading.Lock()
        self._path = path
        self._budget = int(budget_gb * 1e9)
        self._troubles = troubles
        self._free_bytes = free_bytes

    def add(self, size: int) -> None:
        """So many bytes came, or went where it is negative; both threads tell it."""
        with self._lock:
            self.used += size

    @property
    def limit(self) -> int:
        """What it may take: the budget, else what it takes and what the disk has beyond the broker's share."""
        return self._budget or self.used + max(0, self._free_bytes(self._path) - LEFT_FREE_BYTES)

    def check(self, further: int) -> None:
        """Raise `StoreFull` where `further` bytes are too many."""
        limit = self.limit
        if self.used + further > limit:
            raise StoreFull(
                f"the archive may take {limit / 1e9:.2f} GB and takes {self.used / 1e9:.2f}: nothing further is written"
                f" and nothing deleted. {self._remedy()} The log keeps what waits for as long as its retention."
            )

    def look(self) -> None:
        """Warn before it is reached."""
        limit = self.limit
        if self.used > WARN_AT * limit:
            text = f"the archive takes {self.used / 1e9:.2f} of the {limit / 1e9:.2f} GB that it may. {self._remedy()}"
            self._troubles.say("room", text)
        else:
            self._troubles.over("room", "the archive has room again")

    def _remedy(self) -> str:
        if self._budget:
            return "Raise archive.budget_gb, lower archive.keep_days or name a bucket as archive.target."
        return "Make room on the disk, or name a bucket or another folder as archive.target."
