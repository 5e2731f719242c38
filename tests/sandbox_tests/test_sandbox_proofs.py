"""The sandbox's proofs in their short form, for real, and what the long ones found."""

import contextlib
import http.client
import json
import random
import socket
from pathlib import Path

import numpy as np
import pytest
import websocket

from infra.upbit.signing import sign
from producers.sandbox import kernels
from producers.sandbox.synthetic import Plan
from producers.sandbox.thread import SandboxThread
from producers.verify import fuzz, market_statistics, planted
from producers.verify.bench_sandbox import bench_sandbox, is_carried
from producers.verify.fuzz import is_harmless, left_behind, verify_fuzz
from producers.verify.fuzz_frames import changed_bytes, changed_json, frame
from producers.verify.subscriber import Counter
from producers.verify.synthetic import stream_hash, verify_synthetic

from .conftest import connect, receive
from .test_sandbox_orders import call


def shown(result, name):
    assert result["name"] == name
    assert set(result) == {"name", "passed", "figures", "conditions"}
    assert all(isinstance(value, int | float) for value in result["figures"].values())
    json.dumps(result, allow_nan=False)
    return result["figures"]


@pytest.mark.slow
def test_the_exchange_carries_its_subscribers():
    result = bench_sandbox(quick=True)
    figures = shown(result, "sandbox")
    assert result["passed"], figures
    assert figures["real rate, 2 subscribers: books per second"] > 1.9 * 20 * 5
    assert figures["real rate, 2 subscribers: orders per second"] > 5


def test_trades_do_not_make_up_for_books_that_are_missing():
    found = {"share of a core": 0.1, "orders refused": 0, "messages per second": 1_400, "books per second": 1_250}
    assert is_carried(found, due=1_187.5)
    assert not is_carried(found | {"books per second": 1_150}, due=1_187.5)


@pytest.mark.slow
def test_the_made_market_is_as_planted(data_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OBSERVATOR_DATA", str(data_folder))
    result = verify_synthetic(quick=True)
    figures = shown(result, "synthetic")
    assert result["passed"], figures
    assert figures["intervals"] == 24
    for column in ("synthetic", "recorded Upbit", "recorded Binance"):
        assert figures[f"spread, median bp, {column}"] > 0
        assert figures[f"markets, {column}"] > 0


@pytest.mark.slow
def test_nonsense_does_no_harm():
    result = verify_fuzz(quick=True)
    figures = shown(result, "fuzz")
    assert result["passed"], result
    assert figures["requests: routes reached"] == figures["requests: routes"] > 20
    assert figures["orders accepted"] == 200
    assert figures["requests: orders accepted"] > 0
    assert figures["frames: sent"] == 1_500
    assert figures["frames: went on"] > 100


GOOD = {
    "internal errors: statuses of 500 and more": 0,
    "connections left behind": 0,
    "requests: routes": 65,
    "requests: routes that carried one out": 61,
    "requests: orders accepted": 112,
    "requests: longest wait of the healthy client, s": 0.3,
    "frames: longest wait of the healthy client, s": 0.3,
    "requests: MB per 10,000, upper": 0.1,
    "frames: MB per 10,000, upper": 0.1,
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("internal errors: statuses of 500 and more", 1),
        ("connections left behind", 1),
        ("requests: routes that carried one out", 20),
        ("requests: orders accepted", 0),
        ("frames: longest wait of the healthy client, s", 11.0),
        ("frames: MB per 10,000, upper", 1.1),
    ],
)
def test_harm_and_requests_that_are_all_refused_are_no_pass(name: str, value: float):
    assert is_harmless(GOOD, quick=False)
    assert not is_harmless(GOOD | {name: value}, quick=False)


def test_a_private_line_left_behind_is_seen(sandbox: SandboxThread, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fuzz, "LONGEST_WAIT_S", 0.2)
    before = left_behind(sandbox)
    token = sign(sandbox.access_key, sandbox.secret_key)
    client = connect(sandbox.ws_url + "/private", {"type": "myOrder"}, header=[f"Authorization: {token}"])
    client.send('[{"ticket":"t"},{"method":"LIST_SUBSCRIPTIONS"}]')
    receive(client)
    assert left_behind(sandbox) == before + 1
    client.shutdown()


def test_equal_seeds_give_equal_hashes():
    assert stream_hash(3, 5, 3) == stream_hash(3, 5, 3) != stream_hash(4, 5, 3)


def test_a_strong_drift_is_carried_in_full():
    """The choice between up and down alone cannot carry it; a tenth of the planted edge was lost."""
    slopes = planted.measure((3.0, 0.0), (10,), 4, 600, 0.001, lambda: None)
    slope = slopes[10, "hidden signal"]
    assert slope.is_as_planted
    assert slope.planted == pytest.approx(3 * planted.gain(Plan(linear_edge=1.0), 10)[0], rel=0.05)
    assert slope.upper - slope.lower < 0.2 * slope.planted


