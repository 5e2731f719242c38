"""Paper orders over an outage of ours: the ledger with a gap equals the ledger without, wherever the kill fell."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from infra.log import Slot, partition_of
from infra.memory_log import MemoryLog
from producers.sandbox.clock import MarketClock
from producers.sandbox.exchange import Exchange
from producers.sandbox.follow import Follow
from producers.sandbox.journal import Journal
from producers.sandbox.logged import Tail
from producers.sandbox.settle import Settlement
from streams.market.ledger import ATOMS
from streams.messages import Heartbeat, Hole, Message, OrderBook, Trade, encode, key_of
from streams.process import topic_specs

MARKETS = ("KRW-BTC", "KRW-ETH", "KRW-XRP")
START = 1_790_000_000_000
MIDDLE = 100_000_000
COUNT = 420
OUTAGE = (150, 330)
"""Records that come while the sandbox is down: ten minutes and more of this market's time."""
SLOWED = 240
"""Every record is so many times further from the one before than a live one."""


class Draw:
    """A small generator that is the same on every Python."""

    def __init__(self, seed: int) -> None:
        self._state = seed * 2 + 1

    def below(self, count: int) -> int:
        self._state = self._state * 6364136223846793005 % 2**64
        return (self._state >> 33) % count


def messages(seed: int = 1) -> list[Message]:
    """Books that jump over each other's quotes, trades at the touch, heartbeats of both topics between."""
    draw, at_ms = Draw(seed), START
    found: list[Message] = []
    bids = dict.fromkeys(MARKETS, MIDDLE)
    for number in range(COUNT):
        at_ms += (1, 1, 5, 20, 45)[draw.below(5)] * SLOWED
        market = MARKETS[number % 3] if number < 3 else MARKETS[draw.below(3)]
        common: dict[str, Any] = {"exchange": "upbit", "source": "s", "session": 1}
        times: dict[str, Any] = {"market": market, "exchange_ms": at_ms, "received_ns": at_ms * 10**6}
        if number < 3 or draw.below(10) < 6:
            bids[market] = MIDDLE + 1000 * (draw.below(13) - 6)
            found.append(OrderBook(
                **common, **times, bid_prices=[float(bids[market] - 1000 * i) for i in range(2)],
                bid_sizes=[(0.5, 1.0, 2.0)[draw.below(3)] for _ in range(2)],
                ask_prices=[float(bids[market] + 2000 + 1000 * i) for i in range(2)],
                ask_sizes=[(0.5, 1.0, 2.0)[draw.below(3)] for _ in range(2)],
            ))  # fmt: skip
        elif draw.below(12) == 0:
            found.append(Heartbeat(**common, count=0, event_ms=at_ms, complete_from_ms=START, markets=[market]))
        else:
            is_buy = draw.below(2) == 0
            price, size = float(bids[market] + 2000 * is_buy), (0.2, 0.7, 1.5)[draw.below(3)]
            found.append(Trade(
                **common, **times, trade_ms=at_ms, trade_id=number, price=price, size=size, is_buy=is_buy
            ))  # fmt: skip
    return found


