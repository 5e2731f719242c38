"""Publishes what the journal's outbox holds to `order-events`, and what the pockets hold to `balances`.

`executor` runs both in threads of their own. Order events go out at least once, in order, with stable content: an event
is marked only after the log has acknowledged it, so one may come twice after a crash and readers keep one.
"""

import logging
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Event

from consumers.execute.journal import Journal
from consumers.execute.venue import Holding
from infra.errors import DeliveryPending, Retry
from infra.log import Log, Publisher
from streams.messages import Balance, encode

logger = logging.getLogger(__name__)

IDLE_S = 0.5
FLUSH_S = 3.0
"""Twice so long is waited for the log's word; who is asked to end meanwhile ends after it."""
TROUBLE_S = 0.5


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
        publisher.flush(FLUSH_S)
    except DeliveryPending:
        publisher.flush(FLUSH_S)


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


class BalanceTeller:
    """Publishes what pockets hold, in a thread of its own; whoever has asked the exchange hands it over."""

    def __init__(self, log: Log, stop: Event) -> None:
        self._log = log
        self._stop = stop
        self._waiting: SimpleQueue[tuple[str, list[Holding], int]] = SimpleQueue()

    def put(self, pocket: str, holdings: list[Holding], event_ms: int) -> None:
        """What a pocket holds now."""
        self._waiting.put((pocket, holdings, event_ms))

    def run(self) -> None:
        """Until `stop`; balances that the log does not take are told again."""
        publisher: Publisher | None = None
        told: tuple[str, list[Holding], int] | None = None
        has_trouble = False
        while not self._stop.is_set():
            try:
                told = told or self._waiting.get(timeout=IDLE_S)
                publisher = publisher or self._log.publisher(linger_ms=0)
                publish_balances(publisher, *told)
                told, has_trouble = None, False
            except Empty:
                continue
            except Retry as error:
                if not has_trouble:
                    logger.warning("balances are told later: %s", error)
                has_trouble = True
                _drop(publisher)
                publisher = None
                self._stop.wait(TROUBLE_S)
        _drop(publisher)


def publish_balances(publisher: Publisher, pocket: str, holdings: list[Holding], event_ms: int) -> None:
    """One `Balance` per currency."""
    for holding in holdings:
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
