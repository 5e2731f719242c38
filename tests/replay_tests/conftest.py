"""A made market-data log with everything that goes wrong in it, in memory, as the history that replays read."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from consumers.replay.conditions import Conditions
from consumers.verify.disturbed import Written, disturbed_log
from infra.memory_log import MemoryLog
from infra.settings import Settings
from streams.history import LogHistory
from streams.process import topic_specs


def log_of(records: Sequence[Written]) -> MemoryLog:
    """The records with their times of writing as append times."""
    now = [0]
    log = MemoryLog(clock_ms=lambda: now[0])
    log.create_topics(topic_specs())
    publisher = log.publisher()
    for record in records:
        now[0] = record.at_ms
        publisher.publish(record.topic, record.key, record.value, record.partition)
    return log


@pytest.fixture(scope="session")
def disturbed() -> list[Written]:
    return disturbed_log(10, 130, 3)


@pytest.fixture
def recorded(disturbed: list[Written]) -> MemoryLog:
    return log_of(disturbed)


@pytest.fixture
def history(recorded: MemoryLog) -> LogHistory:
    return LogHistory(recorded)


@pytest.fixture
def today(tmp_path: Path) -> Settings:
    return Settings.model_validate({"home": tmp_path, "grid": {"window_bins": 40}, "predict": {"window_rows": 5}})


@pytest.fixture
def conditions(today: Settings) -> Conditions:
    return Conditions.of(today)


@pytest.fixture
def make_log() -> Callable[[Sequence[Written]], MemoryLog]:
    return log_of
