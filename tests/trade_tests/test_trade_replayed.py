"""Decisions from a history: what trade published, from the beginning of a run and from anywhere in the middle."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from consumers.replay.conditions import Conditions
from consumers.replay.decisions import run_decisions
from consumers.trade.start import parameters_of
from infra.errors import BadSettings, RecordsLost
from infra.log import Record, Slot
from infra.memory_log import MemoryLog
from infra.settings import Settings
from streams import messages as m
from streams import topics
from streams.history import LogHistory, loaded

from . import conftest
from .test_trade_runner import ACCOUNTS, MARKETS, Clock, World, create_all, live, records

HOME = Slot("trade-inputs", 0)
SETTINGS = Settings.model_validate({"feed": {"warmup_seconds": 0}})
CONDITIONS = Conditions.of(SETTINGS)


MAKE = SimpleNamespace(
    settings=conftest.settings, features=conftest.features, signal=conftest.signal, market=conftest.market,
    filled=conftest.filled, ended=conftest.ended,
)  # fmt: skip


@pytest.fixture(scope="module")
def recorded() -> Iterator[MemoryLog]:
    """A session with kills; nobody changes it."""
    make, clock = MAKE, Clock()
    log = MemoryLog(clock_ms=clock)
    create_all(log)
    world = World(log, clock, make, 1)
    for market in MARKETS:
        world.publisher.publish("markets", m.key_of("upbit", market), m.encode(make.market("10", market)))
    world.control(make.settings(cooldown_ms=1000, **ACCOUNTS[1]))
    kills = iter(range(10_000))
    live(world, parameters_of(SETTINGS), lambda: next(kills) % 23 == 22)
    yield log
    log.close()


def decided(log: MemoryLog, span: tuple[int, int]) -> list[bytes]:
    found: list[bytes] = []
    run_decisions(LogHistory(log), {HOME: span}, CONDITIONS, lambda _topic, _key, one: found.append(m.encode(one)))
    return found


def published(log: MemoryLog) -> list[tuple[int, bytes]]:
    """Intents, cancels and vetoes with their append times."""
    vetoes = [r for r in records(log, "order-events") if b'"veto"' in r.value]
    return [(r.append_ms, r.value) for r in (*records(log, "order-intents"), *vetoes)]


def entries(log: MemoryLog) -> list[Record]:
    return [record for record in records(log, "trade-inputs") if record.partition == 0]


def test_a_whole_run_is_decided_as_it_was(recorded: MemoryLog) -> None:
    wanted = sorted(value for _, value in published(recorded))
    assert len(wanted) > 40
    assert sorted(decided(recorded, LogHistory(recorded).spans(["trade-inputs"])[HOME])) == wanted


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_stretch_from_the_middle_begins_at_a_snapshot(recorded: MemoryLog, share: float) -> None:
    taken = entries(recorded)
    chosen = taken[int(len(taken) * share)]
    before = next(r for r in reversed(taken) if r.append_ms < chosen.append_ms)
    first = next(r for r in taken if r.offset > before.offset)  # the first one of its commit
    got = decided(recorded, (first.offset, taken[-1].offset + 1))
    assert sorted(got) == sorted(value for at_ms, value in published(recorded) if at_ms >= first.append_ms)
    assert got


def test_without_a_snapshot_or_inputs_the_stretch_is_refused_by_name(recorded: MemoryLog) -> None:
    history, taken = LogHistory(recorded), entries(recorded)
    with loaded(history, history.spans(topics.TOPICS)) as log:
        end = taken[-1].offset + 1
        log.truncate(HOME, taken[3].offset)
        with pytest.raises(RecordsLost, match="no snapshot in account-states"):
            decided(log, (taken[5].offset, end))
        slot, last = _newest_range(taken)
        log.truncate(slot, last + 1)
        with pytest.raises(RecordsLost, match=f"{slot.topic}/{slot.partition}"):
            decided(log, (taken[len(taken) // 2].offset, end))


def _newest_range(taken: list[Record]) -> tuple[Slot, int]:
    for record in reversed(taken):
        entry: m.TradeInput = topics.decode("trade-inputs", record.value)
        if entry.kind == "range" and entry.topic == "features":
            return Slot(entry.topic, entry.partition), entry.last
    raise AssertionError("trade took no rows")


def test_other_strategies_than_those_of_the_time_are_refused(recorded: MemoryLog) -> None:
    span = LogHistory(recorded).spans(["trade-inputs"])[HOME]
    other = CONDITIONS._replace(strategies="0" * 32)
    with pytest.raises(BadSettings, match="strategies_folder"):
        run_decisions(LogHistory(recorded), {HOME: span}, other, lambda *_: None)
