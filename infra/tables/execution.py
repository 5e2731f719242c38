"""Owner: consumers/execute. The tables of the order executor's own database (`db/execution.sqlite`).

`consumers.execute.journal` creates them and is their only writer; others may read. Decimals are stored as text, times
as integer milliseconds, messages as the JSON bytes that go to the log.
"""

from typing import ClassVar

from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel


class ExecutionTable(SQLModel, registry=registry()):
    """Base with metadata of its own: this database shares no table with any other."""


class IntentTable(ExecutionTable, table=True):
    """One decision to order; `intent_id` as primary key is where duplicate deliveries end.

    `state` is one of NEW, SENDING, UNKNOWN, RETRY (a new attempt is allowed and due), ACKED (at the exchange, open),
    DONE, CANCELLED, REJECTED, EXPIRED, LOST (accepted, then not known to the exchange: its account takes no entries).
    """

    __tablename__: ClassVar[str] = "intent"
    intent_id: str = Field(primary_key=True)
    account: str
    pocket: str
    market: str
    purpose: str
    payload: bytes
    state: str = Field(index=True)
    attempt: int = 0
    uuid: str = ""
    topic: str
    partition: int
    offset: int
    append_ms: int
    expires_at: int


class AttemptTable(ExecutionTable, table=True):
    """One identifier that may have reached the exchange, written before it is sent.

    `state` is one of SENDING, UNKNOWN, ACKED, DONE, CANCELLED, REJECTED, ABSENT (looked for and not found),
    LOST.
    `burn` is what is known of the identifier: empty, REFUSED (a must-be-refused order went out with it), BURNED (it
    can never be accepted any more) or KEPT (the exchange does not burn).
    """

    __tablename__: ClassVar[str] = "attempt"
    identifier: str = Field(primary_key=True)
    intent_id: str = Field(index=True)
    number: int
    state: str = Field(index=True)
    burn: str = ""
    uuid: str = ""
    executed_quantity: str = "0"
    executed_funds: str = "0"
    paid_fee: str = "0"
    changed_ms: int = 0


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


class CancelTable(ExecutionTable, table=True):
    """One decision to cancel what is left of an order; `state` is NEW or DONE."""

    __tablename__: ClassVar[str] = "cancel"
    cancel_id: str = Field(primary_key=True)
    intent_id: str = Field(index=True)
    payload: bytes
    state: str = Field(index=True)


class OutboxTable(ExecutionTable, table=True):
    """Events written in the same transaction as the change they tell of; a relay publishes them in order."""

    __tablename__: ClassVar[str] = "outbox"
    seq: int | None = Field(default=None, primary_key=True)
    topic: str
    key: str
    payload: bytes
    published_at: int | None = Field(default=None, index=True)


class HaltTable(ExecutionTable, table=True):
    """The executor's own copy of the kill switches; account `*` means all."""

    __tablename__: ClassVar[str] = "halts"
    account: str = Field(primary_key=True)
    kind: str
    event_ms: int
    by: str


class CursorTable(ExecutionTable, table=True):
    """Next offset to read of a topic that is read whole (`controls`), so that an old `lifted` is not applied twice."""

    __tablename__: ClassVar[str] = "cursor"
    slot: str = Field(primary_key=True)
    next_offset: int


class ExternalTable(ExecutionTable, table=True):
    """Open orders at the exchange that no intent of ours explains: shown, never touched."""

    __tablename__: ClassVar[str] = "external"
    uuid: str = Field(primary_key=True)
    identifier: str
    market: str
    seen_ms: int
