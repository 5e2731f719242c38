"""Uploads, retention and days. The bucket is another folder where only the interface matters, and rclone or moto where
the bucket's own behaviour does.
"""

import threading
from pathlib import Path

import pytest

from consumers.archive import days
from consumers.archive.checking import check
from consumers.archive.root import read_root
from infra.errors import Stop
from infra.secrets import Secret
from infra.store import FolderStore, Store, StoreRefused, StoreUnavailable
from infra.store_s3 import S3Store


@pytest.fixture
def remote(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "bucket")


def past_midnight(world, archive, more_days=0):
    """The rest is archived and the clock stands at six minutes past midnight, KST."""
    world.archived(archive)
    day, _ = days.place_of(world.now_ms)
    world.now_ms = days.start_ms(days.following(day, 1 + more_days)) + 6 * 60_000
    archive.step(0.0)
    archive.look()


def test_everything_goes_to_the_bucket_the_days_file_after_its_parts(world, remote, monkeypatch):
    archive = world.open(remote, part_records=10)
    world.publish(30)
    past_midnight(world, archive)
    order: list[str] = []
    write = FolderStore.write

    def noted(self: FolderStore, name: str, data: bytes) -> None:
        if self is remote and not name.startswith("claims/"):  # that a run begins here; gone when it has begun
            order.append(name)
        write(self, name, data)

    monkeypatch.setattr(FolderStore, "write", noted)
    archive.keeper.turn()
    assert remote.sizes() == world.local.sizes()
    assert (order[0], order[-1], len(order)) == ("archive.json", "dt=2026-11-21/complete.json", 5)
    archive.keeper.turn()
    assert len(order) == 5, "each once"
    assert archive.state()["waiting_files"] == 0


def test_local_parts_leave_after_keep_days_and_only_what_the_bucket_gives_back(world, remote):
    archive = world.open(remote, part_records=10, keep_days=1)
    world.publish(30)
    past_midnight(world, archive)
    archive.keeper.turn()
    assert len(world.parts()) == 3, "a day is kept"
    world.publish(5)
    past_midnight(world, archive)
    archive.keeper.turn()
    assert [part.day for part in world.parts()] == ["2026-11-22"]
    assert world.records(remote) == world.logged()
    assert archive.state()["used_bytes"] == sum(world.local.sizes().values())
    world.end(archive)
    assert world.open(remote).opened.starts[world.parts()[0].slot] == 35


def test_the_newest_part_of_a_partition_stays_however_old(world, remote):
    archive = world.open(remote, part_records=10, keep_days=1)
    world.publish(30)
    past_midnight(world, archive, more_days=5)
    archive.keeper.turn()
    assert [part.first for part in world.parts()] == [20]


@pytest.mark.parametrize("harm", ["gone", "cut", "other"])
def test_a_copy_that_is_not_the_same_keeps_the_local_part_and_is_mended_where_it_can_be(world, remote, harm):
    archive = world.open(remote, part_records=10, keep_days=1)
    world.publish(30)
    past_midnight(world, archive)
    archive.keeper.turn()
    first, second, _ = (part.name for part in world.parts())
    if harm == "gone":
        remote.delete(first)
    elif harm == "cut":
        remote.write(first, remote.read(first)[:-10])
    else:  # whole, but of other records: a part of another run under this name
        other = world.local.path.parent / "other"
        world.end(archive)
        remembered, world.local = world.local, FolderStore(other)
        again = world.open(part_records=10)
        world.archived(again)
        world.end(again)
        remote.write(first, world.local.read(first))
        world.local = remembered
        archive = world.open(remote, part_records=10, keep_days=1)
    world.publish(5)
    past_midnight(world, archive)
    archive.keeper.turn()
    assert first in world.local.names(), "not deleted while the bucket has something else"
    assert second not in world.local.names()
    if harm == "other":
        assert "other records" in world.troubles.all()[first]
    else:
        archive.keeper._retired_s = float("-inf")
        archive.keeper.turn()
        assert first not in world.local.names()
        assert world.records(remote) == world.logged()


def test_with_a_folder_nothing_is_deleted(world):
    archive = world.open(part_records=10, keep_days=1)
    world.publish(30)
    past_midnight(world, archive, more_days=30)
    archive.keeper.turn()
    assert world.records() == world.logged()


