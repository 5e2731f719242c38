"""Trade's decisions of a recorded session, folded again in their recorded order and held against what was recorded.

Called by `session`. Begins with the log's first input, else with a recorded snapshot, whose accounts must all be known;
what was decided before that is not covered. Publishes nothing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from consumers.replay.decisions import HistoryRanges
from consumers.trade import inputs
from consumers.trade.fold import Fold, Output
from consumers.trade.replay import Shard
from consumers.trade.runner import owner_of
from consumers.trade.start import parameters_of
from consumers.trade.state import Parameters, State, money_context
from consumers.verify.session_matching import Item, Matcher, Tallies
from consumers.verify.session_segments import Segment, Stretch
from consumers.verify.session_start import Start, Starts
from infra.errors import BadSettings, RecordsLost
from infra.log import Record, Slot
from infra.settings import Settings
from models.strategies.folder import load
from models.strategies.registry import Kinds
from streams import messages as m
from streams import topics
from streams.history import History, spans_between

EDGE_MS = 2_000
"""A transaction's records may be stamped so far apart: near a cut one of them may lie outside."""
BEFORE_STATE = "before the first snapshot that a replay can begin with"
AT_THE_EDGE = "at the edge of what was looked at"


class Items:
    """Gives outputs their identity: ids, and for a veto its account, strategy, market, time and how manieth it is."""

    def __init__(self) -> None:
        self._vetoes: Counter[tuple[str, str, str, str, int]] = Counter()

    def of(self, output: Output, append_ms: int) -> Item:
        """An output as an item."""
        if isinstance(output, m.Veto):
            key = (output.account, output.strategy, output.exchange, output.market, output.event_ms)
            self._vetoes[key] += 1
            return Item((*key, self._vetoes[key]), output.account, append_ms, output)
        return Item(output.id, output.account, append_ms, output)


class Sides(NamedTuple):
    """What is known of both topics that trade writes to."""

    intents: Tallies
    vetoes: Tallies


