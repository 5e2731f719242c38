"""The synthetic market's inner loops, compiled by numba: one step of one market, and the spelling of a book's levels.

Called by `synthetic` only. All kernels stand in this one file (numba's cache would keep an old callee). Deterministic:
the random numbers are a splitmix64 stream per market that stands in the state; no clock, no global generator.
"""

import math

import numba
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]

LEVELS = 30
MAX_TRADES = 24

# Columns of the latent state of a market.
SIGNAL, SECOND, VOLATILITY, BURST, EXCITEMENT, FLOW = range(6)
LATENTS = 6
# Columns of a market's fixed parameters.
(
    TICK_BP, STEP_TICKS, SPREAD_TICKS, MOVE_RATE, TRADE_RATE, LEVEL_LOTS, TRADE_LOTS, LINEAR, NONLINEAR, GAP_TICKS,
    BASE_TICKS, MINIMUM_LOTS, EXCITING,
) = range(13)  # fmt: skip
PARAMETERS = 13

SIGNAL_SECONDS = 30.0
"""Time constant of the planted signal."""
DRIFT_BP = 0.75
"""Drift of the mid price in bp/s per standard deviation of the signal at edge 1: 60 s ahead one sd is worth 19.5 bp."""
EXCITED_SECONDS = 3.0
"""How long one event makes the next more likely; each brings on average `BRANCHING` others."""
BRANCHING = 0.4
_VISIBLE = 0.6
_TOP = 5

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


@numba.njit(cache=True)
def _uniform(rng: Words, m: int) -> float:
    rng[m] += _GOLDEN
    z = rng[m]
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    z ^= z >> np.uint64(31)
    return (float(z >> np.uint64(11)) + 0.5) * (1.0 / 9007199254740992.0)


@numba.njit(cache=True)
def _normal(rng: Words, m: int) -> float:
    return math.sqrt(-2.0 * math.log(_uniform(rng, m))) * math.cos(2.0 * math.pi * _uniform(rng, m))


@numba.njit(cache=True)
def _poisson(rng: Words, m: int, mean: float, cap: int) -> int:
    limit = math.exp(-mean)
    product = _uniform(rng, m)
    n = 0
    while product > limit and n < cap:
        product *= _uniform(rng, m)
        n += 1
    return n


@numba.njit(cache=True)
def _revert(rng: Words, m: int, value: float, seconds: float, constant: float) -> float:
    """One exact step of a unit-variance Ornstein-Uhlenbeck process."""
    phi = math.exp(-seconds / constant)
    return phi * value + math.sqrt(1.0 - phi * phi) * _normal(rng, m)


@numba.njit(cache=True)
def _fresh_lots(m: int, side: int, depth: int, latent: Floats, parameters: Floats, rng: Words) -> int:
    """Size of a newly shown level: lognormal, deeper levels larger, tilted by the signal (top) or the second (deep)."""
    tilt = latent[m, SIGNAL] if depth < _TOP else latent[m, SECOND]
    sign = 1.0 if side == 0 else -1.0
    scale = 0.6 + 0.08 * depth
    size = parameters[m, LEVEL_LOTS] * scale * math.exp(0.6 * _normal(rng, m) + sign * _VISIBLE * tilt)
    return max(int(size), int(parameters[m, MINIMUM_LOTS]))


@numba.njit(cache=True)
def _gap(m: int, parameters: Floats, rng: Words) -> int:
    mean = parameters[m, GAP_TICKS]
    if mean <= 1.0:
        return 1
    return 1 + int(-math.log(_uniform(rng, m)) * (mean - 1.0))


@numba.njit(cache=True)
def _drop(ticks: Ints, lots: Ints, m: int, count: int) -> None:
    """Forget the first `count` levels; the freed tail is zero."""
    for i in range(LEVELS - count):
        ticks[m, i] = ticks[m, i + count]
        lots[m, i] = lots[m, i + count]
    for i in range(max(LEVELS - count, 0), LEVELS):
        ticks[m, i] = 0
        lots[m, i] = 0


