"""A run written once more: every record once and in order, whatever stops it, and wrong starts are refused."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consumers.replay.command_line import checked_run, only_one, range_of, spans_of
from consumers.replay.offsets import OffsetMap
from consumers.replay.write import write_run
from infra.errors import AlreadyRunning, BadSettings, RecordsLost, Stop
from infra.log import Log, Record, Slot, slots_of
from infra.memory_log import MemoryLog
from streams import messages as m
from streams import topics
from streams.history import LogHistory, merged
from streams.process import topic_specs

RUN = "replay-a-"


@pytest.fixture
def source() -> Iterator[MemoryLog]:
    """A log with rows, markers between them, and trade's record of how it took them."""
    now = [1_000]
    log = MemoryLog("live-", clock_ms=lambda: now[0])
    log.create_topics(topic_specs())
    publisher = log.publisher()
    taken: dict[Slot, int] = {}
    for number in range(60):
        now[0] += 100
        for topic, key in (
            ("features", f"upbit:KRW-{number % 5}"),
            ("controls", "paper"),
            ("orderbooks", f"m{number}"),
        ):
            publisher.publish(topic, key, f"{topic} {number}".encode())
        transactor = log.transactor("trade")
        transactor.begin()
        for slot in slots_of(log, ["features", "controls", "order-events"]):
            end = log.bounds([slot])[slot][1]
            rows = [r.offset for r in _kept(log, slot) if r.offset >= taken.get(slot, 0)]
            if rows:
                entry = m.TradeInput(
                    kind="range", topic=slot.topic, partition=slot.partition, first=rows[0], last=rows[-1]
                )  # fmt: skip
                transactor.publish("trade-inputs", "", m.encode(entry), 0)
                taken[slot] = end
        transactor.publish("trade-inputs", "", m.encode(m.TradeInput(kind="pulse", event_ms=now[0])), 0)
        transactor.publish("order-events", "p", b"veto %d" % number, 3)
        cursor = {f"{slot.topic}/{slot.partition}": offset for slot, offset in taken.items()} | {"pulse": now[0]}
        state = m.AccountState(account="a", state=b"{}", cursor=cursor, event_ms=now[0])  # type: ignore[arg-type]
        transactor.publish("account-states", "a", m.encode(state), 3)
        transactor.commit(None, "trade", {})
        transactor.close()
    yield log
    log.close()


def _kept(log: Log, slot: Slot) -> list[Record]:
    return list(LogHistory(log).read(slot, *log.bounds([slot])[slot]))


ALL = ("orderbooks", "features", "controls", "order-events", "trade-inputs", "account-states")


def content(log: Log, names: tuple[str, ...] = ALL) -> dict[Slot, list[Record]]:
    history = LogHistory(log)
    return {slot: list(history.read(slot, *span)) for slot, span in history.spans(names).items()}


def test_every_record_once_in_order_with_its_key_and_partition(source: MemoryLog) -> None:
    target = MemoryLog(RUN, beside=source)
    history = LogHistory(source)
    spans = history.spans(ALL)
    done: list[tuple[int, int]] = []
    outcome = write_run(history, spans, target, progress=lambda *one: done.append(one))
    assert outcome.is_complete
    before, after = content(source), content(target)
    assert before.keys() == after.keys()
    for slot, records in before.items():
        if slot.topic in ("trade-inputs", "account-states"):
            continue
        assert [(r.key, r.value) for r in records] == [(r.key, r.value) for r in after[slot]]
    assert outcome.records == sum(map(len, before.values()))
    assert done[-1][0] == done[-1][1]
    written = [(r.topic, r.partition) for r in merged(LogHistory(target), LogHistory(target).spans(ALL))]
    assert len(written) == outcome.records


def named(log: Log) -> list[Any]:
    """What trade's recorded inputs name, as the records themselves."""
    found: list[Any] = []
    for record in content(log, ("trade-inputs",))[Slot("trade-inputs", 0)]:
        entry = topics.decode("trade-inputs", record.value)
        slot = Slot(entry.topic, entry.partition) if entry.kind == "range" else None
        found.append(
            entry.event_ms
            if slot is None
            else [r.value for r in _kept(log, slot) if entry.first <= r.offset <= entry.last]
        )
    return found


