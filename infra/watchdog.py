"""Ends a process that no longer moves, so that the supervisor starts it anew: the last answer to what nobody foresaw.

A loop is stuck when its thread has not come round for a while, or when it comes round, makes no progress and there is
something to read. An outage of the log is neither.
"""

import logging
import os
import threading
import time
from collections.abc import Callable

from infra.errors import ObservatorError

EXIT_STUCK = 70
"""Exit code of a process that its watchdog ended."""
LIMIT_S = 7.0

_logger = logging.getLogger(__name__)


def end_process(reason: str) -> None:
    """Log the reason and leave at once: a stuck thread cannot be asked to stop."""
    _logger.critical("stuck, ending the process: %s", reason)
    for handler in logging.getLogger().handlers:
        handler.flush()
    os._exit(EXIT_STUCK)


class Watchdog:
    """Watches one loop. `behind` says what could be read but is not (None: nothing), and raises while the log is away.

    It notices within `limit_s` + 2 s + what `behind` takes: a record that came a moment ago after a quiet time is not
    taken in yet, so what is behind must be so at two looks without progress between them.
    """

    def __init__(
        self,
        behind: Callable[[], str | None],
        *,
        limit_s: float = LIMIT_S,
        on_stuck: Callable[[str], None] = end_process,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._behind = behind
        self._limit_s = limit_s
        self._on_stuck = on_stuck
        self._clock = clock
        self._beat = self._progress = clock()
        self._suspected: float | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self) -> None:
        """The loop came round. Long work inside a turn calls this too."""
        self._beat = self._clock()

    def progress(self) -> None:
        """The loop took something in."""
        self._beat = self._progress = self._clock()

    def start(self) -> None:
        """Begin to watch."""
        self.progress()
        self._thread.start()

    def stop(self) -> None:
        """End watching."""
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def check(self) -> None:
        """Look once."""
        now, progress = self._clock(), self._progress
        is_silent = now - self._beat > self._limit_s
        if not is_silent and now - self._progress <= self._limit_s:
            return
        try:
            reason = self._behind()
        except ObservatorError as error:
            _logger.info("no progress, but the log does not answer either: %s", error)
            self.progress()
            return
        if is_silent and now - self._beat > self._limit_s:
            self._on_stuck(f"the loop has not come round for {now - self._beat:.1f} s; {reason or 'nothing to read'}")
        elif reason is None:
            self._progress, self._suspected = max(now, self._progress), None
        elif self._progress != progress:
            self._suspected = None
        elif self._suspected == progress:
            self._on_stuck(f"no progress for {now - progress:.1f} s; {reason}")
        else:
            self._suspected = progress

    def _watch(self) -> None:
        while not self._is_over.wait(min(self._limit_s / 4, 1.0)):
            try:
                self.check()
            except Exception:  # the outermost loop of this thread: a watchdog that died would watch nothing
                _logger.exception("the watchdog's question failed; it asks again")
