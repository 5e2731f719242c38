"""The hole ledger: every hole, late share and stale stretch per market and day, from any history.

Called by `observator archive holes` and the daily report. Days are KST days of event time. It only reads, in memory
that grows with the number of holes alone.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec
import numpy as np

from consumers.archive.blocks import blocks
from consumers.archive.marks import RAW
from consumers.archive.walk import BEGINNING, COLUMNS, Ints, Mark, Rows, Walk
from streams.history import History, spans_between

DAY_MS = 86_400_000
_KST_MS = 9 * 3_600_000
Market = tuple[str, str]
Interval = tuple[int, int]


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of a market's day, with the record that tells it."""

    day: str
    exchange: str
    market: str
    kind: str
    """`hole`, or `stale`: no book for longer than the limit although nothing is known to be missing."""
    from_ms: int
    to_ms: int
    topic: str
    partition: int
    offset: int
    """-1: no record tells it."""
    reason: str
    source: str
    session: int


class MarketDay(msgspec.Struct, frozen=True, kw_only=True):
    """One market's day in figures."""

    day: str
    exchange: str
    market: str
    books: int
    trades: int
    late: int
    """Records that came after their bin was closed, and entered no feature."""
    late_percent: float
    before_complete: int
    """Records from before their session was complete."""
    holes: int
    hole_seconds: float
    """Of both topics together, each second once."""
    stale: int
    stale_seconds: float


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """What a stretch of history lacks."""

    days: list[MarketDay]
    stretches: list[Stretch]


@dataclass(slots=True)
class _Counts:
    data: Counter[tuple[str, str, str, int]] = field(default_factory=Counter)
    late: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    early: Counter[tuple[str, str, int]] = field(default_factory=Counter)


@dataclass(slots=True)
class _Silence:
    """Where each market had no book for too long."""

    limit_ms: int
    last: dict[Market, int] = field(default_factory=dict)
    found: dict[Market, list[Interval]] = field(default_factory=lambda: defaultdict(list))

    def take(self, market: Market, event_ms: Ints) -> None:
        times = np.maximum.accumulate(np.concatenate([[self.last.get(market, int(event_ms[0]))], event_ms]))
        for i in np.flatnonzero(np.diff(times) > self.limit_ms).tolist():
            self.found[market].append((int(times[i]), int(times[i + 1])))
        self.last[market] = int(times[-1])

    def end(self, frontier: dict[Market, int]) -> None:
        """The silence that lasts on at the end of what is kept."""
        for market, at in self.last.items():
            if frontier.get(market, at) - at > self.limit_ms:
                self.found[market].append((at, frontier[market]))


def ledger(
    history: History,
    from_ms: int | None = None,
    to_ms: int | None = None,
    *,
    stale_ms: int = 10_000,
    grid_ms: int = 1_000,
    progress: Callable[[float], None] = lambda _: None,
) -> Ledger:
    """Read the market data appended in [`from_ms`, `to_ms`) and sum up what they lack; `progress` goes from 0 to 1."""
    spans = spans_between(history, RAW, from_ms, to_ms)
    total = sum(end - first for first, end in spans.values())
    marks: list[Mark] = []
    counts, silence = _Counts(), _Silence(stale_ms)
    done = 0
    for slot, (first, end) in spans.items():
        walk = Walk(slot, grid_ms)
        for batch in blocks(history, slot, first, end, COLUMNS):
            for rows in walk.take(batch):
                _count(rows, slot.topic, counts, silence)
            marks.extend(mark for mark in walk.marks if mark.reason != BEGINNING)
            progress((done + int(batch.column("record_offset")[-1].as_py()) - first) / max(total, 1))
        done += end - first
        if slot.topic == RAW[0]:
            silence.end(walk.frontier)
    progress(1.0)
    return _summed(marks, counts, silence)


def _count(rows: Rows, topic: str, counts: _Counts, silence: _Silence) -> None:
    days = (rows.event_ms + _KST_MS) // DAY_MS
    for code, market in enumerate(zip(rows.exchanges, rows.markets, strict=True)):
        own = rows.codes == code
        for day, count in zip(*np.unique(days[own], return_counts=True), strict=True):
            counts.data[topic, *market, int(day)] += int(count)
        for flags, into in ((rows.is_late, counts.late), (rows.is_early, counts.early)):
            for day in days[own & flags].tolist():
                into[*market, day] += 1
        if topic == RAW[0] and own.any():
            silence.take(market, rows.event_ms[own])


