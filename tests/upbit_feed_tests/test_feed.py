"""The feed's process against a stand-in exchange, the sandbox, and both logs."""

import base64
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from infra.errors import BadSettings, DeliveryFailed, DeliveryPending, LogUnavailable
from infra.log import Log
from infra.memory_log import MemoryLog
from infra.settings import Settings
from producers.sandbox.synthetic import Plan
from producers.sandbox.thread import SandboxThread
from producers.upbit import addresses, feed
from producers.upbit.outlet import Outlet
from producers.upbit.quotes import Silence, is_sound
from producers.upbit.rest import Depth
from producers.upbit.session import TAIL, Beginning, next_session
from streams.messages import Heartbeat, Hole, OrderBook, Trade

StartFeed = Callable[..., Any]


def test_books_trades_and_heartbeats_reach_the_log(exchange: Any, start_feed: StartFeed, wire: Any) -> None:
    running = start_feed(exchange.port)
    exchange.wait_subscribed()
    assert exchange.subscriptions[0][1:] == [
        {"type": "orderbook", "codes": ["KRW-BTC", "KRW-ETH"], "is_only_realtime": True},
        {"type": "trade", "codes": ["KRW-BTC", "KRW-ETH"], "is_only_realtime": True},
        {"format": "SIMPLE"},
    ]
    exchange.send(wire.book("KRW-BTC", wire.now_ms + 900))
    exchange.send(wire.trade("KRW-ETH", wire.now_ms + 950, 1).decode())
    exchange.send(wire.trade("KRW-ETH", wire.now_ms + 950, 1))
    wire.wait_until(lambda: any(beat.event_ms == wire.now_ms + 2000 for beat in beats(running)))
    running.end()
    data = running.messages("orderbooks", "trades")
    assert [type(message) for message in data if not isinstance(message, Heartbeat)] == [OrderBook, Trade]
    closing = [beat for beat in beats(running) if beat.event_ms == wire.now_ms + 2000]
    assert len(closing) == 24
    assert sum(beat.count for beat in closing) == 2
    markets = running.messages("markets")
    assert [(market.market, market.is_caution, str(market.tick_size)) for market in markets] == [
        ("KRW-BTC", False, "1000"), ("KRW-ETH", True, "1000"),
    ]  # fmt: skip
    assert running.kinds() == ["connected"]
    (manifest,) = running.messages("manifests")
    assert (manifest.process, manifest.settings["grid.grid_ms"]) == ("feed", "1000")


def beats(running: Any) -> list[Heartbeat]:
    return [message for message in running.messages("orderbooks", "trades") if isinstance(message, Heartbeat)]


def test_heartbeats_are_on_time(exchange: Any, start_feed: StartFeed, wire: Any) -> None:
    published: list[tuple[int, int]] = []
    log = MemoryLog()
    wire.create_topics(log)
    plain = log.publisher

    class Timed:
        def __init__(self) -> None:
            self.inner = plain()

        def publish(self, topic: str, key: str, value: bytes, partition: int | None = None) -> None:
            if topic == "trades" and partition == 0:
                published.append((time.monotonic_ns(), len(published)))
            self.inner.publish(topic, key, value, partition)

        def flush(self, timeout_s: float = 10.0) -> None:
            self.inner.flush(timeout_s)

        def close(self) -> None:
            self.inner.close()

    log.publisher = lambda **_: Timed()  # type: ignore[assignment,method-assign]
    running = start_feed(exchange.port, log)
    exchange.wait_subscribed()
    started = time.monotonic_ns()
    exchange.send(wire.book("KRW-BTC", wire.now_ms + 900))
    wire.wait_until(lambda: len(published) >= 3)
    running.end()
    log.close()
    delays_ms = [(now_ns - started) / 1e6 for now_ns, _ in published[1:3]]
    assert delays_ms[0] == pytest.approx(1600, abs=100)
    assert delays_ms[1] - delays_ms[0] == pytest.approx(1000, abs=50)


