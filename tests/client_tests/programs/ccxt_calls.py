"""ccxt: `fetch*`, `createOrder` of every kind, cancel, edit. Its own settings let it use the environment's proxy."""

import os
import uuid
from typing import Any

import ccxt
from report import call, until

SYMBOL, OTHER = "BTC/KRW", "ETH/KRW"
exchange = ccxt.upbit(
    {"apiKey": os.environ["ACCESS_KEY"], "secret": os.environ["SECRET_KEY"], "requests_trust_env": True}
)


def public() -> None:
    call("fetchMarkets", exchange.fetch_markets, lambda rows: any(row["symbol"] == SYMBOL for row in rows))
    exchange.load_markets()
    call("fetchTicker", lambda: exchange.fetch_ticker(SYMBOL), lambda ticker: ticker["last"] > 0)
    call("fetchTickers", lambda: exchange.fetch_tickers([SYMBOL, OTHER]), lambda found: len(found) == 2)
    call("fetchTickers (all)", exchange.fetch_tickers, lambda found: SYMBOL in found)
    call("fetchOrderBook", lambda: exchange.fetch_order_book(SYMBOL, 5), lambda book: book["bids"][0] < book["asks"][0])
    call("fetchOrderBooks", lambda: exchange.fetch_order_books([SYMBOL, OTHER]), lambda found: len(found) == 2)
    call("fetchTrades", lambda: exchange.fetch_trades(SYMBOL, limit=5), lambda rows: len(rows) == 5)
    for unit in ("1s", "1m", "3m", "5m", "10m", "15m", "30m", "1h", "4h", "1d", "1w", "1M", "1y"):
        call(f"fetchOHLCV({unit})", lambda u=unit: exchange.fetch_ohlcv(SYMBOL, u, limit=3), lambda rows: len(rows) > 0)


def account() -> None:
    call("fetchBalance", exchange.fetch_balance, lambda found: found["KRW"]["total"] > 0)
    call("fetchTradingFee", lambda: exchange.fetch_trading_fee(SYMBOL), lambda fee: fee["taker"] == 0.0005)
    call("fetchTradingFees", exchange.fetch_trading_fees, lambda found: found[SYMBOL]["taker"] == 0.0005)


def fetched(order: Any) -> Any:
    return until(lambda: exchange.fetch_order(order["id"]), lambda o: o["status"] in {"closed", "canceled"})


def filled(order: Any) -> bool:
    return fetched(order)["filled"] > 0


def not_filled(order: Any) -> bool:
    return fetched(order)["filled"] == 0


def trading() -> None:
    book = exchange.fetch_order_book(SYMBOL)
    low, high = (price // 1000 * 1000 for price in (book["bids"][0][0] * 0.5, book["asks"][0][0] * 1.05))

    def create(name: str, check: Any, *order: Any, **params: Any) -> Any:
        return call(f"createOrder({name})", lambda: exchange.create_order(SYMBOL, *order, params), check)

    client_id = f"ccxt-{uuid.uuid4()}"
    made = create("limit buy", lambda o: o["status"] == "open", "limit", "buy", 0.001, low, clientOrderId=client_id)
    call("fetchOrder", lambda: exchange.fetch_order(made["id"]), lambda o: o["clientOrderId"] == client_id)
    call(
        "fetchOpenOrders",
        lambda: exchange.fetch_open_orders(SYMBOL),
        lambda rows: made["id"] in {o["id"] for o in rows},
    )
    edited = call(
        "editOrder",
        lambda: exchange.edit_order(made["id"], SYMBOL, "limit", "buy", 0.002, low),
        lambda order: order["id"],
    )
    replaced = until(lambda: exchange.fetch_open_orders(SYMBOL), lambda rows: any(o["amount"] == 0.002 for o in rows))
    assert edited["id"] in {order["id"] for order in replaced} | {made["id"]}
    call("cancelOrder", lambda: exchange.cancel_order(replaced[-1]["id"]), not_filled)
    create("test", lambda o: o["id"], "limit", "buy", 0.001, low, test=True)
    create("market buy with price", filled, "market", "buy", 0.0004, high)
    create("market buy with cost", filled, "market", "buy", None, None, cost=30000)
    call("createMarketBuyOrderWithCost", lambda: exchange.create_market_buy_order_with_cost(SYMBOL, 30000), filled)
    held = exchange.fetch_balance()["BTC"]["free"]
    part = held / 8
    create("market sell", filled, "market", "sell", part)
    create("limit sell", filled, "limit", "sell", part, low)
    create("limit sell ioc", filled, "limit", "sell", part, low, timeInForce="IOC")
    create("limit sell fok", filled, "limit", "sell", part, low, timeInForce="FOK")
    create("limit postOnly", not_filled, "limit", "buy", 0.0004, high, postOnly=True)
    create("best buy ioc", filled, "market", "buy", None, None, ordType="best", cost=30000, timeInForce="IOC")
    create("best sell fok", filled, "market", "sell", part, None, ordType="best", timeInForce="FOK")
    create("limit buy smp", filled, "limit", "buy", 0.0004, high, smp_type="cancel_taker")
    call("fetchClosedOrders", lambda: exchange.fetch_closed_orders(SYMBOL), lambda rows: len(rows) > 0)
    call("fetchCanceledOrders", lambda: exchange.fetch_canceled_orders(SYMBOL), lambda rows: len(rows) > 0)


public()
account()
trading()
