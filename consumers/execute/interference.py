"""Somebody else's hand in a pocket: compares what the exchange says with what our journal says. Pure.

Coins and orders that were there before, or that are made elsewhere, are external: shown and never touched. Where they
touch what is ours (coins of ours are gone, coins move while we hold the same coin, an order of ours was ended by
another hand) the account takes no entries until a person has looked. `interference_watch` asks and writes.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Literal, NamedTuple

import msgspec

from consumers.execute.venue import Holding, Order
from streams.messages import OrderIntent

ZERO = Decimal(0)
Kind = Literal["external-order", "external-coins", "coins-missing", "coins-moved", "order-ended", "order-foreign"]
PAUSING: frozenset[Kind] = frozenset({"coins-missing", "coins-moved", "order-ended", "order-foreign"})
"""What stops an account; the rest is only shown."""


class Finding(NamedTuple):
    """One thing that is not as our journal says."""

    kind: Kind
    account: str
    """Whose business it is; empty: nobody's, it is only shown."""
    subject: str
    """A currency, or an order's id."""
    text: str
    quantity: Decimal = ZERO


class Stake(NamedTuple):
    """What one account has of one market by the journal, all its strategies together."""

    account: str
    market: str
    held: Decimal
    """Bought here by strategies, less what they sold."""
    manual: Decimal = ZERO
    """The same of a person's orders through us; below zero where they sold coins that were not bought here."""
    is_moving: bool = False
    """Whether an order of ours may change the holding while we look."""

    @property
    def currency(self) -> str:
        """The coin: `BTC` of `KRW-BTC`."""
        return self.market.partition("-")[2]


class Ledger(NamedTuple):
    """What the journal knows of one pocket."""

    stakes: Sequence[Stake]
    identifiers: frozenset[str]
    """Of the open orders: those that an attempt of ours carries."""
    prefix: str
    """How every identifier of ours begins."""
    beside: Mapping[str, Decimal]
    """Coins beside ours when last seen, by currency; below zero: a person accepted that so much of ours is gone."""


def check(holdings: Iterable[Holding], open_orders: Iterable[Order], ledger: Ledger) -> list[Finding]:
    """Everything that is not as the ledger says; a coin that an order of ours may be moving is left for later."""
    totals = {one.currency: one.available + one.locked for one in holdings}
    findings = [*_of_orders(open_orders, ledger)]
    stakes: dict[str, list[Stake]] = {}
    for stake in ledger.stakes:
        stakes.setdefault(stake.currency, []).append(stake)
    for currency in sorted({*totals, *stakes, *ledger.beside} - _quotes(ledger)):
        here = stakes.get(currency, [])
        if not any(stake.is_moving for stake in here):
            findings += _of_coin(currency, totals.get(currency, ZERO), here, ledger.beside.get(currency))
    return findings


def _quotes(ledger: Ledger) -> set[str]:
    """Money that orders are paid with moves all the time: deposits and withdrawals are no interference."""
    return {"KRW", *(stake.market.partition("-")[0] for stake in ledger.stakes)}


def _of_coin(currency: str, total: Decimal, stakes: Sequence[Stake], known: Decimal | None) -> list[Finding]:
    ours = sum((stake.held + stake.manual for stake in stakes), ZERO)
    beside = total - ours
    if beside == (known or ZERO):
        return []
    holders = sorted({stake.account for stake in stakes if stake.held > 0 or stake.manual > 0})
    if beside < min(known or ZERO, ZERO):
        text = f"{ours} {currency} should be here by our journal, the exchange holds {total}"
        return [Finding("coins-missing", account, currency, text, beside) for account in holders]
    shown = Finding("external-coins", "", currency, f"{beside} {currency} beside ours are left alone", beside)
    if known is None:
        return [shown]
    text = f"the {currency} beside ours went from {known} to {beside} while the account holds some"
    return [shown, *(Finding("coins-moved", account, currency, text, beside) for account in holders)]


def _of_orders(open_orders: Iterable[Order], ledger: Ledger) -> Iterable[Finding]:
    accounts = sorted({stake.account for stake in ledger.stakes})
    for order in open_orders:
        if order.identifier in ledger.identifiers:
            continue
        text = f"an order in {order.market} that is not ours is left alone"
        yield Finding("external-order", "", order.uuid, text)
        if order.identifier.startswith(f"{ledger.prefix}-"):
            text = f"the order {order.uuid} in {order.market} carries an identifier of ours that we never sent"
            yield from (Finding("order-foreign", account, order.uuid, text) for account in accounts)


def ended_elsewhere(intent: OrderIntent, order: Order, *, is_cancelled_by_us: bool) -> Finding | None:
    """Whether an order of ours that has just ended was ended by another hand.

    What cancels itself (a market order's rest, `ioc`, `fok`, a `post_only` that would have traded) is no interference.
    """
    is_resting = intent.order_type == "limit" and not intent.time_in_force
    if order.state != "cancel" or not is_resting or is_cancelled_by_us:
        return None
    text = f"our order {order.uuid} in {intent.market} was cancelled by somebody else"
    return Finding("order-ended", intent.account, order.uuid, text)


def at_most(intent: OrderIntent, holdings: Iterable[Holding]) -> OrderIntent | None:
    """An exit cut to what is there to be sold; None: nothing is."""
    currency = intent.market.partition("-")[2]
    there = sum((one.available for one in holdings if one.currency == currency), ZERO)
    if intent.quantity is None or intent.quantity <= there:
        return intent
    return msgspec.structs.replace(intent, quantity=there) if there > 0 else None


def pauses(findings: Iterable[Finding]) -> dict[str, Finding]:
    """The accounts that must stop, each with the first finding that says why."""
    found: dict[str, Finding] = {}
    for finding in findings:
        if finding.kind in PAUSING and finding.account:
            found.setdefault(finding.account, finding)
    return found
