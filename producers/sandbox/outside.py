"""A market of others: its books and trades come from a recording or from the log, and nothing here changes them.

`recording` and `follow` are built on it. `take_line` is called in the sandbox's loop with one line after another, each
passed on before the next, so that book, prints and clock always are those of the newest line. What was read but not
taken yet is unknown here. What cannot be read is counted; it must never end the sandbox.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from producers.sandbox.feeds import BookView, Frame, MarketRow, Print, Style
from producers.sandbox.periods import DAY_MS
from producers.sandbox.spelling import Speller
from streams.market.matching import Level
from streams.market.ticks import E8, e8_of, tick_e8
from streams.messages import Heartbeat, Hole, OrderBook, Trade

_KEPT_IDS = 64
_LARGEST = 9e10
"""Below this must lie every price and size, and the sum of a side: they are spelled and counted in 64 bits of 1e-8."""
_LAST_MS = 253_402_300_800_000
"""Below this a time of the match has a date (before the year 10000)."""
_NO_QUOTE = (0, 0, 0, 0)

Body = dict[str, Any] | OrderBook | Trade | Heartbeat | Hole | None


class Line(NamedTuple):
    """One record: when it was received, its own bytes where it is a raw frame, and what it is.

    `kind` is empty where that cannot be read. `source` names the record in the fills that happen on it.
    """

    received_ns: int
    payload: bytes
    kind: str
    market: str
    exchange_ms: int
    body: Body
    source: str


class Newest:
    """The newest book of a market; its numbers become integers when somebody asks for them."""

    __slots__ = ("_body", "_view", "exchange_ms", "source")

    def __init__(self, body: dict[str, Any] | OrderBook, exchange_ms: int, source: str) -> None:
        self._body = body
        self._view: BookView | None = None
        self.exchange_ms = exchange_ms
        self.source = source

    def view(self) -> BookView:
        """The book in integers; padded (zero-price) levels are cut."""
        if self._view is None:
            bids, asks = _sides(self._body)
            self._view = BookView(bids, asks, self.exchange_ms, self.source)
        return self._view


def _sides(body: dict[str, Any] | OrderBook) -> tuple[list[Level], list[Level]]:
    if isinstance(body, OrderBook):
        return _levels(body.bid_prices, body.bid_sizes), _levels(body.ask_prices, body.ask_sizes)
    units = body.get("orderbook_units", body.get("obu"))
    units = [unit for unit in units if isinstance(unit, dict)] if isinstance(units, list) else []

    def column(long: str, short: str) -> list[Any]:
        return [unit.get(long, unit.get(short)) for unit in units]

    bids = _levels(column("bid_price", "bp"), column("bid_size", "bs"))
    return bids, _levels(column("ask_price", "ap"), column("ask_size", "as"))


def _levels(prices: Sequence[Any], sizes: Sequence[Any]) -> list[Level]:
    pairs = zip(prices, sizes, strict=True)
    return [Level(e8_of(price), e8_of(size)) for price, size in pairs if _is_number(price, size) and price > 0]


def _is_number(*values: object) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _is_sound(book: OrderBook) -> bool:
    """Whether each price has its size and all of it can be shown."""
    sides = ((book.bid_prices, book.bid_sizes), (book.ask_prices, book.ask_sizes))
    try:
        return all(len(prices) == len(sizes) and _fits(prices) and _fits(sizes) for prices, sizes in sides)
    except TypeError:
        return False  # a null of somebody's Parquet file


def _fits(numbers: Sequence[float]) -> bool:
    return min(numbers, default=0) >= 0 and sum(numbers) < _LARGEST  # no comparison holds for the sum of a NaN


class Outside:
    """Everything about such a market but where its lines come from."""

    kind = "recording"
    is_synthetic = False
    has_queue = True
    has_snapshots = False
    """A recording sends no frames of its own; a followed market does."""

    def __init__(self) -> None:
        self.warm_ms: int | None = None
        self.is_warm = True
        self.is_ended = False
        self.skipped: Counter[str] = Counter()
        self._rows: dict[str, int] = {}
        """Market -> first price."""
        self._names: dict[str, tuple[str, str]] = {}
        self._newest: dict[str, Newest] = {}
        self._newest_prints: dict[str, Print] = {}
        self._recent_ids: dict[str, deque[int]] = {}
        self._clock_ms = 0
        self._speller = Speller()
        self.closing_e8: Callable[[str, int], int] | None = None

    # --- lines --------------------------------------------------------------------------------------------------

    def take(self, market: str, taken: Sequence[Level], *, is_buy: bool) -> list[Frame]:
        """Nothing changes: what was taken is kept per account by the exchange."""
        _ = market, taken, is_buy
        return []

    def cross(self, market: str, traded: Sequence[Level], *, is_buy: bool) -> list[Frame]:
        """Nothing is told: the stream is somebody else's."""
        _ = market, traded, is_buy
        return []

    def take_line(self, line: Line) -> Frame | None:
        """Move on by one line; None where it says nothing new or readable and has no bytes of its own to pass on."""
        if line.body is None:
            return None
        self._clock_ms = max(self._clock_ms, line.exchange_ms)
        trade: Print | None = None
        if line.kind == "orderbook" and isinstance(line.body, dict | OrderBook):
            if isinstance(line.body, OrderBook) and not _is_sound(line.body):
                self.skipped["unreadable book"] += 1
                return None
            self._newest[line.market] = Newest(line.body, line.exchange_ms, line.source)
            if line.market not in self._rows:
                self._note_price(line)
        elif line.kind == "trade":
            trade = print_of(line)
            if trade is None or not self._is_new(line.market, trade):
                self.skipped["unreadable trade" if trade is None else "repeated trade"] += 1
                trade = None
                if not line.payload:
                    return None
        return Frame(line.kind, line.market, line.exchange_ms, self._spelling(line, trade), trade, line.source)

    def _is_new(self, market: str, trade: Print) -> bool:
        """Keep a trade; a repeated id is one that was told before."""
        recent = self._recent_ids.setdefault(market, deque(maxlen=_KEPT_IDS))
        if trade.sequential_id in recent:
            return False
        recent.append(trade.sequential_id)
        self._newest_prints[market] = trade
        self._rows.setdefault(market, trade.price_e8)
        return True

    def _note_price(self, line: Line) -> None:
        view = self._newest[line.market].view()
        if best := [*view.asks[:1], *view.bids[:1]]:
            self._rows[line.market] = best[0].price_e8

    # --- spelling -----------------------------------------------------------------------------------------------

    def _spelling(self, line: Line, trade: Print | None) -> Callable[[Style], bytes]:
        payload = line.payload
        if payload:
            return lambda _style: payload
        if trade is None:
            return self._book_spelling(line.market, self._newest[line.market])
        return self._trade_spelling(line.market, line.exchange_ms, trade)

    def _book_spelling(self, market: str, newest: Newest) -> Callable[[Style], bytes]:
        cache: dict[Style, bytes] = {}

        def spell(style: Style) -> bytes:
            if style not in cache:
                view = newest.view()
                cache[style] = self._speller.book(
                    market, newest.exchange_ms, _arrays(view.bids), _arrays(view.asks), style
                )  # fmt: skip
            return cache[style]

        return spell

    def _trade_spelling(self, market: str, at_ms: int, trade: Print) -> Callable[[Style], bytes]:
        newest = self._newest.get(market)
        day_ms = trade.trade_ms - trade.trade_ms % DAY_MS
        cache: dict[Style, bytes] = {}

        def spell(style: Style) -> bytes:
            style = style._replace(depth=30)
            if style not in cache:
                best = _NO_QUOTE if newest is None else _best(newest.view())
                closing_e8 = self.opening_e8(market) if self.closing_e8 is None else self.closing_e8(market, day_ms)
                cache[style] = self._speller.trade(market, at_ms, trade, closing_e8, best, style)
            return cache[style]

        return spell

    def snapshots(self, market: str, kind: str) -> list[Frame]:
        """The newest book or trade, where the market is followed; a recording is played as it is."""
        newest = self._newest.get(market)
        if not self.has_snapshots or newest is None:
            return []
        if kind == "orderbook":
            return [Frame(kind, market, newest.exchange_ms, self._book_spelling(market, newest), None, newest.source)]
        trade = self._newest_prints.get(market)
        if kind != "trade" or trade is None:
            return []
        return [Frame(kind, market, trade.trade_ms, self._trade_spelling(market, trade.trade_ms, trade))]

    # --- what the exchange asks -----------------------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        """Never: what was recorded can be traded."""
        return False

    @property
    def clock_ms(self) -> int:
        """Time of the newest line."""
        return self._clock_ms

    def markets(self) -> list[MarketRow]:
        """Every market that was seen, with the tick of its first price at the market's date."""
        rows = []
        for market, price in self._rows.items():
            try:
                tick = tick_e8(market, price, self._clock_ms)
            except KeyError:
                tick = 1
            korean, english = self._names.get(market, (market, market))
            rows.append(MarketRow(market, korean, english, tick))
        return rows

    def book(self, market: str) -> BookView | None:
        """The newest book."""
        newest = self._newest.get(market)
        return None if newest is None else newest.view()

    def opening_e8(self, market: str) -> int:
        """The market's first price."""
        return self._rows.get(market, E8)


