"""Keeps the gate, the run folder's kill switches and the executor's database in step.

`executor` starts it before anything else, so that what stands in the run folder holds before the first thought of an
order, with or without Kafka. One thread looks for new commands every few milliseconds; closing comes before writing.
"""

import logging
import os
from pathlib import Path
from threading import Event, Lock

from consumers.execute.halts import HaltGate
from consumers.execute.halts_file import ALL_ACCOUNTS, Answer, Command, DamagedFile, HaltFolder, Standing
from consumers.execute.journal import Journal
from streams.messages import Halt

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.004
WRITTEN_S = 5.0
"""A request that passed the gate is written within this time, or its connection is given up."""
DAMAGED = "the file of kill switches cannot be read"


class HaltKeeper:
    """The executor's side of `run/halts`."""

    def __init__(self, home: Path, gate: HaltGate) -> None:
        """Says that an executor runs, and closes what stands closed in the folder."""
        self._folder = HaltFolder(home)
        self._gate = gate
        self._journal: Journal | None = None
        self._stamp = -1
        self._damage = ""
        self._unwritten: list[Command] = []
        self._standings: dict[str, Standing] = {}
        self._answering = Lock()
        self.changed = Event()
        """Set when something was closed or opened."""
        self.failure: BaseException | None = None
        self._handle = self._folder.come_alive()
        self.look()

    def close(self) -> None:
        """Say that this executor runs no more."""
        os.close(self._handle)

    def attach(self, journal: Journal) -> None:
        """From here on commands go into the executor's database too, and on to `controls`; what the database knows
        holds when this returns.
        """
        self._gate.start_from(journal.halts(), journal.seen_halts())
        self._journal = journal
        self.stand(*(Standing(halt) for halt in self._gate.halts().values()))

    def watch(self, stop: Event) -> None:
        """Look for commands until `stop`; what ends it otherwise stands in `failure`, for the process to end by."""
        try:
            while not stop.wait(LOOK_EVERY_S):
                self.look()
        except BaseException as error:  # noqa: BLE001 - the outermost loop of a thread: the process ends by it
            self.failure = error

    def look(self) -> None:
        """Take over what is new in the folder."""
        if (stamp := self._folder.stamp()) != self._stamp:
            self._stamp = stamp
            self._take_over(self._read())
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
            halt = Halt(account=ALL_ACCOUNTS, kind="no-new-orders", event_ms=self._stamp // 1_000_000, by=DAMAGED)
            return [Command(halt, is_told=True)]
        self._damage = ""
        return commands

    def _take_over(self, commands: list[Command]) -> None:
        taken = [(command, self._gate.apply(command.halt)) for command in commands]
        new = [(command, is_in_force) for command, is_in_force in taken if is_in_force is not None]
        if not new:
            return
        closed = {command.halt.account: command.halt for command, is_in_force in new if is_in_force}
        if self._journal is not None:  # before that it may only wait for its turn, and another one sends
            self.stand(*(Standing(halt) for name, halt in closed.items() if self._gate.wait_sent(name, WRITTEN_S)))
        for command, is_in_force in new:
            _tell(command.halt, is_in_force=bool(is_in_force))
        self._unwritten += [command for command, _ in new]
        self.changed.set()

    def _write(self, journal: Journal) -> None:
        in_force = set(self._gate.halts().values())
        with journal.transaction():
            for command in self._unwritten:
                journal.apply_halt(command.halt, is_in_force=command.halt in in_force, tell=not command.is_told)
        written = [command.halt for command in self._unwritten if not command.is_told]
        self._unwritten = []
        if written and not self._damage:
            try:
                self._folder.mark_told(written)
            except OSError as error:
                logger.warning("commands that were told cannot be marked so (%s)", error)
            self._stamp = -1


def _tell(halt: Halt, *, is_in_force: bool) -> None:
    if is_in_force:
        logger.warning("halt of %s: %s, by %s", halt.account, halt.kind, halt.by)
    else:
        logger.warning("the end of %s's halt, by %s, is older than the halt: it stays", halt.account, halt.by)