class World:
    """The log, and a sandbox on it that can be killed and started again; what it was told stands in `told`."""

    def __init__(self, path: Path) -> None:
        self.at_ms = START
        self.log = MemoryLog(clock_ms=lambda: self.at_ms)
        self.log.create_topics(topic_specs())
        self._publisher = self.log.publisher()
        self.path = path
        self.told: list[str] = []
        self.start()

    def write(self, message: Any, topic: str | None = None) -> None:
        market = message.markets[0] if isinstance(message, Heartbeat | Hole) else message.market
        self.at_ms = max(self.at_ms, getattr(message, "exchange_ms", self.at_ms))
        default = "trades" if isinstance(message, Trade) else "orderbooks"
        self._publisher.publish(topic or default, key_of("upbit", market), encode(message))

    def start(self) -> None:
        self.journal = Journal(self.path)
        self.is_up = True
        self.feed = Follow(
            Tail(lambda: MemoryLog("", beside=self.log), hold_s=0.0), stale_ms=10**9, now_ms=lambda: self.at_ms
        )  # fmt: skip
        self.clock = MarketClock(lambda: self.feed.clock_ms, lambda _seconds, _work: None)
        self.exchange = Exchange(
            self.feed, self.journal, now_ms=self.feed.now_ms, later=self.clock.later, publish=lambda _: None,
            burn_refused_identifiers=False, fill_delay_s=0.03, cancel_delay_s=0.03,
            settlement=Settlement(self.feed, self.clock),
        )  # fmt: skip
        self.exchange.listeners.append(lambda _account, kind, _market, body: self._hear(kind, body))
        self.exchange.open()
        if not self.exchange.accounts:
            self.exchange.open_account("a", {"KRW": 10**13 * ATOMS, "ETH": 10**6 * ATOMS})
        while not self.feed.is_warm:
            self.read()

    def _hear(self, kind: str, body: dict[str, Any]) -> None:
        if kind == "myOrder" and body["state"] == "trade":
            self.told.append(body["uuid"])

    def kill(self) -> None:
        if self.is_up:
            self.journal.close()
        self.is_up = False

    def read(self) -> None:
        batch = self.feed.tail.read(0.0)
        for frame in self.feed.take_batch(batch, self.clock.run_until):
            self.exchange.on_frame(frame)

    def order(self, number: int) -> None:
        market = MARKETS[number % 3]
        price = MIDDLE + 1000 * (1 - number % 6)
        body = {"market": market, "side": "bid", "ord_type": "limit", "price": str(price), "volume": "5"}
        if market == "KRW-ETH":
            body |= {"side": "ask", "price": str(MIDDLE + 1000 * (number % 6 + 1))}
        more = {"identifier": f"o{number}"} | ({"time_in_force": "ioc"} if number % 4 == 1 else {})
        self.exchange.accept("a", body | more)
        if number % 15 == 0:
            self.exchange.cancel_all(list(self.exchange.waiting("a"))[4:6])

    def ledger(self) -> dict[str, Any]:
        """Everything that became of the orders, without names that are drawn anew."""
        names = {order.uuid: order.identifier for order in self.exchange.orders.values()}
        fills = [
            {"order": names[row["order"]]} | {k: v for k, v in row.items() if k not in {"order", "uuid"}}
            for row in self.exchange.fills()
        ]
        orders = [
            {k: v for k, v in row.items() if k not in {"uuid", "created_ms"}} for row in self.exchange.truth()
        ]  # fmt: skip
        return {"fills": fills, "orders": orders, "balances": self.exchange.balances()}

    def digest(self) -> str:
        return hashlib.blake2b(json.dumps(self.ledger(), sort_keys=True).encode(), digest_size=16).hexdigest()


Act = Callable[["World", int], None]


def placing(world: World, number: int) -> None:
    """Orders at fixed records outside the outage; one in the very moment before it."""
    in_outage = OUTAGE[0] <= number < OUTAGE[1]
    if number >= 6 and not in_outage and (number % 7 == 0 or number == OUTAGE[0] - 1):
        world.order(number)


def play(world: World, rows: list[Message], *, outage: tuple[int, int] | None = None, act: Act = placing) -> World:
    for number, row in enumerate(rows):
        if outage is not None and number == outage[0]:
            world.kill()
        world.write(row)
        if outage is None or not outage[0] <= number < outage[1]:
            if outage is not None and number == outage[1]:
                world.start()
            world.read()
            act(world, number)
    world.kill()
    return world


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> World:
    return play(World(tmp_path_factory.mktemp("without") / "journal"), messages())


def test_the_ledger_with_an_outage_equals_the_ledger_without(without: World, tmp_path: Path) -> None:
    rows = messages()
    assert time_of(rows[OUTAGE[1]]) - time_of(rows[OUTAGE[0]]) > 600_000
    found = play(World(tmp_path / "journal"), rows, outage=OUTAGE)
    gap = [f for f in without.ledger()["fills"] if is_between(rows, f["book_ms"], OUTAGE)]
    assert len(gap) > 10  # without settlement these would be missing
    assert found.ledger() == without.ledger()
    assert found.digest() == without.digest()
    assert found.exchange.unsettled() == []
    assert all(f["at_ms"] == f["book_ms"] for f in found.ledger()["fills"] if f["is_maker"])


