"""The consumer loop: dead letters, repeats, gaps, retries, rebalances, stopping, and its watchdog."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from infra.errors import BadMessage, DeliveryFailed, DeliveryPending, LogUnavailable, NotOwner, RecordsLost, Retry
from infra.handler import Handler, Output, Pace
from infra.kafka import KafkaLog
from infra.log import GroupReader, Log, Publisher, Record, Slot, TopicSpec
from infra.loop import AssignedLoop, ConsumerLoop
from infra.memory_log import MemoryLog
from infra.memory_readers import MemoryGroupReader
from infra.watchdog import EXIT_STUCK, Watchdog

if TYPE_CHECKING:
    from infra.servers.kafka import KafkaServer

QUICK = Pace(poll_s=0.02)
IN, OUT, DEAD = Slot("in", 0), Slot("out", 0), Slot("dead", 0)


class Echo(Handler):
    """Answers each number with it and the sum so far: state that shows whether a record was taken in twice."""

    def __init__(self) -> None:
        self.total = 0
        self.seen: list[int] = []
        self.held: set[Slot] = set()
        self.fail: dict[int, list[Exception]] = {}
        self.finished = 0

    def handle(self, record: Record) -> Iterable[Output]:
        number = msgspec.json.decode(record.value, type=int)
        if self.fail.get(number):
            raise self.fail[number].pop(0)
        self.total += number
        self.seen.append(number)
        return [Output("out", "", f"{number}:{self.total}".encode(), 0)]

    def finish(self) -> Iterable[Output]:
        self.finished += 1
        return ()

    def assigned(self, slots: frozenset[Slot]) -> None:
        self.held |= slots

    def drop(self, slots: frozenset[Slot]) -> None:
        self.held -= slots


def dead_letter(record: Record, reason: str) -> Output:
    return Output("dead", record.key, f"{record.topic}-{record.partition}@{record.offset} {reason}".encode(), 0)


def prepare(log: Log, partitions: int = 1) -> None:
    log.create_topics([TopicSpec("in", partitions, {}), TopicSpec("out", 1, {}), TopicSpec("dead", 1, {})])


def put(log: Log, *values: object, partition: int = 0) -> None:
    publisher = log.publisher(linger_ms=0)
    for value in values:
        publisher.publish("in", "", str(value).encode(), partition)
    publisher.flush()
    publisher.close()


def got(log: Log, slot: Slot, count: int) -> list[str]:
    reader = log.reader({slot: 0})
    records: list[Record] = []
    deadline = time.monotonic() + 10
    while len(records) < count and time.monotonic() < deadline:
        records += reader.read(1_000, 0.1)
    records += reader.read(1_000, 0.05)
    reader.close()
    return [record.value.decode() for record in records]


def make(
    log: Log, handler: Handler, kind: type[ConsumerLoop] = ConsumerLoop, pace: Pace = QUICK, **options: Any
) -> ConsumerLoop:
    options.setdefault("publisher", log.publisher(linger_ms=0))
    options.setdefault("stop", threading.Event())
    return kind(log, "g", ["in"], handler, dead_letter=dead_letter, pace=pace, **options)


def turn_until(loop: ConsumerLoop, condition: Callable[[], bool], timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        loop.turn()
    assert condition()


def finish(loop: ConsumerLoop) -> None:
    loop._leave()


@pytest.mark.parametrize("kind", [ConsumerLoop, AssignedLoop])
def test_a_record_that_cannot_be_used_becomes_a_dead_letter_and_the_next_is_taken(
    any_log: Log, kind: type[ConsumerLoop]
) -> None:
    prepare(any_log)
    put(any_log, 1, "{broken", 2, 3)
    echo = Echo()
    echo.fail[2] = [BadMessage("no such market")]
    loop = make(any_log, echo, kind)
    turn_until(loop, lambda: loop.counts.handled == 4)
    finish(loop)
    assert got(any_log, OUT, 2) == ["1:1", "3:4"]
    first, second = got(any_log, DEAD, 2)
    assert first.startswith("in-0@1 Expected `int`")
    assert second == "in-0@2 no such market"
    assert any_log.committed("g", [IN]) == {IN: 4}
    assert loop.counts.dead_letters == 2


@pytest.mark.parametrize("kind", [ConsumerLoop, AssignedLoop])
def test_it_goes_on_where_it_was_committed(any_log: Log, kind: type[ConsumerLoop]) -> None:
    prepare(any_log)
    put(any_log, 1, 2)
    first = make(any_log, Echo(), kind)
    turn_until(first, lambda: first.counts.handled == 2)
    finish(first)
    put(any_log, 3)
    echo = Echo()
    second = make(any_log, echo, kind)
    turn_until(second, lambda: second.counts.handled == 1)
    finish(second)
    assert echo.seen == [3]


def test_from_end_skips_what_was_there_and_remembers_it(any_log: Log) -> None:
    prepare(any_log)
    put(any_log, 1, 2)
    echo = Echo()
    loop = make(any_log, echo, AssignedLoop, from_end=True)
    loop.turn()
    put(any_log, 3)
    assert any_log.committed("g", [IN]) == {IN: 2}
    turn_until(loop, lambda: echo.seen == [3])
    finish(loop)


def test_run_stops_within_five_seconds_with_everything_committed(any_log: Log) -> None:
    prepare(any_log)
    stop = threading.Event()
    echo = Echo()
    loop = make(any_log, echo, stop=stop, pace=Pace(commit_every_s=60))
    thread = threading.Thread(target=loop.run)
    thread.start()
    put(any_log, *range(500))
    deadline = time.monotonic() + 20
    while loop.counts.handled < 500 and time.monotonic() < deadline:
        time.sleep(0.01)
    begin = time.monotonic()
    stop.set()
    thread.join(10)
    assert time.monotonic() - begin < 5
    assert not thread.is_alive()
    assert any_log.committed("g", [IN]) == {IN: 500}
    assert echo.finished > 0


def test_two_loops_share_and_tell_their_handlers(any_log: Log) -> None:
    prepare(any_log, partitions=4)
    one, two = Echo(), Echo()
    first = make(any_log, one)
    turn_until(first, lambda: len(one.held) == 4)
    for partition in range(4):
        put(any_log, partition, partition=partition)
    turn_until(first, lambda: len(one.seen) == 4)
    second = make(any_log, two)
    deadline = time.monotonic() + 15
    while not len(one.held) == len(two.held) == 2 and time.monotonic() < deadline:
        first.turn()
        second.turn()
    assert one.held.isdisjoint(two.held)
    put(any_log, 10, partition=3)
    put(any_log, 20, partition=0)
    deadline = time.monotonic() + 15
    while len(one.seen) + len(two.seen) < 6 and time.monotonic() < deadline:
        first.turn()
        second.turn()
    assert set(one.seen + two.seen) == {0, 1, 2, 3, 10, 20}
    if isinstance(any_log, MemoryLog):  # a real broker may refuse the last commit while it rebalances: at least once
        assert len(one.seen + two.seen) == 6
    finish(first)
    finish(second)


class Faulty:
    """A publisher that fails as told, then goes on."""

    def __init__(self, inner: Publisher, on_publish: list[Exception | None], on_flush: list[Exception | None]) -> None:
        self.inner = inner
        self.on_publish = on_publish
        self.on_flush = on_flush

    def publish(self, topic: str, key: str, value: bytes, partition: int | None = None) -> None:
        if self.on_publish and (error := self.on_publish.pop(0)) is not None:
            raise error
        self.inner.publish(topic, key, value, partition)

    def flush(self, timeout_s: float = 10.0) -> None:
        if self.on_flush and (error := self.on_flush.pop(0)) is not None:
            raise error
        self.inner.flush(timeout_s)

    def close(self) -> None:
        self.inner.close()


def test_outputs_that_were_not_delivered_are_published_again_not_computed_again(memory_log: MemoryLog) -> None:
    prepare(memory_log)
    put(memory_log, 1, 2, 3)
    publisher = Faulty(
        memory_log.publisher(),
        [None, DeliveryFailed("queue full"), DeliveryFailed("still full")],
        [DeliveryPending("one left"), DeliveryFailed("one lost")],
    )
    echo = Echo()
    loop = make(memory_log, echo, publisher=publisher)
    turn_until(loop, lambda: loop.counts.handled == 3)
    finish(loop)
    assert echo.seen == [1, 2, 3]
    answers = got(memory_log, OUT, 3)
    assert set(answers) == {"1:1", "2:3", "3:6"}
    assert answers[-1] == "3:6"
    assert memory_log.committed("g", [IN]) == {IN: 3}
    assert loop.counts.published == 3
    assert loop.counts.published_again >= 2


def test_a_record_whose_handling_must_wait_is_tried_again(memory_log: MemoryLog) -> None:
    prepare(memory_log)
    put(memory_log, 1, 2)
    echo = Echo()
    echo.fail[1] = [Retry("database locked"), LogUnavailable("no answer")]
    loop = make(memory_log, echo)
    turn_until(loop, lambda: loop.counts.handled == 2)
    finish(loop)
    assert got(memory_log, OUT, 2) == ["1:1", "2:3"]
    assert loop.counts.retries == 2


def test_asked_to_stop_while_waiting_it_leaves_the_rest_uncommitted(memory_log: MemoryLog) -> None:
    prepare(memory_log)
    put(memory_log, 1, 2, 3)
    echo = Echo()
    echo.fail[2] = [Retry("away")] * 10_000
    stop = threading.Event()
    loop = make(memory_log, echo, stop=stop)
    thread = threading.Thread(target=loop.run)
    thread.start()
    while echo.seen != [1]:
        time.sleep(0.01)
    begin = time.monotonic()
    stop.set()
    thread.join(10)
    assert time.monotonic() - begin < 5
    assert memory_log.committed("g", [IN]) == {IN: 1}


def test_a_bug_ends_the_loop_with_what_was_done_before_it(memory_log: MemoryLog) -> None:
    prepare(memory_log)
    put(memory_log, 1, 2)
    echo = Echo()
    echo.fail[2] = [ZeroDivisionError("a bug")]
    loop = make(memory_log, echo)
    with pytest.raises(ZeroDivisionError):
        loop.run()
    assert memory_log.committed("g", [IN]) == {IN: 1}


class Tampering(ConsumerLoop):
    """A loop whose reader repeats and drops records on the way."""

    def _open_reader(self) -> GroupReader:
        reader = super()._open_reader()
        assert isinstance(reader, MemoryGroupReader)
        take = reader.read

        def read(max_records: int, timeout_s: float) -> list[Record]:
            records = take(max_records, timeout_s)
            return [*records[:2], *records[:1], *records[4:]]

        reader.read = read  # type: ignore[method-assign] # this is the tampering
        return reader


def test_repeated_records_are_skipped_and_missing_ones_read_in(memory_log: MemoryLog) -> None:
    prepare(memory_log)
    put(memory_log, 1, 2, 3, 4, 5)
    echo = Echo()
    loop = make(memory_log, echo, Tampering)
    turn_until(loop, lambda: loop.counts.handled == 5)
    assert echo.seen == [1, 2, 3, 4, 5]
    assert (loop.counts.repeated, loop.counts.read_in) == (1, 2)
    finish(loop)


def test_offsets_spent_on_transactions_are_no_loss(any_log: Log) -> None:
    prepare(any_log)
    transactor = any_log.transactor("t")
    for value in (b"1", b"2", b"3"):
        transactor.begin()
        transactor.publish("in", "", value, 0)
        transactor.commit(None, "other", {})
    transactor.close()
    for options in ({}, {"gapped": ["in"]}):
        echo = Echo()
        loop = make(any_log, echo, AssignedLoop, **options)
        loop._group = f"g{len(options)}"
        turn_until(loop, lambda loop=loop: loop.counts.handled == 3)
        assert (echo.seen, loop.counts.read_in) == ([1, 2, 3], 0)
        finish(loop)


@pytest.mark.parametrize("kind", [ConsumerLoop, AssignedLoop])
def test_records_deleted_before_they_were_read_are_told_or_end_it(
    memory_log: MemoryLog, kind: type[ConsumerLoop]
) -> None:
    prepare(memory_log)
    put(memory_log, 0, 1, 2, 3, 4)
    memory_log.commit("g", {IN: 1})
    memory_log.truncate(IN, 3)
    loop = make(memory_log, Echo(), kind)
    with pytest.raises(RecordsLost, match="in-0: offsets 1 to 3"):
        turn_until(loop, lambda: loop.counts.handled > 0)
    finish(loop)
    told: list[tuple[Slot, int, int]] = []

    def on_lost(slot: Slot, first: int, end: int) -> list[Output]:
        told.append((slot, first, end))
        return [Output("dead", "", b"hole", 0)]

    echo = Echo()
    loop = make(memory_log, echo, kind, on_lost=on_lost)
    turn_until(loop, lambda: loop.counts.handled == 2)
    finish(loop)
    assert (told, echo.seen) == ([(IN, 1, 3)], [3, 4])
    assert got(memory_log, DEAD, 1) == ["hole"]


def test_the_watchdog_sees_a_handler_that_hangs(memory_log: MemoryLog) -> None:
    prepare(memory_log)
    put(memory_log, 1)
    told: list[str] = []
    let_go = threading.Event()

    class Hanging(Echo):
        def handle(self, record: Record) -> Iterable[Output]:
            let_go.wait(20)
            return super().handle(record)

    stop = threading.Event()

    def on_stuck(reason: str) -> None:
        told.append(reason)
        stop.set()
        let_go.set()

    loop = make(memory_log, Hanging(), stop=stop, pace=Pace(watchdog_limit_s=0.4, poll_s=0.02), on_stuck=on_stuck)
    begin = time.monotonic()
    loop.run()
    assert time.monotonic() - begin < 8
    assert "has not come round" in told[0]
    assert "in-0: next is" in told[0] or "nothing to read" in told[0]


def test_the_watchdog_sees_a_reader_that_went_silent(any_log: Log) -> None:
    prepare(any_log)
    put(any_log, 1)
    told: list[str] = []
    stop = threading.Event()

    def on_stuck(reason: str) -> None:
        told.append(reason)
        stop.set()

    echo = Echo()
    loop = make(any_log, echo, AssignedLoop, stop=stop, pace=Pace(watchdog_limit_s=1.0), on_stuck=on_stuck)
    turn_until(loop, lambda: echo.seen == [1])
    assert loop._reader is not None
    loop._reader.pause([IN])
    put(any_log, 2)
    loop.run()
    assert "in-0: next is 1, offset 1 can be read" in told[0]


def test_the_watchdog_lets_idle_loops_and_outages_pass() -> None:
    now = 0.0
    answers: list[str | Exception | None] = []
    told: list[str] = []

    def behind() -> str | None:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    watchdog = Watchdog(behind, limit_s=7.0, on_stuck=told.append, clock=lambda: now)
    now = 6.0
    watchdog.check()
    answers = [None]
    now = 8.0
    watchdog.beat()
    watchdog.check()
    assert told == []
    answers = [LogUnavailable("broker away")]
    now = 30.0
    watchdog.check()
    assert told == []
    now = 36.0
    watchdog.beat()
    watchdog.check()
    answers = ["in-0: next is 1, offset 1 can be read"] * 2
    now = 38.0
    watchdog.beat()
    watchdog.check()
    assert told == []
    now = 38.5
    watchdog.check()
    assert told == ["no progress for 8.5 s; in-0: next is 1, offset 1 can be read"]
    answers = [None]
    now = 50.0
    watchdog.check()
    assert told[1:] == ["the loop has not come round for 12.0 s; nothing to read"]


def test_a_record_that_has_just_come_after_a_quiet_time_is_no_standstill() -> None:
    now, told, meanwhile = 0.0, list[str](), False

    def behind() -> str:
        if meanwhile:
            watchdog.progress()
        return "in-0: next is 1, offset 1 can be read"

    watchdog = Watchdog(behind, limit_s=7.0, on_stuck=told.append, clock=lambda: now)
    for second in range(8, 60, 9):  # each look meets a record that the loop takes in right after it, or during it
        now = float(second)
        watchdog.beat()
        meanwhile = second % 2 == 0
        watchdog.check()
        watchdog.progress()
    assert told == []


def test_a_stuck_process_ends_with_its_own_code() -> None:
    program = "from infra.watchdog import end_process; end_process('in-0: next is 1')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == EXIT_STUCK
    assert "in-0: next is 1" in done.stderr


def test_a_handler_that_answers_nothing_at_the_end_of_a_batch_is_enough(memory_log: MemoryLog) -> None:
    class Counting(Handler):
        def __init__(self) -> None:
            self.count = 0

        def handle(self, record: Record) -> Iterable[Output]:
            self.count += record.partition + 1
            return ()

    prepare(memory_log)
    put(memory_log, 1, 2)
    counting = Counting()
    loop = make(memory_log, counting)
    turn_until(loop, lambda: counting.count == 2)
    reader = loop._reader
    assert reader is not None
    assert reader.position(IN) == 2
    finish(loop)


def test_work_at_the_end_of_a_batch_that_never_succeeds_is_not_committed(memory_log: MemoryLog) -> None:
    class Batching(Echo):
        def finish(self) -> Iterable[Output]:
            raise Retry("model away")

    prepare(memory_log)
    put(memory_log, 1, 2)
    stop = threading.Event()
    loop = make(memory_log, Batching(), stop=stop)
    thread = threading.Thread(target=loop.run)
    thread.start()
    wait_for(lambda: loop.counts.handled == 2)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert memory_log.committed("g", [IN]) == {}


class Shaky(ConsumerLoop):
    """A loop whose reader cannot read or commit for a while, and whose partitions are then taken away."""

    problems: list[Exception]

    def _open_reader(self) -> GroupReader:
        reader = super()._open_reader()
        assert isinstance(reader, MemoryGroupReader)
        read, commit = reader.read, reader.commit

        def failing_read(max_records: int, timeout_s: float) -> list[Record]:
            if self.problems and isinstance(self.problems[0], LogUnavailable):
                raise self.problems.pop(0)
            return read(max_records, timeout_s)

        def failing_commit(offsets: Mapping[Slot, int]) -> None:
            if self.problems:
                raise self.problems.pop(0)
            commit(offsets)

        reader.read, reader.commit = failing_read, failing_commit  # type: ignore[method-assign] # the shaking
        return reader


def test_offsets_that_could_not_be_committed_are_committed_later(memory_log: MemoryLog) -> None:
    prepare(memory_log)
    put(memory_log, 1, 2)
    loop = make(memory_log, Echo(), Shaky, pace=Pace(poll_s=0.02, commit_every_s=0.0))
    assert isinstance(loop, Shaky)
    loop.problems = [LogUnavailable("no answer"), NotOwner("taken away"), LogUnavailable("no answer")]
    turn_until(loop, lambda: memory_log.committed("g", [IN]) == {IN: 2})
    assert loop.counts.retries == 2
    finish(loop)


def test_a_log_that_cannot_tell_committed_offsets_is_read_on(memory_log: MemoryLog) -> None:
    class Forgetful(MemoryLog):
        def committed(self, group: str, slots: Iterable[Slot]) -> dict[Slot, int]:
            raise LogUnavailable(f"no answer about {group} {slots}")

    prepare(memory_log)
    put(memory_log, 1)
    echo = Echo()
    loop = make(Forgetful(beside=memory_log), echo)
    turn_until(loop, lambda: echo.seen == [1])
    finish(loop)


@pytest.mark.kafka
def test_a_loop_sits_out_a_dead_broker_and_loses_nothing(breakable_broker: "KafkaServer") -> None:
    with KafkaLog(breakable_broker.bootstrap, f"loop{time.monotonic_ns()}-") as log:
        prepare(log)
        put(log, *range(100))
        stop, told = threading.Event(), list[str]()
        echo = Echo()
        loop = make(log, echo, stop=stop, instance="one", pace=Pace(watchdog_limit_s=3.0), on_stuck=told.append)
        thread = threading.Thread(target=loop.run)
        thread.start()
        wait_for(lambda: loop.counts.handled >= 100)
        breakable_broker.kill()
        time.sleep(1.0)
        breakable_broker.start()
        put(log, *range(100, 200))
        wait_for(lambda: 199 in echo.seen)
        begin = time.monotonic()
        stop.set()
        thread.join(10)
        assert time.monotonic() - begin < 5
        assert told == []
        assert {answer.partition(":")[0] for answer in got(log, OUT, 200)} == {str(i) for i in range(200)}
        assert log.committed("g", [IN]) == {IN: 200}


def wait_for(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()
