"""What the views, readers and writers of one in-memory log share: partitions, groups, transaction epochs.

Used by `infra.memory_log` and `infra.memory_readers` only, always under `Store.changed`.
"""

import threading
from collections.abc import Callable, Mapping
from functools import lru_cache

from infra.errors import TopicMissing
from infra.log import Record, Slot, partition_of
from infra.memory_groups import Group

_partition_of = lru_cache(maxsize=65_536)(partition_of)


class Tape:
    """One partition; `None` stands where Kafka keeps a transaction marker."""

    __slots__ = ("base", "rows")

    def __init__(self) -> None:
        self.base = 0
        self.rows: list[Record | None] = []

    @property
    def end(self) -> int:
        """Next offset to be written."""
        return self.base + len(self.rows)

    def append(self, record: Record) -> None:
        """Take a record where it says it stands; offsets left out are skipped by readers."""
        if record.offset < self.end:
            raise ValueError(f"offset {record.offset} of {record.topic}-{record.partition} stands before its end")
        if not self.rows:
            self.base = record.offset
        self.rows.extend([None] * (record.offset - self.end))
        self.rows.append(record)

    def appended_at(self, append_ms: int) -> int:
        """First offset appended at or after a time, else the end."""
        places = (place for place, row in enumerate(self.rows, self.base) if row and row.append_ms >= append_ms)
        return next(places, self.end)

    def truncate(self, first: int) -> None:
        """Delete everything before `first`."""
        del self.rows[: max(first - self.base, 0)]
        self.base = max(first, self.base)


class Store:
    """What all views of one log share. Everything in it is used under `changed`."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self.clock_ms = clock_ms
        self.changed = threading.Condition(threading.RLock())
        self.topics: dict[str, list[Tape]] = {}
        self.groups: dict[str, Group] = {}
        self.epochs: dict[str, int] = {}

    def tapes(self, topic: str) -> list[Tape]:
        """All partitions of a topic; raises `TopicMissing`."""
        try:
            return self.topics[topic]
        except KeyError:
            raise TopicMissing(f"topic {topic!r} is missing: run `observator topics create`") from None

    def tape(self, slot: Slot) -> Tape:
        """One partition; raises `TopicMissing`."""
        tapes = self.tapes(slot.topic)
        if not 0 <= slot.partition < len(tapes):
            raise TopicMissing(f"topic {slot.topic!r} has no partition {slot.partition}")
        return tapes[slot.partition]

    def group(self, name: str) -> Group:
        """A group, made where it is new."""
        if name not in self.groups:
            self.groups[name] = Group(name, lambda topic: len(self.tapes(topic)))
        return self.groups[name]

    def write(self, topic: str, key: str, value: bytes, partition: int | None) -> Slot:
        """Append one record and return where."""
        tapes = self.tapes(topic)
        if partition is None:
            partition = _partition_of(key, len(tapes))
        tape = tapes[partition]
        tape.rows.append(Record(topic, partition, tape.end, self.clock_ms(), key, value))
        return Slot(topic, partition)


def with_prefix(prefix: str, offsets: Mapping[Slot, int]) -> dict[Slot, int]:
    """The same offsets under the topics' full names."""
    return {Slot(prefix + slot.topic, slot.partition): offset for slot, offset in offsets.items()}