def _best(view: BookView) -> tuple[int, int, int, int]:
    ask = view.asks[0] if view.asks else Level(0, 0)
    bid = view.bids[0] if view.bids else Level(0, 0)
    return ask.price_e8, ask.lots, bid.price_e8, bid.lots


def _arrays(side: Sequence[Level]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Prices and lots of the thirty levels of a frame; a thin side is padded with zeros, as the exchange does."""
    found = np.zeros((2, 30), dtype=np.int64)
    for i, level in enumerate(side[:30]):
        found[0, i], found[1, i] = level
    return found[0], found[1]


def print_of(line: Line) -> Print | None:
    """The trade of a line; None where it cannot be read."""
    body = line.body
    if isinstance(body, Trade):
        return _print(body.trade_ms, body.price, body.size, body.trade_id, is_buy=body.is_buy)
    if not isinstance(body, dict):
        return None
    return _print(
        body.get("trade_timestamp", body.get("ttms", line.exchange_ms)),
        body.get("trade_price", body.get("tp")),
        body.get("trade_volume", body.get("tv")),
        body.get("sequential_id", body.get("sid")),
        is_buy=body.get("ask_bid", body.get("ab")) == "BID",
    )


def _print(trade_ms: Any, price: Any, size: Any, trade_id: Any, *, is_buy: bool) -> Print | None:
    if not (_is_number(price, size) and isinstance(trade_ms, int) and isinstance(trade_id, int)):
        return None
    if not (0 <= price < _LARGEST and 0 <= size < _LARGEST and 0 <= trade_ms < _LAST_MS and 0 <= trade_id < 2**63):
        return None
    return Print(trade_ms, e8_of(price), e8_of(size), is_buy, trade_id)
