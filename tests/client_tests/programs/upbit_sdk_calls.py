"""The exchange's official client: every call of REST trading and quotation, and its websocket.

Answers are held strictly against its own models, save where the real exchange's recorded answers break them too: the
order book's prices (numbers, not texts), a market buy (it has no volume); and the wallets' state, which may be null.
"""

import os
import uuid
from decimal import ROUND_FLOOR, Decimal
from typing import Any

import upbit
from report import call, until

BTC, ETH = "KRW-BTC", "KRW-ETH"


def client_of(*, is_strict: bool) -> upbit.Upbit:
    return upbit.Upbit(
        access_key=os.environ["ACCESS_KEY"],
        secret_key=os.environ["SECRET_KEY"],
        max_retries=0,
        timeout=10,
        _strict_response_validation=is_strict,
    )


client, loose = client_of(is_strict=True), client_of(is_strict=False)
orders, market_orders = client.orders, loose.orders


def is_priced(rows: Any) -> bool:
    return len(rows) > 0 and all(row.market == BTC and float(row.trade_price) > 0 for row in rows)


def quotation() -> None:
    call("trading_pairs.list", lambda: client.trading_pairs.list(is_details=True))
    call("candles.list_seconds", lambda: client.candles.list_seconds(market=BTC, count=5), is_priced)
    for unit in (1, 3, 5, 10, 15, 30, 60, 240):
        call(f"candles.list_minutes({unit})", lambda u=unit: client.candles.list_minutes(u, market=BTC), is_priced)
    call("candles.list_days", lambda: client.candles.list_days(market=BTC, converting_price_unit="KRW"), is_priced)
    call("candles.list_weeks", lambda: client.candles.list_weeks(market=BTC), is_priced)
    call("candles.list_months", lambda: client.candles.list_months(market=BTC), is_priced)
    call("candles.list_years", lambda: client.candles.list_years(market=BTC), is_priced)
    call("trades.list", lambda: client.trades.list(market=BTC, count=5), is_priced)
    call("tickers.list_by_trading_pairs", lambda: client.tickers.list_by_trading_pairs(markets=BTC), is_priced)
    call("tickers.list_by_quote_currencies", lambda: client.tickers.list_by_quote_currencies(quote_currencies="KRW"))
    call(
        "orderbooks.list",
        lambda: loose.orderbooks.list(markets=BTC, count=5),
        lambda b: len(b[0].orderbook_units) == 5,
    )
    call("orderbooks.list_instruments", lambda: client.orderbooks.list_instruments(markets=f"{BTC},{ETH}"))


def account() -> None:
    call("accounts.list", client.accounts.list, lambda rows: any(row.currency == "KRW" for row in rows))
    call("api_keys.list", client.api_keys.list)
    call("wallet_status.list", loose.wallet_status.list)
    call("orders.retrieve_chance", lambda: orders.retrieve_chance(market=BTC), lambda c: c.market.id == BTC)


def best_bid() -> float:
    return float(loose.orderbooks.list(markets=BTC, count=1)[0].orderbook_units[0].bid_price)


def ended(order_uuid: str) -> Any:
    return until(lambda: market_orders.retrieve(uuid=order_uuid), lambda order: order.state in {"done", "cancel"})


