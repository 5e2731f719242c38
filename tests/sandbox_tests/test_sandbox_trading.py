"""What fills a resting order in the synthetic market, and what an exchange does again that the disk undid."""

from typing import Any, cast

from infra.upbit.wire import plain_e8
from producers.sandbox.clock import MarketClock
from producers.sandbox.exchange import Exchange
from producers.sandbox.feeds import Frame
from producers.sandbox.journal import Journal
from producers.sandbox.synthetic import Plan, Synthetic
from producers.verify.scripted import MemoryJournal
from streams.market import matching
from streams.market.ledger import ATOMS
from streams.market.matching import Level
from streams.market.ticks import E8

from .test_sandbox_smp import ASKS, BIDS, MARKET, Stage

START = 1_790_000_000_000


class Played:
    """A synthetic market as its driver plays it, where one account rests at the best ask and another takes a little."""

    def __init__(self) -> None:
        self.market = Synthetic(Plan(market_count=1, books_per_second=10.0), START)
        for _ in self.market.run_until(START + 2_000):
            pass
        self.name = self.market.rows[0].market
        self._clock = MarketClock(lambda: self.market.clock_ms, lambda _seconds, _work: None)
        self.exchange = Exchange(
            self.market, cast("Journal", MemoryJournal()), now_ms=lambda: self.market.clock_ms, later=self._clock.later,
            publish=lambda _: None, burn_refused_identifiers=True, fill_delay_s=0.03, cancel_delay_s=0.03,
        )  # fmt: skip
        self.exchange.open()
        self.exchange.open_account("maker", {self.name.split("-")[1]: 10**5 * ATOMS})
        self.exchange.open_account("taker", {"KRW": 10**12 * ATOMS})

    def fills(self) -> dict[str, int]:
        """What every order of the maker has got."""
        return {order.uuid: order.executed_lots for order in self.exchange.of("maker")}

    def place(self) -> None:
        """Both at the best ask; the maker takes back what stands elsewhere."""
        book = self.market.book(self.name)
        assert book is not None
        price = plain_e8(book.asks[0].price_e8)
        self.exchange.cancel_all(self.exchange.waiting("maker"))
        body = {"market": self.name, "ord_type": "limit", "price": price}
        self.exchange.accept("maker", body | {"side": "ask", "volume": "5"})
        self.exchange.accept("taker", body | {"side": "bid", "volume": "0.01", "time_in_force": "ioc"})

    def frames(self, seconds: int) -> Any:
        """Each frame when it is about to be shown, after what fell due; says whether users traded just before it."""
        for frame in self.market.run_until(START + 2_000 + seconds * 1000):
            before = self.fills()
            self._clock.run_until(frame.exchange_ms)
            yield frame, self.fills() != before
            if frame.kind == "orderbook":
                self.place()


def test_a_trade_fills_resting_orders_by_its_own_size_whoever_traded_since() -> None:
    played = Played()
    seen = {True: 0, False: 0}
    for frame, has_met in played.frames(120):
        shown: Frame = frame
        if shown.print is None:
            played.exchange.on_frame(shown)
            continue
        resting = played.exchange.state.resting[played.name].values()
        level = Level(shown.print.price_e8, shown.print.lots)
        reached = matching.reached_by_trade(list(resting), level, is_buy=shown.print.is_buy)
        wanted = played.fills() | {order.uuid: order.executed_lots + part.lots for order, part in reached}
        played.exchange.on_frame(shown)
        assert played.fills() == wanted
        seen[has_met] += 1
    assert min(seen.values()) > 5, seen


def test_what_the_disk_undid_can_be_taken_again() -> None:
    stage = Stage(is_synthetic=False)
    kept = stage.place("a", "bid", "110000000", "0.5")
    journal: Any = stage.journal
    order = stage.exchange.accept("a", {
        "market": MARKET, "side": "bid", "ord_type": "limit", "price": "110000000", "volume": "3",
    })  # fmt: skip
    journal.hold()
    stage.clock.advance(30)
    assert order.executed_lots == (3 * E8) // 2
    journal.lose()
    assert stage.exchange.orders[order.uuid].executed_lots == 0
    stage.clock.advance(30)
    again = stage.exchange.orders[order.uuid]
    assert (again.state, again.executed_lots) == ("wait", 2 * E8)  # all that is shown, as after a restart
    assert stage.exchange.orders[kept.uuid].executed_lots == E8 // 2


def test_a_fill_that_was_undone_is_no_debt() -> None:
    stage = Stage(is_synthetic=False)
    journal: Any = stage.journal
    order = stage.exchange.accept("a", {
        "market": MARKET, "side": "bid", "ord_type": "limit", "price": "110000000", "volume": "3",
    })  # fmt: skip
    journal.hold()
    stage.clock.advance(30)
    assert order.executed_lots == 2 * E8
    journal.lose()
    stage.exchange.on_frame(stage.market.show(MARKET, BIDS, [ASKS[1]]))  # the ask at its price is gone meanwhile
    stage.clock.advance(30)
    stage.exchange.on_frame(stage.market.show(MARKET, BIDS, [ASKS[1]]))
    found = stage.exchange.truth()[0]
    assert [found[name] for name in ("pessimistic_volume", "executed_volume", "optimistic_volume")] == ["0"] * 3


def test_an_order_that_rested_queues_anew_when_the_journal_is_read_again() -> None:
    stage = Stage(is_synthetic=False)
    order = stage.place("a", "bid", "90000000", "1")
    journal: Any = stage.journal
    stage.clock.advance(1)
    stage.exchange.on_frame(stage.market.print(MARKET, 90_000_000 * E8, 2 * E8, is_buy=False))  # all that stood before
    journal.hold()
    stage.clock.advance(1)
    stage.exchange.on_frame(stage.market.print(MARKET, 90_000_000 * E8, E8, is_buy=False))
    assert order.state == "done"
    journal.lose()
    stage.clock.advance(1)
    stage.exchange.on_frame(stage.market.print(MARKET, 90_000_000 * E8, 2 * E8, is_buy=False))
    assert stage.exchange.orders[order.uuid].executed_lots == 0
    stage.clock.advance(1)
    stage.exchange.on_frame(stage.market.print(MARKET, 90_000_000 * E8, E8 // 2, is_buy=False))
    assert stage.exchange.orders[order.uuid].executed_lots == E8 // 2
