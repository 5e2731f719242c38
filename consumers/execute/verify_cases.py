"""All cases of one order, through the executor's own desk and journal in memory: nothing doubled, nothing lost.

Called by `verify orders` and by the tests. The cases are the product of purpose, kind of request, answer, lateness, lag
of look-ups, burn rule, crash point, second crash point and stopped instead of killed (for exits in doubt also what
becomes of the order that burns their identifier), less what the conditions exclude:
where the exchange does not burn identifiers, a request of an exit arrives within the longest flight.
"""

import heapq
import itertools
import logging
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

import msgspec
from sqlalchemy import StaticPool
from sqlmodel import create_engine

from consumers.execute import events
from consumers.execute.attempts import is_exit
from consumers.execute.clock import MarketClock
from consumers.execute.desk import ENDED, Desk, Parts, Task
from consumers.execute.journal import Journal
from consumers.execute.journal_store import JournalFailed, make_tables
from consumers.execute.lanes import RETRY_S
from consumers.execute.limits import RiskGate, RiskLimits
from consumers.execute.reconcile import Reconciliation
from consumers.execute.venue import request_of
from consumers.execute.verify_model import OLD, QUANTITY, RULES, Case, Killed, ModelStore, Sleeper, World
from infra.errors import ExchangeUnavailable
from infra.log import Record
from streams.messages import OrderIntent, Purpose

PURPOSES: tuple[Purpose, ...] = ("entry", "manual", "exit", "protective-exit")
POINTS = (
    "", "after_poll", "after_journal_new", "before_journal_sending", "after_journal_sending", "in_buffer", "after_send",
    "after_response", "after_journal_acked", "before_commit", "after_commit", "after_reconcile",
)  # fmt: skip
ANSWERS = (
    "ok", "request-lost", "answer-lost", "late", "refused", "refused-answer-lost", "too-many", "unreachable",
    "old-filled",
)  # fmt: skip
DOUBTFUL = ("request-lost", "answer-lost", "late", "refused-answer-lost")
BURNINGS = ("key", "taken")
LATE_S = (0.3, 1.5, 30.0)
LAGS_S = (0.0, 1.0)
WAKES_S = (None, 0.3, 2.2, 40.0)
FAILS_AT = range(1, 61)
"""More statements than the life of one order takes."""
FAILING_ANSWERS = ("ok", "request-lost", "answer-lost", "late", "refused")
LONGEST_S = 500.0
QUICK_STRIDE = 41
POCKET = "paper-main"
_RECORD = Record("order-intents", 0, 0, 0, POCKET, b"")


@dataclass(slots=True)
class Tally:
    """What was seen over all cases."""

    cases: int = 0
    doubled: int = 0
    lost: int = 0
    posted_twice: int = 0
    """Attempts under whose identifier the order was sent more than once."""
    unsold: int = 0
    """Exits that ended without an order although the exchange had not refused them."""
    dimensions: dict[str, Counter[str]] = field(default_factory=dict)
    ends: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    """The first cases that went wrong."""

    def add(self, other: "Tally") -> None:
        """Count another part of the cases too."""
        for name in ("cases", "doubled", "lost", "posted_twice", "unsold"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for dimension, values in other.dimensions.items():
            self.dimensions.setdefault(dimension, Counter()).update(values)
        self.ends.update(other.ends)
        self.failures += other.failures


def all_cases() -> Iterator[Case]:
    """The whole product, and every statement of the journal failing once."""
    yield from _crashes()
    for case, burning in itertools.product(_crashes(), BURNINGS):
        if is_exit(case.purpose) and case.answer in DOUBTFUL and not case.second:
            yield case._replace(burning=burning)
    for purpose, is_replacing, answer in itertools.product(PURPOSES, (False, True), FAILING_ANSWERS):
        for fails_at, is_durable in itertools.product(FAILS_AT, (False, True)):
            at = -fails_at if is_durable else fails_at
            late_s = LATE_S[0] if answer == "late" else 0.0
            yield Case(purpose, is_replacing, answer, late_s, 0.0, True, "", "", None, at)


def _crashes() -> Iterator[Case]:
    for purpose, is_replacing, answer, burns in itertools.product(PURPOSES, (False, True), ANSWERS, (True, False)):
        if answer == "old-filled" and not is_replacing:
            continue
        for late_s in LATE_S if answer == "late" else (0.0,):
            if late_s > RULES.longest_flight_s and is_exit(purpose) and not burns:
                continue
            for lag_s, first, second, wakes_s in itertools.product(LAGS_S, POINTS, POINTS, WAKES_S):
                if (second or wakes_s is not None) and not first:
                    continue
                yield Case(purpose, is_replacing, answer, late_s, lag_s, burns, first, second, wakes_s)


def run_cases(stripe: int = 0, stripes: int = 1, *, quick: bool = False) -> Tally:
    """Play one stripe of all cases, or of every so manieth."""
    tally = Tally()
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    make_tables(engine)
    raw = engine.raw_connection()
    database = raw.driver_connection
    assert isinstance(database, sqlite3.Connection)
    database.isolation_level = None
    database.execute("INSERT INTO lease(name, epoch, renewed_ms) VALUES ('execute', 0, 0)")
    logger = logging.getLogger("consumers.execute")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)  # every case is told at length
    try:
        stride = QUICK_STRIDE if quick else 1
        for case in itertools.islice(all_cases(), stripe * stride, None, stripes * stride):
            _count(tally, case, _play(case, database))
    finally:
        logger.setLevel(before)
        raw.close()
        engine.dispose()
    return tally


