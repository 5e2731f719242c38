"""The same records give the same fills: in batches of any size, followed or recorded, one of them unreadable."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.memory_log import MemoryLog
from producers.sandbox import drivers
from producers.sandbox.clock import MarketClock
from producers.sandbox.exchange import Exchange
from producers.sandbox.feeds import Frame
from producers.sandbox.follow import Follow
from producers.sandbox.hub import Hub
from producers.sandbox.journal import Journal
from producers.sandbox.limits import Limits
from producers.sandbox.logged import Batch, Tail
from producers.sandbox.outside import Line, Outside
from producers.sandbox.recording import Recording, Survey
from producers.sandbox.thread import SandboxThread
from producers.verify.scripted import MemoryJournal
from streams.market.ledger import ATOMS
from streams.messages import OrderBook, Trade, encode, key_of
from streams.process import topic_specs

from .test_sandbox_orders import until

MARKETS = ("KRW-BTC", "KRW-ETH")
START = 1_790_000_000_000
MIDDLE = 100_000_000
OPENING = len(MARKETS)
LINES = 300


def book(at_ms: int, market: str, number: int, bid: int, sizes: list[float]) -> Line:
    """A book with a spread of two ticks."""
    body = OrderBook(
        exchange="upbit", market=market, source="s", session=1, exchange_ms=at_ms, received_ns=at_ms * 10**6,
        bid_prices=[float(bid - 1000 * i) for i in range(2)], bid_sizes=sizes[:2],
        ask_prices=[float(bid + 2000 + 1000 * i) for i in range(2)], ask_sizes=sizes[2:],
    )  # fmt: skip
    return Line(at_ms * 10**6, b"", "orderbook", market, at_ms, body, f"orderbooks/0/{number}")


def trade(at_ms: int, market: str, number: int, price: float, size: float, *, is_buy: bool) -> Line:
    """A trade by others."""
    body = Trade(
        exchange="upbit", market=market, source="s", session=1, exchange_ms=at_ms, trade_ms=at_ms,
        received_ns=at_ms * 10**6, trade_id=number, price=price, size=size, is_buy=is_buy,
    )  # fmt: skip
    return Line(at_ms * 10**6, b"", "trade", market, at_ms, body, f"trades/0/{number}")


def lines(seed: int = 1, count: int = LINES) -> list[Line]:
    """Books that jump over each other's quotes, and trades at the touch; the first ones open the markets."""
    draw, at_ms = random.Random(seed), START
    found = [book(at_ms, market, number, MIDDLE, [1.0] * 4) for number, market in enumerate(MARKETS)]
    bids = dict.fromkeys(MARKETS, MIDDLE)
    for number in range(OPENING, count):
        at_ms += draw.choice((1, 1, 5, 20, 45))
        market = draw.choice(MARKETS)
        if draw.random() < 0.6:
            bids[market] = MIDDLE + 1000 * draw.randint(-6, 6)
            found.append(book(at_ms, market, number, bids[market], [draw.choice((0.5, 1.0, 2.0)) for _ in range(4)]))
        else:
            is_buy = draw.random() < 0.5
            price = bids[market] + (2000 if is_buy else 0)
            found.append(trade(at_ms, market, number, float(price), draw.choice((0.2, 0.7, 1.5)), is_buy=is_buy))
    return found


class Cut:
    """A tail of the log that has what it is to give: what opened the markets, then the rest, cut as told."""

    def __init__(self, rows: list[Line], sizes: Iterable[int]) -> None:
        self._batches = self._cut(rows, sizes)

    def _cut(self, rows: list[Line], sizes: Iterable[int]) -> Iterator[Batch]:
        at = 0
        for size in itertools.chain([OPENING], sizes):
            if rows[at : at + size]:
                yield Batch(rows[at : at + size], [], {0: START}, is_caught_up=True)
            at += size

    def read(self) -> Batch | None:
        return next(self._batches, None)

    def close(self) -> None:
        pass


