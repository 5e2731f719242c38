"""The public websocket: requests, formats, flags, errors, keep-alive, recordings played verbatim; quotation REST."""

import asyncio
import gzip
import json
import os
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import websocket

from infra.errors import BadSettings
from infra.settings import Settings
from producers.sandbox import hub, sockets
from producers.sandbox.configuration import from_settings
from producers.sandbox.recording import RawFrames, Recording, read_lines
from producers.sandbox.thread import SandboxThread

from .conftest import SMALL, book_line, connect, receive, trade_line

DATA = Path(os.environ.get("OBSERVATOR_DATA", "../shared/data"))


def test_snapshot_then_stream_in_binary_frames(sandbox: SandboxThread) -> None:
    client = connect(sandbox.ws_url, {"type": "orderbook", "codes": ["KRW-BTC", "KRW-NONE"]})
    opcode, first = receive(client)
    assert opcode == websocket.ABNF.OPCODE_BINARY
    assert list(first) == [
        "type", "code", "timestamp", "total_ask_size", "total_bid_size", "orderbook_units", "stream_type", "level"
    ]  # fmt: skip
    assert first["stream_type"] == "SNAPSHOT"
    assert len(first["orderbook_units"]) == 30
    _, second = receive(client)
    assert second["stream_type"] == "REALTIME"
    assert second["timestamp"] > first["timestamp"] - 1
    client.shutdown()


@pytest.mark.parametrize(
    ("flags", "kinds"),
    [
        ({"is_only_snapshot": True}, {"SNAPSHOT"}),
        ({"isOnlySnapshot": True}, {"SNAPSHOT"}),
        ({"is_only_realtime": True}, {"REALTIME"}),
        ({"isOnlyRealtime": True}, {"REALTIME"}),
    ],
)
def test_flags_in_both_spellings(sandbox: SandboxThread, flags: dict[str, bool], kinds: set[str]) -> None:
    client = connect(sandbox.ws_url, {"type": "orderbook", "codes": ["KRW-BTC", "KRW-ETH"]} | flags)
    client.settimeout(0.5)
    seen = []
    try:
        while len(seen) < 4:
            seen.append(receive(client)[1]["stream_type"])
    except websocket.WebSocketTimeoutException:
        pass
    assert set(seen) == kinds
    assert len(seen) == (2 if kinds == {"SNAPSHOT"} else 4)
    client.shutdown()


@pytest.mark.parametrize(("suffix", "levels"), [(".1", 1), (".5", 5), (".15", 15), (".30", 30), (".7", 30), ("", 30)])
def test_the_number_of_levels(sandbox: SandboxThread, suffix: str, levels: int) -> None:
    client = connect(sandbox.ws_url, {"type": "orderbook", "codes": ["KRW-BTC" + suffix]}, {"format": "SIMPLE"})
    _, body = receive(client)
    assert (body["cd"], len(body["obu"])) == ("KRW-BTC", levels)
    assert body["tas"] == pytest.approx(sum(unit["as"] for unit in body["obu"]))
    client.shutdown()


@pytest.mark.parametrize("name", ["JSON_LIST", "SIMPLE_LIST"])
def test_list_formats_and_listing(sandbox: SandboxThread, name: str) -> None:
    client = connect(sandbox.ws_url, {"type": "trade", "codes": ["KRW-BTC"]}, {"format": name})
    body = receive(client)[1]
    assert isinstance(body, list)
    client.send(json.dumps([{"ticket": "x"}, {"method": "LIST_SUBSCRIPTIONS"}, {"format": name}]))
    while isinstance(body, list):
        body = receive(client)[1]
    keys = {"mthd", "rslt", "tckt"} if name == "SIMPLE_LIST" else {"method", "result", "ticket"}
    assert set(body) == keys
    client.shutdown()


