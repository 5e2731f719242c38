import random
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.configuration import load
from infra.errors import BadSettings, RecordsLost, Stop
from infra.log import Record, Slot, TopicSpec
from infra.memory_log import MemoryLog
from infra.settings import Settings
from infra.store import FolderStore
from streams import shared_reader
from streams.archived import ArchiveHistory, Overlap
from streams.history import History, LogHistory, loaded, merged, open_history, spans_between
from streams.messages import encode
from streams.parts import DamagedPart, MixedRuns, Part, part_bytes
from streams.topics import TOPICS

from .conftest import DAY, RUN, START_MS, Archive, book, recorded, trade

BOOKS, TRADES = Slot("orderbooks", 0), Slot("trades", 0)


def log_of(records: list[Record], prefix: str = "") -> MemoryLog:
    log = MemoryLog(prefix)
    log.create_topics([TopicSpec(name, 12, {}) for name in TOPICS])
    for record in records:
        log.append(record)
    return log


def mixed(count: int = 300, seed: int = 3) -> list[Record]:
    """Records of five partitions, some at the same time, one partition with a clock that goes back, with markers."""
    rng = random.Random(seed)
    slots = [BOOKS, TRADES, Slot("trades", 5), Slot("features", 0), Slot("order-intents", 1)]
    offsets = dict.fromkeys(slots, 0)
    found = []
    for i in range(count):
        slot = rng.choice(slots)
        back = rng.choice((0, 0, 400)) if slot.partition == 5 else 0
        append_ms = START_MS + i // 3 * 10 - back
        found.append(Record(*slot, offsets[slot], append_ms, "k", encode(book(i)) if slot == BOOKS else b"%d" % i))
        offsets[slot] += rng.choice((1, 1, 2))
    return found


def archived(archive: Archive, records: list[Record], size: int = 17) -> ArchiveHistory:
    """The same in parts that abut."""
    by_slot: dict[Slot, list[Record]] = {}
    for record in records:
        by_slot.setdefault(record.slot, []).append(record)
    for rows in by_slot.values():
        for at in range(0, len(rows), size):
            following = rows[at + size].offset - 1 if at + size < len(rows) else None
            archive.put(rows[at : at + size], last=following)
    return ArchiveHistory(archive.store)


def in_order(records: list[Record]) -> list[Record]:
    """The recorded order, written down a second time: by sorting."""
    ranks, latest, keyed = list(TOPICS), dict[Slot, int](), []
    for record in sorted(records, key=lambda one: one.offset):
        latest[record.slot] = max(latest.get(record.slot, 0), record.append_ms)
        keyed.append((latest[record.slot], ranks.index(record.topic), record.partition, record.offset, record))
    return [one[-1] for one in sorted(keyed, key=lambda one: one[:-1])]


@pytest.fixture(params=["log", "archive", "prefixed"])
def history_of(request: pytest.FixtureRequest, archive: Archive) -> Callable[[list[Record]], History]:
    if request.param == "archive":
        return lambda records: archived(archive, records)
    return lambda records: LogHistory(log_of(records, "run-" if request.param == "prefixed" else ""))


def test_log_and_archive_tell_the_same(history_of: Callable[[list[Record]], History]) -> None:
    records = mixed()
    history = history_of(records)
    spans = history.spans(TOPICS)
    assert set(spans) == {record.slot for record in records}
    for slot, (first, end) in spans.items():
        own = [record for record in records if record.slot == slot]
        assert (first, end) == (own[0].offset, own[-1].offset + 1)
        for low, high in ((first, end), (first, first + 1), (first + 5, end - 3), (end - 1, end), (first, first)):
            assert list(history.read(slot, low, high)) == [one for one in own if low <= one.offset < high]


def test_the_recorded_order(history_of: Callable[[list[Record]], History], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_reader, "_KEPT", 7)
    monkeypatch.setattr(shared_reader, "_BATCH", 3)
    records = mixed()
    history = history_of(records)
    assert list(merged(history, history.spans(TOPICS))) == in_order(records)
    some = {BOOKS: (10, 40), TRADES: (0, 20)}
    inside = [one for one in records if one.slot in some and some[one.slot][0] <= one.offset < some[one.slot][1]]
    assert list(merged(history, some)) == in_order(inside)


def test_stretches_by_append_time(history_of: Callable[[list[Record]], History]) -> None:
    records = [one for one in mixed() if one.partition != 5]
    history = history_of(records)
    for low, high in ((0, 10**15), (START_MS + 200, START_MS + 555), (START_MS + 205, START_MS + 206)):
        spans = spans_between(history, TOPICS, low, high)
        found = [one for one in records if one.slot in spans and spans[one.slot][0] <= one.offset < spans[one.slot][1]]
        assert found == [one for one in records if low <= one.append_ms < high]
    assert spans_between(history, ["trades"], None, None) == history.spans(["trades"])


