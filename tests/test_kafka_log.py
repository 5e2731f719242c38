"""What only the real broker shows: outages, restarts, zombies, refused records."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import pytest

from infra import kafka_writers
from infra.errors import (
    DeliveryFailed,
    DeliveryPending,
    Fenced,
    LogUnavailable,
    NotOwner,
    RecordsLost,
    Retry,
    TopicMissing,
    TransactionAborted,
)
from infra.kafka import KafkaLog
from infra.kafka_writers import KafkaTransactor
from infra.log import Publisher, Reader, Record, Slot, TopicSpec
from infra.logs import client_logger

if TYPE_CHECKING:
    from infra.servers.kafka import KafkaServer

pytestmark = pytest.mark.kafka

APPEND_TIME = {"message.timestamp.type": "LogAppendTime"}
A = Slot("left", 0)


def read_values(reader: Reader, count: int, timeout_s: float = 30.0) -> list[str]:
    records: list[Record] = []
    deadline = time.monotonic() + timeout_s
    while len(records) < count and time.monotonic() < deadline:
        records.extend(reader.read(count - len(records), 0.2))
    return [record.value.decode() for record in records]


def until_done(call: Callable[[], None], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            call()
        except Retry:
            if time.monotonic() > deadline:
                raise
        else:
            return


@pytest.fixture
def shaky_log(breakable_broker: "KafkaServer") -> Iterator[KafkaLog]:
    with KafkaLog(breakable_broker.bootstrap, f"s{time.monotonic_ns()}-", timeout_s=5.0) as log:
        log.create_topics([TopicSpec("left", 2, APPEND_TIME), TopicSpec("right", 1, APPEND_TIME)])
        yield log


def publish(log: KafkaLog, values: Iterable[str]) -> None:
    publisher = log.publisher(linger_ms=0)
    for value in values:
        publisher.publish("left", "", value.encode(), 0)
    publisher.flush()


def test_everything_goes_on_by_itself_after_the_broker_was_killed(
    breakable_broker: "KafkaServer", shaky_log: KafkaLog
) -> None:
    log = shaky_log
    publisher = log.publisher(linger_ms=0)
    plain = log.reader({A: 0})
    member = log.group_reader("g", ["left"], instance="one")
    impatient = KafkaLog(log.bootstrap, log.prefix, delivery_timeout_ms=1_000, timeout_s=1.0)
    given_up = impatient.publisher(linger_ms=0)
    for one in (publisher, given_up):
        one.publish("left", "", b"1", 0)
        one.flush()
    assert read_values(plain, 2) == read_values(member, 2) == ["1", "1"]
    member.commit({A: 2})
    transactor = log.transactor("t")
    transactor.begin()
    transactor.publish("right", "", b"first", 0)

    breakable_broker.kill()

    publisher.publish("left", "", b"2", 0)
    with pytest.raises(DeliveryPending):
        publisher.flush(0.5)
    assert plain.read(10, 0.3) == member.read(10, 0.3) == []
    given_up.publish("left", "", b"3", 0)
    with pytest.raises(DeliveryFailed, match="left-0"):
        given_up.flush(10.0)
    with pytest.raises(LogUnavailable):
        impatient.bounds([A])
    with pytest.raises(LogUnavailable):
        impatient.committed("g", [A])
    with pytest.raises(LogUnavailable):
        impatient.partitions("never-asked-before")
    with pytest.raises(LogUnavailable):
        impatient.commit("other", {A: 1})

    breakable_broker.start()

    def again() -> None:
        given_up.publish("left", "", b"3", 0)
        given_up.flush(10.0)

    publisher.flush(30.0)
    until_done(again)
    assert set(read_values(plain, 2)) == set(read_values(member, 2)) == {"2", "3"}
    until_done(lambda: member.commit({A: 4}))
    assert log.committed("g", [A]) == {A: 4}
    _whole_or_not_at_all(log, transactor)
    impatient.close()


def _whole_or_not_at_all(log: KafkaLog, transactor: KafkaTransactor) -> None:
    """Whatever a broker's death does to an open transaction, records and offset tell the same story."""
    slot = Slot("right", 0)
    with contextlib.suppress(TransactionAborted, Fenced):
        transactor.commit(None, "t", {A: 7})
    transactor.close()
    reader = log.reader({slot: 0})
    offset = log.committed("t", [A]).get(A, 0)
    assert (offset, read_values(reader, 1, 3.0)) in [(7, ["first"]), (0, [])]
    again = log.transactor("t")
    again.begin()
    again.publish("right", "", b"second", 0)
    again.commit(None, "t", {A: 8})
    assert read_values(reader, 1) == ["second"]
    assert log.committed("t", [A]) == {A: 8}


