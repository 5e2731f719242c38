"""The demo on a real broker with stand-ins for the processes, its folder, and the screen."""

import io
import json
import os
import shlex
import signal
import threading
import time
from pathlib import Path

import pytest

from consumers.demo import MADE_HERE, Demo, Patience, prepare_home, stopping_on, write_summary
from infra import supervisor
from infra.catch_up import read_range
from infra.errors import AlreadyRunning, Stop
from infra.kafka import KafkaLog
from infra.log import Slot
from infra.reach import why_unreachable
from infra.servers.kafka import KafkaServer
from infra.settings import FeedSettings, KafkaSettings, Settings
from infra.terminal import Screen, Section, columns
from streams.messages import Halt
from streams.topics import decode

STAND_IN = Path(__file__).parent / "demo_processes.py"
WAITING = 'python -c "import time; time.sleep(600)"'


def demo(home: Path, broker: KafkaServer, processes: dict[str, str], **changes: object) -> tuple[Demo, io.StringIO]:
    declared = home.parent / "Procfile"
    declared.write_text("".join(f"{name}: {command}\n" for name, command in processes.items()))
    prefix = f"demo-{home.parent.name[-20:]}-"
    settings = Settings(home=home, kafka=KafkaSettings(bootstrap=broker.bootstrap, prefix=prefix))
    if changes.pop("is_recording", False):
        settings = settings.model_copy(update={"feed": FeedSettings(kind="recording", recording=Path("a.gz"))})
    shown = io.StringIO()
    run = Demo(
        settings,
        lambda: broker.bootstrap,
        lambda: KafkaLog(broker.bootstrap, prefix),
        Screen(shown, every_s=0.5),
        declared=declared,
        **changes,  # type: ignore[arg-type] # fields by name
    )
    return run, shown


def stand_in(script: str) -> str:
    return f"python {shlex.quote(str(STAND_IN))} {script}"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    found = tmp_path / "home"
    prepare_home(found)
    return found


@pytest.mark.kafka
def test_it_ends_by_itself_with_a_summary_and_leaves_nothing(home: Path, broker: KafkaServer) -> None:
    run, shown = demo(home, broker, {"feed": stand_in("synthetic"), "views": WAITING}, seconds=2)
    summary, problem = run.run()
    assert problem == ""
    assert summary["passed"]
    assert summary["counts"]["orderbooks"] > 0
    assert summary["forecast"]["largest_bp"] == 12.5
    assert summary["live_seconds"] >= 2
    assert summary["processes_left"] == 0
    assert not supervisor.marked(home)
    assert "Warming up" in shown.getvalue()
    assert "best 12.5" in shown.getvalue()
    assert json.loads(write_summary(home, summary).read_text()) == summary


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("script", "halts"),
    [("holding", ["sell-all", "lifted"]), ("holding-halted", ["sell-all", "no-new-orders"])],
    ids=["lifted again", "a person's halt stays"],
)
def test_what_is_held_when_the_time_is_over_is_sold(
    home: Path, broker: KafkaServer, script: str, halts: list[str]
) -> None:
    run, shown = demo(home, broker, {"feed": stand_in(script)}, seconds=2)
    summary, problem = run.run()
    assert problem == ""
    assert "Selling what is still held" in shown.getvalue()
    assert summary["sold_at_the_end"] == 1
    assert summary["money"]["open_positions"] == 0
    assert summary["live_seconds"] == pytest.approx(2, abs=1)
    with run.open_log() as log:
        slot = Slot("controls", 0)
        messages = [decode("controls", one.value) for one in read_range(log, {slot: 0})]
    assert [one.kind for one in messages if isinstance(one, Halt)] == halts


@pytest.mark.kafka
def test_a_recording_ends_when_the_stages_are_through(home: Path, broker: KafkaServer) -> None:
    run, _ = demo(home, broker, {"feed": stand_in("recording")}, is_recording=True)
    summary, problem = run.run()
    assert problem == ""
    assert summary["is_feed_over"]
    assert summary["reached_the_feeds_end"]
    assert summary["latency_ms"]["signals"] > 0


