"""The ledger: order events change orders, positions and money. Sells only what it bought. Pure.

Called by `consumers.trade.fold` inside its decimal context. Works on cumulative totals, so that a fill that is told
twice, late or out of order counts once. Never guesses the state of an order.
"""

from collections.abc import Mapping
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


_STATES: dict[type[m.OrderEvent], str] = {
    m.OrderAccepted: "accepted",
    m.OrderCancelled: "cancelled",
    m.OrderRejected: "rejected",
    m.OrderExpired: "expired",
}


def on_order_event(account: Account, event: m.OrderEvent, now_ms: int, parameters: Parameters) -> None:
    """Take one event of the executor."""
    if isinstance(event, m.AccountPaused):
        account.paused = event.reason
        return
    if isinstance(event, m.Veto | m.RequestTold):
        return
    order = account.orders.get(event.intent_id)
    if order is None:
        _on_stranger(account, event, now_ms, parameters)
        return
    was_open = order.is_open
    if isinstance(event, m.OrderFilled | m.OrderCancelled):
        _settle(account, order, Totals(event.executed_quantity, event.executed_funds, event.paid_fee), now_ms)
    if isinstance(event, m.OrderUnknown):
        _on_unknown(account, order, is_lost=event.is_lost)
    elif not (order.is_lost and isinstance(event, m.OrderExpired)):
        _move(order, _state_after(order, event))
    if was_open and not order.is_open:
        _on_closed(account, order, now_ms, parameters)
    account.prune(now_ms, parameters)


def _state_after(order: Order, event: m.OrderEvent) -> str:
    if isinstance(event, m.OrderFilled):
        return "filled" if event.is_final else "accepted"
    if isinstance(event, m.OrderSent):
        return "sent" if order.state == "new" else order.state
    return _STATES[type(event)]


def _on_stranger(account: Account, event: m.OrderEvent, now_ms: int, parameters: Parameters) -> None:
    """A new fill of an order that is not known cannot be booked: a person must look.

    An old one is a repetition: the executor tells again what it could not mark as told, however long it was away.
    """
    if isinstance(event, m.OrderFilled) and now_ms - event.event_ms < parameters.closed_order_ms // 2:
        account.is_ledger_broken = True


def _on_unknown(account: Account, order: Order, *, is_lost: bool) -> None:
    """An order in doubt; one that the exchange has forgotten is not guessed about: no entries until a person looked."""
    _move(order, "unknown")
    order.was_in_doubt = True
    if is_lost and order.is_open:
        order.is_lost = account.is_ledger_broken = True


def _move(order: Order, state: str) -> None:
    """Change the state; a closed order stays closed (late totals still count)."""
    if order.is_open:
        order.state = state  # type: ignore[assignment]  # the callers above write literals
        order.is_lost = order.is_lost and state == "unknown"


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
    """After an order's end: a failed entry cools down, a failed exit is tried again later, and later each time."""
    order.ended_ms = now_ms
    key = m.key_of(order.exchange, order.market)
    if order.side == "buy":
        if order.executed_quantity == 0:
            account.closed_ms[key] = now_ms
        return
    position = account.positions.get(key)
    if position is None or position.exit is None or position.exit.intent_id != order.intent_id:
        return
    position.exit.intent_id = ""
    position.exit.refused = 0 if order.executed_quantity else position.exit.refused + 1
    wait = parameters.retry_first_ms * 2 ** min(position.exit.tries - 1, 10)
    position.exit.retry_ms = now_ms + min(wait, parameters.retry_longest_ms)


def leave_rest(account: Account, key: str, now_ms: int) -> None:
    """Put a position that cannot be sold aside as dust."""
    position = account.positions.pop(key)
    account.rests[key] = Rest(quantity=position.quantity, funds=position.funds, cost=position.cost)
    account.closed_ms[key] = now_ms
    account.day.exits += 1


def accept_ledger(account: Account, holdings: Mapping[str, Decimal], now_ms: int) -> None:
    """Take what the exchange holds as the truth, because a person says so: the account may enter again.

    What is missing is written off as lost. What is there beyond our books belongs to the entry that was lost, at the
    price of all that was reserved for it, else to the position, at its average price; coins that no order of the
    account bought stay out. Amounts so booked count as told, should a lost order appear after all.
    """
    lost = [order for order in account.orders.values() if order.is_lost]
    lost_keys = {m.key_of(order.exchange, order.market) for order in lost}
    for key in sorted({*account.positions, *account.rests, *lost_keys}):
        _hold(account, key, holdings.get(key, ZERO), [o for o in lost if m.key_of(o.exchange, o.market) == key], now_ms)
    for order in lost:
        order.state, order.is_lost, order.ended_ms = "expired", False, now_ms
    for position in account.positions.values():
        if position.exit is not None and position.exit.intent_id in {order.intent_id for order in lost}:
            position.exit = None
    account.is_ledger_broken = False


def _hold(account: Account, key: str, quantity: Decimal, lost: list[Order], now_ms: int) -> None:
    """Bring one market to the quantity that is really held."""
    held: Position | Rest | None = account.positions.get(key) or account.rests.get(key)
    more = quantity - (held.quantity if held is not None else ZERO)
    order = next((order for order in lost if (order.side == "buy") == (more > 0)), None)
    if order is not None:
        order.executed_quantity += abs(more)
    if more < 0:
        _sold(account, key, Totals(-more, ZERO, ZERO), now_ms)
    elif more > 0 and order is not None:
        funds = order.held
        order.executed_funds += funds
        _bought(account, key, order, Totals(more, funds, ZERO), now_ms)
    elif more > 0 and held is not None:
        held.cost += _share(held.cost, more, held.quantity)
        held.funds += _share(held.funds, more, held.quantity)
        held.quantity = quantity
