"""REST quotation: markets, candles, trades, tickers, order books and instruments, as the exchange answers them.

Called by the server, which mounts `routes`; the guard around requests counts them and tells `Remaining-Req`. Errors
carry an integer name, as the exchange's quotation side does.
"""

import gzip
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import islice, takewhile

from aiohttp import web
from multidict import MultiMapping

from infra.upbit.wire import plain_e8
from producers.sandbox import quotation_queries as queries
from producers.sandbox import quotation_views as views
from producers.sandbox.candle_rows import Candle
from producers.sandbox.candles import Candles
from producers.sandbox.configuration import dump
from producers.sandbox.feeds import Feed, MarketRow
from producers.sandbox.grouping import group_levels, levels_e8
from producers.sandbox.notices import Notices
from producers.sandbox.periods import DAY_MS, MINUTES
from producers.sandbox.quotation_queries import INVALID, NOT_FOUND, QuotationError
from producers.sandbox.tickers import Tickers
from streams.market.ticks import E8

Handler = Callable[[web.Request], Awaitable[web.Response]]

MOST_CANDLES = 200
MOST_TICKS = 500
MOST_LEVELS = 30
SECONDS_HELD_MS = 90 * DAY_MS
"""Candles of a second are given for three months."""
_LEAST_TO_PACK = 256
_QUIET = {
    "Cache-Control": "no-cache, no-store, max-age=0, must-revalidate",
    "Pragma": "no-cache",
    "Expires": "0",
    "Limit-By-Ip": "Yes",
    "Vary": "origin,access-control-request-method,access-control-request-headers,accept-encoding",
}


def answer(value: object, status: int) -> web.Response:
    """A JSON answer without a request, for errors; the guard adds what is left of the group."""
    return web.Response(text=dump(value), status=status, content_type="application/json", headers=_QUIET)


