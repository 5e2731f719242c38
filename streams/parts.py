"""The part file of an archive: consecutive records of one partition as Parquet, and the exact records back from it.

Called by the archive process, by the import and by every reader of an archive. Messages that are flat structs stand in
typed columns alone where those give the same bytes back, which is tried for each when it is written; all else keeps its
bytes in `record_value`. It never gives a file that is cut off, changed or not ours as if it were whole, and no byte of
it reaches Parquet's reader unchecked (`streams.part_seal`).
"""

import gc
import hashlib
import itertools
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from functools import cache
from typing import BinaryIO, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import Stop
from infra.log import Record, Slot
from streams.columns import fitted, schema_of
from streams.messages import Features, Message, OrderBook, Quote, Signal, Trade, encode, tag_of
from streams.part_rows import values_of
from streams.part_seal import DamagedPart, SealedFile, sealed
from streams.topics import TOPICS, decode

__all__ = [
    "DamagedPart", "Digest", "Footer", "MixedRuns", "Part", "batches_of", "part_bytes", "part_schema", "read_footer",
    "records_of", "table_of",
]  # fmt: skip
FLAT: tuple[type[Message], ...] = (OrderBook, Trade, Features, Signal, Quote)
"""Messages that need no bytes beside their columns."""
ROW_GROUP = 100_000
_CHUNK = 2_000
"""Records that are Python objects at a time, when written and when read: a merge has a hundred parts open."""
_COORDINATES = ("record_partition", "record_offset", "append_ms")
_NOT_TYPED = ("type", "record_key", "record_value", *_COORDINATES)
_FOOTER = b"observator"
_BEGINNING = b"PAR1"
"""With it a footer alone can be read like a file."""
_BROKEN = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError)
"""What Arrow and our own reading of columns raise for a file that is not what we wrote."""
_NAME = re.compile(
    r"dt=(\d{4}-\d{2}-\d{2})/hour=(\d{2})/([a-z0-9][a-z0-9-]*)/p(\d{1,6})-(\d{1,19})-(\d{1,19})\.parquet",
    re.ASCII,
)
_END = 2**63
"""Offsets are 64-bit numbers."""


class MixedRuns(Stop):
    """A part of another run lies in an archive; the message names it."""


class Part(NamedTuple):
    """One part: where it stands and which offsets it covers, transaction markers and compacted records included."""

    day: str
    """KST day of the append time of its first record."""
    hour: int
    slot: Slot
    first: int
    last: int

    @property
    def name(self) -> str:
        """Its name below the archive's root."""
        slot = f"{self.slot.topic}/p{self.slot.partition}"
        return f"dt={self.day}/hour={self.hour:02}/{slot}-{self.first}-{self.last}.parquet"

    @classmethod
    def of_name(cls, text: str) -> "Part | None":
        """The part that a name stands for; None for any other name."""
        found = _NAME.fullmatch(text)
        if found is None:
            return None
        day, hour, topic, partition, first, last = found.groups()
        part = cls(day, int(hour), Slot(topic, int(partition)), int(first), int(last))
        return (
            part if part.name == text and part.first <= part.last < _END and part.hour < 24 and _is_day(day) else None
        )


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


class Footer(NamedTuple):
    """What a part says of itself."""

    run: str
    topic: str
    partition: int
    first: int
    last: int
    count: int  # type: ignore[assignment]  # a tuple's own `count` is not needed here
    digest: str
    append_first_ms: int
    """Append time of its first record."""
    append_last_ms: int
    """The latest append time in it."""
    went_back: bool
    """Whether the log's clock went back within it."""


class Digest:
    """Hash over records in offset order: offset, append time, key and value, each text with its length."""

    def __init__(self) -> None:
        self._hasher = hashlib.blake2b(digest_size=16)

    def add(self, records: Iterable[Record]) -> None:
        """Take further records."""
        pack = struct.Struct("<qqI").pack
        pack_length = struct.Struct("<I").pack
        for _, _, offset, append_ms, key, value in records:
            name = key.encode()
            self._hasher.update(b"".join((pack(offset, append_ms, len(name)), name, pack_length(len(value)), value)))

    def text(self) -> str:
        """As it stands in a footer."""
        return self._hasher.hexdigest()


