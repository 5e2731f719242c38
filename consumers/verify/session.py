"""`observator verify parity --session`: what was recorded, computed again from its own records, must be the same.

Features and signals from the raw topics, decisions from trade's recorded inputs, by hash and per manifest segment.
Called by the command line, by `consumers.nightly` and by `verify replay`. It reads; its report is all that it writes.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from consumers.verify import session_lineage
from consumers.verify.session_decisions import Decisions, Sides, shards_of
from consumers.verify.session_matching import Difference, Tallies, Tally
from consumers.verify.session_segments import END_MS, Segment, Stretch, manifests_now, segments_of, stretches
from consumers.verify.session_source import kept_in, source_of
from consumers.verify.session_stages import Recorded, compare_partition, options_of, predict_of, usable_events
from infra.errors import BadSettings, Retry, Stop
from infra.figures import result_of
from infra.log import Slot
from infra.settings import Settings
from models.forecast.artefact import ModelRefused
from streams import topics
from streams.history import History, spans_between
from streams.messages import ModelEvent, RunManifest
from streams.stage import INPUTS

OUTPUTS = ("features", "signals", "order-intents", "order-events")
"""What is compared; of `order-events` trade's own, the vetoes."""
NAMES = {"order-intents": "intents", "order-events": "vetoes"}
DAY_MS = 86_400_000
_KST_MS = 9 * 3_600_000
_MARGIN_MS = 900_000
"""So much before a day is read too, that its first windows are whole."""
_LATER_MS = 5_000
"""Raw records are appended before what is computed from them, but a busy log may stamp a batch a moment later."""
EQUAL, DIFFERENT, NOT_COMPARABLE, NO_DATA, INCOMPLETE = (
    "equal", "different", "not comparable", "no data", "incomplete",
)  # fmt: skip
Tell = Callable[[str, int, int], None]


@dataclass(slots=True)
class Comparison:
    """What a comparison found."""

    topics: dict[str, Tallies]
    problems: list[str] = field(default_factory=list)
    """What could not be read, with file or partition and range."""
    reasons: list[dict[str, object]] = field(default_factory=list)
    """The stretches that cannot be compared, and why."""

    @property
    def verdict(self) -> str:
        """One word: equal only where something was compared, nothing is wrong and nothing could not be read."""
        totals = [one.total for one in self.topics.values()]
        if any(one.wrong for one in totals):
            return DIFFERENT
        if self.problems:
            return INCOMPLETE
        if any(one.compared for one in totals):
            return EQUAL
        return NOT_COMPARABLE if self.reasons else NO_DATA

    def figures(self) -> dict[str, float]:
        """As figures of a verify command."""
        found: dict[str, float] = {}
        for topic, tallies in self.topics.items():
            name = NAMES.get(topic, topic)
            total = tallies.total
            counts = ("compared", "differing", "missing", "extra", "repeated", "conflicts", "not_comparable")
            found |= {f"{name}: {one.replace('_', ' ')}": getattr(total, one) for one in counts}
            found[f"{name}: not covered"] = total.not_covered.total()
        return found


