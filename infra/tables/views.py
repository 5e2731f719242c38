"""Owner: consumers/views. The tables behind the pages (`db/views.sqlite`), and the questions that pages ask them.

Everything here is a copy of the log: delete the file and it is built again. `consumers.views` is the only writer.
Money stands as decimal text, time as integer milliseconds, lists as JSON text. The questions answer with plain
dictionaries whose JSON is read; they never write.
"""

import json
import math
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import Engine, Index, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.orm import registry
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlmodel import Field, Session, SQLModel, create_engine, text

FILE = Path("db/views.sqlite")
_OPEN_TRIES = 50


class ViewTable(SQLModel, registry=registry()):
    """Base with metadata of its own: this database shares no table with any other."""


class OffsetTable(ViewTable, table=True):
    """The next offset to take per partition: moves in the same transaction as what was taken."""

    __tablename__: ClassVar[str] = "input_offset"
    topic: str = Field(primary_key=True)
    partition: int = Field(primary_key=True)
    next: int


class StageTable(ViewTable, table=True):
    """Statistics per topic: records seen (heartbeats and holes apart), and when the last one came."""

    __tablename__: ClassVar[str] = "stage"
    topic: str = Field(primary_key=True)
    records: int = 0
    marks: int = 0
    last_event_ms: int = 0
    last_append_ms: int = 0


class MarketTable(ViewTable, table=True):
    """The newest features of a market."""

    __tablename__: ClassVar[str] = "market"
    exchange: str = Field(primary_key=True)
    market: str = Field(primary_key=True)
    bin_ms: int
    mid: float | None
    spread: float | None
    n_bins: int
    n_books: int
    n_trades: int
    feature_schema: str
    features: str


class NameTable(ViewTable, table=True):
    """What the exchange says of a market."""

    __tablename__: ClassVar[str] = "market_name"
    exchange: str = Field(primary_key=True)
    market: str = Field(primary_key=True)
    korean_name: str
    english_name: str
    tick_size: str
    minimum_total: str
    is_caution: bool
    is_warning: bool


class BookTable(ViewTable, table=True):
    """The newest order book of a market, all levels."""

    __tablename__: ClassVar[str] = "book"
    exchange: str = Field(primary_key=True)
    market: str = Field(primary_key=True)
    exchange_ms: int
    bid: float | None
    ask: float | None
    levels: str


class TradeTable(ViewTable, table=True):
    """Executions by others, the newest of each market."""

    __tablename__: ClassVar[str] = "trade"
    exchange: str = Field(primary_key=True)
    market: str = Field(primary_key=True)
    trade_id: int = Field(primary_key=True)
    exchange_ms: int
    price: float
    size: float
    is_buy: bool
    origin: str


class MidTable(ViewTable, table=True):
    """The mid price at each bin's end: what signals are compared with."""

    __tablename__: ClassVar[str] = "mid"
    exchange: str = Field(primary_key=True)
    market: str = Field(primary_key=True)
    bin_ms: int = Field(primary_key=True)
    mid: float


class SignalTable(ViewTable, table=True):
    """Forecasts, the newest of all markets."""

    __tablename__: ClassVar[str] = "signal"
    __table_args__ = (Index("signal_by_bin", "exchange", "market", "bin_ms"),)  # pages ask for the newest of a market
    id: str = Field(primary_key=True)
    exchange: str
    market: str
    bin_ms: int
    horizon_ms: int
    model_id: str
    expected_bp: float
    sigma_bp: float
    mid: float
    is_licensed: bool
    feed: str
    refusal: str


class AccountTable(ViewTable, table=True):
    """The newest state of an account, with the day's figures."""

    __tablename__: ClassVar[str] = "account"
    account: str = Field(primary_key=True)
    pocket: str
    venue: str
    is_trading: bool
    halt: str
    budget: str
    free: str
    invested: str
    reserved: str
    realised: str
    paid_fees: str
    entry_funds: str
    threshold_percent: str
    fee_percent: str
    stop_percent: str
    is_ledger_broken: bool
    day: str
    forecasts: int
    entries: int
    exits: int
    best_expected_bp: float | None
    best_needed_bp: float | None
    best_market: str
    event_ms: int


