"""Books and trades of Parquet files as lines of a recording: Upbit frames, Binance columns, or our own export.

Called by the sandbox server. Which layout a file has is read from its columns; both files of a recording are merged by
the time of receipt. Files are read in batches, never whole.
"""

import heapq
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import BadSettings
from producers.sandbox.outside import Line
from producers.sandbox.recording import Survey
from streams.market.ticks import e8_of
from streams.messages import OrderBook, Trade

_ROWS = 512
_PAIR = re.compile(r"(?:^|_)([a-z0-9]+?)(usdt|btc|krw)_")

Row = dict[str, Any]
Reading = Callable[[Row, str], OrderBook | Trade]


class Layout(NamedTuple):
    """How a file says it: by which columns it is known, where market, first price and time stand, how a row is read."""

    kind: str
    marks: set[str]
    market: str
    """Empty where only the file's name tells it."""
    price: str
    at_ms: str
    reading: Reading


class StoredFrames:
    """A file of books, a file of trades, or both."""

    def __init__(self, books: Path, trades: Path | None = None) -> None:
        self._files = [(books, "orderbook")] + ([] if trades is None else [(trades, "trade")])

    def survey(self, skipped: Counter[str]) -> Survey:
        """Markets with their first price, in one pass over three columns."""
        _ = skipped
        prices: dict[str, int] = {}
        frames: dict[str, int] = {}
        clock_ms = 0
        for path, kind in self._files:
            frames[kind] = 0
            for market, price, at_ms in _surveyed(path, kind):
                frames[kind] += 1
                clock_ms = min(clock_ms or at_ms, at_ms)
                if price and market not in prices:
                    prices[market] = e8_of(price)
        if not prices:
            raise BadSettings(f"{self._files[0][0]} holds no book")
        return Survey(prices, clock_ms, frames)

    def lines(self) -> Iterator[Line]:
        """Both files, in the order of receipt; a trade before a book of the same moment."""
        readers = [_lines(path, kind) for path, kind in reversed(self._files)]
        return heapq.merge(*readers, key=lambda line: line.received_ns)


def _lines(path: Path, kind: str) -> Iterator[Line]:
    with _opened(path) as file:
        reading, pair = _layout(path, kind, file).reading, _pair_of(path)
        number = 0
        for batch in file.iter_batches(_ROWS):
            for row in batch.to_pylist():
                message = reading(row, pair)
                source = f"{path.name}:{number}"
                yield Line(message.received_ns, b"", kind, message.market, message.exchange_ms, message, source)
                number += 1


def _surveyed(path: Path, kind: str) -> Iterator[tuple[str, float, int]]:
    """Market, price (zero where a book has none) and time of every row."""
    with _opened(path) as file:
        layout, pair = _layout(path, kind, file), _pair_of(path)
        names = [name for name in (layout.market, layout.price, layout.at_ms) if name]
        for batch in file.iter_batches(_ROWS, columns=names):
            for row in batch.to_pylist():
                price = row[layout.price]
                first = next(iter(price), 0.0) if isinstance(price, list) else price
                yield row[layout.market] if layout.market else pair, first or 0.0, row[layout.at_ms]


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise BadSettings(f"the recording {path} cannot be read: {error}") from error


def _pair_of(path: Path) -> str:
    """The market that a file name tells (`spot_ethusdt_...` is USDT-ETH), for files without a column for it."""
    match = _PAIR.search(path.name.lower())
    return "" if match is None else f"{match[2]}-{match[1]}".upper()


def _layout(path: Path, kind: str, file: pq.ParquetFile) -> Layout:
    names = set(file.schema_arrow.names)
    for layout in _layouts():
        if layout.kind == kind and {layout.price, layout.at_ms, *layout.marks} <= names:
            if not layout.market and not _pair_of(path):
                raise BadSettings(f"{path} has no column for the market, and its name tells none")
            return layout
    raise BadSettings(f"{path} holds no {kind} columns of Upbit, of Binance or of `observator read`")


def _layouts() -> tuple[Layout, ...]:
    return (
        Layout("orderbook", {"code", "recv_us"}, "code", "ask_price_1", "timestamp", _upbit_book),
        Layout("trade", {"code", "recv_us", "sequential_id"}, "code", "trade_price", "timestamp", _upbit_trade),
        Layout("orderbook", {"recv_ns"}, "", "ask_price_1", "event_ms", _binance_book),
        Layout("trade", {"recv_ns", "trade_id", "is_buyer_maker"}, "", "price", "event_ms", _binance_trade),
        Layout("orderbook", {"market", "received_ns"}, "market", "ask_prices", "exchange_ms", _own_book),
        Layout("trade", {"market", "received_ns", "is_buy"}, "market", "price", "exchange_ms", _own_trade),
    )


def _side(row: Row, name: str) -> list[float]:
    """Numbered columns, best first, up to the first that is missing or padded."""
    found = []
    for level in range(1, 31):
        if not row.get(f"{name}_price_{level}"):
            break
        found.append(level)
    return [value for level in found for value in (row[f"{name}_price_{level}"], row[f"{name}_size_{level}"])]


def _book(market: str, exchange_ms: int, received_ns: int, row: Row) -> OrderBook:
    bids, asks = _side(row, "bid"), _side(row, "ask")
    return OrderBook(
        exchange="upbit", market=market, source="parquet", session=0, exchange_ms=exchange_ms, received_ns=received_ns,
        bid_prices=bids[::2], bid_sizes=bids[1::2], ask_prices=asks[::2], ask_sizes=asks[1::2],
    )  # fmt: skip


def _trade(market: str, received_ns: int, **values: Any) -> Trade:
    return Trade(exchange="upbit", market=market, source="parquet", session=0, received_ns=received_ns, **values)


def _upbit_book(row: Row, _pair: str) -> OrderBook:
    return _book(row["code"], row["timestamp"], row["recv_us"] * 1000, row)


def _upbit_trade(row: Row, _pair: str) -> Trade:
    return _trade(
        row["code"], row["recv_us"] * 1000, exchange_ms=row["timestamp"], trade_ms=row["trade_timestamp"],
        trade_id=row["sequential_id"], price=row["trade_price"], size=row["trade_volume"],
        is_buy=row["ask_bid"] == "BID",
    )  # fmt: skip


def _binance_book(row: Row, pair: str) -> OrderBook:
    return _book(pair, row["event_ms"], row["recv_ns"], row)


def _binance_trade(row: Row, pair: str) -> Trade:
    return _trade(
        pair, row["recv_ns"], exchange_ms=row["event_ms"], trade_ms=row["trade_ms"], trade_id=row["trade_id"],
        price=row["price"], size=row["qty"], is_buy=not row["is_buyer_maker"],
    )  # fmt: skip


def _own_book(row: Row, _pair: str) -> OrderBook:
    return OrderBook(**{name: row[name] for name in OrderBook.__struct_fields__})


def _own_trade(row: Row, _pair: str) -> Trade:
    return Trade(**{name: row[name] for name in Trade.__struct_fields__})
