"""Offsets of a copy: a record gets a new one, and what names offsets (`trade-inputs`, cursors of states) is translated.

Called by `write_run`. Pure; it never guesses: what a copy does not hold has no new offset.
"""

from bisect import bisect_right
from collections.abc import Mapping

import msgspec

from infra.errors import RecordsLost
from infra.log import Record, Slot
from streams import messages as m
from streams import topics

NAMING = ("trade-inputs", "account-states")
"""Topics whose records name offsets of others."""


class OffsetMap:
    """Old to new offset of one partition: the places from which on their distance is another one."""

    def __init__(self, first: int, new_first: int) -> None:
        self.first = first
        self.new_first = new_first
        self.next_old = first
        """One past the last record copied."""
        self.next_new = new_first
        self._froms: list[int] = []
        self._distances: list[int] = []

    def note(self, old: int) -> None:
        """The next record of the copy stood at `old`."""
        distance = old - self.next_new
        if not self._distances or self._distances[-1] != distance:
            self._froms.append(old)
            self._distances.append(distance)
        self.next_old, self.next_new = old + 1, self.next_new + 1

    def told(self) -> dict[str, int]:
        """Where the copy began and has come to, in old and in new offsets."""
        return {"first": self.first, "next": self.next_old, "new_first": self.new_first, "new_next": self.next_new}

    def new(self, old: int) -> int:
        """The new offset of a record of the copy."""
        return old - self._distances[bisect_right(self._froms, old) - 1]

    def new_next(self, old: int) -> int:
        """The new offset for "everything before `old`": of the first record of the copy at or behind it."""
        if old <= self.first or not self._froms:
            return self.new_first
        at = bisect_right(self._froms, old) - 1
        if at < 0:
            return self.new_first
        is_last = at + 1 == len(self._froms)
        limit = self.next_new if is_last else self._froms[at + 1] - self._distances[at + 1]
        return min(old - self._distances[at], limit)


class Translation:
    """All partitions of a copy."""

    def __init__(self, spans: Mapping[Slot, tuple[int, int]], new_firsts: Mapping[Slot, int]) -> None:
        self.maps = {slot: OffsetMap(first, new_firsts.get(slot, 0)) for slot, (first, _) in spans.items()}
        self._spans = spans
        self.cut = 0
        """Inputs that lie, in whole or in part, before what is copied."""

    def is_ready(self, record: Record) -> bool:
        """Whether all that a record of `trade-inputs` names has been copied."""
        entry = _entry(record)
        if entry is None or entry.kind == "pulse":
            return True
        slot = Slot(entry.topic, entry.partition)
        known = self.maps.get(slot)
        return known is None or entry.last < max(known.next_old, known.first)

    def value_of(self, record: Record) -> bytes | None:
        """The bytes of a record's copy; None where nothing of what it names is copied."""
        if record.topic == "trade-inputs":
            return self._input(record)
        if record.topic == "account-states":
            return self._state(record)
        return record.value

    def _input(self, record: Record) -> bytes | None:
        entry = _entry(record)
        if entry is None or entry.kind == "pulse":
            return record.value
        slot = Slot(entry.topic, entry.partition)
        known = self.maps.get(slot)
        if known is None:
            raise RecordsLost(
                f"trade-inputs/{record.partition} offset {record.offset} names {slot.topic}/{slot.partition}"
                f" {entry.first}-{entry.last}, which is not copied: copy that topic too, or leave trade-inputs out."
            )
        if entry.first < known.first:
            self.cut += 1
        if entry.last < known.first:
            return None
        first = known.new_first if entry.first < known.first else known.new(entry.first)
        return m.encode(msgspec.structs.replace(entry, first=first, last=known.new(entry.last)))

    def _state(self, record: Record) -> bytes:
        try:
            state: m.AccountState = topics.decode("account-states", record.value)
        except msgspec.DecodeError:
            return record.value
        cursor = {name: self._moved(name, offset) for name, offset in state.cursor.items()}
        return m.encode(msgspec.structs.replace(state, cursor=cursor))

    def _moved(self, name: str, offset: int) -> int:
        topic, _, partition = name.partition("/")
        known = self.maps.get(Slot(topic, int(partition))) if partition.isdigit() else None
        return offset if known is None else known.new_next(offset)


def _entry(record: Record) -> m.TradeInput | None:
    try:
        entry: m.TradeInput = topics.decode("trade-inputs", record.value)
    except msgspec.DecodeError:
        return None
    return entry
