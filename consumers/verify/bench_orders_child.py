"""The trade process for the benches of orders, with or without its transaction.

`python -m consumers.verify.bench_orders_child SETTINGS_JSON MODE`, where MODE is `transaction` or `plain`. Without a
transaction nothing is atomic: that form exists here, to be measured, and nowhere else.
"""

import json
import logging
import signal
import sys
import threading
from collections.abc import Mapping

from consumers.trade import runner
from infra.kafka import KafkaLog
from infra.log import GroupReader, Log, Publisher, Slot, Transactor
from infra.settings import Settings


class _Plain:
    """Publishes at once and commits offsets afterwards."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._publisher: Publisher = log.publisher(linger_ms=0)

    def begin(self) -> None:
        """Nothing to open."""

    def publish(self, topic: str, key: str, value: bytes, partition: int | None = None) -> None:
        """Queue one record."""
        self._publisher.publish(topic, key, value, partition)

    def commit(self, reader: GroupReader | None, group: str, offsets: Mapping[Slot, int]) -> None:
        """Wait for the acknowledgements, then move the offsets."""
        del reader  # as the real one here, it has no group
        self._publisher.flush()
        if offsets:
            self._log.commit(group, offsets)

    def abort(self) -> None:
        """Nothing can be taken back."""

    def close(self) -> None:
        """Let go."""
        self._publisher.close()


class PlainLog(KafkaLog):
    """The log with transactions that are none."""

    def transactor(self, transactional_id: str) -> Transactor:  # type: ignore[override]  # the bench's own
        """A publisher without a transaction."""
        del transactional_id
        return _Plain(self)


def main(settings_json: str, mode: str) -> None:
    """Trade until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    settings = Settings.model_validate(json.loads(settings_json))
    kind = KafkaLog if mode == "transaction" else PlainLog
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with kind(settings.kafka.bootstrap, settings.kafka.prefix) as log:
        runner.run(settings, log, stop)


if __name__ == "__main__":
    main(*sys.argv[1:])
