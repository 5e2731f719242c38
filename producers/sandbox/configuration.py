"""What a sandbox is told: plain values, made from the settings by the server's entry or by hand in tests."""

import contextlib
import json
import os
import secrets
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from infra.errors import BadSettings
from infra.settings import Settings
from producers.sandbox.synthetic import Plan


@dataclass(frozen=True, slots=True)
class Configuration:
    """A sandbox. Port 0 takes any free port (tests)."""

    home: Path
    kind: str = "synthetic"
    recording: Path | None = None
    host: str = "127.0.0.1"
    port: int = 0
    plan: Plan = field(default_factory=Plan)
    speed: float = 1.0
    warmup_seconds: int = 600
    burn_refused_identifiers: bool = True
    cash: str = "10000000"
    access_key: str = "paper-main"
    fill_delay_ms: int = 30
    """Time between the answer to an order and its first match: fills are asynchronous."""
    cancel_delay_ms: int = 30
    fee: str = "0.0005"

    @property
    def journal_path(self) -> Path:
        """The exchange's own memory."""
        return self.home / "db" / "sandbox.journal"

    @property
    def market_path(self) -> Path:
        """State of the synthetic market over restarts."""
        return self.home / "db" / "sandbox-market.npz"

    @property
    def secrets_path(self) -> Path:
        """Folder with the account's secret and the control token."""
        return self.home / "run" / "secrets"


def from_settings(settings: Settings, port: int) -> Configuration:
    """The deployment's sandbox; raises `BadSettings` where a market is wanted that it does not list."""
    feed = settings.feed
    plan = Plan(
        market_count=feed.market_count,
        markets=tuple(feed.markets),
        books_per_second=feed.books_per_second,
        seed=feed.seed,
        linear_edge=feed.linear_edge,
        nonlinear_edge=feed.nonlinear_edge,
    )
    missing = set(plan.markets) - {row.market for row in plan.listings()}
    if feed.kind == "synthetic" and missing:
        raise BadSettings(f"feed.markets: the synthetic exchange does not list {', '.join(sorted(missing))}")
    return Configuration(
        home=settings.home,
        kind=feed.kind,
        recording=feed.recording,
        host=settings.sandbox.host,
        port=port,
        plan=plan,
        speed=feed.speed,
        warmup_seconds=feed.warmup_seconds,
        burn_refused_identifiers=settings.sandbox.burn_refused_identifiers,
        cash=settings.paper.cash,
        access_key=settings.paper.pocket,
    )


def keep_secret(folder: Path, name: str) -> str:
    """The secret in `folder/name`, made at the first call, readable by its owner only.

    It appears under its name whole or not at all, and of two processes that make it at once both get the same.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / name
    if not path.exists():
        descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=folder)  # readable by its owner only
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(64))
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # a rename would take the other one's secret away
                os.link(temporary, path)
        finally:
            Path(temporary).unlink()
    return path.read_text().strip()


def dump(value: object) -> str:
    """JSON as the exchange writes it: no spaces, Korean text as it is."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
