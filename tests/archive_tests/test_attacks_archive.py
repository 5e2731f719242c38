"""Attacks on the archive process: cuts, clocks, stores that lie, other logs, two at once, deletion, days too early."""

import io
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest

from consumers.archive import days
from consumers.archive.checking import check
from consumers.archive.copies import check_whole
from consumers.archive.process import Archive, Clocks, run
from consumers.archive.retention import Keeper
from consumers.archive.room import Room, Troubles
from consumers.archive.root import Root, make_root, read_root, write_root
from infra.errors import AlreadyRunning, ObservatorError, RecordsLost, Stop
from infra.log import Record, Slot, TopicSpec
from infra.memory_log import MemoryLog
from infra.settings import ArchiveSettings, Settings
from infra.store import FolderStore, Store, StoreUnavailable, open_store
from streams.history import ArchiveHistory
from streams.messages import TradeInput, encode
from streams.part_seal import sealed
from streams.parts import DamagedPart, Part, part_bytes, read_footer

TOPIC = "trade-inputs"
HOME = Slot(TOPIC, 0)
DAY = "2027-01-15"
MIDNIGHT_MS = days.start_ms(days.following(DAY))
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


class World:
    """A log, its clock, and what an archive process is given."""

    def __init__(self, home: Path, at_ms: int = MIDNIGHT_MS - HOUR_MS) -> None:
        self.now_ms = at_ms
        self.append_ms = at_ms
        self.log = MemoryLog(clock_ms=lambda: self.append_ms)
        self.log.create_topics([TopicSpec(TOPIC, 2, {})])
        self.local = FolderStore(home / "local")
        self.bucket = FolderStore(home / "bucket")
        self.troubles = Troubles()

    def write(self, count: int = 1, *, at_ms: int | None = None, partition: int = 0) -> None:
        self.append_ms = self.now_ms if at_ms is None else at_ms
        publisher = self.log.publisher()
        for i in range(count):
            publisher.publish(TOPIC, f"k{i}", encode(TradeInput(kind="pulse", event_ms=i)), partition)

    def open(self, local: Store | None = None, *, has_bucket: bool = False, **settings) -> Archive:
        remote = (lambda: self.bucket) if has_bucket else None
        archive = ArchiveSettings(**{"topics": [TOPIC], "part_seconds": 1000, **settings})
        clocks = Clocks(wall_ms=lambda: self.now_ms, steady_s=lambda: self.now_ms / 1000)
        return Archive(self.log, local or self.local, remote, archive, self.troubles, clocks=clocks)

    def records(self, slot: Slot = HOME) -> list[Record]:
        first, end = self.log.bounds([slot])[slot]
        reader = self.log.reader({slot: first})
        found: list[Record] = []
        while reader.position(slot) < end:
            found += reader.read(10_000, 0)
        return found


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path)


def archived(store: Store, slot: Slot = HOME) -> list[Record]:
    history = ArchiveHistory(store)
    return list(history.read(slot, *history.spans([slot.topic])[slot]))


def keep(archive: Archive) -> None:
    """Read and write all there is."""
    while archive.step(0):
        pass
    assert archive.write(is_all=True)


def parts_of(store: Store) -> list[str]:
    return [name for name in store.names() if Part.of_name(name)]


def abut(store: Store) -> bool:
    parts = sorted(part[-2:] for name in parts_of(store) if (part := Part.of_name(name)) and part.slot == HOME)
    return all(later[0] == earlier[1] + 1 for earlier, later in pairwise(parts))


def run_of(store: FolderStore, name: str) -> str:
    with store.open(name) as file:
        return read_footer(file, name).run


def a_day(world: World, local: FolderStore, hours: range = range(4)) -> Root:
    """An archive with one part an hour of the day DAY, ten offsets each."""
    root = make_root("", 0)
    write_root(local, root)
    for hour in hours:
        first = 10 * hour
        records = [
            Record(TOPIC, 0, first + i, MIDNIGHT_MS - DAY_MS + hour * HOUR_MS + i, "", b"x%d" % i) for i in range(10)
        ]
        part = Part(DAY, hour, HOME, first, first + 9)
        local.write(part.name, part_bytes(root.run, part, records))
    world.now_ms = MIDNIGHT_MS + 10 * DAY_MS
    return root


