"""The market of a sandbox that has none: where the deployment follows the real exchange's public feed.

The account, its balances and its orders can be looked at; every new order is refused with `market_offline`. Following
the deployment's own books comes with the sandbox's second part.
"""

from collections.abc import Sequence

from producers.sandbox.feeds import BookView, Frame, MarketRow, Print
from streams.market.matching import Level


class ClosedMarket:
    """A feed without markets."""

    is_synthetic = False
    is_closed = True
    is_warm = False
    is_ended = False
    clock_ms = 0
    warm_ms: int | None = None

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def markets(self) -> list[MarketRow]:
        """None."""
        return []

    def book(self, market: str) -> BookView | None:
        """None."""
        _ = market
        return None

    def take(self, market: str, taken: Sequence[Level], *, is_buy: bool) -> list[Frame]:
        """Nothing can be taken."""
        _ = market, taken, is_buy
        return []

    def prints(self, market: str) -> Sequence[Print]:
        """None."""
        _ = market
        return ()

    def opening_e8(self, market: str) -> int:
        """None."""
        _ = market
        return 0

    def snapshots(self, market: str, kind: str) -> list[Frame]:
        """None."""
        _ = market, kind
        return []
