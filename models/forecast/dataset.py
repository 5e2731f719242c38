"""Feature rows to training data: columns, labels by time, and a time-ordered split with purge and embargo.

Called by `models.forecast.train`. A label never looks at a row's own past beyond what live serving knows, and a row
whose label span touches a hole is dropped and counted, never filled.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from infra.errors import Unsupported
from streams.market.features import NAMES, SCHEMA
from streams.messages import Features, hash_of, key_of

if TYPE_CHECKING:  # serving must not wait for pandas
    import pandas as pd

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rows:
    """Feature rows as columns, sorted by (market, bin). N rows of F features; a null is NaN."""

    markets: tuple[str, ...]
    market: Ints
    """N: index into `markets`."""
    bin_ms: Ints
    n_bins: Ints
    mid: Floats
    features: Floats
    """N x F in the order of `streams.market.features.NAMES`."""
    run: Ints
    """N: rows with equal numbers follow each other without a missing bin."""
    grid_ms: int
    counts: Counter[str]
    """Duplicates, conflicts, gaps."""

    def __len__(self) -> int:
        return len(self.bin_ms)


@dataclass(frozen=True, slots=True)
class Labels:
    """Targets of one horizon. `usable` says which rows have one; `span_end_ms` is when a row's label is known."""

    horizon_ms: int
    delta_ms: int
    y: Floats
    usable: Flags
    span_end_ms: Ints
    counts: Counter[str]


@dataclass(frozen=True, slots=True)
class Split:
    """Row numbers of the three slices, each later in time than the one before; `purged` rows belong to none."""

    train: Ints
    validation: Ints
    test: Ints
    purged: int
    embargo_ms: int


def collect(rows: Iterable[Features]) -> Rows:
    """Put feature rows, in any order, into columns. The first of equal (market, bin) stays, the others are counted.

    Raises `Unsupported` for another schema than this build's, or rows of several grids.
    """
    kept: dict[tuple[str, int], Features] = {}
    counts: Counter[str] = Counter()
    for row in rows:
        if row.schema != SCHEMA:
            raise Unsupported(f"rows of schema {row.schema} cannot train a model of schema {SCHEMA}: compute them anew")
        key = (key_of(row.exchange, row.market), row.bin_ms)
        first = kept.setdefault(key, row)
        if first is not row:
            counts["duplicate" if hash_of(first) == hash_of(row) else "conflict"] += 1
    ordered = [kept[key] for key in sorted(kept)]
    grids = {row.grid_ms for row in ordered}
    if len(grids) > 1:
        raise Unsupported(f"rows of several grids ({sorted(grids)} ms) cannot be mixed")
    return _columns(ordered, sorted({market for market, _ in kept}), grids.pop() if grids else 1000, counts)


def vector_of(row: Features) -> list[float | None]:
    """Feature vector of a row."""
    return row.values  # noqa: PD011 a message, not a pandas object


def from_frame(frame: "pd.DataFrame") -> Rows:
    """Put a frame of `streams.columns.read_frame(log, "features")` into columns."""
    fields = Features.__struct_fields__
    return collect(
        Features(**dict(zip(fields, one, strict=True))) for one in zip(*(frame[f] for f in fields), strict=True)
    )


def _columns(ordered: Sequence[Features], markets: list[str], grid_ms: int, counts: Counter[str]) -> Rows:
    index = {market: i for i, market in enumerate(markets)}
    market = np.array([index[key_of(row.exchange, row.market)] for row in ordered], dtype=np.int64)
    bin_ms = np.array([row.bin_ms for row in ordered], dtype=np.int64)
    n_bins = np.array([row.n_bins for row in ordered], dtype=np.int64)
    values = np.array([vector_of(row) for row in ordered], dtype=np.float64).reshape(len(ordered), len(NAMES))
    mid = np.array([row.mid for row in ordered], dtype=np.float64)
    new_market = np.diff(market, prepend=-1) != 0
    breaks = new_market | (np.diff(bin_ms, prepend=0) != grid_ms) | (n_bins == 1)
    counts["gap"] = int(np.count_nonzero(breaks & ~new_market))
    return Rows(tuple(markets), market, bin_ms, n_bins, mid, values, np.cumsum(breaks), grid_ms, counts)


