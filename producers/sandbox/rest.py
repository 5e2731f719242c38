"""Around every request: signatures, rights, limits, faults, and errors in Upbit's form.

Called by the server, which mounts `routes` (the handlers are in `rest_orders` and `rest_keys`), the middleware `errors`
and inside it the one that `limited_by_address` makes. A malformed request gets a documented status and name, never a
500.
"""

import asyncio
import hashlib
import json
import logging
import math
import os
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

from infra.upbit.rates import permission_of, quotation_group
from infra.upbit.signing import BadToken, query_of_request, verify
from producers.sandbox.exchange import Exchange
from producers.sandbox.faults import Fault, Faults
from producers.sandbox.feeds import Feed
from producers.sandbox.http_log import BROKEN_OFF
from producers.sandbox.keys import RIGHTS, Key, Keys
from producers.sandbox.limits import REMAINING, Limited, Limits
from producers.sandbox.quotation import answer as quotation_answer
from producers.sandbox.quotation_queries import QuotationError
from producers.sandbox.refusals import OrderRefused
from producers.sandbox.rest_keys import KeyHandlers
from producers.sandbox.rest_orders import OrderHandler, OrderHandlers, answer, object_of

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PUBLIC_SOCKET = "/websocket/v1"
PRIVATE_SOCKET = "/websocket/v1/private"
_TOO_MANY = "Too many API requests."
_CRASHES_IN_THE_JOURNAL = {"crash-unwritten": 0.0, "crash-halfway": 0.5}
"""Fault -> share of the next write that reaches the file."""


def refusal(name: str, text: str, status: int) -> web.Response:
    """An error object of the exchange side."""
    return answer({"error": {"name": name, "message": text}}, status)


def _quotation_refusal(status: int, text: str) -> web.Response:
    return quotation_answer({"error": {"name": status, "message": text}}, status)


def over_limit(status: int, wait_s: float) -> web.Response:
    """429 as plain text, as clients know it; 418 with the seconds that are left of the block."""
    if status == 429:
        return web.Response(text=_TOO_MANY, status=429)
    text = f"요청 수 제한을 반복하여 초과하였습니다. {math.ceil(wait_s)}초 후에 다시 시도해주세요."
    return refusal("I'm a teapot", text, 418)


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what is raised on purpose into the exchange's answers; every counted one tells what is left."""
    response = await _answered(request, handler)
    if not response.prepared:
        if remaining := request.get(REMAINING):
            response.headers["Remaining-Req"] = remaining
        else:
            response.headers.pop("Remaining-Req", None)
    return response


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except (QuotationError, *BROKEN_OFF) as error:
        known = error if isinstance(error, QuotationError) else QuotationError(400, "Bad Request")
        return _quotation_refusal(known.status, known.text)
    except (OrderRefused, BadToken) as error:
        return refusal(error.name, error.text, 401 if isinstance(error, BadToken) else error.status)
    except Limited as error:
        request[REMAINING] = error.verdict.header
        return over_limit(error.verdict.status, error.verdict.wait_s)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _quotation_refusal(error.status, error.reason)
    except OSError:
        logger.exception("a request could not be journalled")
        return refusal("server_error", "서버 오류가 발생했습니다.", 500)


def limited_by_address(limits: Limits) -> Middleware:
    """Count quotation calls and websockets by the address they come from; a browser's (`Origin`) are few."""

    @web.middleware
    async def limited(request: web.Request, handler: Handler) -> web.StreamResponse:
        path = request.path
        is_socket = path in (PUBLIC_SOCKET, PRIVATE_SOCKET)
        group = "websocket-connect" if path == PUBLIC_SOCKET else quotation_group(path)
        if "Origin" in request.headers and (group or is_socket):
            group = "origin"
        if group:
            request[REMAINING] = limits.check(request.remote or "", group)
        return await handler(request)

    return limited


