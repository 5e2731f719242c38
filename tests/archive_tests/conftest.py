"""An archive in a folder of the test's own, over a log whose clock the test sets."""

import io
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from consumers.archive import days
from consumers.archive.process import Archive, Clocks
from consumers.archive.room import Troubles
from consumers.verify.archive_bucket import Bucket
from infra.log import Record, Slot
from infra.memory_log import MemoryLog
from infra.secrets import Secret
from infra.settings import ArchiveSettings
from infra.store import FolderStore, Store
from infra.store_s3 import S3Store
from streams import messages as m
from streams.archive_spans import spans_of
from streams.parts import Part, records_of
from streams.process import topic_specs

NOON_MS = 1_795_230_000_000  # 2026-11-21 12:00 KST
TOPICS = ["orderbooks", "trades", "controls"]


class World:
    """A log, a clock and a folder; archives are opened and closed over them."""

    def __init__(self, folder: Path) -> None:
        self.now_ms = NOON_MS
        self.log = MemoryLog(clock_ms=lambda: self.now_ms)
        self.log.create_topics(topic_specs())
        self.local = FolderStore(folder / "archive")
        self.troubles = Troubles()
        self.opened: list[Archive] = []

    def open(self, remote: Store | None = None, **settings: object) -> Archive:
        """Start the process's work, without its loop."""
        settings = {"topics": TOPICS, "part_seconds": 60, **settings}
        archive = Archive(
            self.log,
            self.local,
            (lambda: remote) if remote is not None else None,
            ArchiveSettings.model_validate(settings),
            self.troubles,
            clocks=Clocks(lambda: self.now_ms, lambda: self.now_ms / 1000),
        )
        self.opened.append(archive)
        return archive

    def end(self, archive: Archive) -> None:
        """Let go of it as a process that ends does; what it had not written is lost."""
        archive.close()
        self.opened.remove(archive)

    def publish(self, count: int, topic: str = "controls", partition: int = 0, *, step_ms: int = 10) -> None:
        """Write records into one partition, a step of the clock before each."""
        publisher = self.log.publisher()
        for _ in range(count):
            self.now_ms += step_ms
            message = m.TradingStopped(account=f"a{self.now_ms}", by="test", event_ms=self.now_ms)
            publisher.publish(topic, "main", m.encode(message), partition)

    def archived(self, archive: Archive) -> list[Part]:
        """Read everything, write everything; all parts."""
        while archive.step(0.0):
            pass
        assert archive.write(is_all=True)
        return self.parts()

    @staticmethod
    def changed(data: bytes) -> bytes:
        """A part with the last bit of a column's values turned over."""
        column = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(1)
        first = column.dictionary_page_offset or column.data_page_offset
        at = first + column.total_compressed_size - 1
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    def parts(self, store: Store | None = None) -> list[Part]:
        """The parts by partition and offset."""
        spans = spans_of((store or self.local).names())
        return [part for found in spans.values() for *_, name in found if (part := Part.of_name(name))]

    def records(self, store: Store | None = None) -> dict[Slot, list[Record]]:
        """Every record of every part, read whole; partitions without any left out."""
        place = store or self.local
        found: dict[Slot, list[Record]] = {}
        for part in self.parts(place):
            found.setdefault(part.slot, []).extend(records_of(io.BytesIO(place.read(part.name)), part.name))
        return found

    def logged(self) -> dict[Slot, list[Record]]:
        """Every record of the log."""
        slots = [Slot(topic, number) for topic in TOPICS for number in range(self.log.partitions(topic))]
        rows = {slot: [row for row in self.log.store.tape(slot).rows if row is not None] for slot in slots}
        return {slot: found for slot, found in rows.items() if found}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    for archive in list(made.opened):
        made.end(archive)


@pytest.fixture
def closed(world: World) -> World:
    """A day that is complete: three parts of controls and two of trades, and the next day's first part."""
    archive = world.open(part_records=10)
    world.publish(30)
    world.publish(20, "trades", 2)
    world.archived(archive)
    world.now_ms = days.start_ms("2026-11-22") + 6 * 60_000
    archive.look()
    archive.keeper.turn()
    world.publish(5)
    world.archived(archive)
    world.end(archive)
    return world


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """A real S3 server; tests take folders of their own in it."""
    with Bucket(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    """moto's S3, which takes any secret."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 - tests without it do not load it

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    store = S3Store("s3://made/x", f"http://{host}:{port}", "key", Secret("any"))
    store._call("create_bucket", "")
    yield f"http://{host}:{port}"
    server.stop()
