"""Settings of a deployment: `observator.toml`, then `OBSERVATOR_...` variables (`__` for nesting), then defaults.

Built once by the command line and passed down as plain arguments; no room below reads the environment. Unknown names
are refused with the name. Secrets do not stand here: each process has its own secrets file (in the run folder).
"""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from infra.upbit.rates import RATES

Port = Annotated[int, Field(ge=0, le=65535)]
Number = Annotated[str, Field(pattern=r"^\d{1,15}(\.\d{1,8})?$")]
"""Money and per cent: a decimal number as text, because it becomes a `Decimal`."""
SignedNumber = Annotated[str, Field(pattern=r"^-?\d{1,15}(\.\d{1,8})?$")]
AccountName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
"""Of an account or a pocket; it names files, and `*` stands for all accounts."""
MarketCode = Annotated[str, Field(pattern=r"^[A-Z0-9]{2,10}-[A-Z0-9]{1,20}$")]

OffsetRange = Annotated[str, Field(pattern=r"^(orderbooks|trades)/\d{1,4}:\d{1,18}-\d{1,18}$")]


_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._=-]+)*/?")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False


def _only_loopback(host: str) -> str:
    if not _is_loopback(host):
        raise ValueError("only this machine itself may be listened on: 127.0.0.1 or localhost")
    return host


LoopbackHost = Annotated[str, AfterValidator(_only_loopback)]
"""Where a server of ours listens. By name or as IPv4, because it is put into addresses as it is."""


def _known_groups(sizes: dict[str, int]) -> dict[str, int]:
    if unknown := set(sizes) - set(RATES):
        raise ValueError(f"{', '.join(sorted(unknown))}: no such group, there are {', '.join(RATES)}")
    return sizes


GroupSizes = Annotated[dict[str, Annotated[int, Field(ge=1, le=100_000)]], AfterValidator(_known_groups)]
"""Rate limit group -> size."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class KafkaSettings(_Part):
    """The broker."""

    bootstrap: str = Field(default="", pattern=r"^([^\s:,/]+:\d{1,5}(,[^\s:,/]+:\d{1,5})*)?$")
    """`host:port` of a broker that runs elsewhere; empty: our own, started by the supervisor."""
    prefix: str = Field(default="", pattern=r"^[A-Za-z0-9._-]{0,100}$")
    """Put before every topic and group name, for example `replay-<run>-`."""


class FeedSettings(_Part):
    """Where market data comes from."""

    kind: Literal["synthetic", "recording", "upbit"] = "synthetic"
    recording: Path | None = None
    """A file of raw frames, or a Parquet file of books."""
    recording_trades: Path | None = None
    """A Parquet file of trades that is played beside it."""
    recording_topics: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]{0,100}$")
    """Prefix of the run whose topics `orderbooks` and `trades` are played instead of a file."""
    recording_offsets: list[OffsetRange] = []
    """Which of their records, as `topic/partition:first-end` without the end; empty: all."""
    speed: float = Field(default=1.0, gt=0)
    """How fast the feed's clock runs against ours."""
    markets: list[MarketCode] = []
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

    @property
    def played(self) -> str:
        """What the kind `recording` plays, in words; empty for other kinds."""
        if self.kind != "recording":
            return ""
        return f"topics of {self.recording_topics!r}" if self.recording is None else self.recording.name

    @model_validator(mode="after")
    def _has_its_recording(self) -> Self:
        if self.kind == "recording" and self.recording is None and self.recording_topics is None:
            raise ValueError(
                "the kind `recording` needs `feed.recording`, the file to play, or `feed.recording_topics`"
            )
        if self.recording is not None and self.recording_topics is not None:
            raise ValueError("`feed.recording` and `feed.recording_topics` exclude each other")
        return self


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


class TradeSettings(_Part):
    """The decisions."""

    workers: int = Field(default=1, ge=1, le=12)
    """Processes that share the pockets; chosen once per log."""
    strategies_folder: Path | None = None
    """A folder with strategies of one's own, one `.py` file each."""


class SandboxSettings(_Part):
    """The exchange that stands in for Upbit. Port 0: chosen once and kept in the run folder."""

    host: LoopbackHost = "127.0.0.1"
    port: Port = 0
    burn_refused_identifiers: bool = True
    smp_default: Literal["", "cancel_maker"] = ""
    is_limited: bool = True
    """Whether it refuses requests over the rate limits."""
    limits: GroupSizes = {}
    """Sizes of rate limit groups that differ from the documented ones."""


class PaperSettings(_Part):
    """The account that exists by default."""

    account: AccountName = "paper"
    pocket: AccountName = "paper-main"
    cash: Number = "10000000"
    budget: Number = "1000000"
    entry_funds: Number = "6000"
    threshold_percent: SignedNumber = "0.05"
    fee_percent: Number = "0.05"
    stop_percent: Number = "1.5"
    hysteresis_percent: SignedNumber = "0"