def test_unusable_frames_become_dead_letters(exchange: Any, start_feed: StartFeed, wire: Any) -> None:
    running = start_feed(exchange.port)
    exchange.wait_subscribed()
    good = wire.book("KRW-BTC", wire.now_ms)
    bad = [good[:50], b'{"ty":"ticker"}', wire.book("KRW-BTC", wire.now_ms, 102.0), wire.book("KRW-XYZ", wire.now_ms)]
    for raw in [good, *bad, b'[{"ty":"trade"},' + good + b"]", '{"status":"UP"}']:
        exchange.send(raw)
    wire.wait_until(lambda: len(running.messages("dead-letters")) == 5)
    wire.wait_until(lambda: sum(isinstance(item, OrderBook) for item in running.messages("orderbooks")) == 2)
    running.end()
    letters = sorted(running.messages("dead-letters"), key=lambda letter: letter.offset)
    assert [letter.offset for letter in letters] == [2, 3, 4, 5, 6]
    assert {letter.topic for letter in letters} == {"frame:upbit"}
    assert [base64.b64decode(letter.value) for letter in letters] == [*bad, b'{"ty":"trade"}']
    words = ["JSON", "unknown type ticker", "crossed", "not subscribed", "required"]
    assert all(word in letter.reason for word, letter in zip(words, letters, strict=True))


def test_a_break_is_a_hole_and_its_trades_are_fetched(exchange: Any, start_feed: StartFeed, wire: Any) -> None:
    running = start_feed(exchange.port)
    exchange.wait_subscribed()
    exchange.send(wire.book("KRW-BTC", wire.now_ms + 100))
    exchange.send(wire.trade("KRW-BTC", wire.now_ms + 200, 1))
    wire.wait_until(lambda: len(running.messages("trades")) >= 13)
    exchange.ticks = [
        wire.tick("KRW-BTC", 1, wire.now_ms + 200),
        wire.tick("KRW-BTC", 2, wire.now_ms + 1500),
        wire.tick("KRW-BTC", 3, wire.now_ms + 9000),
    ]
    exchange.drop()
    exchange.wait_subscribed(2)
    exchange.send(wire.book("KRW-BTC", wire.now_ms + 5100))
    wire.wait_until(lambda: any(getattr(item, "origin", "") == "backfill" for item in running.messages("trades")))
    running.end()
    holes = [item for item in running.messages("orderbooks", "trades") if isinstance(item, Hole)]
    assert len(holes) == 24
    assert {(hole.from_ms, hole.to_ms) for hole in holes} == {(wire.now_ms + 1000, wire.now_ms + 6000)}
    filled = [item for item in running.messages("trades") if getattr(item, "origin", "") == "backfill"]
    assert [(item.trade_id, item.size, item.is_buy, item.exchange_ms) for item in filled] == [
        (2, 0.25, False, wire.now_ms + 1500)
    ]
    assert len({item.session for item in holes + filled}) == 1
    assert running.kinds() == ["connected", "disconnected", "connected", "hole", "recovered"]


def test_what_was_missed_while_no_feed_ran_is_a_hole_and_its_trades_are_fetched(
    exchange: Any, start_feed: StartFeed, wire: Any
) -> None:
    first = start_feed(exchange.port)
    exchange.wait_subscribed()
    exchange.send(wire.trade("KRW-BTC", wire.now_ms + 200, 1))
    exchange.send(wire.trade("KRW-BTC", wire.now_ms + 2600, 2))
    wire.wait_until(lambda: any(beat.event_ms == wire.now_ms + 2000 for beat in beats(first)))
    first.end()
    closed_ms = max(beat.event_ms for beat in beats(first))
    exchange.ticks = [
        wire.tick("KRW-BTC", number, closed_ms + late_ms)
        for number, late_ms in [(2, -1500), (3, 500), (4, 20_000), (5, 39_500), (6, 41_000)]
    ]
    second = start_feed(exchange.port)
    exchange.wait_subscribed(2)
    exchange.send(wire.trade("KRW-BTC", closed_ms + 39_500, 5))
    wire.wait_until(lambda: sum(getattr(item, "origin", "") == "backfill" for item in second.messages("trades")) >= 2)
    second.end()
    trades = [item for item in second.messages("trades") if isinstance(item, Trade)]
    assert Counter((item.trade_id, item.origin) for item in trades) == Counter(
        [(1, "stream"), (2, "stream"), (5, "stream"), (3, "backfill"), (4, "backfill")]
    )
    session = max(item.session for item in trades)
    assert {item.session for item in trades if item.origin == "backfill"} == {session}
    begun = [beat for beat in beats(second) if beat.session == session and beat.count == 0]
    assert min(beat.complete_from_ms for beat in begun) == closed_ms + 40_000
    assert second.kinds() == ["connected", "connected", "hole", "recovered"]


