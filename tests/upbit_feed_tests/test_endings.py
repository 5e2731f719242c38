"""The day on which a market ends: from the exchange's tickers to the log."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.errors import ExchangeUnavailable
from producers.sandbox.synthetic import Plan
from producers.sandbox.thread import SandboxThread
from producers.upbit import endings
from producers.upbit.endings import Ending, Endings

DAY_MS = 1_798_642_800_000
"""2026-12-31, 00:00 in Korea."""


def test_the_day_is_told_with_the_market(exchange: Any, start_feed: Callable[..., Any], wire: Any) -> None:
    exchange.endings = {
        "KRW-BTC": {"delisting_date": {"year": 2026, "month": 12, "day": 31}}, "KRW-ETH": {"market_state": "DELISTED"},
    }  # fmt: skip
    running = start_feed(exchange.port)
    wire.wait_until(lambda: len(running.messages("markets")) >= 2)
    running.end()
    told = {one.market: (one.delisting_ms, one.is_delisted) for one in running.messages("markets")}
    assert told == {"KRW-BTC": (DAY_MS, False), "KRW-ETH": (None, True)}


def test_the_sandbox_names_the_day_too(tmp_path: Path) -> None:
    with SandboxThread(tmp_path, kind="synthetic", plan=Plan(market_count=2), is_limited=False) as sandbox:
        markets = [row["market"] for row in sandbox.control("GET", "/v1/market/all")]
        sandbox.control("POST", "/sandbox/notices", {"market": markets[0], "delisting_date": "2026-12-31"})
        url = f"ws://127.0.0.1:{sandbox.port}/websocket/v1"
        found: dict[str, Ending] = {}
        end = time.monotonic() + 15
        while len(found) < 2 and time.monotonic() < end:
            found |= endings.ask(url, markets)
    assert found == {
        markets[0]: Ending(is_over=False, day_ms=DAY_MS), markets[1]: Ending(is_over=False, day_ms=None)
    }  # fmt: skip


def test_what_is_known_stays_while_the_exchange_is_silent(exchange: Any) -> None:
    now_s = 0.0
    exchange.endings = {"KRW-BTC": {"delisting_date": "2026-12-31"}}
    known = Endings(f"ws://127.0.0.1:{exchange.port}/websocket/v1", lambda: now_s)
    assert known.of(["KRW-BTC"])["KRW-BTC"].day_ms == DAY_MS
    exchange.is_refusing = True
    now_s = endings.EVERY_S
    assert known.of(["KRW-BTC"])["KRW-BTC"].day_ms == DAY_MS
    exchange.is_refusing, exchange.endings = False, {}
    assert known.of(["KRW-BTC"])["KRW-BTC"].day_ms == DAY_MS
    now_s *= 2
    assert known.of(["KRW-BTC"])["KRW-BTC"].day_ms is None


def test_an_exchange_that_cannot_be_reached_is_no_answer() -> None:
    with pytest.raises(ExchangeUnavailable):
        endings.ask("ws://127.0.0.1:1/websocket/v1", ["KRW-BTC"])


@pytest.mark.parametrize("raw", [b"{", b"[]", b'{"code":"KRW-BTC","delisting_date":"soon"}', b'{"error":{}}',
                                 b'{"code":"X","delisting_date":{"year":2026,"month":13,"day":1}}'])  # fmt: skip
def test_a_ticker_that_cannot_be_read_is_none(raw: bytes) -> None:
    assert endings.read(raw) is None
