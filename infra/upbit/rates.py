"""Upbit's rate limits as documented: the groups, their sizes, which call counts to which, and which right it needs.

Read by the sandbox, which enforces them, and by our own clients (`pace`), which keep to them.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Rate(NamedTuple):
    """`size` calls in `seconds`; `minute` is the constant that `Remaining-Req` carries beside the calls left.

    A token bucket, or where `is_window` a count that starts anew at every full `seconds`.
    """

    size: int
    seconds: float
    minute: int
    is_window: bool = False


RATES: dict[str, Rate] = {
    "default": Rate(30, 1.0, 1800),
    "order": Rate(12, 1.0, 480),
    "order-test": Rate(8, 1.0, 480),
    "order-cancel-all": Rate(1, 2.0, 30),
    "market": Rate(10, 1.0, 600, is_window=True),
    "candles": Rate(10, 1.0, 600, is_window=True),
    "crix-trades": Rate(10, 1.0, 600, is_window=True),
    "ticker": Rate(10, 1.0, 600, is_window=True),
    "orderbook": Rate(10, 1.0, 600, is_window=True),
    "origin": Rate(1, 10.0, 6),
    "websocket-connect": Rate(5, 1.0, 300),
    "websocket-message": Rate(5, 1.0, 100),
    "websocket-message-minute": Rate(100, 60.0, 100),
}
"""Group -> rate. `min` is recorded for the REST groups but `origin`; a websocket never tells it."""

PERMISSIONS = (
    "view_account", "view_orders", "make_orders", "view_withdrawals", "withdraw", "view_deposits", "deposit",
    "transfer", "manage_pockets",
)  # fmt: skip
"""What a key may be allowed to do."""

_QUOTATION = {
    "/v1/market/": "market",
    "/v1/candles/": "candles",
    "/v1/trades/": "crix-trades",
    "/v1/ticker": "ticker",
    "/v1/orderbook": "orderbook",
}
_EXCHANGE = {
    ("POST", "/v1/orders"): "order",
    ("POST", "/v1/orders/cancel_and_new"): "order",
    ("POST", "/v1/orders/test"): "order-test",
    ("DELETE", "/v1/orders/open"): "order-cancel-all",
}
_NO_PERMISSION = ("/v1/api_keys", "/v1/status/wallet")


def rates_with(sizes: Mapping[str, int]) -> dict[str, Rate]:
    """The documented rates with some sizes replaced; `KeyError` for a group that does not exist."""
    return RATES | {group: RATES[group]._replace(size=size) for group, size in sizes.items()}


def quotation_group(path: str) -> str:
    """The group of a quotation call, empty for any other path."""
    return next((group for prefix, group in _QUOTATION.items() if path.startswith(prefix)), "")


def group_of(method: str, path: str) -> str:
    """The group that a REST call counts to."""
    return quotation_group(path) or _EXCHANGE.get((method, path), "default")


def permission_of(method: str, path: str) -> str:
    """The right that a key needs for a call of the exchange side; empty where none is needed."""
    if path in _NO_PERMISSION:
        return ""
    if path.startswith("/v1/withdraws"):
        return "view_withdrawals" if method == "GET" else "withdraw"
    if method != "GET":
        return "make_orders"
    return "view_account" if path == "/v1/accounts" else "view_orders"
