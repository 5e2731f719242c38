"""Owner: consumers/views. The tables behind the pages (`db/views.sqlite`); `infra.tables.view_questions` reads them.

Everything here is a copy of the log: delete the file and it is built again. `consumers.views` is the only writer.
Money stands as decimal text, time as integer milliseconds, lists as JSON text.
"""

import sqlite3
import time
from pathlib import Path
from typing import ClassVar

from sqlalchemy import Connection, Engine, Index, event, inspect
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.orm import registry
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlmodel import Field, SQLModel, create_engine

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
    paused: str
    """Why the executor stopped its entries; empty: it did not."""
    day: str
    forecasts: int
    entries: int
    exits: int
    best_expected_bp: float | None
    best_needed_bp: float | None
    best_market: str
    shadow_trades: int
    """What the older rule would have bought and sold again."""
    shadow_result: str
    event_ms: int


class PositionTable(ViewTable, table=True):
    """What an account holds; `is_dust` marks a rest that is too small to be sold alone."""

    __tablename__: ClassVar[str] = "position"
    account: str = Field(primary_key=True)
    exchange: str = Field(primary_key=True)
    market: str = Field(primary_key=True)
    strategy: str = Field(primary_key=True)
    """Empty: the account's only one."""
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
        if _is_older(connection):
            ViewTable.metadata.drop_all(connection)
        for table in ViewTable.metadata.sorted_tables:
            connection.execute(CreateTable(table, if_not_exists=True))
            for index in table.indexes:
                connection.execute(CreateIndex(index, if_not_exists=True))
    return engine


def _is_older(connection: Connection) -> bool:
    """Whether another version made a table with other columns: then all is built again from the log."""
    found = inspect(connection)
    return any(
        {column["name"] for column in found.get_columns(table.name)} != set(table.columns.keys())
        for table in ViewTable.metadata.sorted_tables
        if found.has_table(table.name)
    )


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
