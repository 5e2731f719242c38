"""How good a forecast was: skill against persistence, correlation, direction, and tests that bear overlapping labels.

Pure numbers in, pure numbers out; called by `models.forecast.train`. Formulas: Clark and West 2007, Diebold and Mariano
1995 with the correction of Harvey, Leybourne and Newbold 1997, Newey and West 1987. Normal tails stand for
Student's: no test is shown below 200 observations.
"""

import math

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

ENOUGH = 200.0
"""Below so many independent observations a skill figure is left blank."""


def skill(y: Floats, forecast: Floats) -> float | None:
    """1 - MSE / MSE of persistence (forecast 0); None where the target never moved."""
    power = float(np.mean(y * y)) if len(y) else 0.0
    return 1.0 - float(np.mean((y - forecast) ** 2)) / power if power > 0.0 else None


def correlation(y: Floats, forecast: Floats) -> float | None:
    """Pearson correlation (IC); None where one side is constant."""
    if len(y) < 3 or np.ptp(y) == 0.0 or np.ptp(forecast) == 0.0:
        return None
    return float(np.corrcoef(y, forecast)[0, 1])


def rank_correlation(y: Floats, forecast: Floats) -> float | None:
    """Spearman correlation."""
    return correlation(_ranks(y), _ranks(forecast))


def _ranks(values: Floats) -> Floats:
    return np.asarray(pd.Series(values).rank(), dtype=np.float64)


def direction(y: Floats, forecast: Floats) -> tuple[float | None, float | None]:
    """Share of right signs where target and forecast moved, and the share of the commoner sign of the target there."""
    moved = (y != 0.0) & (forecast != 0.0)
    if not moved.any():
        return None, None
    up = float(np.mean(y[moved] > 0.0))
    return float(np.mean(np.sign(y[moved]) == np.sign(forecast[moved]))), max(up, 1.0 - up)


def by_time(bin_ms: Ints, values: Floats) -> Floats:
    """Mean over markets per bin, in time order: correlated markets count as one observation."""
    _, at = np.unique(bin_ms, return_inverse=True)
    sums = np.bincount(at, weights=values)
    means: Floats = sums / np.bincount(at)
    return means


def clark_west_p(y: Floats, forecast: Floats, bin_ms: Ints, span: int) -> float | None:
    """One-sided p that the forecast carries no signal beyond persistence, which every model nests."""
    return _mean_is_positive_p(
        by_time(bin_ms, y * y - (y - forecast) ** 2 + forecast * forecast), span, corrected=False
    )


def diebold_mariano_p(y: Floats, forecast: Floats, bin_ms: Ints, span: int) -> float | None:
    """One-sided p that the forecast's squared error is not smaller than persistence's."""
    return _mean_is_positive_p(by_time(bin_ms, y * y - (y - forecast) ** 2), span, corrected=True)


def _mean_is_positive_p(d: Floats, span: int, *, corrected: bool) -> float | None:
    """Probability under mean(d) <= 0, Newey-West with 1.5 x `span` lags (labels overlap over `span` observations)."""
    n = len(d)
    if n <= 3 * span:
        return None
    centred = d - d.mean()
    lags = math.ceil(1.5 * span)
    variance = float(centred @ centred) / n
    for lag in range(1, lags + 1):
        variance += 2.0 * (1.0 - lag / (lags + 1)) * float(centred[lag:] @ centred[:-lag]) / n
    if variance <= 0.0:
        return None
    t = float(d.mean()) / math.sqrt(variance / n)
    if corrected:
        t *= math.sqrt(max(0.0, (n + 1 - 2 * span + span * (span - 1) / n) / n))
    return 0.5 * math.erfc(t / math.sqrt(2.0))
