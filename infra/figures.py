"""What verify and bench commands give: one object of figures and conditions, and a slope with its error. Pure but for
the machine's own description; called by the checks of every room.
"""

import os
import platform
from collections.abc import Mapping, Sequence

import numpy as np


def result_of(
    name: str, figures: Mapping[str, float], conditions: Mapping[str, object], *, passed: bool
) -> dict[str, object]:
    """The one object that every verify and bench command prints."""
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "load_1m": round(os.getloadavg()[0], 2)}
    return {"name": name, "passed": passed, "figures": dict(figures), "conditions": {**conditions, **machine}}


def slope_of(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Least-squares slope and its standard error, the residuals' autocorrelation (lag 1) taken into account."""
    if len(points) < 4:
        return 0.0, 0.0
    x, y = np.array(points).T
    x = x - x.mean()
    spread = float((x**2).sum())
    slope = float((x * (y - y.mean())).sum() / spread)
    residuals = y - y.mean() - slope * x
    variance = float((residuals**2).sum()) / (len(x) - 2)
    correlation = float((residuals[1:] * residuals[:-1]).sum() / max(float((residuals**2).sum()), 1e-12))
    inflation = (1 + max(0.0, correlation)) / max(1e-3, 1 - max(0.0, correlation))
    return slope, float(np.sqrt(variance / spread * inflation))
