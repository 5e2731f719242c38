"""The `execute` process: the only one that holds exchange keys, and the only one that sends orders.

`run` is called by `observator process execute`. It puts the parts together: lock, reconciliation, outbox, then the
subscription, two lanes of work, and the threads that tell. It never trades before journal and exchange agree.
"""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import TypeVar

from consumers.execute.attempts import is_exit
from consumers.execute.clock import MarketClock
from consumers.execute.controls import Controls
from consumers.execute.crash import Reach, reach_nothing
from consumers.execute.desk import Desk, Parts, Task
from consumers.execute.gateway import UpbitGateway
from consumers.execute.guard import refuse_real_exchange, remove_exchange_variables
from consumers.execute.intake import Intake
from consumers.execute.journal import Journal
from consumers.execute.lanes import Lane
from consumers.execute.limits import RiskGate
from consumers.execute.options import Options, manifest_of, options_of
from consumers.execute.reconcile import reconcile
from consumers.execute.relay import publish_outbox, relay, tell_balances
from consumers.execute.venue import Venue
from consumers.execute.wakeup import listen
from infra.errors import Retry
from infra.log import Log
from infra.settings import Settings
from infra.upbit.pace import Pace
from infra.watchdog import Watchdog
from streams.messages import RunManifest, encode

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

URGENT_WORKERS = 3
PATIENCE_S = 1.0
CLOSE_S = 5.0
POLL_S = 0.1


class Executor:
    """The parts of a running executor. Holding the journal's lock is what makes it the only one."""

    def __init__(
        self,
        options: Options,
        journal: Journal,
        log: Log,
        reach: Reach,
        stop: Event,
        manifest: RunManifest | None = None,
    ) -> None:
        self._manifest = manifest
        self._options = options
        self._journal = journal
        self._log = log
        self._reach = reach
        self._stop = stop
        self._fills = Event()
        self._failures: list[BaseException] = []
        self._doubted_s: dict[str, float] = {}
        now_s = time.monotonic
        self._clock = MarketClock(now_s, _wall_ms, options.speed)
        if (newest := journal.newest_intent()) is not None:
            self._clock.observe(newest.intent.event_ms, newest.append_ms)
        self._gate = RiskGate(options.limits, now_s)
        self._pace = Pace()
        self._urgent_gateway = self._gateway(is_urgent=True)
        self._ordinary_gateway = self._gateway(is_urgent=False)
        self._desk = self._desk_on(self._ordinary_gateway)
        sweep_s = options.rules.sweep_every_s
        on_urgent = _runner(self._desk_on(self._urgent_gateway), sweep_s)
        self._urgent = Lane("exits and cancels", on_urgent, self.route, now_s, URGENT_WORKERS)
        self._ordinary = Lane("entries", _runner(self._desk, sweep_s), self.route, now_s)

    def _gateway(self, *, is_urgent: bool) -> UpbitGateway:
        """A way to the exchange; both keep to one pace, the urgent one may use its reserve."""
        options, reach = self._options, self._reach
        return UpbitGateway(
            options.address,
            options.access_key,
            options.secret_key,
            timeout_s=options.timeout_s,
            on_sent=None if reach is reach_nothing else lambda: reach("after_send"),
            pace=self._pace,
            is_urgent=is_urgent,
        )

    def _desk_on(self, venue: Venue) -> Desk:
        return Desk(
            Parts(
                journal=self._journal,
                venue=venue,
                gate=self._gate,
                clock=self._clock,
                now_s=time.monotonic,
                rules=self._options.rules,
                instance=self._options.instance,
                pocket=self._options.pocket,
                reach=self._reach,
                on_fill=self._fills.set,
                doubted_s=self._doubted_s,
            )
        )

    def route(self, task: Task) -> None:
        """Put a task into its lane: exits and cancels never wait behind entries."""
        intent_id = task.id
        if task.kind in {"resolve", "follow"}:
            attempt = self._journal.attempt(task.id)
            intent_id = attempt.intent_id if attempt else ""
        row = self._journal.intent(intent_id) if task.kind not in {"cancel", "sweep"} else None
        is_urgent = task.kind == "cancel" or (row is not None and is_exit(row.purpose))
        (self._urgent if is_urgent else self._ordinary).put(task)

    def wake(self, identifier: str) -> None:
        """The exchange says that an order changed: look at it now."""
        if self._journal.attempt(identifier) is not None:
            self.route(Task("follow", identifier))

    def run(self) -> None:
        """Reconcile, publish, subscribe, work; returns when `stop` is set, raises what ends the process."""
        rules, wait = self._options.rules, self._stop.wait
        tasks = reconcile(self._desk, self._journal, self._ordinary_gateway, rules, wait, _wall_ms())
        if tasks is None or not self._publish_rest():
            return
        self._reach("after_reconcile")
        logger.info("journal and exchange agree, %d tasks go on", len(tasks))
        controls = self._patiently(lambda: Controls(self._log, self._journal, self._gate, _wall_ms))
        intake = self._patiently(lambda: Intake(self._log, self._journal, self._clock, self.route, self._reach))
        if controls is None or intake is None:
            return
        while controls.is_behind() and not self._stop.is_set():
            self._patiently(lambda: controls.step(0.1))
        for task in [*tasks, Task("sweep", "")]:
            self.route(task)
        self._fills.set()
        self._work(intake, controls)

    def _work(self, intake: Intake, controls: Controls) -> None:
        """Run everything until `stop` or a failure, then end it in order."""
        threads = self._tellers()
        self._urgent.start()
        self._ordinary.start()
        for thread in threads:
            thread.start()
        try:
            self._loop(intake, controls)
        finally:
            self._stop.set()
            self._journal.told.set()
            is_done = all([self._urgent.close(CLOSE_S), self._ordinary.close(CLOSE_S)])  # both, whatever the first says
            for thread in threads:
                thread.join(CLOSE_S)
            if is_done:
                self._commit_last(intake)
            intake.close()
            controls.close()

    def close(self) -> None:
        """Close the connections to the exchange."""
        self._urgent_gateway.close()
        self._ordinary_gateway.close()

    def _loop(self, intake: Intake, controls: Controls) -> None:
        watchdog = Watchdog(intake.behind)
        if self._options.is_watched:
            watchdog.start()
        try:
            self._turn(intake, controls, watchdog)
        finally:
            watchdog.stop()

    def _turn(self, intake: Intake, controls: Controls, watchdog: Watchdog) -> None:
        has_trouble = False
        while not self._stop.is_set():
            for failure in (self._urgent.failure, self._ordinary.failure, *self._failures):
                if failure is not None:
                    raise failure
            try:
                has_news = intake.step(POLL_S) + controls.step() > 0
                (watchdog.progress if has_news else watchdog.beat)()
                if has_trouble:
                    logger.info("the log answers again")
                has_trouble = False
            except Retry as error:
                if not has_trouble:
                    logger.warning("decisions are waited for: %s", error)
                has_trouble = True
                self._stop.wait(PATIENCE_S)

    def _commit_last(self, intake: Intake) -> None:
        try:
            intake.commit()
        except Retry as error:
            logger.warning("offsets were not committed, the records come again: %s", error)

    def _publish_rest(self) -> bool:
        """Publish the manifest and what an earlier life left in the outbox; waits for the log.

        False when the process is to end.
        """

        def publish() -> bool:
            publisher = self._log.publisher(linger_ms=0)
            try:
                if self._manifest is not None:
                    publisher.publish("manifests", self._manifest.process, encode(self._manifest))
                    publisher.flush()
                publish_outbox(self._journal, publisher, _wall_ms)
            finally:
                publisher.close()
            return True

        return bool(self._patiently(publish))

    def _patiently(self, call: Callable[[], _T]) -> _T | None:
        """Call until the log answers; None when the process is to end before."""
        has_trouble = False
        while not self._stop.is_set():
            try:
                return call()
            except Retry as error:
                if not has_trouble:
                    logger.warning("not trading until the log answers: %s", error)
                has_trouble = True
                self._stop.wait(PATIENCE_S)
        return None

    def _tellers(self) -> list[Thread]:
        """The threads that publish and listen."""
        options, stop, fills = self._options, self._stop, self._fills
        calls: dict[str, Callable[[], None]] = {
            "relay": lambda: relay(self._journal, self._log, stop, _wall_ms),
            "balances": lambda: tell_balances(
                self._ordinary_gateway, self._log, options.pocket, fills, stop, self._clock.now_ms
            ),
        }
        if options.has_websocket:
            address = f"ws{options.address.removeprefix('http')}/websocket/v1/private"
            calls["wakeup"] = lambda: listen(address, options.access_key, options.secret_key, self.wake, stop)
        return [Thread(target=self._guarded, args=(call,), name=name, daemon=True) for name, call in calls.items()]

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - the outermost loop of a thread: the process ends by it
            self._failures.append(error)