class ExecuteSettings(_Part):
    """The order executor."""

    instance: str = Field(default="ob", pattern=r"^[a-z0-9]{1,8}$")
    """Stands first in every identifier sent to the exchange; one per deployment that shares a key."""
    database: str = Field(default="", pattern=r"^(postgresql://[^\s:/@]+@[^\s@]+)?$")
    """`postgresql://user@host/name` for the journal (its password in `~/.pgpass`); empty: a file in the run folder."""
    allow_live: bool = False
    """Whether this deployment allows real money; an armed account and a checked key are needed besides."""
    system_user: str = Field(default="", pattern=r"^[a-z_][a-z0-9_-]{0,31}$|^$")
    """The system user that the executor goes on as when root starts it; empty: as whom it was started."""
    lease_seconds: float = Field(default=5.0, ge=0.5, le=60)
    """How long an executor on PostgreSQL may be silent before another one may take over."""
    request_timeout_seconds: float = Field(default=3.0, gt=0, le=3)
    longest_flight_seconds: float = Field(default=5.0, gt=0)
    """A request that was sent arrives within this time or never; an order in doubt is looked for a second longer."""
    maximum_order_funds: Number = "1000000"
    """Largest total of one entry, whatever `trade` asks for."""
    orders_per_minute: int = Field(default=120, ge=1)
    """Entries per minute at most."""
    orders_per_day: int = Field(default=20_000, ge=1)
    """Orders of one account since 00:00 KST; more only to leave a position."""
    maximum_market_exposure: Number = "10000000"
    """What one account may have in one market: held and open entries."""
    maximum_exposure: Number = "100000000"
    """The same over all markets."""
    price_band_percent: Number = "10"
    """How much worse than the last price known a limit price may be."""
    late_request_seconds: float = Field(default=600.0, gt=0)
    """A scheduled order that could not be sent in time is sent up to so much later, once; older ones are missed."""


class ArchiveSettings(_Part):
    """The archive: the topics as Parquet files."""

    is_on: bool = True
    target: str = ""
    """A folder, or `s3://bucket/folder`; empty: the folder `archive` of the run folder."""
    endpoint: str = Field(default="", pattern=r"^(https?://[^\s@]+)?$")
    """Address of the S3 server; empty: Amazon's."""
    region: str = Field(default="", pattern=r"^[a-z0-9-]{0,32}$")
    part_seconds: float = Field(default=300, gt=0, le=3600)
    """A part holds what came within so many seconds, and ends with its hour."""
    part_records: int = Field(default=100_000, ge=1, le=1_000_000)
    """And at most so many records."""
    keep_days: int = Field(default=3, ge=1)
    """How long parts that are safe in the bucket stay on this machine."""
    budget_gb: float = Field(default=0, ge=0)
    """What the archive's folder may take on this machine; 0: what the disk has."""
    topics: list[str] = []
    """Which topics; empty: all but `logs`. `all`: those too."""

    @field_validator("target")
    @classmethod
    def _is_folder_or_bucket(cls, target: str) -> str:
        if "://" in target and not _BUCKET.fullmatch(target):
            raise ValueError("a folder, or a bucket as `s3://bucket` or `s3://bucket/folder`")
        return target.rstrip("/") if len(target) > 1 else target


class NightlySettings(_Part):
    """The look back at yesterday."""

    is_on: bool = True
    at: str = Field(default="00:10", pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    """When it begins, KST; the archive closes its day at 00:05."""


class DashboardSettings(_Part):
    """The page and the API."""

    is_open: bool = False
    """Whether `host` may lie beyond the loopback: anybody who reaches it sees the page (containers need it)."""
    host: str = "127.0.0.1"
    port: Port = 8501
    api_port: Port = 0
    """Of the API, on 127.0.0.1 always; 0: chosen once and kept in the run folder."""

    @field_validator("host")
    @classmethod
    def _is_allowed(cls, host: str, info: ValidationInfo) -> str:
        return host if info.data.get("is_open") else _only_loopback(host)


class Settings(_Part):
    """All of it."""

    home: Path = Path(".observator")
    """The run folder: broker data, databases, ports, logs, process ids."""
    processes: list[str] = []
    """The processes of the `Procfile` that run here; empty: all that these settings call for."""
    kafka: KafkaSettings = KafkaSettings()
    feed: FeedSettings = FeedSettings()
    grid: GridSettings = GridSettings()
    streams: StreamsSettings = StreamsSettings()
    predict: PredictSettings = PredictSettings()
    trade: TradeSettings = TradeSettings()
    sandbox: SandboxSettings = SandboxSettings()
    paper: PaperSettings = PaperSettings()
    execute: ExecuteSettings = ExecuteSettings()
    archive: ArchiveSettings = ArchiveSettings()
    nightly: NightlySettings = NightlySettings()
    dashboard: DashboardSettings = DashboardSettings()

    @model_validator(mode="after")
    def _plays_another_run(self) -> Self:
        if self.feed.recording_topics == self.kafka.prefix:
            raise ValueError("`feed.recording_topics` is `kafka.prefix`: a run cannot play what it is writing")
        return self
