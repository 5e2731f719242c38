"""A maintenance window: everything is refused, nothing is matched, and at its end go the orders left behind.

Put together by the server; switched on as the fault `maintenance`.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from producers.sandbox.candles import Candles
from producers.sandbox.refusals import OrderRefused
from producers.sandbox.socket_faults import SocketFaults
from streams.market.matching import Order

if TYPE_CHECKING:
    from producers.sandbox.exchange import Exchange


def offline(faults: SocketFaults) -> Middleware:
    """What refuses everything but the control interface during a window."""

    @web.middleware
    async def refused(request: web.Request, handler: Handler) -> web.StreamResponse:
        if faults.is_offline and not request.path.startswith("/sandbox/"):
            raise OrderRefused("market_offline")
        return await handler(request)

    return refused


def beyond(orders: Iterable[Order], last_e8: Callable[[str], int | None]) -> list[Order]:
    """Resting bids above and asks below the last price before the window: the exchange cancels them, as documented."""
    found = []
    for order in orders:
        last = last_e8(order.market)
        if order.state == "wait" and order.price_e8 is not None and last is not None:
            is_beyond = order.price_e8 > last if order.is_buy else order.price_e8 < last
            if is_beyond:
                found.append(order)
    return found


class Maintenance:
    """What the exchange does in a window; `begin` and `end` are told by the faults."""

    def __init__(self, exchange: "Exchange", candles: Candles) -> None:
        self._exchange = exchange
        self._candles = candles
        self._last_e8: dict[str, int] = {}
        """The last price of each market with orders before the window."""

    def begin(self) -> None:
        """Remember the last prices and match nothing from now on."""
        markets = {order.market for order in self._exchange.state.waiting.values()}
        newest = {market: self._candles.last(market) for market in markets}
        self._last_e8 = {market: found[0].price_e8 for market, found in newest.items() if found is not None}
        self._exchange.halt(self._last_e8)

    def end(self) -> None:
        """Cancel by those prices, before anything is matched again."""
        self._exchange.resume(lambda orders: beyond(orders, self._last_e8.get))
