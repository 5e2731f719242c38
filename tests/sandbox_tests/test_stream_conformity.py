"""Our frames beside the recorded ones: same keys in the same order, same JSON types, same number spelling."""

import gzip
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.upbit.wire import korean_time
from producers.sandbox import sockets, stream_views
from producers.sandbox.feeds import Print, Style
from producers.sandbox.recording import read_lines
from producers.sandbox.spelling import Ints, Speller
from producers.sandbox.subscriptions import QUOTATION_KINDS, Refused, read

DATA = Path(os.environ.get("OBSERVATOR_DATA", "../shared/data")) / "upbit_ws"
SIMPLE, DEFAULT = Style(is_simple=True, is_list=False), Style(is_simple=False, is_list=False)


def captures(kind: str, *, captured: Any = True) -> list[tuple[str, str]]:
    """(frame, note) of the single frames of a kind."""
    path = DATA / "upbit_ws_frames.jsonl"
    if not path.exists():
        pytest.skip(f"no recording at {path}")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(row["raw"], row["note"]) for row in rows if row["kind"] == kind and row["captured"] is captured]


class Token(str):
    """A number as it stood on the wire."""

    __slots__ = ()


def parsed(frame: bytes | str) -> dict[str, Any]:
    found = json.loads(frame, parse_int=Token, parse_float=Token)
    assert isinstance(found, dict)
    return found


def e8(token: str) -> int:
    value = Decimal(token).scaleb(8)
    assert value == int(value), token
    return int(value)


def types(value: Any) -> Any:
    """The shape of a JSON value: keys in order and the type of every leaf."""
    if isinstance(value, dict):
        return [(key, types(item)) for key, item in value.items()]
    if isinstance(value, list):
        return types(value[0]) if value else []
    return type(value).__name__


def side(units: list[dict[str, str]], price: str, size: str) -> tuple[Ints, Ints]:
    return (
        np.array([e8(unit[price]) for unit in units], dtype=np.int64),
        np.array([e8(unit[size]) for unit in units], dtype=np.int64),
    )


def respelled_book(frame: bytes | str, *, is_cut: bool) -> bytes:
    """A recorded book through our speller. `is_cut`: some levels were left out, one more level stands for them."""
    body = parsed(frame)
    simple = "obu" in body
    units = body["obu"] if simple else body["orderbook_units"]
    names = ("ap", "as", "bp", "bs", "tas", "tbs") if simple else (
        "ask_price", "ask_size", "bid_price", "bid_size", "total_ask_size", "total_bid_size"
    )  # fmt: skip
    asks, bids = side(units, names[0], names[1]), side(units, names[2], names[3])
    depth = len(units)
    if is_cut:
        rest_ask, rest_bid = e8(body[names[4]]) - int(asks[1].sum()), e8(body[names[5]]) - int(bids[1].sum())
        asks = (np.append(asks[0], asks[0][-1] + 1), np.append(asks[1], rest_ask))
        bids = (np.append(bids[0], bids[0][-1] - 1), np.append(bids[1], rest_bid))
        depth += 1
    style = Style(simple, is_list=False, depth=depth, is_snapshot="SNAPSHOT" in str(frame))
    market, at_ms = body["cd" if simple else "code"], int(body["tms" if simple else "timestamp"])
    ours = Speller().book(market, at_ms, bids, asks, style)
    return re.sub(rb",\{[^{}]*\}\]", b"]", ours) if is_cut else ours


# --- single frames of 2026 -------------------------------------------------------------------------------------------


def test_captured_books_of_september_2026_are_byte_identical() -> None:
    frames = [row for row in captures("orderbook") + captures("orderbook SIMPLE") if "2026-09" in row[1]]
    assert len(frames) == 3
    for frame, _ in frames:
        assert respelled_book(frame, is_cut=True).decode() == frame


def test_a_book_that_another_client_kept_differs_in_the_spelling_of_numbers_only() -> None:
    """Its numbers look re-written by JavaScript (`93332000`, `0.0020735`); keys, order, types and values agree."""
    ((frame, _),) = [row for row in captures("orderbook") if "2026-09" not in row[1]]
    ours, theirs = json.loads(respelled_book(frame, is_cut=True)), json.loads(frame)
    assert ours == theirs
    assert list(ours) == list(theirs)
    assert [list(unit) for unit in ours["orderbook_units"]] == [list(unit) for unit in theirs["orderbook_units"]]


