"""When a request fires: a pure state machine over its numbered times. No I/O, no clock, no randomness.

`runner` asks `judge` again and again with the market time and the price that is known, and keeps what it answers in the
same transaction as the order that it fires. Time may jump in either direction: a number is given out once.

The times of a request are numbered from 1: `at_ms` (else when it was asked for), then every `every_ms`, `times` in all.
Of several that have passed only the newest can fire; the others are missed, and so is the newest where it lies further
back than `late_ms`. A condition on the price is judged by the price now; it makes nothing late.
"""

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal, NamedTuple

from streams.messages import OrderRequested

State = Literal["waiting", "fired", "done", "cancelled", "refused", "missed"]
"""`fired`: nothing more is to fire, an order of it is still under way."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a request stands."""

    request: OrderRequested
    number: int
    """Of the next time, from 1."""
    next_ms: int
    fired: int = 0
    state: State = "waiting"


class Fire(NamedTuple):
    """The order of time `number` is due now; `missed` earlier ones are not made up for."""

    number: int
    due_ms: int
    missed: int
    after: Standing


class Miss(NamedTuple):
    """`missed` times passed without an order; `after` may wait on, or be over."""

    missed: int
    after: Standing


def first(request: OrderRequested) -> Standing:
    """A request that was just asked for."""
    return Standing(request, 1, request.event_ms if request.at_ms is None else request.at_ms)


def changed(standing: Standing, request: OrderRequested) -> Standing:
    """A waiting request is replaced; numbers go on, what fired stays, and times move only where they were changed."""
    old = standing.request
    if request.at_ms != old.at_ms:
        next_ms = request.event_ms if request.at_ms is None else request.at_ms
    elif request.every_ms != old.every_ms and standing.number > 1:
        next_ms = max(standing.next_ms - (old.every_ms or 0) + (request.every_ms or 0), request.event_ms)
    else:
        next_ms = standing.next_ms
    after = replace(standing, request=request, next_ms=next_ms)
    is_over = standing.number > 1 and _is_last(request, standing.number - 1)
    return replace(after, state=_ended(after)) if is_over else after


def cancelled(standing: Standing) -> Standing:
    """It never fires again."""
    return replace(standing, state="cancelled")


def judge(standing: Standing, now_ms: int, price: Decimal | None, late_ms: int) -> Fire | Miss | None:
    """What is due at `now_ms`; None: nothing. `price` is the other side's best price, None where it is not known."""
    request = standing.request
    if standing.state != "waiting":
        return None
    if request.expires_ms is not None and now_ms > request.expires_ms:
        return Miss(0, replace(standing, state=_ended(standing)))
    if now_ms < standing.next_ms:
        return None
    count = _passed(standing, now_ms)
    number, due_ms = standing.number + count - 1, standing.next_ms + (count - 1) * (request.every_ms or 0)
    if request.trigger:
        if not is_reached(request, price):
            waits_on = replace(standing, number=number, next_ms=due_ms)
            return Miss(count - 1, waits_on) if count > 1 else None
    elif now_ms - due_ms > late_ms:
        return Miss(count, _next(standing, number, due_ms))
    after = _next(replace(standing, fired=standing.fired + 1), number, due_ms)
    return Fire(number, due_ms, count - 1, after)


def is_reached(request: OrderRequested, price: Decimal | None) -> bool:
    """Whether a price fulfils the condition."""
    if price is None or request.trigger_price is None:
        return False
    return price <= request.trigger_price if request.trigger == "at-or-below" else price >= request.trigger_price


def _passed(standing: Standing, now_ms: int) -> int:
    """How many times have passed, the next one included."""
    request = standing.request
    if not request.every_ms:
        return 1
    count = (now_ms - standing.next_ms) // request.every_ms + 1
    return count if request.times is None else max(1, min(count, request.times - standing.number + 1))


def _is_last(request: OrderRequested, number: int) -> bool:
    return not request.every_ms or (request.times is not None and number >= request.times)


def _next(standing: Standing, number: int, due_ms: int) -> Standing:
    """After time `number`: the next one, or the end."""
    after = replace(standing, number=number + 1, next_ms=due_ms + (standing.request.every_ms or 0))
    return replace(after, state=_ended(after)) if _is_last(standing.request, number) else after


def _ended(standing: Standing) -> State:
    return "fired" if standing.fired else "missed"