def _summed(marks: Iterable[Mark], counts: _Counts, silence: _Silence) -> Ledger:
    known = {(exchange, market) for _, exchange, market, _ in counts.data}
    stretches = [one for mark in marks for one in _of_mark(mark, known)]
    holes: dict[Market, list[Interval]] = defaultdict(list)
    for one in stretches:
        holes[one.exchange, one.market].append((one.from_ms, one.to_ms))
    for market, intervals in silence.found.items():
        left = [rest for one in intervals for rest in without(one, joined(holes[market]))]
        kept = [rest for rest in left if rest[1] - rest[0] > silence.limit_ms]
        stretches += [piece for rest in kept for piece in _of_silence(market, rest)]
    stretches.sort(key=lambda one: (one.day, one.exchange, one.market, one.from_ms, one.kind, one.topic))
    return Ledger(days=_days(stretches, counts), stretches=stretches)


def _days(stretches: list[Stretch], counts: _Counts) -> list[MarketDay]:
    by_day: dict[tuple[str, str, str], list[Stretch]] = defaultdict(list)
    for one in stretches:
        by_day[one.day, one.exchange, one.market].append(one)
    keys = {(day_of(day), exchange, market): day for _, exchange, market, day in counts.data}
    found = []
    for key in sorted(keys.keys() | by_day.keys()):
        name, exchange, market = key
        at = (exchange, market, keys.get(key, -1))
        books, trades = (counts.data[topic, *at] for topic in RAW)
        own = {kind: [one for one in by_day[key] if one.kind == kind] for kind in ("hole", "stale")}
        hole_s, stale_s = (_seconds(own[kind]) for kind in ("hole", "stale"))
        found.append(
            MarketDay(
                day=name,
                exchange=exchange,
                market=market,
                books=books,
                trades=trades,
                late=counts.late[at],
                late_percent=round(100 * counts.late[at] / max(books + trades, 1), 4),
                before_complete=counts.early[at],
                holes=len(own["hole"]),
                hole_seconds=hole_s,
                stale=len(own["stale"]),
                stale_seconds=stale_s,
            )
        )
    return found


def _of_mark(mark: Mark, known: set[Market]) -> list[Stretch]:
    """A mark's days; one of every market becomes one of each that is known."""
    markets = (
        [mark.market] if mark.market else sorted(market for exchange, market in known if exchange == mark.exchange)
    )
    return [
        Stretch(
            day=day,
            exchange=mark.exchange,
            market=market,
            kind="hole",
            from_ms=low,
            to_ms=high,
            topic=mark.slot.topic,
            partition=mark.slot.partition,
            offset=mark.offset,
            reason=mark.reason,
            source=mark.source,
            session=mark.session,
        )
        for market in markets
        for day, low, high in by_days(mark.from_ms, mark.to_ms)
    ]


def _of_silence(market: Market, interval: Interval) -> list[Stretch]:
    return [
        Stretch(
            day=day,
            exchange=market[0],
            market=market[1],
            kind="stale",
            from_ms=low,
            to_ms=high,
            topic=RAW[0],
            partition=-1,
            offset=-1,
            reason="no book",
            source="",
            session=0,
        )
        for day, low, high in by_days(*interval)
    ]


def by_days(from_ms: int, to_ms: int) -> list[tuple[str, int, int]]:
    """A stretch cut at KST midnights."""
    found = []
    while from_ms < to_ms:
        day = (from_ms + _KST_MS) // DAY_MS
        end = min(to_ms, (day + 1) * DAY_MS - _KST_MS)
        found.append((day_of(day), from_ms, end))
        from_ms = end
    return found


def day_of(day: int) -> str:
    """Name of a KST day by its number."""
    return datetime.fromtimestamp(day * 86_400, UTC).date().isoformat()


def joined(intervals: Iterable[Interval]) -> list[Interval]:
    """The same time in intervals that do not touch each other."""
    found: list[Interval] = []
    for low, high in sorted(intervals):
        if found and low <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return found


def without(interval: Interval, holes: Iterable[Interval]) -> list[Interval]:
    """What is left of an interval outside of joined holes."""
    left = []
    at, end = interval
    for low, high in holes:
        if low > at:
            left.append((at, min(low, end)))
        at = max(at, high)
        if at >= end:
            break
    if at < end:
        left.append((at, end))
    return [one for one in left if one[0] < one[1]]


def _seconds(stretches: list[Stretch]) -> float:
    return sum(high - low for low, high in joined((one.from_ms, one.to_ms) for one in stretches)) / 1000
