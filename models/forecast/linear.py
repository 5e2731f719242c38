"""The linear order-flow model: one sequential dot product per horizon, the same bits for one window or many.

Built from an artefact by `models.forecast.registry`, called by `consumers.predict`. It never fits anything.
"""

import numpy as np
from numba import njit

from models.forecast.artefact import Artefact, ModelRefused
from models.forecast.dataset import Floats, columns_of
from streams.market.features import SCHEMA

SPIKE_SIGMAS = 5.0
"""A forecast beyond so many of its standard deviations is cut there."""


@njit(cache=True)
def predict_rows(
    rows: Floats,
    medians: Floats,
    ranges: Floats,
    clip: float,
    weights: Floats,
    biases: Floats,
    shrinks: Floats,
    sigmas: Floats,
    spike: float,
    expected: Floats,
    sigma: Floats,
) -> None:
    """Forecast N rows of F inputs into `expected` and `sigma` (N x H). Additions run in the order of the inputs."""
    scaled = np.empty(rows.shape[1])
    for n in range(rows.shape[0]):
        for f in range(rows.shape[1]):
            scaled[f] = min(clip, max(-clip, (rows[n, f] - medians[f]) / ranges[f]))
        for h in range(weights.shape[0]):
            total = biases[h]
            for f in range(rows.shape[1]):
                total += weights[h, f] * scaled[f]
            limit = spike * sigmas[h]
            expected[n, h] = min(limit, max(-limit, shrinks[h] * total))
            sigma[n, h] = sigmas[h]


class LinearModel:
    """A trained linear model, ready to forecast."""

    def __init__(self, artefact: Artefact) -> None:
        payload = artefact.payload
        if payload.schema != SCHEMA:
            raise ModelRefused(
                f"model {payload.name} ({artefact.id}) was trained on feature schema {payload.schema}, this build"
                f" computes {SCHEMA}: train it again"
            )
        self.id = artefact.id
        self.name = payload.name
        self.schema = payload.schema
        self.trained_on: str = payload.trained_on
        self.window_rows = payload.window_rows
        self.min_bins = payload.min_bins
        self.grid_ms = payload.card.grid_ms
        self.horizons_ms = tuple(horizon.horizon_ms for horizon in payload.horizons)
        self.licences = tuple(horizon.is_licensed for horizon in payload.horizons)
        self.columns = tuple(int(at) for at in columns_of(payload.inputs))
        """Positions of a window's columns in the feature vector."""
        self._medians = np.array(payload.scaler.medians)
        self._ranges = np.array(payload.scaler.ranges)
        self._clip = payload.scaler.clip
        self._weights = np.array([horizon.weights for horizon in payload.horizons])
        self._biases = np.array([horizon.bias for horizon in payload.horizons])
        self._shrinks = np.array([horizon.shrink for horizon in payload.horizons])
        self._sigmas = np.array([horizon.sigma for horizon in payload.horizons])

    def predict(self, windows: Floats) -> tuple[Floats, Floats]:
        """Expected return and its standard deviation in bp, each N x H, of N x T x columns without nulls."""
        rows = np.ascontiguousarray(windows[:, -1, :])
        expected = np.empty((len(rows), len(self.horizons_ms)))
        sigma = np.empty_like(expected)
        predict_rows(
            rows,
            self._medians,
            self._ranges,
            self._clip,
            self._weights,
            self._biases,
            self._shrinks,
            self._sigmas,
            SPIKE_SIGMAS,
            expected,
            sigma,
        )
        return expected, sigma
