"""The REST quotation's semantics over real sockets: candles beside the raw trades, paging, filters, refusals."""

import gzip
import itertools
import json
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from producers.sandbox.thread import SandboxThread

from .conftest import book_line, connect, receive, trade_line

BTC = "/v1/candles/minutes/1?market=KRW-BTC"
PATHS = {
    "1s": "/v1/candles/seconds", **{f"{n}m": f"/v1/candles/minutes/{n}" for n in (1, 3, 5, 10, 15, 30, 60, 240)},
    "1d": "/v1/candles/days", "1w": "/v1/candles/weeks", "1M": "/v1/candles/months", "1y": "/v1/candles/years",
}  # fmt: skip


def ask(sandbox: SandboxThread, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any, Any]:
    """Status, body and headers; numbers with all digits."""
    request = urllib.request.Request(sandbox.url + path, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            body, status, found = answer.read(), answer.status, answer.headers
    except urllib.error.HTTPError as error:
        body, status, found = error.read(), error.code, error.headers
    if found["Content-Encoding"] == "gzip":
        body = gzip.decompress(body)
    return status, json.loads(body, parse_float=Decimal) if body else None, found


def get(sandbox: SandboxThread, path: str, **query: object) -> Any:
    status, body, _ = ask(sandbox, path + ("?" if query else "") + urllib.parse.urlencode(query))
    assert status == 200, body
    return body


def ms_of(row: dict[str, Any]) -> int:
    return int(datetime.fromisoformat(row["candle_date_time_utc"]).replace(tzinfo=UTC).timestamp()) * 1000


# --- candles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", PATHS)
def test_candles_page_back_without_a_seam(sandbox: SandboxThread, unit: str) -> None:
    path = PATHS[unit]
    rows = get(sandbox, path, market="KRW-ETH", count=200)
    starts = [ms_of(row) for row in rows]
    assert starts == sorted(set(starts), reverse=True)
    assert len(rows) >= {"1w": 52, "1M": 13, "1y": 2}.get(unit, 200)
    middle = rows[len(rows) // 2]
    older = get(sandbox, path, market="KRW-ETH", count=200, to=middle["candle_date_time_utc"])
    again = rows[len(rows) // 2 + 1 :]
    assert older[: len(again)] == again
    assert ("unit" in rows[0], "first_day_of_period" in rows[0]) == (unit[-1] == "m", unit in {"1w", "1M", "1y"})


def now(sandbox: SandboxThread) -> datetime:
    return datetime.fromtimestamp(sandbox.status()["clock_ms"] / 1000, UTC)


def test_candles_are_those_of_the_trades_call(sandbox: SandboxThread) -> None:
    trades = get(sandbox, "/v1/trades/ticks", market="KRW-BTC", count=500)
    minutes: dict[str, list[dict[str, Any]]] = {}
    for trade in reversed(trades):
        key = f"{trade['trade_date_utc']}T{trade['trade_time_utc'][:5]}:00"
        minutes.setdefault(key, []).append(trade)
    whole = list(minutes)[1:-1]
    rows = {row["candle_date_time_utc"]: row for row in get(sandbox, BTC + "&count=200")}
    assert len(whole) > 20
    for key in whole:
        row, group = rows[key], minutes[key]
        prices = [trade["trade_price"] for trade in group]
        assert [row[f"{name}_price"] for name in ("opening", "high", "low", "trade")] == [
            prices[0], max(prices), min(prices), prices[-1],
        ]  # fmt: skip
        assert row["candle_acc_trade_volume"] == sum(trade["trade_volume"] for trade in group)
        assert row["candle_acc_trade_price"] == sum(t["trade_volume"] * t["trade_price"] for t in group)


def test_to_in_every_spelling(sandbox: SandboxThread) -> None:
    moment = (now(sandbox) - timedelta(hours=20)).replace(minute=30, second=0, microsecond=0)
    korean = moment.astimezone(UTC) + timedelta(hours=9)
    spellings = [
        f"{moment:%Y-%m-%dT%H:%M:%S}Z", f"{moment:%Y-%m-%dT%H:%M:%S}", f"{moment:%Y-%m-%d %H:%M:%S}",
        f"{korean:%Y-%m-%dT%H:%M:%S}+09:00", f"{korean:%Y-%m-%d %H:%M:%S}+0900", f"{moment:%Y-%m-%dT%H:%M:%S}.000Z",
    ]  # fmt: skip
    answers = [get(sandbox, "/v1/candles/minutes/3", market="KRW-BTC", count=3, to=text) for text in spellings]
    assert all(answer == answers[0] for answer in answers)
    assert answers[0][0]["candle_date_time_utc"] < f"{moment:%Y-%m-%dT%H:%M:%S}"
    (day,) = get(sandbox, "/v1/candles/days", market="KRW-BTC", to=f"{moment:%Y-%m-%d}")
    assert day["candle_date_time_utc"] < f"{moment:%Y-%m-%d}"
    unencoded = f"{BTC}&to={korean:%Y-%m-%dT%H:%M:%S}+09:00"
    assert ask(sandbox, unencoded)[0] == 400, "a plus that was not encoded is a space"


def test_days_follow_each_other(sandbox: SandboxThread) -> None:
    rows = get(sandbox, "/v1/candles/days", market="KRW-XRP", count=30, converting_price_unit="KRW")
    for newer, older in itertools.pairwise(rows):
        assert newer["prev_closing_price"] == older["trade_price"]
        assert newer["change_price"] == newer["trade_price"] - older["trade_price"]
        assert newer["converted_trade_price"] == newer["trade_price"]
        assert abs(newer["change_rate"] - newer["change_price"] / newer["prev_closing_price"]) < Decimal("1e-10")
    assert "converted_trade_price" not in get(sandbox, "/v1/candles/days", market="KRW-XRP")[0]


def test_weeks_begin_on_monday_and_seconds_are_kept_for_three_months(sandbox: SandboxThread) -> None:
    for row in get(sandbox, "/v1/candles/weeks", market="KRW-BTC", count=5):
        assert datetime.fromisoformat(row["candle_date_time_utc"]).weekday() == 0
        assert row["first_day_of_period"] == row["candle_date_time_utc"][:10]
    old = f"{now(sandbox) - timedelta(days=100):%Y-%m-%dT%H:%M:%S}"
    assert get(sandbox, "/v1/candles/seconds", market="KRW-BTC", to=old) == []
    assert get(sandbox, "/v1/candles/minutes/1", market="KRW-BTC", to=old) != []
    assert get(sandbox, "/v1/candles/years", market="KRW-BTC", to="1960-01-01T00:00:00Z") == []
    assert get(sandbox, "/v1/candles/years", market="KRW-BTC", to="9999-12-31T23:59:59Z") != []


def test_candles_of_a_recording_come_from_its_trades_alone(recorded: Callable[..., SandboxThread]) -> None:
    running = recorded(
        book_line(100.0, "KRW-BTC", [(101.0, 1.0)], [(99.0, 1.0)]),
        trade_line(100.5, "KRW-BTC", 100.0, 2.0, "BID"),
        trade_line(101.5, "KRW-BTC", 103.0, 1.0, "ASK"),
        trade_line(290.0, "KRW-BTC", 90.0, 1.0, "ASK"),
    )
    rows = get(running, "/v1/candles/minutes/1", market="KRW-BTC", count=10)
    assert [row["candle_date_time_utc"][-8:] for row in rows] == ["00:04:00", "00:01:00"], "none for an empty minute"
    names = ("opening_price", "high_price", "low_price", "trade_price", "candle_acc_trade_price", "timestamp")
    assert [rows[1][name] for name in names] == [100, 103, 100, 103, 303, 101500]
    (ticker,) = get(running, "/v1/ticker", markets="KRW-BTC")
    assert (ticker["trade_price"], ticker["acc_trade_volume"], ticker["change"]) == (90, 4, "FALL")
    assert get(running, "/v1/ticker/all", quote_currencies="BTC,USDT") == []


# --- trades -----------------------------------------------------------------------------------------------------------


def test_the_cursor_pages_through_a_day(sandbox: SandboxThread) -> None:
    path = "/v1/trades/ticks"
    yesterday = f"{now(sandbox) - timedelta(days=1):%Y-%m-%d}"
    pages: list[dict[str, Any]] = []
    cursor: dict[str, Any] = {}
    while page := get(sandbox, path, market="KRW-XRP", count=400, days_ago=1, **cursor):
        pages += page
        cursor = {"cursor": page[-1]["sequential_id"]}
    assert len(pages) > 800
    ids = [row["sequential_id"] for row in pages]
    assert ids == sorted(set(ids), reverse=True)
    assert {row["trade_date_utc"] for row in pages} == {yesterday}
    noon = get(sandbox, path, market="KRW-XRP", count=1, days_ago=1, to="12:00:00")
    assert noon == get(sandbox, path, market="KRW-XRP", count=1, days_ago=1, to="120000")
    assert noon == [next(row for row in pages if row["trade_time_utc"] < "12:00:00")]
    (day,) = get(sandbox, "/v1/candles/days", market="KRW-XRP", to=f"{yesterday}T00:00:01Z")
    assert day["candle_acc_trade_volume"] == sum(row["trade_volume"] for row in pages)
    before = get(sandbox, "/v1/candles/days", market="KRW-XRP", to=f"{yesterday}T00:00:00Z")[0]["trade_price"]
    assert {row["prev_closing_price"] for row in pages} == {before}


# --- tickers and books --------------------------------------------------------------------------------------------


def test_tickers_agree_with_the_days(sandbox: SandboxThread) -> None:
    rows = get(sandbox, "/v1/ticker/all", quote_currencies="KRW,BTC")
    assert [row["market"] for row in rows] == ["KRW-BTC", "KRW-ETH", "KRW-XRP"]
    (row,) = get(sandbox, "/v1/ticker", markets="KRW-ETH")
    days = get(sandbox, "/v1/candles/days", market="KRW-ETH", count=2)
    assert (row["opening_price"], row["prev_closing_price"]) == (days[0]["opening_price"], days[1]["trade_price"])
    assert row["signed_change_price"] == row["trade_price"] - row["prev_closing_price"]
    assert row["change_price"] == abs(row["signed_change_price"])
    assert row["lowest_52_week_price"] <= row["low_price"] <= row["trade_price"] <= row["highest_52_week_price"]
    assert row["acc_trade_price_24h"] > 0
    two = get(sandbox, "/v1/ticker", markets="KRW-XRP,KRW-BTC")
    assert [row["market"] for row in two] == ["KRW-XRP", "KRW-BTC"]


def test_books_by_count_and_level(sandbox: SandboxThread) -> None:
    (book,) = get(sandbox, "/v1/orderbook", markets="KRW-BTC", count=5)
    units = book["orderbook_units"]
    assert (len(units), book["level"]) == (5, 0)
    assert book["total_ask_size"] == sum(unit["ask_size"] for unit in units)
    assert [unit["ask_price"] for unit in units] == sorted(unit["ask_price"] for unit in units)
    (grouped,) = get(sandbox, "/v1/orderbook", markets="KRW-BTC", level="100000")
    assert grouped["level"] == 100_000
    assert all(unit[f"{side}_price"] % 100_000 == 0 for unit in grouped["orderbook_units"] for side in ("ask", "bid"))
    assert get(sandbox, "/v1/orderbook", markets="KRW-BTC,KRW-ETH", level="77") == []
    assert len(get(sandbox, "/v1/orderbook", markets="KRW-BTC,KRW-ETH")) == 2
    levels = get(sandbox, "/v1/orderbook/supported_levels", markets="KRW-BTC")[0]["supported_levels"]
    (instrument,) = get(sandbox, "/v1/orderbook/instruments", markets="KRW-BTC")
    assert [str(level) for level in levels] == instrument["supported_levels"]


def test_the_stream_tells_the_same_as_rest(sandbox: SandboxThread) -> None:
    client = connect(
        sandbox.ws_url,
        *(
            {"type": kind, "codes": ["KRW-ETH"], "is_only_snapshot": True}
            for kind in ("trade", "ticker", "candle.240m")
        ),
    )
    told = {}
    while len(told) < 3:
        _, body = receive(client)
        told[body["type"]] = body
    client.shutdown()
    (ticker,) = get(sandbox, "/v1/ticker", markets="KRW-ETH")
    (candle,) = get(sandbox, "/v1/candles/minutes/240", market="KRW-ETH")
    assert told["trade"]["prev_closing_price"] == told["ticker"]["prev_closing_price"] == ticker["prev_closing_price"]
    for name in ("opening_price", "highest_52_week_date", "lowest_52_week_price", "trade_date"):
        assert told["ticker"][name] == ticker[name]
    for name in ("candle_date_time_utc", "candle_date_time_kst", "opening_price"):
        assert told["candle.240m"][name] == candle[name]


# --- notices ------------------------------------------------------------------------------------------------------


def test_notices_show_in_the_list_of_markets(sandbox: SandboxThread) -> None:
    notice = {
        "market": "KRW-XRP", "caution": ["PRICE_FLUCTUATIONS"], "warning": True, "delisting_date": "2026-12-31",
    }  # fmt: skip
    sandbox.control("POST", "/sandbox/notices", notice)
    rows = {row["market"]: row["market_event"] for row in get(sandbox, "/v1/market/all", is_details="true")}
    assert rows["KRW-XRP"]["warning"] is True
    assert [name for name, flag in rows["KRW-XRP"]["caution"].items() if flag] == ["PRICE_FLUCTUATIONS"]
    assert not any(rows["KRW-BTC"]["caution"].values())
    ticker = sandbox.sandbox.tickers.row("KRW-XRP")
    assert ticker is not None
    assert (ticker["market_warning"], ticker["delisting_date"]) == ("CAUTION", "2026-12-31")
    sandbox.control("POST", "/sandbox/notices", {"market": "KRW-XRP"})
    assert sandbox.sandbox.notices.of("KRW-XRP").event()["warning"] is False


@pytest.mark.parametrize(
    "body",
    [
        {}, {"market": "KRW-NO"}, {"market": 5}, {"market": "KRW-BTC", "caution": ["SOMETHING"]},
        {"market": "KRW-BTC", "caution": "PRICE_FLUCTUATIONS"}, {"market": "KRW-BTC", "delisting_date": "soon"},
        {"market": "KRW-BTC", "delisting_date": 7}, {"market": "KRW-BTC", "state": "GONE"},
        {"market": "KRW-BTC", "extra": 1},
    ],
)  # fmt: skip
def test_nonsense_notices_are_refused(sandbox: SandboxThread, body: dict[str, Any]) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        sandbox.control("POST", "/sandbox/notices", body)
    assert caught.value.code == 400
    caught.value.close()


# --- the wire -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([b"market=KRW-BTC&count=1"], b"200"),
        ([b"market=KRW-", b"BTC&count=1"], b"200"),
        ([b"x=" + b"1" * 30_000, b"1" * 30_000, b"&market=KRW-BTC"], b"200"),
        ([b"x=" + b"1" * 40_000, b"1" * 40_000, b"&market=KRW-BTC"], b"400"),
    ],
)
def test_a_form_is_read_whole(sandbox: SandboxThread, parts: list[bytes], status: bytes) -> None:
    head = (
        b"GET /v1/candles/days HTTP/1.1\r\nHost: sandbox\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: %d\r\n\r\n" % len(b"".join(parts))
    )
    with socket.create_connection(("127.0.0.1", sandbox.port), timeout=10) as client:
        for part in (head, *parts):
            client.sendall(part)
            time.sleep(0.05)  # so that it arrives in segments of its own
        assert client.recv(100).split()[1] == status


def test_gzip_where_it_is_accepted(sandbox: SandboxThread) -> None:
    yesterday = f"{now(sandbox) - timedelta(days=1):%Y-%m-%d}T00:00:00Z"
    path = f"/v1/candles/minutes/60?market=KRW-BTC&count=20&to={yesterday}"
    _, plain, headers = ask(sandbox, path)
    assert headers["Content-Encoding"] is None
    for accepted in ("gzip", "deflate, gzip;q=0.5", "GZIP, br"):
        _, packed, headers = ask(sandbox, path, {"Accept-Encoding": accepted})
        assert headers["Content-Encoding"] == "gzip"
        assert packed == plain
    for accepted in ("deflate", "gzip;q=0", "br"):
        assert ask(sandbox, path, {"Accept-Encoding": accepted})[2]["Content-Encoding"] is None
    _, _, headers = ask(sandbox, "/v1/orderbook/instruments?markets=KRW-BTC", {"Accept-Encoding": "gzip"})
    assert headers["Content-Encoding"] is None, "as recorded: small answers are sent as they are"
    tag = ask(sandbox, path)[2]["ETag"]
    assert ask(sandbox, path, {"If-None-Match": tag})[:2] == (304, None)


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/v1/candles/minutes/1", 400, "Missing request parameter error. Check the required parameters!"),
        ("/v1/candles/minutes/1?market=", 400, "Missing request parameter error. Check the required parameters!"),
        ("/v1/candles/minutes/2?market=KRW-BTC", 400, "Invalid parameter. Check the given value!"),
        ("/v1/candles/minutes/x?market=KRW-BTC", 400, "Type mismatch error. Check the parameters type!"),
        ("/v1/candles/days?market=KRW-NO", 404, "Code not found"),
        ("/v1/candles/days?market=KRW-BTC&count=0", 400, "Invalid parameter. Check the given value!"),
        ("/v1/candles/days?market=KRW-BTC&count=201", 400, "Invalid parameter. Check the given value!"),
        ("/v1/candles/days?market=KRW-BTC&count=-1", 400, "Invalid parameter. Check the given value!"),
        ("/v1/candles/days?market=KRW-BTC&count=1.5", 400, "Type mismatch error. Check the parameters type!"),
        ("/v1/candles/days?market=KRW-BTC&count=%D9%A3", 400, "Type mismatch error. Check the parameters type!"),
        ("/v1/candles/days?market=KRW-BTC&to=yesterday", 400, "Invalid parameter. Check the given value!"),
        ("/v1/candles/days?market=KRW-BTC&to=2026-13-01T00:00:00Z", 400, "Invalid parameter. Check the given value!"),
        ("/v1/candles/days?market=KRW-BTC&to=2026-W01", 400, "Invalid parameter. Check the given value!"),
        ("/v1/candles/days?market=KRW-BTC&converting_price_unit=USD", 400, "Invalid parameter. Check the given value!"),
        ("/v1/ticker", 400, "Missing request parameter error. Check the required parameters!"),
        ("/v1/ticker?markets=KRW-BTC,KRW-NO", 404, "Code not found"),
        ("/v1/ticker?markets=krw-btc", 404, "Code not found"),
        ("/v1/ticker/all", 400, "Missing request parameter error. Check the required parameters!"),
        ("/v1/orderbook?markets=KRW-BTC&count=31", 400, "Invalid parameter. Check the given value!"),
        ("/v1/orderbook?markets=KRW-BTC&level=x", 400, "Type mismatch error. Check the parameters type!"),
        ("/v1/orderbook/supported_levels?markets=KRW-NO", 404, "Code not found"),
        ("/v1/trades/ticks?market=KRW-BTC&days_ago=0", 400, "Invalid parameter. Check the given value!"),
        ("/v1/trades/ticks?market=KRW-BTC&cursor=x", 400, "Type mismatch error. Check the parameters type!"),
        ("/v1/trades/ticks?market=KRW-BTC&to=1", 400, "Invalid parameter. Check the given value!"),
        ("/v1/candles/minutes", 404, None),
    ],
)
def test_refusals_carry_integer_names(sandbox: SandboxThread, path: str, status: int, text: str | None) -> None:
    found, body, _ = ask(sandbox, path)
    assert (found, body["error"]["name"]) == (status, status)
    assert text is None or body["error"]["message"] == text
