"""The door: real frames, every documented oddity, and mutated frames."""

import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import BadMessage
from producers.recordings import Recording
from producers.upbit.parse import ExchangeError, Parser, Status, Unusable
from streams.messages import OrderBook, Trade

PARSER = Parser("upbit", "upbit", 7)
BOOK: dict[str, Any] = {
    "ty": "orderbook", "cd": "KRW-BTC", "tms": 1790134773006, "tas": 0.48514983, "tbs": 2.2403413,
    "obu": [
        {"ap": 116606000, "bp": 116534000, "as": 0.06288509, "bs": 7.9276e-4},
        {"ap": 116609000, "bp": 116521000, "as": 5.0e-4, "bs": 0.01624318},
    ],
    "st": "SNAPSHOT", "lv": 0,
}  # fmt: skip
TRADE: dict[str, Any] = {
    "ty": "trade", "cd": "KRW-LAMB", "tms": 1618678262712, "td": "2021-04-17", "ttm": "16:51:02",
    "ttms": 1618678262000, "tp": 25.0, "tv": 400.0, "ab": "BID", "pcp": 26.0, "c": "FALL", "cp": 1.0,
    "sid": 17877285547970001, "st": "REALTIME",
}  # fmt: skip
LONG_BOOK = (
    b'{"type":"orderbook","code":"KRW-BTC","timestamp":1790134742106,"total_ask_size":2.51469375,'
    b'"total_bid_size":1.63815297,"orderbook_units":[{"ask_price":1.16539E8,"bid_price":1.16538E8,'
    b'"ask_size":0.02054761,"bid_size":0.08120946}],"stream_type":"SNAPSHOT","level":0}'
)
LONG_TRADE = (
    b'{"type":"trade","code":"KRW-BTC","timestamp":1751606040403,"trade_date":"2025-07-04","trade_time":"05:14:00",'
    b'"trade_timestamp":1751606040365,"trade_price":148601000.0,"trade_volume":0.00016823,"ask_bid":"ASK",'
    b'"prev_closing_price":148737000.0,"change":"FALL","change_price":136000.0,'
    b'"sequential_id":17516060403650001,"stream_type":"REALTIME"}'
)


def parse(raw: bytes | str | dict[str, Any]) -> Any:
    data = json.dumps(raw).encode() if isinstance(raw, dict) else raw
    (item,) = PARSER.parse(data, 42)
    return item


def level(ask: float, bid: float, ask_size: float = 1.0, bid_size: float = 1.0) -> dict[str, float]:
    return {"ap": ask, "bp": bid, "as": ask_size, "bs": bid_size}


def test_short_book() -> None:
    assert parse(BOOK) == OrderBook(
        exchange="upbit", market="KRW-BTC", source="upbit", session=7, exchange_ms=1790134773006, received_ns=42,
        bid_prices=[116534000.0, 116521000.0], bid_sizes=[7.9276e-4, 0.01624318],
        ask_prices=[116606000.0, 116609000.0], ask_sizes=[0.06288509, 5.0e-4],
    )  # fmt: skip


def test_short_trade_keeps_the_whole_id() -> None:
    assert parse(TRADE) == Trade(
        exchange="upbit", market="KRW-LAMB", source="upbit", session=7, exchange_ms=1618678262712,
        trade_ms=1618678262000, received_ns=42, trade_id=17877285547970001, price=25.0, size=400.0, is_buy=True,
    )  # fmt: skip


def test_long_forms_and_prices_with_exponent() -> None:
    book = parse(LONG_BOOK)
    assert (book.ask_prices, book.bid_prices, book.exchange_ms) == ([116539000.0], [116538000.0], 1790134742106)
    trade = parse(LONG_TRADE)
    assert (trade.trade_id, trade.trade_ms, trade.exchange_ms) == (17516060403650001, 1751606040365, 1751606040403)
    assert not trade.is_buy


@pytest.mark.parametrize("wrap", [bytes, lambda raw: raw.decode(), lambda raw: b" \n" + raw])
def test_binary_text_and_space_before(wrap: Any) -> None:
    assert parse(wrap(LONG_BOOK)) == parse(LONG_BOOK)


def test_type_may_stand_anywhere() -> None:
    assert parse({key: BOOK[key] for key in sorted(BOOK)}) == parse(BOOK)


def test_list_form_gives_each_and_names_the_unusable() -> None:
    raw = b"[" + LONG_BOOK + b',{"type":"trade"},' + json.dumps(TRADE).encode() + b',{"a":1}]'
    book, missing, trade, unknown = PARSER.parse(raw, 42)
    assert (book, trade) == (parse(LONG_BOOK), parse(TRADE))
    assert isinstance(missing, Unusable)
    assert missing.raw == b'{"type":"trade"}'
    assert isinstance(unknown, Unusable)


def test_status_and_errors() -> None:
    assert parse(b'{"status":"UP"}') == Status("UP")
    assert parse('{"error":{"name":"NO_TICKET","message":"티켓"}}') == ExchangeError("NO_TICKET", "티켓")
    assert parse(b'{"error":{"name":400,"message":"x"}}') == ExchangeError("400", "x")


def test_padding_is_cut_on_each_side_alone() -> None:
    book = parse({**BOOK, "obu": [level(101, 99), level(102, 0, 1, 0), level(0, 0, 0, 0)]})
    assert (book.ask_prices, book.bid_prices) == ([101.0, 102.0], [99.0])
    assert (len(book.ask_sizes), len(book.bid_sizes)) == (2, 1)


def test_empty_sides_are_kept_empty() -> None:
    assert parse({**BOOK, "obu": [level(101, 0, 1, 0)]}).bid_prices == []
    assert parse({**BOOK, "obu": []}).ask_prices == []


