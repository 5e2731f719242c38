"""Training of the linear order-flow model: feature rows in, an artefact with its card out.

The command line composes the source of rows (a topic, a recording, the synthetic market) and calls `train`. Nothing
after the validation slice touches the weights, the scaler or the shrinkage; the test slice is only scored.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt
from rich.table import Table
from sklearn.linear_model import Ridge

from infra.errors import Unsupported
from models.forecast import metrics
from models.forecast.artefact import (
    FORMAT,
    Artefact,
    Card,
    Horizon,
    Payload,
    Scaler,
    Score,
    TrainedOn,
    seal,
)
from models.forecast.dataset import Labels, Rows, Split, collect, columns_of, complete, labels, split
from streams.market.features import SCHEMA
from streams.messages import Features

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

HORIZONS_MS = (5_000, 10_000, 30_000, 60_000)
ALPHAS = (10.0, 100.0, 1_000.0, 10_000.0)
CLIP = 8.0
_SIGNAL_P = 0.01
_HELP_P = 0.05
_FEW = 50
"""Fewer training or validation rows than this and a horizon gets no forecast (0)."""

SHORT_INPUTS = (
    "spread_bp", "imbalance_l1", "imbalance_l5", "microprice_bp", "ofi_5s", "trade_flow_5s", "return_1s", "return_5s",
)  # fmt: skip
"""Few, and seen within 5 s: for recordings of a minute or two."""
INPUTS = (
    *SHORT_INPUTS, "imbalance_l15", "imbalance_mean_5s", "ofi_1s", "ofi_30s", "mofi_1s", "mofi_5s", "mofi_30s",
    "trade_flow_1s", "trade_flow_30s", "return_15s", "return_30s",
)  # fmt: skip

LIMITS = (
    "Expected number of trades in calm markets: 0. Forecasts of seconds are small against the cost of a round trip;"
    " skill on the test slice is no promise of profit."
)
SYNTHETIC_LIMITS = "Knows the synthetic market only: refused on every other feed. " + LIMITS
RECORDING_LIMITS = "Unlicensed: its forecasts are shown, nothing is traded by them. " + LIMITS


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train: everything that the result depends on besides the rows."""

    inputs: tuple[str, ...] = INPUTS
    min_bins: int = 31
    look_back_ms: int = 30_000
    horizons_ms: tuple[int, ...] = HORIZONS_MS
    delta_ms: int | None = None
    alphas: tuple[float, ...] = ALPHAS
    seed: int = 7
    fractions: tuple[float, float] = (0.6, 0.2)
    is_licensable: bool = True
    """Whether horizons may earn a licence on the kind of feed the rows come from."""


SHORT_RECIPE = Recipe(inputs=SHORT_INPUTS, min_bins=6, look_back_ms=5_000, fractions=(0.7, 0.3), is_licensable=False)
"""For recordings of minutes: no licence, and nearly all rows go into training and validation."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where rows and code come from, for the card."""

    name: str
    trained_on: TrainedOn
    git_sha: str = ""
    lock_hash: str = ""
    settings: dict[str, str] = field(default_factory=dict)


Progress = Callable[[str, int, int], None]
"""What, done, of how many."""


def train(
    rows: Iterable[Features] | Rows, origin: Origin, recipe: Recipe | None = None, progress: Progress | None = None
) -> Artefact:
    """Fit and score the linear model on feature rows. The same rows, recipe and versions give the same id.

    Raises `Unsupported` where there is nothing to learn from, or rows of another schema.
    """
    recipe = recipe or Recipe()
    tell = progress or (lambda _what, _done, _total: None)
    tell("rows", 0, len(recipe.horizons_ms) + 1)
    data = rows if isinstance(rows, Rows) else collect(rows)
    counts = Counter(data.counts)
    usable = complete(data, recipe.inputs, recipe.min_bins, counts)
    if not usable.any():
        raise Unsupported(f"none of {len(data)} feature rows can be trained on: {dict(counts)}")
    first = _part(data, usable, recipe, recipe.horizons_ms[0])[1].train
    design = _Design.fit(data, recipe, first if len(first) else np.flatnonzero(usable)[:_FEW])
    horizons, scores = [], []
    for i, horizon_ms in enumerate(recipe.horizons_ms):
        tell(f"{horizon_ms // 1000} s", i + 1, len(recipe.horizons_ms) + 1)
        target, parts = _part(data, usable, recipe, horizon_ms)
        counts.update({f"{reason} {horizon_ms // 1000} s": n for reason, n in target.counts.items()})
        counts[f"purged {horizon_ms // 1000} s"] = parts.purged
        head = design.head(horizon_ms, target.y, parts, recipe)
        score = _score(data, design, head, target, parts, np.flatnonzero(usable), recipe)
        horizons.append(_licensed(head, score, recipe))
        scores.append(score)
    tell("done", len(recipe.horizons_ms) + 1, len(recipe.horizons_ms) + 1)
    return seal(_payload(data, recipe, origin, design, horizons, scores, counts))


