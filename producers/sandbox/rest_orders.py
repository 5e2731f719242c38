"""The calls of the exchange side: accounts, chance, making, looking up, listing and cancelling orders.

Called by `rest`, which signs, limits and guards every request before it comes here. Raises `OrderRefused`. Nothing is
answered before the exchange's journal has everything that the answer rests on.
"""

import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiohttp import web

from infra.upbit.wire import plain_e8
from producers.sandbox import list_queries
from producers.sandbox.configuration import dump
from producers.sandbox.exchange import Exchange
from producers.sandbox.feeds import Feed
from producers.sandbox.order_requests import FEE_E4, MAXIMUM_E8, MINIMUM_E8
from producers.sandbox.order_views import account_body, batch_body, order_body
from producers.sandbox.refusals import OrderRefused
from streams.market.matching import Order

OrderHandler = Callable[[web.Request, str], Awaitable[web.Response]]

_MOST_LOOKED_UP = 100
_MOST_CANCELLED = 20


def answer(value: object, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(text=dump(value), status=status, content_type="application/json")


class OrderHandlers:
    """The handlers; each takes the request and the account that signed it."""

    def __init__(self, exchange: Exchange, feed: Feed) -> None:
        self._exchange = exchange
        self._feed = feed

    def routes(self) -> list[tuple[str, str, OrderHandler, str]]:
        """Method, path, handler and limit group."""
        return [
            ("GET", "/v1/accounts", self._settled(self.accounts), "default"),
            ("GET", "/v1/orders/chance", self._settled(self.chance), "default"),
            ("POST", "/v1/orders", self._settled(self.create), "order"),
            ("POST", "/v1/orders/test", self._settled(self.test), "order-test"),
            ("POST", "/v1/orders/cancel_and_new", self._settled(self.replace), "order"),
            ("GET", "/v1/order", self._settled(self.look_up), "default"),
            ("DELETE", "/v1/order", self._settled(self.cancel), "default"),
            ("GET", "/v1/orders/open", self._settled(self.open_orders), "default"),
            ("DELETE", "/v1/orders/open", self._settled(self.cancel_open), "order-cancel-all"),
            ("GET", "/v1/orders/closed", self._settled(self.closed_orders), "default"),
            ("GET", "/v1/orders/uuids", self._settled(self.by_ids), "default"),
            ("DELETE", "/v1/orders/uuids", self._settled(self.cancel_by_ids), "default"),
        ]

    def _settled(self, handler: OrderHandler) -> OrderHandler:
        """Answer, or refuse, when the disk has what was done; many requests share one flush."""

        async def settled(request: web.Request, account: str) -> web.Response:
            try:
                return await handler(request, account)
            finally:
                await self._exchange.settled()

        return settled

    async def accounts(self, _request: web.Request, account: str) -> web.Response:
        """Every currency the account ever held."""
        return answer([account_body(currency, held) for currency, held in self._exchange.ledger.of(account)])

    async def chance(self, request: web.Request, account: str) -> web.Response:
        """Fees, limits and balances of one market."""
        market = request.query.get("market", "")
        if market not in {row.market for row in self._feed.markets()}:
            raise OrderRefused("notfoundmarket", f"다음 마켓에 없는 종목입니다: {market}")
        quote, _, base = market.partition("-")
        fee = plain_e8(FEE_E4[quote] * 10_000)
        minimum = plain_e8(MINIMUM_E8[quote])
        kinds = ["best_fok", "best_ioc", "limit", "limit_fok", "limit_ioc"]
        ledger = self._exchange.ledger
        return answer(
            {
                "bid_fee": fee,
                "ask_fee": fee,
                "maker_bid_fee": fee,
                "maker_ask_fee": fee,
                "market": {
                    "id": market,
                    "name": f"{base}/{quote}",
                    "order_types": ["limit"],
                    "order_sides": ["ask", "bid"],
                    "bid_types": [*kinds, "price"],
                    "ask_types": [*kinds, "market"],
                    "bid": {"currency": quote, "min_total": minimum},
                    "ask": {"currency": base, "min_total": minimum},
                    "max_total": plain_e8(MAXIMUM_E8[quote]),
                    "state": "active",
                },
                "bid_account": account_body(quote, ledger.holding(account, quote)),
                "ask_account": account_body(base, ledger.holding(account, base)),
            }
        )

    async def create(self, request: web.Request, account: str) -> web.Response:
        """POST /v1/orders."""
        return answer(order_body(self._exchange.accept(account, object_of(await request.read()))), 201)

    async def test(self, request: web.Request, account: str) -> web.Response:
        """POST /v1/orders/test: the same checks, nothing is made."""
        return answer(order_body(self._exchange.check(account, object_of(await request.read()))), 201)

    async def replace(self, request: web.Request, account: str) -> web.Response:
        """POST /v1/orders/cancel_and_new: answers with the old order and the new one's names."""
        body = object_of(await request.read())
        order = self._exchange.find_named(account, body.get("prev_order_uuid"), body.get("prev_order_identifier"))
        old = order_body(order)
        new = self._exchange.replace(order, body)
        names = {"new_order_uuid": new.uuid} | ({"new_order_identifier": new.identifier} if new.identifier else {})
        return answer(old | names)

    def _found(self, request: web.Request, account: str) -> Order:
        return self._exchange.find_named(account, request.query.get("uuid"), request.query.get("identifier"))

    async def look_up(self, request: web.Request, account: str) -> web.Response:
        """GET /v1/order."""
        return answer(order_body(self._found(request, account), has_trades=True))

    async def cancel(self, request: web.Request, account: str) -> web.Response:
        """DELETE /v1/order: accepted now, done a moment later."""
        await _no_body(request)
        order = self._found(request, account)
        body = order_body(order)
        self._exchange.cancel(order)
        return answer(body)

    async def cancel_by_ids(self, request: web.Request, account: str) -> web.Response:
        """DELETE /v1/orders/uuids: at most 20; those that have ended are called failed."""
        await _no_body(request)
        ids = list_queries.ids(request.query, _MOST_CANCELLED)
        orders = [order for order in self._exchange.of(account) if ids.name(order)]
        open_ones = [order for order in orders if order.state == "wait"]
        self._exchange.cancel_all(open_ones)
        return answer(batch_body(open_ones, (order for order in orders if order.state != "wait")))

    async def cancel_open(self, request: web.Request, account: str) -> web.Response:
        """DELETE /v1/orders/open: up to `count` waiting orders that the parameters mean."""
        await _no_body(request)
        batch = list_queries.batch(request.query)
        waiting = [order for order in self._exchange.waiting(account) if batch.means(order)]
        chosen = (waiting[::-1] if batch.is_ascending else waiting)[: batch.most]
        self._exchange.cancel_all(chosen)
        return answer(batch_body(chosen, ()))

    async def open_orders(self, request: web.Request, account: str) -> web.Response:
        """GET /v1/orders/open."""
        query = request.query
        states = list_queries.states(query, ("wait", "watch"), ("wait",))
        page = list_queries.whole(query, "page", 1, 1_000_000)
        limit = list_queries.whole(query, "limit", 100, 100)
        orders = self._listed(request, self._exchange.waiting(account))
        found = [order for order in orders if order.state in states]
        return answer([order_body(order, has_funds=True) for order in found[(page - 1) * limit : page * limit]])

    async def closed_orders(self, request: web.Request, account: str) -> web.Response:
        """GET /v1/orders/closed: at most seven days."""
        query = request.query
        states = list_queries.states(query, ("done", "cancel"), ("done", "cancel"))
        limit = list_queries.whole(query, "limit", 100, 1000)
        start, end = list_queries.window(query, self._exchange.now_ms())
        orders = (
            order for order in self._exchange.of(account) if order.state in states and start <= order.created_ms <= end
        )
        return answer([order_body(order, has_funds=True) for order in self._listed(request, orders)[:limit]])

    async def by_ids(self, request: web.Request, account: str) -> web.Response:
        """GET /v1/orders/uuids: by uuids[] or identifiers[]."""
        ids = list_queries.ids(request.query, _MOST_LOOKED_UP)
        orders = self._listed(request, (order for order in self._exchange.of(account) if ids.name(order)))
        return answer([order_body(order, has_funds=True) for order in orders])

    def _listed(self, request: web.Request, orders: Iterable[Order]) -> list[Order]:
        """Those of one market or all, newest first unless asked otherwise."""
        is_ascending = list_queries.is_ascending(request.query)
        market = request.query.get("market")
        found = [order for order in orders if market in (None, order.market)]
        return found[::-1] if is_ascending else found


async def _no_body(request: web.Request) -> None:
    if await request.read():
        raise OrderRefused("QUERY_PARAMETER_NOT_SUPPORTED")


def object_of(body: bytes) -> dict[str, Any]:
    """The body as a JSON object; raises `bad_request`."""
    try:
        value = json.loads(body, parse_float=str)  # digit for digit, 0.00001 too
    except (ValueError, UnicodeDecodeError, RecursionError):
        raise OrderRefused("bad_request") from None
    if not isinstance(value, dict):
        raise OrderRefused("bad_request")
    return value
