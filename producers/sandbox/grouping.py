"""Grouping of a book's prices (`level`) as the exchange offers it on KRW markets. Pure; used by the stream and by REST.

Bids are rounded down and asks up, so that no group shows a better price than stands in the book.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from streams.market.matching import Level

Ints = npt.NDArray[np.int64]

_POWERS = (10, 100, 1_000, 10_000, 100_000)


def levels_e8(market: str, tick_e8: int) -> tuple[int, ...]:
    """The grouping levels of a market: none (0) and, in won, five powers of ten times its tick."""
    if not market.startswith("KRW-"):
        return (0,)
    return (0, *(tick_e8 * power for power in _POWERS))


def group(prices: Ints, lots: Ints, level_e8: int, *, is_bid: bool) -> tuple[Ints, Ints]:
    """One side, best first, added up into steps of `level_e8`; empty (zero) levels are left out."""
    is_there = prices > 0
    prices, lots = prices[is_there], lots[is_there]
    if prices.size == 0:
        return prices, lots
    steps = prices // level_e8 if is_bid else -(-prices // level_e8)
    starts = np.flatnonzero(np.diff(steps, prepend=steps[0] - 1))
    return steps[starts] * level_e8, np.add.reduceat(lots, starts)


def group_levels(side: Sequence[Level], level_e8: int, *, is_bid: bool) -> list[Level]:
    """The same for a list of levels."""
    if level_e8 == 0 or not side:
        return list(side)
    prices, lots = np.array(side, dtype=np.int64).T
    grouped = group(prices, lots, level_e8, is_bid=is_bid)
    return [Level(price, size) for price, size in zip(grouped[0].tolist(), grouped[1].tolist(), strict=True)]
