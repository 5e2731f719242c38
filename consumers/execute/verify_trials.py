"""The trials of `verify orders`: executors killed at every step, a real Kafka, a real sandbox exchange with faults.

Each trial publishes a few intents (some of them twice), lets an executor die at a named point, often a second one at
another, lets a last one finish, and compares the exchange's own truth with the journal and the log. Doubled: more than
one accepted order for one intent. Lost: no terminal state in the journal, or an order that the exchange accepted and
the journal does not know to its end.
"""

import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import msgspec

from consumers.execute.crash import CRASH_POINTS
from consumers.execute.desk import ENDED
from consumers.execute.verify_stage import INSTANCE, POCKET, RULES, Stage
from infra.errors import ExchangeUnavailable
from infra.log import slots_of
from streams import topics
from streams.messages import (
    OrderAccepted,
    OrderCancelled,
    OrderExpired,
    OrderFilled,
    OrderIntent,
    OrderRejected,
    Purpose,
    content_id,
    encode,
)

INTENTS = 6
FUNDS = Decimal(12_000)
STOCK = Decimal(1_500_000)
"""Bought at once in each market before the first trial, again and again until it is enough for all trials: an exit
sells nothing that was not bought here.
"""
LIFE_S = 20.0
FINISH_S = 40.0
STOCK_S = 120.0
SHORT_FLIGHT_S = 0.3
LONG_FLIGHT_S = 2.5
PURPOSES: tuple[Purpose, ...] = ("entry", "exit", "entry", "protective-exit")
FAULTS: tuple[dict[str, Any], ...] = (
    {"name": "lost-request"},
    {"name": "lost-answer"},
    {"name": "late-answer", "seconds": 1.5},
    {"name": "late-request", "seconds": SHORT_FLIGHT_S},
    {"name": "late-request", "seconds": LONG_FLIGHT_S},
    {"name": "refused", "error": "insufficient_funds_bid", "burn": True},
    {"name": "refused", "error": "insufficient_funds_bid", "burn": False},
    {"name": "server-error", "is_done": True},
    {"name": "server-error"},
    {"name": "rate-limited"},
    {"name": "get-lag", "seconds": 0.5},
    {"name": "crash-after"},
    {"name": "crash-before"},
)
_PER_INTENT = frozenset(CRASH_POINTS) - {"before_commit", "after_commit", "after_reconcile"}
_TERMINAL = (OrderFilled, OrderCancelled, OrderRejected, OrderExpired)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done to one trial."""

    points: tuple[tuple[str, int], ...]
    """Crash points of its first lives, each with how many passages it takes."""
    faults: tuple[Mapping[str, Any], ...]
    burns: bool


@dataclass(slots=True)
class Score:
    """What was seen over all trials."""

    kills: int = 0
    idle_kills: int = 0
    points: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    intents: Counter[bool] = field(default_factory=Counter)
    """By whether the trial had faults; `accepted` likewise."""
    accepted: Counter[bool] = field(default_factory=Counter)
    doubled: int = 0
    lost: int = 0
    differing: int = 0
    """Orders whose executed amount in the journal is not the exchange's."""
    unfinished: int = 0
    late: int = 0
    """Orders that appeared after their attempt was given up."""
    expired: int = 0
    attempts: int = 0
    untold: int = 0


