"""The same decisions once more: folds recorded inputs in their recorded order, and restores a stopped process.

`restore` is called by `consumers.trade.runner` at every start and after an aborted transaction, `replay` by tests
and by `verify parity`. Neither publishes anything.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from consumers.trade import inputs
from consumers.trade.fold import Fold, Output, owns_all
from consumers.trade.state import MARKET_VIEW, Parameters, Shared, State, decode_account, decode_shared, money_context
from infra.catch_up import read_range
from infra.errors import BadSettings, RecordsLost
from infra.log import Log, Slot
from models.strategies.registry import STRATEGIES, Kinds
from streams import messages as m
from streams import topics

logger = logging.getLogger(__name__)

GROUP = "trade"


class Shard(NamedTuple):
    """The pockets that one process owns, as partitions of the pocket-keyed topics."""

    partitions: tuple[int, ...] = tuple(range(topics.BY_POCKET))

    @property
    def home(self) -> int:
        """The partition of `trade-inputs` and of the shared snapshot."""
        return self.partitions[0]

    @property
    def transactional_id(self) -> str:
        """One holder at a time per pocket group."""
        return f"trade-{self.partitions[0]}-{self.partitions[-1]}"

    @property
    def group(self) -> str:
        """Under which name the offsets of what it took are kept."""
        return GROUP if len(self.partitions) == topics.BY_POCKET else self.transactional_id

    @classmethod
    def of(cls, worker: int, workers: int) -> "Shard":
        """The share of one of several processes: as many neighbouring partitions as the others, give or take one.

        Raises `BadSettings` for a process more than there are.
        """
        if not 0 <= worker < workers <= topics.BY_POCKET:
            raise BadSettings(f"There is no trade process {worker}: `trade.workers` is {workers}, they count from 0.")
        first, end = (topics.BY_POCKET * one // workers for one in (worker, worker + 1))
        return cls(tuple(range(first, end)))


class Restored(NamedTuple):
    """Where a process stands after its start."""

    fold: Fold
    positions: dict[Slot, int]
    """Next offset of every input partition."""
    written: dict[str, bytes]
    """The accounts' states as they stand in the log."""


class _Snapshot(NamedTuple):
    state: m.AccountState
    cursor: Mapping[str, int]


def _snapshots(log: Log, shard: Shard) -> dict[str, _Snapshot]:
    """The latest snapshot per account, and of what they share."""
    found: dict[str, _Snapshot] = {}
    for record in inputs.read_to_end(log, [Slot("account-states", partition) for partition in shard.partitions]):
        if record.value:
            state: m.AccountState = topics.decode("account-states", record.value)
            found[state.account] = _Snapshot(state, state.cursor)
    for state, _ in found.values():
        _check_split(state, shard)
    return found


def _check_split(state: m.AccountState, shard: Shard) -> None:
    """Raise `BadSettings` where another share of the pockets kept a snapshot: its inputs were recorded elsewhere."""
    last = state.cursor.get(inputs.LAST_PARTITION, topics.BY_POCKET - 1)
    if last != shard.partitions[-1] or inputs.slot_name(Slot("trade-inputs", shard.home)) not in state.cursor:
        raise BadSettings(
            f"The accounts of this log were kept by another number of trade processes (up to partition {last}, not"
            f" {shard.partitions[-1]}): set `trade.workers` back to what it was; it is chosen once per log."
        )


def _entries(log: Log, slot: Slot, first: int) -> Iterator[m.TradeInput]:
    for record in inputs.read_to_end(log, [slot], {slot: first}):
        yield topics.decode("trade-inputs", record.value)


