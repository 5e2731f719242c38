"""Writers of the Kafka edge: the idempotent publisher and the transactor. Made by `infra.kafka.KafkaLog`.

At least once and in order per partition; a record that the broker did not acknowledge is always reported.
"""

import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from infra.errors import DeliveryFailed, DeliveryPending, Fenced, LogUnavailable, TopicMissing, TransactionAborted
from infra.kafka_clients import FENCED, MISSING, REMEDY, Connection, Patience, Setting, error_of, partitions_of
from infra.kafka_readers import KafkaReader
from infra.log import GroupReader, Slot
from infra.logs import client_logger

FULL_QUEUE_TRIES = 50
POLL_EVERY = 64
"""Records between two looks for reports: only failures are reported, and every flush looks too."""
TRANSACTION_TIMEOUT_MS = 5_000
COMMIT_TIMEOUT_S = 60.0
START_TIMEOUT_S = 15.0
CLOSE_TIMEOUT_S = 2.0

CheckTopic = Callable[[str], None]


class _Producer:
    """librdkafka's producer with the delivery errors it reported; replaced after a fatal error."""

    def __init__(self, connection: Connection, check_topic: CheckTopic, extra: Mapping[str, Setting]) -> None:
        self._prefix = connection.prefix
        self._check_topic = check_topic
        self._settings: dict[str, Any] = {
            **connection.settings(),
            "enable.idempotence": True,
            "acks": "all",
            "compression.type": "zstd",
            "compression.level": 1,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 500_000,
            "queue.buffering.max.kbytes": 262_144,
            "delivery.report.only.error": True,
            "on_delivery": self._on_failed_delivery,
            "error_cb": self._on_error,
            **extra,
        }
        self._failures: list[str] = []
        self._is_topic_missing = False
        self._names: dict[str, str] = {}
        self._unpolled = 0
        self.fatal: KafkaError | None = None
        self.handle = self._new_handle()

    def produce(self, topic: str, key: str, value: bytes, partition: int | None) -> None:
        """Queue one record; raises `DeliveryFailed` when the queue stays full, and what failed before."""
        if self._failures or self.fatal is not None:
            self.raise_failures()
        name = self._names.get(topic) or self._full_name(topic)
        number = -1 if partition is None else partition
        try:
            self.handle.produce(name, value, key, number)
        except BufferError:
            self._produce_when_there_is_room(name, value, key, number)
        self._unpolled += 1
        if self._unpolled >= POLL_EVERY:
            self._unpolled = 0
            self.handle.poll(0)

    def _produce_when_there_is_room(self, name: str, value: bytes, key: str, partition: int) -> None:
        for _ in range(FULL_QUEUE_TRIES):
            self.handle.poll(0.1)
            self.raise_failures()
            try:
                self.handle.produce(name, value, key, partition)
            except BufferError:
                continue
            return
        raise DeliveryFailed(f"the publisher's queue stayed full for {FULL_QUEUE_TRIES / 10:.0f} s at topic {name!r}")

    def flush(self, timeout_s: float) -> None:
        """Wait for all acknowledgements."""
        try:
            left = self.handle.flush(timeout_s)
        except KafkaException as exception:
            self.fatal = error_of(exception)
            left = 0
        self.raise_failures()
        if left:
            raise DeliveryPending(f"{left} records are not acknowledged yet")

    def raise_failures(self) -> None:
        """Report once what was not delivered."""
        if not self._failures and self.fatal is None:
            return
        count, first = len(self._failures), (self._failures or [str(self.fatal)])[0]
        is_missing = self._is_topic_missing
        self._failures, self._is_topic_missing = [], False
        if self.fatal is not None:
            self.renew()
        if is_missing:
            self._names.clear()
            raise TopicMissing(f"{first}: {REMEDY}")
        raise DeliveryFailed(f"{count} records were not acknowledged, the first: {first}")

    def renew(self) -> None:
        """Start over with a new handle; what the old one held counts as failed."""
        self.let_go()
        self.handle = self._new_handle()
        self.fatal = None
        self._failures = []

    def close(self, timeout_s: float) -> None:
        """Flush, report, let go."""
        try:
            self.flush(timeout_s)
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Drop what is queued; a handle with a fatal error refuses even that, and is then dropped as it is."""
        with contextlib.suppress(KafkaException):
            self.handle.purge()
            self.handle.flush(1.0)

    def _new_handle(self) -> Producer:
        return Producer(self._settings, logger=client_logger())

    def _full_name(self, topic: str) -> str:
        name = self._prefix + topic
        try:
            self._check_topic(topic)
        except LogUnavailable:
            return name
        self._names[topic] = name
        return name

    def _on_failed_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._is_topic_missing |= error.code() in MISSING
            topic = str(message.topic())[len(self._prefix) :]
            self._failures.append(f"{topic}-{message.partition()}: {error.str()}")

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self.fatal = error
        client_logger().log(logging.ERROR if error.fatal() else logging.WARNING, "producer: %s", error.str())


class KafkaPublisher:
    """Idempotent publisher (`infra.log.Publisher`)."""

    def __init__(self, connection: Connection, check_topic: CheckTopic, linger_ms: float) -> None:
        extra = {"linger.ms": linger_ms, "delivery.timeout.ms": connection.delivery_timeout_ms}
        self._producer = _Producer(connection, check_topic, extra)

    def publish(self, topic: str, key: str, value: bytes, partition: int | None = None) -> None:
        """Queue one record; raises `TopicMissing`, and `DeliveryFailed` for this or an earlier record."""
        try:
            self._producer.produce(topic, key, value, partition)
        except KafkaException as exception:
            error = error_of(exception)
            if error.fatal():
                self._producer.fatal = error
                self._producer.raise_failures()
            if error.code() in MISSING:
                raise TopicMissing(f"topic {topic!r}, partition {partition}: {error.str()}: {REMEDY}") from exception
            raise ValueError(f"{len(value)} bytes for topic {topic!r} were refused: {error.str()}") from exception

    def flush(self, timeout_s: float = 10.0) -> None:
        """Wait for all acknowledgements; raises `DeliveryFailed`, `DeliveryPending`."""
        self._producer.flush(timeout_s)

    def close(self) -> None:
        """Flush for at most two seconds and let go; raises `DeliveryFailed`, `DeliveryPending` for what is lost."""
        self._producer.close(CLOSE_TIMEOUT_S)


class KafkaTransactor:
    """Transactional publisher (`infra.log.Transactor`); one open transaction lasts at most five seconds."""

    def __init__(
        self,
        connection: Connection,
        check_topic: CheckTopic,
        transactional_id: str,
        committer: Callable[[str], Consumer],
    ) -> None:
        self._prefix = connection.prefix
        self._id = transactional_id
        self._committer = committer
        extra: dict[str, Setting] = {
            "transactional.id": self._prefix + transactional_id,
            "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
            "delivery.timeout.ms": TRANSACTION_TIMEOUT_MS,
            "retry.backoff.ms": 10,
            "retry.backoff.max.ms": 50,
            "linger.ms": 0,
        }
        self._producer = _Producer(connection, check_topic, extra)
        self._is_open = False
        self._must_renew = False
        self._fenced = ""
        self._initialise()

    def begin(self) -> None:
        """Open a transaction; raises `Fenced`."""
        if self._fenced:
            raise Fenced(self._fenced)
        if self._is_open:
            raise RuntimeError("a transaction is open already")
        if self._must_renew:
            self._producer.renew()
            self._initialise()
        try:
            self._producer.handle.begin_transaction()
        except KafkaException as exception:
            raise self._given_up(error_of(exception), "begin") from exception
        self._is_open = True

    def publish(self, topic: str, key: str, value: bytes, partition: int | None = None) -> None:
        """Queue one record; raises `TransactionAborted`, `TopicMissing`."""
        self._check_open()
        try:
            self._producer.produce(topic, key, value, partition)
        except KafkaException as exception:
            raise self._given_up(error_of(exception), "publish") from exception
        except DeliveryFailed as error:
            self.abort()
            raise TransactionAborted(str(error)) from error

    def commit(self, reader: GroupReader | None, group: str, offsets: Mapping[Slot, int]) -> None:
        """Commit records and offsets together.

        Raises `TransactionAborted`, `Fenced`; `LogUnavailable` when the outcome is unknown after a minute: then make a
        new transactor and start over from the committed offsets, which tell it.
        """
        self._check_open()
        if reader is not None and (not_ours := sorted(set(offsets) - reader.assignment())):
            self.abort()
            raise TransactionAborted(f"group {group!r} took these away: {not_ours}")
        patience = Patience(COMMIT_TIMEOUT_S)
        if offsets:
            self._send_offsets(self._metadata(reader, group), partitions_of(self._prefix, offsets), patience)
        self._until_done(self._producer.handle.commit_transaction, "commit", patience)
        self._is_open = False

    def abort(self) -> None:
        """Throw the open transaction away; raises `Fenced`."""
        self._abort(10.0)

    def close(self) -> None:
        """Let go; an open transaction is aborted."""
        if self._is_open:
            try:
                self._abort(CLOSE_TIMEOUT_S)
            except Fenced:
                client_logger().info("transactor %s was fenced", self._id)
        self._producer.let_go()

    def _abort(self, timeout_s: float) -> None:
        self._check_open()
        self._is_open = False
        try:
            self._producer.handle.abort_transaction(timeout_s)
        except KafkaException as exception:
            self._must_renew = True
            if error_of(exception).code() in FENCED:
                raise self._fenced_for_good(error_of(exception).str()) from exception
        self._forget_failures()

    def _initialise(self) -> None:
        self._until_done(self._producer.handle.init_transactions, "start", Patience(START_TIMEOUT_S))
        self._must_renew = False

    def _metadata(self, reader: GroupReader | None, group: str) -> Any:
        if isinstance(reader, KafkaReader):
            return reader.consumer.consumer_group_metadata()
        return self._committer(group).consumer_group_metadata()

    def _send_offsets(self, metadata: Any, offsets: list[TopicPartition], patience: Patience) -> None:
        send = self._producer.handle.send_offsets_to_transaction
        self._until_done(lambda timeout_s: send(offsets, metadata, timeout_s), "offsets", patience)

    def _until_done(self, call: Callable[[float], None], what: str, patience: Patience) -> None:
        """Call again while librdkafka says that it may; it goes on where it stood."""
        while True:
            try:
                call(min(5.0, patience.left_s()))
            except KafkaException as exception:
                error = error_of(exception)
                if error.retriable() and patience.is_left():
                    patience.pause()
                    continue
                raise self._given_up(error, what) from exception
            return

    def _given_up(self, error: KafkaError, what: str) -> Exception:
        text = f"transaction {self._id!r}, {what}: {error.str()}"
        was_open, self._is_open = self._is_open, False
        if error.code() in FENCED and error.code() != KafkaError.FENCED_INSTANCE_ID:  # that one is the reader's
            return self._fenced_for_good(text)
        if error.retriable() or not was_open:
            self._must_renew = True
            return LogUnavailable(text)
        if error.fatal():
            self._must_renew = True
        else:
            self._is_open = True
            self.abort()
        return TransactionAborted(text)

    def _fenced_for_good(self, text: str) -> Fenced:
        """The broker says the same to one whose own transaction was open for too long; both must start over."""
        seconds = TRANSACTION_TIMEOUT_MS // 1000
        self._fenced = f"{text} (another holder of the id took over, or a transaction was open over {seconds} s)"
        return Fenced(self._fenced)

    def _forget_failures(self) -> None:
        try:
            self._producer.raise_failures()
        except DeliveryFailed:
            client_logger().debug("records of aborted transaction %s were purged", self._id)

    def _check_open(self) -> None:
        if not self._is_open:
            raise RuntimeError("no transaction is open")
