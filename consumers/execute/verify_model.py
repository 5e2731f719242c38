"""An exchange and processes in memory for `verify orders`: everything that can go wrong with one order, one case each.

The executor's own desk and journal run in it, over an SQLite database in memory with the lease rule of PostgreSQL. Time
passes when somebody waits. A process that is killed ends by an exception at a crash point; one that is stopped is a
thread that stands still at its crash point and goes on, with whatever it was about to do, when its time has come.
"""

import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, NamedTuple

from consumers.execute.attempts import Rules
from consumers.execute.journal_store import Cursor, JournalFailed
from consumers.execute.venue import (
    BURNING_PRICES,
    Accepted,
    Answer,
    Duplicate,
    Execution,
    Holding,
    Order,
    OrderRequest,
    Refused,
    Replacing,
    Unclear,
)
from infra.errors import ExchangeUnavailable, Fenced
from streams.messages import Purpose

RULES = Rules(longest_flight_s=2.0, settle_margin_s=0.5, look_up_every_s=0.25, sweep_every_s=1.0, sweep_for_s=1000.0)
QUANTITY = Decimal(6)
PRICE = Decimal(1000)
CANCEL_S = 0.2
"""From a taken cancel-and-replace to the old order's end, and so to the new one."""
OLD = "ob-old-1"
KEY_REFUSALS = 2
"""As many refusals in a row as prove that an exchange does not burn, where they are for the price."""
JOIN_S = 30.0


class Killed(BaseException):
    """Stands for `kill -9`: nothing in the process survives it."""


class Case(NamedTuple):
    """One way in which things may go."""

    purpose: Purpose
    is_replacing: bool
    answer: str
    late_s: float
    """How long a late request is under way."""
    lag_s: float
    """How long a look-up does not know an order yet."""
    burns: bool
    first: str
    """Where the first life ends."""
    second: str
    wakes_s: float | None
    """The first life is only stopped, and goes on after so long; None: it is killed."""
    fails_at: int = 0
    """Which statement fails because the disk is full or the database is gone, the process ending by it; below zero: it
    is durable all the same, only nobody was told.
    """
    burning: str = ""
    """What becomes of the order that must be refused to burn an identifier: `key` (the first two are refused, but not
    for their price), `taken` (the exchange takes it, and the first request to cancel it finds no answer); else it is
    refused for its price.
    """


class ModelStore:
    """One holder of a database in memory; the next holder's epoch ends its rights."""

    errors: tuple[type[Exception], ...] = (sqlite3.Error,)

    def __init__(self, database: sqlite3.Connection, world: "World") -> None:
        self.connection = database
        self._world = world
        database.execute("UPDATE lease SET epoch = epoch + 1")
        self.epoch = int(database.execute("SELECT epoch FROM lease").fetchone()[0])

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Cursor:
        """One statement."""
        with self._world.statement():
            return self.connection.execute(statement, values)

    def executemany(self, statement: str, values: Iterable[Sequence[Any]]) -> Cursor:
        """One statement for each row of values."""
        return self.connection.executemany(statement, values)

    def begin(self) -> None:
        """Start a transaction; raises `Fenced`."""
        self.connection.execute("BEGIN")
        self.must_hold()

    def commit(self) -> None:
        """Durable."""
        with self._world.statement():
            self.connection.execute("COMMIT")

    def rollback(self) -> None:
        """Forget an open transaction."""
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def must_hold(self) -> None:
        """Raise `Fenced` for a holder whose time is over."""
        if self.connection.execute("SELECT epoch FROM lease").fetchone()[0] != self.epoch:
            raise Fenced("another life took over")

    def renew(self) -> None:
        """The same."""
        self.must_hold()

    def is_gone(self, epoch: int) -> bool:
        """Whether an earlier holder's process is dead."""
        return epoch == self.epoch or self._world.is_gone(epoch)

    def close(self) -> None:
        """The database stays for the next holder."""


