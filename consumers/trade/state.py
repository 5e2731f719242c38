"""What the trade fold remembers: the market it saw and, per account, positions, orders, money and the day's refusals.

Written by `consumers.trade.fold`, stored as `AccountState` records by the runner, read by `consumers.views`. Plain data
that msgspec can write and read back without a change; never computes a decision.
"""

from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, DivisionByZero, InvalidOperation, Overflow
from typing import Literal

import msgspec

from streams import messages as m

ZERO = Decimal(0)
MARKET_VIEW = "*"
"""Stands for the account in the snapshot of what all accounts share."""
REFUSED_ALARM = 3
"""Exits refused in a row after which people are told: the first two may be a moment's limit or a price that moved."""

HaltKind = Literal["", "no-new-orders", "sell-all"]
ExitKind = Literal["stop", "time-stop", "expectation", "halt"]


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """What the deployment fixes for the fold; recorded in the run manifest, equal in a replay."""

    stale_feed_ms: int = 10_000
    """A market whose last bin is older than this takes no entries."""
    stale_signal_ms: int = 3_000
    entry_expiry_ms: int = 5_000
    exit_expiry_ms: int = 30_000
    retry_first_ms: int = 1_000
    retry_longest_ms: int = 30_000
    minimum_total: Decimal = Decimal(5000)
    """Smallest order where the exchange has not told a market's own."""
    closed_order_ms: int = 600_000
    """How long a closed order is remembered at least: an event may be told twice, or after its order's end."""
    late_order_ms: int = 7 * 86_400_000 + 3_600_000
    """How long an order that was in doubt is remembered after its end: the executor looks for a late one for seven days
    (`Rules.sweep_for_s`), an hour is for telling it.
    """
    is_warm_up_expected: bool = False
    """Whether nothing may be entered before a `Warmed` record came."""


class Book(msgspec.Struct, kw_only=True, gc=False):
    """The last book of a market, as its features carried it."""

    bin_ms: int
    mid: float | None
    levels: list[float | None]


class Bin(msgspec.Struct, kw_only=True):
    """The signals of one market's newest bin, by horizon, until they are decided on."""

    bin_ms: int
    signals: dict[int, m.Signal] = {}
    is_closed: bool = False


class Facts(msgspec.Struct, kw_only=True, gc=False):
    """What the exchange says of a market."""

    minimum_total: Decimal
    is_suspect: bool


class Shared(msgspec.Struct, kw_only=True):
    """What all accounts see."""

    now_ms: int = 0
    """Market time: the latest of bins and pulses."""
    pulse_ms: int = 0
    warmed_ms: int | None = None
    halt: HaltKind = ""
    books: dict[str, Book] = {}
    bins: dict[str, Bin] = {}
    facts: dict[str, Facts] = {}


class Order(msgspec.Struct, kw_only=True):
    """One intent of ours and what became of it; totals are cumulative, so a repeated event changes nothing."""

    intent_id: str
    exchange: str
    market: str
    side: m.Side
    purpose: m.Purpose
    reserved: Decimal
    """Budget held for an entry: funds and fee."""
    due_ms: int
    horizon_ms: int
    signal_id: str
    event_ms: int
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
    """The open order; empty between two tries."""
    tries: int
    retry_ms: int = 0
    refused: int = 0
    """Tries in a row that sold nothing."""


class Position(msgspec.Struct, kw_only=True):
    """What was bought in one market and not sold yet."""

    exchange: str
    market: str
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


class Day(msgspec.Struct, kw_only=True):
    """One KST day of one account."""

    day: str = ""
    forecasts: int = 0
    entries: int = 0
    exits: int = 0
    refusals: dict[str, int] = {}
    best_expected_bp: float | None = None
    """Expectation of the forecast that came closest to (or went furthest beyond) what a trade needs."""
    best_needed_bp: float | None = None
    best_market: str = ""


class Account(msgspec.Struct, kw_only=True):
    """One account's fold."""

    settings: m.AccountSettings
    is_trading: bool
    halt: HaltKind = ""
    positions: dict[str, Position] = {}
    orders: dict[str, Order] = {}
    rests: dict[str, Rest] = {}
    closed_ms: dict[str, int] = {}
    """When a position or a failed entry last ended, per market: for the cool-down."""
    decided: dict[str, int] = {}
    """The last bin decided on, per market."""
    reasons: dict[str, str] = {}
    """Why there was no entry, last told, per market."""
    realised: Decimal = ZERO
    """Profit and loss of what was sold, net of all fees."""
    paid_fees: Decimal = ZERO
    is_ledger_broken: bool = False
    paused: str = ""
    """Why the executor paused it; empty: it did not. A person ends that."""
    day: Day = msgspec.field(default_factory=Day)

    @property
    def invested(self) -> Decimal:
        """Cost of all that is held, dust included."""
        held = sum((position.cost for position in self.positions.values()), ZERO)
        return held + sum((rest.cost for rest in self.rests.values()), ZERO)

    @property
    def reserved(self) -> Decimal:
        """Budget held for open entries."""
        return sum((order.held for order in self.orders.values()), ZERO)

    @property
    def free(self) -> Decimal:
        """What the next entry may use."""
        return self.settings.budget + self.realised - self.invested - self.reserved

    def open_order(self, exchange: str, market: str, side: m.Side) -> Order | None:
        """The open order of a market and side."""
        for order in self.orders.values():
            if order.is_open and (order.market, order.exchange, order.side) == (market, exchange, side):
                return order
        return None

    def prune(self, now_ms: int, parameters: Parameters) -> None:
        """Forget closed orders that no position needs and nothing can be told of any more at this market time."""
        needed = {position.entry_intent for position in self.positions.values()}
        for name, order in list(self.orders.items()):
            kept_ms = parameters.late_order_ms if order.was_in_doubt else parameters.closed_order_ms
            if not order.is_open and name not in needed and now_ms - order.ended_ms > kept_ms:
                del self.orders[name]


class State(msgspec.Struct, kw_only=True):
    """All that one trade process remembers."""

    shared: Shared = msgspec.field(default_factory=Shared)
    accounts: dict[str, Account] = {}


_encoder = msgspec.json.Encoder(decimal_format="string")
_accounts = msgspec.json.Decoder(Account)
_shared = msgspec.json.Decoder(Shared)


def encode(part: Account | Shared | State) -> bytes:
    """Write a part of the state. Dictionaries keep their order, which is part of it (the oldest order goes first)."""
    return _encoder.encode(part)


def decode_account(data: bytes | msgspec.Raw) -> Account:
    """Read one account back; raises `msgspec.DecodeError`."""
    return _accounts.decode(bytes(data))


def decode_shared(data: bytes | msgspec.Raw) -> Shared:
    """Read the shared part back; raises `msgspec.DecodeError`."""
    return _shared.decode(bytes(data))


def money_context() -> Context:
    """The decimal context of all money in trade: 28 digits, half to even, errors raised."""
    return Context(prec=28, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, DivisionByZero, Overflow])


def day_of(event_ms: int) -> str:
    """The KST day of a market time, `2026-11-21`."""
    return (datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=event_ms, hours=9)).date().isoformat()
