"""What the trade process begins with: its parameters and clock from the settings, the default account, its manifest.

Called by `consumers.trade.runner`, parameters by replays too. Decides nothing.
"""

import logging
from decimal import Decimal
from importlib import metadata
from pathlib import Path

from consumers.trade import inputs
from consumers.trade.state import Parameters
from infra.errors import BadMessage, BadSettings
from infra.log import Log, Slot, publish_one
from infra.manifest import as_fields, make_manifest
from infra.settings import PaperSettings, Settings
from models.strategies.folder import Loaded
from streams import messages as m

logger = logging.getLogger(__name__)

DEFAULT_HORIZONS_MS = (5_000, 10_000, 30_000, 60_000)


def parameters_of(settings: Settings) -> Parameters:
    """What the fold needs of the settings; the limits are in market time, so a faster market has wider ones."""
    speed = max(1.0, settings.feed.speed)
    return Parameters(
        stale_feed_ms=int(settings.feed.stale_seconds * 1000 * speed),
        stale_signal_ms=int(3_000 * speed),
        entry_expiry_ms=int(5_000 * speed),
        exit_expiry_ms=int(30_000 * speed),
        closed_order_ms=int(600_000 * speed),
        late_order_ms=int(Parameters().late_order_ms * speed),
        is_warm_up_expected=settings.feed.kind == "synthetic" and settings.feed.warmup_seconds > 0,
    )


class MarketClock:
    """Estimates the market's time from bins, the log's append times and our clock.

    `is_wall` says that the market runs by our own clock (synthetic, live pace): a market that is behind it catches up
    after a pause, and its signals are old.
    """

    def __init__(self, speed: float, *, is_wall: bool = False) -> None:
        self._speed = speed
        self._is_wall = is_wall
        self._event_ms = 0
        self._append_ms = 0

    def note(self, event_ms: int, append_ms: int) -> None:
        """Take a record of the market: its time was `event_ms` when the log's clock showed `append_ms`."""
        if event_ms > self._event_ms:
            self._event_ms, self._append_ms = event_ms, append_ms

    def begin(self, event_ms: int, append_ms: int) -> None:
        """Take a price over REST where nothing else is known: trade was started while the feed was dead."""
        if self._event_ms == 0:
            self.note(event_ms, append_ms)

    def now(self, now_ms: int) -> int:
        """Market time now; 0 while nothing is known."""
        if self._event_ms == 0:
            return 0
        estimate = self._event_ms + int(max(now_ms - self._append_ms, 0) * self._speed)
        return max(estimate, now_ms) if self._is_wall else estimate


def clock_of(settings: Settings) -> MarketClock:
    """The clock of a feed: only the synthetic market at live pace is known to run by ours."""
    feed = settings.feed
    return MarketClock(feed.speed, is_wall=feed.kind == "synthetic" and feed.speed == 1.0)


def ensure_default_account(log: Log, settings: Settings, now_ms: int) -> bool:
    """Write the default paper account where `controls` has none of its name; whether it was written.

    Trade without sign-up: this is the one account that exists by itself. Raises `BadSettings` where the settings name
    another one than this log's: both would trade in one pocket, or open positions could not be sold.
    """
    paper = settings.paper
    other: m.AccountSettings | None = None
    for record in inputs.read_to_end(log, [Slot("controls", 0)]):
        try:
            message = inputs.read(record)
        except BadMessage:
            continue
        if not isinstance(message, m.AccountSettings):
            continue
        if (message.account, message.pocket) == (paper.account, paper.pocket):
            return False
        if message.account == paper.account or message.pocket == paper.pocket:
            other = message
    if other is not None:
        raise BadSettings(
            f"`paper.account` and `paper.pocket` are {paper.account} and {paper.pocket}, but the log of this run folder"
            f" knows {other.account} and {other.pocket}: set them back, or use another `home`."
        )
    account = paper_account(paper, paper.account, paper.pocket, now_ms, is_trading=True)
    publish_one(log, "controls", paper.account, m.encode(account))
    logger.info("wrote the default paper account %s", paper.account)
    return True


def paper_account(
    paper: PaperSettings, account: str, pocket: str, now_ms: int, *, is_trading: bool
) -> m.AccountSettings:
    """A paper account with the values of the settings."""
    return m.AccountSettings(
        account=account,
        pocket=pocket,
        venue="paper",
        is_trading=is_trading,
        budget=Decimal(paper.budget),
        entry_funds=Decimal(paper.entry_funds),
        threshold_percent=Decimal(paper.threshold_percent),
        fee_percent=Decimal(paper.fee_percent),
        stop_percent=Decimal(paper.stop_percent),
        hysteresis_percent=Decimal(paper.hysteresis_percent),
        horizons_ms=list(DEFAULT_HORIZONS_MS),
        markets=[],
        event_ms=now_ms,
    )


def manifest_of(settings: Settings, loaded: Loaded, started_ms: int) -> m.RunManifest:
    """What this run's decisions depend on, the strategies from outside among it."""
    found = {"kinds": ",".join(sorted(loaded.kinds)), "digest": loaded.digest}
    content = settings.model_dump(mode="json") | {"strategies": found}
    root = Path(__file__).resolve().parents[2]
    backend = f"msgspec {metadata.version('msgspec')}"
    return m.RunManifest(
        **as_fields(make_manifest("trade", content, started_ms=started_ms, root=root, backend=backend))
    )


def tell(log: Log, manifest: m.RunManifest) -> None:
    """Write the manifest that opens the run."""
    publish_one(log, "manifests", manifest.process, m.encode(manifest))
