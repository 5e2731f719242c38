"""Nonsense in every place gets a documented answer: no internal error, no hang."""

import random
from typing import Any
from urllib.error import HTTPError

import pytest
import websocket

from producers.sandbox.thread import SandboxThread

from .conftest import receive
from .test_sandbox_orders import call, error_of, limit

VALUES: list[Any] = [
    None, True, 0, -1, 1.5, 1e300, "", " ", "0", "-1", "1e5", "NaN", "Infinity", "1" * 400, "\u0000", "💥", "KRW-BTC",
    "bid", "ask", "limit", "price", "market", "best", "ioc", "fok", "post_only", "10000000", "0.0005", [], ["x"], {},
    {"a": [1]}, "'; drop", "x" * 65, "cancel_maker", 10**30, "1.5\n",
]  # fmt: skip
FIELDS = ["market", "side", "ord_type", "price", "volume", "time_in_force", "identifier", "smp_type", "extra"]
PATHS = ["/v1/order", "/v1/orders/open", "/v1/orders/closed", "/v1/orders/uuids", "/v1/orders/chance", "/v1/accounts"]
NAMES = ["uuid", "identifier", "state", "states[]", "page", "limit", "order_by", "start_time", "end_time", "market"]


def test_random_orders_and_look_ups(sandbox: SandboxThread) -> None:
    draw = random.Random(11)
    for _ in range(150):
        body = limit() | {draw.choice(FIELDS): draw.choice(VALUES) for _ in range(draw.randint(1, 3))}
        status, answer, _ = call(sandbox, "POST", "/v1/orders", body)
        assert status in {201, 400, 401, 403}, (body, answer)
        assert status == 201 or isinstance(answer["error"]["name"], str)
    texts = [str(value) for value in VALUES if value is not None and str(value).isascii() and str(value).isprintable()]
    for _ in range(150):
        query = f"{draw.choice(NAMES)}={draw.choice(texts).replace(' ', '').replace('#', '')}"
        status, answer, _ = call(sandbox, draw.choice(["GET", "DELETE"]), draw.choice(PATHS), query=query)
        assert status in {200, 400, 401, 404, 405}, (query, answer)


@pytest.mark.parametrize("text", ["10000000\n", "10000000.5\n"])
@pytest.mark.parametrize("field", ["price", "volume"])
def test_a_number_ends_with_its_last_digit(sandbox: SandboxThread, field: str, text: str) -> None:
    refused = call(sandbox, "POST", "/v1/orders", limit() | {field: text})
    assert error_of(refused) == (400, "validation_error")


@pytest.mark.parametrize("body", [{"access_key": "other\n"}, {"access_key": "other", "balances": {"KRW\n": "1"}}])
def test_a_name_ends_with_its_last_letter(sandbox: SandboxThread, body: dict[str, Any]) -> None:
    with pytest.raises(HTTPError) as refused:
        sandbox.control("POST", "/sandbox/accounts", body)
    assert refused.value.code == 400
    refused.value.close()


def test_mutated_websocket_frames(sandbox: SandboxThread) -> None:
    draw = random.Random(12)
    good = b'[{"ticket":"t"},{"type":"orderbook","codes":["KRW-BTC.5"],"is_only_snapshot":true},{"format":"SIMPLE"}]'
    client = websocket.create_connection(sandbox.ws_url, timeout=5)
    for _ in range(300):
        frame = bytearray(good)
        for _ in range(draw.randint(1, 6)):
            frame[draw.randrange(len(frame))] = draw.randrange(256)
        client.send(bytes(frame), opcode=2)
        client.send(b'[{"ticket":"alive"},{"method":"LIST_SUBSCRIPTIONS"}]', opcode=2)
        while True:
            opcode, data = client.recv_data()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                client.shutdown()
                client = websocket.create_connection(sandbox.ws_url, timeout=5)
                break
            if b"alive" in data:
                break
    client.send('[{"ticket":"t"},{"type":"orderbook","codes":["KRW-BTC"]}]')
    assert "code" in receive(client)[1]
    client.shutdown()
    assert sandbox.status()["feed"] == "synthetic"
