"""How orders, fills and balances look from outside: REST bodies with the recorded keys in the recorded order, and the
private websocket's messages. Pure; called by `rest` and `private`.
"""

import json
from collections.abc import Iterable
from typing import Any

from infra.upbit.wire import korean_time, plain_e8, scaled_text
from streams.market.ledger import ATOM_DIGITS, ATOMS_PER_LOT, Holding, Ledger
from streams.market.matching import Fill, Order
from streams.market.queue import Bounds


def money(atoms: int) -> str:
    """Atoms as the exchange writes amounts: all digits, no trailing zeros."""
    return scaled_text(atoms, ATOM_DIGITS)


def order_body(order: Order, *, has_funds: bool = False, has_trades: bool = False) -> dict[str, Any]:
    """One order; lists add `executed_funds`, the single look-up adds `trades`."""
    is_total = order.total is not None
    body: dict[str, Any] = {
        "uuid": order.uuid,
        "side": "bid" if order.is_buy else "ask",
        "ord_type": order.kind,
    }
    if order.total is not None:
        body["price"] = money(order.total)
    elif order.price_e8 is not None:
        body["price"] = plain_e8(order.price_e8)
    body["state"] = order.state
    body["market"] = order.market
    body["created_at"] = korean_time(order.created_ms)
    if not is_total:
        body["volume"] = plain_e8(order.lots or 0)
        body["remaining_volume"] = plain_e8(order.remaining_lots)
        body["prevented_volume"] = plain_e8(order.prevented_lots)
    body |= {
        "reserved_fee": money(order.reserved_fee),
        "remaining_fee": money(order.remaining_fee),
        "paid_fee": money(order.paid_fee),
        "locked": money(order.locked),
        "prevented_locked": money(order.prevented_locked),
        "executed_volume": plain_e8(order.executed_lots),
    }
    if has_funds:
        body["executed_funds"] = money(order.executed_funds)
    body["trades_count"] = len(order.fills)
    for name, value in (
        ("time_in_force", order.time_in_force), ("identifier", order.identifier), ("smp_type", order.smp_type)
    ):  # fmt: skip
        if value:
            body[name] = value
    if has_trades:
        body["trades"] = [_trade_body(order, fill) for fill in order.fills]
    return body


def _trade_body(order: Order, fill: Fill) -> dict[str, Any]:
    is_taker_buy = order.is_buy != fill.is_maker
    return {
        "market": order.market,
        "uuid": fill.uuid,
        "price": plain_e8(fill.price_e8),
        "volume": plain_e8(fill.lots),
        "funds": money(fill.funds),
        "trend": "up" if is_taker_buy else "down",
        "created_at": korean_time(fill.at_ms),
        "side": "bid" if order.is_buy else "ask",
    }


def batch_body(cancelled: Iterable[Order], failed: Iterable[Order]) -> dict[str, Any]:
    """What a cancel of many orders answers."""

    def part(orders: Iterable[Order]) -> dict[str, Any]:
        rows = [
            {"uuid": order.uuid, "market": order.market}
            | ({"identifier": order.identifier} if order.identifier else {})
            for order in orders
        ]
        return {"count": len(rows), "orders": rows}

    return {"success": part(cancelled), "failed": part(failed)}