def time_of(row: Any) -> int:
    return int(row.event_ms if isinstance(row, Heartbeat) else row.exchange_ms)


def is_between(rows: list[Message], at_ms: int, outage: tuple[int, int]) -> bool:
    return time_of(rows[outage[0]]) <= at_ms < time_of(rows[outage[1]])


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_any_market_and_cut(tmp_path: Path, seed: int) -> None:
    rows = messages(seed)
    rows = [row for row in rows if not isinstance(row, Heartbeat)][: OUTAGE[1] + 40]
    want = play(World(tmp_path / "want"), rows).ledger()
    first = OUTAGE[0] + seed
    assert play(World(tmp_path / "found"), rows, outage=(first, OUTAGE[1])).ledger() == want


def cuts(path: Path) -> Iterator[int]:
    """Lengths at which a kill may have left the journal: whole lines, and the middle of one."""
    data = path.read_bytes()
    at = 0
    for line in data.splitlines(keepends=True):
        at += len(line)
        yield at
    yield at - 7


def test_a_kill_at_any_line_settles_each_record_once(without: World, tmp_path: Path) -> None:
    """What the disk had not when the process died is settled again from the log, also twice in a row."""
    rows = messages()
    before = play(World(tmp_path / "before"), rows[: OUTAGE[1]], outage=(OUTAGE[0], OUTAGE[1]))
    asked = max(number for number, line in enumerate(before.path.read_text().splitlines()) if "created_ms" in line)
    before.start()
    before.kill()
    lengths = list(cuts(before.path))[asked:]
    assert len(lengths) > 5
    data = before.path.read_bytes()
    want = None
    for length in lengths:
        before.path.write_bytes(data[:length])
        before.start()
        found = before.ledger()
        before.kill()
        want = want or found
        assert found == want
    assert want is not None
    end_ms = time_of(rows[OUTAGE[1]])
    later = {"pessimistic_volume", "optimistic_volume"}  # of the whole order, which went on in the other life
    with_gap, whole = (
        [{k: v for k, v in fill.items() if k not in later} for fill in fills if fill["book_ms"] < end_ms]
        for fills in (want["fills"], without.ledger()["fills"])
    )
    assert with_gap == whole


def test_the_owner_is_told_of_fills_in_the_gap(tmp_path: Path) -> None:
    world = play(World(tmp_path / "journal"), messages()[: OUTAGE[0]])
    for row in messages()[OUTAGE[0] : OUTAGE[1]]:
        world.write(row)
    world.told.clear()
    world.start()
    assert world.told
    assert {f["order"] for f in world.exchange.fills()} >= set(world.told)
    world.kill()


def test_a_cancel_on_its_way_ends_before_the_gap(tmp_path: Path) -> None:
    """The cancel was accepted before the kill: no record of the gap may fill the order."""
    world = World(tmp_path / "journal")
    for row in messages()[:3]:
        world.write(row)
        world.read()
    body = {"market": "KRW-BTC", "side": "bid", "ord_type": "limit", "price": "99000000", "volume": "1"}
    kept = world.exchange.accept("a", body | {"identifier": "kept"})
    gone = world.exchange.accept("a", body | {"identifier": "gone"})
    world.write(book_at(world, 100_000_000))
    world.read()
    world.exchange.cancel(gone)
    world.kill()
    world.write(book_at(world, 90_000_000))
    world.start()
    states = {order.identifier: (order.state, order.executed_lots > 0) for order in world.exchange.orders.values()}
    assert states == {"kept": ("done", True), "gone": ("cancel", False)}
    assert kept.uuid in world.exchange.orders
    world.kill()


def book_at(world: World, bid: int) -> OrderBook:
    at_ms = world.at_ms + 1_000
    return OrderBook(
        exchange="upbit", source="s", session=1, market="KRW-BTC", exchange_ms=at_ms, received_ns=at_ms * 10**6,
        bid_prices=[float(bid)], bid_sizes=[1.0], ask_prices=[float(bid + 2000)], ask_sizes=[5.0],
    )  # fmt: skip


