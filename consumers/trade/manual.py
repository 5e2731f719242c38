"""A person's own orders, which the executor carries out itself: their fills count as exposure, in no strategy's ledger.

Called by `consumers.trade.positions` with events whose intent never came by here. Pure. Works on cumulative totals, so
that a fill that is told twice counts once.
"""

from consumers.trade.ledgers import ZERO, Manual, ManualOrder
from consumers.trade.state import Account
from streams import messages as m


def on_order_event(account: Account, event: m.OrderEvent, now_ms: int) -> bool:
    """Take an event of an order that trade did not ask for; whether it is a person's."""
    if isinstance(event, m.OrderFilled) and event.purpose == "manual":
        known = account.manual_orders.setdefault(event.intent_id, ManualOrder())
        _fill(account, known, event)
        known.is_ended = known.is_ended or event.is_final
    elif (
        isinstance(event, m.Veto | m.RequestTold | m.AccountPaused | m.KeyTold)
        or event.intent_id not in account.manual_orders
    ):
        return False
    order = account.manual_orders[event.intent_id]
    order.told_ms = now_ms
    order.is_ended = order.is_ended or isinstance(event, m.OrderCancelled | m.OrderRejected | m.OrderExpired)
    return True


def _fill(account: Account, order: ManualOrder, event: m.OrderFilled) -> None:
    """Bring what a person holds to an order's cumulative totals; a sale beyond that sold coins bought elsewhere."""
    quantity = event.executed_quantity - order.executed_quantity
    if quantity <= 0:
        return
    cost = event.executed_funds - order.executed_funds + event.paid_fee - order.paid_fee
    order.executed_quantity, order.executed_funds = event.executed_quantity, event.executed_funds
    order.paid_fee = event.paid_fee
    key = m.key_of(event.exchange, event.market)
    held = account.manual.get(key)
    if event.side == "buy":
        held = account.manual.setdefault(key, Manual()) if held is None else held
        held.quantity += quantity
        held.cost += cost
    elif held is not None and quantity < held.quantity:
        held.cost -= held.cost * quantity / held.quantity
        held.quantity = max(held.quantity - quantity, ZERO)
    elif held is not None:
        del account.manual[key]
