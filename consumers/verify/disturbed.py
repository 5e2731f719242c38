"""A market-data log with everything that goes wrong in it, made from a seed: the input of `verify parity`.

Late and duplicate records, records far ahead, declared and undeclared holes, back-filled trades, a second source that
takes markets over, a producer's restart, and a zombie of the old session that keeps writing. Pure and deterministic.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from infra.log import partition_of
from streams.messages import Heartbeat, Hole, Message, OrderBook, Trade, encode, key_of
from streams.topics import TOPICS

GRID_MS = 1_000
LATENESS_MS = 500
EXCHANGE = "upbit"
PARTITIONS = TOPICS["orderbooks"].partitions


class Written(NamedTuple):
    """One record as a producer writes it, with the simulated time of writing."""

    at_ms: int
    topic: str
    partition: int
    key: str
    value: bytes


@dataclass(slots=True)
class _Price:
    mid: float
    tick: float


@dataclass(slots=True)
class _Session:
    """One producer session: what it speaks for and what it has written per partition."""

    source: str
    session: int
    start_ms: int
    end_ms: int
    markets: list[str]
    lag_ms: int
    complete_from_ms: int = 0
    counts: dict[tuple[str, int], int] = field(default_factory=dict)


def partition_for(market: str) -> int:
    """Partition of a market's records."""
    return partition_of(key_of(EXCHANGE, market), PARTITIONS)


