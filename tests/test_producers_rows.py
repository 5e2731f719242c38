import os
from pathlib import Path

import pytest

from producers.rows import recording_rows, synthetic_rows
from producers.sandbox.synthetic import Plan
from streams.messages import hash_of
from streams.stage import StageOptions

DATA = Path(os.environ.get("OBSERVATOR_DATA", "../shared/data")) / "upbit_ws"


def test_a_synthetic_market_gives_the_same_rows_every_time() -> None:
    plan = Plan(market_count=3, books_per_second=2.0, seed=5)
    rows = list(synthetic_rows(plan, 20, StageOptions(1_000, 30)))
    assert len({row.market for row in rows}) == 3
    per_market = [[row.bin_ms for row in rows if row.market == market] for market in {row.market for row in rows}]
    assert all(bins == list(range(bins[0], bins[-1] + 1, 1_000)) for bins in per_market)
    assert sum(row.n_books for row in rows) > 90
    again = list(synthetic_rows(plan, 20, StageOptions(1_000, 30)))
    assert [hash_of(row) for row in again] == [hash_of(row) for row in rows]


def test_recordings_give_a_session_each() -> None:
    paths = [DATA / f"upbit_ws_raw_{day}.log.gz" for day in ("20210405", "20210417")]
    if not all(path.exists() for path in paths):
        pytest.skip("the recordings are not here: set OBSERVATOR_DATA")
    rows = list(recording_rows(paths, StageOptions(1_000, 300)))
    assert {row.session for row in rows} == {1, 2}
    assert len({row.market for row in rows}) >= 9
    assert len(rows) > 1_000
