"""A topic of an archive (or of a log) as DataFrames, piece by piece, each row with its mark.

Called by `observator read --from`, by training and by people in a notebook. Memory is that of one piece, whatever the
number of days; only the columns that are asked for are read. It never joins a group nor writes.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta, timezone
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from consumers.archive.blocks import ROWS, blocks, columns_of
from consumers.archive.marks import RAW, Marks, columns_for, walked
from infra.errors import BadSettings
from infra.log import Slot, partition_of
from streams.columns import to_frame
from streams.history import History, spans_between
from streams.messages import Message, key_of, tag_of
from streams.topics import TOPICS

KST = timezone(timedelta(hours=9))
GRID_MS = 1_000
MARKED = "is_marked"
_MARGIN_MS = 600_000
"""A hole may be told so long after the time that it is about."""


class Wanted(NamedTuple):
    """Which rows and columns of a topic."""

    topic: str
    from_ms: int | None = None
    """First append time; None: from the beginning."""
    to_ms: int | None = None
    """Append time to stop before."""
    markets: tuple[str, ...] = ()
    """Empty: all."""
    columns: tuple[str, ...] = ()
    """Empty: all. Coordinates and mark are added."""
    kind: type[Message] | None = None
    """None: the data (`OrderBook`, `Trade`) of market data topics, all messages of others."""
    exchange: str = "upbit"


def day_ms(day: str) -> tuple[int, int]:
    """First and last (exclusive) append time of a KST day as `2026-11-21`; raises `BadSettings`."""
    try:
        start = date.fromisoformat(day)
    except ValueError:
        raise BadSettings(f"{day!r} is no day: write it as 2026-11-21.") from None
    begins = datetime(start.year, start.month, start.day, tzinfo=KST)
    return int(begins.timestamp() * 1000), int((begins + timedelta(days=1)).timestamp() * 1000)


def frames(history: History, wanted: Wanted, *, rows: int = ROWS, marks: Marks | None = None) -> Iterator[pd.DataFrame]:
    """Yield pieces of at most `rows` rows, partition by partition in offset order; pieces without a row are left out.

    Each has `record_partition`, `record_offset`, `type`, the wanted columns and `is_marked`: the row's time, or part of
    its bin, lies in a hole of its market. Lists stay lists, money is `Decimal`. Raises what reading a history raises.
    """
    for batch in batches(history, wanted, rows=rows, marks=marks):
        yield to_frame(pa.Table.from_batches([batch]))


def batches(
    history: History,
    wanted: Wanted,
    *,
    rows: int = ROWS,
    marks: Marks | None = None,
    spans: Mapping[Slot, tuple[int, int]] | None = None,
) -> Iterator[pa.RecordBatch]:
    """The same as Arrow columns; `marks` and `spans` where the caller has them already."""
    shown = shown_columns(wanted)
    read = list(dict.fromkeys([*shown, *columns_for(columns_of(wanted.topic))]))
    if marks is None:
        marks = marks_of(history, wanted)
    tags = _tags(wanted)
    for slot, (first, end) in (spans_of(history, wanted) if spans is None else spans).items():
        for batch in blocks(history, slot, first, end, read, rows):
            kept = batch.filter(_is_wanted(batch, tags, wanted.markets))
            if len(kept):
                flags = pa.array(marks.flags(kept))
                columns = [kept.column(name) for name in shown]
                schema = pa.schema([kept.schema.field(name) for name in shown])
                yield pa.RecordBatch.from_arrays([*columns, flags], schema=schema.append(pa.field(MARKED, pa.bool_())))


def marks_of(history: History, wanted: Wanted) -> Marks:
    """The marks for a topic's rows: of market data by their own topic's heartbeats and holes, of all else by both."""
    if "market" not in columns_of(wanted.topic):
        return Marks((), GRID_MS)
    topics = (wanted.topic,) if wanted.topic in RAW else RAW
    low = None if wanted.from_ms is None else wanted.from_ms - _MARGIN_MS
    high = None if wanted.to_ms is None else wanted.to_ms + _MARGIN_MS
    spans: dict[Slot, tuple[int, int]] = {}
    for topic in topics:
        spans |= spans_of(history, wanted._replace(topic=topic, from_ms=low, to_ms=high))
    return Marks(walked(history, spans, GRID_MS), GRID_MS)


def spans_of(history: History, wanted: Wanted) -> dict[Slot, tuple[int, int]]:
    """The offsets of the wanted rows; of named markets only the partitions that they live in."""
    spans = spans_between(history, [wanted.topic], wanted.from_ms, wanted.to_ms)
    topic = TOPICS[wanted.topic]
    if not wanted.markets or topic.key != "market":
        return spans
    kept = {partition_of(key_of(wanted.exchange, market), topic.partitions) for market in wanted.markets}
    return {slot: span for slot, span in spans.items() if slot.partition in kept}


def shown_columns(wanted: Wanted) -> list[str]:
    """The columns to show; raises `BadSettings` for a topic or column that there is not."""
    if wanted.topic not in TOPICS:
        raise BadSettings(f"There is no topic {wanted.topic!r}; there are {', '.join(TOPICS)}.")
    known = columns_of(wanted.topic)
    if unknown := [name for name in wanted.columns if name not in known]:
        raise BadSettings(f"{wanted.topic} has no column {', '.join(unknown)}; it has {', '.join(known)}.")
    if wanted.markets and "market" not in known:
        raise BadSettings(f"The rows of {wanted.topic} have no market.")
    return list(dict.fromkeys(["record_partition", "record_offset", "type", *(wanted.columns or known)]))


def _tags(wanted: Wanted) -> list[str]:
    kinds = TOPICS[wanted.topic].kinds
    taken = (wanted.kind,) if wanted.kind else kinds[:1] if wanted.topic in RAW else kinds
    return [tag_of(kind) for kind in taken]


def _is_wanted(batch: pa.RecordBatch, tags: Sequence[str], markets: Sequence[str]) -> pa.Array:
    found = pc.is_in(batch.column("type"), pa.array(tags))
    if markets:
        found = pc.and_(found, pc.is_in(batch.column("market"), pa.array(markets, pa.string())))
    return found
