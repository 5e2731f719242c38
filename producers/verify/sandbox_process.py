"""A sandbox exchange in a process of its own, and its subscribers: what the bench and the fuzzer work on.

`python -m producers.verify.sandbox_process FILE` is the child; `running_sandbox` starts it and cleans up.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import uvloop

from infra import allocator, logs
from infra.own_memory import own_memory_mb
from producers.sandbox.configuration import Configuration
from producers.sandbox.control_client import ControlClient
from producers.sandbox.server import Sandbox
from producers.sandbox.synthetic import Plan

_START_S = 300.0
_SUBSCRIBER = Path(__file__).with_name("subscriber.py")


class SandboxProcess(ControlClient):
    """A running child."""

    def __init__(self, home: Path, child: "subprocess.Popen[bytes]") -> None:
        self.home = home
        self.child = child
        described = _described(home, child)
        self._port = int(described["port"])
        self.routes = [(str(method), str(path)) for method, path in described["routes"]]
        """Method and path of everything that the server mounts, parts that vary in braces."""
        self._process = psutil.Process(child.pid)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._port

    @property
    def secrets_path(self) -> Path:
        """Folder of its secrets."""
        return self.home / "run" / "secrets"

    @property
    def log(self) -> str:
        """What it said so far."""
        return (self.home / "sandbox.log").read_text(errors="replace")

    def cpu_seconds(self) -> float:
        """User plus system time so far."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def own_memory_mb(self) -> float:
        """Memory that would be freed if it ended now."""
        return own_memory_mb(self._process)


class Subscriber:
    """A child that counts what it receives."""

    def __init__(self, port: int, request: str) -> None:
        self._child = subprocess.Popen(  # noqa: S603 - our own interpreter and file
            [sys.executable, "-I", "-S", str(_SUBSCRIBER), str(port), request],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def counts(self) -> tuple[int, int, int]:
        """Messages, bytes and books so far."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(b"\n")
        self._child.stdin.flush()
        found = json.loads(self._child.stdout.readline())
        return int(found["messages"]), int(found["bytes"]), int(found["books"])

    def close(self) -> None:
        """End it."""
        with self._child:
            self._child.kill()


@contextmanager
def running_sandbox(**values: Any) -> Iterator[SandboxProcess]:
    """Start a sandbox in a temporary folder; `values` are those of `Configuration`, the plan's as a mapping."""
    with tempfile.TemporaryDirectory(prefix="observator-sandbox-") as folder:
        home = Path(folder)
        (home / "described.json").write_text(json.dumps(values))
        with (home / "sandbox.log").open("wb") as log:
            child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-P", "-m", "producers.verify.sandbox_process", str(home)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parents[2],
            )
        try:
            yield SandboxProcess(home, child)
        finally:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _described(home: Path, child: "subprocess.Popen[bytes]") -> dict[str, Any]:
    """What the child says of itself once it listens."""
    started = time.monotonic()
    while not (home / "ready.json").exists():
        if child.poll() is not None or time.monotonic() - started > _START_S:
            raise RuntimeError("the sandbox did not start:\n" + (home / "sandbox.log").read_text()[-2000:])
        time.sleep(0.02)
    described: dict[str, Any] = json.loads((home / "ready.json").read_text())
    return described


def main() -> None:
    """Be the child."""
    home = Path(sys.argv[1])
    values = json.loads((home / "described.json").read_text())
    allocator.settle("sandbox")
    values["plan"] = Plan(**values.get("plan", {}))
    logs.set_up("sandbox", level="INFO", is_json=False)

    async def serve() -> None:
        sandbox = Sandbox(Configuration(home=home, **values))

        def ready() -> None:
            routes = [
                (route.method, route.resource.canonical)
                for route in sandbox.app().router.routes()
                if route.resource is not None
            ]
            partial = home / "ready.partial"
            partial.write_text(json.dumps({"port": sandbox.port, "routes": routes}))
            partial.replace(home / "ready.json")

        await sandbox.serve(lambda: False, ready)

    uvloop.run(serve())


if __name__ == "__main__":
    main()
