"""Records for leak checks, made from a seed: a market in which nothing can be forecast, and the disturbed log.

Called by `consumers.verify.leaks_battery` and by anybody who checks a pipeline of their own. The price is a martingale
and sizes and sides are drawn afresh: whatever forecasts it knows the future. Pure and deterministic.
"""

import random
from collections.abc import Iterator, Sequence

import msgspec

from consumers.verify.disturbed import EXCHANGE, GRID_MS, LATENESS_MS, Written, disturbed_log, partition_for
from streams import topics
from streams.messages import Heartbeat, Message, OrderBook, Trade, encode, key_of

START_MS = 1_700_000_000_000
TRADE_LAG_MS = 820
"""By how much the whole second of a trade lies before its message, at the median (Upbit, 2021)."""
_SOURCE = "upbit-0"
_NO_MARKETS = b'"markets":[]'


def whole_second(exchange_ms: int) -> int:
    """The trade's own time as Upbit tells it: a whole second, well before the message."""
    return (exchange_ms - TRADE_LAG_MS) // 1000 * 1000


def made_log(seed: int, markets: int, seconds: int, *, is_disturbed: bool) -> list[Written]:
    """Records of one history; the disturbed kind has holes, hand-overs, restarts, losses and duplicates."""
    return disturbed(seed, markets, seconds) if is_disturbed else quiet_log(seed, markets, seconds)


def disturbed(seed: int, markets: int, seconds: int) -> list[Written]:
    """`disturbed_log` with trade times in whole seconds, without the heartbeats of empty partitions."""
    records = disturbed_log(markets, seconds, seed, lost_share=1e-3, levels=5)
    return [_in_seconds(record) for record in records if _NO_MARKETS not in record.value]


def _in_seconds(record: Written) -> Written:
    if record.topic != "trades" or b'"type":"trade"' not in record.value:
        return record
    trade: Trade = topics.decode("trades", record.value)
    return record._replace(value=encode(msgspec.structs.replace(trade, trade_ms=whole_second(trade.exchange_ms))))


def quiet_log(seed: int, markets: int, seconds: int, *, books_per_second: float = 1.5) -> list[Written]:
    """One source, no holes; late and back-filled records are among it, and records at the very end of a bin."""
    rng = random.Random(seed)  # noqa: S311 a simulation
    names = [f"KRW-Q{seed % 100:02d}{i}" for i in range(markets)]
    written: list[Written] = []
    for name in names:
        written += _market(name, seconds, rng, books_per_second)
    written.sort(key=lambda record: record.at_ms)
    return list(_with_heartbeats(written, names, seconds))


def _market(name: str, seconds: int, rng: random.Random, books_per_second: float) -> Iterator[Written]:
    mid = 10 ** rng.uniform(2, 6)
    tick = mid * 10 ** rng.uniform(-4, -3)
    at, trade_id = float(START_MS), 0
    while at < START_MS + seconds * 1000 - 100:
        at += rng.expovariate(books_per_second * 1.6) * 1000 + 1
        if rng.random() < 0.01:
            at = float(-(-int(at) // GRID_MS) * GRID_MS)
        mid *= 1 + rng.gauss(0, 3e-4)
        exchange_ms = int(at)
        lot = rng.random()
        is_late = lot < 0.01
        at_ms = exchange_ms + (rng.randrange(GRID_MS + LATENESS_MS, 6_000) if is_late else 40)
        if rng.random() < 0.62:
            message: Message = _book(name, mid, tick, exchange_ms, at_ms, rng)
        else:
            trade_id += 1
            message = _trade(name, mid, exchange_ms, at_ms, trade_id, rng, is_backfill=is_late or lot > 0.99)
        topic = "orderbooks" if isinstance(message, OrderBook) else "trades"
        yield Written(at_ms, topic, partition_for(name), key_of(EXCHANGE, name), encode(message))


def _book(name: str, mid: float, tick: float, exchange_ms: int, at_ms: int, rng: random.Random) -> OrderBook:
    half, depth = tick * rng.choice((0.5, 0.5, 1.0)), 5
    return OrderBook(
        exchange=EXCHANGE, market=name, source=_SOURCE, session=START_MS, exchange_ms=exchange_ms,
        received_ns=at_ms * 1_000_000,
        bid_prices=[mid - half - i * tick for i in range(depth)],
        bid_sizes=[rng.expovariate(1) + 1e-8 for _ in range(depth)],
        ask_prices=[mid + half + i * tick for i in range(depth)],
        ask_sizes=[rng.expovariate(1) + 1e-8 for _ in range(depth)],
    )  # fmt: skip


def _trade(
    name: str, price: float, exchange_ms: int, at_ms: int, trade_id: int, rng: random.Random, *, is_backfill: bool
) -> Trade:
    return Trade(
        exchange=EXCHANGE, market=name, source=_SOURCE, session=START_MS, exchange_ms=exchange_ms,
        trade_ms=whole_second(exchange_ms), received_ns=at_ms * 1_000_000, trade_id=trade_id, price=price,
        size=rng.expovariate(2) + 1e-8, is_buy=rng.random() < 0.5, origin="backfill" if is_backfill else "stream",
    )  # fmt: skip


def _with_heartbeats(records: Sequence[Written], names: Sequence[str], seconds: int) -> Iterator[Written]:
    """One heartbeat a second per topic and partition, `LATENESS_MS` after the bin that it closes."""
    counts: dict[tuple[str, int], int] = {}
    yield from _beats(START_MS, START_MS, names, counts)
    boundary = START_MS + GRID_MS
    for record in records:
        while record.at_ms > boundary + LATENESS_MS and boundary <= START_MS + seconds * 1000:
            yield from _beats(boundary + LATENESS_MS, boundary, names, counts)
            boundary += GRID_MS
        slot = (record.topic, record.partition)
        counts[slot] = counts.get(slot, 0) + 1
        yield record
    while boundary <= START_MS + seconds * 1000:
        yield from _beats(boundary + LATENESS_MS, boundary, names, counts)
        boundary += GRID_MS


def _beats(at_ms: int, event_ms: int, names: Sequence[str], counts: dict[tuple[str, int], int]) -> Iterator[Written]:
    for partition in sorted({partition_for(name) for name in names}):
        markets = [name for name in names if partition_for(name) == partition]
        for topic in ("orderbooks", "trades"):
            beat = Heartbeat(
                exchange=EXCHANGE, source=_SOURCE, session=START_MS, count=counts.get((topic, partition), 0),
                event_ms=event_ms, complete_from_ms=START_MS, markets=markets,
            )  # fmt: skip
            yield Written(at_ms, topic, partition, "", encode(beat))
