"""A maintenance window: nothing is matched in it, and what the market left behind is gone before matching begins."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from producers.sandbox.candles import Candles
from producers.sandbox.exchange import Exchange
from producers.sandbox.feeds import Print
from producers.sandbox.journal import Journal
from producers.sandbox.maintenance import Maintenance
from producers.sandbox.socket_faults import SocketFaults, read
from producers.verify.scripted import Clock, MemoryJournal, ScriptedMarket
from streams.market.ledger import ATOMS
from streams.market.matching import Level, Order
from streams.market.ticks import E8

MARKET = "KRW-XRP"
PRICE = 1_000 * E8


class Stage:
    """An exchange whose market stands at 990 and 1,010 after a trade at 1,000."""

    def __init__(self) -> None:
        self.clock, self.journal, self.faults = Clock(1_767_225_600_000), MemoryJournal(), SocketFaults()
        self.market = ScriptedMarket(self.clock, {MARKET: PRICE}, is_synthetic=True)
        self.exchange = Exchange(
            self.market, cast("Journal", self.journal), now_ms=lambda: self.clock.now_ms, later=self.clock.later,
            publish=lambda _: None, burn_refused_identifiers=True, fill_delay_s=0.03, cancel_delay_s=0.03,
        )  # fmt: skip
        self.exchange.open()
        self.exchange.open_account("me", {"KRW": 10**9 * ATOMS})
        candles = Candles()
        candles.add(MARKET, Print(self.clock.now_ms, PRICE, E8, is_buy=True, sequential_id=1), self.clock.now_ms)
        maintenance = Maintenance(self.exchange, candles)
        self.faults.on_offline.append(maintenance.begin)
        self.faults.on_online.append(maintenance.end)
        self.was_offline: list[bool] = []
        self.faults.on_online.append(lambda: self.was_offline.append(self.faults.is_offline))
        self.over = asyncio.Event()
        self.faults.on_online.append(self.over.set)
        self.show(1_010)

    def show(self, ask: int) -> None:
        self.exchange.on_frame(self.market.show(MARKET, [Level(990 * E8, E8)], [Level(ask * E8, 100 * E8)]))

    def bid(self, price: int, kind: str = "limit") -> Order:
        body = {"market": MARKET, "side": "bid", "ord_type": kind, "price": str(price)}
        return self.exchange.accept("me", body | ({"volume": "10"} if kind == "limit" else {}))

    def close(self, seconds: float) -> None:
        self.faults.add(read({"name": "maintenance", "seconds": seconds}))


def run(play: Callable[[Stage], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(play(Stage()), 10))


def test_what_was_accepted_before_is_matched_after() -> None:
    async def play(stage: Stage) -> None:
        taker, resting = stage.bid(20_000, "price"), stage.bid(999)
        stage.close(0.05)
        stage.clock.advance(1_000)
        stage.show(995)
        assert (taker.executed_lots, resting.executed_lots) == (0, 0)
        await stage.over.wait()
        assert taker.state != "wait"
        assert taker.executed_lots > 0
        assert resting.executed_lots == 10 * E8

    run(play)


def test_what_the_market_left_behind_is_gone_before_anybody_is_let_in() -> None:
    async def play(stage: Stage) -> None:
        behind, kept = stage.bid(1_005), stage.bid(1_000)
        stage.clock.advance(30)
        stage.close(0.05)
        await stage.over.wait()
        assert stage.was_offline == [True]
        assert (behind.state, kept.state) == ("cancel", "wait")
        stage.show(1_000)
        assert (behind.executed_lots, kept.executed_lots) == (0, 10 * E8)

    run(play)


def test_a_window_that_is_switched_off_ends_then_and_only_then() -> None:
    async def play(stage: Stage) -> None:
        behind = stage.bid(1_005)
        stage.clock.advance(30)
        stage.close(0.05)
        stage.faults.clear()
        assert not stage.faults.is_offline
        assert behind.state == "cancel"
        later = stage.bid(1_005)
        await asyncio.sleep(0.1)  # where the window would have ended
        stage.clock.advance(100)
        assert later.state == "wait"
        assert stage.was_offline == [True]

    run(play)


@pytest.mark.parametrize("seconds", [(0.05, 0.15), (0.15, 0.05)])
def test_two_windows_are_one(seconds: tuple[float, float]) -> None:
    async def play(stage: Stage) -> None:
        taker = stage.bid(20_000, "price")
        for length in seconds:
            stage.close(length)
        await asyncio.sleep(0.1)
        stage.clock.advance(30)
        assert stage.faults.is_offline
        assert taker.executed_lots == 0
        await stage.over.wait()
        assert stage.was_offline == [True]
        assert taker.executed_lots > 0

    run(play)


def test_nothing_is_matched_before_the_disk_has_taken_the_ends() -> None:
    async def play(stage: Stage) -> None:
        behind = stage.bid(1_005)
        stage.clock.advance(30)
        stage.close(0.0)
        stage.journal.is_full = True
        await stage.over.wait()
        stage.show(1_000)
        assert (behind.state, behind.executed_lots) == ("wait", 0)
        stage.journal.is_full = False
        stage.clock.advance(1_000)
        assert behind.state == "cancel"

    run(play)
