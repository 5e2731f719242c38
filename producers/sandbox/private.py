"""The private websocket: myOrder and myAsset of the account that the upgrade request was signed for.

Called by the server; the exchange tells it every change. A bad token is refused at the upgrade with 401.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from producers.sandbox.order_views import shorten, spell
from producers.sandbox.sockets import Sockets
from producers.sandbox.subscriptions import PRIVATE_KINDS


class PrivateSockets(Sockets):
    """All private connections."""

    def __init__(self, authorize: Callable[[web.Request], str]) -> None:
        super().__init__(PRIVATE_KINDS)
        self._authorize = authorize

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Check the token, then serve."""
        return await self.serve(request, self._authorize(request))

    def tell(self, account: str, kind: str, market: str, body: dict[str, Any]) -> None:
        """Send one message to whoever of the account wants it."""
        spelled: dict[tuple[bool, bool], bytes] = {}
        now = asyncio.get_running_loop().time()
        for connection in self.connections:
            is_wanted = connection.account == account and any(
                wanted.kind == kind and wanted.has_stream and (not wanted.codes or market in wanted.codes)
                for wanted in connection.wanted
            )
            if not is_wanted:
                continue
            style = (connection.is_simple, connection.is_list)
            if style not in spelled:
                text = spell(shorten(body) if connection.is_simple else body)
                spelled[style] = (f"[{text}]" if connection.is_list else text).encode()
            connection.push(spelled[style])
            connection.flush(now)
