"""A maintenance window: everything is refused, lines are cut, and orders that the market has left behind are cancelled.

Put together by the server; switched on as the fault `maintenance`.
"""

import asyncio
from collections.abc import Callable, Iterable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from producers.sandbox.candles import Candles
from producers.sandbox.exchange import Exchange
from producers.sandbox.refusals import OrderRefused
from producers.sandbox.socket_faults import SocketFaults
from streams.market.matching import Order


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


def cancels_at_the_end(exchange: Exchange, candles: Candles) -> Callable[[float], None]:
    """What a window's beginning is told to: remember the last prices, and cancel by them when it is over."""

    def begin(seconds: float) -> None:
        markets = {order.market for order in exchange.orders.values() if order.state == "wait"}
        newest = {market: candles.last(market) for market in markets}
        last_e8 = {market: found[0].price_e8 for market, found in newest.items() if found is not None}

        def end() -> None:
            exchange.cancel_all(beyond(exchange.orders.values(), last_e8.get))

        asyncio.get_running_loop().call_later(seconds, end)

    return begin
