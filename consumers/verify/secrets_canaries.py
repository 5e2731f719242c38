"""Keys that are like no other text in the world, and the sandbox exchange that knows them; used by `secrets_run`."""

import json
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

from infra.secrets_box import KeyPair

POCKET = "paper-main"
YEAR_MS = 365 * 86_400_000
TRADING = ("view_account", "view_orders", "make_orders")
_LETTERS = "abcdefghipqrstuvwxy0123456789"
"""Their hex has digits only, so that upper and lower case are one anchor."""


@dataclass(slots=True)
class Canaries:
    """Keys that are like no other text in the world; `marker` is how each begins."""

    marker: str = field(default_factory=lambda: "Qait" + "".join(secrets.choice(_LETTERS) for _ in range(10)))
    marked: dict[str, bytes] = field(default_factory=dict)
    unmarked: dict[str, bytes] = field(default_factory=dict)

    def access(self, name: str) -> str:
        """An access key as the exchange makes them: 40 letters and digits."""
        return self._kept(f"{name} access key", secrets.token_hex(20))

    def secret(self, name: str) -> str:
        """A secret key; its characters look different in a URL and inside JSON."""
        return self._kept(f"{name} secret key", f'+/"\\%&<{secrets.token_hex(20)}')

    def plain(self, name: str) -> str:
        """A text that looks the same everywhere."""
        return self._kept(name, secrets.token_hex(20))

    def _kept(self, name: str, text: str) -> str:
        return self.marked.setdefault(name, (self.marker + text)[:64].encode()).decode()

    def pair(self, name: str) -> KeyPair:
        """A key pair for the executor; its private part is any 32 bytes."""
        private = self.marked[name] = self.marker.encode() + secrets.token_bytes(18)
        self.marked[f"{name} in its file"] = private.hex().encode()
        return KeyPair(private)


def prepare_exchange(home: Path, canaries: Canaries) -> None:
    """Write the keys that the sandbox will know: rights by their names, secrets beside them."""
    rights = {
        "first": TRADING,
        "second": TRADING,
        "third": TRADING,
        "withdrawing": (*TRADING, "withdraw"),
        "looking": ("view_account", "view_orders"),
        "expired": TRADING,
    }
    folder = home / "run" / "secrets"
    folder.mkdir(parents=True, mode=0o700)
    (home / "db").mkdir()
    rows = []
    for name, allowed in rights.items():
        expires_ms = now_ms() + (-1000 if name == "expired" else YEAR_MS)
        access_key = canaries.access(name)
        rows.append({"access_key": access_key, "account": POCKET, "permissions": allowed, "expires_ms": expires_ms})
        (folder / access_key).write_text(canaries.secret(name))
    (home / "db" / "sandbox-keys.json").write_text(json.dumps(rows))
    (folder / POCKET).write_text(canaries.plain("secret in the executor's file"))


def now_ms() -> int:
    """Our clock."""
    return time.time_ns() // 1_000_000
