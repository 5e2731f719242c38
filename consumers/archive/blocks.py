"""The rows of a topic as Arrow columns in pieces, only the wanted columns, from an archive or a log.

Called by the frames, the ledger and the export. An archive's columns are read without making its messages; a log's
records are decoded. Neither ever holds more than one piece.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import cache

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from infra.log import Record, Slot
from streams.archived import ArchiveHistory
from streams.columns import to_table
from streams.history import History
from streams.messages import Message
from streams.parts import batches_of, part_schema
from streams.topics import TOPICS, decode

ROWS = 20_000
_DECODED = 2_000


def blocks(
    history: History, slot: Slot, first: int, end: int, columns: Sequence[str], rows: int = ROWS
) -> Iterator[pa.RecordBatch]:
    """Rows of one partition in offset order with `record_offset`, `type` and `columns`, at most `rows` at a time.

    Records that cannot be read as messages, or do not fit into columns, are left out. Raises what reading a history
    does for a missing, damaged, doubly told or foreign part.
    """
    wanted = list(dict.fromkeys(["record_offset", "type", *columns]))
    if isinstance(history, ArchiveHistory):
        yield from _archived(history, slot, first, end, wanted, rows)
    else:
        yield from _decoded(history.read(slot, first, end), slot.topic, wanted)


def _archived(
    history: ArchiveHistory, slot: Slot, first: int, end: int, wanted: list[str], rows: int
) -> Iterator[pa.RecordBatch]:
    for part, low, high in history.stretches(slot, first, end):
        is_whole = (low, high) == (part.first, part.last + 1)
        with closing(history.open(part)) as source:
            for batch in batches_of(source, part.name, wanted, rows, run=history.mark.run):
                kept = _kept(_completed(batch, slot.topic, wanted), None if is_whole else (low, high))
                if len(kept):
                    yield kept


def _completed(batch: pa.RecordBatch, topic: str, wanted: list[str]) -> pa.RecordBatch:
    """With the columns that a part of an older version lacks, as nulls."""
    if batch.schema.names == wanted:
        return batch
    missing = {name: pa.nulls(len(batch), part_schema(topic).field(name).type) for name in wanted}
    present = set(batch.schema.names)
    columns = [batch.column(name) if name in present else missing[name] for name in wanted]
    return pa.RecordBatch.from_arrays(columns, names=wanted)


def _kept(batch: pa.RecordBatch, span: tuple[int, int] | None) -> pa.RecordBatch:
    keep = None if batch.column("type").null_count == 0 else batch.column("type").is_valid()
    if span is not None:
        offsets = batch.column("record_offset")
        inside = pc.and_(pc.greater_equal(offsets, span[0]), pc.less(offsets, span[1]))
        keep = inside if keep is None else pc.and_(keep, inside)
    return batch if keep is None else batch.filter(keep)


def _decoded(records: Iterator[Record], topic: str, wanted: list[str]) -> Iterator[pa.RecordBatch]:
    pairs: list[tuple[Record, Message]] = []
    for record in records:
        try:
            pairs.append((record, decode(topic, record.value)))
        except msgspec.DecodeError:
            continue
        if len(pairs) == _DECODED:
            yield from _of_pairs(pairs, topic, wanted)
            pairs = []
    if pairs:
        yield from _of_pairs(pairs, topic, wanted)


def _of_pairs(pairs: list[tuple[Record, Message]], topic: str, wanted: list[str]) -> list[pa.RecordBatch]:
    table = to_table(pairs, TOPICS[topic].kinds)
    if "record_key" in wanted:
        keys = {record.offset: record.key for record, _ in pairs}
        kept = [keys[offset] for offset in table["record_offset"].to_pylist()]
        table = table.append_column("record_key", pa.array(kept, pa.string()))
    return [batch for batch in table.select(wanted).combine_chunks().to_batches() if len(batch)]


@cache
def columns_of(topic: str) -> tuple[str, ...]:
    """The columns that rows of a topic may be asked for, in order."""
    return tuple(name for name in part_schema(topic).names if name != "record_value")
