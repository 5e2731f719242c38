"""The log in memory, with the interface of `infra.log`: for tests, backtests and use without a broker.

It behaves like Kafka where a reader can see it: murmur2 keys, append times, committed-only reads, offsets spent on
transaction markers, eager group rebalances, fencing. It never touches a disk or a network.
"""

import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

from infra.errors import Fenced, NotOwner, TransactionAborted
from infra.log import GroupReader, Record, Slot, SlotsHandler, TopicSpec
from infra.memory_readers import MemoryGroupReader, MemoryReader
from infra.memory_store import Store, Tape, with_prefix


def wall_ms() -> int:
    """Milliseconds since the epoch: the log's own clock where none is given."""
    return time.time_ns() // 1_000_000


class MemoryLog:
    """See `infra.log.Log`. `beside` shares the records of another log under a different prefix."""

    def __init__(
        self, prefix: str = "", *, clock_ms: Callable[[], int] = wall_ms, beside: "MemoryLog | None" = None
    ) -> None:
        self.prefix = prefix
        self.store: Store = Store(clock_ms) if beside is None else beside.store
        self._open: weakref.WeakSet[MemoryReader] = weakref.WeakSet()

    def create_topics(self, specs: Sequence[TopicSpec]) -> list[str]:
        """Create the missing ones and return their names."""
        with self.store.changed:
            missing = [spec for spec in specs if self.prefix + spec.name not in self.store.topics]
            for spec in missing:
                self.store.topics[self.prefix + spec.name] = [Tape() for _ in range(spec.partitions)]
            return [spec.name for spec in missing]

    def partitions(self, topic: str) -> int:
        """Number of partitions; raises `TopicMissing`."""
        with self.store.changed:
            return len(self.store.tapes(self.prefix + topic))

    def append(self, record: Record) -> None:
        """Take a recorded record verbatim, its offset and append time included; offsets may jump, never go back."""
        with self.store.changed:
            slot = Slot(self.prefix + record.topic, record.partition)
            self.store.tape(slot).append(record._replace(topic=slot.topic))
            self.store.changed.notify_all()

    def truncate(self, slot: Slot, first: int) -> None:
        """Delete everything before `first`, as retention does."""
        with self.store.changed:
            self.store.tape(Slot(self.prefix + slot.topic, slot.partition)).truncate(first)

    def publisher(self, *, linger_ms: float = 5.0) -> "MemoryPublisher":
        """A publisher; `linger_ms` means nothing here."""
        del linger_ms
        return MemoryPublisher(self.store, self.prefix)

    def transactor(self, transactional_id: str) -> "MemoryTransactor":
        """A transactional publisher; fences every earlier holder of the id."""
        return MemoryTransactor(self.store, self.prefix, self.prefix + transactional_id)

    def reader(self, starts: Mapping[Slot, int]) -> "MemoryReader":
        """Read the given partitions from the given offsets."""
        with self.store.changed:
            for slot in starts:
                self.store.tapes(self.prefix + slot.topic)
        reader = MemoryReader(self.store, self.prefix, starts)
        self._open.add(reader)
        return reader

    def group_reader(
        self,
        group: str,
        topics: Sequence[str],
        *,
        instance: str | None = None,
        on_assigned: SlotsHandler | None = None,
        on_revoked: SlotsHandler | None = None,
    ) -> "MemoryGroupReader":
        """Join a group."""
        with self.store.changed:
            for topic in topics:
                self.store.tapes(self.prefix + topic)
            shared = self.store.group(self.prefix + group)
            member = shared.join([self.prefix + topic for topic in topics], instance)
            self.store.changed.notify_all()
        reader = MemoryGroupReader(self.store, self.prefix, shared, member, on_assigned, on_revoked)
        self._open.add(reader)
        return reader

    def bounds(self, slots: Iterable[Slot]) -> dict[Slot, tuple[int, int]]:
        """First offset kept and next offset to be written."""
        with self.store.changed:
            tapes = {slot: self.store.tape(Slot(self.prefix + slot.topic, slot.partition)) for slot in slots}
            return {slot: (tape.base, tape.end) for slot, tape in tapes.items()}

    def appended_at(self, slots: Iterable[Slot], append_ms: int) -> dict[Slot, int]:
        """First offset appended at or after a time."""
        with self.store.changed:
            tapes = {slot: self.store.tape(Slot(self.prefix + slot.topic, slot.partition)) for slot in slots}
            return {slot: tape.appended_at(append_ms) for slot, tape in tapes.items()}

    def committed(self, group: str, slots: Iterable[Slot]) -> dict[Slot, int]:
        """Committed next offsets; partitions without one are left out."""
        with self.store.changed:
            known = self.store.group(self.prefix + group).committed
            found = {slot: known.get(Slot(self.prefix + slot.topic, slot.partition)) for slot in slots}
            return {slot: offset for slot, offset in found.items() if offset is not None}

    def commit(self, group: str, offsets: Mapping[Slot, int]) -> None:
        """Commit for a group without members."""
        with self.store.changed:
            self.store.group(self.prefix + group).commit(None, with_prefix(self.prefix, offsets))

    def close(self) -> None:
        """Close all readers; the records stay."""
        for reader in list(self._open):
            reader.close()
        self._open.clear()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


