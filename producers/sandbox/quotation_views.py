"""How the REST quotation spells its rows: keys, their order and the digits of numbers. Pure; called by `quotation`.

Prices, sizes and turnovers of candles and trades carry eight decimals, rates ten: with these the recorded answers have
the length and the checksum (`ETag`) that the exchange gave them. A ticker's turnover of the day carries sixteen, its
24-hour sums none that are zero; that agrees with the recorded lengths only.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from infra.upbit.wire import plain_e8, scaled_text
from producers.sandbox.candle_rows import Candle
from producers.sandbox.candles import korean_text, utc_text
from producers.sandbox.feeds import Print
from producers.sandbox.periods import FIXED_MS
from producers.sandbox.spelling import decimal_text
from producers.sandbox.tickers import rate_e10
from streams.market.matching import Level

_TICKER_TEXTS = frozenset(
    ("market", "trade_date", "trade_time", "trade_date_kst", "trade_time_kst", "change", "highest_52_week_date",
     "lowest_52_week_date")
)  # fmt: skip
TICKER_KEYS = (
    "market", "trade_date", "trade_time", "trade_date_kst", "trade_time_kst", "trade_timestamp", "opening_price",
    "high_price", "low_price", "trade_price", "prev_closing_price", "change", "change_price", "change_rate",
    "signed_change_price", "signed_change_rate", "trade_volume", "acc_trade_price", "acc_trade_price_24h",
    "acc_trade_volume", "acc_trade_volume_24h", "highest_52_week_price", "highest_52_week_date",
    "lowest_52_week_price", "lowest_52_week_date", "timestamp",
)  # fmt: skip


def number(value: int, digits: int = 8) -> str:
    """An integer of 10**-digits with all its decimals; zero is `0`."""
    if value >= 10**digits:  # the usual case, without a decimal object
        whole, rest = divmod(value, 10**digits)
        return f"{whole}.{rest:0{digits}d}"
    return decimal_text(value, digits) if value else "0"


def _line(parts: Mapping[str, str]) -> str:
    return "{" + ",".join(f'"{key}":{value}' for key, value in parts.items()) + "}"


def listed(lines: Sequence[str]) -> str:
    """An array of spelled rows."""
    return "[" + ",".join(lines) + "]"


def candle_line(
    market: str, unit: str, candle: Candle, closing_e8: int | None = None, converted_e8: int | None = None
) -> str:
    """One candle; days carry the closing price of the day before, and the converted price where it was asked for."""
    parts = {
        "market": f'"{market}"',
        "candle_date_time_utc": f'"{utc_text(candle.start_ms)}"',
        "candle_date_time_kst": f'"{korean_text(candle.start_ms)}"',
        "opening_price": number(candle.open_e8),
        "high_price": number(candle.high_e8),
        "low_price": number(candle.low_e8),
        "trade_price": number(candle.close_e8),
        "timestamp": str(candle.stamp_ms),
        "candle_acc_trade_price": number(candle.value_e8),
        "candle_acc_trade_volume": number(candle.lots),
    }
    if unit == "1d":
        closing_e8 = candle.open_e8 if closing_e8 is None else closing_e8
        change = candle.close_e8 - closing_e8
        parts["prev_closing_price"] = number(closing_e8)
        parts["change_price"] = number(change)
        parts["change_rate"] = number(rate_e10(change, closing_e8), 10)
        if converted_e8 is not None:
            parts["converted_trade_price"] = number(converted_e8)
    elif unit in FIXED_MS:
        if unit != "1s":
            parts["unit"] = unit.removesuffix("m")
    else:
        parts["first_day_of_period"] = f'"{utc_text(candle.start_ms)[:10]}"'
    return _line(parts)


def tick_line(market: str, trade: Print, closing_e8: int) -> str:
    """One trade."""
    date, _, time = utc_text(trade.trade_ms).partition("T")
    return _line(
        {
            "market": f'"{market}"',
            "trade_date_utc": f'"{date}"',
            "trade_time_utc": f'"{time}"',
            "timestamp": str(trade.trade_ms),
            "trade_price": number(trade.price_e8),
            "trade_volume": number(trade.lots),
            "prev_closing_price": number(closing_e8),
            "change_price": number(trade.price_e8 - closing_e8),
            "ask_bid": '"BID"' if trade.is_buy else '"ASK"',
            "sequential_id": str(trade.sequential_id),
        }
    )


def ticker_line(row: Mapping[str, Any]) -> str:
    """One row of `tickers`, without the fields that only the websocket tells."""
    return _line({key: _ticker_value(key, row[key]) for key in TICKER_KEYS})


def _ticker_value(key: str, value: Any) -> str:
    if key in _TICKER_TEXTS:
        return f'"{value}"'
    if key.endswith("timestamp"):
        return str(value)
    if key == "acc_trade_price":
        return number(value, 16)
    if key.endswith("_24h"):
        return scaled_text(value, 16 if "price" in key else 8)
    return number(value, 10 if key.endswith("rate") else 8)


def book_line(market: str, at_ms: int, bids: Sequence[Level], asks: Sequence[Level], count: int, level_e8: int) -> str:
    """One order book of `count` levels; a side that has fewer is padded with zeros."""
    bids, asks = bids[:count], asks[:count]
    nothing = Level(0, 0)
    units = []
    for i in range(max(len(bids), len(asks))):
        bid, ask = bids[i] if i < len(bids) else nothing, asks[i] if i < len(asks) else nothing
        units.append(
            f'{{"bid_price":{plain_e8(bid.price_e8)},"bid_size":{_size(bid.lots)},'
            f'"ask_price":{plain_e8(ask.price_e8)},"ask_size":{_size(ask.lots)}}}'
        )
    return _line(
        {
            "market": f'"{market}"',
            "timestamp": str(at_ms),
            "total_ask_size": _size(sum(level.lots for level in asks)),
            "total_bid_size": _size(sum(level.lots for level in bids)),
            "orderbook_units": listed(units),
            "level": plain_e8(level_e8),
        }
    )


def _size(lots: int) -> str:
    text = plain_e8(lots)
    return text if "." in text else text + ".0"
