"""Books and trades of the log as lines of a market: a run's topics as a recording, or the newest of them as they come.

Called by the sandbox server; everything here blocks and runs in a thread of its own. `Logged` merges all partitions by
the time of receipt, so that the same range gives the same order on every reading; `Tail` gives what is appended, in the
order of the log (`in_order`), from where it is told to begin.
"""

import heapq
import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from infra.errors import BadSettings, LogUnavailable, ObservatorError, RecordsLost, Retry, TopicMissing
from infra.log import Log, Reader, Record, Slot, slots_of
from producers.sandbox.in_order import HOLD_S, InOrder
from producers.sandbox.outside import Line
from producers.sandbox.recording import Survey
from streams.market.ticks import e8_of
from streams.messages import Heartbeat, Hole, Market, OrderBook, Trade
from streams.topics import decode

logger = logging.getLogger(__name__)

OpenLog = Callable[[], Log]
Ranges = Mapping[Slot, tuple[int, int]]

DATA_TOPICS = ("orderbooks", "trades")
_BATCH = 500
_SURVEYED = 2_000
_BUFFER = 4_000
_PATIENCE_S = 60.0
_LOOKBACK = 2_000
"""Records before the end of a partition that a follower reads first, to know the newest book of each market."""
_RETRY_S = 0.5
_SILENCE_S = 15.0


def line_of(record: Record, prefix: str) -> Line | None:
    """One record as a line; None for what is no book and no trade of the stream."""
    line = told_line_of(record, prefix)
    return line if line is not None and line.kind in ("orderbook", "trade") else None


def told_line_of(record: Record, prefix: str) -> Line | None:
    """As `line_of`, and what a follower hears beside the stream: heartbeats, holes, and trades fetched after a hole."""
    try:
        message = decode(record.topic, record.value)
    except msgspec.DecodeError:
        return None
    source = f"{prefix}{record.topic}/{record.partition}/{record.offset}"
    if isinstance(message, OrderBook):
        return Line(message.received_ns, b"", "orderbook", message.market, message.exchange_ms, message, source)
    if isinstance(message, Trade):
        kind = "trade" if message.origin == "stream" else "backfill"
        return Line(message.received_ns, b"", kind, message.market, message.exchange_ms, message, source)
    if isinstance(message, Heartbeat):
        return Line(0, b"", "heartbeat", "", message.event_ms, message, source)
    if isinstance(message, Hole):
        return Line(0, b"", "hole", "", message.to_ms, message, source)
    return None


# --- a run's topics as a recording ------------------------------------------------------------------------------


class Logged:
    """`orderbooks` and `trades` of a log, whole or between offsets (first, next after the last) per partition."""

    def __init__(self, open_log: OpenLog, offsets: Ranges) -> None:
        self._open_log = open_log
        self._offsets = offsets

    def survey(self, skipped: Counter[str]) -> Survey:
        """The markets and prices of the first books in each partition; raises `BadSettings` where there is none."""
        _ = skipped
        prices: dict[str, int] = {}
        clock_ms = 0
        try:
            with self._open_log() as log:
                ranges = self._ranges(log)
                firsts = {
                    slot: (a, min(b, a + _SURVEYED)) for slot, (a, b) in ranges.items() if slot.topic == "orderbooks"
                }
                for line in _merged(log, firsts):
                    clock_ms = min(clock_ms or line.exchange_ms, line.exchange_ms)
                    if line.market not in prices and isinstance(line.body, OrderBook) and line.body.ask_prices:
                        prices[line.market] = e8_of(line.body.ask_prices[0])
        except ObservatorError as error:
            raise BadSettings(f"the topics to be played cannot be read: {error}") from error
        if not prices:
            raise BadSettings("the topics to be played hold no book in this range")
        counts: Counter[str] = Counter()
        for slot, (first, end) in ranges.items():
            counts[slot.topic] += end - first
        return Survey(prices, clock_ms, dict(counts))

    def lines(self) -> Iterator[Line]:
        """All of them, by the time of receipt."""
        with self._open_log() as log:
            yield from _merged(log, self._ranges(log))

    def _ranges(self, log: Log) -> dict[Slot, tuple[int, int]]:
        """What there is of what is wanted; raises `BadSettings` where records are missing."""
        bounds = log.bounds(slots_of(log, DATA_TOPICS))
        if unknown := set(self._offsets) - set(bounds):
            raise BadSettings(f"there is no {', '.join(f'{slot.topic}/{slot.partition}' for slot in sorted(unknown))}")
        for slot, (first, end) in self._offsets.items():
            has_first, has_end = bounds[slot]
            if first < has_first or end > has_end:
                raise BadSettings(f"{slot.topic}/{slot.partition} holds the offsets {has_first} to {has_end} only")
        chosen = self._offsets or bounds
        return {slot: (first, end) for slot, (first, end) in chosen.items() if first < end}


