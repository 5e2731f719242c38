"""`observator bench saturation`: one pocket asked for far more than its rate limits allow, for ten minutes.

The sandbox exchange keeps its documented limits and would answer 429. A queue wait is from the publishing of a decision
to its request at the exchange's door, so it holds Kafka, journal and lane too; beside it stands the same without load.
"""

import threading
import time
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from consumers.lineage_journal import OrderJournal
from consumers.verify.halts_stage import INSTANCE, HaltStage, wait_for
from infra.errors import ExchangeUnavailable
from infra.figures import result_of
from streams.messages import CancelIntent, OrderIntent, Purpose, content_id

SECONDS = 600.0
QUICK_SECONDS = 20.0
BASELINE_S = 20.0
QUICK_BASELINE_S = 8.0
ACCOUNT = "s0"
PER_SECOND: dict[str, float] = {"entry": 15.0, "manual": 1.0, "exit": 3.0, "protective-exit": 1.0, "cancel": 1.0}
"""Orders and cancels offered; the exchange takes 12 orders a second from a pocket."""
ENTRY_LIFE_MS = 10_000
CANCEL_AFTER_S = 6.0
PATIENCE_S = 60.0
FUNDS = Decimal(1_000_000)
HIGH = Decimal(999_999_000)
"""Far above every market: a sale at it rests, or ends at once."""


class Offered(NamedTuple):
    """A decision that was published; `name` is an intent's id, of a cancel that of its order."""

    kind: str
    name: str
    at_s: float


