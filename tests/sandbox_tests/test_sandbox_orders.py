"""Orders through REST: the recorded lives digit for digit, the official client, errors, private websocket."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import jwt
import pytest
import upbit
import websocket

from infra.upbit import signing
from producers.sandbox.thread import SandboxThread

from .conftest import book_line, connect, receive, trade_line

DATA = Path(os.environ.get("OBSERVATOR_DATA", "../shared/data"))
BOOK = book_line(
    1774183627.0, "KRW-BTC", [(102945000.0, 1.0), (102950000.0, 2.0)], [(102902000.0, 1.0), (102900000.0, 2.0)]
)


def call(
    sandbox: SandboxThread, method: str, path: str, body: dict[str, Any] | None = None, query: str = "", **options: Any
) -> tuple[int, Any, Any]:
    key, secret = options.get("keys", (sandbox.access_key, sandbox.secret_key))
    hashed = query or (signing.query_of(body) if body else "")
    header = options.get("token") or signing.sign(key, secret, hashed, algorithm=options.get("algorithm", "HS512"))
    raw = options.get("raw", json.dumps(body).encode() if body is not None else None)
    request = urllib.request.Request(
        sandbox.url + path + (f"?{query}" if query else ""),
        data=raw,
        method=method,
        headers={"Authorization": header, "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.loads(response.read()), response.headers
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read()), error.headers


def until(check: Callable[[], Any], seconds: float = 5.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := check():
            return value
        time.sleep(0.01)
    pytest.fail("it did not happen in time")


def ended(sandbox: SandboxThread, uuid: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        _, body, _ = call(sandbox, "GET", "/v1/order", query=f"uuid={uuid}")
        return body if body["state"] != "wait" else None

    return dict(until(look))


def limit(price: str = "10000000", volume: str = "0.0005", **more: Any) -> dict[str, Any]:
    return {"market": "KRW-BTC", "side": "bid", "volume": volume, "price": price, "ord_type": "limit"} | more


def error_of(answer: tuple[int, Any, Any]) -> tuple[int, str]:
    return answer[0], answer[1]["error"]["name"]


# --- recorded lives -----------------------------------------------------------------------------------------------


def recorded_pairs(cassette: str) -> list[dict[str, Any]]:
    path = DATA / "upbit_rest" / "upbit_rest_recorded_202603.jsonl"
    if not path.exists():
        pytest.skip(f"no recorded answers at {path}")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row for row in rows if row["cassette"] == cassette]


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Same keys in the same order, same values but for ids and times."""
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        if key == "trades":
            assert len(ours[key]) == len(value)
            for mine, other in zip(ours[key], value, strict=True):
                same(mine, other)
        elif key not in {"uuid", "created_at"}:
            assert ours[key] == value, key


@pytest.mark.parametrize("cassette", ["orders/lifecycle_create_get_cancel.yaml", "orders/market_buy_sell.yaml"])
def test_recorded_lives_give_the_same_digits(recorded: Any, cassette: str) -> None:
    pairs = recorded_pairs(cassette)
    sandbox = recorded(BOOK)
    uuid = ""
    for pair in pairs:
        theirs = json.loads(pair["response_body"])
        if pair["method"] == "POST":
            status, ours, headers = call(sandbox, "POST", "/v1/orders", json.loads(pair["request_body"]))
            assert status == pair["status"], ours
            uuid = ours["uuid"]
            assert "group=order;" in headers["Remaining-Req"]
        elif theirs.get("state") == "wait":
            status, ours, _ = call(sandbox, pair["method"], "/v1/order", query=f"uuid={uuid}")
        else:
            status, ours = pair["status"], ended(sandbox, uuid)
        assert status == pair["status"]
        same(ours, theirs)


def test_a_cancelled_limit_order_keeps_its_last_digits(recorded: Any) -> None:
    sandbox = recorded(BOOK)
    theirs = json.loads(recorded_pairs("orders/list_closed.yaml")[0]["response_body"])
    _, order, _ = call(sandbox, "POST", "/v1/orders", limit())
    call(sandbox, "DELETE", "/v1/order", query=f"uuid={order['uuid']}")
    ended(sandbox, order["uuid"])
    _, ours, _ = call(sandbox, "GET", "/v1/orders/closed")
    same(ours[0], theirs[0])
    _, accounts, _ = call(sandbox, "GET", "/v1/accounts")
    assert accounts[0] == {
        "currency": "KRW", "balance": "10000000", "locked": "0", "avg_buy_price": "0",
        "avg_buy_price_modified": True, "unit_currency": "KRW",
    }  # fmt: skip
    assert error_of(call(sandbox, "DELETE", "/v1/order", query=f"uuid={order['uuid']}")) == (404, "order_not_found")


