"""The market's own time for what is to happen a moment later: fills and cancels come at their place among the frames.

Called by the server, which gives `later` to the exchange and `run_until` to the driver of the feed. At a hundred times
live speed 30 ms are 0.3 ms of ours, and between the same two frames on every run. Where the market stands still (not
begun, ended, a quiet hour) the same time by our clock is enough.
"""

import heapq
import itertools
from collections.abc import Callable
from functools import partial

Work = Callable[[], None]


class MarketClock:
    """Work that waits; `wall_later` is the loop's own call."""

    def __init__(self, now_ms: Callable[[], int], wall_later: Callable[[float, Work], object]) -> None:
        self._now_ms = now_ms
        self._wall_later = wall_later
        self._waiting: list[tuple[int, int]] = []
        self._works: dict[int, Work] = {}
        self._numbers = itertools.count()
        self._asked_meanwhile: list[tuple[float, Work]] | None = None

    def hold(self) -> None:
        """The market's time runs through a past until `release`: what is asked meanwhile belongs behind it."""
        self._asked_meanwhile = []

    def release(self) -> None:
        """The past is over: what is still due comes by either time again, then what was asked meanwhile."""
        asked, self._asked_meanwhile = self._asked_meanwhile or [], None
        for due_ms, number in sorted(self._waiting):
            wait_s = max(0.0, (due_ms - self._now_ms()) / 1000)
            self._wall_later(wait_s, partial(self._do, number))
        for seconds, work in asked:
            self.later(seconds, work)

    def at(self, exchange_ms: int, work: Work) -> None:
        """Do it when the market's time has come there, whatever ours says, until `release`."""
        number = next(self._numbers)
        self._works[number] = work
        heapq.heappush(self._waiting, (exchange_ms, number))

    def later(self, seconds: float, work: Work) -> None:
        """Do it when the market's time has come, or ours, whichever is first; equal times in the order of asking."""
        if self._asked_meanwhile is not None:
            self._asked_meanwhile.append((seconds, work))
            return
        self._forget_done()
        number = next(self._numbers)
        self._works[number] = work
        heapq.heappush(self._waiting, (self._now_ms() + round(seconds * 1000), number))
        self._wall_later(seconds, lambda: self._do(number))

    def run_until(self, exchange_ms: int) -> None:
        """Do what falls due before a frame of this time is shown."""
        while self._waiting and self._waiting[0][0] < exchange_ms:
            self._do(heapq.heappop(self._waiting)[1])

    def _forget_done(self) -> None:
        """What our clock was first with; a market that stands still would keep it for ever."""
        while self._waiting and self._waiting[0][1] not in self._works:
            heapq.heappop(self._waiting)

    def _do(self, number: int) -> None:
        work = self._works.pop(number, None)
        if work is not None:
            work()
