"""The trade process: reads, folds, and commits intents, snapshots, recorded inputs and offsets in one transaction.

Called by the supervisor through `run`. Everything that needs a clock, a log or settings stands here and nothing that
decides. What is not committed did not happen: after an abort the state is rebuilt from the log.
"""

import logging
import threading
import time
from collections.abc import Callable
from decimal import Decimal

import msgspec

from consumers.trade import inputs
from consumers.trade.fold import Fold, Input, Output
from consumers.trade.reasons import Reason, text_of
from consumers.trade.replay import GROUP, Restored, Shard, restore
from consumers.trade.state import MARKET_VIEW, Account, Parameters, Shared, encode
from infra.errors import BadMessage, BadSettings, Retry, TopicMissing
from infra.log import Log, Reader, Record, Slot, Transactor, partition_of
from infra.settings import Settings
from infra.watchdog import Watchdog
from streams import messages as m
from streams import topics

logger = logging.getLogger(__name__)

_BATCH = 2_000
_READ_S = 0.05
_COMMIT_EVERY_MS = 500
_ACCOUNTS_EVERY_MS = 1_000
_SHARED_EVERY_MS = 10_000
_PULSE_MS = 1_000
_RETRY_S = 1.0
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


def owner_of(shard: Shard) -> Callable[[str], bool]:
    """Whether a pocket belongs to a shard."""
    owned = frozenset(shard.partitions)
    return lambda pocket: partition_of(pocket, topics.BY_POCKET) in owned


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


