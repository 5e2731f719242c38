"""The state that a replay of decisions begins with in the middle of a log: a recorded snapshot of all that trade knew.

Called by `session_decisions`. A snapshot counts where every account that people had made by then is in it.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from heapq import merge
from typing import NamedTuple

import msgspec

from consumers.trade import inputs
from consumers.trade.replay import Shard
from consumers.trade.runner import owner_of
from consumers.trade.state import MARKET_VIEW, State, decode_account, decode_shared
from infra.log import Record, Slot
from streams import messages as m
from streams import topics
from streams.history import History, spans_between

_BACK_MS = 600_000
_REMEMBERED = 100
"""States per account that are kept while a whole snapshot is looked for: they are written every second, shared ones
every ten.
"""


class Start(NamedTuple):
    """What a replay begins with: the state, the inputs it holds, and when it was written."""

    state: State
    cursor: Mapping[str, int]
    from_ms: int


class _Chosen(NamedTuple):
    """A shared snapshot, when it was written, and the accounts' states that go with it."""

    view: m.AccountState
    append_ms: int
    accounts: dict[str, m.AccountState]


class Starts:
    """Finds it, for one trade process. `archive` is asked for snapshots that the log has let go of."""

    def __init__(self, history: History, archive: History | None, shard: Shard) -> None:
        self._history = history
        self._states = [history] if archive is None else [history, archive]
        self._shard = shard
        self._home = Slot("trade-inputs", shard.home)
        self._made: dict[int, set[str]] = {}

    def find(self, from_ms: int, to_ms: int) -> Start | None:
        """The last whole snapshot before the stretch, else the first one in it."""
        for states in self._states:
            back_ms, earliest = _BACK_MS, _earliest_ms(states)
            while earliest is not None:
                begin_ms = max(from_ms - back_ms, 0)
                if (start := self._whole(states, begin_ms, from_ms, is_last=True)) is not None:
                    return start
                if begin_ms <= earliest:
                    break
                back_ms *= 10
        found = (self._whole(states, max(from_ms - _BACK_MS, 0), to_ms, is_last=False) for states in self._states)
        return min((one for one in found if one is not None), key=lambda one: one.from_ms, default=None)

    def _whole(self, states: History, begin_ms: int, end_ms: int, *, is_last: bool) -> Start | None:
        """A snapshot of what all share with every account's state as of then: the last or the first of an interval."""
        home = inputs.slot_name(self._home)
        known: dict[str, deque[m.AccountState]] = {}
        waiting: tuple[m.AccountState, int] | None = None
        found: _Chosen | None = None
        for record in self._snapshots(states, begin_ms, end_ms):
            state: m.AccountState = topics.decode("account-states", record.value)
            if state.account != MARKET_VIEW:
                known.setdefault(state.account, deque(maxlen=_REMEMBERED)).append(state)
            elif home in state.cursor and record.partition == self._shard.home:
                found = self._chosen(waiting, known) or found
                if found is not None and not is_last:
                    break
                waiting = (state, record.append_ms)
        if found is None or is_last:
            found = self._chosen(waiting, known) or found
        if found is None:
            return None
        accounts = {name: decode_account(one.state) for name, one in sorted(found.accounts.items())}
        whole = State(shared=decode_shared(found.view.state), accounts=accounts)
        return Start(whole, found.view.cursor, found.append_ms)

    def _chosen(
        self, view: tuple[m.AccountState, int] | None, known: Mapping[str, Iterable[m.AccountState]]
    ) -> "_Chosen | None":
        """Every account's newest state that is no newer than `view`; None where one is missing.

        Asked when the next view has come: a transaction's records may be stamped a moment apart.
        """
        if view is None:
            return None
        home = inputs.slot_name(self._home)
        until = view[0].cursor[home]
        accounts = {name: one for name, of_it in known.items() for one in of_it if one.cursor.get(home, 2**62) <= until}
        is_whole = self._accounts_at(view[0].cursor) <= accounts.keys()
        return _Chosen(view[0], view[1], accounts) if is_whole else None

    def _snapshots(self, states: History, begin_ms: int, end_ms: int) -> Iterator[Record]:
        spans = spans_between(states, ["account-states"], begin_ms, end_ms)
        owned = {slot: span for slot, span in spans.items() if slot.partition in self._shard.partitions}
        return merge(*(states.read(slot, *span) for slot, span in owned.items()), key=lambda one: one.append_ms)

    def _accounts_at(self, cursor: Mapping[str, int]) -> set[str]:
        """The accounts of this process that people had made when a state stood at `cursor`."""
        slot = Slot("controls", 0)
        end = cursor.get(inputs.slot_name(slot), 0)
        if end in self._made:
            return self._made[end]
        owns = owner_of(self._shard)
        found = self._made[end] = set()
        for record in self._history.read(slot, 0, end) if end else ():
            try:
                message = topics.decode("controls", record.value)
            except msgspec.DecodeError:
                continue
            if isinstance(message, m.AccountSettings) and owns(message.pocket):
                found.add(message.account)
        return found


def _earliest_ms(states: History) -> int | None:
    spans = states.spans(["account-states"])
    firsts = [next(iter(states.read(slot, *span)), None) for slot, span in spans.items()]
    return min((record.append_ms for record in firsts if record is not None), default=None)
