"""People's requests against the journal alone, on SQLite and PostgreSQL: the process ends at every step, twice."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consumers.execute import events
from consumers.execute.crash import REQUEST_CRASH_POINTS
from consumers.execute.journal import Journal
from consumers.execute.requests import schedule
from consumers.execute.requests.clock import RequestClock
from consumers.execute.requests.runner import Parts, Requests
from consumers.execute.requests.schedule import Standing, first
from consumers.execute.requests.store import Store
from consumers.execute.requests.watch import Book
from infra.errors import LogUnavailable
from infra.log import Record, TopicSpec, slots_of
from infra.memory_log import MemoryLog
from streams import messages as m
from streams import topics

NOW = 1_795_219_200_000
D = Decimal
PAIRS = [
    (first, REQUEST_CRASH_POINTS[(place + step) % len(REQUEST_CRASH_POINTS)])
    for place, first in enumerate(REQUEST_CRASH_POINTS)
    for step in (0, 3)
]


class Killed(BaseException):
    """Stands for `kill -9`: nothing catches it."""


class World:
    """A clock, a log, an exchange that fills at once, and lives of the part of the executor that is tested."""

    def __init__(self, place: Callable[[], Journal]) -> None:
        self.place = place
        self.wall_ms = NOW
        self.passed_s = 0.0
        self.log = MemoryLog(clock_ms=lambda: self.wall_ms)
        self.log.create_topics([TopicSpec(t.name, t.partitions, t.config) for t in topics.TOPICS.values()])
        self.price = 100.0
        self.imbalance = 0.0
        self.is_filling = True
        self.sent: Counter[str] = Counter()

    def books(self, markets: Any) -> dict[str, Book]:
        bid = 10_000 * (1 - self.imbalance)
        return {
            market: Book(((self.price, 20_000 - bid),), ((self.price + 1, bid),), self.wall_ms) for market in markets
        }

    def publish(self, message: m.Message | bytes) -> None:
        publisher = self.log.publisher()
        value = message if isinstance(message, bytes) else m.encode(message)
        publisher.publish("order-requests", "paper-main", value)
        publisher.close()

    @contextmanager
    def life(self, reach: Callable[[str], None] = lambda _: None) -> Iterator[tuple[Requests, Journal]]:
        journal = self.place()
        parts = Parts(
            journal=journal,
            log=self.log,
            route=lambda _task: None,
            clock=RequestClock(lambda: self.wall_ms),
            now_s=lambda: self.passed_s,
            ask=self.books,
            reach=reach,
        )
        requests = Requests(parts)
        try:
            yield requests, journal
        finally:
            requests.close()
            journal.close()

    def turn(self, requests: Requests, journal: Journal, ms: int = 700) -> None:
        requests.step(0.0)
        self.carry_out(journal)
        self.wall_ms += ms
        self.passed_s += ms / 1000

    def carry_out(self, journal: Journal) -> None:
        """What the desk would do: every intent goes out once and is filled; a resting one waits to be cancelled."""
        for intent_id in journal.intents("NEW"):
            row = journal.intent(intent_id)
            assert row is not None
            identifier = f"t-{intent_id}-1"
            assert journal.begin_attempt(intent_id, 1, identifier, events.sent(row.intent, 1, identifier, 1), 1)
            self.sent[row.intent.cause_id] += 1
            attempt = journal.attempt(identifier)
            assert attempt is not None
            journal.settle(attempt, attempt_state="ACKED", intent_state="ACKED", uuid=intent_id)
        for intent_id in journal.intents("ACKED"):
            row = journal.intent(intent_id)
            attempt = journal.attempts_of(intent_id)[-1]
            assert row is not None
            cancels = [journal.cancel(cancel) for cancel in journal.cancels()]
            is_cancelled = any(cancel is not None and cancel.intent_id == intent_id for cancel in cancels)
            rests = row.intent.time_in_force == "post_only" or not self.is_filling
            if rests and not is_cancelled:
                continue
            if not rests:
                funds = row.intent.funds or (row.intent.quantity or D(0)) * 100
                journal.set_totals(attempt.identifier, funds / 101, funds, funds / 2000)
            state = "CANCELLED" if rests else "DONE"
            journal.settle(attempt, attempt_state=state, intent_state=state, uuid=intent_id)

    def told(self) -> dict[str, list[m.RequestTold]]:
        """From the journal's outbox: nothing is published here."""
        journal = self.place()
        found: dict[str, list[m.RequestTold]] = {}
        for row in journal.unpublished(10_000):
            if b'"request-told"' in row.payload:
                event = msgspec.json.decode(row.payload, type=m.RequestTold)
                found.setdefault(event.id, []).append(event)
        journal.close()
        return found


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    if request.param == "sqlite":
        return World(lambda: Journal(tmp_path / "db" / "execution.sqlite"))
    server = request.getfixturevalue("empty_postgres")
    return World(lambda: Journal(server.address, lease_s=60.0))  # on a busy machine a transaction may take seconds


