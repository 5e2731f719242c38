"""Which rows lie where data are missing: the marks of a stretch of history, looked up for whole columns at once.

Called by the frames and by whoever reads the archive for training. A row is marked where its time, or any part of its
bin, lies in a hole of its market or before the first complete session that is kept.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from consumers.archive.blocks import blocks
from consumers.archive.walk import COLUMNS, Ints, Mark, Walk
from infra.log import Slot
from streams.history import History

RAW = ("orderbooks", "trades")
_TIMES = ("bin_ms", "exchange_ms", "event_ms")
Intervals = tuple[Ints, Ints]


def walked(history: History, spans: Mapping[Slot, tuple[int, int]], grid_ms: int) -> list[Mark]:
    """Every mark of the market data in `spans`, partition by partition."""
    found: list[Mark] = []
    for slot, (first, end) in spans.items():
        if slot.topic in RAW:
            walk = Walk(slot, grid_ms)
            for batch in blocks(history, slot, first, end, COLUMNS):
                walk.take(batch)
                found.extend(walk.marks)
    return found


class Marks:
    """Marks by market, for looking up columns."""

    def __init__(self, marks: Iterable[Mark], grid_ms: int) -> None:
        self.grid_ms = grid_ms
        by_market: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for mark in marks:
            by_market.setdefault((mark.exchange, mark.market), []).append((mark.from_ms, mark.to_ms))
        self._everywhere = {exchange: spans for (exchange, market), spans in by_market.items() if not market}
        self._own = by_market

    def flags(self, batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        """Whether each row of a piece with `columns_for` is marked; a row without market or time is not."""
        names = set(batch.schema.names)
        time = next((name for name in _TIMES if name in names), None)
        if time is None or not {"exchange", "market"} <= names:
            return np.zeros(len(batch), np.bool_)
        ends = pc.fill_null(batch.column(time), -1).to_numpy(zero_copy_only=False).astype(np.int64)
        starts = ends - self._bins(batch) if time == "bin_ms" else ends
        ends = ends if time == "bin_ms" else ends + 1
        keys = pc.binary_join_element_wise(batch.column("exchange"), batch.column("market"), ":").dictionary_encode()
        codes = pc.fill_null(keys.indices, -1).to_numpy(zero_copy_only=False)
        flags = np.zeros(len(batch), np.bool_)
        for code, key in enumerate(keys.dictionary.to_pylist()):
            exchange, market = key.split(":", 1)
            from_ms, to_ms = self.intervals(exchange, market)
            if len(from_ms):
                rows = codes == code
                flags[rows] = _touch(from_ms, to_ms, starts[rows], ends[rows])
        return flags

    def intervals(self, exchange: str, market: str) -> Intervals:
        """Beginnings and ends of a market's marked stretches, in order, none touching another."""
        spans = sorted(self._own.get((exchange, market), []) + self._everywhere.get(exchange, []))
        joined: list[list[int]] = []
        for from_ms, to_ms in spans:
            if joined and from_ms <= joined[-1][1]:
                joined[-1][1] = max(joined[-1][1], to_ms)
            else:
                joined.append([from_ms, to_ms])
        pairs = np.array(joined, np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]

    def _bins(self, batch: pa.RecordBatch) -> Ints:
        if "grid_ms" not in batch.schema.names:
            return np.full(len(batch), self.grid_ms, np.int64)
        widths: Ints = pc.fill_null(batch.column("grid_ms"), self.grid_ms).to_numpy(zero_copy_only=False)
        return widths


def columns_for(topic_columns: Iterable[str]) -> list[str]:
    """The columns that flags need, of those that a topic has."""
    present = set(topic_columns)
    return [name for name in (*_TIMES, "exchange", "market", "grid_ms") if name in present]


def _touch(from_ms: Ints, to_ms: Ints, starts: Ints, ends: Ints) -> npt.NDArray[np.bool_]:
    """Whether [start, end) of each row touches a stretch."""
    at = np.searchsorted(to_ms, starts, side="right")
    inside = at < len(to_ms)
    found: npt.NDArray[np.bool_] = inside & (from_ms[np.minimum(at, len(from_ms) - 1)] < ends)
    return found
