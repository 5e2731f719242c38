"""A whole deployment in a folder of its own, its processes started one by one: what the benches and drills run on."""

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from consumers.verify.processes import Children, create_all_topics, insist, own_broker
from infra.configuration import save
from infra.kafka import KafkaLog
from infra.log import Slot, slots_of
from infra.own_memory import own_memory_mb
from infra.servers.kafka import KafkaServer
from infra.servers.ports import port_of
from infra.settings import Settings

_PATIENCE_S = 30.0


class Deployment:
    """The broker, the log and the children of one run; `start` takes the names of the `Procfile`."""

    def __init__(self, settings: Settings, broker: KafkaServer, log: KafkaLog, children: Children) -> None:
        self.settings = settings
        self.broker = broker
        self.log = log
        self.children = children
        self._file = settings.home / "settings.json"
        save(settings, self._file)

    def start(self, *names: str) -> None:
        """Start processes as the supervisor would."""
        for name in names:
            self.children.start(name, ["-m", "observator", "process", name], {"OBSERVATOR_SETTINGS": str(self._file)})

    def count(self, topic: str) -> int:
        """Records in a topic now."""
        return sum(end - begin for begin, end in self.bounds([topic]).values())

    def lag(self, group: str, topics: list[str]) -> int:
        """Records that a group has not committed yet."""
        bounds = self.bounds(topics)
        committed = insist(lambda: self.log.committed(group, bounds), _PATIENCE_S, "committed offsets")
        return sum(end - max(begin, committed.get(slot, 0)) for slot, (begin, end) in bounds.items())

    def bounds(self, topics: list[str]) -> dict[Slot, tuple[int, int]]:
        """The log may not answer for a moment, most of all a young one on a busy machine."""
        return insist(lambda: self.log.bounds(slots_of(self.log, topics)), _PATIENCE_S, "the log's bounds")

    def cpu_seconds(self, name: str) -> float:
        """User plus system time of one process so far."""
        times = self.children.process(name).cpu_times()
        return float(times.user + times.system)

    def own_memory_mb(self, name: str) -> float:
        """Memory that would be freed if the process ended now."""
        return own_memory_mb(self.children.process(name))


@contextmanager
def deployment(described: Mapping[str, Any]) -> Iterator[Deployment]:
    """Start a broker with all topics in a temporary home; ends everything and removes the folder."""
    home = Path(tempfile.mkdtemp(prefix="observator-bench-"))
    try:
        with own_broker(home) as broker:
            own = {"home": home, "kafka": {"bootstrap": broker.bootstrap}, "dashboard": {"port": port_of(home, "page")}}
            settings = Settings.model_validate({**described, **own})
            (home / "logs").mkdir(exist_ok=True)
            with KafkaLog(broker.bootstrap) as log, Children(home / "logs") as children:
                create_all_topics(log)
                yield Deployment(settings, broker, log, children)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def settle(running: Deployment, topic: str, at_least: int, timeout_s: float) -> float:
    """Wait until a topic holds a number of records; returns the seconds it took."""
    started = time.monotonic()
    while running.count(topic) < at_least:
        running.children.require_alive()
        if time.monotonic() - started > timeout_s:
            raise TimeoutError(f"{topic}: fewer than {at_least} records after {timeout_s:.0f} s")
        time.sleep(0.2)
    return time.monotonic() - started