def test_a_static_member_that_comes_back_fences_its_zombie(kafka_log: KafkaLog) -> None:
    kafka_log.create_topics([TopicSpec("left", 1, APPEND_TIME)])
    publish(kafka_log, ["a", "b"])
    zombie = kafka_log.group_reader("g", ["left"], instance="one")
    assert read_values(zombie, 2) == ["a", "b"]
    fresh = kafka_log.group_reader("g", ["left"], instance="one")
    assert read_values(fresh, 2) == ["a", "b"]
    with pytest.raises(Fenced):
        zombie.commit({A: 1})
    with pytest.raises(Fenced):
        read_values(zombie, 1)
    fresh.commit({A: 2})
    assert kafka_log.committed("g", [A]) == {A: 2}


def test_a_zombie_of_the_group_cannot_commit_a_transaction(kafka_log: KafkaLog) -> None:
    kafka_log.create_topics([TopicSpec("left", 1, APPEND_TIME), TopicSpec("right", 1, APPEND_TIME)])
    zombie = kafka_log.group_reader("g", ["left"], instance="one")
    publish(kafka_log, ["a"])
    assert read_values(zombie, 1) == ["a"]
    fresh = kafka_log.group_reader("g", ["left"], instance="one")
    assert read_values(fresh, 1) == ["a"]
    transactor = kafka_log.transactor("zombies-own-id")
    transactor.begin()
    transactor.publish("right", "", b"never", 0)
    with pytest.raises(TransactionAborted):
        transactor.commit(zombie, "g", {A: 1})
    assert kafka_log.reader({Slot("right", 0): 0}).read(1, 0.5) == []
    assert kafka_log.committed("g", [A]) == {}
    transactor.begin()
    transactor.publish("right", "", b"now", 0)
    transactor.commit(fresh, "g", {A: 1})
    assert kafka_log.committed("g", [A]) == {A: 1}


def test_a_record_that_is_too_large_is_refused_at_once(kafka_log: KafkaLog) -> None:
    kafka_log.create_topics([TopicSpec("left", 1, APPEND_TIME)])
    with pytest.raises(ValueError, match="2000000 bytes for topic 'left' were refused"):
        kafka_log.publisher().publish("left", "", bytes(2_000_000), 0)


def test_a_position_is_the_committed_one_before_anything_was_read(kafka_log: KafkaLog) -> None:
    kafka_log.create_topics([TopicSpec("left", 1, APPEND_TIME)])
    publish(kafka_log, ["a", "b"])
    kafka_log.commit("g", {A: 2})
    member = kafka_log.group_reader("g", ["left"])
    while not member.assignment():
        assert member.read(1, 0.2) == []
    assert member.position(A) == 2
    with pytest.raises(ValueError, match="not assigned"):
        member.position(Slot("left", 5))
    with pytest.raises(NotOwner):
        member.commit({Slot("left", 5): 1})


def test_noise_of_an_outage_is_limited(caplog: pytest.LogCaptureFixture) -> None:
    for limit in client_logger().filters:
        limit._last.clear()  # what other tests caused just now would be left out here
    with caplog.at_level(logging.DEBUG), KafkaLog("127.0.0.1:1", timeout_s=0.5) as log:
        reader = log.reader({})
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            assert reader.read(1, 0.1) == []
    assert 1 <= len(caplog.records) <= 12


def test_reading_what_was_never_written_is_told(kafka_log: KafkaLog) -> None:
    kafka_log.create_topics([TopicSpec("left", 1, APPEND_TIME)])
    with pytest.raises(RecordsLost, match="left-0"):
        read_values(kafka_log.reader({A: 5}), 1, 5.0)


