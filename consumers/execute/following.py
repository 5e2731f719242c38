"""The desk's steps for orders that the exchange has: looks at them, one by one or a hundred at once, and cancelling.

A part of `desk`. It places nothing.
"""

import logging

from consumers.execute import events
from consumers.execute.bookkeeping import record_order
from consumers.execute.desk_parts import ENDED, Task
from consumers.execute.doubts import Doubts
from consumers.execute.interference_watch import note_end
from consumers.execute.journal import AttemptRow
from consumers.execute.venue import Order

logger = logging.getLogger(__name__)


class Following(Doubts):
    """Open orders until their end."""

    def follow(self, identifier: str) -> list[Task]:
        """Look at an open order once, at its fills and its end; one that was given up and has appeared is ours.

        It is looked at alone while it is young or moves; afterwards with all others of the pocket (`poll`).
        """
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
        delay_s = self._rules.follow_first_s if has_changed else self._follow_s.get(identifier, 0.0) * 2
        slowest_s = self._rules.follow_slowest_s
        self._follow_s[identifier] = delay_s = min(max(delay_s, self._rules.follow_first_s), slowest_s)
        if delay_s == slowest_s:
            return [Task("poll", self._parts.pocket, slowest_s)]
        return [Task("follow", identifier, delay_s)]

    def poll(self) -> list[Task]:
        """Look at all open orders of the pocket in few requests; those that moved or are missing are followed."""
        attempts = self._journal.attempts("ACKED", pocket=self._parts.pocket)
        if not attempts:
            return []
        return [*self.compare(attempts), Task("poll", self._parts.pocket, self._rules.follow_slowest_s)]

    def compare(self, attempts: list[AttemptRow]) -> list[Task]:
        """Those of open orders that are not any more as the journal has them, to be followed."""
        orders = {order.uuid: order for order in self._venue.by_uuids([attempt.uuid for attempt in attempts])}
        tasks = []
        for attempt in attempts:
            order = orders.get(attempt.uuid)
            if order is None or order.has_ended or order.executed_quantity != attempt.executed_quantity:
                tasks.append(Task("follow", attempt.identifier))
            else:
                self._forgotten.clear(attempt.identifier)
        return tasks

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
        intent = self._intent_row(identifier).intent
        with self._journal.transaction():
            has_changed = record_order(self._journal, self._clock, intent, identifier, order)
            if has_changed and order.has_ended:
                note_end(self._journal, intent, order, self._clock.now_ms())
        if has_changed:
            if order.executions:
                self._parts.gate.take_price(order.market, order.executions[-1].price)
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
            self._end_unsent(row.intent.id)
            return [Task("cancel", cancel_id)]
        pause_s = self._rules.sweep_every_s if row.state == "LOST" else self._rules.look_up_every_s
        tasks = [Task("cancel", cancel_id, pause_s)]
        if row.state == "ACKED":
            self._journal.must_hold()
            self._venue.cancel(row.uuid)
            tasks += [Task("follow", identifier) for identifier in self._acked(row.intent.id)]
        return tasks

    def _acked(self, intent_id: str) -> list[str]:
        return [a.identifier for a in self._journal.attempts_of(intent_id) if a.state == "ACKED"]

    def _end_unsent(self, intent_id: str) -> None:
        row = self._journal.intent(intent_id)
        if row is not None:
            told = events.cancelled(row.intent, None, "", self._clock.now_ms())
            self._journal.end_intent(intent_id, "CANCELLED", told)
