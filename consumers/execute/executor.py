"""The `execute` process: the only one that holds exchange keys, and the only one that sends orders.

`run` is called by `observator process execute`. It puts the parts together: journal, halts, outbox, the subscription,
the lanes of work, and the threads that tell. Nothing new is sent for a pocket before journal and exchange agree on it.
"""

import logging
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from threading import Event, Thread
from typing import TYPE_CHECKING, TypeVar

from consumers.execute.account_book import AccountBook
from consumers.execute.clock import MarketClock
from consumers.execute.controls import Controls
from consumers.execute.crash import Reach, reach_nothing
from consumers.execute.dispatch import Dispatch
from consumers.execute.guard import refuse_real_exchange, refuse_replay, remove_exchange_variables
from consumers.execute.halts import HaltGate
from consumers.execute.halts_keeper import HaltKeeper
from consumers.execute.halts_settle import HaltSettler
from consumers.execute.intake import Intake
from consumers.execute.journal import Journal, JournalFailed
from consumers.execute.keys_check import Asking
from consumers.execute.keys_keeper import KeyKeeper
from consumers.execute.keys_live import LiveGate
from consumers.execute.keys_reader import KeyReader, keep_keys
from consumers.execute.limits import RiskGate
from consumers.execute.options import Options, address_of, manifest_of, options_of
from consumers.execute.relay import BalanceTeller, publish_outbox, relay
from consumers.execute.requests.clock import RequestClock
from consumers.execute.requests.quotation import Quotation
from consumers.execute.requests.runner import Parts as RequestParts
from consumers.execute.requests.runner import serve
from consumers.execute.wakeup import Wakeups
from infra.errors import AlreadyRunning, Retry, Stop, TopicMissing
from infra.log import Log
from infra.secrets import DECLARED, Secret, remove_secrets
from infra.secrets_box import keep_pair
from infra.secrets_process import become, shut_off
from infra.settings import Settings
from infra.watchdog import Watchdog
from streams.messages import RunManifest, encode
from streams.process import ask_log, lines_into_the_log

if TYPE_CHECKING:
    from infra.kafka import KafkaLog

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

PATIENCE_S = 1.0
CLOSE_S = 5.0
POLL_S = 0.1
BEFORE_THE_LOG = frozenset({"lease", "settler", "wakeup"})
"""What needs no log, and runs while it is waited for."""


