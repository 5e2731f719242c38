"""Builds the words of what became of a request (`RequestTold`). Called inside the journal's transactions. Pure."""

from collections.abc import Sequence
from decimal import Decimal, localcontext
from typing import NamedTuple

from consumers.execute.requests.assistant import Finish, Leg
from consumers.execute.requests.check import Problem, shown
from consumers.execute.requests.saving import saved
from consumers.execute.requests.schedule import Standing, State
from consumers.execute.requests.store import Firing
from consumers.execute.requests.words import korean, sentence
from streams.messages import OrderRequested, RequestTold

_HOW = {"at-or-below": "≤", "at-or-above": "≥"}


class Word(NamedTuple):
    """A word of `words` with what fills it."""

    reason: str
    values: dict[str, str]


def told(
    request: OrderRequested,
    state: State,
    word: Word | Problem,
    event_ms: int,
    *,
    intent_id: str = "",
    is_control: bool = False,
    funds: Decimal | None = None,
    saved: Decimal | None = None,
) -> RequestTold:
    """The record."""
    return RequestTold(
        id=request.id,
        account=request.account,
        pocket=request.pocket,
        state=state,
        text=sentence(word.reason, word.values),
        reason=word.reason,
        values=word.values,
        intent_id=intent_id,
        funds=funds,
        saved=saved,
        is_control=is_control,
        event_ms=event_ms,
    )


def waiting(standing: Standing, now_ms: int) -> Word:
    """What a request waits for."""
    request = standing.request
    if standing.next_ms > now_ms:
        return Word("waits-for-time" if standing.number == 1 else "waits-for-next", {"at": korean(standing.next_ms)})
    if request.trigger and request.trigger_price is not None:
        return Word("waits-for-price", {"how": _HOW[request.trigger], "price": shown(request.trigger_price)})
    return Word("taken", {})


def fired(firing: Firing, *, may_wait: bool) -> Word:
    """What happens now that it is due."""
    if firing.is_control:
        return Word("sent-by-lot", {})
    if may_wait:
        return Word("waits-for-better", {"seconds": shown(Decimal(firing.request.patience_ms) / 1000)})
    return Word("sent", {})


class Sums(NamedTuple):
    """What the orders of a firing traded in all."""

    quantity: Decimal
    funds: Decimal
    fee: Decimal

    @property
    def values(self) -> dict[str, str]:
        """For sentences."""
        return {"quantity": shown(self.quantity), "funds": shown(self.funds), "fee": shown(self.fee)}


def sums(legs: Sequence[Leg]) -> Sums:
    """Over all legs."""
    with localcontext(prec=50):
        zero = Decimal(0)
        return Sums(
            sum((leg.quantity for leg in legs), zero),
            sum((leg.funds for leg in legs), zero),
            sum((leg.fee for leg in legs), zero),
        )


def saved_by(firing: Firing, total: Sums) -> Decimal | None:
    """Money saved by an assisted firing (or seen in the control group); None for others."""
    if not firing.levels:
        return None
    return saved(firing.request.side, firing.levels, total.quantity, total.funds, total.fee)


def ended(finish: Finish, total: Sums, text: str) -> tuple[State, Word]:
    """How a firing ended."""
    values = total.values
    if finish.outcome == "done":
        is_small = finish.name == "rest-too-small"
        return "done", Word("rest-too-small" if is_small else "done", values)
    if finish.outcome == "cancelled":
        return "cancelled", Word("cancelled", values)
    if finish.outcome == "refused" and total.quantity:
        return "done", Word("done-in-part", {**values, "name": finish.name})
    if finish.outcome == "refused":
        return "refused", Word("refused", {"name": finish.name, "text": text})
    return "missed", Word("not-proven" if finish.outcome == "unproven" else "not-sent-in-time", values)
