import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from models.forecast import artefact as artefacts
from models.forecast.artefact import Artefact, ModelRefused, read, seal, write
from models.forecast.dataset import Floats, collect
from models.forecast.linear import LinearModel
from models.forecast.registry import (
    NO_LICENCE,
    SYNTHETIC_MODEL,
    build,
    find,
    folder,
    has_single_bits,
    refusals,
    serve,
    shipped,
)
from streams.messages import Features

replace = msgspec.structs.replace
MakeRows = Callable[..., list[Features]]


def test_a_window_alone_gives_the_bits_it_gives_among_many(planted: Artefact) -> None:
    model = build(planted)
    assert has_single_bits(model)
    windows = np.random.default_rng(5).normal(size=(64, 1, len(model.columns)))
    together = model.predict(windows)[0]
    for i in range(64):
        assert model.predict(windows[i : i + 1])[0].tobytes() == together[i].tobytes()


def test_a_model_that_sums_otherwise_is_found_out(planted: Artefact) -> None:
    class Wobbly(LinearModel):
        def predict(self, windows: Floats) -> tuple[Floats, Floats]:
            expected, sigma = super().predict(windows)
            return expected + (1e-12 if len(windows) > 1 else 0.0), sigma

    assert not has_single_bits(Wobbly(planted))


def test_forecasts_are_the_formula_and_are_cut_at_five_sigmas(planted: Artefact, make_rows: MakeRows) -> None:
    model = build(planted)
    payload = planted.payload
    row = collect(make_rows(bins=3, markets=("KRW-A",))).features[2]
    x = np.array([row[at] for at in model.columns])
    scaled = np.clip((x - payload.scaler.medians) / np.array(payload.scaler.ranges), -8, 8)
    expected, sigma = model.predict(x[None, None, :])
    for h, head in enumerate(payload.horizons):
        assert expected[0, h] == pytest.approx(head.shrink * (head.bias + np.array(head.weights) @ scaled))
        assert sigma[0, h] == head.sigma
    steep = [replace(head, weights=[1e6 * w for w in head.weights]) for head in payload.horizons]
    steep_expected, steep_sigma = build(seal(replace(payload, horizons=steep))).predict(x[None, None, :])
    assert np.array_equal(np.abs(steep_expected), 5.0 * steep_sigma)


def test_a_model_survives_its_file_and_a_changed_one_is_refused(planted: Artefact, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    write(planted, path)
    assert read(path) == planted
    document = json.loads(path.read_text())
    document["payload"]["horizons"][0]["weights"][0] += 1e-9
    path.write_text(json.dumps(document))
    with pytest.raises(ModelRefused, match="damaged"):
        read(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{", "damaged"), ('{"id": "x"}', "damaged"), ("{}" * 2, "damaged"), (None, "cannot be read")],
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: str | None, reason: str) -> None:
    path = tmp_path / "model.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ModelRefused, match=reason):
        read(path)


def test_weights_that_do_not_fit_and_other_formats_are_refused(planted: Artefact, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    write(seal(replace(planted.payload, inputs=planted.payload.inputs[:-1])), path)
    with pytest.raises(ModelRefused, match="do not fit"):
        read(path)
    write(seal(replace(planted.payload, format=artefacts.FORMAT + 1)), path)
    with pytest.raises(ModelRefused, match="format"):
        read(path)


def test_another_feature_schema_is_refused(planted: Artefact) -> None:
    with pytest.raises(ModelRefused, match="v0-old"):
        build(seal(replace(planted.payload, schema="v0-old")))


def test_a_synthetic_model_may_trade_on_the_synthetic_feed_only(planted: Artefact) -> None:
    model = build(planted)
    assert refusals(model, "synthetic") == ("", "")
    assert refusals(model, "upbit") == (SYNTHETIC_MODEL, SYNTHETIC_MODEL)
    assert refusals(model, "recording") == (SYNTHETIC_MODEL, SYNTHETIC_MODEL)


def test_a_horizon_without_licence_says_so(planted: Artefact) -> None:
    heads = [replace(head, is_licensed=False) for head in planted.payload.horizons]
    model = build(seal(replace(planted.payload, trained_on="recording", horizons=heads)))
    assert refusals(model, "upbit") == (NO_LICENCE, NO_LICENCE)


def test_a_named_synthetic_model_is_refused_elsewhere_with_the_reason(planted: Artefact, tmp_path: Path) -> None:
    write(planted, folder(tmp_path) / f"{planted.id}.json")
    assert serve(planted.id, "synthetic", tmp_path).model.id == planted.id
    with pytest.raises(ModelRefused, match="trained on synthetic data and is refused on the upbit feed"):
        serve(planted.id, "upbit", tmp_path)


def test_models_are_found_by_path_folder_id_and_name(planted: Artefact, tmp_path: Path) -> None:
    home = tmp_path / "home"
    path = tmp_path / "mine" / "model.json"
    write(planted, path)
    assert find(str(path), home) == path
    assert find(str(path.parent), home) == path
    write(planted, folder(home) / "by-another-name.json")
    assert find(planted.id, home).name == "by-another-name.json"
    assert find("linear-recording", home) == shipped("upbit")
    assert find(read(shipped("upbit")).id, home) == shipped("upbit")
    with pytest.raises(ModelRefused, match="no model is called nobody"):
        find("nobody", home)


def test_the_shipped_models_fit_this_build_and_their_feed(tmp_path: Path) -> None:
    synthetic = serve("", "synthetic", tmp_path)
    assert synthetic.model.trained_on == "synthetic"
    assert synthetic.model.horizons_ms == (5_000, 10_000, 30_000, 60_000)
    assert "" in synthetic.refusals
    for feed in ("recording", "upbit"):
        served = serve("", feed, tmp_path)
        assert served.model.trained_on == "recording"
        assert served.refusals == (NO_LICENCE,) * 4
        assert read(shipped(feed)).payload.card.limits.startswith("Trained on 149 s of market time. Unlicensed")
