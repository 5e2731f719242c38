"""What the tests of parts and histories share: records of every kind, and small archives in a folder."""

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from infra.log import Record, Slot
from infra.store import FolderStore
from streams.archived import FORMAT, MARK
from streams.messages import Features, Heartbeat, Hole, Message, OrderBook, Quote, Signal, Trade, encode
from streams.parts import Part, part_bytes

START_MS = 1_763_686_800_000
"""2025-11-21 10:00 KST."""
RUN = "a" * 32
DAY = "2025-11-21"


def book(i: int, market: str = "KRW-A", levels: int = 2, **other: Any) -> OrderBook:
    fields: dict[str, Any] = {
        "exchange": "upbit", "market": market, "source": "synthetic", "session": START_MS,
        "exchange_ms": START_MS + 100 * i, "received_ns": (START_MS + 100 * i) * 1_000_000 + i,
        "bid_prices": [100.0 - k for k in range(levels)], "bid_sizes": [0.1 + i + k for k in range(levels)],
        "ask_prices": [101.0 + k for k in range(levels)], "ask_sizes": [1e-8 * (1 + i)] * levels,
    }  # fmt: skip
    return OrderBook(**{**fields, **other})


def trade(i: int, market: str = "KRW-A", **other: Any) -> Trade:
    fields: dict[str, Any] = {
        "exchange": "upbit", "market": market, "source": "synthetic", "session": START_MS,
        "exchange_ms": START_MS + 100 * i + 50, "trade_ms": START_MS + 100 * i, "received_ns": i, "trade_id": i,
        "price": 100.5, "size": 0.25, "is_buy": i % 2 == 0,
    }  # fmt: skip
    return Trade(**{**fields, **other})


def beat(i: int, markets: Sequence[str] = ("KRW-A",), **other: Any) -> Heartbeat:
    fields: dict[str, Any] = {
        "exchange": "upbit", "source": "synthetic", "session": START_MS, "count": i, "event_ms": START_MS + 100 * i,
        "complete_from_ms": START_MS, "markets": list(markets),
    }  # fmt: skip
    return Heartbeat(**{**fields, **other})


def hole(i: int, j: int, markets: Sequence[str] = ("KRW-A",), reason: str = "reconnect") -> Hole:
    return Hole(
        exchange="upbit", source="synthetic", session=START_MS, from_ms=START_MS + 100 * i, to_ms=START_MS + 100 * j,
        markets=list(markets), reason=reason,
    )  # fmt: skip


def features(i: int, values: Iterable[float | None] = (1.5, None, -0.0)) -> Features:
    return Features(
        exchange="upbit", market="KRW-A", bin_ms=START_MS + 1000 * i, grid_ms=1000, schema="ob1", source="s",
        session=1, n_bins=i, n_books=3, n_trades=0, mid=None, spread=1.0, values=list(values), levels=[],
        accumulators=[None, 2.0], received_ns=7,
    )  # fmt: skip


def signal(i: int) -> Signal:
    return Signal(
        id=f"s{i}", exchange="upbit", market="KRW-A", bin_ms=START_MS + 1000 * i, horizon_ms=5000, schema="ob1",
        model_id="m", expected_bp=0.1, sigma_bp=1.5, mid=100.5, is_licensed=True, feed="synthetic",
    )  # fmt: skip


def quote(i: int) -> Quote:
    return Quote(
        exchange="upbit", market="KRW-A", source="rest", event_ms=START_MS + i, exchange_ms=START_MS + i,
        received_ns=i, bid_prices=[1.0], bid_sizes=[2.0], ask_prices=[], ask_sizes=[],
    )  # fmt: skip


FLAT_OF: dict[str, Callable[[int], Message]] = {
    "orderbooks": book, "trades": trade, "features": features, "signals": signal, "quotes": quote,
}  # fmt: skip


def recorded(
    topic: str, values: Iterable[Message | bytes], partition: int = 0, first: int = 0, step_ms: int = 100
) -> list[Record]:
    """Records with consecutive offsets and append times."""
    return [
        Record(topic, partition, offset, START_MS + step_ms * offset, f"upbit:K{offset % 3}", _bytes(value))
        for offset, value in zip(itertools.count(first), values, strict=False)
    ]


def _bytes(value: Message | bytes) -> bytes:
    return value if isinstance(value, bytes) else encode(value)


def part_of(
    records: Sequence[Record], hour: int = 10, last: int | None = None, first: int | None = None, day: str = DAY
) -> Part:
    slot, low, high = records[0].slot, records[0].offset, records[-1].offset
    return Part(day, hour, Slot(*slot), low if first is None else first, high if last is None else last)


class Archive:
    """A small archive in a folder."""

    def __init__(self, folder: Path, run: str = RUN) -> None:
        self.folder, self.run = folder, run
        self.store = FolderStore(folder)
        mark = {"format": FORMAT, "run": run, "prefix": "", "kind": "log", "made_ms": START_MS, "by": "test"}
        self.store.write(MARK, json.dumps(mark).encode())

    def put(
        self,
        records: Sequence[Record],
        hour: int = 10,
        last: int | None = None,
        run: str | None = None,
        first: int | None = None,
        day: str = DAY,
    ) -> Part:
        """Write a part of these records."""
        part = part_of(records, hour, last, first, day)
        self.store.write(part.name, part_bytes(run or self.run, part, records))
        return part


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive")
