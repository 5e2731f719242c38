"""Decisions once more: the fold over the recorded inputs of trade, from the beginning of a run or from a snapshot.

Called by every replay. Reads the rows, signals, orders and controls of the time, never ones computed anew, and
publishes nothing.
"""

from collections.abc import Collection, Iterator, Mapping

import msgspec

from consumers.replay.conditions import Conditions
from consumers.replay.memory import Sink, Spans
from consumers.trade import inputs
from consumers.trade.fold import Fold, Output
from consumers.trade.replay import Shard, restore
from consumers.trade.runner import owner_of
from consumers.trade.start import parameters_of
from consumers.trade.state import MARKET_VIEW, money_context
from infra.errors import BadMessage, BadSettings, RecordsLost
from infra.log import Record, Slot
from infra.memory_log import MemoryLog
from models.strategies.folder import load
from models.strategies.registry import Kinds
from streams import messages as m
from streams import topics
from streams.history import History, read_all
from streams.process import topic_specs


class HistoryRanges:
    """Fetches recorded ranges from a history, forwards within each partition; see `inputs.Ranges`."""

    def __init__(self, history: History, spans: Spans) -> None:
        """`spans`: what may be asked for."""
        self._spans = spans
        self._records = read_all(history, spans)

    def take(self, slot: Slot, first: int, last: int) -> list[Record]:
        """Return the records of [`first`, `last`]; raises `RecordsLost` where the history does not hold them all."""
        begin, end = self._spans.get(slot, (0, 0))
        text = f"trade's recorded input {inputs.slot_name(slot)} {first}-{last}"
        if first < begin or last >= end:
            raise RecordsLost(f"{text} is not in what is replayed: it holds {begin} to {end - 1}")
        taken: list[Record] = []
        for record in self._records.get(slot, iter(())):
            if record.offset >= first:
                taken.append(record)
            if record.offset >= last:
                break
        if not taken or taken[0].offset != first or taken[-1].offset != last:
            raise RecordsLost(f"{text} is gone")
        return taken


def run_decisions(history: History, spans: Spans, conditions: Conditions, sink: Sink) -> int:
    """Fold what `trade-inputs` names within `spans` and hand intents, cancels and vetoes to `sink`; gives their number.

    Raises `RecordsLost` where an input, or the state before the first of them, is not there any more; `BadSettings`
    where the strategies are not those of the time.
    """
    loaded = load(conditions.trade.trade.strategies_folder)
    if conditions.strategies not in ("", loaded.digest):
        raise BadSettings("The strategies in `trade.strategies_folder` are not those that decided at the time.")
    workers, count = conditions.trade.trade.workers, 0
    for worker in range(workers):
        for topic, key, output in decisions_of(
            history, spans, conditions, Shard.of(worker, workers), loaded.kinds
        ):  # fmt: skip
            sink(topic, key, output)
            count += 1
    return count


def decisions_of(
    history: History, spans: Spans, conditions: Conditions, shard: Shard, kinds: Kinds
) -> Iterator[tuple[str, str, Output]]:
    """What one trade process decided, once more: topic, key and message, as it writes them."""
    home = Slot("trade-inputs", shard.home)
    span = spans.get(home, (0, 0))
    if span[0] >= span[1]:
        return
    if span[0] == 0:
        fold = Fold(parameters_of(conditions.trade), money_context(), owner_of(shard), kinds=kinds)
    else:
        fold = _restored(history, span[0], span[1], conditions, shard, kinds)
    ranges = HistoryRanges(history, history.spans(inputs.TOPICS))
    for _, entry in _entries(history, home, span[0], span[1]):
        for output in inputs.fold_entry(fold, entry, ranges):
            if not isinstance(output, m.Veto):
                yield "order-intents", output.pocket, output
            elif (account := fold.state.accounts.get(output.account)) is not None:
                yield "order-events", account.settings.pocket, output


