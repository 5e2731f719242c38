"""The private websocket: myOrder and myAsset of the account that the upgrade request was signed for.

Called by the server; the exchange tells it every change. A bad token is refused at the upgrade with 401, a type that
the key has no right to with `INVALID_AUTH`.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from producers.sandbox.connections import Connection
from producers.sandbox.feeds import Frame, Style
from producers.sandbox.limits import Limits
from producers.sandbox.order_views import shorten, spell
from producers.sandbox.socket_faults import SocketFaults, pinned
from producers.sandbox.sockets import Sockets
from producers.sandbox.subscriptions import PRIVATE_KINDS, Refused, Request

_RIGHTS = {"myOrder": "view_orders", "myAsset": "view_account"}


class PrivateSockets(Sockets):
    """All private connections."""

    def __init__(
        self, authorize: Callable[[web.Request], str], *, limits: Limits, faults: SocketFaults | None = None
    ) -> None:
        """`authorize` gives the account and leaves the key's rights in `request[RIGHTS]`."""
        super().__init__(PRIVATE_KINDS, limits)
        self._authorize = authorize
        self._faults = faults or SocketFaults()
        self._told: dict[tuple[str, str], tuple[str, str]] = {}
        """(account, currency) -> the balance and what is locked, as they were told last."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Check the token, then serve."""
        return await self.serve(request, self._authorize(request))

    def check(self, connection: Connection, request: Request) -> None:
        """Whether the key may see what is asked for."""
        if any(_RIGHTS[wanted.kind] not in connection.permissions for wanted in request.wanted):
            raise Refused("INVALID_AUTH", "인증 정보가 올바르지 않습니다.")

    # --- events -----------------------------------------------------------------------------------------------

    def tell(self, account: str, kind: str, market: str, body: dict[str, Any]) -> None:
        """Send one message to whoever of the account wants it; of assets only those that changed."""
        if kind == "myAsset":
            changed = [row for row in body["assets"] if self._is_new(account, row)]
            if not changed:
                return
            body = body | {"assets": changed}
        frame = _frame(kind, market, body)
        if self._faults.is_quiet:
            self._send(account, frame)
            return
        delay_s = self._faults.delay_s(frame)
        for left in self._faults.changed(pinned(frame, ())):
            if delay_s:
                asyncio.get_running_loop().call_later(delay_s, self._send, account, left)
            else:
                self._send(account, left)
        if self._faults.is_dropping(frame):
            for connection in self._targets(account, frame):
                self.drop(connection)

    def _is_new(self, account: str, row: dict[str, Any]) -> bool:
        key, now = (account, str(row["currency"])), (str(row["balance"]), str(row["locked"]))
        if self._told.get(key) == now:
            return False
        self._told[key] = now
        return True

    def _targets(self, account: str, frame: Frame) -> list[Connection]:
        return [
            connection
            for connection in self.connections
            if connection.account == account
            and any(
                wanted.kind == frame.kind and wanted.has_stream and (not wanted.codes or frame.market in wanted.codes)
                for wanted in connection.wanted
            )
        ]

    def _send(self, account: str, frame: Frame) -> None:
        now = asyncio.get_running_loop().time()
        for connection in self._targets(account, frame):
            connection.push(frame.spell(Style(connection.is_simple, connection.is_list)))
            connection.flush(now)


def _frame(kind: str, market: str, body: dict[str, Any]) -> Frame:
    cache: dict[Style, bytes] = {}

    def spelled(style: Style) -> bytes:
        if style not in cache:
            text = spell(shorten(body) if style.is_simple else body)
            cache[style] = (f"[{text}]" if style.is_list else text).encode()
        return cache[style]

    return Frame(kind, market, int(body["timestamp"]), spelled)
