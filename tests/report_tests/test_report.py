"""The daily report of made days: its two figures, its parts, its page, and what it says where something is missing."""

import json
import re
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

import observator
from consumers.report import nightly, orders
from consumers.report.clock import clock_rows
from consumers.report.command_line import keep
from consumers.report.made_days import DAYS, MadeDays
from consumers.report.page import page
from consumers.report.split import CAUSES
from consumers.report.words import WORDS, both
from consumers.verify.session import day_ms
from infra.errors import BadSettings
from infra.log import Record, Slot, slots_of
from infra.memory_log import MemoryLog
from streams import messages as m
from streams.history import LogHistory
from streams.process import topic_specs
from streams.topics import TOPICS, decode

SECONDS, MARKETS = 75, 2


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeDays:
    return MadeDays(tmp_path_factory.mktemp("days"), seconds=SECONDS, markets=MARKETS)


@pytest.fixture(scope="module")
def clean(made: MadeDays) -> dict[str, Any]:
    return orders.report(LogHistory(made.log), made.settings, DAYS[0])


def copied(made: MadeDays, change: Any) -> MemoryLog:
    """The days once more, each record as `change` gives it back; None leaves it out."""
    log = MemoryLog(clock_ms=lambda: 0)
    log.create_topics(topic_specs())
    for slot in slots_of(made.log, list(TOPICS)):
        reader = made.log.reader({slot: made.log.bounds([slot])[slot][0]})
        while records := reader.read(5_000, 0):
            for record in records:
                if (changed := change(record)) is not None:
                    log.append(changed)
        reader.close()
    return log


def reported(made: MadeDays, change: Any, day: str = DAYS[0]) -> dict[str, Any]:
    return orders.report(LogHistory(copied(made, change)), made.settings, day)


def adds_up(rows: list[dict[str, Any]]) -> bool:
    return all(sum(Decimal(row[name]) for name in CAUSES) == Decimal(row["total"]) for row in rows)


def test_the_night_finds_both_plants_by_name_and_nothing_else(made: MadeDays) -> None:
    found = nightly.verified(made, SECONDS, MARKETS)
    assert found["passed"], found
    folder = made.settings.home / "reports"
    names = {f"{kind}-{day}.json" for kind in ("parity", "report") for day in DAYS}
    assert names <= {file.name for file in folder.iterdir()}
    told = json.loads((folder / f"report-{DAYS[1]}.json").read_text())
    assert told["verdict"] == "no"
    assert told["reason"].split()[4] in made.planted["code"].places[:MARKETS]
    for day in DAYS:
        (folder / f"parity-{day}.json").unlink()  # the other tests begin without


def test_a_clean_day_equals_its_replay_and_the_parts_add_up(clean: dict[str, Any]) -> None:
    assert (clean["verdict"], clean["reason"]) == ("yes", "decisions only: parity of the day was not run")
    assert len(clean["orders"]) > 8
    assert {row["side"] for row in clean["orders"]} == {"buy", "sell"}
    assert adds_up(clean["orders"])
    assert adds_up(clean["difference"])
    (whole,) = clean["difference"]
    assert whole["quote"] == "KRW"
    for name in (*CAUSES, "total", "expected", "traded"):
        assert sum(Decimal(row[name]) for row in clean["by_ledger"]) == Decimal(whole[name])
    assert all(Decimal(whole[name]) for name in ("spread", "latency", "model"))
    assert (clean["clock"], clean["problems"], clean["first_difference"]) == ([], [], None)
    assert clean["holes"]["days"]


def test_the_money_of_the_day_is_what_the_fills_brought(made: MadeDays, clean: dict[str, Any]) -> None:
    money, held = Decimal(0), dict.fromkeys((f"KRW-T{n:03d}" for n in range(MARKETS)), Decimal(0))
    for row in clean["orders"]:
        for fill in row["fills"]:
            sign = 1 if fill["side"] == "buy" else -1
            money -= sign * Decimal(fill["funds"]) + Decimal(fill["fee"])
            held[fill["market"]] += sign * Decimal(fill["quantity"])
    rows = [decode("features", one.value) for one in records(made, "features") if one.append_ms < day_ms(DAYS[0])[1]]
    last = {row.market: row.mid for row in rows}
    money += sum(quantity * Decimal(repr(last[market])) for market, quantity in held.items())
    assert Decimal(clean["money"]["KRW"]) == money


