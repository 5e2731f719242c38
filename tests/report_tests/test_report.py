"""The daily report of made days: its two figures, its parts, its page, and what it says where something is missing."""

import json
import os
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import Result
from playwright.sync_api import sync_playwright
from typer.testing import CliRunner

import observator
from consumers.report import nightly, orders
from consumers.report.clock import clocks_of
from consumers.report.command_line import keep
from consumers.report.made_days import DAYS, MadeDays
from consumers.report.page import page
from consumers.report.split import CAUSES
from consumers.report.words import WORDS, both
from consumers.verify.session import day_ms, verify_session
from consumers.verify.session_command import verify_recorded
from consumers.verify.session_source import source_of
from infra.errors import BadSettings, RecordsLost
from infra.log import Record, Slot, slots_of
from infra.memory_log import MemoryLog
from infra.settings import Settings
from infra.store import FolderStore
from streams import messages as m
from streams.history import ArchiveHistory, LogHistory, Spans
from streams.parts import Part, part_bytes
from streams.process import topic_specs
from streams.topics import TOPICS, decode

SECONDS, MARKETS = 75, 2
CHROMIUM = next((path for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if Path(path).exists()), "")


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
    assert (clean["verdict"], clean["reason"]) == ("yes", "decisions only: parity of this source (log) was not run")
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
    said = {"verdict": "different", "source": "log", "made_ms": 1, "topics": {}, "problems": [], "not_comparable": [],
        "differences": [{"place": {"topic": "features", "partition": 3, "offset": 41}, "kind": "differs", "key": "x"}],
    }  # fmt: skip
    keep(tmp_path / "reports" / f"parity-{DAYS[0]}.json", json.dumps(said))
    found = orders.report(LogHistory(made.log), settings, DAYS[0])
    assert (found["verdict"], "features/3/41" in found["reason"]) == ("no", True)
    keep(tmp_path / "reports" / f"parity-{DAYS[0]}.json", json.dumps(said | {"verdict": "incomplete"}))
    assert orders.report(LogHistory(made.log), settings, DAYS[0])["verdict"] == "not comparable"
    (tmp_path / "reports" / f"parity-{DAYS[0]}.json").write_text("{")
    assert orders.report(LogHistory(made.log), settings, DAYS[0])["verdict"] == "not comparable"


def test_a_parity_says_what_it_did_not_cover(made: MadeDays, tmp_path: Path) -> None:
    settings = made.settings.model_copy(update={"home": tmp_path})
    topics = {name: {"not_covered": {"why": n, "else": 0}} for name, n in (("features", 694), ("signals", 2660))}
    left = [{"topic": "order-intents", "records": 12, "reason": "other code"}]
    said = {"verdict": "equal", "source": "log", "made_ms": 1, "topics": topics, "problems": [],
            "not_comparable": left, "differences": []}  # fmt: skip
    keep(tmp_path / "reports" / f"parity-{DAYS[0]}.json", json.dumps(said))
    found = orders.report(LogHistory(made.log), settings, DAYS[0])
    assert found["verdict"] == "yes"
    assert "not covered by parity: 694 features, 2,660 signals" in found["reason"]
    assert "not comparable in parity: 12 order-intents" in found["reason"]
    assert "694 features" in found["reason_korean"]
    keep(tmp_path / "reports" / f"parity-{DAYS[0]}.json", json.dumps(said | {"source": "log other-*"}))
    assert "was not run" in orders.report(LogHistory(made.log), settings, DAYS[0])["reason"]


class Broken(LogHistory):
    """Market data that cannot be read."""

    def read(self, slot: Slot, first: int, end: int) -> Iterator[Record]:
        if slot.topic == "trades":
            raise RecordsLost(f"trades/{slot.partition}: {first} to {end} are missing")
        return super().read(slot, first, end)

    def read_together(self, spans: Spans) -> dict[Slot, Iterator[Record]]:
        if any(slot.topic == "trades" for slot in spans):
            raise RecordsLost("trades: some are missing")
        return super().read_together(spans)


def test_market_data_that_cannot_be_read_is_not_comparable(made: MadeDays) -> None:
    found = orders.report(Broken(made.log), made.settings, DAYS[0])
    assert found["verdict"] == "not comparable"
    assert "could not be read: clocks: trades" in found["reason"]
    assert any(text.startswith("hole ledger: trades") for text in found["problems"])
    assert "시계 오류 없음" not in page(found)


def test_decisions_that_cannot_be_read_do_not_count_as_other_decisions(made: MadeDays) -> None:
    torn = next(one for one in records(made, "order-intents") if b'"order-intent"' in one.value)
    found = reported(
        made, lambda one: one._replace(value=b"{") if (one.slot, one.offset) == (torn.slot, torn.offset) else one
    )
    assert found["verdict"] == "not comparable"
    assert f"order-intents/{torn.partition}/{torn.offset}" in found["reason"]


