"""The log on a real Kafka broker, through confluent-kafka: `KafkaLog` is what every process is given.

It knows topics, groups and offsets and nothing of what records mean. Broker outages are sat out where that is safe and
reported by `infra.errors` where the caller has to decide. Questions go through a consumer, not through librdkafka's
admin client: that one ends the whole process with a failed assertion when a broker goes and comes back during a call.
"""

import logging
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from infra.errors import LogUnavailable, ObservatorError, TopicMissing
from infra.kafka_clients import REMEDY, UNLED, Connection, Patience, error_of, translated
from infra.kafka_commits import Committer
from infra.kafka_readers import KafkaGroupReader, KafkaReader, consumer_settings
from infra.kafka_writers import KafkaPublisher, KafkaTransactor
from infra.log import Slot, SlotsHandler, TopicSpec
from infra.logs import client_logger

_Part = TypeVar("_Part", KafkaReader, KafkaGroupReader, KafkaPublisher, KafkaTransactor)

MISSING_TRIES = 3
QUIET = 2
COMMIT_TIMEOUT_S = 2.5

_logger = logging.getLogger(__name__)
ASKER = "reader"


class KafkaLog:
    """See `infra.log.Log`. Opening it connects nothing yet.

    `session_timeout_ms`: after how long a dead member's partitions go to others; static members, which come back to
    their own partitions, have `static_session_timeout_ms`, longer than a broker's restart. `delivery_timeout_ms`: how
    long a record is tried before it is reported as not delivered. `timeout_s`: patience with questions about the log.
    """

    def __init__(
        self,
        bootstrap: str,
        prefix: str = "",
        *,
        session_timeout_ms: int = 6_000,
        static_session_timeout_ms: int = 15_000,
        delivery_timeout_ms: int = 120_000,
        timeout_s: float = 10.0,
    ) -> None:
        self.bootstrap = bootstrap
        self.prefix = prefix
        self._connection = Connection(
            bootstrap,
            prefix,
            session_timeout_ms,
            static_session_timeout_ms,
            delivery_timeout_ms,
            min(timeout_s, COMMIT_TIMEOUT_S),
        )
        self._timeout_s = timeout_s
        self._counts: dict[str, int] = {}
        self._askers: dict[str, Consumer] = {}
        self._committers: dict[str, Committer] = {}
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[KafkaReader | KafkaPublisher | KafkaTransactor] = weakref.WeakSet()

    def create_topics(self, specs: Sequence[TopicSpec]) -> list[str]:
        """Create the missing ones and return their names, once the leaders of all of them serve."""
        new = [NewTopic(self.prefix + one.name, one.partitions, 1, config=dict(one.config)) for one in specs]
        self._cluster()
        admin = AdminClient({**self._connection.settings(), "log_level": QUIET}, logger=client_logger())
        created: list[str] = []
        for name, future in (admin.create_topics(new) if new else {}).items():
            try:
                future.result(self._timeout_s * 3)
            except TimeoutError as error:
                raise LogUnavailable(f"creating topic {name!r}: no answer") from error
            except KafkaException as exception:
                if error_of(exception).code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise translated(error_of(exception), f"creating topic {name!r}") from exception
            else:
                created.append(name[len(self.prefix) :])
        patience = Patience(self._timeout_s * 3)
        while True:
            try:
                self.bounds(Slot(one.name, i) for one in specs for i in range(self.partitions(one.name)))
            except (TopicMissing, LogUnavailable):
                if not patience.is_left():
                    raise
                patience.pause()
            else:
                return created

    def partitions(self, topic: str) -> int:
        """Number of partitions; raises `TopicMissing`, `LogUnavailable`."""
        if topic in self._counts:
            return self._counts[topic]
        patience = Patience(self._timeout_s)
        for _ in range(MISSING_TRIES):  # a broker that just came back does not know its topics for a moment
            found = self._cluster(topic)
            if count := len(found.topics[self.prefix + topic].partitions):
                self._counts[topic] = count
                return count
            patience.pause()
        raise TopicMissing(f"topic {topic!r} is missing: {REMEDY}")

    def publisher(self, *, linger_ms: float = 5.0) -> KafkaPublisher:
        """An idempotent publisher."""
        return self._keep(KafkaPublisher(self._connection, self._check_topic, linger_ms))

    def transactor(self, transactional_id: str) -> KafkaTransactor:
        """A transactional publisher; fences every earlier holder of the id."""
        return self._keep(KafkaTransactor(self._connection, self._check_topic, transactional_id, self._asker))

    def reader(self, starts: Mapping[Slot, int]) -> KafkaReader:
        """Read the given partitions from the given offsets."""
        for topic in {slot.topic for slot in starts}:
            self._check_topic(topic)
        return self._keep(KafkaReader(self._connection, starts))

    def group_reader(
        self,
        group: str,
        topics: Sequence[str],
        *,
        instance: str | None = None,
        on_assigned: SlotsHandler | None = None,
        on_revoked: SlotsHandler | None = None,
    ) -> KafkaGroupReader:
        """Join a group."""
        for topic in topics:
            self._check_topic(topic)
        return self._keep(KafkaGroupReader(self._connection, group, topics, instance, on_assigned, on_revoked))

    def bounds(self, slots: Iterable[Slot]) -> dict[Slot, tuple[int, int]]:
        """First offset kept and next offset to be written; raises `TopicMissing`, `LogUnavailable`.

        Records of an open transaction lie before that end: who reads up to it waits until the transaction is decided.
        """
        return {slot: self._bounds_of(slot, Patience(self._timeout_s)) for slot in self._checked(slots)}

    def _checked(self, slots: Iterable[Slot]) -> list[Slot]:
        wanted = list(slots)
        for slot in wanted:
            if not 0 <= slot.partition < self.partitions(slot.topic):
                raise TopicMissing(f"topic {slot.topic!r} has no partition {slot.partition}")
        return wanted

    def _bounds_of(self, slot: Slot, patience: Patience) -> tuple[int, int]:
        target = TopicPartition(self.prefix + slot.topic, slot.partition)
        while True:
            try:
                first, end = self._asker(ASKER).get_watermark_offsets(target, timeout=patience.left_s())
            except KafkaException as exception:
                error = error_of(exception)
                if error.code() in UNLED and patience.is_left():
                    patience.pause()
                    continue
                # the topic is there: without a broker librdkafka says "unknown partition" as well
                text = f"bounds of {slot.topic}-{slot.partition}: {error.str()}"
                raise LogUnavailable(text) from exception
            return first, end

    def appended_at(self, slots: Iterable[Slot], append_ms: int) -> dict[Slot, int]:
        """First offset appended at or after a time, by the broker's index; raises as `bounds` does."""
        wanted, patience = self._checked(slots), Patience(self._timeout_s)
        targets = [TopicPartition(self.prefix + slot.topic, slot.partition, max(0, append_ms)) for slot in wanted]
        while targets:
            try:
                answers = self._asker(ASKER).offsets_for_times(targets, timeout=patience.left_s())
                error = next((one.error for one in answers if one.error is not None), None)
            except KafkaException as exception:
                error = error_of(exception)
            if error is None:
                found = {Slot(one.topic[len(self.prefix) :], one.partition): one.offset for one in answers}
                late = [slot for slot, offset in found.items() if offset < 0]
                return found | {slot: end for slot, (_, end) in self.bounds(late).items()}
            if error.code() not in UNLED or not patience.is_left():
                raise LogUnavailable(f"offsets of a time: {error.str()}")
            patience.pause()
        return {}

    def committed(self, group: str, slots: Iterable[Slot]) -> dict[Slot, int]:
        """Committed next offsets, waiting for transactions that are about to commit some; raises `LogUnavailable`."""
        targets = [TopicPartition(self.prefix + slot.topic, slot.partition) for slot in slots]
        if not targets:
            return {}
        try:
            answers = self._asker(group).committed(targets, timeout=self._timeout_s)
        except KafkaException as exception:
            raise translated(error_of(exception), f"committed offsets of {group!r}") from exception
        if error := next((one.error for one in answers if one.error is not None), None):
            raise translated(error, f"committed offsets of {group!r}")
        return {Slot(one.topic[len(self.prefix) :], one.partition): one.offset for one in answers if one.offset >= 0}

    def commit(self, group: str, offsets: Mapping[Slot, int]) -> None:
        """Commit for a group without members; raises `NotOwner`, `LogUnavailable`."""
        asker = self._asker(group)
        with self._lock:
            committer = self._committers.setdefault(
                group, Committer(asker, self.prefix, self._connection.commit_timeout_s)
            )
        committer.commit(offsets)

    def close(self) -> None:
        """Close every connection that is still open."""
        for one in list(self._open):
            try:
                one.close()
            except ObservatorError as error:
                _logger.warning("closing the log: %s", error)
        self._open.clear()
        with self._lock:
            for asker in self._askers.values():
                asker.close()
            self._askers.clear()
            self._committers.clear()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _keep(self, one: _Part) -> _Part:
        self._open.add(one)
        return one

    def _asker(self, group: str) -> Consumer:
        """A consumer that never joins: for questions, for commits without members, for their transactions."""
        with self._lock:
            if group not in self._askers:
                settings: dict[str, Any] = {**consumer_settings(self._connection, group), "log_level": QUIET}
                if group == ASKER:
                    settings["isolation.level"] = "read_uncommitted"
                self._askers[group] = Consumer(settings, logger=client_logger())
            self._askers[group].poll(0)
            return self._askers[group]

    def _cluster(self, topic: str | None = None) -> Any:
        """What the broker knows, of one topic or of all; raises `LogUnavailable`."""
        only = {} if topic is None else {"topic": self.prefix + topic}
        try:
            return self._asker(ASKER).list_topics(timeout=self._timeout_s, **only)
        except KafkaException as exception:
            raise translated(error_of(exception), f"asking for topic {topic or 'names'!r}") from exception

    def _check_topic(self, topic: str) -> None:
        self.partitions(topic)
