"""What the feed has done beside its loop, in threads: the sandbox's status, the markets' descriptions, the back-fill.

Each errand is a call that returns something; the feed's loop collects what is done, so that only one thread ever
publishes. A failed errand is tried again at its next turn and never stops the feed.
"""

import http.client
import logging
import urllib.parse
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import msgspec

from infra.errors import ObservatorError

logger = logging.getLogger(__name__)

T = TypeVar("T")
STATUS_TIMEOUT_S = 2.0


class SandboxStatus(msgspec.Struct, frozen=True):
    """What the feed needs of `/sandbox/status`."""

    is_warm: bool = False
    is_ended: bool = False
    exchange_ms: int = 0
    warm_ms: int | None = None
    """Market time at which the warm-up ended, where the sandbox tells."""


class Errand(Generic[T]):
    """A call repeated every `every_s`, at most one at a time."""

    def __init__(self, pool: ThreadPoolExecutor, call: Callable[[], T], every_s: float) -> None:
        self._pool = pool
        self._call = call
        self._every_ns = int(every_s * 1e9)
        self._next_ns = 0
        self._running: Future[T] | None = None

    def result(self, now_ns: int) -> T | None:
        """What has come in since the last look; starts the call when its turn has come."""
        if self._running is None:
            if now_ns >= self._next_ns:
                self._next_ns = now_ns + self._every_ns
                self._running = self._pool.submit(self._call)
            return None
        if not self._running.done():
            return None
        done, self._running = self._running, None
        return outcome(done)


def outcome(done: "Future[T]") -> T | None:
    """The result of a finished call; None where it failed, which the log tells."""
    try:
        return done.result()
    except (ObservatorError, OSError, msgspec.DecodeError) as error:
        logger.info("an errand failed and will be tried again: %s", error)
        return None


def sandbox_status(url: str) -> SandboxStatus:
    """Ask the sandbox; raises `OSError` or `msgspec.DecodeError`."""
    place = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(place.netloc, timeout=STATUS_TIMEOUT_S)
    try:
        connection.request("GET", place.path)
        return msgspec.json.decode(connection.getresponse().read(), type=SandboxStatus)
    except http.client.HTTPException as error:
        raise OSError(f"no answer from {url}: {error!r}") from error
    finally:
        connection.close()
