"""An archive with parts missing is never called whole, nor read as if it were; nor is a copy or an import."""

import json
import threading
import time

import pytest
from typer.testing import CliRunner

import observator
from consumers.archive.checking import check
from consumers.archive.fetch import fetch
from consumers.archive.process import run
from infra.errors import BadSettings, LogUnavailable, RecordsLost, Stop
from infra.log import Slot
from infra.memory_log import MemoryLog
from infra.settings import Settings
from infra.store import FolderStore, store_at
from producers.imports.archive import Parts, Target
from producers.imports.session import Timed
from streams.archive_spans import COPY
from streams.archived import ArchiveHistory
from streams.process import topic_specs

CONTROLS = Slot("controls", 0)


@pytest.fixture
def open_day(world):
    """Three parts of controls on a day that is open."""
    archive = world.open(part_records=10)
    world.publish(30)
    world.archived(archive)
    world.end(archive)
    return world


def verdict(store, **arguments):
    found = check(store, **arguments)
    return found.faults, found.verdict()


def verified(world, *words):
    return CliRunner().invoke(observator.app, ["--home", str(world.local.path.parent), "archive", "verify", *words])


def test_a_first_part_that_is_gone_is_a_fault_and_reading_it_an_error(open_day):
    open_day.local.delete(open_day.parts()[0].name)
    (fault,), told = verdict(open_day.local)
    assert "controls-0 offsets 0 to 9: no part holds them" in fault
    assert told == "1 fault, nothing was changed"
    (fault,), _ = verdict(open_day.local, day="2026-11-21")
    history = ArchiveHistory(open_day.local)
    ((slot, span),) = history.spans(["controls"]).items()
    with pytest.raises(RecordsLost, match="controls-0: offsets 0 to 9 are missing"):
        list(history.read(slot, *span))
    assert verified(open_day).exit_code == 1
    assert "1 fault," in verified(open_day).output


def test_an_archive_of_a_log_that_had_deleted_its_first_records_names_them(world):
    world.publish(30)
    world.log.truncate(CONTROLS, 12)
    archive = world.open()
    world.archived(archive)
    world.end(archive)
    assert "missing/controls/p0-0-11.json" in world.local.names()
    found = check(world.local)
    assert (found.faults, found.missing) == ([], ["controls-0 offsets 0 to 11"])
    history = ArchiveHistory(world.local)
    assert history.spans(["controls"]) == {CONTROLS: (12, 30)}
    assert len(list(history.read(CONTROLS, 12, 30))) == 18
    world.local.delete("missing/controls/p0-0-11.json")
    assert "offsets 0 to 11" in check(world.local).faults[0]
    world.end(world.open())
    assert check(world.local).faults == []


def test_a_first_part_that_is_gone_is_written_again_where_the_log_has_it(open_day):
    open_day.local.delete(open_day.parts()[0].name)
    archive = open_day.open()
    open_day.archived(archive)
    assert open_day.records() == open_day.logged()
    assert check(open_day.local).faults == []


def test_of_an_open_day_nobody_says_more_than_is_known(closed):
    told = "whole as far as it goes (up to the newest part; a complete day or --log shows more)"
    assert verdict(closed.local) == ([], told)
    assert verdict(closed.local, day="2026-11-21") == ([], "whole")
    assert verdict(closed.local, log=closed.log, topics=["controls", "trades"]) == ([], "whole")
    closed.local.delete(next(part.name for part in closed.parts() if part.day == "2026-11-22"))
    assert verdict(closed.local) == ([], "whole"), "all of the last day is gone: what is left is a complete day"
    found = check(closed.local, log=closed.log, topics=["controls", "trades", "orderbooks"])
    assert (found.faults, found.behind) == ([], {"controls": 5})


def test_records_that_are_not_archived_yet_are_counted(open_day):
    open_day.publish(7)
    found = check(open_day.local, log=open_day.log, topics=["controls", "trades"])
    assert (found.faults, found.behind) == ([], {"controls": 7})
    assert found.verdict().endswith("not archived yet: controls up to 7 records")
    assert "whole" not in found.verdict()


@pytest.mark.parametrize("day", ["2026-11-21", "2026-11-22"])
def test_a_copy_of_some_days_is_told_as_one_and_misses_what_those_had(closed, tmp_path, day):
    to = FolderStore(tmp_path / "copy")
    fetch(closed.local, [day], to)
    faults, told = verdict(to)
    assert (faults, told.startswith(f"whole as a copy of {day}")) == ([], True)
    assert told.endswith("shows more)") is (day == "2026-11-22")
    first = closed.parts(to)[0]
    assert len(list(ArchiveHistory(to).read(first.slot, first.first, first.last + 1))) == first.last + 1 - first.first
    to.delete(first.name)
    assert f"offsets {first.first} to {first.last}: no part holds them (dt={day})" in "\n".join(check(to).faults)
    history = ArchiveHistory(to)
    with pytest.raises(RecordsLost, match=f"offsets {first.first} to {first.last} are missing"):
        list(history.read(CONTROLS, *history.spans(["controls"])[CONTROLS]))


