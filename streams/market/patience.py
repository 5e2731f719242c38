"""When an order that happens anyway should wait: the rule of the execution assistant. Pure.

`consumers.execute.requests.assistant` asks it again and again between the moment an order is due and its deadline.
Prices and sizes come in as float64, times are decided by the caller.

What the mid price is expected to do, in basis points, is the mean of what is known of two views:

    forecast    e                 the signal's expected log return over its shortest horizon
    book        I * spread / 2    I: imbalance of the book, -1..1; the first order of the micro-price, spread in bp

    lean = -mean(e, I * spread / 2) for a buy, +mean(...) for a sell

so the lean is positive where waiting makes the price better. Then

    now    where nothing is known, or lean < minimum_lean
    wait   where lean > spread: the price is expected to come further than posting would save, so a resting order
           would only be taken before it has come
    post   else: a limit order at the best price of the own side, which saves the spread where it is taken
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

BP = 10_000.0


class Choice(StrEnum):
    """What to do with the amount that is not traded yet."""

    NOW = "now"
    WAIT = "wait"
    POST = "post"


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known of a market at one moment; None where a view is missing or too old."""

    best_bid: float
    best_ask: float
    imbalance: float | None = None
    expected_bp: float | None = None

    @property
    def spread_bp(self) -> float:
        """Best ask minus best bid over the mid."""
        return (self.best_ask - self.best_bid) / ((self.best_ask + self.best_bid) / 2.0) * BP


@dataclass(frozen=True, slots=True)
class Patience:
    """The rule's parameters."""

    minimum_lean_bp: float = 0.0
    """Below this the book leans against us and nothing waits."""
    rest_ms: int = 2_000
    """A resting order that was outbid stays at least so long: every cancellation counts against fair play."""
    maximum_legs: int = 8
    """Orders per amount; the last one does not rest."""


def lean_bp(outlook: Outlook, side: Literal["buy", "sell"]) -> float | None:
    """How far the mid is expected to come our way, basis points; None where nothing is known."""
    views = []
    if outlook.expected_bp is not None:
        views.append(outlook.expected_bp)
    if outlook.imbalance is not None:
        views.append(outlook.imbalance * outlook.spread_bp / 2.0)
    if not views:
        return None
    mean = sum(views) / len(views)
    return -mean if side == "buy" else mean


def choose(outlook: Outlook | None, side: Literal["buy", "sell"], rule: Patience, *, may_post: bool) -> Choice:
    """What to do now; `may_post` is False where a part that is taken could leave a rest too small to be sent."""
    if outlook is None or not 0.0 < outlook.best_bid < outlook.best_ask:
        return Choice.NOW
    lean = lean_bp(outlook, side)
    if lean is None or lean < rule.minimum_lean_bp:
        return Choice.NOW
    return Choice.POST if may_post and lean <= outlook.spread_bp else Choice.WAIT


def is_outbid(outlook: Outlook | None, side: Literal["buy", "sell"], price: float) -> bool:
    """Whether others stand before a resting order of ours at `price`."""
    if outlook is None:
        return False
    return outlook.best_bid > price if side == "buy" else outlook.best_ask < price
