"""Tickers, candles and grouped books of the public websocket: when they come, what they hold."""

import itertools
import json
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import websocket
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.sandbox.candles import Candles
from producers.sandbox.derived import Derived
from producers.sandbox.feeds import Frame, Print, Style
from producers.sandbox.grouping import group_levels, levels_e8
from producers.sandbox.notices import Notices
from producers.sandbox.subscriptions import CANDLE_KINDS
from producers.sandbox.thread import SandboxThread
from producers.sandbox.tickers import Tickers
from streams.market.matching import Level
from streams.market.ticks import E8

from .conftest import connect, receive

START_MS = 1_790_000_000_000
PLAIN = Style(is_simple=False, is_list=False)


def trade(after_ms: int, price: int, lots: int = E8, *, is_buy: bool = True) -> Frame:
    at_ms = START_MS + after_ms
    made = Print(at_ms - 40, price * E8, lots, is_buy, (at_ms - 40) * 10_000)
    return Frame("trade", "KRW-BTC", at_ms, lambda _style: b"", print=made)


@pytest.fixture
def derived() -> Derived:
    candles = Candles()
    return Derived(candles, Tickers(candles, Notices(), lambda: START_MS, lambda _market: 100 * E8))


def told(derived: Derived, frame: Frame, *kinds: str) -> list[dict[str, Any]]:
    derived.take(frame)
    return [json.loads(made.spell(PLAIN)) for made in derived.on_trade(frame, kinds)]


def late(derived: Derived, after_ms: int) -> list[dict[str, Any]]:
    if START_MS + after_ms < derived.due_ms:
        return []
    return [json.loads(made.spell(PLAIN)) for made in derived.due(START_MS + after_ms)]


def test_a_ticker_follows_every_trade(derived: Derived) -> None:
    assert derived.newest("KRW-BTC", "ticker") is None
    rows = [told(derived, trade(100 * i, 100 + i), "ticker")[0] for i in range(3)]
    assert [row["trade_price"] for row in rows] == [100, 101, 102]
    assert (rows[2]["opening_price"], rows[2]["high_price"], rows[2]["low_price"]) == (100, 102, 100)
    assert (rows[2]["change"], rows[2]["change_price"], rows[2]["signed_change_rate"]) == ("RISE", 2, 0.02)
    assert rows[2]["acc_trade_price"] == 303
    assert rows[2]["acc_bid_volume"] == 3
    assert rows[2]["timestamp"] == START_MS + 200


def test_a_candle_comes_at_most_once_a_second(derived: Derived) -> None:
    kind = "candle.1m"
    assert [row["trade_price"] for row in told(derived, trade(0, 100), kind)] == [100]
    assert told(derived, trade(200, 101), kind) == []
    assert told(derived, trade(900, 105), kind) == []
    assert late(derived, 999) == []
    (row,) = late(derived, 1000)
    assert (row["opening_price"], row["high_price"], row["trade_price"]) == (100, 105, 105)
    assert row["candle_acc_trade_volume"] == 3
    assert late(derived, 5000) == []  # nothing changed
    assert [row["trade_price"] for row in told(derived, trade(6000, 90), kind)] == [90]


