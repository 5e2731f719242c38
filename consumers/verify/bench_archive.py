"""`observator bench archive`: what reading an archive costs: rows per second in two forms, and memory over days.

It writes days of a synthetic market as part files, as the archive process writes them, and reads them in processes of
their own.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from consumers.archive.frames import Wanted, day_ms, frames
from consumers.archive.kernel_columns import kernel_columns
from consumers.archive.marks import RAW
from infra.figures import result_of
from infra.log import Record, Slot, partition_of
from infra.settings import ArchiveSettings
from infra.store import FolderStore
from streams.archived import FORMAT, MARK, ArchiveHistory
from streams.history import merged, spans_between
from streams.messages import Heartbeat, Message, OrderBook, Trade, encode
from streams.parts import Part, part_bytes

MARKETS = tuple(f"KRW-S{i:02}" for i in range(10))
LEVELS = 15
BOOKS, TRADES = 5, 2
"""Per second and market."""
RUN = "b" * 32
DAYS = ("2026-11-16", "2026-11-17", "2026-11-18", "2026-11-19")
_LARGER = 1.25
"""Of the memory of one day: so much more may four days take."""
_COLUMNS = ("exchange_ms", "price", "size", "is_buy", "market")


def bench_archive(*, quick: bool = False) -> dict[str, object]:
    """Measure; passes where four days need no more memory than one, and every row was read."""
    hours = 3 if quick else 24
    whole, short = (3_600, int(ArchiveSettings().part_seconds), (1,)), (600, 600, (1, 2, 4))
    figures: dict[str, float] = {}
    is_met = True
    with tempfile.TemporaryDirectory() as folder:
        for seconds, part_seconds, counts in ((20, 20, (1, 4)),) if quick else (whole, short):
            root = Path(folder) / str(part_seconds)
            found, is_good = _measured(root, hours, seconds, part_seconds, counts)
            figures |= found
            is_met = is_met and is_good
    conditions = {
        "quick": quick, "markets": len(MARKETS), "levels": LEVELS, "hours a day": hours,
        "seconds an hour": "20" if quick else "3600, over several days 600",
        "books per second and market": BOOKS, "trades per second and market": TRADES,
    }  # fmt: skip
    return result_of("archive", figures, conditions, passed=is_met)


def _measured(
    root: Path, hours: int, seconds: int, part_seconds: int, counts: tuple[int, ...]
) -> tuple[dict[str, float], bool]:
    """Figures of an archive whose parts hold `part_seconds`, read over each of these numbers of days."""
    raw, records, used = _write(root, DAYS[: counts[-1]], hours, seconds, part_seconds)
    name = f"hours of {seconds} s in parts of {part_seconds} s"
    size = sum(FolderStore(root).sizes().values())
    figures: dict[str, float] = {
        f"{name}: records": records,
        f"{name}: bytes per record": round(size / records, 1),
        f"{name}: bytes per record as JSON": round(raw / records, 1),
        f"{name}: records made and written per second of a core": round(records / used),
    }
    is_met = True
    of_a_day = len(MARKETS) * hours * seconds
    expected = {"frames": BOOKS * of_a_day, "columns": TRADES * of_a_day, "kernels": (BOOKS + TRADES) * of_a_day}
    for kind, words in _KINDS.items():
        peaks = []
        for count in counts:
            found = _read_apart(root, kind, count)
            peaks.append(found["peak_mib"])
            is_met = is_met and (kind == "records" or found["rows"] == count * expected[kind])
            figures[f"{name}: {words}: rows per second of a core, {count} days"] = round(
                found["rows"] / found["seconds"]
            )
            figures[f"{name}: {words}: peak memory, MiB, {count} days"] = round(found["peak_mib"], 1)
        is_met = is_met and max(peaks) <= _LARGER * peaks[0]
    return figures, is_met


_KINDS = {
    "frames": "books as DataFrame, all columns",
    "columns": "trades as DataFrame, 5 columns",
    "kernels": "books and trades as kernel columns",
    "records": "exact records in recorded order",
}


def read_here(folder: str, kind: str, count: int) -> dict[str, float]:
    """Read `count` days in this process: rows, CPU seconds, the highest memory."""
    history = ArchiveHistory(FolderStore(Path(folder)))
    low, high = day_ms(DAYS[0])[0], day_ms(DAYS[count - 1])[1]
    started = time.process_time()
    if kind == "frames":
        rows = sum(len(one) for one in frames(history, Wanted("orderbooks", low, high)))
    elif kind == "columns":
        rows = sum(len(one) for one in frames(history, Wanted("trades", low, high, columns=_COLUMNS)))
    elif kind == "kernels":
        rows = sum(len(one.kinds) for one in kernel_columns(history, low, high))
    else:
        spans = spans_between(history, RAW, low, high)
        rows = sum(1 for _ in merged(history, {slot: span for slot, span in spans.items() if slot.partition < 4}))
    seconds = time.process_time() - started
    return {"rows": rows, "seconds": seconds, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def _read_apart(root: Path, kind: str, count: int) -> dict[str, float]:
    code = "import json, sys; from consumers.verify.bench_archive import read_here as r; "
    code += "print(json.dumps(r(sys.argv[1], sys.argv[2], int(sys.argv[3]))))"
    command = [sys.executable, "-c", code, str(root), kind, str(count)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 our own interpreter
    found: dict[str, float] = json.loads(done.stdout)
    return found


# --- the synthetic market, as part files ------------------------------------------------------------------------------


def _write(root: Path, days: tuple[str, ...], hours: int, seconds: int, part_seconds: int) -> tuple[int, int, float]:
    """Write the days; returns bytes of the records' values, their number, and the CPU seconds."""
    store = FolderStore(root)
    mark = {"format": FORMAT, "run": RUN, "prefix": "", "kind": "log", "made_ms": 0, "by": "bench"}
    store.write(MARK, json.dumps(mark).encode())
    jobs = [
        (str(root), day, number * hours + hour, hours, seconds, part_seconds)
        for number, day in enumerate(days)
        for hour in range(hours)
    ]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(write_hour, jobs))
    return sum(raw for raw, _, _ in found), sum(count for _, count, _ in found), sum(used for _, _, used in found)


