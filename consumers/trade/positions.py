"""The ledger: order events change orders, positions and money. Sells only what it bought. Pure.

Called by `consumers.trade.fold` inside its decimal context. Works on cumulative totals, so that a fill that is told
twice, late or out of order counts once. Never guesses the state of an order.
"""

from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from typing import NamedTuple

from consumers.trade import manual
from consumers.trade.ledgers import ZERO, Order, Position, Rest, ledger_key, market_of
from consumers.trade.state import Account, Parameters
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


def on_order_event(account: Account, event: m.OrderEvent, now_ms: int, parameters: Parameters) -> Order | None:
    """Take one event of the executor; returns the order of ours that it ended."""
    if isinstance(event, m.AccountPaused):
        account.paused = event.reason
        return None
    if isinstance(event, m.Veto | m.RequestTold | m.KeyTold):
        return None
    order = account.orders.get(event.intent_id) or _executors_sale(account, event, now_ms, parameters)
    if order is None:
        if not manual.on_order_event(account, event, now_ms):
            _on_stranger(account, event, now_ms, parameters)
        return None
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
    return order if was_open and not order.is_open else None


def _state_after(order: Order, event: m.OrderEvent) -> str:
    if isinstance(event, m.OrderFilled):
        return "filled" if event.is_final else "accepted"
    if isinstance(event, m.OrderSent):
        return "sent" if order.state == "new" else order.state
    return _STATES[type(event)]


def _executors_sale(account: Account, event: m.OrderEvent, now_ms: int, parameters: Parameters) -> Order | None:
    """A sale that the executor ordered by itself, under a halt that came while nobody else sold: ours from here on."""
    if not isinstance(event, m.OrderFilled) or (event.purpose, event.side) != ("protective-exit", "sell"):
        return None
    ledger = ledger_key(event.strategy, m.key_of(event.exchange, event.market))
    is_new = ledger in account.rests and _is_new(event, now_ms, parameters)
    if not is_new and not _is_of_position(account, ledger, event):
        return None
    order = Order(
        intent_id=event.intent_id,
        exchange=event.exchange,
        market=event.market,
        side="sell",
        purpose="protective-exit",
        strategy=event.strategy,
        reserved=ZERO,
        due_ms=0,
        horizon_ms=0,
        signal_id="",
        event_ms=event.event_ms,
        state="accepted",
    )
    account.orders[event.intent_id] = order
    return order


def _is_of_position(account: Account, ledger: str, event: m.OrderFilled) -> bool:
    """Whether a sale came after the position's entry, however long ago that is: trade may have been away. What was
    told before is known, because a position's sales are kept as long as it (`Account.prune`).
    """
    position = account.positions.get(ledger)
    if position is None:
        return False
    entry = account.orders.get(position.entry_intent)
    return event.event_ms >= (position.opened_ms if entry is None else entry.event_ms)


def _is_new(event: m.OrderFilled, now_ms: int, parameters: Parameters) -> bool:
    return now_ms - event.event_ms < parameters.closed_order_ms // 2


def _on_stranger(account: Account, event: m.OrderEvent, now_ms: int, parameters: Parameters) -> None:
    """A new fill of an order that is not known cannot be booked: a person must look.

    An old one is a repetition: the executor tells again what it could not mark as told, however long it was away.
    """
    if isinstance(event, m.OrderFilled) and _is_new(event, now_ms, parameters):
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
    if order.side == "buy":
        _bought(account, order.ledger, order, more, now_ms)
    else:
        _sold(account, order.ledger, more, now_ms)


def _bought(account: Account, key: str, order: Order, more: Totals, now_ms: int) -> None:
    position = account.positions.get(key)
    if position is None:
        position = account.positions[key] = Position(
            exchange=order.exchange,
            market=order.market,
            strategy=order.strategy,
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
    if order.side == "buy":
        if order.executed_quantity == 0:
            account.closed_ms[order.ledger] = now_ms
        return
    position = account.positions.get(order.ledger)
    if position is not None and position.resting == order.intent_id:
        _on_resting_closed(position, order, now_ms, parameters)
        return
    if position is None or position.exit is None or position.exit.intent_id != order.intent_id:
        return
    position.exit.intent_id = ""
    position.exit.refused = 0 if order.executed_quantity else position.exit.refused + 1
    wait = parameters.retry_first_ms * 2 ** min(position.exit.tries - 1, 10)
    position.exit.retry_ms = now_ms + min(wait, parameters.retry_longest_ms)


def _on_resting_closed(position: Position, order: Order, now_ms: int, parameters: Parameters) -> None:
    """The resting order holds nothing any more; one that ended by itself without a fill is placed again later."""
    was_asked = position.is_cancelling
    position.resting, position.is_cancelling = "", False
    if order.executed_quantity:
        position.resting_tries = 0
    elif not was_asked:
        position.resting_retry_ms = now_ms + min(
            parameters.retry_first_ms * 2**position.resting_tries, parameters.retry_longest_ms
        )
        position.resting_tries += 1


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
    keys = {market_of(ledger) for ledger in (*account.positions, *account.rests, *(order.ledger for order in lost))}
    for key in sorted(keys):
        _hold(account, key, holdings.get(key, ZERO), [o for o in lost if market_of(o.ledger) == key], now_ms)
    for order in lost:
        order.state, order.is_lost, order.ended_ms = "expired", False, now_ms
    names = {order.intent_id for order in lost}
    for position in account.positions.values():
        if position.resting in names:
            position.resting, position.is_cancelling = "", False
        if position.exit is not None and position.exit.intent_id in names:
            position.exit = None
    account.is_ledger_broken = False


def _hold(account: Account, key: str, quantity: Decimal, lost: list[Order], now_ms: int) -> None:
    """Bring one market to the quantity that is really held, over all strategies that have a ledger of it.

    What is missing is taken from the ledger of a lost sale first, then from the others in their order; what is there
    beyond belongs to a lost entry's ledger, else to the first one that holds anything.
    """
    ledgers = sorted({one for one in (*account.positions, *account.rests) if market_of(one) == key})
    more = quantity - sum((held.quantity for one in ledgers for held in _held(account, one)), ZERO)
    order = next((order for order in lost if (order.side == "buy") == (more > 0)), None)
    if order is not None:
        order.executed_quantity += abs(more)
        ledgers = [order.ledger, *(one for one in ledgers if one != order.ledger)]
    if more < 0:
        for ledger in ledgers:
            part = min(-more, sum((held.quantity for held in _held(account, ledger)), ZERO))
            if part > 0:
                _write_off(account, ledger, part, now_ms)
                more += part
    elif more > 0 and order is not None:
        funds = order.held
        order.executed_funds += funds
        _bought(account, order.ledger, order, Totals(more, funds, ZERO), now_ms)
    elif more > 0 and ledgers:
        held = _held(account, ledgers[0])[0]
        held.cost += _share(held.cost, more, held.quantity)
        held.funds += _share(held.funds, more, held.quantity)
        held.quantity += more


def _held(account: Account, ledger: str) -> list[Position | Rest]:
    """What a ledger holds: a position, dust, or both after an order that appeared late."""
    found: list[Position | Rest | None] = [account.positions.get(ledger), account.rests.get(ledger)]
    return [one for one in found if one is not None]


def _write_off(account: Account, ledger: str, quantity: Decimal, now_ms: int) -> None:
    for held in _held(account, ledger):
        part = min(quantity, held.quantity)
        if part > 0:
            _sold(account, ledger, Totals(part, ZERO, ZERO), now_ms)
            quantity -= part
