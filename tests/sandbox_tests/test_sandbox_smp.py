"""Orders of users that meet: self-match prevention in each mode, its switchable default, trades between accounts."""

import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.upbit import signing
from producers.sandbox.exchange import Exchange
from producers.sandbox.order_views import order_body
from producers.sandbox.refusals import OrderRefused
from producers.sandbox.synthetic import Synthetic
from producers.verify.scripted import Clock, MemoryJournal, ScriptedMarket
from streams.market import crossing
from streams.market.ledger import ATOMS
from streams.market.matching import Level, Order
from streams.market.ticks import E8

from .conftest import SMALL, book_line, connect, receive
from .test_sandbox_orders import call, error_of, until

MARKET = "KRW-BTC"
BIDS = [Level(90_000_000 * E8, 2 * E8), Level(89_999_000 * E8, 2 * E8)]
ASKS = [Level(110_000_000 * E8, 2 * E8), Level(110_001_000 * E8, 2 * E8)]


class Stage:
    """A market with a wide spread in which users meet, two accounts, a clock that is moved by hand."""

    def __init__(self, *, is_synthetic: bool = True, smp_default: str = "", journal: Any = None) -> None:
        self.clock = Clock(1_774_183_627_000)
        self.market = ScriptedMarket(self.clock, {MARKET: 100_000_000 * E8}, is_synthetic=is_synthetic)
        self.journal = journal or MemoryJournal()
        self.exchange = Exchange(
            self.market, self.journal, now_ms=lambda: self.clock.now_ms, later=self.clock.later,
            publish=lambda _frames: None, burn_refused_identifiers=True, fill_delay_s=0.03, cancel_delay_s=0.03,
            smp_default=smp_default,
        )  # fmt: skip
        self.told: list[tuple[str, str, dict[str, Any]]] = []
        self.exchange.listeners.append(lambda account, kind, _, body: self.told.append((account, kind, body)))
        self.exchange.open()
        for account in ("a", "b") if journal is None else ():
            self.exchange.open_account(account, {"KRW": 10**9 * ATOMS, "BTC": 100 * ATOMS})
        self.crossed: list[tuple[Level, bool]] = []
        self.market.cross = self._cross
        self.market.show(MARKET, BIDS, ASKS)

    def _cross(self, _market: str, traded: Sequence[Level], *, is_buy: bool) -> list[Any]:
        self.crossed += [(level, is_buy) for level in traded]
        return []

    def place(self, account: str, side: str, price: str | None, volume: str | None, **more: Any) -> Order:
        body = {"market": MARKET, "side": side, "ord_type": "limit", "price": price, "volume": volume} | more
        order = self.exchange.accept(account, body)
        self.clock.advance(30)
        return order

    def events(self, order: Order) -> list[str]:
        return [b["state"] for _, kind, b in self.told if kind == "myOrder" and b["uuid"] == order.uuid]

    def totals(self) -> tuple[int, int]:
        """Won with the fees that were paid, and coins, over both accounts."""
        ledger = self.exchange.ledger
        fees = sum(fill.fee for order in self.exchange.orders.values() for fill in order.fills)
        won = sum(ledger.holding(account, "KRW").total for account in "ab") + fees
        return won, sum(ledger.holding(account, "BTC").total for account in "ab")


def numbers(order: Order) -> dict[str, str]:
    body = order_body(order)
    names = ("state", "remaining_volume", "prevented_volume", "prevented_locked", "locked", "executed_volume")
    return {name: body[name] for name in names if name in body}


