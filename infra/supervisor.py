"""Keeps the processes of a deployment running: writes supervisord's configuration, starts and stops it, asks it.

Called by the command line and the demo. supervisord (a kept library) does the work: it restarts one process without
ending the others. Who holds the lock `run/lock` is the one supervisor of a run folder: supervisord inherits it, so
that it is free again the moment supervisord is gone, however it went. Every process carries the run folder in its
environment; what a killed supervisord left behind is found by that mark, whatever its process id.
"""

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from xmlrpc.client import Fault, ProtocolError, ServerProxy

import psutil
from supervisor.xmlrpc import SupervisorTransport

from infra import configuration, procfile
from infra.errors import AlreadyRunning, BadSettings, Stop
from infra.procfile import Program
from infra.secrets import remove_secrets
from infra.secrets_process import noted
from infra.settings import Settings

MARK = "RUN_FOLDER_OF_OBSERVATOR"
ARCHIVE_STOP_S = 14.0
"""For the archive alone, which reads what the log still holds when all others have ended; in general it takes one."""
_LONGEST_SOCKET = 90  # the kernel takes 108 bytes, of which supervisord uses some for a temporary name
_GRACE_S = 4
_RETRIES = 1_000_000
"""Starts in a row that may fail before supervisord gives a process up: it never should, however long Kafka is away. It
waits a second longer before each one, so that after an outage of a day the next start is seven minutes off at most."""

_HEAD = """\
[unix_http_server]
file={socket}
chmod=0700

[supervisord]
logfile=logs/supervisord.log
logfile_maxbytes=5MB
logfile_backups=2
loglevel=info
pidfile=run/supervisord.pid
childlogdir=logs
nocleanup=true
silent=true

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""

_PROGRAM = """
[program:{name}]
command={command}
priority={priority}
autostart=true
autorestart=unexpected
exitcodes=0,2
startsecs={startsecs}
startretries={retries}
stopsignal=TERM
stopwaitsecs={grace}
stopasgroup=true
killasgroup=true
redirect_stderr=true
stdout_logfile=logs/{name}.log
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=3
"""


class ProcessState(NamedTuple):
    """One supervised process as it stands now."""

    name: str
    state: str
    """stopped, starting, running, backoff, stopping, exited, fatal or unknown."""
    pid: int | None
    uptime_s: float
    restarts: int
    memory_mb: float
    note: str
    """Why it is not running; empty while it is."""
    exit_code: int | None = None
    """With which it ended last, where it has ended."""


class _Control:
    """What supervisord offers over its socket."""

    def __init__(self, socket: str) -> None:
        self._transport = SupervisorTransport(None, None, f"unix://{socket}")
        self._proxy = ServerProxy("http://127.0.0.1", transport=self._transport)

    def __call__(self, method: str, *arguments: Any) -> Any:
        """Raises `Fault` when refused, `OSError` when supervisord does not answer."""
        try:
            return getattr(self._proxy.supervisor, method)(*arguments)
        except (HTTPException, ProtocolError) as error:
            raise ConnectionError(str(error)) from error

    def close(self) -> None:
        self._transport.close()


@contextlib.contextmanager
def _control(home: Path) -> Iterator[_Control]:
    control = _Control(_socket_of(home))
    try:
        yield control
    finally:
        control.close()


def up(settings: Settings, home: Path, *, declared: Path = procfile.PROCFILE, start_s: float = 2) -> list[str]:
    """Start supervisord and through it every process of `declared`; returns their names once it answers.

    A process counts as started after `start_s` seconds. Raises `AlreadyRunning` where this run folder has a supervisor,
    `Stop` where supervisord cannot start.
    """
    home = home.absolute()
    chosen = procfile.programs(settings, declared)
    for folder in ("run", "logs"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    with _lock(home) as lock:
        end_orphans(home)
        saved = home / "run" / "settings.json"
        configuration.save(configuration.absolute(settings.model_copy(update={"home": home})), saved)
        socket = _place_socket(home)
        text = configure(chosen, socket, start_s)
        (home / "run" / "supervisord.conf").write_text(text)
        _start(home, saved, lock)
    _wait_for_answer(home, 10)
    return [program.name for program in chosen]


def down(home: Path, timeout: float = 15.0) -> bool:
    """Stop everything in reverse order and leave no process behind; says whether anything ran.

    Processes get SIGTERM, and SIGKILL when they have not ended after their share of `timeout`. The archive comes when
    all others have written their last records, with up to `ARCHIVE_STOP_S` more to keep them; Kafka comes last.
    """
    home = home.absolute()
    end = time.monotonic() + timeout
    was_running = is_running(home)
    if was_running:
        with contextlib.suppress(OSError, Fault):
            _stop_in_order(home, timeout * 0.7)
        _end_supervisord(home, max(2.0, end - time.monotonic()))
    orphans = end_orphans(home)
    _remove_socket(home)
    return was_running or orphans > 0


def is_running(home: Path) -> bool:
    """Whether a supervisor holds this run folder."""
    if not (home / "run").is_dir():
        return False
    try:
        with _lock(home):
            return False
    except AlreadyRunning:
        return True


def status(home: Path) -> list[ProcessState]:
    """Every process in the order of the `Procfile`; empty where nothing was started."""
    home = home.absolute()
    if not is_running(home):
        return []
    try:
        with _control(home) as control:
            found = _in_order(home, control("getAllProcessInfo"))
    except (OSError, Fault) as error:
        raise Stop(
            f"The supervisor of {home} does not answer ({error}); `observator --home {home} down` ends it."
        ) from error
    restarts = _restarts(home)
    return [_state(info, restarts.get(info["name"], 0)) for info in found]


def restart(home: Path, process: str) -> None:
    """End one process in good order and start it again; the others are not touched."""
    with _control(home.absolute()) as control:
        with contextlib.suppress(Fault):
            control("stopProcess", process)
        control("startProcess", process, False)


def stop(home: Path, process: str) -> None:
    """End one process in good order and leave it ended; the others are not touched."""
    with _control(home.absolute()) as control:
        control("stopProcess", process)


def end_orphans(home: Path, grace_s: float = 3.0) -> int:
    """End what carries this run folder's mark, and return how many there were. The caller knows no supervisor runs."""
    found = marked(home)
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(found, timeout=grace_s) if found else ([], [])
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=grace_s)
    return len(found)


