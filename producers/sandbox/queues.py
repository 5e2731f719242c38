"""The places of resting orders in books that do not show them: which orders a recorded or followed frame fills.

Called by `exchange`. Accounts never meet: each has the market to itself, and among its own orders the better price and
then the earlier one comes first. `bounds` are for every report, also after an order has ended.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from typing import Any

from producers.sandbox.feeds import BookView, Print
from producers.sandbox.taken import Taken
from streams.market.matching import Level, Order, priority, reaches
from streams.market.queue import NOTHING, Bounds, QueuePlace, everywhere, join, shown_at
from streams.market.queue import Print as Passing

Reached = list[tuple[Order, Level]]


class Queues:
    """Places by order."""

    def __init__(self, taken: Taken) -> None:
        self._taken = taken
        self._places: dict[str, QueuePlace] = {}
        self._restored: dict[str, Bounds] = {}

    def forget(self) -> None:
        """No order stands anywhere; `replay` and `rest` follow."""
        self._places.clear()
        self._restored.clear()

    def rest(self, order: Order, book: BookView) -> None:
        """An order stands behind everything that is shown at its price; after a restart it queues anew."""
        if order.uuid in self._places or order.price_e8 is None or order.lots is None:
            return
        shown = shown_at(order.price_e8, book.bids if order.is_buy else book.asks, is_buy=order.is_buy)
        has = self._restored.pop(order.uuid, everywhere(order.executed_lots))
        self._places[order.uuid] = join(order.lots, shown, book.exchange_ms, has)

    def bounds(self, order: Order) -> Bounds:
        """What it would have got at worst, has got, and would have got at best; equal where it never rested."""
        place = self._places.get(order.uuid)
        found = self._restored.get(order.uuid) if place is None else _settled(order, place).filled
        return (found or everywhere(order.executed_lots))._replace(estimate=order.executed_lots)

    def journalled(self, order_uuid: str) -> dict[str, list[int]]:
        """What a line of the journal about an order says of its bounds."""
        place = self._places.get(order_uuid)
        return {} if place is None else {"b": list(place.filled)}

    def replay(self, order: Order, entry: Mapping[str, Any]) -> None:
        """Take the bounds from a line of the journal."""
        if "b" in entry:
            filled = Bounds(*entry["b"])
            elsewhere = max(0, order.executed_lots - filled.estimate)  # by a user's order, with the line's own fill
            self._restored[order.uuid] = filled.plus(everywhere(elsewhere))

    def kept(self, orders: Iterable[Order]) -> dict[str, Any]:
        """The places of these orders, for the journal; `restore` reads them."""
        return {
            order.uuid: [list(field) if isinstance(field, Bounds) else field for field in astuple(place)]
            for order in orders
            if (place := self._places.get(order.uuid)) is not None
        }

    def restore(self, places: Mapping[str, Any]) -> None:
        """Put orders where `kept` found them."""
        for order_uuid, (wanted, placed_ms, book_ms, shown, ahead, traded, filled) in places.items():
            self._places[order_uuid] = QueuePlace(
                wanted, placed_ms, book_ms, shown, None if ahead is None else Bounds(*ahead), traded, Bounds(*filled)
            )

    def stands(self, order: Order) -> bool:
        """Whether an order has a place."""
        return order.uuid in self._places

    def on_trade(self, orders: Iterable[Order], trade: Print, event_ms: int) -> Reached:
        """Which of a market's resting orders a trade by others fills."""
        reached: Reached = []
        for mine in _by_account(order for order in orders if order.is_buy != trade.is_buy).values():
            taken = NOTHING
            for order, place in self._with_places(mine):
                price = order.price_e8 or 0
                is_through = price > trade.price_e8 if order.is_buy else price < trade.price_e8
                if not is_through and price != trade.price_e8:
                    break  # priority: the others lie further away
                taken = taken.plus(
                    place.on_trade(Passing(trade.lots, taken, is_through, trade.trade_ms, event_ms))
                )  # fmt: skip
                reached += _due(order, place)
        return reached

    def on_book(self, market: str, orders: Iterable[Order], book: BookView) -> Reached:
        """Which of a market's resting orders a new book has crossed; the others may move up."""
        reached: Reached = []
        for account, mine in _by_account(orders).items():
            for order in mine:
                self.rest(order, book)
            for order, place in self._with_places(mine):
                is_buy, price = order.is_buy, order.price_e8 or 0
                seen = self._taken.visible(account, market, book)
                met = _crossed(order, seen.asks if is_buy else seen.bids)
                if met:
                    self._taken.take(account, market, book, met, is_ask=is_buy)
                    place.on_cross(sum(level.lots for level in met))
                shown = shown_at(price, book.bids if is_buy else book.asks, is_buy=is_buy)
                place.on_book(shown, book.exchange_ms)
                reached += _due(order, place)
        return reached

    def _with_places(self, orders: Iterable[Order]) -> list[tuple[Order, QueuePlace]]:
        found = ((order, self._places.get(order.uuid)) for order in priority(orders))
        return [(order, _settled(order, place)) for order, place in found if place is not None]


def _by_account(orders: Iterable[Order]) -> dict[str, list[Order]]:
    found: defaultdict[str, list[Order]] = defaultdict(list)
    for order in orders:
        found[order.account].append(order)
    return found


def _crossed(order: Order, other_side: Sequence[Level]) -> list[Level]:
    """What the order gets of the other side's levels at its price or beyond it."""
    met, wanted = [], order.remaining_lots
    for level in other_side:
        lots = min(level.lots, wanted)
        if lots <= 0 or not reaches(order, level, other_side[0]):
            break
        met.append(Level(level.price_e8, lots))
        wanted -= lots
    return met


def _settled(order: Order, place: QueuePlace) -> QueuePlace:
    """The place after what the order got or lost elsewhere: from users' orders, by self-match prevention."""
    place.wanted = order.executed_lots + order.remaining_lots
    if order.executed_lots > place.filled.estimate:
        place.on_cross(order.executed_lots - place.filled.estimate)
    return place


def _due(order: Order, place: QueuePlace) -> Reached:
    """What the order lacks of the estimate: also what an earlier frame gave and the disk refused."""
    lots = min(place.filled.estimate - order.executed_lots, order.remaining_lots)
    return [(order, Level(order.price_e8 or 0, lots))] if lots > 0 else []
