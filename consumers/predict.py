"""The process that turns `features` into `signals`: reads all partitions, keeps its own offsets, writes what it says.

At least once and deterministic: a restart rebuilds every market's rows from before the committed offset, stays silent
up to it, then writes equal duplicates. Forecasts are made in `predict_stage` and `models`; nothing is decided here.
"""

import contextlib
import logging
import threading
import time
from importlib import metadata
from pathlib import Path

import msgspec

from consumers.predict_stage import MarketState, PredictStage, states_of
from infra.catch_up import read_range
from infra.errors import BadSettings, DeliveryPending, Retry
from infra.log import Log, Publisher, Reader, Record, Slot, slots_of
from infra.manifest import as_fields, file_hash, make_manifest
from infra.settings import Settings
from infra.watchdog import Watchdog
from models.forecast import linear
from models.forecast.artefact import ModelRefused, read
from models.forecast.registry import Served, build, find, refusals, serve
from streams import topics
from streams.messages import DeadLetter, Features, ModelEvent, Refusals, RunManifest, encode, key_of

logger = logging.getLogger(__name__)

GROUP = "predict"
FEATURES, SIGNALS, MODEL_EVENTS = "features", "signals", "model-events"
_EVENTS_SLOT = Slot(MODEL_EVENTS, 0)
_BATCH = 2_000
_FIRST_DEPTH = 16
"""Rows per market and row kept that a restart reads back at first."""
_COMMIT_EVERY_S = 1.0
_REPORT_EVERY_S = 60.0
_RETRY_AFTER_S = 1.0
_FLUSH_S = 5.0
_PATIENCE_S = 1.0
"""How long a record may lie unread before that counts as being stuck."""


def run(settings: Settings, log: Log, stop: threading.Event) -> None:
    """Predict until `stop` is set. Raises `ModelRefused` at once when the named model may not be used on this feed."""
    while not stop.is_set():
        try:
            with contextlib.closing(PredictLoop.of(settings, log)) as loop:
                loop.tell(manifest_of(settings, loop.stage.served.model.id))
                loop.run(stop)
        except Retry as error:
            logger.warning("predict starts over: %s", error)
            stop.wait(_RETRY_AFTER_S)


def manifest_of(settings: Settings, model_id: str) -> RunManifest:
    """What this run's signals depend on."""
    root = Path(__file__).resolve().parent.parent
    content = settings.model_dump(mode="json") | {"serving": model_id}
    manifest = make_manifest(
        "predict",
        content,
        started_ms=time.time_ns() // 1_000_000,
        root=root,
        kernel_hash=file_hash(Path(linear.__file__)),
        backend=f"numba {metadata.version('numba')}",
    )
    return RunManifest(**as_fields(manifest))