def test_the_end_of_a_session_is_found_under_many_records(any_log: Log, wire: Any) -> None:
    wire.create_topics(any_log)
    publisher = any_log.publisher()
    beat = b'{"type":"heartbeat","exchange":"upbit","source":"upbit","session":%d,"event_ms":%d}'
    for number in range(12):
        for event_ms in (1000, 8000, 9000):
            publisher.publish("trades", "", beat % (900, event_ms - 500 * (number == 3)), number)
    for number in range(TAIL * 2):
        publisher.publish("trades", "", b'{"type":"trade","session":900,"market":"X","trade_id":%d}' % number, 3)
    publisher.flush()
    assert next_session(any_log, 500, "upbit", "upbit") == Beginning(901, 8500)
    publisher.close()


def test_goodbye_control_frames_and_messages_in_pieces(exchange: Any, start_feed: StartFeed, wire: Any) -> None:
    running = start_feed(exchange.port)
    exchange.wait_subscribed()
    raw = wire.book("KRW-BTC", wire.now_ms)
    half = len(raw) // 2
    head = bytes([0x02, 126]) + half.to_bytes(2, "big") + raw[:half]
    tail = bytes([0x80, 126]) + (len(raw) - half).to_bytes(2, "big") + raw[half:]
    whole = bytes([0x82, 126]) + len(raw).to_bytes(2, "big") + raw
    exchange.send_raw(b"\x89\x01x" + head[:40])
    time.sleep(0.15)
    exchange.send_raw(head[40:])
    time.sleep(0.15)
    exchange.send_raw(tail + whole[:30])
    time.sleep(0.15)
    exchange.send_raw(whole[30:] + whole)
    wire.wait_until(lambda: sum(isinstance(item, OrderBook) for item in running.messages("orderbooks")) == 3)
    exchange.say_goodbye()
    exchange.wait_subscribed(2)
    running.end()
    (event,) = [event for event in running.messages("feed-events") if event.kind == "disconnected"]
    assert "1001 bye" in event.text


def test_a_silent_connection_is_given_up(exchange: Any, start_feed: StartFeed, wire: Any) -> None:
    running = start_feed(exchange.port, stale_seconds=0.3)
    exchange.wait_subscribed(2)
    running.end()
    assert running.kinds()[:4] == ["connected", "stale", "disconnected", "connected"]
    assert wire.now_ms


def test_an_error_from_the_exchange_is_told(exchange: Any, start_feed: StartFeed, wire: Any) -> None:
    running = start_feed(exchange.port)
    exchange.wait_subscribed()
    exchange.send('{"error":{"name":"NO_CODES","message":"x"}}')
    wire.wait_until(lambda: "refused" in running.kinds())
    running.end()
    assert [event.text for event in running.messages("feed-events") if event.kind == "refused"] == ["NO_CODES: x"]
    assert len(running.messages("dead-letters")) == 1


def test_a_market_that_does_not_exist_is_left_out(exchange: Any, start_feed: StartFeed) -> None:
    running = start_feed(exchange.port, markets=["KRW-ETH", "KRW-NONE"])
    exchange.wait_subscribed()
    running.end()
    assert exchange.subscriptions[0][1]["codes"] == ["KRW-ETH"]
    (event,) = [event for event in running.messages("feed-events") if event.kind == "refused"]
    assert event.markets == ["KRW-NONE"]
    assert "KRW-NONE" in event.text


def test_no_market_at_all_ends_the_process(exchange: Any, start_feed: StartFeed) -> None:
    running = start_feed(exchange.port, markets=["KRW-NONE"])
    running.thread.join(10)
    assert isinstance(running.error, BadSettings)


def test_an_exchange_that_cannot_be_reached_is_said_once(start_feed: StartFeed, wire: Any) -> None:
    running = start_feed(1)
    wire.wait_until(lambda: bool(running.messages("feed-events")))
    time.sleep(0.5)
    running.end()
    (event,) = running.messages("feed-events")
    assert event.kind == "refused"
    assert "cannot be reached" in event.text


def test_an_answer_that_cannot_be_read_is_tried_again(exchange: Any, start_feed: StartFeed, wire: Any) -> None:
    exchange.body = b"<html>"
    running = start_feed(exchange.port)
    wire.wait_until(lambda: "refused" in running.kinds())
    exchange.body = None
    exchange.wait_subscribed()
    running.end()


