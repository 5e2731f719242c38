"""Committing offsets with a bound on the wait: librdkafka's synchronous commit blocks for as long as a broker is away.

Each attempt runs in a short thread of its own, so that a process can notice within seconds that it should stop. Used
by the readers and by `infra.kafka.KafkaLog.commit`.
"""

import threading
from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from infra.errors import LogUnavailable
from infra.kafka_clients import Patience, error_of, partitions_of, translated
from infra.log import Slot


class _Attempt(threading.Thread):
    """One commit under way; a daemon, because it may outlive an outage and must not hold up the end."""

    def __init__(self, consumer: Consumer, offsets: list[TopicPartition]) -> None:
        super().__init__(daemon=True, name="commit")
        self._consumer = consumer
        self._offsets = offsets
        self.error: KafkaError | None = None
        self.is_refused = False
        self.start()

    def run(self) -> None:
        """Commit and keep what came back."""
        try:
            answers = self._consumer.commit(offsets=self._offsets, asynchronous=False)
        except KafkaException as exception:
            self.error = error_of(exception)
        except RuntimeError:  # the consumer was closed meanwhile
            self.is_refused = True
        else:
            self.error = next((answer.error for answer in answers or [] if answer.error is not None), None)


class Committer:
    """Commits for one consumer, one attempt at a time."""

    def __init__(self, consumer: Consumer, prefix: str, timeout_s: float) -> None:
        self._consumer = consumer
        self._prefix = prefix
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._late: _Attempt | None = None

    def commit(self, offsets: Mapping[Slot, int]) -> None:
        """Commit and wait for the answer; raises `NotOwner`, `Fenced`, `LogUnavailable` (then commit again)."""
        if not offsets:
            return
        with self._lock:
            self._commit(partitions_of(self._prefix, offsets), Patience(self._timeout_s))

    def _commit(self, offsets: list[TopicPartition], patience: Patience) -> None:
        if self._late is not None:
            self._wait_for(self._late, patience)
        while True:
            attempt = self._wait_for(_Attempt(self._consumer, offsets), patience)
            if attempt.is_refused:
                raise RuntimeError("this reader is closed")
            if attempt.error is None:
                return
            problem = translated(attempt.error, "commit of offsets")
            if not isinstance(problem, LogUnavailable) or not patience.is_left():
                raise problem
            patience.pause()

    def _wait_for(self, attempt: _Attempt, patience: Patience) -> _Attempt:
        attempt.join(patience.left_s())
        if attempt.is_alive():
            self._late = attempt
            raise LogUnavailable("commit of offsets: no answer yet")
        self._late = None
        return attempt
