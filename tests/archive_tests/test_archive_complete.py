"""What is said of a day is never replaced by less, and what is said of it is there: here, in the bucket, in a copy."""

from pathlib import Path

import msgspec
import pytest

from consumers.archive import days
from consumers.archive.checking import check
from consumers.archive.fetch import fetch
from consumers.archive.root import make_root, read_root, write_root
from infra.errors import Stop
from infra.store import FolderStore, StoreUnavailable
from streams.parts import DamagedPart, Footer, Part

DAY = "2026-11-21"
COMPLETE = days.complete_name(DAY)


@pytest.fixture
def remote(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "bucket")


def past_midnight(world, archive):
    world.archived(archive)
    day, _ = days.place_of(world.now_ms)
    world.now_ms = days.start_ms(days.following(day)) + 6 * 60_000
    archive.step(0.0)
    archive.look()


def again(keeper):
    """As if ten minutes had gone by."""
    keeper._put_off.clear()
    keeper._close_again_s = keeper._retired_s = float("-inf")
    keeper.turn()


def footer(first: int, last: int, digest: str = "") -> Footer:
    return Footer("r", "controls", 0, first, last, last - first + 1, digest or f"{first}", 0, 0, went_back=False)


def test_a_part_that_is_written_again_into_a_closed_day_leaves_the_day_whole_though_most_of_it_is_only_in_the_bucket(
    world, remote
):
    archive = world.open(remote, part_records=10, keep_days=1)
    world.publish(40)
    past_midnight(world, archive)
    archive.keeper.turn()
    world.publish(5)
    past_midnight(world, archive)
    archive.keeper.turn()
    assert [part.day for part in world.parts()] == ["2026-11-22"], "the closed day is in the bucket alone"
    before = days.read_complete(remote, DAY)
    world.end(archive)
    first, second, *_ = (part.name for part in world.parts(remote))
    world.local.write(first, remote.read(first))  # one that stayed, so that the gap behind it is seen here
    remote.delete(second)
    archive = world.open(remote, part_records=5, keep_days=1)
    archive.look()
    archive.keeper.turn()
    archive.keeper.turn()
    after = days.read_complete(remote, DAY)
    assert before is not None
    assert after is not None
    assert (after.parts, after.slots["controls/0"].count, days.covers(after, before)) == (5, 40, True)
    assert world.records(remote) == world.logged()
    assert check(remote).faults == []


def test_what_the_bucket_says_of_a_day_stays_where_less_is_found(world, remote):
    archive = world.open(remote, part_records=10)
    world.publish(30)
    world.archived(archive)
    archive.keeper.turn()
    root = read_root(world.local)
    more = days.sum_up(world.local, root.run, DAY, 0)
    slots = {**more.slots, "trades/0": days.SlotDay(first=0, last=9, count=10, chain="x")}
    said = msgspec.json.encode(msgspec.structs.replace(more, slots=slots))
    remote.write(COMPLETE, said)
    past_midnight(world, archive)
    archive.keeper.turn()
    assert (remote.read(COMPLETE), COMPLETE in world.local.names()) == (said, False)
    assert "says more" in world.troubles.all()[COMPLETE]


def test_a_day_with_a_gap_is_told_complete_once_the_part_is_back(world):
    archive = world.open(part_records=10)
    world.publish(30)
    world.archived(archive)
    name = world.parts()[1].name
    data = world.local.read(name)
    world.local.delete(name)
    past_midnight(world, archive)
    archive.keeper.turn()
    assert "controls-0 offsets 10 to 19" in world.troubles.all()[COMPLETE]
    world.publish(5)
    past_midnight(world, archive)
    archive.keeper.turn()
    assert [name for name in world.local.names() if days.is_complete_name(name)] == ["dt=2026-11-22/complete.json"]
    world.local.write(name, data)
    again(archive.keeper)
    assert days.read_complete(world.local, DAY) is not None
    assert world.troubles.all() == {}


