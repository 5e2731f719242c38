"""Upbit's order calls through the official SDK: one request per call, never repeated, every answer typed.

`executor` builds one per pocket. The SDK takes an http address on this machine and does every call needed here, so no
signing of our own is used. What it would do by itself is switched off: repeats (three POSTs on a 500), redirects,
proxies and `UPBIT_...` variables. Its answers are read from the raw bytes, because its models keep amounts as text and
let unknown shapes through.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import msgspec
from upbit import APIConnectionError, APIError, APIStatusError, Upbit

from consumers.execute.guard import check_address
from consumers.execute.venue import (
    Accepted,
    Answer,
    Duplicate,
    Execution,
    Holding,
    Order,
    OrderRequest,
    OrderState,
    Refused,
    Unclear,
)
from infra.errors import ExchangeUnavailable, Limited
from infra.upbit.pace import Pace

LONGEST_TIMEOUT_S = 3.0
PAGE = 100
CLOSED_LIMIT = 1000
PROVEN_STATUS = frozenset({400, 401, 403, 404, 422})
PASSING_STATUS = frozenset({418, 429})


class WireTrade(msgspec.Struct):
    """An execution inside a single order's look-up."""

    uuid: str
    price: Decimal
    volume: Decimal
    funds: Decimal


class WireOrder(msgspec.Struct):
    """The order object; absent and null fields are None."""

    uuid: str
    market: str
    ord_type: str
    state: OrderState
    price: Decimal | None = None
    volume: Decimal | None = None
    executed_volume: Decimal = Decimal(0)
    paid_fee: Decimal = Decimal(0)
    identifier: str | None = None
    trades: list[WireTrade] = []


class WireAccount(msgspec.Struct):
    """One currency of a pocket."""

    currency: str
    balance: Decimal
    locked: Decimal
    avg_buy_price: Decimal


class _WireError(msgspec.Struct):
    name: str | int
    message: str = ""


class _WireErrorBody(msgspec.Struct):
    error: _WireError


class UpbitGateway:
    """One pocket at an exchange that speaks Upbit's REST. Threads may share it."""

    def __init__(
        self,
        address: str,
        access_key: str,
        secret_key: str,
        *,
        timeout_s: float = LONGEST_TIMEOUT_S,
        on_sent: Callable[[], None] | None = None,
        pace: Pace | None = None,
        is_urgent: bool = False,
    ) -> None:
        """`address` is the base without `/v1`; `on_sent` is called when the last byte of an order has left.

        Every request waits until `pace`, which may be shared, has a place for it.
        """
        check_address(address)
        self._on_sent = on_sent
        hooks = pace.hooks(is_urgent=is_urgent) if pace is not None else {"request": []}
        if on_sent is not None:
            hooks["request"].append(self._watch)
        timeout = httpx.Timeout(min(timeout_s, LONGEST_TIMEOUT_S))
        self._http = httpx.Client(
            base_url=address,
            timeout=timeout,
            follow_redirects=False,
            trust_env=False,
            event_hooks=hooks,
        )
        self._client = Upbit(
            access_key=access_key,
            secret_key=secret_key,
            base_url=address,
            websocket_base_url=address,
            timeout=timeout,
            max_retries=0,
            http_client=self._http,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def place(self, request: OrderRequest, identifier: str) -> Answer:
        """Send one order: exactly one POST, whatever happens to it."""
        fields: dict[str, Any] = {
            "market": request.market,
            "side": request.side,
            "ord_type": request.order_type,
            "identifier": identifier,
        }
        if request.volume is not None:
            fields["volume"] = _plain(request.volume)
        if request.price is not None:
            fields["price"] = _plain(request.price)
        if request.time_in_force:
            fields["time_in_force"] = request.time_in_force
        try:
            content = self._client.orders.with_raw_response.create(**fields).http_response.content
            return Accepted(_order_of(msgspec.json.decode(content, type=WireOrder)))
        except APIStatusError as error:
            return _answer_of(error)
        except APIConnectionError as error:
            if isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout):
                return Refused("unreachable", "no connection to the exchange came about", is_passing=True)
            if isinstance(error.__cause__, Limited):
                return Refused("too_many_requests", str(error.__cause__), is_passing=True)
            return Unclear(f"{type(error.__cause__ or error).__name__}")
        except (APIError, msgspec.MsgspecError) as error:
            return Unclear(f"the answer cannot be read: {error}")

    def find(self, identifier: str) -> Order | None:
        """The order with this identifier; raises `ExchangeUnavailable`."""
        return self._single(lambda: self._client.orders.with_raw_response.retrieve(identifier=identifier))

    def order(self, uuid: str) -> Order | None:
        """The order with this id and its executions; raises `ExchangeUnavailable`."""
        return self._single(lambda: self._client.orders.with_raw_response.retrieve(uuid=uuid))

    def open_orders(self) -> list[Order]:
        """All open orders, page by page; raises `ExchangeUnavailable`."""
        orders: list[Order] = []
        page = 1
        while True:
            found = self._many(page)
            orders += found
            if len(found) < PAGE:
                return orders
            page += 1

    def closed_orders(self, market: str) -> list[Order]:
        """The newest ended orders of a market (the exchange gives seven days at most); raises `ExchangeUnavailable`."""
        content = _ask(lambda: self._client.orders.with_raw_response.list_closed(market=market, limit=CLOSED_LIMIT))
        return [_order_of(order) for order in _read(content, list[WireOrder])]

    def cancel(self, uuid: str) -> bool:
        """Ask for a cancellation; False where the exchange refuses (ended, unknown); raises `ExchangeUnavailable`."""
        try:
            _ask(lambda: self._client.orders.with_raw_response.cancel(uuid=uuid))
        except _NotFoundError:
            return False
        return True

    def holdings(self) -> list[Holding]:
        """What the pocket holds; raises `ExchangeUnavailable`."""
        content = _ask(self._client.accounts.with_raw_response.list)
        return [
            Holding(account.currency, account.balance, account.locked, account.avg_buy_price)
            for account in _read(content, list[WireAccount])
        ]

    def _single(self, call: Callable[[], Any]) -> Order | None:
        try:
            return _order_of(_read(_ask(call), WireOrder))
        except _NotFoundError:
            return None

    def _many(self, page: int) -> list[Order]:
        content = _ask(lambda: self._client.orders.with_raw_response.list_open(limit=PAGE, page=page, order_by="asc"))
        return [_order_of(order) for order in _read(content, list[WireOrder])]

    def _watch(self, request: httpx.Request) -> None:
        if request.method != "POST" or self._on_sent is None:
            return
        on_sent = self._on_sent

        def trace(event: str, _info: object) -> None:
            if event.endswith("send_request_body.complete"):
                on_sent()

        request.extensions = {**request.extensions, "trace": trace}


