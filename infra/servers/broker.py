"""The broker of a deployment as its settings name it: where it answers, the log on it, and the files it needs.

Called by the command line and by every process. Imports the Kafka client only when the log is opened.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from infra.servers.ports import port_of
from infra.settings import Settings

if TYPE_CHECKING:
    from infra.kafka import KafkaLog


def bootstrap_of(settings: Settings) -> str:
    """The broker's address; an own broker may move to another port when it is started again."""
    return settings.kafka.bootstrap or f"127.0.0.1:{port_of(settings.home, 'kafka')}"


def open_log(settings: Settings) -> "KafkaLog":
    """The log on that broker; connects when it is first used."""
    from infra.kafka import KafkaLog  # noqa: PLC0415 - help must answer at once

    return KafkaLog(bootstrap_of(settings), settings.kafka.prefix)


def prepare(settings: Settings, tell: Callable[[float, float, str], None]) -> None:
    """Fetch the broker's jars where they are missing; nothing to do beside an external broker."""
    from infra.servers.jars import default_cache  # noqa: PLC0415 - only an own broker needs it
    from infra.servers.kafka import KafkaServer  # noqa: PLC0415 - same

    if not settings.kafka.bootstrap:
        server = KafkaServer(settings.home, default_cache(os.environ))
        server.prepare(lambda what, done, total: tell(done, total, what))
