from collections.abc import Callable

import numpy as np
import pytest
from rich.console import Console

from infra.errors import Unsupported
from models.forecast import metrics
from models.forecast.artefact import Artefact
from models.forecast.dataset import collect, columns_of, vector_of
from models.forecast.registry import build
from models.forecast.train import SHORT_RECIPE, Origin, Recipe, report, train
from streams.market.features import NAMES
from streams.messages import Features

MakeRows = Callable[..., list[Features]]

ORIGIN = Origin("trial", "synthetic", git_sha="abc", lock_hash="def", settings={"source": "planted"})
TWO = Recipe(min_bins=2, horizons_ms=(5_000, 10_000))


def test_a_planted_signal_is_recovered_and_licensed(planted: Artefact) -> None:
    for head, score in zip(planted.payload.horizons, planted.payload.card.scores, strict=True):
        assert head.is_licensed
        assert score.skill > 0.05
        assert score.ic > 0.25
        assert score.direction > 0.55
        assert 0.5 <= score.base_rate < score.direction
        assert score.clark_west_p < 0.01
        assert score.skill > max(score.skill_b2, score.skill_shuffled)
        assert score.skill_shuffled < 0.01
        assert 0.5 < head.shrink <= 1.0
        assert score.n_eff == pytest.approx(score.n_test / (score.horizon_ms // 1_000 + 1))


def test_the_strongest_weight_is_the_planted_one(planted: Artefact) -> None:
    weights = np.abs(planted.payload.horizons[0].weights)
    assert planted.payload.inputs[int(np.argmax(weights))] == "imbalance_l1"


def test_noise_earns_no_licence(make_rows: MakeRows) -> None:
    for seed in (1, 2):
        artefact = train(make_rows(bins=6_000, edge=0.0, seed=seed), ORIGIN, TWO)
        assert not any(head.is_licensed for head in artefact.payload.horizons)
        assert all((score.skill or 0.0) < 0.02 for score in artefact.payload.card.scores)


def test_a_feature_that_peeks_is_found_out(make_rows: MakeRows) -> None:
    """The other half of the leak check: an input that holds the future must show."""
    rows = make_rows(bins=6_000, edge=0.0)
    by_key = {(row.market, row.bin_ms): row.mid for row in rows}
    at = int(columns_of(["imbalance_l1"])[0])
    for row in rows:
        later = by_key.get((row.market, row.bin_ms + 6_000))
        vector_of(row)[at] = 1e4 * np.log(later / row.mid) if later else 0.0
    score = train(rows, ORIGIN, TWO).payload.card.scores[0]
    assert score.skill > 0.5


def test_the_same_rows_give_the_same_model_and_others_another(make_rows: MakeRows) -> None:
    rows = make_rows(bins=700)
    first = train(rows, ORIGIN, TWO)
    assert train(list(reversed(rows)), ORIGIN, TWO).id == first.id
    assert train(rows[:-2], ORIGIN, TWO).id != first.id


def test_the_test_slice_touches_neither_weights_nor_scaler(make_rows: MakeRows) -> None:
    rows = make_rows(bins=1_000)
    first = train(rows, ORIGIN, TWO)
    edge_ms = rows[0].bin_ms + 1_000 * 850
    for row in rows:
        if row.bin_ms > edge_ms:
            vector_of(row)[:] = [5.0] * len(NAMES)
    second = train(rows, ORIGIN, TWO)
    assert second.payload.horizons[0].weights == first.payload.horizons[0].weights
    assert second.payload.horizons[0].shrink == first.payload.horizons[0].shrink
    assert second.payload.scaler == first.payload.scaler


def test_serving_gives_what_training_scored(make_rows: MakeRows, planted: Artefact) -> None:
    data = collect(make_rows(bins=4_000, markets=("KRW-A", "KRW-B", "KRW-C", "KRW-D"), edge=0.8))
    model = build(planted)
    expected, _ = model.predict(data.features[:, None, list(model.columns)])
    usable = data.n_bins >= 2
    for h, score in enumerate(planted.payload.card.scores):
        assert np.abs(expected[usable, h]).max() == pytest.approx(score.max_forecast_bp)


def test_short_recordings_give_blank_figures_and_no_licence(make_rows: MakeRows) -> None:
    artefact = train(
        make_rows(bins=110, markets=tuple(f"KRW-{i}" for i in range(8))), Origin("short", "recording"), SHORT_RECIPE
    )
    assert not any(head.is_licensed for head in artefact.payload.horizons)
    near, *_, far = artefact.payload.card.scores
    assert near.skill is None
    assert near.max_forecast_bp > 0.0
    assert far.n_validation == 0
    assert far.max_forecast_bp == 0.0
    assert artefact.payload.horizons[-1].sigma > 0.0
    console = Console(width=200, record=True)
    console.print(report(artefact))
    assert "too few" in console.export_text()


def test_the_card_says_where_it_comes_from(make_rows: MakeRows) -> None:
    steps: list[tuple[str, int, int]] = []
    card = train(make_rows(bins=700), ORIGIN, TWO, lambda *step: steps.append(step)).payload.card
    assert (card.git_sha, card.lock_hash, card.settings["source"]) == ("abc", "def", "planted")
    assert card.rows == 1_400
    assert card.counts["purged 5 s"] > 0
    assert "expected number of trades in calm markets: 0" in card.limits.lower()
    assert steps[0] == ("rows", 0, 3)
    assert steps[-1] == ("done", 3, 3)


def test_nothing_to_learn_from_is_said(make_rows: MakeRows) -> None:
    with pytest.raises(Unsupported, match="can be trained on"):
        train(make_rows(bins=5), ORIGIN, Recipe())
    with pytest.raises(Unsupported, match="none of 0"):
        train([], ORIGIN, Recipe())


def test_figures_of_constants_are_none() -> None:
    still, y = np.zeros(10), np.arange(10.0)
    assert metrics.skill(still, still) is None
    assert metrics.correlation(still, y) is None
    assert metrics.rank_correlation(y, y**3) == pytest.approx(1.0)
    assert metrics.direction(still, y) == (None, None)
    bins = np.arange(10)
    assert metrics.clark_west_p(y, still, bins, 5) is None
    assert metrics.clark_west_p(y, still, bins, 1) is None


def test_tests_of_skill_tell_signal_from_noise() -> None:
    random = np.random.default_rng(3)
    signal = random.normal(size=5_000)
    y = 0.2 * signal + random.normal(size=5_000)
    bins = np.repeat(np.arange(2_500), 2)
    assert metrics.clark_west_p(y, 0.2 * signal, bins, 1) < 1e-4
    assert metrics.diebold_mariano_p(y, 0.2 * signal, bins, 1) < 1e-3
    noise = random.normal(size=5_000)
    assert metrics.diebold_mariano_p(y, noise, bins, 1) > 0.99