def keeper_of(world: World, root: Root, remote: Store | None = None, local: FolderStore | None = None) -> Keeper:
    local = local or world.local
    room = Room(local.path, 0, 1, world.troubles)
    open_remote = (lambda: remote) if remote is not None else None
    keeper = Keeper(local, open_remote, root, 3, room, world.troubles, wall_ms=lambda: world.now_ms)
    keeper.passed_ms = MIDNIGHT_MS + HOUR_MS
    return keeper


def damage(store: FolderStore, name: str) -> None:
    """Turn one bit."""
    data = store.read(name)
    changed = data[:4] + bytes([data[4] ^ 1]) + data[5:]
    with pytest.raises(DamagedPart):
        check_whole(changed, name)
    store.write(name, changed)


def scratch(store: FolderStore, name: str) -> None:
    """Every record is still right, but the bytes are others. Since parts are sealed no turned bit does that any more:
    another version of the writer does.
    """
    table = pq.read_table(io.BytesIO(store.read(name)))
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="none")
    changed = sealed(sink.getvalue())
    assert check_whole(changed, name) == check_whole(store.read(name), name)
    assert changed != store.read(name)
    store.write(name, changed)


# --- cuts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part_records", [1, 2, 3, 7, 1000])
def test_markers_compaction_and_restarts_at_any_record_lose_and_double_nothing(world, part_records):
    transactor = world.log.transactor("t")
    for count in (1, 3, 2, 5):
        world.now_ms += 20 * 60_000
        transactor.begin()
        for i in range(count):
            transactor.publish(TOPIC, "", b"" if i == 1 else b"v%d" % i, 0)
        world.append_ms = world.now_ms
        transactor.commit(None, "", {})
        with closing(world.open(part_records=part_records)) as archive:
            keep(archive)
        assert ArchiveHistory(world.local).spans([TOPIC])[HOME] == world.log.bounds([HOME])[HOME]
    end = world.log.bounds([HOME])[HOME][1]
    world.log.append(Record(TOPIC, 0, end + 40, world.now_ms, "a", b""))  # compaction took what was between
    with closing(world.open(part_records=part_records)) as archive:
        keep(archive)
    assert archived(world.local) == world.records()
    assert abut(world.local)


@pytest.mark.parametrize("part_records", [1, 4, 1000])
def test_a_clock_that_goes_back_over_hours_and_days_loses_nothing(world, part_records):
    for hours in (-2, 0, 1, -3, 25, 2, 26, -30, 27):
        world.now_ms = MIDNIGHT_MS + hours * HOUR_MS
        world.write(5)
        with closing(world.open(part_records=part_records)) as archive:
            keep(archive)
            archive.look()
            archive.keeper.turn()
    assert archived(world.local) == world.records()
    assert abut(world.local)


def test_a_part_never_comes_into_a_day_that_is_closed(world):
    world.write(3)
    with closing(world.open()) as archive:
        keep(archive)
        world.now_ms = MIDNIGHT_MS + HOUR_MS
        archive.look()
        archive.keeper.turn()
        before = days.read_complete(world.local, DAY)
        world.write(2, at_ms=MIDNIGHT_MS - 1)
        keep(archive)
    assert before is not None
    assert days.sum_up(world.local, before.run, DAY, before.closed_ms) == before
    assert archived(world.local) == world.records()


def test_a_day_is_not_told_complete_while_a_record_of_it_waits(world):
    world.write(3)
    with closing(world.open()) as archive:
        while archive.step(0):
            pass
        assert parts_of(world.local) == []
        world.now_ms = MIDNIGHT_MS + 2 * HOUR_MS
        archive.look()
        archive.keeper.turn()
        assert days.read_complete(world.local, DAY) is None
        assert archive.write(is_all=True)
        archive.look()
        archive.keeper.turn()
    complete = days.read_complete(world.local, DAY)
    assert complete is not None
    assert complete.slots[f"{TOPIC}/0"].count == 3


