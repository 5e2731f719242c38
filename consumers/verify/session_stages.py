"""Features and signals of a recorded session, computed again from its raw records and held against what was recorded.

Called by `session`, partition by partition, in constant memory. The stages are those of the processes; where reading
begins in the middle of a log, nothing is claimed of what reaches back before it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import msgspec

from consumers.predict_stage import PredictStage
from consumers.verify.session_matching import NEWER, NO_RAW, OLDER, Item, Matcher, Tallies
from consumers.verify.session_segments import Segment
from infra.log import Record, Slot
from models.forecast.artefact import ModelRefused, read
from models.forecast.registry import Served, build, find, refusals, serve
from streams import topics
from streams.history import History
from streams.messages import Features, Feed, ModelEvent, RunManifest, Signal, key_of
from streams.stage import INPUTS, PartitionStage, StageOptions

_T = TypeVar("_T", Features, Signal)
_CHUNK = 256
SLACK_BINS = 60
"""Near the ends of a stretch that was cut out, a market may lack rows that others have: they lie outside."""


class Recorded(NamedTuple):
    """One partition's records as they stand: the raw ones to compute from, the others to compare."""

    history: History
    partition: int
    spans: Mapping[Slot, tuple[int, int]]
    """Of `orderbooks`, `trades`, `features`, `signals`."""
    is_cut_before: bool
    """Whether there is more of `features` and `signals` before."""
    is_cut_after: bool
    """Whether there is more of them behind, or will be."""

    def read(self, topic: str) -> Iterator[Record]:
        """Its records of a topic; none where there is nothing."""
        slot = Slot(topic, self.partition)
        if slot not in self.spans:
            return iter(())
        return self.history.read(slot, *self.spans[slot])

    @property
    def is_from_start(self) -> bool:
        """Whether the raw records are there from the log's first one on."""
        return all(self.spans.get(Slot(topic, self.partition), (0, 0))[0] == 0 for topic in INPUTS)


class Rows:
    """The rows of one partition, computed again; `whole_from` says from which bin on a market's rows are exact."""

    def __init__(self, recorded: Recorded, options: StageOptions) -> None:
        self._recorded = recorded
        starts = dict.fromkeys(INPUTS, recorded.is_from_start)
        self._stage = PartitionStage(options, from_start=starts)
        self.whole_from: dict[str, int] = {}
        self.first_ms: int | None = None
        """When the first raw record was appended."""

    def __iter__(self) -> Iterator[Features]:
        """Yield every row, in the order in which bins are closed."""
        for record in merge(*map(self._recorded.read, INPUTS), key=lambda one: one.append_ms):
            if self.first_ms is None:
                self.first_ms = record.append_ms
            try:
                message = topics.decode(record.topic, record.value)
            except msgspec.DecodeError:
                continue  # it became a dead letter when it was first read
            for row in self._stage.apply(record.topic, message):
                key = key_of(row.exchange, row.market)
                if key not in self.whole_from and (self._recorded.is_from_start or self._stage.is_whole(key)):
                    self.whole_from[key] = row.bin_ms
                yield row


class _Side:
    """The recorded rows or signals of one partition: fed to the matcher up to a bin."""

    def __init__(self, recorded: Recorded, tallies: Tallies, item_of: Callable[[_T], Item], skip_to_ms: int) -> None:
        self.matcher = Matcher(tallies)
        self.from_bin: dict[str, int] = {}
        self.topic = tallies.topic
        self._tallies = tallies
        self._item_of = cast("Callable[[Features | Signal], Item]", item_of)
        self._records = recorded.read(self.topic)
        self._skip_to_ms = skip_to_ms
        self._next: tuple[Item, Record] | None = None

    def feed(self, until: int | None) -> None:
        """Take what was recorded up to a bin, or all that is left."""
        while (held := self._next or self._read()) is not None:
            if until is not None and held[0].at > until:
                self._next = held
                return
            self._next = None
            self.matcher.recorded(*held)

    def _read(self) -> tuple[Item, Record] | None:
        for record in self._records:
            if record.append_ms < self._skip_to_ms:
                self._tallies.leave_out(NO_RAW, record.append_ms)
                continue
            try:
                message = topics.decode(self.topic, record.value)
            except msgspec.DecodeError:
                self._tallies.leave_out("it cannot be read", record.append_ms)
                continue
            return self._item_of(message), record
        return None


def feature_item(row: Features) -> Item:
    """A row by its identity."""
    key = key_of(row.exchange, row.market)
    return Item((key, row.bin_ms), key, row.bin_ms, row)


