"""Fixtures for all tests: one real broker per run, logs with a prefix of their own, and the in-memory log.

Without Java or jars the broker's tests are skipped with the reason on a laptop and fail in CI.
"""

import asyncio
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings as hypothesis_settings

from infra.errors import ObservatorError
from infra.log import Log
from infra.memory_log import MemoryLog

if TYPE_CHECKING:
    from infra.kafka import KafkaLog
    from infra.servers.kafka import KafkaServer
    from infra.servers.postgres import PostgresServer

_counter = itertools.count()

hypothesis_settings.register_profile("house", deadline=None)  # a busy machine is no failure
hypothesis_settings.load_profile("house")


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def _start_broker(home: Path) -> "KafkaServer":
    from infra.servers.jars import default_cache  # noqa: PLC0415 - tests without a broker do not load it
    from infra.servers.kafka import KafkaServer  # noqa: PLC0415 - same

    server = KafkaServer(home, default_cache(os.environ), heap_mb=256, extra={"group.min.session.timeout.ms": "1000"})
    try:
        server.start()
    except (ObservatorError, OSError) as error:
        if _in_ci():
            raise
        pytest.skip(f"no real broker: {error}")
    return server


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[KafkaServer]":
    """The broker of the whole run; nobody but `breakable_broker`'s tests may stop one."""
    server = _start_broker(tmp_path_factory.mktemp("broker"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def breakable_broker(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[KafkaServer]":
    """A broker for tests that kill it: they bring it up again before they end."""
    server = _start_broker(tmp_path_factory.mktemp("breakable"))
    yield server
    server.stop()


@pytest.fixture
def kafka_log(broker: "KafkaServer") -> "Iterator[KafkaLog]":
    """A log on the real broker under a prefix of its own."""
    from infra.kafka import KafkaLog  # noqa: PLC0415 - tests without a broker do not load it

    with KafkaLog(broker.bootstrap, f"t{next(_counter)}-{os.getpid()}-") as log:
        yield log


@pytest.fixture(scope="session")
def postgres() -> "Iterator[PostgresServer]":
    """A PostgreSQL for the whole run; tests take `empty_postgres`."""
    from infra.servers.postgres import PostgresServer  # noqa: PLC0415 - tests without it do not load it

    try:
        server = PostgresServer(is_durable=False)
        server.__enter__()
    except (ObservatorError, OSError) as error:
        if _in_ci():
            raise
        pytest.skip(f"no PostgreSQL: {error}")
    yield server
    server.__exit__(None, None, None)


@pytest.fixture
def empty_postgres(postgres: "PostgresServer") -> "PostgresServer":
    """The same, with nothing in it."""
    import psycopg  # noqa: PLC0415 - tests without it do not load it

    with psycopg.connect(postgres.address, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return postgres


@pytest.fixture
def data_folder() -> Path:
    """The real recordings: `OBSERVATOR_DATA`, else `../shared/data` beside the project."""
    folder = Path(os.environ.get("OBSERVATOR_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no recordings: neither OBSERVATOR_DATA nor ../shared/data exists")
    return folder


@pytest.fixture
def memory_log() -> Iterator[MemoryLog]:
    """An empty in-memory log."""
    with MemoryLog() as log:
        yield log


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def any_log(request: pytest.FixtureRequest) -> Log:
    """Both implementations, one after the other."""
    log: Log = request.getfixturevalue(f"{request.param}_log")
    return log


@pytest.fixture
def log_beside() -> Iterator[Callable[[Log, str], Log]]:
    """Open a second log on the same records under another prefix."""
    from infra.kafka import KafkaLog  # noqa: PLC0415 - tests without a broker do not load it

    opened: list[Log] = []

    def open_beside(log: Log, prefix: str) -> Log:
        other: Log
        if isinstance(log, MemoryLog):
            other = MemoryLog(prefix, beside=log)
        else:
            assert isinstance(log, KafkaLog)
            other = KafkaLog(log.bootstrap, prefix)
        opened.append(other)
        return other

    yield open_beside
    for log in opened:
        log.close()


@pytest.fixture(autouse=True, scope="module")
def _no_event_loop_left_over() -> Iterator[None]:
    """Close the loop that mode (below Faust) leaves as the main thread's: it would warn in a random later test."""
    yield
    policy = asyncio.get_event_loop_policy()
    loop = getattr(getattr(policy, "_local", None), "_loop", None)
    if loop is not None and not loop.is_running():
        loop.close()
        policy.set_event_loop(None)
