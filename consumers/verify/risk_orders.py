"""What becomes of orders in `verify risk`, by lot: accepted, filled in parts, cancelled, refused, lost, told twice."""

from decimal import ROUND_DOWN, Decimal
from random import Random
from typing import Any

from streams import messages as m

STEP = Decimal("0.00000001")
FEE = Decimal("0.0005")


class Told:
    """One order of ours and what was told of it so far."""

    def __init__(self, intent: m.OrderIntent) -> None:
        self.intent = intent
        self.is_open = True
        self.quantity = self.funds = self.fee = Decimal(0)

    def next(self, random: Random, price: Decimal, event_ms: int) -> m.OrderEvent:
        """The next thing that happens to it."""
        lot = random.random()
        if lot < 0.1:
            return m.OrderAccepted(**self._place(event_ms), attempt=1, identifier="i", uuid="u")
        if lot < 0.13:
            is_lost = random.random() < 0.04
            return m.OrderUnknown(**self._place(event_ms), attempt=1, identifier="i", text="", is_lost=is_lost)
        if lot < 0.65:
            return self._fill(random, price, event_ms)
        self.is_open = False
        if lot < 0.8 and self.funds == 0:
            return m.OrderRejected(**self._place(event_ms), attempt=1, name="x", text="")
        if lot < 0.85 and self.funds == 0:
            return m.OrderExpired(**self._place(event_ms), attempt=1, text="")
        return m.OrderCancelled(
            **self._place(event_ms), uuid="u", executed_quantity=self.quantity, executed_funds=self.funds,
            paid_fee=self.fee,
        )  # fmt: skip

    def _place(self, event_ms: int) -> dict[str, Any]:
        intent = self.intent
        return {"account": intent.account, "pocket": intent.pocket, "intent_id": intent.id, "event_ms": event_ms}

    def _fill(self, random: Random, price: Decimal, event_ms: int) -> m.OrderFilled:
        intent = self.intent
        part = Decimal(random.choice(("1", "1", "0.5", "0.97")))
        if intent.funds is not None:
            quantity = ((intent.funds - self.funds) * part / price).quantize(STEP, ROUND_DOWN)
        else:
            quantity = ((intent.quantity or Decimal(0)) - self.quantity) * part
            quantity = quantity.quantize(STEP, ROUND_DOWN)
        price = intent.price or price
        funds = quantity * price
        self.quantity, self.funds, self.fee = self.quantity + quantity, self.funds + funds, self.fee + funds * FEE
        self.is_open = part != 1
        return filled(
            intent.account, intent.pocket, intent.id, intent.market, intent.side, self, quantity, price, event_ms
        )


def filled(
    account: str,
    pocket: str,
    intent_id: str,
    market: str,
    side: m.Side,
    told: "Told | None",
    quantity: Decimal,
    price: Decimal,
    event_ms: int,
    purpose: m.Purpose = "entry",
) -> m.OrderFilled:
    """A fill; without `told` it is all that its order ever executed."""
    funds = quantity * price
    return m.OrderFilled(
        account=account, pocket=pocket, intent_id=intent_id, uuid="u", fill_id=f"{intent_id}-{event_ms}",
        exchange="upbit", market=market, side=side, price=price, quantity=quantity, funds=funds, fee=funds * FEE,
        executed_quantity=quantity if told is None else told.quantity,
        executed_funds=funds if told is None else told.funds,
        paid_fee=funds * FEE if told is None else told.fee,
        is_final=told is None or not told.is_open, event_ms=event_ms, purpose=purpose,
    )  # fmt: skip