def test_chance_and_test_orders_look_as_recorded(recorded: Any) -> None:
    sandbox = recorded(BOOK)
    theirs = json.loads(recorded_pairs("orders/get_chance.yaml")[0]["response_body"])
    _, ours, headers = call(sandbox, "GET", "/v1/orders/chance", query="market=KRW-BTC")
    ours["bid_account"]["balance"] = theirs["bid_account"]["balance"]
    assert ours == theirs
    assert headers["Remaining-Req"] == "group=default; min=1800; sec=29"
    pair = recorded_pairs("orders/create_test.yaml")[0]
    _, made, _ = call(sandbox, "POST", "/v1/orders/test", json.loads(pair["request_body"]))
    same(made, json.loads(pair["response_body"]))
    assert sandbox.truth() == []
    assert error_of(call(sandbox, "GET", "/v1/orders/chance", query="market=KRW-NO")) == (400, "notfoundmarket")


# --- fills ----------------------------------------------------------------------------------------------------------


def test_a_market_buy_walks_the_levels_and_leaves_dust(recorded: Any) -> None:
    sandbox = recorded(
        book_line(1774183627.0, "KRW-BTC", [(100000000.0, 0.001), (100001000.0, 1.0)], [(99e6, 1.0), (98e6, 1.0)])
    )
    _, order, _ = call(
        sandbox, "POST", "/v1/orders", {"market": "KRW-BTC", "side": "bid", "price": "150000", "ord_type": "price"}
    )
    order = ended(sandbox, order["uuid"])
    assert order["state"] == "cancel"
    assert [(t["price"], t["volume"], t["trend"]) for t in order["trades"]] == [
        ("100000000", "0.001", "up"), ("100001000", "0.00049999", "up")
    ]  # fmt: skip
    assert order["locked"] == order_left(150000, order["trades"]) == "0.500260005"
    # What was taken from a recorded level stays taken.
    _, second, _ = call(
        sandbox,
        "POST",
        "/v1/orders",
        {"market": "KRW-BTC", "side": "bid", "price": "10000", "ord_type": "best", "time_in_force": "ioc"},
    )
    assert ended(sandbox, second["uuid"])["trades"][0]["price"] == "100001000"


def order_left(total: int, trades: list[dict[str, Any]]) -> str:
    spent = sum((Decimal(t["funds"]) for t in trades), Decimal(0))
    left = (Decimal(total) - spent) * Decimal("1.0005")
    return format(left.normalize(), "f")


def test_time_in_force(recorded: Any) -> None:
    sandbox = recorded(BOOK)

    def outcome(volume: str = "0.01", **fields: Any) -> tuple[str, str]:
        status, order, _ = call(sandbox, "POST", "/v1/orders", limit("102945000", volume, **fields))
        assert status == 201, order
        done = ended(sandbox, order["uuid"])
        return done["state"], done["executed_volume"]

    sandbox.control("POST", "/sandbox/accounts", {"access_key": "paper-main", "balances": {"KRW": "900000000"}})
    assert outcome(time_in_force="ioc") == ("done", "0.01")
    assert outcome(time_in_force="post_only") == ("cancel", "0")
    assert outcome(time_in_force="fok", volume="2") == ("cancel", "0")
    assert outcome(time_in_force="ioc", volume="2") == ("cancel", "0.99")
    sell = {"market": "KRW-BTC", "side": "ask", "volume": "0.5", "ord_type": "best", "time_in_force": "fok"}
    _, order, _ = call(sandbox, "POST", "/v1/orders", sell)
    assert ended(sandbox, order["uuid"])["state"] == "done"


