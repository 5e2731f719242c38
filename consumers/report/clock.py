"""Clocks that jumped: event times that leave the pace of their source, append times that went back.

Called by `consumers.report.orders`. A wrong clock is recorded with its records and comes again in every replay, so
parity cannot see it; this looks at the records themselves. Reads the raw topics of a day once, in constant memory.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from infra.log import Record
from streams.history import History, spans_between
from streams.messages import Heartbeat, Hole, OrderBook, RunManifest, Trade
from streams.topics import decode

TOPICS = ("orderbooks", "trades")
TOLERANCE_MS = 5_000
"""A record further than this from where its source's clock should stand is named."""
EARLY, LATE, BACK = "early", "late", "went back"


@dataclass(slots=True)
class _Pace:
    """The clock of one source in one partition: how far its event times lie behind the append times."""

    session: int
    event_ms: int
    append_ms: int


class Clocks(NamedTuple):
    """What was found, one row per topic, source and kind of error: how many records, and where the first stands."""

    rows: list[dict[str, Any]]
    records: int
    """How many records of market data were looked at."""


def clocks_of(history: History, from_ms: int, to_ms: int) -> Clocks:
    """Look at the clocks of a stretch; raises as reading does."""
    found = _Clocks(_speed(history, to_ms))
    for slot, span in sorted(spans_between(history, TOPICS, from_ms, to_ms).items()):
        found.look(history.read(slot, *span))
    return Clocks([found.rows[key] for key in sorted(found.rows)], found.records)


def _speed(history: History, to_ms: int) -> float:
    """How many times faster than ours the market's clock runs, by the newest manifest of the time."""
    speed = 1.0
    for slot, span in spans_between(history, ["manifests"], None, to_ms).items():
        for record in history.read(slot, *span):
            try:
                manifest: RunManifest = decode("manifests", record.value)
                speed = float(manifest.settings.get("feed.speed", speed))
            except (msgspec.DecodeError, ValueError):
                continue
    return max(speed, 0.001)


class _Clocks:
    """All sources of a day."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self.rows: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.records = 0

    def look(self, records: Iterable[Record]) -> None:
        """Take the records of one partition."""
        paces: dict[str, _Pace] = {}
        before_ms = 0
        for record in records:
            self.records += 1
            if record.append_ms < before_ms:
                self._name(record, "", BACK, before_ms - record.append_ms)
            before_ms = max(before_ms, record.append_ms)
            try:
                message = decode(record.topic, record.value)
            except msgspec.DecodeError:
                continue
            if not isinstance(message, Hole) and not (isinstance(message, Trade) and message.origin != "stream"):
                self._hold(record, message, paces)

    def _hold(self, record: Record, message: OrderBook | Trade | Heartbeat, paces: dict[str, _Pace]) -> None:
        is_beat = isinstance(message, Heartbeat)
        event_ms = message.event_ms if isinstance(message, Heartbeat) else message.exchange_ms
        pace = paces.get(message.source)
        if pace is None or message.session != pace.session:
            paces[message.source] = _Pace(message.session, event_ms, record.append_ms)
            return
        expected_ms = pace.event_ms + (record.append_ms - pace.append_ms) * self._speed
        off_ms = round(event_ms - expected_ms)
        tolerance_ms = TOLERANCE_MS * max(1.0, self._speed)
        if off_ms > tolerance_ms:
            self._name(record, message.source, EARLY, off_ms)
        elif event_ms - pace.event_ms < -tolerance_ms:
            self._name(record, message.source, LATE, pace.event_ms - event_ms)
        elif event_ms >= pace.event_ms or is_beat:
            pace.event_ms, pace.append_ms = max(event_ms, pace.event_ms), record.append_ms

    def _name(self, record: Record, source: str, kind: str, off_ms: int) -> None:
        key = (kind, record.topic, source)
        row = self.rows.get(key)
        if row is None or record.append_ms < row["append_ms"]:
            place = f"{record.topic}/{record.partition}/{record.offset}"
            count = 0 if row is None else row["records"]
            row = {"kind": kind, "topic": record.topic, "source": source, "records": count, "first": place,
                   "append_ms": record.append_ms, "off_ms": off_ms}  # fmt: skip
            self.rows[key] = row
        row["records"] += 1
