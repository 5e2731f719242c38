"""The source's estimate of the exchange's time. Pure: monotonic time is passed in. Used by `producers.upbit.source`."""

NS_PER_MS = 1_000_000


class ExchangeClock:
    """The largest exchange timestamp seen plus the monotonic time since then, times the feed's speed; never back.

    It follows the messages, not our wall clock: recordings of other years and markets at a hundred times live speed
    have a time of their own.
    """

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._largest_ms = 0
        self._seen_ns = 0
        self._estimate_ms = 0.0

    @property
    def largest_ms(self) -> int:
        """The largest exchange timestamp seen, 0 before the first."""
        return self._largest_ms

    def see(self, exchange_ms: int, now_ns: int) -> None:
        """Take note of a message's time; only a larger one moves the clock."""
        if exchange_ms > self._largest_ms:
            self._largest_ms = exchange_ms
            self._seen_ns = now_ns

    def estimate_ms(self, now_ns: int) -> float:
        """The exchange's time now."""
        passed_ms = (now_ns - self._seen_ns) * self._speed / NS_PER_MS
        self._estimate_ms = max(self._estimate_ms, self._largest_ms + passed_ms)
        return self._estimate_ms

    def due_ns(self, exchange_ms: int) -> int:
        """The monotonic time at which the estimate reaches `exchange_ms` when no message comes."""
        ahead_ms = exchange_ms - self._largest_ms
        return self._seen_ns + int(ahead_ms * NS_PER_MS / self._speed) + 1
