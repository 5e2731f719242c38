"""What the trade fold remembers: the market it saw and, per account, positions, orders, money and the day's refusals.

Written by `consumers.trade.fold`, stored as `AccountState` records by the runner, read by `consumers.views`. Plain data
that msgspec can write and read back without a change; never computes a decision.
"""

from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, DivisionByZero, InvalidOperation, Overflow
from functools import lru_cache
from typing import Literal

import msgspec

from consumers.trade.ledgers import ZERO, Manual, ManualOrder, Order, Position, Rest, market_of
from streams import messages as m

MARKET_VIEW = "*"
"""Stands for the account in the snapshot of what all accounts share."""

HaltKind = Literal["", "no-new-orders", "sell-all"]


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
    capacity_percent: Decimal = Decimal(20)
    """Entries of all accounts of this process in one market and bin, of the worth of the best five asks."""
    turn_accounts: int = 10
    """With more accounts than this they take turns in a market."""
    turn_ms: int = 1_000
    longest_turns: int = 5
    is_warm_up_expected: bool = False
    """Whether nothing may be entered before a `Warmed` record came."""


class Book(msgspec.Struct, kw_only=True, gc=False):
    """The last book of a market, as its features carried it."""

    bin_ms: int
    mid: float | None
    levels: list[float | None]


def book_of(quote: m.Quote) -> Book:
    """A book over REST, in the form of a feature row's."""
    sides = (quote.bid_prices, quote.bid_sizes, quote.ask_prices, quote.ask_sizes)
    levels = [one for side in sides for one in ([*side, None, None, None, None, None])[:5]]
    is_whole = bool(quote.bid_prices and quote.ask_prices)
    mid = (quote.bid_prices[0] + quote.ask_prices[0]) / 2 if is_whole else None
    return Book(bin_ms=quote.event_ms, mid=mid, levels=levels)


class Bin(msgspec.Struct, kw_only=True):
    """The signals of one market's newest bin, by horizon, until they are decided on."""

    bin_ms: int
    signals: dict[int, m.Signal] = {}
    is_closed: bool = False


class Facts(msgspec.Struct, kw_only=True, gc=False):
    """What the exchange says of a market."""

    minimum_total: Decimal
    is_suspect: bool
    tick_size: Decimal | None = None
    """At the price of the time it was told; null in states from before it was kept."""
    maximum_total: Decimal | None = None
    is_delisted: bool = False
    delisting_ms: int | None = None


class Turnover(msgspec.Struct, kw_only=True, gc=False):
    """What traded in a market lately, quote currency: the newest ten-second stretch first, six of them at most."""

    newest: int
    """Number of the newest stretch since the epoch."""
    sums: list[float]


class Shared(msgspec.Struct, kw_only=True):
    """What all accounts see."""

    now_ms: int = 0
    """Market time: the latest of bins and pulses."""
    pulse_ms: int = 0
    warmed_ms: int | None = None
    halt: HaltKind = ""
    books: dict[str, Book] = {}
    quotes: dict[str, Book] = {}
    """Books over REST that are newer than the feed's."""
    bins: dict[str, Bin] = {}
    facts: dict[str, Facts] = {}
    turnovers: dict[str, Turnover] = {}


class ShadowTrade(msgspec.Struct, kw_only=True, gc=False):
    """A position that the older rule would have."""

    quantity: float
    cost: float
    """Funds and fee."""
    due_ms: int


class Shadow(msgspec.Struct, kw_only=True):
    """What the older rule would have done with the account's forecasts."""

    trades: int = 0
    """Bought and sold again."""
    result: Decimal = ZERO
    """Their profit and loss, both fees taken off."""
    open: dict[str, ShadowTrade] = {}
    """By market."""


class Day(msgspec.Struct, kw_only=True):
    """One KST day of one account."""

    day: str = ""
    forecasts: int = 0
    entries: int = 0
    exits: int = 0
    orders: int = 0
    """Orders asked for, exits among them."""
    cancels: int = 0
    """Of those: orders that ended cancelled."""
    start: Decimal | None = None
    """Profit, realised and not, when the day began."""
    refusals: dict[str, int] = {}
    best_expected_bp: float | None = None
    """Expectation of the forecast that came closest to (or went furthest beyond) what a trade needs."""
    best_needed_bp: float | None = None
    best_market: str = ""


class Account(msgspec.Struct, kw_only=True):
    """One account's fold. `positions`, `rests`, `closed_ms` and `reasons` go by `ledger_key`."""

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
    peak: Decimal | None = None
    """Highest profit, realised and not, ever seen: what a drawdown is measured from."""
    shadow: Shadow = msgspec.field(default_factory=Shadow)
    manual: dict[str, Manual] = {}
    """By market."""
    manual_orders: dict[str, ManualOrder] = {}

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

    def exposure(self, market: str = "") -> Decimal:
        """Cost of what is held and of open entries, a person's own included; of one market (`m.key_of`) or of all."""
        held: list[Position | Rest] = [one for key, one in self.positions.items() if _is_of(key, market)]
        held += [rest for key, rest in self.rests.items() if _is_of(key, market)]
        mine = sum((one.cost for one in held), ZERO)
        manual = sum((one.cost for key, one in self.manual.items() if not market or key == market), ZERO)
        orders = (one for one in self.orders.values() if not market or m.key_of(one.exchange, one.market) == market)
        return mine + manual + sum((order.held for order in orders), ZERO)

    def prune(self, now_ms: int, parameters: Parameters) -> None:
        """Forget closed orders that no position needs and nothing can be told of any more at this market time."""
        needed = {position.entry_intent for position in self.positions.values()}
        for name, order in list(self.orders.items()):
            kept_ms = parameters.late_order_ms if order.was_in_doubt else parameters.closed_order_ms
            is_old = not order.is_open and name not in needed and now_ms - order.ended_ms > kept_ms
            is_sale = order.side == "sell" and order.executed_quantity > 0  # of a position: a repetition is known by it
            if is_old and not (is_sale and order.ledger in self.positions):
                del self.orders[name]
        for name, manual in list(self.manual_orders.items()):
            kept_ms = parameters.closed_order_ms if manual.is_ended else parameters.late_order_ms
            if now_ms - manual.told_ms > kept_ms:
                del self.manual_orders[name]


class State(msgspec.Struct, kw_only=True):
    """All that one trade process remembers."""

    shared: Shared = msgspec.field(default_factory=Shared)
    accounts: dict[str, Account] = {}


def _is_of(ledger: str, market: str) -> bool:
    return not market or market_of(ledger) == market


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
    return _name_of_day((event_ms + 9 * 3_600_000) // 86_400_000)


@lru_cache(maxsize=8)
def _name_of_day(number: int) -> str:
    return (datetime.fromtimestamp(0, UTC) + timedelta(days=number)).date().isoformat()
