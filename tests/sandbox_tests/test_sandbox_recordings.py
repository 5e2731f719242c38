"""Recorded markets: the one reader of raw frames, Parquet in three layouts, topics of a run, fills that name them."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from infra.errors import BadSettings
from infra.log import Slot, partition_of
from infra.memory_log import MemoryLog
from infra.settings import FeedSettings, Settings
from producers import recordings
from producers.readiness import refuse_another_feed, refuse_unreachable
from producers.sandbox.clock import MarketClock
from producers.sandbox.configuration import from_settings
from producers.sandbox.exchange import Exchange
from producers.sandbox.feeds import Print, Style
from producers.sandbox.journal import Journal
from producers.sandbox.logged import Logged
from producers.sandbox.outside import Line
from producers.sandbox.recording import RawFrames, Recording, read_lines
from producers.sandbox.stored import StoredFrames
from producers.sandbox.thread import SandboxThread
from producers.upbit.parse import Parser
from streams import columns
from streams.market.ticks import E8
from streams.messages import OrderBook, Trade, encode, key_of
from streams.process import topic_specs

from .conftest import book_line, connect, receive, trade_line
from .test_sandbox_orders import BOOK, call, ended, limit, until

DATA = Path(os.environ.get("OBSERVATOR_DATA", "../shared/data"))
DAY = DATA / "upbit_ws" / "upbit_ws_raw_20210405.log.gz"
needs_data = pytest.mark.skipif(not DAY.exists(), reason=f"no recording at {DAY}")


def play(feed: Recording) -> tuple[list[Line], dict[str, Print]]:
    """Its lines, and the newest trade of each market."""
    lines, prints = [], {}
    for line in feed.source.lines():
        frame = feed.take_line(line)
        lines.append(line)
        if frame is not None and frame.print is not None:
            prints[line.market] = frame.print
    return lines, prints


# --- raw frames ---------------------------------------------------------------------------------------------------


@needs_data
def test_there_is_one_reader_of_the_format() -> None:
    ours = [line.payload for line in read_lines(DAY, Counter())]
    assert ours == [frame.raw for frame in recordings.Recording(DAY)]


def test_lines_carry_their_number_and_text_frames_count(tmp_path: Path) -> None:
    path = tmp_path / "r.log"
    path.write_text(
        "configuration: {}\n" + BOOK + "\n" + '1774183628.5: {"ty":"trade","cd":"KRW-BTC","tms":1774183628400}\n'
    )
    skipped: Counter[str] = Counter()
    lines = list(read_lines(path, skipped))
    assert [(line.kind, line.source) for line in lines] == [("orderbook", "r.log:2"), ("trade", "r.log:4")]
    assert skipped == {"no frame": 2}


def test_odd_levels_are_no_levels(tmp_path: Path) -> None:
    path = tmp_path / "r.log"
    path.write_text(
        '1.0: {"ty":"orderbook","cd":"KRW-A","tms":1,"obu":[{"ap":10.0,"as":1.0,"bp":0.0,"bs":0.0},7,{"ap":"x"}]}\n'
        '2.0: {"ty":"orderbook","cd":"KRW-A","tms":2,"obu":"none"}\n'
    )
    feed = Recording(RawFrames(path))
    lines = feed.source.lines()
    feed.take_line(next(lines))
    found = feed.book("KRW-A")
    assert found is not None
    assert ([tuple(level) for level in found.asks], found.bids) == ([(10 * E8, E8)], [])
    feed.take_line(next(lines))
    assert feed.book("KRW-A") == ([], [], 2, "r.log:2")


# --- Parquet ------------------------------------------------------------------------------------------------------


@needs_data
@pytest.mark.parametrize("day", ["20210405", "20210417"])
def test_parquet_holds_the_same_market_as_its_raw_frames(day: str) -> None:
    folder = DATA / "upbit_ws"
    raw = Recording(RawFrames(folder / f"upbit_ws_raw_{day}.log.gz"))
    stored = Recording(
        StoredFrames(folder / f"upbit_orderbook_{day}_15lv.parquet", folder / f"upbit_trade_{day}.parquet")
    )
    assert raw.frames_by_kind == stored.frames_by_kind
    (theirs, their_prints), (ours, our_prints) = play(raw), play(stored)
    kinds = [(line.kind, line.market, line.exchange_ms) for line in theirs]
    assert [(line.kind, line.market, line.exchange_ms) for line in ours] == kinds
    assert their_prints == our_prints
    assert {row.market for row in raw.markets()} == {row.market for row in stored.markets()}
    for row in raw.markets():
        book, same = raw.book(row.market), stored.book(row.market)
        assert (book and book[:3]) == (same and same[:3])


def test_a_parquet_frame_is_spelled_as_the_exchange_spells(data_folder: Path) -> None:
    feed = Recording(StoredFrames(data_folder / "binance_l2" / "derived_spot_ethusdt_20240808_depth15_100ms.parquet"))
    assert [row.market for row in feed.markets()] == ["USDT-ETH"]
    assert feed.frames_by_kind == {"orderbook": 6468}
    line = next(iter(feed.source.lines()))
    frame = feed.take_line(line)
    assert frame is not None
    (message,) = Parser("upbit", "x", 1).parse(frame.spell(Style(is_simple=False, is_list=False)), 0)
    assert isinstance(message, OrderBook)
    assert isinstance(line.body, OrderBook)
    assert (message.ask_prices, message.bid_sizes) == (line.body.ask_prices, line.body.bid_sizes)
    assert len(message.ask_prices) == 15


def message_pair(market: str, at_ms: int) -> tuple[OrderBook, Trade]:
    ours = {"exchange": "upbit", "market": market, "source": "s", "session": 1, "received_ns": at_ms * 1_000_000}
    book = OrderBook(
        **ours, exchange_ms=at_ms, bid_prices=[99.0, 98.0], bid_sizes=[2.0, 3.0], ask_prices=[100.0], ask_sizes=[1.5]
    )
    sold = Trade(
        **{**ours, "received_ns": ours["received_ns"] + 1}, exchange_ms=at_ms, trade_ms=at_ms, trade_id=at_ms,
        price=99.0, size=0.25, is_buy=False,
    )  # fmt: skip
    return book, sold


def write(log: MemoryLog, *messages: OrderBook | Trade) -> None:
    publisher = log.publisher()
    for message in messages:
        topic = "orderbooks" if isinstance(message, OrderBook) else "trades"
        publisher.publish(topic, key_of("upbit", message.market), encode(message))
    publisher.flush()


def test_what_observator_read_exports_can_be_played(memory_log: MemoryLog, tmp_path: Path) -> None:
    memory_log.create_topics(topic_specs())
    book, sold = message_pair("KRW-A", 1000)
    write(memory_log, book, sold)
    for topic, name in (("orderbooks", "b.parquet"), ("trades", "t.parquet")):
        columns.read_frame(memory_log, topic).to_parquet(tmp_path / name)
    feed = Recording(StoredFrames(tmp_path / "b.parquet", tmp_path / "t.parquet"))
    assert [line.body for line in play(feed)[0]] == [book, sold]


def test_files_that_are_none_are_named(tmp_path: Path, data_folder: Path) -> None:
    trades = data_folder / "upbit_ws" / "upbit_trade_20210405.parquet"
    with pytest.raises(BadSettings, match="holds no orderbook columns"):
        Recording(StoredFrames(trades))
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    with pytest.raises(BadSettings, match="cannot be read"):
        Recording(StoredFrames(tmp_path / "x.parquet"))
    nameless = tmp_path / "nameless.parquet"
    source = data_folder / "binance_l2" / "derived_spot_ethusdt_20240808_depth15_100ms.parquet"
    pq.write_table(pq.read_table(source).slice(0, 3), nameless)
    with pytest.raises(BadSettings, match="its name tells none"):
        Recording(StoredFrames(nameless))


# --- topics ---------------------------------------------------------------------------------------------------------


def test_topics_come_in_the_order_of_receipt_and_between_offsets(memory_log: MemoryLog) -> None:
    memory_log.create_topics(topic_specs())
    pairs = [message_pair(f"KRW-{name}", 1000 + i) for i in range(300) for name in ("A", "B", "C", "D")]
    write(memory_log, *(message for pair in pairs for message in pair))
    whole = Recording(Logged(lambda: MemoryLog("", beside=memory_log), {}))
    assert whole.frames_by_kind == {"orderbooks": 1200, "trades": 1200}
    lines, _ = play(whole)
    assert len(lines) == 2400
    assert [line.received_ns for line in lines] == sorted(line.received_ns for line in lines)
    slot = Slot("orderbooks", partition_of("upbit:KRW-B", 12))
    part = Recording(Logged(lambda: MemoryLog("", beside=memory_log), {slot: (3, 5)}))
    assert [line.source for line in play(part)[0]] == [f"orderbooks/{slot.partition}/{offset}" for offset in (3, 4)]
    for offsets, text in (({slot: (0, 10**6)}, "holds the offsets"), ({Slot("orderbooks", 99): (0, 1)}, "there is no")):
        with pytest.raises(BadSettings, match=text):
            Recording(Logged(lambda: MemoryLog("", beside=memory_log), offsets))


def test_empty_topics_are_refused(memory_log: MemoryLog) -> None:
    memory_log.create_topics(topic_specs())
    with pytest.raises(BadSettings, match="hold no book"):
        Recording(Logged(lambda: MemoryLog("", beside=memory_log), {}))


def test_settings_name_the_three_sources(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs `feed\.recording`"):
        FeedSettings(kind="recording")
    with pytest.raises(ValueError, match="exclude each other"):
        FeedSettings(kind="recording", recording=Path("x"), recording_topics="run-")
    with pytest.raises(ValueError, match="recording_offsets"):
        FeedSettings(kind="recording", recording_topics="run-", recording_offsets=["features/0:1-2"])
    with pytest.raises(ValueError, match="cannot play what it is writing"):
        Settings(home=tmp_path, feed={"kind": "recording", "recording_topics": ""})
    settings = Settings(
        home=tmp_path,
        feed={"kind": "recording", "recording_topics": "run-", "recording_offsets": ["trades/3:10-20"]},
    )
    configuration = from_settings(settings, 1)
    assert configuration.played_offsets == {Slot("trades", 3): (10, 20)}
    assert configuration.played_log is not None
    assert from_settings(Settings(home=tmp_path, feed={"kind": "upbit"}), 1).kind == "follow"


# --- fills -----------------------------------------------------------------------------------------------------------


def truth(sandbox: SandboxThread) -> dict[str, Any]:
    return dict(sandbox.control("GET", "/sandbox/truth"))


def test_fills_name_their_line_and_every_report_the_bounds(recorded: Callable[..., SandboxThread]) -> None:
    lines = [
        book_line(1000.0, "KRW-BTC", [(100000000.0, 1.0)], [(99999000.0, 0.5)]),
        book_line(1002.0, "KRW-BTC", [(100000000.0, 1.0)], [(99999000.0, 0.3)]),
        trade_line(1002.5, "KRW-BTC", 99999000.0, 0.302, "ASK"),
        trade_line(1003.0, "KRW-BTC", 99999000.0, 0.002, "ASK"),
        book_line(1004.0, "KRW-BTC", [(100000000.0, 1.0)], [(99998000.0, 0.3)]),
    ]
    sandbox = recorded(*lines, speed=2.0)
    client = connect(sandbox.ws_url, {"type": "orderbook", "codes": ["KRW-BTC"]})
    receive(client)
    _, rests, _ = call(sandbox, "POST", "/v1/orders", limit("99999000", "0.006"))
    _, takes, _ = call(sandbox, "POST", "/v1/orders", limit("100000000", "0.01", time_in_force="ioc"))
    assert ended(sandbox, takes["uuid"])["state"] == "done"
    until(lambda: sandbox.status()["is_ended"])
    found = truth(sandbox)
    fills = {(fill["order"], fill["book"], fill["book_ms"], fill["lots"]) for fill in found["fills"]}
    assert fills == {
        (takes["uuid"], "0.log:1", 1000000, 1000000),
        (rests["uuid"], "0.log:3", 1002500, 200000),
        (rests["uuid"], "0.log:4", 1003000, 200000),
    }
    rows = {row["uuid"]: row for row in found["orders"]}
    names = ("pessimistic_volume", "executed_volume", "optimistic_volume")
    assert [rows[rests["uuid"]][name] for name in names] == ["0.004", "0.004", "0.006"]
    assert [rows[takes["uuid"]][name] for name in names] == ["0.01", "0.01", "0.01"]
    assert {(fill["pessimistic_volume"], fill["optimistic_volume"]) for fill in found["fills"]} == {
        ("0.004", "0.006"), ("0.01", "0.01"),
    }  # fmt: skip
    client.shutdown()


def test_what_an_account_took_stays_taken_for_it_alone(recorded: Callable[..., SandboxThread]) -> None:
    sandbox = recorded(BOOK)
    keys = sandbox.control(
        "POST", "/sandbox/accounts", {"access_key": "other", "balances": {"KRW": "900000000"}}
    )  # fmt: skip
    sandbox.control("POST", "/sandbox/accounts", {"access_key": "paper-main", "balances": {"KRW": "900000000"}})
    for pair in ((sandbox.access_key, sandbox.secret_key), (keys["access_key"], keys["secret_key"])):
        for wanted in ("1", "0"):
            body = limit("102945000", "1", time_in_force="ioc")
            _, order, _ = call(sandbox, "POST", "/v1/orders", body, keys=pair)

            def look(uuid: str = order["uuid"], pair: tuple[str, str] = pair) -> Any:
                found = call(sandbox, "GET", "/v1/order", query=f"uuid={uuid}", keys=pair)[1]
                return found if found["state"] != "wait" else None

            assert until(look)["executed_volume"] == wanted


def scripted(path: Path, folder: Path, chunk: int) -> list[Any]:
    """Orders at fixed frames of a recording, with the market's own clock; everything but names and our time."""
    feed = Recording(RawFrames(path))
    clock = MarketClock(lambda: feed.clock_ms, lambda _seconds, _work: None)
    exchange = Exchange(
        feed, Journal(folder / "journal"), now_ms=lambda: feed.clock_ms, later=clock.later, publish=lambda _: None,
        burn_refused_identifiers=False, fill_delay_s=0.03, cancel_delay_s=0.03,
    )  # fmt: skip
    exchange.open()
    exchange.open_account("a", {"KRW": 10**30})
    lines = list(feed.source.lines())
    for start in range(0, len(lines), chunk):
        for number, line in enumerate(lines[start : start + chunk], start):
            clock.run_until(line.exchange_ms)
            frame = feed.take_line(line)
            if frame is not None:
                exchange.on_frame(frame)
            book = feed.book(line.market)
            if number % 7 == 0 and line.market.startswith("KRW-") and book is not None and book.bids:
                price = book.bids[0].price_e8 if number % 2 else book.asks[0].price_e8
                body = {"market": line.market, "side": "bid", "ord_type": "limit", "price": str(price / E8)}
                exchange.accept("a", body | {"volume": f"{10_000 * E8 / price:.4f}"})
    names = ("order", "uuid")
    return [
        [order.market, order.state, order.executed_lots, exchange._trading.queues.bounds(order)]
        for order in exchange.orders.values()
    ] + [{key: value for key, value in fill.items() if key not in names} for fill in exchange.fills()]