def _spelled(request: web.Request, text: str) -> web.Response:
    """A spelled answer, packed where the client takes it so; 304 where it has it already."""
    body = text.encode()
    digest = hashlib.md5(body, usedforsecurity=False).hexdigest()  # the exchange's own tags are made so
    headers = _QUIET | {"ETag": f'W/"0{digest}"'}
    if request.headers.get("If-None-Match") == headers["ETag"]:
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = "application/json;charset=UTF-8"
    accepted = (part.partition(";") for part in request.headers.get("Accept-Encoding", "").lower().split(","))
    if len(body) >= _LEAST_TO_PACK and any(
        name.strip() == "gzip" and weight.replace(" ", "") not in {"q=0", "q=0.0"} for name, _, weight in accepted
    ):
        body = gzip.compress(body, 4, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return web.Response(body=body, headers=headers)


class Quotation:
    """The handlers."""

    def __init__(self, feed: Feed, candles: Candles, tickers: Tickers, notices: Notices) -> None:
        self._feed = feed
        self._candles = candles
        self._tickers = tickers
        self._notices = notices

    def routes(self) -> list[web.RouteDef]:
        """What the server mounts."""
        return [
            web.get("/v1/market/all", self.markets),
            web.get("/v1/candles/minutes/{unit}", self.minutes),
            *(
                web.get(f"/v1/candles/{name}", self._candles_of(unit))
                for name, unit in (
                    ("seconds", "1s"),
                    ("days", "1d"),
                    ("weeks", "1w"),
                    ("months", "1M"),
                    ("years", "1y"),
                )
            ),
            web.get("/v1/trades/ticks", self.ticks),
            web.get("/v1/ticker", self.tickers),
            web.get("/v1/ticker/all", self.all_tickers),
            web.get("/v1/orderbook", self.books),
            web.get("/v1/orderbook/instruments", self.instruments),
            web.get("/v1/orderbook/supported_levels", self.levels),
        ]

    # --- markets --------------------------------------------------------------------------------------------------

    def _listed(self, query: MultiMapping[str], name: str) -> list[MarketRow]:
        """The markets that a call names (several also as repeated parameters); one that nobody lists is not found."""
        queries.required(query, name)
        wanted = ",".join(query.getall(name)) if name == "markets" else query[name]
        rows = {row.market: row for row in self._feed.markets()}
        codes = wanted.split(",") if name == "markets" else [wanted]
        if any(code not in rows for code in codes):
            raise QuotationError(404, NOT_FOUND)
        return [rows[code] for code in codes]

    async def markets(self, request: web.Request) -> web.Response:
        """Every listed market; with `is_details=true` the caution flags."""
        is_detailed = queries.boolean(request.query, "is_details")
        rows = []
        for row in self._feed.markets():
            line: dict[str, object] = {
                "market": row.market, "korean_name": row.korean_name, "english_name": row.english_name
            }  # fmt: skip
            if is_detailed:
                line["market_event"] = self._notices.of(row.market).event()
            rows.append(line)
        return _spelled(request, dump(rows))

    async def instruments(self, request: web.Request) -> web.Response:
        """Tick size and grouping levels of some markets."""
        lines = [
            {
                "market": row.market,
                "quote_currency": row.market.partition("-")[0],
                "tick_size": plain_e8(row.tick_e8),
                "supported_levels": [plain_e8(level) for level in levels_e8(row.market, row.tick_e8)],
            }
            for row in self._listed(request.query, "markets")
        ]
        return _spelled(request, dump(lines))

    async def levels(self, request: web.Request) -> web.Response:
        """The call that was replaced by `instruments`, still answered."""
        lines = [
            f'{{"market":"{row.market}","supported_levels":'
            f"{views.listed([plain_e8(level) for level in levels_e8(row.market, row.tick_e8)])}}}"
            for row in self._listed(request.query, "markets")
        ]
        return _spelled(request, views.listed(lines))

    # --- candles --------------------------------------------------------------------------------------------------

    def _candles_of(self, unit: str) -> Handler:
        async def handler(request: web.Request) -> web.Response:
            return self._candle_answer(request, unit)

        return handler

    async def minutes(self, request: web.Request) -> web.Response:
        """Candles of some minutes."""
        minutes = queries.whole(request.match_info["unit"])
        if minutes not in MINUTES:
            raise QuotationError(400, INVALID)
        return self._candle_answer(request, f"{minutes}m")

    def _candle_answer(self, request: web.Request, unit: str) -> web.Response:
        (row,) = self._listed(request.query, "market")
        count = queries.integer(request.query, "count", 1, 1, MOST_CANDLES)
        to_ms = queries.moment_ms(request.query.get("to"))
        found: Iterator[Candle] = self._candles.before(row.market, unit, to_ms)
        if unit == "1s":
            oldest_ms = self._feed.clock_ms - SECONDS_HELD_MS
            found = takewhile(lambda candle: candle.start_ms >= oldest_ms, found)
        if unit == "1d":
            return _spelled(request, views.listed(self._days(request.query, row.market, count, found)))
        lines = [views.candle_line(row.market, unit, candle) for candle in islice(found, count)]
        return _spelled(request, views.listed(lines))

    def _days(self, query: Mapping[str, str], market: str, count: int, found: Iterator[Candle]) -> list[str]:
        unit = query.get("converting_price_unit", "")
        if unit not in {"", "KRW"}:
            raise QuotationError(400, INVALID)
        days = list(islice(found, count + 1))
        lines = []
        for i, day in enumerate(days[:count]):
            closing_e8 = days[i + 1].close_e8 if i + 1 < len(days) else self._tickers.closing_e8(market, day.start_ms)
            converted_e8 = self._in_won(market, day) if unit else None
            lines.append(views.candle_line(market, "1d", day, closing_e8, converted_e8))
        return lines

    def _in_won(self, market: str, day: Candle) -> int | None:
        """A day's closing price in won; None where its quote currency has no price in won that day."""
        quote = market.partition("-")[0]
        if quote == "KRW":
            return day.close_e8
        other = next(self._candles.before(f"KRW-{quote}", "1d", day.start_ms + 1), None)
        return None if other is None else day.close_e8 * other.close_e8 // E8

    # --- trades, tickers, books -----------------------------------------------------------------------------------

    async def ticks(self, request: web.Request) -> web.Response:
        """A day's trades before a time or a cursor, newest first."""
        query = request.query
        (row,) = self._listed(query, "market")
        count = queries.integer(query, "count", 1, 1, MOST_TICKS)
        days_ago = queries.integer(query, "days_ago", 0, 1, 7)
        cursor = queries.integer(query, "cursor", 1 << 62, 0, 1 << 63)
        from_ms, to_ms = queries.day_span(query.get("to"), days_ago, self._feed.clock_ms)
        trades = self._candles.prints(row.market, from_ms, to_ms)
        closing_e8 = self._tickers.closing_e8(row.market, from_ms)
        lines = (views.tick_line(row.market, trade, closing_e8) for trade in trades if trade.sequential_id < cursor)
        return _spelled(request, views.listed(list(islice(lines, count))))

    def _ticker_answer(self, request: web.Request, markets: list[str]) -> web.Response:
        rows = (self._tickers.row(market) for market in markets)
        return _spelled(request, views.listed([views.ticker_line(row) for row in rows if row is not None]))

    async def tickers(self, request: web.Request) -> web.Response:
        """The tickers of some markets; one without any trade yet has none."""
        return self._ticker_answer(request, [row.market for row in self._listed(request.query, "markets")])

    async def all_tickers(self, request: web.Request) -> web.Response:
        """The tickers of all markets of some quote currencies."""
        quotes = set(queries.required(request.query, "quote_currencies").split(","))
        markets = [row.market for row in self._feed.markets()]
        return self._ticker_answer(request, [market for market in markets if market.partition("-")[0] in quotes])

    async def books(self, request: web.Request) -> web.Response:
        """The order books of some markets; an unsupported grouping gives none."""
        rows = self._listed(request.query, "markets")
        count = queries.integer(request.query, "count", MOST_LEVELS, 1, MOST_LEVELS)
        level = queries.level_e8(request.query.get("level", "0"))
        lines = []
        for row in rows:
            book = self._feed.book(row.market)
            if book is None or level not in levels_e8(row.market, row.tick_e8):
                continue
            bids, asks = (
                group_levels(side, level, is_bid=is_bid) for side, is_bid in ((book.bids, True), (book.asks, False))
            )
            lines.append(views.book_line(row.market, book.exchange_ms, bids, asks, count, level))
        return _spelled(request, views.listed(lines))
