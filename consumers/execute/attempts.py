"""The protocol of attempts as pure functions: what follows from an answer, and from an order that is not found.

`desk` calls them and carries them out; `reference/streaming.md` section 5 is the rule they write down. No I/O and no
clock.

The one question is when a new attempt may be taken. A look-up that finds nothing does not fence a request that is
still on its way, so: an entry never takes one; an exit takes one only after the exchange itself refused this very
attempt, or after its identifier is burned, or, where the exchange does not burn, after the longest flight of a
request, under the executor's process lock.
"""

from dataclasses import dataclass
from enum import StrEnum

from consumers.execute.venue import Accepted, Answer, Duplicate, Refused
from streams.messages import Purpose


class Burn(StrEnum):
    """What is known of an identifier."""

    NONE = ""
    REFUSED = "REFUSED"
    """A must-be-refused order was sent with it and refused; whether that used it up is not known yet."""
    BURNED = "BURNED"
    """The exchange answers `duplicated_identifier`: nothing new can be accepted under it."""
    KEPT = "KEPT"
    """The same must-be-refused order was refused twice by its price: this exchange does not burn. A refusal for
    anything else (the key, a pause of the market) says nothing of the identifier.
    """


PRICE_REFUSALS = ("invalid_price", "validation_error", "invalid_parameter", "under_min_total", "over_krw_funds")
"""How the words begin by which an exchange refuses an order for its price."""


class OnAnswer(StrEnum):
    """What follows from the answer to an attempt."""

    ACKNOWLEDGE = "acknowledge"
    REJECT = "reject"
    NEXT_ATTEMPT = "next-attempt"
    LOOK_UP = "look-up"


class OnAbsent(StrEnum):
    """What follows when an attempt in doubt was not found."""

    WAIT = "wait"
    EXPIRE = "expire"
    BURN = "burn"
    NEXT_ATTEMPT = "next-attempt"


@dataclass(frozen=True, slots=True)
class Rules:
    """The times of the protocol, in seconds of our monotonic clock."""

    longest_flight_s: float = 5.0
    """A request that was sent arrives within this time or never."""
    settle_margin_s: float = 1.0
    look_up_every_s: float = 0.5
    follow_first_s: float = 0.05
    follow_slowest_s: float = 2.0
    pause_s: float = 1.0
    """Before an exit that was not taken for its rate, or did not leave this machine, is tried again; grows with each
    attempt up to `longest_pause_s`.
    """
    longest_pause_s: float = 30.0
    sweep_every_s: float = 5.0
    sweep_for_s: float = 7 * 86_400.0
    """How long an expired attempt is still looked for."""
    maximum_attempts: int = 500
    look_for_others_s: float = 30.0
    """Between two looks for somebody else's hand in a pocket."""

    @property
    def settle_s(self) -> float:
        """How long an attempt in doubt is looked for: longer than the longest flight."""
        return self.longest_flight_s + self.settle_margin_s


def is_exit(purpose: Purpose) -> bool:
    """Whether an intent closes something of ours; an ordinary exit is treated like a protective one.

    A person's own order is none: in doubt it is never sent again, whichever side it is on.
    """
    return purpose in {"exit", "protective-exit"}


def on_answer(answer: Answer, purpose: Purpose) -> OnAnswer:
    """What follows from the answer to an attempt's only request."""
    if isinstance(answer, Accepted):
        return OnAnswer.ACKNOWLEDGE
    if isinstance(answer, Refused):
        return OnAnswer.NEXT_ATTEMPT if answer.is_passing and is_exit(purpose) else OnAnswer.REJECT
    return OnAnswer.LOOK_UP


def on_absent(
    purpose: Purpose,
    burn: Burn,
    waited_s: float,
    rules: Rules,
    *,
    is_replacing: bool = False,
) -> OnAbsent:
    """What follows when the exchange was asked `waited_s` after the first look-up (or after the burn) and had nothing.

    After a burn the window starts anew: `duplicated_identifier` may also speak of an order that was accepted and is
    not visible yet. One that takes another order's place never takes a new attempt, because what it was to replace may
    have changed: an exit's is burned and ends. Where the exchange does not burn, only a sender that is gone is safe.
    """
    if waited_s < rules.settle_s:
        return OnAbsent.WAIT
    if not is_exit(purpose):
        return OnAbsent.EXPIRE
    if burn in {Burn.BURNED, Burn.KEPT}:
        return OnAbsent.EXPIRE if is_replacing else OnAbsent.NEXT_ATTEMPT
    return OnAbsent.BURN


def after_burning(burn: Burn, answer: Answer) -> Burn:
    """What is known of the identifier after a must-be-refused order was sent with it; unchanged where the answer says
    nothing of it.
    """
    if isinstance(answer, Duplicate):
        return Burn.BURNED
    if isinstance(answer, Refused) and answer.name.startswith(PRICE_REFUSALS):
        return Burn.REFUSED if burn is Burn.NONE else Burn.KEPT
    return burn