@dataclass(slots=True)
class Outcome:
    """How one case ended."""

    state: str
    accepted: int
    executed: Decimal
    unknown: int
    """Orders of the exchange whose end the journal does not know."""
    posts: int


def _count(tally: Tally, case: Case, outcome: Outcome) -> None:
    tally.cases += 1
    names = {
        "purpose": case.purpose, "request": "replace" if case.is_replacing else "place", "answer": case.answer,
        "late": f"{case.late_s:g}s" if case.late_s else "no", "lag": f"{case.lag_s:g}s",
        "burn_rule": "burns" if case.burns else "keeps", "crash": case.first or "none",
        "second_crash": case.second or "none",
        "zombie": "no" if case.wakes_s is None else f"wakes_after_{case.wakes_s:g}s",
        "burning": case.burning or "price",
        "database": "fails" if case.fails_at > 0 else "fails_unheard" if case.fails_at else "works",
    }  # fmt: skip
    for dimension, value in names.items():
        tally.dimensions.setdefault(dimension, Counter())[value] += 1
    tally.ends[outcome.state] += 1
    is_doubled = outcome.accepted > 1 or outcome.executed > QUANTITY
    is_lost = outcome.state not in ENDED or outcome.unknown > 0
    is_plain_exit = is_exit(case.purpose) and not case.is_replacing and not case.answer.startswith("refused")
    is_unsold = is_plain_exit and case.burning != "taken" and outcome.state != "DONE"
    tally.doubled += is_doubled
    tally.lost += is_lost
    tally.posted_twice += outcome.posts > 1
    tally.unsold += is_unsold
    if (is_doubled or is_lost or outcome.posts > 1 or is_unsold) and len(tally.failures) < 20:
        tally.failures.append(f"{case}: {outcome}")


def _play(case: Case, database: sqlite3.Connection) -> Outcome:
    """One case from a clean database to its end."""
    for table in ("intent", "attempt", "fills", "cancel", "outbox", "held"):
        database.execute(f"DELETE FROM {table}")  # noqa: S608 - constants
    database.execute("INSERT INTO held VALUES ('paper', '', 'KRW-BTC', ?, '0', '0', '0')", (str(QUANTITY),))
    world = World(case, points=[point for point in (case.first, case.second) if point])
    intent = _intent(case)
    if case.is_replacing:
        world.statements = 10**6  # nothing fails yet
        _rest(world, database, intent)
    world.statements = 0
    _Lives(world, database, intent).run()
    world.statements = 10**6  # nothing fails any more
    journal = Journal(ModelStore(database, world))
    row = journal.intent(intent.id)
    known = {attempt.uuid: attempt for attempt in journal.attempts("DONE", "CANCELLED", "ACKED")}
    unknown = 0
    for _, order in world.orders.values():
        attempt = known.get(order.uuid)
        is_told = attempt is not None and attempt.executed_quantity == order.executed_quantity
        unknown += not is_told or (order.has_ended and attempt is not None and attempt.state == "ACKED")
    return Outcome(
        row.state if row else "",
        sum(identifier != OLD for identifier in world.orders),
        sum((order.executed_quantity for _, order in world.orders.values()), Decimal(0)),
        unknown,
        max(world.posts.values(), default=0),
    )


