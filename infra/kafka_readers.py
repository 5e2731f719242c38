"""Readers of the Kafka edge: by given partitions, and as a member of a group. Made by `infra.kafka.KafkaLog`.

Both read committed records only and sit out a broker that is away. A batch is what is there: `consume(n, t)` would
wait to fill it, so one `poll(t)` waits and `consume(n - 1, 0)` takes the rest.
"""

import contextlib
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from infra.errors import Fenced, NotOwner, ObservatorError, RecordsLost
from infra.kafka_clients import (
    FENCED,
    OUT_OF_RANGE,
    Connection,
    Patience,
    Setting,
    error_of,
    partitions_of,
    slots_from,
    translated,
)
from infra.kafka_commits import Committer
from infra.log import Record, Slot, SlotsHandler
from infra.logs import client_logger

SEEK_TIMEOUT_S = 5.0
TROUBLE_S = 60.0
CLOSE_TIMEOUT_S = 1.5


def consumer_settings(connection: Connection, group: str) -> dict[str, Setting]:
    """What every consumer has; `group` comes without prefix."""
    return {
        **connection.settings(),
        "group.id": connection.prefix + group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
        "isolation.level": "read_committed",
        "fetch.min.bytes": 1,
        "fetch.wait.max.ms": 100,
        "fetch.queue.backoff.ms": 5,
        "fetch.error.backoff.ms": 50,
        "queued.min.messages": 2_000,
        "queued.max.messages.kbytes": 1_024,
        # one answer is unpacked whole, whatever the queue may hold: with 1 MiB of packed records from each partition
        # a reader that lags once keeps tens of MB for good
        "fetch.message.max.bytes": 131_072,
    }


class KafkaReader:
    """Reads given partitions (`infra.log.Reader`)."""

    def __init__(self, connection: Connection, starts: Mapping[Slot, int]) -> None:
        self._prefix = connection.prefix
        self._positions: dict[Slot, int] = dict(starts)
        self._names: dict[str, str] = {}
        self._pending: ObservatorError | None = None
        self._connection = connection
        self._trouble_s = -TROUBLE_S
        self._open()

    def read(self, max_records: int, timeout_s: float) -> list[Record]:
        """Return what is there, waiting at most `timeout_s` for a first record; raises `RecordsLost`, `Fenced`."""
        deadline = time.monotonic() + timeout_s
        while True:
            if self._pending is not None:
                error, self._pending = self._pending, None
                raise error
            first = self.consumer.poll(max(deadline - time.monotonic(), 0))
            if first is not None:
                rest = self.consumer.consume(max_records - 1, 0) if max_records > 1 else []
                if records := self._records([first, *rest]):
                    return records
            if time.monotonic() >= deadline and self._pending is None:
                return []

    def seek(self, slot: Slot, offset: int) -> None:
        """Continue at `offset`."""
        self._must_hold(slot)
        (target,) = partitions_of(self._prefix, {slot: offset})
        patience = Patience(SEEK_TIMEOUT_S)
        while True:
            try:
                self.consumer.seek(target)
            except KafkaException as exception:
                # right after an assignment the partition cannot be moved yet
                if not patience.is_left():
                    raise translated(error_of(exception), f"seek in {slot.topic}-{slot.partition}") from exception
                patience.pause()
            else:
                self._positions[slot] = offset
                return

    def pause(self, slots: Iterable[Slot]) -> None:
        """Deliver nothing from these."""
        self.consumer.pause(self._targets(slots))

    def resume(self, slots: Iterable[Slot]) -> None:
        """Deliver from these again."""
        self.consumer.resume(self._targets(slots))

    def position(self, slot: Slot) -> int:
        """Next offset to come; past transaction markers once the end is reached."""
        return self._positions[self._must_hold(slot)]

    def close(self) -> None:
        """Leave. While the broker is away librdkafka may take long over it: then it goes on behind our back."""
        closing = threading.Thread(target=self.consumer.close, name="close", daemon=True)
        closing.start()
        closing.join(CLOSE_TIMEOUT_S)

    def _settings(self, connection: Connection) -> dict[str, Any]:
        return {**consumer_settings(connection, "reader"), "auto.offset.reset": "error"}

    def _open(self) -> None:
        settings = {**self._settings(self._connection), "error_cb": self._on_trouble}
        self.consumer = Consumer(settings, logger=client_logger())
        self._committer = Committer(self.consumer, self._prefix, self._connection.commit_timeout_s)
        self._start()

    def _start(self) -> None:
        self.consumer.assign(partitions_of(self._prefix, self._positions))

    def _on_trouble(self, error: KafkaError) -> None:
        self._trouble_s = time.monotonic()
        client_logger().warning("reader: %s", error.str())

    def _must_hold(self, slot: Slot) -> Slot:
        if slot not in self._positions:
            raise ValueError(f"{slot} is not assigned to this reader")
        return slot

    def _targets(self, slots: Iterable[Slot]) -> list[TopicPartition]:
        return [TopicPartition(self._prefix + slot.topic, slot.partition) for slot in map(self._must_hold, slots)]

    def _records(self, messages: Sequence[Any]) -> list[Record]:
        """The messages as records; what they say otherwise is noted (topic, partition and offset they all have)."""
        records: list[Record] = []
        names, positions, cut = self._names, self._positions, len(self._prefix)
        for message in messages:
            if (error := message.error()) is not None:
                self._take_error(error, message)
                continue
            full_name, key = message.topic(), message.key()
            name = names.get(full_name)
            if name is None:
                name = names[full_name] = full_name[cut:]
            offset = message.offset()
            text = key.decode("utf-8", "replace") if key else ""
            record = Record(name, message.partition(), offset, message.timestamp()[1], text, message.value() or b"")
            records.append(record)
            positions[record.slot] = offset + 1
        return records

    def _on_fenced(self, fenced: Fenced) -> None:
        self._pending = fenced

    def _take_error(self, error: KafkaError, message: Message) -> None:
        """Note what ends the reading; a broker that is away is only waited for."""
        code = error.code()
        if code == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's spelling
            topic, partition, offset = _coordinates(message)
            self._positions[Slot(topic[len(self._prefix) :], partition)] = offset
        elif code in OUT_OF_RANGE:
            topic = (message.topic() or "")[len(self._prefix) :]
            self._pending = RecordsLost(
                f"{topic}-{message.partition()}: records were deleted before they were read, or the offset is beyond "
                f"the end: {error.str()}"
            )
        elif code in FENCED or code == KafkaError._FATAL:  # noqa: SLF001 - being fenced is all that is fatal here
            self._on_fenced(Fenced(f"another reader took over: {error.str()}"))
        else:
            client_logger().warning("reader: %s", error.str())