def test_microseconds_become_milliseconds() -> None:
    assert parse({**BOOK, "tms": 1790134773006123}).exchange_ms == 1790134773006
    assert parse({**TRADE, "ttms": 1618678262000999}).trade_ms == 1618678262000


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"obu": [level(99, 100)]}, "crossed"),
        ({"obu": [level(100, 100)]}, "crossed"),
        ({"obu": [level(101, 99), level(100, 98)]}, "order"),
        ({"obu": [level(101, 99), level(102, 100)]}, "order"),
        ({"obu": [level(101, -99)]}, "price"),
        ({"obu": [level(-1, 99), level(101, 98)]}, "price"),
        ({"obu": [level(101, 99, -1)]}, "size"),
        ({"obu": [level(101, 99, 1, -0.5)]}, "size"),
        ({"obu": [level(101, 99)] * 1000}, "levels"),
        ({"tms": 0}, "timestamp"),
        ({"tms": -5}, "timestamp"),
        ({"tms": 10**19}, "timestamp"),
        ({"tms": "x"}, "form"),
        ({"cd": ""}, "market"),
        ({"obu": None}, "form"),
        ({"ty": "ticker"}, "unknown type ticker"),
    ],
)
def test_books_that_cannot_be(change: dict[str, Any], word: str) -> None:
    with pytest.raises(BadMessage, match=word):
        parse({**BOOK, **change})


@pytest.mark.parametrize(
    "change",
    [{"tp": 0}, {"tp": -1}, {"tv": 0}, {"ab": "BUY"}, {"sid": 1 << 63}, {"sid": -1}, {"sid": 1.5}, {"ttms": 0}],
)
def test_trades_that_cannot_be(change: dict[str, Any]) -> None:
    with pytest.raises(BadMessage):
        parse({**TRADE, **change})


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"null", b"17", b'"text"', b"{}", b"\xff\xfe", "\ud800", b"PING", LONG_BOOK[:-40], b"[" * 100_000,
        b'{"ty":"orderbook","x":' + b"[" * 100_000, b'{"ty":"orderbook","cd":"A","tms":1,"obu":[{"ap":1e999}]}',
        LONG_BOOK.replace(b"1.16539E8", b"NaN"), LONG_BOOK.replace(b"1.16539E8", b"Infinity"),
        b'{"type":"myOrder"}', b'{"ty":5}',
    ],
)  # fmt: skip
def test_garbage(raw: bytes | str) -> None:
    with pytest.raises(BadMessage):
        PARSER.parse(raw, 1)


@given(st.binary(max_size=300) | st.text(max_size=300))
def test_nothing_but_bad_message_for_any_bytes(raw: bytes | str) -> None:
    with contextlib.suppress(BadMessage):
        PARSER.parse(raw, 1)


SEEDS = [json.dumps(BOOK, separators=(",", ":")).encode(), json.dumps(TRADE).encode(), LONG_BOOK, LONG_TRADE]
VALUES = st.sampled_from(
    [b"0", b"-1", b"1e308", b"-0.0", b"1e-320", b"null", b"[]", b"{}", b'""', b"true", b"99999999999999999999", b"1E5"]
)


@given(st.sampled_from(SEEDS), st.data())
def test_mutated_frames_are_good_books_or_bad_messages(seed: bytes, data: st.DataObject) -> None:
    raw = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw)))
        end = min(len(raw), at + data.draw(st.integers(0, 12)))
        raw[at:end] = data.draw(VALUES | st.binary(max_size=3))
    try:
        items = PARSER.parse(bytes(raw), 1)
    except BadMessage:
        return
    for item in items:
        if isinstance(item, OrderBook):
            assert item.bid_prices == sorted(item.bid_prices, reverse=True)
            assert item.ask_prices == sorted(item.ask_prices)
            assert all(number > 0 for number in item.bid_prices + item.ask_prices)
            assert all(number >= 0 for number in item.bid_sizes + item.ask_sizes)
            assert len(item.bid_prices) == len(item.bid_sizes)
            assert len(item.ask_prices) == len(item.ask_sizes)
            assert not item.bid_prices or not item.ask_prices or item.bid_prices[0] < item.ask_prices[0]
        elif isinstance(item, Trade):
            assert item.price > 0
            assert item.size > 0
            assert 0 <= item.trade_id < 1 << 63


@pytest.mark.parametrize(("day", "books", "trades"), [("20210405", 1061, 672), ("20210417", 145, 304)])
def test_playback(recordings_folder: Path, day: str, books: int, trades: int) -> None:
    seen: Counter[str] = Counter()
    for frame in Recording(recordings_folder / f"upbit_ws_raw_{day}.log.gz"):
        seen.update(type(item).__name__ for item in PARSER.parse(frame.raw, frame.received_ns))
    assert seen == {"OrderBook": books, "Trade": trades}


def test_captured_frames_of_every_kind(recordings_folder: Path) -> None:
    lines = (recordings_folder / "upbit_ws_frames.jsonl").read_text().splitlines()
    seen: Counter[str] = Counter()
    for line in map(json.loads, lines):
        kind = line["kind"].split()[0]
        try:
            items = PARSER.parse(line["raw"], 1)
        except BadMessage:
            seen["bad " + kind] += 1
        else:
            seen.update(f"{kind} {type(item).__name__}" for item in items)
    assert seen["orderbook OrderBook"] >= 4
    assert seen["trade Trade"] >= 1
    assert seen["status Status"] == 1
    assert seen["error ExchangeError"] == 3
    assert not seen["bad orderbook"] + seen["bad trade"] + seen["bad status"] + seen["bad error"]
    assert seen["bad ticker"] + seen["bad candle"] >= 2
