"""What Upbit's REST answers to a pocket's calls, typed at the door; read by `gateway` from the raw bytes. Pure."""

from decimal import Decimal
from typing import Any

import msgspec
from upbit import APIStatusError

from consumers.execute.venue import Answer, Duplicate, Execution, Order, OrderState, Refused, Unclear
from infra.errors import ExchangeUnavailable
from infra.secrets import hide

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


class WireReplaced(msgspec.Struct):
    """What cancel-and-replace says besides the old order."""

    new_order_uuid: str


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


def read_as(content: bytes, kind: Any) -> Any:
    """An answer as `kind`; raises `ExchangeUnavailable` where it is something else."""
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.MsgspecError as error:
        raise ExchangeUnavailable(f"the exchange's answer cannot be read: {error}") from error


def answer_of(error: APIStatusError) -> Answer:
    """What an error says of the order that was sent: only what is proven counts as refused."""
    name = name_of(error)
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


def name_of(error: APIStatusError) -> str:
    """The exchange's word for an error; empty where there is none."""
    return str(_error_of(error).name)


def _text_of(error: APIStatusError) -> str:
    return hide(_error_of(error).message)  # a badly written server may repeat what it was sent


def plain(amount: Decimal) -> str:
    """A decimal as the exchange wants it: no exponent."""
    return f"{amount:f}"


def order_of(wire: WireOrder) -> Order:
    """An order of the wire in our words."""
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
