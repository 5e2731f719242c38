"""Which model serves: the shipped one that fits the feed, or one that a person names; and what it may do there.

Called by `consumers.predict` and the command line. It refuses what may not be used, with the reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from models.forecast.artefact import Artefact, ModelRefused, read
from models.forecast.linear import LinearModel
from streams.messages import Feed

Floats = npt.NDArray[np.float64]

SYNTHETIC_MODEL = "synthetic-model"
"""Refusal: the model knows the synthetic market only."""
NO_LICENCE = "no-licence"
"""Refusal: this horizon has not shown significant skill on such a feed."""

_SHIPPED: dict[Feed, str] = {
    "synthetic": "linear-synthetic.json",
    "recording": "linear-recording.json",
    "upbit": "linear-recording.json",
}


class Predictor(Protocol):
    """What predict needs of a model."""

    id: str
    name: str
    schema: str
    trained_on: str
    window_rows: int
    min_bins: int
    grid_ms: int
    horizons_ms: tuple[int, ...]
    licences: tuple[bool, ...]
    columns: tuple[int, ...]

    def predict(self, windows: Floats) -> tuple[Floats, Floats]:
        """Expected return and its standard deviation in bp, each N x H, of N x T x columns."""


@dataclass(frozen=True, slots=True)
class Served:
    """A model on a feed: `refusals` holds per horizon why it may not size an order, empty where it may."""

    model: Predictor
    refusals: tuple[str, ...]


def refusals(model: Predictor, feed: Feed) -> tuple[str, ...]:
    """Per horizon, why its signals may not size an order on `feed`; empty where they may."""
    if model.trained_on == "synthetic" and feed != "synthetic":
        return (SYNTHETIC_MODEL,) * len(model.horizons_ms)
    return tuple("" if is_licensed else NO_LICENCE for is_licensed in model.licences)


def build(artefact: Artefact) -> Predictor:
    """Make a model ready to forecast; raises `ModelRefused` for another feature schema."""
    return LinearModel(artefact)


def shipped(feed: Feed) -> Path:
    """The artefact that comes with the program for a feed."""
    return Path(str(resources.files("models.forecast"))) / "artefacts" / _SHIPPED[feed]


def folder(home: Path) -> Path:
    """Where trained models of a deployment are kept, one file per id."""
    return home / "models"


def find(name: str, home: Path) -> Path:
    """The file of a model by path, id or shipped name; raises `ModelRefused` when there is none."""
    kept = folder(home)
    given = Path(name)
    places = [given, given / "model.json", kept / f"{name}.json", shipped("synthetic").parent / f"{name}.json"]
    for place in places:
        if place.is_file():
            return place
    for place in (*sorted(kept.glob("*.json")), *sorted(set(map(shipped, _SHIPPED)))):
        if place.is_file() and read(place).id == name:
            return place
    raise ModelRefused(f"no model is called {name}: give an id, a file, or leave `predict.model` empty")


def serve(name: str, feed: Feed, home: Path) -> Served:
    """The model that predict uses: the named one, or without a name the shipped one that fits the feed.

    Raises `ModelRefused` for a model trained on synthetic data that is named on another feed.
    """
    model = build(read(find(name, home) if name else shipped(feed)))
    if name and model.trained_on == "synthetic" and feed != "synthetic":
        raise ModelRefused(
            f"model {model.name} ({model.id}) was trained on synthetic data and is refused on the {feed} feed:"
            " leave `predict.model` empty or name a model trained on recordings"
        )
    return Served(model, refusals(model, feed))


def has_single_bits(model: Predictor, sizes: Sequence[int] = (2, 7, 25), seed: int = 1) -> bool:
    """Whether many windows in one call give the bits of single calls, tried on random windows."""
    random = np.random.default_rng(seed)
    for size in sizes:
        windows = random.normal(scale=3.0, size=(size, model.window_rows, len(model.columns)))
        together = model.predict(windows)
        for i in range(size):
            alone = model.predict(windows[i : i + 1])
            if any(a[0].tobytes() != t[i].tobytes() for a, t in zip(alone, together, strict=True)):
                return False
    return True
