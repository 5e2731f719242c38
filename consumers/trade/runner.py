"""The trade process: reads, folds, and commits intents, snapshots, recorded inputs and offsets in one transaction.

Called by the supervisor through `run`. Everything that needs a clock, a log or settings stands here and nothing that
decides. What is not committed did not happen: after an abort the state is rebuilt from the log.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from heapq import nsmallest

import msgspec

from consumers.trade import inputs
from consumers.trade.fold import Fold, Input, Output
from consumers.trade.reasons import Reason, text_of
from consumers.trade.replay import Restored, Shard, restore
from consumers.trade.start import (
    MarketClock,
    clock_of,
    ensure_default_account,
    manifest_of,
    parameters_of,
    tell,
)
from consumers.trade.state import MARKET_VIEW, Parameters, encode
from infra.errors import BadMessage, Retry, TopicMissing
from infra.log import Log, Reader, Record, Slot, Transactor, partition_of
from infra.settings import Settings
from infra.watchdog import Watchdog
from models.strategies.folder import load
from models.strategies.registry import STRATEGIES, Kinds
from streams import messages as m
from streams import topics

logger = logging.getLogger(__name__)

_BATCH = 2_000
_READ_S = 0.05
_COMMIT_EVERY_MS = 500
_OFFSETS_WITHIN_MS = 1_000
_ACCOUNTS_EVERY_MS = 1_000
_SHARED_EVERY_MS = 10_000
_PULSE_MS = 1_000
_COUNTS_PER_COMMIT = 200
"""Accounts of which nothing but counts changed that are written at once; all of them are with the shared snapshot."""
_RETRY_S = 1.0
_ALARMS = frozenset({Reason.EXIT_REFUSED, Reason.STALE_POSITION})


def owner_of(shard: Shard) -> Callable[[str], bool]:
    """Whether a pocket belongs to a shard."""
    owned = frozenset(shard.partitions)
    return lambda pocket: partition_of(pocket, topics.BY_POCKET) in owned


class Trader:
    """One shard's state between two commits; `step` is one turn of the loop."""

    def __init__(
        self,
        log: Log,
        shard: Shard,
        parameters: Parameters,
        clock: MarketClock | None = None,
        kinds: Kinds = STRATEGIES,
    ) -> None:
        self._log = log
        self._shard = shard
        self._transactor: Transactor = log.transactor(shard.transactional_id)
        restored: Restored = restore(log, shard, parameters, owner_of(shard), kinds)
        self.fold: Fold = restored.fold
        self._positions = restored.positions
        self._committed: dict[Slot, int] = {}
        self._reader: Reader = log.reader(restored.positions)
        self._clock = clock or MarketClock(1.0)
        self._taken: list[m.TradeInput] = []
        self._outputs: list[Output] = []
        self._dead: list[tuple[Record, str]] = []
        self._written = restored.written
        self._written_ms: dict[str, int] = {}
        self._home_first = 0
        self._committed_ms = self._moved_ms = self._accounts_ms = self._shared_ms = 0

    def step(self, now_ms: int, read_s: float = _READ_S) -> bool:
        """Read what is there, fold it, commit where something is due; whether anything was read.

        Raises `TransactionAborted` and other `Retry`s (make a new `Trader` then), `Fenced`.
        """
        stretches = [(stretch, self._decoded(stretch)) for stretch in self._read(read_s)]
        self._pulse(now_ms)
        for stretch, messages in stretches:
            for message in messages:
                self._outputs += self.fold.take(message)
                if isinstance(message, m.AccountSettings):
                    self._tell_problems(message.account)
            self._taken.append(stretch.entry)
            self._positions[stretch.slot] = stretch.records[-1].offset + 1
        if self._is_due(now_ms):
            self.commit(now_ms)
        return bool(stretches)

    def _tell_problems(self, name: str) -> None:
        account = self.fold.state.accounts.get(name)
        for problem in self.fold.plans.problems(account) if account is not None else ():
            logger.warning("account %s: %s", name, problem)

    def behind(self) -> str | None:
        """What could be read but is not; asked from the watchdog's thread."""
        return inputs.behind(self._log, dict(self._positions))

    def close(self) -> None:
        """Let go; what is not committed is thrown away."""
        self._reader.close()
        self._transactor.close()

    def commit(self, now_ms: int) -> None:
        """Write everything since the last commit as one transaction.

        Offsets may follow with a later one: a decision does not wait for their two round trips. They say how far behind
        trade is; what was taken stands in the recorded inputs, which are in every transaction with what came of them.
        """
        snapshots = self._snapshots(now_ms)
        self._transactor.begin()
        self._publish(snapshots)
        is_late = now_ms - self._moved_ms >= _OFFSETS_WITHIN_MS
        moved = self._moved() if is_late or not self._is_urgent() else {}
        self._transactor.commit(None, self._shard.group, moved)
        if moved:
            self._committed.update(moved)
            self._moved_ms = now_ms
        self._taken, self._outputs, self._dead = [], [], []
        self._committed_ms = now_ms

    def _is_due(self, now_ms: int) -> bool:
        """Whether to commit now: a decision at once, anything else now and then, offsets left behind too."""
        if self._taken and self._is_urgent():
            return True
        return now_ms - self._committed_ms >= _COMMIT_EVERY_MS and (bool(self._taken) or bool(self._moved()))

    def _moved(self) -> dict[Slot, int]:
        """Offsets that are not committed yet."""
        return {slot: offset for slot, offset in self._positions.items() if self._committed.get(slot) != offset}

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
            elif isinstance(message, m.Quote):
                self._clock.begin(message.event_ms, record.append_ms)
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
        cursor[inputs.LAST_PARTITION] = self._shard.partitions[-1]
        return cursor

    def _snapshots(self, now_ms: int) -> list[tuple[str, int, bytes]]:
        """What is due to be written: account name, partition and state of what changed.

        With the shared state go all accounts that differ: a restart folds the inputs behind it again only.
        """
        due: list[tuple[str, int, bytes]] = []
        fold, names = self.fold, set(self.fold.changed) if self._is_urgent() else set()
        is_shared = now_ms - self._shared_ms >= _SHARED_EVERY_MS
        if is_shared:
            home = Slot("trade-inputs", self._shard.home)
            self._home_first = self._log.bounds([home])[home][1]
            self._shared_ms = self._accounts_ms = now_ms
            names = set(fold.state.accounts)
        elif now_ms - self._accounts_ms >= _ACCOUNTS_EVERY_MS:
            self._accounts_ms = now_ms
            names = fold.changed | set(nsmallest(_COUNTS_PER_COMMIT, sorted(fold.counted), self._written_at))
        cursor = self._cursor() if names or is_shared else {}
        if is_shared:
            due.append(self._snapshot(MARKET_VIEW, encode(fold.state.shared), self._shard.home, cursor))
        for name in sorted(names & fold.state.accounts.keys()):
            account = fold.state.accounts[name]
            data = encode(account)
            self._written_ms[name] = now_ms
            if data != self._written.get(name):
                due.append(self._snapshot(name, data, partition_of(account.settings.pocket, topics.BY_POCKET), cursor))
                self._written[name] = data
        fold.changed -= names
        fold.counted -= names
        return due

    def _written_at(self, name: str) -> int:
        return self._written_ms.get(name, 0)

    def _snapshot(self, name: str, data: bytes, partition: int, cursor: dict[str, int]) -> tuple[str, int, bytes]:
        event_ms = self.fold.state.shared.now_ms
        state = m.AccountState(account=name, state=msgspec.Raw(data), cursor=cursor, event_ms=event_ms)
        return name, partition, m.encode(state)

    def _publish(self, snapshots: list[tuple[str, int, bytes]]) -> None:
        for entry in self._taken:
            self._transactor.publish("trade-inputs", "", m.encode(entry), self._shard.home)
        for output in self._outputs:
            if isinstance(output, m.Veto):
                if output.reason in _ALARMS:
                    logger.error("%s: %s", output.market, text_of(output.reason))
                if (account := self.fold.state.accounts.get(output.account)) is not None:
                    self._transactor.publish("order-events", account.settings.pocket, m.encode(output))
            else:
                self._transactor.publish("order-intents", output.pocket, m.encode(output))
        for name, partition, value in snapshots:
            self._transactor.publish("account-states", name, value, partition)
        for record, reason in self._dead:
            letter = m.DeadLetter.of(
                "trade", record.topic, record.partition, record.offset, record.key, reason, record.value
            )  # fmt: skip
            self._transactor.publish("dead-letters", "trade", m.encode(letter))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def run(settings: Settings, log: Log, stop: threading.Event, shard: Shard | None = None) -> None:
    """Trade until `stop` is set; after a `Retry` start over from what is committed.

    Raises `BadSettings` (a strategy's file, another number of processes than before), `Fenced`, other `Stop`s.
    """
    worker = int(os.environ.get("OBSERVATOR_WORKER", "0"))
    owned, parameters = shard or Shard.of(worker, settings.trade.workers), parameters_of(settings)
    loaded = load(settings.trade.strategies_folder)
    is_told = False
    while not stop.is_set():
        trader: Trader | None = None
        try:
            if not is_told:
                tell(log, manifest_of(settings, loaded, _now_ms()))
                is_told = True
            if owner_of(owned)(settings.paper.pocket):
                ensure_default_account(log, settings, _now_ms())
            trader = Trader(log, owned, parameters, clock_of(settings), loaded.kinds)
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