def _entries(history: History, home: Slot, first: int, end: int) -> Iterator[tuple[Record, m.TradeInput]]:
    for record in history.read(home, first, end):
        yield record, topics.decode("trade-inputs", record.value)


# --- a start in the middle of a run -------------------------------------------------------------------------------


def _restored(history: History, first: int, end: int, conditions: Conditions, shard: Shard, kinds: Kinds) -> Fold:
    """The state before the input at `first`, by the snapshots of the time and what was taken between them and it."""
    home = Slot("trade-inputs", shard.home)
    following = next((entry for _, entry in _entries(history, home, first, end)), None)
    snapshots = _snapshots(history, shard, following)
    kept = history.spans(["trade-inputs"])[home][0]
    view = snapshots.pop(MARKET_VIEW, None)
    wanted = 0 if view is None else view[1].cursor.get(inputs.slot_name(home), 0)
    if kept > wanted:
        raise RecordsLost(
            f"trade's state before {home.topic}/{home.partition} {first} is gone: no snapshot in account-states holds"
            f" {wanted}-{kept - 1}. Begin the replay at a later or at the first record."
        )
    cursor = {} if view is None else view[1].cursor
    _require_accounts(history, cursor, snapshots.keys(), shard)
    with MemoryLog(clock_ms=lambda: 0) as log:
        log.create_topics(topic_specs())
        kept_states = [*snapshots.values(), *([] if view is None else [view])]
        for record, _ in sorted(kept_states, key=lambda one: one[0].offset):
            log.append(record)
        _load_inputs(history, log, home, wanted, first, cursor)
        return restore(log, shard, parameters_of(conditions.trade), owner_of(shard), kinds).fold


def _snapshots(
    history: History, shard: Shard, following: m.TradeInput | None
) -> dict[str, tuple[Record, m.AccountState]]:
    """The newest snapshot per account that does not hold `following` yet."""
    found: dict[str, tuple[Record, m.AccountState]] = {}
    for slot, (first, end) in history.spans(["account-states"]).items():
        if slot.partition not in shard.partitions:
            continue
        for record in history.read(slot, first, end):
            try:
                state: m.AccountState = topics.decode("account-states", record.value)
            except msgspec.DecodeError:
                continue
            if following is None or not inputs.is_covered(following, state.cursor):
                found[state.account] = (record, state)
    return found


def _require_accounts(history: History, cursor: Mapping[str, int], known: Collection[str], shard: Shard) -> None:
    """Raise `RecordsLost` for an account that was there already, and whose older snapshots were compacted away."""
    owns, slot = owner_of(shard), Slot("controls", 0)
    first, end = history.spans(["controls"]).get(slot, (0, 0))
    for record in history.read(slot, first, min(end, cursor.get(inputs.slot_name(slot), 0))) if first < end else ():
        try:
            message = inputs.read(record)
        except BadMessage:
            continue
        if isinstance(message, m.AccountSettings) and owns(message.pocket) and message.account not in known:
            raise RecordsLost(
                f"trade's state of the account {message.account} before this stretch is gone: account-states holds"
                " later ones only. Read an archive, or begin the replay at the first record."
            )


def _load_inputs(
    history: History, log: MemoryLog, home: Slot, wanted: int, first: int, cursor: Mapping[str, int]
) -> None:
    """Put the recorded inputs from `wanted` up to `first` into a log, with the records that they name."""
    ranges = HistoryRanges(history, history.spans(inputs.TOPICS))
    begun: set[Slot] = set()
    for record, entry in _entries(history, home, wanted, first):
        log.append(record)
        if entry.kind != "range" or inputs.is_covered(entry, cursor):
            continue
        slot = Slot(entry.topic, entry.partition)
        for one in ranges.take(slot, entry.first, entry.last):
            log.append(one)
        begun.add(slot)
    for name, offset in cursor.items():
        topic, _, partition = name.partition("/")
        if topic in inputs.TOPICS and (unread := Slot(topic, int(partition))) not in begun:
            log.truncate(unread, offset)
