"""The supervisor on stand-in processes: restarts, order, orphans, the second one."""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from infra import logfiles, procfile, supervisor
from infra.errors import AlreadyRunning, BadSettings, Stop
from infra.settings import Settings

QUIET = (
    "import signal, time; signal.signal(signal.SIGTERM, lambda *_: exit(0)); print('up', flush=True); time.sleep(600)"
)
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
FAMILY = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"


def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def running(home: Path) -> dict[str, int]:
    return {one.name: one.pid for one in supervisor.status(home) if one.state == "running" and one.pid}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    homes: list[Path] = []

    def begin(lines: dict[str, str], home: Path = tmp_path / "home") -> Path:
        declared = tmp_path / "Procfile"
        declared.write_text("".join(f'{name}: python -c "{code}"\n' for name, code in lines.items()))
        homes.append(home)
        supervisor.up(Settings(), home, declared=declared, start_s=1)
        return home

    yield begin
    for home in homes:
        supervisor.down(home, 6)
        assert not supervisor.marked(home)


def test_one_killed_process_comes_back_and_the_others_stay(start: Callable[..., Path]) -> None:
    home = start({"kafka": QUIET, "feed": QUIET})
    until(lambda: len(running(home)) == 2)
    before = running(home)
    os.kill(before["feed"], signal.SIGKILL)
    until(lambda: running(home).get("feed", before["feed"]) != before["feed"])
    after = {one.name: one for one in supervisor.status(home)}
    assert after["kafka"].pid == before["kafka"]
    assert (after["feed"].restarts, after["kafka"].restarts) == (1, 0)
    assert after["feed"].memory_mb > 1
    supervisor.restart(home, "kafka")
    until(lambda: running(home).get("kafka", before["kafka"]) != before["kafka"])


def test_down_leaves_nothing_even_of_the_deaf_and_of_families(start: Callable[..., Path]) -> None:
    home = start({"kafka": QUIET, "deaf": DEAF, "family": FAMILY})
    until(lambda: len(running(home)) == 3)
    until(lambda: len(supervisor.marked(home)) == 5)  # three, the family's child, supervisord
    begun = time.monotonic()
    assert supervisor.down(home, 8)
    assert time.monotonic() - begun < 8
    assert not supervisor.marked(home)
    assert supervisor.status(home) == []
    assert not supervisor.down(home)


def test_stops_in_reverse_order_with_the_archive_and_kafka_last(start: Callable[..., Path], tmp_path: Path) -> None:
    told = tmp_path / "told"
    code = (
        "import os, signal, time; name = os.environ['SUPERVISOR_PROCESS_NAME']; "
        f"signal.signal(signal.SIGTERM, lambda *_: (open('{told}', 'a').write(name + chr(10)), exit(0))); "
        "print('up', flush=True); time.sleep(600)"
    )
    slow = code.replace("lambda *_: (", "lambda *_: (time.sleep(4.5), ")  # longer than the others may take
    names = ["kafka", "archive", "sandbox", "feed", "a-page"]
    home = start({name: slow if name == "archive" else code for name in names})
    until(lambda: all(logfiles.last_lines(home, name) for name in names))
    assert [one.name for one in supervisor.status(home)] == names
    supervisor.down(home, 8)
    assert set(told.read_text().split()[:2]) == {"a-page", "feed"}
    assert told.read_text().split()[2:] == ["sandbox", "archive", "kafka"]


def test_a_second_one_on_the_same_folder_is_refused(start: Callable[..., Path], tmp_path: Path) -> None:
    home = start({"kafka": QUIET})
    until(lambda: len(running(home)) == 1)
    before = running(home)
    with pytest.raises(AlreadyRunning, match="runs already on"):
        start({"kafka": QUIET})
    assert running(home) == before
    other = start({"kafka": QUIET}, tmp_path / "other")
    until(lambda: len(running(other)) == 1)
    assert running(home) == before