def test_resting_orders_are_filled_by_trades_and_by_crossing_books(recorded: Any) -> None:
    lines = [
        book_line(1000.0, "KRW-BTC", [(100000000.0, 1.0)], [(99999000.0, 1.0)]),
        trade_line(1003.0, "KRW-BTC", 99999000.0, 1.004, "ASK"),  # 1.0 of it is the queue that was there before
        book_line(1003.5, "KRW-BTC", [(99998000.0, 1.0)], [(99997000.0, 1.0)]),
    ]
    sandbox = recorded(*lines, speed=1.0)
    client = connect(sandbox.ws_url, {"type": "orderbook", "codes": ["KRW-BTC"]})
    receive(client)
    _, order, _ = call(sandbox, "POST", "/v1/orders", limit("99999000", "0.01", identifier="rest"))
    _, rows, _ = call(sandbox, "GET", "/v1/orders/open", query="market=KRW-BTC&states[]=wait")
    assert [row["identifier"] for row in rows] == ["rest"]
    done = ended(sandbox, order["uuid"])
    assert done["state"] == "done"
    assert [trade["volume"] for trade in done["trades"]] == ["0.004", "0.006"]
    assert {trade["trend"] for trade in done["trades"]} == {"down"}
    assert done["locked"] == "0"
    assert [fill["book_ms"] for fill in sandbox.control("GET", "/sandbox/truth")["fills"]] == [1003000, 1003500]
    client.shutdown()


def test_an_order_before_the_first_book_is_refused(recorded: Any) -> None:
    sandbox = recorded(BOOK, speed=1.0)
    assert error_of(call(sandbox, "POST", "/v1/orders", limit())) == (403, "market_offline")


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_numbers_are_taken_as_they_are_written(sandbox: SandboxThread) -> None:
    raw = b'{"market":"KRW-BTC","side":"bid","ord_type":"limit","price":10000000.0,"volume":0.00050000}'
    query = "market=KRW-BTC&side=bid&ord_type=limit&price=10000000.0&volume=0.00050000"
    token = signing.sign(sandbox.access_key, sandbox.secret_key, query)
    status, order, _ = call(sandbox, "POST", "/v1/orders/test", raw=raw, token=token)
    assert (status, order.get("price"), order.get("volume")) == (201, "10000000", "0.0005")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"market": None}, "validation_error"),
        ({"market": "KRW-NOPE"}, "notfoundmarket"),
        ({"market": "XXX-BTC"}, "notfoundmarket"),
        ({"side": "buy"}, "validation_error"),
        ({"ord_type": "stop"}, "validation_error"),
        ({"price": None}, "create_bid_error"),
        ({"volume": None}, "create_bid_error"),
        ({"ord_type": "price"}, "create_bid_error"),
        ({"ord_type": "market"}, "create_bid_error"),
        ({"price": "10000500"}, "invalid_price_bid"),
        ({"price": "1e7"}, "validation_error"),
        ({"price": "-1"}, "validation_error"),
        ({"price": "0"}, "validation_error"),
        ({"price": ["1"]}, "validation_error"),
        ({"price": True}, "validation_error"),
        ({"volume": "0.000000001"}, "validation_error"),
        ({"volume": "٣"}, "validation_error"),
        ({"volume": "0.0004"}, "under_min_total_bid"),
        ({"volume": "101"}, "over_krw_funds_bid"),
        ({"volume": "10"}, "insufficient_funds_bid"),
        ({"time_in_force": "gtc"}, "invalid_time_in_force"),
        ({"time_in_force": []}, "invalid_time_in_force"),
        ({"time_in_force": "post_only", "smp_type": "reduce"}, "invalid_post_only"),
        ({"smp_type": "none"}, "invalid_parameter"),
        ({"identifier": "x" * 65}, "invalid_parameter"),
        ({"identifier": 7}, "invalid_parameter"),
        ({"side": "ask"}, "insufficient_funds_ask"),
        ({"side": "ask", "price": "10000500"}, "invalid_price_ask"),
        ({"side": "ask", "volume": "0.0004"}, "under_min_total_ask"),
        ({"side": "ask", "volume": "101"}, "over_krw_funds_ask"),
        ({"side": "ask", "ord_type": "market"}, "create_ask_error"),
        ({"side": "ask", "ord_type": "price"}, "create_ask_error"),
        ({"side": "ask", "ord_type": "best", "price": None}, "invalid_time_in_force"),
        ({"ord_type": "best", "time_in_force": "ioc"}, "create_bid_error"),
        ({"ord_type": "best", "volume": None, "time_in_force": "post_only"}, "invalid_time_in_force"),
        ({"ord_type": "price", "volume": None, "price": "4999.99"}, "under_min_total_bid"),
        ({"ord_type": "price", "volume": None, "price": "1000000000.01"}, "over_krw_funds_bid"),
        ({"ord_type": "price", "volume": None, "time_in_force": "ioc"}, "invalid_time_in_force"),
    ],
)
def test_a_bad_order_is_refused_by_name(sandbox: SandboxThread, change: dict[str, Any], name: str) -> None:
    status, found = error_of(call(sandbox, "POST", "/v1/orders", limit() | change))
    assert (status, found) == (400, name)


