"""Records of a run written once more into a run of their own (prefix `replay-<run>-`), in the recorded order.

Called by `observator replay write`. Each record once: a copy that was interrupted goes on behind what stands there
already, a second start into a finished one or beside a running one is refused. Nothing that stands there is changed.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from consumers.replay.marks import MARKS, SHARED, Marks
from consumers.replay.memory import Spans
from consumers.replay.offsets import NAMING, Translation
from infra.catch_up import read_range
from infra.errors import AlreadyRunning, BadSettings, ObservatorError, RecordsLost, Stop
from infra.log import Log, Publisher, Record, Slot
from streams.history import History, merged

_FLUSH_EVERY = 20_000
_FLUSH_S = 60.0
_SLEEP_S = 0.2

Progress = Callable[[int, int], None]
"""(records done, of how many at most)."""


class Outcome(NamedTuple):
    """What a copy came to."""

    records: int
    """Written by this call."""
    found: int
    """Written by earlier, interrupted ones."""
    is_complete: bool
    seconds: float
    inputs_cut: int
    """Records of `trade-inputs` that name something before what is copied."""
    slots: dict[Slot, dict[str, int]]


class Copy:
    """One copy under way."""

    def __init__(self, history: History, spans: Spans, log: Log, source: str) -> None:
        self._history = history
        self._log = log
        self._marks = Marks(log, source, spans)
        self._marks.open()
        self._spans = self._marks.spans
        self._left = dict(self._spans)
        self._found = 0
        self._bases = {MARKS: self._marks.first}
        """Where the copy of a partition begins, if not at its first record."""
        self._translation = Translation(self._spans, {slot: self._bases.get(slot, 0) for slot in self._spans})

    # --- what stands there already --------------------------------------------------------------------------------

    def _find(self, translation: Translation) -> None:
        """Hold what stands there against the source, partition by partition, and begin behind it."""
        order = sorted(self._spans, key=lambda slot: (slot.topic in NAMING, slot.topic == NAMING[-1]))
        for slot in order:
            self._left[slot] = (self._find_slot(slot, translation), self._spans[slot][1])

    def _find_slot(self, slot: Slot, translation: Translation) -> int:
        """The first record of the source that is not copied yet."""
        first, end = self._spans[slot]
        base = self._bases.get(slot, 0)
        if self._log.bounds([slot])[slot][1] <= base:
            return first
        standing = read_range(self._log, {slot: base})
        known, at = translation.maps[slot], first
        for expected in self._history.read(slot, first, end):
            self._marks.beat()
            value = translation.value_of(expected) if translation.is_ready(expected) else None
            if value is not None:
                if not self._passes(slot, expected, value, standing):
                    return at
                known.note(expected.offset)
                self._found += 1
            elif not translation.is_ready(expected):
                return at
            at = expected.offset + 1
        return end

    def _passes(self, slot: Slot, expected: Record, value: bytes, standing: Iterator[Record]) -> bool:
        """Whether the next record that stands there is this one; others' are passed over where others write."""
        for record in standing:
            if record.key == expected.key and record.value == value:
                return True
            if slot.topic not in SHARED:
                raise Stop(
                    f"{self._log.prefix}{slot.topic}/{slot.partition} offset {record.offset} is not the copy of"
                    f" {slot.topic}/{slot.partition} offset {expected.offset}: somebody else wrote into this run, or"
                    " the source was changed. Nothing was touched; name another run to start over."
                )
        return False

    # --- the copy -------------------------------------------------------------------------------------------------

    def run(self, speed: float | None, stop: threading.Event, progress: Progress | None) -> Outcome:
        """Write what is left; see `write_run`."""
        started = time.monotonic()
        pace = _Pace(speed, stop, self._marks.beat)
        self._marks.claim()
        try:
            self._find(self._translation)
            written, is_over = self._written(pace, progress)
            if is_over:
                self._check_ends()
        except AlreadyRunning:
            raise
        except BaseException:  # whatever it is, it goes on: another start must not wait for this one
            with suppress(ObservatorError):
                self._marks.release()
            raise
        if is_over:
            self._marks.close()
        else:
            self._marks.release()
        slots = {slot: known.told() for slot, known in self._translation.maps.items()}
        seconds = time.monotonic() - started
        return Outcome(written, self._found, is_over, seconds, self._translation.cut, slots)

    def _written(self, pace: "_Pace", progress: Progress | None) -> tuple[int, bool]:
        publisher = self._log.publisher(linger_ms=1 if pace.is_paced else 5)
        try:
            return self._write(publisher, pace, progress)
        finally:
            publisher.close()

    def _write(self, publisher: Publisher, pace: "_Pace", progress: Progress | None) -> tuple[int, bool]:
        total = sum(end - first for first, end in self._left.values())
        left = {slot: span for slot, span in self._left.items() if span[0] < span[1]}
        written = 0
        held: dict[Slot, deque[Record]] = {}
        for seen, record in enumerate(merged(self._history, left), 1):
            if not pace.wait(record.append_ms):
                publisher.flush(_FLUSH_S)
                return written, False
            for one in self._in_turn(record, held):
                written += self._publish(publisher, one)
            if seen % _FLUSH_EVERY == 0:
                publisher.flush(_FLUSH_S)
            if progress is not None and seen % 500 == 0:
                progress(seen, total)
        for slot, waiting in held.items():
            if waiting:
                raise RecordsLost(
                    f"{slot.topic}/{slot.partition} offset {waiting[0].offset} names records that are not in what is"
                    " copied: take a longer range, or leave trade-inputs out."
                )
        publisher.flush(_FLUSH_S)
        if progress is not None:
            progress(total, total)
        return written, True

    def _in_turn(self, record: Record, held: dict[Slot, deque[Record]]) -> Iterator[Record]:
        """A record, or those that had to wait for what they name: a clock that went back may bring them too early."""
        if record.topic != "trade-inputs":
            yield record
            return
        waiting = held.setdefault(record.slot, deque())
        waiting.append(record)
        while waiting and self._translation.is_ready(waiting[0]):
            yield waiting.popleft()

    def _publish(self, publisher: Publisher, record: Record) -> int:
        value = self._translation.value_of(record)
        if value is None:
            return 0
        publisher.publish(record.topic, record.key, value, record.partition)
        self._translation.maps[record.slot].note(record.offset)
        return 1

    def _check_ends(self) -> None:
        """Raise `Stop` where partitions hold more than was copied: new offsets would be wrong."""
        ends = self._log.bounds(self._spans)
        for slot, known in self._translation.maps.items():
            if slot.topic not in SHARED and ends[slot][1] != known.next_new:
                raise Stop(
                    f"{self._log.prefix}{slot.topic}/{slot.partition} ends at {ends[slot][1]}, the copy at"
                    f" {known.next_new}: somebody else wrote into it. Run no process there that writes a topic which"
                    " is copied; start over with another run."
                )


