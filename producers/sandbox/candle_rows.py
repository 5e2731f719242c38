"""One candle, how two are joined, and the compact store of closed ones. Pure; used by `candles` and `history`.

A stored row is fourteen 64-bit integers; sizes and the turnover are split into whole units and the rest, because a
cheap coin's day does not fit into one integer of 1e-8.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from producers.sandbox.feeds import Print
from producers.sandbox.periods import SECOND_MS, start_of
from streams.market.ticks import E8

Ints = npt.NDArray[np.int64]

COLUMNS = 14
START, OPEN, HIGH, LOW, CLOSE, SIZE, LOTS, SOLD, SOLD_LOTS, VALUE, REST, STAMP, FIRST, LAST = range(COLUMNS)
"""SIZE and SOLD are whole base units, LOTS and SOLD_LOTS the rest of 1e-8; VALUE whole quote units, REST of 1e-16."""
WHOLE = 10**16
_HALF = 10**8
_PRINT_COLUMNS = 5
_SLACK = 8
"""A full store lets go of an eighth at once."""


class Candle(NamedTuple):
    """One period's trades: prices and lots of 1e-8, value of 1e-16, times in ms.

    `stamp_ms` is when its newest print was told, `first_ms` and `last_ms` are trade times; `sold_lots` were sold by
    takers.
    """

    start_ms: int
    open_e8: int
    high_e8: int
    low_e8: int
    close_e8: int
    lots: int
    sold_lots: int
    value: int
    stamp_ms: int
    first_ms: int
    last_ms: int

    @property
    def value_e8(self) -> int:
        """Turnover of 1e-8, rounded half up."""
        return (self.value + _HALF // 2) // _HALF


class Extremes(NamedTuple):
    """The highest and the lowest price of some days, and the latest day of each."""

    high_e8: int
    high_ms: int
    low_e8: int
    low_ms: int


def wider(one: Extremes | None, other: Extremes | None) -> Extremes | None:
    """Both together; the later day of equals."""
    if one is None or other is None:
        return other if one is None else one
    highest = max((one.high_e8, one.high_ms), (other.high_e8, other.high_ms))
    lowest = min((one.low_e8, -one.low_ms), (other.low_e8, -other.low_ms))
    return Extremes(*highest, lowest[0], -lowest[1])


def extremes_of(day: Candle) -> Extremes:
    """One day's."""
    return Extremes(day.high_e8, day.start_ms, day.low_e8, day.start_ms)


def candle_of(trade: Print, at_ms: int) -> Candle:
    """The candle of a second with one print, told at `at_ms`."""
    price, lots, moment = trade.price_e8, trade.lots, trade.trade_ms
    sold = 0 if trade.is_buy else lots
    start_ms = moment - moment % SECOND_MS
    return Candle(start_ms, price, price, price, price, lots, sold, price * lots, at_ms, moment, moment)


def joined(one: Candle, other: Candle) -> Candle:
    """Both in the first one's period; at equal trade times `other` came later."""
    return Candle(
        one.start_ms,
        other.open_e8 if other.first_ms < one.first_ms else one.open_e8,
        max(one.high_e8, other.high_e8),
        min(one.low_e8, other.low_e8),
        other.close_e8 if other.last_ms >= one.last_ms else one.close_e8,
        one.lots + other.lots,
        one.sold_lots + other.sold_lots,
        one.value + other.value,
        max(one.stamp_ms, other.stamp_ms),
        min(one.first_ms, other.first_ms),
        max(one.last_ms, other.last_ms),
    )


def grouped(unit: str, candles: Iterable[Candle]) -> Iterator[Candle]:
    """Shorter candles, newest first, put together into those of a unit."""
    group: Candle | None = None
    for candle in candles:
        start_ms = start_of(unit, candle.start_ms)
        if group is not None and group.start_ms == start_ms:
            group = joined(candle._replace(start_ms=start_ms), group)
            continue
        if group is not None:
            yield group
        group = candle._replace(start_ms=start_ms)
    if group is not None:
        yield group


def of_row(row: Sequence[int]) -> Candle:
    """A stored row as a candle."""
    start, opening, high, low, close, size, lots, sold, sold_lots, value, rest, stamp, first, last = row
    return Candle(
        start, opening, high, low, close, size * E8 + lots, sold * E8 + sold_lots, value * WHOLE + rest, stamp, first,
        last,
    )  # fmt: skip


def _row_of(candle: Candle) -> tuple[int, ...]:
    sums = (*divmod(candle.lots, E8), *divmod(candle.sold_lots, E8), *divmod(candle.value, WHOLE))
    return (*candle[:SIZE], *sums, candle.stamp_ms, candle.first_ms, candle.last_ms)


