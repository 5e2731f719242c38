"""How the exchange spells its stream: keys, order of keys and number spelling as captured in 2026. Pure.

DEFAULT writes prices like Java (`1.16539E8`) and book sizes with eight decimals; SIMPLE writes prices plain and sizes
like Java (`7.9276E-4`). `kernels.spell` does the digits.
"""

from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from producers.sandbox import kernels
from producers.sandbox.feeds import Print, Style

Ints = npt.NDArray[np.int64]

_SCRATCH = 64 * 1024


def _text(value: str) -> npt.NDArray[np.uint8]:
    return np.frombuffer(value.encode(), dtype=np.uint8)


_LONG_KEYS = tuple(_text(t) for t in ('{"ask_price":', ',"bid_price":', ',"ask_size":', ',"bid_size":'))
_SHORT_KEYS = tuple(_text(t) for t in ('{"ap":', ',"bp":', ',"as":', ',"bs":'))


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

    def book(self, market: str, at_ms: int, bids: tuple[Ints, Ints], asks: tuple[Ints, Ints], style: Style) -> bytes:
        """One orderbook frame from (prices, lots) per side."""
        simple, depth = style.is_simple, style.depth
        keys = _SHORT_KEYS if simple else _LONG_KEYS
        prices, sizes = (kernels.PLAIN, kernels.JAVA) if simple else (kernels.JAVA, kernels.FIXED)
        total_ask = self.number(int(asks[1][:depth].sum()), sizes)
        total_bid = self.number(int(bids[1][:depth].sum()), sizes)
        end = kernels.spell_levels(self._buffer, asks[0], asks[1], bids[0], bids[1], depth, prices, sizes, *keys)
        levels = self._buffer[:end].tobytes()
        kind = "SNAPSHOT" if style.is_snapshot else "REALTIME"
        if simple:
            head = f'{{"ty":"orderbook","cd":"{market}","tms":{at_ms},"tas":{total_ask},"tbs":{total_bid},"obu":['
            tail = f'],"st":"{kind}","lv":0}}'
        else:
            head = (
                f'{{"type":"orderbook","code":"{market}","timestamp":{at_ms},"total_ask_size":{total_ask},'
                f'"total_bid_size":{total_bid},"orderbook_units":['
            )
            tail = f'],"stream_type":"{kind}","level":0}}'
        return enlist(head.encode() + levels + tail.encode(), style)

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
        prices, sizes = (kernels.PLAIN, kernels.JAVA) if simple else (kernels.JAVA, kernels.FIXED)
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
            self.number(trade.price_e8, prices),
            self.number(trade.lots, sizes),
            '"BID"' if trade.is_buy else '"ASK"',
            self.number(opening_e8, prices),
            '"RISE"' if change > 0 else '"FALL"' if change < 0 else '"EVEN"',
            self.number(abs(change), prices),
            str(trade.sequential_id),
            self.number(best[0], prices),
            self.number(best[1], sizes),
            self.number(best[2], prices),
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


def enlist(frame: bytes, style: Style) -> bytes:
    """Put the frame into an array where a LIST format is asked for."""
    return b"[" + frame + b"]" if style.is_list else frame
