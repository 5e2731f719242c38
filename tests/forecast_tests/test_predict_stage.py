from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from consumers.predict_stage import PredictStage, states_of
from infra.errors import BadSettings
from models.forecast.artefact import Artefact, seal
from models.forecast.dataset import Floats
from models.forecast.linear import LinearModel
from models.forecast.registry import SYNTHETIC_MODEL, Served, build, refusals
from streams.messages import Features, Feed, Signal, hash_of, signal_id

replace = msgspec.structs.replace
MakeRows = Callable[..., list[Features]]


class Mean(LinearModel):
    """A model that looks at several rows: the sum of the window's first column."""

    def __init__(self, artefact: Artefact, window_rows: int = 4) -> None:
        super().__init__(artefact)
        self.window_rows = window_rows

    def predict(self, windows: Floats) -> tuple[Floats, Floats]:
        total = windows[:, 0, :1].copy()
        for at in range(1, windows.shape[1]):
            total += windows[:, at, :1]
        expected = np.repeat(total, len(self.horizons_ms), axis=1)
        return expected, np.ones_like(expected)


def served_of(artefact: Artefact, feed: Feed = "synthetic", window_rows: int = 1) -> Served:
    model = build(artefact) if window_rows == 1 else Mean(artefact, window_rows)
    return Served(model, refusals(model, feed))


def hashes(signals: list[Signal]) -> list[bytes]:
    return [hash_of(signal) for signal in signals]


def test_every_row_gives_one_signal_per_horizon(planted: Artefact, make_rows: MakeRows) -> None:
    rows = make_rows(bins=10)
    stage = PredictStage("synthetic", served_of(planted), 60)
    signals = stage.on_rows(rows)
    assert len(signals) == 9 * 2 * 2
    assert stage.counts == {"rows": 20, "window-short": 2, "signals": 36}
    last = signals[-1]
    row = rows[-1]
    assert (last.market, last.bin_ms, last.horizon_ms, last.mid) == (row.market, row.bin_ms, 10_000, row.mid)
    assert last.id == signal_id("upbit", row.market, row.bin_ms, 10_000, planted.id, row.schema)
    assert last.is_licensed
    assert last.refusal == ""


def test_on_another_feed_the_synthetic_model_has_no_licence(planted: Artefact, make_rows: MakeRows) -> None:
    stage = PredictStage("upbit", served_of(planted, "upbit"), 60)
    signals = stage.on_rows(make_rows(bins=5))
    assert {(s.is_licensed, s.refusal, s.feed) for s in signals} == {(False, SYNTHETIC_MODEL, "upbit")}


@pytest.mark.parametrize("batch", [1, 3, 7, 500])
@pytest.mark.parametrize("per_call", [1, 2, 25])
@pytest.mark.parametrize("window_rows", [1, 4])
def test_batches_change_nothing(
    planted: Artefact, make_rows: MakeRows, batch: int, per_call: int, window_rows: int
) -> None:
    rows = make_rows(bins=30, markets=("KRW-A", "KRW-B", "KRW-C"))
    whole = PredictStage("synthetic", served_of(planted, window_rows=window_rows), 60).on_rows(rows)
    stage = PredictStage("synthetic", served_of(planted, window_rows=window_rows), 60, per_call)
    parts = [signal for at in range(0, len(rows), batch) for signal in stage.on_rows(rows[at : at + batch])]
    assert hashes(parts) == hashes(whole)
    assert len(whole) == 3 * 2 * (30 - max(1, window_rows - 1))


def test_duplicates_give_nothing_and_differing_ones_are_kept_for_the_log(
    planted: Artefact, make_rows: MakeRows
) -> None:
    rows = make_rows(bins=10, markets=("KRW-A",))
    stage = PredictStage("synthetic", served_of(planted), 5)
    clean = PredictStage("synthetic", served_of(planted), 5).on_rows(rows)
    other = replace(rows[6], mid=1.0)
    mixed = [*rows[:8], rows[7], replace(rows[7], received_ns=5), other, rows[0], *rows[8:]]
    assert hashes(stage.on_rows(mixed)) == hashes(clean)
    assert stage.counts["duplicate"] == 2
    assert stage.counts["conflict"] == 1
    assert stage.counts["old"] == 1
    assert stage.conflicts == [other]


def test_refusals_are_counted_by_reason(planted: Artefact, make_rows: MakeRows) -> None:
    rows = make_rows(bins=20, markets=("KRW-A",))
    at = build(planted).columns[0]
    values = list(rows[4].values)
    values[at] = None
    rows[4] = replace(rows[4], values=values)
    rows[6] = replace(rows[6], mid=None)
    rows[8] = replace(rows[8], schema="v0")
    rows[9] = replace(rows[9], grid_ms=500)
    later = [replace(row, bin_ms=row.bin_ms + 60_000, n_bins=i + 1) for i, row in enumerate(rows[10:])]
    stage = PredictStage("synthetic", served_of(planted), 60)
    signals = stage.on_rows([*rows[:10], *later])
    assert dict(stage.counts) == {
        "rows": 20,
        "window-short": 1,
        "null-feature": 1,
        "stale": 1,
        "schema-mismatch": 2,
        "hole": 1,
        "signals": len(signals),
    }
    assert len(signals) == 2 * 14


def test_a_window_never_spans_a_hole(planted: Artefact, make_rows: MakeRows) -> None:
    rows = make_rows(bins=12, markets=("KRW-A",))
    broken = rows[:5] + [replace(row, n_bins=row.n_bins - 6) for row in rows[6:]]
    stage = PredictStage("synthetic", served_of(planted, window_rows=4), 60)
    bins = {(s.bin_ms - rows[0].bin_ms) // 1_000 for s in stage.on_rows(broken)}
    assert bins == {3, 4, 9, 10, 11}
    assert stage.counts["hole"] == 3
    assert stage.counts["window-short"] == 3


def test_a_row_that_is_missing_without_a_hole_clears_the_window_too(planted: Artefact, make_rows: MakeRows) -> None:
    rows = make_rows(bins=12, markets=("KRW-A",))
    stage = PredictStage("synthetic", served_of(planted, window_rows=4), 60)
    bins = {(s.bin_ms - rows[0].bin_ms) // 1_000 for s in stage.on_rows(rows[:5] + rows[6:])}
    assert bins == {3, 4, 9, 10, 11}
    assert not states_of(rows[4:5] + rows[6:8], 60)["upbit:KRW-A"].is_settled(60)
    assert states_of(rows[:5] + rows[6:10], 4)["upbit:KRW-A"].is_settled(4)


def test_a_promotion_takes_effect_at_its_bin(planted: Artefact, make_rows: MakeRows) -> None:
    rows = make_rows(bins=10)
    heads = [replace(head, shrink=head.shrink / 2) for head in planted.payload.horizons]
    second = seal(replace(planted.payload, horizons=heads))
    from_ms = rows[10].bin_ms
    stage = PredictStage("synthetic", served_of(planted), 60)
    stage.promote(from_ms, served_of(second))
    signals = stage.on_rows(rows)
    assert {s.model_id for s in signals if s.bin_ms < from_ms} == {planted.id}
    assert {s.model_id for s in signals if s.bin_ms >= from_ms} == {second.id}
    assert stage.counts["late-promotion"] == 0
    stage.promote(from_ms, served_of(planted))
    assert stage.counts["late-promotion"] == 1


def test_a_model_that_wants_more_rows_than_are_kept_is_refused(planted: Artefact) -> None:
    with pytest.raises(BadSettings, match="wants 4 rows"):
        PredictStage("synthetic", served_of(planted, window_rows=4), 3)
