"""Upbit's order calls through the official SDK: one request per call, never repeated, every answer typed.

`executor` builds one per pocket. The SDK takes an http address on this machine and does every call needed here, so no
signing of our own is used. What it would do by itself is switched off: repeats (three POSTs on a 500), redirects,
proxies and `UPBIT_...` variables. Its answers are read from the raw bytes, because its models keep amounts as text and
let unknown shapes through.
"""

from collections.abc import Callable, Sequence
from typing import Any

import httpx
import msgspec
from upbit import APIConnectionError, APIError, APIStatusError, Upbit

from consumers.execute.guard import check_address
from consumers.execute.halts import Halted, watch
from consumers.execute.venue import (
    KEY_REFUSALS,
    MOST_LOOKED_UP,
    Accepted,
    Answer,
    Holding,
    KeyRefused,
    Order,
    OrderRequest,
    Refused,
    Replacing,
    Unclear,
)
from consumers.execute.wire import WireAccount, WireOrder, WireReplaced, answer_of, name_of, order_of, plain, read_as
from infra.errors import ExchangeUnavailable, Limited
from infra.upbit.pace import Pace

LONGEST_TIMEOUT_S = 3.0
PAGE = 100
CLOSED_LIMIT = 1000


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
        transport: httpx.BaseTransport | None = None,
        on_refused_key: Callable[[str], None] | None = None,
    ) -> None:
        """`address` is the base without `/v1`; `on_sent` is called when the last byte of an order has left,
        `on_refused_key` with the exchange's word where it refuses the key itself.

        Every request waits until `pace`, which may be shared, has a place for it. A `transport` that is given carries
        the connections, may be shared, and is closed by whoever gave it.
        """
        check_address(address)
        self._on_refused_key = on_refused_key
        self._is_sharing = transport is not None
        hooks = pace.hooks() if pace is not None else {"request": []}
        hooks["request"].insert(0, lambda request: watch(request, on_sent))  # the pace hears what it calls back
        timeout = httpx.Timeout(min(timeout_s, LONGEST_TIMEOUT_S))
        self._http = httpx.Client(
            base_url=address,
            timeout=timeout,
            follow_redirects=False,
            trust_env=False,
            event_hooks=hooks,
            transport=transport,
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
        """Close the connections, where they are its own."""
        if not self._is_sharing:
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
            fields["volume"] = plain(request.volume)
        if request.price is not None:
            fields["price"] = plain(request.price)
        if request.time_in_force:
            fields["time_in_force"] = request.time_in_force
        return self._ordered(
            lambda: self._client.orders.with_raw_response.create(**fields),
            lambda content: Accepted(order_of(msgspec.json.decode(content, type=WireOrder))),
        )

    def replace(self, uuid: str, request: OrderRequest, identifier: str) -> Answer:
        """Send one cancel-and-replace for all that is left of an open order: exactly one POST."""
        fields: dict[str, Any] = {
            "prev_order_uuid": uuid,
            "new_ord_type": request.order_type,
            "new_identifier": identifier,
            "new_volume": "remain_only",
        }
        if request.price is not None:
            fields["new_price"] = plain(request.price)
        if request.time_in_force:
            fields["new_time_in_force"] = request.time_in_force
        return self._ordered(
            lambda: self._client.orders.with_raw_response.cancel_and_new(**fields),
            lambda content: Replacing(msgspec.json.decode(content, type=WireReplaced).new_order_uuid),
        )

    def _ordered(self, call: Callable[[], Any], read: Callable[[bytes], Answer]) -> Answer:
        """The answer to one POST: what is not proven is unclear."""
        try:
            return read(call().http_response.content)
        except APIStatusError as error:
            self._notice(error)
            return answer_of(error)
        except APIConnectionError as error:
            return _unsent(error.__cause__) or Unclear(f"{type(error.__cause__ or error).__name__}")
        except (APIError, msgspec.MsgspecError) as error:
            return Unclear(f"the answer cannot be read: {error}")

    def _notice(self, error: APIStatusError) -> None:
        if self._on_refused_key is not None and (name := name_of(error)) in KEY_REFUSALS:
            self._on_refused_key(name)

    def find(self, identifier: str) -> Order | None:
        """The order with this identifier; raises `ExchangeUnavailable`."""
        return self._single(lambda: self._client.orders.with_raw_response.retrieve(identifier=identifier))

    def order(self, uuid: str) -> Order | None:
        """The order with this id and its executions; raises `ExchangeUnavailable`."""
        return self._single(lambda: self._client.orders.with_raw_response.retrieve(uuid=uuid))

    def by_identifiers(self, identifiers: Sequence[str]) -> list[Order]:
        """Those of many identifiers that the exchange knows; raises `ExchangeUnavailable`."""
        return self._looked_up(identifiers, "identifiers")

    def by_uuids(self, uuids: Sequence[str]) -> list[Order]:
        """Those of many ids that the exchange knows; raises `ExchangeUnavailable`."""
        return self._looked_up(uuids, "uuids")

    def _looked_up(self, names: Sequence[str], kind: str) -> list[Order]:
        found: list[Order] = []
        for first in range(0, len(names), MOST_LOOKED_UP):
            found += self._of_page({kind: list(names[first : first + MOST_LOOKED_UP])})
        return found

    def _of_page(self, wanted: dict[str, Any]) -> list[Order]:
        content = self._ask(lambda: self._client.orders.with_raw_response.list_by_uuids(**wanted))
        return [order_of(order) for order in read_as(content, list[WireOrder])]

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
        content = self._ask(
            lambda: self._client.orders.with_raw_response.list_closed(market=market, limit=CLOSED_LIMIT)
        )
        return [order_of(order) for order in read_as(content, list[WireOrder])]

    def cancel(self, uuid: str) -> bool:
        """Ask for a cancellation; False where the exchange refuses (ended, unknown); raises `ExchangeUnavailable`."""
        try:
            self._ask(lambda: self._client.orders.with_raw_response.cancel(uuid=uuid))
        except _NotFoundError:
            return False
        return True

    def holdings(self) -> list[Holding]:
        """What the pocket holds; raises `ExchangeUnavailable`."""
        content = self._ask(self._client.accounts.with_raw_response.list)
        return [
            Holding(account.currency, account.balance, account.locked, account.avg_buy_price)
            for account in read_as(content, list[WireAccount])
        ]

    def _single(self, call: Callable[[], Any]) -> Order | None:
        try:
            return order_of(read_as(self._ask(call), WireOrder))
        except _NotFoundError:
            return None

    def _many(self, page: int) -> list[Order]:
        content = self._ask(
            lambda: self._client.orders.with_raw_response.list_open(limit=PAGE, page=page, order_by="asc")
        )
        return [order_of(order) for order in read_as(content, list[WireOrder])]

    def _ask(self, call: Callable[[], Any]) -> bytes:
        """One call that changes nothing or may be repeated: its body, or `_NotFoundError`, or `ExchangeUnavailable`."""
        try:
            return bytes(call().http_response.content)
        except APIStatusError as error:
            name = name_of(error)
            if name == "order_not_found":
                raise _NotFoundError from error
            self._notice(error)
            text = f"the exchange answers {error.status_code} {name}"
            if name in KEY_REFUSALS:
                raise KeyRefused(text, retry_s=1.0) from error
            raise ExchangeUnavailable(text) from error
        except APIError as error:
            raise ExchangeUnavailable(
                f"the exchange does not answer ({type(error.__cause__ or error).__name__})"
            ) from error


class _NotFoundError(Exception):
    """The exchange says that there is no such order (or nothing left to cancel)."""


def _unsent(cause: BaseException | None) -> Refused | None:
    """A refusal where it is proven that no byte of the request left; None where it may have."""
    if isinstance(cause, httpx.ConnectError | httpx.ConnectTimeout):
        return Refused("unreachable", "no connection to the exchange came about", is_passing=True)
    if isinstance(cause, Limited):
        return Refused("too_many_requests", str(cause), is_passing=True)
    return Refused("halted", str(cause)) if isinstance(cause, Halted) else None
