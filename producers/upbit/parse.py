"""Upbit's public frames to our messages: the door at which the wire form ends. Called by the feed per frame.

Never decides what to do with a frame: what cannot be used raises `BadMessage` with the reason. One order book, as it
comes in the SIMPLE form (DEFAULT in brackets; both may come inside a JSON list, as binary or text):

    {"ty":"orderbook",          type      [type]
     "cd":"KRW-BTC",            market    [code]
     "tms":1790134773006,       message time in ms, our event time; µs have been seen  [timestamp]
     "tas":0.48514983,          sum of the ask sizes delivered, not used  [total_ask_size]
     "tbs":2.2403413,           sum of the bid sizes delivered, not used  [total_bid_size]
     "obu":[                    15 levels in 2021, 30 today, best first   [orderbook_units]
       {"ap":116606000,         ask price; large ones also as 1.16539E8   [ask_price]
        "bp":116534000,         bid price; 0 pads the thinner side        [bid_price]
        "as":0.06288509,        ask size                                  [ask_size]
        "bs":7.9276E-4}, ...],  bid size                                  [bid_size]
     "st":"SNAPSHOT",           SNAPSHOT or REALTIME: both are whole books [stream_type]
     "lv":0}                    price grouping, 0 for none                [level]

and one trade:

    {"ty":"trade",              type      [type]
     "cd":"KRW-LAMB",           market    [code]
     "tms":1618678262712,       message time in ms, our event time        [timestamp]
     "td":"2021-04-17",         UTC date of the match, not used           [trade_date]
     "ttm":"16:51:02",          UTC time of the match, not used           [trade_time]
     "ttms":1618678262000,      match time in ms (whole seconds in 2021)  [trade_timestamp]
     "tp":25.0,                 price                                     [trade_price]
     "tv":400.0,                size                                      [trade_volume]
     "ab":"BID",                the taker: BID bought, ASK sold           [ask_bid]
     "pcp":...,"c":...,"cp":... against yesterday, not used               [prev_closing_price, ...]
     "sid":1618678262000000,    unique in its market, int64, no order     [sequential_id]
     "st":"REALTIME"}           a SNAPSHOT repeats the last trade         [stream_type]

Others that we know: `{"status":"UP"}` after a text PING, `{"error":{"name":...,"message":...}}`.
"""

from typing import Annotated, Literal, NamedTuple

import msgspec

from infra.errors import BadMessage
from streams.messages import OrderBook, Trade

MICROSECONDS_FROM = 1_000_000_000_000_000
"""A larger timestamp is in microseconds."""
MOST_LEVELS = 200
"""More would not fit into a record of the log."""
_LAST_MS = 10_000_000_000_000
_LAST_ID = (1 << 63) - 1


class Status(NamedTuple):
    """The exchange says that the connection is healthy."""

    text: str


class ExchangeError(NamedTuple):
    """The exchange refused what we sent; it closes the connection after it."""

    name: str
    text: str


class Unusable(NamedTuple):
    """An element of a list frame that cannot be used, beside others that can."""

    reason: str
    raw: bytes


Parsed = OrderBook | Trade | Status | ExchangeError | Unusable


_Size = Annotated[float, msgspec.Meta(ge=0.0)]


class _Level(msgspec.Struct, gc=False):
    ap: float
    bp: float
    ask: _Size = msgspec.field(name="as")
    bs: _Size


class _LongLevel(msgspec.Struct, gc=False):
    ap: float = msgspec.field(name="ask_price")
    bp: float = msgspec.field(name="bid_price")
    ask: _Size = msgspec.field(name="ask_size")
    bs: _Size = msgspec.field(name="bid_size")


class _Book(msgspec.Struct, gc=False, tag_field="ty", tag="orderbook"):
    cd: str
    tms: int
    obu: list[_Level]


class _LongBook(msgspec.Struct, gc=False, tag_field="type", tag="orderbook"):
    cd: str = msgspec.field(name="code")
    tms: int = msgspec.field(name="timestamp")
    obu: list[_LongLevel] = msgspec.field(name="orderbook_units")


class _Trade(msgspec.Struct, gc=False, tag_field="ty", tag="trade"):
    cd: str
    tms: int
    ttms: int
    tp: float
    tv: float
    ab: Literal["ASK", "BID"]
    sid: int


class _LongTrade(msgspec.Struct, gc=False, tag_field="type", tag="trade"):
    cd: str = msgspec.field(name="code")
    tms: int = msgspec.field(name="timestamp")
    ttms: int = msgspec.field(name="trade_timestamp")
    tp: float = msgspec.field(name="trade_price")
    tv: float = msgspec.field(name="trade_volume")
    ab: Literal["ASK", "BID"] = msgspec.field(name="ask_bid")
    sid: int = msgspec.field(name="sequential_id")


class _Error(msgspec.Struct, gc=False):
    name: str | int = ""
    message: str = ""


class _Head(msgspec.Struct, gc=False):
    ty: str | None = None
    type: str | None = None
    status: str | None = None
    error: _Error | None = None


_short = msgspec.json.Decoder(_Book | _Trade).decode
_long = msgspec.json.Decoder(_LongBook | _LongTrade).decode
_head = msgspec.json.Decoder(_Head).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_BOOKS = (_Book, _LongBook)
_KNOWN = {"orderbook", "trade"}


