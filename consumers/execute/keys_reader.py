"""Reads what people say about keys (`commands`) and lets the keeper do what is due; a thread of the executor.

The place in the topic is kept in the executor's own database, in the transaction that carries the command out. A record
that cannot be read becomes a dead letter.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from threading import Event

import msgspec

from consumers.execute.intake import bury
from consumers.execute.journal import Journal
from consumers.execute.keys_keeper import KeyKeeper
from infra.errors import Retry
from infra.log import Log, Reader, Record, Slot, slots_of
from infra.secrets_box import locked
from streams import topics
from streams.messages import Command, KeyDeposited, KeyRemoved

logger = logging.getLogger(__name__)

TOPIC = "commands"
BATCH = 100
POLL_S = 0.2
TROUBLE_S = 1.0


class KeyReader:
    """One reader of the whole topic."""

    def __init__(self, home: Path, log: Log, journal: Journal, keeper: KeyKeeper, wall_ms: Callable[[], int]) -> None:
        self._home = home
        self._log = log
        self._journal = journal
        self._keeper = keeper
        self._wall_ms = wall_ms
        self._reader: Reader | None = None

    def step(self, timeout_s: float = POLL_S) -> int:
        """Carry out what has come, then what is due; returns the number of records. Raises `Retry`."""
        self._reader = self._reader or self._open()
        records = self._reader.read(BATCH, timeout_s)
        for record in records:
            self._apply(record)
        self._keeper.tick()
        return len(records)

    def close(self) -> None:
        """Leave."""
        if self._reader is not None:
            self._reader.close()

    def _open(self) -> Reader:
        bounds = self._log.bounds(slots_of(self._log, [TOPIC]))
        starts: dict[Slot, int] = {}
        for slot, (first, end) in bounds.items():
            kept = self._journal.cursor(_name(slot))
            starts[slot] = max(first, kept) if kept <= end else first
        return self._log.reader(starts)

    def _apply(self, record: Record) -> None:
        """Carry out one command, once: what it changes and the place behind it become durable together."""
        if record.offset < self._journal.cursor(_name(record.slot)):
            return
        try:
            message: Command = topics.decode(TOPIC, record.value)
        except msgspec.DecodeError as error:
            bury(self._log, record, str(error), self._wall_ms())
            self._journal.set_cursor(_name(record.slot), record.offset + 1)
            return
        with locked(self._home), self._journal.transaction():
            if isinstance(message, KeyDeposited):
                self._keeper.on_deposited(message)
            elif isinstance(message, KeyRemoved):
                self._keeper.on_removed(message)
            else:
                self._keeper.on_check_requested(message)
            self._journal.set_cursor(_name(record.slot), record.offset + 1)


def keep_keys(reader: KeyReader, stop: Event) -> None:
    """Run until `stop`; a log that does not answer is waited for."""
    has_trouble = False
    try:
        while not stop.is_set():
            try:
                reader.step()
                has_trouble = False
            except Retry as error:
                if not has_trouble:
                    logger.warning("commands about keys are waited for: %s", error)
                has_trouble = True
                stop.wait(TROUBLE_S)
    finally:
        reader.close()


def _name(slot: Slot) -> str:
    return f"{slot.topic}/{slot.partition}"
