import random
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from consumers.trade import inputs, replay, runner
from consumers.trade.fold import Fold
from consumers.trade.replay import Shard
from consumers.trade.runner import Trader, owner_of
from consumers.trade.start import MarketClock, clock_of, ensure_default_account, parameters_of
from consumers.trade.state import MARKET_VIEW, Parameters, encode, money_context
from infra.errors import BadSettings, Fenced, RecordsLost, TransactionAborted
from infra.log import Log, Record, Slot, TopicSpec, slots_of
from infra.memory_log import MemoryLog
from infra.settings import FeedSettings, Settings
from streams import messages as m
from streams import topics

T0 = 1_700_000_000_000
MARKETS = ("KRW-BTC", "KRW-ETH", "KRW-XRP")
PARAMETERS = Parameters()


class Clock:
    """The wall clock of a test; the market's time is the same."""

    def __init__(self) -> None:
        self.now_ms = T0

    def __call__(self) -> int:
        return self.now_ms


def create_all(log: Log) -> None:
    log.create_topics([TopicSpec(t.name, t.partitions, t.config) for t in topics.TOPICS.values()])


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock) -> MemoryLog:
    log = MemoryLog(clock_ms=clock)
    create_all(log)
    return log


def records(log: Log, topic: str) -> list[Record]:
    return list(inputs.read_to_end(log, slots_of(log, [topic])))


def intents(log: Log) -> list[m.OrderIntent]:
    return [one for one in written(log) if isinstance(one, m.OrderIntent)]


def written(log: Log) -> list[m.Intent]:
    return [topics.decode("order-intents", record.value) for record in records(log, "order-intents")]


def vetoes(log: Log) -> list[m.Veto]:
    found = [topics.decode("order-events", record.value) for record in records(log, "order-events")]
    return [one for one in found if isinstance(one, m.Veto)]


class World:
    """The processes around trade: predict and the executor, as far as trade sees them."""

    def __init__(self, log: MemoryLog, clock: Clock, make: SimpleNamespace, seed: int) -> None:
        self.log, self.clock, self.make = log, clock, make
        self.random = random.Random(seed)
        self.publisher = log.publisher()
        self.mids = dict.fromkeys(MARKETS, 100_000.0)
        self.answered: set[str] = set()
        self.dead = range(0)
        """Bins in which the stream brings nothing and REST answers."""

    def control(self, message: m.Message) -> None:
        self.publisher.publish("controls", "paper", m.encode(message))

    def bin(self) -> None:
        self.clock.now_ms += 1000
        bin_ms = self.clock.now_ms - 600
        for market in MARKETS:
            self.mids[market] *= 1 + self.random.gauss(0, 0.002)
            key = m.key_of("upbit", market)
            features = self.make.features(bin_ms, self.mids[market], market)
            self.publisher.publish("features", key, m.encode(features))
            for horizon in (5000, 10000):
                signal = self.make.signal(bin_ms, horizon, self.random.gauss(0, 30), market)
                self.publisher.publish("signals", key, m.encode(signal))

    def quote(self) -> None:
        """A second without a stream."""
        self.clock.now_ms += 1000
        for market in MARKETS:
            self.mids[market] *= 1 + self.random.gauss(0, 0.002)
            mid = self.mids[market]
            quote = m.Quote(
                exchange="upbit", market=market, source="upbit", event_ms=self.clock.now_ms, exchange_ms=0,
                received_ns=0, bid_prices=[mid - 5.0], bid_sizes=[9.0], ask_prices=[mid + 5.0], ask_sizes=[9.0],
            )  # fmt: skip
            self.publisher.publish("quotes", m.key_of("upbit", market), m.encode(quote))

    def execute(self) -> None:
        """Answer every intent once: mostly with a fill; one that rests waits for the market, or to be cancelled."""
        gone = {one.intent_id for one in written(self.log) if isinstance(one, m.CancelIntent)}
        for intent in intents(self.log):
            is_resting = intent.order_type == "limit" and intent.id not in gone
            if intent.id in self.answered or (is_resting and self.random.random() < 0.9):
                continue
            self.answered.add(intent.id)
            if intent.id in gone:
                event = self.make.ended("cancelled", intent, self.clock.now_ms)
                self.publisher.publish("order-events", intent.pocket, m.encode(event))
                continue
            now, mid = self.clock.now_ms, Decimal(str(round(self.mids[intent.market])))
            if self.random.random() < 0.2:
                event = self.make.ended("rejected", intent, now)
            else:
                whole = intent.quantity or (intent.funds or Decimal(0)) / mid
                event = self.make.filled(intent, str(whole.quantize(Decimal("0.00000001"))), str(mid), now)
            self.publisher.publish("order-events", intent.pocket, m.encode(event))


