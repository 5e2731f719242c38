"""Reads what the executor must know beside intents: halts from `controls`, minimum totals from `markets`.

`executor` calls `step` in its main loop. Halts go into the executor's own database with the place they were read at,
so that a restart without Kafka still knows them and an old `lifted` is not applied a second time.
"""

import logging

import msgspec

from consumers.execute.journal import Journal
from consumers.execute.limits import RiskGate
from infra.log import Log, Slot, slots_of
from streams import topics
from streams.messages import Halt, Market

logger = logging.getLogger(__name__)

TOPICS = ("controls", "markets")
BATCH = 500


class Controls:
    """One reader of both topics, read whole."""

    def __init__(self, log: Log, journal: Journal, gate: RiskGate) -> None:
        self._journal = journal
        self._gate = gate
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
        return any(self._reader.position(slot) < end for slot, end in self._ends.items())

    def close(self) -> None:
        """Leave."""
        self._reader.close()

    def step(self, timeout_s: float = 0.0) -> int:
        """Apply what has come; returns the number of records."""
        records = self._reader.read(BATCH, timeout_s)
        for record in records:
            try:
                message = topics.decode(record.topic, record.value)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                logger.error("%s at %d cannot be read: %s", record.topic, record.offset, error)  # noqa: TRY400 - no trace: the record is bad, not the code
                continue
            if isinstance(message, Market):
                self._gate.set_minimum(message.market, message.minimum_total)
            if isinstance(message, Halt):
                with self._journal.transaction():
                    self._journal.apply_halt(message)
                    self._journal.set_cursor(_name(record.slot), record.offset + 1)
                logger.warning("halt of %s: %s, by %s", message.account, message.kind, message.by)
        return len(records)


def _name(slot: Slot) -> str:
    return f"{slot.topic}/{slot.partition}"
