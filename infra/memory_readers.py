"""Readers of the in-memory log: by given partitions, and as a member of a group.

Made by `infra.memory_log.MemoryLog`; nothing here runs a thread.
"""

import time
from collections.abc import Iterable, Mapping

from infra.errors import RecordsLost
from infra.log import Record, Slot, SlotsHandler
from infra.memory_groups import Group, Member
from infra.memory_store import Store, Tape, with_prefix


class MemoryReader:
    """Reads partitions in turn; which comes first moves on with every batch."""

    def __init__(self, store: Store, prefix: str, starts: Mapping[Slot, int]) -> None:
        self._store = store
        self._prefix = prefix
        self._positions = dict(sorted(starts.items()))
        self._paused: set[Slot] = set()
        self._turn = 0
        self._is_closed = False

    def read(self, max_records: int, timeout_s: float) -> list[Record]:
        """Return what is there, waiting at most `timeout_s` for a first record."""
        deadline = time.monotonic() + timeout_s
        with self._store.changed:
            while not (records := self._take(max_records)):
                left = deadline - time.monotonic()
                if left <= 0 or not self._store.changed.wait(left):
                    return self._take(max_records)
            return records

    def seek(self, slot: Slot, offset: int) -> None:
        """Continue at `offset`."""
        with self._store.changed:
            self._must_hold(slot)
            self._positions[slot] = offset

    def pause(self, slots: Iterable[Slot]) -> None:
        """Deliver nothing from these."""
        with self._store.changed:
            self._paused.update(map(self._must_hold, slots))

    def resume(self, slots: Iterable[Slot]) -> None:
        """Deliver from these again."""
        with self._store.changed:
            self._paused.difference_update(map(self._must_hold, slots))
            self._store.changed.notify_all()

    def position(self, slot: Slot) -> int:
        """Next offset to come; past markers at the end."""
        with self._store.changed:
            return self._positions[self._must_hold(slot)]

    def close(self) -> None:
        """Leave; a blocked read ends with an error."""
        with self._store.changed:
            self._is_closed = True
            self._store.changed.notify_all()

    def _must_hold(self, slot: Slot) -> Slot:
        if slot not in self._positions:
            raise ValueError(f"{slot} is not assigned to this reader")
        return slot

    def _take(self, max_records: int) -> list[Record]:
        if self._is_closed:
            raise RuntimeError("this reader is closed")
        slots = list(self._positions)
        self._turn += 1
        taken: list[Record] = []
        for i in range(len(slots)):
            slot = slots[(self._turn + i) % len(slots)]
            if slot not in self._paused and len(taken) < max_records:
                taken.extend(self._take_from(slot, max_records - len(taken)))
        return taken

    def _take_from(self, slot: Slot, count: int) -> list[Record]:
        tape = self._store.tape(Slot(self._prefix + slot.topic, slot.partition))
        position = self._start_in(tape, slot)
        taken: list[Record] = []
        while position < tape.end and len(taken) < count:
            rows = tape.rows[position - tape.base : position - tape.base + count - len(taken)]
            position += len(rows)
            taken.extend(row for row in rows if row is not None)
        while position < tape.end and tape.rows[position - tape.base] is None:
            position += 1
        self._positions[slot] = position
        return [row._replace(topic=slot.topic) for row in taken] if self._prefix else taken

    def _start_in(self, tape: Tape, slot: Slot) -> int:
        position = self._positions[slot]
        if not tape.base <= position <= tape.end:
            raise RecordsLost(
                f"{slot.topic}-{slot.partition} has no offset {position}: it keeps {tape.base} to {tape.end}"
            )
        return position


class MemoryGroupReader(MemoryReader):
    """A reader whose partitions come from a group; the handlers run inside `read`, outside the log's lock."""

    def __init__(
        self,
        store: Store,
        prefix: str,
        group: Group,
        member: Member,
        on_assigned: SlotsHandler | None,
        on_revoked: SlotsHandler | None,
    ) -> None:
        super().__init__(store, prefix, {})
        self.member = member
        self._group = group
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked

    def read(self, max_records: int, timeout_s: float) -> list[Record]:
        """Take part in a rebalance where there is one, then read."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._let_go()
            self._take_over()
            with self._store.changed:
                records = self._take(max_records)
                left = deadline - time.monotonic()
                if records or left <= 0:
                    return records
                if not (self._group.must_let_go(self.member) or self.member.is_fresh):
                    self._store.changed.wait(left)

    def commit(self, offsets: Mapping[Slot, int]) -> None:
        """Commit next offsets; raises `NotOwner`, `Fenced`."""
        with self._store.changed:
            self._group.commit(self.member, with_prefix(self._prefix, offsets))

    def assignment(self) -> frozenset[Slot]:
        """The partitions owned now."""
        return frozenset(self._positions)

    def close(self) -> None:
        """Leave the group, then close."""
        with self._store.changed:
            self._group.leave(self.member)
            super().close()

    def _let_go(self) -> None:
        with self._store.changed:
            if not self._group.must_let_go(self.member):
                return
        if self._positions and self._on_revoked is not None:
            self._on_revoked(self.assignment())
        with self._store.changed:
            self._positions.clear()
            self._paused.clear()
            self._group.rejoin(self.member)
            self._store.changed.notify_all()

    def _take_over(self) -> None:
        with self._store.changed:
            if not self.member.is_fresh:
                return
            self.member.is_fresh = False
            for slot in sorted(self.member.slots):
                first = self._group.committed.get(slot, self._store.tape(slot).base)
                self._positions[Slot(slot.topic[len(self._prefix) :], slot.partition)] = first
        if self._on_assigned is not None:
            self._on_assigned(self.assignment())

    def _start_in(self, tape: Tape, slot: Slot) -> int:
        """Start over where the committed offset is no longer kept, as Kafka's `earliest` does."""
        position = self._positions[slot]
        return position if tape.base <= position <= tape.end else tape.base
