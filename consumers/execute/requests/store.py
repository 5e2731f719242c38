"""Requests and their firings in the executor's own journal. Called by `runner`, inside the journal's transactions.

Plain SQL like the journal's own, on its connection: a firing, its count and its order become durable together.
"""

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from consumers.execute.journal import Journal
from consumers.execute.requests.assistant import Leg, LegState
from consumers.execute.requests.saving import Level
from consumers.execute.requests.schedule import Standing
from infra.log import Record
from streams.messages import OrderRejected, OrderRequested, encode, intent_id

_decode = msgspec.json.Decoder(OrderRequested).decode
_decode_rejected = msgspec.json.Decoder(OrderRejected).decode
_decode_levels = msgspec.json.Decoder(list[Level]).decode
_REQUEST = "payload, state, number, next_ms, fired, record_partition, record_offset"
_FIRING = "payload, number, due_ms, fired_ms, legs, is_control, is_cancelled, levels"
_LEG_STATES: dict[str, LegState] = {
    "NEW": "under-way",
    "RETRY": "under-way",
    "SENDING": "under-way",
    "UNKNOWN": "under-way",
    "ACKED": "open",
    "DONE": "ended",
    "CANCELLED": "ended",
    "REJECTED": "refused",
    "LOST": "unproven",
}
RECENT_EVENTS = 500


class Kept(NamedTuple):
    """A request as journalled, and the record that brought it."""

    standing: Standing
    partition: int
    offset: int

    @property
    def request(self) -> OrderRequested:
        """What is asked for now."""
        return self.standing.request


@dataclass(frozen=True, slots=True)
class Firing:
    """One time that a request fired."""

    request: OrderRequested
    number: int
    due_ms: int
    fired_ms: int
    legs: int = 0
    is_control: bool = False
    is_cancelled: bool = False
    levels: tuple[Level, ...] = ()

    @property
    def key(self) -> tuple[str, int]:
        """Request and number."""
        return self.request.id, self.number

    def leg_id(self, leg: int) -> str:
        """Id of the intent of leg `leg`, from 1: the same whoever computes it, however often."""
        return intent_id(self.request.account, "request", self.cause(leg), "manual")

    def cause(self, leg: int) -> str:
        """What the intent names as its cause: the request and the number of its time, then the leg behind the first."""
        first = f"{self.request.id}/{self.number}"
        return first if leg == 1 else f"{first}/{leg}"


