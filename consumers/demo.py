"""One run from an empty folder to a summary: starts everything through the supervisor, watches the log, stops it again.

Called by `observator demo`. It reads topics (and has them created), and halts the account at the end of a run whose
time was given; what the records mean for the view is folded by `consumers.watch` and put into words by
`consumers.demo_view`.
"""

import contextlib
import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from consumers import demo_view
from consumers.watch import READ, Watch
from infra import logfiles, supervisor
from infra.errors import AlreadyRunning, ObservatorError, Retry, Stop
from infra.log import Log, Reader, TopicSpec, publish_one, slots_of
from infra.procfile import PROCFILE
from infra.servers.kafka import wait_ready
from infra.settings import Settings
from infra.supervisor import ProcessState
from infra.terminal import Phases, Screen
from streams.messages import Halt, encode
from streams.topics import TOPICS

MADE_HERE = ".made-by-observator-demo"
STOP_WITHIN_S = 9.0
_KEEPS_DYING = 4
"""Starts of one process after the first from which on we call it dying."""
_GIVES_UP = 2
"""Exit code with which a process asks not to be started again."""
_DRAIN_QUIET_S = 4.0
_SELL_WITHIN_S = 10.0
BY = "the demo"
"""Who halts at the end of a run; no login name, by which people halt, has a space."""


class DemoFailed(Stop):
    """The run cannot go on; the message says why, and shows the end of the log of the process concerned."""


@dataclass(slots=True)
class Patience:
    """How long each phase of the start may go without any progress, in seconds."""

    kafka: float = 180
    feed: float = 120
    progress: float = 120
    drain: float = 60


