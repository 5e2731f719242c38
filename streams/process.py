"""What every process on the log does around its own work: wait for the log, say what it runs with, copy its lines.

Called by the command line's `process`; knows no process by name.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import ObservatorError, Retry, Stop, TopicMissing
from infra.log import TopicSpec, publish_one
from infra.logs import PublishHandler
from infra.manifest import as_fields, file_hash, make_manifest
from infra.servers.broker import bootstrap_of
from infra.settings import Settings
from streams.messages import LogLine, RunManifest, encode
from streams.topics import TOPICS

if TYPE_CHECKING:
    from infra.kafka import KafkaLog

logger = logging.getLogger(__name__)

_MANIFEST_S = 30.0


def topic_specs() -> list[TopicSpec]:
    """All topics as the log creates them."""
    return [TopicSpec(one.name, one.partitions, one.config) for one in TOPICS.values()]


def ask_log(settings: Settings, log: "KafkaLog") -> None:
    """Raise `Retry` or `TopicMissing` unless the log answers and has its topics, `Stop` where its broker has moved."""
    try:
        for spec in topic_specs():
            log.partitions(spec.name)
    except (Retry, TopicMissing) as error:
        if bootstrap_of(settings) != log.bootstrap:
            raise Stop("the broker has moved to another port") from error
        raise


def wait_for_log(settings: Settings, log: "KafkaLog", stop: threading.Event) -> bool:
    """Wait until the log answers and has its topics; says so every few seconds. False where it was told to stop."""
    told_at = 0.0
    while not stop.is_set():
        try:
            ask_log(settings, log)
        except (Retry, TopicMissing) as error:
            if time.monotonic() - told_at > 5:
                told_at = time.monotonic()
                logger.info("waiting for the log at %s: %s", log.bootstrap, error)
            stop.wait(0.2)
        else:
            return True
    return False


def manifest_of(name: str, settings: Settings) -> RunManifest:
    """What a process runs with that has nothing of its own to say."""
    root = Path(__file__).parent.parent
    manifest = make_manifest(
        name,
        settings.model_dump(mode="json"),
        started_ms=int(time.time() * 1000),
        root=root,
        kernel_hash=file_hash(root / "streams" / "market" / "kernels.py"),
        backend="numba-cpu" if name in {"streams", "predict"} else "",
    )
    return RunManifest(**as_fields(manifest))


def open_run(name: str, settings: Settings, log: "KafkaLog") -> None:
    """Write what this process runs with: parity is claimed per manifest."""
    # a broker that has just started may take longer than most have time for
    publish_one(log, "manifests", name, encode(manifest_of(name, settings)), _MANIFEST_S)


@contextmanager
def lines_into_the_log(name: str, log: "KafkaLog") -> Iterator[None]:
    """Copy this process's log lines into the topic `logs`."""
    publisher = log.publisher(linger_ms=100)

    def publish(record: logging.LogRecord) -> None:
        at_ms, level = int(record.created * 1000), record.levelname.lower()
        line = LogLine(process=name, level=level, logger=record.name, text=record.getMessage(), event_ms=at_ms)
        publisher.publish("logs", name, encode(line))

    handler = PublishHandler(publish)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        with suppress(ObservatorError):
            publisher.close()
