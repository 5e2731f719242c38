"""`observator bench features`: what a feature costs, over columns, live, and in a cold process."""

import os
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from consumers.verify.deployment import deployment, settle
from infra.figures import result_of
from streams.market import kernels
from streams.market.features import BOOK_AGE_CAP_S, NAMES
from streams.stage import Run

_GRID_MS = 1_000
_WINDOW = 300
_TARGETS = {15: 5e6, 30: 2.5e6}
_LIVE_TARGET_US = 100.0
_COLD = (
    "import time, sys; started = time.perf_counter(); import numpy as np; from streams.market import kernels as k; "
    "row = np.zeros(k.ROW); k.apply_book(row, np.array([100.0, 1.0, 101.0, 1.0]), 1, 1, 1.0); "
    "k.apply_trade(row, 100.0, 1.0, True, 1.0); out = np.zeros(k.OUT); "
    "k.vector(row.reshape(1, -1), np.array([k.own_mid(row)]), 1, 1000, 1000, 60.0, out); "
    "print(time.perf_counter() - started)"
)


class Columns:
    """One market's records as columns: books on a walking price, two books to a trade."""

    def __init__(self, levels: int, books: int, per_bin: int, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        trades = books // 2
        mid = 1e5 + 10 * np.cumsum(rng.integers(-1, 2, books))
        steps = 10.0 * np.arange(levels)
        self.books = np.concatenate(
            [
                mid[:, None] - 5 - steps,
                rng.exponential(1, (books, levels)),
                mid[:, None] + 5 + steps,
                rng.exponential(1, (books, levels)),
            ],
            axis=1,
        )
        self.counts = np.full((books, 2), levels, np.int32)
        self.trades = np.stack(
            [np.full(trades, 1e5), rng.exponential(1, trades), rng.integers(0, 2, trades).astype(float)], axis=1
        )
        self.kinds = np.zeros(books + trades, np.int8)
        self.kinds[2::3][:trades] = 1
        self.event_ms = 1_700_000_000_000 + np.arange(books + trades) * _GRID_MS // (per_bin * 3 // 2)
        self.levels = levels

    def run(self, rows: kernels.Floats) -> int:
        """Run the compiled loop."""
        return int(
            kernels.run_columns(
                self.kinds,
                self.event_ms,
                self.books,
                self.counts,
                self.trades,
                _GRID_MS,
                _WINDOW,
                BOOK_AGE_CAP_S,
                rows,
            )
        )

    def run_live(self, bins: int) -> kernels.Floats:
        """The first `bins` bins through the calls that the live stage makes, one a record."""
        run, first = Run(_WINDOW), int(self.event_ms[0]) // _GRID_MS
        rows = np.zeros((bins, kernels.OUT))
        book = trade = position = 0
        for index in range(bins):
            row = np.zeros(kernels.ROW)
            while position < len(self.kinds) and self.event_ms[position] // _GRID_MS == first + index:
                at = float(self.event_ms[position])
                if self.kinds[position] == 0:
                    kernels.apply_book(row, self.books[book], self.levels, self.levels, at)
                    book += 1
                else:
                    price, size, is_buy = self.trades[trade]
                    kernels.apply_trade(row, float(price), float(size), is_buy > 0, at)
                    trade += 1
                position += 1
            run.push(first + index, row)
            run.vector((first + index + 1) * _GRID_MS, _GRID_MS, rows[index])
        return rows


def bench_features(*, quick: bool = False) -> dict[str, object]:
    """Measure all three; passes where the column and plain-loop targets are met and the bits agree."""
    figures: dict[str, float] = {"features in the vector": len(NAMES)}
    is_met = True
    for levels, target in _TARGETS.items():
        for per_bin in (5, 20):
            columns = Columns(levels, 20_000 if quick else 300_000, per_bin)
            rows = np.zeros((len(columns.kinds), kernels.OUT))
            rate = _median_rate(columns, rows, 3 if quick else 7)
            figures[f"columns: M updates/s, {levels} levels, {per_bin} books a bin"] = round(rate / 1e6, 2)
            if per_bin == 5 and not quick:
                is_met = is_met and rate >= target
            same = columns.run_live(400).tobytes() == rows[:400].tobytes()
            figures[f"columns: same bits as live, {levels} levels, {per_bin} books a bin"] = int(same)
            is_met = is_met and same
    figures |= _cold_start()
    seconds = 5 if quick else 60
    for runner in ("loop",) if quick else ("loop", "faust"):
        figures |= _live(runner, 20 if quick else 250, seconds)
    if not quick:
        is_met = is_met and figures["live loop: us per book, producer and stage"] <= _LIVE_TARGET_US
    return result_of("features", figures, {"quick": quick, "window_bins": _WINDOW, "seconds": seconds}, passed=is_met)


def _median_rate(columns: Columns, rows: kernels.Floats, repeats: int) -> float:
    """Median updates (books and trades) per CPU second over `repeats` runs after a warm-up."""
    columns.run(rows)
    rates = []
    for _ in range(repeats):
        started = time.process_time()
        columns.run(rows)
        rates.append(len(columns.kinds) / (time.process_time() - started))
    return float(np.median(rates))


def _cold_start() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as cache:
        environ = {**os.environ, "NUMBA_CACHE_DIR": cache}
        command = [sys.executable, "-c", _COLD]
        seconds = [
            float(subprocess.run(command, env=environ, capture_output=True, check=True, text=True).stdout)  # noqa: S603 our own interpreter
            for _ in range(2)
        ]
    return {
        "cold process to first result, no numba cache: s": round(seconds[0], 2),
        "cold process to first result, with cache: s": round(seconds[1], 2),
    }


def _live(runner: str, markets: int, seconds: float) -> dict[str, float]:
    """CPU time per 30-level book of the producer and of the stage at 5 books/s and market."""
    described: dict[str, Any] = {
        "feed": {"kind": "synthetic", "market_count": markets, "warmup_seconds": 0},
        "streams": {"runner": runner},
    }
    with deployment(described) as running:
        running.start("sandbox", "feed", "streams")
        settle(running, "features", markets * 5, 120)
        time.sleep(2 if seconds < 10 else 10)
        before = {name: running.cpu_seconds(name) for name in ("feed", "streams", "sandbox")}
        books, trades, started = running.count("orderbooks"), running.count("trades"), time.monotonic()
        time.sleep(seconds)
        elapsed = time.monotonic() - started
        books, trades = running.count("orderbooks") - books, running.count("trades") - trades
        used = {name: running.cpu_seconds(name) - spent for name, spent in before.items()}
        running.children.require_alive()
    return {
        f"live {runner}: books per second": round(books / elapsed),
        f"live {runner}: trades per second": round(trades / elapsed),
        f"live {runner}: us per book, producer": round(1e6 * used["feed"] / books, 1),
        f"live {runner}: us per book, stage": round(1e6 * used["streams"] / books, 1),
        f"live {runner}: us per book, producer and stage": round(1e6 * (used["feed"] + used["streams"]) / books, 1),
        f"live {runner}: sandbox share of a core": round(used["sandbox"] / elapsed, 3),
    }
