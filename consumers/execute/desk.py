"""The desk carries out intents: journal first, one request per attempt, then whatever the protocol says.

`executor` runs its methods as tasks in lanes; each method does one step and returns the tasks that follow. It never
sends without a journalled attempt, never sends an attempt twice, and never takes a new one outside `attempts`. Its
steps for attempts in doubt stand in `doubts`, those for open orders in `following`.
"""

from typing import NamedTuple

import msgspec

from consumers.execute import events
from consumers.execute.attempts import OnAnswer, is_exit, on_answer
from consumers.execute.desk_parts import ENDED, Kind, Parts, Task
from consumers.execute.following import Following
from consumers.execute.interference import at_most
from consumers.execute.interference_watch import paused_of
from consumers.execute.journal import IntentRow
from consumers.execute.limits import Refusal, sellable
from consumers.execute.venue import Accepted, Answer, Order, OrderRequest, Refused, Replacing, Unclear, request_of
from streams.messages import OrderIntent

__all__ = ["ENDED", "Desk", "Kind", "Parts", "Task"]

MAXIMUM_IDENTIFIER = 64
SHORT = "insufficient_funds_ask"
"""The exchange's word for a sale of more than there is."""


class Wanted(NamedTuple):
    """What goes out: an order, or one in the place of the open order `replaces`."""

    request: OrderRequest
    replaces: str = ""


