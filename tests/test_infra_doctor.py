"""The doctor's findings: each with a remedy where it is not fine."""

import ctypes
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from infra import doctor, supervisor
from infra.doctor import Finding
from infra.errors import BadSettings, Unsupported
from infra.kafka import KafkaLog
from infra.log import TopicSpec
from infra.servers.jars import default_cache
from infra.servers.kafka import KafkaServer
from infra.servers.ports import port_of
from infra.settings import DashboardSettings, FeedSettings, KafkaSettings, Settings

TOPICS = [TopicSpec("orderbooks", 1, {"retention.ms": str(3 * 86_400_000)}), TopicSpec("signals", 1, {})]


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", dashboard=DashboardSettings(port=port_of(tmp_path, "page")))


def _only(findings: Any) -> Finding:
    (found,) = findings
    assert isinstance(found, Finding)
    assert bool(found.remedy) == (found.verdict != "ok")
    return found


def test_every_part_is_looked_at_and_each_trouble_has_a_remedy(home: Settings) -> None:
    findings = doctor.examine(lambda: home, TOPICS)
    assert [found.name for found in findings] == [
        *("Python", "Java", "Kafka's files", "memory", "clock", "settings", "disk", "ports", "Kafka", "leftovers"),
        "executor",
    ]
    assert all(bool(found.remedy) == (found.verdict != "ok") for found in findings)


def test_wrong_settings_are_a_finding_not_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    def read() -> Settings:
        raise BadSettings("there is no setting `feed.knid`")

    assert not doctor.show(read, TOPICS)
    text = capsys.readouterr().out
    assert "fail  settings" in text
    assert "feed.knid" in text
    assert "-> Correct the name" in text
    assert "ok    Python" in text


def test_the_findings_are_one_json_object(home: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    is_healthy = doctor.show(lambda: home, TOPICS, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["is_healthy"] is is_healthy
    assert {"name", "verdict", "text", "remedy"} == set(shown["findings"][0])


@pytest.mark.parametrize(("version", "verdict"), [((3, 10), "fail"), ((3, 14), "fail"), ((3, 12), "ok")])
def test_python(version: tuple[int, int], verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    assert _only([doctor.check_python(version)]).verdict == verdict


def test_python_on_another_machine_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert _only([doctor.check_python((3, 12))]).verdict == "warn"


def test_java_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_environ: object) -> Path:
        raise Unsupported("run `make setup`")

    monkeypatch.setattr(doctor, "find_java", none)
    assert _only([doctor.check_java()]).verdict == "fail"


def test_files_that_are_not_fetched_yet(tmp_path: Path) -> None:
    found = _only([doctor.check_jars(tmp_path)])
    assert found.verdict == "warn"
    assert "46 of 46 files are not here yet (45 MB)" in found.text


@pytest.mark.parametrize(("available", "verdict"), [(8e9, "ok"), (2e9, "warn"), (1e9, "fail")])
def test_memory(available: float, verdict: str) -> None:
    assert _only([doctor.check_memory(int(available))]).verdict == verdict


@pytest.mark.parametrize(
    ("kept", "verdict", "text"),
    [(None, "ok", "cannot be told"), ((True, 12.0), "ok", "12 ms"), ((False, 0.0), "warn", "no time service")],
)
def test_clock(kept: tuple[bool, float] | None, verdict: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "clock_is_kept", lambda: kept)
    for _ in range(20):  # a busy machine may itself stretch one of the two readings
        found = _only([doctor.check_clock()])
        if "jumped" not in found.text:
            break
    assert found.verdict == verdict
    assert text in found.text


def test_a_clock_that_jumps(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([100.0, 107.0])
    monkeypatch.setattr(time, "time", lambda: next(readings))
    found = _only([doctor.check_clock()])
    assert found.verdict == "warn"
    assert "jumped" in found.text


def test_the_kernel_says_whether_the_clock_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    if platform.system() == "Linux":
        kept = doctor.clock_is_kept()
        assert kept is None or kept[1] >= 0

    class Refusing:
        def adjtimex(self, _timex: object) -> int:
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Refusing())
    assert doctor.clock_is_kept() is None
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    assert doctor.clock_is_kept() is None
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert doctor.clock_is_kept() is None


def test_disk_needed_follows_feed_and_retention() -> None:
    needed, books, days = doctor.disk_needed(Settings(feed=FeedSettings(market_count=200)), TOPICS)
    assert (books, days) == (1_000.0, 3.0)
    assert needed == pytest.approx(3 * 22.7e9 * doctor.RESERVE)
    assert doctor.disk_needed(Settings(feed=FeedSettings(kind="upbit")), TOPICS)[1] == 1_250.0
    few = Settings(feed=FeedSettings(kind="upbit", markets=["KRW-BTC"]))
    assert doctor.disk_needed(few, TOPICS)[1] == 5.0
    assert doctor.disk_needed(Settings(), [])[0] == 0


@pytest.mark.parametrize(("free", "verdict"), [(1e12, "ok"), (2e9, "warn"), (1e8, "fail")])
def test_disk(home: Settings, free: float, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: type("Usage", (), {"free": free}))
    assert _only(doctor.check_disk(home, TOPICS)).verdict == verdict


def test_a_port_in_use_is_named(home: Settings) -> None:
    assert _only(doctor.check_ports(home)).verdict == "ok"
    with socket.socket() as other:
        other.bind(("127.0.0.1", home.dashboard.port))
        other.listen()
        found = _only(doctor.check_ports(home))
    assert found.verdict == "warn"
    assert f"page {home.dashboard.port}" in found.text


def test_kafka_that_does_not_serve(home: Settings) -> None:
    assert "not started" in _only(doctor.check_kafka(home, TOPICS)).text
    nowhere = home.model_copy(update={"kafka": KafkaSettings(bootstrap=f"127.0.0.1:{port_of(home.home, 'none')}")})
    assert _only(doctor.check_kafka(nowhere, TOPICS)).verdict == "fail"


@pytest.mark.kafka
def test_kafka_that_serves_and_its_topics(broker: KafkaServer) -> None:
    prefix = f"doctor-{os.getpid()}-"
    settings = Settings(home=broker.home, kafka=KafkaSettings(prefix=prefix))
    serves, topics = doctor.check_kafka(settings, TOPICS)
    assert serves.verdict == "ok"
    assert (topics.verdict, topics.remedy) == ("fail", "`observator topics create`")
    with KafkaLog(broker.bootstrap, prefix) as log:
        log.create_topics(TOPICS)
    _, topics = doctor.check_kafka(settings, TOPICS)
    assert topics.verdict == "ok"


def test_a_process_of_a_former_run_is_found(home: Settings) -> None:
    home.home.mkdir()
    assert _only([doctor.check_leftovers(home.home)]).verdict == "ok"
    environ = {**os.environ, supervisor.MARK: str(home.home)}
    command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE) as left:
        assert left.stdout is not None
        left.stdout.readline()
        found = _only([doctor.check_leftovers(home.home)])
        left.kill()
    assert found.verdict == "warn"
    assert str(left.pid) in found.text
    assert "down" in found.remedy


def test_a_run_folder_that_runs_is_no_trouble(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "is_running", lambda _home: True)
    assert _only([doctor.check_leftovers(home.home)]).text == "this run folder is running"
    assert "in use by us" in _only(doctor.check_ports(home)).text


def test_the_cache_is_looked_for_where_the_broker_looks() -> None:
    assert default_cache(os.environ).name == "observator"
