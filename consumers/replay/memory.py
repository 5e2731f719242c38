"""Features and signals once more, in memory: raw records in, what the same stages make of them out.

Called by `observator replay memory`, the parity of a session and the bench. Memory is what the stages keep, whatever
the length of the history; nothing is read from a clock, and neither batch size nor number of workers changes a byte.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import islice

import msgspec

from consumers.predict_stage import PredictStage
from consumers.replay.conditions import Conditions
from infra.errors import BadSettings
from infra.log import Record, Slot
from models.forecast.artefact import read
from models.forecast.registry import build, find, refusals, serve
from streams import topics
from streams.history import History, merged
from streams.market import kernels
from streams.messages import Features, Message, ModelEvent, key_of
from streams.runner import options_of
from streams.stage import INPUTS, PartitionStage

Sink = Callable[[str, str, Message], None]
"""(topic, key, message): where a replay writes."""
Spans = Mapping[Slot, tuple[int, int]]
Promotion = tuple[int, str]
"""(first bin, id of the model)."""

_LEAD_BINS = 40
"""Bins that a stage may hold open, on both sides of a start."""


class Lane:
    """The stages of some partitions."""

    def __init__(
        self,
        conditions: Conditions,
        spans: Spans,
        promotions: Iterable[Promotion],
        sink: Sink,
        counts: Counter[str],
        since_ms: int,
    ) -> None:
        """What records appended before `since_ms` close is computed, and not handed on."""
        self._options = options_of(conditions.streams)
        self._since_ms = since_ms
        self._spans = spans
        self._sink = sink
        self._counts = counts
        self._stages: dict[int, PartitionStage] = {}
        self._whole: set[str] = set()
        self._predict = _predict_stage(conditions, promotions)

    def take(self, records: Iterable[Record]) -> None:
        """Fold records of its partitions, in order, and write what comes out."""
        early: list[Features] = []
        due: list[Features] = []
        for record in records:
            self._counts["records"] += 1
            try:
                message = topics.decode(record.topic, record.value)
            except msgspec.DecodeError:
                self._counts["unreadable records"] += 1  # a dead letter at the time
                continue
            stage = self._stages.get(record.partition) or self._stage(record.partition)
            rows = [row for row in stage.apply(record.topic, message) if self._is_whole(stage, row)]
            (early if record.append_ms < self._since_ms and not due else due).extend(rows)
        self._predict.on_rows(early)
        for row in due:
            self._sink("features", key_of(row.exchange, row.market), row)
        for signal in self._predict.on_rows(due):
            self._sink("signals", key_of(signal.exchange, signal.market), signal)
        self._predict.conflicts.clear()

    def _stage(self, partition: int) -> PartitionStage:
        starts = {topic: self._spans.get(Slot(topic, partition), (0, 0))[0] for topic in INPUTS}
        is_start = {topic: start == 0 for topic, start in starts.items()}
        stage = self._stages[partition] = PartitionStage(self._options, from_start=is_start)
        return stage

    def _is_whole(self, stage: PartitionStage, row: Features) -> bool:
        """Whether the row's run needs nothing from before the first record read; else live had more behind it."""
        key = key_of(row.exchange, row.market)
        if key in self._whole:
            return True
        if stage.is_whole(key):
            self._whole.add(key)
            return True
        self._counts["rows before the window was full"] += 1
        return False


def _predict_stage(conditions: Conditions, promotions: Iterable[Promotion]) -> PredictStage:
    settings = conditions.predict
    feed, home = settings.feed.kind, settings.home
    served = serve(conditions.serving or settings.predict.model, feed, home)
    stage = PredictStage(feed, served, settings.predict.window_rows, settings.predict.windows_per_call)
    for bin_ms, model_id in promotions:
        model = build(read(find(model_id, home)))
        stage.promote(bin_ms, type(served)(model, refusals(model, feed)))
    return stage


def promotions_of(history: History, conditions: Conditions) -> list[Promotion]:
    """Which models took over at which bin; none where the settings of the time name the model."""
    if conditions.predict.predict.model:
        return []
    found: list[Promotion] = []
    refused: set[Promotion] = set()
    for record in merged(history, history.spans(["model-events"])):
        try:
            event = topics.decode("model-events", record.value)
        except msgspec.DecodeError:
            continue
        if not isinstance(event, ModelEvent):
            continue
        one = (event.effective_from_bin_ms, event.model_id)
        if event.kind == "refused":
            refused.add(one)
        elif event.kind in {"promoted", "rolled-back"}:
            found.append(one)
    return [one for one in found if one not in refused]


def raw_spans(spans: Spans, partitions: Collection[int] | None = None) -> dict[Slot, tuple[int, int]]:
    """What of the spans the stages read."""
    return {
        slot: span
        for slot, span in spans.items()
        if slot.topic in INPUTS and (partitions is None or slot.partition in partitions)
    }


def run_features(
    history: History,
    spans: Spans,
    conditions: Conditions,
    sink: Sink,
    *,
    batch: int = 500,
    workers: int = 1,
    since_ms: int = 0,
    partitions: Collection[int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Counter[str]:
    """Run both stages over the raw records of `spans` and hand rows and signals to `sink`; gives counts.

    Where a partition's span does not begin at its first record ever, rows are given from the first one on whose whole
    window was read (`lead_ms` says how far before that is); and where `since_ms` is given, only those that a record
    appended at or after it closes. `workers` share the partitions, each with its own stages.
    """
    if batch < 1 or workers < 1:
        raise BadSettings("A replay needs a batch and a number of workers of at least 1.")
    kernels.warm_up()
    counts: Counter[str] = Counter()
    wanted, promotions = raw_spans(spans, partitions), promotions_of(history, conditions)
    lanes = [Lane(conditions, wanted, promotions, sink, counts, since_ms) for _ in range(workers)]
    source = merged(history, wanted)
    while records := list(islice(source, batch)):
        if workers == 1:
            lanes[0].take(records)
        else:
            for number, lane in enumerate(lanes):
                lane.take(record for record in records if record.partition % workers == number)
        if progress is not None:
            progress(counts["records"])
    return counts


def lead_ms(conditions: Conditions) -> int:
    """How much append time before a point must be read, for rows and signals from there on to be those of the time."""
    grid, predict = conditions.streams.grid, conditions.predict
    bins = grid.window_bins + predict.predict.window_rows + _LEAD_BINS
    return int(bins * grid.grid_ms / min(1.0, predict.feed.speed)) + grid.lateness_ms + 10_000
