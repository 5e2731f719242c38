"""What only the in-memory log can do: recorded records verbatim, deletion, and its error cases."""

import threading

import pytest

from infra.errors import Fenced, NotOwner, RecordsLost
from infra.log import Record, Slot, TopicSpec
from infra.memory_log import MemoryLog

A = Slot("left", 0)


def at(offset: int, value: bytes = b"x", append_ms: int = 5) -> Record:
    return Record("left", 0, offset, append_ms, "k", value)


@pytest.fixture
def log(memory_log: MemoryLog) -> MemoryLog:
    memory_log.create_topics([TopicSpec("left", 2, {})])
    return memory_log


def test_recorded_records_are_taken_verbatim(log: MemoryLog) -> None:
    prefixed = MemoryLog("p-", beside=log)
    prefixed.create_topics([TopicSpec("left", 1, {})])
    for one in (at(7), at(8), at(11)):
        prefixed.append(one)
    assert prefixed.bounds([A]) == {A: (7, 12)}
    assert prefixed.reader({A: 7}).read(10, 0) == [at(7), at(8), at(11)]
    assert prefixed.reader({A: 7}).read(2, 0) == [at(7), at(8)]
    with pytest.raises(ValueError, match="offset 11"):
        prefixed.append(at(11))
    with pytest.raises(RecordsLost):
        prefixed.reader({A: 6}).read(1, 0)


def test_append_time_comes_from_the_clock_given(log: MemoryLog) -> None:
    now = 100
    timed = MemoryLog(clock_ms=lambda: now)
    timed.create_topics([TopicSpec("left", 1, {})])
    timed.publisher().publish("left", "k", b"x")
    now = 200
    timed.publisher().publish("left", "k", b"x")
    assert [record.append_ms for record in timed.reader({A: 0}).read(9, 0)] == [100, 200]
    assert log.bounds([A]) == {A: (0, 0)}


def test_deleted_records_are_gone(log: MemoryLog) -> None:
    for offset in range(5):
        log.append(at(offset))
    log.truncate(A, 3)
    log.truncate(A, 1)
    assert log.bounds([A]) == {A: (3, 5)}
    reader = log.group_reader("g", ["left"])
    assert [record.offset for record in reader.read(9, 0)] == [3, 4]


def test_a_static_member_that_comes_back_fences_its_zombie(log: MemoryLog) -> None:
    zombie = log.group_reader("g", ["left"], instance="one")
    zombie.read(1, 0)
    fresh = log.group_reader("g", ["left"], instance="one")
    fresh.read(1, 0)
    with pytest.raises(Fenced):
        zombie.commit({A: 1})
    with pytest.raises(Fenced):
        zombie.read(1, 0)
    fresh.commit({A: 1})
    zombie.close()
    assert fresh.assignment() == {A, Slot("left", 1)}


def test_only_members_commit_while_there_are_some(log: MemoryLog) -> None:
    log.group_reader("g", ["left"])
    with pytest.raises(NotOwner):
        log.commit("g", {A: 1})


def test_a_closed_reader_wakes_and_says_so(log: MemoryLog) -> None:
    reader = log.reader({A: 0})
    failed: list[BaseException] = []

    def read() -> None:
        try:
            reader.read(1, 20)
        except RuntimeError as error:
            failed.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    reader.close()
    thread.join(5)
    assert len(failed) == 1


def test_transactions_are_opened_and_closed_in_turn(log: MemoryLog) -> None:
    transactor = log.transactor("t")
    with pytest.raises(RuntimeError, match="no transaction"):
        transactor.publish("left", "k", b"1")
    transactor.begin()
    with pytest.raises(RuntimeError, match="already"):
        transactor.begin()
    transactor.close()
    log.transactor("t")
    with pytest.raises(Fenced):
        transactor.begin()