@numba.njit(cache=True)
def refill(m: int, side: int, ticks: Ints, lots: Ints, latent: Floats, parameters: Floats, rng: Words) -> None:
    """Show levels at the far end until there are thirty again (used after takers emptied some)."""
    away = -1 if side == 0 else 1
    for i in range(1, LEVELS):
        if lots[m, i] == 0:
            ticks[m, i] = ticks[m, i - 1] + away * _gap(m, parameters, rng)
            lots[m, i] = _fresh_lots(m, side, i, latent, parameters, rng)


@numba.njit(cache=True)
def _set_best(
    m: int, side: int, tick: int, ticks: Ints, lots: Ints, latent: Floats, parameters: Floats, rng: Words
) -> None:
    """Make `tick` the best price of a side: better levels go, a missing one is put in front."""
    away = -1 if side == 0 else 1
    count = 0
    while count < LEVELS and away * (ticks[m, count] - tick) < 0:
        count += 1
    if count:
        _drop(ticks, lots, m, count)
    if lots[m, 0] == 0 or ticks[m, 0] != tick:
        for i in range(LEVELS - 1, 0, -1):
            ticks[m, i] = ticks[m, i - 1]
            lots[m, i] = lots[m, i - 1]
        ticks[m, 0] = tick
        lots[m, 0] = _fresh_lots(m, side, 0, latent, parameters, rng)
    refill(m, side, ticks, lots, latent, parameters, rng)


@numba.njit(cache=True)
def open_books(
    bid_ticks: Ints, bid_lots: Ints, ask_ticks: Ints, ask_lots: Ints, latent: Floats, parameters: Floats, rng: Words
) -> None:
    """Draw the latent state and show the first book of every market."""
    for m in range(latent.shape[0]):
        for k in (SIGNAL, SECOND, VOLATILITY):
            latent[m, k] = _normal(rng, m)
        half = int(parameters[m, SPREAD_TICKS])
        _set_best(m, 0, int(parameters[m, BASE_TICKS]), bid_ticks, bid_lots, latent, parameters, rng)
        _set_best(m, 1, int(parameters[m, BASE_TICKS]) + half, ask_ticks, ask_lots, latent, parameters, rng)


@numba.njit(cache=True)
def _print(trades: Ints, n: int, tick: int, lots: int, is_buy: int) -> int:
    if n < MAX_TRADES and lots > 0:
        trades[n, 0] = tick
        trades[n, 1] = lots
        trades[n, 2] = is_buy
        return n + 1
    return n


@numba.njit(cache=True)
def _consume(
    m: int, side: int, tick: int, ticks: Ints, lots: Ints, trades: Ints, n: int, latent: Floats, parameters: Floats
) -> int:
    """A taker eats a side until `tick` is its best price; one trade per level eaten, at most four."""
    away = -1 if side == 0 else 1
    i = 0
    while i < LEVELS and i < 4 and away * (ticks[m, i] - tick) < 0:
        n = _print(trades, n, ticks[m, i], lots[m, i], side)
        i += 1
    latent[m, EXCITEMENT] += parameters[m, EXCITING]
    return n


@numba.njit(cache=True)
def _shift(
    m: int, size: int, is_up: bool, is_closing: bool, is_traded: bool,  # noqa: FBT001 - all by position, as elsewhere
    bid_ticks: Ints, bid_lots: Ints, ask_ticks: Ints, ask_lots: Ints, latent: Floats, parameters: Floats, rng: Words,
    trades: Ints, n: int,
) -> int:  # fmt: skip
    """Move one best quote by `size` ticks: into the spread, or away from the other side, with or without a taker."""
    if is_up == is_closing:
        to = bid_ticks[m, 0] + (size if is_closing else -size)
        if is_traded:
            n = _consume(m, 0, to, bid_ticks, bid_lots, trades, n, latent, parameters)
        _set_best(m, 0, to, bid_ticks, bid_lots, latent, parameters, rng)
    else:
        to = ask_ticks[m, 0] + (-size if is_closing else size)
        if is_traded:
            n = _consume(m, 1, to, ask_ticks, ask_lots, trades, n, latent, parameters)
        _set_best(m, 1, to, ask_ticks, ask_lots, latent, parameters, rng)
    return n


