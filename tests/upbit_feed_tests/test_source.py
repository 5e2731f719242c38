"""Sessions, heartbeats, holes and duplicates, with a clock that the test moves."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import BadMessage
from infra.log import partition_of
from producers.upbit.clock import ExchangeClock
from producers.upbit.replay_source import records_of_recording
from producers.upbit.source import IDS_PER_MARKET, JUMP_LIMIT_MS, Output, Source, Stretch, TradeIds
from streams import topics
from streams.messages import Heartbeat, Hole, OrderBook, Trade, key_of

T0 = 1_790_134_773_250
FIRST = 1_790_134_774_000
MS = 1_000_000
MARKETS = ["KRW-BTC", "KRW-ETH", "KRW-XRP"]


def new_source(**changes: Any) -> Source:
    values = {"grid_ms": 1000, "lateness_ms": 500, "speed": 1.0, "partitions": 4, **changes}
    return Source("upbit", "upbit", 5, MARKETS, **values)


def book(exchange_ms: int, market: str = "KRW-BTC") -> OrderBook:
    return OrderBook(
        exchange="upbit", market=market, source="upbit", session=5, exchange_ms=exchange_ms, received_ns=0,
        bid_prices=[99.0], bid_sizes=[1.0], ask_prices=[101.0], ask_sizes=[1.0],
    )  # fmt: skip


def trade(exchange_ms: int, trade_id: int, market: str = "KRW-BTC", origin: Any = "stream") -> Trade:
    return Trade(
        exchange="upbit", market=market, source="upbit", session=5, exchange_ms=exchange_ms, trade_ms=exchange_ms,
        received_ns=0, trade_id=trade_id, price=100.0, size=1.0, is_buy=True, origin=origin,
    )  # fmt: skip


def read(outputs: list[Output]) -> list[Any]:
    return [topics.decode(output.topic, output.value) for output in outputs]


def beats(outputs: list[Output]) -> list[Heartbeat]:
    return [message for message in read(outputs) if isinstance(message, Heartbeat)]


def test_first_words_of_a_session_are_heartbeats_everywhere() -> None:
    outputs = new_source().take(book(T0), 0)
    assert len(outputs) == 9
    assert {(output.topic, output.partition) for output in outputs[:8]} == {
        (topic, number) for topic in ("orderbooks", "trades") for number in range(4)
    }
    for output, beat in zip(outputs[:8], beats(outputs), strict=True):
        assert (beat.event_ms, beat.complete_from_ms, beat.count, beat.session) == (FIRST, FIRST, 0, 5)
        assert output.key == ""
        assert all(partition_of(key_of("upbit", market), 4) == output.partition for market in beat.markets)
    assert sorted(market for beat in beats(outputs)[:4] for market in beat.markets) == MARKETS
    last = outputs[-1]
    assert (last.topic, last.key) == ("orderbooks", "upbit:KRW-BTC")
    assert last.partition == partition_of("upbit:KRW-BTC", 4)


def test_heartbeats_when_time_passes_the_boundary_plus_lateness() -> None:
    source = new_source()
    source.take(book(T0), 0)
    due_ns = source.due_ns()
    assert due_ns is not None
    assert abs(due_ns - (FIRST + 1000 + 500 - T0) * MS) <= 1
    assert source.tick(due_ns - MS) == []
    said = beats(source.tick(due_ns))
    assert {beat.event_ms for beat in said} == {FIRST + 1000}
    assert sum(beat.count for beat in said) == 1
    assert source.tick(due_ns) == []


def test_a_message_closes_bins_before_itself_and_a_jump_gives_one_heartbeat() -> None:
    source = new_source()
    source.take(book(T0), 0)
    assert len(source.take(book(FIRST + 1499), MS)) == 1
    outputs = source.take(book(FIRST + 30_700), 2 * MS)
    assert len(outputs) == 9
    assert {beat.event_ms for beat in beats(outputs)} == {FIRST + 30_000}
    assert isinstance(read(outputs)[-1], OrderBook)


def test_speed_of_the_feed() -> None:
    source = new_source(speed=10.0)
    source.take(book(T0), 0)
    due_ns = source.due_ns()
    assert due_ns is not None
    assert abs(due_ns - (FIRST + 1500 - T0) * MS // 10) <= 1


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000)), max_size=30), st.floats(0.1, 100))
def test_the_clock_never_goes_back(steps: list[tuple[int, int]], speed: float) -> None:
    clock, now_ns, last, largest = ExchangeClock(speed), 0, 0.0, 0
    for exchange_ms, passed_ms in steps:
        now_ns += passed_ms * MS
        clock.see(T0 + exchange_ms, now_ns)
        largest = max(largest, T0 + exchange_ms)
        estimate = clock.estimate_ms(now_ns)
        assert estimate >= max(last, largest)
        assert clock.estimate_ms(clock.due_ns(int(estimate) + 10)) >= int(estimate) + 10
        last = estimate


def test_a_reconnect_is_a_hole_in_every_partition() -> None:
    source = new_source()
    source.take(book(T0), 0)
    source.take(book(FIRST + 2600), MS)
    source.on_disconnected("gone")
    assert source.due_ns() is None
    assert source.tick(10_000 * MS) == []
    outputs = source.take(book(FIRST + 9100), 20 * MS)
    messages = read(outputs)
    holes = [message for message in messages if isinstance(message, Hole)]
    assert len(holes) == 8
    assert {(hole.from_ms, hole.to_ms, hole.reason) for hole in holes} == {(FIRST + 2000, FIRST + 10_000, "gone")}
    assert {(beat.event_ms, beat.complete_from_ms) for beat in beats(outputs)} == {(FIRST + 10_000, FIRST + 10_000)}
    assert isinstance(messages[-1], OrderBook)
    assert source.holes() == [Stretch(FIRST + 2000, FIRST + 10_000)]
    assert source.holes() == []
    later = beats(source.take(book(FIRST + 11_600), 30 * MS))
    assert {(beat.event_ms, beat.complete_from_ms) for beat in later} == {(FIRST + 11_000, FIRST + 10_000)}


def test_nothing_closes_twice_when_the_exchange_restarts_in_its_past() -> None:
    source = new_source()
    source.take(book(T0), 0)
    source.take(book(FIRST + 5600), MS)
    source.on_disconnected("gone")
    said = beats(source.take(book(T0), 2 * MS))
    assert {beat.event_ms for beat in said} == {FIRST + 6000}


def test_repeated_trades_are_published_once_and_the_stream_goes_before_the_back_fill() -> None:
    source = new_source()
    assert read(source.take(trade(T0, 1), 0))[-1].trade_id == 1
    assert source.take(trade(T0, 1), 0) == []
    assert len(source.take(trade(T0, 1, "KRW-ETH"), 0)) == 1
    assert len(source.backfill([trade(T0, 1, origin="backfill"), trade(T0, 2, origin="backfill")])) == 1
    assert source.backfill([trade(T0, 2, origin="backfill")]) == []
    assert len(source.take(trade(T0, 2), 0)) == 1
    assert source.backfill([trade(T0, 3, "KRW-NONE", origin="backfill")]) == []
    said = beats(source.take(book(FIRST + 1600), MS))
    assert sum(beat.count for beat in said) == 4


def test_memory_of_trade_ids_is_bounded() -> None:
    ids = TradeIds()
    for number in range(IDS_PER_MARKET * 3):
        assert ids.is_new(trade(T0, number))
    assert len(ids._stream["KRW-BTC"]) == IDS_PER_MARKET
    assert not ids.is_new(trade(T0, IDS_PER_MARKET * 3 - 1))


def test_a_market_that_was_not_subscribed() -> None:
    with pytest.raises(BadMessage, match="not subscribed"):
        new_source().take(book(T0, "KRW-NONE"), 0)


def test_one_wrong_timestamp_does_not_move_the_clock_but_two_do() -> None:
    source = new_source()
    source.take(book(T0), 0)
    far = T0 + JUMP_LIMIT_MS + 10_000
    with pytest.raises(BadMessage, match="ahead"):
        source.take(book(far), MS)
    assert len(source.take(book(T0 + 10), MS)) == 1
    assert {beat.event_ms for beat in beats(source.take(book(far + 5), 2 * MS))} == {(far + 5 - 500) // 1000 * 1000}


def received(message: OrderBook, wall_ms: int) -> OrderBook:
    return msgspec.structs.replace(message, received_ns=wall_ms * MS)


def test_a_wrong_first_timestamp_does_not_fix_the_clock() -> None:
    source = new_source(is_wall_timed=True)
    with pytest.raises(BadMessage, match="ahead"):
        source.take(received(book(T0 + 10 * JUMP_LIMIT_MS), T0), 0)
    assert not source.is_live
    assert {beat.event_ms for beat in beats(source.take(received(book(T0), T0), MS))} == {FIRST}


def test_a_wall_clock_that_is_late_costs_the_first_message_only() -> None:
    source = new_source(is_wall_timed=True)
    late_ms = T0 - 10 * JUMP_LIMIT_MS
    with pytest.raises(BadMessage, match="ahead"):
        source.take(received(book(T0), late_ms), 0)
    assert len(source.take(received(book(T0 + 5), late_ms), MS)) == 9
    assert len(source.take(received(book(T0 + 10), late_ms), 2 * MS)) == 1


def test_the_last_heartbeat_closes_the_last_bin() -> None:
    source = new_source()
    assert source.finish() == []
    source.take(book(T0), 0)
    source.take(book(FIRST + 1200), MS)
    assert {beat.event_ms for beat in beats(source.finish())} == {FIRST + 2000}
    assert source.tick(10_000 * MS) == []


def test_a_session_after_lost_deliveries_names_what_to_back_fill() -> None:
    source = new_source(since_ms=FIRST - 5000)
    outputs = source.take(book(T0), 0)
    assert not any(isinstance(message, Hole) for message in read(outputs))
    assert source.holes() == [Stretch(FIRST - 5000, FIRST)]


@given(st.lists(st.tuples(st.sampled_from(["book", "trade", "tick", "break"]), st.integers(0, 3000)), max_size=60))
def test_what_a_reader_relies_on(steps: list[tuple[str, int]]) -> None:
    source = new_source()
    now_ms, outputs = 0, []
    for number, (kind, passed_ms) in enumerate(steps):
        now_ms += passed_ms
        if kind == "tick":
            outputs += source.tick(now_ms * MS)
        elif kind == "break":
            source.on_disconnected("gone")
        else:
            message = book(T0 + now_ms, MARKETS[number % 3]) if kind == "book" else trade(T0 + now_ms, number)
            outputs += source.take(message, now_ms * MS)
    counts: Counter[Any] = Counter()
    closed: dict[Any, int] = {}
    lanes = defaultdict(list)
    for output, message in zip(outputs, read(outputs), strict=True):
        lane = (output.topic, output.partition)
        lanes[lane].append(message)
        if isinstance(message, Heartbeat):
            assert message.count == counts[lane]
            assert message.event_ms > closed.get(lane, 0)
            assert message.complete_from_ms <= message.event_ms
            assert message.event_ms % 1000 == 0
            closed[lane] = message.event_ms
        elif isinstance(message, Hole):
            assert message.from_ms == closed[lane] < message.to_ms
        else:
            counts[lane] += 1
            assert message.exchange_ms >= closed[lane] - 1000
    for messages in lanes.values():
        assert isinstance(messages[0], Heartbeat)
        assert messages[0].event_ms == messages[0].complete_from_ms


@pytest.mark.parametrize(("day", "books", "trades"), [("20210405", 1061, 672), ("20210417", 145, 304)])
def test_a_recording_gives_the_same_records_every_time(
    recordings_folder: Path, day: str, books: int, trades: int
) -> None:
    path = recordings_folder / f"upbit_ws_raw_{day}.log.gz"
    outputs = records_of_recording(path, 1000, 500, 9)
    assert outputs == records_of_recording(path, 1000, 500, 9)
    closed: dict[Any, int] = {}
    late, kinds = 0, Counter[str]()
    for output, message in zip(outputs, read(outputs), strict=True):
        kinds[type(message).__name__] += 1
        if isinstance(message, Heartbeat):
            closed[output[:2]] = message.event_ms
        elif message.exchange_ms < closed[output[:2]]:
            late += 1
    assert (kinds["OrderBook"], kinds["Trade"], kinds["Hole"]) == (books, trades, 0)
    assert late <= 0.01 * (books + trades)
    last = max(message.exchange_ms for message in read(outputs) if not isinstance(message, Heartbeat))
    assert set(closed.values()) == {last // 1000 * 1000 + 1000}


def test_a_back_fill_leaves_out_what_an_earlier_session_published_but_the_stream_does_not() -> None:
    source = new_source(since_ms=FIRST - 5000, known=[("KRW-BTC", 7)])
    source.take(book(T0), 0)
    assert source.backfill([trade(T0, 7, origin="backfill")]) == []
    assert len(source.backfill([trade(T0, 8, origin="backfill")])) == 1
    assert len(source.take(trade(T0, 7), MS)) == 1


def test_a_back_fill_that_an_earlier_session_asked_for_is_counted_in_this_one() -> None:
    source = Source("upbit", "upbit", 6, MARKETS, grid_ms=1000, lateness_ms=500, speed=1.0, partitions=4, since_ms=T0)
    assert source.complete_to_ms == T0
    source.take(msgspec.structs.replace(book(T0), session=6), 0)
    (late,) = read(source.backfill([trade(T0, 9, origin="backfill")]))
    assert (late.session, late.trade_id, late.origin) == (6, 9, "backfill")
    assert source.complete_to_ms > T0