class Offer:
    """Publishes every kind of decision at its own rate."""

    def __init__(self, stage: HaltStage, kinds: tuple[str, ...]) -> None:
        self._stage = stage
        self._kinds = kinds
        self._stop = threading.Event()
        self._rests: list[tuple[float, OrderIntent]] = []
        self.offered: list[Offered] = []
        self._thread = threading.Thread(target=self._run, name="offer", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """No more decisions."""
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        due_s = dict.fromkeys(self._kinds, time.monotonic())
        while not self._stop.is_set():
            kind = min(due_s, key=lambda one: due_s[one])
            if self._stop.wait(max(0.0, due_s[kind] - time.monotonic())):
                return
            due_s[kind] += 1 / PER_SECOND[kind]
            (self._cancel if kind == "cancel" else self._order)(kind)

    def _order(self, kind: str) -> None:
        """One that ends at once; sales are a crumb of what was bought before."""
        self._publish(kind, self._intent(kind))  # type: ignore[arg-type]  # the kinds but `cancel` are purposes

    def _intent(self, purpose: Purpose, *, rests: bool = False) -> OrderIntent:
        force = "" if rests else "ioc"
        if purpose in {"entry", "manual"}:
            intent = self._stage.intent(ACCOUNT, purpose, time_in_force=force)
            return msgspec.structs.replace(intent, expires_ms=intent.event_ms + ENTRY_LIFE_MS)
        values = {"side": "sell", "price": HIGH, "quantity": Decimal("0.00001"), "time_in_force": force}
        return self._stage.intent(ACCOUNT, purpose, cause_kind="stop", **values)

    def _cancel(self, kind: str) -> None:
        """Rest an order, and cancel the one that has rested long enough."""
        rests = self._intent("protective-exit", rests=True)
        self._rests.append((time.monotonic() + CANCEL_AFTER_S, rests))
        self._publish("protective-exit", rests)
        if self._rests[0][0] > time.monotonic():
            return
        _, order = self._rests.pop(0)
        cancel = CancelIntent(
            id=content_id("cancel", order.id),
            account=ACCOUNT,
            pocket=ACCOUNT,
            intent_id=order.id,
            event_ms=time.time_ns() // 1_000_000,
            reason="bench",
        )
        self.offered.append(Offered(kind, order.id, time.monotonic()))
        self._stage.publish(cancel)

    def _publish(self, kind: str, intent: OrderIntent) -> None:
        self.offered.append(Offered(kind, intent.id, time.monotonic()))
        self._stage.publish(intent)


def bench_saturation(*, quick: bool = False) -> dict[str, object]:
    """Without load, then with it; passed where no answer was a 429 or 418 and the pocket was really full."""
    seconds, baseline_s = (QUICK_SECONDS, QUICK_BASELINE_S) if quick else (SECONDS, BASELINE_S)
    with HaltStage((ACCOUNT,)) as stage:
        _buy_enough(stage)
        calm = _offer(stage, ("protective-exit", "cancel"), baseline_s)
        began_s = time.monotonic()
        full = _offer(stage, tuple(PER_SECOND), seconds)
        took_s = time.monotonic() - began_s
        statuses = dict(stage.wire.statuses)
        arrived = _arrivals(stage)
    waits = {kind: _waits(full, arrived, kind) for kind in PER_SECOND}
    orders = sum(len(values) for kind, values in waits.items() if kind != "cancel")
    figures: dict[str, float] = {
        "answers 429": statuses.get(429, 0),
        "answers 418": statuses.get(418, 0),
        "orders sent": orders,
        "orders per second": round(orders / took_s, 2),
        "seconds": round(took_s, 1),
    }
    for kind, values in waits.items():
        figures |= _told(kind, values)
        figures[f"{kind}: offered"] = sum(one.kind == kind for one in full)
    for kind in ("protective-exit", "cancel"):
        figures |= _told(f"without load, {kind}", _waits(calm, arrived, kind))
    refused = statuses.get(429, 0) + statuses.get(418, 0)
    is_full = len(waits["entry"]) < sum(one.kind == "entry" for one in full)
    has_all = all(len(waits[kind]) >= 0.9 * seconds * PER_SECOND[kind] - 10 for kind in ("protective-exit", "cancel"))
    conditions = {"offered per second": PER_SECOND, "limits": "12 orders and 30 other calls per second and pocket"}
    return result_of("saturation", figures, conditions, passed=not refused and is_full and has_all)


def _offer(stage: HaltStage, kinds: tuple[str, ...], seconds: float) -> list[Offered]:
    offer = Offer(stage, kinds)
    offer.start()
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        time.sleep(min(1.0, max(0.0, end_s - time.monotonic())))
        stage.must_live()
    offer.end()
    wait_for(lambda: _have_gone(stage, offer.offered), PATIENCE_S, 0.5)
    time.sleep(2.0)
    return offer.offered


def _have_gone(stage: HaltStage, offered: list[Offered]) -> bool:
    """Whether all that may not expire was sent; what never is shows in the figures."""
    gone = {one.name.removeprefix(f"{INSTANCE}-").rpartition("-")[0] for one in stage.wire.passed()}
    return all(one.name in gone for one in offered if one.kind in {"exit", "protective-exit"})


def _buy_enough(stage: HaltStage) -> None:
    """Coins to sell crumbs of, bought as an entry so that they are ours."""
    entry = stage.intent(ACCOUNT, order_type="price", price=None, quantity=None, funds=FUNDS)
    stage.publish(entry)

    def told() -> dict[str, Any]:
        return OrderJournal(stage.home).told(entry.id) or {"state": "not there"}

    if not wait_for(lambda: told()["state"] == "DONE", PATIENCE_S, 0.1):
        stage.must_live()
        raise ExchangeUnavailable(f"{entry.id} was not bought in {PATIENCE_S:g} s: {told()}")


def _arrivals(stage: HaltStage) -> dict[tuple[str, str], float]:
    """(kind, intent's id) -> when its first request came by; a cancel is named by its order's id at the exchange."""
    names = {str(order["uuid"]): str(order["identifier"]) for order in stage.truth()}
    found: dict[tuple[str, str], float] = {}
    for one in stage.wire.passed():
        name = one.name if one.kind == "order" else names.get(one.name, "")
        intent_id = name.removeprefix(f"{INSTANCE}-").rpartition("-")[0]
        found.setdefault((one.kind, intent_id), one.at_s)
    return found


def _waits(offered: list[Offered], arrived: dict[tuple[str, str], float], kind: str) -> list[float]:
    """Milliseconds, of those that were sent."""
    wanted = "cancel" if kind == "cancel" else "order"
    return [
        (arrived[wanted, one.name] - one.at_s) * 1000
        for one in offered
        if one.kind == kind and (wanted, one.name) in arrived
    ]


def _told(name: str, waits: list[float]) -> dict[str, float]:
    ordered = sorted(waits)
    figures: dict[str, float] = {f"{name}: sent": len(ordered)}
    for words, part in (("p50", 0.5), ("p99", 0.99)):
        if ordered:
            figures[f"{name}: wait {words} ms"] = round(ordered[min(len(ordered) - 1, int(part * len(ordered)))], 1)
    return figures
