"""The entry: cost, limits and vetoes around what a strategy wants. Pure.

Called by `consumers.trade.fold` once per account, strategy, market and bin. Answers with the signal to act on, or with
the one reason why not. Never changes the state. Which forecast counts is the strategy's (`models.strategies`); that it
must pay the whole round trip and the threshold on top is not.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from consumers.trade import risk
from consumers.trade.glance import Glance
from consumers.trade.ledgers import Order, ledger_key
from consumers.trade.reasons import Reason
from consumers.trade.rules import Plan, Rule, entry_of
from consumers.trade.state import Account, Parameters, Shared
from models.strategies.rule import Chance, Entry
from streams import messages as m
from streams.market import costs


class Verdict(NamedTuple):
    """What came out for one account, strategy, market and bin; an empty `reason` means: enter."""

    reason: str
    signal: m.Signal | None
    """The forecast that the strategy rests on, or would."""
    cost: costs.Cost | None
    needed_bp: float | None
    forecasts: int
    """Signals of the bin over horizons that the account has chosen."""


class Case(NamedTuple):
    """Everything that the tests look at."""

    account: Account
    rule: Rule
    glance: Glance
    entry: Entry
    needed_bp: float | None
    crowd: risk.Crowd
    parameters: Parameters
    ledger: str


def chance_of(settings: m.AccountSettings, signals: tuple[m.Signal, ...], glance: Glance) -> Chance:
    """What a strategy of an account sees of a bin."""
    return Chance(
        glance.exchange,
        glance.market,
        glance.found.bin_ms,
        glance.shared.now_ms,
        signals,
        glance.levels,
        settings.threshold_percent,
        settings.hysteresis_percent,
    )


def judge(
    account: Account,
    plan: Plan,
    rule: Rule,
    glance: Glance,
    crowd: risk.Crowd,
    parameters: Parameters,
    steps: Sequence[Callable[["Case"], str]] | None = None,
) -> Verdict:
    """Decide on one bin, by `STEPS` unless a measurement leaves some out."""
    signals = glance.signals(plan.horizons)
    if not signals:
        return Verdict(Reason.HORIZON_NOT_CHOSEN, None, None, None, 0)
    settings = account.settings
    if rule.strategy is None:
        entry = Entry(signals[0], settings.threshold_percent, Reason.STRATEGY_UNUSABLE)
    else:
        entry = entry_of(rule.strategy, chance_of(settings, signals, glance))
    cost = glance.cost(rule.size)
    needed = None if cost is None else costs.needed_bp(cost, float(entry.threshold_percent))
    case = Case(account, rule, glance, entry, needed, crowd, parameters, ledger_key(rule.id, glance.key))
    for step in STEPS if steps is None else steps:
        if reason := step(case):
            return Verdict(str(reason), entry.signal, cost, needed, len(signals))
    return Verdict("", entry.signal, cost, needed, len(signals))


# --- the tests, in the order in which they answer -----------------------------------------------------------------


def _permission(case: Case) -> str:
    """Whether the account may enter anything now."""
    account, ledger = case.account, case.ledger
    if ledger in account.positions and account.positions[ledger].is_stuck:
        return Reason.EXIT_REFUSED
    if case.glance.shared.halt or account.halt:
        return Reason.HALTED
    if not account.is_trading:
        return Reason.TRADING_STOPPED
    if account.settings.venue != "paper":
        return Reason.LIVE_NOT_OFFERED
    if account.is_ledger_broken:
        return Reason.LEDGER_DIFFERS
    return Reason.PAUSED if account.paused else ""


def _choice(case: Case) -> str:
    """Whether the strategy may enter this market."""
    if case.rule.strategy is None:
        return Reason.STRATEGY_UNUSABLE
    if is_warming_up(case.glance.found.bin_ms, case.glance.shared, case.parameters):
        return Reason.WARM_UP
    markets = case.rule.markets
    return Reason.MARKET_NOT_CHOSEN if markets and case.entry.signal.market not in markets else ""


def _market(case: Case) -> str:
    """Whether anybody may enter this market on this forecast."""
    refusal = risk.market_refusal(case.glance.key, case.glance.shared, case.parameters)
    if refusal is not None and refusal != Reason.STALE_FEED:
        return refusal
    if case.glance.shared.now_ms - case.entry.signal.bin_ms > case.parameters.stale_signal_ms:
        return Reason.STALE_SIGNAL
    return refusal or ""


def _economics(case: Case) -> str:
    """Whether the forecast may be used and pays."""
    if case.entry.refusal or not case.entry.signal.is_licensed:
        return case.entry.refusal or case.entry.signal.refusal or Reason.UNLICENSED
    if case.glance.levels is None:
        return Reason.NO_BOOK
    if case.needed_bp is None:
        return Reason.THIN_BOOK
    return "" if case.entry.signal.expected_bp >= case.needed_bp else Reason.BELOW_COST


def _ledger(case: Case) -> str:
    """Whether the strategy's ledger of the market is free, and the account has room for one more."""
    account, settings, ledger = case.account, case.account.settings, case.ledger
    if ledger in account.positions:
        return Reason.POSITION_OPEN
    if account.orders or account.positions:
        opened = {order.ledger for order in account.orders.values() if order.is_open}
        if ledger in opened:
            return Reason.ORDER_PENDING
        if not settings.is_netting and _is_taken(account, case.glance.key, ledger):
            return Reason.MARKET_TAKEN
        if _is_cooling(case):
            return Reason.COOL_DOWN
    elif _is_cooling(case):
        return Reason.COOL_DOWN
    return Reason.MAXIMUM_POSITIONS if len(_busy(account)) >= settings.maximum_positions else ""


