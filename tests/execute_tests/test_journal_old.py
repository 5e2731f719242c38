"""A journal that an older version wrote: its rows get what newer columns and tables need, and lose nothing."""

import sqlite3
from decimal import Decimal
from pathlib import Path

from consumers.execute.journal import Journal
from streams import messages as m

OLD = """
CREATE TABLE intent (intent_id VARCHAR NOT NULL PRIMARY KEY, account VARCHAR NOT NULL, pocket VARCHAR NOT NULL,
 market VARCHAR NOT NULL, purpose VARCHAR NOT NULL, payload BLOB NOT NULL, state VARCHAR NOT NULL,
 attempt INTEGER NOT NULL, uuid VARCHAR NOT NULL, topic VARCHAR NOT NULL, partition INTEGER NOT NULL,
 "offset" INTEGER NOT NULL, append_ms INTEGER NOT NULL, expires_at INTEGER NOT NULL);
CREATE TABLE attempt (identifier VARCHAR NOT NULL PRIMARY KEY, intent_id VARCHAR NOT NULL, number INTEGER NOT NULL,
 state VARCHAR NOT NULL, burn VARCHAR NOT NULL, uuid VARCHAR NOT NULL, executed_quantity VARCHAR NOT NULL,
 executed_funds VARCHAR NOT NULL, paid_fee VARCHAR NOT NULL, changed_ms INTEGER NOT NULL);
CREATE TABLE fills (fill_id VARCHAR NOT NULL, uuid VARCHAR NOT NULL, intent_id VARCHAR NOT NULL,
 price VARCHAR NOT NULL, quantity VARCHAR NOT NULL, funds VARCHAR NOT NULL, fee VARCHAR NOT NULL,
 PRIMARY KEY (fill_id, uuid));
CREATE TABLE cancel (cancel_id VARCHAR NOT NULL PRIMARY KEY, intent_id VARCHAR NOT NULL, payload BLOB NOT NULL,
 state VARCHAR NOT NULL);
CREATE TABLE outbox (seq INTEGER NOT NULL PRIMARY KEY, topic VARCHAR NOT NULL, key VARCHAR NOT NULL,
 payload BLOB NOT NULL, published_at INTEGER);
"""


def intent_of(name: str, **values: object) -> m.OrderIntent:
    fields: dict[str, object] = {
        "id": name, "account": "paper", "pocket": "paper-main", "exchange": "upbit", "market": "KRW-BTC",
        "side": "buy", "order_type": "price", "price": None, "quantity": None, "funds": Decimal(6000),
        "time_in_force": "", "purpose": "entry", "cause_kind": "signal", "cause_id": name, "event_ms": 1000,
        "expires_ms": 10**15, "reason": "test",
    }  # fmt: skip
    return m.OrderIntent(**(fields | values))  # type: ignore[arg-type]


def test_an_older_journal_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "execution.sqlite"
    database = sqlite3.connect(path)
    database.executescript(OLD)
    rows = [
        (intent_of("a"), "DONE", "u-a"),
        (intent_of("b"), "ACKED", "u-b"),
    ]
    for intent, state, uuid in rows:
        database.execute(
            "INSERT INTO intent VALUES (?, 'paper', 'paper-main', 'KRW-BTC', 'entry', ?, ?, 1, ?, 't', 0, 0, 5, 9)",
            (intent.id, m.encode(intent), state, uuid),
        )
        database.execute(
            "INSERT INTO attempt VALUES (?, ?, 1, ?, '', ?, '0', '0', '0', 7)",
            (f"ob-{intent.id}-1", intent.id, state, uuid),
        )
    database.execute("INSERT INTO fills VALUES ('t', 'u-a', 'a', '1000', '6', '6000', '3')")
    database.commit()
    database.close()
    for _ in range(2):
        journal = Journal(path)
        assert [attempt.identifier for attempt in journal.attempts("ACKED", pocket="paper-main")] == ["ob-b-1"]
        assert journal.busy_pockets() == ["paper-main"]
        sale = intent_of("c", side="sell", order_type="market", funds=None, quantity=Decimal(6), purpose="exit")
        assert journal.held(sale)[:2] == (6, 0)
        journal.close()
