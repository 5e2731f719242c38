"""Child processes of the verify and bench commands: started, killed and always cleaned up."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self, TypeVar

import psutil

from infra.errors import Retry
from infra.kafka import KafkaLog
from infra.log import TopicSpec, slots_of
from infra.servers.jars import default_cache
from infra.servers.kafka import KafkaServer
from infra.settings import Settings
from infra.watchdog import EXIT_STUCK
from streams.topics import TOPICS

_MOST_STUCK = 20
BROKER_S = 240.0
"""Longer than a deployment waits: a check may run beside much other work."""
_T = TypeVar("_T")


class Children:
    """Named child processes with their output in a folder; leaving the context ends every one that is left."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(tempfile.mkdtemp(prefix="observator-verify-"))
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._outputs: list[IO[bytes]] = []
        self._started: dict[str, tuple[list[str], dict[str, str]]] = {}
        self.kills = 0
        self.stuck = 0
        """How often a child's watchdog ended it; it was started again, as the supervisor does."""

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what still runs: politely first, then for good."""
        for child in self._children.values():
            if child.poll() is None:
                child.terminate()
        for child in self._children.values():
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        for output in self._outputs:
            output.close()

    def start(self, name: str, arguments: list[str], environ: dict[str, str] | None = None) -> None:
        """Start `python ARGUMENTS` as `name`; its output goes to `folder/name.log`."""
        self._started[name] = (arguments, environ or {})
        output = (self.folder / f"{name}.log").open("ab")
        self._outputs.append(output)
        self._children[name] = subprocess.Popen(  # noqa: S603 our own interpreter and arguments
            [sys.executable, *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "FAUST_LOOP": "uvloop", **(environ or {})},
        )

    def start_stage(self, name: str, stage: str, bootstrap: str, prefix: str, settings: Settings) -> None:
        """Start one stage (`consumers.verify.worker`); a static group member's name is the child's."""
        described = json.dumps(settings.model_dump(mode="json"))
        self.start(name, ["-m", "consumers.verify.worker", stage, bootstrap, prefix, described, name])

    def kill(self, name: str) -> None:
        """`kill -9`."""
        self._children[name].send_signal(signal.SIGKILL)
        self._children[name].wait()
        self.kills += 1

    def stop(self, name: str, timeout_s: float = 20.0) -> None:
        """SIGTERM, and wait."""
        self._children[name].terminate()
        self._children[name].wait(timeout_s)

    def is_alive(self, name: str) -> bool:
        """Whether it still runs."""
        return name in self._children and self._children[name].poll() is None

    def process(self, name: str) -> psutil.Process:
        """Its process, for CPU and memory."""
        return psutil.Process(self._children[name].pid)

    def require_alive(self, *, restart_stuck: bool = False) -> None:
        """Raise with the last lines of a child that ended by itself.

        `restart_stuck` starts again, and counts, what its watchdog ended; only for a check that reports the count.
        """
        for name, child in list(self._children.items()):
            if restart_stuck and child.poll() == EXIT_STUCK and self.stuck < _MOST_STUCK:
                self.stuck += 1
                self.start(name, *self._started[name])
                continue
            if child.poll() not in {None, -signal.SIGKILL, -signal.SIGTERM, 0}:
                lines = (self.folder / f"{name}.log").read_text(errors="replace").splitlines()[-15:]
                raise RuntimeError(f"{name} ended with {child.returncode}:\n" + "\n".join(lines))


@contextmanager
def own_broker(home: Path, heap_mb: int = 512) -> Iterator[KafkaServer]:
    """A real broker of this check's own, in `home`; stopped at the end."""
    server = KafkaServer(home, default_cache(os.environ), heap_mb=heap_mb)
    server.start(BROKER_S)
    try:
        yield server
    finally:
        server.stop()


def create_all_topics(log: KafkaLog) -> None:
    """Create every topic under the log's prefix, and wait until each can be read."""
    specs = [TopicSpec(topic.name, topic.partitions, topic.config) for topic in TOPICS.values()]

    def are_there() -> bool:
        log.create_topics(specs)
        log.bounds(slots_of(log, list(TOPICS)))  # raises while a new partition's leader does not serve yet
        return True

    wait_until(are_there, 60, "topics")


def insist(call: Callable[[], _T], timeout_s: float, what: str) -> _T:
    """Call until the log answers; raises `TimeoutError` naming `what`."""
    answers: list[_T] = []

    def is_answered() -> bool:
        answers.append(call())
        return True

    wait_until(is_answered, timeout_s, what)
    return answers[0]


def wait_until(question: Callable[[], bool], timeout_s: float, what: str, every_s: float = 0.1) -> float:
    """Wait until `question()` is true; returns the seconds it took, raises `TimeoutError` naming `what`."""
    started = time.monotonic()
    while time.monotonic() - started < timeout_s:
        with suppress(Retry):  # the log does not answer for a moment
            if question():
                return time.monotonic() - started
        time.sleep(every_s)
    raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
