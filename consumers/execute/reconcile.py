"""The start of a pocket: nothing new is sent for it before the journal and the exchange agree.

Every attempt in doubt gets its settle window, open orders are compared, those that are not ours are noted; all of it a
hundred orders at a time. Called by `executor` as a task of the pocket, again and again until it is done, so that no
pocket waits for another one; while the exchange cannot be asked `ExchangeUnavailable` is raised and nothing is sent.
"""

import logging

from consumers.execute.attempts import OnAbsent
from consumers.execute.desk import Desk, Task
from consumers.execute.journal import Journal
from consumers.execute.venue import Order, Venue

logger = logging.getLogger(__name__)


class Reconciliation:
    """One pocket's way from its start to its first order."""

    def __init__(self, desk: Desk, journal: Journal, venue: Venue, pocket: str, look_up_every_s: float) -> None:
        self._desk = desk
        self._journal = journal
        self._venue = venue
        self._pocket = pocket
        self._every_s = look_up_every_s
        self._tasks: list[Task] = []

    def step(self, wall_ms: int) -> tuple[bool, list[Task]]:
        """Whether it is done, and the tasks that follow: the next step, or all that goes on from here."""
        if self._settle_doubts():
            return False, [Task("start", self._pocket, self._every_s)]
        self._compare_orders(wall_ms)
        tasks = [*self._tasks]
        waiting = self._journal.intents("NEW", "RETRY", pocket=self._pocket)
        tasks += [Task("send", intent_id) for intent_id in waiting]
        tasks += [Task("cancel", cancel_id) for cancel_id in self._journal.cancels(self._pocket)]
        return True, tasks

    def _settle_doubts(self) -> bool:
        """Look for every attempt in doubt; whether one must still be waited for. What must be sent then is a task."""
        doubted = self._journal.attempts("SENDING", "UNKNOWN", pocket=self._pocket)
        steps = self._desk.look_up_many([attempt.identifier for attempt in doubted])
        is_waiting = False
        for identifier, step in steps.items():
            if step is OnAbsent.WAIT:
                is_waiting = True
            elif step is OnAbsent.EXPIRE:
                self._desk.resolve_by(identifier, step)
        if not is_waiting:
            self._tasks += [Task("resolve", i) for i, step in steps.items() if step is not OnAbsent.EXPIRE]
        return is_waiting

    def _compare_orders(self, wall_ms: int) -> None:
        """Open orders against the journal: unchanged ones need no look of their own."""
        attempts = self._journal.attempts("ACKED", pocket=self._pocket)
        known = {attempt.identifier for attempt in attempts}
        for task in self._desk.compare(attempts) if attempts else []:
            self._tasks += self._desk.follow(task.id)
        if attempts:
            self._tasks.append(Task("poll", self._pocket))
        for order in self._venue.open_orders():
            if order.identifier not in known:
                self._take_note(order, wall_ms)

    def _take_note(self, order: Order, wall_ms: int) -> None:
        """An open order beside the journal's open ones: given up and back again, or somebody else's."""
        if self._journal.attempt(order.identifier) is not None:
            self._tasks += self._desk.adopt(order)
        elif self._journal.add_external(order.uuid, order.identifier, order.market, wall_ms):
            logger.warning("the open order %s in %s is not ours: it is left alone", order.uuid, order.market)
