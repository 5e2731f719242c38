"""What one executor is built with, and how a deployment's settings say it.

Read by `executor` and `verify_child`. Does no I/O but asking for the sandbox's port and for the machine's description.
"""

import time
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from consumers.execute.attempts import Rules
from consumers.execute.keyring import FileKeyRing, KeyRing
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
    keys: KeyRing
    pocket: str
    """The pocket that is looked at from the start, whether it has orders or not."""
    database: str = ""
    """Address of a PostgreSQL database for the journal; empty: a file of the run folder."""
    lease_s: float = 5.0
    instance: str = "ob"
    speed: float = 1.0
    timeout_s: float = 3.0
    rules: Rules = field(default_factory=Rules)
    limits: RiskLimits = field(default_factory=RiskLimits)
    late_request_ms: int = 600_000
    """A time of a person's request that was missed by more is not made up for."""
    has_websocket: bool = True
    is_live_allowed: bool = False
    """Whether this deployment allows real money: one of the three things that it would need."""
    is_watched: bool = False
    """Whether a watchdog ends the process when its loop no longer moves."""

    @property
    def journal_path(self) -> Path:
        """The executor's own database, where it is a file."""
        return self.home / "db" / "execution.sqlite"

    @property
    def journal_place(self) -> Path | str:
        """What `Journal` is opened with."""
        return self.database or self.journal_path


def address_of(settings: Settings) -> str:
    """Where the exchange answers; one without a fixed port may move when it is started."""
    return f"http://{settings.sandbox.host}:{settings.sandbox.port or port_of(settings.home, 'sandbox')}"


def options_of(settings: Settings) -> Options:
    """What the settings of a deployment say."""
    execute = settings.execute
    return Options(
        home=settings.home,
        address=address_of(settings),
        keys=FileKeyRing(settings.home / "run" / "secrets"),
        pocket=settings.paper.pocket,
        database=execute.database,
        lease_s=execute.lease_seconds,
        instance=execute.instance,
        speed=settings.feed.speed,
        timeout_s=execute.request_timeout_seconds,
        rules=Rules(longest_flight_s=execute.longest_flight_seconds),
        limits=RiskLimits(
            Decimal(execute.maximum_order_funds),
            execute.orders_per_minute,
            execute.orders_per_day,
            Decimal(execute.maximum_market_exposure),
            Decimal(execute.maximum_exposure),
            Decimal(execute.price_band_percent),
        ),
        late_request_ms=int(execute.late_request_seconds * 1000),
        is_live_allowed=execute.allow_live,
        is_watched=True,
    )


def manifest_of(settings: Settings) -> RunManifest:
    """What this process runs with."""
    root = Path(__file__).resolve().parents[2]
    content = settings.model_dump(mode="json")
    return RunManifest(
        **as_fields(make_manifest("execute", content, started_ms=time.time_ns() // 1_000_000, root=root))
    )
