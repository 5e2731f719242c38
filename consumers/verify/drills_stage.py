"""What `verify drills` plays on: one broker and one sandbox exchange for all drills, and per drill a scene of its own.

A scene has its own run folder, topics, pocket and key, so that one drill's trouble never reaches the next. Executors
are processes (`drills_child`); the exchange is spoken to over HTTP only.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from consumers.execute.desk import ENDED
from consumers.execute.verify_stage import Sandbox
from consumers.verify import drills_books as books
from consumers.verify.drills_surroundings import SEEN, mount_small, set_clock, unmount
from consumers.verify.processes import create_all_topics, insist, wait_until
from infra.catch_up import read_range
from infra.kafka import KafkaLog
from infra.log import Publisher, slots_of
from infra.servers.jars import default_cache
from infra.servers.kafka import KafkaServer
from infra.upbit.signing import query_of, sign
from streams import topics
from streams.market.ticks import tick_e8
from streams.messages import (
    CancelIntent,
    Message,
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

INSTANCE = "drill"
CASH = "1000000000"
TIMEOUT_S = 2.0
SETTLED_S = 60.0
LEASE_S = 2.0
RULES = {
    "longest_flight_s": 3.0,
    "settle_margin_s": 0.3,
    "look_up_every_s": 0.1,
    "follow_slowest_s": 0.3,
    "pause_s": 0.2,
    "longest_pause_s": 1.0,
    "sweep_every_s": 0.3,
    "sweep_for_s": 600.0,
}
_TERMINAL = (OrderFilled, OrderCancelled, OrderRejected, OrderExpired)


class Executor:
    """Lives of an executor, one after the other, in the same surroundings."""

    def __init__(self, options: dict[str, Any]) -> None:
        command = [sys.executable, "-m", "consumers.verify.drills_child", json.dumps(options)]
        self._parent = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = 0
        self.status = 0
        self._ended = threading.Event()
        self.has_namespace = bool(self._line()["has_namespace"])

    def begin(self, point: str = "", nth: int = 1, act: str = "stop", pid: int = 0, file_bytes: int = 0) -> None:
        """Begin a life; at the `nth` passage of `point` it does `act` (`drills_child`)."""
        assert self._parent.stdin is not None
        wanted = {"point": point, "nth": nth, "act": act, "pid": pid, "file_bytes": file_bytes}
        self._parent.stdin.write(json.dumps(wanted) + "\n")
        self._parent.stdin.flush()
        self.pid = int(self._line()["pid"])
        self._ended = threading.Event()
        threading.Thread(target=self._wait, args=(self._ended,), daemon=True).start()

    def has_ended(self, timeout_s: float = 0.0) -> bool:
        """Whether the life is over."""
        return self._ended.wait(timeout_s)

    def is_paused(self) -> bool:
        """Whether it is stopped by a signal."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        except OSError:
            return False

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the life."""
        if not self.has_ended():
            os.kill(self.pid, number)

    def kill(self) -> None:
        """`kill -9`."""
        self.send(signal.SIGKILL)
        self.has_ended(10)

    def close(self) -> None:
        """End the last life and the parent."""
        if self.pid:
            self.kill()
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.close()
        self._parent.wait(10)
        self._parent.stdout.close()

    def _line(self) -> dict[str, Any]:
        assert self._parent.stdout is not None
        found: dict[str, Any] = json.loads(self._parent.stdout.readline() or '{"signal": 9, "status": 0}')
        return found

    def _wait(self, ended: threading.Event) -> None:
        self.status = int(self._line()["status"])
        ended.set()


class Hall:
    """Broker and exchange for all drills; leaving it ends them."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.home = Path()
        self.broker: KafkaServer
        self.sandbox: Sandbox

    def __enter__(self) -> Self:
        """Start both; what was started is ended again where something fails."""
        with ExitStack() as stack:
            self.home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="observator-drills-")))
            self.broker = KafkaServer(self.home, default_cache(os.environ), heap_mb=256)
            stack.callback(self.broker.stop)
            self.broker.start()
            self.sandbox = Sandbox(self.home)
            stack.callback(self.sandbox.close)
            self.sandbox.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End both."""
        self._stack.__exit__(kind, error, trace)


class Scene:
    """One drill's pocket, topics, journal and executors, and what is asked of them afterwards."""

    def __init__(self, hall: Hall, name: str, stack: ExitStack, database: str = "") -> None:
        self.hall, self.name, self._stack, self._database = hall, name, stack, database
        self.pocket = self.account = f"drill-{name}"
        self.home = hall.home / name
        (self.home / "run" / "secrets").mkdir(parents=True)
        (self.home / "hosts").write_text(SEEN)
        self.clock = self.home / "clock"
        set_clock(self.clock, 0)
        self.log = stack.enter_context(KafkaLog(hall.broker.bootstrap, f"drill-{name}-"))
        create_all_topics(self.log)
        self.markets = sorted(hall.sandbox.prices)
        self.secret = self.deposit(self.pocket, dict.fromkeys((m.partition("-")[2] for m in self.markets), "1"))
        (self.home / "run" / "secrets" / self.pocket).write_text(self.secret)
        self._before = self.holdings()
        self._ids: list[str] = []
        self.disk = self.home / "db"
        """The folder of the journal."""
        self._publisher: Publisher = self.log.publisher(linger_ms=0)
        stack.callback(self._publisher.close)

    @property
    def has_lease(self) -> bool:
        """Whether the journal has a lease instead of a file lock."""
        return bool(self._database)

    @property
    def lease_s(self) -> float:
        """How long a lease lasts; 0 where there is none."""
        return LEASE_S if self._database else 0.0

    # --- doing

    def deposit(self, account: str, coins: dict[str, str]) -> str:
        """Make an account with money and some coins that are not ours; its secret."""
        body = {"access_key": account, "balances": {books.MONEY: CASH, **coins}}
        return str(self.hall.sandbox.control("POST", "/sandbox/accounts", body)["secret_key"])

    def fault(self, name: str, **more: Any) -> None:
        """Switch a fault of the exchange on."""
        self.hall.sandbox.control("POST", "/sandbox/faults", {"name": name, **more})

    def no_faults(self) -> None:
        """Switch all faults off."""
        self.hall.sandbox.control("DELETE", "/sandbox/faults")

    def small_disk(self, kilobytes: int) -> bool:
        """Give the journal a file system of this size; False where the system does not let us."""
        try:
            mount_small(self.disk, kilobytes)
        except OSError:
            return False
        self._stack.callback(unmount, self.disk)
        return True

    def executor(self, *, has_names: bool = False, has_clock: bool = False) -> Executor:
        """A new executor in the surroundings asked for."""
        host = "localhost" if has_names else "127.0.0.1"
        options: dict[str, Any] = {
            "home": str(self.home),
            "bootstrap": self.hall.broker.bootstrap,
            "prefix": self.log.prefix,
            "address": self.hall.sandbox.url.replace("127.0.0.1", host),
            "access_key": self.pocket,
            "pocket": self.pocket,
            "instance": INSTANCE,
            "timeout_s": TIMEOUT_S,
            "rules": RULES,
            "logfile": str(self.home / "execute.log"),
            "names": has_names,
            "clock": str(self.clock) if has_clock else "",
            "database": self._database,
            "lease_s": LEASE_S,
        }
        made = Executor(options)
        self._stack.callback(made.close)
        return made

    def intent(self, place: int, purpose: Purpose, **changes: Any) -> OrderIntent:
        """A market order in the market of `place`; of 20,000 won where it buys."""
        now_ms = time.time_ns() // 1_000_000
        number = len(self._ids)
        fields: dict[str, Any] = {
            "id": content_id("drill", self.log.prefix, number),
            "account": self.account,
            "pocket": self.pocket,
            "exchange": "upbit",
            "market": self.markets[place % len(self.markets)],
            "side": "buy" if purpose == "entry" else "sell",
            "order_type": "price" if purpose == "entry" else "market",
            "price": None,
            "quantity": None,
            "funds": Decimal(20_000) if purpose == "entry" else None,
            "time_in_force": "",
            "purpose": purpose,
            "cause_kind": "stop" if purpose == "protective-exit" else "signal",
            "cause_id": f"{self.name}-{number}",
            "event_ms": now_ms,
            "expires_ms": now_ms + 600_000,
            "reason": "drill",
        }
        made = OrderIntent(**{**fields, **changes})
        self._ids.append(made.id)
        return made

    def publish(self, *decisions: OrderIntent | CancelIntent) -> None:
        """Write decisions where `trade` does."""
        for decision in decisions:
            self._publisher.publish("order-intents", self.pocket, encode(decision))
        self._publisher.flush()

    def bought(self, count: int, funds: int = 40_000) -> list[OrderIntent]:
        """Buy in so many markets and wait until all is filled: what later exits may sell."""
        entries = [self.intent(place, "entry", funds=Decimal(funds)) for place in range(count)]
        self.publish(*entries)
        self.wait(self.is_settled, "the first entries")
        return entries

    def exit_of(self, entry: OrderIntent, share: str = "0.4") -> OrderIntent:
        """A protective exit of a share of what an entry bought."""
        rows = self.rows("SELECT quantity FROM fills WHERE intent_id = :id", id=entry.id)
        quantity = sum((Decimal(row[0]) for row in rows), Decimal(0)) * Decimal(share)
        place = self.markets.index(entry.market)
        return self.intent(place, "protective-exit", quantity=quantity.quantize(Decimal("1e-8")))

    def resting(self, place: int, share: Decimal, funds: int = 100_000) -> OrderIntent:
        """A limit buy at a share of the best bid, on the exchange's ticks."""
        market = self.markets[place % len(self.markets)]
        now_ms = time.time_ns() // 1_000_000
        wanted_e8 = int(Decimal(str(self.hall.sandbox.prices[market])) * share * 10**8)
        price_e8 = wanted_e8 - wanted_e8 % tick_e8(market, wanted_e8, now_ms)
        price = (Decimal(price_e8) / 10**8).normalize()
        quantity = (Decimal(funds) / price).quantize(Decimal("1e-8"))
        return self.intent(place, "entry", order_type="limit", price=price, quantity=quantity, funds=None)

    def cancel_of(self, intent: OrderIntent) -> CancelIntent:
        """The decision to cancel what is left of an order."""
        return CancelIntent(
            id=content_id("drill-cancel", intent.id),
            account=self.account,
            pocket=self.pocket,
            intent_id=intent.id,
            event_ms=intent.event_ms,
            reason="drill",
        )

    def sell_into(self, account: str, secret: str, order: OrderIntent, quantity: Decimal) -> None:
        """Somebody else sells at the price of a resting order of ours; what it meets is for the exchange to say."""
        fields = {
            "market": order.market,
            "side": "ask",
            "ord_type": "limit",
            "price": f"{order.price:f}",
            "volume": f"{quantity.quantize(Decimal('1e-8')):f}",
        }
        request = urllib.request.Request(  # noqa: S310 - an address on this machine
            f"{self.hall.sandbox.url}/v1/orders",
            data=json.dumps(fields).encode(),
            headers={
                "Authorization": sign(account, secret, query_of(fields)),
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=10):  # noqa: S310 - same
            return

    def wait(self, check: Callable[[], bool], what: str, seconds: float = SETTLED_S) -> float:
        """Wait for a condition; the seconds it took. Raises `TimeoutError`."""
        return wait_until(check, seconds, f"{self.name}: {what}", 0.02)

    def wait_accepted(self, intent: OrderIntent) -> None:
        """Wait until an order has been accepted, or has ended."""
        self.wait(lambda: self.states().get(intent.id) in ENDED | {"ACKED"}, "an order is accepted")

    # --- looking

    def rows(self, statement: str, **values: Any) -> list[Sequence[Any]]:
        """Ask the journal beside the executor; nothing while it is not there yet."""
        if not self._database and not (self.disk / "execution.sqlite").exists():
            return []
        url = (
            self._database.replace("postgresql:", "postgresql+psycopg:")
            or f"sqlite:///{self.disk / 'execution.sqlite'}"
        )
        engine = create_engine(url, poolclass=NullPool)
        try:
            with engine.connect() as connection:
                return [tuple(row) for row in connection.execute(text(statement), values)]
        except SQLAlchemyError as error:
            if "no such table" in str(error) or "does not exist" in str(error):
                return []
            raise
        finally:
            engine.dispose()

    def states(self) -> dict[str, str]:
        """State of every decision that the journal knows."""
        return {str(row[0]): str(row[1]) for row in self.rows("SELECT intent_id, state FROM intent")}

    def in_doubt(self) -> int:
        """Orders in flight: sent, and their outcome not known."""
        return sum(state in {"SENDING", "UNKNOWN"} for state in self.states().values())

    def is_settled(self) -> bool:
        """Whether every decision has ended, no attempt is open, and everything was told."""
        states = self.states()
        is_ended = all(states.get(one) in ENDED for one in self._ids)
        return is_ended and not self.rows(
            "SELECT 1 FROM attempt WHERE state IN ('SENDING', 'UNKNOWN', 'ACKED')"
            " UNION SELECT 1 FROM outbox WHERE published_at IS NULL LIMIT 1"
        )

    def fills(self) -> list[books.Fill]:
        """The journal's fills."""
        rows = self.rows(
            "SELECT i.payload, f.quantity, f.funds, f.fee FROM fills f JOIN intent i ON i.intent_id = f.intent_id"
        )
        intents = [topics.decode("order-intents", bytes(row[0])) for row in rows]
        return [
            books.Fill(intent.market, intent.side == "buy", Decimal(quantity), Decimal(funds), Decimal(fee))
            for intent, (_, quantity, funds, fee) in zip(intents, rows, strict=True)
        ]

    def truth(self) -> list[dict[str, Any]]:
        """Every order that the exchange accepted of this pocket."""
        orders = self.hall.sandbox.control("GET", "/sandbox/truth")["orders"]
        return [order for order in orders if order["account"] == self.pocket]

    def holdings(self) -> books.Holdings:
        """What the exchange says that the pocket holds."""
        return books.of_exchange(self.hall.sandbox.control("GET", "/sandbox/truth")["balances"], self.pocket)

    def told(self) -> list[Message]:
        """All order events in the log."""
        slots = insist(lambda: slots_of(self.log, ["order-events"]), SETTLED_S, "order-events")
        starts = {slot: first for slot, (first, _) in insist(lambda: self.log.bounds(slots), SETTLED_S, "log").items()}
        return [topics.decode("order-events", record.value) for record in read_range(self.log, starts)]

    def judge(self) -> dict[str, float]:
        """Doubled, lost, untold, and how far the three accounts differ."""
        orders, told, states = [order for order in self.truth() if _is_ours(order)], self.told(), self.states()
        known = {str(row[0]): str(row[1]) for row in self.rows("SELECT uuid, state FROM attempt WHERE uuid <> ''")}
        accepted = [str(order["identifier"]).split("-")[1] for order in orders]
        ended = {getattr(event, "intent_id", "") for event in told if isinstance(event, _TERMINAL)}
        taken = {event.uuid for event in told if isinstance(event, OrderAccepted)}
        return {
            "orders accepted": len(accepted),
            "doubled": len(accepted) - len(set(accepted)),
            "lost": sum(states.get(one) not in ENDED for one in self._ids)
            + sum(known.get(str(order["uuid"])) not in {"DONE", "CANCELLED"} for order in orders),
            "untold": sum(one not in ended for one in self._ids)
            + sum(str(order["uuid"]) not in taken for order in orders),
            **self._exposure([event for event in told if isinstance(event, OrderFilled)]),
        }

    def _exposure(self, fills: Sequence[OrderFilled]) -> dict[str, float]:
        """How far journal and log are from what the exchange says we hold; and that one fill less would be seen."""
        change = books.less(self.holdings(), self._before)
        journal, log = books.of_fills(self.fills()), books.of_log(fills)
        error = max(books.largest_difference(journal, change), books.largest_difference(log, change))
        gone = fills[-1].fill_id if fills else ""
        forgetful = books.of_log(fill for fill in fills if fill.fill_id != gone)
        return {
            "exposure error": float(error),
            "control: error with one fill forgotten": float(books.largest_difference(forgetful, change)),
        }


def _is_ours(order: dict[str, Any]) -> bool:
    return str(order["identifier"]).startswith(f"{INSTANCE}-")
