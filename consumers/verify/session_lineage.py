"""Says of a difference what both records say, field by field, where they stand and what they came from.

Called by `session` for the first difference of each topic. Reads the history around it; compares nothing.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from consumers.verify.session_matching import Difference
from infra.errors import RecordsLost
from infra.log import Record, Slot, partition_of
from streams import messages as m
from streams import topics
from streams.history import History, spans_between

BACK_MS = 60_000
"""How long before a record what it came from may have been appended."""
_MOST_FIELDS = 40
_MOST_OFFSETS = 20

Places = list[dict[str, Any]]


def told(history: History, difference: Difference) -> dict[str, Any]:
    """The difference as plain values."""
    recorded = _message(history, difference.place)
    other: m.Message | None = difference.computed
    if difference.first_place is not None:
        other = _message(history, difference.first_place)
    segment = difference.segment
    known = recorded if recorded is not None else other
    return {
        "topic": difference.topic,
        "kind": difference.kind,
        "key": _plain(difference.key),
        "place": _place(difference.place),
        "first_place": _place(difference.first_place),
        "recorded": None if recorded is None else msgspec.to_builtins(recorded),
        "computed": None if difference.computed is None else msgspec.to_builtins(difference.computed),
        "fields": [] if recorded is None or other is None else fields_of(recorded, other),
        "manifest": None if segment is None else {"process": segment.process, "id": segment.manifest.id},
        "lineage": [] if known is None else _lineage(history, known, _around(history, difference)),
    }


def fields_of(recorded: m.Message, computed: m.Message) -> list[dict[str, Any]]:
    """What differs, by the path of the field; entries of a list by their index."""
    found: list[dict[str, Any]] = []
    _walk("", msgspec.to_builtins(recorded), msgspec.to_builtins(computed), found)
    return found[:_MOST_FIELDS]


def _walk(path: str, recorded: Any, computed: Any, found: list[dict[str, Any]]) -> None:
    if isinstance(recorded, dict) and isinstance(computed, dict):
        for name in {**recorded, **computed}:
            _walk(f"{path}.{name}" if path else name, recorded.get(name), computed.get(name), found)
    elif isinstance(recorded, list) and isinstance(computed, list) and len(recorded) == len(computed):
        for index, pair in enumerate(zip(recorded, computed, strict=True)):
            _walk(f"{path}[{index}]", *pair, found)
    elif recorded != computed:
        found.append({"field": path, "recorded": recorded, "computed": computed})


def _message(history: History, place: tuple[Slot, int, int] | None) -> m.Message | None:
    if place is None:
        return None
    slot, offset, _ = place
    record = next(iter(history.read(slot, offset, offset + 1)), None)
    message: m.Message | None = None if record is None else topics.decode(slot.topic, record.value)
    return message


def _place(place: tuple[Slot, int, int] | None) -> dict[str, Any] | None:
    if place is None:
        return None
    (topic, partition), offset, append_ms = place
    return {"topic": topic, "partition": partition, "offset": offset, "append_ms": append_ms}


def _plain(key: object) -> object:
    return list(key) if isinstance(key, tuple) else key


# --- where it came from -------------------------------------------------------------------------------------------


def _around(history: History, difference: Difference) -> int:
    """An append time near the difference."""
    if difference.place is not None:
        return difference.place[2]
    if difference.topic in {"order-intents", "order-events"}:
        return difference.at
    computed: Any = difference.computed
    partition = partition_of(m.key_of(computed.exchange, computed.market), topics.TOPICS[difference.topic].partitions)
    last, slot = (
        0,
        Slot(difference.topic, partition),
    )  # rows go by bins: what was recorded of that time says when it was
    for record in history.read(slot, *history.spans([difference.topic]).get(slot, (0, 0))):
        if topics.decode(slot.topic, record.value).bin_ms > difference.at:
            break
        last = record.append_ms
    return last


def _lineage(history: History, message: m.Message, append_ms: int) -> Places:
    if isinstance(message, m.Features):
        return _raw(history, message, append_ms)
    if isinstance(message, m.Signal):
        return _row(history, message.exchange, message.market, message.bin_ms, append_ms)
    if isinstance(message, m.OrderIntent):
        base = message.cause_id.partition("/")[0]
        return _signals(history, message, append_ms, lambda one: one.id == base)
    if isinstance(message, m.Veto):
        market = (message.exchange, message.market, message.event_ms)
        return _signals(history, message, append_ms, lambda one: (one.exchange, one.market, one.bin_ms) == market)
    return []


def _signals(
    history: History, message: m.OrderIntent | m.Veto, append_ms: int, matches: Callable[[m.Signal], bool]
) -> Places:
    """The signals that a decision was made on, and their row."""
    found: Places = []
    bin_ms = 0
    for record, signal in _near(history, "signals", append_ms):
        if matches(signal):
            found.append({"link": "signal", "id": signal.id, "model_id": signal.model_id, **_at(record)})
            bin_ms = signal.bin_ms
    return found + _row(history, message.exchange, message.market, bin_ms, append_ms) if found else []


def _row(history: History, exchange: str, market: str, bin_ms: int, append_ms: int) -> Places:
    for record, row in _near(history, "features", append_ms):
        if (row.exchange, row.market, row.bin_ms) == (exchange, market, bin_ms):
            link = {"link": "features", "bin_ms": bin_ms, "hash": m.hash_of(row).hex(), **_at(record)}
            return [link, *_raw(history, row, record.append_ms)]
    return []


def _raw(history: History, row: m.Features, append_ms: int) -> Places:
    """The books and trades of the row's bin."""
    begin_ms, owner = row.bin_ms - row.grid_ms, (row.source, row.session)
    found: Places = []
    for topic in ("orderbooks", "trades"):
        records = [
            record
            for record, one in _near(history, topic, append_ms)
            if isinstance(one, m.OrderBook | m.Trade)
            and one.market == row.market
            and (one.source, one.session) == owner
            and begin_ms <= one.exchange_ms < row.bin_ms
        ]
        if records:
            offsets = [record.offset for record in records[:_MOST_OFFSETS]]
            found.append({"link": topic, "records": len(records), "offsets": offsets, **_at(records[0])})
    return found


def _near(history: History, topic: str, append_ms: int) -> Iterator[tuple[Record, Any]]:
    """The readable records of a topic from a while before a time until just after it."""
    spans = spans_between(history, [topic], max(append_ms - BACK_MS, 0), append_ms + 1_000)
    for slot, span in spans.items():
        try:
            for record in history.read(slot, *span):
                try:
                    yield record, topics.decode(topic, record.value)
                except msgspec.DecodeError:
                    continue
        except RecordsLost:
            continue


def _at(record: Record) -> dict[str, Any]:
    return {"topic": record.topic, "partition": record.partition, "offset": record.offset}