def test_market_orders_beyond_the_visible_levels_are_refused(recorded: Any) -> None:
    sandbox = recorded(book_line(1000.0, "KRW-BTC", [(1000000.0, 0.1)], [(999000.0, 0.1)]))
    buy = {"market": "KRW-BTC", "side": "bid", "price": "200000", "ord_type": "price"}
    assert error_of(call(sandbox, "POST", "/v1/orders", buy)) == (400, "volume_too_large")
    sell = {"market": "KRW-BTC", "side": "ask", "volume": "0.2", "ord_type": "market"}
    assert error_of(call(sandbox, "POST", "/v1/orders", sell)) == (400, "volume_too_large")


def test_bad_requests_get_documented_answers(sandbox: SandboxThread) -> None:
    sign = signing.sign(sandbox.access_key, sandbox.secret_key)
    cases = [
        (call(sandbox, "POST", "/v1/orders", raw=b"{", token=sign), (400, "bad_request")),
        (call(sandbox, "POST", "/v1/orders", raw=b"[1]", token=sign), (400, "bad_request")),
        (call(sandbox, "POST", "/v1/orders", raw=b"\xff", token=sign), (400, "bad_request")),
        (call(sandbox, "POST", "/v1/orders", raw=b'{"identifier":"\\ud800"}', token=sign), (400, "bad_request")),
        (call(sandbox, "GET", "/v1/order"), (400, "invalid_parameter")),
        (call(sandbox, "GET", "/v1/order", query="uuid=nope"), (404, "order_not_found")),
        (call(sandbox, "GET", "/v1/order", query="identifier=nope"), (404, "order_not_found")),
        (call(sandbox, "DELETE", "/v1/order", raw=b"{}", query="uuid=x"), (400, "QUERY_PARAMETER_NOT_SUPPORTED")),
        (call(sandbox, "GET", "/v1/orders/open", query="state=done"), (400, "invalid_parameter")),
        (call(sandbox, "GET", "/v1/orders/open", query="page=0"), (400, "invalid_parameter")),
        (call(sandbox, "GET", "/v1/orders/open", query="order_by=up"), (400, "invalid_parameter")),
        (call(sandbox, "GET", "/v1/orders/closed", query="start_time=yesterday"), (400, "invalid_parameter")),
        (
            call(sandbox, "GET", "/v1/orders/closed", query="start_time=1&end_time=999999999999"),
            (400, "invalid_parameter"),
        ),
        (call(sandbox, "GET", "/v1/orders/uuids"), (400, "invalid_parameter")),
        (call(sandbox, "GET", "/v1/nothing"), (404, 404)),
        (call(sandbox, "PUT", "/v1/orders", {}), (405, 405)),
    ]
    for answer, expected in cases:
        assert error_of(answer) == expected


def test_tokens_are_checked(sandbox: SandboxThread) -> None:
    key, secret = sandbox.access_key, sandbox.secret_key
    good = signing.sign(key, secret)
    claims = {"access_key": key, "nonce": "n-1"}
    algorithm = "HS384"
    cases = {
        "no_authorization_token": "Basic x",
        "invalid_access_key": signing.sign("nobody", secret),
        "jwt_verification": signing.sign(key, "x" * 64),
        "invalid_query_payload": signing.sign(key, secret, "a=b"),
    }
    for name, token in cases.items():
        assert error_of(call(sandbox, "GET", "/v1/accounts", token=token)) == (401, name)
    for token in (
        "Bearer nonsense",
        "Bearer " + jwt.encode(claims, secret, algorithm=algorithm),
        "Bearer " + jwt.encode({"access_key": key}, secret),
    ):
        assert error_of(call(sandbox, "GET", "/v1/accounts", token=token)) == (401, "jwt_verification")
    assert call(sandbox, "GET", "/v1/accounts", token=good)[0] == 200
    assert error_of(call(sandbox, "GET", "/v1/accounts", token=good)) == (401, "nonce_used")
    assert call(sandbox, "GET", "/v1/accounts", algorithm="HS256")[0] == 200
    assert signing.hash_of("market=KRW-BTC&states[]=wait&states[]=watch&limit=10").startswith("e3cfc649139c595e")


