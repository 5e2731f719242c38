"""The check of an import against the live path, in its short form; and that it knows late from wrong."""

from pathlib import Path
from typing import Any

import pytest

from infra.errors import BadSettings
from infra.log import Record
from infra.settings import Settings
from producers.upbit.replay_source import records_of_recording
from producers.verify.explained import compare, unused
from producers.verify.imports import recordings, rerun, verify_import


def run_of(path: Path, lateness_ms: int) -> Any:
    offsets: dict[tuple[str, int], int] = {}
    records = []
    for output in records_of_recording(path, 1_000, lateness_ms, 1):
        slot = output.topic, output.partition
        offset = offsets[slot] = offsets.get(slot, -1) + 1
        records.append(Record(output.topic, output.partition, offset, 0, output.key, output.value))
    return rerun(records, Settings())


def test_an_import_gives_what_the_live_path_gives(data_folder: Path) -> None:
    found = verify_import(quick=True, folder=data_folder)
    assert found["passed"], found
    figures: Any = found["figures"]
    assert figures["upbit_ws_raw_20210417.log.gz: rows compared"] == 150
    assert figures["upbit_ws_raw_20210417.log.gz: import: before the session is complete"] == 3


def test_lateness_explains_and_nothing_else_does(data_folder: Path) -> None:
    path = recordings(data_folder)[0]
    patient, hasty = run_of(path, 500), run_of(path, 50)
    late = {what: item for what, item in unused(hasty.raw, 1_000).items() if what not in unused(patient.raw, 1_000)}
    assert len(late) > 10
    found = compare(hasty.rows, patient.rows, late.values(), 1_000)
    assert found.differing > 20
    assert (found.explained, found.unexplained) == (found.differing, [])
    assert "late" in found.shown[0]
    half = list(late.values())[::2]
    assert compare(hasty.rows, patient.rows, half, 1_000).unexplained != []
    assert compare(hasty.rows, hasty.rows, [], 1_000).differing == 0
    fewer = compare(hasty.rows[:-30], hasty.rows, [], 1_000)
    assert (fewer.missing, len(fewer.unexplained)) == (30, 5)


def test_without_recordings_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="set OBSERVATOR_DATA"):
        verify_import(quick=True, folder=tmp_path)
