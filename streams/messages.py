"""The language of the log: every message, its stable tag, its codec, its hashed fields and its content id.

Everything that crosses a topic is one of these frozen structs, written as JSON. `docs/messages.md` lists them and a
test holds that page against this file. Pure: no I/O, no clock, no settings.

Money and order quantities are decimal strings on the wire and `Decimal` here; market data is float64; time is an
integer whose unit stands in its name. A missing number is `None` (`null`), never NaN. Readers ignore unknown fields.
"""

import base64
import hashlib
import struct
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, ClassVar, Literal

import msgspec

Side = Literal["buy", "sell"]
Purpose = Literal["entry", "exit", "protective-exit", "manual"]
"""`manual` is a person's own order: treated like an entry where it is in doubt, never as one of a strategy."""
Feed = Literal["synthetic", "recording", "upbit"]


class Message(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="type"):
    """What every message is; `hashed` names the fields that a replay must reproduce, in order."""

    hashed: ClassVar[tuple[str, ...]] = ()


# --- market data ------------------------------------------------------------------------------------------------


class OrderBook(Message, frozen=True, kw_only=True, gc=False, tag="order-book"):
    """The whole visible book of a market, best level first; padded (zero-price) levels are cut.

    The four lists are flat: `bid_prices[i]` belongs to `bid_sizes[i]`; both sides may differ in length.
    """

    hashed: ClassVar[tuple[str, ...]] = (
        "exchange", "market", "exchange_ms", "bid_prices", "bid_sizes", "ask_prices", "ask_sizes",
    )  # fmt: skip
    exchange: str
    market: str
    source: str
    session: int
    exchange_ms: int
    received_ns: int
    bid_prices: list[float]
    bid_sizes: list[float]
    ask_prices: list[float]
    ask_sizes: list[float]


class Trade(Message, frozen=True, kw_only=True, gc=False, tag="trade"):
    """One execution by others. `exchange_ms` is the message's time (the event time), `trade_ms` the match's."""

    hashed: ClassVar[tuple[str, ...]] = ("exchange", "market", "exchange_ms", "trade_id", "price", "size", "is_buy")
    exchange: str
    market: str
    source: str
    session: int
    exchange_ms: int
    trade_ms: int
    received_ns: int
    trade_id: int
    price: float
    size: float
    is_buy: bool
    """Whether the taker bought."""
    origin: Literal["stream", "backfill"] = "stream"


class Heartbeat(Message, frozen=True, kw_only=True, gc=False, tag="heartbeat"):
    """The promise of a source's session for one partition: everything before `event_ms` has been written.

    Bins that end at or before `event_ms` are closed by it; they are complete where they start at or after
    `complete_from_ms`. `count` is the number of data records (books or trades, back-filled ones included) that the
    session has written to this partition before this heartbeat; `markets` are the session's markets in this partition.
    """

    hashed: ClassVar[tuple[str, ...]] = ("source", "session", "count", "event_ms", "complete_from_ms", "markets")
    exchange: str
    source: str
    session: int
    count: int
    event_ms: int
    complete_from_ms: int
    markets: list[str]


class Hole(Message, frozen=True, kw_only=True, gc=False, tag="hole"):
    """Data that is known to be missing in this partition: [`from_ms`, `to_ms`) of the session's `markets` here."""

    hashed: ClassVar[tuple[str, ...]] = ("source", "session", "from_ms", "to_ms", "markets", "reason")
    exchange: str
    source: str
    session: int
    from_ms: int
    to_ms: int
    markets: list[str]
    reason: str


class FeedEvent(Message, frozen=True, kw_only=True, gc=False, tag="feed-event"):
    """A copy for people of what happened to a source; nothing is computed from it."""

    exchange: str
    source: str
    session: int
    kind: Literal[
        "connected",
        "disconnected",
        "hole",
        "stale",
        "recovered",
        "refused",
        "ended",
        "warm",
        "checked",
        "check-failed",
    ]
    event_ms: int
    received_ns: int
    text: str
    markets: list[str] = []


