"""What an order must satisfy before it exists: a listed market, a good price and size, money, an unused identifier.

Called by `exchange` for new orders, for tests of orders and for orders that take another's place. It changes nothing.
"""

import logging
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from infra.upbit.wire import plain_e8
from producers.sandbox import order_requests
from producers.sandbox.feeds import BookView, Feed
from producers.sandbox.order_requests import FEE_E4, OrderRequest
from producers.sandbox.refusals import OrderRefused
from producers.sandbox.state import STORED, State
from streams.market.ledger import ATOMS_PER_LOT
from streams.market.matching import Order

logger = logging.getLogger(__name__)

REMAIN_ONLY = "remain_only"


class Admission:
    """The checks of one exchange. `visible` gives the book as an account can take from it."""

    def __init__(
        self, state: State, feed: Feed, visible: Callable[[str, str], BookView | None], now_ms: Callable[[], int]
    ) -> None:
        self._state = state
        self._feed = feed
        self._visible = visible
        self._now_ms = now_ms

    def unused_identifier(self, account: str, value: object) -> str:
        """An identifier that the account never used, or `""`; raises `OrderRefused`."""
        identifier = order_requests.identifier_of(value)
        if identifier and (account, identifier) in self._state.identifiers:
            raise OrderRefused("duplicated_identifier")
        return identifier

    def order(self, account: str, body: Mapping[str, Any], smp_default: str, *, freed: int = 0) -> Order:
        """The order that a request asks for; `freed` is what a cancelled one will give back. Raises `OrderRefused`."""
        request = order_requests.read(body, smp_default)
        if self._feed.is_closed:
            raise OrderRefused("market_offline")
        if not self._is_listed(request):
            raise OrderRefused("notfoundmarket", f"다음 마켓에 없는 종목입니다: {request.market}")
        order = Order(
            uuid=str(uuid.uuid4()),
            account=account,
            market=request.market,
            is_buy=request.is_buy,
            kind=request.kind,
            price_e8=request.price_e8,
            total=None if request.total_e8 is None else request.total_e8 * ATOMS_PER_LOT,
            lots=request.lots,
            fee_e4=FEE_E4[request.quote],
            time_in_force=request.time_in_force,
            identifier=request.identifier,
            smp_type=request.smp_type,
            created_ms=self._now_ms(),
        )
        self._check(order, request, freed)
        return order

    def _is_listed(self, request: OrderRequest) -> bool:
        """A market with a book is listed; the list is long and asked only where there is none yet."""
        if request.quote not in FEE_E4:
            return False
        market = request.market
        return self._feed.book(market) is not None or market in {row.market for row in self._feed.markets()}

    def replacement(self, order: Order) -> Order | None:
        """What takes a cancelled order's place, checked anew: prices, balances and the rest may have changed."""
        asked = self._state.replacements.get(order.uuid)
        if asked is None:
            return None
        fields = {name: asked[name] for name in STORED} | {"created_ms": self._now_ms()}
        if asked["is_rest"]:
            fields["lots"] = order.remaining_lots
        new = Order(**fields)
        try:
            self._check(new, OrderRequest.of(new), order.locked)
        except OrderRefused as refusal:
            logger.info("order %s takes no place: %s", new.uuid, refusal.name)
            return None
        return new

    def _check(self, order: Order, request: OrderRequest, freed: int) -> None:
        book = self._visible(order.account, request.market)
        if book is None:
            raise OrderRefused("market_offline")
        order_requests.check_amounts(request, self._feed.clock_ms, book.bids, book.asks)
        if self._state.ledger.holding(order.account, order.lock_currency).available + freed < order.locked:
            short = f"금액({request.quote})이" if request.is_buy else "수량이"
            raise OrderRefused(f"insufficient_funds_{request.side}", f"주문 가능한 {short} 부족합니다.")


def replacing_request(order: Order, body: Mapping[str, Any]) -> dict[str, Any]:
    """The request for the order that is to take another's place: same pair and side, the rest as asked."""
    if order.state != "wait" or order.is_cancelling:
        raise OrderRefused("order_not_found")
    wanted = {
        "market": order.market,
        "side": "bid" if order.is_buy else "ask",
        "ord_type": body.get("new_ord_type"),
        "price": body.get("new_price"),
        "volume": body.get("new_volume"),
        "time_in_force": body.get("new_time_in_force"),
        "identifier": body.get("new_identifier"),
        "smp_type": body.get("new_smp_type"),
    }
    if wanted["volume"] == REMAIN_ONLY and order.lots is not None:
        wanted["volume"] = plain_e8(order.remaining_lots)
    return wanted


def replacing_entry(order: Order, new: Order, body: Mapping[str, Any]) -> dict[str, Any]:
    """The journal's line about it."""
    fields = {name: getattr(new, name) for name in STORED} | {"is_rest": body.get("new_volume") == REMAIN_ONLY}
    return {"e": "replacing", "u": order.uuid, "o": fields}