def test_trades_have_ids_of_their_time_and_best_quotes(sandbox: SandboxThread) -> None:
    client = connect(
        sandbox.ws_url, {"type": "trade", "codes": ["KRW-BTC", "KRW-ETH", "KRW-XRP"], "is_only_realtime": True}
    )
    seen = [receive(client)[1] for _ in range(10)]
    assert all(abs(t["sequential_id"] // 10_000 - t["trade_timestamp"]) <= 1 for t in seen)
    assert len({t["sequential_id"] for t in seen if t["code"] == "KRW-BTC"}) == sum(
        t["code"] == "KRW-BTC" for t in seen
    )
    assert all(t["best_ask_price"] > t["best_bid_price"] for t in seen)
    assert all(-5 <= t["timestamp"] - t["trade_timestamp"] <= 50 for t in seen)
    client.shutdown()


def test_a_new_request_replaces_the_old_one(sandbox: SandboxThread) -> None:
    client = connect(sandbox.ws_url, {"type": "orderbook", "codes": ["KRW-BTC"]})
    receive(client)
    client.send(json.dumps([{"ticket": "x"}, {"type": "orderbook", "codes": ["KRW-ETH"], "is_only_realtime": True}]))
    codes = [receive(client)[1]["code"] for _ in range(30)]
    assert codes[-10:] == ["KRW-ETH"] * 10
    client.shutdown()


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ("nonsense", "WRONG_FORMAT"),
        ("{}", "WRONG_FORMAT"),
        ("[1]", "WRONG_FORMAT"),
        ("[]", "WRONG_FORMAT"),
        (b"\xff\xfe", "WRONG_FORMAT"),
        ('[{"type":"trade","codes":["KRW-BTC"]}]', "NO_TICKET"),
        ('[{"ticket":"t"}]', "NO_TYPE"),
        ('[{"ticket":"t"},{"codes":["KRW-BTC"]}]', "NO_TYPE"),
        ('[{"ticket":"t"},{"type":"nope","codes":["KRW-BTC"]}]', "INVALID_PARAM"),
        ('[{"ticket":"t"},{"type":"trade"}]', "NO_CODES"),
        ('[{"ticket":"t"},{"type":"trade","codes":"KRW-BTC"}]', "WRONG_FORMAT"),
        ('[{"ticket":"t"},{"type":"trade","codes":["KRW-BTC"],"is_only_snapshot":1}]', "WRONG_FORMAT"),
        ('[{"ticket":"t"},{"type":"trade","codes":["KRW-BTC"]},{"format":"XML"}]', "INVALID_PARAM"),
        ('[{"ticket":"t"},{"method":"STOP"}]', "INVALID_PARAM"),
    ],
)
def test_a_bad_request_is_answered_and_closed(sandbox: SandboxThread, sent: str | bytes, name: str) -> None:
    client = websocket.create_connection(sandbox.ws_url, timeout=5)
    client.send(sent, opcode=2 if isinstance(sent, bytes) else 1)
    _, body = receive(client)
    assert body["error"]["name"] == name
    opcode, data = client.recv_data()
    assert (opcode, int.from_bytes(data[:2], "big")) == (websocket.ABNF.OPCODE_CLOSE, 1000)
    client.shutdown()


def test_ping_is_answered_and_silence_closes(sandbox: SandboxThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "UP_SECONDS", 0.5)
    client = websocket.create_connection(sandbox.ws_url, timeout=5)
    client.send("PING")
    assert receive(client)[1] == {"status": "UP"}
    client.ping()
    assert client.recv_data(control_frame=True)[0] == websocket.ABNF.OPCODE_PONG
    monkeypatch.setattr(sockets, "UP_SECONDS", 100.0)
    monkeypatch.setattr(sockets, "IDLE_SECONDS", 0.5)
    with pytest.raises((websocket.WebSocketConnectionClosedException, ConnectionError)):  # as captured: no close frame
        _read_until_closed(client)
    client.shutdown()


