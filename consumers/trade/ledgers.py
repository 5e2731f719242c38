"""What one account's ledgers hold: orders, positions, dust, and what a person's own orders bought. Plain data.

Written by `consumers.trade.positions`, `exits` and `resting`; part of the account in `consumers.trade.state`.
"""

from decimal import Decimal
from typing import Literal

import msgspec

from streams import messages as m

ZERO = Decimal(0)
REFUSED_ALARM = 3
"""Exits refused in a row after which people are told: the first two may be a moment's limit or a price that moved."""

ExitKind = Literal["stop", "take-profit", "trailing", "time-stop", "expectation", "stale", "halt", "delisting"]


def ledger_key(strategy: str, market: str) -> str:
    """Key of a strategy's ledger of a market (`m.key_of`); of the only strategy it is the market's own."""
    return f"{strategy}|{market}" if strategy else market


def market_of(ledger: str) -> str:
    """The market's key of a ledger's key."""
    return ledger.rpartition("|")[2]


class Order(msgspec.Struct, kw_only=True):
    """One intent of ours and what became of it; totals are cumulative, so a repeated event changes nothing."""

    intent_id: str
    exchange: str
    market: str
    side: m.Side
    purpose: m.Purpose
    strategy: str = ""
    """Whose ledger it belongs to."""
    reserved: Decimal
    """Budget held for an entry: funds and fee."""
    due_ms: int
    horizon_ms: int
    signal_id: str
    event_ms: int
    price: Decimal | None = None
    """Limit price; none: it takes what the book gives."""
    state: Literal["new", "sent", "accepted", "unknown", "filled", "cancelled", "rejected", "expired"] = "new"
    executed_quantity: Decimal = ZERO
    executed_funds: Decimal = ZERO
    paid_fee: Decimal = ZERO
    exits: int = 0
    """Exit intents made so far for what this entry bought."""
    was_in_doubt: bool = False
    """Whether its outcome was ever unknown: it can appear late."""
    is_lost: bool = False
    """Whether the exchange has forgotten it; it stays open until a person accepts the exchange's ledger."""
    ended_ms: int = 0
    """Market time at which it was closed."""

    @property
    def ledger(self) -> str:
        """Key of the ledger that it belongs to."""
        return ledger_key(self.strategy, m.key_of(self.exchange, self.market))

    @property
    def is_open(self) -> bool:
        """Whether it can still be filled as far as we know."""
        return self.state in {"new", "sent", "accepted", "unknown"}

    @property
    def held(self) -> Decimal:
        """Budget still held for it."""
        if not self.is_open or self.side != "buy":
            return ZERO
        return max(self.reserved - self.executed_funds - self.paid_fee, ZERO)


class Exit(msgspec.Struct, kw_only=True):
    """A position on its way out."""

    kind: ExitKind
    base: str
    """The cause: the entry's intent or, for an expectation, the signal."""
    intent_id: str
    """The open order; empty between two tries, and while a resting order is being cancelled."""
    tries: int
    """Sales tried; 0 while the first one waits for the end of a resting order."""
    retry_ms: int = 0
    refused: int = 0
    """Tries in a row that sold nothing."""


class Position(msgspec.Struct, kw_only=True):
    """What was bought in one market and not sold yet."""

    exchange: str
    market: str
    strategy: str = ""
    entry_intent: str
    opened_ms: int
    due_ms: int
    horizon_ms: int
    quantity: Decimal = ZERO
    funds: Decimal = ZERO
    """Paid for the quantity held, without fees."""
    cost: Decimal = ZERO
    """Paid for the quantity held, fees included."""
    bought: Decimal = ZERO
    sold: Decimal = ZERO
    exit: Exit | None = None
    high_bid: Decimal | None = None
    """Highest best bid of the books since it was opened: what a trailing stop hangs from."""
    resting: str = ""
    """The open limit sell of its take profit."""
    is_cancelling: bool = False
    """Whether the cancellation of the resting order was asked for; nothing is sold before its end is told."""
    resting_tries: int = 0
    """Resting orders in a row that ended without a fill."""
    resting_retry_ms: int = 0
    is_stale_told: bool = False
    """Whether people were told that its market data are too old."""

    @property
    def is_stuck(self) -> bool:
        """Whether its exit was refused so often that a person must look; it is tried further all the same."""
        return self.exit is not None and self.exit.refused >= REFUSED_ALARM

    @property
    def average_price(self) -> Decimal:
        """Paid per unit, without fees."""
        return self.funds / self.quantity


class Rest(msgspec.Struct, kw_only=True):
    """Dust: a rest below the exchange's minimum; it is sold together with the next position in its market."""

    quantity: Decimal
    funds: Decimal
    cost: Decimal


class ManualOrder(msgspec.Struct, kw_only=True):
    """What an order that a person placed has executed so far; its intent never came by here."""

    executed_quantity: Decimal = ZERO
    executed_funds: Decimal = ZERO
    paid_fee: Decimal = ZERO
    told_ms: int = 0
    """Market time at which something was told of it last."""
    is_ended: bool = False


class Manual(msgspec.Struct, kw_only=True):
    """What a person's own orders bought in one market and have not sold: exposure, in no strategy's ledger."""

    quantity: Decimal = ZERO
    cost: Decimal = ZERO
