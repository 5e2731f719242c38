"""Two trade processes with pockets of their own give together what one gives."""

import threading
import time
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest

from consumers.trade import inputs, replay, runner
from consumers.trade.fold import Fold
from consumers.trade.replay import Shard
from consumers.trade.runner import Trader, owner_of
from consumers.trade.state import Parameters, encode, money_context
from infra.errors import BadSettings
from infra.log import Log, TopicSpec, partition_of, slots_of
from infra.memory_log import MemoryLog
from infra.settings import FeedSettings, Settings, TradeSettings
from streams import messages as m
from streams import topics

T0 = 1_700_000_000_000
PARAMETERS = Parameters()
MARKETS = ("KRW-BTC", "KRW-ETH")
HALVES = [Shard.of(0, 2), Shard.of(1, 2)]


class Clock:
    def __init__(self) -> None:
        self.now_ms = T0

    def __call__(self) -> int:
        return self.now_ms


def new_log(clock: Clock) -> MemoryLog:
    log = MemoryLog(clock_ms=clock)
    log.create_topics([TopicSpec(t.name, t.partitions, t.config) for t in topics.TOPICS.values()])
    return log


def accounts(make: SimpleNamespace) -> list[m.AccountSettings]:
    """Eight accounts of four people, every second one with two strategies."""
    two = [m.StrategySettings(id="a"), m.StrategySettings(id="b", parameters={"threshold_percent": "0.2"})]
    return [
        make.settings(
            account=f"account-{i}", pocket=f"pocket-{i}", user=f"user-{i // 2}", cooldown_ms=1000,
            strategies=two if i % 2 else [], threshold_percent=Decimal(i) / 20,
        )
        for i in range(8)
    ]  # fmt: skip


def told(log: Log, topic: str) -> dict[str, list[bytes]]:
    """What trade wrote, account by account, in order."""
    found: dict[str, list[bytes]] = {}
    for record in inputs.read_to_end(log, slots_of(log, [topic])):
        message = topics.decode(topic, record.value)
        if isinstance(message, m.OrderIntent | m.CancelIntent | m.Veto):
            found.setdefault(message.account, []).append(m.encode(message))
    return found


def answer(log: Log, make: SimpleNamespace, done: set[str], now_ms: int) -> None:
    """The executor: fills every intent, refuses every fifth."""
    publisher = log.publisher()
    for record in inputs.read_to_end(log, slots_of(log, ["order-intents"])):
        intent = topics.decode("order-intents", record.value)
        if not isinstance(intent, m.OrderIntent) or intent.id in done:
            continue
        done.add(intent.id)
        event: m.OrderEvent = make.ended("rejected", intent, now_ms)
        if int.from_bytes(intent.id.encode()[-2:], "big") % 5:
            event = make.filled(intent, str(intent.quantity or Decimal("0.06")), "100000", now_ms)
        publisher.publish("order-events", intent.pocket, m.encode(event))


def run(make: SimpleNamespace, shards: Sequence[Shard]) -> tuple[MemoryLog, list[Trader]]:
    clock = Clock()
    log = new_log(clock)
    publisher, done = log.publisher(), set[str]()
    for settings in accounts(make):
        publisher.publish("controls", settings.account, m.encode(settings))
    traders = [Trader(log, shard, PARAMETERS) for shard in shards]
    for number in range(60):
        clock.now_ms += 1000
        bin_ms = clock.now_ms - 600
        for market in MARKETS:
            key, mid = m.key_of("upbit", market), 100_000.0 * (1 + 0.004 * (number % 7 - 3))
            publisher.publish("features", key, m.encode(make.features(bin_ms, mid, market)))
            for horizon in (5000, 10000):
                expected = float(number * 7 % 60)
                publisher.publish("signals", key, m.encode(make.signal(bin_ms, horizon, expected, market)))
        for _ in range(2):
            for trader in traders:
                trader.step(clock.now_ms, 0.0)
            answer(log, make, done, clock.now_ms)
        if number == 30:  # both are gone without a word
            traders = [Trader(log, shard, PARAMETERS) for shard in shards]
    for trader in traders:
        while trader.step(clock.now_ms, 0.0):
            pass
        trader.commit(clock.now_ms)
    return log, traders


def test_two_halves_give_what_one_gives(make: SimpleNamespace) -> None:
    whole, (one,) = run(make, [Shard()])
    halved, two = run(make, HALVES)
    for topic in ("order-intents", "order-events"):
        assert told(whole, topic) == told(halved, topic)
    assert sum(map(len, told(whole, "order-intents").values())) > 100
    assert all(trader.fold.state.accounts for trader in two)
    together = {name: encode(account) for trader in two for name, account in trader.fold.state.accounts.items()}
    assert together == {name: encode(account) for name, account in one.fold.state.accounts.items()}
    for shard, trader in zip(HALVES, two, strict=True):
        again = Fold(PARAMETERS, money_context(), owner_of(shard))
        list(replay.replay(halved, PARAMETERS, shard, fold=again))
        assert encode(again.state) == encode(trader.fold.state)


def test_a_half_reads_the_orders_of_its_own_pockets_only(make: SimpleNamespace) -> None:
    log, _ = run(make, HALVES)
    for shard in HALVES:
        committed = log.committed(shard.group, slots_of(log, ["order-events"]))
        assert {slot.partition for slot, offset in committed.items() if offset} <= set(shard.partitions)


