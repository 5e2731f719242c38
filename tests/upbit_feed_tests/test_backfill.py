"""Trades of a hole by REST: pages, days, failures; and the door of the quotation calls."""

import threading
from typing import Any

import pytest

from infra.errors import BadMessage, ExchangeUnavailable
from infra.settings import FeedSettings
from producers.upbit import backfill
from producers.upbit.backfill import PAGE, Backfill
from producers.upbit.backoff import Backoff
from producers.upbit.endings import Ending
from producers.upbit.markets import choose, described
from producers.upbit.rest import Listing, Quotation
from producers.upbit.source import Stretch

DAY_MS = backfill.DAY_MS


def fetch(exchange: Any, stretch: Stretch, markets: list[str], stop: threading.Event | None = None) -> list[int]:
    quotation = Quotation(f"http://127.0.0.1:{exchange.port}", is_local=True)
    trades = list(Backfill(quotation, "upbit", "upbit", 7).trades(markets, stretch, stop or threading.Event()))
    quotation.close()
    assert all((trade.origin, trade.session) == ("backfill", 7) for trade in trades)
    return [trade.trade_id for trade in trades]


def test_pages_until_the_hole_is_passed(exchange: Any, wire: Any) -> None:
    count = PAGE * 2 + 50
    exchange.ticks = [wire.tick("KRW-BTC", number, wire.now_ms + number * 100) for number in range(count)]
    stretch = Stretch(wire.now_ms + 5000, wire.now_ms + count * 100 - 1000)
    first = (5000 - backfill.MARGIN_MS) // 100
    assert fetch(exchange, stretch, ["KRW-BTC", "KRW-ETH"]) == list(range(first, count - 10))
    assert sum("KRW-BTC" in call for call in exchange.calls) == 3


def test_the_day_before(exchange: Any, wire: Any) -> None:
    midnight = wire.now_ms // DAY_MS * DAY_MS
    exchange.ticks = [
        wire.tick("KRW-BTC", 1, midnight - 5000, days_ago=1),
        wire.tick("KRW-BTC", 2, midnight - 1000, days_ago=1),
        wire.tick("KRW-BTC", 3, midnight + 1000),
    ]
    assert fetch(exchange, Stretch(midnight - 2000, midnight + 5000), ["KRW-BTC"]) == [2, 3]


def test_a_hole_too_large_is_cut(exchange: Any, wire: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill, "PAGES_PER_MARKET", 1)
    exchange.ticks = [wire.tick("KRW-BTC", number, wire.now_ms + number) for number in range(PAGE + 5)]
    assert len(fetch(exchange, Stretch(wire.now_ms, wire.now_ms + 10_000), ["KRW-BTC"])) == PAGE


def test_a_call_that_fails_leaves_its_market_out(wire: Any) -> None:
    quotation = Quotation("http://127.0.0.1:1", is_local=True)
    missed = Backfill(quotation, "upbit", "upbit", 7)
    assert not list(missed.trades(["KRW-BTC"], Stretch(wire.now_ms, wire.now_ms + 1000), threading.Event()))
    quotation.close()


def test_told_to_stop(exchange: Any, wire: Any) -> None:
    stop = threading.Event()
    stop.set()
    exchange.ticks = [wire.tick("KRW-BTC", 1, wire.now_ms)]
    assert fetch(exchange, Stretch(wire.now_ms, wire.now_ms + 1000), ["KRW-BTC"], stop) == []
    assert exchange.calls == []


def test_answers_at_the_door(exchange: Any) -> None:
    quotation = Quotation(f"http://127.0.0.1:{exchange.port}", is_local=True)
    assert [listing.market for listing in quotation.markets()] == exchange.markets
    exchange.body = b'[{"no":1}]'
    with pytest.raises(BadMessage, match="cannot be read"):
        quotation.markets()
    quotation.close()
    wrong = Quotation(f"http://127.0.0.1:{exchange.port}/nowhere", is_local=True)
    with pytest.raises(ExchangeUnavailable, match="404"):
        wrong.markets()
    wrong.close()


def test_which_markets_are_chosen() -> None:
    listings = [Listing(market=code) for code in ("KRW-BTC", "BTC-ETH", "USDT-BTC", "SGD-BTC")]
    assert choose(FeedSettings(kind="upbit"), listings).markets == ["KRW-BTC"]
    assert choose(FeedSettings(kind="synthetic"), listings).markets == ["KRW-BTC", "BTC-ETH", "USDT-BTC"]
    named = choose(FeedSettings(markets=["BTC-ETH", "BTC-ETH", "KRW-X"]), listings)
    assert (named.markets, named.unknown) == (["BTC-ETH"], ["KRW-X"])


def test_what_the_exchange_says_of_markets_is_asked_anew(exchange: Any) -> None:
    """A flag that came since is told, and so is a market that is gone from the list."""
    quotation = Quotation(f"http://127.0.0.1:{exchange.port}", is_local=True)
    chosen = choose(FeedSettings(), quotation.markets())
    assert [(one.market, one.is_delisted) for one in described(quotation, "upbit", chosen, {}, 1)] == [
        (market, False) for market in exchange.markets
    ]
    gone = exchange.markets.pop()
    kept = exchange.markets[0]
    endings = {kept: Ending(is_over=False, day_ms=5)}
    told = {one.market: one for one in described(quotation, "upbit", chosen, endings, 2)}
    assert (told[kept].delisting_ms, told[gone].delisting_ms) == (5, None)
    over = described(quotation, "upbit", chosen, {kept: Ending(is_over=True, day_ms=5)}, 3)
    assert all(one.is_delisted for one in over)
    assert [market for market, one in told.items() if one.is_delisted] == [gone]
    assert len(told) == len(chosen.markets)
    quotation.close()


def test_pauses_grow_to_a_bound_and_begin_anew() -> None:
    backoff = Backoff(0.5, 4.0)
    for attempt in range(60):
        assert 0 <= backoff.pause_s() <= min(4.0, 0.5 * 2**attempt)
    backoff.reset()
    assert backoff.pause_s() <= 0.5