@pytest.mark.parametrize("left_out", [{"trade-inputs"}, {"trade-inputs", "order-intents"}])
def test_decisions_without_their_inputs_are_not_comparable(made: MadeDays, left_out: set[str]) -> None:
    found = reported(made, lambda one: None if one.topic in left_out else one)
    assert (found["verdict"], "trade-inputs" in found["reason"]) == ("not comparable", True)


MARKET_DATA = {"orderbooks", "trades", "manifests"}


def test_a_day_without_trading_says_so_and_gives_no_empty_headings(made: MadeDays) -> None:
    found = reported(made, lambda one: one if one.topic in MARKET_DATA else None)
    begin, end = day_ms(DAYS[0])
    count = sum(begin <= one.append_ms < end for topic in ("orderbooks", "trades") for one in records(made, topic))
    said = f"nothing was traded that day (market data: {count:,} records)"
    assert (found["verdict"], found["reason"]) == ("no data", said)
    text = page(found)
    for key in ("difference", "by_ledger", "orders", "vetoes"):
        assert f">{both(key)[1]}</span></h2>" not in text
    assert both("hole_ledger")[0] in text
    assert both("empty")[0] not in text


# --- sources ------------------------------------------------------------------------------------------------------


def archive_of(made: MadeDays, folder: Path, change: Callable[[Record], Record] = lambda one: one) -> ArchiveHistory:
    """All three days as an archive; every one is of the same run."""
    store = FolderStore(folder)
    told = {"format": 1, "run": "5" * 32, "prefix": "", "kind": "log", "made_ms": 1, "by": "observator test"}
    store.write("archive.json", json.dumps(told).encode())
    for slot, (first, end) in LogHistory(made.log).spans(list(TOPICS)).items():
        some = [change(one) for one in LogHistory(made.log).read(slot, first, end)]
        part = Part("2025-11-20", 1, slot, first, end - 1)
        store.write(part.name, part_bytes("5" * 32, part, some))
    return ArchiveHistory(store)


def damaged(record: Record) -> Record:
    if record.topic != "features" or b'"mid":' not in record.value:
        return record
    row = decode("features", record.value)
    return record if row.mid is None else record._replace(value=m.encode(msgspec.structs.replace(row, mid=row.mid + 1)))


def test_parity_of_one_place_says_nothing_of_another(made: MadeDays, tmp_path: Path) -> None:
    settings = made.settings.model_copy(update={"home": tmp_path})
    whole, copy = archive_of(made, tmp_path / "archive"), archive_of(made, tmp_path / "copy", damaged)
    assert verify_session(whole, settings, "archive", DAYS[0])["conditions"]["verdict"] == "equal"  # type: ignore[index]
    unchecked = orders.report(copy, settings, DAYS[0])
    assert f"parity of this source (archive {tmp_path / 'copy'} of run {'5' * 32}) was not run" in unchecked["reason"]
    assert unchecked["parity"] is None
    assert verify_session(copy, settings, "copy", DAYS[0])["conditions"]["verdict"] == "different"  # type: ignore[index]
    reported = orders.report(whole, settings, DAYS[0])
    assert (reported["verdict"], "was not run" in reported["reason"]) == ("yes", False)
    assert orders.report(copy, settings, DAYS[0])["verdict"] == "no"
    assert orders.report(LogHistory(made.log), settings, DAYS[0])["parity"] is None
    told = [json.loads(file.read_text()) for file in (tmp_path / "reports").glob(f"parity-{DAYS[0]}-from-*.json")]
    assert {one["source"] for one in told} == {source_of(whole), source_of(copy)}


def test_a_difference_of_parity_is_one_line_and_no_dictionary(made: MadeDays, tmp_path: Path) -> None:
    settings = made.settings.model_copy(update={"home": tmp_path})
    copy = archive_of(made, tmp_path / "copy", damaged)
    verify_session(copy, settings, "copy", DAYS[0])
    found = orders.report(copy, settings, DAYS[0])
    line = r"features/\d+/\d+ KRW-T00\d 2025-11-20 10:\d\d:\d\d"
    text = unescape(page(found))
    assert re.search(rf"<p>{line}: <span class=\"ko\">내용이 다름", text)
    assert re.search(rf"parity found a difference: {line}, differs", found["reason"])
    assert re.search(rf"검증에서 차이를 찾음: {line}, 내용이 다름", found["reason_korean"])
    assert "{'" not in text


# --- clocks -------------------------------------------------------------------------------------------------------