class Trader:
    """One shard's state between two commits; `step` is one turn of the loop."""

    def __init__(self, log: Log, shard: Shard, parameters: Parameters, clock: MarketClock | None = None) -> None:
        self._log = log
        self._shard = shard
        self._transactor: Transactor = log.transactor(shard.transactional_id)
        restored: Restored = restore(log, shard, parameters, owner_of(shard))
        self.fold: Fold = restored.fold
        self._positions = restored.positions
        self._committed: dict[Slot, int] = {}
        self._reader: Reader = log.reader(restored.positions)
        self._clock = clock or MarketClock(1.0)
        self._taken: list[m.TradeInput] = []
        self._outputs: list[Output] = []
        self._dead: list[tuple[Record, str]] = []
        self._written: dict[str, bytes] = {name: encode(a) for name, a in self.fold.state.accounts.items()}
        self._home_first = 0
        self._committed_ms = self._accounts_ms = self._shared_ms = 0

    def step(self, now_ms: int, read_s: float = _READ_S) -> bool:
        """Read what is there, fold it, commit where something is due; whether anything was read.

        Raises `TransactionAborted` and other `Retry`s (make a new `Trader` then), `Fenced`.
        """
        stretches = [(stretch, self._decoded(stretch)) for stretch in self._read(read_s)]
        self._pulse(now_ms)
        for stretch, messages in stretches:
            for message in messages:
                self._outputs += self.fold.take(message)
            self._taken.append(stretch.entry)
            self._positions[stretch.slot] = stretch.records[-1].offset + 1
        if self._taken and (self._is_urgent() or now_ms - self._committed_ms >= _COMMIT_EVERY_MS):
            self.commit(now_ms)
        return bool(stretches)

    def behind(self) -> str | None:
        """What could be read but is not; asked from the watchdog's thread."""
        return inputs.behind(self._log, dict(self._positions))

    def close(self) -> None:
        """Let go; what is not committed is thrown away."""
        self._reader.close()
        self._transactor.close()

    def commit(self, now_ms: int) -> None:
        """Write everything since the last commit as one transaction."""
        intents = self._is_urgent()
        snapshots: list[tuple[str, int, bytes]] = []
        if now_ms - self._shared_ms >= _SHARED_EVERY_MS:
            home = Slot("trade-inputs", self._shard.home)
            self._home_first = self._log.bounds([home])[home][1]
            snapshots.append(self._snapshot(MARKET_VIEW, self.fold.state.shared, self._shard.home))
            self._shared_ms = now_ms
            intents = True
        if intents or now_ms - self._accounts_ms >= _ACCOUNTS_EVERY_MS:
            snapshots += self._changed_accounts()
            self._accounts_ms = now_ms
        self._transactor.begin()
        self._publish(snapshots)
        moved = {slot: offset for slot, offset in self._positions.items() if self._committed.get(slot) != offset}
        self._transactor.commit(None, GROUP, moved)
        self._committed.update(moved)
        self._taken, self._outputs, self._dead = [], [], []
        self._committed_ms = now_ms

    def _read(self, read_s: float) -> list[inputs.Stretch]:
        return inputs.in_order(self._reader.read(_BATCH, read_s))

    def _decoded(self, stretch: inputs.Stretch) -> list[Input]:
        """The readable messages of a stretch; the others become dead letters."""
        messages: list[Input] = []
        for record in stretch.records:
            try:
                message = inputs.read(record)
            except BadMessage as error:
                self._dead.append((record, str(error)))
                continue
            if isinstance(message, m.Features | m.Signal):
                self._clock.note(message.bin_ms, record.append_ms)
            messages.append(message)
        return messages

    def _pulse(self, now_ms: int) -> None:
        pulse_ms = self._clock.now(now_ms) // _PULSE_MS * _PULSE_MS
        if pulse_ms > self.fold.state.shared.pulse_ms:
            self._outputs += self.fold.pulse(pulse_ms)
            self._taken.append(inputs.pulse_entry(pulse_ms))

    def _is_urgent(self) -> bool:
        return any(not isinstance(output, m.Veto) for output in self._outputs)

    def _cursor(self) -> dict[str, int]:
        cursor = {inputs.slot_name(slot): offset for slot, offset in self._positions.items()}
        cursor[inputs.slot_name(Slot("trade-inputs", self._shard.home))] = self._home_first
        cursor[inputs.PULSE] = self.fold.state.shared.pulse_ms
        return cursor

    def _snapshot(self, name: str, part: Account | Shared, partition: int) -> tuple[str, int, bytes]:
        state = m.AccountState(
            account=name,
            state=msgspec.Raw(encode(part)),
            cursor=self._cursor(),
            event_ms=self.fold.state.shared.now_ms,
        )
        return name, partition, m.encode(state)

    def _changed_accounts(self) -> list[tuple[str, int, bytes]]:
        changed: list[tuple[str, int, bytes]] = []
        for name, account in self.fold.state.accounts.items():
            data = encode(account)
            if data != self._written.get(name):
                partition = partition_of(account.settings.pocket, topics.BY_POCKET)
                changed.append(self._snapshot(name, account, partition))
                self._written[name] = data
        return changed

    def _publish(self, snapshots: list[tuple[str, int, bytes]]) -> None:
        for entry in self._taken:
            self._transactor.publish("trade-inputs", "", m.encode(entry), self._shard.home)
        for output in self._outputs:
            if isinstance(output, m.Veto):
                if output.reason == Reason.EXIT_REFUSED:
                    logger.error("%s: %s", output.market, text_of(output.reason))
                pocket = self.fold.state.accounts[output.account].settings.pocket
                self._transactor.publish("order-events", pocket, m.encode(output))
            else:
                self._transactor.publish("order-intents", output.pocket, m.encode(output))
        for name, partition, value in snapshots:
            self._transactor.publish("account-states", name, value, partition)
        for record, reason in self._dead:
            letter = m.DeadLetter.of(
                "trade", record.topic, record.partition, record.offset, record.key, reason, record.value
            )  # fmt: skip
            self._transactor.publish("dead-letters", "trade", m.encode(letter))


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
    account = m.AccountSettings(
        account=paper.account,
        pocket=paper.pocket,
        venue="paper",
        is_trading=True,
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
    publisher = log.publisher()
    try:
        publisher.publish("controls", paper.account, m.encode(account))
        publisher.flush()
    finally:
        publisher.close()
    logger.info("wrote the default paper account %s", paper.account)
    return True


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def run(settings: Settings, log: Log, stop: threading.Event, shard: Shard | None = None) -> None:
    """Trade until `stop` is set; after a `Retry` start over from what is committed. Raises `Fenced`, other `Stop`s."""
    owned, parameters = shard or Shard(), parameters_of(settings)
    while not stop.is_set():
        trader: Trader | None = None
        try:
            ensure_default_account(log, settings, _now_ms())
            trader = Trader(log, owned, parameters, clock_of(settings))
            logger.info("trade has its state back: %d accounts", len(trader.fold.state.accounts))
            _trade(trader, stop)
        except (Retry, TopicMissing) as error:
            logger.warning("trade starts over from the last commit: %s", error)
            stop.wait(_RETRY_S)
        finally:
            if trader is not None:
                trader.close()


def _trade(trader: Trader, stop: threading.Event) -> None:
    """Turn until `stop`; a watchdog ends the process where it hangs."""
    watchdog = Watchdog(trader.behind)
    watchdog.start()
    try:
        while not stop.is_set():
            if trader.step(_now_ms()):
                watchdog.progress()
            watchdog.beat()
        trader.commit(_now_ms())
    finally:
        watchdog.stop()
