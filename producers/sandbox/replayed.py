"""Paper fills once more: the sandbox's own matching over the records of the log, held against what its journal says.

Called by `observator replay fills` and by the parity of a session, for sandboxes that followed the log. Orders, cancels
and their places among the records come from the journal; what became of them is computed anew. Nothing is written.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

from infra.errors import BadSettings
from producers.sandbox.feeds import Feed, Frame
from producers.sandbox.follow import Place
from producers.sandbox.replayed_market import PlayedBooks, PlayedPartition
from producers.sandbox.state import Entry, State
from producers.sandbox.trading import Trading
from streams.history import History
from streams.market.matching import Fill, Order

RESULTS = frozenset({"fill", "prevented", "rest", "end"})


class Difference(NamedTuple):
    """Where journal and replay part: what, of which market and order, with both sides and the place in the log."""

    text: str
    market: str
    order: str
    recorded: object
    computed: object
    place: tuple[int, ...]
    """Partition, and the last offsets of `orderbooks` and `trades` before it."""


@dataclass(slots=True)
class Replayed:
    """What a replay of fills came to."""

    fills: int = 0
    equal: int = 0
    makers: int = 0
    orders: int = 0
    groups: int = 0
    differing: int = 0
    records: int = 0
    adopted: int = 0
    """Times that what an account had taken from a book was forgotten by a restart of the sandbox."""
    first: Difference | None = None
    by_uuid: dict[str, Fill] = field(default_factory=dict)
    """Computed fills by the id of the recorded one that they are equal to."""

    @property
    def is_equal(self) -> bool:
        """Whether every fill, and every place in a queue that the journal tells, was reproduced."""
        return not self.differing and self.fills == self.equal


def read_groups(path: Path) -> Iterator[list[Entry]]:
    """The journal line by line, each with what was written together; a cut-off last line was never told to anybody.

    Raises `BadSettings` for a line that cannot be read. It may belong to a sandbox that runs.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                entries = json.loads(line)
            except ValueError:
                raise BadSettings(f"{path} is damaged in line {number}: it cannot be replayed from there on") from None
            yield entries if isinstance(entries, list) else [entries]


def replay_fills(history: History, groups: Iterable[Sequence[Entry]], prefix: str = "") -> Replayed:
    """Reproduce all fills of a journal; `prefix` is the log's, which stands in the names of records.

    Raises `BadSettings` for a journal of another kind of market, `RecordsLost` where books or trades are missing.
    """
    replay = _Replay(history, prefix)
    for group in groups:
        replay.take(group)
    return replay.found