class Desk(Following):
    """All steps of the life of a pocket's orders. Several threads may call it; the journal orders them."""

    def send(self, intent_id: str) -> list[Task]:
        """Take an intent that waits (new, or due for its next attempt) to the exchange, or end it without."""
        row = self._journal.intent(intent_id)
        if row is None or row.state not in {"NEW", "RETRY"} or self._is_for_real_money(row):
            return []
        number = row.attempt + 1
        identifier = f"{self._parts.instance}-{intent_id}-{number}"
        if not is_exit(row.purpose):
            if self._journal.has_doubt(row.intent.account) and not self._halted(row):
                return [Task("send", intent_id, self._rules.look_up_every_s)]
            if self._end_without_order(row):
                return []
        if (refusal := self._refusal(row, number, identifier)) is not None:
            self._reject_unsent(row, refusal.name, refusal.text)
            return []
        wanted = self._make_room(row) if row.intent.replaces else self._plain(row)
        if isinstance(wanted, list):
            return wanted
        self._approved.discard(intent_id)
        return self._attempt(row, number, identifier, wanted)

    def _is_for_real_money(self, row: IntentRow) -> bool:
        """Refuse every order of an account whose venue is live, whatever it is for."""
        text = self._parts.live(row.intent.account, row.intent.pocket)
        if text:
            self._reject_unsent(row, "live-refused", text)
        return bool(text)

    def _end_without_order(self, row: IntentRow) -> bool:
        """Expiry, halts and our own limits, for all that is no exit."""
        intent = row.intent
        if self._clock.is_stale(intent, row.append_ms):
            told = events.expired(intent, 0, "it came after its time", self._clock.now_ms())
            self._journal.end_intent(intent.id, "EXPIRED", told)
            return True
        if halted := self._halted(row):
            self._reject_unsent(row, "halted", halted)
            return True
        if intent.purpose == "entry" and (text := paused_of(self._journal, intent.account)):
            self._reject_unsent(row, "paused", text)
            return True
        if lost := self._journal.lost(intent.account):
            self._reject_unsent(row, "order-lost", f"the exchange has forgotten {lost[0]}: a person must look")
            return True
        if intent.id not in self._approved and (refusal := self._parts.gate.refusal(intent)):
            self._reject_unsent(row, refusal.name, refusal.text)
            return True
        if intent.replaces:
            self._approved.add(intent.id)  # it may have to wait for room, and counts once
        return False

    def _plain(self, row: IntentRow) -> Wanted | list[Task]:
        """An intent as it is; an exit is cut to what is there once the exchange said that this is less, and where
        somebody else touched the account.
        """
        intent: OrderIntent | None = row.intent
        is_sale = is_exit(row.purpose) and row.intent.side == "sell"
        if is_sale and (row.intent.id in self._short or paused_of(self._journal, row.intent.account)):
            intent = at_most(row.intent, self._venue.holdings())
        if intent is not None:
            return Wanted(request_of(intent))
        self._reject_unsent(row, "nothing-there", "the exchange holds none of what was bought here any more")
        return []

    def _halted(self, row: IntentRow) -> str:
        return self._parts.halts.refusal(row.intent.account, row.purpose)

    def _refusal(self, row: IntentRow, number: int, identifier: str) -> Refusal | None:
        """Why nothing at all can be sent for an intent."""
        intent = row.intent
        if (intent.exchange, intent.pocket) != (self._parts.exchange, self._parts.pocket):
            return Refusal("no-key", f"there is no key here for {intent.pocket} at {intent.exchange}")
        if (trouble := self._parts.trouble()) is not None:
            return trouble
        if number > self._rules.maximum_attempts or len(identifier) > MAXIMUM_IDENTIFIER:
            name = "too-many-attempts" if number > 1 else "bad-identifier"
            return Refusal(name, f"attempt {number} under the identifier {identifier} is not allowed")
        return None

    def _oversold(self, row: IntentRow) -> Refusal | None:
        """Why an exit must not be sent: it would sell what was not bought here. A person's own order may."""
        intent = row.intent
        if not is_exit(row.purpose) or intent.side != "sell":
            return None
        most = sellable(*self._journal.held(intent))
        if intent.quantity is not None and intent.quantity <= most:
            return None
        return Refusal("not-ours", f"{intent.quantity} are to be sold, {most} of what was bought here are left")

    def _reject_unsent(self, row: IntentRow, name: str, text: str) -> None:
        self._approved.discard(row.intent.id)
        self._short.discard(row.intent.id)
        told = events.rejected(row.intent, row.attempt, name, text, self._clock.now_ms())
        self._journal.end_intent(row.intent.id, "REJECTED", told)

    def _begin(self, row: IntentRow, number: int, identifier: str) -> bool:
        """Journal the attempt; False where nothing may be sent. What may be sold is looked at in the same transaction,
        so that no other order sells in between.
        """
        told = events.sent(row.intent, number, identifier, self._clock.now_ms())
        with self._journal.transaction():
            if (refusal := self._oversold(row)) is not None:
                self._reject_unsent(row, refusal.name, refusal.text)
                return False
            return self._journal.begin_attempt(row.intent.id, number, identifier, told, self._clock.wall_ms())

    def _attempt(self, row: IntentRow, number: int, identifier: str, wanted: Wanted) -> list[Task]:
        reach = self._parts.reach
        reach("before_journal_sending")
        if not self._begin(row, number, identifier):
            return []
        reach("after_journal_sending")
        self._journal.must_hold()
        with self._parts.halts.sending(row.intent):
            if wanted.replaces:
                answer = self._venue.replace(wanted.replaces, wanted.request, identifier)
            else:
                answer = self._venue.place(wanted.request, identifier)
        reach("after_response")
        attempt = self._attempt_row(identifier)
        now_ms = self._clock.now_ms()
        step = on_answer(answer, row.purpose)
        if isinstance(answer, Accepted):
            tasks = self._acknowledge(row, attempt, answer.order)
            reach("after_journal_acked")
            return tasks
        is_short = self._is_first_short(row, answer)
        if isinstance(answer, Refused) and step is OnAnswer.REJECT and not is_short:
            refused = events.rejected(row.intent, number, answer.name, answer.text, now_ms)
            self._settle(attempt, "REJECTED", "REJECTED", events=[refused])
            return []
        if is_short or step is OnAnswer.NEXT_ATTEMPT:
            self._settle(attempt, "REJECTED", "RETRY")
            pause_s = 0.0 if is_short else min(self._rules.pause_s * number, self._rules.longest_pause_s)
            return [Task("send", row.intent.id, pause_s)]
        if isinstance(answer, Replacing):
            self._settle(attempt, "UNKNOWN", "UNKNOWN")  # as it must be: the new order comes after the old one's end
            return [Task("resolve", identifier, self._rules.follow_first_s), *self._look_at(row.intent.replaces)]
        text = answer.text if isinstance(answer, Unclear) else "duplicated_identifier"
        self._doubt(row, attempt, text)
        return [Task("resolve", identifier, self._rules.look_up_every_s), *self._look_at(row.intent.replaces)]

    def _is_first_short(self, row: IntentRow, answer: Answer) -> bool:
        """Whether an exit wanted more than there is and was not cut yet: what is left must leave all the same."""
        was_cut = row.intent.id in self._short
        self._short.discard(row.intent.id)
        is_short = isinstance(answer, Refused) and answer.name == SHORT
        if was_cut or not is_short or not is_exit(row.purpose) or row.intent.replaces:
            return False
        self._short.add(row.intent.id)
        return True

    # --- in the place of another order

    def _look_at(self, intent_id: str) -> list[Task]:
        return [Task("follow", identifier) for identifier in self._acked(intent_id)] if intent_id else []

    def _make_room(self, row: IntentRow) -> Wanted | list[Task]:
        """What may go out in the place of another order: never more than what is left of that one.

        One request where the new order takes all that is left; else the old one is cancelled first, and what is left
        of it is known before the new one goes out. A list of tasks: not yet, or never.
        """
        intent, old = row.intent, self._journal.intent(row.intent.replaces)
        again = [Task("send", intent.id, self._rules.look_up_every_s)]
        if old is None or _side_of(old) != _side_of(row) or old.state in {"DONE", "REJECTED", "EXPIRED", "LOST"}:
            self._reject_unsent(row, "nothing-to-replace", f"the order {intent.replaces} cannot be replaced")
            return []
        if old.state in {"NEW", "RETRY"}:
            self._end_unsent(old.intent.id)
            return again
        if old.state == "CANCELLED" and not old.uuid:
            return Wanted(request_of(intent))  # it was never sent
        order = self._venue.order(old.uuid) if old.uuid else None
        if order is None:
            return [*again, *self._look_at(old.intent.id)]
        return self._take_place(row, old, order)

    def _take_place(self, row: IntentRow, old: IntentRow, order: Order) -> Wanted | list[Task]:
        """The same, once the exchange has told how far the old order is."""
        intent = row.intent
        for identifier in self._acked(old.intent.id):
            self.record(identifier, order)
        if order.has_ended:
            return self._rest_of(row, order)
        left = None if order.quantity is None else order.quantity - order.executed_quantity
        if left is not None and intent.quantity is not None and intent.quantity >= left:
            return Wanted(request_of(intent), order.uuid)
        self._journal.must_hold()
        self._venue.cancel(order.uuid)
        return [Task("send", intent.id, self._rules.look_up_every_s), *self._look_at(old.intent.id)]

    def _rest_of(self, row: IntentRow, order: Order) -> Wanted | list[Task]:
        """An order of its own for what an ended order has left."""
        intent = row.intent
        left = (order.quantity or order.executed_quantity) - order.executed_quantity
        if left <= 0:
            self._reject_unsent(row, "nothing-to-replace", f"nothing is left of the order {intent.replaces}")
            return []
        if intent.quantity is not None:
            return Wanted(request_of(msgspec.structs.replace(intent, quantity=min(intent.quantity, left))))
        if intent.funds is not None and order.price is not None:
            return Wanted(request_of(msgspec.structs.replace(intent, funds=min(intent.funds, left * order.price))))
        return Wanted(request_of(intent))


def _side_of(row: IntentRow) -> tuple[str, ...]:
    """What both orders of a replacement must have in common."""
    intent = row.intent
    return intent.account, intent.pocket, intent.exchange, intent.market, intent.side, intent.strategy
