"""Ticker and candle frames of the public websocket, made from the rows of `tickers` and `candles`.

Called by the hub. DEFAULT spells prices and sizes with all eight decimals, as captured; of SIMPLE there is no capture,
it follows the order book's: prices plain, sizes like Java.
"""

from collections.abc import Mapping
from typing import Any

from infra.upbit.wire import scaled_text
from producers.sandbox import kernels
from producers.sandbox.feeds import Frame, Style
from producers.sandbox.spelling import Speller, decimal_text, enlist

Row = Mapping[str, Any]

_TEXT, _WHOLE, _PRICE, _SIZE, _VALUE, _DAY_VALUE, _DAY_SIZE, _RATE = range(8)
"""How a field is spelled: text or null, whole number or flag, price, size, turnover of 1e-16, both over 24 h, rate."""

TICKER = (
    ("type", "ty", _TEXT), ("code", "cd", _TEXT), ("opening_price", "op", _PRICE), ("high_price", "hp", _PRICE),
    ("low_price", "lp", _PRICE), ("trade_price", "tp", _PRICE), ("prev_closing_price", "pcp", _PRICE),
    ("acc_trade_price", "atp", _VALUE), ("change", "c", _TEXT), ("change_price", "cp", _PRICE),
    ("signed_change_price", "scp", _PRICE), ("change_rate", "cr", _RATE), ("signed_change_rate", "scr", _RATE),
    ("ask_bid", "ab", _TEXT), ("trade_volume", "tv", _SIZE), ("acc_trade_volume", "atv", _SIZE),
    ("trade_date", "tdt", _TEXT), ("trade_time", "ttm", _TEXT), ("trade_timestamp", "ttms", _WHOLE),
    ("acc_ask_volume", "aav", _SIZE), ("acc_bid_volume", "abv", _SIZE), ("highest_52_week_price", "h52wp", _PRICE),
    ("highest_52_week_date", "h52wdt", _TEXT), ("lowest_52_week_price", "l52wp", _PRICE),
    ("lowest_52_week_date", "l52wdt", _TEXT), ("market_state", "ms", _TEXT), ("is_trading_suspended", "its", _WHOLE),
    ("delisting_date", "dd", _TEXT), ("market_warning", "mw", _TEXT), ("timestamp", "tms", _WHOLE),
    ("acc_trade_price_24h", "atp24h", _DAY_VALUE), ("acc_trade_volume_24h", "atv24h", _DAY_SIZE),
    ("stream_type", "st", _TEXT),
)  # fmt: skip
CANDLE = (
    ("type", "ty", _TEXT), ("code", "cd", _TEXT), ("candle_date_time_utc", "cdttmu", _TEXT),
    ("candle_date_time_kst", "cdttmk", _TEXT), ("opening_price", "op", _PRICE), ("high_price", "hp", _PRICE),
    ("low_price", "lp", _PRICE), ("trade_price", "tp", _PRICE), ("candle_acc_trade_volume", "catv", _SIZE),
    ("candle_acc_trade_price", "catp", _PRICE), ("timestamp", "tms", _WHOLE), ("stream_type", "st", _TEXT),
)  # fmt: skip
"""Long key, short key, spelling; in the captured order. A candle's turnover has eight decimals, a ticker's sixteen."""


def _default(value: Any, kind: int) -> str:
    if kind == _VALUE:
        return decimal_text(value, 16)
    if kind == _DAY_VALUE:
        return scaled_text(value, 16)
    if kind == _DAY_SIZE:
        return scaled_text(value, 8)
    if kind == _RATE:
        return decimal_text(value, 10) if value else "0"
    return decimal_text(value)


def _simple(speller: Speller, value: Any, kind: int) -> str:
    if kind in {_VALUE, _DAY_VALUE}:
        return scaled_text(value, 16)
    if kind == _RATE:
        return scaled_text(value, 10)
    return speller.number(value, kernels.PLAIN if kind == _PRICE else kernels.JAVA)


def _plain(value: Any, kind: int) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if kind == _TEXT else str(value)


def spell(speller: Speller, fields: tuple[tuple[str, str, int], ...], row: Row, style: Style) -> bytes:
    """One frame; `row` holds integers: prices and sizes of 1e-8, a ticker's turnover of 1e-16, rates of 1e-10."""
    parts = []
    for long, short, kind in fields:
        value = ("SNAPSHOT" if style.is_snapshot else "REALTIME") if long == "stream_type" else row[long]
        if kind in {_TEXT, _WHOLE}:
            text = _plain(value, kind)
        else:
            text = _simple(speller, value, kind) if style.is_simple else _default(value, kind)
        parts.append(f'"{short if style.is_simple else long}":{text}')
    return enlist(f"{{{','.join(parts)}}}".encode(), style)


def frame(speller: Speller, fields: tuple[tuple[str, str, int], ...], row: Row) -> Frame:
    """The frame of a row that does not change any more."""
    cache: dict[Style, bytes] = {}

    def spelled(style: Style) -> bytes:
        if style not in cache:
            cache[style] = spell(speller, fields, row, style)
        return cache[style]

    return Frame(row["type"], row["code"], row["timestamp"], spelled)
