"""The log as one interface: what Kafka (`infra.kafka`) and the in-memory log (`infra.memory_log`) both offer.

Every stage and runner is written against these protocols. Values are bytes here: the meaning lives in
`streams.messages`. Topic names are the base names of `streams.topics`; a run's prefix is added and removed inside
the implementation, so that a replay runs the same code.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from types import TracebackType
from typing import NamedTuple, Protocol, Self


class Slot(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


_slot = cache(Slot)
"""One object per partition: every record asks for its own several times on its way."""


class Record(NamedTuple):
    """One record as it stands in the log; `append_ms` is the log's own clock, never the event's time."""

    topic: str
    partition: int
    offset: int
    append_ms: int
    key: str
    value: bytes

    @property
    def slot(self) -> Slot:
        """The partition the record stands in."""
        return _slot(self.topic, self.partition)


class TopicSpec(NamedTuple):
    """What a topic is created with; counts are fixed at creation."""

    name: str
    partitions: int
    config: Mapping[str, str]


class Publisher(Protocol):
    """Appends records. Delivery is at least once and in order per partition; a failure is raised, never dropped."""

    def publish(self, topic: str, key: str, value: bytes, partition: int | None = None) -> None:
        """Queue one record. Without `partition` the key's murmur2 hash decides, on every implementation alike.

        Raises `DeliveryFailed` when the queue stays full or an earlier record of this publisher was not delivered.
        """

    def flush(self, timeout_s: float = 10.0) -> None:
        """Wait until everything queued is acknowledged; raises `DeliveryFailed` when it is not in time."""

    def close(self) -> None:
        """Flush and let go of the connection."""


class Reader(Protocol):
    """Reads records; in offset order within a partition."""

    def read(self, max_records: int, timeout_s: float) -> list[Record]:
        """Return up to `max_records` records, an empty list when none came within `timeout_s`.

        Returns as soon as anything is there: it never waits to fill the batch.
        """

    def seek(self, slot: Slot, offset: int) -> None:
        """Continue at `offset` in an assigned partition."""

    def pause(self, slots: Iterable[Slot]) -> None:
        """Deliver nothing from these partitions until `resume`."""

    def resume(self, slots: Iterable[Slot]) -> None:
        """Deliver from these partitions again."""

    def position(self, slot: Slot) -> int:
        """Next offset to come from an assigned partition. At the end of what is readable it stands past transaction
        markers too, so "read to the end" is `position(slot) >= end` and never a comparison with the last record.
        """

    def close(self) -> None:
        """Leave."""


class GroupReader(Reader, Protocol):
    """A reader whose partitions come from a consumer group."""

    def commit(self, offsets: Mapping[Slot, int]) -> None:
        """Commit the next offset to read per partition. Returns when the log has it; raises `NotOwner`, `Fenced`."""

    def assignment(self) -> frozenset[Slot]:
        """The partitions owned now."""


class Transactor(Protocol):
    """A publisher whose records and a group's offsets become visible together or not at all."""

    def begin(self) -> None:
        """Open a transaction."""

    def publish(self, topic: str, key: str, value: bytes, partition: int | None = None) -> None:
        """Queue one record inside the open transaction."""

    def commit(self, reader: GroupReader | None, group: str, offsets: Mapping[Slot, int]) -> None:
        """Commit records and `offsets` of `group` (the next to read) together.

        Raises `TransactionAborted` when the transaction was aborted: nothing of it is visible and the caller starts
        over from the last committed offsets; `Fenced` when another holder of the same id took over.
        """

    def abort(self) -> None:
        """Throw the open transaction away."""

    def close(self) -> None:
        """Let go of the connection; an open transaction is aborted."""


SlotsHandler = Callable[[frozenset[Slot]], None]


class Log(Protocol):
    """A log: Kafka or in memory."""

    prefix: str
    """Stands before every topic, group and transactional id in the log itself, never in what is delivered."""

    def create_topics(self, specs: Sequence[TopicSpec]) -> list[str]:
        """Create the missing ones of `specs` and return their names; existing ones are left alone (idempotent)."""

    def partitions(self, topic: str) -> int:
        """Number of partitions; raises `TopicMissing`."""

    def publisher(self, *, linger_ms: float = 5.0) -> Publisher:
        """An idempotent publisher."""

    def transactor(self, transactional_id: str) -> Transactor:
        """A transactional publisher; starting one fences every earlier holder of the same id."""

    def reader(self, starts: Mapping[Slot, int]) -> Reader:
        """Read the given partitions from the given offsets (committed records only), without a group."""

    def group_reader(
        self,
        group: str,
        topics: Sequence[str],
        *,
        instance: str | None = None,
        on_assigned: SlotsHandler | None = None,
        on_revoked: SlotsHandler | None = None,
    ) -> GroupReader:
        """Join `group` (range assignment, static member where `instance` is given); start at the beginning where
        nothing is committed. The handlers run inside `read`.
        """

    def bounds(self, slots: Iterable[Slot]) -> dict[Slot, tuple[int, int]]:
        """First offset kept and next offset to be written, per partition."""

    def appended_at(self, slots: Iterable[Slot], append_ms: int) -> dict[Slot, int]:
        """First offset appended at or after a time, per partition; the next offset to be written where none was."""

    def committed(self, group: str, slots: Iterable[Slot]) -> dict[Slot, int]:
        """Committed next offsets of a group; partitions without one are left out."""

    def commit(self, group: str, offsets: Mapping[Slot, int]) -> None:
        """Commit next offsets for a group without members: for those who read by `reader`. Raises `NotOwner`."""

    def close(self) -> None:
        """Close every connection that this log still holds."""

    def __enter__(self) -> Self:
        """Return itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""


def publish_one(log: Log, topic: str, key: str, value: bytes, timeout_s: float = 10.0) -> None:
    """Write one record, on the log when this returns; raises what `flush` raises."""
    publisher = log.publisher(linger_ms=0)
    try:
        publisher.publish(topic, key, value)
        publisher.flush(timeout_s)
    finally:
        publisher.close()


def slots_of(log: Log, topics: Iterable[str]) -> list[Slot]:
    """All partitions of `topics`, in order."""
    return [Slot(topic, partition) for topic in topics for partition in range(log.partitions(topic))]


def partition_of(key: str, partitions: int) -> int:
    """Partition of a key: murmur2 as the Java client, aiokafka and librdkafka's `murmur2_random` compute it."""
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """32-bit murmur2 with Kafka's seed (org.apache.kafka.common.utils.Utils.murmur2)."""
    mask = 0xFFFFFFFF
    length = len(data)
    h = (0x9747B28C ^ length) & mask
    whole = length - length % 4
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little")
        k = (k * 0x5BD1E995) & mask
        k ^= k >> 24
        k = (k * 0x5BD1E995) & mask
        h = ((h * 0x5BD1E995) & mask) ^ k
    if rest := data[whole:]:
        h ^= int.from_bytes(rest, "little")
        h = (h * 0x5BD1E995) & mask
    h ^= h >> 13
    h = (h * 0x5BD1E995) & mask
    return h ^ (h >> 15)