class Parser:
    """Reads the frames of one session of one source."""

    def __init__(self, exchange: str, source: str, session: int) -> None:
        self._exchange = exchange
        self._source = source
        self._session = session

    def parse(self, raw: bytes | str, received_ns: int) -> list[Parsed]:
        """Read one frame; raises `BadMessage` with the reason and nothing else, whatever the bytes are."""
        try:
            data = raw.encode() if isinstance(raw, str) else raw
            if data[:6] == b'{"ty":':
                return [self._typed(_short(data), received_ns)]
            if data[:8] == b'{"type":':
                return [self._typed(_long(data), received_ns)]
            if data.lstrip()[:1] == b"[":
                return [self._element(bytes(item), received_ns) for item in _list(data)]
            return [self._other(data, received_ns)]
        except msgspec.ValidationError as error:
            raise BadMessage(_reason(data, error)) from error
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise BadMessage(f"no JSON: {error}") from error

    def _element(self, raw: bytes, received_ns: int) -> Parsed:
        try:
            return self._other(raw, received_ns)
        except msgspec.ValidationError as error:
            return Unusable(_reason(raw, error), raw)
        except BadMessage as error:
            return Unusable(str(error), raw)

    def _other(self, raw: bytes, received_ns: int) -> Parsed:
        head = _head(raw)
        if head.ty is not None:
            return self._typed(_short(raw), received_ns)
        if head.type is not None:
            return self._typed(_long(raw), received_ns)
        if head.error is not None:
            return ExchangeError(str(head.error.name), head.error.message)
        if head.status is not None:
            return Status(head.status)
        raise BadMessage("neither type, status nor error in it")

    def _typed(self, wire: "_Book | _LongBook | _Trade | _LongTrade", received_ns: int) -> OrderBook | Trade:
        if isinstance(wire, _BOOKS):
            return self._book(wire, received_ns)
        return self._trade(wire, received_ns)

    def _book(self, wire: "_Book | _LongBook", received_ns: int) -> OrderBook:
        units = wire.obu
        if len(units) > MOST_LEVELS:
            raise BadMessage(f"{len(units)} levels: the exchange sends 30")
        bids: list[float] = []
        asks: list[float] = []
        bid_sizes: list[float] = []
        ask_sizes: list[float] = []
        for unit in units:  # once over them: four comprehensions take a tenth longer
            bids.append(unit.bp)
            asks.append(unit.ap)
            bid_sizes.append(unit.bs)
            ask_sizes.append(unit.ask)
        if units and (bids[-1] == 0.0 or asks[-1] == 0.0):
            cut_padding(bids, bid_sizes)
            cut_padding(asks, ask_sizes)
        check_sides(bids, asks)
        return OrderBook(
            exchange=self._exchange,
            source=self._source,
            session=self._session,
            market=_market(wire.cd),
            exchange_ms=_milliseconds(wire.tms),
            received_ns=received_ns,
            bid_prices=bids,
            bid_sizes=bid_sizes,
            ask_prices=asks,
            ask_sizes=ask_sizes,
        )

    def _trade(self, wire: "_Trade | _LongTrade", received_ns: int) -> Trade:
        if not (wire.tp > 0.0 and wire.tv > 0.0):
            raise BadMessage(f"a trade of {wire.tv} at {wire.tp}")
        if not 0 <= wire.sid <= _LAST_ID:
            raise BadMessage(f"sequential id {wire.sid} is no int64")
        return Trade(
            exchange=self._exchange,
            source=self._source,
            session=self._session,
            market=_market(wire.cd),
            exchange_ms=_milliseconds(wire.tms),
            trade_ms=_milliseconds(wire.ttms),
            received_ns=received_ns,
            trade_id=wire.sid,
            price=wire.tp,
            size=wire.tv,
            is_buy=wire.ab == "BID",
        )


def cut_padding(prices: list[float], sizes: list[float]) -> None:
    """Take the padding off the far end of a side."""
    while prices and prices[-1] == 0.0:
        prices.pop()
        sizes.pop()


def check_sides(bids: list[float], asks: list[float]) -> None:
    """Raise `BadMessage` where a book's prices cannot be: out of order, not above zero, crossed."""
    _check_side(bids, "bid", is_descending=True)
    _check_side(asks, "ask", is_descending=False)
    if bids and asks and bids[0] >= asks[0]:
        raise BadMessage(f"crossed book: best bid {bids[0]} is not below best ask {asks[0]}")


def _check_side(prices: list[float], name: str, *, is_descending: bool) -> None:
    """Best first, prices above zero; sizes below zero, and what is not finite, msgspec has refused."""
    if not prices:
        return
    if prices != sorted(prices, reverse=is_descending):
        raise BadMessage(f"{name} levels are not in order")
    lowest = prices[-1] if is_descending else prices[0]
    if lowest <= 0.0:
        raise BadMessage(f"{name} price {lowest} cannot be")


def _market(code: str) -> str:
    if not code:
        raise BadMessage("no market in it")
    return code


def _milliseconds(stamp: int) -> int:
    milliseconds = stamp // 1000 if stamp > MICROSECONDS_FROM else stamp
    if not 0 < milliseconds < _LAST_MS:
        raise BadMessage(f"timestamp {stamp} cannot be")
    return milliseconds


def _reason(raw: bytes, error: msgspec.ValidationError) -> str:
    """Name an unknown type as what it is; else say what msgspec found."""
    try:
        head = _head(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return f"wrong form: {error}"
    kind = head.ty or head.type
    if kind is not None and kind not in _KNOWN:
        return f"unknown type {kind[:40]}"
    is_negative = str(error).startswith("Expected `float` >= 0.0")
    return f"a negative size: {error}" if is_negative else f"wrong form: {error}"
