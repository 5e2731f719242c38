"""Parity of a session out of its archive; what is wrong with the files is named, and never taken for equal."""

import json

import pytest

from consumers.verify.session import Session
from infra.log import Slot, slots_of
from infra.store import FolderStore
from streams.history import ArchiveHistory, LogHistory
from streams.parts import Part, part_bytes
from streams.topics import TOPICS

from .test_session import Made, compared, copied

RUN = "5" * 32


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return Made(tmp_path_factory.mktemp("archived"), restarts=0)


@pytest.fixture
def store(made, tmp_path) -> FolderStore:
    """All that was recorded, each partition in two files."""
    store = FolderStore(tmp_path)
    told = {"format": 1, "run": RUN, "prefix": "", "kind": "log", "made_ms": 1, "by": "observator test"}
    store.write("archive.json", json.dumps(told).encode())
    for slot in slots_of(made.log, list(TOPICS)):
        first, end = made.log.bounds([slot])[slot]
        if first == end:
            continue
        records = list(LogHistory(made.log).read(slot, first, end))
        middle = records[len(records) // 2].offset
        for begin, last in ((first, middle - 1), (middle, end - 1)):
            if begin <= last:
                part = Part("2023-11-15", 7, slot, begin, last)
                store.write(part.name, part_bytes(RUN, part, [one for one in records if begin <= one.offset <= last]))
    return store


def verdict(made: Made, store: FolderStore):
    found = Session(ArchiveHistory(store), made.settings, now=None, is_closed=True).compare()
    return found.verdict, " ".join(found.problems)


def busy(store: FolderStore, topic: str) -> list[str]:
    """The two files of a partition with data."""
    names = [name for name in store.names() if f"/{topic}/" in name]
    return sorted(name for name in names if name.split("/")[-1].startswith(f"p{_partition(names)}-"))


def _partition(names: list[str]) -> str:
    counts: dict[str, int] = {}
    for name in names:
        partition, _, last = name.split("/")[-1].removesuffix(".parquet")[1:].split("-")
        counts[partition] = max(counts.get(partition, 0), int(last))
    return max(counts, key=lambda one: counts[one])


def test_an_archive_gives_what_its_log_gives(made, store):
    found = Session(ArchiveHistory(store), made.settings, now=None, is_closed=True).compare()
    assert found.verdict == "equal", (found.figures(), found.problems)
    assert found.figures() == compared(made, made.log).figures()


@pytest.mark.parametrize("topic", ["orderbooks", "features", "signals"])
def test_a_file_that_is_missing_is_no_equality(made, store, topic):
    (store.path / busy(store, topic)[0]).rename(store.path / "elsewhere")
    found = Session(ArchiveHistory(store), made.settings, now=None, is_closed=True).compare()
    assert found.verdict in {"incomplete", "equal"}
    whole, left = compared(made, made.log).topics["features" if topic == "orderbooks" else topic].total, found
    rest = left.topics["features" if topic == "orderbooks" else topic].total
    assert rest.compared < whole.compared
    assert rest.not_covered or found.verdict == "incomplete"


def test_a_damaged_file_is_named(made, store):
    name = busy(store, "orderbooks")[1]
    file = store.path / name
    file.write_bytes(file.read_bytes()[:-300])
    word, problems = verdict(made, store)
    assert word == "incomplete"
    assert name in problems
    assert file.exists()


def test_a_file_of_another_run_is_named(made, store):
    slot = Slot("trades", int(_partition([name for name in store.names() if "/trades/" in name])))
    name = busy(store, "trades")[1]
    first, last = (int(one) for one in name.split("/")[-1].removesuffix(".parquet").split("-")[1:])
    records = list(LogHistory(made.log).read(slot, first, last + 1))
    foreign = Part("2023-11-15", 7, slot, first, last)
    store.write(name, part_bytes("6" * 32, foreign, records))
    word, problems = verdict(made, store)
    assert word == "incomplete"
    assert name in problems


def test_a_clock_that_went_back_changes_nothing(made):
    def earlier(record):
        return record._replace(append_ms=record.append_ms - 7_000) if record.offset % 50 == 33 else record

    assert compared(made, copied(made, earlier)).verdict == "equal"
