import pytest

from infra.catch_up import latest_by_key, read_range
from infra.errors import LogUnavailable, RecordsLost
from infra.log import Log, Record, Slot, TopicSpec
from infra.memory_log import MemoryLog

A, B = Slot("left", 0), Slot("left", 1)


def fill(log: Log) -> None:
    log.create_topics([TopicSpec("left", 2, {})])
    publisher = log.publisher(linger_ms=0)
    for i in range(4):
        publisher.publish("left", f"k{i % 2}", str(i).encode(), 0)
    publisher.flush()
    transactor = log.transactor("t")
    transactor.begin()
    transactor.publish("left", "k2", b"4", 0)
    transactor.commit(None, "g", {})
    transactor.close()


def values(records: list[Record]) -> list[str]:
    return [record.value.decode() for record in records]


def test_a_range_ends_where_it_was_told_or_at_the_end_past_markers(any_log: Log) -> None:
    fill(any_log)
    assert values(list(read_range(any_log, {A: 0, B: 0}))) == ["0", "1", "2", "3", "4"]
    assert values(list(read_range(any_log, {A: 1}, {A: 3}))) == ["1", "2"]
    assert values(list(read_range(any_log, {A: 3}, {A: 99}))) == ["3", "4"]
    assert list(read_range(any_log, {A: 5}, {A: 5})) == []
    assert list(read_range(any_log, {B: 0})) == []


def test_the_last_record_of_each_key(any_log: Log) -> None:
    fill(any_log)
    latest = latest_by_key(any_log, [A, B])
    assert {key: record.value for (_, key), record in latest.items()} == {"k0": b"2", "k1": b"3", "k2": b"4"}


def test_a_start_that_is_not_kept_is_told(memory_log: MemoryLog) -> None:
    fill(memory_log)
    memory_log.truncate(A, 2)
    with pytest.raises(RecordsLost, match="left-0: offsets 1 to 2"):
        list(read_range(memory_log, {A: 1}))


def test_an_end_that_never_comes_is_told(memory_log: MemoryLog) -> None:
    class Silent(MemoryLog):
        def bounds(self, slots: object) -> dict[Slot, tuple[int, int]]:
            del slots
            return {A: (0, 99)}

    fill(memory_log)
    with pytest.raises(LogUnavailable, match="nothing came"):
        list(read_range(Silent(beside=memory_log), {A: 0}, quiet_s=0.3))