def _part(data: Rows, usable: npt.NDArray[np.bool_], recipe: Recipe, horizon_ms: int) -> tuple[Labels, Split]:
    target = labels(data, horizon_ms, recipe.delta_ms)
    return target, split(data, target, usable, fractions=recipe.fractions, look_back_ms=recipe.look_back_ms)


def _ranges(x: Floats) -> tuple[Floats, Floats]:
    """Median and interquartile range per column; a column that hardly varies is scaled by its spread or by 1."""
    low, middle, high = np.quantile(x, (0.25, 0.5, 0.75), axis=0)
    spread = high - low
    spread = np.where(spread > 0.0, spread, x.std(axis=0))
    return middle, np.where(spread > 1e-12, spread, 1.0)


@dataclass(frozen=True, slots=True)
class _Design:
    """The scaled inputs of all rows; the scaler comes from training rows only."""

    x: Floats
    scaler: Scaler

    @classmethod
    def fit(cls, data: Rows, recipe: Recipe, at: Ints) -> "_Design":
        raw = data.features[:, columns_of(recipe.inputs)]
        medians, ranges = _ranges(raw[at])
        scaler = Scaler(medians=medians.tolist(), ranges=ranges.tolist(), clip=CLIP)
        return cls(np.clip((raw - medians) / ranges, -CLIP, CLIP), scaler)

    def head(self, horizon_ms: int, y: Floats, parts: Split, recipe: Recipe) -> Horizon:
        """Ridge on y; alpha and shrinkage from the validation slice. Too few rows give a zero head."""
        if min(len(parts.train), len(parts.validation)) < _FEW:
            known = y[parts.train] if len(parts.train) else y[np.isfinite(y)]
            sigma = float(np.sqrt(np.mean(known**2))) if len(known) else 0.0
            return Horizon(
                horizon_ms=horizon_ms, weights=[0.0] * self.x.shape[1], bias=0.0, shrink=0.0, sigma=sigma,
                is_licensed=False,
            )  # fmt: skip
        fits = [_ridge(self.x[parts.train], y[parts.train], alpha) for alpha in recipe.alphas]
        kept, truth = self.x[parts.validation], y[parts.validation]
        errors = [float(np.mean((truth - bias - kept @ weights) ** 2)) for weights, bias in fits]
        weights, bias = fits[int(np.argmin(errors))]
        forecast = bias + kept @ weights
        power = float(forecast @ forecast)
        shrink = min(1.0, max(0.0, float(forecast @ truth) / power)) if power > 0.0 else 0.0
        sigma = float(np.sqrt(np.mean((truth - shrink * forecast) ** 2)))
        return Horizon(
            horizon_ms=horizon_ms, weights=weights.tolist(), bias=bias, shrink=shrink, sigma=sigma, is_licensed=False
        )

    def forecast(self, head: Horizon, at: Ints) -> Floats:
        """Forecast of rows in bp, for scoring."""
        forecast: Floats = (head.bias + self.x[at] @ np.array(head.weights)) * head.shrink
        return forecast


def _ridge(x: Floats, y: Floats, alpha: float) -> tuple[Floats, float]:
    """Weights and bias of a ridge whose mean forecast over its own rows is 0: the target's mean is no signal."""
    fit = Ridge(alpha=alpha).fit(x, y)
    weights: Floats = np.asarray(fit.coef_, dtype=np.float64)
    return weights, -float(weights @ x.mean(axis=0))


def _score(
    data: Rows, design: _Design, head: Horizon, target: Labels, parts: Split, everywhere: Ints, recipe: Recipe
) -> Score:
    at = parts.test
    y, forecast = target.y[at], design.forecast(head, at)
    span = (target.horizon_ms + target.delta_ms) // data.grid_ms
    n_eff = len(at) / span
    sizes = np.abs(design.forecast(head, everywhere))
    is_enough = n_eff >= metrics.ENOUGH
    right, base = metrics.direction(y, forecast)
    shown: dict[str, float | None] = {
        "sigma_y_bp": float(np.sqrt(np.mean(y * y))) if len(at) else None,
        "skill": metrics.skill(y, forecast),
        "skill_b2": _line(data, target, parts, "return_1s"),
        "skill_b3": _line(data, target, parts, "imbalance_l1"),
        "skill_shuffled": _shuffled(design, target, parts, recipe),
        "ic": metrics.correlation(y, forecast),
        "rank_ic": metrics.rank_correlation(y, forecast),
        "direction": right,
        "base_rate": base,
        "clark_west_p": metrics.clark_west_p(y, forecast, data.bin_ms[at], span) if is_enough else None,
        "diebold_mariano_p": metrics.diebold_mariano_p(y, forecast, data.bin_ms[at], span) if is_enough else None,
    }
    return Score(
        horizon_ms=target.horizon_ms,
        n_train=len(parts.train),
        n_validation=len(parts.validation),
        n_test=len(at),
        n_eff=n_eff,
        max_forecast_bp=float(sizes.max()),
        p999_forecast_bp=float(np.quantile(sizes, 0.999)),
        **{name: value if is_enough else None for name, value in shown.items()},
    )