def test_a_history_loaded_into_memory_is_the_same_log(history_of: Callable[[list[Record]], History]) -> None:
    history = history_of(mixed())
    spans = history.spans(TOPICS)
    log = loaded(history, spans, "copy-")
    assert LogHistory(log).spans(TOPICS) == spans
    assert list(merged(LogHistory(log), spans)) == list(merged(history, spans))
    assert log.partitions("signals") == 12


def test_an_abandoned_merge_lets_go_of_the_log() -> None:
    log = log_of(mixed())
    records = merged(LogHistory(log), LogHistory(log).spans(TOPICS))
    next(records)
    records.close()
    del records
    assert not [reader for reader in log._open if not reader._is_closed]


def test_a_clock_that_goes_back_keeps_the_order_of_offsets(archive: Archive) -> None:
    records = recorded("trades", map(trade, range(20)), step_ms=-60_000)
    archive.put(records[:10], hour=10)
    archive.put(records[10:], hour=9)
    history = ArchiveHistory(archive.store)
    assert list(merged(history, history.spans(["trades"]))) == records
    assert spans_between(history, ["trades"], START_MS - 5, None) == {TRADES: (0, 20)}
    assert spans_between(history, ["trades"], START_MS + 1, None) == {}


def test_stretches_beside_parts_without_records(archive: Archive) -> None:
    records = recorded("trades", map(trade, range(70)))
    for first in range(0, 70, 10):
        archive.put(records[first : first + 5], last=first + 4)
        empty = Part(DAY, 10, TRADES, first + 5, first + 9)
        archive.store.write(empty.name, part_bytes(RUN, empty, []))
    kept = [one for one in records if one.offset % 10 < 5]
    history = ArchiveHistory(archive.store)
    for wanted in kept:
        (first, end) = spans_between(history, ["trades"], wanted.append_ms, None)[TRADES]
        assert (first, end) == (wanted.offset, 70)


def test_a_time_beside_a_missing_part(archive: Archive) -> None:
    """What lies after it can be read by time; what it may hold is never left out in silence."""
    records = recorded("trades", map(trade, range(40)))
    parts = [archive.put(records[at : at + 10]) for at in (0, 10, 20, 30)]
    times = [one.append_ms for one in records]
    (archive.folder / parts[1].name).unlink()
    history = ArchiveHistory(archive.store)
    assert spans_between(history, ["trades"], times[25], times[35]) == {TRADES: (25, 35)}
    assert spans_between(history, ["trades"], times[2], times[9]) == {TRADES: (2, 9)}
    assert spans_between(history, ["trades"], times[5], times[15]) == {TRADES: (5, 10)}
    for begin in (times[9] + 1, times[15], times[20]):
        span = spans_between(history, ["trades"], begin, None)[TRADES]
        assert span == (10, 40)
        with pytest.raises(RecordsLost, match="offsets 10 to 19 are missing"):
            next(history.read(TRADES, *span))


# --- bad input ----------------------------------------------------------------------------------------------------


def test_a_missing_part_is_named_with_its_range(archive: Archive) -> None:
    records = recorded("trades", map(trade, range(30)))
    parts = [archive.put(records[at : at + 10]) for at in (0, 10, 20)]
    (archive.folder / parts[1].name).unlink()
    history = ArchiveHistory(archive.store)
    assert history.spans(["trades"]) == {TRADES: (0, 30)}
    with pytest.raises(RecordsLost, match="trades-0: offsets 10 to 19 are missing"):
        list(history.read(TRADES, 0, 30))
    with pytest.raises(RecordsLost, match="offsets 10 to 19"):
        next(history.read(TRADES, 5, 30))  # before the first record is given
    assert len(list(history.read(TRADES, 20, 30))) == 10
    with pytest.raises(RecordsLost, match="offsets 30 to 34"):
        list(history.read(TRADES, 25, 35))


def test_a_part_that_goes_while_it_is_read_is_named(archive: Archive) -> None:
    records = recorded("trades", map(trade, range(30)))
    parts = [archive.put(records[at : at + 10]) for at in (0, 10, 20)]
    history = ArchiveHistory(archive.store)
    reading = history.read(TRADES, 0, 30)
    next(reading)
    (archive.folder / parts[2].name).unlink()
    with pytest.raises(RecordsLost, match="offsets 20 to 29 are gone"):
        list(reading)


