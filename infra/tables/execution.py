"""Owner: consumers/execute. The tables of the order executor's own database (SQLite file or PostgreSQL).

`consumers.execute.journal` creates them and is their only writer; others may read. Decimals are stored as text, times
as integer milliseconds, messages as the JSON bytes that go to the log. `seq` counts the rows of a table in the order
they came, because PostgreSQL keeps none.
"""

from typing import Any, ClassVar

from sqlalchemy import BigInteger, Index, Integer
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

BIG: Any = BigInteger().with_variant(Integer(), "sqlite")
"""Milliseconds do not fit into PostgreSQL's plain integer; SQLite counts rows by its plain one only."""


class ExecutionTable(SQLModel, registry=registry()):
    """Base with metadata of its own: this database shares no table with any other.

    A column that is added later needs a default: rows of an older database get it.
    """


class IntentTable(ExecutionTable, table=True):
    """One decision to order; `intent_id` as primary key is where duplicate deliveries end.

    `state` is one of NEW, SENDING, UNKNOWN, RETRY (a new attempt is allowed and due), ACKED (at the exchange, open),
    DONE, CANCELLED, REJECTED, EXPIRED, LOST (accepted, then not known to the exchange: its account takes no entries).
    """

    __tablename__: ClassVar[str] = "intent"
    __table_args__: ClassVar[tuple[Any, ...]] = (
        Index("intent_of_account", "account", "market", "state"),
        Index("intent_of_pocket", "account", "market", "pocket"),
        Index("intent_of_day", "account", "append_ms"),
    )
    intent_id: str = Field(primary_key=True)
    seq: int = Field(default=0, sa_type=BIG, index=True)
    account: str
    pocket: str
    market: str
    purpose: str
    side: str = ""
    strategy: str = ""
    payload: bytes
    state: str = Field(index=True)
    attempt: int = 0
    uuid: str = ""
    refusal: str = ""
    """Name of what it was refused for, by the exchange or by our own checks."""
    topic: str
    partition: int
    offset: int = Field(sa_type=BIG)
    append_ms: int = Field(sa_type=BIG)
    expires_at: int = Field(sa_type=BIG)


class AttemptTable(ExecutionTable, table=True):
    """One identifier that may have reached the exchange, written before it is sent.

    `state` is one of SENDING, UNKNOWN, ACKED, DONE, CANCELLED, REJECTED, ABSENT (looked for and not found),
    LOST.
    `burn` is what is known of the identifier: empty, REFUSED (a must-be-refused order went out with it), BURNED (it
    can never be accepted any more) or KEPT (the exchange does not burn). `epoch` is the sender's, 0 under a file lock.
    """

    __tablename__: ClassVar[str] = "attempt"
    __table_args__: ClassVar[tuple[Any, ...]] = (Index("attempt_of_pocket", "pocket", "state"),)
    identifier: str = Field(primary_key=True)
    seq: int = Field(default=0, sa_type=BIG, index=True)
    pocket: str = ""
    epoch: int = 0
    intent_id: str = Field(index=True)
    number: int
    state: str = Field(index=True)
    burn: str = ""
    uuid: str = ""
    executed_quantity: str = "0"
    executed_funds: str = "0"
    paid_fee: str = "0"
    changed_ms: int = Field(default=0, sa_type=BIG)


class FillTable(ExecutionTable, table=True):
    """One execution of ours; the exchange's trade id in the primary key makes a second report of it harmless.

    The order's id stands in the key too: a trade between two orders of ours belongs to both.
    """

    __tablename__: ClassVar[str] = "fills"
    fill_id: str = Field(primary_key=True)
    uuid: str = Field(primary_key=True)
    intent_id: str = Field(index=True)
    price: str
    quantity: str
    funds: str
    fee: str


class HeldTable(ExecutionTable, table=True):
    """What an account's strategy bought and sold of a market here, the sums of its fills: no more is ever sold."""

    __tablename__: ClassVar[str] = "held"
    account: str = Field(primary_key=True)
    strategy: str = Field(primary_key=True)
    market: str = Field(primary_key=True)
    bought: str = "0"
    sold: str = "0"
    spent: str = "0"
    """Paid for what was bought, fees included."""
    earned: str = "0"
    """Got for what was sold, fees taken off."""


class CancelTable(ExecutionTable, table=True):
    """One decision to cancel what is left of an order; `state` is NEW or DONE."""

    __tablename__: ClassVar[str] = "cancel"
    cancel_id: str = Field(primary_key=True)
    seq: int = Field(default=0, sa_type=BIG)
    intent_id: str = Field(index=True)
    payload: bytes
    state: str = Field(index=True)


