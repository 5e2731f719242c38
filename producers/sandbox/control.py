"""The control interface under /sandbox: status and clock for everybody, faults, truth and accounts behind a token.

Called by tests, `verify orders` and teachers. It never exists where live trading is allowed: the sandbox is no part of
such a deployment.
"""

import hmac
import json
import re
from collections.abc import Awaitable, Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from aiohttp import web

from producers.sandbox.configuration import dump
from producers.sandbox.drivers import wall_ms
from producers.sandbox.exchange import Exchange
from producers.sandbox.faults import NAMES, Faults, read
from producers.sandbox.feeds import Feed
from producers.sandbox.refusals import OrderRefused
from streams.market.ledger import ATOM_DIGITS

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_ACCOUNT = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
_CURRENCY = re.compile(r"^[A-Z0-9]{1,10}$")


def _answer(value: object) -> web.Response:
    return web.Response(text=dump(value), content_type="application/json")


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except (ValueError, UnicodeDecodeError):
        raise OrderRefused("bad_request") from None
    if not isinstance(body, dict):
        raise OrderRefused("bad_request")
    return body


class Control:
    """The handlers; `open_account` makes keys and deposits."""

    def __init__(
        self,
        exchange: Exchange,
        feed: Feed,
        faults: Faults,
        token: str,
        *,
        status: Callable[[], dict[str, Any]],
        secret_for: Callable[[str], str],
    ) -> None:
        self._exchange = exchange
        self._feed = feed
        self._faults = faults
        self._token = token
        self._status = status
        self._secret_for = secret_for

    def routes(self) -> list[web.RouteDef]:
        """What the server mounts."""
        return [
            web.get("/sandbox/status", self.status),
            web.get("/sandbox/clock", self.clock),
            web.get("/sandbox/faults", self._guard(self.list_faults)),
            web.post("/sandbox/faults", self._guard(self.add_fault)),
            web.delete("/sandbox/faults", self._guard(self.clear_faults)),
            web.get("/sandbox/truth", self._guard(self.truth)),
            web.post("/sandbox/switches", self._guard(self.switch)),
            web.post("/sandbox/accounts", self._guard(self.open_account)),
        ]

    def _guard(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self._token.encode()):
                raise OrderRefused("no_authorization_token", "the control token is missing or wrong")
            return await handler(request)

        return guarded

    async def status(self, _request: web.Request) -> web.Response:
        """What the sandbox is and how far it got."""
        return _answer(self._status())

    async def clock(self, _request: web.Request) -> web.Response:
        """The exchange's clock beside ours."""
        return _answer({"exchange_ms": self._feed.clock_ms, "wall_ms": wall_ms(), "speed": self._status()["speed"]})

    async def list_faults(self, _request: web.Request) -> web.Response:
        """What is switched on."""
        return _answer({"faults": self._faults.rows(), "names": list(NAMES)})

    async def add_fault(self, request: web.Request) -> web.Response:
        """Switch one on."""
        self._faults.add(read(await _body(request)))
        return await self.list_faults(request)

    async def clear_faults(self, request: web.Request) -> web.Response:
        """Switch all off."""
        self._faults.clear()
        return await self.list_faults(request)

    async def truth(self, _request: web.Request) -> web.Response:
        """Every order ever accepted, in order, its fills, and the refused identifiers."""
        return _answer(
            {"orders": self._exchange.truth(), "fills": self._exchange.fills(), "refused": self._exchange.refused}
        )

    async def switch(self, request: web.Request) -> web.Response:
        """Set how the exchange treats the identifier of a refused order."""
        body = await _body(request)
        value = body.get("burn_refused_identifiers")
        if set(body) != {"burn_refused_identifiers"} or not isinstance(value, bool):
            raise OrderRefused("bad_request", "burn_refused_identifiers must be true or false")
        self._exchange.burn_refused_identifiers = value
        return _answer(body)

    async def open_account(self, request: web.Request) -> web.Response:
        """Make an account (its access key is its name) or add to it; answers with its secret."""
        body = await _body(request)
        account, balances = body.get("access_key"), body.get("balances", {})
        if not isinstance(account, str) or not _ACCOUNT.match(account) or not isinstance(balances, dict):
            raise OrderRefused("bad_request", "access_key or balances has a wrong value")
        self._exchange.open_account(account, {_currency(key): _atoms(value) for key, value in balances.items()})
        return _answer({"access_key": account, "secret_key": self._secret_for(account)})


def _currency(text: str) -> str:
    if not _CURRENCY.match(text):
        raise OrderRefused("bad_request", f"{text} is no currency")
    return text


def _atoms(text: Any) -> int:
    try:
        amount = Decimal(str(text))
    except InvalidOperation:
        raise OrderRefused("bad_request", f"{text} is no amount") from None
    if not (amount.is_finite() and 0 <= amount < Decimal(10) ** 15):
        raise OrderRefused("bad_request", f"{text} is no amount")
    return int(amount.scaleb(ATOM_DIGITS))