def test_records_of_a_megabyte_are_cut_by_bytes(world):
    value = b"\xff" * 1_000_000
    with closing(world.open()) as archive:
        for offset in range(70):
            world.log.append(Record(TOPIC, 0, offset, world.now_ms, "", value))
        archive.step(0)
        assert len(parts_of(world.local)) >= 1
        keep(archive)
        assert archive.writer.held_bytes == 0
    assert len(archived(world.local)) == 70


def test_a_clock_that_stood_at_1970_at_first_makes_no_thousand_days(world):
    """A machine without a battery: its first records bear the first of January 1970."""
    world.write(1, at_ms=5)
    world.write(1)
    names: list[str] = []
    with closing(world.open()) as archive:
        keep(archive)
        names = parts_of(world.local)
    assert len(days.days_to_close(names, MIDNIGHT_MS + HOUR_MS, MIDNIGHT_MS + HOUR_MS)) < 400


# --- stores that lie ------------------------------------------------------------------------------------------------


class Liar(FolderStore):
    """Once it keeps other bytes than it was given, or keeps them and says that it failed."""

    def __init__(self, path: Path, lie: str) -> None:
        super().__init__(path)
        self.lie = lie

    def write(self, name: str, data: bytes) -> None:
        lie = self.lie if Part.of_name(name) else ""
        if lie:
            self.lie = ""
        super().write(name, data[:-20] + bytes(20) if lie == "damage" else data)
        if lie == "no answer":
            raise StoreUnavailable("the answer was lost")


@pytest.mark.parametrize("lie", ["damage", "no answer"])
def test_a_part_that_was_written_badly_or_without_an_answer_is_written_again_and_can_be_read(world, lie):
    local = Liar(world.local.path, lie)
    world.write(3)
    with closing(world.open(local)) as archive:
        archive.step(0)
        assert not archive.write(is_all=True)
        world.write(4)
        keep(archive)
    assert archived(world.local) == world.records()
    complete = days.sum_up(world.local, ArchiveHistory(world.local).mark.run, DAY, 0)
    assert complete.slots[f"{TOPIC}/0"].count == len(world.records()) == 7


def test_a_damaged_part_holds_up_no_other_and_its_day_is_not_told_complete_in_the_bucket(world):
    root = a_day(world, world.local)
    damage(world.local, parts_of(world.local)[1])
    keeper = keeper_of(world, root, world.bucket)
    for _ in range(3):
        with suppress(ObservatorError):  # as the keeper's thread does
            keeper.turn()
    assert len(parts_of(world.bucket)) == 3
    assert days.read_complete(world.bucket, DAY) is None
    assert world.troubles.all()


def test_a_truncated_part_holds_up_no_other(world):
    root = a_day(world, world.local)
    cut = parts_of(world.local)[1]
    world.local.write(cut, world.local.read(cut)[:-30])
    keeper = keeper_of(world, root, world.bucket)
    for _ in range(3):
        with suppress(ObservatorError):
            keeper.turn()
    assert len(parts_of(world.bucket)) == 3


def test_a_part_that_somebody_removed_holds_up_no_other(world):
    root = a_day(world, world.local)
    keeper = keeper_of(world, root, world.bucket)
    gone = parts_of(world.local)[0]
    world.local.delete(gone)
    for _ in range(3):
        with suppress(ObservatorError, FileNotFoundError):
            keeper.turn()
    assert len(parts_of(world.bucket)) == 3


# --- days -----------------------------------------------------------------------------------------------------------


def test_a_day_with_a_part_missing_in_the_middle_is_not_told_complete(world):
    root = a_day(world, world.local)
    world.local.delete(parts_of(world.local)[1])
    with suppress(ObservatorError):
        keeper_of(world, root).turn()
    assert days.read_complete(world.local, DAY) is None


def test_a_day_with_a_stretch_written_twice_counts_each_record_once(world):
    root = a_day(world, world.local)
    records = archived(world.local)[5:25]
    part = Part(DAY, 0, HOME, 5, 24)
    world.local.write(part.name, part_bytes(root.run, part, records))
    assert len(archived(world.local)) == 40
    told = days.sum_up(world.local, root.run, DAY, 0).slots[f"{TOPIC}/0"]
    assert (told.first, told.last, told.count) == (0, 39, 40)


