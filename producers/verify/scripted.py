"""A market, a clock and a journal that a check moves by hand, for driving the real `Exchange` without a loop or a disk.

Called by `matching` and tests. The journal keeps the very lines that a file would hold, so a restart reads real text.
"""

import heapq
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from producers.sandbox.feeds import BookView, Frame, MarketRow, Print, Style
from streams.market.matching import Level
from streams.market.ticks import tick_e8


class Clock:
    """Simulated time with calls that are due later; equal times in the order of asking."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self._calls: list[tuple[int, int, Callable[[], None]]] = []
        self._asked = 0

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Have something called in a while."""
        self._asked += 1
        heapq.heappush(self._calls, (self.now_ms + round(delay_s * 1000), self._asked, call))

    def advance(self, ms: int) -> None:
        """Let time pass and make the calls that fall due."""
        until_ms = self.now_ms + ms
        while self._calls and self._calls[0][0] <= until_ms:
            self.now_ms, _, call = heapq.heappop(self._calls)
            call()
        self.now_ms = until_ms

    def forget(self) -> None:
        """Drop all calls, as a kill does."""
        self._calls.clear()


class ScriptedMarket:
    """A feed whose books and trades are set from outside."""

    kind = "scripted"
    is_closed = False
    is_warm = True
    is_ended = False
    warm_ms: int | None = 0
    closing_e8: Callable[[str, int], int] | None = None

    def __init__(self, clock: Clock, prices: Mapping[str, int], *, is_synthetic: bool) -> None:
        self.is_synthetic = is_synthetic
        self.has_queue = not is_synthetic
        self._clock = clock
        self._prices = dict(prices)
        self._books: dict[str, BookView] = {}

    @property
    def clock_ms(self) -> int:
        """The exchange's clock."""
        return self._clock.now_ms

    def show(self, market: str, bids: list[Level], asks: list[Level]) -> Frame:
        """Set a new book; gives its frame."""
        self._books[market] = BookView(bids, asks, self.clock_ms)
        return Frame("orderbook", market, self.clock_ms, _unspelled)

    def print(self, market: str, price_e8: int, lots: int, *, is_buy: bool) -> Frame:
        """Have others trade; gives the frame."""
        row = Print(self.clock_ms, price_e8, lots, is_buy, self.clock_ms * 10_000)
        return Frame("trade", market, self.clock_ms, _unspelled, row)

    def forget(self) -> None:
        """Lose the books, as a feed that starts anew."""
        self._books.clear()

    def markets(self) -> list[MarketRow]:
        """All of them."""
        return [
            MarketRow(market, market, market, tick_e8(market, price, self.clock_ms))
            for market, price in self._prices.items()
        ]

    def book(self, market: str) -> BookView | None:
        """The book that was set last."""
        return self._books.get(market)

    def take(self, market: str, taken: Sequence[Level], *, is_buy: bool) -> list[Frame]:
        """Take sizes out of the book, where the market is ours to change."""
        if not self.is_synthetic:
            return []
        book = self._books[market]
        gone: dict[int, int] = {}
        for level in taken:
            gone[level.price_e8] = gone.get(level.price_e8, 0) + level.lots
        side = [Level(at, lots - gone.get(at, 0)) for at, lots in (book.asks if is_buy else book.bids)]
        left = [level for level in side if level.lots > 0]
        self._books[market] = book._replace(asks=left) if is_buy else book._replace(bids=left)
        return []

    def cross(self, market: str, traded: Sequence[Level], *, is_buy: bool) -> list[Frame]:
        """Nobody is told."""
        _ = market, traded, is_buy
        return []

    def opening_e8(self, market: str) -> int:
        """The price the market began with."""
        return self._prices[market]

    def snapshots(self, market: str, kind: str) -> list[Frame]:
        """None: nobody subscribes."""
        _ = market, kind
        return []


class MemoryJournal:
    """A journal of text lines in memory; it can refuse as a full disk does, at once or after it has taken the lines."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._flying: list[str] | None = None
        self.is_full = False
        self.lost: Callable[[], None] = lambda: None

    def entries(self) -> Iterator[dict[str, Any]]:
        """Everything stored so far, read back from its text."""
        for line in list(self._lines):
            yield json.loads(line)

    def append(self, *entries: dict[str, Any]) -> None:
        """Write some entries, or none of them where the disk is full."""
        if self.is_full:
            raise OSError(28, "No space left on device")
        lines = [json.dumps(entry, separators=(",", ":"), ensure_ascii=False) for entry in entries]
        (self._lines if self._flying is None else self._flying).extend(lines)

    def after(self, call: Callable[[], None]) -> None:
        """Call at once: nobody listens here."""
        call()

    def hold(self) -> None:
        """Take lines from now on without storing them."""
        self._flying = []

    def lose(self) -> None:
        """Lose what was held, and say so."""
        self._flying = None
        self.lost()


def _unspelled(_style: Style) -> bytes:
    return b""
