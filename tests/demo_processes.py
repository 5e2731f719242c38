"""Stands in for all processes of a demo: writes what they would into the log; `test_demo` has supervisord run it."""

import os
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

from infra.configuration import load
from infra.errors import ObservatorError
from infra.kafka import KafkaLog
from infra.log import Publisher, Slot
from streams import messages as m
from streams.topics import decode

COMMON: dict[str, Any] = {"exchange": "upbit", "source": "s", "session": 1}


def put(publisher: Publisher, topic: str, message: m.Message, partition: int = 0) -> None:
    publisher.publish(topic, "", m.encode(message), partition)


def feed_event(kind: Any, at: int) -> m.FeedEvent:
    return m.FeedEvent(**COMMON, kind=kind, event_ms=at, received_ns=0, text=kind)


def fill(side: Any, at: int) -> m.OrderFilled:
    """One coin bought or sold."""
    totals: dict[str, Any] = {"executed_quantity": Decimal(1), "executed_funds": Decimal(6000), "paid_fee": Decimal(3)}
    return m.OrderFilled(
        intent_id=f"i-{side}", account="paper", pocket="paper-main", exchange="upbit", market="KRW-BTC", side=side,
        fill_id=f"f-{side}", price=Decimal(6000), quantity=Decimal(1), funds=Decimal(6000), fee=Decimal(3),
        is_final=True, uuid=f"u-{side}", event_ms=at, **totals,
    )  # fmt: skip


def second(publisher: Publisher, at: int, *, has_signal: bool) -> None:
    """One bin that ends at `at`: a book, heartbeats, a feature row and a signal."""
    prices: dict[str, Any] = {"bid_prices": [1.0], "bid_sizes": [1.0], "ask_prices": [2.0], "ask_sizes": [1.0]}
    put(publisher, "orderbooks", m.OrderBook(**COMMON, market="KRW-BTC", exchange_ms=at - 1, received_ns=0, **prices))
    for topic in ("orderbooks", "trades"):
        beat = m.Heartbeat(**COMMON, count=1, event_ms=at, complete_from_ms=0, markets=["KRW-BTC"])
        put(publisher, topic, beat)
    row = m.Features(
        **COMMON, market="KRW-BTC", bin_ms=at, grid_ms=1000, schema="x", n_bins=1, n_books=1, n_trades=0, mid=1.5,
        spread=1.0, values=[], levels=[], accumulators=[],
    )  # fmt: skip
    put(publisher, "features", row)
    if has_signal:
        told = m.Signal(
            id=str(at), exchange="upbit", market="KRW-BTC", bin_ms=at, horizon_ms=5000, schema="x", model_id="model",
            expected_bp=12.5, sigma_bp=1.0, mid=1.5, is_licensed=True, feed="synthetic",
        )  # fmt: skip
        put(publisher, "signals", told)


def wait_for_topics(log: KafkaLog) -> Publisher:
    """Return a publisher once the demo has created the topics."""
    while True:
        try:
            log.partitions("dead-letters")
            publisher = log.publisher()
            publisher.flush()
            log.partitions("signals")
        except ObservatorError:  # the topics are not there yet
            time.sleep(0.2)
        else:
            return publisher


def live(log: KafkaLog, publisher: Publisher, now: int, *, is_halted_meanwhile: bool) -> None:
    """Second after second of a live market; a position told to be sold is sold, perhaps after a person's halt."""
    controls = log.reader({Slot("controls", 0): 0})
    for ahead in range(1, 600):
        second(publisher, now + ahead * 1000, has_signal=True)
        for record in controls.read(100, 0.0):
            told = decode("controls", record.value)
            if isinstance(told, m.Halt) and told.kind == "sell-all":
                if is_halted_meanwhile:
                    put(publisher, "controls", m.Halt(account="paper", kind="no-new-orders", event_ms=now, by="me"))
                    publisher.flush()
                    time.sleep(1)  # it is read before the sale, which is in another topic
                put(publisher, "order-events", fill("sell", now + ahead * 1000))
        publisher.flush()
        time.sleep(0.5)


def main(script: str) -> None:
    settings = load(Path(os.environ["OBSERVATOR_SETTINGS"]))
    with KafkaLog(settings.kafka.bootstrap, settings.kafka.prefix) as log:
        publisher = wait_for_topics(log)
        now = time.time_ns() // 1_000_000_000 * 1000
        put(publisher, "feed-events", feed_event("connected", now))
        for back in range(20, 0, -1):
            second(publisher, now - back * 1000, has_signal=False)
        if script == "recording":
            second(publisher, now, has_signal=True)
            put(publisher, "feed-events", feed_event("ended", now))
        else:
            put(publisher, "controls", m.Warmed(event_ms=now, by="feed"))
            put(publisher, "model-events", m.Refusals(process="predict", counts={"short-run": 3}, event_ms=now))
        if script.startswith("holding"):
            put(publisher, "order-events", fill("buy", now))
        publisher.flush()
        while not script.startswith(("synthetic", "holding")):
            time.sleep(1)
        live(log, publisher, now, is_halted_meanwhile=script == "holding-halted")


main(sys.argv[1])
