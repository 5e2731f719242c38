"""One round of `verify halts`: accounts under load, each halted at a moment of its own and watched until it rests.

Called by `halts`. The load goes on during and after the halt: what must not be sent is there to be sent.
"""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, NamedTuple

from consumers.execute.halts_file import ALL_ACCOUNTS
from consumers.verify.halts_stage import HaltStage, wait_for
from streams.messages import Halt, OrderIntent

Special = Literal["", "everybody", "restart", "no-log"]
Store = Literal["sqlite", "postgresql"]
EVERY_S = 0.25
"""Between two orders of an account."""
WARM_S = 1.5
SPREAD_S = 1.0
AFTER_S = 0.8
"""For so long the load goes on after everything has come to rest."""
LOOK_EVERY_S = 0.002
SETTLE_S = 90.0
BROKER_S = 240.0
POST, CANCEL = ("POST", "/v1/orders"), ("DELETE", "/v1/order")


class Plan(NamedTuple):
    """What a round is like."""

    latency_s: float
    fault: str
    """`late-answer` or `late-request`; without latency nothing."""
    special: Special = ""
    store: Store = "sqlite"
    """Where the executor's journal is."""


@dataclass
class Trial:
    """One account's halt; times by the monotonic clock."""

    account: str
    plan: Plan
    kind: Literal["no-new-orders", "sell-all"]
    began_s: float = 0.0
    """Just before the command was written."""
    halt: Halt | None = None
    closed_s: float = 0.0
    """When the executor's "gate closed" was read; 0: not yet."""
    settled_s: float = 0.0
    resumed_s: float = 0.0
    notes: list[str] = field(default_factory=list)


