"""Publishes what the journal's outbox holds to `order-events`, and what the pocket holds to `balances`.

`executor` runs both in threads of their own. Order events go out at least once, in order, with stable content: an event
is marked only after the log has acknowledged it, so one may come twice after a crash and readers keep one.
"""

import logging
from collections.abc import Callable
from threading import Event

from consumers.execute.journal import Journal
from consumers.execute.venue import Venue
from infra.errors import DeliveryPending, Retry
from infra.log import Log, Publisher
from streams.messages import Balance, encode

logger = logging.getLogger(__name__)

IDLE_S = 0.5
TROUBLE_S = 0.5
BALANCE_EVERY_S = 0.5


def publish_outbox(journal: Journal, publisher: Publisher, wall_ms: Callable[[], int]) -> int:
    """Publish everything that waits, once; returns how many. Raises `Retry` errors of the log."""
    count = 0
    while rows := journal.unpublished():
        for row in rows:
            publisher.publish(row.topic, row.key, row.payload)
        _flush(publisher)
        journal.mark_published([row.seq for row in rows], wall_ms())
        count += len(rows)
    return count


def _flush(publisher: Publisher) -> None:
    try:
        publisher.flush()
    except DeliveryPending:
        publisher.flush()


def relay(journal: Journal, log: Log, stop: Event, wall_ms: Callable[[], int]) -> None:
    """Keep the outbox empty until `stop`; a log that does not answer is waited for."""
    publisher: Publisher | None = None
    has_trouble = False
    while True:
        is_last = stop.is_set()
        journal.told.clear()
        try:
            publisher = publisher or log.publisher(linger_ms=0)
            publish_outbox(journal, publisher, wall_ms)
            has_trouble = False
        except Retry as error:
            if not has_trouble:
                logger.warning("order events wait in the journal: %s", error)
            has_trouble = True
            _drop(publisher)
            publisher = None
        if is_last:
            _drop(publisher)
            return
        if has_trouble:
            stop.wait(TROUBLE_S)
        else:
            journal.told.wait(IDLE_S)


def _drop(publisher: Publisher | None) -> None:
    if publisher is None:
        return
    try:
        publisher.close()
    except Retry as error:
        logger.warning("a publisher was closed with events undelivered, they stay in the journal: %s", error)


def tell_balances(venue: Venue, log: Log, pocket: str, due: Event, stop: Event, now_ms: Callable[[], int]) -> None:
    """Publish the pocket's holdings whenever `due` is set, until `stop`."""
    publisher: Publisher | None = None
    has_trouble = False
    while not stop.is_set():
        if due.wait(BALANCE_EVERY_S):
            due.clear()
            try:
                publisher = publisher or log.publisher(linger_ms=0)
                publish_balances(venue, publisher, pocket, now_ms())
                has_trouble = False
            except Retry as error:
                if not has_trouble:
                    logger.warning("balances are told later: %s", error)
                has_trouble = True
                _drop(publisher)
                publisher = None
                due.set()
            stop.wait(BALANCE_EVERY_S)
    _drop(publisher)


def publish_balances(venue: Venue, publisher: Publisher, pocket: str, event_ms: int) -> None:
    """Ask once and publish one `Balance` per currency."""
    for holding in venue.holdings():
        balance = Balance(
            pocket=pocket,
            currency=holding.currency,
            available=holding.available,
            locked=holding.locked,
            average_price=holding.average_price,
            event_ms=event_ms,
        )
        publisher.publish("balances", pocket, encode(balance))
    _flush(publisher)
