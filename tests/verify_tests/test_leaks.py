import itertools
import random
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from consumers.verify.disturbed import Written
from consumers.verify.leaks import Examination, digest_of, examine, lines_of
from consumers.verify.leaks_futures import FUTURES, Tape, said
from consumers.verify.leaks_market import made_log, quiet_log
from consumers.verify.leaks_planted import LEAKS, TWINS
from consumers.verify.leaks_stages import DECISIONS, FEATURES, SIGNALS, TRAINING, features_of
from consumers.verify.leaks_studies import examine_study
from consumers.verify.leaks_subjects import Label, Output, Study, Subject
from streams.messages import Heartbeat, Hole, OrderBook, Trade, encode
from streams.stage import PartitionStage, StageOptions


@pytest.fixture(scope="module")
def quiet() -> list[Written]:
    return made_log(3, 2, 60, is_disturbed=False)


@pytest.fixture(scope="module")
def disturbed() -> list[Written]:
    return made_log(4, 2, 60, is_disturbed=True)


def by_second(
    records: Sequence[Written], kind: type[OrderBook | Trade]
) -> dict[tuple[int, str], list[OrderBook | Trade]]:
    found: dict[tuple[int, str], list[OrderBook | Trade]] = {}
    for record in records:
        message = said(record.topic, record.value)
        if isinstance(message, kind):
            found.setdefault((message.exchange_ms // 1000 * 1000 + 1000, message.market), []).append(message)
    return found


# --- the real stages and the planted leaks --------------------------------------------------------------------------


@pytest.mark.parametrize("subject", [FEATURES, SIGNALS, DECISIONS], ids=lambda one: one.name)
def test_the_real_stages_know_nothing_of_the_future(
    subject: Subject, quiet: list[Written], disturbed: list[Written]
) -> None:
    for records in (quiet, disturbed):
        found = examine(subject, records, cuts=3)
        assert found.is_clean, [one.text for one in found.findings]
        if records is quiet:
            assert found.outputs > 20


def test_a_finding_says_where_and_what(quiet: list[Written]) -> None:
    leak = next(one for one in LEAKS if one.name == "future book")
    assert isinstance(leak, Subject)
    found = examine(leak, quiet, cuts=2)
    assert not found.is_clean
    assert all(str(one.time_ms) in one.text and one.market in one.text for one in found.findings)
    assert all(str(one.cut_ms) in one.text and one.before != one.after for one in found.findings)


def test_records_that_were_written_out_of_order_are_refused(quiet: list[Written]) -> None:
    with pytest.raises(ValueError, match="record 1 was written"):
        examine(FEATURES, quiet[::-1])


# --- each check finds what it is there for --------------------------------------------------------------------------


def found_by(run: object, records: Sequence[Written], **fields: object) -> Examination:
    return examine(Subject("mine", run, **fields), records, cuts=8)  # type: ignore[arg-type]


def test_a_record_at_the_very_end_of_a_bin_belongs_to_the_next(quiet: list[Written]) -> None:
    def run(records: Sequence[Written]) -> list[Output]:
        outputs = []
        for record in records:
            message = said(record.topic, record.value)
            if isinstance(message, OrderBook) and record.at_ms - message.exchange_ms < 500:
                outputs.append(Output(message.exchange_ms + late_ms, message.market, (message.bid_prices[0],)))
        return outputs

    late_ms = 0
    assert found_by(run, quiet).changed.keys() >= {"altered values"}
    late_ms = 1
    assert found_by(run, quiet).is_clean


def test_back_filled_trades_are_found_even_where_they_came_in_time(quiet: list[Written]) -> None:
    def run(records: Sequence[Written]) -> list[Output]:
        kept = [record for record in records if record.at_ms - _event(record) < 500]
        return [Output(at, market, (len(them),)) for (at, market), them in by_second(kept, Trade).items()]

    assert set(found_by(run, quiet, lateness_ms=1_500).changed) == {"back-filled trades"}


def _event(record: Written) -> int:
    message = said(record.topic, record.value)
    return message.exchange_ms if isinstance(message, OrderBook | Trade) else record.at_ms


def test_a_hole_told_later_takes_nothing_back(quiet: list[Written]) -> None:
    def run(records: Sequence[Written]) -> list[Output]:
        holes = [one for one in (said(record.topic, record.value) for record in records) if isinstance(one, Hole)]
        rows = features_of(records)
        return [row for row in rows if not any(hole.from_ms < row.time_ms <= hole.to_ms for hole in holes)]

    found = found_by(run, quiet)
    assert set(found.changed) == {"insertion"}
    assert found.findings[0].after == "not there"


def test_a_pipeline_that_rolls_dice_is_found(quiet: list[Written]) -> None:
    count = itertools.count()
    found = found_by(lambda records: [Output(records[0].at_ms, "", (next(count),))], quiet)
    assert "a second run" in found.changed


def test_an_order_inside_a_bin_that_matters_is_found_where_it_is_declared_not_to(quiet: list[Written]) -> None:
    def run(records: Sequence[Written]) -> list[Output]:
        outputs = []
        for (at, market), them in by_second(records, Trade).items():
            trades = [one for one in them if isinstance(one, Trade)]
            outputs.append(Output(at, market, (trades[-1].price, sum(one.size for one in trades))))
        return outputs

    honest, wrong = (("trades", (1,)),), (("trades", (0,)),)
    slow = {"lateness_ms": 10_000}
    assert "order of trades inside a bin" not in found_by(run, quiet, independent=honest, **slow).changed
    assert "order of trades inside a bin" in found_by(run, quiet, independent=wrong, **slow).changed


@pytest.mark.parametrize("kind", ["topics", "markets"])
def test_an_order_between_topics_and_markets_that_matters_is_found(kind: str, disturbed: list[Written]) -> None:
    def run(records: Sequence[Written]) -> list[Output]:
        outputs, last = [], (0.0, "")
        for record in records:
            message = said(record.topic, record.value)
            if isinstance(message, OrderBook) and message.bid_prices:
                last = (message.bid_prices[0], message.market)
            elif isinstance(message, Trade):
                outputs.append(Output(message.trade_id, message.market, last[:1]))
        return outputs

    one_partition = [record._replace(partition=0) for record in disturbed]
    subject = Subject("mine", run, independent=((kind, (0,)),))  # type: ignore[arg-type]
    assert f"order of {kind} inside a bin" in examine(subject, one_partition, cuts=0).changed


def test_a_pipeline_without_outputs_says_so(quiet: list[Written]) -> None:
    found = found_by(lambda _records: [], quiet)
    assert (found.is_clean, found.outputs) == (True, 0)


# --- the futures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUTURES)
@hypothesis_settings(max_examples=6)
@given(second=st.floats(1, 58), seed=st.integers(0, 9))
def test_a_future_keeps_the_past_and_is_whole(name: str, second: float, seed: int) -> None:
    records = quiet_log(3, 2, 60)
    tape = Tape.of(records)
    cut_ms = records[0].at_ms + int(second * 1000)
    other = FUTURES[name](tape, cut_ms, 500, random.Random(seed))
    assert other != records
    assert [one.at_ms for one in other] == sorted(one.at_ms for one in other)

    def past(some: Sequence[Written]) -> list[Written]:
        return [
            one
            for one in some
            if one.at_ms <= cut_ms + 500 and _event(one) < cut_ms and not isinstance(_said(one), Heartbeat)
        ]

    assert past(other) == past(records)
    assert lost(other) == lost(records) == 0


def _said(record: Written) -> object:
    return said(record.topic, record.value)


def lost(records: Sequence[Written]) -> int:
    stages: dict[int, PartitionStage] = {}
    for record in records:
        message = said(record.topic, record.value)
        assert message is not None
        stages.setdefault(record.partition, PartitionStage(StageOptions())).apply(record.topic, message)
    return sum(n for stage in stages.values() for why, n in stage.counts().items() if "lost" in why)


@pytest.mark.parametrize("name", FUTURES)
def test_no_future_loses_records_that_the_history_has(name: str, disturbed: list[Written]) -> None:
    tape, rng = Tape.of(disturbed), random.Random(1)
    for cut_ms in range(disturbed[0].at_ms + 3_000, disturbed[-1].at_ms, 9_000):
        assert lost(FUTURES[name](tape, cut_ms, 500, rng)) <= lost(disturbed)


def a_restart(unseen: int = 0) -> list[Written]:
    """One market, two sessions; a record of the first, written before the second begins, is far ahead of its time.

    The second session had written so many records before, unseen.
    """
    moments = (  # time of writing, session, and the event time of a book or (event time, count) of a heartbeat
        (0, 1, (0, 0)), (1_500, 1, (1_000, 0)), (1_600, 1, 5_000), (2_500, 1, (2_000, 1)),
        (2_600, 2, (3_000, unseen)), (4_100, 2, 4_060), (4_200, 2, 4_160), (4_500, 2, (4_000, unseen + 2)),
    )  # fmt: skip
    written = []
    for at_ms, session, said_then in moments:
        who = {"exchange": "upbit", "source": "upbit-0", "session": session}
        if isinstance(said_then, int):
            book = OrderBook(
                **who, market="KRW-A", exchange_ms=said_then, received_ns=at_ms * 10**6,
                bid_prices=[9.0], bid_sizes=[1.0], ask_prices=[11.0], ask_sizes=[1.0],
            )  # fmt: skip
            written.append(Written(at_ms, "orderbooks", 0, "upbit:KRW-A", encode(book)))
            continue
        for topic in ("orderbooks", "trades"):
            beat = Heartbeat(
                **who, event_ms=said_then[0], count=said_then[1] if topic == "orderbooks" else 0,
                complete_from_ms=3_000 if session == 2 else 0, markets=["KRW-A"],
            )  # fmt: skip
            written.append(Written(at_ms, topic, 0, "", encode(beat)))
    return written


def orders_of_books(records: Sequence[Written]) -> set[tuple[int, ...]]:
    tape = Tape.of(records)
    futures = (FUTURES["reordering"](tape, 4_000, 500, random.Random(seed)) for seed in range(60))
    return {
        tuple(_event(record) for record in future if isinstance(_said(record), OrderBook)) for future in futures
    }  # fmt: skip


def test_no_record_is_written_before_the_heartbeat_that_begins_its_session() -> None:
    """Else that heartbeat would count it, and eight bins from there on would be given up: 4,000 would be gone."""
    records = a_restart()
    assert [row.time_ms for row in features_of(records)] == [1_000, 2_000, 4_000]
    for seed in range(20):
        future = FUTURES["reordering"](Tape.of(records), 4_000, 500, random.Random(seed))
        assert features_of(future) == features_of(records)
    assert orders_of_books(records) == {(5_000, 4_060, 4_160), (5_000, 4_160, 4_060)}


def test_every_other_order_may_come() -> None:
    without_heartbeats = [record for record in a_restart() if not isinstance(_said(record), Heartbeat)]
    assert len(orders_of_books(without_heartbeats)) == len(orders_of_books(a_restart(unseen=7))) == 6


def test_hashes_tell_null_nan_and_the_last_bit_apart() -> None:
    def digest(*values: float | None) -> str:
        return digest_of(lines_of([Output(1, "a", values)]))

    digests = {
        digest(None),
        digest(float("nan")),
        digest(0.1),
        digest(0.1 + 2**-56),
        digest(0.0),
        digest(-0.0),
        digest(),
    }
    assert len(digests) == 7
    assert digest(float("nan")) == digest(float("nan"))


# --- studies --------------------------------------------------------------------------------------------------------


def test_a_study_that_scales_by_its_training_rows_is_clean_and_one_by_all_rows_is_not(quiet: list[Written]) -> None:
    leak, twin = (next(one for one in some if isinstance(one, Study)) for some in (LEAKS, TWINS))
    assert "altered values" in examine_study(leak, quiet, cuts=4).features.changed
    studied = examine_study(twin, quiet, cuts=4)
    assert studied.is_clean, studied.findings
    assert studied.peek is not None
    assert studied.peek.p <= 1e-4


def test_a_table_that_holds_its_label_is_found_by_its_score_alone(quiet: list[Written]) -> None:
    """The labels stand in a table made before: the features do not follow the records, so no other future shows it."""

    def features(records: Sequence[Written], _fit_end_ms: int) -> list[Output]:
        if len(records) < 5_000:
            return []
        return [Output(one.time_ms, one.market, (one.value + noise.gauss(0, 20),)) for one in TRAINING.label(records)]

    noise = random.Random(1)
    studied = examine_study(Study("leak", features, TRAINING.label, delay_ms=1000), quiet, cuts=2)
    assert {one.check for one in studied.findings} >= {"placebo"}


def test_features_one_bin_ahead_are_found_though_the_label_begins_a_bin_later(quiet: list[Written]) -> None:
    def features(records: Sequence[Written], fit_end_ms: int) -> list[Output]:
        rows = TRAINING.features(records, fit_end_ms)
        return [row._replace(time_ms=row.time_ms - 1000) for row in rows] if len(records) > 5_000 else []

    studied = examine_study(Study("leak", features, TRAINING.label, delay_ms=1000), quiet, cuts=2)
    assert [one.check for one in studied.findings] == ["features one bin newer"]


def test_a_label_that_says_it_is_known_too_early_is_found(quiet: list[Written]) -> None:
    def label(records: Sequence[Written]) -> list[Label]:
        return [one._replace(known_ms=one.known_ms - 2_000) for one in TRAINING.label(records)]

    assert not examine_study(TRAINING._replace(label=label), quiet, cuts=4).labels.is_clean


def test_values_of_a_trade_may_change_without_its_time(quiet: list[Written]) -> None:
    tape = Tape.of(quiet)
    cut_ms = quiet[len(quiet) // 2].at_ms
    other = FUTURES["altered values"](tape, cut_ms, 500, random.Random(1))
    pairs = [(_said(one), _said(two)) for one, two in zip(quiet, other, strict=True) if one != two]
    assert pairs
    for one, two in pairs:
        assert isinstance(one, OrderBook | Trade)
        assert isinstance(two, OrderBook | Trade)
        assert one.exchange_ms == two.exchange_ms
        assert msgspec.structs.asdict(one) != msgspec.structs.asdict(two)
