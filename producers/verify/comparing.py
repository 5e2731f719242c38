"""Comparison of the real exchange with the slow oracle, and of the exchange with what must always hold.

Called by `sequence` after every operation. Raises `Mismatch`.
"""

from collections import Counter
from decimal import Decimal

from producers.sandbox.exchange import Exchange
from producers.verify.operations import ACCOUNTS
from producers.verify.twins import Mismatch, Twins, integer
from producers.verify.wishes import Wish
from streams.market.ledger import Ledger
from streams.market.matching import Order


def compare(twins: Twins) -> None:
    """Everything that can have changed: orders, balances, what is locked, and priority."""
    exchange = twins.exchange
    _check_priority(twins)
    still_live = []
    for uuid, wish in twins.live:
        if wish.state == "asked":  # a replacement whose turn has not come, or never comes
            if uuid in exchange.orders:
                raise Mismatch(f"a replacement came too early: {exchange.orders[uuid]}")
            still_live.append((uuid, wish))
            continue
        order = _known(exchange, uuid)
        _compare_order(order, wish)
        if wish.state == "wait":
            still_live.append((uuid, wish))
    twins.live = still_live
    for account in ACCOUNTS:
        _compare_holdings(exchange.ledger, account, twins.oracle.holdings(account))
    _check_locked(twins)


def _check_priority(twins: Twins) -> None:
    """No resting order was filled while one before it was not: best price first, then the earlier one."""
    born = list(twins.exchange.orders)
    for uuid, wish in twins.live:
        if (order := twins.exchange.orders.get(uuid)) is None:
            continue
        before = twins.fills_seen.get(uuid, 0)
        twins.fills_seen[uuid] = len(order.fills)
        if not any(fill.is_maker for fill in order.fills[before:]):
            continue
        for other_uuid, other_wish in twins.live:
            other = twins.exchange.orders.get(other_uuid, order)
            is_rival = (other.market, other.is_buy) == (order.market, order.is_buy) and other.state == "wait"
            is_rival = is_rival and (twins.is_shared or other.account == order.account)
            if not is_rival or other is order or not other_wish.had_entered or not wish.had_entered:
                continue
            if _is_ahead(other, order, is_earlier=born.index(other_uuid) < born.index(uuid)):
                raise Mismatch(f"{order} was filled before {other}")
    for _, wish in twins.live:
        wish.had_entered = wish.has_entered


def _check_locked(twins: Twins) -> None:
    """What the ledger locks is what the open orders lock, and nothing is negative."""
    locked: Counter[tuple[str, str]] = Counter()
    for uuid, _ in twins.live:
        order = twins.exchange.orders.get(uuid)
        if order is not None and order.state == "wait":
            locked[order.account, order.lock_currency] += order.locked
    for key, held in twins.exchange.ledger.holdings.items():
        if held.available < 0 or held.locked < 0:
            raise Mismatch(f"{key} is negative: {held}")
        if held.locked != locked[key]:
            raise Mismatch(f"{key} locks {held.locked}, its open orders {locked[key]}")


def check_everything(twins: Twins) -> None:
    """All orders once more, and money: deposits and fills explain every atom."""
    born = [(uuid, wish) for uuid, wish in twins.pairs if wish.state != "asked"]
    if twins.exchange.orders.keys() != {uuid for uuid, _ in born}:
        raise Mismatch(f"{len(twins.exchange.orders)} orders, {len(born)} came into being")
    totals: Counter[str] = Counter()
    for _, currency, amount in twins.oracle.deposits:
        totals[currency] += integer(amount, 20)
    for row in twins.exchange.truth():
        executed = Decimal(row["executed_volume"])
        if not Decimal(row["pessimistic_volume"]) <= executed <= Decimal(row["optimistic_volume"]):
            raise Mismatch(f"the queue's bounds do not hold: {row}")
    for uuid, wish in born:
        order = twins.exchange.orders[uuid]
        _compare_order(order, wish)
        _compare_fills(order, wish)
        sign = 1 if order.is_buy else -1
        for fill in order.fills:
            totals[order.base] += sign * fill.lots * 10**12
            totals[order.quote] -= sign * fill.funds + fill.fee
    held: Counter[str] = Counter()
    for (_, currency), holding in twins.exchange.ledger.holdings.items():
        held[currency] += holding.total
    if any(held[currency] != totals[currency] for currency in held.keys() | totals.keys()):
        raise Mismatch(f"money is not conserved: {held} held, {totals} explained")


def _known(exchange: Exchange, uuid: str) -> Order:
    if uuid not in exchange.orders:
        raise Mismatch(f"order {uuid} is missing")
    return exchange.orders[uuid]


def _is_ahead(other: Order, order: Order, *, is_earlier: bool) -> bool:
    if other.price_e8 == order.price_e8:
        return is_earlier
    return ((other.price_e8 or 0) > (order.price_e8 or 0)) == order.is_buy


def _compare_order(order: Order, wish: Wish) -> None:
    ours = (
        order.state, order.executed_lots, order.executed_funds, order.paid_fee, order.reserved_fee, order.locked,
        order.prevented_lots, order.prevented_locked, len(order.fills), order.is_cancelling,
    )  # fmt: skip
    theirs = (
        wish.state, integer(wish.executed, 8), integer(wish.funds, 20), integer(wish.paid_fee, 20),
        integer(wish.reserved_fee, 20), integer(wish.locked, 20), integer(wish.prevented_size, 8),
        integer(wish.prevented_locked, 20), len(wish.fills), wish.is_cancelling,
    )  # fmt: skip
    if ours != theirs:
        raise Mismatch(f"an order is {ours}, expected {theirs}: {order}")


def _compare_fills(order: Order, wish: Wish) -> None:
    ours = [(fill.price_e8, fill.lots, fill.is_maker) for fill in order.fills]
    theirs = [(integer(price, 8), integer(size, 8), is_maker) for price, size, is_maker in wish.fills]
    if ours != theirs:
        raise Mismatch(f"fills are {ours}, expected {theirs}")


def _compare_holdings(ledger: Ledger, account: str, wanted: dict[str, tuple[Decimal, Decimal]]) -> None:
    for currency, (free, locked) in wanted.items():
        held = ledger.holding(account, currency)
        if (held.available, held.locked) != (integer(free, 20), integer(locked, 20)):
            raise Mismatch(f"{account} has {held} {currency}, expected {free} free and {locked} locked")
