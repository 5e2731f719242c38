import json
import shutil
from pathlib import Path

import pytest

from consumers.archive import days
from consumers.archive.opening import hold
from consumers.archive.process import run
from consumers.archive.root import read_root
from infra.errors import AlreadyRunning, Stop
from infra.log import Slot
from infra.memory_log import MemoryLog
from infra.settings import Settings
from infra.store import FolderStore, StoreFull
from streams.archive_spans import Missing
from streams.process import topic_specs

CONTROLS = Slot("controls", 0)
HOUR_MS = 3_600_000


def test_the_archive_is_exactly_the_log_and_parts_abut(world):
    archive = world.open(part_records=40)
    world.publish(100)
    world.publish(30, "trades", 3)
    parts = world.archived(archive)
    assert world.records() == world.logged()
    assert [(part.first, part.last) for part in parts if part.slot == CONTROLS] == [(0, 39), (40, 79), (80, 99)]
    assert len(parts) == 4, "empty partitions cost nothing"
    assert parts[0].name == "dt=2026-11-21/hour=12/controls/p0-0-39.parquet"


def test_a_part_ends_with_its_hour_and_with_its_time(world):
    archive = world.open(part_seconds=60)
    world.publish(10)
    archive.step(0.0)
    assert world.parts() == []
    world.now_ms += 60_000
    archive.step(0.0)
    assert [(part.hour, part.first, part.last) for part in world.parts()] == [(12, 0, 9)]
    world.publish(5)
    world.now_ms += HOUR_MS
    world.publish(5)
    archive.step(0.0)
    assert [(part.hour, part.first, part.last) for part in world.parts()] == [(12, 0, 9), (12, 10, 14)]
    world.archived(archive)
    assert world.parts()[-1][1:] == (13, CONTROLS, 15, 19)


def test_it_goes_on_from_what_its_parts_say(world):
    archive = world.open()
    world.publish(10)
    world.archived(archive)
    world.publish(10)
    archive.step(0.0)  # read, not written: lost with the process
    world.end(archive)
    archive = world.open()
    assert archive.opened.starts[CONTROLS] == 10
    world.publish(5)
    world.archived(archive)
    assert world.records() == world.logged()
    assert [(part.first, part.last) for part in world.parts()] == [(0, 9), (10, 24)]


def test_transaction_markers_are_covered_by_the_part_before_them(world):
    archive = world.open()
    transactor = world.log.transactor("t")
    for _ in range(3):
        transactor.begin()
        transactor.publish("controls", "main", b"{}")
        transactor.commit(None, "", {})
    world.archived(archive)
    assert [(part.first, part.last) for part in world.parts()] == [(0, 5)]
    assert [record.offset for record in world.records()[CONTROLS]] == [0, 2, 4]
    world.end(archive)
    assert world.open().opened.starts[CONTROLS] == 6


def test_records_that_the_log_deleted_before_are_named_missing(world):
    archive = world.open()
    world.publish(10)
    world.archived(archive)
    world.end(archive)
    world.publish(20)
    world.log.truncate(CONTROLS, 25)
    archive = world.open()
    world.archived(archive)
    assert [(part.first, part.last) for part in world.parts()] == [(0, 9), (25, 29)]
    name = "missing/controls/p0-10-24.json"
    assert (Missing.of_name(name), name in world.local.names()) == (Missing(CONTROLS, 10, 24), True)
    assert json.loads(world.local.read(name))["reason"]
    world.end(archive)
    assert world.open().opened.starts[CONTROLS] == 30


def test_a_log_that_is_shorter_is_another_log(world):
    archive = world.open()
    world.publish(10)
    world.archived(archive)
    world.end(archive)
    before = world.local.sizes()
    world.log = MemoryLog(clock_ms=lambda: world.now_ms)
    world.log.create_topics(topic_specs())
    world.publish(5)
    with pytest.raises(Stop, match=r"another log: dt=.*p0-0-9.parquet ends at 9, the log at 4"):
        world.open()
    assert world.local.sizes() == before