def test_recorded_inputs_name_the_same_records_under_their_new_offsets(source: MemoryLog) -> None:
    target = MemoryLog(RUN, beside=source)
    write_run(LogHistory(source), LogHistory(source).spans(ALL), target)
    assert named(target) == named(source)
    old, new = (content(log, ("account-states",))[Slot("account-states", 3)] for log in (source, target))
    for before, after in zip(old, new, strict=True):
        cursors = [topics.decode("account-states", record.value).cursor for record in (before, after)]
        for name, offset in cursors[0].items():
            topic, _, partition = name.partition("/")
            if not partition:
                assert cursors[1][name] == offset
                continue
            slot = Slot(topic, int(partition))
            covered = [[r.value for r in _kept(log, slot) if r.offset < cursor[name]]
                       for log, cursor in zip((source, target), cursors, strict=True)]  # fmt: skip
            assert covered[0] == covered[1]


def test_an_interrupted_copy_goes_on_exactly_where_it_stopped(source: MemoryLog) -> None:
    whole = MemoryLog("replay-whole-", beside=source)
    history = LogHistory(source)
    spans = history.spans(ALL)
    write_run(history, spans, whole, source="x")
    target = MemoryLog(RUN, beside=source)
    written = 0
    while True:
        dying = _Dying(target, 37)
        try:
            outcome = write_run(history, spans, dying, source="x")
        except ConnectionError:
            written += 1
            continue
        break
    assert written > 5
    assert outcome.is_complete
    assert outcome.records + outcome.found == sum(len(records) for records in content(source).values())
    assert {slot: [(r.offset, r.key, r.value) for r in records] for slot, records in content(target).items()} == {
        slot: [(r.offset, r.key, r.value) for r in records] for slot, records in content(whole).items()
    }


