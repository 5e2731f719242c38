import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from consumers import predict
from consumers.predict import FEATURES, GROUP, MODEL_EVENTS, SIGNALS, PredictLoop
from consumers.predict_stage import PredictStage
from infra.errors import DeliveryFailed, DeliveryPending
from infra.log import Log, Record, TopicSpec, slots_of
from infra.memory_log import MemoryLog, MemoryPublisher
from infra.settings import FeedSettings, PredictSettings, Settings
from models.forecast.artefact import Artefact, ModelRefused, seal, write
from models.forecast.linear import LinearModel
from models.forecast.registry import Served, build, folder, refusals
from streams import topics
from streams.messages import DeadLetter, Features, ModelEvent, Refusals, Signal, encode, hash_of, key_of

replace = msgspec.structs.replace
MakeRows = Callable[..., list[Features]]
PARTITIONS = 3


class Wide(LinearModel):
    """The linear model, but it wants several rows before it speaks."""

    def __init__(self, artefact: Artefact, window_rows: int) -> None:
        super().__init__(artefact)
        self.window_rows = window_rows


def new_log(prefix: str = "", beside: MemoryLog | None = None) -> MemoryLog:
    log = MemoryLog(prefix, clock_ms=itertools.count(1).__next__, beside=beside)
    create(log)
    return log


def create(log: Log) -> None:
    wide = {FEATURES, SIGNALS}
    log.create_topics([TopicSpec(name, PARTITIONS if name in wide else 1, {}) for name in topics.TOPICS])


def publish(log: Log, rows: list[Features]) -> None:
    publisher = log.publisher()
    for row in rows:
        publisher.publish(FEATURES, key_of(row.exchange, row.market), encode(row))
    publisher.close()


def read_all(log: Log, topic: str) -> list[Record]:
    bounds = log.bounds(slots_of(log, [topic]))
    reader = log.reader({slot: first for slot, (first, _) in bounds.items()})
    records: list[Record] = []
    while any(reader.position(slot) < end for slot, (_, end) in bounds.items()):
        records += reader.read(1_000, 1.0)
    reader.close()
    return records


def signals_in(log: Log) -> list[Signal]:
    return [topics.decode(SIGNALS, record.value) for record in read_all(log, SIGNALS)]


def hashes(signals: list[Signal]) -> set[bytes]:
    return {hash_of(signal) for signal in signals}


def new_loop(log: Log, artefact: Artefact, home: Path, *, window_rows: int = 1, kept: int = 8) -> PredictLoop:
    model = build(artefact) if window_rows == 1 else Wide(artefact, window_rows)
    stage = PredictStage("synthetic", Served(model, refusals(model, "synthetic")), kept)
    return PredictLoop(log, stage, home)


def drain(loop: PredictLoop) -> None:
    while loop.step(0.0):
        pass
    loop.commit()
    loop.close()


def test_rows_become_signals_in_their_market_s_partition(
    planted: Artefact, make_rows: MakeRows, tmp_path: Path
) -> None:
    log = new_log()
    rows = make_rows(bins=20, markets=("KRW-A", "KRW-B", "KRW-C"))
    publish(log, rows)
    drain(new_loop(log, planted, tmp_path))
    records = read_all(log, SIGNALS)
    assert len(records) == 19 * 3 * 2
    homes = {record.key: record.partition for record in read_all(log, FEATURES)}
    assert all(homes[record.key] == record.partition for record in records)
    slots = slots_of(log, [FEATURES])
    assert log.committed(GROUP, slots) == {slot: end for slot, (_, end) in log.bounds(slots).items()}


