"""Queue places: hand-made cases with their figures, and the bounds over random orders, trades and books."""

from hypothesis import given
from hypothesis import strategies as st

from streams.market.matching import Level
from streams.market.queue import NOTHING, Bounds, Print, QueuePlace, everywhere, join, shown_at

ASKS = [Level(100, 30), Level(101, 0), Level(103, 7)]


def trade(lots: int, at_ms: int, *, is_through: bool = False, lag_ms: int = 0, taken: Bounds = NOTHING) -> Print:
    return Print(lots, taken, is_through, at_ms - lag_ms, at_ms)


def test_what_is_shown_at_a_price() -> None:
    assert [shown_at(price, ASKS, is_buy=False) for price in (99, 100, 102, 103, 104)] == [0, 30, 0, 7, None]
    bids = [Level(99, 5), Level(97, 6)]
    assert [shown_at(price, bids, is_buy=True) for price in (100, 99, 98, 97, 96)] == [0, 5, 0, 6, None]
    assert shown_at(99, [], is_buy=True) is None


def test_trades_move_the_queue_and_then_fill() -> None:
    place = join(10, shown=30, at_ms=1000)
    assert place.on_trade(trade(20, 1010)) == Bounds(0, 0, 10)
    assert place.ahead == Bounds(10, 10, 0)
    assert place.on_trade(trade(14, 1020)) == Bounds(4, 4, 0)
    assert place.filled == Bounds(4, 4, 10)


def test_what_leaves_without_a_trade_is_shared_out() -> None:
    place = join(10, shown=40, at_ms=1000)
    place.on_book(80, 1100)  # forty joined behind us
    assert place.ahead == Bounds(40, 40, 0)
    place.on_book(60, 1200)  # twenty went: half of them stood before us
    assert place.ahead == Bounds(40, 30, 0)
    place.on_trade(trade(10, 1210))
    place.on_book(50, 1300)  # all of that was the trade
    assert place.ahead == Bounds(30, 20, 0)
    place.on_book(5, 1400)
    assert place.ahead == Bounds(5, 2, 0)


def test_what_a_book_already_shows_is_not_counted_again() -> None:
    place = join(10, shown=40, at_ms=1000)
    place.on_book(10, 1100)
    assert place.on_trade(trade(30, 1100)) == Bounds(0, 0, 10)
    assert place.ahead == Bounds(10, 10, 0)
    # the match lies before the book and the message after it: nobody knows, the bounds differ
    assert place.on_trade(trade(12, 1120, lag_ms=40)) == Bounds(0, 2, 0)
    assert place.ahead == Bounds(10, 0, 0)


def test_a_trade_through_the_price_passes_everybody() -> None:
    place = join(10, shown=40, at_ms=1000)
    assert place.on_trade(trade(4, 1010, is_through=True)) == everywhere(4)
    assert place.ahead == NOTHING
    early = join(10, shown=40, at_ms=1000)
    assert early.on_trade(trade(4, 1020, is_through=True, lag_ms=30)) == Bounds(0, 4, 4)
    assert early.ahead == Bounds(40, 0, 0)


def test_a_level_that_was_never_shown_is_joined_behind_all_that_appears() -> None:
    place = join(10, shown=None, at_ms=1000)
    assert place.on_trade(trade(5, 1010)) == Bounds(0, 0, 5)
    place.on_book(None, 1100)
    place.on_book(25, 1200)
    assert place.ahead == Bounds(25, 25, 0)
    assert place.on_cross(6) == Bounds(6, 6, 5)
    assert place.filled == Bounds(6, 6, 10)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["trade", "trade", "through", "book", "book", "cross"]),
        st.integers(0, 50),
        st.integers(0, 40),
        st.integers(0, 40),
    ),
    max_size=60,
)


def play(places: list[QueuePlace], kind: str, lots: int, now_ms: int, lag_ms: int) -> None:
    """One event over orders of ours at one price, the first with priority."""
    taken = NOTHING
    for place in places:
        if kind == "book":
            place.on_book(lots if lots < 45 else None, now_ms)
        elif kind == "cross":
            taken = taken.plus(place.on_cross(max(lots - taken.optimistic, 0)))
        else:
            taken = taken.plus(
                place.on_trade(Print(lots, taken, kind == "through", now_ms - lag_ms, now_ms))
            )  # fmt: skip


@given(st.lists(st.integers(1, 60), min_size=1, max_size=3), st.one_of(st.none(), st.integers(0, 60)), EVENTS)
def test_the_estimate_lies_within_its_bounds_and_nothing_is_filled_beyond_what_came(
    wanted: list[int], shown: int | None, events: list[tuple[str, int, int, int]]
) -> None:
    now_ms, came = 1000, 0
    places = [join(lots, shown, now_ms) for lots in wanted]
    for kind, lots, step_ms, lag_ms in events:
        now_ms += step_ms
        if kind != "book":
            came += lots
        before = [place.filled for place in places]
        play(places, kind, lots, now_ms, lag_ms)
        for place, old in zip(places, before, strict=True):
            assert 0 <= place.filled.pessimistic <= place.filled.estimate <= place.filled.optimistic <= place.wanted
            assert min(place.filled.minus(old)) >= 0
            if place.ahead is not None:
                assert 0 == place.ahead.optimistic <= place.ahead.estimate <= place.ahead.pessimistic
        for way in range(3):
            assert sum(place.filled[way] for place in places) <= came


@given(st.integers(1, 60), st.integers(0, 60), EVENTS)
def test_the_true_place_lies_between_the_bounds(
    wanted: int, shown: int, events: list[tuple[str, int, int, int]]
) -> None:
    """A queue whose truth is known: others ahead and behind, trades from the front, cancels where `lag` says."""
    place = join(wanted, shown, 1000)
    ahead, behind, filled, now_ms = shown, 0, 0, 1000
    for kind, lots, step_ms, lag_ms in events:
        now_ms += step_ms + 1
        if kind == "trade":
            place.on_trade(trade(min(lots, ahead + behind), now_ms))
            volume = min(lots, ahead + behind)
            reached = max(0, volume - ahead)
            filled = min(wanted, filled + reached)
            ahead, behind = max(0, ahead - volume), behind - max(0, volume - ahead)
        elif kind == "book":
            ahead -= min(ahead, lag_ms)
            behind = max(0, behind + lots - 25)
            place.on_book(ahead + behind, now_ms)
        else:
            continue
        assert place.filled.pessimistic <= filled <= place.filled.optimistic
        assert place.ahead is not None
        assert place.ahead.pessimistic >= ahead
