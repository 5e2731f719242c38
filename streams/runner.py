"""The plain-loop runner of the feature stage, and the in-memory one: the same code over the two logs.

Reads `orderbooks` and `trades` in one group with co-partitioned assignments, writes `features`. At least once and
deterministic: offsets are committed only after the rows are acknowledged, and a restart writes equal duplicates.
"""

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable

import msgspec

from infra.catch_up import read_range
from infra.handler import Handler, Output, Pace
from infra.log import Log, Publisher, Record, Slot
from infra.loop import ConsumerLoop
from infra.settings import Settings
from streams import topics
from streams.market import kernels
from streams.messages import DeadLetter, Features, encode, key_of
from streams.restart import restore
from streams.stage import INPUTS, PartitionStage, StageOptions

logger = logging.getLogger(__name__)

GROUP = "features"
_COMMIT_EVERY_S = 1.0
_REPORT_EVERY_S = 60.0


class FeatureStage:
    """The stage over the partitions owned now: state per partition, dropped when revoked, rebuilt when met again.

    Only offset last + 1 is applied: smaller ones are passed over, a jump is read in from the log.
    """

    def __init__(self, log: Log, group: str, options: StageOptions, beat: Callable[[], None] | None = None) -> None:
        kernels.warm_up()
        self._log = log
        self._group = group
        self._options = options
        self.beat = beat or _no_beat
        """Called while a state is rebuilt, so that a watchdog knows that it goes on."""
        self._stages: dict[int, PartitionStage] = {}
        self._next: dict[Slot, int] = {}
        self._owed: dict[int, list[Features]] = {}
        self.dead: list[tuple[Record, str]] = []
        self.skipped = 0

    def drop(self, partitions: Iterable[int]) -> None:
        """Forget the state of revoked partitions."""
        for partition in partitions:
            self._stages.pop(partition, None)
            self._owed.pop(partition, None)
            for topic in INPUTS:
                self._next.pop(Slot(topic, partition), None)

    def apply(self, record: Record) -> list[Features]:
        """Fold one record; return the rows to write.

        May be called again with the same record after a `Retry`: rows made before it are owed, and come with the rest.
        """
        slot = record.slot
        owed = self._owed.get(record.partition)
        if not owed and self._next.get(slot) == record.offset:
            return self._fold(record, slot)
        if owed is None:
            owed = self._owed[record.partition] = []
        if record.partition not in self._stages:
            self._restore(record.partition, owed)
        expected = self._next[slot]
        if record.offset < expected:
            self.skipped += 1
        else:
            if record.offset > expected:
                for missed in read_range(self._log, {slot: expected}, {slot: record.offset}):
                    owed += self._fold(missed, missed.slot)
            owed += self._fold(record, slot)
        self._owed[record.partition] = []
        return owed

    def counts(self) -> dict[str, int]:
        """Records used and not used, by topic and reason, over the partitions owned now."""
        total: Counter[str] = Counter()
        for stage in self._stages.values():
            total.update(stage.counts())
        return dict(total)

    def _restore(self, partition: int, owed: list[Features]) -> None:
        """Rebuild a partition; what was committed but lies after the rebuilt position is folded (and written) at once.

        The reader will not bring those records again, and a later commit would pass over their rows.
        """
        slots = [Slot(topic, partition) for topic in INPUTS]
        committed = self._log.committed(self._group, slots)
        by_topic = {slot.topic: offset for slot, offset in committed.items()}
        restored = restore(self._log, partition, by_topic, self._options, self.beat)
        self._stages[partition] = restored.stage
        self._next.update({Slot(topic, partition): offset for topic, offset in restored.positions.items()})
        owed += restored.repeated
        for slot, offset in committed.items():
            if offset > self._next[slot]:
                for missed in read_range(self._log, {slot: self._next[slot]}, {slot: offset}):
                    owed += self._fold(missed, missed.slot)

    def _fold(self, record: Record, slot: Slot) -> list[Features]:
        self._next[slot] = record.offset + 1
        try:
            message = topics.decode(record.topic, record.value)
        except msgspec.DecodeError as error:
            self.dead.append((record, str(error)))
            return []
        return self._stages[record.partition].apply(record.topic, message)


