"""A restart with more orders than fit into one look-up: open ones, doubtful ones, ended ones; then trading goes on."""

import sqlite3
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from consumers.execute import events
from consumers.execute.executor import run_executor
from consumers.execute.gateway import UpbitGateway
from consumers.execute.journal import Journal
from consumers.execute.keyring import ExchangeKey, HeldKeys
from consumers.execute.options import Options
from consumers.execute.venue import Accepted, request_of
from infra.log import Record, TopicSpec
from infra.memory_log import MemoryLog
from infra.upbit.pace import Pace
from producers.sandbox.synthetic import Plan
from producers.sandbox.thread import SandboxThread
from streams import messages as m
from streams import topics

COUNT = 105
NOW = 1_700_000_000_000


def intent_of(name: str, market: str) -> m.OrderIntent:
    return m.OrderIntent(
        id=name, account="paper", pocket="paper-main", exchange="upbit", market=market, side="buy", order_type="limit",
        price=Decimal(1000), quantity=Decimal(6), funds=None, time_in_force="", purpose="entry", cause_kind="signal",
        cause_id=name, event_ms=NOW, expires_ms=NOW + 600_000, reason="test",
    )  # fmt: skip


def leave(journal: Journal, gateway: UpbitGateway, market: str) -> None:
    """What an executor leaves that is killed: two of three orders acknowledged, the last one still being sent."""
    for number in range(COUNT):
        intent = intent_of(f"n{number}", market)
        identifier = f"ob-{intent.id}-1"
        journal.add_intent(intent, Record("order-intents", 0, number, 0, "paper-main", b""))
        journal.begin_attempt(intent.id, 1, identifier, events.sent(intent, 1, identifier, 0), 0)
        answer = gateway.place(request_of(intent), identifier)
        assert isinstance(answer, Accepted)
        attempt = journal.attempt(identifier)
        assert attempt is not None
        if number % 3:
            journal.settle(attempt, attempt_state="ACKED", intent_state="ACKED", uuid=answer.order.uuid)
        if number % 20 == 0:
            cancel = m.CancelIntent(
                id=f"c{number}", account="paper", pocket="paper-main", intent_id=intent.id, event_ms=0, reason=""
            )
            journal.add_cancel(cancel)
            gateway.cancel(answer.order.uuid)


@pytest.mark.slow
def test_more_orders_than_one_look_up_takes(tmp_path: Path) -> None:
    with SandboxThread(tmp_path / "s", kind="synthetic", plan=Plan(market_count=1), warmup_seconds=0) as sandbox:
        keys = HeldKeys({"paper-main": ExchangeKey(sandbox.access_key, sandbox.secret_key)})
        options = Options(home=tmp_path / "e", address=sandbox.url, keys=keys, pocket="paper-main")
        market = str(sandbox.control("GET", "/v1/market/all")[0]["market"])
        journal = Journal(options.journal_path)
        gateway = UpbitGateway(sandbox.url, sandbox.access_key, sandbox.secret_key, pace=Pace())
        leave(journal, gateway, market)
        gateway.close()
        journal.close()
        log = MemoryLog(clock_ms=lambda: time.time_ns() // 1_000_000)
        log.create_topics([TopicSpec(t.name, t.partitions, t.config) for t in topics.TOPICS.values()])
        publisher = log.publisher()
        publisher.publish("order-intents", "paper-main", m.encode(intent_of("new", market)))
        publisher.close()
        stop = threading.Event()
        thread = threading.Thread(target=run_executor, args=(options, log, stop), daemon=True)
        thread.start()
        end_s = time.monotonic() + 120
        while len(sandbox.truth()) <= COUNT and time.monotonic() < end_s:
            time.sleep(0.05)
        wanted = {"wait": "ACKED", "cancel": "CANCELLED"}
        truth: list[dict[str, Any]] = sandbox.truth()
        while differing(options, truth, wanted) and time.monotonic() < end_s:
            time.sleep(0.1)
        stop.set()
        thread.join(30)
        assert differing(options, truth, wanted) == []
        assert len(truth) == COUNT + 1
        assert sandbox.status()["limited"] == {}


def differing(options: Options, truth: list[dict[str, Any]], wanted: dict[str, str]) -> list[str]:
    database = sqlite3.connect(options.journal_path)
    known = dict(database.execute("SELECT uuid, state FROM attempt").fetchall())
    database.close()
    return [order["identifier"] for order in truth if known.get(order["uuid"]) != wanted[order["state"]]]
