"""The command line: exit codes, one clear line for an error, JSON, and the processes it runs."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import observator
from infra import configuration
from infra.errors import BadSettings, Stop
from infra.kafka import KafkaLog
from infra.log import Log, TopicSpec, slots_of
from infra.servers.kafka import KafkaServer
from infra.settings import Settings
from producers.readiness import refuse_another_feed
from streams import messages as m
from streams.topics import TOPICS

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(observator.__file__).parent


@pytest.fixture(autouse=True)
def _quiet_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith("OBSERVATOR_") and name != "OBSERVATOR_DATA":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    handlers = list(logging.getLogger().handlers)
    kept = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    yield
    os.environ.pop("OBSERVATOR_WORKER", None)
    logging.getLogger().handlers[:] = handlers
    logging.captureWarnings(False)
    for one, handler in kept.items():
        signal.signal(one, handler)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["observator", *arguments])
        code = 0
        try:
            observator.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def deployment(broker: KafkaServer, kafka_log: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> KafkaLog:
    monkeypatch.setenv("OBSERVATOR_KAFKA__BOOTSTRAP", broker.bootstrap)
    monkeypatch.setenv("OBSERVATOR_KAFKA__PREFIX", kafka_log.prefix)
    return kafka_log


def test_help_names_every_verb_and_loads_no_room() -> None:
    rooms = "('streams', 'consumers', 'numba')"
    script = f"import sys, observator; print(*[name for name in sys.modules if name.split('.')[0] in {rooms}])"
    loaded = set(subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True).split())
    rooms_with_verbs = {f"consumers.{room}" for room in ("archive", "execute", "replay", "report")}
    # the verbs of these rooms: their own names and options, nothing of the rooms
    verbs = tuple(f"{room}.command_line" for room in rooms_with_verbs)
    assert {name for name in loaded if not name.startswith(verbs)} == {"consumers", *rooms_with_verbs}
    told = subprocess.check_output([sys.executable, "-m", "observator", "--help"], cwd=ROOT, text=True)
    for verb in ("version", "doctor", "show-config", "topics", "up", "down", "status", "logs", "demo", "record", "read",
                 "train", "verify", "bench"):  # fmt: skip
        assert verb in told
    assert "process " not in told


def test_version_and_settings(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run("version", "--json")
    assert (code, json.loads(out)["kafka"]) == (0, "4.3.1")
    monkeypatch.setenv("OBSERVATOR_FEED__SEED", "11")
    code, out, _ = run("--home", "here", "show-config", "--json")
    found = json.loads(out)
    assert found["feed.seed"] == "11"
    assert found["home"] == str(Path("here").absolute())
    assert "feed.seed = 11" in run("show-config")[1]


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        (["show-config"], {"OBSERVATOR_FEED__SPED": "1"}, "sped"),
        (["--settings", "nowhere.toml", "show-config"], {}, "nowhere.toml does not exist"),
        (["demo", "--recording", "nowhere.gz"], {}, "nowhere.gz does not exist"),
        (["up"], {"OBSERVATOR_FEED__KIND": "recording", "OBSERVATOR_FEED__RECORDING": "x"}, "file that exists"),
        (["read", "no-such-topic"], {}, "there is no topic"),
        (["read", "trades", "--from", "yesterday"], {}, "neither ISO 8601"),
        (["verify", "no-such-thing"], {}, "there is no 'no-such-thing'"),
        (["demo", "--recording", __file__, "--feed", "upbit"], {}, "exclude each other"),
        (["no-such-verb"], {}, "no-such-verb"),
    ],
)  # fmt: skip
def test_bad_usage_is_one_clear_line_and_code_2(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], variables: dict[str, str], words: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code, _, err = run(*arguments)
    assert code == 2
    assert words in " ".join(err.split())
    assert "Traceback" not in err


def test_nothing_runs_here(run: Run) -> None:
    assert run("status") == (1, f"Nothing runs on {Path('.observator').absolute()}.\n", "")
    assert run("status", "--json")[1] == "[]\n"
    assert "Nothing ran on" in run("down")[1]
    code, _, err = run("logs", "feed")
    assert (code, err.startswith("observator: There is no log of a process 'feed'")) == (1, True)
    assert run("logs")[0] == 0


def test_logs_are_readable(run: Run) -> None:
    folder = Path(".observator/logs")
    folder.mkdir(parents=True)
    line = {"time_ms": 0, "level": "info", "process": "feed", "logger": "a", "text": "connected", "trace": "T"}
    (folder / "feed.log").write_text(json.dumps(line) + '\nplain\n{"broken\n{"other": 1}\n')
    assert run("logs", "feed")[1] == '00:00:00.000 info a: connected\nT\nplain\n{"broken\n{"other": 1}\n'
    assert run("logs", "-n", "3")[1].splitlines()[0] == "      feed | plain"
    assert json.loads(run("logs", "--json")[1].splitlines()[1]) == {"process": "feed", "line": "plain"}


def test_an_exchange_out_of_reach_is_one_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producers.upbit.addresses.REAL_REST", "http://127.0.0.1:9")
    for arguments in (["demo", "--feed", "upbit"], ["record", "x.gz", "--feed", "upbit"]):
        code, _, err = run(*arguments)
        assert code == 1
        assert err.startswith("observator: The exchange Upbit cannot be reached from this machine (")
        assert err.count("\n") == 1
    assert not Path(".observator").exists()


@pytest.mark.kafka
def test_topics_and_reading(run: Run, deployment: KafkaLog) -> None:
    missing = json.loads(run("topics", "list", "--json")[1])
    assert {row["partitions"] for row in missing} == {"missing"}
    assert set(json.loads(run("topics", "create", "--json")[1])["created"]) == set(TOPICS)
    assert run("topics", "create")[1] == "created = \n"
    publisher = deployment.publisher()
    for at in (1000, 2000):
        message = m.FeedEvent(
            exchange="upbit", source="s", session=1, kind="connected", event_ms=at, received_ns=0, text="ü"
        )
        publisher.publish("feed-events", "k", m.encode(message))
    publisher.publish("feed-events", "", b"{")
    publisher.flush()
    found = {row["topic"]: row for row in json.loads(run("topics", "list", "--json")[1])}
    assert found["feed-events"]["records"] == 3
    assert "feed-events" in run("topics", "list")[1]
    code, out, err = run("read", "feed-events", "--from", "1970-01-01T00:00:02+00:00", "--to", "3000")
    (line,) = [json.loads(one) for one in out.splitlines()]
    assert (code, line["value"]["event_ms"], line["value"]["text"], line["key"]) == (0, 2000, "ü", "k")
    assert "cannot be read" in err
    assert "2 records in" in run("read", "feed-events", "--parquet", "out.parquet")[1]
    assert pq.read_table("out.parquet").num_rows == 2
    code, _, err = run("train", "--model", "linear")
    assert (code, "Traceback" in err) == (1, False)


CALLS: list[object] = []
"""What the stand-in of a process was given."""


def runs(settings: Settings, log: Log, stop: threading.Event) -> None:
    logging.getLogger("stand-in").info("working")
    CALLS.append((settings.feed.seed, log.partitions("trades"), os.environ["OBSERVATOR_WORKER"]))
    stop.set()


def ends(*_: object) -> None:
    CALLS.append("ended")


def fails(*_: object) -> None:
    raise ValueError("odd")


def refuses(*_: object) -> None:
    raise Stop("port in use")


def figures(*, quick: bool, trials: int = 3) -> dict[str, Any]:
    print("on the way")
    return {"name": "x", "passed": quick, "figures": {"trials": trials}, "conditions": {"cpu": "any"}}


@pytest.mark.kafka
def test_a_process_waits_for_the_log_runs_and_is_told_apart(
    run: Run, deployment: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    sys.modules["stand_ins"] = sys.modules[__name__]
    CALLS.clear()
    monkeypatch.setitem(observator.PROCESSES, "views", "stand_ins:runs")
    specs = [TopicSpec(one.name, one.partitions, one.config) for one in TOPICS.values()]
    later = threading.Timer(1.0, lambda: deployment.create_topics(specs))
    later.start()
    code, out, _ = run("process", "views", "--worker", "3")
    assert code == 0
    assert CALLS == [(7, 12, "3")]
    assert "waiting for the log" in out
    later.join()
    bounds = deployment.bounds(slots_of(deployment, ["logs"]))
    assert sum(end for _, end in bounds.values()) >= 1
    monkeypatch.setitem(observator.PROCESSES, "views", "stand_ins:ends")
    code, out, _ = run("process", "views")
    assert (code, "although nobody asked" in out) == (1, True)
    monkeypatch.setitem(observator.PROCESSES, "views", "stand_ins:fails")
    code, out, _ = run("process", "views")
    assert (code, "ValueError: odd" in out) == (1, True)


def test_a_process_says_why_it_cannot_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sys.modules["stand_ins"] = sys.modules[__name__]
    monkeypatch.setitem(observator.PROCESSES, "sandbox", "stand_ins:refuses")
    code, out, _ = run("process", "sandbox")
    assert (code, json.loads(out)["text"]) == (1, "Stop: port in use")
    code, out, _ = run("process", "nobody")
    assert (code, "There is no process" in out) == (2, True)
    monkeypatch.setattr(observator, "settings_of", lambda _: Settings(home=Path("x")))
    monkeypatch.setattr("infra.servers.ports.is_free", lambda _: False)
    code, out, _ = run("process", "page")
    assert (code, "in use" in out) == (1, True)


def test_figures_are_one_object_and_decide_the_exit_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sys.modules["stand_ins"] = sys.modules[__name__]
    monkeypatch.setattr(observator, "VERIFY", {"x": "stand_ins:figures"})
    monkeypatch.setattr(observator, "BENCH", {"x": "stand_ins:figures"})
    code, out, err = run("verify", "x", "--quick", "--trials", "5", "--json")
    assert (code, json.loads(out)["figures"], err) == (0, {"trials": 5}, "on the way\n")
    code, out, _ = run("bench", "x")
    assert code == 1
    assert "NOT passed" in out
    assert run("bench", "list", "--json")[1] == '[{"name": "x"}]\n'


@pytest.mark.kafka
@pytest.mark.usefixtures("deployment")
def test_up_status_down(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declared = tmp_path / "Procfile"
    declared.write_text('kafka: false\nfeed: python -c "import time; time.sleep(600)"\n')
    monkeypatch.setattr("infra.supervisor.up.__kwdefaults__", {"declared": declared, "start_s": 1})
    try:
        code, out, err = run("up")
        assert (code, out) == (0, "Running: feed.\n"), err
        end = time.monotonic() + 10
        while "running" not in (shown := run("status")[1]) and time.monotonic() < end:
            time.sleep(0.1)
        assert "feed" in shown
        assert run("status")[0] == 0
        code, _, err = run("up")
        assert code == 1
        assert "runs already on" in err
    finally:
        code, out, _ = run("down")
    assert (code, out.startswith("Stopped")) == (0, True)


def test_a_folder_that_cannot_be_made_is_one_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, out, err = run("--home", str(tmp_path / "file" / "home"), "up")
    assert (code, out) == (1, "")
    assert str(tmp_path / "file") in err
    assert "Traceback" not in err


def test_a_full_disk_is_one_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        with Path("/dev/full").open("w") as file:
            file.write("x")

    monkeypatch.setattr(observator, "app", full)
    with pytest.raises(SystemExit, match="1"):
        observator.main()
    told = capsys.readouterr().err
    assert told.startswith("observator: ")
    assert "No space left" in told


def test_another_feed_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    settings = Settings.model_validate({"home": tmp_path, "feed": {"kind": "upbit"}})
    refuse_another_feed(settings)
    refuse_another_feed(settings)
    with pytest.raises(BadSettings, match="another folder"):
        refuse_another_feed(Settings(home=tmp_path))


def test_settings_of_the_processes_are_those_of_the_run(tmp_path: Path) -> None:
    settings = configuration.load(None, {"home": tmp_path / "home", "feed": {"seed": 3}})
    configuration.save(settings, tmp_path / "run" / "settings.json")
    assert configuration.load(tmp_path / "run" / "settings.json") == settings
