import json
from pathlib import Path

import pytest

from consumers.archive.holes import ledger
from consumers.verify import bench_archive as bench
from infra.store import FolderStore
from streams.archived import ArchiveHistory


def test_the_benchs_market_is_whole_and_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured is a market without a hole, and every way of reading it finds every row."""
    store = FolderStore(tmp_path)
    mark = {"format": 1, "run": bench.RUN, "prefix": "", "kind": "log", "made_ms": 0, "by": "test"}
    store.write("archive.json", json.dumps(mark).encode())
    monkeypatch.setattr(bench, "MARKETS", bench.MARKETS[:3])
    for before, day in enumerate(bench.DAYS[:2]):
        raw, count, _ = bench.write_hour((str(tmp_path), day, before, 1, 4, 2))
        assert raw > 100 * count
    found = ledger(ArchiveHistory(store), stale_ms=10**9)
    assert {one.reason for one in found.stretches} <= {"new session"}
    assert found.stretches == []
    assert {(one.books, one.trades, one.late) for one in found.days} == {(20, 8, 0)}
    rows = {kind: bench.read_here(str(tmp_path), kind, 2)["rows"] for kind in ("frames", "columns", "kernels")}
    assert rows == {"frames": 2 * 60, "columns": 2 * 24, "kernels": 2 * 84}
