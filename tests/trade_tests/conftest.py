"""Builders of the messages that trade takes and makes, for the tests of costs, fold, runner and views."""

from collections.abc import Iterable
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from consumers.trade.fold import Fold, Output
from consumers.trade.state import Parameters, money_context
from models.strategies.registry import STRATEGIES
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


def cancelled(intent: m.OrderIntent, quantity: str, price: str, event_ms: int) -> m.OrderCancelled:
    """The end of an order that executed a part."""
    funds = Decimal(quantity) * Decimal(price)
    return m.OrderCancelled(
        account=intent.account,
        pocket=intent.pocket,
        intent_id=intent.id,
        uuid="u-" + intent.id,
        executed_quantity=Decimal(quantity),
        executed_funds=funds,
        paid_fee=funds * Decimal("0.0005"),
        event_ms=event_ms,
    )


def market(tick: str = "50", name: str = "KRW-BTC", **changes: Any) -> m.Market:
    fields: dict[str, Any] = {
        "exchange": EXCHANGE,
        "market": name,
        "event_ms": 0,
        "tick_size": Decimal(tick),
        "minimum_total": Decimal(5000),
        "maximum_total": Decimal(10**9),
    }
    return m.Market(**{**fields, **changes})


def started(*messages: Any, kinds: Any = STRATEGIES, **changes: Any) -> Fold:
    fold = Fold(Parameters(), money_context(), kinds=kinds)
    feed(fold, [settings(**changes), *messages])
    return fold


def feed(fold: Fold, messages: Iterable[Any]) -> list[Output]:
    outputs: list[Output] = []
    for message in messages:
        outputs += fold.take(message)
    return outputs


def one_bin(fold: Fold, bin_ms: int, *expected: float, mid: float = 100_000.0) -> list[Output]:
    signals = [signal(bin_ms, horizon, bp) for horizon, bp in zip((5000, 10000), expected, strict=False)]
    return feed(fold, [features(bin_ms, mid), *signals])


def orders_of(outputs: Iterable[Output]) -> list[m.OrderIntent]:
    return [output for output in outputs if isinstance(output, m.OrderIntent)]


def order_of(outputs: Iterable[Output]) -> m.OrderIntent:
    (order,) = orders_of(outputs)
    return order


def reasons_of(outputs: Iterable[Output]) -> list[str]:
    return [output.reason for output in outputs if isinstance(output, m.Veto)]


def entered(fold: Fold, bin_ms: int, quantity: str = "0.06") -> m.OrderIntent:
    """Enter at 100,000 and have it filled."""
    intent = order_of(one_bin(fold, bin_ms, 50.0, 20.0))
    fold.take(filled(intent, quantity, "100000", bin_ms + 700))
    return intent


@pytest.fixture
def make() -> SimpleNamespace:
    """All builders."""
    return SimpleNamespace(
        settings=settings, levels=levels, features=features, signal=signal, filled=filled, ended=ended,
        cancelled=cancelled, market=market, started=started, feed=feed, one_bin=one_bin, orders_of=orders_of,
        order_of=order_of, reasons_of=reasons_of, entered=entered,
    )  # fmt: skip
