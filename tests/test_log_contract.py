"""One contract for both logs: whatever runs on the one runs on the other."""

import threading
import time
from collections.abc import Callable, Iterable

import pytest

from infra.errors import Fenced, NotOwner, RecordsLost, TopicMissing, TransactionAborted
from infra.log import Log, Reader, Record, Slot, TopicSpec, murmur2, partition_of, slots_of

APPEND_TIME = {"message.timestamp.type": "LogAppendTime"}
KEYS = ["KRW-BTC", "KRW-ETH", "KRW-XRP", "KRW-SOL", "KRW-DOGE"]
A, B = Slot("left", 0), Slot("left", 1)


def make(log: Log, *names: str, partitions: int = 2) -> None:
    log.create_topics([TopicSpec(name, partitions, APPEND_TIME) for name in names])


def write(log: Log, topic: str, values: Iterable[str], partition: int | None = None, key: str = "k") -> None:
    publisher = log.publisher(linger_ms=0)
    for value in values:
        publisher.publish(topic, key, value.encode(), partition)
    publisher.flush()
    publisher.close()


def read(reader: Reader, count: int, timeout_s: float = 10.0) -> list[Record]:
    """Read until `count` records came; fails by returning fewer."""
    records: list[Record] = []
    deadline = time.monotonic() + timeout_s
    while len(records) < count and time.monotonic() < deadline:
        records.extend(reader.read(count - len(records), 0.2))
    return records


def values(records: Iterable[Record]) -> list[str]:
    return [record.value.decode() for record in records]


def turn_until(condition: Callable[[], bool], *readers: Reader, timeout_s: float = 15.0) -> list[Record]:
    """Let several members of a group read in turns, as their processes would, until `condition` holds."""
    records: list[Record] = []
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        for reader in readers:
            records.extend(reader.read(100, 0.05))
    assert condition()
    return records


def test_topics_are_created_once(any_log: Log) -> None:
    specs = [TopicSpec("left", 3, APPEND_TIME), TopicSpec("right", 1, APPEND_TIME)]
    assert any_log.create_topics(specs[:1]) == ["left"]
    assert any_log.create_topics(specs) == ["right"]
    assert any_log.create_topics(specs) == []
    assert any_log.partitions("left") == 3
    assert slots_of(any_log, ["right", "left"]) == [
        Slot("right", 0), Slot("left", 0), Slot("left", 1), Slot("left", 2),
    ]  # fmt: skip


def test_a_missing_topic_is_named_with_its_remedy(any_log: Log) -> None:
    with pytest.raises(TopicMissing, match=r"'nowhere'.*observator topics create"):
        any_log.partitions("nowhere")
    publisher = any_log.publisher()
    with pytest.raises(TopicMissing, match="nowhere"):
        publisher.publish("nowhere", "k", b"1")
    publisher.close()
    with pytest.raises(TopicMissing, match="nowhere"):
        any_log.bounds([Slot("nowhere", 0)])


def test_keys_go_where_java_and_faust_put_them(any_log: Log) -> None:
    make(any_log, "left", partitions=12)
    for key in KEYS:
        write(any_log, "left", [key], key=key)
    reader = any_log.reader(dict.fromkeys(slots_of(any_log, ["left"]), 0))
    found = {record.key: record.partition for record in read(reader, 5)}
    assert [found[key] for key in KEYS] == [4, 11, 10, 3, 2]
    assert [partition_of(key, 12) for key in KEYS] == [4, 11, 10, 3, 2]


def test_an_explicit_partition_wins_and_an_empty_key_stays_one(any_log: Log) -> None:
    make(any_log, "left")
    write(any_log, "left", ["a", "b"], partition=1, key="")
    (first, second) = read(any_log.reader({A: 0, B: 0}), 2)
    assert (first.slot, first.offset, first.key, first.value) == (B, 0, "", b"a")
    assert second.offset == 1
    assert abs(first.append_ms - time.time() * 1000) < 60_000


def test_order_within_a_partition_is_kept(any_log: Log) -> None:
    make(any_log, "left")
    written = [str(i) for i in range(3_000)]
    write(any_log, "left", written, partition=0)
    records = read(any_log.reader({A: 0}), 3_000)
    assert values(records) == written
    assert [record.offset for record in records] == list(range(3_000))
    assert any_log.bounds([A, B]) == {A: (0, 3_000), B: (0, 0)}


def test_read_returns_at_once_with_what_is_there(any_log: Log) -> None:
    make(any_log, "left")
    reader = any_log.reader({A: 0})
    assert reader.read(10, 0.0) == []
    write(any_log, "left", ["a"], partition=0)
    read(reader, 1)
    write(any_log, "left", ["b"], partition=0)
    begin = time.monotonic()
    assert values(reader.read(500, 5.0)) == ["b"]
    assert time.monotonic() - begin < 2.0


