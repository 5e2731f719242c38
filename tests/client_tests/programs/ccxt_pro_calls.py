"""ccxt pro: books, trades, tickers, candles, own orders. Its own settings name the proxy and the certificates."""

import asyncio
import os
import uuid
from typing import Any

import ccxt.pro
from report import acall

SYMBOL = "BTC/KRW"


async def main() -> None:
    exchange = ccxt.pro.upbit(
        {
            "apiKey": os.environ["ACCESS_KEY"],
            "secret": os.environ["SECRET_KEY"],
            "aiohttp_trust_env": True,
            "cafile": os.environ["SSL_CERT_FILE"],
            "wssProxy": os.environ["HTTPS_PROXY"],
        }
    )
    try:
        await exchange.load_markets()
        await acall("watchOrderBook", lambda: exchange.watch_order_book(SYMBOL), lambda b: b["bids"][0] < b["asks"][0])
        await acall("watchTrades", lambda: exchange.watch_trades(SYMBOL), lambda rows: rows[-1]["price"] > 0)
        await acall("watchTradesForSymbols", lambda: exchange.watch_trades_for_symbols([SYMBOL, "ETH/KRW"]))
        await acall("watchTicker", lambda: exchange.watch_ticker(SYMBOL), lambda ticker: ticker["last"] > 0)
        await acall("watchTickers", lambda: exchange.watch_tickers([SYMBOL, "ETH/KRW"]))
        await acall("watchOHLCV", lambda: exchange.watch_ohlcv(SYMBOL, "1s"))
        await own(exchange)
    finally:
        await exchange.close()


async def own(exchange: Any) -> None:
    book = await exchange.fetch_order_book(SYMBOL)
    low = book["bids"][0][0] * 0.5 // 1000 * 1000
    client_id = f"pro-{uuid.uuid4()}"

    async def watched(watch: Any, act: Any) -> Any:
        """What a watch tells after something was done; it hears only what comes after it subscribed."""
        waiting = asyncio.ensure_future(watch())
        await asyncio.sleep(1.0)
        done = await act()
        return await waiting, done

    def place() -> Any:
        return exchange.create_order(SYMBOL, "limit", "buy", 0.001, low, {"clientOrderId": client_id})

    def buy() -> Any:
        return exchange.create_market_buy_order_with_cost(SYMBOL, 30000)

    found = await acall(
        "watchOrders", lambda: watched(exchange.watch_orders, place), lambda f: f[0][-1]["id"] == f[1]["id"]
    )
    await acall(
        "watchMyTrades", lambda: watched(exchange.watch_my_trades, buy), lambda f: f[0][-1]["order"] == f[1]["id"]
    )
    await acall("watchBalance", lambda: watched(exchange.watch_balance, buy), lambda f: f[0]["KRW"]["total"] > 0)
    if found is not None:
        await exchange.cancel_order(found[1]["id"])


asyncio.run(main())
