"""Small files of every format, and what an archive holds."""

import gzip
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from infra.settings import Settings
from infra.store import FolderStore
from producers.imports.importing import import_files
from streams import topics
from streams.history import ArchiveHistory
from streams.messages import Message
from streams.parts import table_of

AT_MS = 1_790_134_773_000
BOOKS = "exchange,market,exchange_ms,received_ms,bid_price_1,bid_size_1,ask_price_1,ask_size_1"
TRADES = "exchange,market,exchange_ms,trade_ms,received_ms,trade_id,price,size,is_buy"


def book(number: int, market: str = "KRW-BTC", at_ms: int | None = None) -> str:
    at_ms = AT_MS + 200 * number if at_ms is None else at_ms
    return f"upbit,{market},{at_ms},{at_ms + 40}.25,{100 + number % 3},{1 + number % 5},{104 + number % 2},2.5"


def trade(number: int, at_ms: int | None = None, **other: Any) -> str:
    at_ms = AT_MS + 500 * number + 10 if at_ms is None else at_ms
    cells = {
        "exchange": "upbit", "market": "KRW-BTC", "exchange_ms": at_ms, "trade_ms": at_ms - 3,
        "received_ms": at_ms + 50, "trade_id": number, "price": 101.5, "size": 0.25, "is_buy": "true",
    }  # fmt: skip
    return ",".join(str(cell) for cell in (cells | other).values())


def frame(number: int, **other: Any) -> bytes:
    at_ms = AT_MS + 200 * number
    units = [{"ap": 104.0, "bp": 100.0 + number % 3, "as": 1.0, "bs": 2.0}]
    body = {"ty": "orderbook", "cd": "KRW-BTC", "tms": at_ms, "tas": 1.0, "tbs": 2.0, "obu": units} | other
    return f"{(at_ms + 40) / 1000:.6f}: {json.dumps(body).encode()!r}\n".encode()


class Made:
    """Writes files and imports them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.at_ms = AT_MS
        self.books_header = BOOKS
        self.book, self.trade, self.frame = book, trade, frame

    def file(self, name: str, content: str | bytes | list[str]) -> Path:
        path = self.folder / name
        text = "\n".join(content) + "\n" if isinstance(content, list) else content
        data = text.encode() if isinstance(text, str) else text
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    def books(self, lines: list[str] | None = None, name: str = "books.csv", header: str = BOOKS) -> Path:
        return self.file(name, [header, *([book(i) for i in range(60)] if lines is None else lines)])

    def trades(self, lines: list[str] | None = None, name: str = "trades.csv", header: str = TRADES) -> Path:
        return self.file(name, [header, *([trade(i) for i in range(24)] if lines is None else lines)])

    def store(self, to: str = "archive") -> FolderStore:
        return FolderStore(self.folder / to)

    def imported(self, *paths: Path, to: str = "archive", **options: Any) -> dict[str, Any]:
        return import_files(paths, self.store(to), Settings(), **options)

    def history(self, to: str = "archive") -> ArchiveHistory:
        return ArchiveHistory(self.store(to))

    def messages(self, *names: str, to: str = "archive") -> list[Message]:
        history = self.history(to)
        return [
            topics.decode(slot.topic, record.value)
            for slot, span in history.spans(names).items()
            for record in history.read(slot, *span)
        ]

    def columns(self, topic: str, to: str = "archive") -> pa.Table:
        history = self.history(to)
        tables = []
        for slot, parts in history.parts.items():
            for part in parts:
                if slot.topic == topic:
                    with closing(history.open(part)) as source:
                        tables.append(table_of(source, part.name))
        return pa.concat_tables(tables)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


@pytest.fixture
def rows_of() -> Callable[..., dict[tuple[str, int], bytes]]:
    """The feature rows that the stage makes of an archive's raw records, by market and bin: their hashes."""
    from producers.verify.imports import hashes_of  # noqa: PLC0415 - the kernels take a second

    return hashes_of
