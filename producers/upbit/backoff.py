"""Pauses between attempts to reach the exchange: exponential with full jitter. Used by the feed and the recorder."""

import random


class Backoff:
    """Draws each pause evenly from zero to a bound that doubles with every attempt, up to the longest."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._attempts = 0

    def pause_s(self) -> float:
        """The next pause."""
        bound_s = min(self._longest_s, self._first_s * 2.0 ** min(self._attempts, 30))
        self._attempts += 1
        return random.uniform(0.0, bound_s)  # noqa: S311 - jitter, no secret

    def reset(self) -> None:
        """Begin anew: data flow."""
        self._attempts = 0
