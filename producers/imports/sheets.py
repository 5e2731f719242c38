"""Our own CSV layout as rows: one file of books, or one of trades, plain or gzip (docs/import.md shows both).

Called by `producers.imports.files`. Comma between, decimal point, times in ms; an empty cell is a value that nobody
knows. Lines before the header that begin with `#` are words for people.
"""

import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from infra.errors import BadSettings
from producers.imports.formats import Format
from producers.imports.rows import NS_PER_MS, Columns, Row, Voice, refused
from producers.imports.tables import Layout, levels_in, nearest, row_of

BOOKS = Layout("csv", "", True, Columns("exchange_ms", "market", "received_ms", NS_PER_MS))
TRADES = Layout(
    "csv",
    "",
    False,
    Columns(
        "exchange_ms", "market", "received_ms", NS_PER_MS, "trade_ms", "trade_id", "price", "size", "is_buy",
        {True: True, False: False},
    ),
)  # fmt: skip
_INTEGERS = {"exchange_ms", "trade_ms", "trade_id"}
_EXCHANGE = re.compile(r"[a-z][a-z0-9-]{0,31}")
_TEXTS = {"exchange", "market"}


class Sheet:
    """One CSV file; see `producers.imports.rows.File`."""

    format: Format = "csv"

    def __init__(self, path: Path) -> None:
        self.path = path
        with _opened(path) as lines:
            self._names = _header(path, lines)
            if twice := sorted(name for name, times in Counter(self._names).items() if times > 1):
                raise BadSettings(f"{path.name}: the columns {', '.join(twice)} stand there twice")
            is_books = "bid_price_1" in self._names or "ask_price_1" in self._names
            self._layout, missing = nearest(self._names, [BOOKS if is_books else TRADES])
            missing += [] if "exchange" in self._names else ["exchange"]
            if missing:
                kind = "books" if is_books else "trades"
                raise BadSettings(f"{path.name}: for CSV of {kind} the columns {', '.join(missing)} are missing")
            try:
                self._levels = levels_in(self._names) if is_books else 0
            except BadSettings as error:
                raise BadSettings(f"{path.name}: {error}") from error
            first = next((cells for cells in lines if cells), [])
        at = self._names.index("exchange")
        self.exchange = first[at].strip() if len(first) > at else ""
        if first and not _EXCHANGE.fullmatch(self.exchange):
            raise BadSettings(f"{path.name}: exchange {self.exchange!r} is no name: small letters, digits, hyphens")

    def rows(self, session: int, skipped: Counter[str]) -> Iterator[Row]:
        """The rows in the order of the file."""
        voice = Voice(self.exchange, session)
        with _opened(self.path) as lines:
            _header(self.path, lines)
            for cells in lines:
                number = lines.line_num
                if not cells:
                    skipped["empty line"] += 1
                    continue
                if len(cells) != len(self._names):
                    why = f"{len(cells)} cells, the header has {len(self._names)}: comma between, decimal point"
                    raise refused(self.path, number, why)
                known = self._known(cells, number)
                if known["exchange"] != self.exchange:
                    raise refused(self.path, number, f"exchange {known['exchange']!r} after {self.exchange!r}")
                yield row_of(self.path, number, known, self._layout, self._levels, voice)

    def _known(self, cells: list[str], number: int) -> dict[str, Any]:
        known: dict[str, Any] = {}
        for name, cell in zip(self._names, cells, strict=True):
            try:
                known[name] = _value(name, cell.strip())
            except (ValueError, InvalidOperation):
                raise refused(self.path, number, f"{name} is {cell!r}: no number with a decimal point") from None
        return known


def is_sheet(path: Path) -> bool:
    """Whether it begins like one of ours."""
    try:
        with _opened(path) as lines:
            return "exchange_ms" in _header(path, lines)
    except (BadSettings, UnicodeDecodeError):
        return False


def _value(name: str, cell: str) -> Any:
    if cell == "":
        return None
    if name in _TEXTS:
        return cell
    if name == "is_buy":
        return {"true": True, "false": False}.get(cell.lower(), cell)
    if name == "received_ms":
        return _finite(Decimal(cell))
    return int(cell) if name in _INTEGERS else float(cell)


def _finite(number: Decimal) -> Decimal:
    if not number.is_finite():
        raise ValueError(number)
    return number


def _header(path: Path, lines: "Lines") -> list[str]:
    for cells in lines:
        if cells and not cells[0].startswith("#"):
            return [cell.strip() for cell in cells]
    raise BadSettings(f"{path.name} is empty")


class Lines:
    """The cells of a text file, line by line, with what is wrong with the file as `BadSettings`."""

    def __init__(self, path: Path, text: io.TextIOBase) -> None:
        self._path = path
        self._reader = csv.reader(text, strict=True)

    @property
    def line_num(self) -> int:
        """Of the line that came last."""
        return self._reader.line_num

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> list[str]:
        """The next line's cells."""
        try:
            return next(self._reader)
        except (OSError, EOFError, zlib.error, csv.Error, UnicodeDecodeError) as error:
            raise BadSettings(f"{self._path.name} cannot be read after line {self.line_num}: {error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[Lines]:
    try:
        with path.open("rb") as plain:
            is_gzip = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            raw = gzip.GzipFile(fileobj=plain) if is_gzip else plain
            yield Lines(path, io.TextIOWrapper(raw, "utf-8-sig", newline=""))
    except OSError as error:
        raise BadSettings(f"{path.name} cannot be read: {error}") from error