def test_a_blocked_read_wakes_up(any_log: Log) -> None:
    make(any_log, "left")
    reader = any_log.reader({A: 0})
    later = threading.Timer(0.3, write, (any_log, "left", ["a"], 0))
    later.start()
    assert values(reader.read(10, 10.0)) == ["a"]
    later.join()


def test_readers_start_seek_pause_and_resume(any_log: Log) -> None:
    make(any_log, "left")
    for partition in (0, 1):
        write(any_log, "left", [f"{partition}{i}" for i in range(5)], partition=partition)
    reader = any_log.reader({A: 3, B: 5})
    assert values(read(reader, 2)) == ["03", "04"]
    assert reader.position(A) == 5
    reader.seek(A, 1)
    assert values(read(reader, 4)) == ["01", "02", "03", "04"]
    reader.pause([A])
    reader.seek(B, 4)
    reader.seek(A, 0)
    assert values(read(reader, 1)) == ["14"]
    assert reader.read(5, 0.3) == []
    reader.resume([A])
    assert values(read(reader, 5)) == ["00", "01", "02", "03", "04"]
    with pytest.raises(ValueError, match="not assigned"):
        reader.seek(Slot("left", 7), 0)


def test_an_offset_that_is_not_kept_is_a_clear_error(any_log: Log) -> None:
    make(any_log, "left")
    write(any_log, "left", ["a"], partition=0)
    reader = any_log.reader({A: 99})
    with pytest.raises(RecordsLost, match="left-0"):
        read(reader, 1)


def test_a_group_starts_at_the_beginning_and_goes_on_where_it_committed(any_log: Log) -> None:
    make(any_log, "left")
    write(any_log, "left", ["a", "b", "c"], partition=0)
    with any_log:
        first = any_log.group_reader("g", ["left"])
        assert values(read(first, 3)) == ["a", "b", "c"]
        assert first.assignment() == {A, B}
        first.commit({A: 2})
        assert any_log.committed("g", [A, B]) == {A: 2}
        first.close()
        second = any_log.group_reader("g", ["left"])
        assert values(read(second, 1)) == ["c"]
        assert any_log.committed("other", [A, B]) == {}


def test_two_members_share_by_range_and_tell_what_they_hold(any_log: Log) -> None:
    make(any_log, "left", "right", partitions=4)
    held: dict[str, set[Slot]] = {"one": set(), "two": set()}
    join = {
        name: lambda name=name: any_log.group_reader(
            "g",
            ["left", "right"],
            instance=name,
            on_assigned=held[name].update,
            on_revoked=held[name].difference_update,
        )
        for name in held
    }
    one = join["one"]()
    turn_until(lambda: len(held["one"]) == 8, one)
    two = join["two"]()
    turn_until(lambda: len(held["one"]) == len(held["two"]) == 4, one, two)
    assert held["one"].isdisjoint(held["two"])
    for slots in held.values():
        assert {slot.partition for slot in slots if slot.topic == "left"} == {
            slot.partition for slot in slots if slot.topic == "right"
        }
    for topic in ("left", "right"):
        for partition in range(4):
            write(any_log, topic, [f"{topic}{partition}"], partition=partition)
    seen: list[str] = []
    deadline = time.monotonic() + 10
    while len(seen) < 8 and time.monotonic() < deadline:
        seen += values(one.read(10, 0.1)) + values(two.read(10, 0.1))
    assert sorted(seen) == [f"{topic}{partition}" for topic in ("left", "right") for partition in range(4)]


def test_a_member_that_leaves_is_replaced(any_log: Log) -> None:
    make(any_log, "left", partitions=4)
    one = any_log.group_reader("g", ["left"])
    two = any_log.group_reader("g", ["left"])
    turn_until(lambda: len(one.assignment()) == len(two.assignment()) == 2, one, two)
    two.close()
    turn_until(lambda: len(one.assignment()) == 4, one)


def test_partitions_taken_away_cannot_be_committed(any_log: Log) -> None:
    make(any_log, "left")
    write(any_log, "left", ["a", "b"], partition=0)
    write(any_log, "left", ["a", "b"], partition=1)
    one = any_log.group_reader("g", ["left"])
    assert len(read(one, 4)) == 4
    two = any_log.group_reader("g", ["left"])
    turn_until(lambda: len(one.assignment()) == len(two.assignment()) == 1, one, two)
    (theirs,) = two.assignment()
    with pytest.raises(NotOwner):
        one.commit({theirs: 1})
    with pytest.raises(NotOwner):
        any_log.commit("g", {A: 1})


def test_readers_without_a_group_commit_through_the_log(any_log: Log) -> None:
    make(any_log, "left")
    any_log.commit("plain", {A: 4, B: 0})
    any_log.commit("plain", {A: 5})
    assert any_log.committed("plain", [A, B]) == {A: 5, B: 0}


