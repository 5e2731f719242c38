"""What a firing does next: the pure half of the execution assistant. No I/O, no clock.

`runner` tells it what became of the orders so far (the legs), what is known of the market, and whether the deadline is
over; it answers with one step. Two promises, whatever the market does and the exchange answers: the legs never trade
more than the amount asked for, because a next one starts only after the end of the one before is proven; and from the
deadline on nothing rests and nothing waits, but for the proof that the resting order has ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context, Decimal
from typing import Literal, NamedTuple

from streams.market.costs import QUANTITY_STEP
from streams.market.patience import Choice, Outlook, Patience, choose, is_outbid
from streams.messages import Side, content_id

LegState = Literal["under-way", "open", "ended", "refused", "unsent", "unproven"]
"""`open` is at the exchange; `ended` is proven; `unproven` was sent and never found, so it may exist."""
POSTS_FROM = 4
"""Multiples of the smallest order total: a smaller amount is not posted, a part of it could leave too much unsent."""
DUST = 1_000
"""A rest below one in so many of the amount is rounding, and not worth a word."""
CONTROL_SHARE = 5
"""One in so many is sent at once, by lot."""
_WIDE = Context(prec=50)


class Leg(NamedTuple):
    """One order of a firing."""

    state: LegState
    is_resting: bool
    price: Decimal | None = None
    rested_ms: int = 0
    quantity: Decimal = Decimal(0)
    """Executed so far; `funds` and `fee` likewise."""
    funds: Decimal = Decimal(0)
    fee: Decimal = Decimal(0)
    is_cancelling: bool = False
    name: str = ""
    """Why it was refused."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a firing has to do; `amount` is quote currency for a buy and base currency for a sell."""

    side: Side
    amount: Decimal
    minimum: Decimal
    """Smallest total that the exchange takes."""
    may_wait: bool
    """An assisted firing outside the control group."""


class Post(NamedTuple):
    """Rest a limit order."""

    price: Decimal
    quantity: Decimal


class Now(NamedTuple):
    """Trade this much at the market."""

    amount: Decimal


class Cancel(NamedTuple):
    """End the last leg."""


class Wait(NamedTuple):
    """Nothing to do at this moment."""


class Finish(NamedTuple):
    """It is over."""

    outcome: Literal["done", "refused", "missed", "cancelled", "unproven"]
    name: str = ""


Step = Post | Now | Cancel | Wait | Finish


def is_control(request_id: str, number: int) -> bool:
    """Whether a firing belongs to the group that is sent at once: by its content, so that a replay draws the same."""
    return sum(content_id("control", request_id, number).encode()) % CONTROL_SHARE == 0


def next_step(
    job: Job, legs: Sequence[Leg], outlook: Outlook | None, rule: Patience, *, is_over: bool, is_cancelled: bool
) -> Step:
    """One step. `is_over`: the deadline has passed; `is_cancelled`: a person wants no more of it."""
    last = legs[-1] if legs else None
    if last is not None and last.state in {"under-way", "open"}:
        return _hold(job, last, outlook, rule, is_over=is_over, is_cancelled=is_cancelled)
    finish = _ended(last, is_cancelled=is_cancelled) if last is not None else None
    if finish is not None or is_cancelled:
        return finish or Finish("cancelled")
    rest = left(job, legs)
    if legs and _is_too_small(job, rest, outlook):
        return Finish("done", "rest-too-small" if rest * DUST > job.amount else "")
    if not job.may_wait or is_over or len(legs) + 1 >= rule.maximum_legs:
        return Now(rest)
    return _chosen(job, rest, outlook, rule)


def _ended(last: Leg, *, is_cancelled: bool) -> Finish | None:
    """Whether all is over with the end of the last leg; None: the rest is still to be traded."""
    if last.state == "unproven":
        return Finish("unproven")
    if last.state == "refused":
        return Finish("refused", last.name)
    if last.state == "unsent":
        return Finish("cancelled" if is_cancelled else "missed")
    if last.is_resting:
        return None
    return Finish("cancelled" if is_cancelled and not last.quantity else "done")


def _chosen(job: Job, rest: Decimal, outlook: Outlook | None, rule: Patience) -> Post | Now | Wait:
    """What the rule makes of the rest before the deadline."""
    choice = choose(outlook, job.side, rule, may_post=not _is_too_small(job, rest / POSTS_FROM, outlook))
    if choice is Choice.WAIT:
        return Wait()
    if choice is Choice.NOW or outlook is None:
        return Now(rest)
    price = Decimal(repr(outlook.best_bid if job.side == "buy" else outlook.best_ask))
    exact = _WIDE.divide(rest, price) if job.side == "buy" else rest
    return Post(price, exact.quantize(QUANTITY_STEP, ROUND_FLOOR, _WIDE))


def left(job: Job, legs: Sequence[Leg]) -> Decimal:
    """What is not traded yet; whole won for a buy in won is for the caller to cut."""
    done = sum((leg.funds if job.side == "buy" else leg.quantity for leg in legs), Decimal(0))
    return max(Decimal(0), _WIDE.subtract(job.amount, done))


def _hold(job: Job, last: Leg, outlook: Outlook | None, rule: Patience, *, is_over: bool, is_cancelled: bool) -> Step:
    """A leg whose end is not proven: only its cancellation can be wanted."""
    if last.is_cancelling:
        return Wait()
    if is_cancelled:
        return Cancel()
    if not last.is_resting or last.state != "open" or last.price is None:
        return Wait()
    leans = choose(outlook, job.side, rule, may_post=True) is not Choice.NOW
    is_behind = is_outbid(outlook, job.side, float(last.price)) and last.rested_ms >= rule.rest_ms
    return Cancel() if is_over or not leans or is_behind else Wait()


def _is_too_small(job: Job, amount: Decimal, outlook: Outlook | None) -> bool:
    if amount <= 0:
        return True
    if job.side == "buy":
        return amount < job.minimum
    return outlook is not None and _WIDE.multiply(amount, Decimal(repr(outlook.best_bid))) < job.minimum