def account_body(currency: str, held: Holding, quote: str = "KRW") -> dict[str, Any]:
    """One currency; amounts are cut to eight decimals."""
    is_quote = currency == quote
    return {
        "currency": currency,
        "balance": plain_e8(held.available // ATOMS_PER_LOT),
        "locked": plain_e8(held.locked // ATOMS_PER_LOT),
        "avg_buy_price": "0" if is_quote else plain_e8(held.average_e8),
        "avg_buy_price_modified": is_quote,
        "unit_currency": quote,
    }


def bounds_row(bounds: Bounds) -> dict[str, str]:
    """The lots that an order would have got at worst and at best of its queue; equal where there was none."""
    return {
        "pessimistic_volume": plain_e8(bounds.pessimistic),
        "optimistic_volume": plain_e8(bounds.optimistic),
    }


def _price(order: Order) -> str | None:
    if order.total is not None:
        return money(order.total)
    return None if order.price_e8 is None else plain_e8(order.price_e8)


def truth_row(seq: int, order: Order, bounds: Bounds) -> dict[str, Any]:
    """One line of the exchange's own truth."""
    return {
        "seq": seq,
        "identifier": order.identifier,
        "uuid": order.uuid,
        "account": order.account,
        "market": order.market,
        "side": "bid" if order.is_buy else "ask",
        "ord_type": order.kind,
        "price": _price(order),
        "volume": None if order.lots is None else plain_e8(order.lots),
        "state": order.state,
        "executed_volume": plain_e8(order.executed_lots),
        "executed_funds": money(order.executed_funds),
        "paid_fee": money(order.paid_fee),
        "prevented_volume": plain_e8(order.prevented_lots),
        "prevented_locked": money(order.prevented_locked),
        "trades_count": len(order.fills),
        "created_ms": order.created_ms,
        "ended_ms": order.ended_ms,
    } | bounds_row(bounds)


_LONG_TO_SHORT = {
    "type": "ty", "code": "cd", "uuid": "uid", "ask_bid": "ab", "order_type": "ot", "state": "s", "trade_uuid": "tuid",
    "price": "p", "avg_price": "ap", "volume": "v", "remaining_volume": "rv", "executed_volume": "ev",
    "trades_count": "tc", "reserved_fee": "rsf", "remaining_fee": "rmf", "paid_fee": "pf", "locked": "l",
    "executed_funds": "ef", "time_in_force": "tif", "trade_fee": "tf", "is_maker": "im", "identifier": "id",
    "smp_type": "smpt", "prevented_volume": "pv", "prevented_locked": "pl", "trade_timestamp": "ttms",
    "order_timestamp": "otms", "timestamp": "tms", "stream_type": "st", "asset_uuid": "astuid", "assets": "ast",
    "currency": "cu", "balance": "b", "asset_timestamp": "asttms",
}  # fmt: skip


class Number(str):
    """A text that stands in JSON as a number, digit for digit."""

    __slots__ = ()


def my_order(order: Order, state: str, now_ms: int, fill: Fill | None = None) -> dict[str, Any]:
    """A myOrder message: `wait`, `trade` (with its fill), `prevented`, `done` or `cancel`."""
    if fill is not None:
        price: str | None = plain_e8(fill.price_e8)
    elif order.total is not None:
        price = money(order.total)
    else:
        price = None if order.price_e8 is None else plain_e8(order.price_e8)
    average = order.executed_funds // (order.executed_lots * 10**4) if order.executed_lots else 0
    volume = fill.lots if fill is not None else order.lots
    last = order.fills[-1] if order.fills else None
    return {
        "type": "myOrder",
        "code": order.market,
        "uuid": order.uuid,
        "ask_bid": "BID" if order.is_buy else "ASK",
        "order_type": order.kind,
        "state": state,
        "trade_uuid": None if fill is None else fill.uuid,
        "price": None if price is None else Number(price),
        "avg_price": Number(plain_e8(average)),
        "volume": None if volume is None else Number(plain_e8(volume)),
        "remaining_volume": None if order.lots is None else Number(plain_e8(order.remaining_lots)),
        "executed_volume": Number(plain_e8(order.executed_lots)),
        "trades_count": len(order.fills),
        "reserved_fee": Number(money(order.reserved_fee)),
        "remaining_fee": Number(money(order.remaining_fee)),
        "paid_fee": Number(money(order.paid_fee)),
        "locked": Number(money(order.locked)),
        "executed_funds": Number(money(order.executed_funds)),
        "time_in_force": order.time_in_force or None,
        "trade_fee": None if fill is None else Number(money(fill.fee)),
        "is_maker": None if fill is None else fill.is_maker,
        "identifier": order.identifier or None,
        "smp_type": order.smp_type or None,
        "prevented_volume": Number(plain_e8(order.prevented_lots)),
        "prevented_locked": Number(money(order.prevented_locked)),
        "trade_timestamp": None if last is None else last.at_ms,
        "order_timestamp": order.created_ms // 1000 * 1000,
        "timestamp": now_ms,
        "stream_type": "REALTIME",
    }


def my_asset(ledger: Ledger, account: str, currencies: tuple[str, ...], uuid: str, now_ms: int) -> dict[str, Any]:
    """A myAsset message with the currencies that changed."""
    rows = []
    for currency in currencies:
        held = ledger.holding(account, currency)
        rows.append(
            {"currency": currency, "balance": Number(money(held.available)), "locked": Number(money(held.locked))}
        )
    return {
        "type": "myAsset",
        "asset_uuid": uuid,
        "assets": rows,
        "asset_timestamp": now_ms,
        "timestamp": now_ms,
        "stream_type": "REALTIME",
    }


def shorten(value: Any) -> Any:
    """Long keys to the SIMPLE format's."""
    if isinstance(value, dict):
        return {_LONG_TO_SHORT.get(key, key): shorten(item) for key, item in value.items()}
    return [shorten(item) for item in value] if isinstance(value, list) else value


def spell(value: Any) -> str:
    """JSON in which every `Number` stands with its own digits."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f'"{key}":{spell(item)}' for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(spell(item) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value)
    return json.dumps(value, ensure_ascii=False)
