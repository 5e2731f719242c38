"""How much of the synthetic market's returns can be predicted, beside what was planted, with intervals.

Called by `synthetic`. What is planted: the price drifts by `DRIFT_BP` a second times the signal times (linear edge +
nonlinear edge times the second signal), both of which forget with `SIGNAL_SECONDS`. So the expected return over a
horizon is known exactly from the hidden state, and the slope on anything else is what that thing tells of the state.
"""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from producers.sandbox import kernels
from producers.sandbox.synthetic import Inside, Plan, Synthetic

Floats = npt.NDArray[np.float64]

START_MS = 1_790_000_000_000
LONGEST_S = 3_600
"""Of a session: short enough that prices stay within a tenth of home, where the drift is the planted one alone."""
MARKETS = ("KRW-BTC", "KRW-ETH", "KRW-XRP", "KRW-SOL", "KRW-LINK", "KRW-NEAR", "KRW-AVAX", "KRW-DOT")
"""Fine ticks; in a market of coarse ones half an hour can lead far from home."""
BOOKS_PER_SECOND = 5.0
PREDICTORS = ("hidden signal", "hidden product", "top five tilt", "product of tilts")
_TOP = 5
_RESAMPLES = 2_000
# Waits between books are uniform over 0.4 to 1.6 of their mean; a step's drift is that of its end.
_STEP_S = 1.12 / BOOKS_PER_SECOND


class Slope(NamedTuple):
    """Expected return in bp per standard deviation of a predictor: as measured, as planted, and the interval."""

    measured: float
    planted: float
    lower: float
    upper: float

    @property
    def is_as_planted(self) -> bool:
        """Whether the interval of what was measured holds what was planted."""
        return self.lower <= self.planted <= self.upper


class Session(NamedTuple):
    """A market sampled every second; one row a second, one column a market."""

    mid_bp: Floats
    """In bp of the price the market started from."""
    predictors: tuple[Floats, ...]
    """In the order of `PREDICTORS`."""


def gain(plan: Plan, horizon_s: float) -> tuple[float, float]:
    """Planted return over a horizon in bp, per unit of the signal and per unit of signal times second signal."""

    def sum_of(decay_s: float) -> float:
        return _STEP_S * (1.0 - math.exp(-horizon_s / decay_s)) / math.expm1(_STEP_S / decay_s)

    linear = kernels.DRIFT_BP * plan.linear_edge * sum_of(kernels.SIGNAL_SECONDS)
    return linear, kernels.DRIFT_BP * plan.nonlinear_edge * sum_of(kernels.SIGNAL_SECONDS / 2.0)


def sampled(plan: Plan, seconds: int) -> Session:
    """Run a market and look at it every second."""
    market = Synthetic(plan, START_MS)
    shape = (seconds, len(market.rows))
    mid_bp, rows = np.zeros(shape), tuple(np.zeros(shape) for _ in PREDICTORS)
    for second in range(seconds):
        for _ in market.run_until(START_MS + (second + 1) * 1_000):
            pass
        inside = market.inside()
        mid_bp[second] = 0.5 * (inside.bid_ticks[:, 0] + inside.ask_ticks[:, 0]) * inside.tick_bp
        top, deep = _tilt(inside, slice(0, _TOP)), _tilt(inside, slice(_TOP, None))
        for row, values in zip(
            rows, (inside.signal, inside.signal * inside.second, top, top * deep), strict=True
        ):  # fmt: skip
            row[second] = values
    return Session(mid_bp, rows)


def _tilt(inside: Inside, levels: slice) -> Floats:
    bids, asks = inside.bid_lots[:, levels].sum(axis=1), inside.ask_lots[:, levels].sum(axis=1)
    tilt: Floats = (bids - asks) / (bids + asks)
    return tilt


class Sums:
    """Sums per block, from which every resampled slope follows; a block is one market in one session."""

    def __init__(self) -> None:
        self._squares: list[Floats] = []
        self._returns: list[Floats] = []
        self._forecasts: list[Floats] = []

    def add(self, predictor: Floats, returned: Floats, forecast: Floats) -> None:
        """Take one session; rows are seconds, columns are markets."""
        self._squares.append((predictor**2).sum(axis=0))
        self._returns.append((predictor * returned).sum(axis=0))
        self._forecasts.append((predictor * forecast).sum(axis=0))

    def slope(self, deviation: float, tail: float, rng: np.random.Generator) -> Slope:
        """The slope per standard deviation; the bootstrap pairs measured and planted, `tail` is cut on either side."""
        squares, returns, forecasts = (np.concatenate(s) for s in (self._squares, self._returns, self._forecasts))
        blocks = len(squares)
        drawn = rng.multinomial(blocks, np.full(blocks, 1.0 / blocks), size=_RESAMPLES).astype(np.float64)
        differences = deviation * (drawn @ (returns - forecasts)) / (drawn @ squares)
        measured = deviation * float(returns.sum() / squares.sum())
        planted = deviation * float(forecasts.sum() / squares.sum())
        reach = _student(tail, blocks - 1) * float(differences.std())
        return Slope(measured, planted, measured - reach, measured + reach)


def _student(tail: float, freedom: int) -> float:
    """Quantile of Student's distribution, to the first order in 1 / freedom (Cornish and Fisher)."""
    z = -NormalDist().inv_cdf(tail)
    return z + (z**3 + z) / (4 * freedom)


def measure(
    edges: tuple[float, float],
    horizons_s: tuple[int, ...],
    sessions: int,
    session_s: int,
    tail: float,
    done: Callable[[], None],
) -> dict[tuple[int, str], Slope]:
    """The slopes of every predictor at every horizon of one plant, over sessions with seeds of their own."""
    linear, nonlinear = edges
    sums = {(horizon, name): Sums() for horizon in horizons_s for name in PREDICTORS}
    squares: dict[str, list[float]] = {name: [] for name in PREDICTORS}
    for seed in range(sessions):
        plan = Plan(
            markets=MARKETS, books_per_second=BOOKS_PER_SECOND, seed=seed, linear_edge=linear, nonlinear_edge=nonlinear
        )
        session = sampled(plan, session_s)
        for horizon in horizons_s:
            on_signal, on_product = gain(plan, horizon)
            returned = session.mid_bp[horizon:] - session.mid_bp[:-horizon]
            signal, product = (one[:-horizon] for one in session.predictors[:2])
            forecast = on_signal * signal + on_product * product
            for name, predictor in zip(PREDICTORS, session.predictors, strict=True):
                sums[horizon, name].add(predictor[:-horizon], returned, forecast)
        for name, predictor in zip(PREDICTORS, session.predictors, strict=True):
            squares[name].append(float((predictor**2).mean()))
        done()
    rng = np.random.default_rng(1)
    return {
        (horizon, name): one.slope(math.sqrt(sum(squares[name]) / sessions), tail, rng)
        for (horizon, name), one in sums.items()
    }