class Session:
    """One history between two times, and how to compare it. `now` is None where the code is known to be the same."""

    def __init__(
        self,
        history: History,
        settings: Settings,
        between: tuple[int | None, int | None] = (None, None),
        *,
        now: Mapping[str, RunManifest] | None,
        is_closed: bool = False,
        archive: History | None = None,
        tell: Tell | None = None,
    ) -> None:
        self._history = history
        self._archive = archive if archive is not None and _is_same_run(history, archive) else None
        self._settings = settings
        self._from_ms = 0 if between[0] is None else between[0]
        self._to_ms = END_MS if between[1] is None else between[1]
        self._is_closed = is_closed and between[1] is None
        self._tell = tell or (lambda _what, _done, _of: None)
        self._segments = segments_of(self._records("manifests"), now)
        process_of = {"features": "streams", "signals": "predict"}
        self.found = Comparison(
            {topic: Tallies(topic, self._segments[process_of.get(topic, "trade")]) for topic in OUTPUTS}
        )

    def compare(self) -> Comparison:
        """Compare everything."""
        for stretch in self._clipped(("streams", "predict")):
            self._compare_data(stretch)
        for stretch in self._clipped(("trade",)):
            self._compare_decisions(stretch)
        return self.found

    def _clipped(self, processes: Sequence[str]) -> Iterator[Stretch]:
        for one in stretches(self._segments, processes):
            from_ms, to_ms = max(one.from_ms, self._from_ms), min(one.to_ms, self._to_ms)
            if from_ms < to_ms:
                yield one._replace(from_ms=from_ms, to_ms=to_ms)

    def _records(self, topic: str) -> Iterator[Any]:
        for slot, span in self._history.spans([topic]).items():
            yield from self._history.read(slot, *span)

    def _spans(self, names: Sequence[str], from_ms: int, to_ms: int) -> dict[Slot, tuple[int, int]]:
        return spans_between(self._history, names, from_ms or None, None if to_ms >= END_MS else to_ms)

    # --- features and signals ---------------------------------------------------------------------------------------

    def _compare_data(self, stretch: Stretch) -> None:
        outputs = self._spans(("features", "signals"), stretch.from_ms, stretch.to_ms)
        features, signals = self.found.topics["features"], self.found.topics["signals"]
        if reason := stretch.reason("streams"):
            self._leave_out(features, outputs, stretch, reason)
        if signals_reason := stretch.reason("streams", "predict"):
            self._leave_out(signals, outputs, stretch, signals_reason)
            outputs = {slot: span for slot, span in outputs.items() if slot.topic != "signals"}
        streams = stretch.segments["streams"]
        if reason or streams is None or not outputs:
            return
        is_first = not self._spans(("features",), 0, stretch.from_ms) if stretch.from_ms else True
        spans = {**outputs, **self._raw(stretch, is_first=is_first)}
        partitions = sorted({slot.partition for slot in spans})
        is_cut_after = not self._is_closed or stretch.to_ms < END_MS
        for number, partition in enumerate(partitions):
            self._tell("features and signals", number, len(partitions))
            recorded = Recorded(self._history, partition, spans, not is_first, is_cut_after)
            try:
                predict = None if signals_reason else self._predict(stretch.segments["predict"])
                compare_partition(recorded, options_of(streams.manifest), predict, features, signals)
            except ModelRefused as error:
                signals_reason = f"predict: {error}"
                self._leave_out(signals, outputs, stretch, signals_reason)
                compare_partition(recorded, options_of(streams.manifest), None, features, signals)
            except (Stop, Retry) as error:
                self.found.problems.append(f"partition {partition}: {error}")

    def _raw(self, stretch: Stretch, *, is_first: bool) -> dict[Slot, tuple[int, int]]:
        """The raw records to compute from: from the log's start, from a day's margin, or from the change of code on."""
        is_cut = stretch.from_ms == self._from_ms
        from_ms = 0 if is_first else stretch.from_ms - _MARGIN_MS * is_cut
        to_ms = stretch.to_ms + _LATER_MS if stretch.to_ms < END_MS else END_MS
        return self._spans(INPUTS, max(from_ms, 0), to_ms)

    def _predict(self, segment: Segment | None) -> Any:
        assert segment is not None
        events = [topics.decode("model-events", record.value) for record in self._records("model-events")]
        known = usable_events(one for one in events if isinstance(one, ModelEvent))
        return predict_of(segment, known, self._settings.home)

    # --- decisions --------------------------------------------------------------------------------------------------

    def _compare_decisions(self, stretch: Stretch) -> None:
        outputs = self._spans(("order-intents", "trade-inputs"), stretch.from_ms, stretch.to_ms)
        if not outputs:
            return
        sides = Sides(self.found.topics["order-intents"], self.found.topics["order-events"])
        segment = stretch.segments["trade"]
        if (reason := stretch.reason("trade")) or segment is None:
            self._leave_out(sides.intents, outputs, stretch, reason)
            return
        is_first = not self._spans(("trade-inputs",), 0, stretch.from_ms) if stretch.from_ms else True
        is_cut_after = not self._is_closed or stretch.to_ms < END_MS
        for number, shard in enumerate(shards := shards_of(segment.manifest)):
            self._tell("decisions", number, len(shards))
            folder = self._settings.trade.strategies_folder
            decisions = Decisions(self._history, shard, stretch, folder, sides, self._archive)
            try:
                decisions.compare(segment, is_first=is_first, is_cut_after=is_cut_after)
            except (Stop, Retry) as error:
                self.found.problems.append(f"decisions: {error}")

    def _leave_out(
        self, tallies: Tallies, outputs: Mapping[Slot, tuple[int, int]], stretch: Stretch, reason: str
    ) -> None:
        number = sum(end - first for slot, (first, end) in outputs.items() if slot.topic == tallies.topic)
        if number:
            tallies.count("not_comparable", stretch.from_ms, number)
            first = min(self._first_ms(slot, span) for slot, span in outputs.items() if slot.topic == tallies.topic)
            self.found.reasons.append(
                {"topic": tallies.topic, "from_ms": first, "to_ms": stretch.to_ms, "records": number, "reason": reason}
            )

    def _first_ms(self, slot: Slot, span: tuple[int, int]) -> int:
        record = next(iter(self._history.read(slot, *span)), None)
        return END_MS if record is None else record.append_ms