def test_a_transaction_is_seen_whole_or_not_at_all(any_log: Log) -> None:
    make(any_log, "left", "right")
    write(any_log, "left", ["in"], partition=0)
    source = any_log.group_reader("g", ["left"])
    assert len(read(source, 1)) == 1
    out = {Slot("right", 0): 0, Slot("right", 1): 0}
    reader = any_log.reader(out)
    transactor = any_log.transactor("t")
    transactor.begin()
    transactor.publish("right", "", b"one", 0)
    transactor.publish("right", "", b"two", 1)
    assert reader.read(10, 0.5) == []
    transactor.commit(source, "g", {A: 1})
    assert sorted(values(read(reader, 2))) == ["one", "two"]
    assert any_log.committed("g", [A]) == {A: 1}
    transactor.begin()
    transactor.publish("right", "", b"never", 0)
    transactor.abort()
    transactor.begin()
    transactor.publish("right", "", b"three", 0)
    transactor.commit(None, "g2", {A: 7})
    assert values(read(reader, 1)) == ["three"]
    assert reader.read(10, 0.3) == []
    assert any_log.committed("g2", [A]) == {A: 7}
    transactor.close()


def test_a_position_passes_the_markers_at_the_end(any_log: Log) -> None:
    make(any_log, "left")
    transactor = any_log.transactor("t")
    for value in (b"1", b"2"):
        transactor.begin()
        transactor.publish("left", "", value, 0)
        transactor.commit(None, "g", {})
    reader = any_log.reader({A: 0, B: 0})
    records = read(reader, 2)
    assert [record.offset for record in records] == [0, 2]
    turn_until(lambda: any_log.bounds([A])[A] == (0, 4), reader)
    turn_until(lambda: reader.position(A) == 4 and reader.position(B) == 0, reader)
    transactor.close()


def test_a_new_holder_of_a_transactional_id_fences_the_old_one(any_log: Log) -> None:
    make(any_log, "left")
    old = any_log.transactor("t")
    old.begin()
    old.publish("left", "", b"zombie", 0)
    new = any_log.transactor("t")
    with pytest.raises(Fenced):
        old.commit(None, "g", {A: 1})
    new.begin()
    new.publish("left", "", b"new", 0)
    new.commit(None, "g", {A: 2})
    assert values(read(any_log.reader({A: 0}), 1)) == ["new"]
    assert any_log.committed("g", [A]) == {A: 2}
    old.close()
    new.close()


def test_a_transaction_on_partitions_taken_away_is_aborted(any_log: Log) -> None:
    make(any_log, "left", "right")
    one = any_log.group_reader("g", ["left"])
    turn_until(lambda: len(one.assignment()) == 2, one)
    transactor = any_log.transactor("t")
    transactor.begin()
    transactor.publish("right", "", b"never", 0)
    two = any_log.group_reader("g", ["left"])
    turn_until(lambda: len(one.assignment()) == len(two.assignment()) == 1, one, two)
    (theirs,) = two.assignment()
    with pytest.raises(TransactionAborted):
        transactor.commit(one, "g", {theirs: 1})
    assert any_log.reader({Slot("right", 0): 0}).read(1, 0.3) == []
    transactor.close()


def test_an_append_time_is_found_where_it_was_passed(any_log: Log) -> None:
    make(any_log, "left")
    for value in "abc":
        write(any_log, "left", value, partition=0)
        time.sleep(0.005)
    times = [record.append_ms for record in read(any_log.reader({A: 0}), 3)]
    assert [any_log.appended_at([A, B], at) for at in times] == [{A: place, B: 0} for place in range(3)]
    assert any_log.appended_at([A], times[0] + 1) == {A: 1}
    assert any_log.appended_at([A], 0) == {A: 0}
    assert any_log.appended_at([A], times[-1] + 1) == {A: 3}
    assert any_log.appended_at([], 0) == {}
    with pytest.raises(TopicMissing):
        any_log.appended_at([Slot("left", 2)], 0)


def test_prefixes_keep_runs_apart(any_log: Log, log_beside: Callable[[Log, str], Log]) -> None:
    one, two = log_beside(any_log, f"{any_log.prefix}one-"), log_beside(any_log, f"{any_log.prefix}two-")
    for log, value in ((one, "1"), (two, "2")):
        make(log, "left")
        write(log, "left", [value], partition=0)
    for log, value in ((one, "1"), (two, "2")):
        reader = log.group_reader("g", ["left"])
        (record,) = read(reader, 1)
        assert (record.topic, record.value) == ("left", value.encode())
        reader.commit({record.slot: 1})
        assert log.committed("g", [A]) == {A: 1}
    two.create_topics([TopicSpec("only-two", 1, APPEND_TIME)])
    with pytest.raises(TopicMissing):
        one.partitions("only-two")
    assert any_log.committed("g", []) == {}


def test_murmur2_equals_the_java_client() -> None:
    known = {
        b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536,
        b"a-little-bit-longer-string": -1486304829, b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
        b"abc": 479470107,
    }  # fmt: skip
    for data, signed in known.items():
        assert murmur2(data) == signed & 0xFFFFFFFF
