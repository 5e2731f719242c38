"""What a restart finds: lines cut by a kill, orders that rested and orders that waited for a book."""

import asyncio
import json
import os
import threading
from pathlib import Path
from typing import cast

import pytest

from producers.sandbox.exchange import Exchange
from producers.sandbox.journal import Journal
from producers.verify.scripted import Clock, MemoryJournal, ScriptedMarket
from streams.market.ledger import ATOMS
from streams.market.matching import Level
from streams.market.ticks import E8

MARKET = "KRW-XRP"


def reopened(path: Path) -> list[dict[str, object]]:
    journal = Journal(path)
    try:
        return list(journal.entries())
    finally:
        journal.close()


def test_what_belongs_together_is_cut_away_together(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    list(journal.entries())
    journal.append({"e": "account", "a": "one"})
    whole = path.stat().st_size
    journal.append({"e": "fill", "u": "taker"}, {"e": "fill", "u": "maker"})
    journal.close()
    data = path.read_bytes()
    for end in range(whole, len(data)):
        path.write_bytes(data[:end])
        assert reopened(path) == [{"e": "account", "a": "one"}]
        assert path.stat().st_size == whole
    path.write_bytes(data)
    assert [entry["e"] for entry in reopened(path)] == ["account", "fill", "fill"]


@pytest.mark.parametrize("is_full", [True, False])
def test_what_was_built_on_a_lost_write_is_lost_with_it_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_full: bool
) -> None:
    path, is_let_go, real, refusals = tmp_path / "journal", threading.Event(), os.fdatasync, [is_full]

    def sync(file: int) -> None:
        is_let_go.wait(10)
        if refusals and refusals.pop():
            raise OSError(28, "No space left on device")
        real(file)

    async def life() -> None:
        journal = Journal(path)
        list(journal.entries())
        journal.append({"e": "order"})
        await asyncio.sleep(0)  # its write is under way
        journal.append({"e": "cancelling"})
        is_let_go.set()
        journal.close()

    monkeypatch.setattr(os, "fdatasync", sync)
    asyncio.run(life())
    assert [entry["e"] for entry in reopened(path)] == ([] if is_full else ["order", "cancelling"])


def test_an_older_journal_is_read(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text("".join(json.dumps({"e": "account", "a": name}) + "\n" for name in ("one", "two")))
    assert [entry["a"] for entry in reopened(path)] == ["one", "two"]


def started(market: ScriptedMarket, clock: Clock, journal: MemoryJournal) -> Exchange:
    exchange = Exchange(
        market, cast("Journal", journal), now_ms=lambda: clock.now_ms, later=clock.later, publish=lambda _: None,
        burn_refused_identifiers=True, fill_delay_s=0.03, cancel_delay_s=0.03,
    )  # fmt: skip
    exchange.open()
    return exchange


def test_after_a_restart_resting_orders_come_before_those_that_wait_for_a_book() -> None:
    clock, journal = Clock(1_767_225_600_000), MemoryJournal()
    market = ScriptedMarket(clock, {MARKET: 800 * E8}, is_synthetic=False)
    exchange = started(market, clock, journal)
    exchange.open_account("me", {"KRW": 10**6 * ATOMS})
    market.show(MARKET, [Level(799 * E8, 100 * E8)], [Level(802 * E8, 100 * E8)])
    body = {"market": MARKET, "side": "bid", "ord_type": "limit", "price": "801", "volume": "10"}
    resting = exchange.accept("me", body).uuid
    clock.advance(30)
    late = exchange.accept("me", body).uuid
    clock.forget()
    market.forget()
    exchange = started(market, clock, journal)
    clock.advance(30)
    exchange.on_frame(market.show(MARKET, [Level(799 * E8, 100 * E8)], [Level(800 * E8, 6 * E8)]))
    orders = exchange.orders
    assert (orders[resting].executed_lots, orders[late].executed_lots) == (6 * E8, 0)
    assert orders[late].state == "wait"
