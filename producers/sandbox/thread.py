"""A sandbox inside a test: its own thread and loop, any free port, a Python face for truth and faults.

Called by tests only.
"""

import asyncio
import json
import threading
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvloop

from producers.sandbox.configuration import Configuration, keep_secret
from producers.sandbox.server import Sandbox


class SandboxThread:
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
    def url(self) -> str:
        """Base address of REST, without `/v1`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        """The public websocket; `/private` behind it is the other one."""
        return f"ws://127.0.0.1:{self.port}/websocket/v1"

    @property
    def access_key(self) -> str:
        """Of the account that exists by default."""
        return self.configuration.access_key

    @property
    def secret_key(self) -> str:
        """Of the account that exists by default."""
        return keep_secret(self.configuration.secrets_path, self.configuration.access_key)

    def status(self) -> dict[str, Any]:
        """`/sandbox/status`."""
        return dict(self.control("GET", "/sandbox/status"))

    def truth(self) -> list[dict[str, Any]]:
        """Every order ever accepted, in order."""
        return list(self.control("GET", "/sandbox/truth")["orders"])

    def fault(self, name: str, **values: Any) -> None:
        """Switch a fault on; see `faults`."""
        self.control("POST", "/sandbox/faults", {"name": name, **values})

    def clear_faults(self) -> None:
        """Switch all faults off."""
        self.control("DELETE", "/sandbox/faults")

    def control(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One call of the control interface."""
        token = keep_secret(self.configuration.secrets_path, "sandbox-control")
        request = urllib.request.Request(  # noqa: S310 - our own address
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own address
            return json.loads(answer.read())
