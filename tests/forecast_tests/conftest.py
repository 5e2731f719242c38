"""Feature rows with a planted signal, and a model trained on them."""

from collections.abc import Callable

import numpy as np
import pytest

from models.forecast.artefact import Artefact
from models.forecast.train import Origin, Recipe, train
from streams.market.features import NAMES, SCHEMA
from streams.messages import Features

MakeRows = Callable[..., list[Features]]
START_MS = 1_700_000_000_000


def _values(random: np.random.Generator, signal: float, last_return: float) -> list[float | None]:
    numbers = dict(zip(NAMES, random.normal(size=len(NAMES)).tolist(), strict=True))
    return list((numbers | {"imbalance_l1": signal, "return_1s": last_return}).values())


def rows_of_market(market: str, bins: int, edge: float, seed: int) -> list[Features]:
    random = np.random.default_rng([seed, *market.encode()])
    rows: list[Features] = []
    mid, signal, last = 1_000.0, 0.0, 0.0
    for i in range(bins):
        rows.append(
            Features(
                exchange="upbit",
                market=market,
                bin_ms=START_MS + 1_000 * (i + 1),
                grid_ms=1_000,
                schema=SCHEMA,
                source="upbit",
                session=1,
                n_bins=min(i + 1, 300),
                n_books=5,
                n_trades=1,
                mid=mid,
                spread=1.0,
                values=_values(random, signal, last),
                levels=[],
                accumulators=[],
            )
        )
        last = edge * signal + float(random.normal())
        mid *= float(np.exp(last / 1e4))
        signal = 0.9 * signal + float(random.normal()) * 0.436
    return rows


@pytest.fixture(scope="session")
def make_rows() -> MakeRows:
    """Rows of some markets in log order; the next return is `edge` bp times `imbalance_l1`."""

    def make(
        bins: int = 60, markets: tuple[str, ...] = ("KRW-A", "KRW-B"), edge: float = 0.5, seed: int = 1
    ) -> list[Features]:
        per_market = [rows_of_market(market, bins, edge, seed) for market in markets]
        return [row for together in zip(*per_market, strict=True) for row in together]

    return make


@pytest.fixture(scope="session")
def planted(make_rows: MakeRows) -> Artefact:
    """A model of the planted signal, licensed on synthetic feeds."""
    rows = make_rows(bins=4_000, markets=("KRW-A", "KRW-B", "KRW-C", "KRW-D"), edge=0.8)
    return train(rows, Origin("planted", "synthetic"), Recipe(min_bins=2, horizons_ms=(5_000, 10_000)))