@numba.njit(cache=True)
def _move(
    m: int, rate: float, drift_bp: float, bid_ticks: Ints, bid_lots: Ints, ask_ticks: Ints, ask_lots: Ints,
    latent: Floats, parameters: Floats, rng: Words, trades: Ints, n: int,
) -> int:  # fmt: skip
    """One move of one best quote. Up and down have the same size, so without drift the mid price is a martingale.

    The choice between up and down carries the drift; what it cannot carry is made up by further moves that way, so that
    the mean of all moves is `drift_bp` a second, however strong it is.
    """
    spread = ask_ticks[m, 0] - bid_ticks[m, 0]
    least = int(parameters[m, SPREAD_TICKS])
    step = parameters[m, STEP_TICKS]
    size = max(int(step * (0.5 + _uniform(rng, m)) + 0.5), 1)
    is_closing = spread > least and (spread > least + 2.0 * step or _uniform(rng, m) < 0.85)
    if is_closing:
        size = min(size, spread - least)
    half_tick_bp = 0.5 * parameters[m, TICK_BP]
    wanted_bp = drift_bp / rate
    bias = min(max(wanted_bp / (half_tick_bp * size), -0.95), 0.95)
    is_up = _uniform(rng, m) < 0.5 * (1.0 + bias)
    is_traded = not is_closing and _uniform(rng, m) < 0.5
    n = _shift(
        m, size, is_up, is_closing, is_traded, bid_ticks, bid_lots, ask_ticks, ask_lots, latent, parameters, rng,
        trades, n,
    )  # fmt: skip
    left_bp = abs(wanted_bp - bias * half_tick_bp * size)
    while left_bp > 1e-9:
        spread = ask_ticks[m, 0] - bid_ticks[m, 0]
        size = min(int(step), spread - least) if spread > least else int(step)
        if _uniform(rng, m) < left_bp / (half_tick_bp * size):
            n = _shift(
                m, size, wanted_bp > 0.0, spread > least, False, bid_ticks, bid_lots, ask_ticks, ask_lots, latent,
                parameters, rng, trades, n,
            )  # fmt: skip
        left_bp -= half_tick_bp * size
    return n


