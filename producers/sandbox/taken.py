"""What each account has taken from the levels of a market that does not change by itself (recorded or followed books).

Called by `trading`. It stays taken, for that account, until the book shows another size at that price. Pure.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from producers.sandbox.feeds import BookView
from streams.market.matching import Level


class _Part(NamedTuple):
    shown: int
    taken: int


_Kept = dict[tuple[bool, int], _Part]
"""(is an ask, price) -> the size the book showed, and what was taken of it."""


class Taken:
    """All accounts and markets."""

    def __init__(self) -> None:
        self._kept: defaultdict[str, dict[str, _Kept]] = defaultdict(dict)

    def forget(self) -> None:
        """Nobody has taken anything."""
        self._kept.clear()

    def kept(self, market: str) -> dict[str, Any]:
        """What accounts have taken in a market, for the journal; `restore` reads it."""
        return {
            account: [[is_ask, price, *part] for (is_ask, price), part in kept.items()]
            for account, kept in self._kept.get(market, {}).items()
        }

    def restore(self, market: str, accounts: Mapping[str, Any]) -> None:
        """Take it up again."""
        self._kept[market] = {
            account: {(is_ask, price): _Part(shown, taken) for is_ask, price, shown, taken in rows}
            for account, rows in accounts.items()
        }

    def see(self, market: str, book: BookView) -> None:
        """Forget what a new book shows otherwise."""
        accounts = self._kept.get(market)
        if not accounts:
            return
        shown = {(is_ask, level.price_e8): level.lots for is_ask, level in _levels(book)}
        for account, kept in list(accounts.items()):
            left = {key: part for key, part in kept.items() if shown.get(key) == part.shown}
            if left:
                accounts[account] = left
            else:
                del accounts[account]

    def visible(self, account: str, market: str, book: BookView) -> BookView:
        """The book without what the account took from it."""
        kept = self._kept[market].get(account)
        if not kept:
            return book
        return book._replace(bids=_left(book.bids, kept, is_ask=False), asks=_left(book.asks, kept, is_ask=True))

    def take(self, account: str, market: str, book: BookView, levels: Iterable[Level], *, is_ask: bool) -> None:
        """Remember that the account took lots from levels of one side; `book` is the whole book, as shown."""
        kept = self._kept[market].setdefault(account, {})
        shown = {level.price_e8: level.lots for level in (book.asks if is_ask else book.bids)}
        for level in levels:
            before = kept.get((is_ask, level.price_e8), _Part(0, 0))
            kept[is_ask, level.price_e8] = _Part(shown.get(level.price_e8, 0), before.taken + level.lots)


def _levels(book: BookView) -> Iterable[tuple[bool, Level]]:
    yield from ((False, level) for level in book.bids)
    yield from ((True, level) for level in book.asks)


def _left(levels: Sequence[Level], kept: _Kept, *, is_ask: bool) -> list[Level]:
    left = []
    for level in levels:
        part = kept.get((is_ask, level.price_e8))
        lots = level.lots - part.taken if part is not None and part.shown == level.lots else level.lots
        if lots > 0:
            left.append(Level(level.price_e8, lots))
    return left
