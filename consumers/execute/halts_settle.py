"""What follows after a gate was closed: open orders are cancelled, doubts waited for, positions sold, then "settled".

`executor` runs it in a thread. It needs no Kafka. The selling comes from `trade` where that runs; what nobody has on
sale after `PATIENCE_S` is sold from here, out of the journal's own count of what was bought, so that both together
never sell more than that. A refused sale is tried again and nothing is settled before, unless it can never be sold.
What a person's own order bought is left to that person.
"""

import logging
from collections.abc import Callable, Iterable
from decimal import Decimal
from threading import Event

import msgspec

from consumers.execute.clock import MarketClock
from consumers.execute.desk_parts import ENDED, Task
from consumers.execute.halts import PASSING, HaltGate
from consumers.execute.halts_file import ALL_ACCOUNTS, Standing
from consumers.execute.halts_keeper import WRITTEN_S, HaltKeeper
from consumers.execute.journal import Journal
from consumers.execute.journal_rows import MANUAL, IntentRow, Working
from consumers.execute.limits import sellable
from infra.log import Record
from streams.messages import CancelIntent, Halt, OrderIntent, content_id

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.05
LOOK_AGAIN_S = 1.0
"""Once all is settled: an order that was given up may still appear."""
PATIENCE_S = 3.0
LONGEST_S = 60.0
"""Between two sales of the same: after a refusal twice as long as before, up to this."""
SALE_MS = 60_000
_RESTING = frozenset({"limit", "best"})
_FOR_GOOD = frozenset({"under_min_total_ask", "nothing-there"})
"""Refusals of what can never be sold: too little for an order, or nothing of it is at the exchange."""


