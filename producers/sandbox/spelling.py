"""How the exchange spells books and trades: keys, order of keys and number spelling as captured in 2026. Pure.

DEFAULT writes a book's prices like Java (`1.16539E8`) and its sizes with eight decimals, a trade's own numbers with
eight decimals and the best quotes beside it plain; SIMPLE writes prices plain and sizes like Java (`7.9276E-4`).
`kernels.spell` does the digits. Tickers and candles stand in `stream_views`.
"""

from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from producers.sandbox import kernels
from producers.sandbox.feeds import Print, Style
from producers.sandbox.grouping import group

Ints = npt.NDArray[np.int64]

_SCRATCH = 64 * 1024


def _texts(*parts: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint64]]:
    """Texts one behind another, and where each begins and the last one ends, as `kernels.spell_book` takes them."""
    ends = np.cumsum([0] + [len(part.encode()) for part in parts])
    return np.frombuffer("".join(parts).encode(), dtype=np.uint8), ends.astype(np.uint64)


_LONG_KEYS = _texts(
    '"total_ask_size":', ',"total_bid_size":', ',"orderbook_units":[',
    '{"ask_price":', ',"bid_price":', ',"ask_size":', ',"bid_size":',
)  # fmt: skip
_SHORT_KEYS = _texts('"tas":', ',"tbs":', ',"obu":[', '{"ap":', ',"bp":', ',"as":', ',"bs":')


class Speller:
    """Writes frames; owns the scratch buffer that the compiled kernels write into (one thread)."""

    def __init__(self) -> None:
        self._buffer = np.zeros(_SCRATCH, dtype=np.uint8)

    def number(self, e8: int, style: int) -> str:
        """One number of 1e-8 in a kernel style."""
        if e8 < 0:
            return "-" + self.number(-e8, style)
        end = kernels.spell(self._buffer, 0, e8, style)
        return self._buffer[:end].tobytes().decode()

    def book(
        self, market: str, at_ms: int, bids: tuple[Ints, Ints], asks: tuple[Ints, Ints], style: Style, unit_e8: int = 1
    ) -> bytes:
        """One orderbook frame from (prices, lots) per side; prices are multiples of `unit_e8`."""
        simple, depth = style.is_simple, style.depth
        keys = _SHORT_KEYS if simple else _LONG_KEYS
        prices, sizes = (kernels.PLAIN, kernels.JAVA) if simple else (kernels.JAVA, kernels.FIXED)
        level = "0"
        if style.level_e8:
            level = self.number(style.level_e8, kernels.PLAIN)
            bids = group(bids[0] * unit_e8, bids[1], style.level_e8, is_bid=True)
            asks = group(asks[0] * unit_e8, asks[1], style.level_e8, is_bid=False)
            unit_e8 = 1
        end = kernels.spell_book(self._buffer, *asks, *bids, unit_e8, depth, prices, sizes, *keys)
        middle = self._buffer[:end].tobytes()
        kind = "SNAPSHOT" if style.is_snapshot else "REALTIME"
        if simple:
            head = f'{{"ty":"orderbook","cd":"{market}","tms":{at_ms},'
            tail = f'],"st":"{kind}","lv":{level}}}'
        else:
            head = f'{{"type":"orderbook","code":"{market}","timestamp":{at_ms},'
            tail = f'],"stream_type":"{kind}","level":{level}}}'
        return enlist(head.encode() + middle + tail.encode(), style)

    def trade(
        self,
        market: str,
        at_ms: int,
        trade: Print,
        opening_e8: int,
        best: tuple[int, int, int, int],
        style: Style,
    ) -> bytes:
        """One trade frame; `best` is ask price, ask lots, bid price, bid lots."""
        simple = style.is_simple
        sizes = kernels.JAVA if simple else kernels.PLAIN
        moment = datetime.fromtimestamp(trade.trade_ms // 1000, UTC)
        change = trade.price_e8 - opening_e8
        names = _TRADE_SHORT if simple else _TRADE_LONG
        values = (
            '"trade"',
            f'"{market}"',
            str(at_ms),
            f'"{moment:%Y-%m-%d}"',
            f'"{moment:%H:%M:%S}"',
            str(trade.trade_ms),
            self.number(trade.price_e8, kernels.PLAIN) if simple else decimal_text(trade.price_e8),
            self.number(trade.lots, sizes) if simple else decimal_text(trade.lots),
            '"BID"' if trade.is_buy else '"ASK"',
            self.number(opening_e8, kernels.PLAIN) if simple else decimal_text(opening_e8),
            '"RISE"' if change > 0 else '"FALL"' if change < 0 else '"EVEN"',
            self.number(abs(change), kernels.PLAIN) if simple else decimal_text(abs(change)),
            str(trade.sequential_id),
            self.number(best[0], kernels.PLAIN),
            self.number(best[1], sizes),
            self.number(best[2], kernels.PLAIN),
            self.number(best[3], sizes),
            '"SNAPSHOT"' if style.is_snapshot else '"REALTIME"',
        )
        body = ",".join(f'"{name}":{value}' for name, value in zip(names, values, strict=True))
        return enlist(f"{{{body}}}".encode(), style)


_TRADE_LONG = (
    "type", "code", "timestamp", "trade_date", "trade_time", "trade_timestamp", "trade_price", "trade_volume",
    "ask_bid", "prev_closing_price", "change", "change_price", "sequential_id", "best_ask_price", "best_ask_size",
    "best_bid_price", "best_bid_size", "stream_type",
)  # fmt: skip
_TRADE_SHORT = (
    "ty", "cd", "tms", "td", "ttm", "ttms", "tp", "tv", "ab", "pcp", "c", "cp", "sid", "bap", "bas", "bbp", "bbs", "st",
)  # fmt: skip


def decimal_text(value: int, digits: int = 8) -> str:
    """An integer of 10**-digits as Java spells a decimal: all digits, `0E-8` and `7E-8` below 1e-6."""
    return str(Decimal(f"{value}E-{digits}"))  # Python's own rule is the same


def enlist(frame: bytes, style: Style) -> bytes:
    """Put the frame into an array where a LIST format is asked for."""
    return b"[" + frame + b"]" if style.is_list else frame