def beat(event_ms: int, session: int, complete_from_ms: int) -> Heartbeat:
    return Heartbeat(
        exchange="upbit", source="s", session=session, count=0, event_ms=event_ms,
        complete_from_ms=complete_from_ms, markets=["KRW-BTC"],
    )  # fmt: skip


def resting_in_btc(tmp_path: Path) -> World:
    world = World(tmp_path / "journal")
    world.write(book_at(world, 100_000_000))
    world.read()
    body = {"market": "KRW-BTC", "side": "bid", "ord_type": "limit", "price": "99000000", "volume": "1"}
    world.exchange.accept("a", body | {"identifier": "rests"})
    world.write(book_at(world, 100_000_000))
    for topic in ("orderbooks", "trades"):
        world.write(beat(world.at_ms, 1, START), topic)
    world.read()
    return world


@pytest.mark.parametrize("was_down", [False, True])
def test_a_hole_of_the_feed_is_not_settled_and_never_called_unfilled(tmp_path: Path, was_down: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    world = resting_in_btc(tmp_path)
    silent_ms = world.at_ms
    if was_down:
        world.kill()
    world.at_ms += 600_000
    for topic in ("orderbooks", "trades"):
        world.write(beat(world.at_ms, 2, world.at_ms), topic)
    world.write(book_at(world, 100_000_000))
    if was_down:
        world.start()
    else:
        world.read()
    (row,) = world.exchange.unsettled()
    (order,) = world.exchange.orders.values()
    assert (row["settled"], row["orders"]) == ("not settled: no data", [order.uuid])
    assert (row["from_ms"], row["to_ms"] - row["from_ms"]) == (silent_ms, 600_000)
    through = Trade(
        exchange="upbit", source="s", session=2, market="KRW-BTC", exchange_ms=silent_ms + 5_000,
        trade_ms=silent_ms + 5_000, received_ns=1, trade_id=77, price=98_000_000.0, size=0.4, is_buy=False,
        origin="backfill",
    )  # fmt: skip
    world.write(through)
    world.write(msgspec.structs.replace(through, trade_id=78, exchange_ms=START, trade_ms=START))  # before the hole
    world.read()
    world.kill()
    world.start()  # once more: nothing happens twice
    (row,) = world.exchange.unsettled()
    (fill,) = world.exchange.fills()
    assert row["settled"] == "trades only"
    assert (fill["lots"], fill["at_ms"], fill["is_maker"]) == (40_000_000, silent_ms + 5_000, True)
    world.kill()


def test_records_that_retention_took_are_not_settled(tmp_path: Path) -> None:
    world = resting_in_btc(tmp_path)
    known_ms = world.feed.clock_ms
    world.kill()
    for _ in range(5):
        world.write(book_at(world, 90_000_000))
    world.write(book_at(world, 100_000_000))
    world.log.truncate(Slot("orderbooks", partition_of(key_of("upbit", "KRW-BTC"), 12)), 8)
    world.start()
    (order,) = world.exchange.orders.values()
    assert order.state == "wait"
    (row,) = world.exchange.unsettled()
    assert row["settled"] == "not settled: no data"
    assert row["from_ms"] <= known_ms < row["to_ms"]  # from the last place that the journal tells
    world.kill()


def test_a_window_in_which_the_sandbox_died_fills_nothing_and_ends_with_the_restart(tmp_path: Path) -> None:
    world = resting_in_btc(tmp_path)
    body = {"market": "KRW-BTC", "side": "bid", "ord_type": "limit", "price": "99500000", "volume": "1"}
    world.exchange.accept("a", body | {"identifier": "beyond"})
    world.write(book_at(world, 100_000_000))
    world.read()
    world.exchange.halt({"KRW-BTC": 9_920_000_000_000_000})
    world.write(book_at(world, 90_000_000))
    world.read()
    world.kill()
    world.write(book_at(world, 90_000_000))
    world.write(book_at(world, 100_000_000))
    world.start()
    states = {order.identifier: (order.state, order.executed_lots) for order in world.exchange.orders.values()}
    assert states == {"rests": ("wait", 0), "beyond": ("cancel", 0)}
    world.write(book_at(world, 90_000_000))
    world.read()
    (order, _) = world.exchange.orders.values()
    assert order.state == "done"
    world.kill()