class Given:
    """The same records as the source of a recording."""

    def __init__(self, rows: list[Line]) -> None:
        self._rows = rows

    def survey(self, skipped: Counter[str]) -> Survey:
        _ = skipped
        return Survey(dict.fromkeys(MARKETS, MIDDLE * 10**8), START, {})

    def lines(self) -> Iterator[Line]:
        return iter(self._rows)


def followed(rows: list[Line], sizes: Iterable[int]) -> Follow:
    return Follow(cast("Tail", Cut(rows, sizes)), stale_ms=1_000, now_ms=lambda: START)


def fills(feed: Outside) -> list[Any]:
    """Play it with orders at fixed records; everything that became of them but their names."""
    clock = MarketClock(lambda: feed.clock_ms, lambda _seconds, _work: None)
    exchange = Exchange(
        feed, cast("Journal", MemoryJournal()), now_ms=lambda: feed.clock_ms, later=clock.later,
        publish=lambda _: None, burn_refused_identifiers=False, fill_delay_s=0.03, cancel_delay_s=0.03,
    )  # fmt: skip
    exchange.open()
    exchange.open_account("a", {"KRW": 10**13 * ATOMS})

    def on_frame(frame: Frame) -> None:
        exchange.on_frame(frame)
        number = int(frame.source.rsplit("/", 1)[1])
        if number >= OPENING and number % 5 == 0:
            price = MIDDLE + 1000 * (number % 9 - 4)
            body = {"market": frame.market, "side": "bid", "ord_type": "limit", "price": str(price), "volume": "1.5"}
            exchange.accept("a", body | ({"time_in_force": "ioc"} if number % 2 else {}))
            if number % 15 == 0:
                exchange.cancel_all(list(exchange.waiting("a"))[3:])

    asyncio.run(driven(feed, on_frame, clock.run_until))
    bounds = exchange._trading.queues.bounds
    orders = [(order.state, order.executed_lots, bounds(order)) for order in exchange.orders.values()]
    names = ("order", "uuid")
    return [*orders, *({key: value for key, value in row.items() if key not in names} for row in exchange.fills())]


async def driven(feed: Outside, on_frame: Callable[[Frame], None], before: Callable[[int], None]) -> None:
    hub = Hub(feed, lambda: None, limits=Limits(is_limited=False))
    if isinstance(feed, Follow):
        await drivers.drive_follow(feed, hub, on_frame, before=before)
    elif isinstance(feed, Recording):
        start = asyncio.Event()
        start.set()
        await drivers.drive_recording(feed, hub, on_frame, before=before, speed=1e6, subscribed=start)


@pytest.fixture(scope="module")
def one_by_one() -> list[Any]:
    return fills(followed(lines(), itertools.repeat(1, LINES)))


@pytest.mark.parametrize("size", [2, 3, 7, 50, LINES])
def test_batches_of_any_size_give_the_same_fills(one_by_one: list[Any], size: int) -> None:
    rows = [row for row in one_by_one if isinstance(row, dict)]
    assert len(rows) > 40
    assert {row["is_maker"] for row in rows} == {True, False}
    assert {row["book"].partition("/")[0] for row in rows} == {"orderbooks", "trades"}
    assert fills(followed(lines(), itertools.repeat(size, LINES))) == one_by_one


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), sizes=st.lists(st.integers(1, 40), min_size=60, max_size=60))
def test_any_records_cut_anywhere_give_the_same_fills(seed: int, sizes: list[int]) -> None:
    rows = lines(seed, 60)
    assert fills(followed(rows, sizes)) == fills(followed(rows, itertools.repeat(1, 60)))


def test_the_same_records_played_as_a_recording_give_the_same_fills(one_by_one: list[Any]) -> None:
    assert fills(Recording(Given(lines()))) == one_by_one


