"""The desk's steps for attempts whose outcome is not known: looking up, burning, giving up, and what appears late.

A part of `desk`. It never takes a new attempt by itself: it says which intent may take one.
"""

import logging
from collections.abc import Iterable

from consumers.execute import events
from consumers.execute.attempts import Burn, OnAbsent, after_burning, on_absent
from consumers.execute.desk_parts import DeskParts, Task
from consumers.execute.journal import AttemptRow, IntentRow
from consumers.execute.venue import Accepted, Order, burning_request, is_burning

logger = logging.getLogger(__name__)


class Doubts(DeskParts):
    """Attempts in doubt and attempts that were given up."""

    def look_up(self, identifier: str) -> OnAbsent | None:
        """Ask the exchange for an attempt in doubt: None once it is settled, else what follows.

        Raises `ExchangeUnavailable` where the exchange cannot be asked: that is no answer, and no time passes.
        """
        return self.look_up_in(identifier, self._venue.find(identifier)) if self._is_doubted(identifier) else None

    def look_up_many(self, identifiers: Iterable[str]) -> dict[str, OnAbsent]:
        """The same for many at once, in few requests; those that are settled are left out."""
        doubted = [identifier for identifier in identifiers if self._is_doubted(identifier)]
        found = {order.identifier: order for order in self._venue.by_identifiers(doubted)} if doubted else {}
        steps = {identifier: self.look_up_in(identifier, found.get(identifier)) for identifier in doubted}
        return {identifier: step for identifier, step in steps.items() if step is not None}

    def _is_doubted(self, identifier: str) -> bool:
        attempt, row = self._attempt_row(identifier), self._intent_row(identifier)
        if attempt.state == "SENDING":
            self._doubt(row, attempt, "the executor was restarted while it was sent")
            return True
        return attempt.state == "UNKNOWN"

    def look_up_in(self, identifier: str, order: Order | None) -> OnAbsent | None:
        """What follows from what the exchange has just said of an attempt in doubt."""
        attempt, row = self._attempt_row(identifier), self._intent_row(identifier)
        if order is None:
            step = on_absent(
                row.purpose,
                attempt.burn,
                self._waited_s(attempt),
                self._rules,
                is_replacing=bool(row.intent.replaces),
            )
            if step is OnAbsent.WAIT:
                return step
            order = self._in_lists(row.intent.market, identifier)
            if order is None:
                return step
        self._take_over(row, attempt, order)
        return None

    def _waited_s(self, attempt: AttemptRow) -> float:
        """How long an attempt was looked for. Where the exchange keeps identifiers usable, the time begins only when
        its sender is seen to send nothing any more: a process that was stopped may wake up with the request in its
        hands, also right after it was seen alive.
        """
        if attempt.burn is Burn.KEPT and not self._journal.is_sender_gone(attempt):
            self._doubted_s.pop(attempt.identifier, None)
            return 0.0
        now_s = self._parts.now_s()
        return now_s - self._doubted_s.setdefault(attempt.identifier, now_s)

    def resolve(self, identifier: str) -> list[Task]:
        """One step towards the truth about an attempt in doubt."""
        return self.resolve_by(identifier, self.look_up(identifier))

    def resolve_by(self, identifier: str, step: OnAbsent | None) -> list[Task]:
        """Carry out what follows from a look-up."""
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
            return [Task("send", row.intent.id)]
        return [Task("resolve", identifier, self._rules.look_up_every_s)]

    def _burn(self, row: IntentRow, attempt: AttemptRow) -> list[Task]:
        """Spend the identifier of an exit's attempt, so that its late request can never be accepted."""
        self._journal.must_hold()
        answer = self._venue.place(burning_request(row.intent), attempt.identifier)
        if isinstance(answer, Accepted):
            logger.error("an order that had to be refused was taken under %s: cancelling it", attempt.identifier)
            self._venue.cancel(answer.order.uuid)  # before it counts as accepted: without an answer it is found again
            return self._acknowledge(row, attempt, answer.order)
        burn = after_burning(attempt.burn, answer)
        if burn is not attempt.burn:
            self._journal.set_burn(attempt.identifier, burn)
        if burn is not attempt.burn and burn is not Burn.REFUSED:
            self._doubted_s[attempt.identifier] = self._parts.now_s()
        delay_s = self._rules.look_up_every_s if burn is attempt.burn else 0.0
        return [Task("resolve", attempt.identifier, delay_s)]

    def _in_lists(self, market: str, identifier: str) -> Order | None:
        """The order in the lists of open and closed ones: a second witness beside the single look-up."""
        orders = [*self._venue.open_orders(), *self._venue.closed_orders(market)]
        return next((order for order in orders if order.identifier == identifier), None)

    def sweep(self) -> list[Task]:
        """Look again for attempts that were given up: one that appeared late is ours, is told, and is followed."""
        since_ms = self._clock.wall_ms() - int(self._rules.sweep_for_s * 1000)
        given_up = [attempt.identifier for attempt in self._journal.given_up(since_ms, self._parts.pocket)]
        tasks: list[Task] = []
        for order in self._venue.by_identifiers(given_up) if given_up else []:
            tasks += self.adopt(order)
        return tasks

    def adopt(self, order: Order) -> list[Task]:
        """Take an order that appeared after its attempt was given up as ours: told and followed to its end.

        `trade` counts what it bought into the position, which its exits then close.
        """
        attempt = self._attempt_row(order.identifier)
        if attempt.state in {"ACKED", "DONE", "CANCELLED"}:
            return []
        logger.error("%s appeared after it was given up: following it as ours", attempt.identifier)
        return self._take_over(self._intent_row(attempt.identifier), attempt, order)

    def _take_over(self, row: IntentRow, attempt: AttemptRow, order: Order) -> list[Task]:
        """Acknowledge an order that was found; the one that was to burn its identifier must not rest there."""
        if is_burning(order, row.intent):
            logger.error("%s was taken as the order that had to be refused: cancelling it", attempt.identifier)
            self._venue.cancel(order.uuid)
        return self._acknowledge(row, attempt, order)
