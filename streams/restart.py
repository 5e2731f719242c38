"""The restart rule of the feature stage: a partition's state from the log, exactly as if it had never stopped.

Called by the runners on the first record of a partition they hold no state for. The runs come back from the tail of
`features`, whose records carry each closed bin's own sums; what is open comes back from the raw records of a few bins
before the position. Every row that this computes again must equal the one in the log, else it reads deeper. Nothing
is written here but the last two rows of each market, which are equal duplicates.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from infra.catch_up import read_range
from infra.log import Log, Record, Slot
from streams import topics
from streams.market.bins import AHEAD
from streams.market.features import SCHEMA
from streams.messages import Features, hash_of, key_of
from streams.stage import INPUTS, History, PartitionStage, StageOptions

logger = logging.getLogger(__name__)

_FIRST_DEPTH = 1_000
_FIRST_TAIL = 2_000
_REPEATED = 2
_BEAT_EVERY = 500


@dataclass(slots=True)
class Restored:
    """A partition's state at `positions` (next offset per topic), and the rows to write again."""

    stage: PartitionStage
    positions: dict[str, int]
    repeated: list[Features]


def restore(
    log: Log, partition: int, committed: Mapping[str, int], options: StageOptions, beat: Callable[[], None]
) -> Restored:
    """Rebuild the state of `partition` as of the `committed` next offsets.

    A topic without a committed offset makes both start at the beginning of the log.
    """
    slots = {topic: Slot(topic, partition) for topic in INPUTS}
    bounds = log.bounds(slots.values())
    begins = {topic: bounds[slot][0] for topic, slot in slots.items()}
    if any(topic not in committed for topic in INPUTS):
        return Restored(_fresh(options, begins, begins, {}, {}), begins, [])
    positions = {topic: max(begins[topic], committed[topic]) for topic in INPUTS}
    tail = _Tail(log, partition, options, beat)
    depth = _FIRST_DEPTH
    while True:
        starts = {topic: max(begins[topic], positions[topic] - depth) for topic in INPUTS}
        stage, rows = _replay(log, partition, starts, positions, begins, tail, options, beat)
        is_from_zero = all(start == 0 for start in starts.values())
        trouble = tail.difference(rows) or ("" if is_from_zero else tail.shortfall(stage))
        if not trouble or starts == begins:
            break
        depth *= 4
    if trouble:
        logger.error("partition %d: rebuilt from the log's beginning, and yet: %s", partition, trouble)
    latest: dict[str, list[Features]] = {}
    for row in rows:
        latest.setdefault(key_of(row.exchange, row.market), []).append(row)
    repeated = [row for market in latest.values() for row in market[-_REPEATED:]]
    logger.info("partition %d: state rebuilt at %s, depth %d", partition, positions, depth)
    return Restored(stage, positions, repeated)


def _fresh(
    options: StageOptions,
    starts: Mapping[str, int],
    begins: Mapping[str, int],
    history: Mapping[str, History],
    owners: Mapping[str, tuple[int, str]],
) -> PartitionStage:
    """An empty state that reads from `starts`; only an untrimmed log's own beginning counts as one."""
    from_start = {topic: starts[topic] == begins[topic] == 0 for topic in INPUTS}
    stage = PartitionStage(options, from_start=from_start, history=history)
    for side in stage.sides.values():
        for market, (session, source) in owners.items():
            side.expect_owner(market, session, source)
    return stage


def _replay(
    log: Log,
    partition: int,
    starts: Mapping[str, int],
    positions: Mapping[str, int],
    begins: Mapping[str, int],
    tail: "_Tail",
    options: StageOptions,
    beat: Callable[[], None],
) -> tuple[PartitionStage, list[Features]]:
    is_from_zero = all(starts[topic] == begins[topic] == 0 for topic in INPUTS)
    history = {} if is_from_zero else tail.history
    stage = _fresh(options, starts, begins, history, {} if is_from_zero else tail.owners)
    rows: list[Features] = []
    for topic in INPUTS:
        slot = Slot(topic, partition)
        for record in read_range(log, {slot: starts[topic]}, {slot: positions[topic]}):
            if record.offset % _BEAT_EVERY == 0:
                beat()
            try:
                message = topics.decode(topic, record.value)
            except msgspec.DecodeError:
                continue  # it became a dead letter when it was first read
            rows += stage.apply(topic, message)
    return stage, rows


class _Tail:
    """The newest rows of one partition of `features`: the history of each market and who owned it."""

    def __init__(self, log: Log, partition: int, options: StageOptions, beat: Callable[[], None]) -> None:
        self._options = options
        self.history: dict[str, dict[int, Features]] = {}
        slot = Slot("features", partition)
        begin, end = log.bounds([slot])[slot]
        start, depth = end, _FIRST_TAIL
        while True:
            beat()
            previous, start = start, max(begin, end - depth)
            self._take(read_range(log, {slot: start}, {slot: previous}))
            if start == begin or self._is_deep_enough():
                break
            depth *= 2
        newest = {market: rows[max(rows)] for market, rows in self.history.items()}
        self.owners = {market: (row.session, row.source) for market, row in newest.items()}

    def _take(self, records: Iterator[Record]) -> None:
        for record in records:
            try:
                row: Features = topics.decode("features", record.value)
            except msgspec.DecodeError as error:
                logger.error("%s-%d offset %d is no row: %s", *record[:3], error)  # noqa: TRY400 the text says it
                continue
            if row.grid_ms == self._options.grid_ms and row.schema == SCHEMA:
                index = row.bin_ms // row.grid_ms - 1
                self.history.setdefault(key_of(row.exchange, row.market), {})[index] = row

    def _is_deep_enough(self) -> bool:
        needed = self._options.window_bins + 5 * AHEAD
        for rows in self.history.values():
            oldest = min(rows)
            if oldest > max(rows) - needed and rows[oldest].n_bins > 1:
                return False
        return True

    def shortfall(self, stage: PartitionStage) -> str:
        """Why what was read does not reach back far enough; empty when it does."""
        newest = max((max(market) for market in self.history.values()), default=0)
        for market, known in self.history.items():
            is_active = max(known) > newest - self._options.window_bins
            if is_active and not stage.is_settled(market):
                return f"{market}: the position lies among bins that were not seen whole"
        for market in stage.markets() - self.history.keys():
            if not stage.is_whole(market):
                return f"{market}: nothing in the features topic, and the raw records do not reach back far enough"
        return ""

    def difference(self, rows: list[Features]) -> str:
        """Which row computed again is not the one in the log; empty when all are."""
        for row in rows:
            known_row = self.history.get(key_of(row.exchange, row.market), {}).get(row.bin_ms // row.grid_ms - 1)
            if known_row is not None and hash_of(known_row) != hash_of(row):
                return f"{row.market}: the row of bin {row.bin_ms} differs from the one in the log"
        return ""
