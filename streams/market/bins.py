"""Half bins and their join: which records belong to which bin, when a bin is closed, and whether it is complete.

Pure. `streams.stage` feeds it decoded records of one partition in offset order. A half bin (books or trades) is a
function of one topic-partition alone: lateness is judged against the heartbeats of the record's own source only, so
the result does not depend on how the two topics interleave. Bins are counted from the epoch (`event_ms // grid_ms`).
"""

import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from streams.market import kernels
from streams.messages import Heartbeat, Hole, OrderBook, Trade, key_of

AHEAD = 8
"""A record this many bins ahead of its source's last heartbeat never enters a feature."""

UNKNOWN = -1
"""Stands for the next bin of a market that no session has spoken for."""


@cache
def _packer(numbers: int) -> Callable[..., None]:
    """Writes so many numbers into an array: in half the time in which numpy makes a new one of a list."""
    return struct.Struct(f"{numbers}d").pack_into


@dataclass(slots=True)
class OpenBin:
    """A bin that still takes records."""

    row: kernels.Floats = field(default_factory=lambda: np.zeros(kernels.ROW))
    received_ns: int = 0
    trade_ids: set[int] = field(default_factory=set)
    owner: tuple[int, str] = (0, "")
    """Session and source that closed it."""


@dataclass(slots=True)
class Source:
    """What one source's newest session has said in this partition."""

    session: int
    event_ms: int
    complete_from_ms: int
    seen: int
    is_whole: bool
    """Whether the session was seen from its first record."""
    holes: list[tuple[int, int, frozenset[str]]] = field(default_factory=list)


@dataclass(slots=True)
class Half:
    """One market's half: the owner, the open bins, and the closed complete ones that wait for the other half."""

    owner: tuple[int, str]
    known_from: int
    """Bins before this one were not seen whole by this reader."""
    is_from_session_start: bool
    """Whether that is so because the market began there."""
    first_bin: int
    next_bin: int
    open: dict[int, OpenBin] = field(default_factory=dict)
    closed: dict[int, OpenBin] = field(default_factory=dict)