def test_shares_are_even_and_cover_everything() -> None:
    for workers in range(1, 13):
        shares = [Shard.of(worker, workers) for worker in range(workers)]
        assert [one for share in shares for one in share.partitions] == list(range(12))
        assert len({share.transactional_id for share in shares}) == workers
        assert max(len(s.partitions) for s in shares) - min(len(s.partitions) for s in shares) <= 1
    assert Shard.of(0, 1) == Shard()
    with pytest.raises(BadSettings, match="no trade process 2"):
        Shard.of(2, 2)
    assert Shard().group == replay.GROUP


@pytest.mark.parametrize(("first", "then"), [([Shard()], HALVES), (HALVES, [Shard()])])
def test_another_number_of_processes_is_refused(make: SimpleNamespace, first: list[Shard], then: list[Shard]) -> None:
    log, _ = run(make, first)
    for shard in then:
        with pytest.raises(BadSettings, match=r"trade\.workers"):
            Trader(log, shard, PARAMETERS)
    for shard in first:
        Trader(log, shard, PARAMETERS).close()


def test_processes_take_their_share_by_their_number_and_say_what_they_run_with(
    make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Both run at once; only the one that owns the default account's pocket writes it."""
    clock = Clock()
    log = new_log(clock)
    (tmp_path / "mine.py").write_text(
        "import msgspec\nfrom models.strategies.order_book import OrderBook\n\n\n"
        "class Mine(OrderBook, frozen=True):\n    pass\n\n\nSTRATEGY = Mine\n"
    )
    settings = Settings(feed=FeedSettings(warmup_seconds=0), trade=TradeSettings(workers=2, strategies_folder=tmp_path))
    monkeypatch.setattr(runner, "_now_ms", clock)
    for settings_of in accounts(make):
        log.publisher().publish("controls", settings_of.account, m.encode(settings_of))
    stop, threads = threading.Event(), []
    for worker in ("0", "1"):
        monkeypatch.setenv("OBSERVATOR_WORKER", worker)
        threads.append(threading.Thread(target=runner.run, args=(settings, log, stop)))
        threads[-1].start()
        begin = time.monotonic()
        while len(list(inputs.read_to_end(log, slots_of(log, ["manifests"])))) <= int(worker):
            assert time.monotonic() - begin < 20
            time.sleep(0.01)
    key = m.key_of("upbit", "KRW-BTC")
    log.publisher().publish("features", key, m.encode(make.features(T0)))
    for horizon in (5000, 10000):
        log.publisher().publish("signals", key, m.encode(make.signal(T0, horizon, 50.0)))
    begin = time.monotonic()
    while len(told(log, "order-intents")) < 8:
        assert time.monotonic() - begin < 20
        time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join(20)
    manifests = [topics.decode("manifests", one.value) for one in inputs.read_to_end(log, slots_of(log, ["manifests"]))]
    assert {one.process for one in manifests} == {"trade"}
    assert {one.settings["strategies.kinds"] for one in manifests} == {"mine,order-book"}
    assert len(manifests[0].settings["strategies.digest"]) == 32
    homes = {shard.home for shard in HALVES}
    written = list(inputs.read_to_end(log, slots_of(log, ["trade-inputs"])))
    assert {record.partition for record in written} == homes
    controls = [topics.decode("controls", r.value) for r in inputs.read_to_end(log, slots_of(log, ["controls"]))]
    assert [one.account for one in controls].count("paper") == 1


@pytest.mark.kafka
def test_two_halves_on_a_real_broker(kafka_log: Log, make: SimpleNamespace) -> None:
    """Two transactional processes beside each other; one is gone without a word and comes back."""
    kafka_log.create_topics([TopicSpec(t.name, t.partitions, t.config) for t in topics.TOPICS.values()])
    publisher = kafka_log.publisher(linger_ms=0)
    wanted = accounts(make)
    for settings in wanted:
        publisher.publish("controls", settings.account, m.encode(settings))
    traders = [Trader(kafka_log, shard, PARAMETERS) for shard in HALVES]
    start_ms, done = time.time_ns() // 1_000_000, set[str]()
    for i in range(3):
        bin_ms = start_ms + 6000 * i
        key = m.key_of("upbit", "KRW-BTC")
        publisher.publish("features", key, m.encode(make.features(bin_ms)))
        for horizon in (5000, 10000):
            publisher.publish("signals", key, m.encode(make.signal(bin_ms, horizon, 50.0 if i != 1 else -50.0)))
        publisher.flush()
        if i == 1:
            traders[0] = Trader(kafka_log, HALVES[0], PARAMETERS)
        for trader in traders:
            while trader.behind() is not None:
                trader.step(bin_ms + 600, 0.05)
        answer(kafka_log, make, done, bin_ms + 700)
    for shard, trader in zip(HALVES, traders, strict=True):
        while trader.behind() is not None:
            trader.step(start_ms + 20_000, 0.05)
        trader.commit(start_ms + 20_000)
        again = Fold(PARAMETERS, money_context(), owner_of(shard))
        list(replay.replay(kafka_log, PARAMETERS, shard, fold=again))
        assert encode(again.state) == encode(trader.fold.state)
        trader.close()
    made = told(kafka_log, "order-intents")
    assert set(made) == {settings.account for settings in wanted}
    owners = {name: partition_of(f"pocket-{name[-1]}", topics.BY_POCKET) // 6 for name in made}
    assert set(owners.values()) == {0, 1}