def _read_until_closed(client: websocket.WebSocket) -> None:
    while client.recv_data()[0] != websocket.ABNF.OPCODE_CLOSE:
        pass


async def _compressed(url: str) -> tuple[bool, int]:
    async with aiohttp.ClientSession() as session, session.ws_connect(url, compress=15) as client:
        await client.send_str('[{"ticket":"t"},{"type":"orderbook","codes":["KRW-BTC"]}]')
        sizes = [len(json.loads((await client.receive()).data)["orderbook_units"]) for _ in range(5)]
        return bool(client.compress), sum(sizes)


def test_compression_is_negotiated(sandbox: SandboxThread) -> None:
    assert asyncio.run(_compressed(sandbox.ws_url)) == (True, 150)


def test_a_client_that_does_not_read_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "STUCK_SECONDS", 0.3)
    monkeypatch.setattr(hub, "BUSY_BYTES", 1000)
    with SandboxThread(tmp_path, plan=SMALL, warmup_seconds=600) as running:
        codes = ["KRW-BTC", "KRW-ETH", "KRW-XRP"]
        client = connect(running.ws_url, {"type": "orderbook", "codes": codes}, sockopt=((1, 8, 4096),))
        deadline = time.monotonic() + 20
        while running.status()["cut_off"] == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert running.status()["cut_off"] == 1
        client.shutdown()


# --- recordings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("day", "books", "trades"), [("20210405", 1061, 672), ("20210417", 145, 304)])
def test_a_recording_is_played_verbatim(tmp_path: Path, day: str, books: int, trades: int) -> None:
    path = DATA / "upbit_ws" / f"upbit_ws_raw_{day}.log.gz"
    if not path.exists():
        pytest.skip(f"no recording at {path}")
    expected = Counter(line.payload for line in read_lines(path, Counter()))
    with SandboxThread(tmp_path, kind="recording", recording=path, speed=1e6) as running:
        with urllib.request.urlopen(running.url + "/v1/market/all", timeout=5) as answer:
            codes = [row["market"] for row in json.loads(answer.read())]
        client = connect(running.ws_url, {"type": "orderbook", "codes": codes}, {"type": "trade", "codes": codes})
        received = Counter(client.recv_data()[1] for _ in range(books + trades))
        assert received == expected
        status = running.status()
        assert status["is_ended"]
        assert (status["sent"]["orderbook"], status["sent"]["trade"]) == (books, trades)
        client.shutdown()


def test_own_spacing_and_odd_lines(tmp_path: Path) -> None:
    path = tmp_path / "odd.log.gz"
    lines = [
        "configuration: {}\n",
        "wss://x <-> 1.0\n",
        book_line(100.0, "KRW-BTC", [(10.0, 1.0)], [(9.9, 1.0)]),
        '100.1: b\'{"ty":"trade","cd":"KRW-B\'\n',
        "100.2: b'\\xff\\xfe'\n",
        "100.2: b'bad \\escape\n",
        '100.2: b\'{"status":"UP"}\'\n',
        '100.3: b\'[{"ty":"trade","cd":"KRW-BTC","tms":1,"tp":10.0,"tv":1.0,"ab":"BID","sid":7}]\'\n',
        trade_line(101.0, "KRW-ETH", 5.0, 1.0, "BID"),
    ]
    path.write_bytes(gzip.compress("".join(lines).encode()))
    with SandboxThread(tmp_path, kind="recording", recording=path, speed=2.0) as running:
        started = time.monotonic()
        client = connect(
            running.ws_url, *({"type": kind, "codes": ["KRW-BTC", "KRW-ETH"]} for kind in ("orderbook", "trade"))
        )
        frames = [client.recv_data()[1] for _ in range(5)]
        assert 0.45 < time.monotonic() - started < 3
        assert frames[1] == b'{"ty":"trade","cd":"KRW-B'
        assert frames[2] == b"\xff\xfe"
        assert running.status()["recording"]["skipped"] == {"no frame": 3, "no market data": 1}
        with urllib.request.urlopen(running.url + "/v1/trades/ticks?market=KRW-BTC", timeout=5) as answer:
            assert json.loads(answer.read())[0]["sequential_id"] == 7
        client.shutdown()