def trading() -> None:
    low = str(int(best_bid() * 0.5) // 1000 * 1000)
    limit = {"market": BTC, "side": "bid", "ord_type": "limit", "price": low, "volume": "0.001"}
    name = f"sdk-{uuid.uuid4()}"
    call("orders.test_create", lambda: orders.test_create(**limit), lambda order: order.state == "wait")
    first = call(
        "orders.create(limit)", lambda: orders.create(**limit, identifier=name), lambda o: o.identifier == name
    )
    call("orders.retrieve", lambda: orders.retrieve(identifier=name), lambda o: o.uuid == first.uuid)
    call(
        "orders.list_open",
        lambda: list(orders.list_open(market=BTC)),
        lambda rows: first.uuid in {o.uuid for o in rows},
    )
    call("orders.list_by_uuids", lambda: orders.list_by_uuids(uuids=[first.uuid]), lambda rows: len(rows) == 1)
    changed = call(
        "orders.cancel_and_new",
        lambda: orders.cancel_and_new(
            prev_order_uuid=first.uuid, new_ord_type="limit", new_price=low, new_volume="0.002"
        ),
        lambda order: order.new_order_uuid,
    )
    second = until(lambda: orders.list_by_uuids(uuids=[changed.new_order_uuid]), len)[0]
    call("orders.cancel", lambda: orders.cancel(uuid=second.uuid), lambda o: ended(o.uuid).state == "cancel")
    pair = [orders.create(**limit).uuid for _ in range(2)]
    call("orders.cancel_by_uuids", lambda: orders.cancel_by_uuids(uuids=pair), lambda found: found.success.count == 2)
    orders.create(**limit)
    call("orders.cancel_open", lambda: orders.cancel_open(pairs=BTC), lambda found: found.success.count >= 1)
    bought = call(
        "orders.create(price)",
        lambda: market_orders.create(market=BTC, side="bid", ord_type="price", price="30000"),
        lambda o: float(ended(o.uuid).executed_volume) > 0,
    )
    volume = ended(bought.uuid).executed_volume
    half = str((Decimal(volume) / 2).quantize(Decimal("1e-8"), ROUND_FLOOR))
    call(
        "orders.create(market)",
        lambda: market_orders.create(market=BTC, side="ask", ord_type="market", volume=half),
        lambda o: ended(o.uuid).state == "done",
    )
    call(
        "orders.create(best, ioc)",
        lambda: market_orders.create(market=BTC, side="ask", ord_type="best", time_in_force="ioc", volume=half),
        lambda o: float(ended(o.uuid).executed_volume) > 0,
    )
    call(
        "orders.create(limit, post_only)",
        lambda: orders.create(
            **limit | {"price": str(int(best_bid() * 1.2) // 1000 * 1000)}, time_in_force="post_only"
        ),
        lambda o: ended(o.uuid).executed_volume == "0",
    )
    call(
        "orders.list_closed",
        lambda: market_orders.list_closed(market=BTC, states=["done", "cancel"]),
        lambda rows: len(rows) > 5,
    )


def streams() -> None:
    def heard(manager: Any, count: int, kinds: set[str]) -> bool:
        with manager as stream:
            events = [stream.recv() for _ in range(count)]
        flat = [one for event in events for one in (event if isinstance(event, list) else [event])]
        return {getattr(one, "type", None) or one.ty for one in flat} == kinds

    public = client.ws_stream
    call("ws_stream.ticker", lambda: heard(public.ticker([BTC]), 2, {"ticker"}))
    call("ws_stream.trade", lambda: heard(public.trade([BTC]), 2, {"trade"}))
    call("ws_stream.orderbook", lambda: heard(public.orderbook([f"{BTC}.5"]), 3, {"orderbook"}))
    call("ws_stream.candle(1s)", lambda: heard(public.candle([BTC]), 2, {"candle.1s"}))
    call("ws_stream.candle(1m)", lambda: heard(public.candle([BTC], interval="1m"), 1, {"candle.1m"}))
    for form in ("SIMPLE", "JSON_LIST", "SIMPLE_LIST"):
        call(
            f"ws_stream.subscribe({form})",
            lambda f=form: heard(public.subscribe(orderbook=[BTC], format=f), 3, {"orderbook"}),
        )

    def listed() -> Any:
        with public.subscribe(orderbook=[BTC], trade=[ETH]) as stream:
            return stream.list_subscriptions()

    call(
        "ws_stream.list_subscriptions",
        listed,
        lambda found: {one.type for one in found.result} == {"orderbook", "trade"},
    )

    def own() -> set[str]:
        with public.subscribe_private(my_order=[BTC], my_asset=True) as stream:
            until(stream.list_subscriptions, lambda found: len(found.result) == 2)
            low = str(int(best_bid() * 0.5) // 1000 * 1000)
            made = orders.create(market=BTC, side="bid", ord_type="limit", price=low, volume="0.001")
            found = {stream.recv().type for _ in range(2)}
            orders.cancel(uuid=made.uuid)
            while getattr(stream.recv(), "state", "") != "cancel":
                pass
            return found

    call("ws_stream.subscribe_private", own, lambda kinds: kinds == {"myOrder", "myAsset"})


quotation()
account()
trading()
streams()