def test_a_new_machine_leaves_the_bucket_s_closed_days_as_they_are(world, tmp_path):
    """Lost machine, same log, same bucket: it has only the newest part of each partition."""
    world.now_ms = MIDNIGHT_MS - 26 * HOUR_MS
    world.write(5, partition=1)
    with closing(world.open(has_bucket=True, part_records=2)) as archive:
        for hours in (-26, -25, -23, -2, 1, 2):
            world.now_ms = MIDNIGHT_MS + hours * HOUR_MS
            world.write(3)
            keep(archive)
            archive.look()
            archive.keeper.turn()
    before = {name: world.bucket.read(name) for name in world.bucket.names() if days.is_complete_name(name)}
    assert len(before) == 2
    world.now_ms = MIDNIGHT_MS + 26 * HOUR_MS
    world.write(3)
    with closing(world.open(FolderStore(tmp_path / "other"), has_bucket=True)) as archive:
        keep(archive)
        archive.look()
        archive.keeper.turn()
    after = {name: world.bucket.read(name) for name in world.bucket.names() if days.is_complete_name(name)}
    assert {name: after[name] for name in before} == before
    today = msgspec.json.decode(after[days.complete_name(days.following(DAY))], type=days.Complete)
    assert today.slots[f"{TOPIC}/0"].count == 6
    assert archived(world.bucket) == world.records()


# --- deletion -------------------------------------------------------------------------------------------------------


def lose(store: FolderStore, name: str) -> None:
    store.delete(name)


def cut(store: FolderStore, name: str) -> None:
    store.write(name, store.read(name)[:-50])


def empty(store: FolderStore, name: str) -> None:
    store.write(name, b"")


def replace(store: FolderStore, name: str) -> None:
    """Whole and of this run, but of other records."""
    part = Part.of_name(name)
    assert part is not None
    run = run_of(store, name)
    records = [Record(TOPIC, 0, part.first, MIDNIGHT_MS - DAY_MS, "", b"other")]
    store.write(name, part_bytes(run, part, records))


@pytest.mark.parametrize("harm", [lose, damage, scratch, cut, empty, replace])
def test_a_local_part_stays_while_the_bucket_s_copy_is_not_the_same(world, harm: Callable[[FolderStore, str], None]):
    root = a_day(world, world.local)
    keeper = keeper_of(world, root, world.bucket)
    keeper.close_days()
    keeper.upload()
    kept = {name: world.local.read(name) for name in parts_of(world.local)}
    victim = min(kept)
    harm(world.bucket, victim)
    with suppress(ObservatorError):
        keeper.retire()
    assert world.local.read(victim) == kept[victim]
    with suppress(ObservatorError):
        keeper.upload()
        keeper.retire()
    for name, data in kept.items():
        assert (world.local.size(name) is not None) or world.bucket.read(name) == data
    if harm is not replace:
        assert world.bucket.read(victim) == kept[victim]


# --- other logs, two at once ----------------------------------------------------------------------------------------


def test_two_processes_never_write_one_archive(world):
    world.write(3)
    with closing(world.open()) as archive:
        with pytest.raises(AlreadyRunning):
            world.open()
        keep(archive)
    with closing(world.open()):
        pass


class Meanwhile(FolderStore):
    """A bucket into which somebody else writes right after it was looked at for the first time."""

    def __init__(self, path: Path, act: Callable[[], None]) -> None:
        super().__init__(path)
        self.act: Callable[[], None] | None = act

    def sizes(self, under: str = "") -> dict[str, int]:
        found = super().sizes(under)
        if self.act is not None:
            act, self.act = self.act, None
            act()
        return found


def test_two_runs_that_begin_in_one_bucket_at_the_same_time_do_not_mix(world, tmp_path):
    other = FolderStore(tmp_path / "other")
    roots = [a_day(world, world.local, range(2)), a_day(world, other, range(2, 4))]
    first = keeper_of(world, roots[0], world.bucket)
    second = keeper_of(world, roots[1], Meanwhile(world.bucket.path, first.upload), other)
    with suppress(ObservatorError):
        second.upload()
    runs = {run_of(world.bucket, name) for name in parts_of(world.bucket)}
    assert len(runs) == 1
    kept = read_root(world.bucket)
    assert kept is not None
    assert kept.run in runs


