import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.errors import BadSettings
from infra.secrets import Secret
from infra.settings import Settings
from infra.store import (
    FolderStore,
    Store,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
    checked,
    key_of,
    open_store,
    store_at,
)
from infra.store_s3 import S3Store


@pytest.fixture(params=["folder", "moto", "rclone"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    name = f"t-{tmp_path.name[:40].replace('_', '-')}"
    if request.param == "folder":
        yield FolderStore(tmp_path / "store")
    elif request.param == "moto":
        yield S3Store(f"s3://made/{name}", request.getfixturevalue("moto_endpoint"), "key", Secret("any"))
    else:
        yield request.getfixturevalue("bucket").store(name)


def test_what_is_written_is_there_whole_by_its_name_and_size(store):
    store.check()
    assert store.names() == []
    names = ["a/b/c.parquet", "a/b.json", "d.json"]
    for number, name in enumerate(names):
        store.write(name, b"x" * (number + 1))
    assert store.sizes() == {"a/b.json": 2, "a/b/c.parquet": 1, "d.json": 3}
    assert store.sizes("a") == {"a/b.json": 2, "a/b/c.parquet": 1}
    assert store.names("a/b") == ["a/b/c.parquet"]
    assert store.names("nothing") == []
    assert (store.size("a/b.json"), store.size("a/b"), store.size("a")) == (2, None, None)
    store.write("d.json", b"other")
    assert store.read("d.json") == b"other"


def test_parts_of_a_file_are_read(store):
    data = bytes(range(256)) * 20_000
    store.write("big", data)
    with store.open("big") as file:
        assert file.read(4) == data[:4]
        assert file.seek(-5, 2) == len(data) - 5
        assert file.read() == data[-5:]
        file.seek(3_000_000)
        assert (file.read(7), file.tell()) == (data[3_000_000:3_000_007], 3_000_007)


def test_what_is_not_there_is_told(store):
    for ask in (store.read, store.open):
        with pytest.raises(FileNotFoundError):
            ask("nothing/here")
    store.delete("nothing/here")
    store.write("a/b", b"")
    assert store.read("a/b") == b""
    store.delete("a/b")
    assert store.names() == []


def test_more_names_than_one_listing_gives(moto_endpoint):
    store = S3Store("s3://made/many", moto_endpoint, "key", Secret("any"))
    store._page = 3
    for number in range(8):
        store.write(f"{number:05}", b"")
    assert store.names() == [f"{number:05}" for number in range(8)]


def acts_of(store: Store) -> dict[str, Callable[[], object]]:
    return {
        "check": store.check, "sizes": store.sizes, "read": lambda: store.read("a"), "open": lambda: store.open("a"),
        "size": lambda: store.size("a"), "write": lambda: store.write("a", b"x"), "delete": lambda: store.delete("a"),
    }  # fmt: skip


def test_a_wrong_secret_is_refused_and_not_shown(bucket):
    store = bucket.store("wrong", secret="not-the-secret-of-it")
    for name, act in acts_of(store).items():
        with pytest.raises(BadSettings if name == "check" else StoreRefused) as raised:
            act()
        assert "not-the-secret" not in f"{raised.value!r}{raised.value}{store.__dict__['url']}", name


def test_a_bucket_that_is_gone_is_not_an_empty_one(bucket):
    store = bucket.store("gone")
    store.write("a", b"x")
    bucket.vanish()
    try:
        for act in acts_of(store).values():
            with pytest.raises(StoreUnavailable):
                act()
    finally:
        bucket.come_back()
    assert store.read("a") == b"x"


def test_a_server_that_does_not_answer_is_tried_again_later():
    store = S3Store("s3://bucket/x", "http://127.0.0.1:1", "key", Secret("secret"))
    for ask in (store.sizes, lambda: store.read("a"), lambda: store.write("a", b""), lambda: store.size("a")):
        with pytest.raises(StoreUnavailable):
            ask()


def _in_a_child(act: Callable[[], bool]) -> bool:
    pid = os.fork()
    if pid == 0:
        os._exit(0 if act() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_file_that_does_not_fit_leaves_nothing(tmp_path):
    store = FolderStore(tmp_path)
    store.write("part", b"before")

    def too_large() -> bool:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))
        try:
            store.write("part", b"x" * 2_000)
        except StoreFull:
            return True
        return False

    assert _in_a_child(too_large)
    assert store.sizes() == {"part": 6}
    assert list((tmp_path / ".unfinished").iterdir()) == []


def test_a_folder_without_right_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    store = FolderStore(tmp_path / "file" / "below")
    with pytest.raises(StoreUnavailable, match="file/below"):
        store.write("a", b"")
    if os.geteuid() != 0:
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(BadSettings, match="closed"):
            FolderStore(tmp_path / "closed").check()


@pytest.mark.parametrize("name", ["", "/etc/x", "a//b", "../a", "a/../b", "a/.", "a\\b"])
def test_a_name_stays_below_the_root(name, tmp_path):
    with pytest.raises(ValueError, match="no name"):
        checked(name)
    with pytest.raises(ValueError, match="no name"):
        FolderStore(tmp_path).write(name, b"")


def test_the_settings_say_which_store(tmp_path):
    assert open_store(Settings(home=tmp_path)).url == str(tmp_path / "archive")
    elsewhere = Settings.model_validate({"home": tmp_path, "archive": {"target": str(tmp_path / "else")}})
    assert open_store(elsewhere).url == str(tmp_path / "else")
    of_bucket = Settings.model_validate({"home": tmp_path, "archive": {"target": "s3://bucket/a"}})
    with pytest.raises(BadSettings, match="run/secrets/archive"):
        open_store(of_bucket)
    secrets = tmp_path / "run" / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "archive").write_text('{"key": "k", "se')
    with pytest.raises(BadSettings, match="cannot be read") as raised:
        key_of(tmp_path)
    assert '"k"' not in str(raised.value)
    (secrets / "archive").write_text('{"key": "k", "secret": "hidden-one"}')
    found = store_at("s3://bucket/a", of_bucket)
    assert (found.url, "hidden-one" in repr(key_of(tmp_path))) == ("s3://bucket/a", False)


@pytest.mark.parametrize("target", ["s3:/x", "gs://bucket", "s3://", "s3://B_"])
def test_a_target_that_is_no_folder_and_no_bucket_is_refused(target):
    if "://" in target:
        with pytest.raises(ValueError, match="target"):
            Settings.model_validate({"archive": {"target": target}})
    else:
        assert Settings.model_validate({"archive": {"target": target}}).archive.target == target