def test_the_real_exchange_is_reached_at_its_own_address(tmp_path: Path) -> None:
    settings = Settings.model_validate({"home": tmp_path, "feed": {"kind": "upbit"}})
    real = addresses.addresses_of(settings)
    assert (real.is_local, real.websocket) == (False, "wss://api.upbit.com/websocket/v1")
    kept = addresses.addresses_of(Settings(home=tmp_path))
    assert kept.is_local
    assert kept == addresses.addresses_of(Settings(home=tmp_path))


def test_lost_deliveries_begin_a_new_session(exchange: Any, start_feed: StartFeed, wire: Any) -> None:
    log = MemoryLog()
    wire.create_topics(log)
    plain, failures = log.publisher, [True]

    class Failing:
        def __init__(self) -> None:
            self.inner = plain()

        def publish(self, topic: str, key: str, value: bytes, partition: int | None = None) -> None:
            if failures and key == "upbit:KRW-ETH":
                failures.clear()
                raise DeliveryFailed("3 records were not acknowledged")
            self.inner.publish(topic, key, value, partition)

        def flush(self, timeout_s: float = 10.0) -> None:
            self.inner.flush(timeout_s)

        def close(self) -> None:
            raise DeliveryFailed("the end")

    log.publisher = lambda **_: Failing()  # type: ignore[assignment,method-assign]
    running = start_feed(exchange.port, log)
    exchange.wait_subscribed()
    for number, market in enumerate(["KRW-BTC", "KRW-ETH", "KRW-BTC"]):
        exchange.send(wire.book(market, wire.now_ms + number))
    wire.wait_until(lambda: sum(isinstance(item, OrderBook) for item in running.messages("orderbooks")) == 2)
    running.end()
    assert running.error is None
    sessions = sorted({beat.session for beat in beats(running)})
    assert len(sessions) == 2
    assert {beat.count for beat in beats(running) if beat.session == sessions[1]} == {0}
    log.close()


def test_sessions_grow_over_restarts_even_when_the_clock_went_back(any_log: Log, wire: Any) -> None:
    wire.create_topics(any_log)
    assert next_session(any_log, 500, "upbit", "upbit") == Beginning(500)
    publisher = any_log.publisher()
    beat = b'{"type":"heartbeat","exchange":"upbit","source":"other","session":900,"count":0,"event_ms":7000,'
    publisher.publish("trades", "", beat + b'"complete_from_ms":0,"markets":[]}', 7)
    publisher.flush()
    assert next_session(any_log, 500, "upbit", "upbit") == Beginning(901)
    assert next_session(any_log, 500, "upbit", "other") == Beginning(901, 7000)
    publisher.close()


@pytest.mark.parametrize(("day", "books", "trades"), [("20210405", 1061, 672), ("20210417", 145, 304)])
def test_a_recording_reaches_the_log_through_websocket_and_parser(
    recordings_folder: Path, tmp_path: Path, start_feed: StartFeed, wire: Any, day: str, books: int, trades: int
) -> None:
    path = recordings_folder / f"upbit_ws_raw_{day}.log.gz"
    with SandboxThread(tmp_path, kind="recording", recording=path, speed=100.0) as sandbox:
        running = start_feed(sandbox.port, kind="recording", recording=path, speed=100.0)
        wire.wait_until(lambda: "ended" in running.kinds())
        running.end()
        assert sandbox.status()["limited"] == {}
    assert running.error is None
    seen = Counter(type(item).__name__ for item in running.messages("orderbooks", "trades"))
    assert (seen["OrderBook"], seen["Trade"], seen["Hole"]) == (books, trades, 0)
    assert running.messages("dead-letters") == []
    last = max(item.exchange_ms for item in running.messages("orderbooks", "trades") if hasattr(item, "exchange_ms"))
    assert max(beat.event_ms for beat in beats(running)) > last


@pytest.mark.kafka
def test_a_synthetic_market_warms_up_into_kafka(
    tmp_path: Path, kafka_log: Log, start_feed: StartFeed, wire: Any
) -> None:
    wire.create_topics(kafka_log)
    plan = Plan(market_count=3, books_per_second=5.0, seed=3)
    with SandboxThread(tmp_path, kind="synthetic", plan=plan, warmup_seconds=30) as sandbox:
        running = start_feed(sandbox.port, kafka_log, kind="synthetic")
        wire.wait_until(lambda: "warm" in running.kinds(), 40)
        time.sleep(1.0)
        running.end()
    assert running.error is None
    (warmed,) = running.messages("controls")
    assert warmed.by == "feed"
    data = [item for item in running.messages("orderbooks", "trades") if isinstance(item, OrderBook | Trade)]
    assert len(data) > 400
    assert not any(isinstance(item, Hole) for item in running.messages("orderbooks", "trades"))


