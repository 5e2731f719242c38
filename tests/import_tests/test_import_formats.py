"""Each format into an archive: what comes out is what the file says, laid out as the feed would have written it."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.log import partition_of
from producers.imports.archive import Parts
from producers.imports.session import Timed
from producers.upbit.replay_source import records_of_recording
from producers.upbit.source import Output
from streams.history import ArchiveHistory, merged
from streams.messages import Heartbeat, Hole, OrderBook, RunManifest, Trade
from streams.topics import TOPICS

Rows = Callable[[ArchiveHistory], dict[tuple[str, int], bytes]]


@pytest.mark.parametrize("day", ["20210405", "20210417"])
def test_a_recording_gives_the_records_that_the_feed_would_write(made: Any, data_folder: Path, day: str) -> None:
    path = data_folder / "upbit_ws" / f"upbit_ws_raw_{day}.log.gz"
    found = made.imported(path)
    wanted = records_of_recording(path, 1_000, 500, found["sessions"][0]["session"])
    history = made.history()
    got = list(merged(history, history.spans(("orderbooks", "trades"))))
    assert Counter((one.topic, one.partition, one.key, one.value) for one in got) == Counter(wanted)
    by_slot: dict[Any, list[bytes]] = {}
    for record in got:
        by_slot.setdefault(record.slot, []).append(record.value)
    for output in wanted:
        assert by_slot[output.topic, output.partition].pop(0) == output.value
    assert found["skipped: no frame"] == {"20210405": 3, "20210417": 4}[day]
    data = [record for record in got if record.key]
    assert [record.partition for record in data] == [partition_of(record.key, 12) for record in data]


def test_append_times_are_the_times_of_receipt_and_offsets_have_no_hole(made: Any, data_folder: Path) -> None:
    made.imported(data_folder / "upbit_ws" / "upbit_ws_raw_20210417.log.gz")
    history = made.history()
    for slot, (first, end) in history.spans(TOPICS).items():
        records = list(history.read(slot, first, end))
        assert [record.offset for record in records] == list(range(end))
        times = [record.append_ms for record in records]
        assert times == sorted(times)
    table = made.columns("orderbooks").to_pylist()
    assert {row["append_ms"] for row in table if row["type"] == "order-book"} == {
        row["received_ns"] // 1_000_000 for row in table if row["type"] == "order-book"
    }


def test_parquet_and_raw_frames_give_the_same_features(made: Any, data_folder: Path, rows_of: Rows) -> None:
    folder = data_folder / "upbit_ws"
    made.imported(folder / "upbit_ws_raw_20210417.log.gz", to="raw")
    found = made.imported(
        folder / "upbit_orderbook_20210417_15lv.parquet", folder / "upbit_trade_20210417.parquet", to="parquet"
    )
    assert (found["books"], found["trades"], [one["format"] for one in found["files"]]) == (
        145, 304, ["upbit-parquet", "upbit-parquet"],
    )  # fmt: skip
    rows = rows_of(made.history("raw"))
    assert len(rows) == 150
    assert rows_of(made.history("parquet")) == rows


def test_binance_keeps_what_it_says_and_its_clock_that_is_behind(made: Any, data_folder: Path, rows_of: Rows) -> None:
    folder = data_folder / "binance_l2"
    books = folder / "derived_spot_ethusdt_20240808_depth15_100ms.parquet"
    found = made.imported(books, folder / "spot_ethusdt_20240808_trades.parquet")
    assert (found["books"], found["trades"]) == (6_468, 14_515)
    assert found["sessions"][0] | {"session": 0} == {
        "exchange": "binance", "session": 0, "markets": "ETHUSDT", "append_time": "receive time",
        "topics": "orderbooks, trades",
    }  # fmt: skip
    trades = [one for one in made.messages("trades") if isinstance(one, Trade)]
    assert sum(not trade.is_buy for trade in trades) == sum(made_maker(folder))
    first = trades[0]
    assert (first.exchange, first.source, first.market) == ("binance", "binance", "ETHUSDT")
    assert first.exchange_ms - first.received_ns // 1_000_000 > 1_000
    assert len(rows_of(made.history())) == 650


def made_maker(folder: Path) -> list[bool]:
    import pyarrow.parquet as pq  # noqa: PLC0415 - one test needs it

    column: list[bool] = pq.read_table(folder / "spot_ethusdt_20240808_trades.parquet")["is_buyer_maker"].to_pylist()
    return column


def test_csv_books_and_trades_become_one_session(made: Any, rows_of: Rows) -> None:
    words = "# prices in quote currency, sizes in base currency, times in ms\n"
    books = made.file("books.csv.gz", words + made.books().read_text())
    found = made.imported(books, made.trades())
    assert [(one["name"], one["format"], one["rows"]) for one in found["files"]] == [
        ("books.csv.gz", "csv", 60), ("trades.csv", "csv", 24),
    ]  # fmt: skip
    (session,) = found["sessions"]
    assert session["session"] == made.at_ms + 40
    first = next(one for one in made.messages("orderbooks") if isinstance(one, OrderBook))
    assert (first.bid_prices, first.ask_sizes, first.received_ns) == (
        [100.0], [2.5], (made.at_ms + 40) * 1_000_000 + 250_000,
    )  # fmt: skip
    beats = [one for one in made.messages("trades") if isinstance(one, Heartbeat) and one.markets]
    assert beats[-1].count == 24
    assert len(rows_of(made.history())) == 11


def test_what_the_source_lacks_is_null_and_reads_as_not_known(made: Any) -> None:
    header = "exchange,market,exchange_ms,trade_id,price,size,is_buy"
    lines = [f"upbit,KRW-BTC,{made.at_ms + i},{i},100,1,{'true' if i else ''}" for i in range(3)]
    found = made.imported(made.trades(lines, header=header))
    assert found["sessions"][0]["append_time"] == "event time: the files have no receive time"
    table = [row for row in made.columns("trades").to_pylist() if row["type"] == "trade"]
    assert [(row["received_ns"], row["trade_ms"], row["append_ms"]) for row in table] == [
        (None, None, made.at_ms + 1), (None, None, made.at_ms + 2),
    ]  # fmt: skip
    trades = [one for one in made.messages("trades") if isinstance(one, Trade)]
    assert [(one.received_ns, one.trade_ms, one.is_buy) for one in trades] == [(0, 0, True)] * 2
    (letter,) = made.messages("dead-letters")
    assert (letter.topic, letter.offset, letter.reason) == (
        "file:trades.csv", 2, "nobody says whether the taker bought",
    )  # fmt: skip


def test_of_a_topic_that_the_source_lacks_not_even_heartbeats_are_written(made: Any, rows_of: Rows) -> None:
    made.imported(made.books())
    assert {slot.topic for slot in made.history().spans(TOPICS)} == {"orderbooks", "manifests"}
    assert rows_of(made.history()) == {}


def test_the_manifest_opens_the_run_and_says_where_it_came_from(made: Any) -> None:
    path = made.books()
    found = made.imported(path, made.trades())
    history = made.history()
    first = next(merged(history, history.spans(TOPICS)))
    assert (first.topic, first.append_ms) == ("manifests", found["first_ms"])
    (manifest,) = made.messages("manifests")
    assert isinstance(manifest, RunManifest)
    assert manifest.process == "import"
    told = manifest.settings
    assert (told["import.files.0.name"], told["import.files.0.format"]) == ("books.csv", "csv")
    assert told["import.files.0.sha256"] == found["files"][0]["sha256"]
    assert told["grid.lateness_ms"] == "500"
    assert history.mark.kind == "import"
    everything = b"".join(made.store().read(name) for name in made.store().names())
    assert str(made.folder).encode() not in everything
    assert not any(str(made.folder) in one for one in told.values())


def test_a_silent_file_is_a_hole_and_a_later_one_a_session_of_its_own(made: Any, rows_of: Rows) -> None:
    later = [made.book(i, at_ms=made.at_ms + 200 * i + (60_000 if i >= 30 else 0)) for i in range(60)]
    found = made.imported(made.books(later), made.trades(), to="hole")
    assert found["holes"] == 1
    holes = [one for one in made.messages("orderbooks", to="hole") if isinstance(one, Hole) and one.markets]
    assert [one.reason for one in holes] == ["the file is silent for 54 s"]
    bins = sorted(bin_ms - made.at_ms for _, bin_ms in rows_of(made.history("hole")))
    assert all(bin_ms <= 12_000 or bin_ms > 67_000 for bin_ms in bins)
    other = made.books([made.book(i, at_ms=made.at_ms + 100_000 + 200 * i) for i in range(9)], name="later.csv")
    found = made.imported(other, made.books(), made.trades(), to="two")
    assert [one["session"] - made.at_ms for one in found["sessions"]] == [40, 100_040]


def test_two_exchanges_are_two_sources(made: Any) -> None:
    other = [line.replace("upbit", "binance").replace("KRW-BTC", "BTCUSDT") for line in map(made.book, range(60))]
    found = made.imported(made.books(), made.books(other, name="other.csv"))
    assert [one["exchange"] for one in found["sessions"]] == ["binance", "upbit"]
    assert {one.source for one in made.messages("orderbooks")} == {"binance", "upbit"}


def test_parts_abut_however_small_they_are(made: Any) -> None:
    store = made.store()
    parts = Parts(store, "a" * 32, part_records=4, held_bytes=300)
    for i in range(40):
        topic = ("orderbooks", "trades")[i % 3 == 0]
        parts.take(Timed(made.at_ms + i * 400_000, Output(topic, i % 2, "", b"%03d" % i * 10)))
    parts.close()
    assert parts.records == 40
    by_slot: dict[Any, list[Any]] = {}
    for part in parts.written:
        by_slot.setdefault(part.slot, []).append(part)
    for found in by_slot.values():
        assert [part.first for part in found] == [0, *(part.last + 1 for part in found[:-1])]
    assert max(part.last - part.first for part in parts.written) < 4
    assert sorted(store.names()) == sorted(part.name for part in parts.written)