def labels(rows: Rows, horizon_ms: int, delta_ms: int | None = None) -> Labels:
    """Targets y = 10^4 ln(mid[t + h + delta] / mid[t + delta]) in bp, by time, inside one run of consecutive rows.

    `delta_ms` is the time a decision takes, one grid step by default. A label whose span [t, t + h + delta] holds a
    missing row or ends without a price is dropped and counted.
    """
    delta_ms = rows.grid_ms if delta_ms is None else delta_ms
    if horizon_ms <= 0 or delta_ms < 0 or horizon_ms % rows.grid_ms or delta_ms % rows.grid_ms:
        raise ValueError(f"horizon {horizon_ms} ms and delay {delta_ms} ms must be multiples of {rows.grid_ms} ms")
    n = len(rows)
    start = delta_ms // rows.grid_ms
    end = start + horizon_ms // rows.grid_ms
    y = np.full(n, np.nan)
    is_whole = np.zeros(n, dtype=np.bool_)
    if n > end:
        is_whole[: n - end] = rows.run[end:] == rows.run[: n - end]
        y[: n - end] = 1e4 * np.log(rows.mid[end:] / rows.mid[start : n - end + start])
    usable = is_whole & np.isfinite(y)
    counts = Counter(
        {"span-incomplete": int(np.count_nonzero(~is_whole)), "no-price": int(np.count_nonzero(is_whole & ~usable))}
    )
    return Labels(
        horizon_ms, delta_ms, np.where(usable, y, np.nan), usable, rows.bin_ms + horizon_ms + delta_ms, counts
    )


def columns_of(names: Sequence[str]) -> Ints:
    """Positions of features in the vector; raises `Unsupported` with the names that this build does not have."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise Unsupported(f"this build has no feature {', '.join(unknown)}")
    return np.array([NAMES.index(name) for name in names], dtype=np.int64)


def complete(rows: Rows, names: Sequence[str], min_bins: int, counts: Counter[str]) -> Flags:
    """Which rows may be used: long enough a run and none of `names` null; the others are counted."""
    is_short = rows.n_bins < min_bins
    is_null = ~np.isfinite(rows.features[:, columns_of(names)]).all(axis=1) | ~np.isfinite(rows.mid)
    counts["window-short"] = int(np.count_nonzero(is_short))
    counts["null-feature"] = int(np.count_nonzero(is_null & ~is_short))
    return ~is_short & ~is_null


def split(
    rows: Rows,
    target: Labels,
    usable: Flags,
    *,
    fractions: tuple[float, float] = (0.6, 0.2),
    look_back_ms: int = 0,
) -> Split:
    """Cut usable rows at two points in time, the same ones for all markets; the last slice is the test.

    Purged are rows whose label span, plus an embargo of max(features' look-back, horizon), reaches into the next slice.
    """
    usable = usable & target.usable
    distinct = np.unique(rows.bin_ms[usable])
    embargo_ms = max(look_back_ms, target.horizon_ms)
    if len(distinct) < 3:
        nothing = np.empty(0, dtype=np.int64)
        return Split(nothing, nothing, nothing, int(np.count_nonzero(usable)), embargo_ms)
    cut_1 = distinct[int(len(distinct) * fractions[0])]
    cut_2 = distinct[min(int(len(distinct) * sum(fractions)), len(distinct) - 1)]
    ends = target.span_end_ms + embargo_ms
    train = usable & (rows.bin_ms < cut_1) & (ends <= cut_1)
    validation = usable & (rows.bin_ms >= cut_1) & (rows.bin_ms < cut_2) & (ends <= cut_2)
    test = usable & (rows.bin_ms >= cut_2)
    purged = int(np.count_nonzero(usable & ~train & ~validation & ~test))
    return Split(np.flatnonzero(train), np.flatnonzero(validation), np.flatnonzero(test), purged, embargo_ms)
