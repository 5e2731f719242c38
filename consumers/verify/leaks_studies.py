"""Leak checks of what learns: features and labels held against the future, and against chance in a market without any.

Called by `consumers.verify.leaks_battery` and by people with features and labels of their own. The placebo market's
price is a martingale, so a feature that goes along with its label knows it: no skill is honest there.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from consumers.verify.disturbed import GRID_MS, Written
from consumers.verify.leaks import Examination, Finding, examine
from consumers.verify.leaks_market import START_MS, quiet_log
from consumers.verify.leaks_subjects import Label, Output, Study, Subject

Floats = npt.NDArray[np.float64]

DRAWS = 9_999
"""Placebos per score: where all of them are smaller, chance has done it once in 10,000 times."""
MARGIN = 1.1
"""A score is an alarm where it is larger than the largest placebo by this factor, which makes chance rarer still."""
GUARD_BINS = 75
"""Placebos shift labels by more than this: nearer ones go along with features that look back for honest reasons."""
FIT_SHARE = 0.3
_HALF_LIFE_BINS = 8


class Score(NamedTuple):
    """The largest correlation of any feature with the label, against its placebos."""

    shift: int
    """By how many bins the features were taken later than their rows say."""
    score: float
    """Correlation, markets pooled, times the root of the rows per market."""
    p: float
    """Share of placebos that are as large, this one among them."""
    largest: float
    """The largest placebo."""

    @property
    def is_alarm(self) -> bool:
        """Whether chance is no explanation."""
        return self.score > MARGIN * self.largest


@dataclass(slots=True)
class Studied:
    """What came out for one study."""

    features: Examination
    labels: Examination
    scores: list[Score] = field(default_factory=list)
    """Of features one bin older, as they are, and one bin newer where the labels begin late enough."""
    peek: Score | None = None
    """Of features from inside the label's span: must be found, else the scores above could not see anything."""

    @property
    def findings(self) -> list[Finding]:
        """Everything found."""
        return [*self.features.findings, *self.labels.findings, *(_finding(one) for one in self.scores if one.is_alarm)]

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


def _finding(score: Score) -> Finding:
    names = {0: "placebo", 1: "features one bin newer", -1: "features one bin older"}
    return Finding(
        names[score.shift], 0, 0, "all markets", None,
        f"{score.score:.1f}", f"none of {DRAWS:,} placebos is beyond {score.largest:.1f}",
    )  # fmt: skip