def test_a_restart_at_every_position_gives_equal_signals(
    planted: Artefact, make_rows: MakeRows, tmp_path: Path
) -> None:
    rows = make_rows(bins=40, markets=("KRW-A", "KRW-B", "KRW-C"))
    hole = [row for row in rows if not (row.market == "KRW-B" and row.n_bins in {20, 21})]
    rows = [replace(row, n_bins=row.n_bins - 21) if row.market == "KRW-B" and row.n_bins > 21 else row for row in hole]
    rows = [*rows[:60], rows[57], rows[50], *rows[60:]]
    log = new_log()
    publish(log, rows)
    records = sorted(read_all(log, FEATURES), key=lambda one: (one.partition, one.offset))
    drain(new_loop(log, planted, tmp_path, window_rows=6))
    whole = signals_in(log)
    assert len(hashes(whole)) == len(whole) == 2 * (3 * 35 - 7)
    first_at: dict[tuple[str, int], Record] = {}
    for record in records:
        row = topics.decode(FEATURES, record.value)
        first_at.setdefault((row.market, row.bin_ms), record)
    ends = {slot: end for slot, (_, end) in log.bounds(slots_of(log, [FEATURES])).items()}
    for slot, end in ends.items():
        for offset in range(end + 1):
            again = new_log()
            for record in records:
                again.append(record)
            again.commit(GROUP, ends | {slot: offset})
            drain(new_loop(again, planted, tmp_path, window_rows=6))
            expected = [
                signal
                for signal in whole
                if (record := first_at[signal.market, signal.bin_ms]).slot == slot and record.offset >= offset
            ]
            later = signals_in(again)
            assert hashes(later) == hashes(expected)
            assert len(later) == len(expected)


def test_a_market_that_lies_deeper_than_the_restart_read_is_looked_up(
    planted: Artefact, make_rows: MakeRows, tmp_path: Path
) -> None:
    """One market's rows come long after the others': the restart must not take it for a new one."""
    log = MemoryLog(clock_ms=itertools.count(1).__next__)
    log.create_topics([TopicSpec(name, 1, {}) for name in topics.TOPICS])
    late = make_rows(bins=20, markets=("KRW-LATE",))
    publish(log, late[:10])
    publish(log, make_rows(bins=200, markets=("KRW-A", "KRW-B", "KRW-C")))
    (slot,) = slots_of(log, [FEATURES])
    committed = log.bounds([slot])[slot][1]
    publish(log, late[10:])
    whole = new_loop(log, planted, tmp_path, window_rows=8)
    drain(whole)
    expected = {hash_of(signal) for signal in signals_in(log) if signal.market == "KRW-LATE"}
    assert len(expected) == 2 * 13
    again = MemoryLog(clock_ms=itertools.count(1).__next__)
    again.create_topics([TopicSpec(name, 1, {}) for name in topics.TOPICS])
    for record in read_all(log, FEATURES):
        again.append(record)
    again.commit(GROUP, {slot: committed})
    drain(new_loop(again, planted, tmp_path, window_rows=8))
    found = {hash_of(signal) for signal in signals_in(again)}
    late_bins = {row.bin_ms for row in late[10:]}
    assert found == {
        hash_of(signal) for signal in signals_in(log) if signal.market == "KRW-LATE" and signal.bin_ms in late_bins
    }


def test_what_cannot_be_read_becomes_a_dead_letter_once(planted: Artefact, make_rows: MakeRows, tmp_path: Path) -> None:
    log = new_log()
    rows = make_rows(bins=5, markets=("KRW-A",))
    publish(log, rows[:3])
    log.publisher().publish(FEATURES, "upbit:KRW-A", b"{nonsense")
    publish(log, rows[3:])
    drain(new_loop(log, planted, tmp_path))
    assert len(signals_in(log)) == 4 * 2
    drain(new_loop(log, planted, tmp_path))
    letters: list[DeadLetter] = [topics.decode("dead-letters", one.value) for one in read_all(log, "dead-letters")]
    assert [(letter.topic, letter.process, letter.offset) for letter in letters] == [(FEATURES, "predict", 3)]


def test_offsets_that_are_no_longer_kept_start_at_what_is(
    planted: Artefact, make_rows: MakeRows, tmp_path: Path
) -> None:
    log = new_log()
    publish(log, make_rows(bins=10, markets=("KRW-A",)))
    (slot,) = [one for one, (_, end) in log.bounds(slots_of(log, [FEATURES])).items() if end]
    log.commit(GROUP, {slot: 2})
    log.truncate(slot, 6)
    drain(new_loop(log, planted, tmp_path))
    assert len(signals_in(log)) == 4 * 2