class PredictLoop:
    """The stage between the log's topics. `step` handles what is there; `commit` makes it final."""

    def __init__(
        self, log: Log, stage: PredictStage, home: Path, *, is_pinned: bool = False, group: str = GROUP
    ) -> None:
        self.stage = stage
        self._log = log
        self._home = home
        self._is_pinned = is_pinned
        self._group = group
        self._publisher: Publisher = log.publisher(linger_ms=1.0)
        self._refused: set[tuple[str, int]] = set()
        self._refusing: list[ModelEvent] = []
        self._events_next: dict[Slot, int] = {}
        self._next: dict[Slot, int] = {}
        self._starts: dict[Slot, int] = {}
        self._begins: dict[Slot, int] = {}
        self._looked: set[str] = set()
        self._is_dirty = False
        self._reported: dict[str, int] = {}
        self._reader: Reader = self._open()

    @classmethod
    def of(cls, settings: Settings, log: Log) -> "PredictLoop":
        """Build the loop from the settings; raises `ModelRefused`, `BadSettings`."""
        served = serve(settings.predict.model, settings.feed.kind, settings.home)
        stage = PredictStage(
            settings.feed.kind, served, settings.predict.window_rows, settings.predict.windows_per_call
        )
        logger.info("model %s (%s) serves the %s feed", served.model.name, served.model.id, settings.feed.kind)
        return cls(log, stage, settings.home, is_pinned=bool(settings.predict.model))

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set, then commit."""
        watchdog = Watchdog(self.behind)
        watchdog.start()
        try:
            self._work(watchdog, stop)
        finally:
            watchdog.stop()
        self.report()
        self.commit()

    def _work(self, watchdog: Watchdog, stop: threading.Event) -> None:
        committed_at = reported_at = time.monotonic()
        while not stop.is_set():
            if self.step(0.1):
                watchdog.progress()
            watchdog.beat()
            now = time.monotonic()
            if now - committed_at >= _COMMIT_EVERY_S:
                self.commit()
                committed_at = now
            if now - reported_at >= _REPORT_EVERY_S:
                self.report()
                reported_at = now

    def behind(self) -> str | None:
        """What could be read for a while but is not, for the watchdog."""
        ends = {slot: end for slot, (_, end) in self._log.bounds(dict(self._next)).items()}
        before = dict(self._next)
        time.sleep(_PATIENCE_S)
        for slot, end in ends.items():
            if before[slot] == self._next[slot] < end:
                return f"{slot.topic}-{slot.partition}: next is {before[slot]}, the end is {end}"
        return None

    def step(self, timeout_s: float) -> int:
        """Read what is there, write its signals; returns the number of records read."""
        records = self._reader.read(_BATCH, timeout_s)
        rows: list[Features] = []
        for record in records:
            if record.topic == MODEL_EVENTS:
                self._follow(record)
                continue
            self._next[record.slot] = record.offset + 1
            row = self._row(record)
            if row is not None:
                self._look_back(record.slot, row)
                rows.append(row)
        for signal in self.stage.on_rows(rows):
            self._publisher.publish(SIGNALS, key_of(signal.exchange, signal.market), encode(signal))
        for row in self.stage.conflicts:
            logger.error("a second, different row of %s at %d was ignored", row.market, row.bin_ms)
        self.stage.conflicts.clear()
        self._is_dirty = self._is_dirty or bool(records)
        return len(records)

    def commit(self) -> None:
        """Make sure that all signals are acknowledged, then commit; waits for the next turn where they are not yet."""
        if not self._is_dirty:
            return
        try:
            self._publisher.flush(_FLUSH_S)
        except DeliveryPending:
            logger.warning("signals are not acknowledged yet")
            return
        if self._next or self._events_next:
            self._log.commit(self._group, self._next | self._events_next)
        self._is_dirty = False

    def tell(self, manifest: RunManifest) -> None:
        """Open this run in the log."""
        self._publisher.publish("manifests", manifest.process, encode(manifest))
        self._is_dirty = True

    def report(self) -> None:
        """Tell people how often there was no signal and why, where that changed."""
        counts = dict(self.stage.counts)
        if counts != self._reported:
            self._reported = counts
            message = Refusals(process="predict", counts=counts, event_ms=self.stage.newest_bin_ms)
            self._publisher.publish(MODEL_EVENTS, "", encode(message))
            self._is_dirty = True

    def close(self) -> None:
        """Let go of reader and publisher."""
        self._reader.close()
        self._publisher.close()

    # --- restart --------------------------------------------------------------------------------------------------

    def _open(self) -> Reader:
        """Read model events to their end, rebuild every market's rows, and stand at the committed offsets."""
        events_end = self._log.bounds([_EVENTS_SLOT])[_EVENTS_SLOT]
        self._events_next = self._log.committed(self._group, [_EVENTS_SLOT])
        for record in read_range(self._log, {_EVENTS_SLOT: events_end[0]}, {_EVENTS_SLOT: events_end[1]}):
            self._follow(record, is_history=True)
        self._events_next = {_EVENTS_SLOT: events_end[1]}
        self._tell_refused()
        slots = slots_of(self._log, [FEATURES])
        committed = self._log.committed(self._group, slots)
        starts = {_EVENTS_SLOT: events_end[1]}
        for slot, (begin, end) in self._log.bounds(slots).items():
            start = committed.get(slot, begin)
            if not begin <= start <= end:
                logger.error("%s/%d: offset %d is not kept, starting at %d", *slot, start, begin)
                start = begin
            starts[slot] = self._starts[slot] = self._next[slot] = start
            self._begins[slot] = begin
            self.stage.adopt(self._states_before(slot))
        return self._log.reader(starts)

    def _states_before(self, slot: Slot, market: str | None = None) -> dict[str, MarketState]:
        """State of a partition's markets (or of one) at its start: reads back, doubling, until all are settled."""
        begin, start = self._begins[slot], self._starts[slot]
        depth = _FIRST_DEPTH * self.stage.window_rows
        while True:
            first = max(begin, start - depth)
            rows = (self._row(record, is_known=True) for record in read_range(self._log, {slot: first}, {slot: start}))
            wanted = (row for row in rows if row is not None and market in {None, key_of(row.exchange, row.market)})
            states = states_of(wanted, self.stage.window_rows)
            is_found = market is None or market in states
            if first == begin or (is_found and all(s.is_settled(self.stage.window_rows) for s in states.values())):
                return states
            depth *= 2

    def _look_back(self, slot: Slot, row: Features) -> None:
        """Read deeper for a market whose first row here is not its run's first and that the restart did not meet."""
        key = key_of(row.exchange, row.market)
        if key in self._looked or key in self.stage.states:
            return
        self._looked.add(key)
        if row.n_bins > 1 and self._begins[slot] < self._starts[slot]:
            self.stage.adopt(self._states_before(slot, key))

    def _row(self, record: Record, *, is_known: bool = False) -> Features | None:
        """Decode a row; an unreadable one becomes a dead letter (once, when it is first met)."""
        try:
            row: Features = topics.decode(FEATURES, record.value)
        except msgspec.DecodeError as error:
            if not is_known:
                self._bury(record, str(error))
            return None
        return row

    def _bury(self, record: Record, reason: str) -> None:
        logger.warning("dead letter: %s/%d/%d: %s", record.topic, record.partition, record.offset, reason)
        letter = DeadLetter.of(
            "predict", record.topic, record.partition, record.offset, record.key, reason, record.value
        )  # fmt: skip
        self._publisher.publish("dead-letters", "predict", encode(letter))
        self._is_dirty = True

    # --- models ---------------------------------------------------------------------------------------------------

    def _follow(self, record: Record, *, is_history: bool = False) -> None:
        """Heed a promotion or a roll-back; a model that cannot serve is refused, once, and the old one stays."""
        try:
            event: ModelEvent | Refusals = topics.decode(MODEL_EVENTS, record.value)
        except msgspec.DecodeError as error:
            if record.offset >= self._events_next.get(record.slot, 0):
                self._bury(record, str(error))
            return
        finally:
            if not is_history:
                self._events_next[record.slot] = record.offset + 1
        if isinstance(event, Refusals):
            return
        if event.kind == "refused":
            self._refused.add((event.model_id, event.effective_from_bin_ms))
        if event.kind not in {"promoted", "rolled-back"} or self._is_pinned:
            return
        try:
            model = build(read(find(event.model_id, self._home)))
            self.stage.promote(event.effective_from_bin_ms, Served(model, refusals(model, self.stage.feed)))
        except (ModelRefused, BadSettings) as error:
            logger.error("model %s is not promoted: %s", event.model_id, error)  # noqa: TRY400 the sentence says it all
            self._refusing.append(msgspec.structs.replace(event, kind="refused", text=str(error)))
        if not is_history:
            self._tell_refused()

    def _tell_refused(self) -> None:
        for event in self._refusing:
            if (event.model_id, event.effective_from_bin_ms) not in self._refused:
                self._refused.add((event.model_id, event.effective_from_bin_ms))
                self._publisher.publish(MODEL_EVENTS, "", encode(event))
        self._refusing.clear()
