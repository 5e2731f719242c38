"""`verify parity --session`: a session recorded in memory, restarts included, is equal to itself; plants are found."""

import json
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from consumers.predict import PredictLoop
from consumers.predict import manifest_of as predict_manifest
from consumers.trade.replay import Shard
from consumers.trade.runner import Trader
from consumers.trade.start import clock_of, ensure_default_account, parameters_of
from consumers.trade.start import manifest_of as trade_manifest
from consumers.verify.disturbed import disturbed_log
from consumers.verify.parity import alter_one_byte
from consumers.verify.session import Session, day_before, day_ms, report_of, verify_session
from consumers.verify.session_matching import NO_RAW
from consumers.verify.session_segments import manifests_now
from infra.errors import BadSettings, RecordsLost
from infra.log import Record, Slot, publish_one, slots_of
from infra.memory_log import MemoryLog
from infra.settings import Settings
from models.strategies.folder import load
from streams import topics
from streams.history import LogHistory
from streams.messages import OrderIntent, Veto, encode
from streams.process import manifest_of, topic_specs
from streams.runner import FeatureLoop, options_of

STEP_MS = 1_000
SECONDS = 150


class Made:
    """A session made in memory: the stages run behind the records, second by second."""

    def __init__(self, home: Path, *, restarts: int = 1) -> None:
        self.settings = Settings.model_validate(
            {
                "home": home,
                "grid": {"window_bins": 40},
                "feed": {"kind": "synthetic", "warmup_seconds": 0},
                "paper": {"threshold_percent": "-9"},
            }
        )
        self._now_ms = 0
        self.log = MemoryLog(clock_ms=lambda: self._now_ms)
        self.log.create_topics(topic_specs())
        self._restarts = restarts
        self._run(disturbed_log(6, SECONDS, 3))

    def _open(self) -> None:
        tell = {
            "streams": manifest_of("streams", self.settings),
            "predict": predict_manifest(self.settings, ""),
            "trade": trade_manifest(self.settings, load(None), self._now_ms),
        }
        self.loop = FeatureLoop(self.log, options_of(self.settings), poll_s=0)
        self.predict = PredictLoop.of(self.settings, self.log)
        serving = self.predict.stage.served.model.id
        tell["predict"] = predict_manifest(self.settings, serving)
        for name, manifest in tell.items():
            publish_one(self.log, "manifests", name, encode(manifest))
        ensure_default_account(self.log, self.settings, self._now_ms)
        self.trader = Trader(self.log, Shard(), parameters_of(self.settings), clock_of(self.settings))

    def _close(self) -> None:
        self.loop.vanish()
        self.predict.close()
        self.trader.close()

    def _turn(self) -> None:
        while self.loop.step():
            pass
        while self.predict.step(0):
            pass
        while self.trader.step(self._now_ms, 0):
            pass

    def _run(self, records) -> None:
        publisher = self.log.publisher()
        begin_ms = self._now_ms = records[0].at_ms
        self._open()
        restart_at = {
            begin_ms + (number + 1) * SECONDS * 1000 // (self._restarts + 1) for number in range(self._restarts)
        }
        next_ms = begin_ms + STEP_MS
        for record in records:
            while record.at_ms >= next_ms:
                self._now_ms = next_ms
                self._turn()
                if any(next_ms - STEP_MS < at <= next_ms for at in restart_at):
                    self._close()
                    self._open()
                elif next_ms // STEP_MS % 7 == 0:
                    self.loop.commit()
                    self.predict.commit()
                next_ms += STEP_MS
            self._now_ms = record.at_ms
            publisher.publish(record.topic, record.key, record.value, record.partition)
        self._now_ms = next_ms
        self._turn()
        self.trader.commit(self._now_ms)
        self._close()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return Made(tmp_path_factory.mktemp("session"))


def copied(made: Made, change) -> MemoryLog:
    """The session's records once more, each as `change` gives it back; None leaves it out."""
    log = MemoryLog(clock_ms=lambda: 0)
    log.create_topics(topic_specs())
    for slot in slots_of(made.log, list(topics.TOPICS)):
        begin, end = made.log.bounds([slot])[slot]
        reader = made.log.reader({slot: begin})
        while reader.position(slot) < end:
            for record in reader.read(5_000, 0):
                if (changed := change(record)) is not None:
                    log.append(changed)
        reader.close()
    return log


def compared(made: Made, log: MemoryLog, between=(None, None), *, is_closed=True, now=None):
    return Session(LogHistory(log), made.settings, between, now=now, is_closed=is_closed).compare()