@pytest.mark.parametrize("count", [0, 2, 3, 50])
def test_a_log_that_was_made_anew_gets_nothing_into_the_old_archive(world, tmp_path, count):
    world.write(3)
    with closing(world.open()) as archive:
        keep(archive)
    before = {name: world.local.read(name) for name in world.local.names()}
    anew = World(tmp_path, MIDNIGHT_MS - HOUR_MS + 1)
    anew.write(count)
    with pytest.raises(Stop, match="another log"):
        anew.open()
    assert {name: world.local.read(name) for name in world.local.names()} == before


def test_a_refused_bucket_leaves_nothing_behind_on_this_machine(world, tmp_path):
    """Else the next start, with the right bucket, is refused for what the wrong one left here."""
    world.write(3)
    with closing(world.open(has_bucket=True)) as archive:
        keep(archive)
        archive.keeper.upload()
    anew = World(tmp_path / "anew", MIDNIGHT_MS)
    anew.bucket = world.bucket
    anew.write(50)
    with pytest.raises(Stop, match="another log"):
        anew.open(has_bucket=True)
    anew.bucket = FolderStore(tmp_path / "right")
    with closing(anew.open(has_bucket=True)) as archive:
        keep(archive)
    assert archived(anew.local) == anew.records()


def test_records_that_the_log_deleted_unread_are_named_and_the_rest_goes_on(world):
    world.write(10)
    with closing(world.open()) as archive:
        keep(archive)
    world.write(10)
    world.log.truncate(HOME, 15)
    with closing(world.open()) as archive:
        keep(archive)
    with pytest.raises(RecordsLost, match="10 to 14"):
        archived(world.local)
    assert list(ArchiveHistory(world.local).read(HOME, 15, 20)) == world.records()
    assert any("p0-10-14" in name for name in world.local.names("missing"))


def test_compaction_after_archiving_is_no_fault_of_the_archive(world):
    """`account-states` keeps the newest record of a key; the archive has all of them."""
    world.log.create_topics([TopicSpec("account-states", 1, {})])
    slot = Slot("account-states", 0)
    publisher = world.log.publisher()
    for i in range(4):
        publisher.publish("account-states", "account", b"state %d" % i, 0)
    with closing(world.open(topics=["account-states"])) as archive:
        keep(archive)
    before = archived(world.local, slot)
    world.log.store.tape(slot).rows[:3] = [None] * 3
    assert archived(world.local, slot) == before
    assert check(world.local, log=world.log).faults == []
    with closing(world.open(topics=["account-states"])) as archive:
        keep(archive)
    assert archived(world.local, slot) == before


def test_what_was_taken_out_of_the_middle_is_written_again(world):
    with closing(world.open(part_records=4)) as archive:
        world.write(20)
        keep(archive)
    for name in parts_of(world.local)[1:3]:
        world.local.delete(name)
    with closing(world.open(part_records=3)) as archive:
        keep(archive)
    assert archived(world.local) == world.records()


def test_a_part_that_is_damaged_at_the_start_is_named_and_nothing_is_deleted(world):
    world.write(3)
    with closing(world.open()) as archive:
        keep(archive)
    (name,) = parts_of(world.local)
    damage(world.local, name)
    before = world.local.read(name)
    with pytest.raises(Stop, match=name):
        world.open()
    assert world.local.read(name) == before


def test_the_archive_is_read_where_it_is_written(tmp_path, monkeypatch):
    """A target that begins with the home folder's sign."""
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    monkeypatch.chdir(tmp_path)
    world = World(tmp_path)
    world.write(3)
    settings = Settings(
        home=tmp_path / "run", archive=ArchiveSettings(target="~/archive", topics=[TOPIC], part_seconds=0.01)
    )
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(settings, world.log, stop))
    thread.start()
    try:
        while thread.is_alive() and not list(tmp_path.rglob("*.parquet")):
            stop.wait(0.05)
    finally:
        stop.set()
        thread.join(20)
    assert archived(open_store(settings)) == world.records()