class PositionTable(ViewTable, table=True):
    """What an account holds; `is_dust` marks a rest that is too small to be sold alone."""

    __tablename__: ClassVar[str] = "position"
    account: str = Field(primary_key=True)
    exchange: str = Field(primary_key=True)
    market: str = Field(primary_key=True)
    is_dust: bool = Field(primary_key=True)
    quantity: str
    funds: str
    cost: str
    opened_ms: int
    due_ms: int
    horizon_ms: int
    exit: str


class ReasonTable(ViewTable, table=True):
    """How often a reason refused an entry on one KST day."""

    __tablename__: ClassVar[str] = "reason_count"
    account: str = Field(primary_key=True)
    day: str = Field(primary_key=True)
    reason: str = Field(primary_key=True)
    count: int


class OrderTable(ViewTable, table=True):
    """One intent and what became of it."""

    __tablename__: ClassVar[str] = "order_intent"
    intent_id: str = Field(primary_key=True)
    account: str = Field(default="", index=True)
    pocket: str = ""
    exchange: str = ""
    market: str = ""
    side: str = ""
    order_type: str = ""
    price: str | None = None
    quantity: str | None = None
    funds: str | None = None
    purpose: str = ""
    cause_kind: str = ""
    cause_id: str = ""
    reason: str = ""
    expected_bp: float | None = None
    cost_bp: float | None = None
    event_ms: int = Field(default=0, index=True)
    expires_ms: int = 0
    state: str = "new"
    attempt: int = 0
    identifier: str = ""
    uuid: str = ""
    executed_quantity: str = "0"
    executed_funds: str = "0"
    paid_fee: str = "0"
    text: str = ""
    changed_ms: int = 0


class FillTable(ViewTable, table=True):
    """One fill of ours."""

    __tablename__: ClassVar[str] = "fill"
    intent_id: str = Field(primary_key=True)
    fill_id: str = Field(primary_key=True)
    account: str = Field(index=True)
    exchange: str
    market: str
    side: str
    price: str
    quantity: str
    funds: str
    fee: str
    event_ms: int = Field(index=True)


class VetoTable(ViewTable, table=True):
    """A change of the reason why a market is not entered."""

    __tablename__: ClassVar[str] = "veto"
    topic: str = Field(primary_key=True)
    partition: int = Field(primary_key=True)
    offset: int = Field(primary_key=True)
    account: str
    exchange: str
    market: str
    reason: str
    event_ms: int
    best_expected_bp: float | None
    needed_bp: float | None
    horizon_ms: int | None


class FeedEventTable(ViewTable, table=True):
    """What happened to a source of market data."""

    __tablename__: ClassVar[str] = "feed_event"
    topic: str = Field(primary_key=True)
    partition: int = Field(primary_key=True)
    offset: int = Field(primary_key=True)
    source: str
    session: int
    kind: str
    event_ms: int
    received_ns: int
    text: str
    markets: str


class ReasonTextTable(ViewTable, table=True):
    """The words of a reason for people."""

    __tablename__: ClassVar[str] = "reason_text"
    reason: str = Field(primary_key=True)
    english: str
    korean: str


class BalanceTable(ViewTable, table=True):
    """What the exchange says a pocket holds."""

    __tablename__: ClassVar[str] = "balance"
    pocket: str = Field(primary_key=True)
    currency: str = Field(primary_key=True)
    available: str
    locked: str
    average_price: str
    event_ms: int


def path_of(home: Path) -> Path:
    """Where the database of a deployment stands."""
    return home / FILE


