"""Looks records up in the log by what they say: nearest before a moment first, then ever further back.

Called by `lineage`. Reads only, joins no group, and knows which topics have lost records to retention.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from infra.catch_up import read_range
from infra.errors import RecordsLost
from infra.log import Log, Record, Slot, partition_of, slots_of
from streams import topics
from streams.messages import Message

FIRST_BACK_MS = 10_000
FURTHER = 10
SLACK_MS = 1_000
"""Causes are appended before what they cause, but to another partition: its batch may be stamped a moment later."""
_END_OF_TIME_MS = 2**62


@dataclass(frozen=True, slots=True)
class Found:
    """A record and what it says."""

    record: Record
    message: Any

    @property
    def place(self) -> dict[str, Any]:
        """Its coordinates."""
        record = self.record
        return {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "append_ms": record.append_ms,
        }


class Past:
    """What a log still holds."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def slot(self, topic: str, key: str) -> Slot:
        """Where records of a key stand."""
        return Slot(topic, partition_of(key, self._log.partitions(topic)))

    def slots(self, topic: str) -> list[Slot]:
        """All partitions of a topic."""
        return slots_of(self._log, [topic])

    def has_lost(self, topic: str) -> bool:
        """Whether retention has taken records of a topic."""
        return any(first > 0 for first, _ in self._log.bounds(self.slots(topic)).values())

    def scan(self, slot: Slot, from_ms: int = 0, to_ms: int = _END_OF_TIME_MS) -> Iterator[Found]:
        """The readable records of a partition that were appended in [`from_ms`, `to_ms`]."""
        first, end = self._log.bounds([slot])[slot]
        start = first if from_ms <= 0 else self._offset_at(slot, first, end, from_ms)
        try:
            for record in read_range(self._log, {slot: start}):
                if record.append_ms > to_ms:
                    return
                try:
                    yield Found(record, topics.decode(slot.topic, record.value))
                except msgspec.DecodeError:
                    continue
        except RecordsLost:
            return  # retention takes them while they are read

    def nearest(self, slot: Slot, before_ms: int, matches: Callable[[Message], bool]) -> Found | None:
        """The first match among the newest records appended until about `before_ms`; looks ever further back."""
        first, end = self._log.bounds([slot])[slot]
        back_ms = FIRST_BACK_MS
        while first < end:
            from_ms = max(before_ms - back_ms, 0)
            found = next((one for one in self.scan(slot, from_ms, before_ms + SLACK_MS) if matches(one.message)), None)
            if found is not None or self._offset_at(slot, first, end, from_ms) <= first:
                return found
            back_ms *= FURTHER
        return None

    def everywhere(self, topic: str, matches: Callable[[Message], bool]) -> Found | None:
        """The first match in a whole topic."""
        for slot in self.slots(topic):
            for found in self.scan(slot):
                if matches(found.message):
                    return found
        return None

    def _offset_at(self, slot: Slot, first: int, end: int, append_ms: int) -> int:
        if append_ms <= 0 or first >= end:
            return first
        return min(self._log.appended_at([slot], append_ms)[slot], end)