def _line(data: Rows, target: Labels, parts: Split, name: str) -> float | None:
    """Test skill of a line through the origin in one feature, its slope from the training slice (baselines)."""
    x = np.nan_to_num(data.features[:, columns_of([name])[0]])
    power = float(x[parts.train] @ x[parts.train])
    if power == 0.0 or not len(parts.test):
        return None
    slope = float(x[parts.train] @ target.y[parts.train]) / power
    return metrics.skill(target.y[parts.test], slope * x[parts.test])


def _shuffled(design: _Design, target: Labels, parts: Split, recipe: Recipe) -> float | None:
    """Test skill of the recipe on labels shuffled within training and validation: no skill is to be expected."""
    if min(len(parts.train), len(parts.validation), len(parts.test)) < _FEW:
        return None
    random = np.random.default_rng(recipe.seed)
    y = target.y.copy()
    for part in (parts.train, parts.validation):
        y[part] = random.permutation(y[part])
    head = design.head(target.horizon_ms, y, parts, recipe)
    return metrics.skill(target.y[parts.test], design.forecast(head, parts.test))


def _licensed(head: Horizon, score: Score, recipe: Recipe) -> Horizon:
    """A head may size orders where it beats persistence on the test slice, by both tests, and the last return (B2)."""
    figures = (score.skill, score.clark_west_p, score.diebold_mariano_p)
    if not recipe.is_licensable or any(figure is None for figure in figures):
        return head
    skill, signal_p, help_p = (figure or 0.0 for figure in figures)
    is_licensed = skill > max(0.0, score.skill_b2 or 0.0) and signal_p < _SIGNAL_P and help_p < _HELP_P
    return msgspec.structs.replace(head, is_licensed=is_licensed)


def _payload(
    data: Rows,
    recipe: Recipe,
    origin: Origin,
    design: _Design,
    horizons: list[Horizon],
    scores: list[Score],
    counts: Counter[str],
) -> Payload:
    delta_ms = data.grid_ms if recipe.delta_ms is None else recipe.delta_ms
    seconds = len(np.unique(data.bin_ms)) * data.grid_ms // 1_000
    settings = {
        **origin.settings,
        "alphas": ", ".join(f"{alpha:g}" for alpha in recipe.alphas),
        "fractions": ", ".join(f"{one:g}" for one in recipe.fractions),
        "seed": str(recipe.seed),
    }
    card = Card(
        rows=len(data),
        markets=len(data.markets),
        from_ms=int(data.bin_ms.min()),
        to_ms=int(data.bin_ms.max()),
        counts={reason: n for reason, n in sorted(counts.items()) if n},
        grid_ms=data.grid_ms,
        delta_ms=delta_ms,
        embargo_ms=max(recipe.look_back_ms, *recipe.horizons_ms),
        git_sha=origin.git_sha,
        lock_hash=origin.lock_hash,
        settings=settings,
        scores=scores,
        target="10^4 ln(mid[t + h + delta] / mid[t + delta]) in bp, by time, inside one run of complete bins",
        limits=f"Trained on {seconds:,} s of market time. "
        + (SYNTHETIC_LIMITS if origin.trained_on == "synthetic" else RECORDING_LIMITS),
    )
    return Payload(
        format=FORMAT,
        kind="linear",
        name=origin.name,
        trained_on=origin.trained_on,
        schema=SCHEMA,
        inputs=list(recipe.inputs),
        window_rows=1,
        min_bins=recipe.min_bins,
        scaler=design.scaler,
        horizons=horizons,
        card=card,
    )


def report(artefact: Artefact) -> Table:
    """The table that people see after training."""
    payload = artefact.payload
    table = Table(title=f"{payload.name} ({artefact.id}), trained on {payload.trained_on} data")
    for column in ("horizon", "rows", "n_eff", "sigma bp", "skill %", "B2 %", "B3 %", "shuffled %", "IC", "right sign",
                   "p", "largest bp", "licensed"):  # fmt: skip
        table.add_column(column, justify="right")
    for head, score in zip(payload.horizons, payload.card.scores, strict=True):
        percents = (score.skill, score.skill_b2, score.skill_b3, score.skill_shuffled)
        table.add_row(
            f"{score.horizon_ms // 1000} s",
            f"{score.n_train}/{score.n_validation}/{score.n_test}",
            f"{score.n_eff:.0f}",
            _shown(score.sigma_y_bp, ".2f"),
            *(_shown(None if one is None else 100.0 * one, "+.2f") for one in percents),
            _shown(score.ic, ".3f"),
            _shown(score.direction, ".3f"),
            _shown(score.clark_west_p, ".1e"),
            _shown(score.max_forecast_bp, ".2f"),
            "yes" if head.is_licensed else "no",
        )
    table.caption = payload.card.limits
    return table


def _shown(value: float | None, spelling: str) -> str:
    return "too few" if value is None else format(value, spelling)