def signal_item(signal: Signal) -> Item:
    """A signal by its identity."""
    return Item(signal.id, key_of(signal.exchange, signal.market), signal.bin_ms, signal)


def compare_partition(
    recorded: Recorded, options: StageOptions, predict: PredictStage | None, features: Tallies, signals: Tallies
) -> int:
    """Compute one partition again and compare; without `predict` the features alone. Returns the rows computed."""
    rows = Rows(recorded, options)
    computed = iter(rows)
    chunk = list(islice(computed, _CHUNK))
    skip_to_ms = 0 if recorded.is_from_start else (rows.first_ms or 2**62)
    sides = [_Side(recorded, features, feature_item, skip_to_ms)]
    if predict is not None:
        sides.append(_Side(recorded, signals, signal_item, skip_to_ms))
    count = 0
    while chunk:
        count += len(chunk)
        newest = max(row.bin_ms for row in chunk)
        exact = []
        for row in chunk:
            since = rows.whole_from.get(key_of(row.exchange, row.market))
            if since is not None and row.bin_ms >= since:
                exact.append(row)
                sides[0].matcher.computed(feature_item(row))
        if predict is not None:
            for signal in predict.on_rows(exact):
                sides[1].matcher.computed(signal_item(signal))
            _note_settled(predict, exact, sides[1].from_bin, is_from_start=recorded.is_from_start)
        for side in sides:
            side.feed(newest)
        chunk = list(islice(computed, _CHUNK))
    sides[0].from_bin = rows.whole_from
    for side in sides:
        side.feed(None)
        _finish(side, recorded, options.grid_ms)
    return count


def _note_settled(
    predict: PredictStage, rows: Iterable[Features], from_bin: dict[str, int], *, is_from_start: bool
) -> None:
    """From which bin on nothing before the first row read can matter to a market's signals."""
    for row in rows:
        key = key_of(row.exchange, row.market)
        if key not in from_bin and (is_from_start or predict.states[key].is_settled(predict.window_rows)):
            from_bin[key] = row.bin_ms


def _finish(side: _Side, recorded: Recorded, grid_ms: int) -> None:
    oldest, newest = side.matcher.oldest, side.matcher.newest
    slack = SLACK_BINS * grid_ms
    # retention, or a stretch cut out of more: what was computed for before that has nothing to be held against
    is_cut_before = recorded.is_cut_before or recorded.spans.get(Slot(side.topic, recorded.partition), (0, 0))[0] > 0
    first = min(oldest.values(), default=2**62) + slack
    last = max(newest.values(), default=0) - slack * recorded.is_cut_after

    def why_no_record(item: Item) -> str:
        """A cut may go through the signals of one row: then its bin has others."""
        until = newest.get(item.group, 0) - recorded.is_cut_after
        if item.at > last and item.at > until:
            return NEWER
        return OLDER if is_cut_before and item.at < first and item.at <= oldest.get(item.group, 2**62) else ""

    def why_no_row(group: str, at: int, _append_ms: int) -> str:
        if recorded.is_from_start:
            return ""
        return NO_RAW if at < side.from_bin.get(group, 2**62) else ""

    side.matcher.finish(why_no_record, why_no_row)


# --- what the stages need -----------------------------------------------------------------------------------------


def options_of(manifest: RunManifest) -> StageOptions:
    """The stage's options as they were recorded."""
    return StageOptions(int(manifest.settings["grid.grid_ms"]), int(manifest.settings["grid.window_bins"]))


def predict_of(segment: Segment, events: Iterable[ModelEvent], home: Path) -> PredictStage:
    """The inference stage as it was recorded, with every model's turn; raises `ModelRefused`, `BadSettings`."""
    told = segment.manifest.settings
    feed = cast("Feed", told["feed.kind"])
    served = serve(told["predict.model"], feed, home)
    if told.get("serving", served.model.id) != served.model.id:
        raise ModelRefused(f"model {told['serving']} served, {served.model.id} would now")
    stage = PredictStage(feed, served, int(told["predict.window_rows"]), int(told["predict.windows_per_call"]))
    for event in events:
        if event.kind in {"promoted", "rolled-back"} and not told["predict.model"]:
            model = build(read(find(event.model_id, home)))
            stage.promote(event.effective_from_bin_ms, Served(model, refusals(model, feed)))
    return stage


def usable_events(events: Iterable[ModelEvent]) -> list[ModelEvent]:
    """Promotions that predict did not refuse."""
    known = list(events)
    refused = {(one.model_id, one.effective_from_bin_ms) for one in known if one.kind == "refused"}
    return [one for one in known if (one.model_id, one.effective_from_bin_ms) not in refused]