class HalfBins:
    """The half bins of one topic-partition.

    `reads_from_start` says whether the first record given is the log's first: then every session is seen from its
    beginning. Otherwise the bins that were open at the first heartbeat seen are unknown and never closed.
    """

    def __init__(self, grid_ms: int, *, reads_from_start: bool) -> None:
        self._grid_ms = grid_ms
        self._reads_from_start = reads_from_start
        self._sources: dict[str, Source] = {}
        self._floor: dict[str, tuple[int, str]] = {}
        self.halves: dict[str, Half] = {}
        self.counts: Counter[str] = Counter()
        self._flat = np.zeros(256)

    def expect_owner(self, market: str, session: int, source: str) -> None:
        """Tell who owned a market before the first record given; older sessions do not get it."""
        self._floor[market] = max((session, source), self._floor.get(market, (0, "")))

    def take_book(self, book: OrderBook) -> None:
        """Put a book into its bin, or count why not."""
        bin_ = self._bin_for(book, book.exchange_ms)
        if bin_ is None:
            return
        if bin_.row[kernels.N_BOOKS] > 0.0 and book.exchange_ms < bin_.row[kernels.BOOK_MS]:
            self.counts["book out of order"] += 1
            return
        bids, asks = len(book.bid_prices), len(book.ask_prices)
        if (len(book.bid_sizes), len(book.ask_sizes)) != (bids, asks):
            self.counts["book without a size to each price"] += 1
            return
        if 2 * (bids + asks) > len(self._flat):
            self._flat = np.zeros(4 * (bids + asks))
        _packer(2 * (bids + asks))(
            self._flat, 0, *book.bid_prices, *book.bid_sizes, *book.ask_prices, *book.ask_sizes
        )  # fmt: skip
        kernels.apply_book(bin_.row, self._flat, bids, asks, float(book.exchange_ms))
        bin_.received_ns = max(bin_.received_ns, book.received_ns)
        self.counts["book"] += 1

    def take_trade(self, trade: Trade) -> None:
        """Put a trade into its bin, or count why not (back-filled trades never enter)."""
        if trade.origin == "backfill":
            self._count_record(trade)
            self.counts["back-filled"] += 1
            return
        bin_ = self._bin_for(trade, trade.exchange_ms)
        if bin_ is None:
            return
        if trade.trade_id in bin_.trade_ids:
            self.counts["duplicate trade"] += 1
            return
        bin_.trade_ids.add(trade.trade_id)
        kernels.apply_trade(bin_.row, trade.price, trade.size, trade.is_buy, float(trade.exchange_ms))
        bin_.received_ns = max(bin_.received_ns, trade.received_ns)
        self.counts["trade"] += 1

    def take_hole(self, hole: Hole) -> None:
        """Remember a declared hole of a current session."""
        source = self._sources.get(hole.source)
        if source is None or source.session != hole.session:
            self.counts["hole of another session"] += 1
            return
        markets = frozenset(key_of(hole.exchange, market) for market in hole.markets)
        source.holes.append((hole.from_ms, hole.to_ms, markets))
        self.counts["hole"] += 1

    def take_heartbeat(self, beat: Heartbeat) -> list[str]:
        """Close the bins before the heartbeat; return the markets whose halves moved."""
        source = self._sources.get(beat.source)
        markets = [key_of(beat.exchange, market) for market in beat.markets]
        if source is not None and beat.session < source.session:
            self.counts["heartbeat of an older session"] += 1
            return []
        lost_from = None
        if source is None or beat.session > source.session:
            source = self._open_session(beat)
        elif beat.count != source.seen:
            lost_from = source.event_ms
            source.seen = beat.count
            self.counts["records lost on the way"] += 1
        self._take_over((beat.session, beat.source), markets, source)
        source.complete_from_ms = max(source.complete_from_ms, beat.complete_from_ms)
        source.event_ms = max(source.event_ms, beat.event_ms)
        if lost_from is not None:
            # The lost record may belong to any bin that was open then, also one ahead.
            lost_to = source.event_ms + AHEAD * self._grid_ms
            source.holes.append((lost_from, lost_to, frozenset(markets)))
        moved = [market for market in markets if self._close(market, source, beat.source)]
        source.holes = [hole for hole in source.holes if hole[1] > source.event_ms]
        return moved

    def closed_to(self, market: str) -> int:
        """Bins before this one are closed by the owner's last heartbeat; `UNKNOWN` without an owner."""
        half = self.halves.get(market)
        return self._sources[half.owner[1]].event_ms // self._grid_ms if half else UNKNOWN

    def _open_session(self, beat: Heartbeat) -> Source:
        is_whole = self._reads_from_start or (beat.event_ms == beat.complete_from_ms and beat.count == 0)
        source = Source(beat.session, beat.event_ms, beat.complete_from_ms, beat.count, is_whole)
        if not is_whole:
            # Records of bins ahead came before this heartbeat and were not seen.
            source.complete_from_ms = max(beat.complete_from_ms, beat.event_ms + AHEAD * self._grid_ms)
        if is_whole and beat.count != 0:
            self.counts["records lost on the way"] += 1
            source.complete_from_ms = max(beat.complete_from_ms, beat.event_ms + AHEAD * self._grid_ms)
        self._sources[beat.source] = source
        self.counts["session"] += 1
        return source

    def _take_over(self, holder: tuple[int, str], markets: list[str], source: Source) -> None:
        first = -(-source.complete_from_ms // self._grid_ms)
        for market in markets:
            half = self.halves.get(market)
            if half is None:
                if holder >= self._floor.get(market, holder):
                    self.halves[market] = Half(holder, first, source.is_whole, first, first)
            elif holder > half.owner:
                half.owner = holder
                half.first_bin = first
                half.open.clear()
                self.counts["hand-over"] += 1

    def _close(self, market: str, source: Source, name: str) -> bool:
        half = self.halves.get(market)
        if half is None or half.owner != (source.session, name):
            return False
        end = source.event_ms // self._grid_ms
        complete_from = max(half.first_bin, -(-source.complete_from_ms // self._grid_ms))
        if end <= half.next_bin:
            return False
        for index in range(max(half.next_bin, complete_from), end):
            if not self._is_in_hole(source, market, index):
                closed = half.closed[index] = half.open.get(index) or OpenBin()
                closed.owner = half.owner
            else:
                self.counts["bin in a hole"] += 1
        half.next_bin = end
        for index in [index for index in half.open if index < end]:
            del half.open[index]
        return True

    def _is_in_hole(self, source: Source, market: str, index: int) -> bool:
        start, end = index * self._grid_ms, (index + 1) * self._grid_ms
        return any(
            from_ms < end and to_ms > start and (market in markets or not markets)
            for from_ms, to_ms, markets in source.holes
        )

    def _why_not(self, source: Source, half: Half, event_ms: int, index: int) -> str:
        closed_to = source.event_ms // self._grid_ms
        if event_ms < source.complete_from_ms:
            return "before the session is complete"
        if index < closed_to:
            return "late"
        if index >= closed_to + AHEAD:
            return "ahead"
        return "closed before the hand-over" if index < half.next_bin else ""

    def _count_record(self, record: OrderBook | Trade) -> Source | None:
        source = self._sources.get(record.source)
        if source is None or source.session != record.session:
            self.counts["of another session"] += 1
            return None
        source.seen += 1
        return source

    def _bin_for(self, record: OrderBook | Trade, event_ms: int) -> OpenBin | None:
        source = self._count_record(record)
        if source is None:
            return None
        half = self.halves.get(key_of(record.exchange, record.market))
        if half is None or half.owner != (record.session, record.source):
            self.counts["of another owner"] += 1
            return None
        index = event_ms // self._grid_ms
        if why := self._why_not(source, half, event_ms, index):
            self.counts[why] += 1
            return None
        bin_ = half.open.get(index)
        if bin_ is None:
            bin_ = half.open[index] = OpenBin()
        return bin_


@dataclass(frozen=True, slots=True)
class WholeBin:
    """A bin whose halves are both closed; `row` is None where it is a hole."""

    index: int
    row: kernels.Floats | None
    received_ns: int = 0
    owner: tuple[int, str] = (0, "")
    """Session and source that closed the book half."""


def join(books: Half, trades: Half, next_bin: int) -> tuple[list[WholeBin], int]:
    """Join the closed half bins from `next_bin` on: the whole bins in order, and the next bin to join.

    A bin that either half lacks below both frontiers is a hole; a stretch of them is one entry (its last bin).
    """
    frontier = min(books.next_bin, trades.next_bin)
    joined: list[WholeBin] = []
    index = next_bin if next_bin != UNKNOWN else min(books.first_bin, trades.first_bin, frontier)
    while index < frontier:
        book, trade = books.closed.pop(index, None), trades.closed.pop(index, None)
        if book is not None and trade is not None:
            row = book.row
            row[kernels.TRADES :] = trade.row[kernels.TRADES :]
            joined.append(WholeBin(index, row, max(book.received_ns, trade.received_ns), book.owner))
            index += 1
            continue
        after = min(
            min((key for key in books.closed if key > index), default=frontier),
            min((key for key in trades.closed if key > index), default=frontier),
            frontier,
        )
        joined.append(WholeBin(after - 1, None))
        index = after
    return joined, max(index, next_bin)
