"""`observator bench restart`: how long until trading resumes after a crash with many orders open or in doubt.

A pocket gets so many resting orders at a real sandbox exchange and so many rows in a journal, as an executor that was
killed leaves them while it cancels a tenth of them. Then an executor process is started cold, and a new order waits in
a real Kafka. Within the exchange's rate limits.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from consumers.execute import events
from consumers.execute.gateway import UpbitGateway
from consumers.execute.journal import Journal
from consumers.execute.venue import Accepted, request_of
from consumers.execute.verify_stage import INSTANCE, Executors, Sandbox, Stage
from infra.errors import ExchangeUnavailable
from infra.log import Record, publish_one
from infra.upbit.pace import Pace
from streams.messages import CancelIntent, OrderIntent, content_id, encode

COUNTS = (0, 50, 500)
QUICK_COUNTS = (0, 6)
STATES = ("open", "doubtful")
CANCELLED_EVERY = 10
LONGEST_S = 240.0
TARGET_S = 60.0
RULES = {"longest_flight_s": 5.0, "settle_margin_s": 1.0}
"""What the product runs with."""


@dataclass(slots=True)
class Result:
    """One restart."""

    seconds: float
    """From the start of the process to the exchange's acceptance of the new order."""
    equal_s: float
    """To the moment when the journal has every order as the exchange has it."""
    differing: int


def bench_restart(*, quick: bool = False, bootstrap: str = "") -> dict[str, Any]:
    """Restart with each count of open and of doubtful orders; passes where all ledgers are equal and none took longer
    than a minute.
    """
    figures: dict[str, float] = {}
    results: list[Result] = []
    with Stage(bootstrap) as stage:
        for state in STATES:
            for count in QUICK_COUNTS if quick else COUNTS:
                result = _Restart(stage, state, count).run()
                results.append(result)
                figures[f"{state}_{count}_seconds_until_trading"] = round(result.seconds, 2)
                figures[f"{state}_{count}_seconds_until_equal"] = round(result.equal_s, 2)
                figures[f"{state}_{count}_orders_differing"] = result.differing
    conditions = {
        "quick": quick,
        "cancelled": f"every {CANCELLED_EVERY}th order, by the executor just before it was killed",
        "doubtful": "journalled as being sent, found at the exchange",
        "exchange": "sandbox over HTTP on this machine, documented rate limits",
        "journal": "SQLite, WAL, synchronous=FULL",
        "process": "cold: interpreter and imports are part of the time",
        "target_seconds": TARGET_S,
        **RULES,
    }
    is_passed = all(one.differing == 0 and one.seconds <= TARGET_S for one in results)
    return {"name": "restart", "passed": is_passed, "figures": figures, "conditions": conditions}


