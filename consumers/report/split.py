"""The difference in money between an order as the replay expects it and as it was traded, split into its causes. Pure.

Called by `consumers.report.orders`. All amounts are `Decimal`; the parts of an order add up to its difference to the
last digit, because `unexplained` is what is left. The formulas, with s = 1 for a buy and -1 for a sale:

    expected     the order at the book of its signal's bin: q quantity for F funds with the fee f, mid m0 of that book,
                 expected return g over the horizon (0 for an exit);      E = s * (q * m0 * (1 + g) - F) - f
    traded       Q quantity for A funds with the fee a, return h of the mid from m0 until the horizon has passed (where
                 it is not known: g);                                     V = s * (Q * m0 * (1 + h) - A) - a
    difference   D = V - E
    filled       p = A / F for an order given in funds, else Q / q

    queue        (p - 1) * E                      what was not filled although the book said so, at its expected worth
    fee          p * f - a
    model        s * Q * m0 * (h - g)             the return that came against the one that was forecast
    latency      -s * Q * (m1 - m0)               m1: mid of the book when it was filled
    spread       -s * Q * ((A / Q - m1) - (F / q - m0))      half spread and slippage paid against those in the book
    unexplained  D minus all of these: of an order given in funds the product of small terms; everything where only
                 the replay or only the trade knows the order, or no book is recorded

Amounts are quantized to 1e-8 of the quote currency, half to even, before `unexplained` is taken.
"""

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from typing import Literal

CONTEXT = Context(prec=60)
STEP = Decimal("0.00000001")
NOTHING = Decimal(0)
CAUSES = ("fee", "spread", "latency", "queue", "model", "unexplained")


@dataclass(frozen=True, slots=True)
class Expected:
    """One order at the book of its signal's bin; `growth` is the expected return over the horizon (0.001 = 10 bp)."""

    quantity: Decimal
    funds: Decimal
    fee: Decimal
    mid: Decimal
    growth: Decimal
    is_in_funds: bool


@dataclass(frozen=True, slots=True)
class Traded:
    """What became of it. `mid` is that of the book at the fill, `growth` the return that came; None: not recorded."""

    quantity: Decimal
    funds: Decimal
    fee: Decimal
    mid: Decimal | None
    growth: Decimal | None


@dataclass(frozen=True, slots=True)
class Split:
    """Amounts in quote currency; positive is better than expected. `total` is the sum of the six."""

    expected: Decimal
    traded: Decimal
    total: Decimal
    fee: Decimal = NOTHING
    spread: Decimal = NOTHING
    latency: Decimal = NOTHING
    queue: Decimal = NOTHING
    model: Decimal = NOTHING
    unexplained: Decimal = NOTHING

    def parts(self) -> dict[str, Decimal]:
        """The six by name."""
        return {name: getattr(self, name) for name in CAUSES}


def split(side: Literal["buy", "sell"], expected: Expected | None, traded: Traded, reference: Decimal | None) -> Split:
    """Split one order's difference; `reference` is the mid it is valued at where nothing is expected of it.

    Without either mid a trade has no worth here: both sides are nothing, and the caller says so.
    """
    with localcontext(CONTEXT):
        return _split(Decimal(1 if side == "buy" else -1), expected, traded, reference)


def _split(s: Decimal, expected: Expected | None, traded: Traded, reference: Decimal | None) -> Split:
    if expected is None:
        worth = NOTHING if reference is None else _worth(s, traded, reference, traded.growth or NOTHING)
        worth = _rounded(worth)
        return Split(NOTHING, worth, worth, unexplained=worth)
    growth = expected.growth if traded.growth is None else traded.growth
    wanted = _worth(s, expected, expected.mid, expected.growth)
    worth = _worth(s, traded, expected.mid, growth)
    total = _rounded(worth - wanted)
    filled = _filled(expected, traded)
    found = {
        "queue": (filled - 1) * wanted,
        "fee": filled * expected.fee - traded.fee,
        "model": s * traded.quantity * expected.mid * (growth - expected.growth),
        "latency": NOTHING,
        "spread": NOTHING,
    }
    if traded.quantity > 0 and traded.mid is not None:
        paid = CONTEXT.divide(traded.funds, traded.quantity)
        meant = CONTEXT.divide(expected.funds, expected.quantity)
        found["latency"] = -s * traded.quantity * (traded.mid - expected.mid)
        found["spread"] = -s * traded.quantity * ((paid - traded.mid) - (meant - expected.mid))
    rounded = {name: _rounded(value) for name, value in found.items()}
    rest = total - sum(rounded.values(), NOTHING)
    return Split(_rounded(wanted), _rounded(wanted) + total, total, **rounded, unexplained=rest)


def missed(expected: Split) -> Split:
    """The same order where only the replay decided it: nothing of the difference is explained."""
    return Split(expected.expected, NOTHING, -expected.expected, unexplained=-expected.expected)


def added(splits: list[Split]) -> Split:
    """The sum, cause by cause."""
    names = ("expected", "traded", "total", *CAUSES)
    with localcontext(CONTEXT):
        return Split(**{name: sum((getattr(one, name) for one in splits), NOTHING) for name in names})


def _worth(s: Decimal, one: Expected | Traded, mid: Decimal, growth: Decimal) -> Decimal:
    return s * (one.quantity * mid * (1 + growth) - one.funds) - one.fee


def _filled(expected: Expected, traded: Traded) -> Decimal:
    if expected.is_in_funds:
        return CONTEXT.divide(traded.funds, expected.funds) if expected.funds else NOTHING
    return CONTEXT.divide(traded.quantity, expected.quantity) if expected.quantity else NOTHING


def _rounded(value: Decimal) -> Decimal:
    return value.quantize(STEP, ROUND_HALF_EVEN, CONTEXT) + NOTHING  # no negative zero