def test_a_clock_that_went_back_is_named(made: MadeDays) -> None:
    books = [one for one in records(made, "orderbooks") if one.append_ms < day_ms(DAYS[0])[1]]
    victim = next(one for one in books[400:] if one.key)
    log = copied(made, lambda one: one._replace(append_ms=one.append_ms - 60_000)
                 if (one.slot, one.offset) == (victim.slot, victim.offset) else one)  # fmt: skip
    rows = clocks_of(LogHistory(log), *day_ms(DAYS[0])).rows
    place = f"orderbooks/{victim.partition}/{victim.offset}"
    assert ("went back", place) in {(row["kind"], row["first"]) for row in rows}


def test_a_clock_that_stood_behind_is_named(made: MadeDays) -> None:
    trades = [one for one in records(made, "trades") if one.key and one.append_ms < day_ms(DAYS[0])[1]]
    victim = trades[100]
    late = msgspec.structs.replace(decode("trades", victim.value), exchange_ms=1_000)
    log = copied(made, lambda one: one._replace(value=m.encode(late))
                 if (one.slot, one.offset) == (victim.slot, victim.offset) else one)  # fmt: skip
    (row,) = clocks_of(LogHistory(log), *day_ms(DAYS[0])).rows
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
    for key in ("money", "live_equals", "orders", "difference", "no_clock", "hole_ledger", "entry", "exit", "buy"):
        assert set(both(key)) <= set(reading.said)
    assert len(text) < 300_000


def test_the_page_says_its_own_words_in_korean_and_no_negative_nothing(clean: dict[str, Any]) -> None:
    row = clean["difference"][0] | {"fee": "-0.00400000", "queue": "-0.00600000"}
    text = page(clean | {"difference": [row]})
    assert "결정만 비교함: 이 출처(log)의 검증이 실행되지 않았음" in text
    assert not re.search(r"<td>(buy|sell|entry|exit)</td>", text)
    assert ">0.00<" in text
    assert "-0.01" in text
    assert not re.search(r"-0\.00\b", text)
    assert "<tbody></tbody>" not in text


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


def invoked(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(observator.app, ["--home", str(home), "report", *arguments])


def test_a_report_of_a_copy_leaves_the_runs_own_alone(made: MadeDays, tmp_path: Path) -> None:
    own = tmp_path / "reports" / f"report-{DAYS[0]}.json"
    keep(own, "the run's own")
    archive_of(made, tmp_path / "copy")
    found = invoked(tmp_path, "--day", DAYS[0], "--from", str(tmp_path / "copy"), "--json")
    assert found.exit_code == 0, found.output
    assert own.read_text() == "the run's own"
    (file,) = (tmp_path / "reports").glob(f"report-{DAYS[0]}-from-copy-*.json")
    assert json.loads(file.read_text())["source"] == f"archive {tmp_path / 'copy'} of run {'5' * 32}"


def test_a_report_that_could_not_read_everything_fails(made: MadeDays, tmp_path: Path) -> None:
    archive = archive_of(made, tmp_path / "copy")
    part = next(iter(archive.parts[next(slot for slot in archive.parts if slot.topic == "trades")]))
    file = tmp_path / "copy" / part.name
    file.write_bytes(file.read_bytes()[:-300])
    found = invoked(tmp_path, "--day", DAYS[0], "--from", str(tmp_path / "copy"))
    assert found.exit_code == 1
    assert "Live equals replay: not comparable. could not be read: " in found.stdout
    assert file.name in found.stdout


@pytest.mark.parametrize("day", ["22.11.2026", "2026-1-5", "2026-02-30", "today"])
def test_what_is_no_day_is_refused_before_anything_is_opened(
    day: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    monkeypatch.setattr("streams.history.open_history", lambda *told: opened.append(told))
    monkeypatch.setattr("consumers.verify.session_command.open_history", lambda *told: opened.append(told))
    found = invoked(tmp_path, "--day", day)
    assert isinstance(found.exception, BadSettings)
    with pytest.raises(BadSettings, match="no day"):
        verify_recorded(Settings(home=tmp_path), "log", day)
    assert not opened


@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_runs_off_the_page(clean: dict[str, Any], tmp_path: Path, width: int) -> None:
    keep(tmp_path / "day.html", page(clean | {"problems": ["orderbooks/" + "3" * 300]}))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        shown = browser.new_page(viewport={"width": width, "height": 900})
        shown.goto((tmp_path / "day.html").as_uri())
        for _ in ("Korean", "English"):
            assert shown.evaluate("document.documentElement.scrollWidth") <= width
            shown.locator("label").click()
        shown.screenshot(path=os.environ.get("PAGE_SHOT", str(tmp_path / "day")) + f"-{width}.png", full_page=True)
        browser.close()
