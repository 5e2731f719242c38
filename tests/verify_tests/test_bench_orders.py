"""The benches of orders in their short form, and their parts: the tap, the load, the pairs."""

import http.server
import json
import threading
import urllib.request
from collections.abc import Iterator

import pytest

from consumers.verify.bench_accounts import Wave, _paired, bench_accounts
from consumers.verify.bench_orders import bench_signal_to_order
from consumers.verify.bench_orders_load import HORIZONS_MS, STRONG_BP, WEAK_BP, Load
from consumers.verify.bench_orders_stage import FLAT, NEVER_MS, percentiles
from consumers.verify.bench_orders_tap import Tap
from infra.log import TopicSpec, slots_of
from infra.memory_log import MemoryLog
from streams import topics

IN_TIME_MS = 1000.0


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_chosen_signal_becomes_an_order_whose_time_is_known() -> None:
    figures = bench_signal_to_order(quick=True)["figures"]
    assert isinstance(figures, dict)
    for form in ("with transaction", "without"):
        orders, without = figures[f"{form}: orders"], figures[f"{form}: signals without order"]
        assert orders + without == 48
        if figures[f"{form}: worst ms"] < IN_TIME_MS:  # on a busy machine a signal may be too old when it is its turn
            assert orders >= 24
            assert form == "without" or without == 0  # that form is no part of the product, only beside it
        assert 0 < figures[f"{form}: p50 ms"] <= figures[f"{form}: p99 ms"] < NEVER_MS
        assert figures[f"{form}: fsync p50 ms"] > 0
        if figures[f"{form}: latest publish s"] < IN_TIME_MS / 1000:
            assert figures[f"{form}: signals per s"] == pytest.approx(250, rel=0.05)


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_accounts_are_measured() -> None:
    figures = bench_accounts(quick=True)["figures"]
    assert isinstance(figures, dict)
    assert figures["unchanged states written"] == figures["orders missing"] == 0
    assert figures["states written"] > 0
    assert figures["orders"] + figures["orders told as too late"] >= 0.9 * figures["orders wanted"]
    assert figures["execute: ms of CPU per 100 affected accounts"] > 0
    assert figures["wait added by a refused key ms"] < NEVER_MS


class _Exchange(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def exchange() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Exchange)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_the_tap_passes_all_on_and_notes_orders_only(exchange: int) -> None:
    tap = Tap(exchange)
    for path, identifier in (("/v1/orders", "ob-a-1"), ("/v1/orders", "ob-b-1"), ("/v1/orders/test", "ob-c-1")):
        body = json.dumps({"market": "KRW-BTC", "identifier": identifier}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{tap.port}{path}", data=body)
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.read() == body
    tap.close()
    assert set(tap.first_ms) == {"ob-a-1", "ob-b-1"}
    assert tap.first_ms["ob-a-1"] < tap.first_ms["ob-b-1"]


def test_the_load_wants_an_entry_then_an_exit_and_is_weak_elsewhere(memory_log: MemoryLog) -> None:
    memory_log.create_topics([TopicSpec(name, 12, {}) for name in ("features", "signals")])
    load = Load(memory_log, ["KRW-BTC"], ["KRW-Z"], lambda _: FLAT)
    for bin_ms, is_wanted in ((1000, False), (2000, True), (3000, True)):
        for market in ("KRW-BTC", "KRW-Z"):
            load.publish(market, bin_ms, is_wanted=is_wanted and market == "KRW-BTC")
    load.close()
    slots = slots_of(memory_log, ["signals"])
    records = memory_log.reader(dict.fromkeys(slots, 0)).read(100, 0.1)
    signals = [topics.decode("signals", record.value) for record in records]
    strong = {(s.bin_ms, s.horizon_ms): s.expected_bp for s in signals if s.expected_bp != WEAK_BP}
    assert strong == {(2000, HORIZONS_MS[-1]): STRONG_BP} | {(3000, one): -STRONG_BP for one in HORIZONS_MS}
    assert [(one.market, one.is_entry) for one in load.chosen] == [("KRW-BTC", True), ("KRW-BTC", False)]
    assert load.signals == len(signals) == 24


def test_what_a_refused_key_adds_is_told_with_its_interval() -> None:
    waves = [
        Wave(group, is_entry, has_refused, 0)
        for group in (0, 1)
        for is_entry in (True, False)
        for has_refused in (False, True)
    ]
    same = {number: [10.0, 12.0, 50.0] for number in range(8)}
    assert _paired(waves, same)["wait added by a refused key ms"] == 0
    slower = {number: [10.0 + 5 * wave.has_refused + 0.1 * number] for number, wave in enumerate(waves)}
    found = _paired(waves, slower)
    assert found["wait added by a refused key, from ms"] > 4
    assert found["wait added by a refused key, to ms"] < 6
    assert _paired(waves[:2], {0: [1.0], 1: [2.0]})["wait added by a refused key ms"] == NEVER_MS


def test_no_value_counts_as_endless() -> None:
    assert percentiles("x", []) == {"x p50 ms": NEVER_MS, "x p99 ms": NEVER_MS, "x worst ms": NEVER_MS}
    assert percentiles("", [1.0, 3.0])["p50 ms"] == 2.0
