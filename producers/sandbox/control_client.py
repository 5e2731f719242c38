"""A Python face of a running sandbox exchange: its addresses, its secrets and its control interface.

`thread` (a sandbox inside a test) and `producers.verify.sandbox_process` (one in a process of its own) build on it.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from infra.secrets import keep_secret

_PATIENCE_S = 30.0


class ControlClient(ABC):
    """What can be asked of a sandbox on this machine whose secrets folder can be read."""

    @property
    @abstractmethod
    def port(self) -> int:
        """Where it listens."""

    @property
    @abstractmethod
    def secrets_path(self) -> Path:
        """Folder of its secrets."""

    @property
    def url(self) -> str:
        """Base address of REST, without `/v1`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        """The public websocket; `/private` behind it is the other one."""
        return f"ws://127.0.0.1:{self.port}/websocket/v1"

    def secret(self, name: str) -> str:
        """Secret of an account, or the control token."""
        return keep_secret(self.secrets_path, name)

    def control(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One call of the control interface; raises `urllib.error.HTTPError` where it is refused."""
        request = Request(  # noqa: S310 - our own address
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.secret('sandbox-control')}", "Content-Type": "application/json"},
        )
        with urlopen(request, timeout=_PATIENCE_S) as answer:  # noqa: S310 - our own address
            return json.loads(answer.read())

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

    def open_account(self, access_key: str, balances: Mapping[str, str]) -> str:
        """Make an account; gives its secret."""
        made = self.control("POST", "/sandbox/accounts", {"access_key": access_key, "balances": dict(balances)})
        return str(made["secret_key"])
