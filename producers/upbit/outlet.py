"""The feed's way into the log: one publisher, its records, and dead letters for frames that cannot be used."""

import base64
import threading

from infra.errors import DeliveryPending, LogUnavailable, ObservatorError
from infra.log import Log
from producers.upbit.source import Output
from streams.messages import DeadLetter, Message, encode

LINGER_MS = 250.0
"""Books may wait for company (a request per record costs four times as much); heartbeats are pushed at once."""
PUSH_EVERY_NS = 50_000_000
PUSH_TIMEOUT_S = 0.5
KEPT_BYTES = 500_000
"""Of a frame in a dead letter: a record of the log is at most a megabyte."""


class Outlet:
    """Publishes in order. Raises what the publisher raises: `DeliveryFailed` above all.

    Pushing waits for the log's answers, so a thread of its own does it: the feed goes on reading meanwhile. What fails
    there is raised at the next `publish`.
    """

    def __init__(self, log: Log, process: str) -> None:
        self._publisher = log.publisher(linger_ms=LINGER_MS)
        self._process = process
        self._pushed_ns = 0
        self._failure: ObservatorError | None = None
        self._is_closing = False
        self._wanted = threading.Event()
        self._pusher = threading.Thread(target=self._push_when_wanted, name="push", daemon=True)
        self._pusher.start()

    def publish(self, outputs: list[Output]) -> None:
        """Queue records."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        publish = self._publisher.publish
        for topic, partition, key, value in outputs:
            publish(topic, key, value, partition)

    def push(self, now_ns: int) -> None:
        """Have what is queued sent without lingering: bins were closed, the features wait for it.

        Not more often than every 50 ms, so that a market at full speed keeps its large batches.
        """
        if now_ns - self._pushed_ns >= PUSH_EVERY_NS:
            self._pushed_ns = now_ns
            self._wanted.set()

    def _push_when_wanted(self) -> None:
        while self._wanted.wait() and not self._is_closing:
            self._wanted.clear()
            try:
                self._publisher.flush(PUSH_TIMEOUT_S)
            except (DeliveryPending, LogUnavailable):
                continue  # nothing is lost yet: it is still being tried
            except ObservatorError as error:
                self._failure = error

    def send(self, topic: str, key: str, message: Message) -> None:
        """Queue one message under its key."""
        self._publisher.publish(topic, key, encode(message))

    def bury(self, source: str, number: int, raw: bytes, reason: str, wall_ns: int) -> None:
        """Queue a dead letter for frame `number` of the session."""
        is_cut = len(raw) > KEPT_BYTES
        letter = DeadLetter(
            process=self._process,
            topic=f"frame:{source}",
            partition=0,
            offset=number,
            key="",
            reason=f"{reason} (first {KEPT_BYTES} of {len(raw)} bytes)" if is_cut else reason,
            value=base64.b64encode(raw[:KEPT_BYTES]).decode(),
            event_ms=wall_ns // 1_000_000,
        )
        self.send("dead-letters", self._process, letter)

    def flush(self, timeout_s: float) -> None:
        """Wait until all of it is in the log."""
        self._publisher.flush(timeout_s)

    def close(self) -> None:
        """Flush and let go."""
        self._is_closing = True
        self._wanted.set()
        self._pusher.join()
        self._publisher.close()