class _NotFoundError(Exception):
    """The exchange says that there is no such order (or nothing left to cancel)."""


def _ask(call: Callable[[], Any]) -> bytes:
    """One call that changes nothing or may be repeated: its body, or `_NotFoundError`, or `ExchangeUnavailable`."""
    try:
        return bytes(call().http_response.content)
    except APIStatusError as error:
        if _name_of(error) == "order_not_found":
            raise _NotFoundError from error
        raise ExchangeUnavailable(f"the exchange answers {error.status_code} {_name_of(error)}") from error
    except APIError as error:
        raise ExchangeUnavailable(
            f"the exchange does not answer ({type(error.__cause__ or error).__name__})"
        ) from error


def _read(content: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.MsgspecError as error:
        raise ExchangeUnavailable(f"the exchange's answer cannot be read: {error}") from error


def _answer_of(error: APIStatusError) -> Answer:
    name = _name_of(error)
    if error.status_code in PASSING_STATUS:
        return Refused("too_many_requests", f"HTTP {error.status_code}", is_passing=True)
    if name == "duplicated_identifier":
        return Duplicate()
    if error.status_code in PROVEN_STATUS and name:
        return Refused(name, _text_of(error))
    return Unclear(f"HTTP {error.status_code} {name}".rstrip())


def _error_of(error: APIStatusError) -> _WireError:
    try:
        return msgspec.json.decode(error.response.content, type=_WireErrorBody).error
    except msgspec.MsgspecError:
        return _WireError("")


def _name_of(error: APIStatusError) -> str:
    return str(_error_of(error).name)


def _text_of(error: APIStatusError) -> str:
    return _error_of(error).message


def _plain(amount: Decimal) -> str:
    """A decimal as the exchange wants it: no exponent."""
    return f"{amount:f}"


def _order_of(wire: WireOrder) -> Order:
    return Order(
        uuid=wire.uuid,
        identifier=wire.identifier or "",
        market=wire.market,
        order_type=wire.ord_type,
        state=wire.state,
        price=wire.price,
        quantity=wire.volume,
        executed_quantity=wire.executed_volume,
        paid_fee=wire.paid_fee,
        executions=tuple(Execution(trade.uuid, trade.price, trade.volume, trade.funds) for trade in wire.trades),
    )
