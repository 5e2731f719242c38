"""The control interface under /sandbox: status and clock for everybody, faults, truth and accounts behind a token.

Called by tests, `verify orders` and teachers. It never exists where live trading is allowed: the sandbox is no part of
such a deployment.
"""

import contextlib
import hmac
import json
import re
from collections.abc import Awaitable, Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from aiohttp import web

from infra.upbit.rates import PERMISSIONS
from producers.sandbox.configuration import dump
from producers.sandbox.drivers import wall_ms
from producers.sandbox.exchange import Exchange
from producers.sandbox.faults import NAMES, Faults, read
from producers.sandbox.feeds import Feed
from producers.sandbox.keys import Key, Keys
from producers.sandbox.notices import Notices
from producers.sandbox.notices import read as read_notice
from producers.sandbox.order_requests import SMP_DEFAULTS
from producers.sandbox.refusals import OrderRefused
from streams.market.ledger import ATOM_DIGITS

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_YEARS_S = 100 * 366 * 86_400
_ACCOUNT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_CURRENCY = re.compile(r"[A-Z0-9]{1,10}")


def _answer(value: object) -> web.Response:
    return web.Response(text=dump(value), content_type="application/json")


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except (ValueError, UnicodeDecodeError, RecursionError):
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
        keys: Keys,
        notices: Notices,
    ) -> None:
        self._exchange = exchange
        self._feed = feed
        self._faults = faults
        self._token = token
        self._status = status
        self._keys = keys
        self._notices = notices

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
            web.post("/sandbox/notices", self._guard(self.announce)),
            web.post("/sandbox/accounts", self._guard(self.open_account)),
            web.get("/sandbox/keys", self._guard(self.list_keys)),
            web.post("/sandbox/keys", self._guard(self.make_key)),
            web.delete("/sandbox/keys/{access_key}", self._guard(self.drop_key)),
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
        """Every order ever accepted, in order, its fills, the refused identifiers, and what every account holds."""
        while True:
            exchange = self._exchange
            text = _answer(
                {
                    "orders": exchange.truth(),
                    "fills": exchange.fills(),
                    "refused": exchange.refused,
                    "balances": exchange.balances(),
                    "unsettled": exchange.unsettled(),
                }
            )
            with contextlib.suppress(OSError):  # undone: the truth is what stands now
                await self._exchange.settled()
                return text

    async def switch(self, request: web.Request) -> web.Response:
        """Set how the exchange treats a refused order's identifier, and orders without a self-match mode."""
        body = await _body(request)
        exchange = self._exchange
        burns = body.get("burn_refused_identifiers", exchange.burn_refused_identifiers)
        default = body.get("smp_default", exchange.smp_default)
        if not body or set(body) - {"burn_refused_identifiers", "smp_default"} or not isinstance(burns, bool):
            raise OrderRefused("bad_request", "burn_refused_identifiers must be true or false")
        if default not in SMP_DEFAULTS:
            raise OrderRefused("bad_request", f"smp_default must be one of {SMP_DEFAULTS}")
        exchange.burn_refused_identifiers, exchange.smp_default = burns, default
        return _answer(body)

    async def announce(self, request: web.Request) -> web.Response:
        """Say something about a market: caution flags, warning, delisting date, state."""
        body = await _body(request)
        market, notice = read_notice(body)
        if market not in {row.market for row in self._feed.markets()}:
            raise OrderRefused("bad_request", f"{market} is no market here")
        self._notices.set(market, notice)
        return _answer(body)

    async def open_account(self, request: web.Request) -> web.Response:
        """Make an account (its access key is its name) or add to it; answers with its secret."""
        body = await _body(request)
        account, balances = body.get("access_key"), body.get("balances", {})
        if not isinstance(account, str) or not _ACCOUNT.fullmatch(account) or not isinstance(balances, dict):
            raise OrderRefused("bad_request", "access_key or balances has a wrong value")
        self._exchange.open_account(account, {_currency(key): _atoms(value) for key, value in balances.items()})
        await self._exchange.settled()
        return _answer({"access_key": account, "secret_key": self._keys.secret_of(account)})

    async def list_keys(self, request: web.Request) -> web.Response:
        """The keys of one account (`?account=`), without secrets."""
        return _answer({"keys": [_key_row(key) for key in self._keys.of(request.query.get("account", ""))]})

    async def make_key(self, request: web.Request) -> web.Response:
        """Make another key of an account, with the rights, life and addresses asked for; answers with its secret."""
        body = await _body(request)
        seconds = body.get("expires_in_seconds")
        is_good = (
            set(body) <= {"account", "permissions", "addresses", "expires_in_seconds"}
            and isinstance(body.get("account"), str)
            and all(_is_texts(body.get(name, [])) for name in ("permissions", "addresses"))
            and (seconds is None or (type(seconds) in {int, float} and -_YEARS_S < seconds < _YEARS_S))
        )
        if not is_good:
            raise OrderRefused("bad_request", "account, permissions, addresses or expires_in_seconds has a wrong value")
        expires_ms = None if seconds is None else wall_ms() + int(seconds * 1000)
        try:
            key = self._keys.make(
                body["account"], body.get("permissions", PERMISSIONS), expires_ms, body.get("addresses", [])
            )
        except ValueError as error:
            raise OrderRefused("bad_request", str(error)) from None
        return _answer(_key_row(key) | {"secret_key": self._keys.secret_of(key.access_key)})

    async def drop_key(self, request: web.Request) -> web.Response:
        """Take a made key back."""
        if not self._keys.drop(request.match_info["access_key"]):
            raise OrderRefused("bad_request", "there is no such key, or it is an account's own")
        return _answer({})


def _key_row(key: Key) -> dict[str, Any]:
    return {
        "access_key": key.access_key,
        "account": key.account,
        "permissions": list(key.permissions),
        "expires_ms": key.expires_ms,
        "addresses": list(key.addresses),
    }


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _currency(text: str) -> str:
    if not _CURRENCY.fullmatch(text):
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