class MemoryPublisher:
    """Appends at once, so that nothing can fail later."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = prefix

    def publish(self, topic: str, key: str, value: bytes, partition: int | None = None) -> None:
        """Append one record."""
        with self._store.changed:
            self._store.write(self._prefix + topic, key, value, partition)
            self._store.changed.notify_all()

    def flush(self, timeout_s: float = 10.0) -> None:
        """Do nothing: everything is there."""

    def close(self) -> None:
        """Do nothing."""


class MemoryTransactor:
    """Keeps a transaction's records to itself until it commits; a marker then spends one offset per partition."""

    def __init__(self, store: Store, prefix: str, transactional_id: str) -> None:
        self._store = store
        self._prefix = prefix
        self._id = transactional_id
        self._pending: list[tuple[str, str, bytes, int | None]] | None = None
        with store.changed:
            self._epoch = store.epochs[self._id] = store.epochs.get(self._id, 0) + 1

    def begin(self) -> None:
        """Open a transaction."""
        self._check_epoch()
        if self._pending is not None:
            raise RuntimeError("a transaction is open already")
        self._pending = []

    def publish(self, topic: str, key: str, value: bytes, partition: int | None = None) -> None:
        """Queue one record inside the open transaction."""
        self._check_epoch()
        with self._store.changed:
            self._store.tapes(self._prefix + topic)
        self._opened().append((self._prefix + topic, key, value, partition))

    def commit(self, reader: GroupReader | None, group: str, offsets: Mapping[Slot, int]) -> None:
        """Make records and offsets visible together; raises `TransactionAborted`, `Fenced`."""
        rows = self._opened()
        self._pending = None
        with self._store.changed:
            self._check_epoch()
            member = reader.member if isinstance(reader, MemoryGroupReader) else None
            try:
                if offsets:
                    self._store.group(self._prefix + group).commit(member, with_prefix(self._prefix, offsets))
            except (NotOwner, Fenced) as error:
                raise TransactionAborted(f"offsets of group {group!r} were refused: {error}") from error
            for slot in {self._store.write(*row) for row in rows}:
                self._store.tape(slot).rows.append(None)
            self._store.changed.notify_all()

    def abort(self) -> None:
        """Throw the open transaction away."""
        self._opened()
        self._pending = None

    def close(self) -> None:
        """Throw away what is open."""
        self._pending = None

    def _opened(self) -> list[tuple[str, str, bytes, int | None]]:
        if self._pending is None:
            raise RuntimeError("no transaction is open")
        return self._pending

    def _check_epoch(self) -> None:
        with self._store.changed:
            if self._store.epochs[self._id] != self._epoch:
                raise Fenced(f"another holder of transactional id {self._id!r} took over")