class _Lives:
    """One executor after the other over one database, until nothing is left to be done."""

    def __init__(self, world: World, database: sqlite3.Connection, intent: OrderIntent) -> None:
        self._world = world
        self._database = database
        self._intent = intent
        self._is_committed = False

    def run(self) -> None:
        world = self._world
        if world.case.wakes_s is not None:
            sleeper = world.sleeper = Sleeper(self._live)
            world.slept = int(self._database.execute("SELECT epoch FROM lease").fetchone()[0]) + 1
            world.wakes_s = float("inf")
            if not sleeper.start():
                world.sleeper = None
                if sleeper.failure is not None:
                    raise sleeper.failure
            world.wakes_s = world.now_s + world.case.wakes_s
        while True:
            try:
                self._live()
            except (Killed, JournalFailed):
                continue
            return

    def _live(self) -> None:
        """One life; ends by `Killed`, by `Fenced`, or when all is done."""
        world = self._world
        journal = Journal(ModelStore(self._database, world))
        desk = self._desk(journal)
        start = Reconciliation(desk, journal, world, POCKET, RULES.look_up_every_s)
        agenda = _Agenda(world)
        agenda.plan([Task("start", POCKET)])
        while (task := agenda.next()) is not None:
            journal.renew()
            try:
                agenda.plan(self._start(start, journal) if task.kind == "start" else _step(desk, task))
            except ExchangeUnavailable:
                agenda.plan([task._replace(delay_s=RETRY_S)])
                continue
            self._commit(journal)
            if not agenda.is_empty or task.kind == "start":
                continue
            if not self._is_over(journal):
                world.advance(1.0)
                agenda.plan([Task("sweep", POCKET), Task("poll", POCKET)])

    def _start(self, start: Reconciliation, journal: Journal) -> list[Task]:
        is_done, tasks = start.step(self._wall_ms())
        if is_done:
            self._world.reach("after_reconcile")
            tasks += self._subscribe(journal)
        return tasks

    def _subscribe(self, journal: Journal) -> list[Task]:
        """Take the intent from the log, where its offset is not committed."""
        if self._is_committed:
            return [Task("sweep", POCKET)]
        self._world.reach("after_poll")
        is_new = journal.add_intent(self._intent, _RECORD)
        self._world.reach("after_journal_new")
        return [Task("send", self._intent.id)] if is_new else [Task("sweep", POCKET)]

    def _commit(self, journal: Journal) -> None:
        row = journal.intent(self._intent.id)
        if not self._is_committed and row is not None and row.state not in {"NEW", "SENDING", "RETRY"}:
            self._world.reach("before_commit")
            self._is_committed = True
            self._world.reach("after_commit")

    def _is_over(self, journal: Journal) -> bool:
        row = journal.intent(self._intent.id)
        world = self._world
        if world.now_s > LONGEST_S:
            return True
        if row is None or row.state not in ENDED or not world.is_quiet:
            return False
        ended = {order.identifier for _, order in world.orders.values() if order.has_ended}
        return all(a.state in {"DONE", "CANCELLED"} for i in ended if (a := journal.attempt(i)) is not None)

    def _desk(self, journal: Journal) -> Desk:
        world = self._world
        clock = MarketClock(lambda: world.now_s, self._wall_ms)
        gate = RiskGate(RiskLimits(), lambda: world.now_s)
        return Desk(Parts(journal, world, gate, clock, lambda: world.now_s, RULES, reach=world.reach))

    def _wall_ms(self) -> int:
        return int(self._world.now_s * 1000)


class _Agenda:
    """A life's tasks by due time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._heap: list[tuple[float, int, Task]] = []
        self._count = itertools.count()

    @property
    def is_empty(self) -> bool:
        """Whether nothing but the poll is left, which goes on as long as an order is open."""
        return all(task.kind == "poll" for _, _, task in self._heap)

    def plan(self, tasks: list[Task]) -> None:
        """Add tasks."""
        for task in tasks:
            heapq.heappush(self._heap, (self._world.now_s + task.delay_s, next(self._count), task))

    def next(self) -> Task | None:
        """The next task, once its time has come."""
        if not self._heap:
            return None
        due_s, _, task = heapq.heappop(self._heap)
        self._world.advance(max(0.0, due_s - self._world.now_s))
        return task


def _step(desk: Desk, task: Task) -> list[Task]:
    if task.kind == "sweep":
        return desk.sweep()
    if task.kind == "poll":
        return [task for task in desk.poll() if task.kind != "poll"]
    steps = {"send": desk.send, "resolve": desk.resolve, "follow": desk.follow}
    return [follower for follower in steps[task.kind](task.id) if follower.kind != "poll"]


def _intent(case: Case) -> OrderIntent:
    is_buy = case.purpose in {"entry", "manual"}
    order_type: Literal["limit", "price", "market"] = "limit" if case.is_replacing else "price" if is_buy else "market"
    return OrderIntent(
        id="case",
        account="paper",
        pocket=POCKET,
        exchange="upbit",
        market="KRW-BTC",
        side="buy" if is_buy else "sell",
        order_type=order_type,
        price=Decimal(1000) if case.is_replacing else None,
        quantity=None if order_type == "price" else QUANTITY,
        funds=Decimal(6000) if order_type == "price" else None,
        time_in_force="",
        purpose=case.purpose,
        cause_kind="signal",
        cause_id="case",
        event_ms=0,
        expires_ms=10**15,
        reason="verify",
        replaces="old" if case.is_replacing else "",
    )


def _rest(world: World, database: sqlite3.Connection, intent: OrderIntent) -> None:
    """An open order of the same side for the case to replace."""
    old = msgspec.structs.replace(intent, id="old", price=Decimal(900), replaces="")
    journal = Journal(ModelStore(database, world))
    order = world.rest(request_of(old))
    journal.add_intent(old, _RECORD)
    journal.begin_attempt(old.id, 1, OLD, events.sent(old, 1, OLD, 0), 0)
    attempt = journal.attempt(OLD)
    assert attempt is not None
    journal.settle(attempt, attempt_state="ACKED", intent_state="ACKED", uuid=order.uuid)