def test_another_edge_than_the_planted_one_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernels, "DRIFT_BP", 2 * kernels.DRIFT_BP)  # for the expectation: the market is compiled
    slopes = planted.measure((1.0, 0.0), (10,), 2, 600, 0.001, lambda: None)
    assert not slopes[10, "hidden signal"].is_as_planted


def test_statistics_of_books_that_are_known():
    steps = np.arange(200)
    mid = 1_000.0 + steps % 2
    bids = mid[:, None] - 0.5 - np.arange(15)
    asks = mid[:, None] + 0.5 + np.arange(15)
    sizes = np.tile(np.arange(1.0, 16.0), (200, 1))
    found = market_statistics.statistics(
        market_statistics.Books(steps * 1_000.0, bids, sizes, asks, sizes, steps[:100] * 500.0)
    )
    assert found["spread, median bp"] == pytest.approx(10.0, rel=0.01)
    assert found["depth, size of level 1 over the mean of 15"] == pytest.approx(1 / 8)
    assert found["inter-arrival of trades, mean s"] == 0.5
    assert found["returns of 1 s, autocorrelation at 1 s"] == pytest.approx(-1.0, abs=0.02)


def test_frames_are_counted_wherever_they_are_cut():
    data = b"".join(b"\x82" + bytes((n,)) + bytes(n) for n in (0, 3, 125)) + b"\x82\x7e\x01\x00" + bytes(256)
    data += b"\x82\x7f" + (70_000).to_bytes(8, "big") + bytes(70_000)
    for text in (b'{"type":"orderbook","code":1}', b'{"type":"trade","code":"KRW-BTC"}', b'{"type":"orderbook"'):
        data += b"\x82" + bytes((len(text),)) + text
    draw = random.Random(1)
    for _ in range(200):
        counter, at = Counter(), 0
        while at < len(data):
            size = draw.choice((1, 2, 3, 5, 400, 30_000))
            counter.take(data[at : at + size])
            at += size
        assert (counter.messages, counter.books, counter.bytes) == (8, 2, len(data))


def test_mutations_repeat_and_change():
    request = [{"ticket": "t"}, {"type": "trade", "codes": ["KRW-BTC"]}]
    good = json.dumps(request).encode()
    for change, given in ((changed_bytes, good), (changed_json, request)):
        drawn = [change(given, random.Random(n)) for n in range(50)]
        assert drawn == [change(given, random.Random(n)) for n in range(50)]
        assert sum(one != good for one in drawn) > 40
    assert frame(b"abc") == b"\x82\x83\x00\x00\x00\x00abc"


@pytest.mark.parametrize("deep", ["[" * 60_000, '[{"ticket":' * 9_000], ids=["lists", "objects"])
def test_a_deeply_nested_frame_is_refused(sandbox: SandboxThread, deep: str):
    client = websocket.create_connection(sandbox.ws_url, timeout=10)
    client.send(deep)
    assert receive(client)[1]["error"]["name"] == "WRONG_FORMAT"
    client.shutdown()


def test_a_deeply_nested_body_is_refused(sandbox: SandboxThread):
    token = (sandbox.configuration.secrets_path / "sandbox-control").read_text()
    for path in ("/sandbox/faults", "/v1/orders"):
        status, answer, _ = call(sandbox, "POST", path, raw=b"[" * 100_000, token=f"Bearer {token}")
        assert status in {400, 401}
        assert "error" in answer


@pytest.mark.parametrize("line", ["GET /v1/candles/days", "POST /sandbox/faults"])
@pytest.mark.parametrize("is_left", [True, False], ids=["left in its middle", "spoilt"])
def test_a_broken_body_is_no_error_of_ours(
    sandbox: SandboxThread, caplog: pytest.LogCaptureFixture, line: str, *, is_left: bool
):
    head = (
        f"{line} HTTP/1.1\r\nHost: sandbox\r\nAuthorization: Bearer {sandbox.secret('sandbox-control')}\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\nConnection: close\r\nContent-Length: 8\r\n"
    )
    with socket.create_connection(("127.0.0.1", sandbox.port), timeout=10) as client:
        client.sendall(head.encode() + (b"\r\nhalf" if is_left else b"Content-Encoding: gzip\r\n\r\nnonsense"))
        if is_left:
            client.shutdown(socket.SHUT_WR)
        answer = client.recv(1_000)
        assert is_left or b" 400 " in answer
    sandbox.status()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_clients_broken_request_is_no_error_of_ours(sandbox: SandboxThread, caplog: pytest.LogCaptureFixture):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=10)) as client:
        client.request("GET", "/v1/market/all?x=" + "1" * 20_000)
        assert client.getresponse().status == 400
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
