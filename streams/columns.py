"""The log as columns: Arrow schemas of every message, and reading a stretch of a topic as messages or as a DataFrame.

Called by `observator read`, by training and by people in a notebook. It must never write to the log nor join a group.
"""

import itertools
import types
import typing
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import Any, Literal

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa

from infra.log import Log, Reader, Record, Slot, slots_of
from streams.market.features import NAMES, SCHEMA
from streams.messages import Message, tag_of
from streams.topics import TOPICS, decode

_TIMES = ("bin_ms", "exchange_ms", "event_ms", "started_ms", "to_ms")
_COORDINATES: tuple[tuple[str, pa.DataType], ...] = (
    ("record_partition", pa.int64()),
    ("record_offset", pa.int64()),
    ("append_ms", pa.int64()),
    ("type", pa.string()),
)
_BATCH = 2_000
NOT_KNOWN_IS_ZERO = frozenset({"received_ns", "trade_ms"})
"""Times that imported data may lack: 0 in the message, null in the column."""


@dataclass(slots=True)
class Stretch:
    """What a read passed over, filled while it goes: unreadable records by their coordinates."""

    unreadable: list[tuple[str, int, int]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def event_ms_of(message: Message) -> int:
    """Event time of a message: bin end, exchange time or event time; a hole's end; a process's start."""
    for name in _TIMES:
        if name in message.__struct_fields__:
            return int(getattr(message, name))
    raise TypeError(f"{type(message).__name__} has no time")


def read_records(
    log: Log,
    topic: str,
    from_ms: int | None = None,
    to_ms: int | None = None,
    limit: int | None = None,
    *,
    appended_from_ms: int | None = None,
    stretch: Stretch | None = None,
) -> Iterator[tuple[Record, Message]]:
    """Yield the records of a topic with event time in [`from_ms`, `to_ms`), partition by partition in offset order.

    It ends at what stood in the log when it was called. Event times may jump (a recording from 2021, a market at a
    hundred times live speed), so the whole topic is filtered unless `appended_from_ms` names an append time to start
    at. Records that cannot be read are named in `stretch` and passed over.
    """
    stretch = stretch or Stretch()
    left = limit
    bounds = log.bounds(slots_of(log, [topic]))
    for slot, (first, end) in sorted(bounds.items()):
        if first >= end or (left is not None and left <= 0):
            continue
        reader = log.reader({slot: first})
        try:
            if appended_from_ms is not None:
                reader.seek(slot, log.appended_at([slot], appended_from_ms)[slot])
            for record in records_to(reader, slot, end):
                message = _message(record, stretch)
                if message is None or not _is_between(message, from_ms, to_ms):
                    continue
                yield record, message
                if left is not None:
                    left -= 1
                    if left == 0:
                        break
        finally:
            reader.close()


def read_frame(
    log: Log,
    topic: str,
    from_ms: int | None = None,
    to_ms: int | None = None,
    limit: int | None = None,
    *,
    kind: type[Message] | None = None,
    appended_from_ms: int | None = None,
) -> pd.DataFrame:
    """Read a stretch of a topic as a DataFrame: coordinates and type first, then the messages' fields.

    In market data topics only the data (`OrderBook`, `Trade`) is taken unless `kind` names another message; lists stay
    lists, money stays `Decimal`. Columns that a message lacks are null.
    """
    kinds = TOPICS[topic].kinds
    wanted = (kind,) if kind else (kinds[0],) if topic in {"orderbooks", "trades"} else kinds
    pairs = [
        pair
        for pair in read_records(log, topic, from_ms, to_ms, limit, appended_from_ms=appended_from_ms)
        if isinstance(pair[1], wanted)
    ]
    return to_frame(to_table(pairs, wanted))


def to_table(pairs: list[tuple[Record, Message]], kinds: tuple[type[Message], ...]) -> pa.Table:
    """Put messages into Arrow columns (for Parquet).

    Messages that do not fit into them (an integer of more than 64 bits) are left out, as unreadable records are.
    """
    schema = schema_of(*kinds)
    messages: list[Message | None] = [message for _, message in pairs]
    columns: dict[str, Any] = {
        "record_partition": [record.partition for record, _ in pairs],
        "record_offset": [record.offset for record, _ in pairs],
        "append_ms": [record.append_ms for record, _ in pairs],
        "type": [tag_of(type(message)) for _, message in pairs],
    }
    columns |= fitted(messages, [schema.field(name) for name in schema.names[len(_COORDINATES) :]])
    table = pa.table(columns, schema=schema)
    fits = [message is not None for message in messages]
    return table if all(fits) else table.filter(pa.array(fits))


def fitted(messages: list[Message | None], fields: Sequence[pa.Field]) -> dict[str, pa.Array]:
    """The messages' fields as columns. Messages that do not fit into them become None in `messages`."""
    try:
        return {one.name: column_of(messages, one) for one in fields}
    except (ValueError, TypeError, OverflowError):
        for i in _unfit(messages, fields, 0):
            messages[i] = None
        return {one.name: column_of(messages, one) for one in fields}


def _unfit(messages: Sequence[Message | None], fields: Sequence[pa.Field], at: int) -> list[int]:
    """Places of the messages that do not fit, found by halves."""
    try:
        for one in fields:
            column_of(messages, one)
    except (ValueError, TypeError, OverflowError):
        if len(messages) == 1:
            return [at]
        half = len(messages) // 2
        return _unfit(messages[:half], fields, at) + _unfit(messages[half:], fields, at + half)
    return []


def column_of(messages: Sequence[Message | None], wanted: pa.Field) -> pa.Array:
    """One field of some messages as a column, null where a message lacks it.

    Raises `ValueError`, `TypeError` or `OverflowError` where a value does not fit (an integer of more than 64 bits).
    """
    kind = wanted.type
    values = [getattr(message, wanted.name, None) for message in messages]
    if wanted.name in NOT_KNOWN_IS_ZERO:
        values = [value or None for value in values]
    if pa.types.is_list(kind) and pa.types.is_floating(kind.value_type):
        return _float_lists(values)
    try:
        return pa.array(values, kind)
    except pa.ArrowTypeError:
        return pa.array([_plain(value, kind) for value in values], kind)


def _float_lists(values: list[list[float | None] | None]) -> pa.Array:
    """Lists of numbers in one piece: a Python object per number costs ten times as long. NaN stands for null."""
    lengths = np.fromiter((0 if one is None else len(one) for one in values), np.int32, len(values))
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    flat = itertools.chain.from_iterable(one for one in values if one)
    try:
        numbers = np.fromiter(flat, np.float64, int(offsets[-1]))
    except TypeError:  # some are None
        numbers = np.array([number for one in values if one for number in one], np.float64)
    missing = np.fromiter((one is None for one in values), np.bool_, len(values))
    return pa.ListArray.from_arrays(
        offsets, pa.array(numbers, from_pandas=True), mask=pa.array(missing) if missing.any() else None
    )


def _plain(value: Any, kind: pa.DataType) -> Any:
    """What Arrow takes for a value: texts of decimals, enclosed structs and raw JSON, also inside lists and maps."""
    if value is None:
        return None
    if pa.types.is_map(kind):
        return [(key, _plain(one, kind.item_type)) for key, one in value.items()]
    if pa.types.is_list(kind):
        return [_plain(one, kind.value_type) for one in value]
    return _as_text(value) if pa.types.is_string(kind) else value


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Turn an Arrow table of messages into pandas: lists as lists, decimal texts as `Decimal`."""
    nested = [one.name for one in table.schema if pa.types.is_nested(one.type)]
    flat = table.drop_columns(nested).to_pandas(integer_object_nulls=True)  # lists would become arrays first
    frame = typing.cast("pd.DataFrame", flat)
    for column in table.schema:
        if pa.types.is_nested(column.type):
            lists = [one for chunk in table[column.name].chunks for one in plain_of(chunk)]
            whole = [dict(one) if one else one for one in lists] if pa.types.is_map(column.type) else lists
            frame[column.name] = pd.Series(whole, dtype=object, index=frame.index)
        elif column.metadata and column.metadata.get(b"observator") == b"decimal":
            texts = table[column.name].to_pylist()
            decimals = [None if text is None else Decimal(text) for text in texts]
            frame[column.name] = pd.Series(decimals, dtype=object, index=frame.index)
    return typing.cast("pd.DataFrame", frame[table.schema.names])


def plain_of(column: pa.Array) -> list[Any]:
    """A column as Python values; lists of numbers by way of one flat list, a fifth of the time."""
    if not (pa.types.is_list(column.type) and pa.types.is_floating(column.type.value_type)) or column.null_count:
        found: list[Any] = column.to_pylist()
        return found
    numbers = column.flatten()
    if numbers.null_count:
        objects = numbers.to_numpy(zero_copy_only=False).astype(object)
        objects[numbers.is_null().to_numpy(zero_copy_only=False)] = None
        flat = objects.tolist()
    else:
        flat = numbers.to_numpy(zero_copy_only=True).tolist()
    ends = np.cumsum(column.value_lengths().to_numpy(zero_copy_only=False)).tolist()
    return [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def expand_features(frame: pd.DataFrame) -> pd.DataFrame:
    """Replace `values` of a features frame by one float column per feature name; other schemas are refused."""
    others = set(frame["schema"]) - {SCHEMA}
    if others:
        raise ValueError(f"rows of schema {sorted(others)} cannot be named by schema {SCHEMA}")
    wide = pd.DataFrame(frame["values"].tolist(), columns=list(NAMES), index=frame.index, dtype="float64")
    return pd.concat([frame.drop(columns="values"), wide], axis=1)


@cache
def schema_of(*kinds: type[Message]) -> pa.Schema:
    """Arrow schema of some messages: coordinates and type, then the union of their fields in order."""
    fields: dict[str, pa.Field] = {name: pa.field(name, kind) for name, kind in _COORDINATES}
    for message in kinds:
        hints = typing.get_type_hints(message)
        for name in message.__struct_fields__:
            metadata = {"observator": "decimal"} if Decimal in _members(hints[name]) else None
            found = pa.field(name, _arrow_of(hints[name]), metadata=metadata)
            if not fields.setdefault(name, found).type.equals(found.type):
                fields[name] = pa.field(name, pa.string())
    return pa.schema(list(fields.values()))


def _members(hint: Any) -> tuple[Any, ...]:
    """The types that stand in a hint, without None."""
    if typing.get_origin(hint) in {types.UnionType, typing.Union}:
        return tuple(one for one in typing.get_args(hint) if one is not type(None))
    return (hint,)


def _arrow_of(hint: Any) -> pa.DataType:
    (one, *others) = _members(hint)
    if others:
        return pa.string()
    origin = typing.get_origin(one)
    if origin is list:
        return pa.list_(_arrow_of(typing.get_args(one)[0]))
    if origin is dict:
        return pa.map_(*map(_arrow_of, typing.get_args(one)))
    if origin is Literal:
        return pa.string()
    plain = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string(), Decimal: pa.string()}
    return plain.get(one, pa.string())


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Decimal):
        return f"{value:f}"
    return msgspec.json.encode(value).decode()


def _is_between(message: Message, from_ms: int | None, to_ms: int | None) -> bool:
    at = event_ms_of(message)
    return (from_ms is None or at >= from_ms) and (to_ms is None or at < to_ms)


def _message(record: Record, stretch: Stretch) -> Message | None:
    try:
        message: Message = decode(record.topic, record.value)
    except msgspec.DecodeError:
        stretch.unreadable.append((record.topic, record.partition, record.offset))
        return None
    stretch.counts[tag_of(type(message))] += 1
    return message


def records_to(reader: Reader, slot: Slot, end: int) -> Iterator[Record]:
    """Records of one partition up to, not including, `end`."""
    while reader.position(slot) < end:
        for record in reader.read(_BATCH, 0.1):  # at the end may stand nothing but a transaction marker
            if record.offset >= end:
                return
            yield record
