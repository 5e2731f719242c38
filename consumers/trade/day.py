"""An account's KST day: its forecasts, its refusals by reason, the forecast that came closest. Pure.

Called by `consumers.trade.fold` for every decision; a change of reason is told as a `Veto`.
"""

from consumers.trade import risk
from consumers.trade.entries import Verdict
from consumers.trade.glance import Glance
from consumers.trade.ledgers import ledger_key
from consumers.trade.rules import Rule
from consumers.trade.state import Account, Day, Shared, day_of
from streams import messages as m


def turn_day(account: Account, shared: Shared) -> None:
    """Begin a new day's counts where the market's time has passed midnight in Korea."""
    day = day_of(shared.now_ms)
    if account.day.day != day:
        account.day = Day(day=day)
        risk.note_profit(account, shared)


def note_best(day: Day, verdict: Verdict, *, is_first: bool) -> None:
    """Count the forecasts, once for all strategies, and keep the one that came closest to what a trade needs."""
    day.forecasts += verdict.forecasts if is_first else 0
    if verdict.signal is None or verdict.needed_bp is None:
        return
    net = verdict.signal.expected_bp - verdict.needed_bp
    best, needed = day.best_expected_bp, day.best_needed_bp
    if best is None or needed is None or net > best - needed:
        day.best_expected_bp, day.best_needed_bp = verdict.signal.expected_bp, verdict.needed_bp
        day.best_market = verdict.signal.market


def refuse(account: Account, rule: Rule, glance: Glance, verdict: Verdict) -> list[m.Veto]:
    """Count a refusal; tell it where the ledger's reason changed."""
    day, ledger = account.day, ledger_key(rule.id, glance.key)
    day.refusals[verdict.reason] = day.refusals.get(verdict.reason, 0) + 1
    if account.reasons.get(ledger) == verdict.reason:
        return []
    account.reasons[ledger] = verdict.reason
    signal = verdict.signal if verdict.signal is not None else next(iter(glance.found.signals.values()))
    return [
        m.Veto(
            account=account.settings.account,
            exchange=signal.exchange,
            market=signal.market,
            reason=verdict.reason,
            event_ms=glance.found.bin_ms,
            best_expected_bp=None if verdict.signal is None else signal.expected_bp,
            needed_bp=verdict.needed_bp,
            horizon_ms=None if verdict.signal is None else signal.horizon_ms,
            strategy=rule.id,
        )
    ]
