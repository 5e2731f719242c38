"""The verbs `observator replay ...`, the bench, and that nothing of a replay reaches an exchange."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

import observator
from consumers.execute import executor
from consumers.execute.guard import REPLAY_PREFIX, refuse_replay
from consumers.replay import marks
from consumers.replay.bench import archive_log, bench_replay
from infra.errors import AlreadyRunning, BadSettings, Stop
from infra.kafka import KafkaLog
from infra.memory_log import MemoryLog
from infra.settings import Settings
from streams.history import LogHistory
from streams.stage import INPUTS

if TYPE_CHECKING:
    from infra.servers.kafka import KafkaServer

Run = Callable[..., dict[str, Any]]
ROOT = Path(observator.__file__).parent


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in list(os.environ):
        if name.startswith("OBSERVATOR_") and name != "OBSERVATOR_DATA":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OBSERVATOR_GRID__WINDOW_BINS", "40")

    def call(*arguments: str) -> dict[str, Any]:
        result = CliRunner().invoke(observator.app, ["--home", str(tmp_path / "home"), *arguments, "--json"])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return dict(json.loads(result.stdout.strip().splitlines()[-1])) if result.exit_code == 0 else {}

    return call


@pytest.fixture
def archive(recorded: MemoryLog, tmp_path: Path) -> Path:
    archive_log(recorded, tmp_path / "archive")
    return tmp_path / "archive"


def test_an_archive_is_replayed_in_memory_whatever_the_batch(run: Run, archive: Path) -> None:
    one = run("replay", "memory", "--from", str(archive), "--batch", "77")
    two = run("replay", "memory", "--from", str(archive))
    assert one["features"] == two["features"] > 500
    assert one["features hash"] == two["features hash"] != ""
    assert one["signals hash"] == two["signals hash"] != ""
    with pytest.raises(BadSettings, match="read an archive only"):
        run("replay", "memory", "--workers", "2")


@pytest.mark.kafka
def test_a_copy_killed_with_9_goes_on_and_holds_every_record_once(
    run: Run, archive: Path, recorded: MemoryLog, broker: "KafkaServer", monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OBSERVATOR_KAFKA__BOOTSTRAP", broker.bootstrap)
    name = f"v{os.getpid()}"
    arguments = ("replay", "write", name, "--from", str(archive), "--topics", "orderbooks,trades")
    command = (sys.executable, "-P", "-m", "observator", "--home", str(tmp_path / "home"), *arguments, "--speed", "25")
    source = LogHistory(recorded)
    spans = source.spans(INPUTS)
    with KafkaLog(broker.bootstrap, f"replay-{name}-") as log:
        slow = subprocess.Popen(command, env=dict(os.environ), cwd=ROOT)
        try:
            _until(lambda: _count(log) > 100, slow)
            with pytest.raises(AlreadyRunning, match="another process"):
                run(*arguments)
        finally:
            slow.send_signal(signal.SIGKILL)
            slow.wait()
        found = run(*arguments)
        assert (found["prefix"], found["is_complete"]) == (log.prefix, True)
        assert found["found_from_before"] >= 100
        assert found["records"] + found["found_from_before"] == sum(end - first for first, end in spans.values())
        written = LogHistory(log)
        assert written.spans(INPUTS) == spans
        for slot, span in spans.items():
            pairs = zip(source.read(slot, *span), written.read(slot, *span), strict=True)
            assert all((a.key, a.value, a.offset) == (b.key, b.value, b.offset) for a, b in pairs)
    with pytest.raises(Stop, match="complete already"):
        run(*arguments)


def _count(log: KafkaLog) -> int:
    return sum(end - first for first, end in LogHistory(log).spans(INPUTS).values())


def _until(is_done: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    while not is_done():
        assert process.poll() is None, "the copy ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_verbs_say_what_is_wrong(run: Run, archive: Path, tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="cannot name a run"):
        run("replay", "write", "a b", "--from", str(archive))
    with pytest.raises(BadSettings, match=r"no archive\.json"):
        run("replay", "memory", "--from", str(tmp_path / "nothing"))
    with pytest.raises(BadSettings, match="no sandbox's journal"):
        run("replay", "fills", "--from", str(archive))


def test_no_order_of_a_replay_is_sent_for_real_money(tmp_path: Path) -> None:
    assert marks.PREFIX == REPLAY_PREFIX
    refuse_replay("replay-a-", is_live_allowed=False)
    refuse_replay("", is_live_allowed=True)
    settings = Settings.model_validate(
        {"home": tmp_path, "kafka": {"prefix": "replay-a-"}, "execute": {"allow_live": True}}
    )
    with pytest.raises(BadSettings, match=r"execute\.allow_live"):
        executor.run(settings, None, None)  # type: ignore[arg-type]


def test_the_bench_tells_both_ways_and_that_they_agree() -> None:
    found: dict[str, Any] = bench_replay(quick=True)
    assert found["passed"], found["figures"]
    assert found["figures"]["in memory, 4 markets: market-hours a minute"] > 0