def test_the_feed_waits_for_the_log(exchange: Any, tmp_path: Path) -> None:
    from infra.kafka import KafkaLog  # noqa: PLC0415 - beside its test

    stop = threading.Event()
    settings = Settings.model_validate({"home": tmp_path, "sandbox": {"port": exchange.port}})
    with KafkaLog("127.0.0.1:1", "none-") as log:
        thread = threading.Thread(target=feed.run, args=(settings, log, stop))
        thread.start()
        time.sleep(0.5)
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


def test_a_failure_found_while_pushing_is_not_swallowed(wire: Any) -> None:
    log = MemoryLog()
    wire.create_topics(log)
    answers: list[Exception] = [
        DeliveryPending("not yet"), LogUnavailable("nor now"), DeliveryFailed("2 records were not acknowledged"),
    ]  # fmt: skip
    asked = threading.Event()

    class Failing:
        def __init__(self) -> None:
            self.inner = log.__class__(beside=log).publisher()

        def publish(self, topic: str, key: str, value: bytes, partition: int | None = None) -> None:
            self.inner.publish(topic, key, value, partition)

        def flush(self, timeout_s: float = 10.0) -> None:
            asked.set()
            if answers:
                raise answers.pop(0)
            self.inner.flush(timeout_s)

        def close(self) -> None:
            self.inner.close()

    log.publisher = lambda **_: Failing()  # type: ignore[assignment,method-assign]
    outlet = Outlet(log, "feed")
    for turn in range(3):
        asked.clear()
        outlet.publish([])
        outlet.push(time.monotonic_ns() + turn * 10**9)
        assert asked.wait(5)
        wire.wait_until(lambda: len(answers) == 2 - turn)  # noqa: B023 - called at once
    wire.wait_until(lambda: outlet._failure is not None)
    with pytest.raises(DeliveryFailed, match="2 records"):
        outlet.publish([])
    outlet.publish([])
    outlet.close()
    log.close()


def test_a_record_that_is_no_message_does_not_keep_the_feed_from_starting(wire: Any) -> None:
    log = MemoryLog()
    wire.create_topics(log)
    log.publisher().publish("orderbooks", "", b'{"session":"', 0)
    log.publisher().publish("trades", "", b'{"session":"\xff"}', 0)
    log.publisher().publish("trades", "", b'{"session":70}', 0)
    assert next_session(log, 5, "upbit", "upbit") == Beginning(71)
    log.close()


def test_the_word_that_the_market_is_warm_is_said_again_by_a_new_session(
    exchange: Any, start_feed: StartFeed, wire: Any
) -> None:
    log = MemoryLog()
    wire.create_topics(log)
    plain, failures = log.publisher, [True]

    class Failing:
        def __init__(self) -> None:
            self.inner = plain()

        def publish(self, topic: str, key: str, value: bytes, partition: int | None = None) -> None:
            if failures and (topic, key) == ("orderbooks", "upbit:KRW-ETH"):
                failures.clear()
                raise DeliveryFailed("3 records were not acknowledged")
            self.inner.publish(topic, key, value, partition)

        def flush(self, timeout_s: float = 10.0) -> None:
            self.inner.flush(timeout_s)

        def close(self) -> None:
            self.inner.close()

    log.publisher = lambda **_: Failing()  # type: ignore[assignment,method-assign]
    exchange.status = {"is_warm": True, "warm_ms": 5}
    running = start_feed(exchange.port, log)
    exchange.wait_subscribed()
    wire.wait_until(lambda: [one.event_ms for one in running.messages("controls")] == [5])
    exchange.send(wire.book("KRW-ETH", wire.now_ms))
    wire.wait_until(lambda: [one.event_ms for one in running.messages("controls")] == [5, 5])
    running.end()
    log.close()