def marked(home: Path) -> list[psutil.Process]:
    """Living processes that were started for this run folder, this one and those that started it excepted."""
    wanted = str(home.absolute())
    own = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        if process.pid in own:
            continue
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == wanted and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    hidden = noted(home)  # the executor's environment may be closed to us: it has noted itself
    if hidden is not None and hidden.pid not in {*own, *(process.pid for process in found)}:
        found.append(hidden)
    return found


def configure(chosen: Sequence[Program], socket: str, start_s: float = 2) -> str:
    """Return supervisord's configuration as text, its paths relative to the run folder in which it is started.

    Raises `BadSettings` for a path that its format cannot hold.
    """
    text = _HEAD.format(socket=_ini(socket))
    for number, program in enumerate(chosen):
        text += _PROGRAM.format(
            name=program.name,
            command=_ini(shlex.join(program.command)),
            priority=10 * (number + 1),
            startsecs=max(1, round(start_s)),
            retries=_RETRIES,
            grace=round(ARCHIVE_STOP_S) if program.name == "archive" else _GRACE_S,
        )
    return text


def _ini(value: str) -> str:
    if re.search(r"[\r\n]|\s[;#]", value):
        raise BadSettings(f"supervisord cannot hold {value!r}: choose a folder without ` ;`, ` #` or a line break.")
    return value.replace("%", "%%")