def open_views(path: Path) -> Engine:
    """Open (and create) the database: readers and the one writer do not wait for each other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 10.0})
    event.listen(engine, "connect", _prepare)
    with engine.begin() as connection:
        for table in ViewTable.metadata.sorted_tables:
            connection.execute(CreateTable(table, if_not_exists=True))
            for index in table.indexes:
                connection.execute(CreateIndex(index, if_not_exists=True))
    return engine


def _prepare(connection: DBAPIConnection, _record: object) -> None:
    cursor = connection.cursor()
    # The wait comes first: two processes may open a new file at the same moment, and only one can turn it to WAL.
    for pragma in ("busy_timeout=10000", "synchronous=NORMAL"):
        cursor.execute(f"PRAGMA {pragma}")
    for attempt in range(_OPEN_TRIES):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError:
            if attempt == _OPEN_TRIES - 1:
                raise
            time.sleep(0.1)
    cursor.close()


Row = dict[str, Any]


def _rows(session: Session, sql: str, **values: Any) -> list[Row]:
    found = session.connection().execute(text(sql), values)
    return [dict(row) for row in found.mappings()]


def _read_json(rows: list[Row], *names: str) -> list[Row]:
    for row in rows:
        for name in names:
            row[name] = json.loads(row[name]) if row.get(name) else None
    return rows


def latest_markets(session: Session, market: str | None = None) -> list[Row]:
    """All markets by name, or one: names, mid, spread, best bid and ask, `features` (values in schema order), bins."""
    return _read_json(
        _rows(
            session,
            """SELECT m.*, b.bid, b.ask, b.exchange_ms, n.korean_name, n.english_name, n.tick_size, n.minimum_total,
                      n.is_caution, n.is_warning
               FROM market m LEFT JOIN book b USING (exchange, market) LEFT JOIN market_name n USING (exchange, market)
               WHERE :market IS NULL OR m.market = :market ORDER BY m.exchange, m.market""",
            market=market,
        ),
        "features",
    )


def latest_book(session: Session, market: str, exchange: str = "upbit") -> Row | None:
    """The newest book: `levels` is `{"bid_prices", "bid_sizes", "ask_prices", "ask_sizes"}`, best level first."""
    sql = "SELECT * FROM book WHERE exchange = :exchange AND market = :market"
    rows = _read_json(_rows(session, sql, exchange=exchange, market=market), "levels")
    return rows[0] if rows else None


def recent_trades(session: Session, market: str, limit: int = 50, exchange: str = "upbit") -> list[Row]:
    """Executions by others, newest first."""
    sql = """SELECT * FROM trade WHERE exchange = :exchange AND market = :market
             ORDER BY exchange_ms DESC, trade_id DESC LIMIT :limit"""
    return _rows(session, sql, exchange=exchange, market=market, limit=limit)


def recent_signals(
    session: Session, market: str, limit: int = 200, horizon_ms: int | None = None, exchange: str = "upbit"
) -> list[Row]:
    """Forecasts, newest first, each with `outcome_mid` and `outcome_bp` once the mid at its horizon's end is known.

    `outcome_bp` is the realised log return of the mid over the horizon in basis points.
    """
    rows = _rows(
        session,
        """SELECT s.*, o.mid AS outcome_mid
           FROM signal s LEFT JOIN mid o
             ON o.exchange = s.exchange AND o.market = s.market AND o.bin_ms = s.bin_ms + s.horizon_ms
           WHERE s.exchange = :exchange AND s.market = :market
             AND (:horizon_ms IS NULL OR s.horizon_ms = :horizon_ms)
           ORDER BY s.bin_ms DESC, s.horizon_ms LIMIT :limit""",
        exchange=exchange, market=market, limit=limit, horizon_ms=horizon_ms,
    )  # fmt: skip
    for row in rows:
        outcome, mid = row["outcome_mid"], row["mid"]
        row["outcome_bp"] = math.log(outcome / mid) * 1e4 if outcome is not None and outcome > 0 and mid > 0 else None
    return rows


def latest_signals(session: Session) -> list[Row]:
    """The newest bin's forecasts of every market."""
    return _rows(
        session,
        """SELECT s.* FROM signal s JOIN (
             SELECT exchange, market, max(bin_ms) AS bin_ms FROM signal GROUP BY exchange, market
           ) USING (exchange, market, bin_ms) ORDER BY s.exchange, s.market, s.horizon_ms""",
    )


