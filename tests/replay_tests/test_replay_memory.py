"""Stages in memory: the same bytes whatever the batch and the workers, equal to those of the live stages."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from consumers.replay.conditions import Conditions, conditions_of, segments_of, settings_of
from consumers.replay.memory import lead_ms, run_features
from consumers.replay.stages import into, new_log, records_of, run_stages
from consumers.replay.summary import replay_here
from consumers.verify.disturbed import Written
from consumers.verify.parity import alter_one_byte, outcome_of, run_in_memory
from infra.errors import BadSettings, RecordsLost
from infra.log import Record, Slot, publish_one
from infra.manifest import as_fields, make_manifest
from infra.memory_log import MemoryLog
from infra.settings import Settings
from streams.history import LogHistory, spans_between
from streams.messages import RunManifest, encode
from streams.stage import INPUTS

OUTPUTS = ("features", "signals")


def content(log: MemoryLog) -> list[tuple[str, int, str, bytes]]:
    return [(r.topic, r.partition, r.key, r.value) for topic in OUTPUTS for r in records_of(log, topic)]


def test_batches_and_workers_change_no_byte(history: LogHistory, conditions: Conditions) -> None:
    spans = history.spans(INPUTS)
    first = content(run_stages(history, spans, conditions))
    assert len(first) > 1_000
    assert {name for name, *_ in first} == set(OUTPUTS)
    for batch, workers in ((1, 2), (100_000, 3)):
        assert content(run_stages(history, spans, conditions, batch=batch, workers=workers)) == first


def test_the_result_is_that_of_the_live_stages(
    disturbed: list[Written], history: LogHistory, today: Settings, conditions: Conditions
) -> None:
    replayed = outcome_of(run_stages(history, history.spans(INPUTS), conditions), today.grid.window_bins)
    live = run_in_memory(today, disturbed, 2)
    assert replayed.difference(live) == 0
    assert len(replayed.signals) > 1_000


def test_an_altered_byte_is_found(
    disturbed: list[Written], history: LogHistory, today: Settings, conditions: Conditions, make_log: Callable[..., Any]
) -> None:
    before = outcome_of(run_stages(history, history.spans(INPUTS), conditions), today.grid.window_bins)
    found = []
    for seed in (1, 2):  # what is altered may have come too late to count
        altered = LogHistory(make_log(list(alter_one_byte(disturbed, seed))))
        after = outcome_of(run_stages(altered, altered.spans(INPUTS), conditions), today.grid.window_bins)
        found.append(after.difference(before))
    assert max(found) > 0


def test_a_stretch_from_the_middle_gives_the_rows_of_the_whole(history: LogHistory, conditions: Conditions) -> None:
    whole = {(r.key, r.value) for r in _rows(history, history.spans(INPUTS), conditions, 0)}
    first_ms = min(record.append_ms for record in _raw(history)) + 90_000
    spans = spans_between(history, INPUTS, first_ms - 80_000, None)
    assert all(first > 0 for first, _ in spans.values())
    part = _rows(history, spans, conditions, first_ms)
    assert len(part) > 100
    assert {(r.key, r.value) for r in part} <= whole
    assert lead_ms(conditions) >= (40 + 5) * 1_000


def _raw(history: LogHistory) -> list[Record]:
    return [record for slot, span in history.spans(INPUTS).items() for record in history.read(slot, *span)]


def _rows(history: LogHistory, spans: dict[Slot, tuple[int, int]], conditions: Conditions, since: int) -> list[Record]:
    log = new_log()
    run_features(history, spans, conditions, into(log), since_ms=since)
    return [record for topic in OUTPUTS for record in records_of(log, topic)]


def test_memory_does_not_grow_with_the_length(history: LogHistory, conditions: Conditions) -> None:
    def peak(end_ms: int) -> int:
        spans = spans_between(history, INPUTS, None, end_ms)
        tracemalloc.start()
        run_features(history, spans, conditions, lambda *_: None, partitions=range(3))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    first_ms = min(record.append_ms for record in _raw(history))
    peak(first_ms + 5_000)  # what is made once
    assert peak(first_ms + 130_000) < 1.3 * peak(first_ms + 65_000)


def test_a_missing_stretch_is_named(history: LogHistory, recorded: MemoryLog, conditions: Conditions) -> None:
    spans = history.spans(INPUTS)
    slot = next(iter(spans))
    recorded.truncate(slot, 100)
    with pytest.raises(RecordsLost, match=f"{slot.topic}-{slot.partition}"):
        run_stages(history, spans, conditions)


def test_a_batch_or_workers_below_one_are_refused(history: LogHistory, conditions: Conditions) -> None:
    for wrong in ({"batch": 0}, {"workers": 0}):
        with pytest.raises(BadSettings):
            run_stages(history, history.spans(INPUTS), conditions, **wrong)


# --- settings of the time -----------------------------------------------------------------------------------------


def manifest(process: str, settings: Settings, started_ms: int = 1, **further: Any) -> RunManifest:
    content = settings.model_dump(mode="json") | further
    return RunManifest(**as_fields(make_manifest(process, content, started_ms=started_ms, root=settings.home)))


def test_settings_come_from_the_manifest_of_the_time(recorded: MemoryLog, today: Settings) -> None:
    then = Settings.model_validate(
        {"home": today.home, "grid": {"window_bins": 20}, "feed": {"markets": ["KRW-BTC", "KRW-ETH"], "speed": 2.5}}
    )
    again = settings_of(manifest("streams", then), today.home)
    assert (again.grid, again.feed, again.predict, again.trade) == (then.grid, then.feed, then.predict, then.trade)
    publish_one(recorded, "manifests", "streams", encode(manifest("streams", then)))
    publish_one(recorded, "manifests", "predict", encode(manifest("predict", then, serving="model-1")))
    publish_one(recorded, "manifests", "streams", encode(manifest("streams", then, started_ms=2)))  # a restart
    (only,) = segments_of(LogHistory(recorded), today)
    assert only.first_ms == 0
    assert only.conditions.streams.grid.window_bins == 20
    assert only.conditions.serving == "model-1"
    assert only.conditions.trade == today  # it left no manifest
    publish_one(recorded, "manifests", "streams", encode(manifest("streams", today)))
    first, second = segments_of(LogHistory(recorded), today)
    assert (first.end_ms, second.end_ms) == (second.first_ms, None)
    assert second.conditions.streams.grid.window_bins == 40


def test_a_manifest_with_a_value_of_no_sense_today_is_refused(today: Settings) -> None:
    told = manifest("streams", today)
    with pytest.raises(BadSettings, match=told.id):
        conditions_of({"streams": _with(told, "grid.grid_ms", "7")}, today)
    assert settings_of(_with(told, "grid.moon_phase", "new"), today.home).grid == today.grid


def _with(told: RunManifest, name: str, value: str) -> RunManifest:
    return RunManifest(
        **{**{f: getattr(told, f) for f in told.__struct_fields__}, "settings": told.settings | {name: value}}
    )


def test_a_summary_has_the_same_hashes_again(history: LogHistory, today: Settings) -> None:
    one = replay_here(today, history, (None, None), 500)
    two = replay_here(today, history, (None, None), 13)
    assert one.digests == two.digests
    assert one.told()["features hash"] == two.told()["features hash"] != ""
    assert one.counts["features"] > 500
    with pytest.raises(BadSettings, match="nothing is replayed"):
        replay_here(today, history, (1, 2), 500)