class Sleeper:
    """A life in a thread that stands still at a crash point until it is woken."""

    def __init__(self, run: Callable[[], None]) -> None:
        self._run = run
        self._wake = threading.Event()
        self._changed = threading.Event()
        self.thread = threading.Thread(target=self._live, daemon=True)
        self.is_asleep = False
        self.failure: BaseException | None = None

    def _live(self) -> None:
        try:
            self._run()
        except (Fenced, JournalFailed, Killed):
            pass  # as it must be: it has lost the lease
        except BaseException as error:  # noqa: BLE001 - handed to the case's own thread
            self.failure = error
        finally:
            self._changed.set()

    def start(self) -> bool:
        """Run until it falls asleep (True) or ends (False)."""
        self.thread.start()
        self._changed.wait(JOIN_S)
        return self.is_asleep

    def sleep(self) -> None:
        """Called by the life itself, where it is stopped."""
        self.is_asleep = True
        self._changed.set()
        self._wake.wait(JOIN_S)
        self.is_asleep = False

    def wake(self) -> None:
        """Let it go on to its end."""
        self._wake.set()
        self.thread.join(JOIN_S)
        if self.failure is not None:
            raise self.failure


@dataclass
class World:
    """Clock, exchange and processes of one case."""

    case: Case
    now_s: float = 0.0
    points: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    orders: dict[str, tuple[float, Order]] = field(default_factory=dict)
    late: list[tuple[float, Callable[[], object]]] = field(default_factory=list)
    posts: Counter[str] = field(default_factory=Counter)
    """POSTs that wanted an order, by identifier."""
    sleeper: Sleeper | None = None
    wakes_s: float = 0.0
    slept: int = 0
    """Epoch of the sleeper."""
    is_first: bool = True
    burnt: int = 0
    """Orders that came only to burn an identifier."""
    is_cancel_heard: bool = False
    statements: int = 0

    @contextmanager
    def statement(self) -> Iterator[None]:
        """A statement of the journal, which may fail before or after it took effect."""
        self.statements += 1
        if self.statements == self.case.fails_at:
            raise sqlite3.OperationalError("database or disk is full")
        yield
        if self.statements == -self.case.fails_at:
            raise sqlite3.OperationalError("the connection was lost")

    def reach(self, point: str) -> None:
        """A crash point is passed, or not."""
        if not self.points or self.points[0] != point:
            return
        self.points.pop(0)
        sleeper = self.sleeper
        if sleeper is not None and threading.current_thread() is sleeper.thread:
            sleeper.sleep()
        else:
            raise Killed

    def is_gone(self, epoch: int) -> bool:
        """Whether the process that held this epoch is dead."""
        return self.sleeper is None or epoch != self.slept

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is under way any more."""
        return self.sleeper is None and not self.late

    def advance(self, seconds: float) -> None:
        """Let time pass, and what happens in it happen."""
        self.now_s += seconds
        for at_s, call in [one for one in self.late if one[0] <= self.now_s]:
            self.late.remove((at_s, call))
            call()
        sleeper = self.sleeper
        if sleeper is not None and threading.current_thread() is not sleeper.thread and self.now_s >= self.wakes_s:
            sleeper.wake()
            self.sleeper = None

    # --- the exchange

    def place(self, request: OrderRequest, identifier: str) -> Answer:
        """POST /v1/orders."""
        if request.price in BURNING_PRICES.values():
            return self._burn(request, identifier)
        return self._post(identifier, lambda is_refused: self._take(request, identifier, is_refused=is_refused))

    def replace(self, uuid: str, request: OrderRequest, identifier: str) -> Answer:
        """POST /v1/orders/cancel_and_new."""
        return self._post(identifier, lambda is_refused: self._swap(uuid, request, identifier, is_refused=is_refused))

    def _burn(self, request: OrderRequest, identifier: str) -> Answer:
        self.burnt += 1
        if self.case.burning == "key" and self.burnt <= KEY_REFUSALS:
            return Refused("no_authorization_ip", "")
        if self.case.burning == "taken" and identifier not in self.used:
            return Accepted(self._rest(request, identifier))
        return self._take(request, identifier, is_refused=True)

    def _post(self, identifier: str, take: Callable[[bool], Answer]) -> Answer:
        self.posts[identifier] += 1
        self.reach("in_buffer")
        answer = self._answer(take)
        self.reach("after_send")
        return answer

    def _answer(self, take: Callable[[bool], Answer]) -> Answer:
        kind, self.is_first = (self.case.answer, False) if self.is_first else ("ok", False)
        if kind == "request-lost":
            return Unclear("timeout")
        if kind == "late":
            self.late.append((self.now_s + self.case.late_s, lambda: take(False)))
            return Unclear("timeout")
        if kind in {"too-many", "unreachable"}:
            return Refused(kind, "", is_passing=True)
        answer = take(kind.startswith("refused"))
        return Unclear("dropped") if kind.endswith("answer-lost") else answer

    def _spend(self, identifier: str, *, is_refused: bool) -> Answer | None:
        """What an identifier alone decides."""
        if identifier in self.used:
            return Duplicate()
        if is_refused:
            if self.case.burns:
                self.used.add(identifier)
            return Refused("invalid_price_ask", "")
        self.used.add(identifier)
        return None

    def _take(self, request: OrderRequest, identifier: str, *, is_refused: bool) -> Answer:
        if (refusal := self._spend(identifier, is_refused=is_refused)) is not None:
            return refusal
        order = self._filled(request, identifier)
        return Accepted(replace(order, state="wait", executed_quantity=Decimal(0), executions=()))

    def _swap(self, uuid: str, request: OrderRequest, identifier: str, *, is_refused: bool) -> Answer:
        at_s, old = self.orders[uuid.removeprefix("u-")]
        if old.has_ended:
            return Refused("order_not_found", "")
        if (refusal := self._spend(identifier, is_refused=is_refused)) is not None:
            return refusal

        def end() -> None:
            if self.orders[OLD][1].has_ended:
                return
            if self.case.answer == "old-filled":
                self.orders[OLD] = at_s, replace(self._filled(request, OLD), state="done")
                return
            self.orders[OLD] = at_s, replace(old, state="cancel")
            self._filled(request, identifier)

        self.late.append((self.now_s + CANCEL_S, end))
        return Replacing(f"u-{identifier}")

    def _filled(self, request: OrderRequest, identifier: str) -> Order:
        execution = Execution(f"t-{identifier}", PRICE, QUANTITY, PRICE * QUANTITY)
        order = Order(
            uuid=f"u-{identifier}",
            identifier=identifier,
            market=request.market,
            order_type=request.order_type,
            state="cancel" if request.order_type == "price" else "done",
            price=request.price,
            quantity=request.volume,
            executed_quantity=QUANTITY,
            paid_fee=Decimal(3),
            executions=(execution,),
        )
        self.orders[identifier] = (self.now_s, order)
        return order

    def rest(self, request: OrderRequest) -> Order:
        """An order that was there before the case began."""
        old = self._rest(request, OLD)
        self.orders[OLD] = (-1000.0, old)
        return old

    def _rest(self, request: OrderRequest, identifier: str) -> Order:
        order = replace(
            self._filled(request, identifier), state="wait", executed_quantity=Decimal(0), executions=(),
            paid_fee=Decimal(0),
        )  # fmt: skip
        self.orders[identifier] = (self.now_s, order)
        self.used.add(identifier)
        return order

    def find(self, identifier: str) -> Order | None:
        """GET /v1/order by identifier."""
        at_s, order = self.orders.get(identifier, (1e9, None))
        return order if at_s + self.case.lag_s <= self.now_s else None

    def order(self, uuid: str) -> Order | None:
        """GET /v1/order by uuid."""
        return self.find(uuid.removeprefix("u-"))

    def by_identifiers(self, identifiers: Sequence[str]) -> list[Order]:
        """GET /v1/orders/uuids."""
        return [order for order in map(self.find, identifiers) if order is not None]

    def by_uuids(self, uuids: Sequence[str]) -> list[Order]:
        """GET /v1/orders/uuids."""
        return [order for order in map(self.order, uuids) if order is not None]

    def open_orders(self) -> list[Order]:
        """GET /v1/orders/open."""
        return [order for order in self.closed_orders("") if not order.has_ended]

    def closed_orders(self, _market: str) -> list[Order]:
        """GET /v1/orders/closed (all that is visible)."""
        return [order for at_s, order in self.orders.values() if at_s + self.case.lag_s <= self.now_s]

    def cancel(self, uuid: str) -> bool:
        """DELETE /v1/order; the first one is lost on its way."""
        if not self.is_cancel_heard:
            self.is_cancel_heard = True
            raise ExchangeUnavailable("no answer")
        identifier = uuid.removeprefix("u-")
        at_s, order = self.orders[identifier]
        if order.has_ended:
            return False
        self.orders[identifier] = at_s, replace(order, state="cancel")
        return True

    def holdings(self) -> list[Holding]:
        """GET /v1/accounts."""
        return []
