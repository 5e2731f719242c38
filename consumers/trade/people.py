"""What people say and what it changes at once: start, stop, halt, warm-up, an accepted ledger, a pause that is over.

Called by `consumers.trade.fold` inside its decimal context. Pure; makes no order.
"""

from consumers.trade import positions
from consumers.trade.state import Account, HaltKind, State
from streams import messages as m

ALL_ACCOUNTS = "*"


def named(state: State, account: str) -> list[Account]:
    """The accounts that a control speaks of, of those that are ours."""
    if account == ALL_ACCOUNTS:
        return list(state.accounts.values())
    return [found] if (found := state.accounts.get(account)) is not None else []


def on_control(
    state: State, control: m.TradingStarted | m.TradingStopped | m.Warmed | m.LedgerAccepted | m.AccountResumed
) -> list[str]:
    """Take a control that asks for no order; returns the accounts that it changed."""
    if isinstance(control, m.Warmed):
        state.shared.warmed_ms = control.event_ms
        return []
    accounts = named(state, control.account)
    for account in accounts:
        if isinstance(control, m.LedgerAccepted):
            positions.accept_ledger(account, control.holdings, state.shared.now_ms)
        elif isinstance(control, m.AccountResumed):
            account.paused = ""
        else:
            account.is_trading = isinstance(control, m.TradingStarted)
    return [account.settings.account for account in accounts]


def halt(state: State, control: m.Halt) -> HaltKind:
    """Note a halt or its end; returns what is in force by it."""
    kind: HaltKind = "" if control.kind == "lifted" else control.kind
    if control.account == ALL_ACCOUNTS:
        state.shared.halt = kind
    else:
        for account in named(state, control.account):
            account.halt = kind
    return kind
