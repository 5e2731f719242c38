"""The deployment's own `orderbooks` and `trades` as a market, live: what paper orders meet while the feed is real.

Made by `market`, moved on by `drivers`. What stood in the log before the start makes the newest books known and fills
nothing. A market whose partition fell silent, heartbeats included, has no book: an old price is no price.
"""

from collections.abc import Callable, Iterator

from producers.sandbox.feeds import BookView, Frame, MarketRow
from producers.sandbox.logged import Batch, Tail
from producers.sandbox.outside import Outside
from streams.market.ticks import E8


class Follow(Outside):
    """The followed market."""

    kind = "follow"
    has_snapshots = True

    def __init__(self, tail: Tail, *, stale_ms: int, now_ms: Callable[[], int]) -> None:
        super().__init__()
        self.tail = tail
        self.is_warm = False
        self._stale_ms = stale_ms
        self._now_ms = now_ms
        self._partitions: dict[str, int] = {}
        self._appended_ms: dict[int, int] = {}
        self._ticks: dict[str, int] = {}

    def take_batch(self, batch: Batch, before: Callable[[int], None]) -> Iterator[Frame]:
        """Move on line by line; gives each live one's frame while its book is the newest.

        `before` is told each live line's time first, so that however the lines are cut into batches, what was due until
        then happens on the book before it.
        """
        self._appended_ms |= batch.appended_ms
        for row in batch.markets:
            self._ticks[row.market] = int(row.tick_size * E8)
            self._names[row.market] = (row.korean_name or row.market, row.english_name or row.market)
        for line in batch.lines:
            if self.is_warm:
                before(line.exchange_ms)
            if line.kind == "orderbook":
                self._partitions[line.market] = int(line.source.rsplit("/", 2)[1])
            if (frame := self.take_line(line)) is not None and self.is_warm:
                yield frame
        self.is_warm = self.is_warm or batch.is_caught_up

    @property
    def is_closed(self) -> bool:
        """Before the log was read to its end, and while it knows no market."""
        return not (self.is_warm and self._rows)

    def book(self, market: str) -> BookView | None:
        """The newest book; None before the log was read to its end, and where nobody vouches for it any more."""
        if not self.is_warm or self.lag_ms(market) > self._stale_ms:
            return None
        return super().book(market)

    def lag_ms(self, market: str) -> int:
        """Time since anything came from the market's partition."""
        partition = self._partitions.get(market)
        return self._now_ms() - self._appended_ms.get(-1 if partition is None else partition, 0)

    def markets(self) -> list[MarketRow]:
        """Markets with a book, with the tick that the exchange told."""
        return [row._replace(tick_e8=self._ticks.get(row.market, row.tick_e8)) for row in super().markets()]
