"""Takes decisions from the log into the journal, and commits offsets last.

`executor` calls `step` in its main loop. A partition's offset moves over a record only when the journal holds it and
it is past its first attempt: what is redelivered after a crash ends at the journal's primary key.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from consumers.execute.clock import MarketClock
from consumers.execute.crash import Reach
from consumers.execute.desk import Task
from consumers.execute.journal import Journal
from infra.log import Log, Record, Slot, publish_one, slots_of
from streams import topics
from streams.messages import CancelIntent, DeadLetter, OrderIntent, encode

logger = logging.getLogger(__name__)

GROUP = "execute"
TOPIC = "order-intents"
BATCH = 100
IDLE_COMMIT_S = 1.0
COMMIT_EVERY_S = 0.25
"""A commit is a round trip in which nothing new is taken; what it would tell is in the journal anyway."""
_UNDER_WAY = frozenset({"NEW", "RETRY", "SENDING"})


class _Taken(NamedTuple):
    offset: int
    intent_id: str
    """Empty for a record that needs no waiting."""


class Intake:
    """One reader of `order-intents`; there is one executor, so it takes all partitions without a group's membership."""

    def __init__(
        self, log: Log, journal: Journal, clock: MarketClock, route: Callable[[Task], None], reach: Reach
    ) -> None:
        self._log = log
        self._journal = journal
        self._clock = clock
        self._route = route
        self._reach = reach
        self._taken: dict[Slot, deque[_Taken]] = {}
        self._waiting: deque[Record] = deque()  # read, but not taken: the reader will not bring them again
        self._slots = slots = slots_of(log, [TOPIC])
        bounds = log.bounds(slots)
        committed = log.committed(GROUP, slots)
        starts = {slot: _start(committed.get(slot), bounds[slot]) for slot in slots}
        self._committed = dict(starts)
        self._next_commit_s = self._idle_commit_s = time.monotonic()
        self._reader = log.reader(starts)

    def close(self) -> None:
        """Leave; what is not committed comes again."""
        self._reader.close()

    def behind(self) -> str | None:
        """What could be read and is not, in words; for the watchdog. Raises errors of the log."""
        for slot, (_, end) in self._log.bounds(self._slots).items():
            if (position := self._reader.position(slot)) < end:
                return f"{slot.topic}/{slot.partition} stands at {position} of {end}"
        return None

    def step(self, timeout_s: float) -> int:
        """Journal what has come, plan it, commit now and then what is done; returns the number of records."""
        if not self._waiting:
            self._waiting.extend(self._reader.read(BATCH, timeout_s))
        count = len(self._waiting)
        while self._waiting:
            if read := self._readable():
                self._take(read)
        if time.monotonic() >= self._next_commit_s:
            self.commit()
        return count

    def commit(self) -> None:
        """Commit, per partition, everything up to the first record that is still under way."""
        offsets: dict[Slot, int] = {}
        for slot, taken in self._taken.items():
            while taken and not self._is_under_way(taken[0]):
                offsets[slot] = taken.popleft().offset + 1
        if not offsets and time.monotonic() >= self._idle_commit_s:
            offsets = self._past_markers()
        if offsets:
            self._next_commit_s = time.monotonic() + COMMIT_EVERY_S
            self._idle_commit_s = time.monotonic() + IDLE_COMMIT_S
            self._committed |= offsets
            self._reach("before_commit")
            self._log.commit(GROUP, offsets)
            self._reach("after_commit")

    def _past_markers(self) -> dict[Slot, int]:
        """Where a transaction's marker follows the last record, the offset behind it: else the lag never ends."""
        return {
            slot: position
            for slot, taken in self._taken.items()
            if not taken
            and not self._waiting
            and (position := self._reader.position(slot)) > self._committed.get(slot, 0)
        }

    def _is_under_way(self, taken: _Taken) -> bool:
        if not taken.intent_id:
            return False
        row = self._journal.intent(taken.intent_id)
        return row is not None and row.state in _UNDER_WAY

    def _readable(self) -> list[tuple[Record, OrderIntent | CancelIntent]]:
        """What waits, up to the first record that cannot be read; where that is the first of all, it is buried."""
        found: list[tuple[Record, OrderIntent | CancelIntent]] = []
        for record in self._waiting:
            self._reach("after_poll")
            try:
                found.append((record, topics.decode(TOPIC, record.value)))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                if not found:
                    bury(self._log, record, str(error), self._clock.wall_ms())
                    self._note("")
                break
        return found

    def _take(self, read: list[tuple[Record, OrderIntent | CancelIntent]]) -> None:
        """Journal records together, with one wait for the disk, then plan what is new."""
        tasks: list[Task] = []
        with self._journal.transaction():
            for record, message in read:
                self._clock.observe(message.event_ms, record.append_ms)
                if isinstance(message, OrderIntent):
                    if self._journal.add_intent(message, record):
                        tasks.append(Task("send", message.id))
                elif self._journal.add_cancel(message):
                    tasks.append(Task("cancel", message.id))
        for _, message in read:
            if isinstance(message, OrderIntent):
                self._reach("after_journal_new")
            self._note(message.id if isinstance(message, OrderIntent) else "")
        for task in tasks:
            self._route(task)

    def _note(self, intent_id: str) -> None:
        """The first record that waits is taken, and waits for an intent from here on, or for nothing."""
        record = self._waiting.popleft()
        self._taken.setdefault(record.slot, deque()).append(_Taken(record.offset, intent_id))


def bury(log: Log, record: Record, reason: str, event_ms: int) -> None:
    """Make an unreadable record a dead letter; on the log when this returns, else `Retry` is raised."""
    logger.error("%s/%d at %d cannot be read: %s", record.topic, record.partition, record.offset, reason)
    letter = DeadLetter.of(
        "execute", record.topic, record.partition, record.offset, record.key, reason, record.value, event_ms
    )
    publish_one(log, "dead-letters", "execute", encode(letter))


def _start(committed: int | None, bounds: tuple[int, int]) -> int:
    """Where to go on; a topic that was made anew since (its end lies before) is read from its start."""
    first, end = bounds
    if committed is None or committed > end:
        return first
    return max(committed, first)