class HaltSettler:
    """Brings every closed account to rest, and says how far it is."""

    def __init__(
        self,
        journal: Journal,
        gate: HaltGate,
        keeper: HaltKeeper,
        clock: MarketClock,
        route: Callable[[Task], None],
        now_s: Callable[[], float],
    ) -> None:
        self._journal = journal
        self._gate = gate
        self._keeper = keeper
        self._clock = clock
        self._route = route
        self._now_s = now_s
        self._asked: set[str] = set()
        self._due: dict[tuple[str, str, str], tuple[float, float]] = {}
        """When a ledger's next sale is due, and how long after it the one behind it."""
        self._newest: dict[str, int] = {}

    def run(self, stop: Event) -> None:
        """Until `stop`."""
        while not stop.is_set():
            is_settled = self.step()
            if self._keeper.changed.wait(LOOK_AGAIN_S if is_settled else LOOK_EVERY_S):
                self._keeper.changed.clear()

    def step(self) -> bool:
        """One look at every closed account; whether all are settled."""
        halts = self._gate.halts()
        at_work = self._journal.at_work() if any(halt.kind != "lifted" for halt in halts.values()) else []
        standings = [self._standing(halt, at_work) for halt in halts.values()]
        changed = [one for one in standings if one != self._keeper.standing(one.halt.account)]
        if changed:
            self._keeper.stand(*changed)
        for one in changed:
            if one.is_settled and one.halt.kind != "lifted":
                logger.warning("halt of %s is settled: nothing in flight, nothing open", one.halt.account)
        if is_settled := all(one.is_settled for one in standings):
            self._asked.clear()
            self._due.clear()
        return is_settled

    def _standing(self, halt: Halt, at_work: list[Working]) -> Standing:
        if halt.kind == "lifted":
            return Standing(halt, is_settled=True)
        if not self._gate.wait_sent(halt.account, WRITTEN_S):
            return Standing(halt, in_flight=1)
        is_selling = halt.kind == "sell-all"
        mine = [one for one in at_work if halt.account in {ALL_ACCOUNTS, one.account}]
        meant = [one for one in mine if is_selling or one.purpose not in PASSING]
        in_flight = sum(one.state in {"SENDING", "UNKNOWN"} for one in meant)
        open_orders = [one for one in meant if one.state == "ACKED"]
        self._cancel(halt, open_orders)
        unsold, notes = self._sell(halt) if is_selling else (0, [])
        lost = sum(one.state == "LOST" for one in meant)
        words = [*notes, f"{lost} orders are lost at the exchange: a person must look"] if lost else notes
        return Standing(
            halt,
            is_known=halt.account == ALL_ACCOUNTS or self._journal.knows_account(halt.account),
            in_flight=in_flight,
            open_orders=len(open_orders),
            unsold=unsold,
            is_settled=not in_flight and not open_orders and not unsold,
            text="; ".join(words),
        )

    def _cancel(self, halt: Halt, open_orders: Iterable[Working]) -> None:
        """Order the cancellation of what rests, once per order and halt; `desk` asks until the order has ended."""
        for one in open_orders:
            cancel_id = content_id("halt-cancel", one.intent_id, halt.event_ms)
            if cancel_id in self._asked:
                continue
            self._asked.add(cancel_id)
            row = self._journal.intent(one.intent_id)
            if row is None or row.intent.order_type not in _RESTING:
                continue
            intent = row.intent
            cancel = CancelIntent(
                id=cancel_id,
                account=intent.account,
                pocket=intent.pocket,
                intent_id=intent.id,
                event_ms=self._clock.now_ms(),
                reason=f"halted ({halt.kind})",
            )
            if self._journal.add_cancel(cancel):
                self._route(Task("cancel", cancel_id))

    def _sell(self, halt: Halt) -> tuple[int, list[str]]:
        """Sell what nobody sells; the number of ledgers that are not sold yet, and what is left for a person."""
        unsold, notes = 0, []
        for key in self._journal.ledgers():
            account, ledger, market = key
            last = self._journal.newest_of(account, market)
            if last is None or halt.account not in {ALL_ACCOUNTS, account}:
                continue
            held = self._journal.held(_sale(halt, last, ledger))
            left = sellable(*held)
            if ledger == MANUAL:
                notes += [f"{left:f} of {market} from people's own orders are kept ({account})"] if left > 0 else []
                continue
            if left <= 0:
                unsold += held.open > 0
                self._due.pop(key, None)
                continue
            refusal = self._sell_one(halt, last, ledger, left)
            unsold += refusal not in _FOR_GOOD or held.open > 0
            if refusal:
                how = "could not be sold" if refusal in _FOR_GOOD else "is not sold yet, it is tried again"
                notes.append(f"{left:f} of {market} {how} ({account}, {refusal})")
        return unsold, notes

    def _sell_one(self, halt: Halt, last: OrderIntent, ledger: str, quantity: Decimal) -> str:
        """Order the next sale when it is due; what the one before was refused for, if that was to sell as much."""
        number, row = self._newest_sale(halt, last, ledger)
        if row is not None and row.state not in ENDED:
            return ""
        is_refused = row is not None and row.state == "REJECTED" and row.intent.quantity == quantity
        refusal = row.refusal or "refused" if row is not None and is_refused else ""
        key, now_s = (last.account, ledger, last.market), self._now_s()
        due_s, pause_s = self._due.setdefault(key, (now_s + PATIENCE_S, PATIENCE_S))
        if refusal in _FOR_GOOD or now_s < due_s:
            return refusal
        self._order(_sale(halt, last, ledger, number), quantity)
        pause_s = min(pause_s * 2, LONGEST_S) if refusal else PATIENCE_S
        self._due[key] = now_s + pause_s, pause_s
        return refusal

    def _newest_sale(self, halt: Halt, last: OrderIntent, ledger: str) -> tuple[int, IntentRow | None]:
        """The number of a ledger's next sale under a halt, and the sale before it."""
        name = _sale(halt, last, ledger).id
        number = self._newest.get(name, 0)
        row = self._journal.intent(_sale(halt, last, ledger, number).id)
        while row is not None and (later := self._journal.intent(_sale(halt, last, ledger, number + 1).id)) is not None:
            number, row = number + 1, later
        self._newest[name] = number
        return number + (row is not None), row

    def _order(self, sale: OrderIntent, quantity: Decimal) -> None:
        now_ms, wall_ms = self._clock.now_ms(), self._clock.wall_ms()
        intent = msgspec.structs.replace(sale, quantity=quantity, event_ms=now_ms, expires_ms=now_ms + SALE_MS)
        if self._journal.add_intent(intent, Record("halts", 0, -1, wall_ms, intent.account, b"")):
            logger.warning("selling %s of %s for %s: nobody else does", quantity, intent.market, intent.account)
            self._route(Task("send", intent.id))


def _sale(halt: Halt, last: OrderIntent, ledger: str, number: int = 0) -> OrderIntent:
    """The sale number `number` of a ledger under a halt, where the account's last order in that market was."""
    return OrderIntent(
        id=content_id("halt-sale", halt.account, halt.event_ms, last.account, ledger, last.market, number),
        account=last.account,
        pocket=last.pocket,
        exchange=last.exchange,
        market=last.market,
        side="sell",
        order_type="market",
        price=None,
        quantity=None,
        funds=None,
        time_in_force="",
        purpose="protective-exit",
        cause_kind="halt",
        cause_id=f"{halt.account}|{halt.event_ms}",
        event_ms=halt.event_ms,
        expires_ms=halt.event_ms,
        reason="halted (sell-all), sold by the executor",
        strategy=ledger,
    )
