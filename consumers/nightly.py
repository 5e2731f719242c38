"""The process that looks back every night: yesterday's parity and the daily report, each in a process of its own.

Called by the supervisor through `run`, by `status` through `last`. It decides nothing and nothing waits for it; what it
found is told to people as a feed event and kept in `reports/nightly.json`, by which a restart knows what is done.
"""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from infra.catch_up import read_range
from infra.configuration import FILE_VARIABLE, save
from infra.errors import Retry
from infra.log import Log, Slot, publish_one
from infra.settings import Settings
from streams.messages import FeedEvent, encode

logger = logging.getLogger(__name__)

SOURCE = "nightly"
FAILED, CHECKED = "check-failed", "checked"
TASKS: dict[str, tuple[str, ...]] = {
    "parity": ("verify", "parity", "--json", "--day"),
    "report": ("report", "--json", "--day"),
}
"""What is run for a day, as verbs of the command line; each is tried a few times and does not wait for the other."""
_DAY_MS = 86_400_000
_KST_MS = 9 * 3_600_000
_LOOK_EVERY_S = 20.0
_TRIES = 3
_AGAIN_MS = 600_000
_DAYS_BACK = 3
"""As long as raw records stay in the log; a longer absence is not made up for."""
_KEPT_DAYS = 60
_NICE = 15
_GRACE_S = 5.0
_NOT_WRONG = frozenset({"equal", "not comparable", "no data"})
"""Verdicts that nobody must be woken for."""


class Outcome(NamedTuple):
    """What came of one task for one day; `text` is for people."""

    passed: bool
    text: str
    made_ms: int
    is_final: bool = True
    """Whether it is not to be tried again."""


class Nightly:
    """What is done and what is due. `commands` are the tasks, `program` what runs them."""

    def __init__(
        self,
        settings: Settings,
        log: Log,
        stop: threading.Event,
        *,
        commands: dict[str, tuple[str, ...]] | None = None,
        program: Sequence[str] = (sys.executable, "-P", "-m", "observator"),
    ) -> None:
        self._settings = settings
        self._log = log
        self._stop = stop
        self._commands = TASKS if commands is None else commands
        self._program = tuple(program)
        self._file = file_of(settings.home)
        self._days = read(settings.home)
        self._tries: dict[tuple[str, str], tuple[int, int]] = {}
        self._since_ms = recorded_since(log)

    def due(self, now_ms: int) -> list[tuple[str, str]]:
        """Days and tasks that are to be run now, oldest first: nights that were missed among them, each once."""
        hour, minute = map(int, self._settings.nightly.at.split(":"))
        local = datetime.fromtimestamp((now_ms + _KST_MS) / 1000, UTC)
        newest = 1 if (local.hour, local.minute) >= (hour, minute) else 2
        first = self._days and max(self._days)
        found = []
        for back in range(newest + _DAYS_BACK - 1 if first else newest, newest - 1, -1):
            day = (local.date() - timedelta(days=back)).isoformat()
            if (not first or day >= first) and begin_ms(day) + _DAY_MS > self._since_ms:
                found += [(day, task) for task in self._commands if self._is_due(day, task, now_ms)]
        return found

    def turn(self, now_ms: int) -> int:
        """Run what is due; returns how many tasks that were."""
        found = self.due(now_ms)
        for day, task in found:
            if self._stop.is_set():
                break
            outcome = self._run(day, task)
            tries, _ = self._tries.get((day, task), (0, 0))
            self._tries[day, task] = tries + 1, now_ms
            if outcome is None:
                break
            if outcome.is_final or tries + 1 >= _TRIES:
                self._tell(day, task, outcome)
        return len(found)

    def _is_due(self, day: str, task: str, now_ms: int) -> bool:
        if task in self._days.get(day, {}):
            return False
        tries, tried_ms = self._tries.get((day, task), (0, 0))
        return tries == 0 or now_ms - tried_ms >= _AGAIN_MS

    # --- one task -------------------------------------------------------------------------------------------------

    def _run(self, day: str, task: str) -> Outcome | None:
        """Run one command to its end, gently; None where this process is to stop meanwhile."""
        described = self._settings.home / "run" / "nightly-settings.json"
        described.parent.mkdir(parents=True, exist_ok=True)
        save(self._settings, described)
        logger.info("%s of %s begins", task, day)
        with subprocess.Popen(  # noqa: S603 - our own program and verbs
            [*self._program, *self._commands[task], day],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, FILE_VARIABLE: str(described), "OMP_NUM_THREADS": "1"},
        ) as child:
            while True:
                try:
                    out, err = child.communicate(timeout=0.5)
                except subprocess.TimeoutExpired:
                    if self._stop.is_set():
                        _end(child)
                        return None
                else:
                    return outcome_of(task, child.returncode, out, err, time.time_ns() // 1_000_000)

    def _tell(self, day: str, task: str, outcome: Outcome) -> None:
        """Say it, then keep it: a crash between both says it twice."""
        text = f"{task} of {day}: {outcome.text}"
        if outcome.passed:
            logger.info("%s", text)
        else:
            logger.error("%s", text)
        event = FeedEvent(
            exchange="",
            source=SOURCE,
            session=0,
            kind="checked" if outcome.passed else "check-failed",
            event_ms=outcome.made_ms,
            received_ns=outcome.made_ms * 1_000_000,
            text=text,
        )
        publish_one(self._log, "feed-events", "", encode(event))
        self._days.setdefault(day, {})[task] = outcome._asdict()
        for old in sorted(self._days)[:-_KEPT_DAYS]:
            del self._days[old]
        self._file.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(self._days, ensure_ascii=False, indent=1) + "\n")
        fresh.replace(self._file)


