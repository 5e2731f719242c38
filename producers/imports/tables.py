"""Books and trades of Parquet files as rows: Upbit's frames flattened, Binance books and trades.

Called by `producers.imports.files`. Read in batches, never whole. Columns that a layout needs and the file lacks are
named.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import BadMessage, BadSettings
from producers.imports.formats import Format
from producers.imports.rows import Cells, Columns, Row, Voice, WrongUnit, book_of, received_of, refused, trade_of
from producers.upbit.parse import MOST_LEVELS

_ROWS = 2_000
_LEVEL = re.compile(r"(?:bid|ask)_(?:price|size)_([1-9]\d{0,3})")
_PAIR = re.compile(r"(?:^|_)([a-z0-9]+?)(usdt|usdc|fdusd|btc)(?:_|\.)")
"""In the file's name: `spot_ethusdt_20240808_trades.parquet`."""


class Layout(NamedTuple):
    """What the columns of one kind of file are called; `needed` without the levels of a book."""

    format: Format
    exchange: str
    is_books: bool
    columns: Columns

    @property
    def needed(self) -> set[str]:
        """Columns that must be there; times of receipt and match may be missing."""
        columns = self.columns
        names = {columns.at_ms, columns.market, columns.trade_id, columns.price, columns.size, columns.taker} - {""}
        return names | (level_names(1) if self.is_books else set())


LAYOUTS = (
    Layout("upbit-parquet", "upbit", True, Columns("timestamp", "code", "recv_us", 1_000)),
    Layout(
        "upbit-parquet",
        "upbit",
        False,
        Columns(
            "timestamp", "code", "recv_us", 1_000, "trade_timestamp", "sequential_id", "trade_price", "trade_volume",
            "ask_bid", {"BID": True, "ASK": False},
        ),
    ),
    Layout("binance-books", "binance", True, Columns("event_ms", "", "recv_ns")),
    Layout(
        "binance-trades",
        "binance",
        False,
        Columns(
            "event_ms", "", "recv_ns", 1, "trade_ms", "trade_id", "price", "qty", "is_buyer_maker",
            {True: False, False: True},
        ),
    ),
)  # fmt: skip


def level_names(level: int) -> set[str]:
    """The four columns of a level."""
    return {f"{side}_{what}_{level}" for side in ("bid", "ask") for what in ("price", "size")}


def levels_in(names: Collection[str]) -> int:
    """How many levels the columns have; a level with a column missing ends the import."""
    levels = max((int(found[1]) for name in names if (found := _LEVEL.fullmatch(name))), default=0)
    if levels > MOST_LEVELS:
        raise BadSettings(f"{levels} levels: at most {MOST_LEVELS} fit into a record")
    for level in range(1, levels + 1):
        if missing := level_names(level) - set(names):
            raise BadSettings(f"level {level} lacks the columns {', '.join(sorted(missing))}")
    return levels


class Table:
    """One Parquet file; see `producers.imports.rows.File`."""

    def __init__(self, path: Path, wanted: Format | None, market: str) -> None:
        self.path = path
        with _opened(path) as file:
            names = set(file.schema_arrow.names)
        self._layout = _layout(path, names, wanted)
        self.format = self._layout.format
        self.exchange = self._layout.exchange
        try:
            self._levels = levels_in(names) if self._layout.is_books else 0
        except BadSettings as error:
            raise BadSettings(f"{path.name}: {error}") from error
        self._market = "" if self._layout.columns.market else market or _market_of(path)

    def rows(self, session: int, skipped: Counter[str]) -> Iterator[Row]:
        """The rows in the order of the file."""
        del skipped  # every row of a table is one
        voice = Voice(self.exchange, session, self._market)
        for number, cells in enumerate(self._cells(), start=1):
            yield row_of(self.path, number, cells, self._layout, self._levels, voice)

    def _cells(self) -> Iterator[Cells]:
        columns = self._layout.columns
        wanted = self._layout.needed | {columns.received, columns.matched_ms}
        for level in range(2, self._levels + 1):
            wanted |= level_names(level)
        try:
            with _opened(self.path) as file:
                names = [name for name in file.schema_arrow.names if name in wanted]
                for batch in file.iter_batches(_ROWS, columns=names):
                    yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise BadSettings(f"{self.path.name} is cut off or damaged: {error}. Nothing was imported.") from error


def row_of(path: Path, number: int, cells: Cells, layout: Layout, levels: int, voice: Voice) -> Row:
    """One row of columns; raises `BadSettings` with its number for a unit that cannot be right."""
    columns = layout.columns
    try:
        received_ns = received_of(cells, columns)
        try:
            item = book_of(cells, columns, levels, voice) if layout.is_books else trade_of(cells, columns, voice)
        except BadMessage as error:
            return Row(number, received_ns, (), ((str(error), msgspec.json.encode(dict(cells))),))
    except (WrongUnit, TypeError, ValueError) as error:
        raise refused(path, number, error) from error
    return Row(number, received_ns, (item,))


def nearest(names: Collection[str], layouts: Collection[Layout]) -> tuple[Layout, list[str]]:
    """The layout that lacks the fewest columns, and which."""
    best = min(layouts, key=lambda layout: (len(layout.needed - set(names)), -len(layout.needed)))
    return best, sorted(best.needed - set(names))


def _layout(path: Path, names: set[str], wanted: Format | None) -> Layout:
    layouts = [layout for layout in LAYOUTS if wanted in {None, layout.format}]
    if not layouts:
        raise BadSettings(f"{path.name} is a Parquet file, and {wanted} is none")
    best, missing = nearest(names, layouts)
    if missing:
        raise BadSettings(f"{path.name}: for {best.format} the columns {', '.join(missing)} are missing")
    return best


def _market_of(path: Path) -> str:
    found = _PAIR.search(path.name.lower())
    if found is None:
        raise BadSettings(f"{path.name} has no column for the market and its name tells none: name it with --market")
    return f"{found[1]}{found[2]}".upper()


def _opened(path: Path) -> Any:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise BadSettings(f"{path.name} is cut off or no Parquet file: {error}. Nothing was imported.") from error