def write_hour(job: tuple[str, str, int, int, int, int]) -> tuple[int, int, float]:
    """Write one hour of every partition; returns bytes of the records' values, their number, and the CPU seconds."""
    started = time.process_time()
    folder, day, before, hours, seconds, part_seconds = job
    store, hour = FolderStore(Path(folder)), before % hours
    start_ms = day_ms(day)[0] + 3_600_000 * hour
    raw = count = 0
    for topic, per_second in (("orderbooks", BOOKS), ("trades", TRADES)):
        for partition in range(12):
            markets = [one for one in MARKETS if partition_of(f"upbit:{one}", 12) == partition]
            wide = len(markets) * per_second + 1
            rng = np.random.default_rng([before, partition])
            for low in range(0, seconds, part_seconds):
                span = range(low, min(low + part_seconds, seconds))
                first = (before * seconds + low) * wide
                slot = Slot(topic, partition)
                records = list(_records(slot, markets, span, start_ms, first, before * seconds, rng))
                part = Part(day, hour, slot, first, first + len(records) - 1)
                store.write(part.name, part_bytes(RUN, part, records))
                raw += sum(len(record.value) for record in records)
                count += len(records)
    return raw, count, time.process_time() - started


def _records(
    slot: Slot, markets: list[str], span: range, start_ms: int, offset: int, before: int, rng: np.random.Generator
) -> Iterator[Record]:
    """A heartbeat and the second's data, second by second."""
    per_second = BOOKS if slot.topic == "orderbooks" else TRADES
    for second in span:
        at = start_ms + 1_000 * second
        known = (before + second) * len(markets) * per_second
        beat = Heartbeat(
            exchange="upbit", source="synthetic", session=1, count=known, event_ms=at,
            complete_from_ms=day_ms(DAYS[0])[0], markets=markets,
        )  # fmt: skip
        rows: list[tuple[str, Message]] = [("", beat)]
        for i in range(per_second):
            event_ms = at + 1_000 * i // per_second
            rows += [(f"upbit:{one}", _data(slot.topic, one, event_ms, known + i, rng)) for one in markets]
        for i, (key, message) in enumerate(rows):
            yield Record(*slot, offset, at + 600 + i, key, encode(message))
            offset += 1


def _data(topic: str, market: str, event_ms: int, number: int, rng: np.random.Generator) -> Message:
    mid = 100_000.0 + 10 * float(rng.integers(-50, 50))
    received_ns = event_ms * 1_000_000 + int(rng.integers(0, 10**6))
    if topic == "trades":
        return Trade(
            exchange="upbit", market=market, source="synthetic", session=1, exchange_ms=event_ms, trade_ms=event_ms,
            received_ns=received_ns, trade_id=number, price=mid, size=round(float(rng.exponential()), 8),
            is_buy=bool(rng.integers(0, 2)),
        )  # fmt: skip
    sizes = np.round(rng.exponential(1, 2 * LEVELS), 8).tolist()
    return OrderBook(
        exchange="upbit", market=market, source="synthetic", session=1, exchange_ms=event_ms, received_ns=received_ns,
        bid_prices=[mid - 5 - 10 * i for i in range(LEVELS)], bid_sizes=sizes[:LEVELS],
        ask_prices=[mid + 5 + 10 * i for i in range(LEVELS)], ask_sizes=sizes[LEVELS:],
    )  # fmt: skip
