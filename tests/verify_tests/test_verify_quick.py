"""Each verify and bench command in its short form, for real: own broker, own processes, own clean-up."""

import pytest

import observator
from consumers.verify.bench_features import bench_features
from consumers.verify.bench_latency import bench_tick_to_signal
from consumers.verify.bench_memory import bench_memory
from consumers.verify.recovery import verify_recovery
from consumers.verify.restarts import verify_restarts
from infra.figures import slope_of

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(600)]


def shown(result, name):
    assert result["name"] == name
    assert set(result) == {"name", "passed", "figures", "conditions"}
    assert all(isinstance(value, int | float) for value in result["figures"].values())
    return result["figures"]


def test_parity_holds_and_the_control_is_found(monkeypatch, data_folder):
    monkeypatch.setenv("OBSERVATOR_DATA", str(data_folder))
    result = observator.parity(quick=True)
    figures = shown(result, "parity")
    assert result["passed"], figures
    assert figures["differing"] == 0
    assert figures["control: differing after one altered byte"] > 0
    assert figures["kills"] > 0


def test_killed_workers_lose_nothing():
    result = verify_restarts(quick=True)
    figures = shown(result, "restarts")
    assert result["passed"], figures
    assert figures["loop: rows lost"] == figures["loop: signals lost"] == 0


def test_broker_and_worker_killed_under_the_supervisor():
    result = verify_recovery(quick=True)
    figures = shown(result, "recovery")
    assert result["passed"], figures
    assert figures["log: records lost"] == figures["processes left behind"] == 0


def test_feature_bench_measures_and_its_bits_agree():
    result = bench_features(quick=True)
    figures = shown(result, "features")
    assert result["passed"], figures
    assert figures["live loop: books per second"] > 50


def test_latency_bench_measures():
    figures = shown(bench_tick_to_signal(quick=True), "tick-to-signal")
    assert figures["loop, 10 markets: p50 ms"] > 500
    assert figures["loop, 10 markets: signals per bin"] == 40


def test_memory_bench_measures():
    result = bench_memory(quick=True)
    figures = shown(result, "memory")
    assert result["passed"]
    assert figures["loop: feature rows"] > 5_000
    assert figures["loop: refreshes of the page"] > 0
    assert figures["loop, page: MB after 5 fifths"] > 20


def test_slope_is_found_with_its_error():
    slope, error = slope_of([(i / 10, 50 + 0.3 * i / 10 + (-1) ** i * 0.01) for i in range(50)])
    assert slope == pytest.approx(0.3, abs=0.02)
    assert 0 < error < 0.05
    assert slope_of([(0, 1)]) == (0.0, 0.0)