def test_captured_status_and_errors_are_byte_identical() -> None:
    assert captures("status")[0][0].encode() == sockets.UP
    wrong = {
        "NO_TICKET": '[{"type":"trade","codes":["KRW-BTC"]}]',
        "INVALID_PARAM": '[{"ticket":"t"},{"type":"nope","codes":["KRW-BTC"]}]',
        "WRONG_FORMAT": "hello",
    }
    frames = {json.loads(frame)["error"]["name"]: frame for frame, _ in captures("error")}
    assert set(frames) == set(wrong)
    for name, text in wrong.items():
        with pytest.raises(Refused) as refused:
            read(text, QUOTATION_KINDS)
        assert refused.value.frame.decode() == frames[name]


def test_candle_frames_are_byte_identical() -> None:
    frames = captures("candle", captured=None)
    assert len(frames) == 6
    for frame, _ in frames:
        body = parsed(frame)
        row = {key: e8(value) if isinstance(value, Token) else value for key, value in body.items()}
        row["timestamp"] = int(body["timestamp"])
        style = DEFAULT._replace(is_snapshot=body["stream_type"] == "SNAPSHOT")
        assert stream_views.spell(Speller(), stream_views.CANDLE, row, style).decode() == frame


def test_the_captured_subscription_is_understood() -> None:
    ((frame, _),) = captures("subscribe")
    request = read(frame, QUOTATION_KINDS)
    assert [(wanted.kind, len(wanted.codes)) for wanted in request.wanted] == [
        ("orderbook", 7), ("ticker", 1), ("trade", 1)
    ]  # fmt: skip


@pytest.mark.parametrize(("kind", "fields"), [("ticker", stream_views.TICKER), ("candle.1m", stream_views.CANDLE)])
def test_documented_frames_have_our_keys(kind: str, fields: tuple[tuple[str, str, int], ...]) -> None:
    ((frame, _),) = captures(kind, captured=False)
    assert set(json.loads(frame)) == {long for long, _, _ in fields}


# --- numbers that no file of ours holds; seen in frames that others published ----------------------------------------


def test_a_trade_is_spelled_as_captured_in_september_2026() -> None:
    """DEFAULT: a trade's own numbers with eight decimals, the best quotes beside it without trailing zeros."""
    trade = Print(1_788_335_180_377, e8("106000000"), e8("0.0001"), False, 17_883_351_803_770_004)
    best = (e8("106001000"), e8("0.0090700"), e8("106000000"), e8("0.5"))
    frame = Speller().trade("KRW-BTC", 1_788_335_180_423, trade, e8("106000000"), best, DEFAULT).decode()
    assert frame == (
        '{"type":"trade","code":"KRW-BTC","timestamp":1788335180423,"trade_date":"2026-09-02","trade_time":"07:46:20",'
        '"trade_timestamp":1788335180377,"trade_price":106000000.00000000,"trade_volume":0.00010000,"ask_bid":"ASK",'
        '"prev_closing_price":106000000.00000000,"change":"EVEN","change_price":0E-8,'
        '"sequential_id":17883351803770004,"best_ask_price":106001000,"best_ask_size":0.00907,'
        '"best_bid_price":106000000,"best_bid_size":0.5,"stream_type":"REALTIME"}'
    )


