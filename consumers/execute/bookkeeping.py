"""Turns what the exchange says of an order into fills, an end state and their events, in one journal transaction.

`desk` calls it after every look at an order; a second call with the same order changes nothing.
"""

from decimal import Decimal, localcontext

import msgspec

from consumers.execute import events
from consumers.execute.clock import MarketClock
from consumers.execute.journal import AttemptRow, Journal
from consumers.execute.journal_rows import MANUAL, ledger_of
from consumers.execute.venue import Order
from streams.messages import LedgerAccepted, OrderEvent, OrderIntent


def record_order(journal: Journal, clock: MarketClock, intent: OrderIntent, identifier: str, order: Order) -> bool:
    """Journal new executions and the end, if it has come; returns whether anything changed.

    The end is told by the last `OrderFilled` (`is_final`) where the order is wholly filled, a market buy that ends in
    `cancel` with dust included, and by `OrderCancelled` otherwise or where the last fill was told before the end.
    """
    with journal.transaction(), localcontext(prec=50):
        before = journal.attempt(identifier)
        if before is None or before.state != "ACKED":
            return False
        now_ms = clock.now_ms()
        told, after = _add_fills(journal, intent, before, order, now_ms)
        ends = _ends(order, after)
        if ends is None:
            journal.tell(told)
            return bool(told)
        if ends == "DONE" and told:
            told[-1] = msgspec.structs.replace(told[-1], is_final=True)
        else:
            told.append(events.cancelled(intent, _with_others(journal, after), order.uuid, now_ms))
        journal.settle(
            after, attempt_state=ends, intent_state=ends, uuid=order.uuid, events=told, now_ms=clock.wall_ms()
        )
        return True


def accept_ledger(journal: Journal, accepted: LedgerAccepted, wall_ms: int) -> None:
    """A person has settled what became of an account's lost orders: they are given up, and entries may go on.

    Like every attempt that is given up they are still looked for, and taken over should they appear. What the account
    may sell from here on is what the person says that it holds.
    """
    with journal.transaction():
        rows = [row for intent_id in journal.lost(accepted.account) if (row := journal.intent(intent_id)) is not None]
        for row in rows:
            for attempt in journal.attempts_of(row.intent.id):
                if attempt.state != "LOST":
                    continue
                text = f"lost at the exchange; its ledger was accepted by {accepted.by}"
                told = events.expired(row.intent, attempt.number, text, accepted.event_ms)
                journal.settle(
                    attempt, attempt_state="ABSENT", intent_state="EXPIRED", uuid=attempt.uuid, events=[told],
                    now_ms=wall_ms,
                )  # fmt: skip
        _accept_holdings(journal, accepted, [row.intent for row in rows])


def _accept_holdings(journal: Journal, accepted: LedgerAccepted, lost: list[OrderIntent]) -> None:
    """Bring the account's ledgers to what it holds, as `trade` does: a lost order's first, then in their order."""
    known = [(ledger, market) for account, ledger, market in journal.ledgers() if account == accepted.account]
    markets = {market for ledger, market in known if ledger != MANUAL} | {intent.market for intent in lost}
    holdings = {key.partition(":")[2]: quantity for key, quantity in accepted.holdings.items()}
    for market in sorted(markets):
        ledgers = [ledger for ledger, place in known if place == market and ledger != MANUAL]
        left = {ledger: journal.left_of(accepted.account, ledger, market) for ledger in ledgers}
        more = holdings.get(market, Decimal(0)) - sum(left.values(), Decimal(0))
        side = "buy" if more > 0 else "sell"
        first = [ledger_of(one) for one in lost if one.market == market and one.side == side][:1]
        ledgers = first + [ledger for ledger in ledgers if ledger not in first]
        if more > 0 and ledgers:
            journal.correct_held(accepted.account, ledgers[0], market, bought=more)
        for ledger in ledgers if more < 0 else ():
            part = min(-more, left.get(ledger, Decimal(0)))
            if part > 0:
                journal.correct_held(accepted.account, ledger, market, sold=part)
                more += part


def _add_fills(
    journal: Journal, intent: OrderIntent, attempt: AttemptRow, order: Order, now_ms: int
) -> tuple[list[OrderEvent], AttemptRow]:
    new = journal.new_executions(order.uuid, order.executions)
    if not new:
        return [], attempt
    told: list[OrderEvent] = []
    fees = events.shares_of_fee(max(Decimal(0), order.paid_fee - attempt.paid_fee), new)
    for execution, fee in zip(new, fees, strict=True):
        attempt = attempt._replace(
            executed_quantity=attempt.executed_quantity + execution.quantity,
            executed_funds=attempt.executed_funds + execution.funds,
            paid_fee=attempt.paid_fee + fee,
        )
        journal.add_fill(attempt, order.uuid, execution, fee)
        told.append(events.filled(intent, order, execution, fee, _with_others(journal, attempt), now_ms))
    journal.set_totals(attempt.identifier, attempt.executed_quantity, attempt.executed_funds, attempt.paid_fee)
    return told, attempt


def _with_others(journal: Journal, attempt: AttemptRow) -> AttemptRow:
    """An attempt with the amounts of its intent's other attempts: events tell what the intent executed in all.

    Two have amounts only where one that was given up appeared after the next; `trade` must see both.
    """
    for other in journal.attempts_of(attempt.intent_id):
        if other.identifier != attempt.identifier:
            attempt = attempt._replace(
                executed_quantity=attempt.executed_quantity + other.executed_quantity,
                executed_funds=attempt.executed_funds + other.executed_funds,
                paid_fee=attempt.paid_fee + other.paid_fee,
            )
    return attempt


def _ends(order: Order, attempt: AttemptRow) -> str | None:
    """DONE or CANCELLED once nothing more can come and every execution is told; None before."""
    if attempt.executed_quantity < order.executed_quantity:
        return None
    is_total = order.quantity is None
    wanted = order.price if is_total else order.quantity
    got = attempt.executed_funds if is_total else attempt.executed_quantity
    if wanted is not None and wanted > 0 and got >= wanted:
        return "DONE"
    if not order.has_ended:
        return None
    if order.state == "done" or (order.order_type == "price" and attempt.executed_quantity > 0):
        return "DONE"
    return "CANCELLED"
