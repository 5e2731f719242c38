"""One message as rows of the views database: what `consumers.views` writes. Pure; knows tables, not databases."""

import json
from decimal import Decimal
from typing import Any

import msgspec

from consumers.trade.ledgers import market_of
from consumers.trade.state import Account, decode_account
from infra.tables import views as t
from streams import messages as m

Row = dict[str, Any]
_ORDER_FIELDS = (
    "account", "pocket", "exchange", "market", "side", "order_type", "price", "quantity", "funds", "purpose",
    "cause_kind", "cause_id", "reason", "expected_bp", "cost_bp", "event_ms", "expires_ms",
)  # fmt: skip


def plain(value: Any) -> Any:
    """Decimals as text without an exponent, everything else as it is."""
    return format(value, "f") if isinstance(value, Decimal) else value


def fields(message: m.Message, *names: str) -> Row:
    """Some fields of a message as columns."""
    return {name: plain(getattr(message, name)) for name in names}


def market_row(features: m.Features) -> Row:
    """The newest features of a market."""
    row = fields(features, "exchange", "market", "bin_ms", "mid", "spread", "n_bins", "n_books", "n_trades")
    return {**row, "feature_schema": features.schema, "features": json.dumps(features.values)}


def book_row(book: m.OrderBook) -> Row:
    """The newest book of a market."""
    sides = fields(book, "bid_prices", "bid_sizes", "ask_prices", "ask_sizes")
    return {
        **fields(book, "exchange", "market", "exchange_ms"),
        "bid": book.bid_prices[0] if book.bid_prices else None,
        "ask": book.ask_prices[0] if book.ask_prices else None,
        "levels": msgspec.json.encode(sides).decode(),
    }


def name_row(market: m.Market) -> Row:
    """What the exchange says of a market."""
    return fields(
        market, "exchange", "market", "korean_name", "english_name", "tick_size", "minimum_total", "is_caution",
        "is_warning",
    )  # fmt: skip


def signal_row(signal: m.Signal) -> Row:
    """A forecast."""
    return fields(
        signal, "id", "exchange", "market", "bin_ms", "horizon_ms", "model_id", "expected_bp", "sigma_bp", "mid",
        "is_licensed", "feed", "refusal",
    )  # fmt: skip


def intent_row(intent: m.OrderIntent) -> Row:
    """An intent; its state is left to the order's events."""
    return {"intent_id": intent.id, **fields(intent, *_ORDER_FIELDS)}


_CHANGES: dict[type[m.Message], tuple[str, tuple[str, ...]]] = {
    m.OrderSent: ("sent", ("attempt", "identifier")),
    m.OrderAccepted: ("accepted", ("attempt", "identifier", "uuid")),
    m.OrderUnknown: ("unknown", ("attempt", "identifier", "text")),
    m.OrderRejected: ("rejected", ("attempt",)),
    m.OrderExpired: ("expired", ("attempt", "text")),
    m.OrderFilled: ("filled", ("uuid", "executed_quantity", "executed_funds", "paid_fee")),
    m.OrderCancelled: ("cancelled", ("uuid", "executed_quantity", "executed_funds", "paid_fee")),
}


def order_change(event: m.OrderEvent) -> Row:
    """The columns of an order that an event changes; raises `KeyError` for a veto, which belongs to no order."""
    state, names = _CHANGES[type(event)]
    row = fields(event, "intent_id", "account", "pocket", *names)
    if isinstance(event, m.OrderRejected):
        row["text"] = f"{event.name}: {event.text}"
    if isinstance(event, m.OrderFilled) and not event.is_final:
        state = "filling"
    return {**row, "state": state, "changed_ms": event.event_ms}


def fill_row(fill: m.OrderFilled) -> Row:
    """A fill."""
    return fields(
        fill, "intent_id", "fill_id", "account", "exchange", "market", "side", "price", "quantity", "funds", "fee",
        "event_ms",
    )  # fmt: skip


def veto_row(veto: m.Veto, topic: str, partition: int, offset: int) -> Row:
    """A change of reason."""
    row = fields(
        veto, "account", "exchange", "market", "reason", "event_ms", "best_expected_bp", "needed_bp", "horizon_ms"
    )  # fmt: skip
    return {"topic": topic, "partition": partition, "offset": offset, **row}


def feed_event_row(event: m.FeedEvent, topic: str, partition: int, offset: int) -> Row:
    """A feed event."""
    row = fields(event, "source", "session", "kind", "event_ms", "received_ns", "text")
    return {"topic": topic, "partition": partition, "offset": offset, **row, "markets": json.dumps(event.markets)}


def trade_row(trade: m.Trade) -> Row:
    """An execution by others."""
    return fields(trade, "exchange", "market", "trade_id", "exchange_ms", "price", "size", "is_buy", "origin")


def balance_row(balance: m.Balance) -> Row:
    """A balance."""
    return fields(balance, "pocket", "currency", "available", "locked", "average_price", "event_ms")


def account_rows(state: m.AccountState) -> dict[type[t.ViewTable], list[Row]]:
    """An account, its positions (dust among them) and its day's reasons."""
    account = decode_account(state.state)
    settings, day = account.settings, account.day
    row = fields(
        settings, "account", "pocket", "venue", "budget", "entry_funds", "threshold_percent", "fee_percent",
        "stop_percent",
    )  # fmt: skip
    row |= {name: plain(getattr(account, name)) for name in ("free", "invested", "reserved", "realised", "paid_fees")}
    row |= {"is_trading": account.is_trading, "halt": account.halt, "is_ledger_broken": account.is_ledger_broken}
    row["paused"] = account.paused
    row |= {name: getattr(day, name) for name in ("day", "forecasts", "entries", "exits")}
    row |= {name: getattr(day, name) for name in ("best_expected_bp", "best_needed_bp", "best_market")}
    row |= {"shadow_trades": account.shadow.trades, "shadow_result": plain(account.shadow.result)}
    counts = [
        {"account": settings.account, "day": day.day, "reason": reason, "count": count}
        for reason, count in day.refusals.items()
    ]
    return {
        t.AccountTable: [{**row, "event_ms": state.event_ms}],
        t.PositionTable: _position_rows(account),
        t.ReasonTable: counts,
    }


def _position_rows(account: Account) -> list[Row]:
    name = account.settings.account
    rows: list[Row] = [
        {
            "account": name, "exchange": held.exchange, "market": held.market, "strategy": held.strategy,
            "is_dust": False,
            "quantity": plain(held.quantity), "funds": plain(held.funds), "cost": plain(held.cost),
            "opened_ms": held.opened_ms, "due_ms": held.due_ms, "horizon_ms": held.horizon_ms,
            "exit": held.exit.kind if held.exit is not None else "",
        }
        for held in account.positions.values()
    ]  # fmt: skip
    for key, rest in account.rests.items():
        exchange, _, market = market_of(key).partition(":")
        rows.append(
            {
                "account": name, "exchange": exchange, "market": market, "strategy": key.rpartition("|")[0],
                "is_dust": True,
                "quantity": plain(rest.quantity), "funds": plain(rest.funds), "cost": plain(rest.cost),
                "opened_ms": 0, "due_ms": 0, "horizon_ms": 0, "exit": "",
            }
        )  # fmt: skip
    return rows