def test_a_fill_names_the_record_that_crossed_and_none_after_it() -> None:
    rows = [
        book(START, "KRW-BTC", 0, MIDDLE, [1.0] * 4),
        book(START, "KRW-ETH", 1, MIDDLE, [1.0] * 4),
        trade(START + 1, "KRW-BTC", 10, MIDDLE, 0.1, is_buy=False),  # after it a bid comes to rest 3,000 below
        book(START + 100, "KRW-BTC", 11, MIDDLE, [1.0] * 4),
        book(START + 200, "KRW-BTC", 12, MIDDLE - 6000, [2.0] * 4),
        book(START + 300, "KRW-BTC", 13, MIDDLE, [1.0] * 4),
    ]
    found = [row for row in fills(followed(rows, [4])) if isinstance(row, dict)]
    assert [(row["book"], row["book_ms"], row["is_maker"]) for row in found] == [("orderbooks/0/12", START + 200, True)]


# --- records that nobody can read ---------------------------------------------------------------------------------


def sound(**values: Any) -> OrderBook:
    (row,) = [row.body for row in lines()[:1]]
    assert isinstance(row, OrderBook)
    return OrderBook(**{name: getattr(row, name) for name in OrderBook.__struct_fields__} | values)


@pytest.mark.parametrize(
    "change",
    [
        {"bid_sizes": [1.0]}, {"ask_prices": []}, {"bid_sizes": [-1.0, 1.0]}, {"ask_sizes": [1e308, 1e308]},
        {"ask_sizes": [5e10, 5e10]}, {"ask_prices": [float("nan"), 1.0]}, {"bid_sizes": [float("inf"), 1.0]},
        {"ask_sizes": [None, 1.0]},
    ],
    ids=str,
)  # fmt: skip
def test_an_unreadable_book_is_counted_and_the_last_one_stands(change: dict[str, Any]) -> None:
    market = Outside()
    first = lines()[0]
    market.take_line(first)
    assert market.take_line(first._replace(body=sound(**change))) is None
    assert market.skipped == {"unreadable book": 1}
    found = market.book("KRW-BTC")
    assert found is not None
    assert found.source == first.source


@pytest.mark.parametrize(
    "change",
    [
        {"price": float("nan")}, {"size": 1e308}, {"price": -1.0}, {"trade_ms": 10**18}, {"trade_id": -1},
        {"trade_id": 2**70},
    ],
    ids=str,
)  # fmt: skip
def test_an_unreadable_trade_is_counted_and_passed_on_to_nobody(change: dict[str, Any]) -> None:
    market = Outside()
    line = trade(START, "KRW-BTC", 1, float(MIDDLE), 1.0, is_buy=True)
    assert isinstance(line.body, Trade)
    body = Trade(**{name: getattr(line.body, name) for name in Trade.__struct_fields__} | change)
    assert market.take_line(line._replace(body=body)) is None
    assert market.skipped == {"unreadable trade": 1}
    assert market.markets() == []


@pytest.mark.parametrize("value", [None, "soon", 1.5])
def test_a_recorded_frame_that_nobody_can_read_is_still_passed_on(value: object) -> None:
    market = Outside()
    body = {"trade_price": 1.0, "trade_volume": 1.0, "ask_bid": "BID", "sequential_id": 1, "trade_timestamp": value}
    frame = market.take_line(Line(1, b"its own bytes", "trade", "KRW-BTC", START, body, "r.log:1"))
    assert frame is not None
    assert (frame.print, frame.source) == (None, "r.log:1")
    assert market.skipped == {"unreadable trade": 1}


def test_an_unreadable_record_of_the_log_does_not_end_the_sandbox(memory_log: MemoryLog, tmp_path: Path) -> None:
    memory_log.create_topics(topic_specs())
    publisher = memory_log.publisher(linger_ms=0)

    def publish(body: OrderBook) -> None:
        publisher.publish("orderbooks", key_of("upbit", "KRW-BTC"), encode(body))
        publisher.flush()

    publish(sound())
    log = MemoryLog("", beside=memory_log)
    with SandboxThread(tmp_path, kind="follow", followed_log=lambda: log) as sandbox:
        until(lambda: sandbox.status()["is_warm"])
        publish(sound(bid_sizes=[1.0]))
        until(lambda: sandbox.status()["follow"]["skipped"] == {"unreadable book": 1})
        publish(sound(exchange_ms=START + 7))
        feed = sandbox.sandbox.feed
        until(lambda: (feed.book("KRW-BTC") or (None,) * 3)[2] == START + 7)