def test_without_a_broker_everything_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_writers, "START_TIMEOUT_S", 0.5)
    with KafkaLog("127.0.0.1:1", timeout_s=0.3, delivery_timeout_ms=300) as log:
        publisher = log.publisher(linger_ms=0)
        publisher.publish("left", "", b"1", 0)
        with pytest.raises(DeliveryPending):
            publisher.flush(0.05)
        with pytest.raises(DeliveryFailed, match="1 records were not acknowledged, the first: left-0"):
            publisher.flush(5.0)
        with pytest.raises(LogUnavailable):
            log.transactor("t")
        with pytest.raises(LogUnavailable):
            log.reader({A: 0})
        with pytest.raises(LogUnavailable):
            log.create_topics([TopicSpec("left", 1, {})])


def test_a_partition_that_is_not_there_is_told(kafka_log: KafkaLog) -> None:
    kafka_log.create_topics([TopicSpec("left", 1, APPEND_TIME)])
    publisher = kafka_log.publisher(linger_ms=0)
    with pytest.raises(TopicMissing, match="left-7"):
        publish_and_flush(publisher, 7)
    with pytest.raises(TopicMissing, match="partition 7"):
        kafka_log.bounds([Slot("left", 7)])


def publish_and_flush(publisher: Publisher, partition: int) -> None:
    publisher.publish("left", "", b"1", partition)
    publisher.flush()
    publisher.publish("left", "", b"2", partition)


def test_fenced_right_after_an_outage_a_static_member_joins_once_more_and_only_once(kafka_log: KafkaLog) -> None:
    kafka_log.create_topics([TopicSpec("left", 1, APPEND_TIME)])
    publish(kafka_log, ["a", "b"])
    told: list[str] = []
    member = kafka_log.group_reader(
        "g",
        ["left"],
        instance="one",
        on_assigned=lambda _: told.append("assigned"),
        on_revoked=lambda _: told.append("revoked"),
    )
    assert read_values(member, 2) == ["a", "b"]
    member.commit({A: 1})
    double = kafka_log.group_reader("g", ["left"], instance="one")
    assert read_values(double, 1) == ["b"]
    member._trouble_s = time.monotonic()
    with pytest.raises(NotOwner):
        member.commit({A: 2})
    assert read_values(member, 1) == ["b"]
    assert told == ["assigned", "revoked", "assigned"]
    with pytest.raises(Fenced):
        read_values(double, 1)
    third = kafka_log.group_reader("g", ["left"], instance="one")
    assert read_values(third, 1) == ["b"]
    with pytest.raises(Fenced):
        read_values(member, 1)


def test_one_commit_under_way_is_waited_for_before_the_next(kafka_log: KafkaLog) -> None:
    kafka_log.create_topics([TopicSpec("left", 1, APPEND_TIME)])
    member = kafka_log.group_reader("g", ["left"])
    while not member.assignment():
        member.read(1, 0.1)
    member._committer._timeout_s = 0.0
    with contextlib.suppress(LogUnavailable):
        member.commit({A: 0})
    member._committer._timeout_s = 5.0
    member.commit({A: 0})
    member.commit({})
    member.close()
    with pytest.raises(RuntimeError, match="closed"):
        member._committer.commit({A: 0})


def test_transactions_are_opened_and_closed_in_turn(kafka_log: KafkaLog) -> None:
    kafka_log.create_topics([TopicSpec("left", 1, APPEND_TIME)])
    transactor = kafka_log.transactor("t")
    with pytest.raises(RuntimeError, match="no transaction"):
        transactor.publish("left", "", b"1", 0)
    transactor.begin()
    with pytest.raises(RuntimeError, match="already"):
        transactor.begin()
    transactor.publish("left", "", b"never", 0)
    newer = kafka_log.transactor("t")
    with pytest.raises(Fenced):
        transactor.abort()
    with pytest.raises(Fenced):
        transactor.begin()
    newer.begin()
    newer.publish("left", "", b"never", 0)
    newer.close()
    assert kafka_log.reader({A: 0}).read(1, 0.3) == []
