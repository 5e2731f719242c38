"""What the executor asks of an exchange, and the answers: typed, without HTTP. `gateway` offers it over Upbit's REST.

The desk and the tests are written against `Venue`. An answer never guesses: whatever is not proven is `Unclear`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, NamedTuple, Protocol

from infra.errors import ExchangeUnavailable
from streams.messages import OrderIntent

OrderState = Literal["wait", "watch", "done", "cancel"]


KEY_REFUSALS = frozenset(
    {
        "invalid_access_key", "expired_access_key", "jwt_verification", "no_authorization_ip", "no_authorization_i_p",
        "out_of_scope",
    }
)  # fmt: skip
"""Names of errors that speak of the key, not of the request: every other request would be refused like this one."""
KEY_RETRY_S = 5.0
"""So often is looked at least whether there is another key."""
MOST_LOOKED_UP = 100
"""Orders in one look-up by ids."""


class KeyRefused(ExchangeUnavailable):
    """The pocket has no key, or the exchange refuses it: after `retry_s` it may be worth another try."""

    def __init__(self, text: str, retry_s: float = KEY_RETRY_S) -> None:
        super().__init__(text)
        self.retry_s = min(retry_s, KEY_RETRY_S)


class Execution(NamedTuple):
    """One trade of an order of ours; amounts in base (`quantity`) and quote currency (`funds`)."""

    id: str
    price: Decimal
    quantity: Decimal
    funds: Decimal


@dataclass(frozen=True, slots=True)
class Order:
    """An order as the exchange tells it; `executions` is filled by a single look-up only, never by the lists."""

    uuid: str
    identifier: str
    market: str
    order_type: str
    state: OrderState
    price: Decimal | None
    quantity: Decimal | None
    executed_quantity: Decimal
    paid_fee: Decimal
    executions: tuple[Execution, ...] = ()

    @property
    def has_ended(self) -> bool:
        """Whether nothing more can happen to it."""
        return self.state in {"done", "cancel"}


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """What goes into `POST /v1/orders` besides the identifier."""

    market: str
    side: Literal["bid", "ask"]
    order_type: Literal["limit", "price", "market", "best"]
    price: Decimal | None
    volume: Decimal | None
    time_in_force: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """201: the exchange has the order."""

    order: Order


@dataclass(frozen=True, slots=True)
class Replacing:
    """The exchange took a cancel-and-replace: the new order exists once the old one is cancelled, or never."""

    new_uuid: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Proven: the exchange refused this very request, or no connection to it came about. Nothing was placed."""

    name: str
    text: str
    is_passing: bool = False
    """Not taken for its rate, or it never left this machine: an exit may be tried again under a new attempt."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The identifier was used before, by an order that was accepted or by one that was refused."""


@dataclass(frozen=True, slots=True)
class Unclear:
    """Time-out, dropped connection, 5xx, an answer that cannot be read: the order may exist."""

    text: str


Answer = Accepted | Replacing | Refused | Duplicate | Unclear


class Holding(NamedTuple):
    """What a pocket holds of one currency."""

    currency: str
    available: Decimal
    locked: Decimal
    average_price: Decimal


class Venue(Protocol):
    """One pocket at one exchange. Everything but `place` raises `ExchangeUnavailable` when there is no clear answer."""

    def place(self, request: OrderRequest, identifier: str) -> Answer:
        """Send one order, exactly one request."""

    def replace(self, uuid: str, request: OrderRequest, identifier: str) -> Answer:
        """Cancel an open order and send another one for what is left of it, exactly one request."""

    def find(self, identifier: str) -> Order | None:
        """The order with this identifier, None where the exchange says that there is none."""

    def by_identifiers(self, identifiers: Sequence[str]) -> list[Order]:
        """Those of many identifiers that the exchange knows; without executions."""

    def by_uuids(self, uuids: Sequence[str]) -> list[Order]:
        """Those of many ids that the exchange knows; without executions."""

    def order(self, uuid: str) -> Order | None:
        """The order with this id and its executions."""

    def open_orders(self) -> list[Order]:
        """All open orders of the pocket."""

    def closed_orders(self, market: str) -> list[Order]:
        """The newest ended orders of a market."""

    def cancel(self, uuid: str) -> bool:
        """Ask for an order's cancellation; False where the exchange says that there is nothing to cancel."""

    def holdings(self) -> list[Holding]:
        """What the pocket holds."""


def request_of(intent: OrderIntent) -> OrderRequest:
    """The request that carries out an intent; a market buy's or best buy's funds travel as its price."""
    is_total = intent.order_type == "price" or (intent.order_type == "best" and intent.side == "buy")
    return OrderRequest(
        market=intent.market,
        side="bid" if intent.side == "buy" else "ask",
        order_type=intent.order_type,
        price=intent.funds if is_total else intent.price,
        volume=None if is_total else intent.quantity,
        time_in_force=intent.time_in_force,
    )


BURNING_PRICES = {"buy": Decimal("0.0000000001"), "sell": Decimal("9999999999.0000000001")}


def is_burning(order: Order, intent: OrderIntent) -> bool:
    """Whether an order is the one that had to be refused, not the one that was wanted."""
    return order.order_type != intent.order_type or order.price == BURNING_PRICES[intent.side]


def burning_request(intent: OrderIntent) -> OrderRequest:
    """An order that must be refused, to spend an identifier: a limit price off every tick (ten decimals, one more than
    any market has), and so far from the market that it could not trade even where it were taken.
    """
    price = BURNING_PRICES[intent.side]
    return OrderRequest(
        market=intent.market,
        side="bid" if intent.side == "buy" else "ask",
        order_type="limit",
        price=price,
        volume=intent.quantity or Decimal(1),
        time_in_force="",
    )
