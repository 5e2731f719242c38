"""What a round trip costs in basis points, and how floats become valid order amounts. Pure.

`consumers.trade` decides entries with it, pages show it, backtests charge it. Market data come in as float64 and costs
go out as float64 basis points of the mid price; amounts of orders are `Decimal` and take their context as an argument.

The cost of buying for F (quote currency) and selling the bought quantity again, seen from one book:

    mid   m  = (best bid + best ask) / 2
    buy   pa = F / q, where q is what F buys when the asks are walked best first
    sell  pb = S / q, where S is what q brings when the bids are walked best first
    spread   = (best ask - best bid) / m              both half spreads
    slippage = (pa - best ask) / m + (best bid - pb) / m
    fees     = 2 f                                    f: fee of one side
    cost     = (fees + spread + slippage) * 10,000

The book after the holding time is taken to look like the one now. A model's expectation is a log return of the mid,
which is never above the simple return that pays this cost, so comparing the two errs on the side of not trading.
"""

from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Literal, NamedTuple

BP = 10_000.0
DEPTH = 5
"""Levels per side in `Features.levels`."""
QUANTITY_STEP = Decimal("0.00000001")


class Ladder(NamedTuple):
    """One side of a book, best level first."""

    prices: tuple[float, ...]
    sizes: tuple[float, ...]


class Levels(NamedTuple):
    """The levels that are there; both sides have at least one."""

    bids: Ladder
    asks: Ladder

    @property
    def mid(self) -> float:
        """Mid price."""
        return (self.bids.prices[0] + self.asks.prices[0]) / 2.0


class Cost(NamedTuple):
    """A round trip's cost in basis points of the mid price."""

    fees_bp: float
    spread_bp: float
    slippage_bp: float

    @property
    def total_bp(self) -> float:
        """All of it."""
        return self.fees_bp + self.spread_bp + self.slippage_bp


def levels_of(flat: Sequence[float | None]) -> Levels | None:
    """Read `Features.levels`; `None` where a side is empty, the book is crossed, or a number makes no sense."""
    if len(flat) != 4 * DEPTH:
        return None
    bids = _ladder(flat[:DEPTH], flat[DEPTH : 2 * DEPTH])
    asks = _ladder(flat[2 * DEPTH : 3 * DEPTH], flat[3 * DEPTH :])
    if not bids.prices or not asks.prices or bids.prices[0] >= asks.prices[0]:
        return None
    return Levels(bids, asks)


def _ladder(prices: Sequence[float | None], sizes: Sequence[float | None]) -> Ladder:
    kept_prices: list[float] = []
    kept_sizes: list[float] = []
    for price, size in zip(prices, sizes, strict=True):
        if price is None or size is None or not price > 0.0 or not size > 0.0:
            break
        kept_prices.append(price)
        kept_sizes.append(size)
    return Ladder(tuple(kept_prices), tuple(kept_sizes))


def bought_for(asks: Ladder, funds: float) -> float | None:
    """Quantity that `funds` buy, walking the asks; `None` where they do not hold that much."""
    left, quantity = funds, 0.0
    for price, size in zip(asks.prices, asks.sizes, strict=True):
        total = price * size
        if total >= left:
            return quantity + left / price
        quantity += size
        left -= total
    return None


def sold_for(bids: Ladder, quantity: float) -> float | None:
    """Funds that `quantity` brings, walking the bids; `None` where they do not take that much."""
    left, funds = quantity, 0.0
    for price, size in zip(bids.prices, bids.sizes, strict=True):
        if size >= left:
            return funds + left * price
        funds += price * size
        left -= size
    return None


def round_trip(levels: Levels, funds: float, fee_percent: float) -> Cost | None:
    """Cost of buying for `funds` and selling all of it again; `None` where the levels are too thin for the size.

    Raises `ValueError` for funds that are not positive.
    """
    if not funds > 0.0:
        raise ValueError(f"a round trip needs funds above zero, not {funds}")
    quantity = bought_for(levels.asks, funds)
    if quantity is None or not quantity > 0.0:
        return None
    proceeds = sold_for(levels.bids, quantity)
    if proceeds is None:
        return None
    mid, bid, ask = levels.mid, levels.bids.prices[0], levels.asks.prices[0]
    slippage = max(funds / quantity - ask, 0.0) + max(bid - proceeds / quantity, 0.0)
    return Cost(2.0 * fee_percent * 100.0, (ask - bid) / mid * BP, slippage / mid * BP)


def needed_bp(cost: Cost, threshold_percent: float) -> float:
    """The smallest expected return that is worth a round trip: its cost and the threshold on top."""
    return cost.total_bp + threshold_percent * 100.0


def order_price(
    price: float, tick_size: Decimal, side: Literal["buy", "sell"], context: Context, *, is_aggressive: bool = False
) -> Decimal:
    """The one way from a float price to a valid order price: a whole number of ticks.

    Rounds away from the market (a buy down, a sell up), so that rounding never pays more or sells for less than was
    meant; `is_aggressive` rounds towards it (for orders that must trade). Raises `ValueError` where nothing is left.
    The trap: the tick belongs to the price band; pass the tick of the band in which `price` lies.
    """
    if not price > 0.0 or not tick_size > 0:
        raise ValueError(f"no order price from price {price} and tick size {tick_size}")
    rounding = ROUND_FLOOR if (side == "buy") != is_aggressive else ROUND_CEILING
    ticks = context.divide(Decimal(repr(price)), tick_size).to_integral_value(rounding, context)
    if ticks <= 0:
        raise ValueError(f"price {price} is below one tick of {tick_size}")
    return context.multiply(ticks, tick_size)


def order_quantity(quantity: Decimal | float, context: Context) -> Decimal:
    """The one way to a valid order quantity: 8 digits, rounded down, so that never more is sold than is there."""
    exact = quantity if isinstance(quantity, Decimal) else Decimal(repr(quantity))
    return exact.quantize(QUANTITY_STEP, ROUND_FLOOR, context)