def test_an_identifier_is_used_once_forever(sandbox: SandboxThread) -> None:
    assert call(sandbox, "POST", "/v1/orders", limit(identifier="once"))[0] == 201
    assert error_of(call(sandbox, "POST", "/v1/orders", limit(identifier="once"))) == (400, "duplicated_identifier")
    # A refused request burns its identifier, unless the exchange is switched.
    assert call(sandbox, "POST", "/v1/orders", limit("10000500", identifier="burned"))[0] == 400
    assert error_of(call(sandbox, "POST", "/v1/orders", limit(identifier="burned"))) == (400, "duplicated_identifier")
    sandbox.control("POST", "/sandbox/switches", {"burn_refused_identifiers": False})
    assert call(sandbox, "POST", "/v1/orders", limit("10000500", identifier="kept"))[0] == 400
    assert call(sandbox, "POST", "/v1/orders", limit(identifier="kept"))[0] == 201
    sandbox.control("POST", "/sandbox/switches", {"burn_refused_identifiers": True})
    # Another account has its own identifiers.
    keys = sandbox.control("POST", "/sandbox/accounts", {"access_key": "other", "balances": {"KRW": "6000"}})
    pair = (keys["access_key"], keys["secret_key"])
    assert call(sandbox, "POST", "/v1/orders", limit(identifier="once"), keys=pair)[0] == 201
    assert error_of(call(sandbox, "POST", "/v1/orders", limit(), keys=pair)) == (400, "insufficient_funds_bid")
    _, rows, _ = call(sandbox, "GET", "/v1/orders/uuids", query="identifiers[]=once&identifiers[]=kept", keys=pair)
    assert [row["identifier"] for row in rows] == ["once"]


# --- independent client -----------------------------------------------------------------------------------------------


def test_the_official_client_creates_looks_up_and_cancels(sandbox: SandboxThread) -> None:
    client = upbit.Upbit(
        access_key=sandbox.access_key, secret_key=sandbox.secret_key, base_url=sandbox.url, max_retries=0, timeout=3
    )
    with client:
        assert client.accounts.list()[0].currency == "KRW"
        made = client.orders.create(
            market="KRW-BTC", side="bid", ord_type="limit", price="10000000", volume="0.0005", identifier="sdk-1"
        )
        assert made.state == "wait"
        assert client.orders.retrieve(identifier="sdk-1").uuid == made.uuid
        assert client.orders.cancel(uuid=made.uuid).state == "wait"
        assert until(lambda: client.orders.retrieve(uuid=made.uuid).state == "cancel")
        with pytest.raises(upbit.BadRequestError, match="duplicated_identifier"):
            client.orders.create(
                market="KRW-BTC", side="bid", ord_type="limit", price="10000000", volume="0.0005", identifier="sdk-1"
            )


# --- private websocket ------------------------------------------------------------------------------------------------


def test_own_orders_are_told(sandbox: SandboxThread) -> None:
    header = [f"Authorization: {signing.sign(sandbox.access_key, sandbox.secret_key)}"]
    client = connect(sandbox.ws_url + "/private", {"type": "myOrder"}, {"type": "myAsset"}, header=header)
    short = connect(
        sandbox.ws_url + "/private", {"type": "myOrder", "codes": ["KRW-BTC"]}, {"format": "SIMPLE_LIST"},
        header=[f"Authorization: {signing.sign(sandbox.access_key, sandbox.secret_key)}"],
    )  # fmt: skip
    time.sleep(0.1)
    call(
        sandbox,
        "POST",
        "/v1/orders",
        {"market": "KRW-BTC", "side": "bid", "price": "10000", "ord_type": "price", "identifier": "ws"},
    )
    states = []
    changed: set[str] = set()
    while not states or states[-1] != "cancel":
        _, body = receive(client)
        if body["type"] == "myOrder":
            states.append(body["state"])
        else:
            changed |= {row["currency"] for row in body["assets"]}
    assert changed == {"KRW", "BTC"}
    assert states == ["wait", "trade", "cancel"]
    _, first = receive(short)
    assert first[0]["ty"] == "myOrder"
    assert first[0]["id"] == "ws"
    client.shutdown()
    short.shutdown()
    with pytest.raises(websocket.WebSocketBadStatusException, match="401"):
        connect(sandbox.ws_url + "/private", {"type": "myOrder"})
