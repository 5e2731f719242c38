"""Bad input: refused with file and row, or counted with its reason; never half of an archive."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from infra.errors import BadSettings
from streams.messages import OrderBook, Trade

Change = Callable[[list[str]], list[str]]
THIRD = ",1790134774010,"
"""Event time of the third trade."""


def replaced(row: int, old: str, new: str) -> Change:
    return lambda lines: [line.replace(old, new) if i == row else line for i, line in enumerate(lines)]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (replaced(4, "101.5", "0"), "row 6: price is 0.0: no price"),
        (replaced(4, "101.5", "nan"), "row 6: price is nan: no price"),
        (replaced(4, "101.5", '"101,5"'), "row 6: price is '101,5': no number with a decimal point"),
        (replaced(4, "101.5", "101,5"), "row 6: 10 cells, the header has 9"),
        (replaced(0, ",1790134773060,", ",1790134773.06,"), "received_ms is 1790134773.06: it looks like seconds"),
        (replaced(2, THIRD, ",1790134774,"), "row 4: exchange_ms is 1790134774: it looks like seconds"),
        (replaced(2, THIRD, ",1790134774010000,"), "it looks like microseconds"),
        (replaced(2, THIRD, ",,"), "row 4: exchange_ms is missing"),
        (replaced(2, "upbit", "binance"), "row 4: exchange 'binance' after 'upbit'"),
        (lambda lines: [*lines[12:], *lines[:12], lines[0]], None),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_stops_the_import_with_its_number(made: Any, change: Change, told: str | None) -> None:
    lines = change([made.trade(i) for i in range(24)])
    if told is None:
        lines, told = [made.trade(99, at_ms=made.at_ms + 90_000), *lines], "row 3: its time lies 84.0 s before"
    with pytest.raises(BadSettings) as error:
        made.imported(made.trades(lines))
    assert told in str(error.value)
    assert "trades.csv" in str(error.value)
    assert not (made.folder / "archive").exists()


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        (",0,1,104,2", "bid_price_1 is 0 before levels that have a price"),
        (",100,-1,104,2", "below zero"),
    ],
)
def test_levels_that_cannot_be(made: Any, cells: str, told: str) -> None:
    header = "exchange,market,exchange_ms,bid_price_1,bid_size_1,ask_price_1,ask_size_1"
    second = ",bid_price_2,bid_size_2,ask_price_2,ask_size_2"
    line = f"upbit,KRW-BTC,{made.at_ms}{cells},99,1,105,1"
    with pytest.raises(BadSettings, match=f"books.csv, row 2: .*{told}"):
        made.imported(made.books([line], header=header + second))


def test_missing_columns_are_named(made: Any) -> None:
    header = "exchange,market,exchange_ms,trade_id,price,is_buy"
    with pytest.raises(BadSettings, match="for CSV of trades the columns size are missing"):
        made.imported(made.trades([], header=header))
    with pytest.raises(BadSettings, match="level 2 lacks the columns ask_size_2"):
        made.imported(made.books([], header="exchange,market,exchange_ms,bid_price_1,bid_size_1,ask_price_1,ask_size_1,"
                                 "bid_price_2,bid_size_2,ask_price_2"))  # fmt: skip
    with pytest.raises(BadSettings, match="level 2 lacks the columns ask_price_2, ask_size_2, bid_price_2, bid_size_2"):
        made.imported(made.books([], header=f"{made.books_header},bid_price_3"))
    with pytest.raises(BadSettings, match="the columns price stand there twice"):
        made.imported(made.trades([], header="exchange_ms,price,price"))


def test_names_that_are_none(made: Any) -> None:
    with pytest.raises(BadSettings, match="exchange 'up:bit' is no name"):
        made.imported(made.trades([made.trade(1, exchange="up:bit")]))
    found = made.imported(made.trades([made.trade(1), made.trade(2, market="krw btc"), made.trade(3, market="")]))
    assert (found["trades"], found["dead letters"]) == (1, 2)
    assert {letter.reason for letter in made.messages("dead-letters")} == {
        "market 'krw btc' is no code of an exchange", "no market in it",
    }  # fmt: skip
    columns = ("bid_price", "bid_size", "ask_price", "ask_size")
    levels = ",".join(f"{column}_{number}" for number in range(1, 202) for column in columns)
    with pytest.raises(BadSettings, match="201 levels: at most 200"):
        made.imported(made.books([], header=f"exchange,market,exchange_ms,{levels}"))


def test_missing_columns_of_parquet_are_named(made: Any, data_folder: Path) -> None:
    whole = pq.read_table(data_folder / "upbit_ws" / "upbit_trade_20210417.parquet")
    path = made.folder / "trades.parquet"
    pq.write_table(whole.drop_columns(["ask_bid", "code"]), path)
    with pytest.raises(BadSettings, match=r"trades.parquet: for upbit-parquet the columns ask_bid, code are missing"):
        made.imported(path)
    pq.write_table(whole.drop_columns(["recv_us", "trade_timestamp"]), path)
    made.imported(path)
    table = [row for row in made.columns("trades").to_pylist() if row["type"] == "trade"]
    assert {(row["received_ns"], row["trade_ms"]) for row in table} == {(None, None)}
    with pytest.raises(BadSettings, match="no Parquet file, as binance-books would be"):
        made.imported(made.trades(), wanted="binance-books")


def test_a_binance_file_must_tell_its_market(made: Any, data_folder: Path) -> None:
    path = made.folder / "trades.parquet"
    pq.write_table(
        pq.read_table(data_folder / "binance_l2" / "spot_ethusdt_20240808_trades.parquet").slice(0, 99), path
    )
    with pytest.raises(BadSettings, match="name it with --market"):
        made.imported(path)
    assert made.imported(path, market="ETHUSDT")["sessions"][0]["markets"] == "ETHUSDT"


def test_a_file_that_is_cut_off_or_damaged_is_said_so(made: Any, data_folder: Path) -> None:
    lines = b"".join(made.frame(i) for i in range(500))
    cut = made.file("cut.log.gz", lines)
    cut.write_bytes(cut.read_bytes()[:-30])
    with pytest.raises(BadSettings, match=r"cut\.log\.gz cannot be read"):
        made.imported(cut)
    sheet = made.file("cut.csv.gz", made.trades().read_text())
    sheet.write_bytes(sheet.read_bytes()[:-12])
    with pytest.raises(BadSettings, match=r"cut\.csv\.gz cannot be read"):
        made.imported(sheet)
    table = made.folder / "cut.parquet"
    table.write_bytes((data_folder / "upbit_ws" / "upbit_trade_20210417.parquet").read_bytes()[:-100])
    with pytest.raises(BadSettings, match=r"cut\.parquet is cut off or no Parquet file"):
        made.imported(table)
    assert not (made.folder / "archive").exists()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.log", b"", "is empty"),
        ("a.csv", b"# words only\n", "neither raw Upbit frames"),
        ("a.csv", b"exchange,market,exchange_ms,trade_id,price,size,is_buy\n", "holds no book and no trade"),
        ("a.log", b'1.5: b\'{"ty":"ticker"}\'\nno frame\n', "holds no book and no trade: 1 x no frame, 1 x unknown"),
        ("a.bin", bytes(range(256)), "neither raw Upbit frames"),
    ],
)
def test_a_file_without_data_is_refused(made: Any, name: str, content: bytes, told: str) -> None:
    with pytest.raises(BadSettings, match=told):
        made.imported(made.file(name, content))
    assert not (made.folder / "archive").exists()


def test_frames_that_cannot_be_used_become_dead_letters_as_in_the_feed(made: Any) -> None:
    lines = [made.frame(i) for i in range(10)]
    lines[3] = made.frame(3, obu=[{"ap": 100.0, "bp": 101.0, "as": 1.0, "bs": 2.0}])
    lines[5] = made.frame(5, ty="ticker")
    lines.insert(7, b"no frame\n")
    found = made.imported(made.file("a.log.gz", b"".join(lines)))
    assert (found["books"], found["dead letters"], found["skipped: no frame"]) == (8, 2, 1)
    assert found["dead letter: unknown type ticker"] == 1
    letters = made.messages("dead-letters")
    assert [(one.topic, one.offset) for one in letters] == [("file:a.log.gz", 4), ("file:a.log.gz", 6)]
    assert "crossed" in letters[0].reason


def test_what_comes_twice_is_counted(made: Any) -> None:
    trades = [made.trade(i) for i in (0, 1, 1, 2, 1)]
    books = [made.book(0), made.book(0), made.book(1)]
    found = made.imported(made.books(books), made.trades(sorted(trades, key=trades.index)))
    assert (found["trades"], found["repeated trades, left out"]) == (3, 2)
    assert (found["books"], found["repeated books, kept"]) == (3, 1)
    assert sum(isinstance(one, Trade) for one in made.messages("trades")) == 3
    assert sum(isinstance(one, OrderBook) for one in made.messages("orderbooks")) == 3
    with pytest.raises(BadSettings, match=r"copy.csv is the same file as books.csv|books.csv is the same file as copy"):
        made.imported(made.books(), made.books(name="copy.csv"), to="other")


def test_times_that_go_back_a_little_are_counted(made: Any) -> None:
    lines = [made.trade(i) for i in (0, 1, 3, 2, 4)]
    found = made.imported(made.trades(lines))
    assert found["files"][0]["rows_whose_time_went_back"] == 1
    times = made.columns("trades")["append_ms"].to_pylist()
    assert len(times) > 5


def test_a_raw_recording_that_goes_back_is_refused(made: Any) -> None:
    lines = [made.frame(i) for i in (500, 501, 0)]
    with pytest.raises(BadSettings, match=r"a.log, row 3: its time lies 100.2 s before an earlier row's"):
        made.imported(made.file("a.log", b"".join(lines)))


def test_plain_and_gzip_are_told_by_content(made: Any) -> None:
    path = made.file("packed.csv", gzip.compress(made.trades().read_bytes()))
    assert made.imported(path)["trades"] == 24
