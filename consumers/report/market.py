"""The books beside a day's orders: rows of `features` at chosen moments, read once, and what an order gets in them.

Called by `consumers.report.day`. Keeps nothing but the rows that somebody asked for.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple

from consumers.report.split import CONTEXT, Expected
from streams.market import costs
from streams.messages import Features, OrderIntent, Signal, key_of

REACH_MS = 10_000
"""A row that is older than this at a moment is not the book of that moment."""
BP = Decimal(10_000)
HUNDRED = Decimal(100)


class Moment(NamedTuple):
    """A market at a market time."""

    key: str
    at_ms: int


class Books:
    """The newest row at or before each moment that was asked for."""

    def __init__(self, moments: Iterable[Moment]) -> None:
        self._wanted: defaultdict[str, list[int]] = defaultdict(list)
        for moment in sorted(set(moments)):
            self._wanted[moment.key].append(moment.at_ms)
        self._found: dict[Moment, Features] = {}

    @property
    def keys(self) -> set[str]:
        """Markets of which anything is wanted."""
        return set(self._wanted)

    def see(self, row: Features) -> None:
        """Take one row; they may come in any order, and twice."""
        key = key_of(row.exchange, row.market)
        wanted = self._wanted.get(key)
        if not wanted:
            return
        for at_ms in wanted[bisect_left(wanted, row.bin_ms) :]:
            if at_ms >= row.bin_ms + REACH_MS:
                break
            moment = Moment(key, at_ms)
            before = self._found.get(moment)
            if before is None or before.bin_ms <= row.bin_ms:
                self._found[moment] = row

    def at(self, moment: Moment) -> Features | None:
        """The row, or None where none was recorded near enough."""
        return self._found.get(moment)

    def mid(self, moment: Moment) -> Decimal | None:
        """Its mid price."""
        row = self.at(moment)
        return None if row is None or row.mid is None else exact(row.mid)


def exact(number: float) -> Decimal:
    """A float as it is written."""
    return Decimal(repr(number))


def growth_of(signal: Signal | None) -> Decimal:
    """The expected return of the mid over the horizon: exp(basis points / 10,000) - 1; 0 without a signal."""
    if signal is None:
        return Decimal(0)
    return CONTEXT.subtract(CONTEXT.exp(CONTEXT.divide(exact(signal.expected_bp), BP)), Decimal(1))


def expected_of(
    intent: OrderIntent, row: Features | None, signal: Signal | None, fee_percent: Decimal
) -> Expected | None:
    """The order in a book; None where there is no book, or it is too thin for it.

    A market order walks the five levels of the row as its entry's cost did; a limit order that reaches the other side
    walks up to its price, one that rests gets its own price.
    """
    levels = None if row is None else costs.levels_of(row.levels)
    if row is None or row.mid is None or levels is None:
        return None
    side = levels.asks if intent.side == "buy" else levels.bids
    if intent.funds is not None:
        quantity = costs.bought_for(side, float(intent.funds))
        if not quantity:
            return None
        return _expected(exact(quantity), intent.funds, exact(row.mid), signal, fee_percent, is_in_funds=True)
    if intent.quantity is None:
        return None
    funds = _funds(intent, side)
    if funds is None:
        return None
    return _expected(intent.quantity, funds, exact(row.mid), signal, fee_percent, is_in_funds=False)


def _funds(intent: OrderIntent, side: costs.Ladder) -> Decimal | None:
    assert intent.quantity is not None
    left, funds = intent.quantity, Decimal(0)
    for price, size in zip(map(exact, side.prices), map(exact, side.sizes), strict=True):
        if intent.price is not None and (price > intent.price if intent.side == "buy" else price < intent.price):
            break
        met = min(left, size)
        funds += met * price
        left -= met
        if not left:
            return funds
    return None if intent.price is None else funds + left * intent.price


def _expected(
    quantity: Decimal, funds: Decimal, mid: Decimal, signal: Signal | None, fee_percent: Decimal, *, is_in_funds: bool
) -> Expected:
    fee = CONTEXT.divide(funds * fee_percent, HUNDRED)
    return Expected(quantity, funds, fee, mid, growth_of(signal), is_in_funds)
