"""The market's time for requests, from the feed's records. Called by `runner` and by the command line.

People write times of the wall clock in Korea. Where the feed is live its time and the computer's differ by their
clocks' errors only, so the computer's is taken; a recording or a market at another pace has its own time, which goes on
from its newest record at the feed's speed.
"""

from collections.abc import Callable

LIVE_MS = 3_600_000
"""A feed at live pace whose time lies so near to the computer's is live."""


class RequestClock:
    """`wall_ms` is the clock that the log stamps records with."""

    def __init__(self, wall_ms: Callable[[], int], speed: float = 1.0) -> None:
        self._wall_ms = wall_ms
        self._speed = speed
        self._seen: tuple[int, int] | None = None

    def observe(self, event_ms: int, append_ms: int) -> None:
        """The feed reached `event_ms`, and the log has it since `append_ms`."""
        if self._seen is None or append_ms >= self._seen[1]:
            self._seen = event_ms, append_ms

    def now_ms(self) -> int:
        """Market time."""
        wall_ms = self._wall_ms()
        if self._seen is None:
            return wall_ms
        event_ms, append_ms = self._seen
        if self._speed == 1.0 and abs(event_ms - append_ms) < LIVE_MS:
            return wall_ms
        return event_ms + int(max(0, wall_ms - append_ms) * self._speed)

    def wall_ms(self) -> int:
        """The computer's clock."""
        return self._wall_ms()
