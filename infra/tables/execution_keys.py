"""Owner: consumers/execute. Exchange keys and armed accounts, in the order executor's own database.

`consumers.execute.keys_store` is their only writer. A key stands here sealed, as it came or sealed anew for a newer key
pair, and is erased when it is not used any more; its row stays, so that the same box is known when it comes again.
"""

from typing import ClassVar

from sqlmodel import Field

from infra.tables.execution import BIG, ExecutionTable


class KeyTable(ExecutionTable, table=True):
    """One deposited key; `state` is one of waiting (not checked yet), taken, blocked (not accepted any more, for
    now), replaced, removed, refused.
    """

    __tablename__: ClassVar[str] = "exchange_key"
    box_id: str = Field(primary_key=True)
    account: str
    pocket: str = Field(index=True)
    key_id: str
    state: str = Field(index=True)
    reason: str = ""
    """A word of `consumers.execute.keys_words`; empty for none."""
    sealed: str = ""
    public_key_id: str = ""
    access_key: str = ""
    """Masked: no part that anybody could use."""
    expires_ms: int | None = Field(default=None, sa_type=BIG)
    deposited_ms: int = Field(default=0, sa_type=BIG)
    checked_ms: int = Field(default=0, sa_type=BIG)
    warned_days: int | None = None
    """The nearest warning before its end that was told."""


class ArmedTable(ExecutionTable, table=True):
    """Accounts that a person on this host has armed for real money; `mark` can be made with the private key alone."""

    __tablename__: ClassVar[str] = "armed"
    account: str = Field(primary_key=True)
    armed_ms: int = Field(sa_type=BIG)
    by: str
    mark: str


class VenueTable(ExecutionTable, table=True):
    """Where an account trades, by its newest settings: kept, because a restart does not read them again."""

    __tablename__: ClassVar[str] = "venue"
    account: str = Field(primary_key=True)
    venue: str
