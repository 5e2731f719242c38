"""The Faust application that runs the feature stage: the default runner.

Faust gives the group, the assignment and the producer; the stage, its restart rule and its offsets are the same as in
the plain loop (`streams.runner`). At least once: an event is acknowledged only when its rows are. Faust's exactly_once
is never used (it doubles records on a real broker). The log is read a second time, without a group, by the restart.
"""

import logging
import os
import threading
from pathlib import Path
from typing import Any

import faust

from infra.kafka import KafkaLog
from infra.log import Log
from infra.settings import Settings
from streams.agents import FeatureAgent
from streams.runner import GROUP, options_of
from streams.stage import INPUTS, StageOptions
from streams.topics import TOPICS

logger = logging.getLogger(__name__)

_OUTAGE_LOGGERS = ("aiokafka", "faust.transport", "kafka")


def create_app(
    log: Log,
    options: StageOptions,
    *,
    bootstrap: str,
    prefix: str = "",
    datadir: Path,
    linger_s: float = 0.005,
    session_timeout_s: float = 10.0,
    batch: int = 1_000,
) -> Any:
    """Put the application together: one agent over both input topics, partition by partition in offset order."""
    datadir.mkdir(parents=True, exist_ok=True)
    app = faust.App(
        prefix + GROUP,
        broker=f"kafka://{bootstrap}",
        store="memory://",
        datadir=str(datadir),
        topic_partitions=TOPICS[INPUTS[0]].partitions,
        topic_allow_declare=False,
        topic_disable_leader=True,
        processing_guarantee="at_least_once",
        broker_session_timeout=session_timeout_s,
        broker_heartbeat_interval=2.0,
        broker_commit_interval=1.0,
        broker_max_poll_records=batch,
        consumer_auto_offset_reset="earliest",
        producer_linger=linger_s,
        producer_compression_type="zstd",
        stream_buffer_maxsize=32_768,
        stream_wait_empty=False,
        web_enabled=False,
        autodiscover=False,
    )
    agent = FeatureAgent(app, log, options, group=GROUP, prefix=prefix)
    names = [prefix + topic for topic in INPUTS]
    source = app.topic(*names, value_type=bytes, value_serializer="raw", key_type=bytes, key_serializer="raw")
    app.agent(source, name="features")(agent.run)
    app.on_partitions_revoked.connect(agent.on_revoked)
    return app


class _RateLimited(logging.Filter):
    """Lets one line a second through: a broker outage prints dozens."""

    def __init__(self) -> None:
        super().__init__()
        self._second = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Pass warnings of a new second, and everything below."""
        second = int(record.created)
        if record.levelno < logging.WARNING or second != self._second:
            self._second = second
            return True
        return False


def run_worker(app: Any) -> None:
    """Run one Faust worker in this process until SIGTERM or SIGINT; does not return."""
    limit = _RateLimited()
    for name in _OUTAGE_LOGGERS:
        for handler in logging.getLogger(name).handlers or logging.getLogger().handlers:
            handler.addFilter(limit)
    os.environ.setdefault("FAUST_LOOP", "uvloop")
    # Level INFO on purpose: at WARN, Faust turns the root logger to DEBUG for its spinner and spends 15 % on it.
    worker = faust.Worker(app, loglevel="INFO", quiet=True, override_logging=False, redirect_stdouts=False)
    try:
        worker.execute_from_commandline()
    except SystemExit as end:
        if end.code and isinstance(end.__context__, Exception):
            logger.error("the Faust worker cannot run: %r", end.__context__)  # noqa: TRY400 Faust says the rest itself
        raise


def run(settings: Settings, log: KafkaLog, stop: threading.Event) -> None:
    """Run the feature stage under Faust in this process; Faust itself handles SIGTERM and SIGINT."""
    if stop.is_set():
        return
    app = create_app(
        log,
        options_of(settings),
        bootstrap=log.bootstrap,
        prefix=log.prefix,
        datadir=settings.home / "faust",
        batch=settings.streams.batch,
    )
    run_worker(app)
