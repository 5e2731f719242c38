"""Where the executor's keys come from: a protocol, and its two plain forms.

`pockets` asks `key_of` for every pocket that it works for, again and again, so that a key that came, changed or went
is seen without a restart. The sealed form stands behind the same protocol in `keys`. A key never leaves this process
and never stands in a log: its secret is hidden from `repr`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class ExchangeKey:
    """What signs a pocket's requests."""

    access_key: str
    secret_key: str = field(repr=False)


class KeyRing(Protocol):
    """The keys that this process may use, by pocket. Called from several threads."""

    def key_of(self, pocket: str) -> ExchangeKey | None:
        """The pocket's key now; None where there is none. Cheap: asked before every order."""

    def refused(self, pocket: str, reason: str) -> None:
        """The exchange refuses the pocket's key; told once per key. `reason` is the exchange's word."""


class FileKeyRing:
    """The keys that the sandbox exchange writes: `run/secrets/<pocket>` holds the secret of the key named like it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def key_of(self, pocket: str) -> ExchangeKey | None:
        """The key, once it is in its file (which is there a moment before that)."""
        if not _NAME.fullmatch(pocket):
            return None
        try:
            secret = (self._folder / pocket).read_text().strip()
        except OSError:
            return None
        return ExchangeKey(pocket, secret) if secret else None

    def refused(self, pocket: str, reason: str) -> None:
        """Nothing to remember: the file is the truth."""


class HeldKeys:
    """Keys that are simply given; a changed mapping is seen at once. Keeps what was refused."""

    def __init__(self, keys: Mapping[str, ExchangeKey]) -> None:
        self.keys = dict(keys)
        self.refusals: list[tuple[str, str]] = []

    def key_of(self, pocket: str) -> ExchangeKey | None:
        """The pocket's key."""
        return self.keys.get(pocket)

    def refused(self, pocket: str, reason: str) -> None:
        """Note it."""
        self.refusals.append((pocket, reason))