def test_two_accounts_trade_with_each_other_at_the_makers_price() -> None:
    stage = Stage()
    before = stage.totals()
    maker = stage.place("a", "bid", "100000000", "0.5")
    taker = stage.place("b", "ask", "99000000", "0.2")
    assert (maker.state, taker.state) == ("wait", "done")
    assert [(f.price_e8, f.lots, f.is_maker) for f in taker.fills] == [(100_000_000 * E8, E8 // 5, False)]
    assert [(f.price_e8, f.lots, f.is_maker) for f in maker.fills] == [(100_000_000 * E8, E8 // 5, True)]
    assert stage.events(taker) == ["wait", "trade", "done"]
    assert stage.events(maker) == ["wait", "trade"]
    assert stage.totals() == before
    # The rest of the maker goes first, then the book's bids.
    second = stage.place("b", "ask", None, "0.4", ord_type="market")
    assert [(f.price_e8 // E8, f.lots) for f in second.fills] == [(100_000_000, 3 * E8 // 10), (90_000_000, E8 // 10)]
    assert maker.state == "done"
    assert stage.events(maker) == ["wait", "trade", "trade", "done"]
    at = 100_000_000 * E8
    assert stage.crossed == [(Level(at, E8 // 5), False), (Level(at, 3 * E8 // 10), False)]


def test_the_older_order_and_the_better_price_come_first() -> None:
    stage = Stage()
    late_but_better = stage.place("b", "bid", "100001000", "0.1")
    first = stage.place("a", "bid", "100000000", "0.1")
    second = stage.place("b", "bid", "100000000", "0.1")
    stage.place("a", "ask", "100000000", "0.15")
    assert (late_but_better.executed_lots, first.executed_lots, second.executed_lots) == (E8 // 10, E8 // 20, 0)


def test_without_a_mode_own_orders_trade() -> None:
    stage = Stage()
    maker = stage.place("a", "ask", "100000000", "0.1")
    taker = stage.place("a", "bid", "100000000", "0.1")
    assert (maker.state, taker.state) == ("done", "done")
    assert "smp_type" not in order_body(taker)
    assert (order_body(taker)["prevented_volume"], order_body(taker)["prevented_locked"]) == ("0", "0")


def test_cancel_maker_cancels_the_resting_order_and_goes_on() -> None:
    stage = Stage()
    own = stage.place("a", "ask", "100000000", "0.1")
    others = stage.place("b", "ask", "100001000", "0.1")
    taker = stage.place("a", "bid", "100001000", "0.1", smp_type="cancel_maker")
    assert numbers(own) == {
        "state": "cancel", "remaining_volume": "0", "prevented_volume": "0.1", "prevented_locked": "0.1",
        "locked": "0", "executed_volume": "0",
    }  # fmt: skip
    assert (others.state, taker.state) == ("done", "done")
    assert order_body(taker)["smp_type"] == "cancel_maker"
    assert stage.events(own) == ["wait", "cancel"]
    assert stage.exchange.ledger.holding("a", "BTC").locked == 0


def test_cancel_taker_leaves_the_resting_order_alone() -> None:
    stage = Stage()
    own = stage.place("a", "bid", "100000000", "0.1")
    better = stage.place("b", "bid", "100001000", "0.03")
    taker = stage.place("a", "ask", "99000000", "0.1", smp_type="cancel_taker")
    assert (own.state, better.state) == ("wait", "done")
    assert numbers(taker) == {
        "state": "cancel", "remaining_volume": "0", "prevented_volume": "0.07", "prevented_locked": "0.07",
        "locked": "0", "executed_volume": "0.03",
    }  # fmt: skip
    assert stage.events(taker) == ["wait", "trade", "cancel"]


def test_reduce_shrinks_both_by_the_overlap() -> None:
    stage = Stage()
    own = stage.place("a", "ask", "100000000", "0.04")
    taker = stage.place("a", "bid", "100002000", "0.1", smp_type="reduce")
    assert numbers(own)["state"] == "cancel"
    # The taker sets free 0.04 at its own price with the fee, and rests with what is left.
    assert numbers(taker) == {
        "state": "wait", "remaining_volume": "0.06", "prevented_volume": "0.04", "prevented_locked": "4002080.04",
        "locked": "6003120.06", "executed_volume": "0",
    }  # fmt: skip
    assert stage.events(taker) == ["wait", "prevented"]
    smaller = stage.place("a", "ask", "100002000", "0.02", smp_type="reduce")
    assert numbers(smaller)["state"] == "cancel"
    assert stage.events(taker) == ["wait", "prevented", "prevented"]
    assert numbers(taker)["locked"] == "4002080.04"
    assert stage.exchange.ledger.holding("a", "KRW").locked == taker.locked


def test_reduce_shrinks_an_order_given_in_money() -> None:
    stage = Stage()
    own = stage.place("a", "ask", "100000000", "0.04")
    taker = stage.place("a", "bid", "5000000", None, ord_type="best", time_in_force="ioc", smp_type="reduce")
    body = order_body(taker)
    assert own.state == "cancel"
    assert (body["state"], body["executed_volume"], body["prevented_locked"]) == ("cancel", "0", "4002000")
    assert body["locked"] == "1000500"
    held = stage.exchange.ledger.holding("a", "KRW")
    assert (held.locked, held.available) == (0, 10**9 * ATOMS)


def test_only_the_takers_mode_counts() -> None:
    stage = Stage()
    maker = stage.place("a", "ask", "100000000", "0.1", smp_type="cancel_maker")
    stage.place("a", "bid", "100000000", "0.1")
    assert maker.state == "done"


def test_a_fill_or_kill_that_meets_its_own_order_is_killed_whole() -> None:
    stage = Stage()
    own = stage.place("a", "ask", "100000000", "0.1")
    stage.place("b", "ask", "100001000", "0.1")
    killed = stage.place("a", "bid", "100001000", "0.15", smp_type="reduce", time_in_force="fok")
    assert numbers(killed)["prevented_volume"] == "0"
    assert (killed.state, own.state, killed.executed_lots) == ("cancel", "wait", 0)
    filled = stage.place("a", "bid", "100001000", "0.1", smp_type="cancel_maker", time_in_force="fok")
    assert (filled.state, own.state) == ("done", "cancel")


def test_post_only_does_not_meet_users_orders() -> None:
    stage = Stage()
    stage.place("b", "ask", "100000000", "0.1")
    assert stage.place("a", "bid", "100000000", "0.1", time_in_force="post_only").state == "cancel"
    assert stage.place("a", "bid", "99999000", "0.1", time_in_force="post_only").state == "wait"


def test_in_a_recorded_market_accounts_do_not_meet_but_own_orders_do() -> None:
    stage = Stage(is_synthetic=False)
    other = stage.place("b", "ask", "100000000", "0.1")
    own = stage.place("a", "ask", "100000000", "0.1")
    taker = stage.place("a", "bid", "100000000", "0.2", smp_type="cancel_maker")
    assert (other.state, own.state, taker.state) == ("wait", "cancel", "wait")


def test_the_default_mode_can_be_switched_to_what_is_announced() -> None:
    stage = Stage(smp_default="cancel_maker")
    maker = stage.place("a", "ask", "100000000", "0.1")
    assert order_body(maker)["smp_type"] == "cancel_maker"
    taker = stage.place("a", "bid", "100000000", "0.1")
    assert (maker.state, taker.state) == ("cancel", "wait")
    post_only = stage.place("a", "ask", "100002000", "0.1", time_in_force="post_only")
    assert order_body(post_only)["smp_type"] == "none"
    allowed = stage.place("a", "bid", "100002000", "0.1", smp_type="none")
    assert (post_only.state, allowed.state) == ("done", "done")
    with pytest.raises(OrderRefused, match="invalid_post_only"):
        stage.place("a", "bid", "100002000", "0.1", time_in_force="post_only", smp_type="reduce")


def test_a_restart_knows_who_rested_and_what_was_prevented() -> None:
    stage = Stage()
    stage.place("a", "ask", "100000000", "0.04")
    stage.place("a", "bid", "100002000", "0.1", smp_type="reduce")
    stage.place("b", "bid", "99000000", "0.1", time_in_force="post_only")
    before = [order_body(order) for order in stage.exchange.orders.values()]
    again = Stage(journal=stage.journal)
    assert [order_body(order) for order in again.exchange.orders.values()] == before
    # A post_only order that rested before goes on resting, though the book crosses it by now: it is filled as a maker.
    again.market.show(MARKET, BIDS, [Level(98_000_000 * E8, E8)])
    again.clock.advance(100)
    resting = list(again.exchange.orders.values())[-1]
    assert (resting.state, resting.fills) == ("wait", [])
    again.exchange.on_frame(again.market.show(MARKET, BIDS, [Level(98_000_000 * E8, E8)]))
    assert resting.state == "done"
    assert [fill.is_maker for fill in resting.fills] == [True]


def test_a_trade_between_users_is_in_the_public_stream_of_the_synthetic_market() -> None:
    market = Synthetic(SMALL, 1_774_183_627_000)
    market.run_until(1_774_183_637_000)
    before = market.book(MARKET)
    (frame,) = market.cross(MARKET, [Level(99_999_000 * E8, 7)], is_buy=False)
    assert (frame.kind, frame.market) == ("trade", MARKET)
    assert (frame.print or ())[1:4] == (99_999_000 * E8, 7, False)
    assert market.book(MARKET) == before


# --- the pure part ----------------------------------------------------------------------------------------------------

modes = st.sampled_from(["", "none", "cancel_maker", "cancel_taker", "reduce"])
stands = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 50), st.sampled_from(["a", "b", "book"])), max_size=12)


@settings(max_examples=400, deadline=None)
@given(is_buy=st.booleans(), price=st.integers(1, 20), lots=st.integers(1, 300), mode=modes, side=stands)
def test_a_crossing_never_gives_more_than_there_is(
    *, is_buy: bool, price: int, lots: int, mode: str, side: list[tuple[int, int, str]]
) -> None:
    def order(account: str, price: int, lots: int, *, is_buy: bool, number: int = 0) -> Order:
        return Order(
            f"{account}{number}", account, MARKET, is_buy, "limit", price, None, lots, 5, created_ms=number
        )  # fmt: skip

    taker = order("a", price, lots, is_buy=is_buy)
    taker.smp_type = mode
    users = [order(who, p, n, is_buy=not is_buy, number=i) for i, (p, n, who) in enumerate(side) if who != "book"]
    shown: dict[int, int] = {p: n for p, n, who in side if who == "book"}
    levels = [Level(p, shown[p]) for p in sorted(shown, reverse=not is_buy)]
    met = crossing.offers(taker, levels, users)
    steps = crossing.cross(taker, met)
    assert sum(step.lots + step.prevented for step in steps) <= lots
    for step in steps:
        assert step.price_e8 <= price if is_buy else step.price_e8 >= price
        if step.maker is None:
            assert step.lots <= shown[step.price_e8]
        else:
            assert step.lots + step.prevented_of_maker <= step.maker.remaining_lots
            is_prevented = step.maker.account == "a" and mode in crossing.PREVENTING
            assert (step.lots == 0) == is_prevented
    passed = [step.price_e8 for step in steps]
    assert passed == sorted(passed, reverse=not is_buy)
    reachable = [offer for offer in met if (offer.price_e8 <= price if is_buy else offer.price_e8 >= price)]
    if mode in {"", "none"}:
        assert sum(step.lots for step in steps) == min(lots, sum(offer.lots for offer in reachable))


# --- over the wire ----------------------------------------------------------------------------------------------------


def test_prevention_is_seen_over_rest_and_websocket(recorded: Any) -> None:
    sandbox = recorded(book_line(1774183627.0, MARKET, [(110000000.0, 1.0)], [(90000000.0, 1.0)]))
    sandbox.control("POST", "/sandbox/accounts", {"access_key": sandbox.access_key, "balances": {"BTC": "1"}})
    header = [f"Authorization: {signing.sign(sandbox.access_key, sandbox.secret_key)}"]
    client = connect(sandbox.ws_url + "/private", {"type": "myOrder"}, header=header)
    until(lambda: any(connection.wanted for connection in sandbox.sandbox.private.connections))

    def limit(side: str, volume: str, **more: str) -> dict[str, Any]:
        price = {"market": MARKET, "side": side, "ord_type": "limit", "price": "100000000", "volume": volume}
        return price | more

    _, own, _ = call(sandbox, "POST", "/v1/orders", limit("ask", "0.001"))
    until(lambda: sandbox.sandbox.exchange.state.resting[MARKET])
    _, taker, _ = call(sandbox, "POST", "/v1/orders", limit("bid", "0.003", smp_type="reduce"))
    seen = {own["uuid"]: ["wait"], taker["uuid"]: ["wait"]}
    while seen[taker["uuid"]][-1] != "prevented" or seen[own["uuid"]][-1] != "cancel":
        _, body = receive(client)
        seen[body["uuid"]].append(body["state"])
        if body["state"] == "prevented":
            assert (body["prevented_volume"], body["prevented_locked"]) == (0.001, 100050)
    _, found, _ = call(sandbox, "GET", "/v1/order", query=f"uuid={taker['uuid']}")
    assert (found["prevented_volume"], found["prevented_locked"], found["smp_type"]) == ("0.001", "100050", "reduce")
    client.shutdown()


def test_the_default_is_switched_through_the_control_interface(recorded: Any) -> None:
    sandbox = recorded(book_line(1774183627.0, MARKET, [(110000000.0, 1.0)], [(90000000.0, 1.0)]))
    body = {"market": MARKET, "side": "bid", "ord_type": "limit", "price": "100000000", "volume": "0.001"}
    assert "smp_type" not in call(sandbox, "POST", "/v1/orders", body)[1]
    refused = call(sandbox, "POST", "/v1/orders", body | {"smp_type": "none"})
    assert error_of(refused) == (400, "invalid_parameter")
    assert sandbox.control("POST", "/sandbox/switches", {"smp_default": "cancel_maker"})["smp_default"]
    made = call(sandbox, "POST", "/v1/orders", body)[1]
    assert made["smp_type"] == "cancel_maker"
    assert re.fullmatch(r".*trades_count.*smp_type.*", " ".join(made))
    assert call(sandbox, "POST", "/v1/orders", body | {"smp_type": "none"})[1]["smp_type"] == "none"