def _no_beat() -> None:
    """Nobody watches."""


def dead_letter(record: Record, reason: str, process: str) -> bytes:
    """The dead letter of a record that could not be processed."""
    letter = DeadLetter.of(process, record.topic, record.partition, record.offset, record.key, reason, record.value)
    return encode(letter)


def _dead(record: Record, reason: str) -> Output:
    return Output("dead-letters", "streams", dead_letter(record, reason, "streams"))


def options_of(settings: Settings) -> StageOptions:
    """What the stage needs of the settings."""
    return StageOptions(settings.grid.grid_ms, settings.grid.window_bins)


def outputs_of(stage: FeatureStage, record: Record) -> list[Output]:
    """Fold one record and say what is to be written for it: rows, and dead letters for what cannot be read."""
    rows = stage.apply(record)
    outputs = [Output("features", key_of(row.exchange, row.market), encode(row)) for row in rows]
    for unread, reason in stage.dead:
        logger.warning("dead letter: %s/%d/%d: %s", unread.topic, unread.partition, unread.offset, reason)
        outputs.append(_dead(unread, reason))
    stage.dead.clear()
    return outputs


class FeatureHandler(Handler):
    """The stage as the consumer loop wants it."""

    def __init__(self, stage: FeatureStage) -> None:
        self.stage = stage
        self._reported_s = time.monotonic()

    def handle(self, record: Record) -> Iterable[Output]:
        """Fold one record."""
        return outputs_of(self.stage, record)

    def finish(self) -> Iterable[Output]:
        """Say once a minute what was used and what was not."""
        now = time.monotonic()
        if now - self._reported_s >= _REPORT_EVERY_S:
            logger.info("records: %s", self.stage.counts())
            self._reported_s = now
        return ()

    def assigned(self, slots: frozenset[Slot]) -> None:
        """State is built when the first record comes."""
        logger.debug("assigned %s", slots)

    def drop(self, slots: frozenset[Slot]) -> None:
        """Forget revoked partitions."""
        self.stage.drop({slot.partition for slot in slots})


def run(settings: Settings, log: Log, stop: threading.Event) -> None:
    """Run the stage as one plain loop until `stop` is set; its member name keeps its partitions over a restart."""
    worker = os.environ.get("OBSERVATOR_WORKER", "0")
    FeatureLoop(log, options_of(settings), instance=f"features-{worker}", batch=settings.streams.batch, stop=stop).run()


class FeatureLoop:
    """One worker: the consumer loop, the stage and a publisher."""

    def __init__(
        self,
        log: Log,
        options: StageOptions,
        *,
        instance: str | None = None,
        batch: int = 500,
        stop: threading.Event | None = None,
        poll_s: float = 0.1,
    ) -> None:
        self.stage = FeatureStage(log, GROUP, options)
        self._publisher: Publisher = log.publisher(linger_ms=1)
        self._loop = ConsumerLoop(
            log,
            GROUP,
            INPUTS,
            FeatureHandler(self.stage),
            publisher=self._publisher,
            dead_letter=lambda record, reason: Output(
                "dead-letters", "streams", dead_letter(record, reason, "streams")
            ),
            stop=stop or threading.Event(),
            instance=instance,
            pace=Pace(batch=batch, poll_s=poll_s, commit_every_s=_COMMIT_EVERY_S),
        )
        self.stage.beat = self._loop.watchdog.beat

    def run(self) -> None:
        """Work until asked to stop, then write, commit and leave."""
        try:
            self._loop.run()
        finally:
            self._publisher.close()

    def step(self) -> int:
        """Deal with one batch; returns the number of records read."""
        return self._loop.turn()

    def commit(self) -> None:
        """Wait until everything written is acknowledged, then commit."""
        self._loop.settle()

    def vanish(self) -> None:
        """Go without a commit, as a killed process does; for tests and checks."""
        self._loop.abandon()
        self._publisher.close()
