import math
from collections import Counter
from collections.abc import Callable

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import Unsupported
from models.forecast.dataset import collect, columns_of, complete, from_frame, labels, split, vector_of
from streams.market.features import NAMES
from streams.messages import Features

replace = msgspec.structs.replace
MakeRows = Callable[..., list[Features]]


def test_labels_are_log_returns_after_the_delay(make_rows: MakeRows) -> None:
    rows = make_rows(bins=20, markets=("KRW-A",))
    data = collect(rows)
    target = labels(data, 5_000)
    assert target.delta_ms == 1_000
    assert target.y[3] == pytest.approx(1e4 * math.log(rows[9].mid / rows[4].mid))
    assert target.usable.tolist() == [True] * 14 + [False] * 6
    assert target.span_end_ms[3] == rows[3].bin_ms + 6_000
    assert target.counts["span-incomplete"] == 6


def test_a_missing_row_drops_every_label_that_spans_it(make_rows: MakeRows) -> None:
    rows = make_rows(bins=30, markets=("KRW-A",))
    data = collect(rows[:15] + rows[16:])
    target = labels(data, 5_000)
    bins = (data.bin_ms[target.usable] - rows[0].bin_ms) // 1_000
    assert set(bins.tolist()) == set(range(9)) | set(range(16, 24))
    assert data.counts["gap"] == 1


def test_a_run_that_starts_anew_ends_labels_before_it(make_rows: MakeRows) -> None:
    rows = [
        replace(row, n_bins=row.n_bins - 10) if i >= 10 else row
        for i, row in enumerate(make_rows(bins=20, markets=("KRW-A",)))
    ]
    target = labels(collect(rows), 5_000)
    assert target.usable.tolist() == [True] * 4 + [False] * 6 + [True] * 4 + [False] * 6


def test_rows_without_price_or_feature_are_counted(make_rows: MakeRows) -> None:
    rows = make_rows(bins=20, markets=("KRW-A",))
    rows[8] = replace(rows[8], mid=None)
    rows[4] = replace(rows[4], values=[None, *vector_of(rows[4])[1:]])
    data = collect(rows)
    target = labels(data, 5_000)
    assert not target.usable[[2, 7]].any()
    assert target.counts["no-price"] == 2
    counts: Counter[str] = Counter()
    usable = complete(data, [NAMES[0]], 3, counts)
    assert np.flatnonzero(~usable).tolist() == [0, 1, 4, 8]
    assert counts == {"window-short": 2, "null-feature": 2}


def test_duplicates_and_conflicts_are_counted_and_order_does_not_matter(make_rows: MakeRows) -> None:
    rows = make_rows(bins=10)
    mixed = [*reversed(rows), replace(rows[3], received_ns=9), replace(rows[4], n_trades=77)]
    data = collect(mixed)
    assert len(data) == 20
    assert data.counts["duplicate"] == 1
    assert data.counts["conflict"] == 1
    assert np.array_equal(data.features, collect(rows).features)
    assert data.markets == ("upbit:KRW-A", "upbit:KRW-B")


def test_a_frame_gives_the_same_rows(make_rows: MakeRows) -> None:
    rows = make_rows(bins=5)
    frame = pd.DataFrame([msgspec.structs.asdict(row) for row in rows])
    assert np.array_equal(from_frame(frame).features, collect(rows).features)


def test_what_cannot_be_mixed_is_refused(make_rows: MakeRows) -> None:
    rows = make_rows(bins=3)
    with pytest.raises(Unsupported, match="v0"):
        collect([replace(rows[0], schema="v0")])
    with pytest.raises(Unsupported, match="grids"):
        collect([rows[0], replace(rows[1], grid_ms=500)])
    with pytest.raises(Unsupported, match="no feature horoscope"):
        columns_of(["spread_bp", "horoscope"])
    with pytest.raises(ValueError, match="multiples"):
        labels(collect(rows), 5_500)


def test_the_split_is_in_time_purged_and_embargoed(make_rows: MakeRows) -> None:
    data = collect(make_rows(bins=300))
    target = labels(data, 10_000)
    usable = np.ones(len(data), dtype=np.bool_)
    parts = split(data, target, usable, look_back_ms=15_000)
    assert parts.embargo_ms == 15_000
    for earlier, later in ((parts.train, parts.validation), (parts.validation, parts.test)):
        assert (target.span_end_ms[earlier] + parts.embargo_ms).max() <= data.bin_ms[later].min()
    n = len(parts.train) + len(parts.validation) + len(parts.test)
    assert n + parts.purged == int(target.usable.sum())
    assert parts.purged > 0


def test_too_few_bins_give_an_empty_split(make_rows: MakeRows) -> None:
    data = collect(make_rows(bins=12))
    parts = split(data, labels(data, 10_000), np.ones(len(data), dtype=np.bool_))
    assert not len(parts.train)
    assert not len(parts.test)


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(20, 50), noise=st.floats(-0.5, 0.5))
def test_what_comes_later_changes_nothing_before(make_rows: MakeRows, cut: int, noise: float) -> None:
    rows = make_rows(bins=60)
    edge_ms = rows[0].bin_ms + 1_000 * cut
    changed = [_shaken(row, noise) if row.bin_ms > edge_ms else row for row in rows]
    before, after = collect(rows), collect(changed)
    old, new = labels(before, 5_000), labels(after, 5_000)
    is_past = before.bin_ms <= edge_ms
    assert np.array_equal(before.features[is_past], after.features[is_past])
    is_known = old.span_end_ms <= edge_ms
    assert np.array_equal(old.y[is_known], new.y[is_known], equal_nan=True)
    truncated = collect([row for row in rows if row.bin_ms <= edge_ms])
    assert np.array_equal(truncated.features, before.features[is_past])


def _shaken(row: Features, noise: float) -> Features:
    assert row.mid is not None
    return replace(row, mid=row.mid * (1.5 + noise), values=[noise] * len(NAMES))