def part_bytes(run: str, part: Part, records: Sequence[Record]) -> bytes:
    """Write a part as one Parquet file. Raises `ValueError` for records of elsewhere or out of order."""
    _check_order(part, records)
    schema = part_schema(part.slot.topic)
    digest = Digest()
    batches = []
    for start in range(0, len(records), _CHUNK):
        chunk = records[start : start + _CHUNK]
        digest.add(chunk)
        with _uncollected():
            batches.append(_batch(part.slot.topic, chunk, schema))
    times = [record.append_ms for record in records]
    footer = Footer(
        run=run,
        topic=part.slot.topic,
        partition=part.slot.partition,
        first=part.first,
        last=part.last,
        count=len(records),
        digest=digest.text(),
        append_first_ms=times[0] if times else 0,
        append_last_ms=max(times, default=0),
        went_back=any(later < earlier for earlier, later in itertools.pairwise(times)),
    )
    told = msgspec.json.encode({"format": 1, **footer._asdict()})
    table = pa.Table.from_batches(batches, schema).replace_schema_metadata({_FOOTER: told})
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=3,
        row_group_size=ROW_GROUP,
        write_page_checksum=True,
        write_statistics=["record_offset", "append_ms"],  # of all columns they take a kilobyte and nobody asks
        store_schema=True,
    )
    return sealed(bytes(sink.getvalue()))


@cache
def part_schema(topic: str) -> pa.Schema:
    """The columns of a topic's parts; a topic that this version does not know keeps bytes only."""
    kinds = TOPICS[topic].kinds if topic in TOPICS else ()
    typed = schema_of(*kinds)
    fields = [typed.field(name) for name in typed.names]
    at = len(_COORDINATES)
    fields[at:at] = [pa.field("record_key", pa.string())]
    fields[at + 2 : at + 2] = [pa.field("record_value", pa.binary())]
    return pa.schema(fields)


def read_footer(source: BinaryIO, name: str, *, run: str | None = None) -> Footer:
    """What a part says of itself; raises `DamagedPart` for a file that is none, or not the one that it is named.

    Raises `MixedRuns` for a part of another run than `run`.
    """
    return _opened(source, name, run)[1]


def records_of(
    source: BinaryIO, name: str, first: int | None = None, end: int | None = None, *, run: str | None = None
) -> Iterator[Record]:
    """Yield the records with offsets in [`first`, `end`) exactly as they were, in order, a few thousand at a time.

    Raises `DamagedPart`: where the file cannot be read, and at the end of a whole read also where count or digest
    differ, so what was yielded before must not be taken for whole. Raises `MixedRuns` as `read_footer` does.
    """
    file, footer = _opened(source, name, run)
    low = footer.first if first is None else max(first, footer.first)
    high = footer.last + 1 if end is None else min(end, footer.last + 1)
    is_whole = (low, high) == (footer.first, footer.last + 1)
    digest, count = Digest(), 0
    for batch in _batches(file, name):
        try:
            with _uncollected():
                records = _records(batch, footer)
        except _BROKEN as error:  # columns that are not what we write
            raise DamagedPart(f"{name}: its columns cannot be read as records of {footer.topic}: {error}") from error
        count += len(records)
        if is_whole:
            digest.add(records)
        yield from (records if is_whole else (record for record in records if low <= record.offset < high))
        if records[-1].offset >= high:
            return
    if is_whole and (count, digest.text()) != (footer.count, footer.digest):
        raise DamagedPart(
            f"{name}: it holds {count} records with digest {digest.text()}, its footer says {footer.count} with"
            f" {footer.digest}. The file was changed: fetch it again or write it from the log anew."
        )


