"""Keeps the gate, the run folder's kill switches and the executor's database in step.

`executor` starts it before anything else, so that what stands in the run folder holds before the first thought of an
order, with or without Kafka. One thread looks for new commands every few milliseconds and closes; what takes a disk, a
database or a wait (telling, writing) is done by a second one, so that the next command never waits for it.
"""

import logging
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from threading import Event, Lock, Thread

from consumers.execute.halts import HaltGate, holds_after
from consumers.execute.halts_file import ALL_ACCOUNTS, Answer, Command, DamagedFile, HaltFolder, Standing
from consumers.execute.journal import Journal
from streams.messages import Halt

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.004
QUIET_S = 0.5
"""Without a command for so long, those that were told are marked so: that holds the lock that a new one needs."""
WRITTEN_S = 5.0
"""A request that passed the gate is written within this time, or its connection is given up."""
DAMAGED = "the file of kill switches cannot be read"


class HaltKeeper:
    """The executor's side of `run/halts`."""

    def __init__(self, home: Path, gate: HaltGate) -> None:
        """Closes what stands closed in the folder."""
        self._folder = HaltFolder(home)
        self._gate = gate
        self._journal: Journal | None = None
        self._stamp = (-1, -1)
        self._damage = ""
        self._taken: deque[tuple[Command, bool]] = deque()
        self._news = Event()
        self._unwritten: list[Command] = []
        self._unmarked: list[Halt] = []
        self._standings: dict[str, Standing] = {}
        self._answering = Lock()
        self.changed = Event()
        """Set when something was closed or opened."""
        self.failure: BaseException | None = None
        self._handle: int | None = None
        self.look()

    def close(self) -> None:
        """Say that this executor runs no more."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def attach(self, journal: Journal) -> None:
        """From here on commands go into the executor's database too, and on to `controls`; what the database knows
        holds when this returns. Only from here on an executor is said to run here: before, it may wait for its turn,
        and whoever halts must not wait for it but tell the one that sends.
        """
        self._gate.start_from(journal.halts(), journal.seen_halts())
        self._journal = journal
        self._handle = self._folder.come_alive()
        self._news.set()
        self.stand(*(Standing(halt) for halt in self._gate.halts().values()))

    def watch(self, stop: Event) -> None:
        """Look for commands, and tell of them, until `stop`; what ends it otherwise stands in `failure`, for the
        process to end by.
        """

        def tell_on() -> None:
            is_quiet = not self._news.wait(QUIET_S)
            self.tell()
            if is_quiet:
                self.mark()

        teller = Thread(target=self._repeat, args=(tell_on, stop.is_set), name="halts-told", daemon=True)
        teller.start()
        self._repeat(self.look, lambda: stop.wait(LOOK_EVERY_S))
        self._news.set()
        teller.join(WRITTEN_S)

    def _repeat(self, call: Callable[[], None], is_over: Callable[[], bool]) -> None:
        try:
            while not is_over() and self.failure is None:
                call()
        except BaseException as error:  # noqa: BLE001 - the outermost loop of a thread: the process ends by it
            self.failure = error

    def look(self) -> None:
        """Close or open by what is new in the folder."""
        if (stamp := self._folder.stamp()) == self._stamp:
            return
        self._stamp = stamp
        for command in self._read():
            is_in_force = self._gate.apply(command.halt)
            if is_in_force is not None:
                self._taken.append((command, is_in_force))
                self.changed.set()
                self._news.set()

    def tell(self) -> None:
        """Say what was closed or opened since the last time, and write it into the database."""
        self._news.clear()
        new = [self._taken.popleft() for _ in range(len(self._taken))]
        closed = {command.halt.account: command.halt for command, is_in_force in new if is_in_force}
        if closed and self._journal is not None:  # before that it may only wait for its turn, and another one sends
            self.stand(*(Standing(halt) for name, halt in closed.items() if self._gate.wait_sent(name, WRITTEN_S)))
        for command, is_in_force in new:
            _tell(command.halt, is_in_force=is_in_force)
        self._unwritten += [command for command, _ in new]
        if self._unwritten and self._journal is not None:
            self._write(self._journal)

    def take(self, halt: Halt, journal: Journal) -> None:
        """One that came by the log; call it inside the transaction that moves the log's cursor."""
        is_in_force = self._gate.apply(halt)
        if is_in_force is not None:
            journal.apply_halt(halt, is_in_force=is_in_force)
            _tell(halt, is_in_force=is_in_force)
            self.changed.set()

    def stand(self, *standings: Standing) -> None:
        """Tell how far the closing of accounts is; of an account that has a newer command by now nothing is told."""
        with self._answering:
            newest = self._gate.halts()
            for one in standings:
                if newest.get(one.halt.account) == one.halt:
                    self._standings[one.halt.account] = one
            try:
                self._folder.say(Answer(os.getpid(), dict(self._standings), self._damage))
            except OSError as error:
                logger.error("what is closed and settled cannot be told (%s): it holds all the same", error)  # noqa: TRY400 - the sentence says it all

    def standing(self, account: str) -> Standing | None:
        """What was told of an account last."""
        return self._standings.get(account)

    def _read(self) -> list[Command]:
        try:
            commands = self._folder.commands()
        except DamagedFile as error:
            logger.error("%s (%s): every account is closed until somebody resumes it", DAMAGED, error)  # noqa: TRY400 - the sentence says it all
            self._damage = f"{DAMAGED}: {error}"
            halt = Halt(account=ALL_ACCOUNTS, kind="no-new-orders", event_ms=self._stamp[0] // 1_000_000, by=DAMAGED)
            return [Command(halt, is_told=True)]
        self._damage = ""
        return commands

    def _write(self, journal: Journal) -> None:
        """Each by what the database itself holds: the gate may be ahead by a command that is not on disk yet."""
        commands, self._unwritten = self._unwritten, []
        with journal.transaction():
            current = {halt.account: halt for halt in journal.halts()}
            for command in commands:
                halt, is_told = command.halt, command.is_told
                is_in_force = holds_after(halt, current.get(halt.account))
                if journal.apply_halt(halt, is_in_force=is_in_force, tell=not is_told) and is_in_force:
                    current[halt.account] = halt
        self._unmarked += [command.halt for command in commands if not command.is_told]

    def mark(self) -> None:
        """Note in the folder what went to `controls`; later does as well, because the database knows."""
        halts, self._unmarked = self._unmarked, []
        if halts and not self._damage:
            try:
                self._folder.mark_told(halts)
            except OSError as error:
                logger.warning("commands that were told cannot be marked so (%s)", error)


def _tell(halt: Halt, *, is_in_force: bool) -> None:
    if is_in_force:
        logger.warning("halt of %s: %s, by %s", halt.account, halt.kind, halt.by)
    else:
        logger.warning("the end of %s's halt, by %s, is older than the halt: it stays", halt.account, halt.by)
