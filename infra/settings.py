"""Settings of a deployment: `observator.toml`, then `OBSERVATOR_...` variables (`__` for nesting), then defaults.

Built once by the command line and passed down as plain arguments; no room below reads the environment. Unknown names
are refused with the name. Secrets do not stand here: each process has its own secrets file (`infra.secrets`).
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaSettings(_Part):
    """The broker."""

    bootstrap: str = ""
    """`host:port` of a broker that runs elsewhere; empty: our own, started by the supervisor."""
    prefix: str = ""
    """Put before every topic and group name, for example `replay-<run>-`."""


class FeedSettings(_Part):
    """Where market data comes from."""

    kind: Literal["synthetic", "recording", "upbit"] = "synthetic"
    recording: Path | None = None
    speed: float = Field(default=1.0, gt=0)
    """How fast the feed's clock runs against ours."""
    markets: list[str] = []
    """Markets to subscribe to; empty: all that the exchange lists in won (synthetic: the first `market_count`)."""
    market_count: int = Field(default=10, ge=1, le=500)
    books_per_second: float = Field(default=5.0, gt=0)
    """Order books per second and market, synthetic feed only."""
    seed: int = 7
    linear_edge: float = Field(default=1.0, ge=0)
    """Planted predictability that is linear in the features, 0 for none (synthetic feed only)."""
    nonlinear_edge: float = Field(default=0.0, ge=0)
    warmup_seconds: int = Field(default=600, ge=0)
    """Market time that is run at full speed before live speed, synthetic feed only."""
    stale_seconds: float = Field(default=10.0, gt=0)


class GridSettings(_Part):
    """Bins and windows."""

    grid_ms: int = Field(default=1000, ge=100, le=1000)
    lateness_ms: int = Field(default=500, ge=0)
    window_bins: int = Field(default=300, ge=2)
    """W: the longest run of bins that enters a feature vector."""


class StreamsSettings(_Part):
    """The feature stage."""

    runner: Literal["faust", "loop"] = "faust"
    workers: int = Field(default=1, ge=1, le=12)
    batch: int = Field(default=500, ge=1)


class PredictSettings(_Part):
    """The inference stage."""

    window_rows: int = Field(default=60, ge=1)
    """T: rows kept per market."""
    windows_per_call: int = Field(default=25, ge=1)
    model: str = ""
    """Id or folder of a model; empty: the shipped one that fits the feed."""


class SandboxSettings(_Part):
    """The exchange that stands in for Upbit. Port 0: chosen once and kept in the run folder."""

    host: str = "127.0.0.1"
    port: int = 0
    burn_refused_identifiers: bool = True


class PaperSettings(_Part):
    """The account that exists by default."""

    account: str = "paper"
    pocket: str = "paper-main"
    cash: str = "10000000"
    budget: str = "1000000"
    entry_funds: str = "6000"
    threshold_percent: str = "0.05"
    fee_percent: str = "0.05"
    stop_percent: str = "1.5"
    hysteresis_percent: str = "0"


class ExecuteSettings(_Part):
    """The order executor."""

    instance: str = "ob"
    """Stands first in every identifier sent to the exchange; one per deployment that shares a key."""
    request_timeout_seconds: float = Field(default=3.0, gt=0, le=3)


class DashboardSettings(_Part):
    """The page."""

    host: str = "127.0.0.1"
    port: int = 8501


class Settings(_Part):
    """All of it."""

    home: Path = Path(".observator")
    """The run folder: broker data, databases, ports, logs, process ids."""
    kafka: KafkaSettings = KafkaSettings()
    feed: FeedSettings = FeedSettings()
    grid: GridSettings = GridSettings()
    streams: StreamsSettings = StreamsSettings()
    predict: PredictSettings = PredictSettings()
    sandbox: SandboxSettings = SandboxSettings()
    paper: PaperSettings = PaperSettings()
    execute: ExecuteSettings = ExecuteSettings()
    dashboard: DashboardSettings = DashboardSettings()