class _Pace:
    """Waits until a record is due."""

    def __init__(self, speed: float | None, stop: threading.Event, beat: Callable[[], None]) -> None:
        if speed is not None and speed <= 0:
            raise BadSettings("The speed of a replay is a positive factor; leave it out for as fast as possible.")
        self.is_paced = speed is not None
        self._speed = speed
        self._stop = stop
        self._beat = beat
        self._first: tuple[float, int] | None = None

    def wait(self, append_ms: int) -> bool:
        """Whether to go on; False where the replay was told to stop."""
        self._beat()
        if self._speed is not None:
            if self._first is None:
                self._first = (time.monotonic(), append_ms)
            due_s = self._first[0] + (append_ms - self._first[1]) / 1000 / self._speed
            while (ahead_s := due_s - time.monotonic()) > 0 and not self._stop.is_set():
                self._stop.wait(min(ahead_s, _SLEEP_S))
                self._beat()
        return not self._stop.is_set()


def write_run(
    history: History,
    spans: Spans,
    log: Log,
    speed: float | None = None,
    stop: threading.Event | None = None,
    progress: Progress | None = None,
    *,
    source: str = "",
) -> Outcome:
    """Copy `spans` into `log`, at `speed` times the pace of the append times (None: as fast as possible).

    Keys, bytes and partitions stay; offsets and append times are new, and what names offsets is translated. Raises
    `Stop` for a run that holds something else or is complete, `RecordsLost` where the source misses a stretch (what
    was written until then stays, and the copy can go on once it is there), `DeliveryFailed`.
    """
    return Copy(history, spans, log, source).run(speed, stop or threading.Event(), progress)
