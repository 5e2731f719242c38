"""`archive status`, `verify` and `fetch`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import observator
from consumers.archive.checking import check
from consumers.archive.fetch import fetch
from consumers.archive.status import sentences, status
from infra.errors import Stop
from infra.memory_log import MemoryLog
from infra.settings import Settings
from infra.store import FolderStore
from streams.parts import DamagedPart
from streams.process import topic_specs


def test_a_whole_archive_has_no_fault(closed):
    found = check(closed.local, log=closed.log)
    assert (found.faults, found.missing, found.parts, found.records) == ([], [], 6, 55)
    assert (found.held_against_the_log, found.days) == (55, ["2026-11-21"])
    of_day = check(closed.local, day="2026-11-22")
    assert (of_day.parts, of_day.faults) == (1, [])


def harmed(world, harm):
    store = world.local
    first, second, third, *_ = (part.name for part in world.parts())
    data = store.read(second)
    if harm == "cut":
        store.write(second, data[:-100])
        return [second]
    if harm == "changed":
        store.write(second, world.changed(data))
        return [second]
    if harm == "missing":
        store.delete(second)
        return ["controls-0 offsets 10 to 19", f"before {third}", "complete.json"]
    if harm == "foreign":
        store.write("dt=2026-11-21/photo.jpg", b"x")
        return ["dt=2026-11-21/photo.jpg"]
    if harm == "misnamed":
        name = first.replace("p0-0-9", "p0-5-14")
        store.write(name, store.read(first))
        return [name, "overlaps"]
    store.write("dt=2026-11-21/complete.json", b'{"format": 1')
    return ["dt=2026-11-21/complete.json: cannot be read"]


@pytest.mark.parametrize("harm", ["cut", "changed", "missing", "foreign", "misnamed", "day"])
@pytest.mark.parametrize("day", [None, "2026-11-21"])
def test_every_fault_is_named_with_file_and_range_and_nothing_is_changed(closed, harm, day):
    words = harmed(closed, harm)
    before = closed.local.sizes()
    found = check(closed.local, day=day)
    told = "\n".join(found.faults)
    assert [word for word in words if word not in told] == []
    assert closed.local.sizes() == before
    if harm != "foreign":
        assert check(closed.local, day="2026-11-22").faults == []


def test_parts_of_two_runs_are_told_apart(closed, tmp_path):
    mine, closed.local = closed.local, FolderStore(tmp_path / "other")
    other = closed.open(part_records=10)
    closed.archived(other)
    closed.end(other)
    (first, *_) = (part.name for part in closed.parts())
    mine.write(first, closed.local.read(first))
    (fault, day) = check(mine).faults
    assert first in fault
    assert "another run" in fault
    assert "complete.json" in day


def test_a_log_that_says_otherwise_is_a_fault(closed):
    other = MemoryLog(clock_ms=lambda: closed.now_ms)
    other.create_topics(topic_specs())
    publisher = other.publisher()
    for number in range(40):
        publisher.publish("controls", "x", b"%d" % number)
        publisher.publish("trades", "x", b"%d" % number, 2)
    assert len(check(closed.local, log=other).faults) == 6


def test_a_day_that_is_not_there_is_a_fault_and_no_archive_is_an_error(closed, tmp_path):
    assert "nothing of this day" in check(closed.local, day="2026-11-23").faults[0]
    with pytest.raises(Stop, match="no archive"):
        check(FolderStore(tmp_path / "nothing"))


def test_a_day_is_fetched_whole_and_again_it_goes_on(closed, tmp_path):
    to = FolderStore(tmp_path / "copy")
    found = fetch(closed.local, ["2026-11-21"], to)
    assert (found.files, found.already_there, found.is_complete) == (6, 0, True)
    assert check(to).faults == []
    first, second, *_ = (part.name for part in closed.parts(to))
    to.delete(first)
    to.write(second, b"half")
    again = fetch(closed.local, ["2026-11-21"], to)
    assert (again.files, again.already_there) == (2, 4)
    assert check(to).faults == []
    assert fetch(closed.local, ["2026-11-22"], to).is_complete is False


def test_a_fetch_refuses_what_is_not_whole_another_run_and_an_empty_day(closed, tmp_path):
    with pytest.raises(Stop, match="2026-11-25"):
        fetch(closed.local, ["2026-11-25"], FolderStore(tmp_path / "a"))
    other = FolderStore(tmp_path / "b")
    other.write("archive.json", closed.local.read("archive.json").replace(b'"run": "', b'"run": "f'))
    with pytest.raises(Stop, match="another run"):
        fetch(closed.local, ["2026-11-21"], other)
    _, second, *_ = (part.name for part in closed.parts())
    closed.local.write(second, closed.local.read(second)[:-50])
    to = FolderStore(tmp_path / "c")
    with pytest.raises(DamagedPart, match="p0-10-19"):
        fetch(closed.local, ["2026-11-21"], to)
    assert "dt=2026-11-21/complete.json" not in to.names()


def test_status_tells_what_is_archived_and_what_is_not(closed):
    closed.publish(7)
    settings = Settings.model_validate(
        {"home": closed.local.path.parent, "archive": {"topics": ["controls", "trades"]}}
    )
    found = status(settings, closed.log)
    by_topic = {row["topic"]: row for row in found["topics"]}
    assert by_topic["controls"]["offsets"] == 35
    assert (by_topic["controls"]["behind_records"], by_topic["trades"]["behind_records"]) == (7, 0)
    assert by_topic["controls"]["bytes_per_record"] > 100
    assert by_topic["controls"]["behind_seconds"] >= 0
    assert (found["days_complete"], found["day_open"]) == (["2026-11-21"], "2026-11-22")
    assert any("does not run" in line for line in sentences(found))
    assert status(settings, None)["topics"][0]["behind_records"] is None


@pytest.mark.parametrize("words", [["status"], ["verify"], ["verify", "--day", "2026-11-21"], ["verify", "--local"]])
def test_the_verbs_print_for_people_and_as_json(closed, words):
    home = closed.local.path.parent
    runner = CliRunner()
    plain = runner.invoke(observator.app, ["--home", str(home), "archive", *words])
    assert (plain.exit_code, plain.output != "") == (0, True)
    found = json.loads(runner.invoke(observator.app, ["--home", str(home), "archive", *words, "--json"]).stdout)
    assert found["run" if words == ["status"] else "passed"]


def test_verify_ends_with_one_where_something_is_wrong_and_fetch_copies(closed, tmp_path):
    home, runner = closed.local.path.parent, CliRunner()
    to = tmp_path / "copy"
    words = ["--home", str(home), "archive", "fetch", "--day", "2026-11-21", "--to", str(to), "--json"]
    assert json.loads(runner.invoke(observator.app, words).stdout)["files"] == 6
    assert Path(to / "archive.json").is_file()
    closed.local.delete(closed.parts()[1].name)
    found = runner.invoke(observator.app, ["--home", str(home), "archive", "verify"])
    assert found.exit_code == 1
    assert "offsets 10 to 19" in found.output
    assert runner.invoke(observator.app, ["--home", str(home), "archive", "verify", "--day", "now"]).exit_code == 2