def records(made: MadeDays, topic: str) -> list[Record]:
    found = []
    for slot in slots_of(made.log, [topic]):
        reader = made.log.reader({slot: 0})
        while some := reader.read(5_000, 0):
            found += some
        reader.close()
    return sorted(found, key=lambda one: (one.append_ms, one.partition, one.offset))


def first_fill(made: MadeDays) -> Record:
    return next(one for one in records(made, "order-events") if b'"order-filled"' in one.value)


def test_an_order_that_was_not_filled_is_the_queues(made: MadeDays, clean: dict[str, Any]) -> None:
    """The fills are gone, and with them the fold's inputs: what was decided then is held against the book."""
    found = reported(made, lambda one: None if b'"order-filled"' in one.value else one)
    assert (found["verdict"], found["money"]) == ("not comparable", {})
    assert len(found["orders"]) == len(clean["orders"])
    for row in found["orders"]:
        assert (row["total"], row["fills"]) == (row["queue"], [])
        assert {row[name] for name in CAUSES if name != "queue"} == {"0.00000000"}
        assert "not_filled" in row["notes"]


def test_a_decision_that_the_replay_does_not_make_is_named(made: MadeDays) -> None:
    record = next(one for one in records(made, "order-intents") if b'"order-intent"' in one.value)
    changed = msgspec.structs.replace(decode("order-intents", record.value), id="planted", funds=Decimal(7777))
    planted = record._replace(value=m.encode(changed))
    found = reported(made, lambda one: planted if (one.slot, one.offset) == (record.slot, record.offset) else one)
    assert found["verdict"] == "no"
    assert found["first_difference"]["intent_id"] in found["reason"]
    by_id = {row["intent_id"]: row for row in found["orders"]}
    assert "only_recorded" in by_id["planted"]["notes"]
    assert by_id["planted"]["place"] == f"order-intents/{record.partition}/{record.offset}"
    lost = by_id[decode("order-intents", record.value).id]
    assert (lost["is_recorded"], lost["unexplained"]) == (False, lost["total"])
    assert adds_up(found["orders"])


def test_a_fill_that_was_told_twice_counts_once(made: MadeDays, clean: dict[str, Any]) -> None:
    log = copied(made, lambda one: one)
    fill = first_fill(made)
    end = log.bounds([fill.slot])[fill.slot][1]
    log.append(fill._replace(offset=end, append_ms=fill.append_ms))
    found = orders.report(LogHistory(log), made.settings, DAYS[0])
    assert found["money"] == clean["money"]


def test_a_day_whose_inputs_are_gone_is_not_comparable_and_still_reported(made: MadeDays) -> None:
    log = copied(made, lambda one: None if one.topic == "account-states" else one)
    home = Slot("trade-inputs", 0)
    log.truncate(home, 40)
    found = orders.report(LogHistory(log), made.settings, DAYS[0])
    assert found["verdict"] == "not comparable"
    assert "trade-inputs/0" in found["reason"]
    assert found["orders"]
    assert adds_up(found["orders"])


def test_a_day_without_data_says_so(made: MadeDays) -> None:
    found = orders.report(LogHistory(made.log), made.settings, "2020-01-01")
    assert (found["verdict"], found["orders"], found["money"]) == ("no data", [], {})
    assert both("empty")[1] in page(found)
    with pytest.raises(BadSettings, match="yesterday"):
        orders.report(LogHistory(made.log), made.settings, "yesterday")


def test_what_cannot_be_read_is_named_and_never_taken_for_whole(made: MadeDays) -> None:
    torn = next(one for one in records(made, "signals"))
    found = reported(
        made, lambda one: one._replace(value=b"{") if (one.slot, one.offset) == (torn.slot, torn.offset) else one
    )
    assert any(text.startswith(f"signals/{torn.partition}/{torn.offset}") for text in found["problems"])
    assert found["verdict"] != "yes"