def outcome_of(task: str, code: int, out: str, err: str, made_ms: int) -> Outcome:
    """Read what a command said: one object on stdout; without one it could not do its work, and is tried again."""
    try:
        found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    except (json.JSONDecodeError, IndexError):
        last = (err.strip().splitlines() or [f"it ended with {code}"])[-1]
        return Outcome(passed=False, text=f"could not be done: {last}", made_ms=made_ms, is_final=False)
    verdict = str(found.get("conditions", {}).get("verdict", ""))
    passed = code == 0 or verdict in _NOT_WRONG
    if task == "report":
        passed = code == 0 and found.get("verdict") != "no" and not found.get("clock")
    return Outcome(passed=passed, text=_words(task, found, verdict, code), made_ms=made_ms)


def _words(task: str, found: dict[str, Any], verdict: str, code: int) -> str:
    if task == "report" and "verdict" in found:
        clocks = "".join(f"; a clock is wrong from {row['first']} on" for row in found.get("clock", []))
        return f"live equals replay: {found.get('verdict')} {found.get('reason', '')}".strip() + clocks
    if task != "parity":
        return "made" if code == 0 else "NOT made"
    figures: dict[str, float] = found.get("figures", {})
    compared = sum(int(value) for name, value in figures.items() if name.endswith(": compared"))
    left_out = sum(int(value) for name, value in figures.items() if name.endswith(": not covered"))
    text = f"{verdict}, {compared:,} records compared" + (f", {left_out:,} not covered" if left_out else "")
    for first in found.get("differences", [])[:1]:
        place = first.get("place") or {}
        where = f" at {place['topic']}/{place['partition']}/{place['offset']}" if place else ""
        text += f"; the first one, in {first['topic']}, {first['kind']}{where}"
    for reason in found.get("not_comparable", [])[:1]:
        text += f"; {reason['records']:,} records of {reason['topic']} not comparable: {reason['reason']}"
    for problem in found.get("problems", [])[:1]:
        text += f"; {problem}"
    return text


def _end(child: "subprocess.Popen[str]") -> None:
    child.terminate()
    try:
        child.communicate(timeout=_GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()


def begin_ms(day: str) -> int:
    """Midnight in Korea."""
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000) - _KST_MS


def recorded_since(log: Log) -> int:
    """When the log's first manifest was written: before that there is nothing to look back at. 0 where it has none."""
    slot = Slot("manifests", 0)
    first, end = log.bounds([slot])[slot]
    record = next(read_range(log, {slot: first}), None) if first < end else None
    return 0 if record is None else record.append_ms


# --- what is kept -------------------------------------------------------------------------------------------------


def file_of(home: Path) -> Path:
    """Where the outcomes stand."""
    return home / "reports" / "nightly.json"


def read(home: Path) -> dict[str, dict[str, Any]]:
    """Outcomes by day and task; empty where there are none, or where the file was damaged."""
    try:
        found: dict[str, dict[str, Any]] = json.loads(file_of(home).read_text())
    except FileNotFoundError:
        return {}
    except (OSError, json.JSONDecodeError) as error:
        logger.warning("%s cannot be read, and is begun anew: %s", file_of(home), error)
        return {}
    return found


def last(home: Path) -> list[dict[str, Any]]:
    """The newest day's outcomes, for `status`."""
    days = read(home)
    if not days:
        return []
    day = max(days)
    return [{"day": day, "task": task, **outcome} for task, outcome in days[day].items()]


def run(settings: Settings, log: Log, stop: threading.Event) -> None:
    """Look every few seconds whether a night's work is due, until `stop` is set."""
    os.nice(_NICE)  # what it starts inherits this: everything else goes first
    nightly: Nightly | None = None
    while not stop.is_set():
        try:
            nightly = nightly or Nightly(settings, log, stop)
            nightly.turn(time.time_ns() // 1_000_000)
        except Retry as error:
            logger.warning("the log does not answer, what was found is told later: %s", error)
        stop.wait(_LOOK_EVERY_S)
