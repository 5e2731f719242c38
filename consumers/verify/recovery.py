"""`observator verify recovery`: the broker and every supervised process killed once, while everything runs.

Each must resume by itself; afterwards the log is audited for records that were acknowledged and are gone.
"""

import os
import shutil
import signal
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlmodel import Session

from consumers.verify.audit import audit
from consumers.verify.processes import create_all_topics, wait_until
from infra import supervisor
from infra.errors import ObservatorError
from infra.figures import result_of
from infra.kafka import KafkaLog
from infra.log import slots_of
from infra.servers.kafka import wait_ready
from infra.servers.ports import port_of
from infra.settings import Settings
from infra.tables import view_questions as questions
from infra.tables import views
from streams import topics

_TIMEOUT_S = 120.0
_QUICK = ("kafka", "streams")


class _Run:
    """One supervised deployment and the questions asked of it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.names = supervisor.up(settings, settings.home)
        self.bootstrap = f"127.0.0.1:{port_of(settings.home, 'kafka')}"
        wait_ready(self.bootstrap, 60)
        self.log = KafkaLog(self.bootstrap)
        create_all_topics(self.log)

    def kill(self, name: str) -> int:
        """`kill -9` one process; returns its number."""
        pid = next(one.pid for one in supervisor.status(self.settings.home) if one.name == name)
        if pid is None:
            raise RuntimeError(f"{name} does not run")
        os.kill(pid, signal.SIGKILL)
        return pid

    def has_new_pid(self, name: str, old: int) -> bool:
        """Whether the supervisor has started it again."""
        return any(
            one.name == name and one.pid not in {None, old} and one.state == "running"
            for one in supervisor.status(self.settings.home)
        )

    def newest_signal_ms(self) -> int:
        """Bin of the newest signal; 0 without one."""
        newest = 0
        for slot, (begin, end) in self.log.bounds(slots_of(self.log, ["signals"])).items():
            if end > begin:
                reader = self.log.reader({slot: max(begin, end - 8)})
                newest = max([newest, *(topics.decode("signals", one.value).bin_ms for one in reader.read(100, 1.0))])
                reader.close()
        return newest

    def works(self, name: str, killed_ms: float) -> bool:
        """Whether the work of a process goes on after the kill; an outage of the log counts as not yet."""
        try:
            return self._question(name)(killed_ms)
        except (ObservatorError, OSError):
            return False

    def _question(self, name: str) -> Callable[[float], bool]:
        if name in {"page", "api"}:
            return lambda _: self._answers(name)
        if name == "views":
            return self._views_move
        if name in {"trade", "execute"}:
            return lambda _: self._has_caught_up(name)
        return lambda killed_ms: self.newest_signal_ms() > killed_ms

    def _answers(self, name: str) -> bool:
        port, path = self.settings.dashboard.port, "/_stcore/health"
        if name == "api":
            port, path = port_of(self.settings.home, "api"), "/health"
        address = f"http://127.0.0.1:{port}{path}"
        with urllib.request.urlopen(address, timeout=2) as answer:
            return bool(answer.status == 200)

    def _views_move(self, killed_ms: float) -> bool:
        engine = views.open_views(views.path_of(self.settings.home))
        try:
            with Session(engine) as session:
                return any(row["bin_ms"] > killed_ms for row in questions.latest_markets(session))
        finally:
            engine.dispose()

    def _has_caught_up(self, name: str) -> bool:
        slots = slots_of(self.log, ["features" if name == "trade" else "order-intents"])
        committed = self.log.committed(name, slots)
        behind = sum(end - committed.get(slot, begin) for slot, (begin, end) in self.log.bounds(slots).items())
        return behind <= self.settings.feed.market_count * 3

    def close(self) -> None:
        """Stop everything."""
        self.log.close()
        supervisor.down(self.settings.home)


def verify_recovery(*, quick: bool = False) -> dict[str, object]:
    """Kill each process once; passes where all resume and nothing acknowledged is lost."""
    home = Path(tempfile.mkdtemp(prefix="observator-recovery-"))
    markets = 5 if quick else 20
    described: dict[str, Any] = {
        "home": home,
        "feed": {"kind": "synthetic", "market_count": markets, "warmup_seconds": 60},
        "dashboard": {"port": port_of(home, "page")},
    }
    if quick:
        described["processes"] = ["kafka", "sandbox", "feed", "streams", "predict"]
    settings = Settings.model_validate(described)
    figures: dict[str, float] = {}
    resumed = True
    try:
        run = _Run(settings)
        try:
            wait_until(lambda: run.newest_signal_ms() > time.time() * 1000 - 5_000, 240, "live signals", 0.5)
            for name in _QUICK if quick else run.names:
                seconds = _kill_and_wait(run, name)
                resumed = resumed and seconds < _TIMEOUT_S
                figures[f"{name}: seconds until it works again"] = round(seconds, 1)
                time.sleep(3)
            _stop_writing(run)
            found = audit(run.log, settings)
        finally:
            run.close()
    finally:
        shutil.rmtree(home, ignore_errors=True)
    left = len(supervisor.marked(home))
    figures |= found.figures("log") | {"processes left behind": left}
    passed = resumed and found.is_clean and not left
    return result_of("recovery", figures, {"quick": quick, "markets": markets, "runner": "faust"}, passed=passed)


def _kill_and_wait(run: _Run, name: str) -> float:
    """Seconds from the kill until the process works again; the time-out where it does not."""
    started = time.monotonic()
    old, killed_ms = run.kill(name), time.time() * 1000
    try:
        wait_until(lambda: run.has_new_pid(name, old), _TIMEOUT_S, f"{name} restarted", 0.2)
        wait_until(lambda: run.works(name, killed_ms), _TIMEOUT_S, f"{name} works", 0.2)
    except TimeoutError:
        return _TIMEOUT_S
    return time.monotonic() - started


def _stop_writing(run: _Run) -> None:
    """End the feed for good and let the stages finish what is there."""
    supervisor.stop(run.settings.home, "feed")
    started = time.monotonic()
    while time.monotonic() - started < 60:
        slots = {"features": ["orderbooks", "trades"], "predict": ["features"]}
        behind = 0
        for group, names in slots.items():
            found = slots_of(run.log, names)
            committed = run.log.committed(group, found)
            behind += sum(end - committed.get(slot, begin) for slot, (begin, end) in run.log.bounds(found).items())
        if not behind:
            return
        time.sleep(0.5)
