"""Reads what the executor must know beside intents: halts, settings and accepted ledgers of `controls`, `markets`.

`executor` calls `step` in its main loop. Halts go into the executor's own database with the place they were read at,
so that a restart without Kafka still knows them and an old `lifted` is not applied a second time.
"""

import logging
from collections import deque
from collections.abc import Callable

import msgspec

from consumers.execute.bookkeeping import accept_ledger
from consumers.execute.halts_keeper import HaltKeeper
from consumers.execute.intake import bury
from consumers.execute.interference_watch import accept_holdings, resume
from consumers.execute.journal import Journal
from consumers.execute.limits import RiskGate
from infra.log import Log, Record, Slot, slots_of
from streams import topics
from streams.messages import AccountResumed, AccountSettings, Halt, LedgerAccepted, Market

logger = logging.getLogger(__name__)

TOPICS = ("controls", "markets")
BATCH = 500


class Controls:
    """One reader of both topics, read whole."""

    def __init__(
        self,
        log: Log,
        journal: Journal,
        gate: RiskGate,
        wall_ms: Callable[[], int],
        halts: HaltKeeper,
        learn: Callable[[AccountSettings], None] = lambda _: None,
    ) -> None:
        self._log = log
        self._journal = journal
        self._gate = gate
        self._wall_ms = wall_ms
        self._halts = halts
        self._learn = learn
        self._waiting: deque[Record] = deque()  # read, but not applied: the reader will not bring them again
        slots = slots_of(log, TOPICS)
        bounds = log.bounds(slots)
        starts: dict[Slot, int] = {}
        for slot in slots:
            first, end = bounds[slot]
            kept = journal.cursor(_name(slot)) if slot.topic == "controls" else 0
            starts[slot] = max(first, kept) if kept <= end else first
        self._ends = {slot: bounds[slot][1] for slot in slots}
        self._reader = log.reader(starts)

    def is_behind(self) -> bool:
        """Whether something that stood there at the start is not applied yet."""
        return bool(self._waiting) or any(self._reader.position(slot) < end for slot, end in self._ends.items())

    def close(self) -> None:
        """Leave."""
        self._reader.close()

    def step(self, timeout_s: float = 0.0) -> int:
        """Apply what has come; returns the number of records."""
        if not self._waiting:
            self._waiting.extend(self._reader.read(BATCH, timeout_s))
        count = len(self._waiting)
        while self._waiting:
            self._apply(self._waiting[0])
            self._waiting.popleft()
        return count

    def _apply(self, record: Record) -> None:
        try:
            message = topics.decode(record.topic, record.value)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._bury(record, str(error))
            return
        if isinstance(message, Market):
            self._gate.take_market(message)
        elif isinstance(message, AccountSettings):
            self._gate.take_account(message)
            self._learn(message)
        elif isinstance(message, AccountResumed):
            with self._journal.transaction():
                resume(self._journal, message.account, message.event_ms)
                self._move_past(record)
            logger.warning("%s is resumed by %s", message.account, message.by)
        elif isinstance(message, Halt):
            with self._journal.transaction():
                self._halts.take(message, self._journal)
                self._move_past(record)
        elif isinstance(message, LedgerAccepted):
            with self._journal.transaction():
                accept_ledger(self._journal, message, self._wall_ms())
                accept_holdings(self._journal, message.account, message.event_ms)
                self._move_past(record)
            logger.warning("the exchange's ledger is the truth for %s from here on, by %s", message.account, message.by)

    def _bury(self, record: Record, reason: str) -> None:
        """Tell of an unreadable record, once: `markets` is read from its start each time, and trade tells of those."""
        if record.topic != "controls":
            logger.error("%s at %d cannot be read: %s", record.topic, record.offset, reason)
            return
        bury(self._log, record, reason, self._wall_ms())
        self._move_past(record)

    def _move_past(self, record: Record) -> None:
        self._journal.set_cursor(_name(record.slot), record.offset + 1)


def _name(slot: Slot) -> str:
    return f"{slot.topic}/{slot.partition}"
