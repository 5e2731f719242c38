"""The ledger: order events change orders, positions and money. Sells only what it bought. Pure.

Called by `consumers.trade.fold` inside its decimal context. Works on cumulative totals, so that a fill that is told
twice, late or out of order counts once. Never guesses the state of an order.
"""

from decimal import ROUND_HALF_EVEN, Decimal
from typing import NamedTuple

from consumers.trade.state import ZERO, Account, Order, Parameters, Position, Rest
from streams import messages as m

MONEY_STEP = Decimal("0.00000001")


class Totals(NamedTuple):
    """What an order has executed so far."""

    quantity: Decimal
    funds: Decimal
    fee: Decimal


def on_order_event(account: Account, event: m.OrderEvent, now_ms: int, parameters: Parameters) -> None:
    """Take one event of the executor; events of orders that are not ours change nothing."""
    if isinstance(event, m.Veto) or (order := account.orders.get(event.intent_id)) is None:
        return
    was_open = order.is_open
    if isinstance(event, m.OrderFilled):
        _settle(account, order, Totals(event.executed_quantity, event.executed_funds, event.paid_fee), now_ms)
        _move(order, "filled" if event.is_final else "accepted")
    elif isinstance(event, m.OrderCancelled):
        _settle(account, order, Totals(event.executed_quantity, event.executed_funds, event.paid_fee), now_ms)
        _move(order, "cancelled")
    elif isinstance(event, m.OrderSent):
        _move(order, "sent" if order.state == "new" else order.state)
    elif isinstance(event, m.OrderAccepted):
        _move(order, "accepted")
    elif isinstance(event, m.OrderUnknown):
        _move(order, "unknown")
    elif isinstance(event, m.OrderRejected):
        _move(order, "rejected")
    else:
        _move(order, "expired")
    if was_open and not order.is_open:
        _on_closed(account, order, now_ms, parameters)
    account.prune()


def _move(order: Order, state: str) -> None:
    """Change the state; a closed order stays closed (late totals still count)."""
    if order.is_open:
        order.state = state  # type: ignore[assignment]  # the callers above write literals


def _settle(account: Account, order: Order, totals: Totals, now_ms: int) -> None:
    """Bring the ledger to an order's cumulative totals."""
    more = Totals(
        totals.quantity - order.executed_quantity,
        totals.funds - order.executed_funds,
        totals.fee - order.paid_fee,
    )
    if more.quantity <= 0:
        return
    order.executed_quantity, order.executed_funds, order.paid_fee = totals
    account.paid_fees += more.fee
    key = m.key_of(order.exchange, order.market)
    if order.side == "buy":
        _bought(account, key, order, more, now_ms)
    else:
        _sold(account, key, more, now_ms)


def _bought(account: Account, key: str, order: Order, more: Totals, now_ms: int) -> None:
    position = account.positions.get(key)
    if position is None:
        position = account.positions[key] = Position(
            exchange=order.exchange,
            market=order.market,
            entry_intent=order.intent_id,
            opened_ms=now_ms,
            due_ms=order.due_ms,
            horizon_ms=order.horizon_ms,
        )
        if (rest := account.rests.pop(key, None)) is not None:
            position.quantity, position.funds, position.cost = rest.quantity, rest.funds, rest.cost
            position.bought = rest.quantity
    position.quantity += more.quantity
    position.bought += more.quantity
    position.funds += more.funds
    position.cost += more.funds + more.fee


def _sold(account: Account, key: str, more: Totals, now_ms: int) -> None:
    """Take what was sold from the position, or from the dust where a late sale finds only that."""
    position = account.positions.get(key)
    held: Position | Rest | None = position if position is not None else account.rests.get(key)
    if held is None or more.quantity > held.quantity:
        account.is_ledger_broken = True
    if held is None:
        account.realised += more.funds - more.fee
        return
    is_all = more.quantity >= held.quantity
    cost = held.cost if is_all else _share(held.cost, more.quantity, held.quantity)
    funds = held.funds if is_all else _share(held.funds, more.quantity, held.quantity)
    account.realised += more.funds - more.fee - cost
    held.cost -= cost
    held.funds -= funds
    held.quantity = max(held.quantity - more.quantity, ZERO)
    if isinstance(held, Position):
        held.sold += more.quantity
    if not is_all:
        return
    if isinstance(held, Position):
        del account.positions[key]
        account.closed_ms[key] = now_ms
        account.day.exits += 1
    else:
        del account.rests[key]


def _share(total: Decimal, part: Decimal, whole: Decimal) -> Decimal:
    return (total * part / whole).quantize(MONEY_STEP, ROUND_HALF_EVEN)


def _on_closed(account: Account, order: Order, now_ms: int, parameters: Parameters) -> None:
    """After an order's end: a failed entry cools down, a failed exit is tried again later."""
    key = m.key_of(order.exchange, order.market)
    if order.side == "buy":
        if order.executed_quantity == 0:
            account.closed_ms[key] = now_ms
        return
    position = account.positions.get(key)
    if position is None or position.exit is None or position.exit.intent_id != order.intent_id:
        return
    position.exit.intent_id = ""
    wait = parameters.retry_first_ms * 2 ** min(position.exit.tries - 1, 10)
    position.exit.retry_ms = now_ms + min(wait, parameters.retry_longest_ms)


def leave_rest(account: Account, key: str, now_ms: int) -> None:
    """Put a position that cannot be sold aside as dust."""
    position = account.positions.pop(key)
    account.rests[key] = Rest(quantity=position.quantity, funds=position.funds, cost=position.cost)
    account.closed_ms[key] = now_ms
    account.day.exits += 1