class _Replay:
    """One pass over a journal: what it says happens to the state; what the matching computes is held against it."""

    def __init__(self, history: History, prefix: str) -> None:
        self.found = Replayed()
        self._history = history
        self._prefix = prefix
        self._state = State()
        self._books = PlayedBooks()
        self._now_ms: Callable[[], int] = lambda: 0
        self._trading = Trading(
            self._state, cast("Feed", self._books), record=self._on_computed, publish=_tell_nobody,
            now_ms=self._now,
        )  # fmt: skip
        self._partitions: dict[int, PlayedPartition] = {}
        self._group: list[Entry] = []
        self._marks: dict[str, Entry] = {}
        self._is_applied = False
        self._lost: set[str] = set()
        """Markets whose state is taken from the journal at its next mark, because a difference was told."""

    def take(self, group: Sequence[Entry]) -> None:
        """Take what the journal wrote together: places first, then what happened there."""
        self.found.groups += 1
        self._marks = {entry["m"]: entry for entry in group if entry["e"] == "at"}
        self._group = [entry for entry in group if entry["e"] != "at"]
        self._is_applied = False
        results = [entry for entry in self._group if entry["e"] in RESULTS]
        self._require_marks(results)
        taker = self._taker(results)
        for market in self._marks:
            self._advance(market)
        if taker is not None and not self._is_applied and taker.market not in self._lost:
            self._now_ms = lambda: _time_of(results)
            self._trading.match(taker)
        if not self._is_applied:
            if taker is not None or any(entry["e"] != "end" for entry in results):
                self._differ("recorded, but not reproduced", results[0], results[0], None)
            self._apply()

    def _now(self) -> int:
        return self._now_ms()

    # --- places -----------------------------------------------------------------------------------------------------

    def _require_marks(self, results: Sequence[Entry]) -> None:
        fills = [entry for entry in results if entry["e"] == "fill"]
        if fills and self._market_of(fills[0]) not in self._marks:
            raise BadSettings(
                f"The journal does not say where in the log the order {fills[0]['u']} was filled: fills can be replayed"
                " where the sandbox follows the log (feed.kind = upbit) and its journal was begun with this version."
                " A synthetic or recorded market is not reproduced."
            )

    def _advance(self, market: str) -> None:
        """Let everything up to a mark happen, and hold the places in queues against it."""
        mark = self._marks[market]
        place = Place(*mark["p"])
        partition = self._partitions.get(place.partition)
        if partition is None:
            partition = self._partitions[place.partition] = PlayedPartition(
                self._history, place.partition, self._prefix
            )
        self._books.of[market] = partition
        if not partition.is_begun or (partition.is_far(place) and not self._is_active(partition)):
            partition.jump(place)
        self._now_ms = partition.follow.now_ms
        for frame in partition.advance(place):
            self.found.records += 1
            if frame.market not in self._lost and self._waits(frame.market):
                self._trading.on_frame(frame)
        partition.show(place, market)
        if not self._is_applied:
            self._check_mark(market)

    def _waits(self, market: str) -> bool:
        """Whether a frame can change anything for anybody."""
        return bool(self._state.resting.get(market) or self._trading.kept(market)["t"])

    def _is_active(self, partition: PlayedPartition) -> bool:
        return any(found is partition and self._waits(market) for market, found in self._books.of.items())

    def _check_mark(self, market: str) -> None:
        """Hold the places in queues, and what was taken, against the journal's."""
        mark, kept = self._marks[market], self._trading.kept(market)
        if market in self._lost:
            self._lost.discard(market)
        elif kept["q"] != mark["q"]:
            self._differ("places in the queue differ", {"u": "", "m": market}, mark["q"], kept["q"])
            self._lost.discard(market)
        elif _taken(kept) != _taken(mark):
            self.found.adopted += 1
        else:
            return
        self._trading.restore(mark)

    # --- results ----------------------------------------------------------------------------------------------------

    def _taker(self, results: Sequence[Entry]) -> Order | None:
        """The order whose turn it was; None where a frame reached resting ones, or an order ended by a cancel."""
        for entry in results:
            order = self._state.orders[entry["u"]]
            if order.uuid not in self._state.resting[order.market]:
                is_cancel = entry["e"] == "end" and len(results) == 1 and order.is_cancelling
                return None if is_cancel else order
        return None

    def _on_computed(self, computed: Sequence[Entry]) -> None:
        """What the matching says: it must be what the journal says here."""
        market = self._market_of(computed[0])
        if market in self._marks and not self._is_applied:
            self._check_mark(market)
        results = [entry for entry in self._group if entry["e"] in RESULTS]
        if self._is_applied or not results or self._market_of(results[0]) != market:
            self._differ("reproduced, but not recorded", computed[0], None, computed[0])
            return
        for recorded, again in zip(results, computed, strict=False):
            if _compared(recorded) != _compared(again):
                self._differ("differs", recorded, recorded, again)
            elif recorded["e"] == "fill":
                self.found.equal += 1
                self.found.makers += bool(recorded["f"][5])
                self.found.by_uuid[recorded["f"][0]] = Fill(*again["f"])
        if len(results) != len(computed):
            self._differ("not as many", results[0], results, list(computed))
        self._apply()

    def _apply(self) -> None:
        self._is_applied = True
        for entry in self._group:
            self._state.apply(entry)
            self.found.orders += entry["e"] == "order"
            self.found.fills += entry["e"] == "fill"

    def _market_of(self, entry: Entry) -> str:
        return str(entry["m"]) if "m" in entry else self._state.orders[entry["u"]].market

    def _differ(self, text: str, entry: Entry, recorded: object, computed: object) -> None:
        market = self._market_of(entry)
        self.found.differing += 1
        self._lost.add(market)
        if self.found.first is None:
            place = tuple(self._marks[market]["p"][:3]) if market in self._marks else ()
            self.found.first = Difference(text, market, entry["u"], recorded, computed, place)


def _tell_nobody(_frames: list[Frame]) -> None:
    """Publish nothing."""


def _time_of(results: Sequence[Entry]) -> int:
    """When a taker's turn came, by the sandbox's clock: it stands with its fills or with its end."""
    times = [
        entry["f"][6] if entry["e"] == "fill" else entry["t"] for entry in results if entry["e"] in {"fill", "end"}
    ]
    return int(times[0]) if times else 0


def _compared(entry: Entry) -> dict[str, Any]:
    """A result without what is drawn by lot (the fill's id) and the bounds, which stand in the marks as well."""
    body = {name: value for name, value in entry.items() if name != "b"}
    return body | {"f": entry["f"][1:]} if entry["e"] == "fill" else body


def _taken(kept: Entry) -> dict[str, Any]:
    return {account: rows for account, rows in kept["t"].items() if rows}