def test_promotions_are_followed_and_bad_ones_are_refused_once(
    planted: Artefact, make_rows: MakeRows, tmp_path: Path
) -> None:
    heads = [replace(head, shrink=head.shrink / 2) for head in planted.payload.horizons]
    second = seal(replace(planted.payload, horizons=heads))
    write(second, folder(tmp_path) / f"{second.id}.json")
    log = new_log()
    rows = make_rows(bins=30, markets=("KRW-A",))
    promote(log, second.id, rows[10].bin_ms)
    promote(log, "nobody", rows[12].bin_ms)
    publish(log, rows[:20])
    loop = new_loop(log, planted, tmp_path)
    while loop.step(0.0):
        pass
    promote(log, planted.id, rows[25].bin_ms)
    promote(log, "nobody-else", rows[25].bin_ms)
    log.publisher().publish(MODEL_EVENTS, "", b"?")
    while loop.step(0.0):
        pass
    publish(log, rows[20:])
    drain(loop)
    by_bin = {signal.bin_ms: signal.model_id for signal in signals_in(log)}
    assert {by_bin[row.bin_ms] for row in rows[1:10]} == {planted.id}
    assert {by_bin[row.bin_ms] for row in rows[10:]} == {second.id}
    drain(new_loop(log, planted, tmp_path))
    refused = [event.model_id for event in model_events(log) if event.kind == "refused"]
    assert sorted(refused) == sorted({"nobody", "nobody-else", planted.id})


def test_unreadable_model_events_become_dead_letters_once(planted: Artefact, tmp_path: Path) -> None:
    log = new_log()
    log.publisher().publish(MODEL_EVENTS, "", b"?")
    drain(new_loop(log, planted, tmp_path))
    loop = new_loop(log, planted, tmp_path)
    log.publisher().publish(MODEL_EVENTS, "", b"?")
    drain(loop)
    drain(new_loop(log, planted, tmp_path))
    letters = [topics.decode("dead-letters", record.value) for record in read_all(log, "dead-letters")]
    assert [(one.process, one.topic) for one in letters] == [("predict", MODEL_EVENTS)] * 2
    bad = [record.offset for record in read_all(log, MODEL_EVENTS) if record.value == b"?"]
    assert [one.offset for one in letters] == bad


def promote(log: Log, model_id: str, from_bin_ms: int) -> None:
    event = ModelEvent(kind="promoted", model_id=model_id, effective_from_bin_ms=from_bin_ms, text="", event_ms=1)
    log.publisher().publish(MODEL_EVENTS, "", encode(event))


def model_events(log: Log) -> Iterator[ModelEvent]:
    for record in read_all(log, MODEL_EVENTS):
        if record.value != b"?":
            event = topics.decode(MODEL_EVENTS, record.value)
            if isinstance(event, ModelEvent):
                yield event


def test_a_pinned_model_ignores_promotions(planted: Artefact, make_rows: MakeRows, tmp_path: Path) -> None:
    path = tmp_path / "pinned.json"
    write(planted, path)
    log = new_log()
    rows = make_rows(bins=5, markets=("KRW-A",))
    promote(log, "nobody", rows[0].bin_ms)
    publish(log, rows)
    settings = Settings(home=tmp_path, predict=PredictSettings(model=str(path)))
    drain(PredictLoop.of(settings, log))
    assert {signal.model_id for signal in signals_in(log)} == {planted.id}


def test_refusals_are_told_when_they_change(planted: Artefact, make_rows: MakeRows, tmp_path: Path) -> None:
    log = new_log()
    rows = make_rows(bins=5, markets=("KRW-A",))
    publish(log, rows)
    loop = new_loop(log, planted, tmp_path)
    loop.step(0.0)
    loop.report()
    loop.report()
    drain(loop)
    (told,) = [topics.decode(MODEL_EVENTS, record.value) for record in read_all(log, MODEL_EVENTS)]
    assert isinstance(told, Refusals)
    assert told.counts == {"rows": 5, "window-short": 1, "signals": 8}
    assert told.event_ms == rows[-1].bin_ms


