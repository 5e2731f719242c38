"""What waiting was worth: the price of sending at once, by the book of the firing moment, against what was paid.

Pure.

    saved = walk(Q) * (1 + f) - (funds + fee)     for a buy of Q in all
    saved = (funds - fee) - walk(Q) * (1 - f)     for a sell

`walk(Q)` is what Q costs (or brings) when that book's other side is walked best level first, and f is the fee rate that
was charged. The same figure of the orders that are sent at once by lot is what the market moved between the decision
and the fill; the difference of the two groups' means is what the assistant saved, without bias.
"""

import random
from collections.abc import Sequence
from decimal import Context, Decimal
from typing import NamedTuple

from streams.messages import Side

_WIDE = Context(prec=50)
RESAMPLES = 2_000
SEED = 7
Level = tuple[float, float]
"""Price and size."""


def walked(levels: Sequence[Level], quantity: Decimal) -> Decimal | None:
    """Quote currency for `quantity`, best level first; None where the levels do not hold so much."""
    rest, funds = quantity, Decimal(0)
    for price, size in levels:
        taken = min(rest, Decimal(repr(size)))
        funds = _WIDE.add(funds, _WIDE.multiply(taken, Decimal(repr(price))))
        rest = _WIDE.subtract(rest, taken)
        if rest <= 0:
            return funds
    return None


def saved(side: Side, levels: Sequence[Level], quantity: Decimal, funds: Decimal, fee: Decimal) -> Decimal | None:
    """Quote currency saved against sending at once; None where nothing traded or the book is not known that deep."""
    if quantity <= 0 or funds <= 0 or (at_once := walked(levels, quantity)) is None:
        return None
    rate = _WIDE.divide(fee, funds)
    if side == "buy":
        cost = _WIDE.multiply(at_once, _WIDE.add(Decimal(1), rate))
        found = _WIDE.subtract(cost, _WIDE.add(funds, fee))
    else:
        brought = _WIDE.multiply(at_once, _WIDE.subtract(Decimal(1), rate))
        found = _WIDE.subtract(_WIDE.subtract(funds, fee), brought)
    return found.quantize(Decimal("1e-8"), context=_WIDE)


class Outcome(NamedTuple):
    """One firing: money saved, and what was traded in quote currency."""

    saved: float
    funds: float

    @property
    def saved_bp(self) -> float:
        """Of what was traded, basis points."""
        return self.saved / self.funds * 10_000.0


class Group(NamedTuple):
    """A group's figures; the interval is the mean's, 95 per cent, by resampling."""

    orders: int
    saved: float
    mean_bp: float | None
    low_bp: float | None
    high_bp: float | None


class Comparison(NamedTuple):
    """Both groups and the difference of their means."""

    assisted: Group
    control: Group
    difference_bp: float | None
    low_bp: float | None
    high_bp: float | None


def compare(assisted: Sequence[Outcome], control: Sequence[Outcome]) -> Comparison:
    """What waiting saves beyond chance: the interval of the difference has zero outside it."""
    rng = random.Random(SEED)  # noqa: S311 - resampling, no secret
    first, second = [one.saved_bp for one in assisted], [one.saved_bp for one in control]
    groups = _group(assisted, first, rng), _group(control, second, rng)
    if len(first) < 2 or len(second) < 2:
        return Comparison(*groups, None, None, None)
    drawn = sorted(_mean(_again(first, rng)) - _mean(_again(second, rng)) for _ in range(RESAMPLES))
    return Comparison(*groups, _mean(first) - _mean(second), *_ends(drawn))


def _group(outcomes: Sequence[Outcome], values: list[float], rng: random.Random) -> Group:
    total = sum(one.saved for one in outcomes)
    if len(values) < 2:
        return Group(len(values), total, _mean(values) if values else None, None, None)
    return Group(
        len(values), total, _mean(values), *_ends(sorted(_mean(_again(values, rng)) for _ in range(RESAMPLES)))
    )


def _again(values: list[float], rng: random.Random) -> list[float]:
    return rng.choices(values, k=len(values))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _ends(drawn: list[float]) -> tuple[float, float]:
    return drawn[int(len(drawn) * 0.025)], drawn[int(len(drawn) * 0.975)]