class Load:
    """Orders without end for some accounts: most end at once, every fourth rests, every eighth buys."""

    def __init__(self, stage: HaltStage, accounts: Sequence[str]) -> None:
        self._stage = stage
        self._accounts = accounts
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._count = 0

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S / len(self._accounts)):
            account = self._accounts[self._count % len(self._accounts)]
            self._stage.publish(self._next(account, self._count // len(self._accounts)))
            self._count += 1

    def _next(self, account: str, number: int) -> OrderIntent:
        if number % 8 == 2:
            return self._stage.intent(account, order_type="price", price=None, quantity=None, funds=Decimal(6000))
        return self._stage.intent(account, time_in_force="" if number % 4 == 1 else "ioc")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """No more orders."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(10)


class Watcher:
    """Reads the executor's answers all the time and notes when each trial was told closed and settled."""

    def __init__(self, stage: HaltStage, trials: Sequence[Trial]) -> None:
        self._stage = stage
        self._trials = trials
        self._ignored_pid = 0
        self._reading = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """No more looks."""
        self._stop.set()
        self._thread.join(10)

    def ignore(self, pid: int) -> None:
        """This process is dead: its answers count no more, nor what it said of coming to rest."""
        with self._reading:  # not between its reading of an answer and its noting
            self._ignored_pid = pid
            for trial in self._trials:
                trial.settled_s = 0.0

    def _run(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            with self._reading:
                self._look()

    def _look(self) -> None:
        answer, now_s = self._stage.folder.answer(), time.monotonic()
        if answer is None or answer.pid == self._ignored_pid:
            return
        for trial in self._trials:
            standing = None if trial.halt is None else answer.standings.get(trial.halt.account)
            if standing is None or standing.halt != trial.halt:
                continue
            trial.closed_s = trial.closed_s or now_s
            if standing.is_settled:
                trial.settled_s = trial.settled_s or now_s


def run_round(stage: HaltStage, plan: Plan, number: int, draw: random.Random) -> list[Trial]:
    """Load, halt every account, wait until all rest, lift; returns what happened to each."""
    kinds: tuple[Literal["no-new-orders"], Literal["sell-all"]] = ("no-new-orders", "sell-all")
    trials = [
        Trial(account, plan, kinds[(number + place) % 2 if plan.special != "everybody" else number % 2])
        for place, account in enumerate(stage.accounts)
    ]
    load, watcher = Load(stage, stage.accounts), Watcher(stage, trials)
    stage.must_live()
    with _faults(stage, plan):
        load.start()
        watcher.start()
        time.sleep(WARM_S + min(plan.latency_s, 1.0))
        try:
            if plan.special == "no-log":
                load = _without_log(stage, trials, watcher, load)
            else:
                _halt_all(stage, trials, watcher, draw)
            _expect_rest(trials)
            time.sleep(AFTER_S)
        finally:
            load.end()
            watcher.end()
    _lift(stage, trials)
    return trials


@contextmanager
def _faults(stage: HaltStage, plan: Plan) -> Iterator[None]:
    """Orders and cancels take so long, either way; look-ups do not, else nothing could ever be asked."""
    if plan.latency_s:
        for method, path in (POST, CANCEL):
            fault = {"name": plan.fault, "method": method, "path": path, "count": None, "seconds": plan.latency_s}
            stage.sandbox.control("POST", "/sandbox/faults", fault)
    try:
        yield
    finally:
        stage.sandbox.control("DELETE", "/sandbox/faults")


def _halt_all(stage: HaltStage, trials: list[Trial], watcher: Watcher, draw: random.Random) -> None:
    if trials[0].plan.special == "everybody":
        halt_one(stage, trials, ALL_ACCOUNTS)
        return
    start_s = time.monotonic()
    moments = sorted(draw.uniform(0, SPREAD_S) for _ in trials)
    killed = len(trials) // 2 if trials[0].plan.special == "restart" else -1
    for place, (trial, moment_s) in enumerate(zip(trials, moments, strict=True)):
        time.sleep(max(0.0, start_s + moment_s - time.monotonic()))
        halt_one(stage, [trial], trial.account)
        if place == killed:
            restart(stage, watcher)


def halt_one(stage: HaltStage, trials: list[Trial], account: str) -> None:
    """Write one command, for one trial or for all of them."""
    began_s = time.monotonic()
    for trial in trials:
        trial.began_s = began_s
    now_ms = time.time_ns() // 1_000_000
    halt = stage.folder.order(Halt(account=account, kind=trials[0].kind, event_ms=now_ms, by="verify"))
    for trial in trials:
        trial.halt = halt


def restart(stage: HaltStage, watcher: Watcher) -> None:
    """`kill -9` in the middle, and a new life."""
    answer = stage.folder.answer()
    stage.executors.kill()
    watcher.ignore(answer.pid if answer is not None else 0)
    stage.executors.begin()


def _without_log(stage: HaltStage, trials: list[Trial], watcher: Watcher, load: Load) -> Load:
    """The broker is gone; halted then; a new life without it holds; it comes back and orders come again."""
    load.end()
    stage.forget_publisher()
    stage.kafka.kill()
    for trial in trials:
        halt_one(stage, [trial], trial.account)
    if not wait_for(lambda: all(trial.closed_s for trial in trials), 30):
        trials[0].notes.append("not closed without a log")
    restart(stage, watcher)
    _expect_rest(trials)
    stage.kafka.start(BROKER_S)
    load = Load(stage, stage.accounts)
    load.start()
    time.sleep(WARM_S)
    return load


def _expect_rest(trials: list[Trial]) -> None:
    if not wait_for(lambda: all(trial.settled_s for trial in trials), SETTLE_S):
        for trial in trials:
            if not trial.settled_s:
                trial.notes.append("never settled")


def _lift(stage: HaltStage, trials: list[Trial]) -> None:
    """Let every account go on; nothing is waiting to be sent by then."""
    accounts = [ALL_ACCOUNTS] if trials[0].plan.special == "everybody" else [trial.account for trial in trials]
    resumed_s = time.monotonic()
    for trial in trials:
        trial.resumed_s = resumed_s
    now_ms = time.time_ns() // 1_000_000
    ends = [stage.folder.order(Halt(account=one, kind="lifted", event_ms=now_ms, by="verify")) for one in accounts]

    def is_open() -> bool:
        standings = stage.standings()
        return all((found := standings.get(end.account)) is not None and found.halt == end for end in ends)

    if not wait_for(is_open, 30):
        trials[0].notes.append("not lifted")