def test_a_parity_report_enters(made: MadeDays, tmp_path: Path) -> None:
    settings = made.settings.model_copy(update={"home": tmp_path})
    said = {"verdict": "different", "problems": [], "not_comparable": [], "differences": [
        {"place": {"topic": "features", "partition": 3, "offset": 41}, "kind": "differs", "identity": "x"}
    ]}  # fmt: skip
    keep(tmp_path / "reports" / f"parity-{DAYS[0]}.json", json.dumps(said))
    found = orders.report(LogHistory(made.log), settings, DAYS[0])
    assert (found["verdict"], "features/3/41" in found["reason"]) == ("no", True)
    keep(tmp_path / "reports" / f"parity-{DAYS[0]}.json", json.dumps(said | {"verdict": "incomplete"}))
    assert orders.report(LogHistory(made.log), settings, DAYS[0])["verdict"] == "not comparable"
    (tmp_path / "reports" / f"parity-{DAYS[0]}.json").write_text("{")
    assert orders.report(LogHistory(made.log), settings, DAYS[0])["verdict"] == "not comparable"


# --- clocks -------------------------------------------------------------------------------------------------------


def test_a_clock_that_went_back_is_named(made: MadeDays) -> None:
    books = [one for one in records(made, "orderbooks") if one.append_ms < day_ms(DAYS[0])[1]]
    victim = next(one for one in books[400:] if one.key)
    log = copied(made, lambda one: one._replace(append_ms=one.append_ms - 60_000)
                 if (one.slot, one.offset) == (victim.slot, victim.offset) else one)  # fmt: skip
    rows = clock_rows(LogHistory(log), *day_ms(DAYS[0]))
    place = f"orderbooks/{victim.partition}/{victim.offset}"
    assert ("went back", place) in {(row["kind"], row["first"]) for row in rows}


def test_a_clock_that_stood_behind_is_named(made: MadeDays) -> None:
    trades = [one for one in records(made, "trades") if one.key and one.append_ms < day_ms(DAYS[0])[1]]
    victim = trades[100]
    late = msgspec.structs.replace(decode("trades", victim.value), exchange_ms=1_000)
    log = copied(made, lambda one: one._replace(value=m.encode(late))
                 if (one.slot, one.offset) == (victim.slot, victim.offset) else one)  # fmt: skip
    (row,) = clock_rows(LogHistory(log), *day_ms(DAYS[0]))
    assert (row["kind"], row["first"], row["records"]) == ("late", f"trades/{victim.partition}/{victim.offset}", 1)


# --- page and verb ------------------------------------------------------------------------------------------------


class Reading(HTMLParser):
    """Holds tags against each other and collects what the page says."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.said: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]
        if tag not in {"meta", "input", "rect", "line"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"rect", "line"}:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def test_the_page_stands_alone_in_two_languages(clean: dict[str, Any]) -> None:
    text = page(clean | {"reason": "<script>alert(1)</script>"})
    reading = Reading()
    reading.feed(text)
    assert reading.open == []
    assert reading.links == []
    assert not re.search(r"<script|https?://|@import", text)
    for key in ("money", "equal", "orders", "difference", "no_clock", "hole_ledger"):
        assert set(both(key)) <= set(reading.said)
    assert len(text) < 300_000


def test_every_word_stands_in_both_languages_and_every_word_asked_for_is_there() -> None:
    for korean, english in WORDS.values():
        assert korean
        assert english
        assert set(re.findall(r"{\w+}", korean)) == set(re.findall(r"{\w+}", english))
    source = "".join(file.read_text() for file in Path("consumers/report").glob("*.py"))
    asked = set(re.findall(r'_(?:say|headed)\("(\w+)"', source)) | set(re.findall(r'notes\.append\("(\w+)"\)', source))
    assert asked <= set(WORDS)


def test_the_verb_writes_json_and_page_whole(made: MadeDays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import contextmanager  # noqa: PLC0415 - used here only

    @contextmanager
    def opened(*_: object) -> Any:
        yield LogHistory(made.log)

    monkeypatch.setattr("streams.history.open_history", opened)
    file = tmp_path / "pages" / "day.html"
    arguments = ["--home", str(tmp_path), "report", "--day", DAYS[0], "--html", str(file), "--json"]
    found = CliRunner().invoke(observator.app, arguments)
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout.strip().splitlines()[-1])
    assert told["day"] == DAYS[0]
    assert json.loads((tmp_path / "reports" / f"report-{DAYS[0]}.json").read_text()) == told
    assert file.read_text().startswith("<!doctype html>")
    assert not list(tmp_path.rglob("*.new"))
    shown = CliRunner().invoke(observator.app, arguments[:-1])
    assert shown.exit_code == 0
    assert "Live equals replay" in shown.output
