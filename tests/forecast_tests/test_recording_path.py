"""The whole way from a recording to signals, with the shipped model, in memory."""

import os
from pathlib import Path

import numpy as np
import pytest

from consumers.predict_stage import PredictStage
from models.forecast.registry import NO_LICENCE, serve
from producers.rows import recording_rows, synthetic_rows
from producers.sandbox.synthetic import Plan
from streams.stage import StageOptions

DATA = Path(os.environ.get("OBSERVATOR_DATA", "../shared/data")) / "upbit_ws"


def test_a_recording_is_forecast_and_nothing_may_be_traded_on_it(tmp_path: Path) -> None:
    path = DATA / "upbit_ws_raw_20210405.log.gz"
    if not path.exists():
        pytest.skip("the recording is not here: set OBSERVATOR_DATA")
    stage = PredictStage("recording", serve("", "recording", tmp_path), 60)
    signals = stage.on_rows(recording_rows([path], StageOptions()))
    assert len(signals) > 3_000
    assert {(s.is_licensed, s.refusal, s.feed) for s in signals} == {(False, NO_LICENCE, "recording")}
    sizes = np.abs([signal.expected_bp for signal in signals])
    assert 1.0 < sizes.max() < 12.0
    assert all(signal.sigma_bp > 0.0 for signal in signals)


def test_on_a_fresh_synthetic_market_the_shipped_model_has_skill(tmp_path: Path) -> None:
    stage = PredictStage("synthetic", serve("", "synthetic", tmp_path), 60)
    rows = list(synthetic_rows(Plan(market_count=6, books_per_second=5.0, seed=99), 420, StageOptions()))
    mids = {(row.market, row.bin_ms): row.mid for row in rows}
    pairs = [
        (signal.expected_bp, 1e4 * np.log(later / signal.mid))
        for signal in stage.on_rows(rows)
        if signal.horizon_ms == 10_000 and (later := mids.get((signal.market, signal.bin_ms + 10_000)))
    ]
    forecast, outcome = np.array(pairs).T
    assert len(pairs) > 2_000
    assert np.corrcoef(forecast, outcome)[0, 1] > 0.15


def test_without_planted_edge_it_has_none(tmp_path: Path) -> None:
    stage = PredictStage("synthetic", serve("", "synthetic", tmp_path), 60)
    rows = list(
        synthetic_rows(Plan(market_count=6, books_per_second=5.0, seed=98, linear_edge=0.0), 420, StageOptions())
    )
    mids = {(row.market, row.bin_ms): row.mid for row in rows}
    pairs = [
        (signal.expected_bp, 1e4 * np.log(later / signal.mid))
        for signal in stage.on_rows(rows)
        if signal.horizon_ms == 10_000 and (later := mids.get((signal.market, signal.bin_ms + 10_000)))
    ]
    forecast, outcome = np.array(pairs).T
    assert abs(np.corrcoef(forecast, outcome)[0, 1]) < 0.15