def restore(
    log: Log,
    shard: Shard,
    parameters: Parameters,
    owns: Callable[[str], bool] = owns_all,
    kinds: Kinds = STRATEGIES,
) -> Restored:
    """Rebuild the committed state: the snapshots, then the inputs recorded after them, silently.

    The shared snapshot is older than the accounts' own: an account joins where its snapshot was taken.
    """
    waiting = _snapshots(log, shard)
    view = waiting.pop(MARKET_VIEW, None)
    shared = Shared() if view is None else decode_shared(view.state.state)
    cursor: Mapping[str, int] = {} if view is None else view.cursor
    written = {name: bytes(one.state.state) for name, one in waiting.items()}
    fold = Fold(parameters, money_context(), owns, State(shared=shared), kinds)
    fold.is_complete, fold.is_restoring = not waiting, True
    firsts = inputs.first_offsets(log, shard.partitions)
    positions = {slot: cursor.get(inputs.slot_name(slot), first) for slot, first in firsts.items()}
    home = Slot("trade-inputs", shard.home)
    ranges = inputs.RangeReader(log, {slot: max(positions[slot], firsts[slot]) for slot in positions})
    try:
        wanted = cursor.get(inputs.slot_name(home), 0)
        kept = log.bounds([home])[home][0]
        for entry in _entries(log, home, wanted):
            _admit(fold, waiting, entry)
            if inputs.is_covered(entry, cursor):
                continue
            if kept > wanted and entry.kind == "range":
                _check_follows(log, positions, entry)
            _fold_again(fold, entry, ranges)
            if entry.kind == "range":
                positions[Slot(entry.topic, entry.partition)] = entry.last + 1
    finally:
        ranges.close()
    if kept > wanted:
        _check_end(log, positions, shard, wanted, kept)
    _admit(fold, waiting, None)
    fold.is_restoring = False
    return Restored(fold, {slot: max(offset, firsts[slot]) for slot, offset in positions.items()}, written)


def _check_follows(log: Log, positions: Mapping[Slot, int], entry: m.TradeInput) -> None:
    """Raise `RecordsLost` where an input lies between the state and `entry`: the record of when it came is gone."""
    slot = Slot(entry.topic, entry.partition)
    begin = positions[slot]
    if begin < entry.first and list(read_range(log, {slot: begin}, {slot: entry.first})):
        raise RecordsLost(f"trade's record of when it took {inputs.slot_name(slot)} {begin}-{entry.first - 1} is gone")


def _check_end(log: Log, positions: Mapping[Slot, int], shard: Shard, wanted: int, kept: int) -> None:
    """Raise `RecordsLost` where the state ends before what was committed: offsets and inputs were written together."""
    home = inputs.slot_name(Slot("trade-inputs", shard.home))
    text = f"trade's recorded inputs {home} {wanted}-{kept - 1} are gone"
    committed = log.committed(shard.group, positions)
    behind = [inputs.slot_name(slot) for slot, position in positions.items() if committed.get(slot, 0) > position]
    if behind:
        raise RecordsLost(f"{text}, and no snapshot of the state holds them: {', '.join(sorted(behind))}")
    logger.info("%s, the snapshots hold them", text)


def _fold_again(fold: Fold, entry: m.TradeInput, ranges: inputs.RangeReader) -> None:
    """Fold one recorded input; market data that retention took are passed over, people's will and orders never."""
    try:
        inputs.fold_entry(fold, entry, ranges)
    except RecordsLost as error:
        if entry.topic in ("controls", "order-events"):
            raise
        logger.warning("the state is rebuilt without some old market data: %s", error)


def _admit(fold: Fold, waiting: dict[str, _Snapshot], entry: m.TradeInput | None) -> None:
    """Put accounts in whose snapshot does not yet hold `entry` (all of them at the end)."""
    ready = [name for name, one in waiting.items() if entry is None or not inputs.is_covered(entry, one.cursor)]
    if not ready:
        return
    for name in ready:
        fold.state.accounts[name] = decode_account(waiting.pop(name).state.state)
    fold.state.accounts = dict(sorted(fold.state.accounts.items()))
    fold.crowd.regroup()
    if not waiting:
        fold.complete()


def replay(
    log: Log,
    parameters: Parameters,
    shard: Shard | None = None,
    owns: Callable[[str], bool] = owns_all,
    fold: Fold | None = None,
) -> Iterator[Output]:
    """Fold everything that `trade-inputs` names, from the beginning, and yield what comes out: what trade published.

    Pass `fold` (fresh) to look at its state afterwards. Raises `RecordsLost` where retention took inputs away, or the
    record of their order: a replay that began later would be another one.
    """
    home = Slot("trade-inputs", (shard or Shard()).home)
    if first := log.bounds([home])[home][0]:
        raise RecordsLost(f"trade's recorded inputs {home.topic}/{home.partition} 0-{first - 1} are gone: no replay")
    again = Fold(parameters, money_context(), owns) if fold is None else fold
    ranges = inputs.RangeReader(log, inputs.first_offsets(log, (shard or Shard()).partitions))
    try:
        for entry in _entries(log, home, 0):
            yield from inputs.fold_entry(again, entry, ranges)
    finally:
        ranges.close()