class OutboxTable(ExecutionTable, table=True):
    """Events written in the same transaction as the change they tell of; a relay publishes them in order."""

    __tablename__: ClassVar[str] = "outbox"
    seq: int | None = Field(default=None, primary_key=True, sa_type=BIG)
    topic: str
    key: str
    payload: bytes
    published_at: int | None = Field(default=None, index=True, sa_type=BIG)


class HaltTable(ExecutionTable, table=True):
    """The executor's own copy of the kill switches: the newest of each account, `lifted` ones too; `*` means all."""

    __tablename__: ClassVar[str] = "halts"
    account: str = Field(primary_key=True)
    kind: str
    event_ms: int = Field(sa_type=BIG)
    by: str


class HaltSeenTable(ExecutionTable, table=True):
    """Every kill switch, or end of one, that was read: the same one comes by file and by the log."""

    __tablename__: ClassVar[str] = "halt_seen"
    id: str = Field(primary_key=True)


class CursorTable(ExecutionTable, table=True):
    """Next offset to read of a topic that is read whole (`controls`), so that an old `lifted` is not applied twice."""

    __tablename__: ClassVar[str] = "cursor"
    slot: str = Field(primary_key=True)
    next_offset: int = Field(sa_type=BIG)


class ExternalTable(ExecutionTable, table=True):
    """Open orders at the exchange that no intent of ours explains: shown, never touched."""

    __tablename__: ClassVar[str] = "external"
    uuid: str = Field(primary_key=True)
    identifier: str
    market: str
    seen_ms: int = Field(sa_type=BIG)


class LeaseTable(ExecutionTable, table=True):
    """Who may write (PostgreSQL only): `epoch` grows with each holder, `renewed_ms` is the database's own clock."""

    __tablename__: ClassVar[str] = "lease"
    name: str = Field(primary_key=True)
    epoch: int
    renewed_ms: int = Field(sa_type=BIG)


class PausedTable(ExecutionTable, table=True):
    """Accounts that take no entries since somebody else's hand was seen in them, until a person resumes them."""

    __tablename__: ClassVar[str] = "paused"
    account: str = Field(primary_key=True)
    reason: str
    text: str
    event_ms: int = Field(sa_type=BIG)


class ForeignCoinTable(ExecutionTable, table=True):
    """Coins of a pocket that no account of ours bought: shown, never touched."""

    __tablename__: ClassVar[str] = "foreign_coin"
    pocket: str = Field(primary_key=True)
    currency: str = Field(primary_key=True)
    quantity: str
    seen_ms: int = Field(sa_type=BIG)


class AccountTable(ExecutionTable, table=True):
    """The newest settings of each account, as the JSON that stood in `controls`: for the executor's own limits."""

    __tablename__: ClassVar[str] = "account"
    account: str = Field(primary_key=True)
    payload: bytes


class EquityTable(ExecutionTable, table=True):
    """Profit of an account as the executor knows it: when the day began, and the highest ever seen."""

    __tablename__: ClassVar[str] = "equity"
    account: str = Field(primary_key=True)
    day: str
    start: str
    peak: str


class RequestTable(ExecutionTable, table=True):
    """One request of a person; `request_id` as primary key is where duplicate deliveries end.

    `payload` is the `OrderRequested` as it stands now, `number` and `next_ms` its next time, `fired` how many orders it
    has fired. `state` is waiting, fired (the last order is under way), done, cancelled, refused or missed. Topic,
    partition and offset are those of the record that brought it.
    """

    __tablename__: ClassVar[str] = "request"
    request_id: str = Field(primary_key=True)
    account: str
    pocket: str
    payload: bytes
    state: str = Field(index=True)
    number: int
    next_ms: int = Field(sa_type=BIG)
    fired: int
    record_partition: int
    record_offset: int = Field(sa_type=BIG)


class FiringTable(ExecutionTable, table=True):
    """One time that a request fired, written in one transaction with its count and its first order.

    `payload` is the request as it was then; `legs` counts its orders, whose ids follow from it; `levels` is the other
    side of the book at that moment, JSON; `state` is OPEN or ENDED.
    """

    __tablename__: ClassVar[str] = "firing"
    request_id: str = Field(primary_key=True)
    number: int = Field(primary_key=True)
    payload: bytes
    state: str = Field(index=True)
    due_ms: int = Field(sa_type=BIG)
    fired_ms: int = Field(sa_type=BIG)
    legs: int
    is_control: int
    is_cancelled: int
    levels: str
