"""A walk over one partition's market data: what its heartbeats and holes say of the rows, vector by vector.

Pure; called by the marks and the hole ledger. It follows the rules by which `streams.market.bins` closes bins: a hole
is declared, a session begins later than the one before it ended, or a heartbeat counts other records than were written.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from infra.log import Slot
from streams.market.bins import AHEAD
from streams.messages import Heartbeat, Hole, tag_of
from streams.topics import TOPICS

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

COLUMNS = (
    "exchange", "market", "source", "session", "exchange_ms", "event_ms", "complete_from_ms", "count", "from_ms",
    "to_ms", "markets", "reason",
)  # fmt: skip
_BEAT = ("event_ms", "complete_from_ms", "count")
_NEVER = -(2**62)
BEGINNING = "beginning"
LOST, SESSION = "records lost on the way", "new session"


class Mark(NamedTuple):
    """Data that are missing: [`from_ms`, `to_ms`) of a market, and the record that says so."""

    exchange: str
    market: str
    """Empty: every market of the source."""
    from_ms: int
    to_ms: int
    reason: str
    """Of a declared hole its own; else `new session`, `records lost on the way`, or `beginning` (of what is kept)."""
    source: str
    session: int
    slot: Slot
    offset: int


class Rows(NamedTuple):
    """Data rows of one session in a piece: market, event time, and whether each came late."""

    exchanges: list[str]
    markets: list[str]
    """Names by `codes`."""
    codes: Ints
    event_ms: Ints
    is_late: Bools
    is_early: Bools
    """Before the session is complete."""


@dataclass(slots=True)
class _Session:
    event_ms: int
    complete_from_ms: int
    surplus: int
    """What its heartbeats counted more than this walk saw."""
    seen: int
    markets: frozenset[tuple[str, str]] = frozenset()


@dataclass(slots=True)
class Walk:
    """State of one partition; `take` gives marks and rows of further pieces in offset order."""

    slot: Slot
    grid_ms: int
    marks: list[Mark] = field(default_factory=list)
    """Found by the last `take`."""
    frontier: dict[tuple[str, str], int] = field(default_factory=dict)
    """Up to where each market (with its exchange) is known, by its owner's heartbeats."""
    _sessions: dict[tuple[str, int], _Session] = field(default_factory=dict)
    _owners: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)

    def take(self, batch: pa.RecordBatch) -> list[Rows]:
        """Go on over a piece with `COLUMNS`; `marks` are those that it tells."""
        self.marks = []
        found: list[Rows] = []
        for piece in self._pieces(batch):
            keys = list(zip(piece.column("source").to_pylist(), piece.column("session").to_pylist(), strict=True))
            codes = {key: code for code, key in enumerate(dict.fromkeys(keys))}
            places = np.fromiter((codes[key] for key in keys), np.int64, len(keys))
            for (source, session), code in codes.items():
                own = piece if len(codes) == 1 else piece.filter(pa.array(places == code))
                found.append(self._follow(source, session, own))
        return found

    def _pieces(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """The piece, cut before each session's first heartbeat: there owners change."""
        is_beat = pc.equal(batch.column("type"), tag_of(Heartbeat)).to_numpy(zero_copy_only=False)
        sessions = batch.column("session").to_numpy(zero_copy_only=False)
        cuts = [0]
        known = {session for _, session in self._sessions}
        beats = np.flatnonzero(is_beat)
        fresh, places = np.unique(sessions[beats], return_index=True)
        cuts += [int(beats[place]) for session, place in zip(fresh, places, strict=True) if int(session) not in known]
        ends = [*sorted(set(cuts)), len(batch)]
        for start, end in itertools.pairwise(ends):
            if start < end:
                yield batch.slice(start, end - start)

    def _follow(self, source: str, session: int, rows: pa.RecordBatch) -> Rows:
        kinds = rows.column("type")
        is_beat, is_hole = (pc.equal(kinds, tag_of(kind)).to_numpy(zero_copy_only=False) for kind in (Heartbeat, Hole))
        is_data = ~is_beat & ~is_hole
        seen = np.cumsum(is_data)
        beats = np.flatnonzero(is_beat)
        state = self._sessions.get((source, session))
        before = _Session(_NEVER, _NEVER, 0, 0) if state is None else state
        event_ms, complete = np.array([before.event_ms]), np.array([before.complete_from_ms])
        if len(beats):
            state, event_ms, complete = self._on_beats(source, session, rows.take(pa.array(beats)), seen[beats], before)
        for row in rows.filter(pa.array(is_hole)).to_pylist() if is_hole.any() else []:
            self._tell(source, session, row, row["from_ms"], row["to_ms"], row["reason"], _markets_of(row))
        if state is not None:
            state.seen += int(seen[-1])
        last = np.searchsorted(beats, np.flatnonzero(is_data))
        data = rows if is_data.all() else rows.filter(pa.array(is_data))
        return _rows(data, event_ms[last], complete[last], self.grid_ms)

    def _on_beats(
        self, source: str, session: int, beats: pa.RecordBatch, seen: Ints, before: _Session
    ) -> tuple[_Session, Ints, Ints]:
        """The session after some heartbeats, and what it promised before each of them and after the last."""
        told = {name: beats.column(name).to_numpy(zero_copy_only=False) for name in _BEAT}
        lengths = pc.list_value_length(beats.column("markets")).to_numpy(zero_copy_only=False)
        is_new = before.event_ms == _NEVER
        state = self._open(source, session, beats, int(seen[0])) if is_new else before
        event_ms = np.maximum.accumulate(np.concatenate([[state.event_ms], told["event_ms"]]))
        complete = np.maximum.accumulate(np.concatenate([[state.complete_from_ms], told["complete_from_ms"]]))
        surplus = np.concatenate([[state.surplus], told["count"] - state.seen - seen])
        for i in np.flatnonzero(np.diff(complete) > 0).tolist():
            self._mark_at(source, session, beats, i, int(event_ms[i]), int(complete[i + 1]), SESSION)
        for i in np.flatnonzero(np.diff(surplus) != 0).tolist():
            end = int(event_ms[i + 1]) + AHEAD * self.grid_ms
            self._mark_at(source, session, beats, i, int(event_ms[i]), end, LOST)
        for i in {0, len(lengths) - 1, *np.flatnonzero(np.diff(lengths)).tolist()}:
            state.markets |= _markets_of(beats.slice(i, 1).to_pylist()[0])
        state.event_ms, state.complete_from_ms, state.surplus = int(event_ms[-1]), int(complete[-1]), int(surplus[-1])
        for market in state.markets:
            if (session, source) >= self._owners.get(market, (0, "")):
                self._owners[market] = (session, source)
                self.frontier[market] = max(state.event_ms, self.frontier.get(market, 0))
        if is_new:
            event_ms[0] = complete[0] = _NEVER
        return state, event_ms, complete

    def _open(self, source: str, session: int, beats: pa.RecordBatch, seen: int) -> _Session:
        """A session's first heartbeat: what lies between the end of the one before it and its own beginning."""
        first = beats.slice(0, 1).to_pylist()[0]
        complete = first["complete_from_ms"]
        state = _Session(first["event_ms"], complete, first["count"] - seen, 0)
        self._sessions[source, session] = state
        for market in _markets_of(first):
            if (session, source) < self._owners.get(market, (0, "")):
                continue
            end = self.frontier.get(market)
            if end is None:
                self._tell(source, session, first, 0, complete, BEGINNING, [market])
            elif end < complete:
                self._tell(source, session, first, end, complete, SESSION, [market])
        return state

    def _mark_at(
        self, source: str, session: int, beats: pa.RecordBatch, at: int, from_ms: int, to_ms: int, reason: str
    ) -> None:
        row = beats.slice(at, 1).to_pylist()[0]
        self._tell(source, session, row, from_ms, to_ms, reason, _markets_of(row))

    def _tell(
        self,
        source: str,
        session: int,
        row: dict[str, object],
        from_ms: int,
        to_ms: int,
        reason: str,
        markets: Iterable[tuple[str, str]],
    ) -> None:
        offset = int(str(row["record_offset"]))
        for exchange, market in sorted(markets) or [(str(row["exchange"]), "")]:
            self.marks.append(Mark(exchange, market, from_ms, to_ms, reason, source, session, self.slot, offset))


def _markets_of(row: dict[str, object]) -> frozenset[tuple[str, str]]:
    markets = row["markets"]
    assert isinstance(markets, list)
    return frozenset((str(row["exchange"]), str(market)) for market in markets)


def _rows(data: pa.RecordBatch, closed_ms: Ints, complete_from_ms: Ints, grid_ms: int) -> Rows:
    names = pc.binary_join_element_wise(data.column("exchange"), data.column("market"), ":").dictionary_encode()
    pairs = [name.split(":", 1) for name in names.dictionary.to_pylist()]
    event_ms = data.column("exchange_ms").to_numpy(zero_copy_only=False).astype(np.int64)
    return Rows(
        [pair[0] for pair in pairs],
        [pair[1] for pair in pairs],
        names.indices.to_numpy(zero_copy_only=False).astype(np.int64),
        event_ms,
        (event_ms // grid_ms < closed_ms // grid_ms) & (event_ms >= complete_from_ms),
        event_ms < complete_from_ms,
    )


def is_market_data(topic: str) -> bool:
    """Whether heartbeats and holes stand in a topic."""
    return Heartbeat in TOPICS[topic].kinds