class _Dying(MemoryLog):
    """A log whose writer is gone after so many records."""

    def __init__(self, log: MemoryLog, after: int) -> None:
        super().__init__(log.prefix, beside=log)
        self._after = after

    def publisher(self, *, linger_ms: float = 5.0) -> Any:
        inner, left = super().publisher(linger_ms=linger_ms), [self._after]
        publish = inner.publish

        def dying(*arguments: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise ConnectionError
            publish(*arguments)

        inner.publish = dying
        return inner


def test_a_stopped_copy_says_so_and_a_pace_is_kept(source: MemoryLog) -> None:
    target = MemoryLog(RUN, beside=source)
    stop = threading.Event()
    history = LogHistory(source)

    def after_some(done: int, _total: int) -> None:
        _ = done
        stop.set()

    class Early(threading.Event):
        """Is set once it was looked at a few times."""

        looks = 0

        def is_set(self) -> bool:
            self.looks += 1
            return self.looks > 20

    outcome = write_run(history, history.spans(ALL), target, None, Early(), after_some)
    assert not outcome.is_complete
    assert 0 < outcome.records < 30
    again = write_run(history, history.spans(ALL), target, speed=20.0)  # 6 s of the log
    assert (again.is_complete, again.found) == (True, outcome.records)
    assert 0.2 < again.seconds < 5


def test_wrong_starts_are_refused_with_what_to_do(source: MemoryLog) -> None:
    history = LogHistory(source)
    spans = history.spans(ALL)
    with pytest.raises(BadSettings, match="replay-"):
        write_run(history, spans, MemoryLog("other-", beside=source))
    with pytest.raises(BadSettings, match="no topic nothing"):
        write_run(history, {Slot("nothing", 0): (0, 1)}, MemoryLog(RUN, beside=source))
    with pytest.raises(BadSettings, match="positive"):
        write_run(history, spans, MemoryLog("replay-slow-", beside=source), speed=-1.0)
    target = MemoryLog(RUN, beside=source)
    write_run(history, spans, target)
    with pytest.raises(Stop, match="complete already"):
        write_run(history, spans, target)
    with pytest.raises(Stop, match="another replay"):
        write_run(history, history.spans(["orderbooks"]), target)
    strange = MemoryLog("replay-b-", beside=source)
    strange.create_topics(topic_specs())
    strange.publisher().publish("features", "x", b"y")
    with pytest.raises(Stop, match="none of a replay"):
        write_run(history, spans, strange)


def test_an_interrupted_copy_of_a_log_that_grew_goes_on_with_what_it_was_begun_for(source: MemoryLog) -> None:
    history, target = LogHistory(source), MemoryLog(RUN, beside=source)
    spans = history.spans(["controls"])
    with pytest.raises(ConnectionError):
        write_run(history, spans, _Dying(target, 10))
    source.publisher().publish("controls", "paper", b"later")
    outcome = write_run(history, history.spans(["controls"]), target)
    assert (outcome.found, outcome.records, outcome.is_complete) == (10, 50, True)
    with pytest.raises(Stop, match="complete already"):
        write_run(history, history.spans(["controls"]), target)


def test_a_foreign_record_in_the_copy_is_named(source: MemoryLog) -> None:
    history = LogHistory(source)
    spans = history.spans(["features"])
    target = MemoryLog(RUN, beside=source)
    with pytest.raises(ConnectionError):
        write_run(history, spans, _Dying(target, 10))
    slot = next(slot for slot, records in content(target, ("features",)).items() if records)
    target.publisher().publish("features", "x", b"somebody", slot.partition)
    with pytest.raises(Stop, match=f"features/{slot.partition} offset"):
        write_run(history, spans, target)


def test_processes_that_begin_first_and_write_beside_do_no_harm(source: MemoryLog) -> None:
    target = MemoryLog(RUN, beside=source)
    target.create_topics(topic_specs())
    beside = target.publisher()
    beside.publish("manifests", "streams", b'{"type":"nothing"}')
    source.publisher().publish("manifests", "streams", b"recorded 1")
    source.publisher().publish("manifests", "streams", b"recorded 2")
    history = LogHistory(source)
    spans = history.spans(["manifests", "controls"])
    with pytest.raises(ConnectionError):
        write_run(history, spans, _Dying(target, 61))
    beside.publish("manifests", "predict", b"beside")
    outcome = write_run(history, spans, target)
    values = [r.value for r in _kept(target, Slot("manifests", 0))]
    assert [v for v in values if v.startswith(b"recorded")] == [b"recorded 1", b"recorded 2"]
    assert outcome.records + outcome.found == 62


def test_inputs_before_the_range_are_cut_and_missing_topics_named(source: MemoryLog) -> None:
    history = LogHistory(source)
    spans = history.spans(ALL)
    later = {slot: ((first + end) // 2, end) if slot.topic == "controls" else (first, end)
             for slot, (first, end) in spans.items()}  # fmt: skip
    outcome = write_run(history, later, MemoryLog(RUN, beside=source))
    assert outcome.inputs_cut > 0
    without = {slot: span for slot, span in spans.items() if slot.topic != "controls"}
    with pytest.raises(RecordsLost, match=r"controls/0 .* is not copied"):
        write_run(history, without, MemoryLog("replay-c-", beside=source))
    source.truncate(Slot("features", next(s.partition for s in spans if s.topic == "features")), 3)
    with pytest.raises(RecordsLost, match="features"):
        write_run(history, spans, MemoryLog("replay-d-", beside=source))


def test_the_map_of_offsets_over_gaps() -> None:
    known = OffsetMap(10, 0)
    for old in (10, 11, 14, 20, 21):
        known.note(old)
    assert [known.new(old) for old in (10, 11, 14, 20, 21)] == [0, 1, 2, 3, 4]
    assert [known.new_next(old) for old in (5, 10, 11, 12, 13, 14, 15, 19, 20, 21, 22, 30)] == [
        0, 0, 1, 2, 2, 2, 3, 3, 3, 4, 5, 5,
    ]  # fmt: skip


def test_options_of_the_verbs(source: MemoryLog, tmp_path: Path) -> None:
    history = LogHistory(source)
    assert range_of("features/3:5-9") == (Slot("features", 3), (5, 9))
    for wrong in ("features/3", "features/x:1-2", "features/3:9-5", "nothing/0:1-2"):
        with pytest.raises(BadSettings):
            range_of(wrong)
    assert spans_of(history, ["controls"], None, None, []) == {Slot("controls", 0): (0, 60)}
    assert spans_of(history, [], None, None, ["controls/0:5-9"]) == {Slot("controls", 0): (5, 9)}
    with pytest.raises(BadSettings, match="0 to 59"):
        spans_of(history, [], None, None, ["controls/0:50-90"])
    with pytest.raises(BadSettings, match="nothing is replayed"):
        spans_of(history, ["controls"], "1970-01-01T00:00:00+00:00", "1", [])
    assert checked_run("2026-11-21.a", "replay-") == "replay-2026-11-21.a-"
    for wrong in ("", "a b", "ä", "x" * 81):
        with pytest.raises(BadSettings):
            checked_run(wrong, "replay-")
    with only_one(tmp_path, RUN), pytest.raises(AlreadyRunning, match="another process"), only_one(tmp_path, RUN):
        pass
    with only_one(tmp_path, RUN):
        pass