def live(world: World, parameters: Parameters, kill: Callable[[], bool]) -> Trader:
    """Run 120 bins; wherever `kill` says so the process is gone without a word, and another takes its place."""
    trader = Trader(world.log, Shard(), parameters)
    for number in range(120):
        if number in world.dead:
            world.quote()
        else:
            world.bin()
        for _ in range(3):
            world.clock.now_ms += world.random.choice((0, 30))
            trader.step(world.clock.now_ms, 0.0)
            if kill():
                trader = Trader(world.log, Shard(), parameters)
            world.execute()
    while trader.step(world.clock.now_ms, 0.0):
        pass
    trader.commit(world.clock.now_ms)
    return trader


EXITS = m.ExitRules(
    take_profit_percent=Decimal("0.3"), is_take_profit_resting=True, trailing_percent=Decimal("0.4"), on_stale="sell"
)
ACCOUNTS: list[dict[str, Any]] = [
    {},
    {"exits": EXITS, "strategies": [m.StrategySettings(id="a"), m.StrategySettings(id="b")], "is_netting": True},
]


@pytest.mark.parametrize("changes", ACCOUNTS, ids=["plain", "everything"])
@pytest.mark.parametrize("seed", range(4))
def test_kills_change_nothing_that_a_replay_does_not_give_again(
    log: MemoryLog, clock: Clock, make: SimpleNamespace, seed: int, changes: dict[str, Any]
) -> None:
    world = World(log, clock, make, seed)
    for market in MARKETS if changes else ():
        world.publisher.publish("markets", m.key_of("upbit", market), m.encode(make.market("10", market)))
    world.control(make.settings(cooldown_ms=1000, **changes))
    kills = random.Random(seed + 100)
    trader = live(world, PARAMETERS, lambda: kills.random() < 0.1)
    again = Fold(PARAMETERS, money_context(), owner_of(Shard()))
    outputs = list(replay.replay(log, PARAMETERS, fold=again))
    made = [one for one in outputs if isinstance(one, m.OrderIntent)]
    assert len(made) > 20
    assert {one.purpose for one in made} >= {"entry", "exit"}
    assert [m.hash_of(one) for one in made] == [m.hash_of(one) for one in intents(log)]
    told = [one for one in outputs if not isinstance(one, m.Veto)]
    assert [m.encode(one) for one in told] == [m.encode(one) for one in written(log)]
    assert [m.encode(one) for one in outputs if isinstance(one, m.Veto)] == [m.encode(one) for one in vetoes(log)]
    if changes:
        assert any(isinstance(one, m.CancelIntent) for one in told)
        assert {one.cause_kind for one in made} >= {"signal", "take-profit", "trailing"}
        assert {one.strategy for one in made} == {"a", "b"}
    assert len({one.id for one in made}) == len(made)
    assert encode(again.state) == encode(trader.fold.state)
    assert encode(Trader(log, Shard(), PARAMETERS).fold.state) == encode(trader.fold.state)


@pytest.mark.parametrize("seed", range(3))
def test_exits_by_prices_over_rest_are_the_same_in_a_replay(
    log: MemoryLog, clock: Clock, make: SimpleNamespace, seed: int
) -> None:
    world = World(log, clock, make, seed)
    world.dead = range(40, 90)
    exits = m.ExitRules(time_stop_ms=3_600_000, trailing_percent=Decimal("0.5"))
    world.control(make.settings(stop_percent=Decimal("0.5"), exits=exits, hysteresis_percent=Decimal(-100)))
    kills = random.Random(seed + 200)
    trader = live(world, PARAMETERS, lambda: kills.random() < 0.1)
    again = Fold(PARAMETERS, money_context(), owner_of(Shard()))
    outputs = list(replay.replay(log, PARAMETERS, fold=again))
    assert [m.encode(one) for one in outputs if not isinstance(one, m.Veto)] == [m.encode(one) for one in written(log)]
    assert encode(again.state) == encode(trader.fold.state)
    blind = [one for one in intents(log) if T0 + 51_000 <= one.event_ms <= T0 + 90_000]
    assert blind
    assert {one.purpose for one in blind} == {"protective-exit"}


