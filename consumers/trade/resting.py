"""The take profit that rests at the exchange: a limit sell of the whole position, placed when its entry has ended.

Called by `consumers.trade.fold` (placing) and `consumers.trade.exits` (taking it back before another exit). Pure. What
rests is held for it: no second sell of the same position exists while it is open. Where the exchange refuses it again
and again, the price is watched instead.
"""

from decimal import Context, Decimal

from consumers.trade.ledgers import Order, Position, ledger_key, market_of
from consumers.trade.state import Account, Parameters, Shared
from streams import messages as m
from streams.market import costs

MOST_TRIES = 3
"""Orders that ended without a fill in a row, after which none is placed any more."""


def price_of(position: Position, exits: m.ExitRules, ledger: str, shared: Shared, context: Context) -> Decimal | None:
    """Where the take profit rests; none where the rules want none, or the market's tick is not known yet."""
    percent, facts = exits.take_profit_percent, shared.facts.get(market_of(ledger))
    if percent is None or not exits.is_take_profit_resting or facts is None or facts.tick_size is None:
        return None
    target = position.average_price * (1 + percent / Decimal(100))
    return costs.order_price(float(target), facts.tick_size, "sell", context)


def rest(
    account: Account,
    ledger: str,
    exits: m.ExitRules,
    event_ms: int,
    shared: Shared,
    parameters: Parameters,
    context: Context,
) -> m.OrderIntent | m.CancelIntent | None:
    """Place the resting order, or cancel one that stands at another price than it should."""
    position = account.positions[ledger]
    if position.exit is not None:
        return None
    price = price_of(position, exits, ledger, shared, context)
    if position.resting:
        order = account.orders.get(position.resting)
        if order is None or order.price == price:
            return None
        return cancel_resting(account, position, "the take profit moved", event_ms)
    if price is None or not _may_rest(account, position, shared):
        return None
    quantity, facts = costs.order_quantity(position.quantity, context), shared.facts.get(market_of(ledger))
    if facts is None or quantity * price < facts.minimum_total:
        return None
    intent = _intent(account, position, price, quantity, event_ms, parameters)
    position.resting = intent.id
    _note(account, position, intent, shared.now_ms)
    return intent


def _may_rest(account: Account, position: Position, shared: Shared) -> bool:
    entry = account.orders.get(position.entry_intent)
    is_filling = entry is not None and entry.is_open
    is_waiting = shared.now_ms < position.resting_retry_ms or position.resting_tries >= MOST_TRIES
    return not (is_filling or is_waiting or shared.halt or account.halt)


def _intent(
    account: Account, position: Position, price: Decimal, quantity: Decimal, event_ms: int, parameters: Parameters
) -> m.OrderIntent:
    settings, base = account.settings, position.entry_intent
    entry = account.orders.get(base)
    number = entry.exits if entry is not None else 0
    if entry is not None:
        entry.exits += 1
    cause_id = base if number == 0 else f"{base}/{number}"
    return m.OrderIntent(
        id=m.intent_id(settings.account, "take-profit", ledger_key(position.strategy, cause_id), "exit"),
        account=settings.account,
        pocket=settings.pocket,
        exchange=position.exchange,
        market=position.market,
        side="sell",
        order_type="limit",
        price=price,
        quantity=quantity,
        funds=None,
        time_in_force="",
        purpose="exit",
        cause_kind="take-profit",
        cause_id=cause_id,
        event_ms=event_ms,
        expires_ms=event_ms + parameters.exit_expiry_ms,
        reason=f"take profit of the position opened by {base}, resting",
        strategy=position.strategy,
    )


def _note(account: Account, position: Position, intent: m.OrderIntent, now_ms: int) -> None:
    account.orders[intent.id] = Order(
        intent_id=intent.id,
        exchange=position.exchange,
        market=position.market,
        side="sell",
        purpose="exit",
        strategy=position.strategy,
        price=intent.price,
        reserved=Decimal(0),
        due_ms=0,
        horizon_ms=0,
        signal_id="",
        event_ms=now_ms,
    )


def cancel_resting(account: Account, position: Position, reason: str, event_ms: int) -> m.CancelIntent | None:
    """Ask for the end of the resting order, once."""
    if position.is_cancelling:
        return None
    position.is_cancelling = True
    return cancel_of(account, position.resting, reason, event_ms)


def cancel_of(account: Account, intent_id: str, reason: str, event_ms: int) -> m.CancelIntent:
    """The cancellation of an order."""
    settings = account.settings
    return m.CancelIntent(
        id=m.content_id("cancel", settings.account, intent_id),
        account=settings.account,
        pocket=settings.pocket,
        intent_id=intent_id,
        event_ms=event_ms,
        reason=reason,
    )