class KafkaGroupReader(KafkaReader):
    """A member of a consumer group, classic protocol, range assignment (`infra.log.GroupReader`)."""

    def __init__(
        self,
        connection: Connection,
        group: str,
        topics: Sequence[str],
        instance: str | None,
        on_assigned: SlotsHandler | None,
        on_revoked: SlotsHandler | None,
    ) -> None:
        self._group = group
        self._topics = topics
        self._instance = instance
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._slots: frozenset[Slot] = frozenset()
        self._is_closing = False
        self._has_lost = False
        self._rejoined_s = -TROUBLE_S
        super().__init__(connection, {})

    def commit(self, offsets: Mapping[Slot, int]) -> None:
        """Commit next offsets; raises `NotOwner`, `Fenced`, `LogUnavailable` (then commit again)."""
        if not_ours := sorted(set(offsets) - self._slots):
            raise NotOwner(f"group {self._group!r} took these away: {not_ours}")
        try:
            self._committer.commit(offsets)
        except Fenced as fenced:
            if not self._may_rejoin():
                raise
            raise NotOwner(str(fenced)) from fenced

    def assignment(self) -> frozenset[Slot]:
        """The partitions owned now."""
        return self._slots

    def position(self, slot: Slot) -> int:
        """Next offset to come; the committed one or the first where nothing was read yet."""
        if slot not in self._slots:
            raise ValueError(f"{slot} is not assigned to this reader")
        if slot not in self._positions:
            target = TopicPartition(self._prefix + slot.topic, slot.partition)
            try:
                (found,) = self.consumer.committed([target], timeout=self._connection.commit_timeout_s)
                first, _ = self.consumer.get_watermark_offsets(target, timeout=self._connection.commit_timeout_s)
            except KafkaException as exception:
                raise translated(error_of(exception), f"position in {slot.topic}-{slot.partition}") from exception
            self._positions[slot] = found.offset if found.offset >= 0 else first
        return self._positions[slot]

    def close(self) -> None:
        """Leave the group (a static member keeps its place until the session times out)."""
        self._is_closing = True
        super().close()

    def _must_hold(self, slot: Slot) -> Slot:
        if slot not in self._slots:
            raise ValueError(f"{slot} is not assigned to this reader")
        return slot

    def _records(self, messages: Sequence[Message]) -> list[Record]:
        """Pass over what was fetched before partitions were taken away: whoever has them now reads it."""
        records = super()._records(messages)
        if not self._has_lost:
            return records
        self._has_lost = False
        return [record for record in records if record.slot in self._slots]

    def _settings(self, connection: Connection) -> dict[str, Any]:
        settings: dict[str, Any] = {
            **consumer_settings(connection, self._group),
            "auto.offset.reset": "earliest",
            "group.protocol": "classic",
            "partition.assignment.strategy": "range",
            "heartbeat.interval.ms": max(connection.session_timeout_ms // 5, 100),
            "session.timeout.ms": connection.session_timeout_ms,
        }
        if self._instance is not None:
            settings["group.instance.id"] = connection.prefix + self._instance
            settings["session.timeout.ms"] = connection.static_session_timeout_ms
        return settings

    def _may_rejoin(self) -> bool:
        """Whether being fenced is the broker's fault: on its return it may take a static member for its own double.

        Once per outage, so that two real holders of one instance do not take turns for ever.
        """
        return time.monotonic() - self._trouble_s < TROUBLE_S <= time.monotonic() - self._rejoined_s

    def _on_fenced(self, fenced: Fenced) -> None:
        if not self._may_rejoin():
            self._pending = fenced
            return
        self._rejoined_s = time.monotonic()
        client_logger().warning("fenced after an outage, joining once more: %s", fenced)
        with contextlib.suppress(Fenced):  # its last commit is refused for the same reason
            self._revoked(self.consumer, [])
        self._is_closing = True
        super().close()
        self._is_closing = False
        self._open()

    def _start(self) -> None:
        self.consumer.subscribe(
            [self._prefix + topic for topic in self._topics], on_assign=self._assigned, on_revoke=self._revoked
        )

    def _assigned(self, _consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self._slots = slots_from(self._prefix, partitions)
        self._positions.clear()
        if self._on_assigned is not None:
            self._on_assigned(self._slots)

    def _revoked(self, _consumer: Consumer, _partitions: Sequence[TopicPartition]) -> None:
        if self._on_revoked is not None and self._slots and not self._is_closing:
            self._on_revoked(self._slots)
        self._slots = frozenset()
        self._positions.clear()
        self._has_lost = True


def _coordinates(message: Any) -> tuple[str, int, int]:
    """Topic, partition and offset of a message that has them (the library's annotations say that it may not)."""
    return message.topic(), message.partition(), message.offset()