@needs_data
def test_the_same_recording_gives_the_same_fills_at_any_speed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = scripted(DAY, tmp_path / "a", 1), scripted(DAY, tmp_path / "b", 1000)
    assert first == second
    bounds = [row[3] for row in first if isinstance(row, list)]
    assert len(bounds) > 50
    assert all(low <= middle <= high for low, middle, high in bounds)
    assert any(low < high for low, middle, high in bounds)


def test_the_clock_of_the_market_decides_and_ours_where_it_stands_still() -> None:
    now_ms = 1000
    wall: list[tuple[float, Callable[[], None]]] = []
    clock = MarketClock(lambda: now_ms, lambda seconds, work: wall.append((seconds, work)))
    done: list[str] = []
    clock.later(0.03, lambda: done.append("first"))
    clock.later(0.01, lambda: done.append("second"))
    clock.later(9.0, lambda: done.append("third"))
    clock.run_until(1010)
    assert done == []
    clock.run_until(1011)
    assert done == ["second"]
    clock.run_until(1500)
    assert done == ["second", "first"]
    wall[2][1]()
    wall[2][1]()
    assert done == ["second", "first", "third"]
    clock.run_until(99_999)
    assert len(done) == 3


def test_what_cannot_be_begun_is_named_before_anything_starts(tmp_path: Path) -> None:
    books = tmp_path / "b.parquet"
    books.touch()
    topics: dict[str, Any] = {"kind": "recording", "recording_topics": "run-"}
    refuse_unreachable(Settings(home=tmp_path, feed=topics))
    refuse_another_feed(Settings(home=tmp_path, feed=topics))
    with pytest.raises(BadSettings, match=r"`feed\.recording_trades` names no file"):
        refuse_unreachable(
            Settings(home=tmp_path, feed={"kind": "recording", "recording": books, "recording_trades": tmp_path / "no"})
        )
    with pytest.raises(BadSettings, match="topics of 'run-'"):
        refuse_another_feed(Settings(home=tmp_path, feed={"kind": "recording", "recording": books}))
