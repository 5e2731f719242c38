"""Builders of the messages that trade takes and makes, for the tests of costs, fold, runner and views."""

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from streams import messages as m

EXCHANGE = "upbit"
SCHEMA = "test-1"


def settings(**changes: Any) -> m.AccountSettings:
    fields: dict[str, Any] = {
        "account": "paper",
        "pocket": "paper-main",
        "venue": "paper",
        "is_trading": True,
        "budget": Decimal(1_000_000),
        "entry_funds": Decimal(6000),
        "threshold_percent": Decimal("0.05"),
        "fee_percent": Decimal("0.05"),
        "stop_percent": Decimal("1.5"),
        "hysteresis_percent": Decimal(0),
        "horizons_ms": [5000, 10000],
        "markets": [],
    }
    return m.AccountSettings(**{**fields, **changes})


def levels(mid: float, half: float = 5.0, size: float = 10.0, step: float = 10.0) -> list[float | None]:
    bids: list[float | None] = [mid - half - i * step for i in range(5)]
    asks: list[float | None] = [mid + half + i * step for i in range(5)]
    sizes: list[float | None] = [size] * 5
    return [*bids, *sizes, *asks, *sizes]


def features(bin_ms: int, mid: float = 100_000.0, market: str = "KRW-BTC", **changes: Any) -> m.Features:
    fields: dict[str, Any] = {
        "exchange": EXCHANGE,
        "market": market,
        "bin_ms": bin_ms,
        "grid_ms": 1000,
        "schema": SCHEMA,
        "source": "upbit-0",
        "session": 1,
        "n_bins": 300,
        "n_books": 5,
        "n_trades": 1,
        "mid": mid,
        "spread": 10.0,
        "values": [0.5, None],
        "levels": levels(mid),
        "accumulators": [],
    }
    return m.Features(**{**fields, **changes})


def signal(
    bin_ms: int, horizon_ms: int = 5000, expected_bp: float = 50.0, market: str = "KRW-BTC", **changes: Any
) -> m.Signal:
    fields: dict[str, Any] = {
        "id": m.signal_id(EXCHANGE, market, bin_ms, horizon_ms, "linear-1", SCHEMA),
        "exchange": EXCHANGE,
        "market": market,
        "bin_ms": bin_ms,
        "horizon_ms": horizon_ms,
        "schema": SCHEMA,
        "model_id": "linear-1",
        "expected_bp": expected_bp,
        "sigma_bp": 10.0,
        "mid": 100_000.0,
        "is_licensed": True,
        "feed": "synthetic",
    }
    return m.Signal(**{**fields, **changes})


def filled(intent: m.OrderIntent, quantity: str, price: str, event_ms: int, **changes: Any) -> m.OrderFilled:
    amount, funds = Decimal(quantity), Decimal(quantity) * Decimal(price)
    fee = funds * Decimal("0.0005")
    fields: dict[str, Any] = {
        "account": intent.account,
        "pocket": intent.pocket,
        "intent_id": intent.id,
        "uuid": "u-" + intent.id,
        "fill_id": "f-" + intent.id,
        "exchange": intent.exchange,
        "market": intent.market,
        "side": intent.side,
        "price": Decimal(price),
        "quantity": amount,
        "funds": funds,
        "fee": fee,
        "executed_quantity": amount,
        "executed_funds": funds,
        "paid_fee": fee,
        "is_final": True,
        "event_ms": event_ms,
    }
    return m.OrderFilled(**{**fields, **changes})


def ended(kind: str, intent: m.OrderIntent, event_ms: int) -> m.OrderEvent:
    if kind == "rejected":
        return m.OrderRejected(
            account=intent.account,
            pocket=intent.pocket,
            intent_id=intent.id,
            attempt=1,
            name="x",
            text="",
            event_ms=event_ms,
        )
    if kind == "expired":
        return m.OrderExpired(
            account=intent.account, pocket=intent.pocket, intent_id=intent.id, attempt=1, text="", event_ms=event_ms
        )
    return m.OrderCancelled(
        account=intent.account,
        pocket=intent.pocket,
        intent_id=intent.id,
        uuid="u-" + intent.id,
        executed_quantity=Decimal(0),
        executed_funds=Decimal(0),
        paid_fee=Decimal(0),
        event_ms=event_ms,
    )


@pytest.fixture
def make() -> SimpleNamespace:
    """All builders."""
    return SimpleNamespace(
        settings=settings, levels=levels, features=features, signal=signal, filled=filled, ended=ended
    )
