"""The synthetic market: same seed same bytes, plausible numbers, and exactly the predictability that was planted."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import msgspec
import numpy as np
import pytest

from producers.sandbox import kernels
from producers.sandbox.feeds import Frame, Style
from producers.sandbox.spelling import Speller
from producers.sandbox.synthetic import Plan, Synthetic
from producers.sandbox.thread import SandboxThread
from streams.market.ticks import E8, tick_e8

from .test_sandbox_orders import until

START = 1_790_000_000_000
LONG, SHORT = Style(is_simple=False, is_list=False), Style(is_simple=True, is_list=False)


def stream(plan: Plan, seconds: int) -> Iterator[tuple[Frame, bytes]]:
    for frame in Synthetic(plan, START).run_until(START + seconds * 1000):
        yield frame, frame.spell(LONG)


def test_the_same_seed_gives_the_same_bytes() -> None:
    plan = Plan(market_count=4, seed=3)
    first = [data for _, data in stream(plan, 60)]
    assert first == [data for _, data in stream(plan, 60)]
    assert first != [data for _, data in stream(Plan(market_count=4, seed=4), 60)]


def test_frames_are_whole_books_on_ticks_in_time_order() -> None:
    last_ms, books = 0, 0
    for frame, data in stream(Plan(market_count=30), 20):
        assert frame.exchange_ms >= last_ms
        last_ms = frame.exchange_ms
        body = msgspec.json.decode(data)
        if frame.kind == "trade":
            assert body["sequential_id"] // 10_000 == body["trade_timestamp"]
            continue
        books += 1
        units = body["orderbook_units"]
        asks, bids = [u["ask_price"] for u in units], [u["bid_price"] for u in units]
        assert len(units) == 30
        assert asks == sorted(set(asks))
        assert bids == sorted(set(bids), reverse=True)
        assert asks[0] > bids[0] > 0
        assert min(min(u["ask_size"], u["bid_size"]) for u in units) > 0
        for price in (asks[0], bids[-1]):
            price_e8 = round(Decimal(repr(price)) * E8)
            assert price_e8 % tick_e8(frame.market, price_e8, frame.exchange_ms) == 0
    assert books == pytest.approx(30 * 5 * 20, rel=0.05)


@pytest.mark.parametrize(
    ("e8", "java", "fixed", "plain"),
    [
        (0, "0.0", "0.00000000", "0"),
        (116_539_000 * E8, "1.16539E8", "116539000.00000000", "116539000"),
        (10_000_000 * E8, "1.0E7", "10000000.00000000", "10000000"),
        (304_000_000_000, "3040.0", "3040.00000000", "3040"),
        (4_140_000_000, "41.4", "41.40000000", "41.4"),
        (77_720, "7.772E-4", "0.00077720", "0.0007772"),
        (50_000, "5.0E-4", "0.00050000", "0.0005"),
        (100_000, "0.001", "0.00100000", "0.001"),
        (1, "1.0E-8", "0.00000001", "0.00000001"),
        (6_288_509, "0.06288509", "0.06288509", "0.06288509"),
        (12_345_678_901_234_567, "1.2345678901234567E8", "123456789.01234567", "123456789.01234567"),
    ],
)
def test_numbers_are_spelled_as_on_the_wire(e8: int, java: str, fixed: str, plain: str) -> None:
    speller = Speller()
    assert [speller.number(e8, style) for style in range(3)] == [java, fixed, plain]
    assert speller.number(-E8, kernels.PLAIN) == "-1"


class Seconds:
    """One row per second: mid price, imbalances of five and of all deeper levels, spread."""

    def __init__(self, plan: Plan, hours: float) -> None:
        market = Synthetic(plan, START)
        rows, n = len(market.rows), int(hours * 3600)
        self.mid, self.top, self.deep, self.spread = (np.zeros((n, rows)) for _ in range(4))
        for second in range(n):
            for _ in market.run_until(START + (second + 1) * 1000):
                pass
            bid_ticks, bid_lots, ask_ticks, ask_lots = market._books
            self.mid[second] = 0.5 * (bid_ticks[:, 0] + ask_ticks[:, 0])
            self.spread[second] = (ask_ticks[:, 0] - bid_ticks[:, 0]) / self.mid[second] * 1e4
            for into, levels in ((self.top, slice(0, 5)), (self.deep, slice(5, 30))):
                bids, asks = bid_lots[:, levels].sum(axis=1), ask_lots[:, levels].sum(axis=1)
                into[second] = (bids - asks) / (bids + asks)
        self.log_bp = np.log(self.mid) * 1e4

    def slope(self, x: np.ndarray, horizon: int) -> tuple[float, float]:
        """Pooled slope of the return over `horizon` on x, over non-overlapping stretches, and its t value."""
        y = (self.log_bp[horizon:] - self.log_bp[:-horizon])[::horizon]
        x = x[:-horizon][::horizon]
        scale = y.std(axis=0)
        y, x = (y / scale).ravel(), x.ravel()
        slope = float(x @ y / (x @ x))
        error = float(np.sqrt(((y - slope * x) ** 2).mean() / (x @ x)))
        return slope * float(scale.mean()), slope / error


FINE = Plan(markets=("KRW-ETH", "KRW-XRP", "KRW-SOL", "KRW-NEAR", "KRW-AVAX"), books_per_second=2.0)


@pytest.fixture(scope="module")
def planted() -> Seconds:
    return Seconds(FINE, 1.0)


def test_linear_edge_is_found_and_pays(planted: Seconds) -> None:
    slope, t = planted.slope(planted.top, 30)
    forecast = slope * planted.top.std()
    assert t > 8
    assert 5 < forecast < 20  # bp over 30 s per standard deviation of the imbalance
    assert abs(planted.slope(planted.deep, 30)[1]) < 4


def test_without_an_edge_there_is_none() -> None:
    seconds = Seconds(Plan(markets=FINE.markets, books_per_second=2.0, linear_edge=0.0), 1.0)
    for x in (seconds.top, seconds.deep, seconds.top * seconds.deep):
        for horizon in (5, 30, 60):
            assert abs(seconds.slope(x, horizon)[1]) < 4


def test_nonlinear_edge_is_the_product_of_two_visible_things() -> None:
    seconds = Seconds(Plan(markets=FINE.markets, books_per_second=2.0, linear_edge=0.0, nonlinear_edge=1.0), 1.0)
    assert seconds.slope(seconds.top * seconds.deep, 30)[1] > 5
    assert abs(seconds.slope(seconds.top, 30)[1]) < 4
    assert abs(seconds.slope(seconds.deep, 30)[1]) < 4


def test_the_market_looks_like_one(planted: Seconds) -> None:
    returns = np.diff(planted.log_bp, axis=0)
    assert 1.0 < np.median(planted.spread) < 8.0
    absolute = np.abs(returns)
    clustered = [np.corrcoef(absolute[1:, m], absolute[:-1, m])[0, 1] for m in range(returns.shape[1])]
    assert min(clustered) > 0.05
    assert all(4 < sd < 60 for sd in (planted.log_bp[60:] - planted.log_bp[:-60]).std(axis=0))


def test_most_default_markets_have_fine_ticks() -> None:
    market = Synthetic(Plan(), START)
    assert (market._parameters[:, kernels.TICK_BP] < 5).sum() >= 7


def test_takers_eat_the_book_and_are_seen() -> None:
    market = Synthetic(Plan(market_count=2), START)
    list(market.run_until(START + 1000))
    before = market.book("KRW-ETH")
    assert before is not None
    taken = [before.asks[0], before.asks[1]._replace(lots=before.asks[1].lots // 2)]
    frames = market.take("KRW-ETH", taken, is_buy=True)
    assert [frame.kind for frame in frames] == ["trade", "trade", "orderbook"]
    after = market.book("KRW-ETH")
    assert after is not None
    assert after.asks[0].price_e8 == before.asks[1].price_e8
    assert after.asks[0].lots == before.asks[1].lots - before.asks[1].lots // 2
    assert len(after.asks) == 30
    assert [frame.print.is_buy for frame in frames if frame.print is not None] == [True, True]
    everything = market.book("KRW-ETH")
    assert everything is not None
    market.take("KRW-ETH", everything.bids, is_buy=False)
    left = market.book("KRW-ETH")
    assert left is not None
    assert len(left.bids) == 30
    assert market.book("KRW-NONE") is None


def test_a_restart_goes_on_with_the_same_prices(tmp_path: Path) -> None:
    plan = Plan(market_count=2)
    market = Synthetic(plan, START)
    list(market.run_until(START + 5000))
    market.save(tmp_path / "market.npz")
    again = Synthetic(plan, START)
    assert again.restore(tmp_path / "market.npz")
    again.resume_at(START + 60_000)
    assert again.book("KRW-BTC") == market.book("KRW-BTC")._replace(exchange_ms=START + 60_000)
    first = next(iter(again.run_until(START + 61_000)))
    assert first.exchange_ms > START + 60_000
    assert not Synthetic(Plan(market_count=3), START).restore(tmp_path / "market.npz")
    assert not again.restore(tmp_path / "nothing.npz")
    (tmp_path / "market.npz").write_bytes(b"PK nonsense")
    assert not again.restore(tmp_path / "market.npz")


def test_a_fast_market_goes_on_behind_everything_that_was_sent(tmp_path: Path) -> None:
    plan, ahead_ms = Plan(market_count=1), time.time_ns() // 1_000_000 + 3_600_000
    values = {"plan": plan, "speed": 100.0, "warmup_seconds": 1, "starts_at_once": True}
    (tmp_path / "db").mkdir()
    Synthetic(plan, ahead_ms).save(tmp_path / "db" / "sandbox-market.npz")
    with SandboxThread(tmp_path, **values) as running:
        feed = running.sandbox.feed
        begun_ms = feed.clock_ms
        assert begun_ms >= ahead_ms
        until(lambda: feed.clock_ms > begun_ms + 30_000)  # an hour ahead of the wall: it must not wait for that
    with SandboxThread(tmp_path, **values) as running:
        assert running.sandbox.feed.clock_ms > feed.clock_ms


def test_a_warm_up_that_was_ended_goes_on_behind_what_was_sent(tmp_path: Path) -> None:
    values = {"plan": Plan(market_count=1), "warmup_seconds": 3_600, "starts_at_once": True}
    with SandboxThread(tmp_path, **values) as running:
        feed = running.sandbox.feed
        begun_ms = feed.clock_ms
        until(lambda: feed.clock_ms > begun_ms + 60_000)
    with SandboxThread(tmp_path, **values) as running:
        assert running.sandbox.feed.clock_ms > feed.clock_ms


def test_it_is_fast_enough() -> None:
    market = Synthetic(Plan(market_count=250), START)
    list(market.run_until(START + 400))
    started = time.process_time()
    for frame in market.run_until(START + 4400):
        frame.spell(LONG)
    assert (time.process_time() - started) / 4 < 0.25  # of one core, generating and spelling 1,250 books a second


INTERPRETED = """
import hashlib, sys
import numpy as np
from producers.sandbox.feeds import Style
from producers.sandbox.synthetic import Plan, Synthetic

np.seterr(over="ignore")
digest = hashlib.sha256()
market = Synthetic(Plan(markets=("KRW-BTC", "KRW-ETH", "KRW-DOGE")), 1_790_000_000_000)
for frame in market.run_until(1_790_000_000_000 + int(sys.argv[1]) * 1000):
    for is_simple in (False, True):
        digest.update(frame.spell(Style(is_simple, is_list=False)))
print(digest.hexdigest())
"""


def test_compiled_and_interpreted_kernels_give_the_same_bytes() -> None:
    found = [
        subprocess.run(
            [sys.executable, "-c", INTERPRETED, "30"],
            check=True, capture_output=True, text=True, env=os.environ | {"NUMBA_DISABLE_JIT": switch},
        ).stdout
        for switch in ("0", "1")
    ]  # fmt: skip
    assert found[0] == found[1]
    assert len(found[0]) == 65
