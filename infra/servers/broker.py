"""The broker of a deployment as its settings name it: where it answers, the log on it, and the files it needs.

Called by the command line and by every process. Imports the Kafka client only when the log is opened.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from infra.errors import LogUnavailable
from infra.servers.ports import port_of
from infra.settings import Settings

if TYPE_CHECKING:
    from infra.kafka import KafkaLog

START_S = 120.0


def bootstrap_of(settings: Settings) -> str:
    """The broker's address; an own broker may move to another port when it is started again."""
    return settings.kafka.bootstrap or f"127.0.0.1:{port_of(settings.home, 'kafka')}"


def open_log(settings: Settings) -> "KafkaLog":
    """The log on that broker; connects when it is first used."""
    from infra.kafka import KafkaLog  # noqa: PLC0415 - help must answer at once

    return KafkaLog(bootstrap_of(settings), settings.kafka.prefix)


def listens(bootstrap: str, timeout_s: float = 3.0) -> bool:
    """Whether anybody is at the broker's address: the client alone would wait long and write a page of errors."""
    host, _, port = bootstrap.partition(",")[0].rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout_s):
            return True
    except OSError:
        return False


@contextmanager
def kept_log(settings: Settings, tell: Callable[[str], None]) -> Iterator["KafkaLog"]:
    """The log, for reading: where the run folder's own broker does not run, it runs for as long as this lasts.

    Raises `LogUnavailable` where there is nothing to read.
    """
    bootstrap = bootstrap_of(settings)
    if listens(bootstrap):
        with open_log(settings) as log:
            yield log
        return
    if settings.kafka.bootstrap:
        raise LogUnavailable(f"Nobody answers at {bootstrap}: start Kafka there, or correct kafka.bootstrap.")
    from infra.servers.jars import default_cache  # noqa: PLC0415 - only an own broker needs it
    from infra.servers.kafka import KafkaServer  # noqa: PLC0415 - same

    server = KafkaServer(settings.home, default_cache(os.environ))
    if not (server.folder / "data").exists():
        raise LogUnavailable(
            f"There are no records in {settings.home}: name the run folder (observator --home FOLDER ...)."
            " A demo's is .observator/demo."
        )
    tell("Kafka does not run there; it is started to read what it kept, and stopped afterwards ...")
    server.start(START_S)
    try:
        with open_log(settings) as log:
            yield log
    finally:
        server.stop()


def prepare(settings: Settings, tell: Callable[[float, float, str], None]) -> None:
    """Fetch the broker's jars where they are missing; nothing to do beside an external broker."""
    from infra.servers.jars import default_cache  # noqa: PLC0415 - only an own broker needs it
    from infra.servers.kafka import KafkaServer  # noqa: PLC0415 - same

    if not settings.kafka.bootstrap:
        server = KafkaServer(settings.home, default_cache(os.environ))
        server.prepare(lambda what, done, total: tell(done, total, what))