def plan_of(number: int, rng: random.Random) -> Plan:
    """Trial `number`: every crash point in turn, pairs with every other one in turn, faults in every second trial."""
    first = CRASH_POINTS[number % len(CRASH_POINTS)]
    points = [(first, rng.randint(1, 3) if first in _PER_INTENT else 1)]
    second = number // len(CRASH_POINTS) % (len(CRASH_POINTS) + 1)
    if second:
        points.append((CRASH_POINTS[second - 1], 1))
    if (number + number // len(CRASH_POINTS)) % 2 == 0:
        return Plan(tuple(points), (), burns=True)
    burns = rng.random() < 0.5
    allowed = [fault for fault in FAULTS if burns or fault.get("seconds") != LONG_FLIGHT_S]
    dying = [fault for fault in allowed if fault["name"].startswith("crash")]
    living = [fault for fault in allowed if fault not in dying]
    faults = rng.sample(living, 2)
    if rng.random() < 0.1:
        faults[1] = rng.choice(dying)
    return Plan(tuple(points), tuple(faults), burns)


class Trials:
    """Runs trials on a stage and keeps the score."""

    def __init__(self, stage: Stage, rng: random.Random, score: Score) -> None:
        self._stage = stage
        self._rng = rng
        self._publisher = stage.log.publisher(linger_ms=0)
        self._all: list[str] = []
        self.score = score
        sandbox = stage.sandbox
        bases = {market.partition("-")[2]: "1000000000" for market in sandbox.prices}
        sandbox.control("POST", "/sandbox/accounts", {"access_key": POCKET, "balances": {"KRW": "10000000000"} | bases})

    def stock(self, trials: int) -> None:
        """Buy what the exits of so many trials will sell."""
        one = self._intent(-1, 0, STOCK)
        intents = [
            msgspec.structs.replace(one, id=content_id("stock", self._stage.log.prefix, market, part), market=market)
            for market in self._stage.sandbox.prices
            for part in range(1 + int(trials * INTENTS * FUNDS / STOCK))
        ]
        self._publish(intents)
        self._stage.executors.begin()
        if not self._wait(lambda: self._is_settled([intent.id for intent in intents]), STOCK_S):
            raise ExchangeUnavailable("the stock for the trials could not be bought")
        self._stage.executors.kill()

    def run(self, number: int) -> None:
        """One trial from its intents to its score."""
        plan = plan_of(number, self._rng)
        sandbox, executors = self._stage.sandbox, self._stage.executors
        self._revive()
        sandbox.control("POST", "/sandbox/switches", {"burn_refused_identifiers": plan.burns})
        for fault in plan.faults:
            sandbox.control("POST", "/sandbox/faults", {"count": 1, **fault})
        intents = [self._intent(number, place) for place in range(INTENTS)]
        self._publish(intents)
        ids = [intent.id for intent in intents]
        for point, nth in plan.points:
            executors.begin(point, nth)
            if self._wait(lambda: executors.has_ended() or self._is_settled(ids), LIFE_S) and executors.has_ended(0.1):
                self.score.kills += 1
                self.score.points[point] += 1
            elif executors.kill():
                self.score.idle_kills += 1
        executors.begin()
        late_s = max((float(fault.get("seconds", 0)) for fault in plan.faults), default=0.0)
        until_s = time.monotonic() + (late_s + RULES["sweep_every_s"] * 2 if late_s > SHORT_FLIGHT_S else 0.0)
        is_done = self._wait(lambda: time.monotonic() >= until_s and self._is_settled(ids), FINISH_S)
        self._clear_faults(plan)
        self._wait(lambda: self._is_settled(ids) and not self._unknown_orders(ids), FINISH_S if is_done else 1.0)
        self._judge(ids, has_faults=bool(plan.faults))
        self.score.idle_kills += executors.kill()

    def finish(self) -> None:
        """Let a last executor publish what is left, then hold the log against the journal."""
        self._stage.executors.begin()
        self._wait(lambda: self._outbox_left() == 0, FINISH_S)
        told = self._told()
        for intent_id in self._all:
            events = told[intent_id]
            is_told = any(isinstance(event, _TERMINAL) for event in events)
            accepted = sum(isinstance(event, OrderAccepted) for event in events)
            self.score.late += accepted > 0 and any(isinstance(event, OrderExpired) for event in events)
            self.score.untold += not is_told or accepted != self._accepted_in_journal(intent_id)
        self._stage.executors.kill()
        self._publisher.close()

    # --- doing

    def _intent(self, number: int, place: int, funds: Decimal = FUNDS) -> OrderIntent:
        purpose = PURPOSES[place % len(PURPOSES)]
        market = sorted(self._stage.sandbox.prices)[place % len(self._stage.sandbox.prices)]
        price = Decimal(str(self._stage.sandbox.prices[market]))
        is_entry = purpose == "entry"
        now_ms = time.time_ns() // 1_000_000
        return OrderIntent(
            id=content_id("verify", self._stage.log.prefix, number, place),
            account="paper",
            pocket=POCKET,
            exchange="upbit",
            market=market,
            side="buy" if is_entry else "sell",
            order_type="price" if is_entry else "market",
            price=None,
            quantity=None if is_entry else (funds / price).quantize(Decimal("1e-8")),
            funds=funds if is_entry else None,
            time_in_force="",
            purpose=purpose,
            cause_kind="request",
            cause_id=f"{number}-{place}",
            event_ms=now_ms,
            expires_ms=now_ms + 600_000,
            reason="verify",
        )

    def _publish(self, intents: Sequence[OrderIntent]) -> None:
        """Publish in a random order, about every third one twice."""
        wanted = [*intents, *(intent for intent in intents if self._rng.random() < 0.3)]
        self._rng.shuffle(wanted)
        for intent in wanted:
            self._publisher.publish("order-intents", POCKET, encode(intent))
        self._publisher.flush()
        self._all += [intent.id for intent in intents]

    def _clear_faults(self, plan: Plan) -> None:
        """Switch off what was not drawn, and count what was; a sandbox that killed itself has forgotten its own."""
        self._revive()
        sandbox = self._stage.sandbox
        rows = sandbox.control("GET", "/sandbox/faults")["faults"] if plan.faults else []
        for row in rows:
            self.score.faults[row["name"]] += row["drawn"]
        if rows:
            sandbox.control("DELETE", "/sandbox/faults")

    def _revive(self) -> None:
        if self._stage.sandbox.has_died:
            self.score.faults["crash"] += 1
            self._stage.sandbox.start()

    def _wait(self, check: Callable[[], bool], seconds: float) -> bool:
        end_s = time.monotonic() + seconds
        while not check():
            if time.monotonic() > end_s:
                return False
            self._revive()
            time.sleep(0.02)
        return True

    # --- looking

    def _rows(self, statement: str, values: Sequence[str] = ()) -> list[tuple[Any, ...]]:
        return self._stage.rows(statement, values)

    def _is_settled(self, ids: Sequence[str]) -> bool:
        """Whether every intent has ended and none of its attempts is open or in doubt."""
        marks = ",".join("?" * len(ids))
        states = [row[0] for row in self._rows(f"SELECT state FROM intent WHERE intent_id IN ({marks})", ids)]  # noqa: S608 - question marks
        attempts = self._rows(f"SELECT state FROM attempt WHERE intent_id IN ({marks})", ids)  # noqa: S608 - question marks
        is_open = any(row[0] in {"SENDING", "UNKNOWN", "ACKED"} for row in attempts)
        return len(states) == len(ids) and all(state in ENDED for state in states) and not is_open

    def _truth(self, ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """What the exchange accepted, per intent."""
        orders: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        wanted = set(ids)
        for order in self._stage.sandbox.control("GET", "/sandbox/truth")["orders"]:
            parts = str(order["identifier"]).split("-")
            if len(parts) == 3 and parts[0] == INSTANCE and parts[1] in wanted:
                orders[parts[1]].append(order)
        return orders

    def _unknown_orders(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Orders that the exchange accepted and whose end the journal does not know."""
        marks = ",".join("?" * len(ids))
        known = {
            row[0]
            for row in self._rows(
                f"SELECT uuid FROM attempt WHERE intent_id IN ({marks}) AND state IN ('DONE', 'CANCELLED')",  # noqa: S608 - question marks
                ids,
            )
        }
        return [order for orders in self._truth(ids).values() for order in orders if order["uuid"] not in known]

    def _judge(self, ids: Sequence[str], *, has_faults: bool) -> None:
        score, truth = self.score, self._truth(ids)
        marks = ",".join("?" * len(ids))
        rows = self._rows(f"SELECT intent_id, state, attempt FROM intent WHERE intent_id IN ({marks})", ids)  # noqa: S608 - question marks
        amounts = dict(self._rows("SELECT uuid, executed_quantity FROM attempt WHERE uuid != ''"))
        score.lost += len(ids) - sum(row[1] in ENDED for row in rows)
        score.lost += len(self._unknown_orders(ids))
        for intent_id, state, attempt in rows:
            orders = truth.get(intent_id, [])
            score.states[state] += 1
            score.attempts += attempt
            score.doubled += len(orders) > 1
            score.intents[has_faults] += 1
            score.accepted[has_faults] += bool(orders)
            score.expired += state == "EXPIRED"
            for order in orders:
                score.differing += Decimal(order["executed_volume"]) != Decimal(amounts.get(order["uuid"], "-1"))

    def _accepted_in_journal(self, intent_id: str) -> int:
        statement = "SELECT count(*) FROM attempt WHERE intent_id = ? AND uuid != ''"
        return int(self._rows(statement, (intent_id,))[0][0])

    def _outbox_left(self) -> int:
        return int(self._rows("SELECT count(*) FROM outbox WHERE published_at IS NULL")[0][0])

    def _told(self) -> dict[str, set[Any]]:
        """All events in the log, each once, per intent."""
        log = self._stage.log
        slots = slots_of(log, ["order-events"])
        bounds = log.bounds(slots)
        reader = log.reader({slot: bounds[slot][0] for slot in slots})
        told: defaultdict[str, set[Any]] = defaultdict(set)
        while any(reader.position(slot) < bounds[slot][1] for slot in slots):
            for record in reader.read(1000, 0.2):
                event = topics.decode("order-events", record.value)
                told[event.intent_id].add(event)
        reader.close()
        return told