class Market(Message, frozen=True, kw_only=True, gc=False, tag="market"):
    """What the exchange says of a market: tick size at the current price, smallest and largest order total."""

    exchange: str
    market: str
    event_ms: int
    tick_size: Decimal
    minimum_total: Decimal
    maximum_total: Decimal
    is_caution: bool = False
    is_warning: bool = False
    is_delisted: bool = False
    """Whether the exchange lists it no longer."""
    delisting_ms: int | None = None
    """The day, 00:00 in Korea, that the exchange has named as the end of its trading; null: it has named none."""
    korean_name: str = ""
    english_name: str = ""


class Quote(Message, frozen=True, kw_only=True, gc=False, tag="quote"):
    """The best five levels of a market's book, asked for over REST because the stream brings nothing.

    Open positions are watched by it and nothing else: it never enters features, and no entry is decided on it.
    """

    hashed: ClassVar[tuple[str, ...]] = (
        "exchange", "market", "event_ms", "exchange_ms", "bid_prices", "bid_sizes", "ask_prices", "ask_sizes",
    )  # fmt: skip
    exchange: str
    market: str
    source: str
    event_ms: int
    """The exchange's time at which it was asked for, as estimated: the book was true then."""
    exchange_ms: int
    """When the book changed last."""
    received_ns: int
    bid_prices: list[float]
    bid_sizes: list[float]
    ask_prices: list[float]
    ask_sizes: list[float]


# --- features and signals -----------------------------------------------------------------------------------------


class Features(Message, frozen=True, kw_only=True, gc=False, tag="features"):
    """The feature vector of one market at the end of one bin.

    `values` follow `streams.market.features` (the order of schema `schema`); `mid` and `spread` travel beside the
    vector in quote currency; `levels` are the best five levels of the last book in the run, flat: 5 bid prices, 5 bid
    sizes, 5 ask prices, 5 ask sizes, shorter sides filled with `None`. `accumulators` are the closed bin's own sums,
    from which a restart rebuilds the run. `n_bins` is the length of the run of complete bins, at most W.
    """

    hashed: ClassVar[tuple[str, ...]] = (
        "exchange", "market", "bin_ms", "grid_ms", "schema", "source", "session", "n_bins", "n_books", "n_trades",
        "mid", "spread", "values", "levels", "accumulators",
    )  # fmt: skip
    exchange: str
    market: str
    bin_ms: int
    """End of the bin, exclusive."""
    grid_ms: int
    schema: str
    source: str
    session: int
    n_bins: int
    n_books: int
    n_trades: int
    mid: float | None
    spread: float | None
    values: list[float | None]
    levels: list[float | None]
    accumulators: list[float | None]
    received_ns: int = 0
    """Receive time of the last record in the bin: for latency, not hashed."""


class Signal(Message, frozen=True, kw_only=True, gc=False, tag="signal"):
    """What a model says of one market over one horizon; free of any user's settings."""

    hashed: ClassVar[tuple[str, ...]] = (
        "id", "exchange", "market", "bin_ms", "horizon_ms", "schema", "model_id", "expected_bp", "sigma_bp", "mid",
        "is_licensed", "feed",
    )  # fmt: skip
    id: str
    exchange: str
    market: str
    bin_ms: int
    horizon_ms: int
    schema: str
    model_id: str
    expected_bp: float
    """Expected log return of the mid price over the horizon, basis points."""
    sigma_bp: float
    """Standard deviation of that return that the model expects, basis points."""
    mid: float
    is_licensed: bool
    """Whether this horizon of this model may size an order on this feed."""
    feed: Feed
    refusal: str = ""
    """Why it is not licensed, one of the words of `docs/messages.md`; empty when it is."""


# --- people's will ------------------------------------------------------------------------------------------------


