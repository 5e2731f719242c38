"""Whether a request can be an order at all: amounts, times, the exchange's rules, in words for people. Pure.

Asked when a request comes, again right before it fires, and by the command line before it is sent. The exchange has the
last word; this says the same earlier, and what would be valid.
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import NamedTuple

from streams.market.ticks import E8, tick_e8
from streams.messages import Market, OrderRequested

EXCHANGE = "upbit"
SHORTEST_EVERY_MS = 1_000
LONGEST_EVERY_MS = 366 * 86_400_000
LATEST_MS = 4_102_444_800_000
"""No time of a request lies after this one, 2100-01-01 00:00 UTC."""
MOST_TIMES = 1_000_000_000
LONGEST_PATIENCE_MS = 3_600_000
LEAST, MOST = Decimal("1e-8"), Decimal(10**15)
"""Any amount and any price lies between them."""
LONGEST_ID = 64
MINIMUM_TOTALS = {"KRW": Decimal(5000)}
"""Where the exchange has not told a market's own yet."""
_WIDE = Context(prec=50)


class Problem(NamedTuple):
    """Why not: a word of `words` and what fills its sentence."""

    reason: str
    values: dict[str, str]


def problem_of(
    request: OrderRequested, market: Market | None, best_bid: float | None = None, *, is_known: bool = True
) -> Problem | None:
    """The first rule that the request breaks. `is_known`: False where the list of markets has no such market."""
    return _shape(request) or _rules(request, market, best_bid, is_known=is_known)


def _shape(request: OrderRequested) -> Problem | None:
    """What is wrong with it whatever the market."""
    needed = {"ioc", "fok"} if request.order_type == "best" else {""}
    checks = (
        (request.exchange == EXCHANGE, Problem("no-exchange", {"exchange": request.exchange})),
        (_has_amount(request), Problem("bad-amount", {})),
        (
            request.order_type == "limit" or request.time_in_force in needed,
            Problem("bad-time-in-force", {"time_in_force": request.time_in_force}),
        ),
        (_has_times(request), Problem("bad-times", {})),
        (_has_condition(request), Problem("bad-trigger", {})),
        (
            0 <= request.patience_ms <= LONGEST_PATIENCE_MS,
            Problem("bad-patience", {"seconds": str(LONGEST_PATIENCE_MS // 1000)}),
        ),
    )
    return next((problem for is_right, problem in checks if not is_right), None)


def _has_times(request: OrderRequested) -> bool:
    times = (request.event_ms, request.at_ms, request.expires_ms)
    if not all(one is None or 0 <= one <= LATEST_MS for one in times):
        return False
    if request.every_ms is None:
        return request.times is None
    is_interval = SHORTEST_EVERY_MS <= request.every_ms <= LONGEST_EVERY_MS
    return is_interval and (request.times is None or 1 <= request.times <= MOST_TIMES)


def _has_condition(request: OrderRequested) -> bool:
    if request.trigger_price is None:
        return request.trigger == ""
    return request.trigger != "" and _is_amount(request.trigger_price)


def _has_amount(request: OrderRequested) -> bool:
    """Whether exactly the amounts that its kind needs are there, and can be numbers of an order."""
    is_total = request.order_type == "price" or (request.order_type == "best" and request.side == "buy")
    needed = {"price", "quantity"} if request.order_type == "limit" else {"funds"} if is_total else {"quantity"}
    given = {name: getattr(request, name) for name in ("price", "quantity", "funds")}
    is_side_right = {"price": "buy", "market": "sell"}.get(request.order_type, request.side) == request.side
    return is_side_right and all(
        value is not None and _is_amount(value) if name in needed else value is None for name, value in given.items()
    )


def _is_amount(value: Decimal) -> bool:
    return value.is_finite() and LEAST <= value < MOST


def _rules(request: OrderRequested, market: Market | None, best_bid: float | None, *, is_known: bool) -> Problem | None:
    """What the exchange's rules for the market forbid."""
    if not is_known:
        return Problem("no-market", {"market": request.market})
    if market is not None and market.is_delisted:
        return Problem("delisted", {"market": request.market})
    if request.price is not None and not is_valid_price(request.market, request.price, market, request.event_ms):
        below, above = valid_prices(request.market, request.price, market, request.event_ms)
        return Problem("off-tick", {"price": shown(request.price), "below": shown(below), "above": shown(above)})
    total = total_of(request, best_bid)
    minimum = minimum_of(request.market, market)
    if total is not None and total < minimum:
        return Problem("under-minimum", {"total": shown(total), "minimum": shown(minimum)})
    if total is not None and market is not None and total > market.maximum_total:
        return Problem("over-maximum", {"total": shown(total), "maximum": shown(market.maximum_total)})
    return None


def minimum_of(market: str, told: Market | None) -> Decimal:
    """Smallest order total, as far as it is known."""
    return told.minimum_total if told is not None else MINIMUM_TOTALS.get(market.partition("-")[0], Decimal(0))


def total_of(request: OrderRequested, best_bid: float | None) -> Decimal | None:
    """Total in quote currency; None for a sale at the market while no price is known."""
    if request.funds is not None:
        return request.funds
    if request.quantity is None:
        return None
    if request.price is not None:
        return _WIDE.multiply(request.price, request.quantity)
    return None if best_bid is None else _WIDE.multiply(request.quantity, Decimal(repr(best_bid)))


def is_valid_price(market: str, price: Decimal, told: Market | None, at_ms: int) -> bool:
    """Whether a price stands on a tick: of the exchange's present one, or of the table of its price band."""
    ticks = {_tick(market, price, told, at_ms)} | ({told.tick_size} if told is not None else set())
    return any(_WIDE.remainder(price, tick) == 0 for tick in ticks if tick > 0)


def valid_prices(market: str, price: Decimal, told: Market | None, at_ms: int) -> tuple[Decimal, Decimal]:
    """The next valid price below (or at) and above (or at) any price."""
    tick = _tick(market, price, told, at_ms)
    ticks = _WIDE.divide(price, tick)
    low = max(ticks.to_integral_value(ROUND_FLOOR), Decimal(1))
    return _WIDE.multiply(low, tick), _WIDE.multiply(ticks.to_integral_value(ROUND_CEILING), tick)


def _tick(market: str, price: Decimal, told: Market | None, at_ms: int) -> Decimal:
    """Tick of the band in which a price lies; the exchange tells only the one of the present price."""
    try:
        return Decimal(tick_e8(market, int(_WIDE.multiply(price, Decimal(E8))), at_ms)) / E8
    except KeyError:
        return told.tick_size if told is not None else Decimal("1e-8")


def shown(amount: Decimal) -> str:
    """A number for people: no exponent, no zeros behind."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