def test_a_bucket_of_another_run_is_not_written_to(world, remote, tmp_path):
    world.end(world.open())
    mine = world.local
    world.local = FolderStore(tmp_path / "other")
    other = world.open(remote)
    other.keeper.turn()
    world.end(other)
    world.local = mine
    before = remote.sizes()
    archive = world.open(remote)
    world.publish(5)
    world.archived(archive)
    with pytest.raises(Stop, match="another run"):
        archive.keeper.turn()
    assert remote.sizes() == before
    assert world.records() == world.logged()


def test_a_machine_that_lost_its_folder_goes_on_with_the_buckets_archive(world, remote):
    archive = world.open(remote, part_records=10)
    world.publish(30)
    world.publish(7, "trades", 1)
    world.archived(archive)
    archive.keeper.turn()
    world.end(archive)
    for name in world.local.names():
        world.local.delete(name)
    archive = world.open(remote, part_records=10)
    assert read_root(world.local) == read_root(remote)
    assert len(world.parts()) == 4, "the open day's parts, which closing it needs"
    world.publish(5)
    past_midnight(world, archive)
    archive.keeper.turn()
    world.end(archive)
    for name in world.local.names():
        world.local.delete(name)
    archive = world.open(remote, part_records=10)
    assert len(world.parts()) == 2, "of a closed day the newest part of each partition"
    world.publish(5)
    world.archived(archive)
    past_midnight(world, archive)
    archive.keeper.turn()
    assert world.records(remote) == world.logged()
    assert check(remote).faults == []


def test_a_bucket_with_other_files_is_left_alone(world, remote):
    remote.write("photo.jpg", b"x")
    with pytest.raises(Stop, match="no archive"):
        world.open(remote)
    assert remote.names() == ["photo.jpg"]


def test_an_unreachable_bucket_holds_nothing_up_and_gets_all_of_it_later(world, bucket):
    store = bucket.store("unreachable")
    archive = world.open(store, part_records=10)
    archive.keeper.turn()
    bucket.vanish()
    try:
        world.publish(30)
        world.archived(archive)
        with pytest.raises(StoreUnavailable):
            archive.keeper.turn()
        assert world.records() == world.logged()
    finally:
        bucket.come_back()
    archive.keeper.turn()
    assert world.records(store) == world.logged()


def test_a_wrong_secret_is_told_and_the_local_copy_goes_on(world, bucket):
    right, secrets = bucket.store("secret"), ["not-the-secret-of-it"]

    def opened() -> Store:
        return bucket.store("secret", secret=secrets[0]) if secrets else right

    world.end(world.open())
    archive = world.open(right)
    archive.keeper._open_remote = opened
    world.publish(30)
    world.archived(archive)
    with pytest.raises(StoreRefused):
        archive.keeper.turn()
    secrets.clear()
    archive.keeper.turn()
    assert world.records(right) == world.logged()


def test_the_thread_goes_on_after_an_error_and_says_it(world, remote):
    archive = world.open(remote)
    is_down = threading.Event()
    is_down.set()

    def opened() -> Store:
        if is_down.is_set():
            raise StoreUnavailable("down")
        return remote

    archive.keeper._open_remote = opened
    world.publish(3)
    world.archived(archive)
    archive.keeper.start()
    waited = threading.Event()
    for _ in range(1000):
        if "keeper" in world.troubles.all():
            break
        waited.wait(0.01)
    assert "down" in world.troubles.all()["keeper"]
    is_down.clear()
    for _ in range(1000):
        if world.records(remote) == world.logged() and not world.troubles.all():
            break
        waited.wait(0.01)
    assert world.troubles.all() == {}


def test_on_moto_it_is_the_same(world, moto_endpoint):
    store = S3Store("s3://made/keeper", moto_endpoint, "key", Secret("any"))
    archive = world.open(store, part_records=10, keep_days=1)
    world.publish(30)
    past_midnight(world, archive)
    archive.keeper.turn()
    world.publish(5)
    past_midnight(world, archive)
    archive.keeper.turn()
    assert world.records(store) == world.logged()
    assert len(world.parts()) == 1
