"""What the desk is put together from, and what all its steps share: rows, settling, acknowledging.

The desk's other files build on it.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from consumers.execute import events
from consumers.execute.attempts import Rules
from consumers.execute.clock import MarketClock
from consumers.execute.crash import Reach, reach_nothing
from consumers.execute.forgotten import Forgotten
from consumers.execute.halts import HaltGate
from consumers.execute.journal import AttemptRow, IntentRow, Journal
from consumers.execute.limits import Refusal, RiskGate
from consumers.execute.venue import Order, Venue
from streams.messages import OrderEvent

logger = logging.getLogger(__name__)

Kind = Literal["start", "send", "resolve", "follow", "poll", "cancel", "sweep", "balances", "look"]
ENDED = frozenset({"DONE", "CANCELLED", "REJECTED", "EXPIRED"})


class Task(NamedTuple):
    """One step that is due after `delay_s`; `id` is an intent's, an identifier, a cancellation's or a pocket's."""

    kind: Kind
    id: str
    delay_s: float = 0.0
    pocket: str = ""
    """Filled in by whoever routes it."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a desk is put together from."""

    journal: Journal
    venue: Venue
    gate: RiskGate
    clock: MarketClock
    now_s: Callable[[], float]
    rules: Rules
    instance: str = "ob"
    pocket: str = "paper-main"
    exchange: str = "upbit"
    reach: Reach = reach_nothing
    on_fill: Callable[[], None] = lambda: None
    halts: HaltGate = field(default_factory=HaltGate)
    trouble: Callable[[], Refusal | None] = lambda: None
    """Why the pocket cannot order anything now: no key, or a refused one."""
    live: Callable[[str, str], str] = lambda _account, _pocket: ""
    """Why an order of this account and pocket must not go out because it is for real money; empty: it is not."""
    doubted_s: dict[str, float] = field(default_factory=dict)
    """When the settle window of each identifier in doubt began."""


class DeskParts:
    """One pocket's desk without its steps."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._journal = parts.journal
        self._venue = parts.venue
        self._clock = parts.clock
        self._rules = parts.rules
        self._doubted_s = parts.doubted_s
        self._follow_s: dict[str, float] = {}
        self._forgotten = Forgotten()
        self._approved: set[str] = set()
        self._short: set[str] = set()  # exits that wanted more than there is: cut at their next attempt

    def _doubt(self, row: IntentRow, attempt: AttemptRow, text: str) -> None:
        logger.warning("the outcome of %s is not known (%s): looking it up", attempt.identifier, text)
        told = events.unknown(row.intent, attempt, text, self._clock.now_ms())
        self._settle(attempt, "UNKNOWN", "UNKNOWN", events=[told])

    def _acknowledge(self, row: IntentRow, attempt: AttemptRow, order: Order) -> list[Task]:
        told = events.accepted(row.intent, attempt, order.uuid, self._clock.now_ms())
        self._settle(attempt, "ACKED", "ACKED", uuid=order.uuid, events=[told])
        self._doubted_s.pop(attempt.identifier, None)
        return [Task("follow", attempt.identifier, self._rules.follow_first_s)]

    def _settle(
        self,
        attempt: AttemptRow,
        attempt_state: str,
        intent_state: str,
        *,
        uuid: str = "",
        events: list[OrderEvent] | None = None,
    ) -> None:
        self._journal.settle(
            attempt,
            attempt_state=attempt_state,
            intent_state=intent_state,
            uuid=uuid,
            events=events or (),
            now_ms=self._clock.wall_ms(),
        )

    def _attempt_row(self, identifier: str) -> AttemptRow:
        attempt = self._journal.attempt(identifier)
        if attempt is None:
            raise KeyError(identifier)
        return attempt

    def _intent_row(self, identifier: str) -> IntentRow:
        row = self._journal.intent(self._attempt_row(identifier).intent_id)
        if row is None:
            raise KeyError(identifier)
        return row
