"""Topics of a session once more in Kafka under a prefix, with the stages' own processes at work on them.

Called by `verify replay`.
"""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from consumers.replay.write import write_run
from consumers.verify.deployment import Deployment
from consumers.verify.processes import Children, wait_until
from infra.configuration import save
from infra.kafka import KafkaLog
from streams.history import History, LogHistory
from streams.stage import INPUTS

WORKERS = 4
BATCH = 7
_REPLAYED_S = 900.0


class Copy:
    """A copy of some topics under a prefix, where wanted with the stages' processes at work on it while it grows."""

    def __init__(
        self,
        running: Deployment,
        history: History,
        prefix: str,
        names: tuple[str, ...],
        speed: float | None,
        *,
        with_stages: bool,
    ) -> None:
        self._running = running
        self._history = history
        self._prefix = prefix
        self._names = names
        self._speed = speed
        self._with_stages = with_stages
        self._log = KafkaLog(running.broker.bootstrap, prefix)

    def __enter__(self) -> KafkaLog:
        """Copy; returns when the stages have nothing left to do."""
        with Children(self._running.settings.home / "logs") as children:
            write = self._written if not self._with_stages else (lambda: self._with_processes(children))
            write()
        return self._log

    def __exit__(self, *_: object) -> None:
        """Let go."""
        self._log.close()

    def _written(self) -> None:
        spans = self._history.spans(self._names)
        outcome = write_run(self._history, spans, self._log, self._speed, threading.Event(), source="verify replay")
        if not outcome.is_complete:
            raise RuntimeError(f"the copy under {self._prefix} is not complete")

    def _with_processes(self, children: Children) -> None:
        settings = self._running.settings
        changed = {
            "kafka": settings.kafka.model_copy(update={"prefix": self._prefix}),
            "streams": settings.streams.model_copy(update={"batch": BATCH, "workers": WORKERS}),
        }
        file = settings.home / "replayed.json"
        save(settings.model_copy(update=changed), file)
        with ThreadPoolExecutor(1) as pool:
            self._run_on(pool.submit(self._written), children, file)

    def _run_on(self, copying: "Future[None]", children: Children, file: Path) -> None:
        environ = {"OBSERVATOR_SETTINGS": str(file)}
        for number in range(WORKERS):
            command = ["-m", "observator", "process", "streams", "--worker", str(number)]
            children.start(f"replayed-{number}", command, environ)
        children.start("replayed-predict", ["-m", "observator", "process", "predict"], environ)
        copying.result()
        wait_until(lambda: self._is_done("features", INPUTS, children), _REPLAYED_S, "features of the copy", 0.5)
        wait_until(lambda: self._is_done("predict", ("features",), children), _REPLAYED_S, "signals of the copy", 0.5)

    def _is_done(self, group: str, names: tuple[str, ...], children: Children) -> bool:
        children.require_alive()
        spans = LogHistory(self._log).spans(names)
        committed = self._log.committed(group, spans)
        return bool(spans) and all(committed.get(slot, 0) >= end for slot, (_, end) in spans.items())
