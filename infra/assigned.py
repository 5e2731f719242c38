"""A reader of all partitions of some topics that keeps its offsets under a group's name without joining one.

For processes of which there is one: no rebalance can ever happen to them. Made by `infra.loop.AssignedLoop`; two of
them on the same group would overwrite each other's offsets.
"""

from collections.abc import Iterable, Mapping, Sequence

from infra.log import Log, Record, Slot, SlotsHandler, slots_of


class AssignedReader:
    """See `infra.log.GroupReader`. `from_end`: where nothing is committed, begin behind what is there."""

    def __init__(
        self, log: Log, group: str, topics: Sequence[str], on_assigned: SlotsHandler, *, from_end: bool = False
    ) -> None:
        self._log = log
        self._group = group
        self._on_assigned = on_assigned
        self._slots = frozenset(slots_of(log, topics))
        committed = log.committed(group, self._slots)
        starts = {
            slot: max(committed.get(slot, end if from_end else first), first)
            for slot, (first, end) in log.bounds(self._slots).items()
        }
        if from_end and (new := {slot: start for slot, start in starts.items() if slot not in committed}):
            log.commit(group, new)  # a crash before the first commit must not begin at a later end
        self._reader = log.reader(starts)
        self._is_told = False

    def read(self, max_records: int, timeout_s: float) -> list[Record]:
        """Read; the first call tells what is assigned."""
        if not self._is_told:
            self._on_assigned(self._slots)
            self._is_told = True
        return self._reader.read(max_records, timeout_s)

    def seek(self, slot: Slot, offset: int) -> None:
        """Continue at `offset`."""
        self._reader.seek(slot, offset)

    def pause(self, slots: Iterable[Slot]) -> None:
        """Deliver nothing from these."""
        self._reader.pause(slots)

    def resume(self, slots: Iterable[Slot]) -> None:
        """Deliver from these again."""
        self._reader.resume(slots)

    def position(self, slot: Slot) -> int:
        """Next offset to come."""
        return self._reader.position(slot)

    def commit(self, offsets: Mapping[Slot, int]) -> None:
        """Commit next offsets under the group's name."""
        self._log.commit(self._group, offsets)

    def assignment(self) -> frozenset[Slot]:
        """All partitions, always."""
        return self._slots

    def close(self) -> None:
        """Stop reading."""
        self._reader.close()
