"""The older rule as a shadow: what it would have done with the account's forecasts, and what that would have brought.

Pure; called by `consumers.trade.fold`, never makes an order. It buys where the expectation is at least the threshold
and one fee, with no eye on spread, slippage, the second fee or a licence, and sells when the forecast's time is over,
both at the prices of the books that the account sees. Both fees are taken off.
"""

from decimal import ROUND_HALF_EVEN, Decimal

from consumers.trade.entries import is_warming_up
from consumers.trade.glance import Glance
from consumers.trade.positions import MONEY_STEP
from consumers.trade.rules import Plan
from consumers.trade.state import Account, Book, Parameters, ShadowTrade
from streams.market import costs


def consider(account: Account, plan: Plan, glance: Glance, parameters: Parameters) -> None:
    """Buy as the older rule would; one position per market."""
    settings, found = account.settings, glance.found
    if not glance.signals(plan.horizons) or glance.levels is None or glance.key in account.shadow.open:
        return
    best = glance.largest(plan.horizons)
    if best.expected_bp < plan.shadow_bp:
        return
    is_late = glance.shared.now_ms - found.bin_ms > parameters.stale_signal_ms
    is_other = bool(settings.markets) and best.market not in settings.markets
    if is_late or is_other or not account.is_trading or is_warming_up(found.bin_ms, glance.shared, parameters):
        return
    funds = float(settings.entry_funds)
    quantity = costs.bought_for(glance.levels.asks, funds) if funds > 0.0 else None
    if quantity is None:
        return
    cost = funds * (1.0 + float(settings.fee_percent) / 100.0)
    due_ms = found.bin_ms + best.horizon_ms
    account.shadow.open[glance.key] = ShadowTrade(quantity=quantity, cost=cost, due_ms=due_ms)


def on_book(account: Account, key: str, book: Book) -> None:
    """Sell what is due, at the first book that can bear it."""
    held = account.shadow.open[key]
    if book.bin_ms < held.due_ms:
        return
    levels = costs.levels_of(book.levels)
    proceeds = costs.sold_for(levels.bids, held.quantity) if levels is not None else None
    if proceeds is None:
        return
    net = proceeds * (1.0 - float(account.settings.fee_percent) / 100.0) - held.cost
    account.shadow.trades += 1
    account.shadow.result += Decimal(repr(net)).quantize(MONEY_STEP, ROUND_HALF_EVEN)
    del account.shadow.open[key]