class ExitRules(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How a position ends besides its stop loss and its horizon; null: that rule is not used."""

    take_profit_percent: Decimal | None = None
    """Above the average price."""
    is_take_profit_resting: bool = False
    """Whether the take profit rests at the exchange as a limit order."""
    trailing_percent: Decimal | None = None
    """Below the highest best bid since the position was opened."""
    time_stop_ms: int | None = None
    """Longest life in market time; null: the signal's horizon."""
    on_stale: Literal["hold", "rest", "sell"] = "rest"
    """What becomes of a position whose market data are too old: it waits, is watched by prices over REST, is sold."""
    stale_sell_ms: int = 0
    """With `sell`: for how long they may be too old, watched by prices over REST, before it is sold at once."""
    delisting_sell_ms: int | None = 86_400_000
    """How long before the day that the exchange has named for a delisting it is sold; null: not for that."""


class RiskLimits(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Largest values that one account may reach; null: no limit. Money in quote currency."""

    order_funds: Decimal | None = None
    market_exposure: Decimal | None = None
    """Cost of what is held plus open entries, per market."""
    exposure: Decimal | None = None
    """The same over all markets."""
    orders_per_day: int | None = None
    daily_loss: Decimal | None = None
    """Realised and unrealised, since 00:00 KST."""
    drawdown: Decimal | None = None
    """From the highest equity seen."""
    price_band_percent: Decimal | None = None
    """A limit price's distance from the mid price."""
    cancel_ratio: float | None = None
    """Cancelled share of the day's orders, from the twentieth order on."""
    market_share_percent: Decimal | None = None
    """Share of what traded in the market within the last minute."""


class StrategySettings(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One strategy of an account; it has a ledger of its own under `id`."""

    id: str
    kind: str = "order-book"
    """A name of `models.strategies.registry`."""
    parameters: dict[str, str] = {}
    entry_funds: Decimal | None = None
    """Null: the account's."""
    markets: list[str] = []
    """Allowed markets; empty: the account's."""
    exits: ExitRules | None = None
    """Null: the account's."""


class AccountSettings(Message, frozen=True, kw_only=True, gc=False, tag="account-settings"):
    """All that decides how one account trades; the newest one replaces the earlier. Percent values are per cent."""

    account: str
    pocket: str
    venue: Literal["paper", "live"]
    is_trading: bool
    budget: Decimal
    """Quote currency given to the bot."""
    entry_funds: Decimal
    """Quote currency per entry."""
    threshold_percent: Decimal
    """Return wanted beyond the whole round-trip cost."""
    fee_percent: Decimal
    """Fee of one side."""
    stop_percent: Decimal
    hysteresis_percent: Decimal
    """An open position is closed when the expectation falls below this."""
    horizons_ms: list[int]
    markets: list[str]
    """Allowed markets; empty: all that signals come for."""
    maximum_positions: int = 10
    cooldown_ms: int = 10_000
    """Pause in a market after a position was closed."""
    event_ms: int = 0
    user: str = ""
    """The person behind it; accounts of one person never trade against each other."""
    strategies: list[StrategySettings] = []
    """Empty: the order-book strategy with the values above, under the id ``."""
    is_netting: bool = False
    """Whether several strategies may hold the same market; each keeps its ledger."""
    exits: ExitRules = ExitRules()
    limits: RiskLimits = RiskLimits()


class TradingStarted(Message, frozen=True, kw_only=True, gc=False, tag="trading-started"):
    """Entries are allowed from here on; account `*` means all."""

    account: str
    event_ms: int
    by: str


class TradingStopped(Message, frozen=True, kw_only=True, gc=False, tag="trading-stopped"):
    """No new entries from here on; positions keep their exits."""

    account: str
    event_ms: int
    by: str


class Halt(Message, frozen=True, kw_only=True, gc=False, tag="halt"):
    """Kill switch: `no-new-orders` keeps the stops, `sell-all` cancels and closes everything, `lifted` ends it."""

    account: str
    kind: Literal["no-new-orders", "sell-all", "lifted"]
    event_ms: int
    by: str


class Warmed(Message, frozen=True, kw_only=True, gc=False, tag="warmed"):
    """The market before `event_ms` was warm-up: no order may come from a signal of an earlier bin."""

    event_ms: int
    by: str


class LedgerAccepted(Message, frozen=True, kw_only=True, gc=False, tag="ledger-accepted"):
    """A person has looked at an account that was stopped for its ledger: what the exchange holds is the truth now."""

    account: str
    holdings: dict[str, Decimal]
    """What it holds per market, by the key of `key_of`; a market that is not named: nothing."""
    event_ms: int
    by: str


class AccountResumed(Message, frozen=True, kw_only=True, gc=False, tag="account-resumed"):
    """A person has looked at a paused account: it may enter again."""

    account: str
    event_ms: int
    by: str


class OrderRequested(Message, frozen=True, kw_only=True, gc=False, tag="order-requested"):
    """A person's order: at once, at a time, again and again, or at a price. Amounts as in `OrderIntent`."""

    id: str
    account: str
    pocket: str
    exchange: str
    market: str
    side: Side
    order_type: Literal["limit", "price", "market", "best"]
    price: Decimal | None = None
    quantity: Decimal | None = None
    funds: Decimal | None = None
    time_in_force: Literal["", "ioc", "fok", "post_only"] = ""
    at_ms: int | None = None
    """Not before this market time; null: at once."""
    every_ms: int | None = None
    """Again after this; null: once."""
    times: int | None = None
    """How often in all where `every_ms` is set; null: until cancelled."""
    trigger_price: Decimal | None = None
    """Only once the best price of the other side is at or beyond it; null: no condition."""
    trigger: Literal["", "at-or-below", "at-or-above"] = ""
    expires_ms: int | None = None
    """Market time after which it does not fire any more."""
    is_assisted: bool = True
    """Whether the execution assistant may wait for a better price, until `patience_ms` after it fired."""
    patience_ms: int = 30_000
    event_ms: int
    by: str


class RequestChanged(Message, frozen=True, kw_only=True, gc=False, tag="request-changed"):
    """A waiting request is replaced by `request`, which keeps its id; what fired already is not changed."""

    account: str
    pocket: str
    request: OrderRequested
    event_ms: int
    by: str


class RequestCancelled(Message, frozen=True, kw_only=True, gc=False, tag="request-cancelled"):
    """A waiting request never fires; an order that it placed already is cancelled."""

    account: str
    pocket: str
    request_id: str
    event_ms: int
    by: str


class KeyDeposited(Message, frozen=True, kw_only=True, gc=False, tag="key-deposited"):
    """An exchange key for a pocket, sealed for the executor; inside stand account, pocket, key id and the key."""

    account: str
    pocket: str
    key_id: str
    """A name for people, no part of the key."""
    sealed: str
    """libsodium sealed box, base64."""
    public_key_id: str
    """Which of the executor's public keys it is sealed for."""
    event_ms: int
    by: str


class KeyRemoved(Message, frozen=True, kw_only=True, gc=False, tag="key-removed"):
    """A pocket's key is not used any more and is erased by the executor."""

    account: str
    pocket: str
    key_id: str
    event_ms: int
    by: str


class KeyCheckRequested(Message, frozen=True, kw_only=True, gc=False, tag="key-check-requested"):
    """The executor is to ask the exchange once more what a pocket's key is good for; `KeyTold` answers."""

    account: str
    pocket: str
    event_ms: int
    by: str


# --- orders -------------------------------------------------------------------------------------------------------


class OrderIntent(Message, frozen=True, kw_only=True, gc=False, tag="order-intent"):
    """The decision to place one order. Exactly one of `quantity` (limit, market sell) and `funds` (price, i.e. market
    buy) is set.
    """

    hashed: ClassVar[tuple[str, ...]] = (
        "id", "account", "pocket", "exchange", "market", "side", "order_type", "price", "quantity", "funds",
        "time_in_force", "purpose", "cause_kind", "cause_id", "event_ms", "expires_ms", "strategy", "replaces",
    )  # fmt: skip
    id: str
    account: str
    pocket: str
    exchange: str
    market: str
    side: Side
    order_type: Literal["limit", "price", "market", "best"]
    price: Decimal | None
    quantity: Decimal | None
    funds: Decimal | None
    time_in_force: Literal["", "ioc", "fok", "post_only"]
    purpose: Purpose
    cause_kind: Literal[
        "signal",
        "stop",
        "take-profit",
        "trailing",
        "time-stop",
        "expectation",
        "stale",
        "halt",
        "request",
        "late-order",
        "delisting",
    ]
    cause_id: str
    event_ms: int
    """Time of the record that caused it."""
    expires_ms: int
    """Market time after which an entry must not be sent any more."""
    reason: str
    expected_bp: float | None = None
    cost_bp: float | None = None
    strategy: str = ""
    """Id of the strategy whose ledger it belongs to; empty: the account's only one, or none."""
    replaces: str = ""
    """Intent whose open order this one takes the place of (cancel-and-replace); empty: none."""


class CancelIntent(Message, frozen=True, kw_only=True, gc=False, tag="cancel-intent"):
    """The decision to cancel what is left of an order."""

    hashed: ClassVar[tuple[str, ...]] = ("id", "account", "pocket", "intent_id", "event_ms")
    id: str
    account: str
    pocket: str
    intent_id: str
    event_ms: int
    reason: str


class OrderSent(Message, frozen=True, kw_only=True, gc=False, tag="order-sent"):
    """Attempt `attempt` of an intent is journalled and about to go out under `identifier`."""

    account: str
    pocket: str
    intent_id: str
    attempt: int
    identifier: str
    event_ms: int


class OrderAccepted(Message, frozen=True, kw_only=True, gc=False, tag="order-accepted"):
    """The exchange has the order."""

    account: str
    pocket: str
    intent_id: str
    attempt: int
    identifier: str
    uuid: str
    event_ms: int


class OrderFilled(Message, frozen=True, kw_only=True, gc=False, tag="order-filled"):
    """One fill of ours. `is_final` marks the last event of an order that is wholly filled or ended with dust left."""

    account: str
    pocket: str
    intent_id: str
    uuid: str
    fill_id: str
    exchange: str
    market: str
    side: Side
    price: Decimal
    quantity: Decimal
    funds: Decimal
    fee: Decimal
    executed_quantity: Decimal
    """Cumulative, this fill included."""
    executed_funds: Decimal
    paid_fee: Decimal
    is_final: bool
    event_ms: int
    purpose: Purpose | Literal[""] = ""
    """The intent's; empty in records from before it was told. `manual`: no strategy's."""
    strategy: str = ""
    """The intent's: whose ledger it belongs to."""


class OrderCancelled(Message, frozen=True, kw_only=True, gc=False, tag="order-cancelled"):
    """The order ended without being wholly filled; what was executed stands in the earlier fills."""

    account: str
    pocket: str
    intent_id: str
    uuid: str
    executed_quantity: Decimal
    executed_funds: Decimal
    paid_fee: Decimal
    event_ms: int


class OrderRejected(Message, frozen=True, kw_only=True, gc=False, tag="order-rejected"):
    """The exchange, or our own risk check, refused; nothing was placed."""

    account: str
    pocket: str
    intent_id: str
    attempt: int
    name: str
    text: str
    event_ms: int


class OrderUnknown(Message, frozen=True, kw_only=True, gc=False, tag="order-unknown"):
    """The outcome of an attempt is not known; it is being looked up."""

    account: str
    pocket: str
    intent_id: str
    attempt: int
    identifier: str
    text: str
    event_ms: int
    is_lost: bool = False
    """The exchange had accepted it and does not know it any more, for good: the account is stopped for a person."""


class OrderExpired(Message, frozen=True, kw_only=True, gc=False, tag="order-expired"):
    """The intent came too late, or an unknown entry was not found: it is never attempted again."""

    account: str
    pocket: str
    intent_id: str
    attempt: int
    text: str
    event_ms: int


class Veto(Message, frozen=True, kw_only=True, gc=False, tag="veto"):
    """Why nothing was traded; written when the reason of an account's market changes."""

    hashed: ClassVar[tuple[str, ...]] = (
        "account", "market", "reason", "event_ms", "best_expected_bp", "needed_bp", "horizon_ms",
    )  # fmt: skip
    account: str
    exchange: str
    market: str
    reason: str
    """One of `consumers.trade.reasons`."""
    event_ms: int
    best_expected_bp: float | None = None
    needed_bp: float | None = None
    horizon_ms: int | None = None
    strategy: str = ""


class RequestTold(Message, frozen=True, kw_only=True, gc=False, tag="request-told"):
    """What became of a person's request."""

    id: str
    account: str
    pocket: str
    state: Literal["waiting", "fired", "done", "cancelled", "refused", "missed"]
    text: str
    """Words for people."""
    intent_id: str = ""
    """The order that it fired last."""
    reason: str = ""
    """One of `consumers.execute.requests.words`, for people of another language; `values` fill it."""
    values: dict[str, str] = {}
    funds: Decimal | None = None
    """What the order traded in all, quote currency; null: it has not ended."""
    saved: Decimal | None = None
    """Money saved against the price of sending at once at the moment it fired, quote currency; null: not assisted, or
    not known. Of the control group it is what the market moved meanwhile, to be subtracted.
    """
    is_control: bool = False
    """Whether it was sent at once by lot, to measure what waiting is worth."""
    event_ms: int


class KeyTold(Message, frozen=True, kw_only=True, gc=False, tag="key-told"):
    """What became of an exchange key. No part of it stands here but a masked access key."""

    account: str
    pocket: str
    key_id: str
    state: Literal["waiting", "taken", "refused", "blocked", "replaced", "removed", "expiring"]
    reason: str = ""
    """One of `consumers.execute.keys_words`; empty for none."""
    text: str = ""
    """Words for people."""
    access_key: str = ""
    """Masked."""
    expires_ms: int | None = None
    box_id: str = ""
    """Which sealed box it was, by the hash of its bytes."""
    event_ms: int


class AccountPaused(Message, frozen=True, kw_only=True, gc=False, tag="account-paused"):
    """Somebody else's hand was seen in the account: no entries until a person answers with `AccountResumed`."""

    account: str
    pocket: str
    reason: str
    text: str
    event_ms: int


class Balance(Message, frozen=True, kw_only=True, gc=False, tag="balance"):
    """What the exchange says a pocket holds of one currency."""

    pocket: str
    currency: str
    available: Decimal
    locked: Decimal
    average_price: Decimal
    event_ms: int


# --- bookkeeping --------------------------------------------------------------------------------------------------


class RunManifest(Message, frozen=True, kw_only=True, gc=False, tag="run-manifest"):
    """What a process ran with, from here on: parity is claimed per manifest segment. No secret in it."""

    id: str
    process: str
    version: str
    git_sha: str
    lock_hash: str
    kernel_hash: str
    backend: str
    cpu: str
    python: str
    settings: dict[str, str]
    started_ms: int


class TradeInput(Message, frozen=True, kw_only=True, gc=False, tag="trade-input"):
    """A stretch of the order in which trade took its inputs: offsets [`first`, `last`] of one partition, or a pulse."""

    kind: Literal["range", "pulse"]
    topic: str = ""
    partition: int = 0
    first: int = 0
    last: int = 0
    event_ms: int = 0
    """The pulse's market time; 0 for a range."""


class AccountState(Message, frozen=True, kw_only=True, gc=False, tag="account-state"):
    """Snapshot of one account's fold and the input it stands at (`cursor`: next offset per `topic/partition`)."""

    account: str
    state: msgspec.Raw
    cursor: dict[str, int]
    event_ms: int


class ModelEvent(Message, frozen=True, kw_only=True, gc=False, tag="model-event"):
    """A model was trained, promoted, rolled back or refused."""

    kind: Literal["trained", "promoted", "rolled-back", "refused", "drift"]
    model_id: str
    effective_from_bin_ms: int
    text: str
    event_ms: int


class Refusals(Message, frozen=True, kw_only=True, gc=False, tag="refusals"):
    """How often predict gave no signal, per reason, since its start; for people."""

    process: str
    counts: dict[str, int]
    event_ms: int


class LogLine(Message, frozen=True, kw_only=True, gc=False, tag="log-line"):
    """One structured log line."""

    process: str
    level: str
    logger: str
    text: str
    event_ms: int


DEAD_LETTER_BYTES = 500_000
"""Of a record in a dead letter: a record of the log is at most a megabyte."""


class DeadLetter(Message, frozen=True, kw_only=True, gc=False, tag="dead-letter"):
    """A record, or a frame from outside, that could not be processed: its bytes, its coordinates and the reason.

    For a frame that never reached the log, `topic` is `frame:<source>` and `offset` counts the frames of the session.
    """

    process: str
    topic: str
    partition: int
    offset: int
    key: str
    reason: str
    value: str
    """The original bytes, base64."""
    event_ms: int

    @classmethod
    def of(
        cls,
        process: str,
        topic: str,
        partition: int,
        offset: int,
        key: str,
        reason: str,
        value: bytes,
        event_ms: int = 0,
    ) -> "DeadLetter":
        """Wrap the original bytes; of a long record the first ones, because base64 would not fit into one itself."""
        is_cut = len(value) > DEAD_LETTER_BYTES
        return cls(
            process=process,
            topic=topic,
            partition=partition,
            offset=offset,
            key=key,
            reason=f"{reason} (first {DEAD_LETTER_BYTES} of {len(value)} bytes)" if is_cut else reason,
            value=base64.b64encode(value[:DEAD_LETTER_BYTES]).decode(),
            event_ms=event_ms,
        )


MarketData = OrderBook | Trade | Heartbeat | Hole
Control = AccountSettings | TradingStarted | TradingStopped | Halt | Warmed | LedgerAccepted | AccountResumed
Request = OrderRequested | RequestChanged | RequestCancelled
Command = KeyDeposited | KeyRemoved | KeyCheckRequested
Intent = OrderIntent | CancelIntent
OrderEvent = (
    OrderSent
    | OrderAccepted
    | OrderFilled
    | OrderCancelled
    | OrderRejected
    | OrderUnknown
    | OrderExpired
    | Veto
    | RequestTold
    | KeyTold
    | AccountPaused
)

ALL: tuple[type[Message], ...] = (
    OrderBook, Trade, Heartbeat, Hole, FeedEvent, Market, Quote, Features, Signal, AccountSettings, TradingStarted,
    TradingStopped, Halt, Warmed, LedgerAccepted, AccountResumed, OrderRequested, RequestChanged, RequestCancelled,
    KeyDeposited, KeyRemoved, KeyCheckRequested, OrderIntent, CancelIntent, OrderSent, OrderAccepted, OrderFilled,
    OrderCancelled, OrderRejected, OrderUnknown, OrderExpired, Veto, RequestTold, KeyTold,
    AccountPaused, Balance, RunManifest, TradeInput, AccountState,
    ModelEvent, Refusals, LogLine, DeadLetter,
)  # fmt: skip

_encoder = msgspec.json.Encoder(decimal_format="string")


def encode(message: Message) -> bytes:
    """Write a message as JSON. The trap: msgspec writes NaN as `null`, which a reader of a plain float refuses."""
    return _encoder.encode(message)


def tag_of(kind: type[Message]) -> str:
    """The stable tag that stands in the wire's `type` field."""
    return str(kind.__struct_config__.tag)


def key_of(exchange: str, market: str) -> str:
    """Key of the topics that are keyed by market: `upbit:KRW-BTC`."""
    return f"{exchange}:{market}"


# --- hashes and ids -----------------------------------------------------------------------------------------------


def _feed(hasher: "hashlib.blake2b | _Bytes", value: Any) -> None:
    """Add one value: a type byte, then its little-endian bytes (floats as their 8 bytes, texts with their length)."""
    if value is None:
        hasher.update(b"n")
    elif isinstance(value, bool):
        hasher.update(b"t" if value else b"f")
    elif isinstance(value, int):
        hasher.update(b"i" + value.to_bytes(8, "little", signed=True))
    elif isinstance(value, float):
        hasher.update(b"d" + struct.pack("<d", value))
    elif isinstance(value, str | Decimal):
        data = str(value).encode()
        hasher.update(b"s" + len(data).to_bytes(4, "little") + data)
    elif isinstance(value, list | tuple):
        hasher.update(b"l" + len(value).to_bytes(4, "little"))
        if value and all(type(item) is float for item in value):
            hasher.update(b"D" + struct.pack(f"<{len(value)}d", *value))
        else:
            for item in value:
                _feed(hasher, item)
    else:
        msg = f"a {type(value).__name__} cannot be hashed"
        raise TypeError(msg)


def hash_of(message: Message) -> bytes:
    """BLAKE2b-128 over the tag and the hashed fields in declared order; raises `TypeError` for an unhashed message."""
    if not message.hashed:
        msg = f"{type(message).__name__} declares no hashed fields"
        raise TypeError(msg)
    hasher = hashlib.blake2b(digest_size=16)
    _feed(hasher, tag_of(type(message)))
    for name in message.hashed:
        _feed(hasher, getattr(message, name))
    return hasher.digest()


def content_id(*parts: str | int) -> str:
    """128-bit content hash in lower-case base32 without padding, 26 characters."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        _feed(hasher, part)
    return _base32(hasher.digest())


_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
_PAIRS = tuple(first + second for first in _LETTERS for second in _LETTERS)


def _base32(digest: bytes) -> str:
    """16 bytes in lower-case base32 without padding; the library's own takes five times as long."""
    bits = int.from_bytes(digest, "big") << 2
    return "".join([_PAIRS[(bits >> shift) & 1023] for shift in range(120, -1, -10)])


def signal_id(exchange: str, market: str, bin_ms: int, horizon_ms: int, model_id: str, schema: str) -> str:
    """Id of a signal: the same content has the same id wherever and however often it is computed."""
    return content_id("signal", exchange, market, bin_ms, horizon_ms, model_id, schema)


class SignalIds:
    """The ids of a model's signals, as `signal_id` gives them, without hashing again what stays the same."""

    def __init__(self, model_id: str, schema: str, horizons_ms: Iterable[int]) -> None:
        self._tails = [_fed(horizon_ms, model_id, schema) for horizon_ms in horizons_ms]
        self._heads: dict[tuple[str, str], hashlib.blake2b] = {}

    def of(self, exchange: str, market: str, bin_ms: int) -> list[str]:
        """One id per horizon."""
        head = self._heads.get((exchange, market))
        if head is None:
            head = hashlib.blake2b(_fed("signal", exchange, market), digest_size=16)
            self._heads[exchange, market] = head
        middle = head.copy()
        _feed(middle, bin_ms)
        ids = []
        for tail in self._tails:
            hasher = middle.copy()
            hasher.update(tail)
            ids.append(_base32(hasher.digest()))
        return ids


class _Bytes(bytearray):
    """Takes what a hasher would."""

    update = bytearray.extend


def _fed(*parts: str | int) -> bytes:
    """The bytes that a hasher is fed with."""
    fed = _Bytes()
    for part in parts:
        _feed(fed, part)
    return bytes(fed)


def intent_id(account: str, cause_kind: str, cause_id: str, purpose: str) -> str:
    """Id of an intent: one cause gives one intent per purpose, however often the cause is read."""
    return content_id("intent", account, cause_kind, cause_id, purpose)


def tags(kinds: Iterable[type[Message]]) -> list[str]:
    """The wire tags of some message types, in order."""
    return [tag_of(kind) for kind in kinds]