def test_a_ticker_is_spelled_as_in_the_documentation_of_2025() -> None:
    """Turnover of the day with sixteen decimals, of 24 h without trailing zeros, rates with ten, nothing as `0`."""
    row = {
        "type": "ticker", "code": "KRW-BTC", "opening_price": e8("100"), "high_price": e8("120.5"),
        "low_price": e8("90"), "trade_price": e8("100"), "prev_closing_price": e8("100"),
        "acc_trade_price": 15 * 10**15, "change": "EVEN", "change_price": 0, "signed_change_price": 0,
        "change_rate": 0, "signed_change_rate": -63_211, "ask_bid": "ASK", "trade_volume": 7, "acc_trade_volume": 250,
        "trade_date": "20250926", "trade_time": "082646", "trade_timestamp": 1, "acc_ask_volume": 0,
        "acc_bid_volume": e8("1"), "highest_52_week_price": e8("1"), "highest_52_week_date": "2025-08-14",
        "lowest_52_week_price": e8("1"), "lowest_52_week_date": "2024-10-10", "market_state": "ACTIVE",
        "is_trading_suspended": False, "delisting_date": None, "market_warning": "NONE", "timestamp": 2,
        "acc_trade_price_24h": 15 * 10**15, "acc_trade_volume_24h": e8("2.50"),
    }  # fmt: skip
    body = parsed(stream_views.spell(Speller(), stream_views.TICKER, row, DEFAULT))
    seen = {key: value for key, value in body.items() if isinstance(value, Token)}
    assert seen | {
        "opening_price": "100.00000000", "high_price": "120.50000000", "acc_trade_price": "1.5000000000000000",
        "change_price": "0E-8", "change_rate": "0", "signed_change_rate": "-0.0000063211", "trade_volume": "7E-8",
        "acc_trade_volume": "0.00000250", "acc_trade_price_24h": "1.5", "acc_trade_volume_24h": "2.5",
    } == seen  # fmt: skip
    assert list(body)[-4:] == ["timestamp", "acc_trade_price_24h", "acc_trade_volume_24h", "stream_type"]


# --- the raw logs of 2021 --------------------------------------------------------------------------------------------

ADDED = {"orderbook": ["lv"], "trade": ["bap", "bas", "bbp", "bbs"]}
"""What has been added to the SIMPLE frames since 2021 (2025 and 2024)."""


def recorded() -> Iterator[bytes]:
    for day in ("20210405", "20210417"):
        path = DATA / f"upbit_ws_raw_{day}.log.gz"
        if not path.exists():
            pytest.skip(f"no recording at {path}")
        yield from (line.payload for line in read_lines(path, Counter()))


def respelled_trade(frame: bytes) -> bytes:
    body = parsed(frame)
    trade = Print(int(body["ttms"]), e8(body["tp"]), e8(body["tv"]), body["ab"] == "BID", int(body["sid"]))
    return Speller().trade(body["cd"], int(body["tms"]), trade, e8(body["pcp"]), (1, 1, 1, 1), SIMPLE)


def numbers(body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in body.items():
        if isinstance(value, list):
            for unit in value:
                yield from numbers(unit)
        elif isinstance(value, Token):
            yield key, value


def test_the_raw_logs_of_2021_have_our_keys_types_and_values() -> None:
    """2,182 frames. Every key, its place, its type and its value agree; so do the digits of every size and time.

    The exchange itself has changed how SIMPLE spells prices since (`127.0`, `123.00000000` and `3.6E-7` then,
    `116606000` in 2026) and totals (eight decimals then, `2.2403413` in 2026), and sizes from ten million on are
    spelled by Java's rule: those differ, and no other.
    """
    counted: Counter[str] = Counter()
    differing: Counter[str] = Counter()
    for frame in recorded():
        theirs = parsed(frame)
        kind = theirs["ty"]
        ours = parsed(respelled_book(frame, is_cut=False) if kind == "orderbook" else respelled_trade(frame))
        added = {key: ours.pop(key) for key in ADDED[kind]}
        assert list(added) == ADDED[kind]
        assert types(ours) == types(theirs)
        counted[kind] += 1
        for (key, mine), (same_key, spelled) in zip(numbers(ours), numbers(theirs), strict=True):
            assert key == same_key
            assert Decimal(mine) == Decimal(spelled)
            counted["numbers"] += 1
            if mine != spelled:
                is_large = Decimal(spelled) >= 10**7
                differing[key if not is_large else key + " from 1e7 on"] += 1
    assert (counted["orderbook"], counted["trade"]) == (1206, 976)
    assert counted["numbers"] > 75_000
    prices, totals = {"ap", "bp", "tp", "pcp", "cp"}, {"tas", "tbs"}
    assert set(differing) <= prices | totals | {f"{key} from 1e7 on" for key in ("tas", "tbs", "as", "bs")}


def test_the_log_is_what_the_archive_says() -> None:
    """A guard against reading a file that was changed: the first frame is the one that the notes describe."""
    path = DATA / "upbit_ws_raw_20210405.log.gz"
    if not path.exists():
        pytest.skip(f"no recording at {path}")
    with gzip.open(path) as file:
        assert b"1617646620.849474" in b"".join(file.readlines()[:6])
    assert korean_time(1_617_646_620_673).startswith("2021-04-06T03:17:00")
