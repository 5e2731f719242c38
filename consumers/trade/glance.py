"""What the accounts share when they decide on one bin: the levels of its book, its signals per choice of horizons, and
the cost per size and fee. Made by `consumers.trade.fold` once per bin, so that an account more costs little. Pure.
"""

from consumers.trade.state import Bin, Book, Facts, Shared
from streams import messages as m
from streams.market import costs


class Glance:
    """One bin of one market. Lives as long as the accounts are being asked."""

    def __init__(self, key: str, found: Bin, shared: Shared) -> None:
        self.key = key
        self.found = found
        self.shared = shared
        self.book: Book | None = shared.books.get(key)
        self.facts: Facts | None = shared.facts.get(key)
        self.levels = costs.levels_of(self.book.levels) if self.book is not None else None
        self.exchange, _, self.market = key.partition(":")
        self._signals: dict[tuple[int, ...], tuple[m.Signal, ...]] = {}
        self._best: dict[tuple[int, ...], m.Signal] = {}
        self._costs: dict[tuple[float, float], costs.Cost | None] = {}

    def signals(self, horizons: tuple[int, ...]) -> tuple[m.Signal, ...]:
        """The bin's signals over some horizons, in their order."""
        found = self._signals.get(horizons)
        if found is None:
            signals = self.found.signals
            found = self._signals[horizons] = tuple(signals[one] for one in horizons if one in signals)
        return found

    def largest(self, horizons: tuple[int, ...]) -> m.Signal:
        """The largest expectation of those, licensed or not; there is at least one."""
        found = self._best.get(horizons)
        if found is None:
            found = self._best[horizons] = max(self.signals(horizons), key=lambda signal: signal.expected_bp)
        return found

    def cost(self, size: tuple[float, float]) -> costs.Cost | None:
        """The round trip's cost for funds and a fee in per cent; none where the book cannot bear the size."""
        if size not in self._costs:
            is_known = self.levels is not None and size[0] > 0.0
            self._costs[size] = costs.round_trip(self.levels, *size) if is_known and self.levels is not None else None
        return self._costs[size]