def test_a_candle_that_ended_is_told_before_the_next(derived: Derived) -> None:
    kind = "candle.1s"
    first = told(derived, trade(100, 100), kind)
    assert told(derived, trade(500, 103), kind) == []
    assert told(derived, trade(1070, 110), kind) == []  # the next second
    ended, begun = late(derived, 1100)
    assert (ended["candle_date_time_utc"], ended["trade_price"]) == (first[0]["candle_date_time_utc"], 103)
    assert (begun["opening_price"], begun["trade_price"]) == (110, 110)
    assert begun["candle_date_time_utc"] > ended["candle_date_time_utc"]
    assert late(derived, 5000) == []


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 700), st.integers(90, 110)), min_size=1, max_size=80))
def test_the_last_candle_of_every_period_is_what_was_traded(steps: list[tuple[int, int]]) -> None:
    candles = Candles()
    derived = Derived(candles, Tickers(candles, Notices(), lambda: START_MS, lambda _market: E8))
    now, seen, times, expected = 0, {}, [], {}
    for wait_ms, price in steps:
        now += wait_ms
        frame = trade(now, price)
        assert frame.print is not None
        expected.setdefault(frame.print.trade_ms // 1000, []).append(price)
        rows = late(derived, now) + told(derived, frame, "candle.1s")
        times += [now] * bool(rows)
        seen |= {row["candle_date_time_utc"]: row for row in rows}
    seen |= {row["candle_date_time_utc"]: row for row in late(derived, now + 1000)}
    assert all(later - earlier >= 1000 for earlier, later in itertools.pairwise(times))
    assert [
        (row["opening_price"], row["high_price"], row["low_price"], row["trade_price"], row["candle_acc_trade_volume"])
        for row in seen.values()
    ] == [(prices[0], max(prices), min(prices), prices[-1], len(prices)) for prices in expected.values()]


# --- grouped books ----------------------------------------------------------------------------------------------------


def test_levels_are_offered_in_won_only() -> None:
    assert levels_e8("KRW-BTC", 1000 * E8) == tuple(
        level * E8 for level in (0, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
    )
    assert levels_e8("BTC-ETH", 1) == (0,)


@given(
    st.lists(st.tuples(st.integers(1, 5_000), st.integers(1, 10**12)), max_size=40), st.sampled_from([10, 100, 1000])
)
def test_groups_keep_every_lot_and_never_show_a_better_price(levels: list[tuple[int, int]], step: int) -> None:
    prices = dict(levels)
    for is_bid in (True, False):
        side = [Level(price, prices[price]) for price in sorted(prices, reverse=is_bid)]
        grouped = group_levels(side, step, is_bid=is_bid)
        assert sum(level.lots for level in grouped) == sum(prices.values())
        found = [level.price_e8 for level in grouped]
        assert found == sorted(set(found), reverse=is_bid)
        for level in grouped:
            low, high = (level.price_e8, level.price_e8 + step - 1) if is_bid else (
                level.price_e8 - step + 1, level.price_e8
            )  # fmt: skip
            assert level.price_e8 % step == 0
            assert level.lots == sum(lots for price, lots in prices.items() if low <= price <= high)


def test_a_grouped_stream(sandbox: SandboxThread) -> None:
    client = connect(
        sandbox.ws_url,
        {"type": "orderbook", "codes": ["KRW-BTC"], "level": 100_000},
        {"type": "orderbook", "codes": ["KRW-ETH.5"], "level": 0},
    )
    books: dict[tuple[str, int], dict[str, Any]] = {}
    while len(books) < 2:
        body = receive(client)[1]
        books[body["code"], body["level"]] = body
    grouped = books["KRW-BTC", 100_000]
    asks = [unit["ask_price"] for unit in grouped["orderbook_units"] if unit["ask_price"]]
    assert len(grouped["orderbook_units"]) == 30
    assert 1 <= len(asks) < 30
    assert all(price % 100_000 == 0 for price in asks)
    total = sum(Decimal(str(unit["ask_size"])) for unit in grouped["orderbook_units"])
    assert total == Decimal(str(grouped["total_ask_size"]))
    client.send('[{"ticket":"t"},{"method":"LIST_SUBSCRIPTIONS"}]')
    body = {}
    while "result" not in body:
        body = receive(client)[1]
    assert [row["level"] for row in body["result"]] == [100_000, 0]
    client.shutdown()


def test_an_unsupported_level_gets_nothing(sandbox: SandboxThread) -> None:
    client = connect(sandbox.ws_url, {"type": "orderbook", "codes": ["KRW-BTC"], "level": 7})
    client.settimeout(0.5)
    with pytest.raises(websocket.WebSocketTimeoutException):
        receive(client)
    client.shutdown()


@pytest.mark.parametrize("level", ['"10"', "true", "-1", "1e300"])
def test_a_level_that_is_no_price_is_refused(sandbox: SandboxThread, level: str) -> None:
    client = websocket.create_connection(sandbox.ws_url, timeout=5, suppress_origin=True)
    client.send(f'[{{"ticket":"t"}},{{"type":"orderbook","codes":["KRW-BTC"],"level":{level}}}]')
    assert receive(client)[1]["error"]["name"] == "WRONG_FORMAT"
    client.shutdown()


def test_books_group_as_lists_do() -> None:
    """The stream groups arrays, REST lists: one rule."""
    side = [Level(105, 1), Level(101, 2), Level(99, 4)]
    assert group_levels(side, 10, is_bid=True) == [Level(100, 3), Level(90, 4)]
    assert group_levels(side[::-1], 10, is_bid=False) == [Level(100, 4), Level(110, 3)]
    assert group_levels([], 10, is_bid=True) == []
    assert np.iinfo(np.int64).max > 10**8 * 10**8 * 100  # the dearest price fits


# --- over a socket ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["DEFAULT", "SIMPLE", "JSON_LIST", "SIMPLE_LIST"])
def test_every_kind_in_every_format(sandbox: SandboxThread, name: str) -> None:
    kinds = ("ticker", "trade", "orderbook", *CANDLE_KINDS)
    client = connect(sandbox.ws_url, *({"type": kind, "codes": ["KRW-XRP"]} for kind in kinds), {"format": name})
    short = name.startswith("SIMPLE")
    seen: dict[str, set[str]] = {}
    while set(seen) != set(kinds) or not all("SNAPSHOT" in found for found in seen.values()):
        body = receive(client)[1]
        assert isinstance(body, list) == name.endswith("LIST")
        row = body[0] if isinstance(body, list) else body
        seen.setdefault(row["ty" if short else "type"], set()).add(row["st" if short else "stream_type"])
        assert row["cd" if short else "code"] == "KRW-XRP"
    while "REALTIME" not in seen["ticker"] | seen["candle.1s"]:
        body = receive(client)[1]
        row = body[0] if isinstance(body, list) else body
        seen[row["ty" if short else "type"]].add(row["st" if short else "stream_type"])
    client.shutdown()