@numba.njit(cache=True)
def _nibble(
    m: int, bid_ticks: Ints, bid_lots: Ints, ask_ticks: Ints, ask_lots: Ints, latent: Floats, parameters: Floats,
    rng: Words, trades: Ints, n: int,
) -> int:  # fmt: skip
    """A taker who takes part of the best level; its side leans towards the signal, its size says nothing."""
    is_buy = _uniform(rng, m) < 0.5 * (1.0 + 0.45 * math.tanh(0.8 * latent[m, SIGNAL]))
    wanted = int(parameters[m, TRADE_LOTS] * math.exp(1.2 * _normal(rng, m)))
    wanted = max(wanted, int(parameters[m, MINIMUM_LOTS]))
    if is_buy:
        taken = min(wanted, ask_lots[m, 0] * 9 // 10)
        ask_lots[m, 0] -= taken
        return _print(trades, n, ask_ticks[m, 0], taken, 1)
    taken = min(wanted, bid_lots[m, 0] * 9 // 10)
    bid_lots[m, 0] -= taken
    return _print(trades, n, bid_ticks[m, 0], taken, 0)


@numba.njit(cache=True)
def step(
    m: int, seconds: float, bid_ticks: Ints, bid_lots: Ints, ask_ticks: Ints, ask_lots: Ints, latent: Floats,
    parameters: Floats, rng: Words, trades: Ints,
) -> int:  # fmt: skip
    """Move market `m` on by `seconds`; fills `trades` (tick, lots, is_buy) in order and returns how many."""
    latent[m, SIGNAL] = _revert(rng, m, latent[m, SIGNAL], seconds, SIGNAL_SECONDS)
    latent[m, SECOND] = _revert(rng, m, latent[m, SECOND], seconds, SIGNAL_SECONDS)
    latent[m, VOLATILITY] = _revert(rng, m, latent[m, VOLATILITY], seconds, 300.0)
    latent[m, BURST] *= math.exp(-seconds / 15.0)
    if _uniform(rng, m) < seconds / 600.0:
        latent[m, BURST] += 3.0
    latent[m, EXCITEMENT] *= math.exp(-seconds / EXCITED_SECONDS)

    activity = math.exp(0.35 * latent[m, VOLATILITY] - 0.06) * (1.0 + latent[m, BURST])
    drift_bp = DRIFT_BP * latent[m, SIGNAL] * (parameters[m, LINEAR] + parameters[m, NONLINEAR] * latent[m, SECOND])
    away = 0.5 * (bid_ticks[m, 0] + ask_ticks[m, 0]) / parameters[m, BASE_TICKS] - 1.0
    if abs(away) > 0.1:  # far from home the price is pulled back, so that it stays inside its tick band
        drift_bp -= (away - math.copysign(0.1, away)) * 1e4 / 120.0

    n = 0
    rate = parameters[m, MOVE_RATE] * activity * (1.0 + latent[m, EXCITEMENT])
    if ask_ticks[m, 0] - bid_ticks[m, 0] > parameters[m, SPREAD_TICKS]:
        rate *= 2.0
    for _ in range(_poisson(rng, m, rate * seconds, 12)):
        n = _move(
            m, rate, drift_bp, bid_ticks, bid_lots, ask_ticks, ask_lots, latent, parameters, rng, trades, n
        )  # fmt: skip
    rate = parameters[m, TRADE_RATE] * activity * (1.0 + latent[m, EXCITEMENT])
    for _ in range(_poisson(rng, m, rate * seconds, 6)):
        latent[m, EXCITEMENT] += parameters[m, EXCITING]
        n = _nibble(m, bid_ticks, bid_lots, ask_ticks, ask_lots, latent, parameters, rng, trades, n)
    latent[m, EXCITEMENT] = min(latent[m, EXCITEMENT], 6.0)

    refreshed = 3 + min(int(8.0 * seconds), 40)
    for _ in range(refreshed):
        for side in range(2):
            place = _uniform(rng, m)
            i = int(place * place * LEVELS)
            lots = bid_lots if side == 0 else ask_lots
            lots[m, i] = _fresh_lots(m, side, i, latent, parameters, rng)
    return n


# --- spelling ---------------------------------------------------------------------------------------------------
# Unsigned throughout: signed indices and divisions cost numba extra steps at every digit.

Word = np.uint64
_PAIRS: Bytes = np.frombuffer("".join(f"{pair:02d}" for pair in range(100)).encode(), dtype=np.uint8).copy()
_0, _1, _2, _3, _10, _100 = Word(0), Word(1), Word(2), Word(3), Word(10), Word(100)
_1E4, _1E5, _1E8, _1E15 = Word(10_000), Word(100_000), Word(100_000_000), Word(1_000_000_000_000_000)


@numba.njit(cache=True)
def _pair(out: Bytes, at: Word, value: Word) -> Word:
    """Two digits."""
    out[at] = _PAIRS[value * _2]
    out[at + _1] = _PAIRS[value * _2 + _1]
    return at + _2


@numba.njit(cache=True)
def _eight(out: Bytes, at: Word, value: Word) -> Word:
    """Eight digits, with leading zeros."""
    high = value // _1E4
    low = value - high * _1E4
    at = _pair(out, at, high // _100)
    at = _pair(out, at, high % _100)
    at = _pair(out, at, low // _100)
    return _pair(out, at, low % _100)


@numba.njit(cache=True)
def _digits(out: Bytes, at: Word, value: Word) -> Word:
    """A whole number in decimal."""
    end = at + _1
    rest = value
    while rest >= _10:
        rest = rest // _10
        end += _1
    i = end
    while value >= _10:
        rest = value // _100
        i -= _2
        _pair(out, i, value - rest * _100)
        value = rest
    if i > at:
        out[at] = np.uint8(48) + np.uint8(value)
    return end


@numba.njit(cache=True)
def _scientific(out: Bytes, at: Word, e8: Word) -> Word:
    """As Java spells a double outside [1e-3, 1e7): `1.16539E8`, `7.9276E-4`."""
    end = _digits(out, at + _1, e8)
    exponent = int(end - at) - 10
    out[at] = out[at + _1]
    out[at + _1] = 46
    while end > at + _3 and out[end - _1] == 48:
        end -= _1
    if end == at + _2:
        out[end] = 48
        end += _1
    out[end] = 69
    end += _1
    if exponent < 0:
        out[end] = 45
        end += _1
        exponent = -exponent
    return _digits(out, end, Word(exponent))


JAVA, FIXED, PLAIN = range(3)
"""`3040.0` or `1.16539E8`; eight decimals (`0.00077720`); without trailing zeros (`3040`, `0.0007772`)."""


@numba.njit(cache=True)
def _spell(out: Bytes, at: Word, e8: Word, style: int) -> Word:
    if style == JAVA and e8 != _0 and (e8 < _1E5 or e8 >= _1E15):
        return _scientific(out, at, e8)
    whole = e8 // _1E8
    rest = e8 - whole * _1E8
    at = _digits(out, at, whole)
    if rest == _0 and style != FIXED:
        if style == JAVA:
            out[at] = 46
            out[at + _1] = 48
            at += _2
        return at
    out[at] = 46
    at = _eight(out, at + _1, rest)
    if style != FIXED:
        while out[at - _1] == 48:
            at -= _1
    return at


@numba.njit(cache=True)
def spell(out: Bytes, at: int, e8: int, style: int) -> int:
    """Write the number `e8` x 1e-8 (not negative) at `at` in a style; returns the position behind it."""
    return int(_spell(out, Word(at), Word(e8), style))


@numba.njit(cache=True)
def _copy(out: Bytes, at: Word, texts: Bytes, ends: Words, number: int) -> Word:
    """Text `number` of those that stand in `texts` one behind another."""
    for i in range(ends[number], ends[number + 1]):
        out[at] = texts[i]
        at += _1
    return at


@numba.njit(cache=True)
def _level(
    out: Bytes, at: Word, values: Ints, i: int, unit: int, style: int, texts: Bytes, ends: Words, number: int
) -> Word:  # fmt: skip
    """One key and its number; zero where the side has fewer levels."""
    at = _copy(out, at, texts, ends, number)
    return _spell(out, at, Word(values[i] * unit) if i < values.shape[0] else _0, style)


@numba.njit(cache=True)
def spell_book(
    out: Bytes, ask_prices: Ints, ask_lots: Ints, bid_prices: Ints, bid_lots: Ints, unit: int, depth: int,
    price_style: int, size_style: int, texts: Bytes, ends: Words,
) -> int:  # fmt: skip
    """Write total ask size, total bid size and `depth` levels of a book as JSON; gives the length.

    Prices are multiples of `unit`, which is in e8 like the lots. A side that has fewer levels is padded with zeros, as
    the exchange does. `texts` stands between the numbers: before either total, before the levels, the four keys.
    """
    at = _0
    for side in range(2):
        lots = ask_lots if side == 0 else bid_lots
        total = 0
        for i in range(min(depth, lots.shape[0])):
            total += lots[i]
        at = _copy(out, at, texts, ends, side)
        at = _spell(out, at, Word(total), size_style)
    at = _copy(out, at, texts, ends, 2)
    for i in range(depth):
        at = _level(out, at, ask_prices, i, unit, price_style, texts, ends, 3)
        at = _level(out, at, bid_prices, i, unit, price_style, texts, ends, 4)
        at = _level(out, at, ask_lots, i, 1, size_style, texts, ends, 5)
        at = _level(out, at, bid_lots, i, 1, size_style, texts, ends, 6)
        out[at] = 125
        out[at + _1] = 44
        at += _2
    return int(at - _1)