class Executor:
    """The parts of a running executor. Holding the journal's lock or lease is what makes it the only one."""

    def __init__(
        self,
        options: Options,
        journal: Journal,
        log: Log,
        reach: Reach,
        stop: Event,
        halts: HaltKeeper,
        gate: HaltGate,
        manifest: RunManifest | None = None,
        join: Callable[[], bool] = lambda: True,
    ) -> None:
        """`join` is called until it says True, before anything else is asked of the log."""
        self._manifest = manifest
        self._join = join
        self._options = options
        self._journal = journal
        self._log = log
        self._reach = reach
        self._stop = stop
        self._halts = halts
        self._failures: list[BaseException] = []
        self._swept_s = 0.0
        now_s = time.monotonic
        self._clock = MarketClock(now_s, _wall_ms, options.speed)
        if (newest := journal.newest_intent()) is not None:
            self._clock.observe(newest.intent.event_ms, newest.append_ms)
        self._gate = RiskGate(options.limits, now_s, AccountBook(journal, _wall_ms))
        self._balances = BalanceTeller(log, stop)
        self._keys = KeyKeeper(options.home, journal, options.keys, self._asking, _wall_ms)
        self._live = LiveGate(
            options.home, self._keys.book.store, self._keys.is_checked, is_allowed=options.is_live_allowed
        )
        address = f"ws{options.address.removeprefix('http')}/websocket/v1/private"
        self._wakeups = Wakeups(address, self._keys, self.wake, stop) if options.has_websocket else None
        self._dispatch = Dispatch(
            options,
            self._keys,
            journal,
            self._clock,
            self._gate,
            gate,
            reach,
            self._balances.put,
            self._wakeups.want if self._wakeups is not None else lambda _: None,
            self._live.refusal,
        )
        halts.attach(journal)
        self._settler = HaltSettler(journal, gate, halts, self._clock, self._dispatch.route, now_s)

    def _asking(self, pocket: str, access_key: str, secret_key: Secret) -> Asking:
        """A key's questions to the exchange, within the pocket's rate budget."""
        return Asking(self._options.address, access_key, secret_key, self._dispatch.pockets.pace_of(pocket))

    def wake(self, identifier: str) -> None:
        """The exchange says that an order changed."""
        self._dispatch.wake(identifier)

    def ask_again(self) -> None:
        """A halt came: whoever waits for a rate budget asks whether it may still send."""
        self._dispatch.pockets.wake()

    def run(self) -> None:
        """Work; returns when `stop` is set, raises what ends the process.

        What closes something (a halt's cancels and sales, exits, doubts) needs the exchange only and begins at once;
        nothing is opened before the log has what an earlier life left and has told what it knows.
        """
        calls = self._tellers()
        threads = self._start({name: calls.pop(name) for name in BEFORE_THE_LOG & calls.keys()})
        self._dispatch.begin()
        try:
            if self._patiently(self._join) and self._publish_rest():
                threads += self._start(calls)
                self._work()
        finally:
            self._end(threads)

    def _work(self) -> None:
        """Subscribe and take orders until `stop` or a failure, then end it in order."""
        route, reach = self._dispatch.route, self._reach
        controls = self._patiently(self._controls)
        intake = self._patiently(lambda: Intake(self._log, self._journal, self._clock, route, reach))
        if controls is None or intake is None:
            return
        try:
            while controls.is_behind() and not self._stop.is_set():
                self._patiently(lambda: controls.step(0.1))
            self._dispatch.open()
            self._loop(intake, controls)
            self._stop.set()
            if self._dispatch.end(CLOSE_S):
                self._commit_last(intake)
        finally:
            intake.close()
            controls.close()

    def _controls(self) -> Controls:
        return Controls(self._log, self._journal, self._gate, _wall_ms, self._halts, self._live.learn)

    def _end(self, threads: list[Thread]) -> None:
        self._stop.set()
        self._journal.told.set()
        self._halts.changed.set()
        self._dispatch.end(CLOSE_S)
        for thread in threads:
            thread.join(CLOSE_S)

    def close(self) -> None:
        """Close the connections to the exchange."""
        self._dispatch.close()

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
            self._raise_failures()
            self._sweep()
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

    def _raise_failures(self) -> None:
        """Raise what a lane or a thread of ours ended by."""
        for failure in (self._halts.failure, self._dispatch.failure, *self._failures):
            if failure is not None:
                raise failure

    def _sweep(self) -> None:
        if time.monotonic() - self._swept_s >= self._options.rules.sweep_every_s:
            self._swept_s = time.monotonic()
            self._dispatch.sweep()

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
            self._raise_failures()
            try:
                return call()
            except (Retry, TopicMissing) as error:
                if not has_trouble:
                    logger.warning("not trading until the log answers: %s", error)
                has_trouble = True
                self._stop.wait(PATIENCE_S)
        return None

    def _tellers(self) -> dict[str, Callable[[], None]]:
        """What runs beside the lanes: what publishes, what listens, and what keeps watch."""
        stop = self._stop
        calls: dict[str, Callable[[], None]] = {
            "relay": lambda: relay(self._journal, self._log, stop, _wall_ms),
            "balances": self._balances.run,
            "lease": self._keep_lease,
            "settler": lambda: self._settler.run(stop),
            "keys": lambda: keep_keys(
                KeyReader(self._options.home, self._log, self._journal, self._keys, _wall_ms), stop
            ),
            "requests": self._take_requests,
        }
        if self._wakeups is not None:
            calls["wakeup"] = self._wakeups.run
        return calls

    def _start(self, calls: dict[str, Callable[[], None]]) -> list[Thread]:
        """Each in a thread of its own."""
        threads = [Thread(target=self._guarded, args=(call,), name=name, daemon=True) for name, call in calls.items()]
        for thread in threads:
            thread.start()
        return threads

    def _take_requests(self) -> None:
        """People's orders, in a thread of their own."""
        options = self._options
        quotation = Quotation(options.address)
        parts = RequestParts(
            journal=self._journal,
            log=self._log,
            route=self._dispatch.route,
            clock=RequestClock(_wall_ms, options.speed),
            now_s=time.monotonic,
            ask=quotation.books,
            late_ms=options.late_request_ms,
            speed=options.speed,
            reach=self._reach,
            on_price=self._gate.take_price,
        )
        try:
            serve(parts, self._stop)
        finally:
            quotation.close()

    def _keep_lease(self) -> None:
        """Renew the lease whether there is work or not; a lost one ends the process."""
        while not self._stop.wait(self._options.lease_s / 4):
            self._journal.renew()

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - the outermost loop of a thread: the process ends by it
            self._failures.append(error)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def open_journal(options: Options, stop: Event) -> Journal | None:
    """The journal, once its database answers and no other executor holds it; None when the process is to end before.

    A file that cannot be opened raises `JournalFailed` at once: it does not come back by itself.
    """
    has_trouble = False
    while not stop.is_set():
        try:
            return Journal(options.journal_place, lease_s=options.lease_s, wait=stop.wait)
        except JournalFailed as error:
            if not options.database:
                raise
            if not has_trouble:
                logger.error("not trading until the database answers: %s", error)  # noqa: TRY400 - the sentence says it all
            has_trouble = True
            stop.wait(PATIENCE_S)
        except AlreadyRunning:
            if not stop.is_set():
                raise
    return None


