"""The nightly look back: once a night, a missed night once, told to people, and in nobody's way."""

import json
import sys
import threading
import time
from datetime import UTC, datetime

import pytest

from consumers import nightly
from consumers.nightly import Nightly, last, outcome_of, read
from infra.log import publish_one, slots_of
from infra.memory_log import MemoryLog
from infra.settings import Settings
from streams import topics
from streams.process import topic_specs

SAYS = "import json,sys; print(json.dumps({}))"
EQUAL = {
    "passed": True,
    "figures": {"features: compared": 1_234, "features: not covered": 0},
    "conditions": {"verdict": "equal"},
}
DIFFERENT = {
    "passed": False,
    "figures": {"features: compared": 7},
    "conditions": {"verdict": "different"},
    "differences": [
        {"topic": "features", "kind": "differs", "place": {"topic": "features", "partition": 3, "offset": 41}}
    ],
}


def at(day: str, clock: str) -> int:
    """A time in Korea."""
    return int(datetime.fromisoformat(f"{day}T{clock}:00+09:00").astimezone(UTC).timestamp() * 1000)


@pytest.fixture
def log():
    with MemoryLog() as log:
        log.create_topics(topic_specs())
        yield log


def told(log: MemoryLog) -> list:
    slots = slots_of(log, ["feed-events"])
    reader = log.reader(dict.fromkeys(slots, 0))
    return [topics.decode("feed-events", record.value) for record in reader.read(100, 0)]


def made(log, home, *, says=EQUAL, code=0, commands=None, stop=None, program=None) -> Nightly:
    script = f"import json,sys; print(json.dumps(json.loads({json.dumps(json.dumps(says))}))); sys.exit({code})"
    return Nightly(
        Settings(home=home),
        log,
        stop or threading.Event(),
        commands=commands or {"parity": ("x",)},
        program=program or (sys.executable, "-c", script),
    )


def test_a_night_is_looked_back_at_once_and_not_before_its_time(log, tmp_path):
    one = made(log, tmp_path)
    assert one.due(at("2026-11-21", "00:10")) == [("2026-11-20", "parity")]
    assert one.due(at("2026-11-21", "00:09")) == [("2026-11-19", "parity")]
    assert one.turn(at("2026-11-21", "00:10")) == 1
    assert one.turn(at("2026-11-21", "00:11")) == one.turn(at("2026-11-22", "00:09")) == 0
    assert one.due(at("2026-11-22", "00:10")) == [("2026-11-21", "parity")]
    (event,) = told(log)
    assert (event.kind, event.source) == ("checked", "nightly")
    assert event.text == "parity of 2026-11-20: equal, 1,234 records compared"


def test_what_parity_did_not_cover_is_told():
    figures = {"features: compared": 9, "features: not covered": 694, "signals: not covered": 2_660}
    said = json.dumps(EQUAL | {"figures": figures})
    assert outcome_of("parity", 0, said, "", 1).text == "equal, 9 records compared, 3,354 not covered"


def test_a_restart_knows_what_is_done_and_makes_up_for_missed_nights(log, tmp_path):
    made(log, tmp_path).turn(at("2026-11-20", "09:00"))
    again = made(log, tmp_path)
    assert again.due(at("2026-11-20", "23:00")) == []
    assert [day for day, _ in again.due(at("2026-11-23", "12:00"))] == ["2026-11-20", "2026-11-21", "2026-11-22"]
    assert [day for day, _ in again.due(at("2026-12-23", "12:00"))] == ["2026-12-20", "2026-12-21", "2026-12-22"]
    assert again.turn(at("2026-11-23", "12:00")) == 3
    assert made(log, tmp_path).due(at("2026-11-23", "13:00")) == []


def test_days_before_the_first_record_are_nobodys_concern(tmp_path):
    with MemoryLog(clock_ms=lambda: at("2026-11-21", "08:00")) as log:
        log.create_topics(topic_specs())
        publish_one(log, "manifests", "nightly", b"{}")
        one = made(log, tmp_path)
        assert one.due(at("2026-11-21", "08:00")) == []
        assert one.due(at("2026-11-22", "08:00")) == [("2026-11-21", "parity")]


def test_a_failed_check_is_told_with_its_first_record_and_seen_by_status(log, tmp_path):
    made(log, tmp_path, says=DIFFERENT, code=1).turn(at("2026-11-21", "08:00"))
    (event,) = told(log)
    assert event.kind == "check-failed"
    assert "differs at features/3/41" in event.text
    (row,) = last(tmp_path)
    assert (row["day"], row["task"], row["passed"]) == ("2026-11-20", "parity", False)


def test_one_task_that_cannot_be_done_keeps_no_other_from_its_turn(log, tmp_path):
    script = "import sys, json; sys.exit('no log') if 'bad' in sys.argv else print(json.dumps({}))"
    one = made(
        log, tmp_path, commands={"parity": ("bad",), "report": ("good",)}, program=(sys.executable, "-c", script)
    )
    night = at("2026-11-21", "00:10")
    assert one.turn(night) == 2
    assert [event.text for event in told(log)] == ["report of 2026-11-20: made"]
    assert one.turn(night + 60_000) == 0, "again in ten minutes"
    assert one.turn(night + 660_000) == one.turn(night + 1_320_000) == 1
    assert "could not be done: no log" in told(log)[-1].text
    assert one.turn(night + 9_000_000) == 0, "three times are enough"


def test_it_ends_at_once_when_it_is_told_to_and_does_the_night_again_later(log, tmp_path):
    stop = threading.Event()
    one = made(log, tmp_path, stop=stop, program=(sys.executable, "-c", "import time; time.sleep(60)"))
    threading.Timer(0.3, stop.set).start()
    began = time.monotonic()
    one.turn(at("2026-11-21", "00:10"))
    assert time.monotonic() - began < 10
    assert told(log) == []
    assert made(log, tmp_path).due(at("2026-11-21", "00:20")) == [("2026-11-20", "parity")]


def test_what_is_not_comparable_is_told_and_is_no_failure():
    found = {
        "passed": False,
        "figures": {},
        "conditions": {"verdict": "not comparable"},
        "not_comparable": [{"topic": "features", "records": 12_000, "reason": "streams: version was 1, now it is 2"}],
    }
    outcome = outcome_of("parity", 1, json.dumps(found), "", 1)
    assert outcome.passed
    assert "12,000 records of features not comparable: streams: version was 1, now it is 2" in outcome.text


def test_a_damaged_file_is_begun_anew(tmp_path):
    nightly.file_of(tmp_path).parent.mkdir()
    nightly.file_of(tmp_path).write_text('{"2026-')
    assert read(tmp_path) == {}