def test_a_copy_of_a_damaged_archive_is_not_whole(open_day, tmp_path):
    first, second, _ = (part.name for part in open_day.parts())
    open_day.local.write(second, open_day.local.read(second)[:-50])
    to = FolderStore(tmp_path / "copy")
    with pytest.raises(Stop, match="p0-10-19"):
        fetch(open_day.local, ["2026-11-21"], to)
    assert "offsets 10 to 19" in check(to).faults[0]
    open_day.local.delete(first)
    to = FolderStore(tmp_path / "second")
    with pytest.raises(Stop, match="lacks controls/0 offsets 0 to 9"):
        fetch(open_day.local, ["2026-11-21"], to)
    assert any("offsets 0 to 19: no part holds them" in fault for fault in check(to).faults)


def test_no_log_is_written_into_a_copy(closed, tmp_path):
    closed.local, source = FolderStore(tmp_path / "copy"), closed.local
    fetch(source, ["2026-11-21"], closed.local)
    with pytest.raises(Stop, match="copy of some days"):
        closed.open()
    assert COPY not in source.names()


def test_an_import_knows_where_it_ends(tmp_path):
    store = FolderStore(tmp_path / "import")
    target, parts = Target(store, "r"), Parts(store, "r", part_records=10)
    for number in range(30):
        parts.take(Timed(1_795_230_000_000 + number, ("controls", 0, "main", b"{}")))
    parts.close()
    target.finish(parts.written)
    assert verdict(store) == ([], "whole")
    store.delete(parts.written[-1].name)
    assert "controls-0 offsets 20 to 29: no part holds them" in check(store).faults[0]
    history = ArchiveHistory(store)
    with pytest.raises(RecordsLost, match="offsets 20 to 29"):
        list(history.read(CONTROLS, *history.spans(["controls"])[CONTROLS]))


class Ending(threading.Event):
    """When the process sees that it is to stop, the others have just written their last records."""

    def __init__(self, write):
        super().__init__()
        self.write = write

    def is_set(self):
        if super().is_set() and self.write is not None:
            self.write, write = None, self.write
            write()
        return super().is_set()


def test_a_process_that_is_told_to_stop_keeps_what_the_log_holds(tmp_path):
    log = MemoryLog()
    log.create_topics(topic_specs())
    settings = Settings.model_validate({"home": tmp_path, "archive": {"topics": ["controls"]}})
    publisher = log.publisher()

    def write():
        for number in range(12_000):  # more than it takes at once
            publisher.publish("controls", "main", b'{"n": %d}' % number)

    stop = Ending(write)
    thread = threading.Thread(target=run, args=(settings, log, stop))
    thread.start()
    while not (tmp_path / "run" / "archive.json").exists() and thread.is_alive():
        time.sleep(0.01)
    stop.set()
    thread.join(20)
    found = check(FolderStore(tmp_path / "archive"), log=log, topics=["controls"])
    assert (found.faults, found.behind, found.records) == ([], {}, 12_000)


def test_verify_against_a_log_that_nobody_has_says_so_at_once(open_day):
    begun = time.monotonic()
    found = verified(open_day, "--log")
    assert isinstance(found.exception, LogUnavailable)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["export", "--topic", "nonsense"], "there are orderbooks"),
        (["export", "--topic", "trades", "--day", "2026-11-20"], "no such rows of trades"),
        (["export", "--topic", "trades", "--market", "KRW-NONE"], "no such rows of trades"),
        (["holes", "--day", "2026-11-20"], "no market data of 2026-11-20"),
    ],
)
def test_what_is_not_there_is_refused_and_no_file_written(open_day, tmp_path, words, told):
    to = tmp_path / "out.csv"
    words = [*words, *(["--to", str(to)] if words[0] == "export" else ["--picture", str(to)])]
    found = CliRunner().invoke(observator.app, ["--home", str(open_day.local.path.parent), "archive", *words])
    assert isinstance(found.exception, Stop)
    assert told in str(found.exception)
    assert not to.exists()


def test_a_place_that_cannot_be_one_is_named(tmp_path):
    key = tmp_path / "run" / "secrets" / "archive"
    key.parent.mkdir(parents=True)
    key.write_text(json.dumps({"key": "k", "secret": "s"}))
    settings = Settings.model_validate({"home": tmp_path, "archive": {"endpoint": "http://127.0.0.1:9"}})
    file = tmp_path / "file"
    file.write_text("x")
    for where, told in (("s3://", "no bucket"), ("s3:///x", "no bucket"), (str(file), "is a file")):
        with pytest.raises(BadSettings, match=told):
            store_at(where, settings)
    with pytest.raises(Exception, match=r"http://127\.0\.0\.1:9 does not answer.*`archive\.endpoint`"):
        store_at("s3://bucket/x", settings).names()


def test_status_says_that_the_key_is_missing(open_day):
    words = ["--home", str(open_day.local.path.parent), "archive", "status"]
    found = CliRunner().invoke(observator.app, words, env={"OBSERVATOR_ARCHIVE__TARGET": "s3://bucket/x"})
    assert "its key is missing" in found.output.replace("\n", " ")
    assert "does not answer" not in found.output