def _runner(desk: Desk, sweep_every_s: float) -> Callable[[Task], list[Task]]:
    """A task's step, by its kind; the sweep plans its next round."""
    steps: dict[str, Callable[[str], list[Task]]] = {
        "send": desk.send,
        "resolve": desk.resolve,
        "follow": desk.follow,
        "cancel": desk.cancel,
        "sweep": lambda _: [*desk.sweep(), Task("sweep", "", sweep_every_s)],
    }
    return lambda task: steps[task.kind](task.id)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def run_executor(
    options: Options,
    log: Log,
    stop: Event,
    reach: Reach = reach_nothing,
    manifest: RunManifest | None = None,
) -> None:
    """Run until `stop`; raises `AlreadyRunning` beside another executor, `JournalFailed` when the disk fails."""
    journal = Journal(options.journal_path)
    try:
        executor = Executor(options, journal, log, reach, stop, manifest)
        try:
            executor.run()
        finally:
            executor.close()
    finally:
        journal.close()


def run(settings: Settings, log: Log, stop: Event) -> None:
    """The process entry: guards first, then the key, then `run_executor`."""
    refuse_real_exchange()
    remove_exchange_variables(os.environ)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it writes a line per request
    key = _wait_for_key(settings.home / "run" / "secrets" / settings.paper.pocket, stop)
    if key is not None:
        run_executor(options_of(settings, key), log, stop, manifest=manifest_of(settings))


def _wait_for_key(path: Path, stop: Event, pause_s: float = PATIENCE_S) -> str | None:
    """The key, once it is in its file (which is there a moment before that); None when the process is to end first."""
    is_told = False
    while not (key := path.read_text().strip() if path.exists() else ""):
        if not is_told:
            logger.warning("not trading until the sandbox exchange has written the key %s", path.name)
            is_told = True
        if stop.wait(pause_s):
            return None
    return key