@pytest.mark.kafka
def test_a_dying_process_ends_it_with_the_end_of_its_log(home: Path, broker: KafkaServer) -> None:
    run, _ = demo(home, broker, {"feed": "python -c \"print('no such market'); exit(2)\"", "views": WAITING})
    run.patience = Patience(feed=30)
    summary, problem = run.run()
    assert "`feed` keeps dying" in problem
    assert "feed | no such market" in problem
    assert not summary["passed"]
    assert not supervisor.marked(home)


@pytest.mark.kafka
def test_no_data_and_no_signal_have_their_words(home: Path, broker: KafkaServer) -> None:
    run, _ = demo(home, broker, {"feed": WAITING}, patience=Patience(feed=1))
    assert "No market data came within 1 s." in run.run()[1]
    run, _ = demo(home, broker, {"feed": stand_in("silent")}, patience=Patience(progress=2))
    problem = run.run()[1]
    assert "Nothing came out of the stages for 2 s" in problem
    assert "The model refused: short-run: 3." in problem


@pytest.mark.kafka
def test_a_second_one_and_a_stop_before_the_first_signal(home: Path, broker: KafkaServer) -> None:
    run, _ = demo(home, broker, {"feed": WAITING})
    problems: list[str] = []
    running = threading.Thread(target=lambda: problems.append(run.run()[1]))
    running.start()
    end = time.monotonic() + 15
    while not supervisor.is_running(home) and time.monotonic() < end:
        time.sleep(0.05)
    with pytest.raises(AlreadyRunning, match="A demo runs already"):
        prepare_home(home)
    assert "runs already on" in demo(home, broker, {"feed": WAITING})[0].run()[1]
    assert supervisor.is_running(home)
    begun = time.monotonic()
    run.stop.set()
    running.join(15)
    assert time.monotonic() - begun < 10
    assert problems == ["It was stopped before the first live signal came."]
    assert not supervisor.marked(home)


def test_only_a_folder_of_its_own_is_emptied(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    prepare_home(mine)
    (mine / "data").write_text("old")
    prepare_home(mine, keep=True)
    assert (mine / "data").exists()
    prepare_home(mine)
    assert [one.name for one in mine.iterdir()] == [MADE_HERE]
    other = tmp_path / "other"
    other.mkdir()
    (other / "letters").write_text("dear")
    with pytest.raises(Stop, match="left alone"):
        prepare_home(other)
    assert (other / "letters").exists()
    with pytest.raises(Stop, match="is no folder"):
        prepare_home(other / "letters")


def test_signals_set_the_stop_and_are_given_back() -> None:
    stop, before = threading.Event(), signal.getsignal(signal.SIGHUP)
    with stopping_on((signal.SIGHUP,), stop):
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.wait(2)
    assert signal.getsignal(signal.SIGHUP) is before


def test_an_address_that_does_not_answer_is_one_sentence() -> None:
    assert why_unreachable("The exchange", "http://127.0.0.1:9/", 2).startswith("The exchange cannot be reached")
    begun = time.monotonic()
    assert why_unreachable("The exchange", "http://no-such-host.invalid/", 2)
    assert time.monotonic() - begun < 5


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_draws_phases_and_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    stream = Terminal()
    screen = Screen(stream)
    assert screen.is_live
    with screen.phases() as phases:
        phases.begin("Starting")
        phases.progress(1, 2, "half")
        phases.begin("Ending")
        phases.finish()
    section = Section("Stages", [("books", "1")], ("", "records"))
    with screen.live():
        screen.update("title", [section, section], "line")
        time.sleep(0.4)
    screen.show([section])
    assert "Starting" in stream.getvalue()
    assert "records" in stream.getvalue()
    assert "line" not in stream.getvalue()
    assert columns([section], 80) is not None


def test_a_table_that_stays_breaks_no_amount_and_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    row = [
        "KRW-BTC",
        *(f"{number}1234567.89012345" for number in range(1, 7)),
        "because of something that is long to say",
    ]
    stream = io.StringIO()
    Screen(stream).show([Section("Amounts", [row], ["market", *(f"amount_{number}" for number in range(6)), "why"])])
    found = stream.getvalue().split()
    assert {cell for one in row for cell in one.split()} <= set(found)
    assert {f"amount_{number}" for number in range(6)} <= set(found)
