"""The draws behind the synthetic market's past, compiled by numba: a day's trades from the seed, and their candles.

Called by `history` only. All kernels stand in this one file (numba's cache would keep an old callee).
"""

import math

import numba
import numpy as np
import numpy.typing as npt

from producers.sandbox.candle_rows import (
    CLOSE,
    FIRST,
    HIGH,
    LAST,
    LOW,
    OPEN,
    SIZE,
    SOLD,
    STAMP,
    START,
    VALUE,
    WHOLE,
)  # fmt: skip
from producers.sandbox.periods import DAY_MS, MINUTE_MS
from streams.market.ticks import E8

Ints = npt.NDArray[np.int64]

LEADING_DAYS = 30.0
"""So many days before the start the prices begin to lead to the market's own."""
MOST_TRADES = 9_000
"""Of one day."""
_STAMP_MS = 40

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_LOW = np.uint64(0xFFFF)
_STEP = 0.0006
"""Standard deviation of a minute's move within a day."""
_OCTAVES = 9
_SWING = 0.01


@numba.njit(cache=True)
def _mixed(z: np.uint64) -> np.uint64:
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


@numba.njit(cache=True)
def _field(word: np.uint64, i: int) -> float:
    """One of four sixteen-bit numbers of a word, in [0, 1)."""
    return float((word >> np.uint64(16 * i)) & _LOW) / 65536.0


@numba.njit(cache=True)
def deviation(seed: np.uint64, day: int) -> float:
    """How far from the listed price a day opens: noise on scales of 1 to 256 days, a function of seed and day alone."""
    total = 0.0
    for octave in range(_OCTAVES):
        length = 1 << octave
        i = day // length
        share = (day - i * length) / length
        key = seed + np.uint64(octave + 1) * _GOLDEN
        one = float(_mixed(key ^ _mixed(np.uint64(i))) >> np.uint64(11)) / 4503599627370496.0 - 1.0
        other = float(_mixed(key ^ _mixed(np.uint64(i + 1))) >> np.uint64(11)) / 4503599627370496.0 - 1.0
        total += _SWING * (1.0 + 0.15 * octave) * (one + (other - one) * share)
    return total


@numba.njit(cache=True)
def _opening(seed: np.uint64, day: int, last_day: int, anchor: float) -> float:
    """The deviation at which a day opens, led to `anchor` on the last one."""
    weight = 1.0 - (last_day - day) / LEADING_DAYS
    own = deviation(seed, day)
    return own if weight <= 0.0 else own + weight * (anchor - deviation(seed, last_day))


@numba.njit(cache=True)
def day_trades(
    seed: np.uint64, day: int, last_day: int, until_ms: int, anchor: float, base_e8: int, tick_e8: int, mean: float,
    lots: float, out: Ints,
) -> int:  # fmt: skip
    """Draw the trades of a day before `until_ms` into `out` (time, price, lots, is_buy); returns how many."""
    day_ms = day * DAY_MS
    minutes = min(1440, max(0, (until_ms - day_ms + MINUTE_MS - 1) // MINUTE_MS))
    x = _opening(seed, day, last_day, anchor)
    closing = anchor if day >= last_day else _opening(seed, day + 1, last_day, anchor)
    word = _mixed(seed ^ _mixed(np.uint64(day) + _GOLDEN))
    n = 0
    last_ms = day_ms - 1
    for minute in range(minutes):
        word += _GOLDEN
        draw = _mixed(word)
        noise = (_field(draw, 0) + _field(draw, 1) + _field(draw, 2) + _field(draw, 3) - 2.0) * 1.7320508
        left = minutes - minute
        x_next = x + (closing - x) / left + _STEP * noise * math.sqrt((left - 1) / left)
        word += _GOLDEN
        count = int((2.0 * mean + 1.0) * _field(_mixed(word), 0))
        for k in range(count):
            word += _GOLDEN
            draw = _mixed(word)
            share = (k + _field(draw, 0)) / count
            at_ms = max(day_ms + minute * MINUTE_MS + int(share * 60000.0), last_ms + 1)
            if at_ms >= until_ms or n >= out.shape[0]:
                break
            last_ms = at_ms
            is_buy = int(_field(draw, 1) < 0.5)
            ticks = int(base_e8 * (1.0 + x + (x_next - x) * share) / tick_e8 + 0.5) + is_buy
            size = _field(draw, 2)
            out[n, 0] = at_ms
            out[n, 1] = max(ticks, 1) * tick_e8
            out[n, 2] = max(int(lots * (0.1 + 3.6 * size * size * size)), 1)
            out[n, 3] = is_buy
            n += 1
        x = x_next
    return n


@numba.njit(cache=True)
def _start_row(row: Ints, start: int, price: int, at_ms: int) -> None:
    row[START] = start
    row[OPEN] = price
    row[HIGH] = price
    row[LOW] = price
    row[SIZE:STAMP] = 0
    row[FIRST] = at_ms


@numba.njit(cache=True)
def _add(row: Ints, whole: int, rest: int, size: int, limit: int) -> None:
    """Add to an amount that is split into whole units (column `whole`) and the rest below `limit` behind it."""
    row[whole] += size
    row[whole + 1] += rest
    if row[whole + 1] >= limit:
        row[whole] += 1
        row[whole + 1] -= limit


@numba.njit(cache=True)
def fold_trades(trades: Ints, count: int, length_ms: int, rows: Ints) -> int:
    """Put a day's trades together into stored rows (`candle_rows`) of a fixed length; returns how many."""
    n = -1
    for i in range(count):
        at_ms, price, lots, is_buy = trades[i, 0], trades[i, 1], trades[i, 2], trades[i, 3]
        start = at_ms - at_ms % length_ms
        if n < 0 or rows[n, START] != start:
            n += 1
            _start_row(rows[n], start, price, at_ms)
        row = rows[n]
        row[HIGH] = max(row[HIGH], price)
        row[LOW] = min(row[LOW], price)
        row[CLOSE] = price
        won, part = price // E8, price % E8
        coins, rest = lots // E8, lots % E8
        _add(row, SIZE, rest, coins, E8)
        if not is_buy:
            _add(row, SOLD, rest, coins, E8)
        fine = part * rest
        value_e8 = won * coins * E8 + won * rest + part * coins + fine // E8
        _add(row, VALUE, (value_e8 % E8) * E8 + fine % E8, value_e8 // E8, WHOLE)
        row[STAMP] = at_ms + _STAMP_MS
        row[LAST] = at_ms
    return n + 1


@numba.njit(cache=True, nogil=True)
def day_rows(
    seed: np.uint64, first_day: int, last_day: int, until_ms: int, anchor: float, base_e8: int, tick_e8: int,
    mean: float, lots: float, trades: Ints, rows: Ints,
) -> int:  # fmt: skip
    """One stored row for each day of [first, last] that had trades; returns how many."""
    n = 0
    for day in range(first_day, last_day + 1):
        count = day_trades(seed, day, last_day, until_ms, anchor, base_e8, tick_e8, mean, lots, trades)
        n += fold_trades(trades, count, DAY_MS, rows[n:])
    return n