def test_signals_not_acknowledged_are_not_committed(
    planted: Artefact, make_rows: MakeRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = new_log()
    publish(log, make_rows(bins=5, markets=("KRW-A",)))
    loop = new_loop(log, planted, tmp_path)
    while loop.step(0.0):
        pass

    def pending(_self: MemoryPublisher, _timeout_s: float = 10.0) -> None:
        raise DeliveryPending("not yet")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryPublisher, "flush", pending)
        loop.commit()
    assert not log.committed(GROUP, slots_of(log, [FEATURES]))
    loop.commit()
    assert log.committed(GROUP, slots_of(log, [FEATURES]))
    loop.close()


def test_the_process_runs_starts_over_and_stops(
    planted: Artefact, make_rows: MakeRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "_RETRY_AFTER_S", 0.01)
    monkeypatch.setattr(predict, "_COMMIT_EVERY_S", 0.0)
    monkeypatch.setattr(predict, "_REPORT_EVERY_S", 0.0)
    path = tmp_path / "pinned.json"
    write(planted, path)
    log = new_log()
    rows = make_rows(bins=20, markets=("KRW-A",))
    publish(log, rows)
    failures = iter([DeliveryFailed("lost")])
    flush = MemoryPublisher.flush

    def fails_once(self: MemoryPublisher, timeout_s: float = 10.0) -> None:
        for failure in failures:
            raise failure
        flush(self, timeout_s)

    monkeypatch.setattr(MemoryPublisher, "flush", fails_once)
    stop = threading.Event()
    settings = Settings(home=tmp_path, predict=PredictSettings(model=str(path)))
    thread = threading.Thread(target=predict.run, args=(settings, log, stop))
    thread.start()
    for _ in range(500):
        if len(hashes(signals_in(log))) == 2 * 19 and log.committed(GROUP, slots_of(log, [FEATURES])):
            break
        stop.wait(0.01)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert len(hashes(signals_in(log))) == 2 * 19
    manifests = [topics.decode("manifests", record.value) for record in read_all(log, "manifests")]
    assert {(one.process, one.settings["serving"]) for one in manifests} == {("predict", planted.id)}
    assert all(one.kernel_hash and one.backend.startswith("numba") for one in manifests)


def test_the_watchdog_is_told_what_is_left_lying(
    planted: Artefact, make_rows: MakeRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "_PATIENCE_S", 0.0)
    log = new_log()
    loop = new_loop(log, planted, tmp_path)
    assert loop.behind() is None
    publish(log, make_rows(bins=3, markets=("KRW-A",)))
    assert "next is 0, the end is 3" in str(loop.behind())
    while loop.step(0.0):
        pass
    assert loop.behind() is None
    loop.close()


def test_a_synthetic_model_named_on_a_real_feed_ends_the_process(planted: Artefact, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    write(planted, path)
    settings = Settings(home=tmp_path, feed=FeedSettings(kind="upbit"), predict=PredictSettings(model=str(path)))
    with pytest.raises(ModelRefused, match="synthetic data"):
        predict.run(settings, new_log(), threading.Event())


@pytest.mark.kafka
def test_on_kafka_the_signals_are_the_same(
    planted: Artefact, make_rows: MakeRows, tmp_path: Path, kafka_log: Log
) -> None:
    rows = make_rows(bins=30, markets=("KRW-A", "KRW-B"))
    memory = new_log()
    publish(memory, rows)
    drain(new_loop(memory, planted, tmp_path))
    create(kafka_log)
    publish(kafka_log, rows)
    loop = new_loop(kafka_log, planted, tmp_path)
    for _ in range(50):
        if loop.step(0.2) and loop.stage.counts["rows"] == 60:
            break
    loop.commit()
    loop.close()
    assert hashes(signals_in(kafka_log)) == hashes(signals_in(memory))
    drain(new_loop(kafka_log, planted, tmp_path))
    assert len(signals_in(kafka_log)) == len(signals_in(memory))