def mids(session: Session, market: str, limit: int = 300, exchange: str = "upbit") -> list[Row]:
    """The mid price per bin, oldest first."""
    sql = """SELECT bin_ms, mid FROM mid WHERE exchange = :exchange AND market = :market
             ORDER BY bin_ms DESC LIMIT :limit"""
    return _rows(session, sql, exchange=exchange, market=market, limit=limit)[::-1]


def orders(session: Session, account: str | None = None, limit: int = 100) -> list[Row]:
    """Intents with their state, newest first."""
    sql = """SELECT * FROM order_intent WHERE (:account IS NULL OR account = :account)
             ORDER BY event_ms DESC, changed_ms DESC LIMIT :limit"""
    return _rows(session, sql, account=account, limit=limit)


def fills(session: Session, account: str | None = None, limit: int = 100) -> list[Row]:
    """Fills of ours, newest first."""
    sql = """SELECT * FROM fill WHERE (:account IS NULL OR account = :account)
             ORDER BY event_ms DESC, rowid DESC LIMIT :limit"""
    return _rows(session, sql, account=account, limit=limit)


def positions(session: Session, account: str | None = None) -> list[Row]:
    """What is held, each with the newest `mid` and its unrealised result before the exit's costs (`unrealised`)."""
    return _rows(
        session,
        """SELECT p.*, m.mid, CASE WHEN m.mid IS NOT NULL
                  THEN CAST(p.quantity AS REAL) * m.mid - CAST(p.cost AS REAL) END AS unrealised
           FROM position p LEFT JOIN market m USING (exchange, market)
           WHERE (:account IS NULL OR p.account = :account) ORDER BY p.account, p.market, p.is_dust""",
        account=account,
    )


def money(session: Session) -> list[Row]:
    """All accounts: budget, free, invested, realised (net of fees), the day's forecasts and best, and `balances`."""
    accounts = _rows(session, "SELECT * FROM account ORDER BY account")
    balances = _rows(session, "SELECT * FROM balance ORDER BY pocket, currency")
    for account in accounts:
        account["balances"] = [row for row in balances if row["pocket"] == account["pocket"]]
        account["unrealised"] = sum(row["unrealised"] or 0.0 for row in positions(session, account["account"]))
    return accounts


def reasons(session: Session, day: str | None = None, account: str | None = None) -> list[Row]:
    """Why there was no entry, most frequent first, in words (`english`, `korean`; null for an unknown reason).

    `day` is a KST day, by default the newest one.
    """
    return _rows(
        session,
        """SELECT c.*, t.english, t.korean FROM reason_count c LEFT JOIN reason_text t USING (reason)
           WHERE c.day = coalesce(:day, (SELECT max(day) FROM reason_count))
             AND (:account IS NULL OR c.account = :account)
           ORDER BY c.count DESC, c.reason""",
        day=day, account=account,
    )  # fmt: skip


def vetoes(session: Session, account: str | None = None, limit: int = 100) -> list[Row]:
    """Changes of the reason per market, newest first, with the best forecast and what was needed."""
    sql = """SELECT v.*, t.english, t.korean FROM veto v LEFT JOIN reason_text t USING (reason)
             WHERE (:account IS NULL OR v.account = :account)
             ORDER BY v.event_ms DESC, v."offset" DESC LIMIT :limit"""
    return _rows(session, sql, account=account, limit=limit)


def feed_events(session: Session, limit: int = 50) -> list[Row]:
    """What happened to the sources, newest first."""
    sql = """SELECT * FROM feed_event ORDER BY received_ns DESC, "offset" DESC LIMIT :limit"""
    return _read_json(_rows(session, sql, limit=limit), "markets")


def stages(session: Session) -> list[Row]:
    """Records per topic and when the last one came."""
    return _rows(session, "SELECT * FROM stage ORDER BY topic")


def offsets(session: Session) -> Mapping[tuple[str, int], int]:
    """The next offset to take per topic and partition."""
    rows = _rows(session, "SELECT topic, partition, next FROM input_offset")
    return {(row["topic"], row["partition"]): row["next"] for row in rows}
