"""A topic's rows as CSV, for people and other tools; called by `observator archive export`.

The file gets its name only when it is whole. Memory is that of one piece. Money keeps its digits, lists stand as JSON,
numbers as Python writes them, so that reading them gives the same number.
"""

import csv
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa

from consumers.archive.frames import MARKED, Wanted, batches, shown_columns, spans_of
from infra.errors import BadSettings, DiskFull, Stop
from streams.history import History

_ROWS = 5_000


class NothingThere(Stop):
    """There is nothing of what was asked for."""


def export_csv(history: History, wanted: Wanted, to: Path, progress: Callable[[float], None] = lambda _: None) -> int:
    """Write the rows into `to` and return their number; nothing under that name where anything fails.

    Raises `BadSettings` where the folder is missing, `NothingThere` without a row, `DiskFull`, and what reading the
    history raises.
    """
    if not to.parent.is_dir():
        raise BadSettings(f"There is no folder {to.parent}: make it, or name another file with --to.")
    shown_columns(wanted)  # refuses what there is not
    aside = to.with_name(f".{to.name}.{os.getpid()}.unfinished")
    try:
        with aside.open("x", newline="", encoding="utf-8") as file:
            count = _write(history, wanted, file, progress)
            file.flush()
            os.fsync(file.fileno())
        if not count:
            raise NothingThere(f"There are no such rows of {wanted.topic}: {to} was not written.")
        aside.replace(to)
    except OSError as error:
        raise DiskFull(f"{to} cannot be written: {error.strerror or error}. Nothing was left there.") from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
    return count


def _write(history: History, wanted: Wanted, file: TextIO, progress: Callable[[float], None]) -> int:
    total = sum(end - first for first, end in spans_of(history, wanted).values())
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*shown_columns(wanted), MARKED])
    count = 0
    for batch in batches(history, wanted, rows=_ROWS):
        writer.writerows(_rows(batch))
        count += len(batch)
        progress(min(count / max(total, 1), 1.0))
    progress(1.0)
    return count


def _rows(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    columns = [[_text(value) for value in column.to_pylist()] for column in batch.columns]
    return zip(*columns, strict=True)


def _text(value: Any) -> Any:
    """What stands in a cell: nothing for null, JSON for lists and maps, `true` and `false`."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        inside = dict(value) if value and isinstance(value[0], tuple) else value
        return json.dumps(inside, ensure_ascii=False, separators=(",", ":"))
    return f"{value:f}" if isinstance(value, Decimal) else value