def run_executor(
    options: Options,
    log: Log,
    stop: Event,
    reach: Reach = reach_nothing,
    manifest: RunManifest | None = None,
    join: Callable[[], bool] = lambda: True,
) -> None:
    """Run until `stop`; raises `AlreadyRunning` beside another executor (on PostgreSQL it waits for the lease
    instead), `JournalFailed` when the database fails, `Fenced` when another executor took over.
    """
    executors: list[Executor] = []

    def ask_again() -> None:
        for one in executors:
            one.ask_again()

    gate = HaltGate(ask_again)
    halts = HaltKeeper(options.home, gate)
    watcher = Thread(target=halts.watch, args=(stop,), name="halts", daemon=True)
    try:
        watcher.start()
        journal = open_journal(options, stop)
        if journal is None:
            return
        try:
            executor = Executor(options, journal, log, reach, stop, halts, gate, manifest, join)
            executors.append(executor)
            try:
                executor.run()
            finally:
                executor.close()
        finally:
            journal.close()
    finally:
        stop.set()
        watcher.join(CLOSE_S)
        halts.close()


def run(settings: Settings, log: "KafkaLog", stop: Event) -> None:
    """The process entry: guards first, then `run_executor`, which does not wait for the log with what closes."""
    refuse_replay(settings.kafka.prefix, is_live_allowed=settings.execute.allow_live)
    refuse_real_exchange()
    remove_exchange_variables(os.environ)
    remove_secrets(os.environ, DECLARED["execute"])
    shut_off(settings.home)
    if settings.execute.system_user:
        keep_pair(settings.home)
        become(settings.execute.system_user, settings.home)
        shut_off()  # another user's process is dumpable again
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it writes a line per request
    options = options_of(settings)
    with ExitStack() as lines:

        def join() -> bool:
            """Copy this process's lines into the log from its first answer on: before it each line would wait."""
            if address_of(settings) != options.address:
                raise Stop("the exchange has moved to another port")
            ask_log(settings, log)
            lines.enter_context(lines_into_the_log("execute", log))
            logger.info("the log answers")
            return True

        run_executor(options, log, stop, manifest=manifest_of(settings), join=join)
