"""Settings and error translation shared by the parts of the Kafka edge (`infra.kafka`, its readers and writers).

What librdkafka reports leaves here as our own exceptions, by what the caller should do.
"""

import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from infra.errors import Fenced, LogUnavailable, NotOwner, ObservatorError, RecordsLost, TopicMissing
from infra.log import Slot

Setting = str | int | float | bool

REMEDY = "run `observator topics create`"
LOST_OWNERSHIP = frozenset(
    {KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.REBALANCE_IN_PROGRESS}
)
FENCED = frozenset(
    {
        KafkaError._FENCED,  # noqa: SLF001 - librdkafka's own codes are spelled with an underscore
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.TRANSACTION_COORDINATOR_FENCED,
    }
)
MISSING = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001 - as above
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001 - as above
    }
)
UNLED = frozenset({KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE})
"""A partition without a leader for a moment: it is new, or its broker has just come back."""
OUT_OF_RANGE = frozenset(
    {
        KafkaError.OFFSET_OUT_OF_RANGE,
        KafkaError._AUTO_OFFSET_RESET,  # noqa: SLF001 - as above
    }
)


class Connection(NamedTuple):
    """Where the broker is and how patient to be with it."""

    bootstrap: str
    prefix: str
    session_timeout_ms: int
    static_session_timeout_ms: int
    delivery_timeout_ms: int
    commit_timeout_s: float

    def settings(self) -> dict[str, Setting]:
        """What every client has."""
        return {
            "bootstrap.servers": self.bootstrap,
            "allow.auto.create.topics": False,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 500,
            "topic.metadata.refresh.interval.ms": 30_000,
            "log.connection.close": False,
            "socket.nagle.disable": True,
        }


def translated(error: KafkaError, what: str) -> ObservatorError:
    """Our exception for librdkafka's error; whatever is not known by name is worth another try."""
    text = f"{what}: {error.str()}"
    code = error.code()
    if code in FENCED:
        return Fenced(f"{text} (another holder of the same id took over)")
    if code in LOST_OWNERSHIP:
        return NotOwner(text)
    if code in MISSING:
        return TopicMissing(f"{text}: {REMEDY}")
    if code in OUT_OF_RANGE:
        return RecordsLost(text)
    return LogUnavailable(text)


def error_of(exception: KafkaException) -> KafkaError:
    """The error inside librdkafka's exception."""
    error: KafkaError = exception.args[0]
    return error


def partitions_of(prefix: str, offsets: Mapping[Slot, int]) -> list[TopicPartition]:
    """Our offsets as librdkafka takes them, under the topics' full names."""
    return [TopicPartition(prefix + slot.topic, slot.partition, offset) for slot, offset in offsets.items()]


def slots_from(prefix: str, partitions: Iterable[TopicPartition]) -> frozenset[Slot]:
    """The other way round, without offsets."""
    return frozenset(Slot(one.topic[len(prefix) :], one.partition) for one in partitions)


class Patience:
    """A deadline with growing pauses: `while patience.is_left(): try ...`, with `pause()` after a failure."""

    def __init__(self, timeout_s: float) -> None:
        self._deadline = time.monotonic() + timeout_s
        self._pause_s = 0.02

    def is_left(self) -> bool:
        """Whether another try fits in."""
        return time.monotonic() < self._deadline

    def left_s(self) -> float:
        """Seconds left, never less than a tick."""
        return max(self._deadline - time.monotonic(), 0.01)

    def pause(self) -> None:
        """Wait a little, longer each time."""
        time.sleep(min(self._pause_s, self.left_s()))
        self._pause_s = min(self._pause_s * 2, 0.5)