def test_an_altered_input_is_found(log: MemoryLog, clock: Clock, make: SimpleNamespace) -> None:
    world = World(log, clock, make, 1)
    world.control(make.settings())
    live(world, PARAMETERS, lambda: False)
    other = Parameters(minimum_total=Decimal(7000))
    made = [one for one in replay.replay(log, other) if isinstance(one, m.OrderIntent)]
    assert made != intents(log)


def test_every_input_is_recorded_and_committed_once(log: MemoryLog, clock: Clock, make: SimpleNamespace) -> None:
    world = World(log, clock, make, 2)
    world.control(make.settings())
    live(world, PARAMETERS, lambda: False)
    seen: dict[Slot, int] = {}
    for record in records(log, "trade-inputs"):
        entry = topics.decode("trade-inputs", record.value)
        if entry.kind == "range":
            slot = Slot(entry.topic, entry.partition)
            assert entry.first >= seen.get(slot, 0)
            seen[slot] = entry.last + 1
    committed = log.committed(replay.GROUP, slots_of(log, inputs.TOPICS))
    assert {slot: offset for slot, offset in committed.items() if offset} == seen
    for slot, (_, end) in log.bounds(slots_of(log, ["features", "signals", "controls"])).items():
        assert seen.get(slot, 0) == end


def test_snapshots_are_few_and_of_what_changed(log: MemoryLog, clock: Clock, make: SimpleNamespace) -> None:
    world = World(log, clock, make, 3)
    world.control(make.settings())
    world.control(make.settings(account="idle", pocket="other", horizons_ms=[60_000]))
    live(world, PARAMETERS, lambda: False)
    found = [topics.decode("account-states", record.value) for record in records(log, "account-states")]
    assert sum(one.account == MARKET_VIEW for one in found) <= 13
    assert 0 < sum(one.account == "paper" for one in found) <= 120 + len(intents(log))
    assert {one.account for one in found} == {"paper", "idle", MARKET_VIEW}


def test_what_a_restart_rebuilt_is_stored_before_its_inputs_are_passed_over(
    log: MemoryLog, clock: Clock, make: SimpleNamespace
) -> None:
    """A fill is committed as an input, but the process is gone before the account's next snapshot; twice."""
    world = World(log, clock, make, 10)
    world.control(make.settings(threshold_percent=Decimal(-10), hysteresis_percent=Decimal(-10)))
    trader = Trader(log, Shard(), PARAMETERS)
    world.bin()
    trader.step(clock.now_ms, 0.0)
    (intent, *_) = intents(log)
    world.publisher.publish("order-events", intent.pocket, m.encode(make.filled(intent, "0.06", "100000", T0)))
    clock.now_ms += 600
    trader.step(clock.now_ms, 0.0)
    for _ in range(2):
        trader = Trader(log, Shard(), PARAMETERS)
        held = trader.fold.state.accounts["paper"].positions
        assert [one.quantity for one in held.values()] == [Decimal("0.06")]
        world.publisher.publish("controls", "nobody", m.encode(m.TradingStopped(account="x", event_ms=T0, by="t")))
        clock.now_ms += 600
        trader.step(clock.now_ms, 0.0)


def test_two_commits_within_a_millisecond_lose_nothing(log: MemoryLog, clock: Clock, make: SimpleNamespace) -> None:
    """The shared state is written once; written again without the accounts it would hide the fill from a restart."""
    world = World(log, clock, make, 12)
    world.control(make.settings(threshold_percent=Decimal(-10), hysteresis_percent=Decimal(-10)))
    trader = Trader(log, Shard(), PARAMETERS)
    world.bin()
    trader.step(clock.now_ms, 0.0)
    (intent, *_) = intents(log)
    world.publisher.publish("order-events", intent.pocket, m.encode(make.filled(intent, "0.06", "100000", T0)))
    trader.step(clock.now_ms, 0.0)
    trader.commit(clock.now_ms)
    again = Trader(log, Shard(), PARAMETERS)
    assert encode(again.fold.state) == encode(trader.fold.state)
    assert len(again.fold.state.accounts["paper"].positions) == 1


