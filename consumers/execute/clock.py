"""Market time as the executor knows it, from the decisions it reads.

`executor` feeds it, `desk` asks it whether a decision is stale and what time to write on events. Never used for settle
windows: those run on the monotonic clock alone.
"""

from collections.abc import Callable
from threading import Lock

from streams.messages import OrderIntent

FRESH_MS = 5_000
OTHER_MARKET_MS = 6 * 3_600_000


class MarketClock:
    """`now_s` is monotonic, `wall_ms` the clock that the log stamps records with; `speed` is the feed's."""

    def __init__(self, now_s: Callable[[], float], wall_ms: Callable[[], int], speed: float = 1.0) -> None:
        self._now_s = now_s
        self._wall_ms = wall_ms
        self._speed = speed
        self._newest_ms = 0
        self._seen_s = now_s()
        self._lock = Lock()

    def observe(self, event_ms: int, append_ms: int) -> None:
        """Something was decided at `event_ms` of the market and appended at `append_ms` of the log.

        Earlier than known changes nothing, but for one case: what was appended just now and lies hours back comes from
        another market (a recording after a live feed), whose time it is from here on.
        """
        lain_ms = self._lain_ms(append_ms)
        with self._lock:
            is_other = lain_ms < FRESH_MS and event_ms < self._newest_ms - OTHER_MARKET_MS * max(1.0, self._speed)
            if event_ms > self._newest_ms or is_other:
                self._newest_ms = event_ms
                self._seen_s = self._now_s() - lain_ms / 1000

    def now_ms(self) -> int:
        """The best estimate, 0 before anything was seen: the newest decision's time and what has passed since.

        A market that stood still meanwhile is behind it, so it is written on events but makes nothing stale.
        """
        with self._lock:
            if not self._newest_ms:
                return 0
            return self._newest_ms + int((self._now_s() - self._seen_s) * 1000 * self._speed)

    def wall_ms(self) -> int:
        """The computer's clock, for the journal's own bookkeeping."""
        return self._wall_ms()

    def is_stale(self, intent: OrderIntent, append_ms: int) -> bool:
        """Whether an intent's time is over: by a newer decision seen, or by how long it has lain since it was made
        (an executor that was away has seen nothing newer).
        """
        reached_ms = intent.event_ms + int(self._lain_ms(append_ms) * self._speed)
        with self._lock:
            return max(self._newest_ms, reached_ms) > intent.expires_ms

    def _lain_ms(self, append_ms: int) -> int:
        return max(0, self._wall_ms() - append_ms)
