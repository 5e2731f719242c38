"""The private websocket: keys in the documented order, formats, filters, listing, assets that changed only."""

import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import websocket

from infra.upbit import signing
from producers.sandbox.maintenance import beyond
from producers.sandbox.thread import SandboxThread
from streams.market.matching import Order
from streams.market.ticks import E8

from .conftest import connect, receive
from .test_sandbox_orders import call, ended, limit

FRAMES = Path(os.environ.get("OBSERVATOR_DATA", "../shared/data")) / "upbit_ws" / "upbit_ws_frames.jsonl"
MY_ORDER = {
    "type": "ty", "code": "cd", "uuid": "uid", "ask_bid": "ab", "order_type": "ot", "state": "s", "trade_uuid": "tuid",
    "price": "p", "avg_price": "ap", "volume": "v", "remaining_volume": "rv", "executed_volume": "ev",
    "trades_count": "tc", "reserved_fee": "rsf", "remaining_fee": "rmf", "paid_fee": "pf", "locked": "l",
    "executed_funds": "ef", "time_in_force": "tif", "trade_fee": "tf", "is_maker": "im", "identifier": "id",
    "smp_type": "smpt", "prevented_volume": "pv", "prevented_locked": "pl", "trade_timestamp": "ttms",
    "order_timestamp": "otms", "timestamp": "tms", "stream_type": "st",
}  # fmt: skip
"""As documented, in the documented order."""


def private(sandbox: SandboxThread, *parts: dict[str, Any]) -> websocket.WebSocket:
    token = signing.sign(sandbox.access_key, sandbox.secret_key)
    client = connect(sandbox.ws_url + "/private", *parts, header=[f"Authorization: {token}"])
    formats = [part for part in parts if "format" in part]
    client.send(json.dumps([{"ticket": "ready"}, {"method": "LIST_SUBSCRIPTIONS"}, *formats]))
    body: Any = {}
    while not (isinstance(body, dict) and body.keys() & {"result", "rslt"}):
        body = receive(client)[1]
    return client


def cancelled(sandbox: SandboxThread, order: dict[str, Any]) -> None:
    """Cancel and wait for the end, so that no event of it meets the next test."""
    call(sandbox, "DELETE", "/v1/order", query=f"uuid={order['uuid']}")
    assert ended(sandbox, order["uuid"])["state"] == "cancel"


@pytest.mark.parametrize("name", ["DEFAULT", "SIMPLE", "JSON_LIST", "SIMPLE_LIST"])
def test_an_order_in_every_format(sandbox: SandboxThread, name: str) -> None:
    client = private(sandbox, {"type": "myOrder"}, {"format": name})
    _, order, _ = call(sandbox, "POST", "/v1/orders", limit())
    opcode, body = receive(client)
    assert opcode == websocket.ABNF.OPCODE_BINARY
    assert isinstance(body, list) == name.endswith("LIST")
    row = body[0] if isinstance(body, list) else body
    short = name.startswith("SIMPLE")
    assert list(row) == list(MY_ORDER.values() if short else MY_ORDER)
    assert row["uid" if short else "uuid"] == order["uuid"]
    assert row["otms" if short else "order_timestamp"] % 1000 == 0
    assert row["st" if short else "stream_type"] == "REALTIME"
    cancelled(sandbox, order)
    client.shutdown()


@pytest.mark.parametrize("kind", ["myOrder", "myAsset"])
def test_documented_frames_have_our_keys_in_our_order(sandbox: SandboxThread, kind: str) -> None:
    if not FRAMES.exists():
        pytest.skip(f"no recording at {FRAMES}")
    rows = [json.loads(line) for line in FRAMES.read_text().splitlines()]
    (documented,) = [json.loads(row["raw"]) for row in rows if row["kind"] == kind]
    client = private(sandbox, {"type": kind})
    _, order, _ = call(sandbox, "POST", "/v1/orders", limit())
    _, body = receive(client)
    assert [key for key in body if key in documented] == list(documented)
    if kind == "myAsset":
        assert list(body) == list(documented)
        assert list(body["assets"][0]) == list(documented["assets"][0])
    cancelled(sandbox, order)
    client.shutdown()


