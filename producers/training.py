"""Trains a model on rows of the log, of a synthetic market made in memory, or of recordings. Called by `train`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from infra.log import Log
from infra.manifest import file_hash, git_sha
from infra.servers.broker import open_log
from infra.settings import Settings
from models.forecast import train
from models.forecast.artefact import Artefact
from producers.rows import recording_rows, synthetic_rows
from producers.sandbox.synthetic import Plan
from streams.columns import read_records
from streams.messages import Features
from streams.runner import options_of


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows: each source looks at its own fields only; `between_ms` is of event time, the end excluded."""

    source: Literal["log", "synthetic", "recording"]
    recordings: Sequence[Path] = ()
    seconds: int = 3_600
    markets: int = 10
    seed: int = 1_001
    between_ms: tuple[int | None, int | None] = (None, None)

    def described(self, settings: Settings) -> dict[str, str]:
        """Say it for the model's card."""
        match self.source:
            case "log":
                begin, end = ("" if at_ms is None else str(at_ms) for at_ms in self.between_ms)
                return {"source": "log", "feed": settings.feed.kind, "from": begin, "to": end}
            case "synthetic":
                figures = {"seconds": self.seconds, "markets": self.markets, "seed": self.seed}
                return {"source": "synthetic"} | {name: str(value) for name, value in figures.items()}
            case "recording":
                return {"source": "recording", "files": ", ".join(file.name for file in self.recordings)}


def trained(model: str, wanted: Wanted, settings: Settings, tell: train.Progress) -> Artefact:
    """The model with its card; the short recipe where the rows are of a real market."""
    is_synthetic = wanted.source == "synthetic" or (wanted.source == "log" and settings.feed.kind == "synthetic")
    market: Literal["synthetic", "recording"] = "synthetic" if is_synthetic else "recording"
    root = Path(__file__).parent.parent
    lock = file_hash(root / "requirements" / "base.txt")
    origin = train.Origin(f"{model}-{market}", market, git_sha(root), lock, wanted.described(settings))
    recipe = None if is_synthetic else train.SHORT_RECIPE
    if wanted.source == "log":
        with open_log(settings) as log:
            return train.train(_logged_rows(log, wanted), origin, recipe, tell)
    return train.train(_made_rows(settings, wanted), origin, recipe, tell)


def _logged_rows(log: Log, wanted: Wanted) -> Iterator[Features]:
    for _, message in read_records(log, "features", *wanted.between_ms):
        if isinstance(message, Features):
            yield message


def _made_rows(settings: Settings, wanted: Wanted) -> Iterator[Features]:
    feed, options, lateness_ms = settings.feed, options_of(settings), settings.grid.lateness_ms
    if wanted.source == "recording":
        return recording_rows(wanted.recordings, options, lateness_ms)
    plan = Plan(
        market_count=wanted.markets,
        books_per_second=feed.books_per_second,
        seed=wanted.seed,
        linear_edge=feed.linear_edge,
        nonlinear_edge=feed.nonlinear_edge,
    )
    return synthetic_rows(plan, wanted.seconds, options, lateness_ms)
