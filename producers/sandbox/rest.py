"""REST of the exchange side: accounts, chance, orders; signed requests, faults around them, errors in Upbit's form.

Called by the server, which mounts `routes` and the middleware `errors`. A malformed request gets a documented status
and name, never a 500.
"""

import asyncio
import json
import logging
import os
import signal
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from aiohttp import web

from infra.upbit.signing import BadToken, query_of_request, verify
from infra.upbit.wire import KST, plain_e8
from producers.sandbox.configuration import dump
from producers.sandbox.exchange import Exchange
from producers.sandbox.faults import Fault, Faults
from producers.sandbox.feeds import Feed
from producers.sandbox.order_requests import FEE_E4, MAXIMUM_E8, MINIMUM_E8
from producers.sandbox.order_views import account_body, order_body
from producers.sandbox.quotation import QuotationError
from producers.sandbox.quotation import answer as quotation_answer
from producers.sandbox.refusals import OrderRefused
from streams.market.matching import Order

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
OrderHandler = Callable[[web.Request, str], Awaitable[web.Response]]

_LIMITS = {"default": (30, 1800), "order": (12, 480), "order-test": (8, 480)}
_NONCES = 200_000
_DAY_MS = 86_400_000
_TOO_MANY = "Too many API requests."


def answer(value: object, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(text=dump(value), status=status, content_type="application/json")


def refusal(name: str, text: str, status: int) -> web.Response:
    """An error object of the exchange side."""
    return answer({"error": {"name": name, "message": text}}, status)


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what is raised on purpose into the exchange's answers."""
    try:
        return await handler(request)
    except QuotationError as error:
        return quotation_answer({"error": {"name": error.status, "message": error.text}}, "default", error.status)
    except OrderRefused as error:
        return refusal(error.name, error.text, error.status)
    except BadToken as error:
        return refusal(error.name, error.text, 401)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return quotation_answer({"error": {"name": error.status, "message": error.reason}}, "default", error.status)
    except OSError:
        logger.exception("a request could not be journalled")
        return refusal("server_error", "서버 오류가 발생했습니다.", 500)


class Buckets:
    """What `Remaining-Req` says: a token bucket per account and group. It informs; refusing comes later."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, str], tuple[float, float]] = {}

    def header(self, account: str, group: str) -> str:
        """Take one token and spell what is left."""
        size, minute = _LIMITS[group]
        now = time.monotonic()
        tokens, last = self._buckets.get((account, group), (float(size), now))
        tokens = max(min(float(size), tokens + (now - last) * size) - 1.0, 0.0)
        self._buckets[account, group] = (tokens, now)
        return f"group={group}; min={minute}; sec={int(tokens)}"


class Nonces:
    """Remembers the newest nonces of every key."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()

    def is_new(self, access_key: str, nonce: str) -> bool:
        """Whether it was not used before; it is from now on."""
        if (access_key, nonce) in self._seen:
            return False
        self._seen[access_key, nonce] = None
        if len(self._seen) > _NONCES:
            self._seen.popitem(last=False)
        return True


class Rest:
    """The handlers."""

    def __init__(self, exchange: Exchange, feed: Feed, faults: Faults, secret_of: Callable[[str], str | None]) -> None:
        self._exchange = exchange
        self._feed = feed
        self._faults = faults
        self._secret_of = secret_of
        self._nonces = Nonces()
        self._buckets = Buckets()

    def routes(self) -> list[web.RouteDef]:
        """What the server mounts."""
        return [
            web.get("/v1/accounts", self._guard(self.accounts)),
            web.get("/v1/orders/chance", self._guard(self.chance)),
            web.post("/v1/orders", self._guard(self.create, "order")),
            web.post("/v1/orders/test", self._guard(self.test, "order-test")),
            web.get("/v1/order", self._guard(self.look_up)),
            web.delete("/v1/order", self._guard(self.cancel)),
            web.get("/v1/orders/open", self._guard(self.open_orders)),
            web.get("/v1/orders/closed", self._guard(self.closed_orders)),
            web.get("/v1/orders/uuids", self._guard(self.by_ids)),
        ]

    # --- around every request -----------------------------------------------------------------------------------

    def authorize(self, request: web.Request, body: bytes = b"") -> str:
        """The account of a signed request; raises `BadToken`."""
        try:
            query = query_of_request(request.rel_url.raw_query_string, body)
        except (ValueError, UnicodeDecodeError):
            raise OrderRefused("bad_request") from None
        return verify(request.headers.get("Authorization"), query, self._secret_of, self._nonces.is_new)

    def _guard(self, handler: OrderHandler, group: str = "default") -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            body = await request.read()
            fault = self._faults.draw(request.method, request.path)
            if fault is not None and (early := await self._before(request, fault)) is not None:
                return early
            account = self.authorize(request, body)
            if fault is not None and fault.name == "refused":
                raise self._exchange.refuse(account, _object(body), fault.error, is_burned=fault.burn)
            response = await handler(request, account)
            response.headers["Remaining-Req"] = self._buckets.header(account, group)
            return response if fault is None else await self._after(request, fault, response)

        return guarded

    async def _before(self, request: web.Request, fault: Fault) -> web.Response | None:
        if fault.name == "lost-request":
            return _dropped(request)
        if fault.name == "rate-limited":
            return web.Response(text=_TOO_MANY, status=429)
        if fault.name == "server-error" and not fault.is_done:
            raise OrderRefused("server_error")
        if fault.name == "late-request":
            await asyncio.sleep(fault.seconds)
        if fault.name == "crash-before":
            os.kill(os.getpid(), signal.SIGKILL)
        return None

    async def _after(self, request: web.Request, fault: Fault, response: web.Response) -> web.Response:
        if fault.name == "lost-answer":
            return _dropped(request)
        if fault.name == "late-answer":
            await asyncio.sleep(fault.seconds)
        if fault.name == "server-error":
            raise OrderRefused("server_error")
        if fault.name == "crash-after":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.name == "get-lag" and response.status == 201:
            made = json.loads(response.text or "{}")
            self._exchange.hidden_until_ms[made["uuid"]] = time.time_ns() // 1_000_000 + int(fault.seconds * 1000)
        return response

    # --- handlers -----------------------------------------------------------------------------------------------

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
        return answer(order_body(self._exchange.accept(account, _object(await request.read()))), 201)

    async def test(self, request: web.Request, account: str) -> web.Response:
        """POST /v1/orders/test: the same checks, nothing is made."""
        return answer(order_body(self._exchange.check(account, _object(await request.read()))), 201)

    def _found(self, request: web.Request, account: str) -> Order:
        query = request.query
        if "uuid" not in query and "identifier" not in query:
            raise OrderRefused("invalid_parameter", "uuid 또는 identifier 가 필요합니다.")
        return self._exchange.find(account, query.get("uuid"), query.get("identifier"))

    async def look_up(self, request: web.Request, account: str) -> web.Response:
        """GET /v1/order."""
        return answer(order_body(self._found(request, account), has_trades=True))

    async def cancel(self, request: web.Request, account: str) -> web.Response:
        """DELETE /v1/order: accepted now, done a moment later."""
        if await request.read():
            raise OrderRefused("QUERY_PARAMETER_NOT_SUPPORTED")
        order = self._found(request, account)
        body = order_body(order)
        self._exchange.cancel(order)
        return answer(body)

    async def open_orders(self, request: web.Request, account: str) -> web.Response:
        """GET /v1/orders/open."""
        states = _states(request, ("wait", "watch"), ("wait",))
        page, limit = _whole(request, "page", 1, 1_000_000), _whole(request, "limit", 100, 100)
        orders = [order for order in self._listed(request, account) if order.state in states]
        return answer([order_body(order, has_funds=True) for order in orders[(page - 1) * limit : page * limit]])

    async def closed_orders(self, request: web.Request, account: str) -> web.Response:
        """GET /v1/orders/closed: at most seven days."""
        states = _states(request, ("done", "cancel"), ("done", "cancel"))
        limit = _whole(request, "limit", 100, 1000)
        start, end = _moment(request, "start_time"), _moment(request, "end_time")
        if end is None:
            end = time.time_ns() // 1_000_000 if start is None else start + 7 * _DAY_MS
        if start is None:
            start = end - 7 * _DAY_MS
        if not 0 <= end - start <= 7 * _DAY_MS:
            raise OrderRefused("invalid_parameter")
        orders = [
            order
            for order in self._listed(request, account)
            if order.state in states and start <= order.created_ms <= end
        ]
        return answer([order_body(order, has_funds=True) for order in orders[:limit]])

    async def by_ids(self, request: web.Request, account: str) -> web.Response:
        """GET /v1/orders/uuids: by uuids[] or identifiers[]."""
        uuids, identifiers = request.query.getall("uuids[]", []), request.query.getall("identifiers[]", [])
        if bool(uuids) == bool(identifiers) or len(uuids) + len(identifiers) > 100:
            raise OrderRefused("invalid_parameter")
        orders = [
            order for order in self._listed(request, account) if order.uuid in uuids or order.identifier in identifiers
        ]
        return answer([order_body(order, has_funds=True) for order in orders])

    def _listed(self, request: web.Request, account: str) -> list[Order]:
        """The account's orders of one market or all, newest first unless asked otherwise."""
        market = request.query.get("market")
        order_by = request.query.get("order_by", "desc")
        if order_by not in {"asc", "desc"}:
            raise OrderRefused("invalid_parameter")
        orders = [order for order in self._exchange.of(account) if market in (None, order.market)]
        return orders if order_by == "asc" else orders[::-1]


def _dropped(request: web.Request) -> web.Response:
    """Cut the connection without a word."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, UnicodeDecodeError):
        raise OrderRefused("bad_request") from None
    if not isinstance(value, dict):
        raise OrderRefused("bad_request")
    return value


def _states(request: web.Request, allowed: tuple[str, ...], default: tuple[str, ...]) -> tuple[str, ...]:
    states = request.query.getall("states[]", []) or request.query.getall("state", [])
    if any(state not in allowed for state in states):
        raise OrderRefused("invalid_parameter")
    return tuple(states) or default


def _whole(request: web.Request, name: str, default: int, largest: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise OrderRefused("invalid_parameter")
    return min(int(text), largest)


def _moment(request: web.Request, name: str) -> int | None:
    """ISO-8601 or milliseconds; a time without zone is Korean."""
    text = request.query.get(name)
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) < 15:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise OrderRefused("invalid_parameter") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=KST)).timestamp() * 1000)
