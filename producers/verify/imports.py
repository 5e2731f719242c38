"""`observator verify import`: an imported recording gives the feature rows that the live path gives for its frames.

Each recording of `shared/data` is imported into an archive and run through the feature stage in memory; the same frames
are played by the sandbox through websocket, feed, log and feature stage. The control alters one size of one imported
book and must find it.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from infra.errors import BadSettings
from infra.figures import result_of
from infra.log import Log, Record
from infra.memory_log import MemoryLog
from infra.settings import Settings
from infra.store import FolderStore
from producers.imports.importing import import_files
from producers.verify.explained import Difference, Unused, compare, data_of, unused
from producers.verify.played import in_memory, make_rows, on_kafka
from streams import topics
from streams.columns import read_records
from streams.history import ArchiveHistory, LogHistory
from streams.messages import Features, hash_of
from streams.process import topic_specs
from streams.stage import INPUTS

DAYS = ("20210417", "20210405")
"""The smaller one first: the short form takes that alone."""
QUICK_SPEED = 5.0
_MARK = b'"bid_sizes":['


class Run(NamedTuple):
    """Raw records and rows of one run over a recording."""

    raw: list[Record]
    rows: list[Features]


def verify_import(*, quick: bool = False, folder: Path | None = None) -> dict[str, object]:
    """Import and play every recording; raises `BadSettings` where there are none."""
    paths = recordings(folder)
    paths = paths[:1] if quick else paths
    figures: dict[str, float] = {}
    told: dict[str, Any] = {}
    differences = []
    with tempfile.TemporaryDirectory(prefix="observator-imported-") as home:
        for path in paths:
            figures_of_one, told_of_one, difference = _one(path, Path(home) / path.stem, is_quick=quick)
            figures |= {f"{path.name}: {name}": value for name, value in figures_of_one.items()}
            told |= {f"{path.name}: {name}": value for name, value in told_of_one.items()}
            differences.append((difference, figures_of_one))
    figures |= {
        "differing feature rows": sum(one.differing for one, _ in differences),
        "explained by lateness": sum(one.explained for one, _ in differences),
        "not explained": sum(_not_explained(one) for one, _ in differences),
    }
    passed = all(
        not _not_explained(one)
        and one.compared > 0
        and found["records in one of the two only"] == 0
        and found["live rows computed again: differing"] == 0
        and found["control: rows not explained after one altered size"] > 0
        for one, found in differences
    )
    conditions = {"quick": quick, "log": "memory" if quick else "kafka", "speed": _speed(is_quick=quick), **told}
    return result_of("import", figures, conditions, passed=passed)


def recordings(folder: Path | None = None) -> list[Path]:
    """The recordings of raw frames at hand (`OBSERVATOR_DATA`, else `../shared/data`)."""
    root = Path(__file__).parents[2]
    folder = folder or Path(os.environ.get("OBSERVATOR_DATA") or root.parent / "shared" / "data")
    paths = [folder / "upbit_ws" / f"upbit_ws_raw_{day}.log.gz" for day in DAYS]
    found = [path for path in paths if path.is_file()]
    if not found:
        raise BadSettings("There are no recordings to import: set OBSERVATOR_DATA to the folder that holds `upbit_ws`.")
    return found


def _one(path: Path, home: Path, *, is_quick: bool) -> tuple[dict[str, float], dict[str, Any], Difference]:
    settings = Settings()
    grid_ms = settings.grid.grid_ms
    counts = import_files([path], FolderStore(home), settings)
    history = ArchiveHistory(FolderStore(home))
    imported = rerun(_raw(history), settings)
    play = in_memory if is_quick else on_kafka
    with play(path, _speed(is_quick=is_quick), (counts["last_ms"] - counts["first_ms"]) / 1000) as log:
        live = Run(list(_raw(LogHistory(log))), rows_of(log))
    late_live, late_imported = (unused(run.raw, grid_ms) for run in (live, imported))
    late = [*_only(late_live, late_imported), *_only(late_imported, late_live)]
    difference = compare(live.rows, imported.rows, late, grid_ms)
    again = compare(live.rows, rerun(live.raw, settings).rows, [], grid_ms)
    altered = compare(live.rows, rerun(_altered(imported.raw), settings).rows, late, grid_ms)
    figures: dict[str, float] = {
        "live records": len(live.raw),
        "imported records": len(imported.raw),
        "records in one of the two only": len(data_of(live.raw) ^ data_of(imported.raw)),
        "live feature rows": len(live.rows),
        "imported feature rows": len(imported.rows),
        "rows compared": difference.compared,
        "differing": difference.differing,
        "explained by lateness": difference.explained,
        "rows of one only": difference.missing,
        "live rows without data after the end": difference.after_end,
        **_by_reason("live", late_live),
        **_by_reason("import", late_imported),
        "left out in one of the two only": len(late),
        "live rows computed again: differing": again.differing + again.missing,
        "control: rows not explained after one altered size": _not_explained(altered),
    }
    told = {"explained": difference.shown, "not explained": difference.unexplained}
    return figures, told, difference


def rows_of(log: Log) -> list[Features]:
    """The feature rows of a log."""
    return [message for _, message in read_records(log, "features") if isinstance(message, Features)]


def _not_explained(difference: Difference) -> int:
    return difference.differing - difference.explained + difference.missing


def _by_reason(run: str, items: dict[Any, Unused]) -> dict[str, float]:
    """How many records entered no bin, all in all and by why."""
    found: dict[str, float] = {f"{run}: records left out": len(items)}
    for why, times in sorted(Counter(item.why for item in items.values()).items()):
        found[f"{run}: {why}"] = times
    return found


def _only(one: dict[Any, Unused], other: dict[Any, Unused]) -> list[Unused]:
    return [item for what, item in one.items() if what not in other]


def hashes_of(history: ArchiveHistory) -> dict[tuple[str, int], bytes]:
    """The feature rows that the stage makes of an archive, by market and bin."""
    return {(row.market, row.bin_ms): hash_of(row) for row in rerun(_raw(history), Settings()).rows}


def _raw(history: ArchiveHistory | LogHistory) -> Iterator[Record]:
    for slot, (first, end) in history.spans(INPUTS).items():
        yield from history.read(slot, first, end)


def rerun(records: Iterable[Record], settings: Settings) -> Run:
    """The feature stage in memory over raw records, with their offsets."""
    raw = list(records)
    with MemoryLog(clock_ms=lambda: 0) as log:
        log.create_topics(topic_specs())
        for record in raw:
            log.append(record)
        make_rows(log, settings)
        return Run(raw, rows_of(log))


def _altered(records: list[Record]) -> Iterator[Record]:
    """One digit of one best bid size is another, in the middle of the books."""
    books = [i for i, record in enumerate(records) if _MARK in record.value]
    chosen = books[len(books) // 2]
    for i, record in enumerate(records):
        if i != chosen:
            yield record
            continue
        at = record.value.index(_MARK) + len(_MARK)
        digit = b"7" if record.value[at : at + 1] != b"7" else b"3"
        value = record.value[:at] + digit + record.value[at + 1 :]
        topics.decode(record.topic, value)  # it must still be a book
        yield record._replace(value=value)


def _speed(*, is_quick: bool) -> float:
    return QUICK_SPEED if is_quick else 1.0
