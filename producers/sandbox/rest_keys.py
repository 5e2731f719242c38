"""The pocket's keys and the state of the wallets, which need no right, and cancelling a withdrawal, which needs one.

There are no withdrawals here; the last tells a client by its refusal whether a key may withdraw.

Called by `rest`, which signs and limits every request before it comes here.
"""

from aiohttp import web

from infra.upbit.wire import korean_time
from producers.sandbox.feeds import Feed
from producers.sandbox.keys import Keys
from producers.sandbox.refusals import OrderRefused
from producers.sandbox.rest_orders import OrderHandler, answer


class KeyHandlers:
    """The handlers; each takes the request and the account that signed it."""

    def __init__(self, keys: Keys, feed: Feed) -> None:
        self._keys = keys
        self._feed = feed

    def routes(self) -> list[tuple[str, str, OrderHandler, str]]:
        """Method, path, handler and limit group."""
        return [
            ("GET", "/v1/api_keys", self.api_keys, "default"),
            ("GET", "/v1/status/wallet", self.wallets, "default"),
            ("DELETE", "/v1/withdraws/coin", self.cancel_withdrawal, "default"),
        ]

    async def api_keys(self, _request: web.Request, account: str) -> web.Response:
        """Every key of the pocket and until when it is good."""
        return answer(
            [{"access_key": key.access_key, "expire_at": korean_time(key.expires_ms)} for key in self._keys.of(account)]
        )

    async def cancel_withdrawal(self, request: web.Request, _account: str) -> web.Response:
        """None is ever found; a key without the right to withdraw does not come here."""
        if not request.query.get("uuid"):
            raise OrderRefused("validation_error", "uuid is missing")
        raise OrderRefused("withdraw_not_found")

    async def wallets(self, _request: web.Request, _account: str) -> web.Response:
        """Every currency but won: no coin can be paid in or out here, and there is no chain behind it."""
        coins = dict.fromkeys(part for row in self._feed.markets() for part in row.market.split("-") if part != "KRW")
        return answer(
            [
                {
                    "currency": coin,
                    "wallet_state": "unsupported",
                    "block_state": None,
                    "block_height": None,
                    "block_updated_at": None,
                    "block_elapsed_minutes": None,
                    "net_type": coin,
                    "network_name": coin,
                }
                for coin in coins
            ]
        )
