"""The plain-loop runner of the feature stage, and the in-memory one: the same code over the two logs.

Reads `orderbooks` and `trades` in one group with co-partitioned assignments, writes `features`. At least once and
deterministic: offsets are committed only after the rows are acknowledged, and a restart writes equal duplicates.
"""

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable

import msgspec

from infra.log import GroupReader, Log, Publisher, Record, Slot
from infra.settings import Settings
from streams import topics
from streams.messages import DeadLetter, Features, encode, key_of
from streams.restart import read_range, restore
from streams.stage import INPUTS, PartitionStage, StageOptions

logger = logging.getLogger(__name__)

GROUP = "features"
_COMMIT_EVERY_S = 1.0
_REPORT_EVERY_S = 60.0


class FeatureStage:
    """The stage over the partitions owned now: state per partition, dropped when revoked, rebuilt when met again.

    Only offset last + 1 is applied: smaller ones are passed over, a jump is read in from the log.
    """

    def __init__(self, log: Log, group: str, options: StageOptions) -> None:
        self._log = log
        self._group = group
        self._options = options
        self._stages: dict[int, PartitionStage] = {}
        self._next: dict[Slot, int] = {}
        self.dead: list[tuple[Record, str]] = []
        self.skipped = 0

    def drop(self, partitions: Iterable[int]) -> None:
        """Forget the state of revoked partitions."""
        for partition in partitions:
            self._stages.pop(partition, None)
            for topic in INPUTS:
                self._next.pop(Slot(topic, partition), None)

    def apply(self, record: Record) -> list[Features]:
        """Fold one record; return the rows to write."""
        rows: list[Features] = []
        if record.partition not in self._stages:
            rows += self._restore(record.partition)
        slot = Slot(record.topic, record.partition)
        expected = self._next[slot]
        if record.offset < expected:
            self.skipped += 1
            return rows
        if record.offset > expected:
            for missed in read_range(self._log, slot, expected, record.offset):
                rows += self._fold(missed)
        return rows + self._fold(record)

    def positions(self) -> dict[Slot, int]:
        """Next offset of every input partition with state."""
        return dict(self._next)

    def counts(self) -> dict[str, int]:
        """Records used and not used, by topic and reason, over the partitions owned now."""
        total: Counter[str] = Counter()
        for stage in self._stages.values():
            total.update(stage.counts())
        return dict(total)

    def _restore(self, partition: int) -> list[Features]:
        committed = self._log.committed(self._group, [Slot(topic, partition) for topic in INPUTS])
        restored = restore(self._log, partition, {slot.topic: n for slot, n in committed.items()}, self._options)
        self._stages[partition] = restored.stage
        self._next.update({Slot(topic, partition): offset for topic, offset in restored.positions.items()})
        return restored.repeated

    def _fold(self, record: Record) -> list[Features]:
        self._next[record.slot] = record.offset + 1
        try:
            message = topics.decode(record.topic, record.value)
        except msgspec.DecodeError as error:
            self.dead.append((record, str(error)))
            return []
        return self._stages[record.partition].apply(record.topic, message)


def dead_letter(record: Record, reason: str, process: str) -> bytes:
    """The dead letter of a record that could not be processed."""
    letter = DeadLetter.of(process, record.topic, record.partition, record.offset, record.key, reason, record.value)
    return encode(letter)


def options_of(settings: Settings) -> StageOptions:
    """What the stage needs of the settings."""
    return StageOptions(settings.grid.grid_ms, settings.grid.window_bins)


def run(settings: Settings, log: Log, stop: threading.Event) -> None:
    """Run the stage as one plain loop until `stop` is set; its member name keeps its partitions over a restart."""
    worker = os.environ.get("OBSERVATOR_WORKER", "0")
    FeatureLoop(log, options_of(settings), instance=f"features-{worker}", batch=settings.streams.batch).run(stop)


class FeatureLoop:
    """One worker: a group reader, the stage and a publisher."""

    def __init__(
        self,
        log: Log,
        options: StageOptions,
        *,
        instance: str | None = None,
        batch: int = 500,
        linger_ms: float = 1.0,
        group: str = GROUP,
    ) -> None:
        self.stage = FeatureStage(log, group, options)
        self._batch = batch
        self._reader: GroupReader = log.group_reader(
            group, INPUTS, instance=instance, on_assigned=self._on_assigned, on_revoked=self._on_revoked
        )
        self._publisher: Publisher = log.publisher(linger_ms=linger_ms)
        self._dirty = False
        self.rows = 0

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set, then write, commit and leave."""
        committed_at = reported_at = time.monotonic()
        try:
            while not stop.is_set():
                self.step(0.1)
                now = time.monotonic()
                if now - committed_at >= _COMMIT_EVERY_S:
                    self.commit()
                    committed_at = now
                if now - reported_at >= _REPORT_EVERY_S:
                    logger.info("rows %d, %s", self.rows, self.stage.counts())
                    reported_at = now
            self.commit()
        finally:
            self.close()

    def close(self) -> None:
        """Leave the group and let go of the publisher; what is not committed is done again by whoever comes next."""
        self._publisher.close()
        self._reader.close()

    def step(self, timeout_s: float) -> int:
        """Read one batch, fold it, queue its rows; returns the number of records read."""
        records = self._reader.read(self._batch, timeout_s)
        for record in records:
            for row in self.stage.apply(record):
                self._publisher.publish("features", key_of(row.exchange, row.market), encode(row))
                self.rows += 1
        for record, reason in self.stage.dead:
            logger.warning("dead letter: %s/%d/%d: %s", record.topic, record.partition, record.offset, reason)
            self._publisher.publish("dead-letters", "streams", dead_letter(record, reason, "streams"))
        self.stage.dead.clear()
        self._dirty = self._dirty or bool(records)
        return len(records)

    def commit(self) -> None:
        """Wait until everything written is acknowledged, then commit the positions."""
        if self._dirty:
            self._publisher.flush()
            self._reader.commit(self.stage.positions())
            self._dirty = False

    def _on_assigned(self, slots: frozenset[Slot]) -> None:
        logger.info("partitions assigned: %s", sorted({slot.partition for slot in slots}))

    def _on_revoked(self, slots: frozenset[Slot]) -> None:
        if self._dirty:
            self._publisher.flush()
            self._reader.commit(self.stage.positions())
            self._dirty = False
        self.stage.drop({slot.partition for slot in slots})
