"""What one executor is built with, and how a deployment's settings say it.

Read by `executor` and `verify_child`. Does no I/O but asking for the sandbox's port and for the machine's description.
"""

import time
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from consumers.execute.attempts import Rules
from consumers.execute.limits import RiskLimits
from infra.manifest import as_fields, make_manifest
from infra.servers.ports import port_of
from infra.settings import Settings
from streams.messages import RunManifest


@dataclass(frozen=True, slots=True)
class Options:
    """What one executor is built with."""

    home: Path
    address: str
    access_key: str
    secret_key: str = field(repr=False)
    pocket: str
    instance: str = "ob"
    speed: float = 1.0
    timeout_s: float = 3.0
    rules: Rules = field(default_factory=Rules)
    limits: RiskLimits = field(default_factory=RiskLimits)
    has_websocket: bool = True
    is_watched: bool = False
    """Whether a watchdog ends the process when its loop no longer moves."""

    @property
    def journal_path(self) -> Path:
        """The executor's own database."""
        return self.home / "db" / "execution.sqlite"


def options_of(settings: Settings, secret_key: str) -> Options:
    """What the settings of a deployment say."""
    execute = settings.execute
    host, port = settings.sandbox.host, settings.sandbox.port or port_of(settings.home, "sandbox")
    return Options(
        home=settings.home,
        address=f"http://{host}:{port}",
        access_key=settings.paper.pocket,
        secret_key=secret_key,
        pocket=settings.paper.pocket,
        instance=execute.instance,
        speed=settings.feed.speed,
        timeout_s=execute.request_timeout_seconds,
        rules=Rules(longest_flight_s=execute.longest_flight_seconds),
        limits=RiskLimits(Decimal(execute.maximum_order_funds), execute.orders_per_minute),
        is_watched=True,
    )


def manifest_of(settings: Settings) -> RunManifest:
    """What this process runs with."""
    root = Path(__file__).resolve().parents[2]
    content = settings.model_dump(mode="json")
    return RunManifest(
        **as_fields(make_manifest("execute", content, started_ms=time.time_ns() // 1_000_000, root=root))
    )
