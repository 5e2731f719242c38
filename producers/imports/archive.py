"""Writes an import's records as an archive of its own: parts as they fill, `archive.json` last.

Called by `producers.imports.importing`. Without `archive.json` a folder is no archive, so an import that was broken off
is never taken for whole; the same import begun again goes on over what lies there. Nothing of others is touched.
"""

import time
from contextlib import closing
from datetime import datetime, timedelta, timezone

import msgspec

from infra.errors import BadSettings
from infra.log import Record, Slot
from infra.manifest import project_version
from infra.store import FolderStore, Store
from producers.imports.session import Timed
from streams.archived import FORMAT, MARK, ArchiveHistory, Mark
from streams.parts import Part, part_bytes, read_footer

KIND = "import"
PART_RECORDS = 50_000
HELD_BYTES = 32 * 2**20
"""Of values that wait for their part to fill, over all partitions; then the fullest is written."""
_KST = timezone(timedelta(hours=9))


class Target:
    """The place that an import goes to. Raises `BadSettings` where something else is there already."""

    def __init__(self, store: Store, run: str) -> None:
        self._store = store
        self._run = run
        self.is_done = False
        """Whether this very import is there already, whole."""
        self.is_resumed = False
        """Whether parts of it are there, from an import that was broken off."""
        self._look()

    def finish(self, parts: list[Part]) -> None:
        """Say that it is whole. Raises `BadSettings` where parts lie there that this import did not write."""
        others = sorted({name for name in self._store.names() if name != MARK} - {part.name for part in parts})
        if others:
            raise BadSettings(
                f"{self._store.url} holds {others[0]}, which this import did not write ({len(others)} such files)."
                " The archive was not finished: import into an empty place."
            )
        mark = Mark(
            format=FORMAT,
            run=self._run,
            prefix="",
            kind=KIND,
            made_ms=time.time_ns() // 1_000_000,
            by=f"observator {project_version()}",
            ends=_ends(parts),
        )
        self._store.write(MARK, msgspec.json.encode(mark))
        if isinstance(self._store, FolderStore):
            self._store.sweep()

    def _look(self) -> None:
        url = self._store.url
        try:
            mark = ArchiveHistory(self._store).mark
        except FileNotFoundError:
            for name in self._store.names():
                self._check_leftover(name)
                self.is_resumed = True
            return
        if mark.run != self._run:
            raise BadSettings(
                f"{url} is the archive of another run ({mark.kind}, {mark.run}), and an archive holds one."
                " Import into a place of its own."
            )
        self.is_done = True

    def _check_leftover(self, name: str) -> None:
        url = self._store.url
        if Part.of_name(name) is None:
            raise BadSettings(f"{url} is not empty ({name}) and no archive. Import into an empty place.")
        with closing(self._store.open(name)) as source:
            run = read_footer(source, name).run
        if run != self._run:
            raise BadSettings(f"{url} holds {name} of another import, broken off ({run}). Import into an empty place.")


class Parts:
    """Takes records in order of their append times and cuts them into parts; `written` names them."""

    def __init__(
        self, store: Store, run: str, *, part_records: int = PART_RECORDS, held_bytes: int = HELD_BYTES
    ) -> None:
        self._store = store
        self._run = run
        self._part_records = part_records
        self._held_bytes = held_bytes
        self._held = 0
        self._waiting: dict[Slot, list[Record]] = {}
        self._sizes: dict[Slot, int] = {}
        self._next: dict[Slot, int] = {}
        self.written: list[Part] = []
        self.bytes = 0
        self.first_ms = 0
        self.last_ms = 0

    @property
    def records(self) -> int:
        """How many were taken."""
        return sum(self._next.values())

    def take(self, timed: Timed) -> None:
        """Give one record its place."""
        topic, partition, key, value = timed.output
        slot = Slot(topic, partition)
        waiting = self._waiting.setdefault(slot, [])
        if waiting and (len(waiting) >= self._part_records or _hour(waiting[0].append_ms) != _hour(timed.append_ms)):
            self._write(slot)
        offset = self._next.get(slot, 0)
        self._next[slot] = offset + 1
        self._waiting[slot].append(Record(topic, partition, offset, timed.append_ms, key, value))
        self._sizes[slot] = self._sizes.get(slot, 0) + len(value)
        self._held += len(value)
        self.first_ms = self.first_ms or timed.append_ms
        self.last_ms = max(self.last_ms, timed.append_ms)
        if self._held > self._held_bytes:
            self._write(max(self._sizes, key=lambda one: (self._sizes[one], one)))

    def close(self) -> None:
        """Write what waits."""
        for slot in sorted(self._waiting):
            if self._waiting[slot]:
                self._write(slot)

    def _write(self, slot: Slot) -> None:
        records, self._waiting[slot] = self._waiting[slot], []
        self._held -= self._sizes.pop(slot)
        at = datetime.fromtimestamp(records[0].append_ms / 1000, _KST)
        part = Part(f"{at:%Y-%m-%d}", at.hour, slot, records[0].offset, records[-1].offset)
        data = part_bytes(self._run, part, records)
        self._store.write(part.name, data)
        self.written.append(part)
        self.bytes += len(data)


def _ends(parts: list[Part]) -> dict[str, int]:
    """Up to where each partition goes: a part that is taken out later is missed."""
    ends: dict[str, int] = {}
    for part in parts:
        place = f"{part.slot.topic}/{part.slot.partition}"
        ends[place] = max(ends.get(place, 0), part.last + 1)
    return ends


def _hour(append_ms: int) -> int:
    return append_ms // 3_600_000
