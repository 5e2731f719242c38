"""What an account took from a recorded book stays taken, for that account, until the book shows otherwise."""

from producers.sandbox.feeds import BookView
from producers.sandbox.taken import Taken
from streams.market.matching import Level
from streams.market.ticks import E8

from .test_sandbox_smp import ASKS, BIDS, MARKET, Stage

BOOK = BookView(BIDS, ASKS, 1)


def seen(taken: Taken, account: str, book: BookView = BOOK) -> list[int]:
    return [level.lots for level in taken.visible(account, MARKET, book).asks]


def test_levels_stay_taken_for_one_account_until_their_size_changes() -> None:
    taken = Taken()
    taken.take("a", MARKET, BOOK, [Level(ASKS[0].price_e8, 2 * E8), Level(ASKS[1].price_e8, E8)], is_ask=True)
    assert seen(taken, "a") == [E8]
    assert seen(taken, "b") == [2 * E8, 2 * E8]
    again = BookView(BIDS, ASKS, 2)  # the same sizes in a later book
    taken.see(MARKET, again)
    assert seen(taken, "a", again) == [E8]
    taken.take("a", MARKET, again, [Level(ASKS[1].price_e8, E8 // 2)], is_ask=True)
    assert seen(taken, "a", again) == [E8 // 2]
    changed = BookView(BIDS, [ASKS[0]._replace(lots=3 * E8), ASKS[1]], 3)
    taken.see(MARKET, changed)
    assert seen(taken, "a", changed) == [3 * E8, E8 // 2]
    gone = BookView(BIDS, ASKS[:1], 4)
    taken.see(MARKET, gone)
    assert seen(taken, "a") == [2 * E8, 2 * E8]
    assert [level.lots for level in taken.visible("a", MARKET, BOOK).bids] == [2 * E8, 2 * E8]


def test_a_taker_of_a_recorded_book_does_not_get_the_same_lots_twice() -> None:
    stage = Stage(is_synthetic=False)
    first = stage.place("a", "bid", "110000000", "2")
    second = stage.place("a", "bid", "110001000", "1")
    other = stage.place("b", "bid", "110000000", "2")
    assert [fill.price_e8 // E8 for order in (first, second, other) for fill in order.fills] == [
        110_000_000, 110_001_000, 110_000_000,
    ]  # fmt: skip
    stage.exchange.on_frame(stage.market.show(MARKET, BIDS, [ASKS[0]._replace(lots=E8), ASKS[1]]))
    third = stage.place("a", "bid", "110000000", "0.5")
    assert third.state == "done"


def test_an_order_before_a_markets_first_book_waits_for_it() -> None:
    stage = Stage(is_synthetic=False)
    order = stage.exchange.accept("a", {"market": MARKET, "side": "bid", "ord_type": "price", "price": "10000"})
    stage.market.forget()  # as after a restart, when the feed begins anew
    stage.clock.advance(100)
    assert (order.state, order.fills) == ("wait", [])
    stage.exchange.on_frame(stage.market.show(MARKET, BIDS, ASKS))
    assert order.state == "cancel"
    assert order.executed_lots > 0
