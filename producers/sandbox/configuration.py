"""What a sandbox is told: plain values, made from the settings by the server's entry or by hand in tests."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from infra.errors import BadSettings
from infra.log import Log, Slot
from infra.servers.broker import bootstrap_of, open_log
from infra.settings import Settings
from producers.sandbox.synthetic import Plan


@dataclass(frozen=True, slots=True)
class Configuration:
    """A sandbox. Port 0 takes any free port (tests)."""

    home: Path
    kind: str = "synthetic"
    """`synthetic`, `recording` or `follow`."""
    recording: Path | None = None
    """A file of raw frames, or of books in Parquet."""
    recording_trades: Path | None = None
    """The Parquet file of trades beside it."""
    played_log: Callable[[], Log] | None = None
    """Opens the log whose topics are played instead of a file."""
    played_offsets: Mapping[Slot, tuple[int, int]] = field(default_factory=dict)
    """Which of its records (first, next after the last); none: all."""
    followed_log: Callable[[], Log] | None = None
    """Opens the log that is followed."""
    stale_seconds: float = 10.0
    """A followed market that was silent for so long has no book."""
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
    smp_default: str = ""
    """Self-match mode of orders that name none: empty as recorded, `cancel_maker` as announced for 2026-11-09."""
    is_limited: bool = True
    """Whether requests over the rate limits are refused."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """Sizes of groups where they are not the documented ones."""
    nonces: int = 200_000
    """How many of the newest are remembered, so that a token cannot be used twice."""
    starts_at_once: bool = False
    """Whether the market runs without waiting for its first subscriber."""
    front_port: int | None = None
    """Where the TLS front for clients with fixed addresses listens; none: no front."""

    @property
    def journal_path(self) -> Path:
        """The exchange's own memory."""
        return self.home / "db" / "sandbox.journal"

    @property
    def keys_path(self) -> Path:
        """The access keys that were made, without their secrets."""
        return self.home / "db" / "sandbox-keys.json"

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
        kind="follow" if feed.kind == "upbit" else feed.kind,
        recording=feed.recording,
        recording_trades=feed.recording_trades,
        played_log=None if feed.recording_topics is None else _other_log(settings, feed.recording_topics),
        played_offsets=dict(map(_range_of, feed.recording_offsets)),
        followed_log=(lambda: open_log(settings)) if feed.kind == "upbit" else None,
        stale_seconds=feed.stale_seconds,
        host=settings.sandbox.host,
        port=port,
        plan=plan,
        speed=feed.speed,
        warmup_seconds=feed.warmup_seconds,
        burn_refused_identifiers=settings.sandbox.burn_refused_identifiers,
        smp_default=settings.sandbox.smp_default,
        cash=settings.paper.cash,
        access_key=settings.paper.pocket,
        is_limited=settings.sandbox.is_limited,
        limits=settings.sandbox.limits,
    )


def _other_log(settings: Settings, prefix: str) -> Callable[[], Log]:
    """The log of another run on the same broker."""

    def opened() -> Log:
        from infra.kafka import KafkaLog  # noqa: PLC0415 - only a recording in the log needs Kafka

        return KafkaLog(bootstrap_of(settings), prefix)

    return opened


def _range_of(text: str) -> tuple[Slot, tuple[int, int]]:
    """`orderbooks/3:100-200`, as the settings have checked it."""
    where, _, offsets = text.partition(":")
    topic, _, partition = where.partition("/")
    first, _, end = offsets.partition("-")
    return Slot(topic, int(partition)), (int(first), int(end))


def dump(value: object) -> str:
    """JSON as the exchange writes it: no spaces, Korean text as it is."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