def asked(name: str, **values: Any) -> m.OrderRequested:
    fields: dict[str, Any] = {
        "id": name, "account": "paper", "pocket": "paper-main", "exchange": "upbit", "market": "KRW-BTC", "side": "buy",
        "order_type": "price", "funds": D(100_000), "is_assisted": False, "event_ms": NOW, "by": "t",
        "patience_ms": 3_000,
    }  # fmt: skip
    return m.OrderRequested(**(fields | values))


def letters(log: MemoryLog) -> list[Record]:
    slots = slots_of(log, ["dead-letters"])
    reader = log.reader({slot: bounds[0] for slot, bounds in log.bounds(slots).items()})
    found = reader.read(100, 0.0)
    reader.close()
    return found


def all_of() -> list[m.OrderRequested]:
    """At once, at a time, repeating, at a price, and one that posts before it goes to the market."""
    return [
        asked("now"),
        asked("later", at_ms=NOW + 2_000),
        asked("often", at_ms=NOW + 1_000, every_ms=2_000, times=3),
        asked("price", trigger="at-or-below", trigger_price=D(101), market="KRW-ETH"),
        asked("posts-1", is_assisted=True),
        asked("small", is_assisted=True, funds=D(6_000)),
    ]


def run_lives(world: World, kills: list[tuple[str, int]]) -> int:
    """Lives that end at the named points, then one that goes on to the end; returns how many were killed."""
    world.imbalance = -0.5
    for request in all_of():
        world.publish(request)
        world.publish(request)
    killed = 0
    for point, nth in kills:
        left = itertools.count(nth, -1)

        def reach(name: str, point: str = point, left: Iterator[int] = left) -> None:
            if name == point and next(left) <= 1:
                raise Killed

        try:
            with world.life(reach) as (requests, journal):
                for _ in range(10):
                    world.turn(requests, journal)
        except Killed:
            killed += 1
    with world.life() as (requests, journal):
        for _ in range(30):
            world.turn(requests, journal)
    return killed


def check(world: World) -> None:
    assert set(world.sent.values()) == {1}, "an order went out twice"
    told = world.told()
    for request in all_of():
        final = [event for event in told[request.id] if event.state == "done"]
        assert len(final) == 1, request.id
        numbers = range(1, (request.times or 1) + 1)
        assert [f"{request.id}/{number}" in world.sent for number in numbers] == [True] * len(numbers)
        funds = sum((event.funds or D(0) for event in told[request.id]), D(0))
        assert funds == (request.funds or D(0)) * len(numbers)
    assert len(world.sent) == 9, "six requests, one of them three times, and the rest of one that had posted"
    assert {event.is_control for event in told["posts-1"]} == {False}


@pytest.mark.parametrize("point", REQUEST_CRASH_POINTS)
def test_each_fires_once_whatever_step_the_process_ends_at(world: World, point: str) -> None:
    assert run_lives(world, [(point, 1), (point, 1)]) == 2
    check(world)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_two_ends(tmp_path: Path, first: str, second: str) -> None:
    world = World(lambda: Journal(tmp_path / "db" / "execution.sqlite"))
    assert run_lives(world, [(first, 2), (second, 1)]) > 0
    check(world)


def test_it_is_the_same_without_an_end(world: World) -> None:
    run_lives(world, [])
    check(world)
    assert [event.reason for event in world.told()["posts-1"]] == ["taken", "waits-for-better", "done"]