def examine_study(
    study: Study, records: Sequence[Written], *, cuts: int = 20, seed: int = 1, placebo_seconds: int = 620
) -> Studied:
    """Hold features and labels against other futures of `records`, then their scores against placebos.

    Features are judged after the slice that they may be fitted on; labels by the time at which they are known.
    """
    fit_end_ms = fit_end_of(records)
    features = Subject(study.name, lambda some: study.features(some, fit_end_ms), study.lateness_ms)
    labels = Subject(
        f"{study.name}: labels",
        lambda some: [Output(one.known_ms, one.market, (one.time_ms, one.value)) for one in study.label(some)],
        study.lateness_ms,
    )
    found = Studied(
        examine(features, records, cuts=cuts, seed=seed, since_ms=fit_end_ms),
        examine(labels, records, cuts=max(4, cuts // 4), seed=seed),
    )
    found.scores, found.peek = placebo_scores(study, seed=seed, seconds=placebo_seconds)
    return found


def placebo_scores(study: Study, *, seed: int, seconds: int, markets: int = 3) -> tuple[list[Score], Score | None]:
    """Scores in a market that cannot be forecast, after the slice that may be fitted on, and that of a planted peek."""
    records = quiet_log(seed, markets, seconds)
    end_ms = START_MS + int(FIT_SHARE * seconds) * 1000
    rows = [row for row in study.features(records, end_ms) if row.time_ms > end_ms]
    return _scores(study, rows, study.label(records), seed)


def fit_end_of(records: Sequence[Written]) -> int:
    """Where the slice ends that may be fitted on."""
    first, last = records[0].at_ms, records[-1].at_ms
    return int(first + FIT_SHARE * (last - first)) // GRID_MS * GRID_MS


def _scores(
    study: Study, rows: Sequence[Output], labels: Iterable[Label], seed: int
) -> tuple[list[Score], Score | None]:
    tables = _tables(rows, labels)
    if not tables:
        return [], None
    draws = _draws(tables, seed)
    inside = study.delay_ms // GRID_MS + 1
    shifts = [-1, 0, *([1] if inside > 1 else [])]
    scores = [_score(tables, shift, draws) for shift in shifts]
    peek = max((_score(tables, shift, draws) for shift in (inside, inside + 1)), key=lambda one: one.score)
    return scores, peek


def _tables(rows: Sequence[Output], labels: Iterable[Label]) -> list[Floats]:
    """Per market the circular cross-correlation of every feature with the label: F x T, column s for a shift by s.

    What is missing counts as 0. Markets with too few rows are left out.
    """
    known = {(one.time_ms, one.market): one.value for one in labels}
    tables = []
    for market in sorted({row.market for row in rows}):
        own = {at: values for at, name, values in rows if name == market and (at, market) in known}
        times = range(min(own, default=0), max(own, default=-1) + 1, GRID_MS)
        if len(times) < 4 * GUARD_BINS:
            continue
        empty: tuple[float | None, ...] = (None,) * len(next(iter(own.values())))
        x = np.array([own.get(at, empty) for at in times], dtype=np.float64)
        y = np.array([known.get((at, market), np.nan) for at in times], dtype=np.float64)
        tables.append(_correlations(_surprises(x), _cut(y)))
    return tables


def _surprises(columns: Floats) -> Floats:
    """How far each number lies from what its own past led to expect, in deviations, cut at 3; 0 where there is none.

    Known at its time as the number is: a mean over all rows would lie after it, and levels would seem to forecast.
    """
    frame = pd.DataFrame(columns)
    apart = frame - frame.ewm(halflife=_HALF_LIFE_BINS, min_periods=2).mean().shift(1)
    spread = (apart**2).ewm(halflife=_HALF_LIFE_BINS, min_periods=2).mean().shift(1) ** 0.5
    return _of_length_1(np.asarray((apart / spread.where(spread > 0.0)).clip(-3.0, 3.0).fillna(0.0), dtype=np.float64))


def _of_length_1(columns: Floats) -> Floats:
    norms = np.sqrt((columns**2).sum(axis=0))
    scaled: Floats = columns / np.where(norms > 0.0, norms, 1.0)
    return scaled


def _cut(y: Floats) -> Floats:
    """Labels in deviations, cut at 4, so that no outlier decides; no mean is taken off, it would lie after them."""
    deviation = np.sqrt(np.nanmean(y**2)) if np.isfinite(y).any() else 0.0
    return _of_length_1(np.nan_to_num(np.clip(y / deviation, -4.0, 4.0)) if deviation > 0.0 else np.zeros_like(y))


def _correlations(x: Floats, y: Floats) -> Floats:
    spectrum = np.fft.rfft(y)[:, None] * np.conj(np.fft.rfft(x, axis=0))
    found: Floats = np.fft.irfft(spectrum, n=len(y), axis=0).T * np.sqrt(len(y))
    return found


def _draws(tables: Sequence[Floats], seed: int) -> Floats:
    """Scores of the placebos: each market's labels moved round by a lot of its own."""
    rng = np.random.default_rng(seed)
    pooled = np.zeros((tables[0].shape[0], DRAWS))
    for table in tables:
        pooled += table[:, rng.integers(GUARD_BINS, table.shape[1] - GUARD_BINS, DRAWS)]
    largest: Floats = np.abs(pooled / np.sqrt(len(tables))).max(axis=0)
    return largest


def _score(tables: Sequence[Floats], shift: int, draws: Floats) -> Score:
    """Score of features that are `shift` bins newer than their rows say: x(t + shift) against y(t)."""
    pooled = sum((table[:, -shift] for table in tables), np.zeros(tables[0].shape[0]))
    score = float(np.abs(pooled / np.sqrt(len(tables))).max())
    return Score(shift, score, float((1 + np.count_nonzero(draws >= score)) / (DRAWS + 1)), float(draws.max()))


def as_study(name: str, features: Callable[[Sequence[Written]], Iterable[Output]], study: Study) -> Study:
    """Features that fit nothing, with the labels of another study."""
    return Study(name, lambda records, _fit_end_ms: features(records), study.label, study.lateness_ms, study.delay_ms)
