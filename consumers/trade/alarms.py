"""What people must be told of an open position: its exit is refused again and again, or nobody sees its price. Pure.

Called by `consumers.trade.fold`; each is told once, as a veto with its reason, until it has passed.
"""

from consumers.trade.exits import is_blind
from consumers.trade.ledgers import Position
from consumers.trade.reasons import Reason
from consumers.trade.rules import Plan, exits_of
from consumers.trade.state import Account, Parameters, Shared
from streams import messages as m


def refused_exits(account: Account, now_ms: int) -> list[m.Veto]:
    """Tell of exits that are refused again and again: at once, whether or not a forecast comes for their market."""
    stuck = {key: position for key, position in account.positions.items() if position.is_stuck}
    told = {key for key, reason in account.reasons.items() if reason == Reason.EXIT_REFUSED}
    for key in told - stuck.keys():
        del account.reasons[key]
    new = [key for key in stuck if key not in told]
    account.reasons |= dict.fromkeys(new, str(Reason.EXIT_REFUSED))
    return [_told(account, key, Reason.EXIT_REFUSED, now_ms) for key in new]


def stale_positions(account: Account, plan: Plan, shared: Shared, parameters: Parameters) -> list[m.Veto]:
    """Tell of positions that nobody can watch, where the account holds on to them."""
    told: list[m.Veto] = []
    for ledger, position in account.positions.items():
        rules = exits_of(plan, position.strategy)
        was_told, position.is_stale_told = position.is_stale_told, is_blind(rules, ledger, shared, parameters)
        if position.is_stale_told and not was_told and rules.on_stale != "sell":
            told.append(_told(account, ledger, Reason.STALE_POSITION, shared.now_ms))
    return told


def _told(account: Account, ledger: str, reason: Reason, now_ms: int) -> m.Veto:
    position: Position = account.positions[ledger]
    account.day.refusals[str(reason)] = account.day.refusals.get(reason, 0) + 1
    return m.Veto(
        account=account.settings.account,
        exchange=position.exchange,
        market=position.market,
        reason=str(reason),
        event_ms=now_ms,
        strategy=position.strategy,
    )
