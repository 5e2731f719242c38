"""The start-up of the executor: nothing new is sent before the journal and the exchange agree.

Every attempt in doubt gets its settle window, open orders are compared, those that are not ours are noted. Called by
`executor` before it subscribes; while the exchange cannot be asked it waits, says so, and the executor does not trade.
"""

import logging
from collections.abc import Callable

from consumers.execute.attempts import OnAbsent, Rules
from consumers.execute.desk import Desk, Task
from consumers.execute.journal import Journal
from consumers.execute.venue import Order, Venue
from infra.errors import ExchangeUnavailable

logger = logging.getLogger(__name__)

PATIENCE_S = 1.0
Wait = Callable[[float], bool]


def reconcile(desk: Desk, journal: Journal, venue: Venue, rules: Rules, wait: Wait, wall_ms: int) -> list[Task] | None:
    """Bring journal and exchange together; returns the tasks that go on from there.

    `wait(seconds)` returns True when the process is to end: then None is returned and nothing must be sent.
    """
    has_trouble = False
    while True:
        try:
            tasks = _settle_doubts(desk, journal, rules, wait)
            if tasks is None:
                return None
            tasks += _compare_orders(desk, journal, venue, wall_ms)
        except ExchangeUnavailable as error:
            if not has_trouble:
                logger.warning("not trading until the exchange can be asked: %s", error)
            has_trouble = True
            if wait(PATIENCE_S):
                return None
            continue
        tasks += [Task("send", intent_id) for intent_id in journal.intents("NEW", "RETRY")]
        tasks += [Task("cancel", cancel_id) for cancel_id in journal.cancels()]
        return tasks


def _settle_doubts(desk: Desk, journal: Journal, rules: Rules, wait: Wait) -> list[Task] | None:
    """Look for every attempt in doubt until it is found or its window is over; what must be sent then is a task."""
    pending = [attempt.identifier for attempt in journal.attempts("SENDING", "UNKNOWN")]
    tasks: list[Task] = []
    while pending:
        waiting: list[str] = []
        for identifier in pending:
            step = desk.look_up(identifier)
            if step is OnAbsent.WAIT:
                waiting.append(identifier)
            elif step is OnAbsent.EXPIRE:
                tasks += desk.resolve(identifier)
            elif step is not None:
                tasks.append(Task("resolve", identifier))
        pending = waiting
        if pending and wait(rules.look_up_every_s):
            return None
    return tasks


def _compare_orders(desk: Desk, journal: Journal, venue: Venue, wall_ms: int) -> list[Task]:
    """Open orders against the journal: unchanged ones need no call of their own."""
    tasks: list[Task] = []
    at_exchange: dict[str, Order] = {order.identifier or order.uuid: order for order in venue.open_orders()}
    for attempt in journal.attempts("ACKED"):
        order = at_exchange.pop(attempt.identifier, None)
        if order is not None and order.executed_quantity == attempt.executed_quantity:
            tasks.append(Task("follow", attempt.identifier))
        else:
            tasks += desk.follow(attempt.identifier)
    for order in at_exchange.values():
        if journal.attempt(order.identifier) is not None:
            tasks += desk.adopt(order)
        elif journal.add_external(order.uuid, order.identifier, order.market, wall_ms):
            logger.warning("the open order %s in %s is not ours: it is left alone", order.uuid, order.market)
    return tasks
