"""The entry rule: buy where a licensed forecast pays the whole round trip and the threshold on top. Pure.

Called by `consumers.trade.fold` once per account, market and bin. Answers with the signal to act on, or with the one
reason why not. Never changes the state.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

from consumers.trade.reasons import Reason
from consumers.trade.state import Account, Bin, Parameters, Shared
from streams import messages as m
from streams.market import costs

HUNDRED = Decimal(100)


class Verdict(NamedTuple):
    """What came out for one account, market and bin; an empty `reason` means: enter."""

    reason: str
    signal: m.Signal | None
    """The forecast with the best net expectation of those that count."""
    cost: costs.Cost | None
    needed_bp: float | None
    forecasts: int
    """Signals of the bin over horizons that the account has chosen."""


def chosen_signals(account: Account, found: Bin) -> list[m.Signal]:
    """The signals of a bin over the account's horizons, shortest first."""
    wanted = sorted(account.settings.horizons_ms)
    return [found.signals[horizon] for horizon in wanted if horizon in found.signals]


def judge(account: Account, key: str, found: Bin, shared: Shared, parameters: Parameters) -> Verdict:
    """Decide on one bin; the cost is the same for every horizon, so the largest expectation is the best net one."""
    signals = chosen_signals(account, found)
    if not signals:
        return Verdict(Reason.HORIZON_NOT_CHOSEN, None, None, None, 0)
    licensed = [signal for signal in signals if signal.is_licensed]
    best = max(licensed or signals, key=lambda signal: signal.expected_bp)
    book = shared.books.get(key)
    levels = costs.levels_of(book.levels) if book is not None else None
    cost = None
    if levels is not None and account.settings.entry_funds > 0:
        cost = costs.round_trip(levels, float(account.settings.entry_funds), float(account.settings.fee_percent))
    needed = None if cost is None else costs.needed_bp(cost, float(account.settings.threshold_percent))
    for is_refused, reason in _tests(account, key, best, shared, parameters):
        if is_refused:
            return Verdict(str(reason), best, cost, needed, len(signals))
        if reason == Reason.STALE_FEED and (economics := _economics(best, levels, needed)):
            return Verdict(economics, best, cost, needed, len(signals))
    return Verdict("", best, cost, needed, len(signals))


def _economics(best: m.Signal, levels: costs.Levels | None, needed: float | None) -> str:
    """Whether the forecast may be used and pays; the reason why not."""
    if not best.is_licensed:
        return best.refusal or Reason.UNLICENSED
    if levels is None:
        return Reason.NO_BOOK
    if needed is None:
        return Reason.THIN_BOOK
    return "" if best.expected_bp >= needed else Reason.BELOW_COST


def _tests(
    account: Account, key: str, best: m.Signal, shared: Shared, parameters: Parameters
) -> Iterator[tuple[bool, Reason]]:
    """The tests in the order in which they answer; after `STALE_FEED` the caller looks at the economics."""
    settings = account.settings
    book, facts = shared.books.get(key), shared.facts.get(key)
    now = shared.now_ms
    yield key in account.positions and account.positions[key].is_stuck, Reason.EXIT_REFUSED
    yield bool(shared.halt or account.halt), Reason.HALTED
    yield not account.is_trading, Reason.TRADING_STOPPED
    yield settings.venue != "paper", Reason.LIVE_NOT_OFFERED
    yield account.is_ledger_broken, Reason.LEDGER_DIFFERS
    yield bool(account.paused), Reason.PAUSED
    yield is_warming_up(best.bin_ms, shared, parameters), Reason.WARM_UP
    yield bool(settings.markets) and best.market not in settings.markets, Reason.MARKET_NOT_CHOSEN
    yield facts is not None and facts.is_suspect, Reason.CAUTION
    yield now - best.bin_ms > parameters.stale_signal_ms, Reason.STALE_SIGNAL
    yield book is not None and now - book.bin_ms > parameters.stale_feed_ms, Reason.STALE_FEED
    yield key in account.positions, Reason.POSITION_OPEN
    yield _has_open_order(account, best), Reason.ORDER_PENDING
    yield now - account.closed_ms.get(key, -settings.cooldown_ms) < settings.cooldown_ms, Reason.COOL_DOWN
    yield _busy_markets(account) >= settings.maximum_positions, Reason.MAXIMUM_POSITIONS
    minimum = facts.minimum_total if facts is not None else parameters.minimum_total
    yield settings.entry_funds < minimum, Reason.BELOW_MINIMUM
    yield settings.entry_funds * (1 - settings.stop_percent / HUNDRED) < minimum, Reason.UNSELLABLE_AFTER_STOP
    yield entry_total(settings) > account.free, Reason.BUDGET


def is_warming_up(bin_ms: int, shared: Shared, parameters: Parameters) -> bool:
    """Whether a bin belongs to the market before the warm-up's end."""
    if shared.warmed_ms is None:
        return parameters.is_warm_up_expected
    return bin_ms < shared.warmed_ms


def entry_total(settings: m.AccountSettings) -> Decimal:
    """Budget that an entry needs: its funds and the fee on them."""
    return settings.entry_funds * (1 + settings.fee_percent / HUNDRED)


def _has_open_order(account: Account, signal: m.Signal) -> bool:
    return any(
        order.is_open and order.market == signal.market and order.exchange == signal.exchange
        for order in account.orders.values()
    )


def _busy_markets(account: Account) -> int:
    """Markets with a position or an open entry."""
    pending = {
        m.key_of(order.exchange, order.market)
        for order in account.orders.values()
        if order.is_open and order.side == "buy"
    }
    return len(pending | set(account.positions))


def entry_intent(account: Account, verdict: Verdict, parameters: Parameters) -> m.OrderIntent:
    """The market buy for a verdict that says enter."""
    signal, settings = verdict.signal, account.settings
    if signal is None or verdict.cost is None or verdict.needed_bp is None:
        raise ValueError("only a verdict without a reason makes an intent")
    return m.OrderIntent(
        id=m.intent_id(settings.account, "signal", signal.id, "entry"),
        account=settings.account,
        pocket=settings.pocket,
        exchange=signal.exchange,
        market=signal.market,
        side="buy",
        order_type="price",
        price=None,
        quantity=None,
        funds=settings.entry_funds,
        time_in_force="",
        purpose="entry",
        cause_kind="signal",
        cause_id=signal.id,
        event_ms=signal.bin_ms,
        expires_ms=signal.bin_ms + parameters.entry_expiry_ms,
        reason=f"expected {signal.expected_bp:.2f} bp in {signal.horizon_ms} ms, needed {verdict.needed_bp:.2f} bp",
        expected_bp=signal.expected_bp,
        cost_bp=verdict.cost.total_bp,
    )