def test_what_a_complete_day_says_is_asked_for(archive: Archive) -> None:
    records = recorded("trades", map(trade, range(30)))
    parts = [archive.put(records[at : at + 10]) for at in (0, 10, 20)]
    told = b'{"slots":{"trades/0":{"first":0,"last":29,"count":30},"signals/3":{"first":5,"last":6,"count":2}}}'
    archive.store.write(f"dt={DAY}/complete.json", told)
    for part in (parts[0], parts[2]):
        (archive.folder / part.name).unlink()
    history = ArchiveHistory(archive.store)
    assert history.spans(TOPICS) == {Slot("signals", 3): (5, 7), TRADES: (0, 30)}
    for span in ((0, 30), (15, 30)):
        with pytest.raises(RecordsLost, match="trades-0: offsets"):
            list(history.read(TRADES, *span))
    archive.store.write(f"dt={DAY}/complete.json", told[:-9])
    with pytest.raises(DamagedPart, match=r"complete\.json"):
        history.spans(TOPICS)


def test_equal_overlaps_are_read_once(archive: Archive) -> None:
    records = recorded("trades", map(trade, range(40)))
    for low, high, hour in ((0, 20, 10), (10, 30, 10), (5, 8, 10), (0, 20, 11), (29, 30, 12), (30, 40, 10)):
        archive.put(records[low:high], hour=hour)
    history = ArchiveHistory(archive.store)
    assert history.spans(["trades"]) == {TRADES: (0, 40)}
    for low, high in ((0, 40), (15, 25), (25, 35), (0, 5)):
        assert list(history.read(TRADES, low, high)) == records[low:high]


@pytest.mark.parametrize("change", ["value", "missing", "time"])
def test_different_overlaps_name_both_files(archive: Archive, change: str) -> None:
    records = recorded("trades", map(trade, range(30)))
    other = list(records[10:30])
    if change == "missing":
        del other[5]
    else:
        other[5] = other[5]._replace(**({"value": b"x"} if change == "value" else {"append_ms": 1}))  # type: ignore[arg-type]  # one field
    one, two = archive.put(records[:20]), archive.put(other)
    history = ArchiveHistory(archive.store)
    with pytest.raises(Overlap, match=rf"{one.name} and {two.name} .* 10 to 19, and differ from offset 15"):
        list(history.read(TRADES, 0, 30))
    assert list(history.read(TRADES, 20, 30)) == records[20:]  # told by one alone


def test_two_runs_in_one_archive_are_refused(archive: Archive) -> None:
    records = recorded("trades", map(trade, range(20)))
    archive.put(records[:10])
    foreign = archive.put(records[10:], run="b" * 32)
    history = ArchiveHistory(archive.store)
    with pytest.raises(MixedRuns, match=foreign.name):
        list(merged(history, history.spans(["trades"])))


def test_files_that_are_no_parts_are_named(archive: Archive) -> None:
    archive.put(recorded("trades", map(trade, range(20))))
    archive.store.write(f"dt={DAY}/hour=10/trades/part-0.parquet", b"x")
    with pytest.raises(DamagedPart, match=r"trades/part-0\.parquet"):
        ArchiveHistory(archive.store).spans(TOPICS)


def test_a_damaged_part_is_named_when_it_is_read(archive: Archive) -> None:
    records = recorded("orderbooks", map(book, range(20)))
    archive.put(records[:10])
    part = archive.put(records[10:])
    file = archive.folder / part.name
    file.write_bytes(file.read_bytes()[:-20])
    history = ArchiveHistory(archive.store)
    assert history.spans(["orderbooks"]) == {BOOKS: (0, 20)}
    with pytest.raises(DamagedPart, match=part.name):
        list(history.read(BOOKS, 0, 20))


def test_what_is_no_archive_is_said(tmp_path: Path, archive: Archive) -> None:
    with pytest.raises(FileNotFoundError):
        ArchiveHistory(FolderStore(tmp_path / "nothing"))
    for told, match in (
        (b"{}", r"archive\.json"),
        (b'{"format":2,"run":"r","prefix":"","kind":"log","made_ms":1,"by":"b"}', "format 2"),
    ):
        archive.store.write("archive.json", told)
        with pytest.raises(Stop, match=match):
            ArchiveHistory(archive.store)


def test_open_history(tmp_path: Path, archive: Archive) -> None:
    settings: Settings = load(None, {"home": tmp_path / "home"})
    records = recorded("trades", map(trade, range(20)))
    archive.put(records)
    with open_history(settings, str(archive.folder)) as history:
        assert list(merged(history, history.spans(TOPICS))) == records
    with pytest.raises(BadSettings, match="There is no archive"), open_history(settings, "archive"):
        pass


def test_a_log_that_lost_its_beginning_says_so() -> None:
    records = recorded("trades", map(trade, range(20)))
    log = log_of(records)
    log.truncate(TRADES, 5)
    history = LogHistory(log)
    assert history.spans(["trades"]) == {TRADES: (5, 20)}
    with pytest.raises(RecordsLost):
        list(history.read(TRADES, 0, 20))
