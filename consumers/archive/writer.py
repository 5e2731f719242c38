"""Cuts what is read from the log into parts and writes each of them: whole, checked, in order of offsets.

Called by the process's loop. A part is written only where its bytes give back exactly the records that it was made of;
records that could not be written stay here until they can.
"""

import io
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from consumers.archive.days import place_of
from consumers.execute.crash import Reach, reach_nothing
from infra.log import Record, Slot
from infra.store import Store, StoreFull, StoreUnavailable
from streams.parts import DamagedPart, Footer, Part, part_bytes, read_footer, records_of

HELD_BYTES = 64 << 20
"""Values kept in memory before parts are cut for their sake; twice as many before reading waits."""

CRASH_POINTS = ("after_read", "before_part", "in_file", "before_rename", "after_rename", "after_part")
"""Where `verify archive` kills the writer; those in the middle are inside `infra.store.FolderStore.write`."""


class Limits(NamedTuple):
    """When a part ends, beside its hour."""

    seconds: float
    records: int


class Written(NamedTuple):
    """A part that is on the disk."""

    part: Part
    footer: Footer
    bytes: int


@dataclass(slots=True)
class _Group:
    """Records that become one part."""

    hour: int
    """Hours since the epoch; KST is nine whole ones ahead."""
    opened_s: float
    records: list[Record] = field(default_factory=list)
    bytes: int = 0
    part: Part | None = None
    """What it was tried to be written as; it may stand there, so it is written as the same again."""


class PartWriter:
    """What was read and is not in the archive yet, per partition. `next` is where each partition's next part begins."""

    def __init__(
        self,
        store: Store,
        run: str,
        starts: Mapping[Slot, int],
        limits: Limits,
        *,
        clock_s: Callable[[], float],
        check_room: Callable[[int], None] = lambda _: None,
        reach: Reach = reach_nothing,
    ) -> None:
        self.next = dict(starts)
        self.earliest = ""
        """No part goes into a day before this one: those are closed."""
        self.held_bytes = 0
        self._store = store
        self._run = run
        self._limits = limits
        self._clock_s = clock_s
        self._check_room = check_room
        self._reach = reach
        self._groups: dict[Slot, deque[_Group]] = {slot: deque() for slot in starts}

    def take(self, records: Iterable[Record]) -> None:
        """Keep further records; those that are in the archive already are passed over."""
        for record in records:
            groups = self._groups[record.slot]
            if record.offset < self.next[record.slot] or (groups and record.offset <= groups[-1].records[-1].offset):
                continue
            hour = record.append_ms // 3_600_000
            if not groups or self._is_full(groups[-1]) or hour > groups[-1].hour:
                groups.append(_Group(hour, self._clock_s()))
            groups[-1].records.append(record)
            groups[-1].bytes += len(record.value)
            self.held_bytes += len(record.value)

    def write(self, position: Callable[[Slot], int], *, is_all: bool = False) -> Iterable[Written]:
        """Write what is due, or all there is; yields each part that is on the disk.

        `position` is the reader's: everything before it was taken, so that transaction markers behind the last record
        are covered too. Raises `StoreFull` and `StoreUnavailable`; what was not written is still here then.
        """
        for slot, groups in self._groups.items():
            while groups and self._is_due(groups, is_all=is_all):
                last = groups[0].records[-1].offset
                if len(groups) == 1:
                    last = max(last, position(slot) - 1)
                written = self._write(slot, groups[0], last)
                self.held_bytes -= groups.popleft().bytes
                self.next[slot] = written.part.last + 1
                yield written
        if self.held_bytes > HELD_BYTES:
            yield from self.write(position, is_all=True)

    def oldest_ms(self, slot: Slot) -> int | None:
        """Append time of the oldest record of a partition that is not in the archive yet; None where none is here."""
        groups = self._groups[slot]
        return min(record.append_ms for record in groups[0].records[:1]) if groups else None

    def _is_due(self, groups: deque[_Group], *, is_all: bool) -> bool:
        group = groups[0]
        return (
            is_all
            or len(groups) > 1
            or self._is_full(group)
            or self._clock_s() - group.opened_s >= self._limits.seconds
        )

    def _is_full(self, group: _Group) -> bool:
        return group.part is not None or len(group.records) >= self._limits.records

    def _write(self, slot: Slot, group: _Group, last: int) -> Written:
        day, hour = max(place_of(group.records[0].append_ms), (self.earliest, 0))
        part = group.part or Part(day, hour, slot, self.next[slot], last)
        data = part_bytes(self._run, part, group.records)
        if list(records_of(io.BytesIO(data), part.name)) != group.records:
            raise DamagedPart(f"{part.name}: its bytes do not give back its records; it is not written. Report this.")
        self._check_room(len(data))
        self._reach("before_part")
        group.part = part
        try:
            self._store.write(part.name, data)
        except StoreFull:
            if self._store.size(part.name) is None:
                group.part = None
            raise
        self._reach("after_part")
        if self._store.read(part.name) != data:
            raise StoreUnavailable(f"{self._store.url}/{part.name} gives back other bytes than were written")
        return Written(part, read_footer(io.BytesIO(data), part.name), len(data))