def _merged(log: Log, ranges: Ranges) -> Iterator[Line]:
    merge = _Merge(log, ranges)
    try:
        yield from merge.lines()
    finally:
        merge.close()


class _Merge:
    """One reader over many partitions, whose records leave it in the order of receipt."""

    def __init__(self, log: Log, ranges: Ranges) -> None:
        self._prefix = log.prefix
        self._ends = {slot: end for slot, (_, end) in ranges.items()}
        self._reader = log.reader({slot: first for slot, (first, _) in ranges.items()})
        self._waiting: defaultdict[Slot, deque[Line]] = defaultdict(deque)
        self._paused: set[Slot] = set()
        self._heads: list[tuple[int, bool, Slot, int, Line]] = []
        self._number = 0

    def close(self) -> None:
        """Stop reading."""
        self._reader.close()

    def lines(self) -> Iterator[Line]:
        """Everything; at the same time of receipt a trade comes before a book."""
        for slot in self._ends:
            self._push_head(slot)
        while self._heads:
            _, _, slot, _, line = heapq.heappop(self._heads)
            yield line
            self._push_head(slot)

    def _push_head(self, slot: Slot) -> None:
        waiting = self._waiting[slot]
        if slot in self._paused and len(waiting) < _BUFFER // 2:
            self._paused.discard(slot)
            self._reader.resume([slot])
        if not waiting:
            self._fill(slot)
        if waiting:
            line = waiting.popleft()
            self._number += 1
            heapq.heappush(self._heads, (line.received_ns, line.kind == "orderbook", slot, self._number, line))

    def _fill(self, slot: Slot) -> None:
        """Read until the partition has a line or is over; raises `LogUnavailable`."""
        deadline = time.monotonic() + _PATIENCE_S
        while not self._waiting[slot] and self._reader.position(slot) < self._ends[slot]:
            records = self._reader.read(_BATCH, 1.0)
            for record in records:
                if record.offset < self._ends[record.slot] and (line := line_of(record, self._prefix)) is not None:
                    self._waiting[record.slot].append(line)
            full = {one for one in {record.slot for record in records} if len(self._waiting[one]) > _BUFFER}
            if new := full - self._paused - {slot}:
                self._paused |= new
                self._reader.pause(new)
            if records:
                deadline = time.monotonic() + _PATIENCE_S
            elif time.monotonic() > deadline:
                raise LogUnavailable(f"nothing came from {slot.topic}/{slot.partition} for {_PATIENCE_S:.0f} s")


# --- the deployment's own topics, live ----------------------------------------------------------------------------


class Batch(NamedTuple):
    """What a reading gave."""

    lines: list[Line]
    markets: list[Market]
    appended_ms: dict[int, int]
    """Partition of `orderbooks` -> append time of its newest record, heartbeats included."""
    is_caught_up: bool
    """Whether everything that stood in the log at the start has been read."""
    starts: Mapping[Slot, int] = {}
    """Where reading began, in the first batch after it did."""
    life: int = 0
    """Grows with `Tail.restart`; what an earlier life has read is void."""