def test_what_is_locked_is_what_remains(sandbox: SandboxThread) -> None:
    client = private(sandbox, {"type": "myOrder"})
    _, order, _ = call(sandbox, "POST", "/v1/orders", limit())
    row = json.loads(client.recv_data()[1], parse_float=Decimal, parse_int=Decimal)
    assert row["locked"] == row["remaining_volume"] * row["price"] + row["remaining_fee"]
    assert row["remaining_fee"] == row["reserved_fee"] - row["paid_fee"]
    cancelled(sandbox, order)
    row = json.loads(client.recv_data()[1], parse_float=Decimal, parse_int=Decimal)
    assert (row["state"], row["trade_uuid"], row["trade_timestamp"], row["is_maker"]) == ("cancel", None, None, None)
    assert row["locked"] > 0  # as recorded: it keeps its last value
    client.shutdown()


def test_codes_filter_orders_and_not_assets(sandbox: SandboxThread) -> None:
    client = private(sandbox, {"type": "myOrder", "codes": ["KRW-ETH"]}, {"type": "myAsset"})
    _, order, _ = call(sandbox, "POST", "/v1/orders", limit())
    cancelled(sandbox, order)
    bodies = [receive(client)[1] for _ in range(2)]
    assert [body["type"] for body in bodies] == ["myAsset", "myAsset"]
    client.shutdown()


def test_assets_are_told_when_they_change(sandbox: SandboxThread) -> None:
    client = private(sandbox, {"type": "myAsset"})
    _, order, _ = call(sandbox, "POST", "/v1/orders", limit())
    receive(client)
    cancelled(sandbox, order)
    (row,) = receive(client)[1]["assets"]
    assert (row["currency"], row["locked"]) == ("KRW", 0)
    body = {"market": "KRW-BTC", "side": "bid", "price": "10000", "ord_type": "price"}
    call(sandbox, "POST", "/v1/orders", body)
    seen = [{asset["currency"] for asset in receive(client)[1]["assets"]} for _ in range(2)]
    assert seen == [{"KRW"}, {"KRW", "BTC"}]
    client.shutdown()


def test_listing_and_replacing(sandbox: SandboxThread) -> None:
    client = private(sandbox, {"type": "myOrder", "codes": ["KRW-BTC"]}, {"type": "myAsset"})
    listing = json.dumps([{"ticket": "x"}, {"method": "LIST_SUBSCRIPTIONS"}])
    client.send(listing)
    assert receive(client)[1] == {
        "method": "LIST_SUBSCRIPTIONS",
        "result": [{"type": "myOrder", "codes": ["KRW-BTC"]}, {"type": "myAsset"}],
        "ticket": "x",
    }
    client.send(json.dumps([{"ticket": "x"}, {"type": "myAsset"}]))
    client.send(listing)
    assert receive(client)[1]["result"] == [{"type": "myAsset"}]
    client.shutdown()


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ({"type": "myAsset", "codes": ["KRW-BTC"]}, "WRONG_FORMAT"),
        ({"type": "myAsset", "codes": []}, "WRONG_FORMAT"),
        ({"type": "ticker", "codes": ["KRW-BTC"]}, "INVALID_PARAM"),
        ({"type": "myOrder", "codes": "KRW-BTC"}, "WRONG_FORMAT"),
        ({}, "NO_TYPE"),
    ],
)
def test_a_bad_request_is_answered_and_closed(sandbox: SandboxThread, part: dict[str, Any], name: str) -> None:
    token = signing.sign(sandbox.access_key, sandbox.secret_key)
    client = connect(sandbox.ws_url + "/private", part, header=[f"Authorization: {token}"])
    assert receive(client)[1]["error"]["name"] == name
    opcode, data = client.recv_data()
    assert (opcode, int.from_bytes(data[:2], "big")) == (websocket.ABNF.OPCODE_CLOSE, 1000)
    client.shutdown()


def test_public_sockets_do_not_know_private_types(sandbox: SandboxThread) -> None:
    client = connect(sandbox.ws_url, {"type": "myOrder"})
    assert receive(client)[1]["error"]["name"] == "INVALID_PARAM"
    client.shutdown()


def test_a_maintenance_window_cancels_what_the_market_left_behind() -> None:
    def order(price: int, *, is_buy: bool, market: str = "KRW-BTC") -> Order:
        return Order(
            uuid=str(price), account="a", market=market, is_buy=is_buy, kind="limit", price_e8=price * E8, total=None,
            lots=E8, fee_e4=5, created_ms=1,
        )  # fmt: skip

    orders = [
        order(99, is_buy=True), order(100, is_buy=True), order(101, is_buy=True), order(98, is_buy=False),
        order(102, is_buy=False), order(999, is_buy=True, market="KRW-ETH"),
    ]  # fmt: skip
    assert [found.uuid for found in beyond(orders, {"KRW-BTC": 100 * E8}.get)] == ["101", "98"]