def topic_of(found, topic):
    return found.topics[topic].total


def all_of(made: Made, topic: str) -> list[Record]:
    found = []
    for slot in slots_of(made.log, [topic]):
        begin, end = made.log.bounds([slot])[slot]
        reader = made.log.reader({slot: begin})
        while reader.position(slot) < end:
            found += reader.read(5_000, 0)
        reader.close()
    return sorted(found, key=lambda one: (one.append_ms, one.partition, one.offset))


def nth(made: Made, topic: str, number: int, kind=None) -> Record:
    """One record of a topic."""
    found = all_of(made, topic)
    found = [one for one in found if kind is None or isinstance(topics.decode(topic, one.value), kind)]
    return found[number]


def usable_books(made: Made) -> list[Record]:
    """The only book of a bin that gave a row, from the middle on."""
    rows = [topics.decode("features", one.value) for one in all_of(made, "features")]
    single = {(row.market, row.bin_ms) for row in rows if row.n_books == 1}
    found = []
    for record in all_of(made, "orderbooks")[1_000:]:
        if b'"bid_sizes":[0.' in record.value:
            book = topics.decode("orderbooks", record.value)
            if (book.market, book.exchange_ms // 1000 * 1000 + 1000) in single:
                found.append(record)
    return found


def test_a_session_with_restarts_is_equal_to_itself(made):
    found = compared(made, made.log)
    assert found.verdict == "equal", found.figures()
    assert topic_of(found, "features").compared > 500
    assert topic_of(found, "signals").compared > 500
    assert topic_of(found, "order-intents").compared > 0
    assert topic_of(found, "order-events").compared > 0
    assert topic_of(found, "features").repeated > 0, "a restart writes rows twice"
    assert all(not one.total.not_covered for one in found.topics.values())
    assert len(found.topics["features"].by_segment()) == 2


def test_one_byte_of_one_raw_record_is_found_with_the_first_row(made):
    altered = next(alter_one_byte(usable_books(made)[:1], 1))
    log = copied(made, lambda one: altered if (one.slot, one.offset) == (altered.slot, altered.offset) else one)
    found = compared(made, log)
    assert found.verdict == "different"
    first = report_of(LogHistory(log), found)["differences"][0]
    book = topics.decode("orderbooks", altered.value)
    assert (first["topic"], first["recorded"]["market"]) == ("features", book.market)
    assert first["recorded"]["bin_ms"] == book.exchange_ms // 1000 * 1000 + 1000
    assert first["fields"]
    assert altered.offset in next(link for link in first["lineage"] if link["link"] == "orderbooks")["offsets"]
    json.dumps(first, default=str)


@pytest.mark.parametrize("topic", ["features", "signals", "order-intents", "order-events"])
def test_a_record_that_was_changed_after_it_was_written_is_found(made, topic):
    names = {"features": "spread", "signals": "expected_bp", "order-intents": "funds", "order-events": "needed_bp"}
    record = nth(made, topic, 1, {"order-intents": OrderIntent, "order-events": Veto}.get(topic))
    message = topics.decode(topic, record.value)
    value = getattr(message, names[topic])
    changed = msgspec.structs.replace(message, **{names[topic]: type(value)(17) if value is not None else 17.0})
    altered = record._replace(value=encode(changed))
    log = copied(made, lambda one: altered if (one.slot, one.offset) == (record.slot, record.offset) else one)
    found = compared(made, log)
    assert topic_of(found, topic).differing == 1
    first = next(one for one in report_of(LogHistory(log), found)["differences"] if one["topic"] == topic)
    assert first["place"] == {
        "topic": topic, "partition": record.partition, "offset": record.offset, "append_ms": record.append_ms,
    }  # fmt: skip
    assert [one["field"] for one in first["fields"]] == [names[topic]]
    assert first["manifest"]["process"] == {"features": "streams", "signals": "predict"}.get(topic, "trade")
    assert first["lineage"], first


@pytest.mark.parametrize("topic", ["features", "signals", "order-intents"])
def test_a_record_that_is_gone_is_missing(made, topic):
    records = all_of(made, topic)
    values = Counter(one.value for one in records)
    record = next(one for one in records[len(records) // 3 :] if values[one.value] == 1)
    log = copied(made, lambda one: None if (one.slot, one.offset) == (record.slot, record.offset) else one)
    found = compared(made, log)
    assert topic_of(found, topic).missing == 1
    assert found.verdict == "different"


def test_a_repeated_record_that_is_not_equal_is_found(made):
    record = nth(made, "features", 300)
    row = topics.decode("features", record.value)
    log = copied(made, lambda one: one)
    end = log.bounds([record.slot])[record.slot][1]
    log.append(record._replace(offset=end, value=encode(msgspec.structs.replace(row, mid=(row.mid or 1.0) + 1))))
    found = compared(made, log)
    assert topic_of(found, "features").conflicts == 1
    first = report_of(LogHistory(log), found)["differences"][0]
    assert first["kind"] == "a repeated record is not equal"
    assert first["first_place"]["offset"] == record.offset


def test_rows_whose_raw_records_are_gone_are_not_covered_and_never_equal(made):
    whole = compared(made, made.log)
    log = copied(made, lambda one: one)
    for slot in slots_of(log, ["orderbooks", "trades"]):
        begin, end = log.bounds([slot])[slot]
        log.truncate(slot, begin + (end - begin) // 3)
    found = compared(made, log)
    assert found.verdict == "equal", found.figures()
    left_out = topic_of(found, "features").not_covered[NO_RAW]
    assert left_out > 100
    rows = topic_of(whole, "features")
    assert topic_of(found, "features").compared + left_out >= rows.compared
    assert topic_of(found, "signals").not_covered[NO_RAW] > 0
    assert topic_of(found, "signals").compared > 0


def test_a_stretch_out_of_the_middle_is_compared_from_its_first_whole_window_on(made):
    first, last = nth(made, "features", 0).append_ms, nth(made, "features", -1).append_ms
    third = (last - first) // 3
    found = compared(made, made.log, (first + third, last - third // 2), is_closed=False)
    assert found.verdict == "equal", found.figures()
    assert topic_of(found, "features").compared > 100
    assert topic_of(found, "order-events").compared + topic_of(found, "order-intents").compared > 0


def test_what_was_recorded_before_an_upgrade_is_not_comparable_and_says_why(made):
    old = [0]

    def upgraded(record: Record) -> Record:
        if record.topic != "manifests" or old[0] >= 3:
            return record
        old[0] += 1
        manifest = topics.decode("manifests", record.value)
        return record._replace(value=encode(msgspec.structs.replace(manifest, kernel_hash="0ld", lock_hash="0ld")))

    log = copied(made, upgraded)
    found = compared(made, log, now=manifests_now(made.settings))
    assert found.verdict == "equal", found.figures()
    features = topic_of(found, "features")
    assert features.not_comparable > 100
    assert features.not_covered[NO_RAW] > 0, "the first windows after it hold rows of the old code"
    assert features.compared > 50
    assert "lock_hash was 0ld" in found.reasons[0]["reason"]
    assert {one["topic"] for one in found.reasons} >= {"features", "signals", "order-intents"}


def test_a_day_without_data_is_no_success(made, tmp_path):
    settings = made.settings.model_copy(update={"home": tmp_path})
    result = verify_session(LogHistory(made.log), settings, "log", "2020-01-01")
    assert not result["passed"]
    assert result["conditions"]["verdict"] == "no data"


def test_the_report_stays_in_the_run_folder(made, tmp_path):
    settings = made.settings.model_copy(update={"home": tmp_path})
    day = day_before(made._now_ms + 86_400_000)
    result = verify_session(LogHistory(made.log), settings, "log", day)
    assert result["passed"], result
    report = json.loads((tmp_path / "reports" / f"parity-{day}.json").read_text())
    assert (report["verdict"], report["day"], report["source"]) == ("equal", day, "log")
    assert report["topics"]["features"]["compared"] == result["figures"]["features: compared"]


def test_a_day_is_a_day_in_korea():
    begin, end = day_ms("2026-11-21")
    assert (begin, end - begin) == (1_795_186_800_000, 86_400_000)
    assert (day_before(end - 1), day_before(end)) == ("2026-11-20", "2026-11-21")
    with pytest.raises(BadSettings, match="no day"):
        day_ms("yesterday")


class Broken(LogHistory):
    """A history with a stretch that cannot be read."""

    def read(self, slot, first, end):
        if slot == Slot("trades", 3):
            raise RecordsLost("trades/3: 10-20 are missing")
        return super().read(slot, first, end)


def test_what_cannot_be_read_is_named_and_makes_the_check_incomplete(made):
    found = Session(Broken(made.log), made.settings, now=None, is_closed=True).compare()
    assert found.verdict == "incomplete"
    assert "trades/3: 10-20" in found.problems[0]