def test_a_cancelled_request_is_over_after_a_restart_too(world: World) -> None:
    world.is_filling = False
    world.publish(asked("rests"))
    world.publish(asked("waits", at_ms=NOW + 10**9))
    with world.life() as (requests, journal):
        world.turn(requests, journal)
    for name in ("rests", "waits"):
        world.publish(m.RequestCancelled(account="paper", pocket="paper-main", request_id=name, event_ms=NOW, by="t"))
    with world.life() as (requests, journal):
        requests.step(0.0)
    with world.life() as (requests, journal):
        for _ in range(3):
            world.turn(requests, journal)
    told = world.told()
    assert [event.state for event in told["rests"]][-1] == "cancelled"
    assert [event.state for event in told["waits"]] == ["waiting", "cancelled"]
    assert dict(world.sent) == {"rests/1": 1}


def test_deadlines_are_kept_while_the_log_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.imbalance = -0.5
    world.publish(asked("small", is_assisted=True, funds=D(6_000)))
    with world.life() as (requests, journal):
        for _ in range(3):
            world.turn(requests, journal)
        assert not world.sent

        def away(*_: object) -> None:
            raise LogUnavailable("away")

        monkeypatch.setattr(requests._reader, "read", away)
        for _ in range(4):
            with pytest.raises(LogUnavailable):
                requests.step(0.0)
            world.carry_out(journal)
            world.wall_ms += 700
            world.passed_s += 0.7
        assert dict(world.sent) == {"small/1": 1}


def test_the_clock_jumps(world: World) -> None:
    """An hour ahead misses what was due meanwhile; an hour back neither fires again nor keeps an order waiting."""
    world.imbalance = -0.5
    world.publish(asked("small", is_assisted=True, funds=D(6_000)))
    world.publish(asked("later", at_ms=NOW + 600_000))
    with world.life() as (requests, journal):
        world.turn(requests, journal)
        world.turn(requests, journal)
        world.wall_ms -= 3_600_000
        for _ in range(6):
            world.turn(requests, journal)
        assert dict(world.sent) == {"small/1": 1}
        world.wall_ms += 3 * 3_600_000
        world.turn(requests, journal)
    assert [event.state for event in world.told()["later"]] == ["waiting", "missed"]
    assert dict(world.sent) == {"small/1": 1}


@pytest.mark.parametrize(
    "values",
    [
        {"at_ms": 3 * 10**14},
        {"at_ms": 2**63},
        {"at_ms": -1},
        {"event_ms": 3 * 10**14},
        {"expires_ms": 2**64 - 1},
        {"every_ms": 999_999 * 604_800_000},
        {"every_ms": 1_000, "times": 2**64 - 1},
    ],
)
def test_times_that_no_calendar_has_end_no_process(world: World, values: dict[str, Any]) -> None:
    """Refused and told; the next request is taken as if it had not been there."""
    world.publish(asked("far", **values))
    world.publish(asked("now"))
    with world.life() as (requests, journal):
        for _ in range(3):
            world.turn(requests, journal)
    assert [event.reason for event in world.told()["far"]] == ["bad-times"]
    assert dict(world.sent) == {"now/1": 1}


def test_a_far_request_of_an_older_journal_can_be_changed_and_cancelled(world: World) -> None:
    """It was taken before times had a bound: its words have no date, and nothing ends."""
    journal = world.place()
    far = asked("far", at_ms=3 * 10**14)
    Store(journal).add(first(far), Record("order-requests", 0, 0, 0, "", b""))
    journal.close()
    world.publish(m.RequestChanged(account="paper", request=far, event_ms=NOW, by="t", pocket="paper-main"))
    world.publish(asked("now"))
    cancel = m.RequestCancelled(account="paper", request_id="far", event_ms=NOW, by="t", pocket="paper-main")
    world.publish(cancel)
    with world.life() as (requests, journal):
        for _ in range(3):
            world.turn(requests, journal)
    assert [event.reason for event in world.told()["far"]] == ["bad-times", "cancelled"]
    assert dict(world.sent) == {"now/1": 1}


def test_a_record_that_nothing_can_hold_is_put_aside(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever rule was forgotten: the journal is as before the record, and the record is a dead letter."""

    def fails(request: m.OrderRequested) -> Standing:
        if request.id == "far":
            raise OverflowError("it fits nowhere")
        return first(request)

    monkeypatch.setattr(schedule, "first", fails)
    world.publish(asked("far"))
    world.publish(asked("now"))
    with world.life() as (requests, journal):
        for _ in range(3):
            world.turn(requests, journal)
    assert "far" not in world.told()
    assert dict(world.sent) == {"now/1": 1}
    assert len(letters(world.log)) == 1
