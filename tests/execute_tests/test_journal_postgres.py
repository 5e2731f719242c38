"""The journal on a real PostgreSQL: the same transitions, one holder by lease, and what a lost one may still do."""

import os
import signal
import subprocess
import sys
import threading
from decimal import Decimal
from typing import TYPE_CHECKING

import psycopg
import pytest

from consumers.execute import events
from consumers.execute.journal import Journal, JournalFailed
from consumers.execute.venue import Execution
from consumers.verify.processes import wait_until
from infra.errors import AlreadyRunning, Fenced
from infra.log import Record
from streams import messages as m

if TYPE_CHECKING:
    from infra.servers.postgres import PostgresServer

RECORD = Record("order-intents", 3, 5_000_000_000, 1_700_000_000_000, "paper-main", b"")
LEASE_S = 2.0


def intent_of(name: str, **values: object) -> m.OrderIntent:
    fields: dict[str, object] = {
        "id": name, "account": "paper", "pocket": "paper-main", "exchange": "upbit", "market": "KRW-BTC",
        "side": "buy", "order_type": "price", "price": None, "quantity": None, "funds": Decimal(6000),
        "time_in_force": "", "purpose": "entry", "cause_kind": "signal", "cause_id": name, "event_ms": 1000,
        "expires_ms": 10**15, "reason": "test",
    }  # fmt: skip
    return m.OrderIntent(**(fields | values))  # type: ignore[arg-type]


@pytest.fixture
def address(empty_postgres: "PostgresServer") -> str:
    return empty_postgres.address


def begin(journal: Journal, name: str) -> bool:
    return journal.begin_attempt(name, 1, f"ob-{name}-1", events.sent(intent_of(name), 1, f"ob-{name}-1", 0), 10**12)


@pytest.mark.postgres
def test_the_same_journal(address: str) -> None:
    journal = Journal(address, lease_s=LEASE_S)
    assert journal.epoch == 1
    assert journal.add_intent(intent_of("a"), RECORD)
    assert not journal.add_intent(intent_of("a"), RECORD)
    assert journal.add_intent(intent_of("b"), RECORD)
    assert journal.intents("NEW") == ["a", "b"]
    assert begin(journal, "a")
    assert not begin(journal, "a")
    attempt = journal.attempt("ob-a-1")
    assert attempt is not None
    assert attempt.epoch == 1
    with journal.transaction():
        journal.settle(attempt, attempt_state="ACKED", intent_state="ACKED", uuid="u", events=[], now_ms=10**12)
        journal.add_fill(attempt, "u", Execution("t", Decimal(1000), Decimal(6), Decimal(6000)), Decimal(3))
    assert [row.key for row in journal.unpublished()] == ["paper-main"]
    journal.mark_published([row.seq for row in journal.unpublished()], 10**12)
    assert journal.unpublished() == []
    assert journal.held(intent_of("c", side="sell")).bought == 6
    journal.set_cursor("controls/0", 7)
    journal.set_cursor("controls/0", 8)
    assert journal.cursor("controls/0") == 8
    assert journal.busy_pockets() == ["paper-main"]
    journal.close()
    again = Journal(address, lease_s=LEASE_S)
    assert again.epoch == 2
    row = again.intent("a")
    assert row is not None
    assert (row.state, row.append_ms) == ("ACKED", RECORD.append_ms)
    again.close()


@pytest.mark.postgres
def test_one_holder_and_a_lost_lease_writes_and_sends_nothing(address: str) -> None:
    first = Journal(address, lease_s=60.0)
    first.add_intent(intent_of("a"), RECORD)
    with pytest.raises(AlreadyRunning, match="stop it first"):
        Journal(address, lease_s=60.0)
    second = Journal(address, lease_s=LEASE_S, wait=threading.Event().wait)
    with pytest.raises(Fenced, match="took the journal over"):
        begin(first, "a")
    with pytest.raises(Fenced):
        first.must_hold()
    row = second.intent("a")
    assert row is not None
    assert row.state == "NEW"
    assert begin(second, "a")
    attempt = second.attempt("ob-a-1")
    assert attempt is not None
    assert second.is_sender_gone(attempt)
    assert not second.is_sender_gone(attempt._replace(epoch=1))  # its process still lives
    first.close()
    wait_until(lambda: second.is_sender_gone(attempt._replace(epoch=1)), 10, "the server to end the connection")
    second.close()


@pytest.mark.postgres
def test_a_stopped_holder_loses_the_lease_with_a_transaction_open(address: str) -> None:
    code = f"""
import sys, time
from consumers.execute.journal import Journal
journal = Journal({address!r}, lease_s={LEASE_S})
with journal.transaction() as db:
    db.execute("INSERT INTO cursor(slot, next_offset) VALUES (?, ?)", ("x", 1))
    print("open", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"open\n"
    os.kill(process.pid, signal.SIGSTOP)
    try:
        journal = Journal(address, lease_s=LEASE_S, wait=threading.Event().wait)
        assert journal.cursor("x") == 0
        journal.close()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.postgres
def test_a_holder_that_would_be_taken_for_dead_sends_nothing(address: str) -> None:
    journal = Journal(address, lease_s=LEASE_S)
    journal.renew()
    with psycopg.connect(address, autocommit=True) as other:
        ended = other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s",
            (journal.epoch,),
        ).fetchall()
    assert ended == [(True,)]
    with pytest.raises(JournalFailed, match="nothing is sent"):
        journal.renew()
    journal.close()


@pytest.mark.postgres
def test_a_database_that_is_away_is_a_clear_error_and_comes_back(postgres: "PostgresServer") -> None:
    assert postgres.is_running()  # there is one here, so another can be started, and ended

    with type(postgres)() as server:
        journal = Journal(server.address, lease_s=LEASE_S)
        journal.add_intent(intent_of("a"), RECORD)
        server.stop()
        with pytest.raises(JournalFailed, match="nothing is sent"):
            begin(journal, "a")
        with pytest.raises(JournalFailed):
            journal.intent("a")
        journal.close()
        with pytest.raises(JournalFailed, match="cannot be opened"):
            Journal(server.address, lease_s=LEASE_S)
        server.start()
        again = Journal(server.address, lease_s=LEASE_S, wait=threading.Event().wait)
        row = again.intent("a")
        assert row is not None
        assert row.state == "NEW"
        assert begin(again, "a")
        again.close()
