"""`observator verify replay`: a disturbed session of a million records, replayed three times, and nothing differs.

In memory from the log in several batch sizes and numbers of workers, in memory from the archive, and into Kafka at
other speeds with other workers. The control alters one byte of one record, and shows the first difference.
"""

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from consumers.replay.conditions import Conditions, segments_of
from consumers.replay.decisions import run_decisions
from consumers.replay.memory import run_features
from consumers.verify.deployment import Deployment, deployment
from consumers.verify.processes import insist
from consumers.verify.replay_copy import BATCH, WORKERS, Copy
from consumers.verify.replay_outputs import OUTPUTS, Outputs, Part
from consumers.verify.replay_session import FULL, QUICK, Session, described
from consumers.verify.session import EQUAL, report_of
from consumers.verify.session import Session as Parity
from infra.figures import result_of
from infra.log import Record, Slot
from infra.settings import Settings
from streams import topics
from streams.history import History, LogHistory
from streams.messages import OrderBook
from streams.stage import INPUTS

Fills = Callable[[History, Path, str], tuple[int, int, str]]
"""(history, journal, prefix): how many paper fills were made again, how many differ, and the first of these."""
WAYS = ((1, 2), (7, 4), (500, 1))
QUICK_WAYS = ((7, 4),)
"""Batch and workers of the replays in memory."""
_STAGES, _DECISIONS = "replay-stages-", "replay-decisions-"
_RAW = ("orderbooks", "trades", "markets", "manifests", "model-events", "feed-events")
_DECIDED = (
    "controls", "markets", "order-events", "features", "quotes", "signals", "trade-inputs", "manifests", "model-events",
)  # fmt: skip
_SPEED = 8.0
_PATIENCE_S = 120.0
_MARK = b'"bid_sizes":[0.'


class PatientHistory(LogHistory):
    """A log whose broker may not answer for a moment, on a machine that has much else to do."""

    def spans(self, topics: Iterable[str]) -> dict[Slot, tuple[int, int]]:
        """See `LogHistory.spans`."""
        wanted = list(topics)
        return insist(lambda: LogHistory.spans(self, wanted), _PATIENCE_S, "the log's bounds")