def test_what_a_killed_supervisord_left_is_ended_before_a_new_start(start: Callable[..., Path]) -> None:
    home = start({"kafka": QUIET, "feed": QUIET})
    until(lambda: len(running(home)) == 2)
    orphans = running(home)
    pid = int((home / "run" / "supervisord.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    until(lambda: not supervisor.is_running(home))
    assert supervisor.status(home) == []
    assert all(psutil.pid_exists(one) for one in orphans.values())
    start({"kafka": QUIET, "feed": QUIET})
    assert not any(psutil.pid_exists(one) for one in orphans.values())
    until(lambda: len(running(home)) == 2)


def test_a_reboots_remains_do_not_matter(start: Callable[..., Path], tmp_path: Path) -> None:
    run = tmp_path / "home" / "run"
    run.mkdir(parents=True)
    (run / "supervisord.pid").write_text(str(os.getpid()))  # the number was given to somebody else
    (run / "supervisor.sock").write_text("")
    (run / "lock").write_text("")
    assert not supervisor.down(tmp_path / "home")
    home = start({"kafka": QUIET})
    until(lambda: len(running(home)) == 1)


def test_a_folder_with_a_long_name_works(start: Callable[..., Path], tmp_path: Path) -> None:
    home = start({"kafka": QUIET}, tmp_path / ("long 100% name " * 8).strip())
    until(lambda: len(running(home)) == 1)
    socket = Path((home / "run" / "socket").read_text())
    assert len(str(socket)) < 90
    supervisor.down(home, 6)
    assert not socket.parent.exists()


def test_a_dying_process_backs_off_and_says_why(start: Callable[..., Path]) -> None:
    home = start({"kafka": QUIET, "feed": "print('no such market'); exit(1)"})
    until(lambda: any(one.name == "feed" and one.state == "backoff" for one in supervisor.status(home)))
    (feed,) = [one for one in supervisor.status(home) if one.name == "feed" or one.state == "backoff"][-1:]
    assert "too quickly" in feed.note
    until(lambda: "no such market" in logfiles.last_lines(home, "feed"))


def test_logs_follow_over_a_rotation(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "feed.log").write_text("one\ntwo\nhal")
    assert list(logfiles.read(tmp_path, "feed", lines=1)) == [("feed", "two")]
    following = logfiles.read(tmp_path, follow=True, pause_s=0.01)
    assert [next(following), next(following)] == [("feed", "one"), ("feed", "two")]
    (folder / "feed.log").rename(folder / "feed.log.1")
    (folder / "feed.log").write_text("three\n")
    assert next(following) == ("feed", "three")
    (folder / "trade.log").write_text("new\n")
    otherwise = threading.Timer(2.0, (folder / "feed.log").write_text, ["three\nand no line of trade\n"])
    otherwise.start()
    assert next(following) == ("trade", "new")
    otherwise.cancel()
    with pytest.raises(Stop, match="no log of a process 'fed'"):
        next(logfiles.read(tmp_path, "fed"))
    assert logfiles.last_lines(tmp_path, "fed") == []


def test_a_process_is_never_given_up() -> None:
    text = supervisor.configure([procfile.Program("feed", ("true",))], "s")
    (retries,) = re.findall(r"^startretries=(\d+)$", text, re.MULTILINE)
    assert sum(range(int(retries))) > 10 * 365 * 86_400  # it waits as many seconds as it has failed


def test_paths_that_supervisord_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="choose a folder"):
        supervisor.configure([], str(tmp_path / "a ;b"))


def test_what_cannot_start_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declared = tmp_path / "Procfile"
    declared.write_text("kafka: python -c pass\n")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Stop, match="did not start"):
        supervisor.up(Settings(), tmp_path / "home", declared=declared)
    assert not supervisor.is_running(tmp_path / "home")


def test_a_secret_of_the_shell_that_started_it_goes_to_no_process(
    start: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPBIT_SECRET_KEY", "of-the-shell")
    monkeypatch.setenv("SOME_TOKEN", "of-the-shell")
    monkeypatch.setenv("HARMLESS", "stays")
    home = start({"quiet": QUIET})
    until(lambda: "quiet" in running(home))
    environ = psutil.Process(running(home)["quiet"]).environ()
    assert environ["HARMLESS"] == "stays"
    assert "of-the-shell" not in environ.values()
