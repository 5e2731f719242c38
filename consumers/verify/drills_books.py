"""Three accounts of one pocket held against each other: the exchange's, the journal's and the log's.

Called by `drills_stage`. Exposure is what a pocket holds of every coin, and its money: from the exchange the change of
its balances, from the journal and from the log the sum of the fills. Pure.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from decimal import Decimal, localcontext
from typing import NamedTuple

from streams.messages import OrderFilled

MONEY = "KRW"
Holdings = dict[str, Decimal]


class Fill(NamedTuple):
    """One execution of ours."""

    market: str
    is_buy: bool
    quantity: Decimal
    funds: Decimal
    fee: Decimal


def of_fills(fills: Iterable[Fill]) -> Holdings:
    """What the fills left behind, money with its fees."""
    held: defaultdict[str, Decimal] = defaultdict(Decimal)
    with localcontext(prec=60):
        for fill in fills:
            sign = 1 if fill.is_buy else -1
            held[fill.market.partition("-")[2]] += sign * fill.quantity
            held[MONEY] -= sign * fill.funds + fill.fee
    return dict(held)


def of_log(events: Iterable[OrderFilled]) -> Holdings:
    """The log's fills, each once however often it was published."""
    unique = {(event.uuid, event.fill_id): event for event in events}
    return of_fills(Fill(e.market, e.side == "buy", e.quantity, e.funds, e.fee) for e in unique.values())


def of_exchange(balances: Iterable[Mapping[str, str]], account: str) -> Holdings:
    """What the exchange says an account holds, locked with the rest."""
    with localcontext(prec=60):
        return {
            row["currency"]: Decimal(row["balance"]) + Decimal(row["locked"])
            for row in balances
            if row["account"] == account
        }


def less(after: Mapping[str, Decimal], before: Mapping[str, Decimal]) -> Holdings:
    """The change."""
    with localcontext(prec=60):
        return {name: after.get(name, Decimal(0)) - before.get(name, Decimal(0)) for name in {*after, *before}}


def largest_difference(first: Mapping[str, Decimal], second: Mapping[str, Decimal]) -> Decimal:
    """The largest difference over all coins and the money; 0 where both say the same to the last digit."""
    return max((abs(value) for value in less(first, second).values()), default=Decimal(0))
