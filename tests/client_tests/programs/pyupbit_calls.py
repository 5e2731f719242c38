"""pyupbit: quotation, `Upbit`, `WebSocketManager`. It knows one address and has no setting for another."""

import os
import time
from typing import Any

import pyupbit
from report import call, until

BTC = "KRW-BTC"


def quotation() -> None:
    call("get_tickers", lambda: pyupbit.get_tickers(fiat="KRW"), lambda codes: BTC in codes)
    call("get_current_price", lambda: pyupbit.get_current_price(BTC), lambda price: price > 0)
    call("get_current_price (several)", lambda: pyupbit.get_current_price([BTC, "KRW-ETH"]), lambda d: len(d) == 2)
    call("get_orderbook", lambda: pyupbit.get_orderbook(BTC), lambda book: book["market"] == BTC)
    for interval in ("minute1", "minute3", "minute5", "minute10", "minute15", "minute30", "minute60", "minute240"):
        call(f"get_ohlcv({interval})", lambda i=interval: pyupbit.get_ohlcv(BTC, interval=i, count=3), has_rows)
    for interval in ("day", "week", "month"):
        call(f"get_ohlcv({interval})", lambda i=interval: pyupbit.get_ohlcv(BTC, interval=i, count=3), has_rows)
    call("get_daily_ohlcv_from_base", lambda: pyupbit.get_daily_ohlcv_from_base(BTC, base=9), has_rows)


def has_rows(frame: Any) -> bool:
    return frame is not None and len(frame) > 0 and float(frame["close"].iloc[-1]) > 0


def trading() -> None:
    upbit = pyupbit.Upbit(os.environ["ACCESS_KEY"], os.environ["SECRET_KEY"])
    call("Upbit.get_balances", upbit.get_balances, lambda rows: any(row["currency"] == "KRW" for row in rows))
    call("Upbit.get_balance", lambda: upbit.get_balance("KRW"), lambda amount: amount > 0)
    call("Upbit.get_balance_t", lambda: upbit.get_balance_t("KRW"), lambda amount: amount > 0)
    call("Upbit.get_avg_buy_price", lambda: upbit.get_avg_buy_price("KRW"), lambda price: price == 0)
    call("Upbit.get_amount", lambda: upbit.get_amount("ALL"), lambda amount: amount is not None)
    call("Upbit.get_chance", lambda: upbit.get_chance(BTC), lambda found: found["market"]["id"] == BTC)
    call("Upbit.get_api_key_list", upbit.get_api_key_list, lambda rows: len(rows) > 0)
    call("Upbit.get_deposit_withdraw_status", upbit.get_deposit_withdraw_status, lambda rows: len(rows) > 0)
    book = pyupbit.get_orderbook(BTC)["orderbook_units"][0]
    low, high = book["bid_price"] * 0.5 // 1000 * 1000, book["ask_price"] * 1.5 // 1000 * 1000
    made = call("Upbit.buy_limit_order", lambda: upbit.buy_limit_order(BTC, low, 0.001), is_accepted)
    call("Upbit.get_order(uuid)", lambda: upbit.get_order(made["uuid"]), lambda order: order["uuid"] == made["uuid"])
    call("Upbit.get_individual_order", lambda: upbit.get_individual_order(made["uuid"]), lambda o: o["state"] == "wait")
    call(
        "Upbit.get_order(market)", lambda: upbit.get_order(BTC), lambda rows: made["uuid"] in {o["uuid"] for o in rows}
    )
    call(
        "Upbit.cancel_order", lambda: upbit.cancel_order(made["uuid"]), lambda order: order.get("uuid") == made["uuid"]
    )
    bought = call("Upbit.buy_market_order", lambda: upbit.buy_market_order(BTC, 300000), is_accepted)
    assert bought is not None
    until(lambda: upbit.get_individual_order(bought["uuid"]), lambda order: order["state"] in {"done", "cancel"})
    volume = upbit.get_balance("BTC")
    call("Upbit.sell_limit_order", lambda: upbit.sell_limit_order(BTC, high, round(volume / 2, 8)), is_accepted)
    call("Upbit.sell_market_order", lambda: upbit.sell_market_order(BTC, round(volume / 3, 8)), is_accepted)


def is_accepted(order: Any) -> bool:
    return order is not None and order["state"] == "wait" and bool(order["uuid"])


def streams() -> None:
    for kind in ("ticker", "trade", "orderbook"):
        manager = pyupbit.WebSocketManager(kind, [BTC])
        call(
            f"WebSocketManager({kind})",
            lambda m=manager: [m.get() for _ in range(2)],
            lambda found, k=kind: all(one["type"] == k and one["code"] == BTC for one in found),
        )
        manager.terminate()
        manager.join()
        time.sleep(0.2)


if __name__ == "__main__":
    quotation()
    trading()
    streams()
