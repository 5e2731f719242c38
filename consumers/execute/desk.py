"""The desk carries out intents: journal first, one request per attempt, then whatever the protocol says.

`executor` runs its methods as tasks in lanes; each method does one step and returns the tasks that follow. It never
sends without a journalled attempt, never sends an attempt twice, and never takes a new one outside `attempts`.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from consumers.execute import events
from consumers.execute.attempts import (
    Burn,
    OnAbsent,
    OnAnswer,
    Rules,
    after_burning,
    is_exit,
    on_absent,
    on_answer,
)
from consumers.execute.bookkeeping import record_order
from consumers.execute.clock import MarketClock
from consumers.execute.crash import Reach, reach_nothing
from consumers.execute.forgotten import Forgotten
from consumers.execute.journal import AttemptRow, IntentRow, Journal
from consumers.execute.limits import RiskGate
from consumers.execute.venue import Accepted, Duplicate, Order, Refused, Unclear, Venue, burning_request, request_of

logger = logging.getLogger(__name__)

Kind = Literal["send", "resolve", "follow", "cancel", "sweep"]
ENDED = frozenset({"DONE", "CANCELLED", "REJECTED", "EXPIRED"})
MAXIMUM_IDENTIFIER = 64
SWEEP_BATCH = 10


class Task(NamedTuple):
    """One step that is due after `delay_s`; `id` is an intent's, an identifier or a cancellation's, by kind."""

    kind: Kind
    id: str
    delay_s: float = 0.0


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
    doubted_s: dict[str, float] = field(default_factory=dict)
    """When the settle window of each identifier in doubt began; shared by the desks of one process."""


class Desk:
    """All steps of the life of an order. Several threads may call it; the journal orders them."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._journal = parts.journal
        self._venue = parts.venue
        self._clock = parts.clock
        self._rules = parts.rules
        self._doubted_s = parts.doubted_s
        self._follow_s: dict[str, float] = {}
        self._forgotten = Forgotten()
        self._swept = 0

    # --- sending

    def send(self, intent_id: str) -> list[Task]:
        """Take an intent that waits (new, or due for its next attempt) to the exchange, or end it without."""
        row = self._journal.intent(intent_id)
        if row is None or row.state not in {"NEW", "RETRY"}:
            return []
        number = row.attempt + 1
        identifier = f"{self._parts.instance}-{intent_id}-{number}"
        if not is_exit(row.purpose):
            if self._journal.has_doubt(row.intent.account):
                return [Task("send", intent_id, self._rules.look_up_every_s)]
            if self._end_without_order(row):
                return []
        if (row.intent.exchange, row.intent.pocket) != (self._parts.exchange, self._parts.pocket):
            self._reject_unsent(row, "no-key", f"there is no key here for {row.intent.pocket} at {row.intent.exchange}")
            return []
        if number > self._rules.maximum_attempts or len(identifier) > MAXIMUM_IDENTIFIER:
            name = "too-many-attempts" if number > 1 else "bad-identifier"
            self._reject_unsent(row, name, f"attempt {number} under the identifier {identifier} is not allowed")
            return []
        return self._attempt(row, number, identifier)

    def _end_without_order(self, row: IntentRow) -> bool:
        """Expiry, halts and our own limits, for entries."""
        intent = row.intent
        if self._clock.is_stale(intent, row.append_ms):
            told = events.expired(intent, 0, "it came after its time", self._clock.now_ms())
            self._journal.end_intent(intent.id, "EXPIRED", told)
            return True
        if halt := self._journal.halt_of(intent.account):
            self._reject_unsent(row, "halted", f"the account is halted ({halt})")
            return True
        if lost := self._journal.lost(intent.account):
            self._reject_unsent(row, "order-lost", f"the exchange has forgotten {lost[0]}: a person must look")
            return True
        if refusal := self._parts.gate.refusal(intent):
            self._reject_unsent(row, refusal.name, refusal.text)
            return True
        return False

    def _reject_unsent(self, row: IntentRow, name: str, text: str) -> None:
        told = events.rejected(row.intent, row.attempt, name, text, self._clock.now_ms())
        self._journal.end_intent(row.intent.id, "REJECTED", told)

    def _attempt(self, row: IntentRow, number: int, identifier: str) -> list[Task]:
        reach = self._parts.reach
        reach("before_journal_sending")
        told = events.sent(row.intent, number, identifier, self._clock.now_ms())
        if not self._journal.begin_attempt(row.intent.id, number, identifier, told, self._clock.wall_ms()):
            return []
        reach("after_journal_sending")
        answer = self._venue.place(request_of(row.intent), identifier)
        reach("after_response")
        attempt = self._attempt_row(identifier)
        now_ms = self._clock.now_ms()
        step = on_answer(answer, row.purpose)
        if isinstance(answer, Accepted):
            tasks = self._acknowledge(row, attempt, answer.order)
            reach("after_journal_acked")
            return tasks
        if isinstance(answer, Refused) and step is OnAnswer.REJECT:
            refused = events.rejected(row.intent, number, answer.name, answer.text, now_ms)
            self._settle(attempt, "REJECTED", "REJECTED", events=[refused])
            return []
        if step is OnAnswer.NEXT_ATTEMPT:
            self._settle(attempt, "REJECTED", "RETRY")
            pause_s = min(self._rules.pause_s * number, self._rules.longest_pause_s)
            return [Task("send", row.intent.id, pause_s)]
        text = answer.text if isinstance(answer, Unclear) else "duplicated_identifier"
        self._doubt(row, attempt, text)
        return [Task("resolve", identifier, self._rules.look_up_every_s)]

    def _doubt(self, row: IntentRow, attempt: AttemptRow, text: str) -> None:
        logger.warning("the outcome of %s is not known (%s): looking it up", attempt.identifier, text)
        told = events.unknown(row.intent, attempt, text, self._clock.now_ms())
        self._settle(attempt, "UNKNOWN", "UNKNOWN", events=[told])

    def _acknowledge(self, row: IntentRow, attempt: AttemptRow, order: Order) -> list[Task]:
        told = events.accepted(row.intent, attempt, order.uuid, self._clock.now_ms())
        self._settle(attempt, "ACKED", "ACKED", uuid=order.uuid, events=[told])
        self._doubted_s.pop(attempt.identifier, None)
        return [Task("follow", attempt.identifier, self._rules.follow_first_s)]

    # --- attempts in doubt

    def look_up(self, identifier: str) -> OnAbsent | None:
        """Ask the exchange for an attempt in doubt: None once it is settled, else what follows.

        Raises `ExchangeUnavailable` where the exchange cannot be asked: that is no answer, and no time passes.
        """
        attempt, row = self._attempt_row(identifier), self._intent_row(identifier)
        if attempt.state == "SENDING":
            self._doubt(row, attempt, "the executor was restarted while it was sent")
        elif attempt.state != "UNKNOWN":
            return None
        order = self._venue.find(identifier)
        if order is None:
            now_s = self._parts.now_s()
            waited_s = now_s - self._doubted_s.setdefault(identifier, now_s)
            step = on_absent(row.purpose, attempt.burn, waited_s, self._rules)
            if step is OnAbsent.WAIT:
                return step
            order = self._in_lists(row.intent.market, identifier)
            if order is None:
                return step
        self._take_over(row, attempt, order)
        return None

    def resolve(self, identifier: str) -> list[Task]:
        """One step towards the truth about an attempt in doubt."""
        again = [Task("resolve", identifier, self._rules.look_up_every_s)]
        step = self.look_up(identifier)
        attempt, row = self._attempt_row(identifier), self._intent_row(identifier)
        if step is None:
            return [Task("follow", identifier)] if attempt.state == "ACKED" else []
        if step is OnAbsent.EXPIRE:
            told = events.expired(row.intent, attempt.number, "sent, but never found", self._clock.now_ms())
            self._settle(attempt, "ABSENT", "EXPIRED", events=[told])
            self._doubted_s.pop(identifier, None)
            return []
        if step is OnAbsent.BURN:
            return self._burn(row, attempt)
        if step is OnAbsent.NEXT_ATTEMPT:
            logger.warning("%s was not found and is %s: taking the next attempt", identifier, attempt.burn.value)
            self._settle(attempt, "ABSENT", "RETRY")
            self._doubted_s.pop(identifier, None)
            return self.send(row.intent.id)
        return again

    def _burn(self, row: IntentRow, attempt: AttemptRow) -> list[Task]:
        """Spend the identifier of an exit's attempt, so that its late request can never be accepted."""
        answer = self._venue.place(burning_request(row.intent), attempt.identifier)
        if isinstance(answer, Accepted):
            logger.error("an order that had to be refused was taken under %s: cancelling it", attempt.identifier)
            tasks = self._acknowledge(row, attempt, answer.order)
            self._venue.cancel(answer.order.uuid)
            return tasks
        burn = after_burning(attempt.burn, answer)
        if burn is not attempt.burn:
            self._journal.set_burn(attempt.identifier, burn)
        if burn is not attempt.burn and burn is not Burn.REFUSED:
            self._doubted_s[attempt.identifier] = self._parts.now_s()
        delay_s = 0.0 if isinstance(answer, Refused | Duplicate) else self._rules.look_up_every_s
        return [Task("resolve", attempt.identifier, delay_s)]

    def _in_lists(self, market: str, identifier: str) -> Order | None:
        """The order in the lists of open and closed ones: a second witness beside the single look-up."""
        orders = [*self._venue.open_orders(), *self._venue.closed_orders(market)]
        return next((order for order in orders if order.identifier == identifier), None)

    def sweep(self) -> list[Task]:
        """Look again for attempts that were given up: one that appeared late is ours, is told, and is followed."""
        since_ms = self._clock.wall_ms() - int(self._rules.sweep_for_s * 1000)
        given_up = [
            attempt
            for attempt in self._journal.attempts("ABSENT", changed_after_ms=since_ms)
            if attempt.burn is not Burn.BURNED
        ]
        given_up += self._journal.attempts("LOST")
        tasks: list[Task] = []
        for _ in range(min(SWEEP_BATCH, len(given_up))):
            self._swept += 1
            attempt = given_up[self._swept % len(given_up)]
            if (order := self._venue.find(attempt.identifier)) is not None:
                tasks += self.adopt(order)
        return tasks

    def adopt(self, order: Order) -> list[Task]:
        """Take an order that appeared after its attempt was given up as ours: told, followed, closed by policy."""
        attempt = self._attempt_row(order.identifier)
        if attempt.state in {"ACKED", "DONE", "CANCELLED"}:
            return []
        logger.error("%s appeared after it was given up: following it as ours", attempt.identifier)
        return self._take_over(self._intent_row(attempt.identifier), attempt, order)

    def _take_over(self, row: IntentRow, attempt: AttemptRow, order: Order) -> list[Task]:
        """Acknowledge an order that was found; the one that was to burn its identifier must not rest there."""
        if order.order_type != row.intent.order_type:
            logger.error("%s was taken as the order that had to be refused: cancelling it", attempt.identifier)
            self._venue.cancel(order.uuid)
        return self._acknowledge(row, attempt, order)

    # --- open orders

    def follow(self, identifier: str) -> list[Task]:
        """Look at an open order once, at its fills and its end; one that was given up and has appeared is ours."""
        attempt = self._attempt_row(identifier)
        if attempt.state in {"ABSENT", "LOST"}:
            late = self._venue.find(identifier)
            return self.adopt(late) if late is not None else []
        if attempt.state != "ACKED":
            return []
        order = self._venue.order(attempt.uuid) or self._missing(attempt)
        has_changed = order is not None and self.record(identifier, order)
        if order is not None:
            self._forgotten.clear(identifier)
        if self._attempt_row(identifier).state != "ACKED":
            self._follow_s.pop(identifier, None)
            return []
        slowest_s = self._rules.follow_slowest_s
        delay_s = self._rules.follow_first_s if has_changed else self._follow_s.get(identifier, 0.0) * 2
        self._follow_s[identifier] = min(max(delay_s, self._rules.follow_first_s), slowest_s)
        return [Task("follow", identifier, self._follow_s[identifier])]

    def _missing(self, attempt: AttemptRow) -> Order | None:
        """An order that the look-up does not know any more: from the lists, or lost for good, never taken as ended."""
        if not self._forgotten.knows(attempt.identifier):
            logger.error("the exchange does not know %s, accepted as %s", attempt.uuid, attempt.identifier)
        if not self._forgotten.is_for_good(attempt.identifier, self._parts.now_s()):
            return None
        row = self._intent_row(attempt.identifier)
        if (order := self._in_lists(row.intent.market, attempt.identifier)) is not None:
            return order
        self._forgotten.clear(attempt.identifier)
        text = "the exchange accepted it and does not know it any more: entries are stopped, a person must look"
        logger.error("%s is lost and %s takes no entries: a person must look", attempt.identifier, row.intent.account)
        told = events.unknown(row.intent, attempt, text, self._clock.now_ms(), is_lost=True)
        self._settle(attempt, "LOST", "LOST", uuid=attempt.uuid, events=[told])
        return None

    def record(self, identifier: str, order: Order) -> bool:
        """Write what the exchange says of an open order; returns whether anything is new."""
        has_changed = record_order(self._journal, self._clock, self._intent_row(identifier).intent, identifier, order)
        if has_changed:
            self._parts.on_fill()
        return has_changed

    def cancel(self, cancel_id: str) -> list[Task]:
        """Carry out a cancellation; asked again until the order has ended, which is harmless."""
        cancel = self._journal.cancel(cancel_id)
        if cancel is None:
            return []
        row = self._journal.intent(cancel.intent_id)
        if row is None or row.state in ENDED:
            self._journal.end_cancel(cancel_id)
            return []
        if row.state in {"NEW", "RETRY"}:
            told = events.cancelled(row.intent, None, "", self._clock.now_ms())
            self._journal.end_intent(row.intent.id, "CANCELLED", told)
            return [Task("cancel", cancel_id)]
        pause_s = self._rules.sweep_every_s if row.state == "LOST" else self._rules.look_up_every_s
        tasks = [Task("cancel", cancel_id, pause_s)]
        if row.state == "ACKED":
            self._venue.cancel(row.uuid)
            identifiers = [a.identifier for a in self._journal.attempts_of(row.intent.id) if a.state == "ACKED"]
            tasks += [Task("follow", identifier) for identifier in identifiers]
        return tasks

    # --- rows

    def _settle(self, attempt: AttemptRow, attempt_state: str, intent_state: str, **more: object) -> None:
        self._journal.settle(
            attempt,
            attempt_state=attempt_state,
            intent_state=intent_state,
            now_ms=self._clock.wall_ms(),
            **more,  # type: ignore[arg-type]  # uuid and events, as settle declares them
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