@dataclass(slots=True)
class Demo:
    """One run.

    `bootstrap` names the broker and `open_log` opens the log of `settings`; `seconds` is the live time (None: until
    stopped).
    """

    settings: Settings
    bootstrap: Callable[[], str]
    open_log: Callable[[], Log]
    screen: Screen
    seconds: float | None = None
    declared: Path = PROCFILE
    stop: threading.Event = field(default_factory=threading.Event)
    patience: Patience = field(default_factory=Patience)
    watch: Watch = field(init=False)
    processes: list[ProcessState] = field(default_factory=list)
    phases_s: dict[str, float] = field(default_factory=dict)
    sold_at_end: int = 0
    """Positions that were still open when the time was over and that the end sold."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _reading: threading.Thread | None = None
    _read_error: BaseException | None = None
    _stop_reading: threading.Event = field(default_factory=threading.Event)
    _begun_ms: int = 0
    _ended_ms: int = 0
    _is_ours: bool = False
    _looked_at: float = 0.0

    def __post_init__(self) -> None:
        """Build the fold."""
        paper, grid = self.settings.paper, self.settings.grid
        self.watch = Watch(
            live_from="warm" if self.settings.feed.kind == "synthetic" else "connected",
            lateness_ms=grid.lateness_ms,
            speed=self.settings.feed.speed,
            least_needed_bp=100 * (2 * float(paper.fee_percent) + float(paper.threshold_percent)),
        )

    @property
    def home(self) -> Path:
        """The run folder."""
        return self.settings.home

    def run(self) -> tuple[dict[str, Any], str]:
        """Start, watch, stop; returns the summary and why it failed (empty where it did not).

        Whatever happens, every process that was started is gone when it returns.
        """
        self._begun_ms = time.time_ns() // 1_000_000
        problem = ""
        try:
            with self.screen.phases() as phases:
                self._start(phases)
            if not self.stop.is_set():
                self._live()
                self._ended_ms = time.time_ns() // 1_000_000
            if self.seconds is not None and not self.stop.is_set() and self.watch.ended_ms is None:
                self._sell_all()
            problem = self._what_is_missing()
        except ObservatorError as error:
            problem = str(error)
        finally:
            self._ended_ms = self._ended_ms or time.time_ns() // 1_000_000
            if self._is_ours:
                self.screen.say("Stopping every process ...")
                self._end()
        left = len(supervisor.marked(self.home))
        if left and not problem:
            problem = f"{left} processes did not end; `observator --home {self.home} down` ends them."
        return self._summary(problem), problem

    def _start(self, phases: Phases) -> None:
        with self._phase(phases, "Starting the processes"):
            self._up()
        with self._phase(phases, "Waiting for Kafka"):
            self._until(self._kafka_answers, self.patience.kafka, "Kafka did not answer", "kafka")
        if self.stop.is_set():
            return
        with self._phase(phases, "Creating the topics"):
            self._until(self._has_topics, self.patience.kafka, "Kafka did not take the topics", "kafka")
        self._reading = threading.Thread(target=self._read, name="watch", daemon=True)
        self._reading.start()
        with self._phase(phases, "Waiting for market data"):
            self._until(self._has_data, self.patience.feed, "No market data came", "feed")
        if self.settings.feed.kind == "synthetic":
            with self._phase(phases, "Warming up"):
                self._until_progress(lambda: self.watch.live_append_ms is not None, phases, self._warmed_so_far)
            with self._phase(phases, "Waiting for a live signal of every market"):
                self._until_progress(lambda: self._live_since_ms() is not None, phases, self._counts_so_far)

    def _has_topics(self) -> bool:
        try:
            with self.open_log() as log:
                log.create_topics([TopicSpec(one.name, one.partitions, one.config) for one in TOPICS.values()])
        except Retry:
            return False
        return True

    def _up(self) -> None:
        self._is_ours = True  # from here on there may be processes to stop
        try:
            supervisor.up(self.settings, self.home, declared=self.declared)
        except AlreadyRunning:
            self._is_ours = False
            raise

    @contextlib.contextmanager
    def _phase(self, phases: Phases, text: str) -> Iterator[None]:
        if self.stop.is_set():
            yield
            return
        begun = time.monotonic()
        phases.begin(text)
        yield
        self.phases_s[text.lower()] = round(time.monotonic() - begun, 1)
        if not self.stop.is_set():
            phases.finish()

    def _live(self) -> None:
        facts = demo_view.Facts(self.settings, self.seconds)
        with self.screen.live():
            while not self.stop.is_set() and not self._is_over():
                self._check()
                with self._lock:
                    title, sections, line = demo_view.live(self.watch, self.processes, facts, self._live_s())
                self.screen.update(title, sections, line)
                self.stop.wait(0.25)

    def _sell_all(self) -> None:
        """Close what is open when the time is over, so that the summary tells money that came in, not prices.

        The kill switch does it, as it would for a person; it is lifted again for a run that goes on with this folder.
        A halt that a person has set, before or meanwhile, stays as it is.
        """
        if self._is_halted_by_a_person() or not self._open_positions():
            return
        self.screen.say("Selling what is still held ...")
        self.sold_at_end = self._open_positions()
        try:
            self._tell("sell-all")
            ends_s = time.monotonic() + _SELL_WITHIN_S
            while self._open_positions() and time.monotonic() < ends_s and not self.stop.is_set():
                self.stop.wait(0.1)
        finally:
            if not self._is_halted_by_a_person():
                self._tell("lifted")
        self.sold_at_end -= self._open_positions()

    def _is_halted_by_a_person(self) -> bool:
        with self._lock:
            return any(halt.by != BY for halt in self.watch.halts_on(self.settings.paper.account))

    def _open_positions(self) -> int:
        with self._lock:
            return sum(1 for position in self.watch.orders.positions.values() if position.quantity)

    def _tell(self, kind: Literal["sell-all", "lifted"]) -> None:
        account = self.settings.paper.account
        halt = Halt(account=account, kind=kind, event_ms=self.watch.fed_ms, by=BY)
        with self.open_log() as log:
            publish_one(log, "controls", account, encode(halt))

    def _is_over(self) -> bool:
        if self.seconds is not None and self._live_s() >= self.seconds:
            return True
        return self.watch.ended_ms is not None and self._has_drained()

    def _has_drained(self) -> bool:
        """Whether the stages are through with a feed that ended: nothing new came for a while."""
        now_ms = time.time_ns() // 1_000_000
        quiet_s = (now_ms - max(self.watch.newest_derived_ms, self.watch.ended_ms or 0)) / 1000
        return quiet_s > _DRAIN_QUIET_S if self._is_through() else quiet_s > self.patience.drain

    def _is_through(self) -> bool:
        return self.watch.featured_ms >= self.watch.fed_ms > 0

    def _live_since_ms(self) -> int | None:
        """Live time counts from when all markets are live where there is a warm-up, else from the feed's connection."""
        if self.settings.feed.kind == "synthetic":
            return self.watch.all_live_append_ms
        return self.watch.live_append_ms

    def _live_s(self) -> float:
        since = self._live_since_ms()
        end_ms = self._ended_ms or time.time_ns() // 1_000_000
        return max(0, end_ms - since) / 1000 if since is not None else 0.0

    def _kafka_answers(self) -> bool:
        try:
            wait_ready(self.bootstrap(), 0.5)
        except Retry:
            return False
        return True

    def _has_data(self) -> bool:
        return self.watch.counts["orderbooks"] + self.watch.counts["trades"] > 0

    def _last_event(self) -> str:
        """What the feed said last, for a run that does not begin."""
        with self._lock:
            return f" The feed said: {self.watch.events[-1].text}." if self.watch.events else ""

    def _warmed_so_far(self) -> tuple[float, float, str]:
        watch, wanted = self.watch, float(self.settings.feed.warmup_seconds)
        done = min(wanted, max(0.0, (watch.fed_ms - watch.first_fed_ms) / 1000))
        return done, wanted, f"{done:.0f} of {wanted:.0f} s of market, {watch.counts['features']:,} feature rows"

    def _counts_so_far(self) -> tuple[float, float, str]:
        counts = self.watch.counts
        return 0, 0, f"{counts['orderbooks']:,} order books, {counts['features']:,} feature rows"

    def _until(self, is_done: Callable[[], bool], limit_s: float, problem: str, process: str) -> None:
        end = time.monotonic() + limit_s
        while not self.stop.is_set() and not is_done():
            self._check()
            if time.monotonic() > end:
                raise DemoFailed(f"{problem} within {limit_s:.0f} s.{self._last_event()}{self._end_of_log(process)}")
            self.stop.wait(0.1)

    def _until_progress(
        self, is_done: Callable[[], bool], phases: Phases, so_far: Callable[[], tuple[float, float, str]]
    ) -> None:
        seen, moved_at = -1, time.monotonic()
        while not self.stop.is_set() and not is_done():
            self._check()
            phases.progress(*so_far())
            now = self._how_far()
            if now != seen:
                seen, moved_at = now, time.monotonic()
            if time.monotonic() - moved_at > self.patience.progress:
                raise DemoFailed(
                    f"Nothing came out of the stages for {self.patience.progress:.0f} s ({so_far()[2]})."
                    f"{self._why_no_signal()}{self._end_of_log('streams')}{self._end_of_log('predict')}"
                )
            self.stop.wait(0.2)

    def _how_far(self) -> int:
        """Grows while the start gets on: order books until the warm-up is over, then features until they are live."""
        if self.watch.live_append_ms is None:
            return self.watch.counts["orderbooks"]
        return min(self.watch.featured_ms, self.watch.warm_event_ms or 0) + self.watch.counts["signals"]

    def _why_no_signal(self) -> str:
        reasons = ", ".join(f"{why}: {n:,}" for why, n in self.watch.refused_windows.items())
        return f" The model refused: {reasons}." if reasons else ""

    def _check(self) -> None:
        """Look after the processes every second; raises `DemoFailed` where one keeps dying or our reader ended."""
        if self._read_error is not None:
            raise DemoFailed(f"The log cannot be read any more: {self._read_error}")
        if time.monotonic() - self._looked_at < 1:
            return
        self._looked_at = time.monotonic()
        self.processes = supervisor.status(self.home)
        if not self.processes:
            raise DemoFailed("The supervisor has ended.")
        for one in self.processes:
            if (
                one.state == "fatal"
                or one.restarts >= _KEEPS_DYING
                or (one.state == "exited" and one.exit_code == _GIVES_UP)
            ):
                raise DemoFailed(f"The process `{one.name}` keeps dying ({one.note}).{self._end_of_log(one.name)}")

    def _end_of_log(self, process: str) -> str:
        lines = logfiles.last_lines(self.home, process)
        return "".join(f"\n  {process} | {logfiles.readable(line)}" for line in lines)

    def _read(self) -> None:
        try:
            with self.open_log() as log:
                starts = {slot: begin for slot, (begin, _) in log.bounds(slots_of(log, READ)).items()}
                reader = log.reader(starts)
                self._read_on(reader)
        except Exception as error:  # noqa: BLE001 - the outermost loop of this thread: `_check` tells it
            self._read_error = error

    def _read_on(self, reader: Reader) -> None:
        while not self._stop_reading.is_set():
            try:
                records = reader.read(2_000, 0.2)
            except Retry:  # the broker is away and comes back
                self._stop_reading.wait(0.5)
                continue
            with self._lock:
                for record in records:
                    self.watch.apply(record)

    def _end(self) -> None:
        self._stop_reading.set()
        if self._reading is not None:
            self._reading.join(2)
        supervisor.down(self.home, STOP_WITHIN_S)

    def _what_is_missing(self) -> str:
        """Why a run that went to its end shows too little; empty where it shows enough."""
        is_cut_short = self.stop.is_set() and self.watch.first_signal_append_ms is None
        if is_cut_short:
            return "It was stopped before the first live signal came."
        if self.watch.first_signal_append_ms is None:
            return f"No signal came.{self._why_no_signal()}{self._end_of_log('predict')}"
        return ""

    def _summary(self, problem: str) -> dict[str, Any]:
        with self._lock:
            told = self.watch.summary()
        first, feed = self.watch.first_signal_append_ms, self.settings.feed
        return {
            "passed": not problem,
            "problem": problem,
            "feed": feed.kind,
            "is_synthetic": feed.kind == "synthetic",
            "recording": feed.played or None,
            "seconds_to_first_live_signal": round((first - self._begun_ms) / 1000, 1) if first else None,
            "live_seconds": round(self._live_s(), 1),
            "sold_at_the_end": self.sold_at_end,
            "is_feed_over": self.watch.ended_ms is not None,
            "reached_the_feeds_end": self._is_through(),
            "phases_s": self.phases_s,
            **told,
            "processes": {one.name: {"memory_mb": one.memory_mb, "restarts": one.restarts} for one in self.processes},
            "processes_left": len(supervisor.marked(self.home)),
        }


def prepare_home(home: Path, *, keep: bool = False) -> None:
    """Make the demo's own folder, empty unless `keep`; raises `Stop` for a folder that it did not make."""
    if supervisor.is_running(home):
        raise AlreadyRunning(
            f"A demo runs already on {home}: `observator --home {home} down` ends it; "
            "a second one needs its own folder."
        )
    if home.exists() and not home.is_dir():
        raise Stop(f"{home} is no folder.")
    if home.is_dir() and any(home.iterdir()):
        if not (home / MADE_HERE).is_file():
            raise Stop(f"The folder {home} was not made by the demo and is left alone; choose another one with --home.")
        supervisor.end_orphans(home)
        if not keep:
            shutil.rmtree(home)
    home.mkdir(parents=True, exist_ok=True)
    (home / MADE_HERE).touch()


def write_summary(home: Path, summary: Mapping[str, Any]) -> Path:
    """Write `summary.json` into the run folder."""
    file = home / "summary.json"
    file.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    return file


@contextlib.contextmanager
def stopping_on(signals: Sequence[signal.Signals], stop: threading.Event) -> Iterator[None]:
    """Let these signals set `stop` and do nothing else."""
    before = {one: signal.signal(one, lambda *_: stop.set()) for one in signals}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
