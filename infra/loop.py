"""The plain consumer loop: reads a batch, hands each record to a handler, publishes what it answers, commits offsets.

Every process without a runner of its own uses it (`ConsumerLoop` in a group, `AssignedLoop` where one process reads
everything). It never looks into a record.

Delivery is at least once. Offsets are committed only after every output of the records before them was acknowledged.
Outputs are kept until then: when the log fails, the same bytes are published again and nothing is computed twice, so
that state in memory takes in each record exactly once per assignment.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, ParamSpec, TypeVar

import msgspec

from infra.assigned import AssignedReader
from infra.catch_up import read_range
from infra.errors import DeliveryFailed, DeliveryPending, LogUnavailable, NotOwner, RecordsLost, Retry, Skip
from infra.handler import DEFAULT_PACE, Counts, DeadLetterMaker, Handler, Output, Pace
from infra.log import GroupReader, Log, Publisher, Record, Slot
from infra.watchdog import Watchdog, end_process

STOP_WITHIN_S = 4.0
MOST_UNFLUSHED = 5_000
LONGEST_PAUSE_S = 1.0

_P = ParamSpec("_P")
_T = TypeVar("_T")
_logger = logging.getLogger(__name__)


class _GivenUp(Exception):  # noqa: N818 - not an error: the loop was asked to stop while it waited
    """The loop was asked to stop while it could not go on."""


class ConsumerLoop:
    """One process's loop.

    `publisher` belongs to the caller, who closes it. `gapped` names topics in which offsets are missing by nature
    (written by transactions, or compacted): elsewhere a jump forward is read in. `on_lost(slot, first, end)` answers
    for records that retention deleted before they were read; without it that ends the loop with `RecordsLost`.
    """

    def __init__(
        self,
        log: Log,
        group: str,
        topics: Sequence[str],
        handler: Handler,
        *,
        publisher: Publisher,
        dead_letter: DeadLetterMaker,
        stop: threading.Event,
        instance: str | None = None,
        pace: Pace = DEFAULT_PACE,
        gapped: Collection[str] = (),
        on_lost: Callable[[Slot, int, int], Iterable[Output]] | None = None,
        on_stuck: Callable[[str], None] = end_process,
    ) -> None:
        self.counts = Counts()
        self.watchdog = Watchdog(self._behind, limit_s=pace.watchdog_limit_s, on_stuck=on_stuck)
        self._log = log
        self._group = group
        self._handler = handler
        self._publisher = publisher
        self._dead_letter = dead_letter
        self._stop = stop
        self._topics = topics
        self._instance = instance
        self._pace = pace
        self._gapped = frozenset(gapped)
        self._on_lost = on_lost
        self._reader: GroupReader | None = None
        self._next: dict[Slot, int] = {}
        self._committed: dict[Slot, int] = {}
        self._unflushed: list[Output] = []
        self._must_republish = False
        self._is_mid_batch = False
        self._settled_s = time.monotonic()
        self._stop_seen_s: float | None = None

    def run(self) -> None:
        """Loop until `stop` is set, then finish: outputs flushed, offsets committed, within five seconds."""
        self.watchdog.start()
        try:
            while not self._stop.is_set():
                self.turn()
        except _GivenUp:
            _logger.info("group %s: asked to stop while waiting", self._group)
        finally:
            self.watchdog.stop()
            self._leave()

    def turn(self) -> int:
        """Read one batch and deal with it; returns how many records were read."""
        if self._reader is None:
            self._reader = self._insist(self._open_reader)
        try:
            records = self._reader.read(self._pace.batch, self._pace.poll_s)
        except Retry as problem:
            self._pause(problem, 0)
            return 0
        self.watchdog.beat()
        self._is_mid_batch = True
        for record in records:
            self._take(record)
        self._send(self._insist(lambda: list(self._handler.finish())))
        self._is_mid_batch = False
        if len(self._unflushed) >= MOST_UNFLUSHED or self._is_time_to_commit():
            self.settle()
        return len(records)

    def settle(self) -> None:
        """Wait until all outputs are acknowledged, then commit the offsets behind them."""
        self._flush()
        self._settled_s = time.monotonic()
        fresh = {slot: offset for slot, offset in self._next.items() if self._committed.get(slot) != offset}
        if not fresh or self._reader is None:
            return
        try:
            self._reader.commit(fresh)
        except NotOwner as problem:
            _logger.info("group %s: %s", self._group, problem)
        except LogUnavailable as problem:
            self.counts.retries += 1
            _logger.warning("group %s: offsets are committed later: %s", self._group, problem)
        else:
            self._committed.update(fresh)

    def abandon(self) -> None:
        """Leave without finishing or committing, as a killed process does; for tests and checks."""
        self._unflushed.clear()
        self._next.clear()
        if self._reader is not None:
            reader, self._reader = self._reader, None
            reader.close()

    def _open_reader(self) -> GroupReader:
        return self._log.group_reader(
            self._group,
            self._topics,
            instance=self._instance,
            on_assigned=self._on_assigned,
            on_revoked=self._on_revoked,
        )

    def _is_time_to_commit(self) -> bool:
        return time.monotonic() - self._settled_s >= self._pace.commit_every_s

    def _take(self, record: Record) -> None:
        slot = record.slot
        expected = self._next.get(slot, record.offset)
        if record.offset < expected:
            self.counts.repeated += 1
            return
        if record.offset > expected and record.topic not in self._gapped:
            self._read_in(slot, expected, record.offset)
        self._apply(slot, record)

    def _read_in(self, slot: Slot, first: int, end: int) -> None:
        """Apply what lies between; nothing does where transactions left their markers."""
        first_kept = self._insist(lambda: self._log.bounds([slot]))[slot][0]
        if first_kept > first:
            text = f"{slot.topic}-{slot.partition}: offsets {first} to {first_kept} were deleted before they were read"
            if self._on_lost is None:
                raise RecordsLost(text)
            _logger.error("%s", text)
            self._send(self._on_lost(slot, first, first_kept))
        start = min(max(first, first_kept), end)
        for record in self._insist(lambda: list(read_range(self._log, {slot: start}, {slot: end}))):
            self.counts.read_in += 1
            self._apply(slot, record)

    def _apply(self, slot: Slot, record: Record) -> None:
        if outputs := self._insist(self._handled, record):
            self._send(outputs)
        self._next[slot] = record.offset + 1
        self.counts.handled += 1
        self.watchdog.progress()

    def _handled(self, record: Record) -> list[Output]:
        try:
            return list(self._handler.handle(record))
        except (Skip, msgspec.DecodeError) as problem:
            self.counts.dead_letters += 1
            return [self._dead_letter(record, str(problem))]
        except Retry:
            raise
        except Exception:  # the outermost loop: say where it happened, then end
            _logger.exception("group %s, at %s-%d offset %d", self._group, *record[:3])
            raise

    def _send(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            self._unflushed.append(output)
            self.counts.published += 1
            if self._must_republish:
                continue
            try:
                self._publisher.publish(*output)
            except DeliveryFailed as problem:
                self._must_republish = True
                _logger.warning("group %s: outputs will be published again: %s", self._group, problem)
        if len(self._unflushed) >= MOST_UNFLUSHED or self._must_republish:
            self._flush()

    def _flush(self) -> None:
        tries = 0
        while True:
            try:
                if self._must_republish:
                    for output in self._unflushed:
                        self._publisher.publish(*output)
                    self.counts.published_again += len(self._unflushed)
                    self._must_republish = False
                if self._unflushed:
                    self._publisher.flush(1.0)
            except DeliveryPending as problem:
                self._pause(problem, 0)
            except DeliveryFailed as problem:
                self._must_republish = True
                self._pause(problem, tries)
                tries += 1
            else:
                self._unflushed.clear()
                return

    def _insist(self, call: Callable[_P, _T], *args: _P.args, **options: _P.kwargs) -> _T:
        """Call again after `Retry`, with growing pauses."""
        tries = 0
        while True:
            try:
                return call(*args, **options)
            except Retry as problem:
                self._pause(problem, tries)
                tries += 1

    def _pause(self, problem: Retry, tries: int) -> None:
        self.counts.retries += 1
        if tries in (0, 10, 100):
            _logger.warning("group %s: waiting: %s", self._group, problem)
        self.watchdog.beat()
        if self._stop.is_set():
            now = time.monotonic()
            self._stop_seen_s = self._stop_seen_s or now
            if now - self._stop_seen_s > STOP_WITHIN_S - 1:
                raise _GivenUp
            time.sleep(0.05)
        else:
            self._stop.wait(min(0.05 * 2**tries, LONGEST_PAUSE_S))

    def _on_assigned(self, slots: frozenset[Slot]) -> None:
        try:
            known = self._log.committed(self._group, slots)
        except LogUnavailable as problem:
            _logger.warning("group %s: the first record read counts as the next: %s", self._group, problem)
            known = {}
        self._next.update(known)
        self._committed.update(known)
        _logger.info("group %s: reads %s", self._group, _told(slots))
        self._handler.assigned(slots)
        self.watchdog.progress()

    def _on_revoked(self, slots: frozenset[Slot]) -> None:
        self.settle()
        for slot in slots:
            self._next.pop(slot, None)
            self._committed.pop(slot, None)
        _logger.info("group %s: gave back %s", self._group, _told(slots))
        self._handler.drop(slots)

    def _leave(self) -> None:
        """Commit what is safe to commit and leave; what is not committed is done again by the next holder."""
        if self._reader is None:
            return
        try:
            if self._is_mid_batch:
                self._send(self._handler.finish())
            self.settle()
        except (Retry, _GivenUp) as problem:
            _logger.warning("group %s: left without its last commit: %s", self._group, problem)
        finally:
            reader, self._reader = self._reader, None
            reader.close()

    def _behind(self) -> str | None:
        """What could be read now but was not taken (asked by the watchdog, from its thread)."""
        positions = dict(self._next)
        for slot, (first, end) in self._log.bounds(positions).items():
            position = max(positions[slot], first)
            if position < end and (found := self._readable(slot, position)) is not None:
                return f"{slot.topic}-{slot.partition}: next is {positions[slot]}, offset {found} can be read"
        return None

    def _readable(self, slot: Slot, position: int) -> int | None:
        """The next committed record; behind the position may stand markers or an open transaction only."""
        reader = self._log.reader({slot: position})
        try:
            records = reader.read(1, 1.0)
        finally:
            reader.close()
        return records[0].offset if records else None


class AssignedLoop(ConsumerLoop):
    """The same for a process of which there is one: it reads all partitions by itself, without joining a group.

    `from_end`: where nothing is committed under the group's name, begin behind what is there.
    """

    def __init__(self, *args: Any, from_end: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self._from_end = from_end

    def _open_reader(self) -> GroupReader:
        return AssignedReader(self._log, self._group, self._topics, self._on_assigned, from_end=self._from_end)


def _told(slots: Iterable[Slot]) -> str:
    return ", ".join(f"{slot.topic}-{slot.partition}" for slot in sorted(slots))