class Decisions:
    """One stretch of one trade process: folded, and compared."""

    def __init__(
        self,
        history: History,
        shard: Shard,
        stretch: Stretch,
        folder: Path | None,
        sides: Sides,
        archive: History | None = None,
    ) -> None:
        """`archive` is asked for snapshots that the log has let go of: of each account it keeps the newest only."""
        self._history = history
        self._starts = Starts(history, archive, shard)
        self._shard = shard
        self._stretch = stretch
        self._kinds: Kinds = load(folder).kinds
        self._sides = sides
        self._home = Slot("trade-inputs", shard.home)

    def compare(self, segment: Segment, *, is_first: bool, is_cut_after: bool) -> int:
        """Fold the stretch again and compare; returns the number of inputs folded.

        `is_first` says that nothing was recorded before it. Raises `RecordsLost` where inputs are gone.
        """
        from_ms, to_ms = self._stretch.from_ms, self._stretch.to_ms
        parameters = parameters_then(segment.manifest)
        start = Start(State(), {}, 0) if is_first else self._starts.find(from_ms, to_ms)
        if start is None:
            self._leave_all_out(BEFORE_STATE)
            return 0
        fold = Fold(parameters, money_context(), owner_of(self._shard), start.state, self._kinds)
        if not is_first:  # as after a restart of the process
            fold.crowd.regroup()
            fold.complete()
        covered_ms = max(from_ms, start.from_ms)
        matchers = {"order-intents": Matcher(self._sides.intents), "order-events": Matcher(self._sides.vetoes)}
        for topic, matcher in matchers.items():
            self._take_recorded(topic, matcher, covered_ms)
        folded = self._fold(fold, start, matchers, covered_ms)
        for matcher in matchers.values():
            low = 0 if is_first else covered_ms + EDGE_MS
            high = to_ms - EDGE_MS if is_cut_after else 2**62
            matcher.finish(
                lambda item, low=low, high=high: "" if low <= item.at <= high else AT_THE_EDGE,  # type: ignore[misc] # defaults bind the loop's values
                lambda _group, at, _ms, low=low, high=high: "" if low <= at <= high else AT_THE_EDGE,  # type: ignore[misc] # same
            )
        return folded

    def _fold(self, fold: Fold, start: Start, matchers: Mapping[str, Matcher], covered_ms: int) -> int:
        ranges = HistoryRanges(self._history, self._inputs_from(start.cursor))
        items, folded = Items(), 0
        for record in self._entries(start.cursor.get(inputs.slot_name(self._home), 0)):
            entry: m.TradeInput = topics.decode("trade-inputs", record.value)
            if inputs.is_covered(entry, start.cursor):
                continue
            folded += 1
            for output in inputs.fold_entry(fold, entry, ranges):
                # trade writes no veto for an account that it does not know
                is_veto = isinstance(output, m.Veto)
                if record.append_ms >= covered_ms and (not is_veto or output.account in fold.state.accounts):
                    topic = "order-events" if is_veto else "order-intents"
                    matchers[topic].computed(items.of(output, record.append_ms))
        return folded

    def _inputs_from(self, cursor: Mapping[str, int]) -> dict[Slot, tuple[int, int]]:
        """From where on each input is read again; of the orders only those of our pockets."""
        spans = spans_between(self._history, inputs.TOPICS, None, self._stretch.to_ms)
        return {
            slot: (max(first, cursor.get(inputs.slot_name(slot), first)), end)
            for slot, (first, end) in spans.items()
            if slot.topic != "order-events" or slot.partition in self._shard.partitions
        }

    def _entries(self, first: int) -> Iterator[Record]:
        span = spans_between(self._history, ["trade-inputs"], 0, self._stretch.to_ms).get(self._home)
        if span is None:
            return iter(())
        if first < span[0]:
            raise RecordsLost(f"trade's recorded inputs {inputs.slot_name(self._home)} {first}-{span[0] - 1} are gone")
        return iter(self._history.read(self._home, first, span[1]))

    def _take_recorded(self, topic: str, matcher: Matcher, covered_ms: int) -> None:
        """Give the matcher what trade wrote; people's words and the exchange's stand beside it and are not trade's."""
        tallies = self._sides.intents if topic == "order-intents" else self._sides.vetoes
        items = Items()
        for record in self._records(topic):
            output = topics.decode(topic, record.value)
            if not isinstance(output, m.OrderIntent | m.CancelIntent | m.Veto):
                continue
            if record.append_ms < covered_ms:
                tallies.leave_out(BEFORE_STATE, record.append_ms)
            else:
                matcher.recorded(items.of(output, record.append_ms), record)

    def _leave_all_out(self, why: str) -> None:
        for tallies, topic in ((self._sides.intents, "order-intents"), (self._sides.vetoes, "order-events")):
            for record in self._records(topic):
                if topic == "order-intents" or isinstance(topics.decode(topic, record.value), m.Veto):
                    tallies.leave_out(why, record.append_ms)

    def _records(self, topic: str) -> Iterator[Record]:
        for slot, span in self._spans([topic]).items():
            if slot.partition in self._shard.partitions:
                yield from self._history.read(slot, *span)

    def _spans(self, names: Iterable[str]) -> dict[Slot, tuple[int, int]]:
        return spans_between(self._history, names, self._stretch.from_ms, self._stretch.to_ms)


def parameters_then(manifest: m.RunManifest) -> Parameters:
    """Trade's parameters as they were recorded."""
    told = manifest.settings
    feed = {name: told[f"feed.{name}"] for name in ("speed", "stale_seconds", "warmup_seconds")}
    # the other kinds want a recording's name, and for trade all that counts is whether a warm-up is expected
    kind = "synthetic" if told["feed.kind"] == "synthetic" else "upbit"
    return parameters_of(Settings.model_validate({"feed": {**feed, "kind": kind}}))


def shards_of(manifest: m.RunManifest) -> list[Shard]:
    """The trade processes of a manifest."""
    workers = int(manifest.settings.get("trade.workers", "1"))
    if not 1 <= workers <= topics.BY_POCKET:
        raise BadSettings(f"the manifest names {workers} trade processes")
    return [Shard.of(worker, workers) for worker in range(workers)]
