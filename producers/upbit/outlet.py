"""The feed's way into the log: one publisher, its records, and dead letters for frames that cannot be used."""

import base64
import contextlib

from infra.errors import DeliveryPending
from infra.log import Log
from producers.upbit.source import Output
from streams.messages import DeadLetter, Message, encode

LINGER_MS = 50.0
"""Books may wait for company (a request per record costs four times as much); heartbeats are pushed at once."""
PUSH_EVERY_NS = 50_000_000
PUSH_TIMEOUT_S = 0.02
KEPT_BYTES = 500_000
"""Of a frame in a dead letter: a record of the log is at most a megabyte."""


class Outlet:
    """Publishes in order. Raises what the publisher raises: `DeliveryFailed` above all."""

    def __init__(self, log: Log, process: str) -> None:
        self._publisher = log.publisher(linger_ms=LINGER_MS)
        self._process = process
        self._pushed_ns = 0

    def publish(self, outputs: list[Output]) -> None:
        """Queue records."""
        publish = self._publisher.publish
        for topic, partition, key, value in outputs:
            publish(topic, key, value, partition)

    def push(self, now_ns: int) -> None:
        """Send what is queued without lingering: bins were closed, the features wait for it.

        Not more often than every 50 ms, so that a market at full speed is not slowed down.
        """
        if now_ns - self._pushed_ns >= PUSH_EVERY_NS:
            self._pushed_ns = now_ns
            with contextlib.suppress(DeliveryPending):
                self._publisher.flush(PUSH_TIMEOUT_S)

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
        self._publisher.close()
