"""A sandbox inside a test: its own thread and loop, any free port, a Python face for truth and faults.

Called by tests only.
"""

import asyncio
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvloop

from producers.sandbox.configuration import Configuration
from producers.sandbox.control_client import ControlClient
from producers.sandbox.server import Sandbox


class SandboxThread(ControlClient):
    """`with SandboxThread(home, kind="synthetic", ...) as sandbox:`; the arguments are those of `Configuration`."""

    def __init__(self, home: Path, **values: Any) -> None:
        self.configuration = Configuration(home=home, **values)
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="sandbox", daemon=True)
        self.sandbox: Sandbox

    def _run(self) -> None:
        async def serve() -> None:
            self.sandbox = Sandbox(self.configuration)
            await self.sandbox.serve(self._stop.is_set, self._ready.set)

        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve())
        except BaseException as error:  # noqa: BLE001 - handed to the test's thread
            self._failure = error
        finally:
            self._ready.set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(120)
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it; raises what ended the server if that was not this call."""
        self._stop.set()
        self._thread.join(15)
        if self._failure is not None:
            raise self._failure

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.sandbox.port

    @property
    def secrets_path(self) -> Path:
        """Folder of its secrets."""
        return self.configuration.secrets_path

    @property
    def access_key(self) -> str:
        """Of the account that exists by default."""
        return self.configuration.access_key

    @property
    def secret_key(self) -> str:
        """Of the account that exists by default."""
        return self.secret(self.access_key)