def test_counts_of_many_accounts_are_written_in_portions_and_all_with_the_shared_state(
    log: MemoryLog, clock: Clock, make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_COUNTS_PER_COMMIT", 2)
    world = World(log, clock, make, 11)
    for number in range(5):
        world.control(make.settings(account=f"account-{number}", threshold_percent=Decimal(10)))
    trader = Trader(log, Shard(), PARAMETERS)

    def written() -> list[str]:
        found = [topics.decode("account-states", record.value) for record in records(log, "account-states")]
        return [one.account for one in found if one.account != MARKET_VIEW]

    world.bin()
    trader.step(clock.now_ms, 0.0)
    assert sorted(written()) == [f"account-{number}" for number in range(5)]
    for _ in range(4):
        before = len(written())
        world.bin()
        trader.step(clock.now_ms, 0.0)
        assert len(written()) == before + 2
    assert {name: written().count(name) for name in set(written())} == dict(
        {f"account-{number}": 3 for number in range(3)}, **{"account-3": 2, "account-4": 2}
    )
    clock.now_ms += 10_000
    world.bin()
    trader.step(clock.now_ms, 0.0)
    assert sorted(written()[-5:]) == [f"account-{number}" for number in range(5)]
    assert encode(Trader(log, Shard(), PARAMETERS).fold.state) == encode(trader.fold.state)


def test_a_second_process_fences_the_first(log: MemoryLog, clock: Clock, make: SimpleNamespace) -> None:
    world = World(log, clock, make, 4)
    first = Trader(log, Shard(), PARAMETERS)
    second = Trader(log, Shard(), PARAMETERS)
    world.bin()
    with pytest.raises(Fenced):
        first.step(clock.now_ms, 0.0)
    second.step(clock.now_ms, 0.0)
    first.close()


def test_unreadable_input_becomes_a_dead_letter_and_replays_alike(
    log: MemoryLog, clock: Clock, make: SimpleNamespace
) -> None:
    world = World(log, clock, make, 5)
    world.control(make.settings())
    for value in (b"{", b'{"type":"unknown"}', b"\xff"):
        world.publisher.publish("signals", "upbit:KRW-BTC", value)
    trader = live(world, PARAMETERS, lambda: False)
    letters = [topics.decode("dead-letters", record.value) for record in records(log, "dead-letters")]
    assert [(one.topic, one.offset, one.process) for one in letters] == [("signals", i, "trade") for i in range(3)]
    again = Fold(PARAMETERS, money_context(), owner_of(Shard()))
    assert len(list(replay.replay(log, PARAMETERS, fold=again))) == len(intents(log)) + len(vetoes(log))
    assert encode(again.state) == encode(trader.fold.state)


def test_inputs_that_retention_took_are_told(log: MemoryLog, clock: Clock, make: SimpleNamespace) -> None:
    world = World(log, clock, make, 6)
    world.control(make.settings())
    live(world, PARAMETERS, lambda: False)
    busy = max(log.bounds(slots_of(log, ["features"])).items(), key=lambda item: item[1][1])[0]
    log.truncate(busy, 50)
    with pytest.raises(RecordsLost, match=f"{busy.topic}/{busy.partition}"):
        list(replay.replay(log, PARAMETERS))
    Trader(log, Shard(), PARAMETERS).close()


def test_recorded_inputs_that_retention_took_are_told(log: MemoryLog, clock: Clock, make: SimpleNamespace) -> None:
    world = World(log, clock, make, 6)
    world.control(make.settings())
    trader = live(world, PARAMETERS, lambda: False)
    home = Slot("trade-inputs", 0)
    end = log.bounds([home])[home][1]
    log.truncate(home, 1)
    with pytest.raises(RecordsLost, match="trade-inputs/0 0-0"):
        list(replay.replay(log, PARAMETERS))
    again = Trader(log, Shard(), PARAMETERS)
    assert encode(again.fold.state) == encode(trader.fold.state)
    again.close()
    log.truncate(home, end - 3)
    with pytest.raises(RecordsLost, match="trade's record of when it took"):
        Trader(log, Shard(), PARAMETERS)
    log.truncate(home, end)
    with pytest.raises(RecordsLost, match="no snapshot of the state holds them"):
        Trader(log, Shard(), PARAMETERS)


def test_recorded_inputs_that_a_snapshot_holds_are_not_needed(
    log: MemoryLog, clock: Clock, make: SimpleNamespace
) -> None:
    world = World(log, clock, make, 6)
    world.control(make.settings())
    trader = live(world, PARAMETERS, lambda: False)
    trader._shared_ms = 0
    trader.commit(clock.now_ms)
    home = Slot("trade-inputs", 0)
    log.truncate(home, log.bounds([home])[home][1])
    again = Trader(log, Shard(), PARAMETERS)
    assert encode(again.fold.state) == encode(trader.fold.state)
    again.close()


def test_a_late_start_refuses_old_signals(log: MemoryLog, clock: Clock, make: SimpleNamespace) -> None:
    world = World(log, clock, make, 7)
    world.control(make.settings(threshold_percent=Decimal(-10)))
    world.bin()
    clock.now_ms += 60_000
    trader = Trader(log, Shard(), PARAMETERS)
    trader.step(clock.now_ms, 0.0)
    trader.commit(clock.now_ms)
    assert {one.reason for one in vetoes(log)} == {"stale-signal"}
    assert intents(log) == []


def test_shards_own_their_pockets_only(log: MemoryLog, clock: Clock, make: SimpleNamespace) -> None:
    world = World(log, clock, make, 8)
    world.control(make.settings(threshold_percent=Decimal(-10)))
    shards = [Shard(tuple(range(6))), Shard(tuple(range(6, 12)))]
    traders = [Trader(log, shard, PARAMETERS) for shard in shards]
    world.bin()
    for trader in traders:
        trader.step(clock.now_ms, 0.0)
    assert sorted(len(trader.fold.state.accounts) for trader in traders) == [0, 1]
    assert len(intents(log)) == len(MARKETS)
    for shard in shards:
        again = Fold(PARAMETERS, money_context(), owner_of(shard))
        list(replay.replay(log, PARAMETERS, shard, fold=again))
        assert again.state.shared.now_ms > 0


def test_the_default_account_is_written_once(log: MemoryLog) -> None:
    log.publisher().publish("controls", "x", b"not json")
    assert ensure_default_account(log, Settings(), T0)
    assert not ensure_default_account(log, Settings(), T0)
    (account,) = [topics.decode("controls", r.value) for r in records(log, "controls")[1:]]
    assert (account.account, account.is_trading, account.entry_funds) == ("paper", True, Decimal(6000))
    assert account.horizons_ms == [5000, 10000, 30000, 60000]


@pytest.mark.parametrize("changed", [{"account": "paper2"}, {"pocket": "other"}])
def test_another_default_account_in_the_same_log_is_refused(log: Log, changed: dict[str, str]) -> None:
    assert ensure_default_account(log, Settings(), T0)
    with pytest.raises(BadSettings, match=r"paper\.account.*another `home`"):
        ensure_default_account(log, Settings.model_validate({"paper": changed}), T0)
    assert not ensure_default_account(log, Settings(), T0)


def test_market_clock_follows_the_log_and_our_clock() -> None:
    clock = MarketClock(10.0)
    assert clock.now(5_000) == 0
    clock.note(1_000_000, 5_000)
    clock.note(999_000, 5_500)
    assert clock.now(5_200) == 1_002_000
    assert clock.now(4_000) == 1_000_000
    behind = clock_of(Settings())
    assert behind.now(T0) == 0
    behind.note(T0 - 300_000, T0)
    assert behind.now(T0 + 10) == T0 + 10
    assert clock_of(Settings(feed=FeedSettings(kind="upbit"))).now(T0) == 0


def test_limits_follow_the_speed_of_the_market() -> None:
    fast = parameters_of(Settings(feed=FeedSettings(kind="recording", recording=Path("x"), speed=10.0)))
    assert (fast.stale_feed_ms, fast.entry_expiry_ms, fast.is_warm_up_expected) == (100_000, 50_000, False)
    assert parameters_of(Settings()).is_warm_up_expected


def test_run_starts_over_after_an_abort_and_stops_when_told(
    log: MemoryLog, clock: Clock, make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(log, clock, make, 9)
    world.control(make.settings(threshold_percent=Decimal(-10)))
    world.bin()
    stop, failures = threading.Event(), [0]
    commit = Trader.commit

    def failing(self: Trader, now_ms: int) -> None:
        if failures[0] == 0:
            failures[0] += 1
            raise TransactionAborted("a broker went away")
        commit(self, now_ms)
        if intents(log):
            stop.set()

    monkeypatch.setattr(Trader, "commit", failing)
    monkeypatch.setattr(runner, "_now_ms", clock)
    monkeypatch.setattr(runner, "_RETRY_S", 0.0)
    settings = Settings(feed=FeedSettings(warmup_seconds=0))
    thread = threading.Thread(target=runner.run, args=(settings, log, stop))
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert failures == [1]
    assert len(intents(log)) == len(MARKETS)


@pytest.mark.kafka
def test_a_real_broker_gives_the_same_restart(kafka_log: Log, make: SimpleNamespace) -> None:
    """Intents through real transactions, a process that is gone without a word, and the replay of its inputs."""
    create_all(kafka_log)
    publisher = kafka_log.publisher(linger_ms=0)
    publisher.publish("controls", "paper", m.encode(make.settings(cooldown_ms=0)))
    trader = Trader(kafka_log, Shard(), PARAMETERS)
    start_ms = time.time_ns() // 1_000_000 // 1000 * 1000
    for i in range(4):
        bin_ms = start_ms + 3000 * i
        for market in MARKETS:
            key = m.key_of("upbit", market)
            publisher.publish("features", key, m.encode(make.features(bin_ms, 100_000.0, market)))
            for horizon in (5000, 10000):
                publisher.publish("signals", key, m.encode(make.signal(bin_ms, horizon, 50.0 * (i % 2), market)))
        publisher.flush()
        if i == 2:
            trader = Trader(kafka_log, Shard(), PARAMETERS)
        while trader.behind() is not None:
            trader.step(bin_ms + 600, 0.05)
        for intent in intents(kafka_log):
            publisher.publish(
                "order-events", intent.pocket, m.encode(make.filled(intent, "0.06", "100000", bin_ms + 700))
            )
        publisher.flush()
    while trader.behind() is not None:
        trader.step(start_ms + 10_000, 0.05)
    trader.commit(start_ms + 10_000)
    again = Fold(PARAMETERS, money_context(), owner_of(Shard()))
    outputs = list(replay.replay(kafka_log, PARAMETERS, fold=again))
    made = [one for one in outputs if isinstance(one, m.OrderIntent)]
    assert {one.purpose for one in made} == {"entry", "exit"}
    assert sorted(map(m.encode, made)) == sorted(map(m.encode, intents(kafka_log)))
    assert encode(again.state) == encode(trader.fold.state)
    assert trader.behind() is None
    trader.close()


@pytest.mark.parametrize("killed_after", range(1, 9))
def test_a_bin_that_is_half_there_at_a_kill_is_decided_as_without_one(
    log: MemoryLog, clock: Clock, make: SimpleNamespace, killed_after: int
) -> None:
    publisher, key = log.publisher(), "upbit:KRW-BTC"
    for name in ("paper", "other"):
        publisher.publish("controls", name, m.encode(make.settings(account=name)))
    trader = Trader(log, Shard(), PARAMETERS)
    signals = [make.signal(T0 + step * 900, horizon, 1.0) for step in (1, 2, 3, 4) for horizon in (5000, 10000)]
    for count, signal in enumerate(signals, 1):
        clock.now_ms += 450
        if count % 2:
            publisher.publish("features", key, m.encode(make.features(signal.bin_ms)))
        publisher.publish("signals", key, m.encode(signal))
        trader.step(clock.now_ms, 0.0)
        trader.commit(clock.now_ms)
        if count == killed_after:
            before = encode(trader.fold.state)
            trader = Trader(log, Shard(), PARAMETERS)
            assert encode(trader.fold.state) == before
    again = Fold(PARAMETERS, money_context(), owner_of(Shard()))
    made = list(replay.replay(log, PARAMETERS, fold=again))
    assert [m.encode(one) for one in made if isinstance(one, m.OrderIntent)] == [m.encode(i) for i in intents(log)]
    assert [m.encode(one) for one in made if isinstance(one, m.Veto)] == [m.encode(one) for one in vetoes(log)]
    assert encode(again.state) == encode(trader.fold.state)