class Check:
    """One run of the check."""

    def __init__(self, running: Deployment, *, quick: bool, fills: Fills | None) -> None:
        self._running = running
        self._settings: Settings = running.settings
        self._size = QUICK if quick else FULL
        self._quick = quick
        self._fills = fills
        self._log = PatientHistory(running.log)
        self.figures: dict[str, float] = {}
        self.conditions: dict[str, object] = {}
        self.differences: list[dict[str, Any]] = []
        self.is_met = True

    def run(self) -> None:
        """Everything, in order."""
        session = Session(self._running, self._size)
        session.play(_tell)
        self.figures |= session.figures()
        _tell("the archive")
        archive = session.archive()
        self._need("session: records", self._size.at_least)
        for name in ("session: holes", "session: paper fills", "session: kills", "session: rebalances"):
            self._need(name, 1)
        self._parity()
        recorded = self._recorded(self._log)
        conditions = self._conditions()
        for batch, workers in QUICK_WAYS if self._quick else WAYS:
            self._in_memory(
                self._log, recorded, conditions, f"memory, log, batch {batch}, {workers} workers", batch, workers
            )
        self._in_memory(archive, recorded, conditions, "memory, archive, batch 500, 2 workers", 500, 2)
        self._stages_in_kafka(recorded)
        self._decisions_in_kafka(recorded, conditions)
        for name, history in (("log", self._log), ("archive", archive)):
            self._paper_fills(history, session.journal, name)
        self._control()

    # --- what was recorded ----------------------------------------------------------------------------------------

    def _parity(self) -> None:
        """`verify parity --session` over it."""
        _tell("parity of the session")
        found = Parity(self._log, self._settings, now=None, is_closed=True).compare()
        report = report_of(self._log, found)
        self.figures |= {f"parity {name}": value for name, value in found.figures().items()}
        self.conditions["parity"] = found.verdict
        self.differences += report["differences"]
        self.is_met = self.is_met and found.verdict == EQUAL

    def _recorded(self, history: History) -> Outputs:
        outputs = Outputs()
        for slot, span in history.spans(OUTPUTS).items():
            for record in history.read(slot, *span):
                outputs.take(slot.topic, record.key, topics.decode(slot.topic, record.value))
        for topic in OUTPUTS:
            self.figures[f"recorded: {topic if topic != 'order-events' else 'vetoes'}"] = len(outputs.found[topic])
        self._zero("recorded: repetitions that are not equal", outputs.conflicts)
        return outputs

    def _conditions(self) -> Conditions:
        segments = segments_of(self._log, self._settings)
        self.figures["manifest segments"] = len(segments)
        return segments[-1].conditions

    # --- the replays ----------------------------------------------------------------------------------------------

    def _in_memory(
        self, history: History, recorded: Outputs, conditions: Conditions, label: str, batch: int, workers: int
    ) -> None:
        _tell(label)
        began, outputs = time.monotonic(), Outputs()
        spans = history.spans([*INPUTS, "trade-inputs"])
        run_features(history, spans, conditions, outputs.take, batch=batch, workers=workers)
        run_decisions(history, spans, conditions, outputs.take)
        self._held(label, outputs, recorded, time.monotonic() - began)

    def _stages_in_kafka(self, recorded: Outputs) -> None:
        """The raw records once more into Kafka, with the real processes on them, more of them and in other batches."""
        speed = "as fast as possible" if self._quick else f"speed {_SPEED:g}"
        label = f"Kafka, {speed}, {WORKERS} workers, batch {BATCH}"
        _tell(label)
        began = time.monotonic()
        with self._copied(_STAGES, _RAW, None if self._quick else _SPEED, with_stages=True) as log:
            outputs = Outputs()
            history = LogHistory(log)
            for slot, span in history.spans(("features", "signals")).items():
                for record in history.read(slot, *span):
                    outputs.take(slot.topic, record.key, topics.decode(slot.topic, record.value))
            self._held(label, outputs, recorded, time.monotonic() - began, ("features", "signals"))

    def _decisions_in_kafka(self, recorded: Outputs, conditions: Conditions) -> None:
        """What trade took once more into Kafka, with new offsets, and folded from there."""
        label = "Kafka, as fast as possible, decisions"
        _tell(label)
        began = time.monotonic()
        with self._copied(_DECISIONS, _DECIDED, None, with_stages=False) as log:
            outputs, history = Outputs(), LogHistory(log)
            run_decisions(history, history.spans(["trade-inputs"]), conditions, outputs.take)
            self._held(label, outputs, recorded, time.monotonic() - began, ("order-intents", "order-events"))

    def _copied(self, prefix: str, names: tuple[str, ...], speed: float | None, *, with_stages: bool) -> Copy:
        return Copy(self._running, self._log, prefix, names, speed, with_stages=with_stages)

    def _held(
        self, label: str, outputs: Outputs, recorded: Outputs, seconds: float, names: tuple[str, ...] = OUTPUTS
    ) -> None:
        self.figures[f"{label}: compared"] = sum(len(recorded.found[name]) for name in names)
        self.figures[f"{label}: seconds"] = round(seconds, 1)
        self._zero(f"{label}: differing", outputs.differing(recorded, names))
        self._zero(f"{label}: repetitions that are not equal", outputs.conflicts)

    def _paper_fills(self, history: History, journal: Path, name: str) -> None:
        if self._fills is None:
            self.conditions["paper fills"] = "not replayed: no sandbox room was handed in"
            self.is_met = False
            return
        count, differing, first = self._fills(history, journal, "")
        self.figures[f"paper fills, {name}: compared"] = count
        self._zero(f"paper fills, {name}: differing", differing)
        self.is_met = self.is_met and count > 0
        if first:
            self.conditions[f"first differing fill, {name}"] = first

    def _control(self) -> None:
        """Alter one byte of one book, and show what parity says of it."""
        _tell("the control: one byte altered")
        altered = self._altered()
        part = Part(self._log, altered)
        found = Parity(part, self._settings, now=None, is_closed=True).compare()
        differences = report_of(part, found)["differences"]
        self.figures["control: differing after one altered byte"] = sum(
            one.total.wrong for one in found.topics.values()
        )
        self.conditions["control: altered"] = f"{altered.topic}/{altered.partition} offset {altered.offset}"
        self.differences += [{"control": True, **one} for one in differences[:1]]
        self.is_met = self.is_met and bool(differences) and _names_it(differences[0], altered)

    def _altered(self) -> Record:
        """The last book of a bin that gave a row, from the middle, with one digit of its best bid's size changed."""
        rows, grid_ms = self._bins_with_books(), self._settings.grid.grid_ms
        last: dict[str, tuple[int, Record]] = {}
        for slot, (first, end) in self._log.spans(["orderbooks"]).items():
            for record in self._log.read(slot, first + (end - first) // 2, end):
                book = topics.decode("orderbooks", record.value)
                if not isinstance(book, OrderBook):
                    continue
                index, before = last.get(book.market, (0, record))
                last[book.market] = (book.exchange_ms // grid_ms, record)
                if book.exchange_ms // grid_ms == index + 1 and (book.market, index) in rows and _MARK in before.value:
                    return with_another_digit(before)
        raise RuntimeError("the session has no bin whose last book could be altered")

    def _bins_with_books(self) -> set[tuple[str, int]]:
        found = set()
        for slot, span in self._log.spans(["features"]).items():
            for record in self._log.read(slot, *span):
                row = topics.decode("features", record.value)
                if row.n_books:
                    found.add((row.market, row.bin_ms // row.grid_ms - 1))
        return found

    def _zero(self, name: str, value: int) -> None:
        self.figures[name] = value
        self.is_met = self.is_met and not value

    def _need(self, name: str, at_least: int) -> None:
        self.is_met = self.is_met and self.figures[name] >= at_least


def with_another_digit(record: Record) -> Record:
    """One digit of the best bid's size changed."""
    at = record.value.index(_MARK) + len(_MARK)
    digit = b"7" if record.value[at : at + 1] != b"7" else b"3"
    return record._replace(value=record.value[:at] + digit + record.value[at + 1 :])


def _names_it(difference: Mapping[str, Any], altered: Record) -> bool:
    """Whether a difference's lineage leads to the altered record."""
    return any(altered.offset in link.get("offsets", ()) for link in difference["lineage"])


def _tell(text: str) -> None:
    print(f"{text} ...", file=sys.stderr)


def verify_replay(*, quick: bool = False, fills: Fills | None = None) -> dict[str, object]:
    """Make the session and replay it; passes where nothing differs, and the control does."""
    size = QUICK if quick else FULL
    with deployment(described(size)) as running:
        check = Check(running, quick=quick, fills=fills)
        check.run()
    conditions = {"quick": quick, **size._asdict(), **check.conditions}
    result = result_of("replay", check.figures, conditions, passed=check.is_met)
    return result | {"differences": check.differences}