def sum_rows(rows: Ints) -> tuple[int, int]:
    """Lots and value of stored rows."""
    rest = rows[:, REST]
    value = int(rows[:, VALUE].sum()) * WHOLE + int((rest // _HALF).sum()) * _HALF + int((rest % _HALF).sum())
    return int(rows[:, SIZE].sum()) * E8 + int(rows[:, LOTS].sum()), value


class _Rows:
    """Rows of integers, oldest first, in room for all that are kept."""

    def __init__(self, limit: int, columns: int) -> None:
        self._limit = limit
        self._room: Ints = np.zeros((limit + max(1, limit // _SLACK), columns), dtype=np.int64)
        self._count = 0

    def reserve(self) -> None:
        """Take all of the memory now, so that what fills within hours does not look as if it grew without end."""
        self._room.fill(0)

    def make_room(self) -> int:
        """Let the oldest go where there is no room for one more; says how many went."""
        if self._count < len(self._room):
            return 0
        gone = self._count - self._limit
        self._room[: self._limit] = self._room[gone:]
        self._count = self._limit
        return gone

    def insert(self, at: int, row: Sequence[int]) -> None:
        """Keep one more, where there is room for it."""
        self._room[at + 1 : self._count + 1] = self._room[at : self._count]
        self._room[at] = row
        self._count += 1

    def kept(self) -> Ints:
        """All of them; a view."""
        return self._room[: self._count]


class Ring:
    """Closed candles in order of their start; the oldest go when it is full."""

    def __init__(self, limit: int) -> None:
        self._store = _Rows(limit, COLUMNS)
        self.whole_from_ms = 0
        """Candles that start before it may be forgotten, or be there without all of their parts."""

    def reserve(self) -> None:
        """Take the memory for all candles at once."""
        self._store.reserve()

    def __len__(self) -> int:
        return len(self._store.kept())

    def __getitem__(self, i: int) -> Candle:
        return of_row(self._store.kept()[i].tolist())

    def find(self, start_ms: int) -> int:
        """Position of the first candle that does not start before `start_ms`."""
        rows = self._store.kept()
        return bisect_left(range(len(rows)), start_ms, key=lambda i: int(rows[i, START]))

    def append(self, candle: Candle) -> None:
        """Keep a candle that is newer than all others."""
        self._insert(len(self), candle)

    def put(self, candle: Candle) -> None:
        """Join a late candle with the one of its period, or set it where it belongs."""
        if candle.start_ms < self.whole_from_ms:
            return
        i = self.find(candle.start_ms)
        rows = self._store.kept()
        if i < len(rows) and rows[i, START] == candle.start_ms:
            rows[i] = _row_of(joined(self[i], candle))
        else:
            self._insert(i, candle)

    def _insert(self, at: int, candle: Candle) -> None:
        if gone := self._store.make_room():
            self.whole_from_ms = int(self._store.kept()[0, START])
        if at >= gone:
            self._store.insert(at - gone, _row_of(candle))

    def sums(self, from_ms: int, to_ms: int) -> tuple[int, int]:
        """Lots and value of the candles that start in [from, to)."""
        i, j = self.find(from_ms), self.find(to_ms)
        if i >= j:
            return 0, 0
        return sum_rows(self._store.kept()[i:j])


class Tier:
    """The candles of one length: the open one and the closed ones."""

    def __init__(self, length_ms: int, ring: Ring) -> None:
        self._length_ms = length_ms
        self.ring = ring
        self._open: Candle | None = None

    def merge(self, candle: Candle) -> None:
        """Bring in a shorter candle."""
        start_ms = candle.start_ms - candle.start_ms % self._length_ms
        if start_ms != candle.start_ms:
            candle = candle._replace(start_ms=start_ms)
        if self._open is None:
            self._open = candle
        elif start_ms == self._open.start_ms:
            self._open = joined(self._open, candle)
        elif start_ms > self._open.start_ms:
            self.ring.append(self._open)
            self._open = candle
        else:
            self.ring.put(candle)

    def rows(self, end_ms: int) -> Iterator[Candle]:
        """Candles that start before `end_ms`, newest first."""
        if self._open is not None and self._open.start_ms < end_ms:
            yield self._open
        for i in range(self.ring.find(end_ms) - 1, -1, -1):
            yield self.ring[i]

    def sums(self, from_ms: int, to_ms: int) -> tuple[int, int]:
        """Lots and value of the candles that start in [from, to)."""
        lots, value = self.ring.sums(from_ms, to_ms)
        if self._open is not None and from_ms <= self._open.start_ms < to_ms:
            return lots + self._open.lots, value + self._open.value
        return lots, value


class Prints:
    """The newest trades, oldest first, as integers without objects."""

    def __init__(self, limit: int) -> None:
        self._store = _Rows(limit, _PRINT_COLUMNS)
        self._store.reserve()

    def append(self, trade: Print) -> None:
        """Keep one."""
        self._store.make_room()
        self._store.insert(len(self._store.kept()), trade)

    def newest_first(self) -> Iterator[Print]:
        """All that are kept."""
        rows = self._store.kept()
        for i in range(len(rows) - 1, -1, -1):
            moment, price, lots, is_buy, sid = rows[i].tolist()
            yield Print(moment, price, lots, bool(is_buy), sid)
