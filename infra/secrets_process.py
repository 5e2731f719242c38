"""Shuts a process that holds keys off from its neighbours, and says how far that reaches on this machine.

`consumers.execute.executor` calls `shut_off` before it reads a key; `infra.doctor` asks `isolation`. On systems other
than Linux only the limit on core dumps is set.
"""

import ctypes
import json
import os
import platform
import pwd
import resource
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from infra.errors import BadSettings

_PR_GET_DUMPABLE = 3
_PR_SET_DUMPABLE = 4
PID_FILE = Path("run") / "execute.pid"
_WRITTEN = ("run", "db")
"""Folders in which the executor makes files."""
PROGRAM = (Path(sys.prefix), Path(sys.base_prefix), Path(__file__))
"""What the process goes on loading from."""


def shut_off(home: Path | None = None) -> bool:
    """No core dump, and no look into this process's memory or environment by others of its user.

    Only the superuser still can. With `home`, the process is noted there first, because the mark in its environment,
    by which the supervisor finds what is left over, can no longer be read. Says whether the kernel agreed.
    """
    if home is not None:
        _note(home / PID_FILE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if platform.system() != "Linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    return int(libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0)) == 0


def become(user: str, home: Path, program: Sequence[Path] = PROGRAM) -> None:
    """Go on as a system user that nothing else runs as; what the executor writes is given to that user first.

    Only root can. Of the files that others write later (the sandbox exchange's keys) it can read those that were there.
    Raises `BadSettings` with what is in the way.
    """
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise BadSettings(f"`execute.system_user`: there is no user {user!r} on this machine") from None
    if os.geteuid() == found.pw_uid:
        return
    if os.geteuid() != 0:
        raise BadSettings(f"`execute.system_user`: only root can start the executor as {user}")
    for name in _WRITTEN:
        folder = home / name
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, -1, found.pw_gid)
        folder.chmod(0o1775)  # what others wrote there stays theirs
    for path in (*(home / "run" / "executor").rglob("*"), *(home / "run" / "halts").rglob("*"), *_own(home)):
        os.chown(path, found.pw_uid, found.pw_gid)
    for path in ((home / "run" / "secrets"), *(home / "run" / "secrets").glob("*")):
        if path.exists():
            os.chown(path, -1, found.pw_gid)
            path.chmod(path.stat().st_mode | (0o050 if path.is_dir() else 0o040))
    os.setgroups([])
    os.setgid(found.pw_gid)
    os.setuid(found.pw_uid)
    for path in (home, *program):
        if not os.access(path, os.R_OK):
            raise BadSettings(f"`execute.system_user`: {user} may not read {path}")


def _own(home: Path) -> list[Path]:
    """What belongs to the executor alone."""
    found = [home / "run" / "executor", home / "run" / "halts", home / PID_FILE, *(home / "db").glob("execution.*")]
    return [path for path in found if path.exists()]


def _note(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps([os.getpid(), psutil.Process().create_time()]))
    fresh.replace(path)


def noted(home: Path) -> psutil.Process | None:
    """The process that `shut_off` noted in a run folder, while it lives."""
    try:
        pid, created = json.loads((home / PID_FILE).read_text())
        process = psutil.Process(int(pid))
        is_same = abs(process.create_time() - float(created)) < 0.05
    except (OSError, ValueError, TypeError, psutil.Error):
        return None
    return process if is_same else None


class Isolation(NamedTuple):
    """How far the executor is away from its neighbours."""

    is_isolated: bool
    text: str
    remedy: str = ""


def isolation(home: Path, others: "list[psutil.Process]") -> Isolation:
    """What separates the executor of a run folder from the other processes of ours."""
    remedy = (
        "Run `execute` alone as a system user of its own: in a container, or in a second run folder (`processes = "
        '["execute"]`; `execute.system_user` where root starts it); the others as a user that is not root.'
    )
    executor = noted(home)
    if executor is None:
        return Isolation(False, "not isolated: the executor is not running, or was never started here", remedy)
    user = executor.uids().effective
    neighbours = []
    for process in others:
        with suppress(psutil.Error):
            is_keeper = any("supervisor" in part for part in process.cmdline())
            if process.pid != executor.pid and not is_keeper and process.uids().effective in {user, 0}:
                neighbours.append(process)
    if user == 0:
        return Isolation(False, "not isolated: the executor runs as root", remedy)
    if neighbours:
        text = f"not isolated: {len(neighbours)} other processes run as its user ({executor.username()}) or as root"
        return Isolation(False, text, remedy)
    return Isolation(True, f"the executor runs alone as {executor.username()}")