class _Restart:
    """One pocket with its journal, from the crash to the first order after it."""

    def __init__(self, stage: Stage, state: str, count: int) -> None:
        self._stage = stage
        self._state = state
        self._pocket = f"restart-{state}-{count}"
        self._count = count
        self._home = stage.home / self._pocket
        self._market, self._price = _low_price(stage.sandbox)

    def run(self) -> Result:
        """Prepare, start, measure."""
        secret = self._account()
        gateway = UpbitGateway(self._stage.sandbox.url, self._pocket, secret, pace=Pace())
        try:
            for uuid in self._leave(gateway):
                gateway.cancel(uuid)
            self._publish(self._intent("new"))
            began_s = time.monotonic()
            executors = Executors(self._options())
            try:
                executors.begin()
                seconds = self._until(began_s, self._is_trading, executors)
                equal_s = self._until(began_s, lambda: self._differing() == 0, executors)
                return Result(seconds, equal_s, self._differing())
            finally:
                executors.close()
        finally:
            gateway.close()

    def _account(self) -> str:
        """A pocket at the exchange, its key in the run folder of this restart."""
        body = {"access_key": self._pocket, "balances": {"KRW": "1000000000"}}
        answer = self._stage.sandbox.control("POST", "/sandbox/accounts", body)
        secrets = self._home / "run" / "secrets"
        secrets.mkdir(parents=True)
        (secrets / self._pocket).write_text(str(answer["secret_key"]))
        return str(answer["secret_key"])

    def _leave(self, gateway: UpbitGateway) -> list[str]:
        """Orders at the exchange and the journal of an executor that was killed beside them; those that it was about to
        cancel.
        """
        journal = Journal(self._home / "db" / "execution.sqlite")
        uuids: list[str] = []
        try:
            for number in range(self._count):
                intent = self._intent(str(number))
                identifier = f"{INSTANCE}-{intent.id}-1"
                journal.add_intent(intent, Record("order-intents", 0, number, 0, self._pocket, b""))
                journal.begin_attempt(intent.id, 1, identifier, events.sent(intent, 1, identifier, 0), 0)
                answer = gateway.place(request_of(intent), identifier)
                if not isinstance(answer, Accepted):
                    raise ExchangeUnavailable(f"a resting order was not taken: {answer}")
                if number % CANCELLED_EVERY == 0:
                    uuids.append(answer.order.uuid)
                    journal.add_cancel(self._cancel(intent))
                attempt = journal.attempt(identifier)
                if self._state == "open" and attempt is not None:
                    journal.settle(attempt, attempt_state="ACKED", intent_state="ACKED", uuid=answer.order.uuid)
        finally:
            journal.close()
        return uuids

    def _intent(self, name: str) -> OrderIntent:
        """A buy that rests far below the market; the new one is for more."""
        now_ms = time.time_ns() // 1_000_000
        return OrderIntent(
            id=content_id("restart", self._stage.log.prefix, self._pocket, name),
            account=self._pocket,
            pocket=self._pocket,
            exchange="upbit",
            market=self._market,
            side="buy",
            order_type="limit",
            price=self._price,
            quantity=(Decimal(6000) / self._price).quantize(Decimal("1e-8")),
            funds=None,
            time_in_force="",
            purpose="entry",
            cause_kind="request",
            cause_id=name,
            event_ms=now_ms,
            expires_ms=now_ms + 3_600_000,
            reason="bench restart",
        )

    def _cancel(self, intent: OrderIntent) -> CancelIntent:
        return CancelIntent(
            id=f"{intent.id}-c",
            account=intent.account,
            pocket=intent.pocket,
            intent_id=intent.id,
            event_ms=intent.event_ms,
            reason="bench restart",
        )

    def _publish(self, intent: OrderIntent) -> None:
        publish_one(self._stage.log, "order-intents", self._pocket, encode(intent))

    def _options(self) -> dict[str, Any]:
        options = self._stage.options()
        return options | {"home": str(self._home), "pocket": self._pocket, "rules": RULES, "timeout_s": 3.0}

    # --- looking

    def _until(self, began_s: float, check: Callable[[], bool], executors: Executors) -> float:
        while not check():
            if time.monotonic() - began_s > LONGEST_S or executors.has_ended():
                break
            time.sleep(0.02)
        return time.monotonic() - began_s

    def _truth(self) -> Sequence[dict[str, Any]]:
        orders = self._stage.sandbox.control("GET", "/sandbox/truth")["orders"]
        return [order for order in orders if order["account"] == self._pocket]

    def _is_trading(self) -> bool:
        name = self._intent("new").id
        return any(name in str(order["identifier"]) for order in self._truth())

    def _differing(self) -> int:
        """Orders of the exchange that the journal has in another state or with another amount."""
        path = self._home / "db" / "execution.sqlite"
        wanted = {"wait": "ACKED", "done": "DONE", "cancel": "CANCELLED"}
        known = {
            row[0]: (row[1], Decimal(row[2]))
            for row in self._stage.rows_of(path, "SELECT uuid, state, executed_quantity FROM attempt WHERE uuid != ''")
        }
        return sum(
            known.get(order["uuid"]) != (wanted[order["state"]], Decimal(order["executed_volume"]))
            for order in self._truth()
        )


def _low_price(sandbox: Sandbox) -> tuple[str, Decimal]:
    """A market and a price far enough below its best bid that nothing trades there, on its tick."""
    market = min(sandbox.prices, key=lambda name: sandbox.prices[name])
    best = Decimal(str(sandbox.prices[market]))
    tick = Decimal(1).scaleb((best * Decimal("0.9")).adjusted() - 1)
    return market, (best * Decimal("0.9") // tick) * tick