def table_of(source: BinaryIO, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Some columns of a part (all: None) as they stand in it; raises `DamagedPart`, `KeyError` for an unknown column.

    What is read is held against the seal; the digest is not, because it needs every column.
    """
    file, footer = _opened(source, name)
    if columns is not None and (unknown := [one for one in columns if one not in file.schema_arrow.names]):
        raise KeyError(f"{name} has no column {', '.join(unknown)}")
    try:
        table = file.read(columns=list(columns) if columns is not None else None)
    except _BROKEN as error:
        raise _damaged(name, error) from error
    _must_have(len(table), footer, name)
    return table


def batches_of(
    source: BinaryIO, name: str, columns: Sequence[str], rows: int, *, run: str | None = None
) -> Iterator[pa.RecordBatch]:
    """Some columns of a part in pieces of at most `rows` rows; columns that it lacks are left out."""
    file, footer = _opened(source, name, run)
    wanted = [one for one in columns if one in file.schema_arrow.names]
    count = 0
    try:
        for batch in file.iter_batches(batch_size=rows, columns=wanted):
            count += len(batch)
            yield batch
    except _BROKEN as error:
        raise _damaged(name, error) from error
    _must_have(count, footer, name)


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection while some thousand lists are made: it would walk every number of them three times."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _check_order(part: Part, records: Sequence[Record]) -> None:
    before = part.first - 1
    for record in records:
        if (record.topic, record.partition) != part.slot or not before < record.offset <= part.last:
            raise ValueError(
                f"{record.topic}-{record.partition} offset {record.offset} does not follow {before} in {part.name}"
            )
        before = record.offset


def _batch(topic: str, records: Sequence[Record], schema: pa.Schema) -> pa.RecordBatch:
    messages = [_message(topic, record.value) for record in records]
    columns = fitted(messages, [schema.field(name) for name in schema.names if name not in _NOT_TYPED])
    tags = [None if one is None else tag_of(type(one)) for one in messages]
    kept = [
        None if isinstance(message, FLAT) and encode(message) == record.value else record.value
        for record, message in zip(records, messages, strict=True)
    ]
    columns |= {
        "record_partition": pa.array([record.partition for record in records], pa.int64()),
        "record_offset": pa.array([record.offset for record in records], pa.int64()),
        "append_ms": pa.array([record.append_ms for record in records], pa.int64()),
        "record_key": pa.array([record.key for record in records], pa.string()),
        "type": pa.array(tags, pa.string()),
        "record_value": pa.array(kept, pa.binary()),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def _message(topic: str, value: bytes) -> Message | None:
    if topic not in TOPICS:
        return None
    try:
        message: Message = decode(topic, value)
    except msgspec.DecodeError:
        return None
    return message


def _opened(source: BinaryIO, name: str, run: str | None = None) -> tuple[pq.ParquetFile, Footer]:
    try:
        checked = SealedFile(source, name)
        metadata = pq.read_metadata(pa.BufferReader(_BEGINNING + checked.footer))
        file = pq.ParquetFile(checked, metadata=metadata)
        told = (file.schema_arrow.metadata or {}).get(_FOOTER)
    except _BROKEN as error:
        raise _damaged(name, error) from error
    if told is None:
        raise DamagedPart(f"{name}: a Parquet file, but no part of an archive. Take it out of the archive's folder.")
    try:
        said = msgspec.json.decode(told, type=_Told)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(name, error) from error
    footer = said.footer()
    named = Part.of_name(name)
    if named is not None and (named.slot, named.first, named.last) != (
        Slot(footer.topic, footer.partition),
        footer.first,
        footer.last,
    ):
        raise DamagedPart(
            f"{name}: it holds {footer.topic}-{footer.partition} {footer.first} to {footer.last}. Give it its own name."
        )
    if run is not None and footer.run != run:
        raise MixedRuns(
            f"{name}: it is of run {footer.run}, the archive is of run {run}. Move it to the archive of its own run."
        )
    return file, footer


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    run: str
    topic: str
    partition: int
    first: int
    last: int
    count: int
    digest: str
    append_first_ms: int
    append_last_ms: int
    went_back: bool

    def footer(self) -> Footer:
        return Footer(**{name: getattr(self, name) for name in Footer._fields})


def _must_have(count: int, footer: Footer, name: str) -> None:
    if count != footer.count:
        raise DamagedPart(f"{name}: it holds {count} records, its footer says {footer.count}. Fetch it again.")


def _damaged(name: str, error: Exception) -> DamagedPart:
    if isinstance(error, OSError) and error.errno is not None:
        raise error  # the disk's, not the file's: Arrow's own have no number
    return DamagedPart(f"{name}: cut off or damaged, it cannot be read ({error}). Fetch it again or write it anew.")


def _batches(file: pq.ParquetFile, name: str) -> Iterator[pa.RecordBatch]:
    """The file's rows in pieces."""
    try:
        yield from file.iter_batches(batch_size=_CHUNK)
    except _BROKEN as error:
        raise _damaged(name, error) from error


def _records(batch: pa.RecordBatch, footer: Footer) -> list[Record]:
    values = values_of(batch, FLAT)
    topic, partition = footer.topic, footer.partition
    offsets, times, keys = (batch.column(name).to_pylist() for name in ("record_offset", "append_ms", "record_key"))
    return [
        Record(topic, partition, offset, append_ms, key, value)
        for offset, append_ms, key, value in zip(offsets, times, keys, values, strict=True)
    ]
