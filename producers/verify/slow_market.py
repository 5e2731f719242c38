"""The slow oracle's books: what was shown, and what each account took from it since. Lists and decimals only.

Called by `oracle`. It must import nothing of `streams.market`.
"""

from decimal import Decimal
from typing import NamedTuple

from producers.verify.wishes import Wish, total_of

Offer = tuple[Decimal, Decimal]
"""A price and a size."""


class Gone(NamedTuple):
    """What an account took from a level."""

    account: str
    market: str
    is_ask: bool
    price: Decimal
    size: Decimal
    shown: Decimal
    """Size of the level then."""


class SlowMarket:
    """All books. `is_shared`: what one account takes is gone for all, and the next book shows the market anew."""

    def __init__(self, *, is_shared: bool) -> None:
        self.is_shared = is_shared
        self._books: dict[tuple[str, bool], list[Offer]] = {}
        """(market, is it the asks) -> what was shown."""
        self._gone: list[Gone] = []

    def has(self, market: str) -> bool:
        """Whether a book was shown."""
        return (market, True) in self._books

    def forget(self) -> None:
        """The feed starts anew and has no book yet."""
        self._books.clear()
        self._gone.clear()

    def give_back(self) -> None:
        """What was taken from a market of others is not remembered when the exchange reads its journal anew."""
        if not self.is_shared:
            self._gone.clear()

    def show(self, market: str, bids: list[Offer], asks: list[Offer]) -> None:
        """A new book; what an account took stays taken while the level keeps its size."""
        self._books[market, False], self._books[market, True] = list(bids), list(asks)
        sizes = {(False, price): size for price, size in bids} | {(True, price): size for price, size in asks}
        self._gone = [
            row
            for row in self._gone
            if row.market != market or (not self.is_shared and sizes.get((row.is_ask, row.price)) == row.shown)
        ]

    def whole(self, market: str, *, asks: bool) -> list[Offer]:
        """One side as it was shown."""
        return list(self._books[market, asks])

    def visible(self, account: str, market: str, *, asks: bool) -> list[Offer]:
        """One side without what was taken from it."""
        offers = []
        for price, size in self._books[market, asks]:
            gone = total_of(
                [
                    row.size
                    for row in self._gone
                    if (row.market, row.is_ask, row.price) == (market, asks, price)
                    and (self.is_shared or row.account == account)
                ]
            )
            if size > gone:
                offers.append((price, size - gone))
        return offers

    def take(self, wish: Wish, price: Decimal, size: Decimal) -> None:
        """An order takes from the other side."""
        shown = next(one for at, one in self._books[wish.market, wish.is_buy] if at == price)
        self._gone.append(Gone(wish.account, wish.market, wish.is_buy, price, size, shown))
