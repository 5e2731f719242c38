"""Offsets of trade: a decision does not wait for them, and none is left behind when nothing more comes."""

from decimal import Decimal
from types import SimpleNamespace

from consumers.trade import inputs
from consumers.trade.replay import GROUP, Shard, restore
from consumers.trade.runner import Trader
from consumers.trade.state import Parameters, encode
from infra.log import TopicSpec, slots_of
from infra.memory_log import MemoryLog
from streams import messages as m
from streams import topics

T0 = 1_700_000_000_000


def test_a_decision_goes_out_before_its_offsets_which_follow(make: SimpleNamespace) -> None:
    now_ms = T0
    log = MemoryLog(clock_ms=lambda: now_ms)
    log.create_topics([TopicSpec(t.name, t.partitions, t.config) for t in topics.TOPICS.values()])
    publisher, slots = log.publisher(), slots_of(log, ["features", "signals"])

    def behind() -> int:
        committed = log.committed(GROUP, slots)
        return sum(end - committed.get(slot, 0) for slot, (_, end) in log.bounds(slots).items())

    def one_bin(expected_bp: float) -> None:
        publisher.publish("features", "upbit:KRW-BTC", m.encode(make.features(now_ms - 600)))
        for horizon in (5000, 10000):
            publisher.publish("signals", "upbit:KRW-BTC", m.encode(make.signal(now_ms - 600, horizon, expected_bp)))

    publisher.publish("controls", "paper", m.encode(make.settings(threshold_percent=Decimal(-10))))
    trader = Trader(log, Shard(), Parameters())
    one_bin(-2000.0)
    trader.step(now_ms, 0.0)
    assert behind() == 0
    now_ms += 300
    one_bin(200.0)
    now_ms += 100
    trader.step(now_ms, 0.0)
    made = list(inputs.read_to_end(log, slots_of(log, ["order-intents"])))
    assert len(made) == 1
    assert behind() == 3
    restored = restore(log, Shard(), Parameters()).fold  # a crash here: what was taken is known without the offsets
    assert encode(restored.state) == encode(trader.fold.state)
    now_ms += 600
    trader.step(now_ms, 0.0)
    assert behind() == 0
    assert len(list(inputs.read_to_end(log, slots_of(log, ["order-intents"])))) == 1