def disturbed_log(
    markets: int,
    seconds: int,
    seed: int = 1,
    *,
    books_per_second: float = 1.5,
    levels: int = 15,
    lost_share: float = 2e-4,
) -> list[Written]:
    """Write the log: `markets` markets over `seconds` of market time, sorted by time of writing.

    `lost_share` of the records are lost on the way: each ends the runs of all markets in its partition.
    """
    names = [f"KRW-T{i:03d}" for i in range(markets)]
    start = 1_700_000_000_000
    half, most = markets // 2, markets - markets // 5
    third = start + seconds * 1000 // 3
    end = start + seconds * 1000
    sessions = [
        # The first source ends at two thirds; its zombie goes on beside the restarted producer.
        _Session("upbit-0", start, start, start + 2 * seconds * 1000 // 3 + 20_000, names[:most], 40),
        _Session("upbit-1", start + 7, start + 3_000, end, names[most:], 90),
        # A hand-over: a third source takes some markets of the first one over while that one still writes them.
        _Session("upbit-2", third, third, end, names[half:most], 60),
        _Session("upbit-0", third * 2 - start, third * 2 - start, end, names[:half], 40),
    ]
    written: list[Written] = []
    for number, session in enumerate(sessions):
        written += _write(session, random.Random(seed * 1_000 + number), books_per_second, levels, lost_share)  # noqa: S311 a simulation
    written.sort(key=lambda record: record.at_ms)
    return written


def _write(
    session: _Session, rng: random.Random, books_per_second: float, levels: int, lost_share: float
) -> Iterator[Written]:
    """One session's records in the order it writes them."""
    prices = {name: _Price(10 ** rng.uniform(1, 6), 0.0) for name in session.markets}
    for price in prices.values():
        price.tick = price.mid * 10 ** rng.uniform(-4, -2.5)
    session.complete_from_ms = -(-session.start_ms // GRID_MS) * GRID_MS
    yield from _beats(session, session.start_ms, session.complete_from_ms)
    events = _events(session, rng, books_per_second)
    trade_id = session.session
    boundary = session.complete_from_ms + GRID_MS
    hole_at = session.start_ms + int((session.end_ms - session.start_ms) * rng.uniform(0.3, 0.7))
    has_hole = False
    pending: list[Written] = []
    for at_ms, market, is_book in events:
        while at_ms >= boundary + LATENESS_MS:
            yield from (record for record in pending if record.at_ms < boundary + LATENESS_MS)
            pending = [record for record in pending if record.at_ms >= boundary + LATENESS_MS]
            if not has_hole and boundary > hole_at:
                has_hole = True
                yield from _hole(session, boundary, rng)
            yield from _beats(session, boundary + LATENESS_MS, boundary)
            boundary += GRID_MS
        price = prices[market]
        price.mid *= 1 + rng.gauss(0, 2e-4)
        exchange_ms = at_ms - session.lag_ms
        disturbance = rng.random()
        if disturbance < 0.004:
            exchange_ms -= rng.randrange(600, 4_000)  # late
        elif disturbance < 0.005:
            exchange_ms += rng.randrange(8_000, 20_000)  # ahead
        message: Message
        if is_book:
            message = _book(session, market, price, exchange_ms, at_ms, rng, levels)
        else:
            trade_id += rng.randrange(1, 5)
            message = _trade(session, market, price, exchange_ms, at_ms, trade_id, rng)
        pending.append(_record(session, at_ms, market, message, is_lost=0.9990 < disturbance < 0.9990 + lost_share))
        if disturbance > 0.9995:
            pending.append(_record(session, at_ms, market, message))  # twice
        yield from pending
        pending = []


def _events(session: _Session, rng: random.Random, books_per_second: float) -> list[tuple[int, str, bool]]:
    events = []
    for market in session.markets:
        at = float(session.start_ms)
        while at < session.end_ms:
            quiet = 20.0 if rng.random() < 0.002 else 1.0
            at += rng.expovariate(books_per_second * 1.6) * 1000 * quiet
            events.append((int(at), market, rng.random() < 0.62))
    events.sort()
    return events


def _book(
    session: _Session, market: str, price: _Price, exchange_ms: int, at_ms: int, rng: random.Random, levels: int
) -> OrderBook:
    spread = price.tick * rng.choice((1, 1, 1, 2, 3))
    depth = rng.choice((levels, levels, levels, levels, 3, 1))
    has_bids, has_asks = rng.random() > 0.002, rng.random() > 0.002
    bid = price.mid - spread / 2
    return OrderBook(
        exchange=EXCHANGE,
        market=market,
        source=session.source,
        session=session.session,
        exchange_ms=exchange_ms,
        received_ns=at_ms * 1_000_000,
        bid_prices=[bid - i * price.tick for i in range(depth)] if has_bids else [],
        bid_sizes=[rng.expovariate(1) + 1e-8 for _ in range(depth)] if has_bids else [],
        ask_prices=[bid + spread + i * price.tick for i in range(depth)] if has_asks else [],
        ask_sizes=[rng.expovariate(1) + 1e-8 for _ in range(depth)] if has_asks else [],
    )


def _trade(
    session: _Session, market: str, price: _Price, exchange_ms: int, at_ms: int, trade_id: int, rng: random.Random
) -> Trade:
    return Trade(
        exchange=EXCHANGE,
        market=market,
        source=session.source,
        session=session.session,
        exchange_ms=exchange_ms,
        trade_ms=exchange_ms - 30,
        received_ns=at_ms * 1_000_000,
        trade_id=trade_id,
        price=price.mid,
        size=rng.expovariate(2) + 1e-8,
        is_buy=rng.random() < 0.5,
        origin="backfill" if rng.random() < 0.01 else "stream",
    )


def _record(session: _Session, at_ms: int, market: str, message: Message, *, is_lost: bool = False) -> Written:
    """A data record; a lost one is counted by the session and replaced by one that no reader can use."""
    topic = "orderbooks" if isinstance(message, OrderBook) else "trades"
    partition = partition_for(market)
    session.counts[topic, partition] = session.counts.get((topic, partition), 0) + 1
    value = b'{"type":"torn' if is_lost else encode(message)
    return Written(at_ms, topic, partition, key_of(EXCHANGE, market), value)


def _beats(session: _Session, at_ms: int, event_ms: int) -> Iterator[Written]:
    for partition in range(PARTITIONS):
        markets = [market for market in session.markets if partition_for(market) == partition]
        for topic in ("orderbooks", "trades"):
            beat = Heartbeat(
                exchange=EXCHANGE,
                source=session.source,
                session=session.session,
                count=session.counts.get((topic, partition), 0),
                event_ms=event_ms,
                complete_from_ms=session.complete_from_ms,
                markets=markets,
            )
            yield Written(at_ms, topic, partition, "", encode(beat))


def _hole(session: _Session, boundary: int, rng: random.Random) -> Iterator[Written]:
    """A declared hole in some partitions, and in others one that only the next `complete_from_ms` tells."""
    to_ms = boundary + rng.randrange(1, 4) * GRID_MS
    for partition in range(PARTITIONS):
        markets = [market for market in session.markets if partition_for(market) == partition]
        for topic in ("orderbooks", "trades"):
            hole = Hole(
                exchange=EXCHANGE,
                source=session.source,
                session=session.session,
                from_ms=boundary - GRID_MS,
                to_ms=to_ms,
                markets=markets[: len(markets) // 2] or markets,
                reason="reconnect",
            )
            yield Written(boundary + LATENESS_MS, topic, partition, "", encode(hole))
    if rng.random() < 0.5:
        session.complete_from_ms = to_ms
