"""Recorded books and trades as the flat arrays that the compiled loop of the kernels takes.

Called by backtests, training and the bench. Order is the recorded one; back-filled trades and books without a size to
each price are left out, as the live stage leaves them out. Memory is that of one stretch of time.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from consumers.archive.frames import MARKED, Wanted, batches, day_ms, marks_of, spans_of
from infra.log import Slot
from streams.history import History
from streams.market import kernels
from streams.market.features import BOOK_AGE_CAP_S

HOUR_MS = 3_600_000
_BOOK = ("bid_prices", "bid_sizes", "ask_prices", "ask_sizes")
_BOOKS = ("append_ms", "exchange", "market", "exchange_ms", *_BOOK)
_TRADES = ("append_ms", "exchange", "market", "exchange_ms", "price", "size", "is_buy", "origin")


class KernelColumns(NamedTuple):
    """One market's records over a stretch; the arrays are those of `streams.market.kernels.run_columns`."""

    exchange: str
    market: str
    kinds: npt.NDArray[np.int8]
    """0 for a book, 1 for a trade."""
    event_ms: npt.NDArray[np.int64]
    books: kernels.Floats
    counts: npt.NDArray[np.int32]
    trades: kernels.Floats
    is_marked: npt.NDArray[np.bool_]
    """Of each record: whether its time lies in a hole. A hole ends a run; the compiled loop does not know of it."""

    def run(self, grid_ms: int = 1_000, window: int = 300) -> kernels.Floats:
        """The feature vectors of every bin from the first record's to the last one's."""
        bins = int(self.event_ms.max() // grid_ms - self.event_ms[0] // grid_ms) + 1
        rows = np.zeros((bins, kernels.OUT))
        found = kernels.run_columns(
            self.kinds, self.event_ms, self.books, self.counts, self.trades, grid_ms, window, BOOK_AGE_CAP_S, rows
        )
        return rows[:found]


def kernel_columns(
    history: History, from_ms: int, to_ms: int, markets: Sequence[str] = (), *, step_ms: int = HOUR_MS
) -> Iterator[KernelColumns]:
    """Yield each market's records, appended in [`from_ms`, `to_ms`), in stretches of `step_ms` of append time.

    Stretch by stretch, each market once in it. `joined` puts those of one market together again.
    """
    names = tuple(markets)
    sides = [
        _Side(history, Wanted("orderbooks", from_ms, to_ms, names, _BOOKS)),
        _Side(history, Wanted("trades", from_ms, to_ms, names, _TRADES)),
    ]
    for low in range(from_ms, to_ms, step_ms):
        books, trades = (side.take_to(low + step_ms) for side in sides)
        for key in sorted(books.keys() | trades.keys()):
            exchange, market = key.split(":", 1)
            yield _columns(exchange, market, books.pop(key, None), trades.pop(key, None))


def kernel_columns_of_day(history: History, day: str, markets: Sequence[str] = ()) -> Iterator[KernelColumns]:
    """The same for a KST day, hour by hour."""
    yield from kernel_columns(history, *day_ms(day), markets)


def joined(pieces: Sequence[KernelColumns]) -> KernelColumns:
    """Consecutive stretches of one market as one."""
    width = max(piece.books.shape[1] for piece in pieces)
    books = [np.pad(piece.books, ((0, 0), (0, width - piece.books.shape[1]))) for piece in pieces]
    return KernelColumns(
        pieces[0].exchange,
        pieces[0].market,
        np.concatenate([piece.kinds for piece in pieces]),
        np.concatenate([piece.event_ms for piece in pieces]),
        np.concatenate(books),
        np.concatenate([piece.counts for piece in pieces]),
        np.concatenate([piece.trades for piece in pieces]),
        np.concatenate([piece.is_marked for piece in pieces]),
    )


class _Side:
    """One topic, stretch by stretch; the archive is listed once."""

    def __init__(self, history: History, wanted: Wanted) -> None:
        self._history = history
        self._wanted = wanted
        self._spans = spans_of(history, wanted)
        self._marks = marks_of(history, wanted)

    def take_to(self, end_ms: int) -> dict[str, pa.Table]:
        """The rows up to an append time, per market: a market lives in one partition, so offset order is its order."""
        spans = {slot: (first, self._edge(slot, first, end, end_ms)) for slot, (first, end) in self._spans.items()}
        pieces: dict[str, list[pa.RecordBatch]] = {}
        for batch in batches(self._history, self._wanted, marks=self._marks, spans=spans):
            kept = batch.filter(_is_whole(batch))
            keys = pc.binary_join_element_wise(kept.column("exchange"), kept.column("market"), ":").dictionary_encode()
            for code, key in enumerate(keys.dictionary.to_pylist()):
                own = kept if len(keys.dictionary) == 1 else kept.filter(pc.equal(keys.indices, code))
                pieces.setdefault(key, []).append(own)
        self._spans = {slot: (edge, self._spans[slot][1]) for slot, (_, edge) in spans.items()}
        return {key: pa.Table.from_batches(own).combine_chunks() for key, own in pieces.items()}

    def _edge(self, slot: Slot, first: int, end: int, end_ms: int) -> int:
        is_last = self._wanted.to_ms is not None and end_ms >= self._wanted.to_ms
        return end if is_last or first >= end else self._history.appended_at(slot, first, end, end_ms)


def _is_whole(batch: pa.RecordBatch) -> pa.Array:
    if "origin" in batch.schema.names:
        return pc.not_equal(batch.column("origin"), "backfill")
    lengths = {name: pc.list_value_length(batch.column(name)) for name in _BOOK}
    return pc.and_(
        pc.equal(lengths["bid_prices"], lengths["bid_sizes"]), pc.equal(lengths["ask_prices"], lengths["ask_sizes"])
    )


def _columns(exchange: str, market: str, books: pa.Table | None, trades: pa.Table | None) -> KernelColumns:
    book_rows, counts = _flat_books(books) if books is not None else (np.zeros((0, 4)), np.zeros((0, 2), np.int32))
    trade_rows = _flat_trades(trades) if trades is not None else np.zeros((0, 3))
    tables = [table for table in (books, trades) if table is not None]
    append_ms, event_ms, flags = (
        np.concatenate([table[name].to_numpy() for table in tables]) for name in ("append_ms", "exchange_ms", MARKED)
    )
    at = len(book_rows)
    append_ms[:at], append_ms[at:] = np.maximum.accumulate(append_ms[:at]), np.maximum.accumulate(append_ms[at:])
    order = np.argsort(append_ms, kind="stable")  # books before trades at the same time, as topics stand in the order
    kinds = np.zeros(len(order), np.int8)
    kinds[at:] = 1
    return KernelColumns(exchange, market, kinds[order], event_ms[order], book_rows, counts, trade_rows, flags[order])


def _flat_books(books: pa.Table) -> tuple[kernels.Floats, npt.NDArray[np.int32]]:
    """Each book's four lists one behind the other, padded to the widest book."""
    lists = [books[name].combine_chunks() for name in _BOOK]
    columns = [one.chunk(0) if isinstance(one, pa.ChunkedArray) else one for one in lists]
    lengths = [pc.list_value_length(one).to_numpy(zero_copy_only=False).astype(np.int64) for one in columns]
    rows = np.zeros((len(books), max(int((sum(lengths)).max(initial=0)), 4)))
    flat, width = rows.reshape(-1), rows.shape[1]
    starts = np.arange(len(books)) * width
    for column, length in zip(columns, lengths, strict=True):
        values = column.flatten().to_numpy(zero_copy_only=False)
        if len(length) and (length == length[0]).all() and (starts - starts[0] == np.arange(len(books)) * width).all():
            first = int(starts[0])
            rows[:, first : first + int(length[0])] = values.reshape(len(books), -1)
        else:
            within = np.arange(len(values)) - np.repeat(np.cumsum(length) - length, length)
            flat[np.repeat(starts, length) + within] = values
        starts += length
    return rows, np.stack([lengths[0], lengths[2]], axis=1).astype(np.int32)


def _flat_trades(trades: pa.Table) -> kernels.Floats:
    is_buy = trades["is_buy"].to_numpy().astype(np.float64)
    return np.ascontiguousarray(np.stack([trades["price"].to_numpy(), trades["size"].to_numpy(), is_buy], axis=1))