class Store:
    """All requests that are not over, and the firings under way."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def add(self, standing: Standing, record: Record) -> bool:
        """Keep a request that came; False where it stands there already (a duplicate delivery)."""
        request = standing.request
        with self._journal.transaction() as db:
            cursor = db.execute(
                "INSERT INTO request(request_id, account, pocket, payload, state, number, next_ms, fired,"
                " record_partition, record_offset) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (
                    request.id, request.account, request.pocket, encode(request), standing.state, standing.number,
                    standing.next_ms, standing.fired, record.partition, record.offset,
                ),
            )  # fmt: skip
            return bool(cursor.rowcount == 1)

    def save(self, standing: Standing) -> None:
        """Write where a request stands."""
        with self._journal.transaction() as db:
            db.execute(
                "UPDATE request SET payload = ?, state = ?, number = ?, next_ms = ?, fired = ? WHERE request_id = ?",
                (
                    encode(standing.request), standing.state, standing.number, standing.next_ms, standing.fired,
                    standing.request.id,
                ),
            )  # fmt: skip

    def get(self, request_id: str) -> Kept | None:
        """A request, None where there never was one."""
        rows = self._journal.rows(f"SELECT {_REQUEST} FROM request WHERE request_id = ?", request_id)  # noqa: S608 - constants
        return _kept(rows[0]) if rows else None

    def alive(self) -> list[Kept]:
        """Requests that may still fire, or whose last order is under way."""
        wanted = f"SELECT {_REQUEST} FROM request WHERE state IN (?, ?) ORDER BY request_id"  # noqa: S608 - constants
        rows = self._journal.rows(wanted, "waiting", "fired")
        return [_kept(row) for row in rows]

    def add_firing(self, firing: Firing) -> None:
        """Note a firing; its primary key makes a second one impossible."""
        with self._journal.transaction() as db:
            db.execute(
                "INSERT INTO firing(request_id, number, payload, state, due_ms, fired_ms, legs, is_control,"
                " is_cancelled, levels) VALUES (?, ?, ?, 'OPEN', ?, ?, ?, ?, ?, ?)",
                (
                    firing.request.id, firing.number, encode(firing.request), firing.due_ms, firing.fired_ms,
                    firing.legs, int(firing.is_control), int(firing.is_cancelled),
                    msgspec.json.encode(firing.levels).decode(),
                ),
            )  # fmt: skip

    def save_firing(self, firing: Firing) -> None:
        """Write what may change of a firing."""
        with self._journal.transaction() as db:
            db.execute(
                "UPDATE firing SET legs = ?, is_cancelled = ? WHERE request_id = ? AND number = ?",
                (firing.legs, int(firing.is_cancelled), *firing.key),
            )

    def end_firing(self, firing: Firing) -> bool:
        """Nothing more follows; False where it had ended before."""
        with self._journal.transaction() as db:
            cursor = db.execute(
                "UPDATE firing SET state = 'ENDED' WHERE request_id = ? AND number = ? AND state = 'OPEN'", firing.key
            )
            return bool(cursor.rowcount)

    def open_firings(self) -> list[Firing]:
        """Firings under way, oldest first."""
        wanted = f"SELECT {_FIRING} FROM firing WHERE state = ? ORDER BY fired_ms, request_id, number"  # noqa: S608 - constants
        rows = self._journal.rows(wanted, "OPEN")
        return [_firing(row) for row in rows]

    def leg(self, firing: Firing, number: int, rested_ms: int) -> Leg:
        """What became of one of its orders so far."""
        row = self._journal.intent(firing.leg_id(number))
        if row is None:
            raise KeyError(firing.leg_id(number))
        attempts = self._journal.attempts_of(row.intent.id)
        state = _LEG_STATES.get(row.state)
        if state is None:  # EXPIRED: before it was sent, or after
            state = "unsent" if row.attempt == 0 else "unproven"
        return Leg(
            state=state,
            is_resting=row.intent.time_in_force == "post_only" and firing.request.order_type != "limit",
            price=row.intent.price,
            rested_ms=rested_ms,
            quantity=sum((attempt.executed_quantity for attempt in attempts), Decimal(0)),
            funds=sum((attempt.executed_funds for attempt in attempts), Decimal(0)),
            fee=sum((attempt.paid_fee for attempt in attempts), Decimal(0)),
            is_cancelling=bool(self._journal.rows("SELECT 1 FROM cancel WHERE intent_id = ?", row.intent.id)),
            name=self.why_refused(row.intent.id, row.intent.pocket)[0] if state == "refused" else "",
        )

    def why_refused(self, of: str, pocket: str) -> tuple[str, str]:
        """Name and text of an intent's refusal, from the events that tell of it; empty where it lies far back."""
        rows = self._journal.rows(
            "SELECT payload FROM outbox WHERE key = ? ORDER BY seq DESC LIMIT ?", pocket, RECENT_EVENTS
        )
        for (payload,) in rows:
            if of.encode() in payload and b'"order-rejected"' in payload:
                event = _decode_rejected(payload)
                return event.name, event.text
        return "", ""


def _kept(row: tuple[Any, ...]) -> Kept:
    payload, state, number, next_ms, fired, partition, offset = row
    return Kept(Standing(_decode(payload), number, next_ms, fired, state), partition, offset)


def _firing(row: tuple[Any, ...]) -> Firing:
    payload, number, due_ms, fired_ms, legs, is_control, is_cancelled, levels = row
    firing = Firing(_decode(payload), number, due_ms, fired_ms, legs)
    return replace(
        firing, is_control=bool(is_control), is_cancelled=bool(is_cancelled), levels=tuple(_decode_levels(levels))
    )