class Tail:
    """Reads on for ever; sits out a log that is away, and looks for it at a new address."""

    def __init__(self, open_log: OpenLog, *, hold_s: float = HOLD_S) -> None:
        self._open_log = open_log
        self._hold_s = hold_s
        self._log: Log | None = None
        self._reader: Reader | None = None
        self._positions: dict[Slot, int] = {}
        self._ends: dict[Slot, int] = {}
        self._left: set[Slot] = set()
        self._order = InOrder((), hold_s)
        self._paused: set[Slot] = set()
        self._starts: dict[Slot, int] = {}
        self._heard_s = time.monotonic()
        self._life = 0
        self._wanted: tuple[int, Mapping[Slot, int]] = (0, {})

    def restart(self, positions: Mapping[Slot, int]) -> int:
        """Begin again at these offsets (elsewhere a little before the end), and give the new life's number.

        It is called in another thread than `read`, which does it at its next call.
        """
        life = self._wanted[0] + 1
        self._wanted = (life, dict(positions))
        return life

    @property
    def late(self) -> int:
        """Records that came too late to be passed on in their order."""
        return self._order.late

    def read(self, timeout_s: float = 0.2) -> Batch:
        """What came, at most one batch; nothing while the log is away."""
        if self._wanted[0] != self._life:
            self.close()
            self._life, self._positions = self._wanted[0], dict(self._wanted[1])
        try:
            if self._reader is None:
                self._open()
            assert self._reader is not None
            held_s = float("inf") if self._left else self._order.seconds_until_due(time.monotonic())
            wait_s = min(timeout_s, held_s)
            records = self._reader.read(_BATCH, wait_s)
        except (Retry, RecordsLost, TopicMissing) as error:
            logger.info("following the log: %s", error)
            self.close()
            time.sleep(_RETRY_S)
            return Batch([], [], {}, is_caught_up=False, life=self._life)
        batch = self._batch(records)
        self._note(records)
        return batch

    def _open(self) -> None:
        self._log = self._open_log()
        slots = slots_of(self._log, (*DATA_TOPICS, "markets"))
        bounds = self._log.bounds(slots)
        starts = {slot: self._start(slot, *bounds[slot]) for slot in bounds}
        self._positions = starts
        self._ends = {slot: end for slot, (_, end) in bounds.items()}
        self._left = {slot for slot, (_, end) in bounds.items() if starts[slot] < end}
        self._order = InOrder((slot for slot in starts if slot.topic in DATA_TOPICS), self._hold_s)
        self._paused.clear()
        self._starts = dict(starts)
        self._reader = self._log.reader(starts)
        self._heard_s = time.monotonic()

    def _start(self, slot: Slot, first: int, end: int) -> int:
        return min(max(self._positions.get(slot, end - _LOOKBACK), first), end)

    def _note(self, records: list[Record]) -> None:
        """Where reading goes on: behind what was passed on, so that nothing that waits here is lost with the log."""
        assert self._reader is not None
        full = self._order.fuller_than(_BUFFER)
        if new := full - self._paused:
            self._reader.pause(new)
        if done := self._paused - self._order.fuller_than(_BUFFER // 2):
            self._reader.resume(done)
        self._paused = (self._paused | full) - done
        now_s = time.monotonic()
        if records:
            self._heard_s = now_s
        elif now_s - self._heard_s > _SILENCE_S:  # heartbeats should come: perhaps the broker has another port now
            self.close()

    def _batch(self, records: list[Record]) -> Batch:
        assert self._reader is not None
        prefix = "" if self._log is None else self._log.prefix
        markets: list[Market] = []
        appended_ms: dict[int, int] = {}
        now_s = time.monotonic()
        for record in records:
            if record.topic == "markets":
                markets += _markets_of(record)
                self._positions[record.slot] = record.offset + 1
                continue
            is_old = record.offset < self._ends[record.slot]
            self._order.add(record, told_line_of(record, prefix), now_s, is_old=is_old)
        self._left = {slot for slot in self._left if self._reader.position(slot) < self._ends[slot]}
        due = self._order.due(self._left, now_s)
        for append_ms, line in due:
            topic, partition, offset = line.source.rsplit("/", 2)
            slot = Slot(topic.removeprefix(prefix), int(partition))
            self._positions[slot] = int(offset) + 1
            if slot.topic == "orderbooks":  # not before it is passed on: a book that waits here vouches for nothing
                appended_ms[slot.partition] = append_ms
        starts, self._starts = self._starts, {}
        is_caught_up = not self._left and not self._order.has_old
        return Batch([line for _, line in due], markets, appended_ms, is_caught_up, starts, self._life)

    def close(self) -> None:
        """Let go of the log."""
        log, self._log, self._reader = self._log, None, None
        if log is not None:
            log.close()


def _markets_of(record: Record) -> list[Market]:
    try:
        found: Any = decode(record.topic, record.value)
    except msgspec.DecodeError:
        return []
    return [found] if isinstance(found, Market) else []