def test_a_log_with_another_record_at_the_archives_end_is_another_log(world):
    archive = world.open()
    world.publish(10)
    world.archived(archive)
    world.end(archive)
    world.log = MemoryLog(clock_ms=lambda: world.now_ms)
    world.log.create_topics(topic_specs())
    world.publish(20)
    with pytest.raises(Stop, match=r"offset 9 of dt=2026-11-21/hour=12/controls/p0-0-9.parquet is another record"):
        world.open()


def test_an_archive_of_another_prefix_is_refused(world):
    world.end(world.open())
    world.log = MemoryLog("replay-1-", beside=world.log)
    world.log.create_topics(topic_specs())
    with pytest.raises(Stop, match="prefix ''"):
        world.open()


def test_files_without_an_archive_are_left_alone(world):
    world.local.write("holiday/photo.jpg", b"x")
    with pytest.raises(Stop, match=r"no archive.json"):
        world.open()
    assert world.local.names() == ["holiday/photo.jpg"]


@pytest.mark.parametrize("harm", ["cut", "changed"])
def test_a_damaged_newest_part_is_named_and_written_again_once_it_is_taken_out(world, harm):
    archive = world.open(part_records=5)
    world.publish(10)
    world.archived(archive)
    world.end(archive)
    name = world.parts()[-1].name
    data = world.local.read(name)
    path = world.local.path / name
    path.write_bytes(data[: len(data) // 4] if harm == "cut" else world.changed(data))
    with pytest.raises(Stop, match=name):
        world.open()
    path.rename(world.local.path.parent / "damaged")
    world.archived(world.open())
    assert world.records() == world.logged()


def test_a_part_of_another_run_is_named(world):
    archive = world.open()
    world.publish(10)
    world.archived(archive)
    world.end(archive)
    (name,) = [part.name for part in world.parts()]
    foreign = world.local.read(name)
    shutil.rmtree(world.local.path)
    world.archived(world.open())
    world.local.write(name, foreign)
    world.end(world.opened[0])
    with pytest.raises(Stop, match=f"{name} is of another run"):
        world.open()


def test_a_part_taken_out_of_the_middle_is_written_again_from_the_log(world):
    archive = world.open(part_records=5)
    world.publish(20)
    world.archived(archive)
    world.end(archive)
    middle = world.parts()[1].name
    world.local.delete(middle)
    archive = world.open(part_records=5)
    assert middle in world.local.names()
    assert world.records() == world.logged()
    world.end(archive)
    world.local.delete(middle)
    world.log.truncate(CONTROLS, 8)
    archive = world.open(part_records=5)
    assert "missing/controls/p0-5-7.json" in world.local.names()
    assert [(part.first, part.last) for part in world.parts()] == [(0, 4), (8, 9), (10, 14), (15, 19)]


def test_two_processes_do_not_write_one_archive(world):
    world.open()
    with pytest.raises(AlreadyRunning):
        hold(world.local)


def test_what_a_killed_writer_left_is_swept_and_never_read(world):
    rest = world.local.path / ".unfinished" / "1-2"
    rest.parent.mkdir(parents=True)
    rest.write_bytes(b"half")
    assert world.local.names() == []
    world.open()
    assert not rest.exists()


def test_a_clock_that_went_back_is_told_and_loses_nothing(world):
    archive = world.open()
    world.publish(10)
    world.now_ms -= 2 * HOUR_MS
    world.publish(10)
    world.archived(archive)
    assert world.records() == world.logged()
    (part,) = world.parts()
    assert (part.hour, archive.state()["went_back"]) == (12, [part.name])
    world.publish(5)  # the next part begins before the one before it ended
    world.archived(archive)
    assert len(archive.state()["went_back"]) == 2


def test_a_full_disk_makes_it_wait_and_nothing_is_half_written(world, monkeypatch):
    archive = world.open()
    world.publish(10)
    write = FolderStore.write

    def full(*_: object) -> None:
        raise StoreFull("no room")

    monkeypatch.setattr(FolderStore, "write", full)
    archive.step(0.0)
    assert not archive.write(is_all=True)
    assert "no room" in archive.state()["troubles"]["disk"]
    monkeypatch.setattr(FolderStore, "write", write)
    world.publish(5)
    assert len(world.archived(archive)) == 1
    assert world.records() == world.logged()
    assert archive.state()["troubles"] == {}


def test_a_budget_is_warned_of_before_and_then_nothing_more_is_written_nor_deleted(world):
    archive = world.open()
    world.publish(10)
    world.archived(archive)
    used = sum(world.local.sizes().values())
    world.end(archive)
    archive = world.open(budget_gb=used * 1.2 / 1e9)
    archive.keeper.turn()
    assert "takes" in world.troubles.all()["room"]
    world.publish(10)
    archive.step(0.0)
    before = world.local.sizes()
    assert not archive.write(is_all=True)
    assert "nothing deleted" in world.troubles.all()["disk"]
    assert world.local.sizes() == before
    world.end(archive)
    archive = world.open(budget_gb=1)
    world.archived(archive)
    archive.keeper.turn()
    assert (world.records(), world.troubles.all()) == (world.logged(), {})


def test_records_that_the_log_will_delete_soon_are_told(world):
    archive = world.open()
    world.publish(1, "trades")
    archive.step(0.0)
    world.now_ms += 172_801_000
    archive.look()
    assert "trades-0 since 2026-11-21" in world.troubles.all()["late"]
    world.archived(archive)
    archive.look()
    assert world.troubles.all() == {}


def test_the_day_is_complete_five_minutes_after_midnight_and_says_so(world):
    archive = world.open()
    world.publish(10)
    world.publish(20, "trades", 2)
    world.now_ms = days.start_ms("2026-11-22") + 4 * 60_000
    world.archived(archive)
    archive.look()
    archive.keeper.turn()
    assert days.read_complete(world.local, "2026-11-21") is None
    world.now_ms += 61_000
    archive.look()
    archive.keeper.turn()
    found = days.read_complete(world.local, "2026-11-21")
    assert found is not None
    assert (found.parts, set(found.slots)) == (2, {"controls/0", "trades/2"})
    assert (found.slots["trades/2"].first, found.slots["trades/2"].last, found.slots["trades/2"].count) == (0, 19, 20)
    world.now_ms += 86_400_000  # a day without data
    archive.step(0.0)
    archive.look()
    archive.keeper.turn()
    empty = days.read_complete(world.local, "2026-11-22")
    assert empty is not None
    assert empty.slots == {}


def test_a_day_waits_for_what_is_not_archived_yet(world):
    archive = world.open(part_seconds=3600)
    world.publish(10)
    world.now_ms = days.start_ms("2026-11-22") + 6 * 60_000
    archive.look()  # nothing was read yet
    archive.keeper.turn()
    archive.step(0.0)
    archive.look()  # read, not written
    archive.keeper.turn()
    assert days.read_complete(world.local, "2026-11-21") is None
    world.archived(archive)
    archive.look()
    archive.keeper.turn()
    assert days.read_complete(world.local, "2026-11-21") is not None


def test_nothing_goes_into_a_closed_day(world):
    archive = world.open()
    world.publish(10)
    world.archived(archive)
    world.now_ms = days.start_ms("2026-11-22") + 6 * 60_000
    archive.look()
    archive.keeper.turn()
    world.now_ms -= HOUR_MS  # the broker's clock goes back over midnight
    world.publish(5)
    world.archived(archive)
    assert [part.day for part in world.parts()] == ["2026-11-21", "2026-11-22"]
    world.end(archive)
    assert world.open().writer.earliest == "2026-11-22"


def test_the_process_itself_archives_until_it_is_told_to_stop(world, tmp_path):
    import threading  # noqa: PLC0415 - one test of many needs it

    settings = Settings.model_validate({"home": tmp_path, "archive": {"topics": ["controls"], "part_seconds": 0.05}})
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(settings, world.log, stop))
    world.publish(10)
    thread.start()
    waited = threading.Event()
    state = tmp_path / "run" / "archive.json"
    for _ in range(500):
        if world.parts() and state.exists():
            break
        waited.wait(0.01)
    stop.set()
    thread.join()
    assert world.records() == world.logged()
    root = read_root(world.local)
    assert root is not None
    assert json.loads(state.read_text())["run"] == root.run
    assert Path(tmp_path / "archive" / "archive.json").is_file()