class Nonces:
    """Remembers the newest nonces of every key, by their hash: what a client sends may be long."""

    def __init__(self, most: int) -> None:
        self._seen: set[bytes] = set()
        self._newest: deque[bytes] = deque(maxlen=most)

    def is_new(self, access_key: str, nonce: str) -> bool:
        """Whether it was not used before; it is from now on."""
        named = json.dumps([access_key, nonce]).encode()
        digest = hashlib.blake2b(named, digest_size=16).digest()
        if digest in self._seen:
            return False
        if len(self._newest) == self._newest.maxlen:
            self._seen.discard(self._newest[0])
        self._newest.append(digest)
        self._seen.add(digest)
        return True


class Rest:
    """The guard before the handlers of the exchange side."""

    def __init__(
        self, exchange: Exchange, feed: Feed, faults: Faults, keys: Keys, limits: Limits, *, nonces: int
    ) -> None:
        self._exchange = exchange
        self._faults = faults
        self._keys = keys
        self._limits = limits
        self._handlers = [*OrderHandlers(exchange, feed).routes(), *KeyHandlers(keys, feed).routes()]
        self._nonces = Nonces(nonces)

    def routes(self) -> list[web.RouteDef]:
        """What the server mounts."""
        return [
            web.route(method, path, self._guard(handler, group, permission_of(method, path)))
            for method, path, handler, group in self._handlers
        ]

    # --- around every request -----------------------------------------------------------------------------------

    def authorize(self, request: web.Request, group: str, body: bytes = b"") -> Key:
        """The key of a signed request, which is counted for its pocket; an unsigned one for its address.

        Raises `BadToken`, `Limited`.
        """
        try:
            key = self._signed(request, body)
        except (BadToken, OrderRefused):
            request[REMAINING] = self._limits.check(request.remote or "", group)
            raise
        request[REMAINING] = self._limits.check(key.account, group)
        return key

    def _signed(self, request: web.Request, body: bytes) -> Key:
        try:
            query = query_of_request(request.rel_url.raw_query_string, body)
        except ValueError:
            raise OrderRefused("bad_request") from None
        access_key = verify(
            request.headers.get("Authorization"),
            query,
            self._keys.secret_of,
            self._nonces.is_new,
            lambda access_key: self._keys.admit(access_key, request.remote or ""),
        )
        key = self._keys.find(access_key)
        assert key is not None
        return key

    def open_socket(self, request: web.Request) -> str:
        """The account of a private websocket's upgrade request; its rights are left in `request[RIGHTS]`."""
        key = self.authorize(request, "websocket-connect")
        request[RIGHTS] = key.permissions
        return key.account

    def _guard(self, handler: OrderHandler, group: str, permission: str) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            body = await request.read()
            fault = self._faults.draw(request.method, request.path)
            if fault is not None and (early := await self._before(request, fault)) is not None:
                return early
            key = self.authorize(request, group, body)
            if permission and permission not in key.permissions:
                raise OrderRefused("out_of_scope")
            account = key.account
            if fault is not None and fault.name == "refused":
                refused = self._exchange.refuse(account, object_of(body), fault.error, is_burned=fault.burn)
                await self._exchange.settled()
                raise refused
            response = await handler(request, account)
            return response if fault is None else await self._after(request, fault, response)

        return guarded

    async def _before(self, request: web.Request, fault: Fault) -> web.Response | None:
        if fault.name == "lost-request":
            return _dropped(request)
        if fault.name == "rate-limited":
            return over_limit(429, 0.0)
        if fault.name == "blocked":
            return over_limit(418, fault.seconds)
        if fault.name == "server-error" and not fault.is_done:
            raise OrderRefused("server_error")
        if fault.name == "late-request":
            await asyncio.sleep(fault.seconds)
        if fault.name == "crash-before":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.name in _CRASHES_IN_THE_JOURNAL:
            self._exchange.die_at_next_write(_CRASHES_IN_THE_JOURNAL[fault.name])
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


def _dropped(request: web.Request) -> web.Response:
    """Cut the connection without a word."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