def test_a_recording_that_cannot_be_played_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="cannot be read"):
        Recording(RawFrames(tmp_path / "missing"))
    (tmp_path / "empty").write_text("hello\n")
    with pytest.raises(BadSettings, match="holds no frame"):
        Recording(RawFrames(tmp_path / "empty"))


# --- quotation --------------------------------------------------------------------------------------------------


def get(sandbox: SandboxThread, path: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(sandbox.url + path, timeout=5) as answer:
            assert answer.headers["Remaining-Req"].startswith("group=")
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_markets_and_instruments(sandbox: SandboxThread) -> None:
    rows = get(sandbox, "/v1/market/all")[1]
    assert [row["market"] for row in rows] == ["KRW-BTC", "KRW-ETH", "KRW-XRP"]
    assert list(rows[0]) == ["market", "korean_name", "english_name"]
    detailed = get(sandbox, "/v1/market/all?is_details=true")[1]
    assert detailed[0]["market_event"]["warning"] is False
    (row,) = get(sandbox, "/v1/orderbook/instruments?markets=KRW-BTC")[1]
    assert row == {
        "market": "KRW-BTC", "quote_currency": "KRW", "tick_size": "1000",
        "supported_levels": ["0", "10000", "100000", "1000000", "10000000", "100000000"],
    }  # fmt: skip


def test_ticks_page_back(sandbox: SandboxThread) -> None:
    time.sleep(0.5)
    market = "/v1/trades/ticks?market=KRW-XRP"
    rows = get(sandbox, market + "&count=500")[1]
    assert list(rows[0]) == [
        "market", "trade_date_utc", "trade_time_utc", "timestamp", "trade_price", "trade_volume",
        "prev_closing_price", "change_price", "ask_bid", "sequential_id",
    ]  # fmt: skip
    ids = [row["sequential_id"] for row in rows]
    assert ids == sorted(ids, reverse=True)
    older = get(sandbox, f"{market}&count=2&cursor={ids[1]}")[1]
    assert [row["sequential_id"] for row in older] == ids[2:4]
    moment = rows[0]["trade_time_utc"]
    assert all(row["trade_time_utc"] < moment for row in get(sandbox, f"{market}&count=5&to={moment}")[1])
    assert get(sandbox, f"{market}&to={moment.replace(':', '')}")[0] == 200
    (old,) = get(sandbox, f"{market}&days_ago=3")[1]
    assert old["trade_date_utc"] < rows[0]["trade_date_utc"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/trades/ticks", 400),
        ("/v1/trades/ticks?market=KRW-NO", 404),
        ("/v1/trades/ticks?market=KRW-BTC&count=501", 400),
        ("/v1/trades/ticks?market=KRW-BTC&count=x", 400),
        ("/v1/trades/ticks?market=KRW-BTC&days_ago=8", 400),
        ("/v1/trades/ticks?market=KRW-BTC&to=25:00:00", 400),
        ("/v1/orderbook/instruments", 400),
        ("/v1/orderbook/instruments?markets=KRW-NO", 404),
        ("/v1/market/all?is_details=maybe", 400),
    ],
)
def test_bad_quotation_requests(sandbox: SandboxThread, path: str, status: int) -> None:
    found, body = get(sandbox, path)
    assert (found, body["error"]["name"]) == (status, status)


def test_settings_become_a_configuration(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, feed={"market_count": 4, "seed": 9})
    assert from_settings(settings, 5).plan.market_count == 4
    with pytest.raises(BadSettings, match="KRW-NO"):
        from_settings(Settings(home=tmp_path, feed={"markets": ["KRW-NO"]}), 5)
