"""What a trained model is on disk: one JSON file with weights, scaler, licence and card, named by its content's hash.

Written by `models.forecast.train`, read by `models.forecast.registry`. A file that was changed is refused.
"""

from pathlib import Path
from typing import Literal

import msgspec

from infra.errors import Unsupported
from streams.messages import content_id

FORMAT = 1

TrainedOn = Literal["synthetic", "recording"]


class ModelRefused(Unsupported):
    """A model may not be used here; the message says why."""


class Horizon(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One linear head. Weights apply to scaled inputs; the forecast in bp is shrink x (bias + weights . inputs)."""

    horizon_ms: int
    weights: list[float]
    bias: float
    shrink: float
    """Slope of target on forecast in the validation slice, clipped to [0, 1]; 0 where it could not be measured."""
    sigma: float
    """Root mean square error in the validation slice, bp."""
    is_licensed: bool
    """Whether this head may size an order on the kind of feed that the model was trained on."""


class Scaler(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Median and interquartile range per input, fitted on the training slice only."""

    medians: list[float]
    ranges: list[float]
    clip: float


class Score(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one horizon did on the test slice. Its figures are null where `n_eff` is below 200."""

    horizon_ms: int
    n_train: int
    n_validation: int
    n_test: int
    n_eff: float
    """Test rows over the rows that one label spans: an upper bound, because markets move together."""
    sigma_y_bp: float | None
    skill: float | None
    """1 - MSE / MSE of persistence (B0) on log returns."""
    skill_b2: float | None
    """The same for the last return times its training slope."""
    skill_b3: float | None
    """The same for a line in the best level's imbalance."""
    skill_shuffled: float | None
    """The same recipe refitted on shuffled labels: must not be positive beyond chance."""
    ic: float | None
    rank_ic: float | None
    direction: float | None
    """Share of right signs where the target moved."""
    base_rate: float | None
    """Share of the commoner sign there."""
    clark_west_p: float | None
    diebold_mariano_p: float | None
    max_forecast_bp: float
    """Largest forecast over all rows with complete inputs, of whichever slice."""
    p999_forecast_bp: float


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the model comes from and what it can do; for people."""

    rows: int
    markets: int
    from_ms: int
    to_ms: int
    counts: dict[str, int]
    """Rows and labels left out, by reason."""
    grid_ms: int
    delta_ms: int
    embargo_ms: int
    git_sha: str
    lock_hash: str
    settings: dict[str, str]
    """What it was trained with: generator, seed, alphas tried and taken."""
    scores: list[Score]
    target: str
    limits: str


class Payload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything of a model that its id is the hash of."""

    format: int
    kind: Literal["linear"]
    name: str
    trained_on: TrainedOn
    schema: str
    inputs: list[str]
    """Feature names, in the order of the weights."""
    window_rows: int
    min_bins: int
    """Shortest run of complete bins that the inputs need."""
    scaler: Scaler
    horizons: list[Horizon]
    card: Card


class Artefact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model and the hash of its content."""

    id: str
    payload: Payload


def seal(payload: Payload) -> Artefact:
    """Give a model its id."""
    return Artefact(id=_hash(payload), payload=payload)


def write(artefact: Artefact, path: Path) -> None:
    """Write a model; floats stand as their shortest exact text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(artefact), indent=1) + b"\n")


def read(path: Path) -> Artefact:
    """Read a model; raises `ModelRefused` when it is missing, damaged or of another format."""
    try:
        artefact = msgspec.json.decode(path.read_bytes(), type=Artefact)
    except OSError as error:
        raise ModelRefused(f"model {path.name} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ModelRefused(f"model {path.name} is damaged: {error}") from error
    if artefact.payload.format != FORMAT:
        raise ModelRefused(f"model {path.name} has format {artefact.payload.format}, this build reads {FORMAT}")
    if _hash(artefact.payload) != artefact.id:
        raise ModelRefused(f"model {path.name} is damaged: its content does not have the hash {artefact.id}")
    _check_shape(artefact.payload, path.name)
    return artefact


def _hash(payload: Payload) -> str:
    return content_id("model", msgspec.json.encode(payload, order="sorted").decode())


def _check_shape(payload: Payload, name: str) -> None:
    n = len(payload.inputs)
    lengths = {len(payload.scaler.medians), len(payload.scaler.ranges)}
    lengths |= {len(horizon.weights) for horizon in payload.horizons}
    if n == 0 or not payload.horizons or lengths != {n}:
        raise ModelRefused(f"model {name} is damaged: its weights do not fit its {n} inputs")
