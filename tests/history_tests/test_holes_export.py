import csv
import json
import os
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import observator
from consumers.archive.export import export_csv
from consumers.archive.frames import Wanted, day_ms, frames
from consumers.archive.holes import DAY_MS, Ledger, by_days, joined, ledger, without
from consumers.archive.holes_page import WORDS, page
from infra.errors import BadSettings, RecordsLost
from infra.log import TopicSpec, partition_of
from infra.memory_log import MemoryLog
from streams.archived import ArchiveHistory
from streams.history import LogHistory
from streams.messages import Balance, Message
from streams.topics import TOPICS

from .conftest import DAY, START_MS, Archive, beat, book, hole, recorded, trade


def messages() -> dict[str, list[Message]]:
    """A minute of KRW-A: a hole of 2 s, told in both topics, a late book, and 20 s without a book."""
    again = {"session": START_MS + 50_000, "complete_from_ms": START_MS + 52_000}
    books: list[Message] = [beat(0, count=0), *map(book, range(1, 100)), beat(100, count=99), hole(50, 70), book(7)]
    books += [*map(book, range(101, 150)), beat(400, count=149), *map(book, range(350, 400)), beat(410, count=199)]
    books += [beat(520, count=0, **again), book(521, session=again["session"])]
    trades: list[Message] = [beat(0, count=0), trade(3), hole(60, 75, reason="other"), trade(80), beat(410, count=2)]
    return {"orderbooks": books, "trades": trades}


def filled(archive: Archive) -> ArchiveHistory:
    for topic, rows in messages().items():
        records = recorded(topic, rows)
        for at in range(0, len(records), 61):
            archive.put(records[at : at + 61])
    return ArchiveHistory(archive.store)


def checked(found: Ledger) -> None:
    (day,) = found.days
    assert (day.day, day.market, day.books, day.trades) == (DAY, "KRW-A", 200, 2)
    assert day.late == 1 + 50  # book 7, and all of 35.0 s on, written behind the heartbeat of 40.0 s
    assert day.late_percent == round(100 * 51 / 202, 4)
    assert (day.holes, day.hole_seconds) == (3, 2.5 + 11.0)
    assert [(one.kind, one.from_ms - START_MS, one.to_ms - START_MS, one.reason) for one in found.stretches] == [
        ("hole", 5_000, 7_000, "reconnect"),
        ("hole", 6_000, 7_500, "other"),
        ("stale", 14_900, 35_000, "no book"),
        ("hole", 41_000, 52_000, "new session"),
    ]
    assert (day.stale, day.stale_seconds) == (1, 20.1)


def test_the_ledger_of_an_archive_and_of_a_log(archive: Archive) -> None:
    checked(ledger(filled(archive)))
    log = MemoryLog()
    log.create_topics([TopicSpec(name, 12, {}) for name in TOPICS])
    for topic, rows in messages().items():
        for record in recorded(topic, rows):
            log.append(record)
    checked(ledger(LogHistory(log)))


def test_a_day_without_data_has_nothing(archive: Archive) -> None:
    low, high = day_ms(DAY)
    history = filled(archive)
    assert ledger(history, low, high).stretches
    assert ledger(history, high, high + DAY_MS) == Ledger(days=[], stretches=[])


def test_stretches_are_cut_at_midnight_in_korea() -> None:
    midnight = day_ms(DAY)[1]
    assert by_days(midnight - 5, midnight + 7) == [
        (DAY, midnight - 5, midnight), ("2025-11-22", midnight, midnight + 7),
    ]  # fmt: skip
    assert joined([(5, 9), (1, 2), (2, 4), (6, 7)]) == [(1, 4), (5, 9)]
    assert without((0, 10), [(2, 4), (8, 20)]) == [(0, 2), (4, 8)]
    assert without((3, 4), [(2, 5)]) == []


@pytest.mark.parametrize("language", WORDS)
def test_the_picture_names_every_hole_and_nothing_outside(archive: Archive, language: str) -> None:
    drawn = page(ledger(filled(archive)), language)
    assert WORDS[language]["title"] in drawn
    assert all(text in drawn for text in ("upbit:KRW-A", "reconnect", "new session", "no book"))
    assert 'src="http' not in drawn
    assert WORDS[language]["none"] in page(Ledger(days=[], stretches=[]), language)


