"""REST quotation: market/all, orderbook/instruments, trades/ticks, as the producers' back-fill needs them.

Called by the server. Errors carry an integer name, as the exchange's quotation side does.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from aiohttp import web

from infra.upbit.wire import plain_e8
from producers.sandbox.configuration import dump
from producers.sandbox.feeds import Feed, Print
from streams.market.ticks import E8

_DAY_MS = 86_400_000
_INVALID = "Invalid parameter. Check the given value!"
_TYPE = "Type mismatch error. Check the parameters type!"
_MISSING = "Missing request parameter error. Check the required parameters!"
_NOT_FOUND = "Code not found"


class QuotationError(Exception):
    """Answered as `{"error":{"name":<status>,"message":...}}`."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def answer(value: object, group: str, status: int = 200) -> web.Response:
    """A JSON answer with the quotation side's headers."""
    headers = {
        "Remaining-Req": f"group={group}; min=600; sec=9",
        "Limit-By-Ip": "Yes",
        "Cache-Control": "no-cache, no-store, max-age=0, must-revalidate",
    }
    return web.Response(text=dump(value), status=status, content_type="application/json", headers=headers)


class Quotation:
    """The handlers."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def routes(self) -> list[web.RouteDef]:
        """What the server mounts."""
        return [
            web.get("/v1/market/all", self.markets),
            web.get("/v1/orderbook/instruments", self.instruments),
            web.get("/v1/trades/ticks", self.ticks),
        ]

    async def markets(self, request: web.Request) -> web.Response:
        """Every listed market; with `is_details=true` the caution flags."""
        is_detailed = _boolean(request.query, "is_details")
        rows = []
        for row in self._feed.markets():
            line: dict[str, object] = {
                "market": row.market, "korean_name": row.korean_name, "english_name": row.english_name
            }  # fmt: skip
            if is_detailed:
                line["market_event"] = {
                    "warning": False,
                    "caution": dict.fromkeys(
                        (
                            "PRICE_FLUCTUATIONS", "TRADING_VOLUME_SOARING", "DEPOSIT_AMOUNT_SOARING",
                            "GLOBAL_PRICE_DIFFERENCES", "CONCENTRATION_OF_SMALL_ACCOUNTS",
                        ),
                        False,
                    ),
                }  # fmt: skip
            rows.append(line)
        return answer(rows, "market")

    async def instruments(self, request: web.Request) -> web.Response:
        """Tick size and grouping levels of some markets."""
        wanted = _required(request.query, "markets").split(",")
        rows = {row.market: row for row in self._feed.markets()}
        if any(market not in rows for market in wanted):
            raise QuotationError(404, _NOT_FOUND)
        lines = []
        for market in wanted:
            tick = rows[market].tick_e8
            is_won = market.startswith("KRW-")
            levels = ["0"] + [plain_e8(tick * 10**power) for power in range(1, 6)] if is_won else ["0"]
            lines.append(
                {
                    "market": market,
                    "quote_currency": market.partition("-")[0],
                    "tick_size": plain_e8(tick),
                    "supported_levels": levels,
                }
            )
        return answer(lines, "orderbook")

    async def ticks(self, request: web.Request) -> web.Response:
        """The newest trades before a time or a cursor, newest first."""
        query = request.query
        market = _required(query, "market")
        if market not in {row.market for row in self._feed.markets()}:
            raise QuotationError(404, _NOT_FOUND)
        count = _integer(query, "count", 1)
        days_ago = _integer(query, "days_ago", 0)
        cursor = _integer(query, "cursor", 0)
        if not 1 <= count <= 500 or ("days_ago" in query and not 1 <= days_ago <= 7):
            raise QuotationError(400, _INVALID)
        before_ms = _before_ms(query.get("to"), days_ago, self._feed.clock_ms)
        rows: list[Print] = []
        for trade in reversed(self._feed.prints(market)):
            if (cursor and trade.sequential_id >= cursor) or trade.trade_ms >= before_ms:
                continue
            rows.append(trade)
            if len(rows) == count:
                break
        opening = self._feed.opening_e8(market)
        return answer([_tick_row(market, trade, opening) for trade in rows], "crix-trades")


def _tick_row(market: str, trade: Print, opening_e8: int) -> dict[str, object]:
    moment = datetime.fromtimestamp(trade.trade_ms // 1000, UTC)
    return {
        "market": market,
        "trade_date_utc": f"{moment:%Y-%m-%d}",
        "trade_time_utc": f"{moment:%H:%M:%S}",
        "timestamp": trade.trade_ms,
        "trade_price": trade.price_e8 / E8,
        "trade_volume": trade.lots / E8,
        "prev_closing_price": opening_e8 / E8,
        "change_price": (trade.price_e8 - opening_e8) / E8,
        "ask_bid": "BID" if trade.is_buy else "ASK",
        "sequential_id": trade.sequential_id,
    }


def _before_ms(to: str | None, days_ago: int, now_ms: int) -> int:
    """Exclusive upper bound: a UTC time of day, today or `days_ago` days back; no bound where neither is given."""
    if to is None and days_ago == 0:
        return now_ms + _DAY_MS
    day = datetime.fromtimestamp(now_ms / 1000, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    day -= timedelta(days=days_ago)
    if to is None:
        return int(day.timestamp() * 1000) + _DAY_MS
    for form in ("%H%M%S", "%H:%M:%S"):
        try:
            moment = datetime.strptime(to, form).replace(tzinfo=UTC)
        except ValueError:
            continue
        day += timedelta(hours=moment.hour, minutes=moment.minute, seconds=moment.second)
        return int(day.timestamp() * 1000)
    raise QuotationError(400, _INVALID)


def _required(query: Mapping[str, str], name: str) -> str:
    value = query.get(name, "")
    if not value:
        raise QuotationError(400, _MISSING)
    return value


def _integer(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise QuotationError(400, _TYPE)
    return int(text)


def _boolean(query: Mapping[str, str], name: str) -> bool:
    text = query.get(name, "false").lower()
    if text not in {"true", "false"}:
        raise QuotationError(400, _TYPE)
    return text == "true"
