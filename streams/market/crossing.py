"""What an incoming order meets: levels of a book and resting orders of users, in price-time priority. Pure.

Called by the sandbox exchange. At one price users' orders stand before the book's level, the older first: the
optimistic bound, as in `matching`. The last level's lots are cut to eight decimals where an order is given in money.
Self-match prevention follows the taker's mode; a maker's mode no longer counts.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from streams.market.matching import NOTIONAL, Level, Order, priority, reaches

PREVENTING = frozenset({"cancel_maker", "cancel_taker", "reduce"})


class Offer(NamedTuple):
    """Lots that stand at a price; `maker` is None where they are the book's."""

    price_e8: int
    lots: int
    maker: Order | None


class Step(NamedTuple):
    """One meeting. `lots` traded, or prevented from trading: of the taker, of the maker."""

    price_e8: int
    maker: Order | None
    lots: int = 0
    prevented: int = 0
    prevented_of_maker: int = 0


def offers(order: Order, levels: Sequence[Level], resting: Iterable[Order]) -> list[Offer]:
    """The opposite side as the order meets it: best price first, users before the book, the older user first."""
    users = [
        Offer(maker.price_e8, maker.remaining_lots, maker)
        for maker in priority(other for other in resting if other.is_buy != order.is_buy and other is not order)
        if maker.price_e8 is not None
    ]
    book = [Offer(level.price_e8, level.lots, None) for level in levels]
    sign = 1 if order.is_buy else -1
    return sorted(users + book, key=lambda offer: sign * offer.price_e8)


def cross(order: Order, met: Sequence[Offer]) -> list[Step]:
    """What happens, step by step; nothing at all for a fill-or-kill that cannot be filled whole."""
    steps: list[Step] = []
    lots_left, money_left = order.remaining_lots, order.remaining_total
    best = Level(met[0].price_e8, met[0].lots) if met else Level(0, 0)
    is_whole = False
    for offer in met:
        if not reaches(order, Level(offer.price_e8, offer.lots), best):
            break
        wanted = lots_left if order.lots is not None else money_left // (offer.price_e8 * NOTIONAL)
        step = _meet(order, offer, wanted)
        steps += [step] if step.lots or step.prevented or step.prevented_of_maker else []
        gone = step.lots + step.prevented
        lots_left -= gone
        money_left -= gone * offer.price_e8 * NOTIONAL
        is_whole = gone == wanted
        if is_whole:
            break
    is_killed = order.time_in_force == "fok" and (not is_whole or any(step.prevented for step in steps))
    return [] if is_killed else steps


def _meet(order: Order, offer: Offer, wanted: int) -> Step:
    maker = offer.maker
    overlap = min(offer.lots, wanted)
    if maker is None or maker.account != order.account or order.smp_type not in PREVENTING:
        return Step(offer.price_e8, maker, lots=overlap)
    if order.smp_type == "cancel_maker":
        return Step(offer.price_e8, maker, prevented_of_maker=offer.lots if wanted else 0)
    if order.smp_type == "cancel_taker":
        return Step(offer.price_e8, maker, prevented=wanted)
    return Step(offer.price_e8, maker, prevented=overlap, prevented_of_maker=overlap)