def _is_cooling(case: Case) -> bool:
    pause_ms = case.account.settings.cooldown_ms
    closed_ms = case.account.closed_ms.get(case.ledger)
    return closed_ms is not None and case.glance.shared.now_ms - closed_ms < pause_ms


def _is_taken(account: Account, key: str, ledger: str) -> bool:
    """Whether another strategy holds the market, or is about to."""
    return any(one != ledger and (one == key or one.endswith("|" + key)) for one in _busy(account))


def _busy(account: Account) -> set[str]:
    """Ledgers with a position or an open entry."""
    pending = {order.ledger for order in account.orders.values() if order.is_open and order.side == "buy"}
    return pending | set(account.positions)


def _limits(case: Case) -> str:
    """Whether size, budget, the account's limits and fair play allow it."""
    signal = case.entry.signal
    wanted = risk.Wanted(signal.exchange, signal.market, case.rule.entry_funds, signal.bin_ms)
    return risk.refusal(case.account, wanted, case.crowd, case.parameters) or ""


STEPS: tuple[Callable[[Case], str], ...] = (_permission, _choice, _market, _economics, _ledger, _limits)
"""Each answers with a reason, or with nothing; the first reason counts."""


def is_warming_up(bin_ms: int, shared: Shared, parameters: Parameters) -> bool:
    """Whether a bin belongs to the market before the warm-up's end."""
    if shared.warmed_ms is None:
        return parameters.is_warm_up_expected
    return bin_ms < shared.warmed_ms


def entry_intent(account: Account, rule: Rule, verdict: Verdict, parameters: Parameters) -> m.OrderIntent:
    """The market buy for a verdict that says enter."""
    signal, settings = verdict.signal, account.settings
    if verdict.reason or signal is None or verdict.cost is None or verdict.needed_bp is None:
        raise ValueError("only a verdict without a reason makes an intent")
    return m.OrderIntent(
        id=m.intent_id(settings.account, "signal", ledger_key(rule.id, signal.id), "entry"),
        account=settings.account,
        pocket=settings.pocket,
        exchange=signal.exchange,
        market=signal.market,
        side="buy",
        order_type="price",
        price=None,
        quantity=None,
        funds=rule.entry_funds,
        time_in_force="",
        purpose="entry",
        cause_kind="signal",
        cause_id=signal.id,
        event_ms=signal.bin_ms,
        expires_ms=signal.bin_ms + parameters.entry_expiry_ms,
        reason=f"expected {signal.expected_bp:.2f} bp in {signal.horizon_ms} ms, needed {verdict.needed_bp:.2f} bp",
        expected_bp=signal.expected_bp,
        cost_bp=verdict.cost.total_bp,
        strategy=rule.id,
    )


def entry_order(account: Account, rule: Rule, verdict: Verdict, intent: m.OrderIntent, now_ms: int) -> Order:
    """The order that an entry's intent begins as; its planned life is the forecast's time, or the time stop."""
    signal = verdict.signal
    if signal is None:
        raise ValueError("an entry has a signal")
    life_ms = rule.exits.time_stop_ms or signal.horizon_ms
    return Order(
        intent_id=intent.id,
        exchange=intent.exchange,
        market=intent.market,
        side="buy",
        purpose="entry",
        strategy=rule.id,
        reserved=risk.total_of(rule.entry_funds, account.settings),
        due_ms=signal.bin_ms + life_ms,
        horizon_ms=life_ms,
        signal_id=signal.id,
        event_ms=now_ms,
    )