def test_a_csv_gives_the_same_numbers_back(archive: Archive, tmp_path: Path) -> None:
    history = filled(archive)
    for topic in ("orderbooks", "trades"):
        wanted = Wanted(topic)
        count = export_csv(history, wanted, tmp_path / f"{topic}.csv")
        frame = pd.concat(frames(history, wanted))
        with (tmp_path / f"{topic}.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == count == len(frame)
        assert list(rows[0]) == list(frame)
        assert [row["is_marked"] == "true" for row in rows] == frame["is_marked"].tolist()
        if topic == "orderbooks":
            assert [json.loads(row["bid_sizes"]) for row in rows] == frame["bid_sizes"].tolist()
        else:
            assert [float(row["price"]) for row in rows] == frame["price"].tolist()


def test_money_stands_with_all_its_digits(archive: Archive, tmp_path: Path) -> None:
    amounts = ("0.00000001", "12345678901234567890.10", "1E+2")
    balances = [
        Balance(
            pocket="p", currency='가,\n"나', available=Decimal(one), locked=Decimal(0), average_price=Decimal(1),
            event_ms=1,
        )
        for one in amounts
    ]  # fmt: skip
    archive.put(recorded("balances", balances))
    export_csv(ArchiveHistory(archive.store), Wanted("balances"), tmp_path / "b.csv")
    with (tmp_path / "b.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["available"] for row in rows] == ["0.00000001", "12345678901234567890.10", "100"]
    assert rows[0]["currency"] == '가,\n"나'


def test_nothing_is_left_of_an_export_that_fails(archive: Archive, tmp_path: Path) -> None:
    records = recorded("trades", map(trade, range(30)))
    parts = [archive.put(records[at : at + 10]) for at in (0, 10, 20)]
    history = ArchiveHistory(archive.store)
    assert history.spans(["trades"])
    (archive.folder / parts[1].name).unlink()
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "t.csv").write_text("of before")
    with pytest.raises(RecordsLost):
        export_csv(history, Wanted("trades"), folder / "t.csv")
    assert os.listdir(folder) == ["t.csv"]  # noqa: PTH208 hidden ones too
    assert (folder / "t.csv").read_text() == "of before"
    with pytest.raises(BadSettings, match="no folder"):
        export_csv(history, Wanted("trades"), tmp_path / "nowhere" / "t.csv")


def invoked(tmp_path: Path, *words: str) -> tuple[int, str]:
    found = CliRunner().invoke(observator.app, ["--home", str(tmp_path / "home"), *words])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.exit_code, found.stdout


def test_the_verbs(archive: Archive, tmp_path: Path) -> None:
    filled(archive)
    where = ("--from", str(archive.folder))
    told = json.loads(invoked(tmp_path, "archive", "holes", *where, "--json")[1])
    assert [one["kind"] for one in told["stretches"]] == ["hole", "hole", "stale", "hole"]
    picture = tmp_path / "p.html"
    _, text = invoked(tmp_path, "archive", "holes", *where, "--day", DAY, "--language", "ko", "--picture", str(picture))
    assert "누락 구간" in text
    assert picture.stat().st_size > 100_000
    out = tmp_path / "t.csv"
    words = ("--csv", "--topic", "trades", "--day", DAY, "--market", "KRW-A", "--column", "price", "--to", str(out))
    place = partition_of("upbit:KRW-A", 12)
    archive.put(recorded("trades", [trade(9)], partition=place, first=100))
    archive.store.write(f"missing/trades/p{place}-0-99.json", b"{}")
    _, text = invoked(tmp_path, "archive", "export", *where, *words, "--json")
    assert json.loads(text)["file"] == str(out)
    assert out.read_text() == f"record_partition,record_offset,type,price,is_marked\n{place},100,trade,100.5,false\n"


def test_read_takes_a_place_and_a_time(archive: Archive, tmp_path: Path) -> None:
    filled(archive)
    where = ("--from", str(archive.folder))
    lines = invoked(tmp_path, "read", "trades", *where)[1].splitlines()
    assert [json.loads(line)["trade_id"] for line in lines] == [3, 80]
    lines = invoked(tmp_path, "read", "trades", *where, "--from", str(START_MS + 200), "--limit", "1")[1].splitlines()
    assert [json.loads(line)["trade_id"] for line in lines] == [80]
    file = tmp_path / "x.parquet"
    invoked(tmp_path, "read", "orderbooks", *where, "--parquet", str(file))
    assert len(pd.read_parquet(file)) == 200
    with pytest.raises(BadSettings, match="no such rows"):
        invoked(tmp_path, "read", "signals", *where, "--parquet", str(tmp_path / "y.parquet"))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["archive", "x.parquet"]
    with pytest.raises(BadSettings, match="There is no archive"):
        invoked(tmp_path, "read", "trades", "--from", "archive")
