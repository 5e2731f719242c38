"""Orders, fills and money as the order topics tell them: part of the demo's fold (`consumers.watch`). Pure.

Repeated records (delivery is at least once) change nothing: intents, fills and outcomes are kept by their ids.
"""

from collections import Counter
from dataclasses import dataclass
from decimal import Decimal

from streams.messages import (
    AccountPaused,
    CancelIntent,
    Intent,
    KeyTold,
    OrderAccepted,
    OrderCancelled,
    OrderEvent,
    OrderExpired,
    OrderFilled,
    OrderIntent,
    OrderRejected,
    OrderSent,
    OrderUnknown,
    RequestTold,
    Veto,
    key_of,
)

_OUTCOMES = {
    OrderSent: "sent",
    OrderAccepted: "accepted",
    OrderCancelled: "cancelled",
    OrderRejected: "rejected",
    OrderUnknown: "unknown",
    OrderExpired: "expired",
}


@dataclass(slots=True)
class Position:
    """What fills left us with in one market; `cost` holds the fees of the buying too."""

    quantity: Decimal = Decimal(0)
    cost: Decimal = Decimal(0)


class WatchedOrders:
    """Counts of orders, and money from fills: realised by average cost, fees taken off, the rest at the mid price."""

    def __init__(self) -> None:
        self.intents: dict[str, OrderIntent] = {}
        self.outcomes: dict[str, set[str]] = {name: set() for name in (*_OUTCOMES.values(), "filled")}
        self.cancels: set[str] = set()
        self.rejections: Counter[str] = Counter()
        self.positions: dict[str, Position] = {}
        self.fills = 0
        self.realised = Decimal(0)
        self.fees = Decimal(0)
        self.turnover = Decimal(0)
        self._seen: set[str] = set()
        self._filled: dict[str, OrderFilled] = {}

    def on_intent(self, message: Intent) -> None:
        """Take a decision."""
        if isinstance(message, CancelIntent):
            self.cancels.add(message.id)
        else:
            self.intents.setdefault(message.id, message)

    def on_event(self, message: OrderEvent) -> None:
        """Take what became of one."""
        if isinstance(message, OrderFilled):
            self._on_fill(message)
        elif not isinstance(message, Veto | RequestTold | KeyTold | AccountPaused):
            outcome = self.outcomes[_OUTCOMES[type(message)]]
            if isinstance(message, OrderRejected) and message.intent_id not in outcome:
                self.rejections[message.name] += 1
            outcome.add(message.intent_id)

    def filled(self, *, entries: bool) -> int:
        """How many entries, or exits of any kind, have at least one fill."""
        return sum(self._is_entry(fill) == entries for fill in self._filled.values())

    def open_value(self, mids: dict[str, float]) -> tuple[Decimal, int]:
        """Worth of the open positions at the mid price, and how many have no price (counted at cost)."""
        worth, unpriced = Decimal(0), 0
        for key, position in self.positions.items():
            if not position.quantity:
                continue
            if key in mids:
                worth += position.quantity * Decimal(repr(mids[key]))
            else:
                worth += position.cost
                unpriced += 1
        return worth, unpriced

    def money(self, mids: dict[str, float]) -> dict[str, float]:
        """Profit after costs: realised net of fees, open positions at the mid price against what they cost."""
        worth, unpriced = self.open_value(mids)
        cost = sum((position.cost for position in self.positions.values()), Decimal(0))
        return {
            "realised": float(self.realised),
            "open": float(worth - cost),
            "after_costs": float(self.realised + worth - cost),
            "fees": float(self.fees),
            "turnover": float(self.turnover),
            "open_positions": sum(1 for position in self.positions.values() if position.quantity),
            "open_without_price": unpriced,
        }

    def _is_entry(self, fill: OrderFilled) -> bool:
        intent = self.intents.get(fill.intent_id)
        return intent.purpose == "entry" if intent else fill.side == "buy"

    def _on_fill(self, fill: OrderFilled) -> None:
        self.outcomes["filled"].add(fill.intent_id)
        self._filled[fill.intent_id] = fill
        if fill.fill_id in self._seen:
            return
        self._seen.add(fill.fill_id)
        self.fills += 1
        self.fees += fill.fee
        self.turnover += fill.funds
        position = self.positions.setdefault(key_of(fill.exchange, fill.market), Position())
        if fill.side == "buy":
            position.quantity += fill.quantity
            position.cost += fill.funds + fill.fee
            return
        whole = fill.quantity >= position.quantity
        share = position.cost if whole or not position.quantity else position.cost * fill.quantity / position.quantity
        position.quantity = Decimal(0) if whole else position.quantity - fill.quantity
        position.cost -= share
        self.realised += fill.funds - fill.fee - share
