"""The exit rules: horizon over, expectation gone, stop loss, halt. Pure; nothing here asks for cost or permission.

Called by `consumers.trade.fold` inside its decimal context. The entry's cost is sunk: it plays no part. Stop and halt
are protective exits and pass every veto.
"""

from decimal import ROUND_FLOOR, Context, Decimal

from consumers.trade.positions import leave_rest
from consumers.trade.reasons import Reason
from consumers.trade.state import Account, Bin, Exit, ExitKind, Order, Parameters, Position, Shared
from streams import messages as m
from streams.market import costs

PROTECTIVE: frozenset[ExitKind] = frozenset({"stop", "halt"})


def best_bid(key: str, shared: Shared) -> float | None:
    """The best bid of the last book, its mid price where the bids are empty."""
    book = shared.books.get(key)
    if book is None:
        return None
    return book.levels[0] if book.levels and book.levels[0] is not None else book.mid


def is_stopped(position: Position, bid: float | None, stop_percent: Decimal) -> bool:
    """Whether the price fell to the average price less the stop."""
    if bid is None or position.quantity <= 0:
        return False
    return Decimal(repr(bid)) <= position.average_price * (1 - stop_percent / 100)


def wanted_exit(account: Account, key: str, position: Position, shared: Shared) -> ExitKind | None:
    """The exit that time, price or a halt asks for now; the most urgent one."""
    if "sell-all" in (shared.halt, account.halt):
        return "halt"
    if is_stopped(position, best_bid(key, shared), account.settings.stop_percent):
        return "stop"
    return "time-stop" if shared.now_ms >= position.due_ms else None


def faded_signal(account: Account, position: Position, found: Bin, now_ms: int) -> m.Signal | None:
    """The new forecast that ends a position: over what remains of the horizon it expects less than the hysteresis.

    Of the licensed horizons that the account trades, the shortest that covers the rest counts, else the longest.
    """
    licensed = [
        found.signals[horizon]
        for horizon in sorted(account.settings.horizons_ms)
        if horizon in found.signals and found.signals[horizon].is_licensed
    ]
    if not licensed or found.bin_ms <= position.due_ms - position.horizon_ms:
        return None
    left_ms = position.due_ms - now_ms
    signal = next((one for one in licensed if one.horizon_ms >= left_ms), licensed[-1])
    return signal if signal.expected_bp < float(account.settings.hysteresis_percent) * 100.0 else None


def sell(
    account: Account,
    key: str,
    kind: ExitKind,
    base: str,
    event_ms: int,
    shared: Shared,
    parameters: Parameters,
    context: Context,
) -> m.OrderIntent | None:
    """Make the market sell of a position and note it, or set the position aside as dust where it cannot be sold.

    Makes nothing while an exit is under way, waits for its next try, or (plan exits only) the entry is still filling.
    """
    position = account.positions[key]
    under_way = position.exit
    if under_way is not None:
        is_escalated = kind in PROTECTIVE and under_way.kind not in PROTECTIVE
        if under_way.intent_id or (shared.now_ms < under_way.retry_ms and not is_escalated):
            return None
        kind, base = (kind, base) if is_escalated else (under_way.kind, under_way.base)
    entry = account.orders.get(position.entry_intent)
    if kind not in PROTECTIVE and entry is not None and entry.is_open:
        return None
    quantity = costs.order_quantity(position.quantity, context)
    if _is_dust(key, quantity, shared, parameters) and (kind not in PROTECTIVE or under_way is not None):
        leave_rest(account, key, shared.now_ms)
        return None
    return _sell_intent(account, position, kind, base, quantity, event_ms, shared, parameters)


def _is_dust(key: str, quantity: Decimal, shared: Shared, parameters: Parameters) -> bool:
    """Whether what is left is below the exchange's minimum at the best bid (unknown price: it is not)."""
    if quantity <= 0:
        return True
    facts, bid = shared.facts.get(key), best_bid(key, shared)
    minimum = facts.minimum_total if facts is not None else parameters.minimum_total
    return bid is not None and (quantity * Decimal(repr(bid))).quantize(Decimal(1), ROUND_FLOOR) < minimum


def _sell_intent(
    account: Account,
    position: Position,
    kind: ExitKind,
    base: str,
    quantity: Decimal,
    event_ms: int,
    shared: Shared,
    parameters: Parameters,
) -> m.OrderIntent:
    entry = account.orders.get(position.entry_intent)
    number = entry.exits if entry is not None else 0
    purpose: m.Purpose = "protective-exit" if kind in PROTECTIVE else "exit"
    cause_id = base if number == 0 else f"{base}/{number}"
    intent = m.OrderIntent(
        id=m.intent_id(account.settings.account, kind, cause_id, purpose),
        account=account.settings.account,
        pocket=account.settings.pocket,
        exchange=position.exchange,
        market=position.market,
        side="sell",
        order_type="market",
        price=None,
        quantity=quantity,
        funds=None,
        time_in_force="",
        purpose=purpose,
        cause_kind=kind,
        cause_id=cause_id,
        event_ms=event_ms,
        expires_ms=event_ms + parameters.exit_expiry_ms,
        reason=f"{kind} of the position opened by {position.entry_intent}",
    )
    tries = 1 if position.exit is None else position.exit.tries + 1
    refused = 0 if position.exit is None else position.exit.refused
    position.exit = Exit(kind=kind, base=base, intent_id=intent.id, tries=tries, refused=refused)
    if entry is not None:
        entry.exits += 1
    account.orders[intent.id] = Order(
        intent_id=intent.id,
        exchange=position.exchange,
        market=position.market,
        side="sell",
        purpose=purpose,
        reserved=Decimal(0),
        due_ms=0,
        horizon_ms=0,
        signal_id="",
        event_ms=shared.now_ms,
    )
    return intent


def alarms(account: Account, now_ms: int) -> list[m.Veto]:
    """Tell of exits that are refused again and again: at once, whether or not a forecast comes for their market."""
    stuck = {key: position for key, position in account.positions.items() if position.is_stuck}
    told = {key for key, reason in account.reasons.items() if reason == Reason.EXIT_REFUSED}
    for key in told - stuck.keys():
        del account.reasons[key]
    found: list[m.Veto] = []
    for key, position in stuck.items():
        if key in told:
            continue
        account.reasons[key] = str(Reason.EXIT_REFUSED)
        account.day.refusals[str(Reason.EXIT_REFUSED)] = account.day.refusals.get(Reason.EXIT_REFUSED, 0) + 1
        found.append(
            m.Veto(
                account=account.settings.account,
                exchange=position.exchange,
                market=position.market,
                reason=str(Reason.EXIT_REFUSED),
                event_ms=now_ms,
            )
        )
    return found