@contextlib.contextmanager
def _lock(home: Path) -> Iterator[int]:
    """Hold the run folder; raises `AlreadyRunning`. The lock stays with whoever inherited the descriptor."""
    descriptor = os.open(home / "run" / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _take(descriptor)
    except BlockingIOError:
        pid = _pid(home)
        who = f" (process {pid})" if pid else ""
        raise AlreadyRunning(
            f"OBservator runs already on {home}{who}: `observator --home {home} down` ends it; "
            "a second one needs its own folder."
        ) from None
    else:
        yield descriptor
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> None:
    """Take the lock; tried again for a moment, because who only looks holds it for a moment."""
    for _ in range(5):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.02)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _start(home: Path, saved: Path, lock: int) -> None:
    root = str(Path(__file__).resolve().parents[1])
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(configuration.PREFIX) or name in configuration.OTHER_VARIABLES
    }
    remove_secrets(kept)
    environ = {
        **kept,
        configuration.FILE_VARIABLE: str(saved),
        MARK: str(home),
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(home / "run" / "supervisord.conf")]
    done = subprocess.run(  # noqa: S603 - no shell, our own arguments
        command,
        env=environ,
        cwd=home,
        pass_fds=(lock,),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if done.returncode != 0:
        raise Stop(f"supervisord did not start: {(done.stderr or done.stdout).strip()[-500:]}")


def _wait_for_answer(home: Path, timeout: float) -> None:
    end = time.monotonic() + timeout
    while True:
        try:
            with _control(home) as control:
                control("getState")
        except (OSError, Fault) as error:
            if time.monotonic() > end:
                raise Stop(f"supervisord does not answer; see {home / 'logs' / 'supervisord.log'}.") from error
            time.sleep(0.05)
        else:
            return


def _stop_in_order(home: Path, timeout: float) -> None:
    with _control(home) as control:
        names = [info["name"] for info in _in_order(home, control("getAllProcessInfo"))]
        others = [name for name in reversed(names) if name not in {"sandbox", "archive", "kafka"}]
        stages = ((others, timeout * 0.6), (["sandbox"], timeout * 0.2), (["archive"], ARCHIVE_STOP_S))
        for stage, share in (*stages, (["kafka"], timeout * 0.4)):
            there = [name for name in stage if name in names]
            for name in there:
                with contextlib.suppress(Fault):  # it is not running
                    control("stopProcess", name, False)
            _wait_until_stopped(control, there, share)


def _in_order(home: Path, found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """In the order of the `Procfile`; supervisord sorts by name."""
    order = re.findall(r"^\[program:(.+)\]$", (home / "run" / "supervisord.conf").read_text(), re.MULTILINE)
    return sorted(found, key=lambda info: order.index(info["name"]) if info["name"] in order else len(order))


def _wait_until_stopped(control: _Control, names: Sequence[str], timeout: float) -> None:
    end = time.monotonic() + timeout
    while True:
        alive = [info for info in control("getAllProcessInfo") if info["name"] in names and info["pid"]]
        if not alive:
            return
        if time.monotonic() > end:
            for info in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(info["pid"], signal.SIGKILL)
            return
        time.sleep(0.05)


def _end_supervisord(home: Path, timeout: float) -> None:
    pid = _pid(home)
    with contextlib.suppress(OSError, Fault), _control(home) as control:
        control("shutdown")
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + timeout
    while is_running(home) and time.monotonic() < end:
        time.sleep(0.05)
    if pid is not None and is_running(home):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)


def _pid(home: Path) -> int | None:
    """Return supervisord's process id, if it lives and is one."""
    try:
        pid = int((home / "run" / "supervisord.pid").read_text())
        process = psutil.Process(pid)
        is_ours = "supervisor.supervisord" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, psutil.Error):
        return None
    return pid if is_ours else None


def _place_socket(home: Path) -> str:
    """A path for the socket that is short enough, kept in `run/socket`; the stale one is removed."""
    _remove_socket(home)
    path = str(home / "run" / "supervisor.sock")
    if len(path.encode()) > _LONGEST_SOCKET:
        path = str(Path(tempfile.mkdtemp(prefix="observator-")) / "s")
    (home / "run" / "socket").write_text(path)
    return path


def _socket_of(home: Path) -> str:
    try:
        return (home / "run" / "socket").read_text()
    except FileNotFoundError:
        return str(home / "run" / "supervisor.sock")


def _remove_socket(home: Path) -> None:
    path = Path(_socket_of(home))
    path.unlink(missing_ok=True)
    if path.parent != home / "run" and path.parent.name.startswith("observator-"):
        shutil.rmtree(path.parent, ignore_errors=True)
    (home / "run" / "socket").unlink(missing_ok=True)


def _restarts(home: Path) -> dict[str, int]:
    """Starts after the first one, per process, since supervisord started; counted in its log."""
    counts: dict[str, int] = {}
    with contextlib.suppress(FileNotFoundError):
        text = (home / "logs" / "supervisord.log").read_text(errors="replace")
        for name in re.findall(r"spawned: '([^']+)'", text[max(0, text.rfind("supervisord started with pid")) :]):
            counts[name] = counts.get(name, -1) + 1
    return counts


def _state(info: dict[str, Any], restarts: int) -> ProcessState:
    state = str(info["statename"]).lower()
    pid = int(info["pid"]) or None
    code = int(info["exitstatus"]) if state in ("exited", "backoff", "fatal") else None
    note = "" if state in ("running", "starting") else str(info["spawnerr"] or info["description"])
    if state == "exited":
        note = f"ended with code {code}"
    uptime = float(info["now"] - info["start"]) if pid else 0.0
    return ProcessState(str(info["name"]), state, pid, uptime, restarts, _memory_mb(pid), note, code)


def _memory_mb(pid: int | None) -> float:
    """Resident memory of a process and what it started."""
    if pid is None:
        return 0.0
    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += one.memory_info().rss
    return round(total / 2**20, 1)