def test_a_day_goes_to_the_bucket_as_complete_only_after_all_that_it_says(world, remote):
    archive = world.open(remote, part_records=10)
    world.publish(30)
    past_midnight(world, archive)
    archive.keeper.close_days()
    first, second, _ = (part.name for part in world.parts())
    cut, gone = world.local.read(first), world.local.read(second)
    world.local.write(first, cut[:-30])
    world.local.delete(second)
    archive.keeper.turn()
    assert len(world.parts(remote)) == 1
    assert COMPLETE not in remote.names()
    assert {first, second, COMPLETE} <= world.troubles.all().keys()
    world.local.write(first, cut)
    again(archive.keeper)
    assert COMPLETE not in remote.names(), "the second part is still missing"
    world.local.write(second, gone)
    again(archive.keeper)
    assert remote.sizes() == world.local.sizes()
    assert world.troubles.all() == {}


def test_a_run_that_begins_in_a_bucket_waits_for_another_one_that_does(world, remote):
    other = make_root("", 0)
    remote.write(f"claims/{other.run}.json", b"{}")
    archive = world.open(part_records=10)
    archive.keeper._open_remote = lambda: remote
    with pytest.raises(StoreUnavailable, match=other.run):
        archive.keeper.turn()
    assert remote.names() == [f"claims/{other.run}.json"]
    remote.delete(f"claims/{other.run}.json")
    archive.keeper.turn()
    assert read_root(remote) == read_root(world.local)
    assert remote.names("claims") == []


def test_nothing_of_an_adoption_from_another_bucket_is_taken_into_the_archive(world, remote):
    archive = world.open(remote, part_records=10)
    world.publish(30)
    world.archived(archive)
    archive.keeper.turn()
    world.end(archive)
    world.local.delete("archive.json")
    stray = Part(DAY, 1, world.parts()[0].slot, 500, 509).name
    world.local.write(stray, b"of another bucket")
    before = world.local.sizes()
    with pytest.raises(Stop, match=r"no archive\.json"):
        world.open(remote)
    assert world.local.sizes() == before
    world.local.delete(stray)
    world.open(remote)
    assert read_root(world.local) == read_root(remote)


def test_a_fetch_copies_the_rest_of_a_day_with_a_damaged_part_and_says_it_is_not_complete(world, tmp_path):
    archive = world.open(part_records=10)
    world.publish(30)
    past_midnight(world, archive)
    archive.keeper.turn()
    first = world.parts()[0].name
    data = world.local.read(first)
    world.local.write(first, world.changed(data))
    to = FolderStore(tmp_path / "to")
    with pytest.raises(DamagedPart, match="p0-0-9"):
        fetch(world.local, [DAY], to)
    assert [part.first for part in world.parts(to)] == [10, 20]
    assert COMPLETE not in to.names()
    world.local.write(first, data)
    assert fetch(world.local, [DAY], to).already_there == 2
    assert check(to).faults == []


def test_parts_whose_offsets_others_hold_are_counted_once_and_what_footers_do_not_say_is_not_guessed():
    whole = days.slots_of_day([footer(0, 9), footer(10, 19), footer(20, 29)])
    assert days.slots_of_day([footer(0, 9), footer(5, 24), footer(10, 19), footer(20, 29)]) == whole
    assert days.slots_of_day([footer(0, 29), footer(0, 9), footer(10, 19), footer(20, 29)]) == whole
    with pytest.raises(Stop, match="0 to 9 and 5 to 24"):
        days.slots_of_day([footer(0, 9), footer(5, 24)])


def test_a_folder_that_is_no_day_is_none():
    assert [days.day_of(f"dt={day}/x") for day in (DAY, "2026-13-45", "20261121", "")] == [DAY, None, None, None]
    assert not days.is_complete_name("dt=x/complete.json")


def test_an_archive_of_a_damaged_root_is_not_written_to(world, remote):
    write_root(remote, make_root("", 0))
    remote.write("archive.json", remote.read("archive.json")[:20])
    with pytest.raises(Stop, match="cannot be read"):
        world.open(remote)
    assert world.local.names() == []