def test_an_exchange_that_lists_nothing_is_asked_again(
    exchange: Any, start_feed: StartFeed, wire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"127.0.0.1:{exchange.port}"
    real = addresses.Addresses(f"http://{place}", f"ws://{place}/websocket/v1", "")
    monkeypatch.setattr(feed, "addresses_of", lambda _settings: real)
    exchange.markets = []
    running = start_feed(exchange.port)
    wire.wait_until(lambda: "refused" in running.kinds())
    exchange.markets = ["KRW-BTC"]
    exchange.wait_subscribed()
    running.end()
    assert running.error is None


def test_a_first_frame_of_the_real_feed_from_the_far_future_is_a_dead_letter(
    exchange: Any, start_feed: StartFeed, wire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"127.0.0.1:{exchange.port}"
    real = addresses.Addresses(f"http://{place}", f"ws://{place}/websocket/v1", "")
    monkeypatch.setattr(feed, "addresses_of", lambda _settings: real)
    running = start_feed(exchange.port, stale_seconds=60)
    exchange.wait_subscribed()
    now_ms = time.time_ns() // 1_000_000
    exchange.send(wire.book("KRW-BTC", now_ms + 86_400_000))
    exchange.send(wire.book("KRW-BTC", now_ms))
    wire.wait_until(lambda: any(isinstance(item, OrderBook) for item in running.messages("orderbooks")))
    running.end()
    (letter,) = running.messages("dead-letters")
    assert "far ahead" in letter.reason
    assert max(beat.event_ms for beat in beats(running)) < now_ms + 60_000


# --- prices over REST ---------------------------------------------------------------------------------------------


def asked(exchange: Any) -> int:
    return sum(call.startswith("/v1/orderbook?") for call in exchange.calls)


@pytest.mark.parametrize("is_refusing", [False, True], ids=["frozen", "cut"])
def test_prices_come_over_rest_while_the_stream_is_dead_and_only_then(
    exchange: Any, start_feed: StartFeed, wire: Any, *, is_refusing: bool
) -> None:
    running = start_feed(exchange.port, stale_seconds=2.0)
    exchange.wait_subscribed()
    for step in range(15):
        for market in exchange.markets:
            exchange.send(wire.book(market, wire.now_ms + step * 100))
        time.sleep(0.1)
    assert running.messages("quotes") == []
    exchange.is_refusing = is_refusing
    if is_refusing:
        exchange.drop()
    started_s, asked_before = time.monotonic(), asked(exchange)
    wire.wait_until(lambda: len(running.messages("quotes")) >= 4)
    assert asked(exchange) - asked_before <= time.monotonic() - started_s + 1
    books = len([one for one in running.messages("orderbooks") if isinstance(one, OrderBook)])
    assert books == 30
    first = running.messages("quotes")[0]
    assert (first.market, first.bid_prices, first.ask_prices) == ("KRW-BTC", [99.0, 98.0], [101.0])
    assert wire.now_ms + 1400 <= first.event_ms <= wire.now_ms + 12_000
    exchange.is_refusing = False
    exchange.wait_subscribed(2)
    for step in range(20):
        for market in exchange.markets:
            exchange.send(wire.book(market, wire.now_ms + 20_000 + step * 100))
        time.sleep(0.1)
        if step == 5:
            count = len(running.messages("quotes"))
    assert len(running.messages("quotes")) == count
    running.end()


def test_a_rest_that_fails_is_asked_again(exchange: Any, start_feed: StartFeed, wire: Any) -> None:
    exchange.bid = 0.0
    running = start_feed(exchange.port, stale_seconds=0.5)
    wire.wait_until(lambda: asked(exchange) >= 1)
    exchange.bid = 90.0
    wire.wait_until(lambda: len(running.messages("quotes")) >= 2)
    running.end()
    assert {one.event_ms for one in running.messages("quotes")} == {wire.now_ms}


def test_a_market_that_is_silent_alone_is_asked_for_alone() -> None:
    silence = Silence(stream_s=5.0, market_s=60.0)
    silence.begin(["KRW-BTC", "KRW-ETH", "KRW-XRP"], 0)
    second = 10**9
    for market in ("KRW-BTC", "KRW-ETH"):
        silence.note(market, 61 * second)
    assert silence.silent(62 * second) == ["KRW-XRP"]
    assert silence.silent(67 * second) == ["KRW-BTC", "KRW-ETH", "KRW-XRP"]
    silence.leave_out("KRW-XRP")
    assert silence.silent(62 * second) == []
    silence.end()
    assert silence.silent(900 * second) == []


def test_a_crossed_book_sells_nothing() -> None:
    rows = [
        {"market": "KRW-BTC", "timestamp": 1, "orderbook_units": [
            {"ask_price": ask, "bid_price": bid, "ask_size": 1, "bid_size": 1}
        ]}
        for ask, bid in ((2, 1), (0, 1), (2, 0), (1, 1), (1, 2))
    ]  # fmt: skip
    assert [is_sound(msgspec.convert(one, Depth)) for one in rows] == [True, True, True, False, False]