def _is_same_run(one: History, other: History) -> bool:
    """Whether two histories hold the same log: by the first manifest that both have."""
    slot = Slot("manifests", 0)
    spans = [history.spans(["manifests"]).get(slot, (0, 0)) for history in (one, other)]
    first, end = max(spans[0][0], spans[1][0]), min(spans[0][1], spans[1][1])
    records = [next(iter(history.read(slot, first, end)), None) for history in (one, other)] if first < end else []
    return len(records) == 2 and records[0] is not None and records[0] == records[1]


# --- what is said of it -------------------------------------------------------------------------------------------


def verify_session(
    history: History,
    settings: Settings,
    where: str,
    day: str | None = None,
    *,
    now: Mapping[str, RunManifest] | None = None,
    archive: History | None = None,
    tell: Tell | None = None,
) -> dict[str, object]:
    """Compare a session, or one KST day of it, keep the report, and give the result; `where` is only told.

    `archive` is asked for what the log has let go of that a replay begins with.
    """
    between = (None, None) if day is None else day_ms(day)
    session = Session(history, settings, between, now=now or manifests_now(settings), archive=archive, tell=tell)
    found = session.compare()
    source = source_of(history)
    report = report_of(history, found) | {"day": day, "from": where, "source": source}
    file = write_report(kept_in(settings.home, "parity", day or "session", source), report)
    conditions = {
        "from": where,
        "source": source,
        "day": day or "all that is recorded",
        "verdict": found.verdict,
        "report": str(file),
    }
    result = result_of("parity-session", found.figures(), conditions, passed=found.verdict == EQUAL)
    return result | {name: report[name] for name in ("differences", "not_comparable", "problems")}


def report_of(history: History, found: Comparison) -> dict[str, Any]:
    """Everything found, as plain values."""
    first: list[Difference] = [one.first for one in found.topics.values() if one.first is not None]
    return {
        "verdict": found.verdict,
        "topics": {topic: _told(tallies) for topic, tallies in found.topics.items()},
        "differences": [session_lineage.told(history, one) for one in first],
        "not_comparable": found.reasons,
        "problems": found.problems,
        "made_ms": time.time_ns() // 1_000_000,
    }


def _told(tallies: Tallies) -> dict[str, object]:
    def segment(one: Segment | None, tally: Tally) -> dict[str, object]:
        place = {} if one is None else {"process": one.process, "id": one.manifest.id, "from_ms": one.from_ms}
        return {"manifest": place or None, **tally.told()}

    return {**tallies.total.told(), "segments": [segment(*one) for one in tallies.by_segment()]}


def write_report(file: Path, report: Mapping[str, Any]) -> Path:
    """Keep a report, whole or not at all; returns the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.write_bytes(msgspec.json.format(json.dumps(report, default=str).encode(), indent=1) + b"\n")
    fresh.replace(file)
    return file


def day_ms(day: str) -> tuple[int, int]:
    """Begin and end of a KST day; raises `BadSettings`."""
    try:
        begin = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC)
        if begin.date().isoformat() != day:
            raise ValueError(day)  # noqa: TRY301 - 2026-1-5 would be another day by its name
    except ValueError:
        raise BadSettings(f"{day!r} is no day: write it like 2026-11-20.") from None
    begin_ms = int(begin.timestamp() * 1000) - _KST_MS
    return begin_ms, begin_ms + DAY_MS


def day_before(now_ms: int) -> str:
    """The KST day before a time, `2026-11-20`."""
    today = datetime.fromtimestamp((now_ms + _KST_MS) / 1000, UTC).date()
    return (today - timedelta(days=1)).isoformat()
