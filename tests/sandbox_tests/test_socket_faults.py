"""Faults of the websockets by name: on frames alone, and as a client sees them."""

import itertools
import time
import urllib.error
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import websocket
from websocket import ABNF

from infra.upbit import signing
from producers.sandbox.feeds import Frame, Style
from producers.sandbox.refusals import OrderRefused
from producers.sandbox.socket_faults import SOCKET_NAMES, SocketFaults, pinned, read, skew
from producers.sandbox.thread import SandboxThread

from .conftest import connect, receive
from .test_sandbox_orders import call, error_of, limit, until

PLAIN = Style(is_simple=False, is_list=False)
BOOK = {"type": "orderbook", "codes": ["KRW-BTC"], "is_only_realtime": True}


@pytest.fixture(autouse=True)
def _no_fault_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "sandbox" in request.fixturenames:
        request.getfixturevalue("sandbox").clear_faults()


def frame(number: int, kind: str = "orderbook", market: str = "KRW-BTC") -> Frame:
    return Frame(kind, market, number, lambda _style: str(number).encode())


def sent(faults: SocketFaults, *frames: Frame) -> list[int]:
    return [int(left.spell(PLAIN)) for each in frames for left in faults.changed(each)]


# --- on frames --------------------------------------------------------------------------------------------------------


def test_without_a_fault_nothing_changes() -> None:
    faults = SocketFaults()
    assert faults.is_quiet
    assert sent(faults, frame(1), frame(2)) == [1, 2]


@pytest.mark.parametrize(
    ("name", "count", "expected"),
    [
        ("duplicate-frame", 1, [1, 1, 2, 3, 4]),
        ("duplicate-frame", 2, [1, 1, 2, 2, 3, 4]),
        ("lost-frame", 2, [3, 4]),
        ("reorder-frames", 1, [2, 1, 3, 4]),
        ("reorder-frames", 2, [2, 1, 4, 3]),
        ("reorder-frames", None, [2, 1, 4, 3]),
    ],
)
def test_frames_come_twice_never_or_late(name: str, count: int | None, expected: list[int]) -> None:
    faults = SocketFaults()
    faults.add(read({"name": name, "count": count}))
    assert sent(faults, *(frame(number) for number in range(1, 5))) == expected
    faults.clear()
    assert faults.is_quiet


def test_only_the_frames_that_are_meant() -> None:
    faults = SocketFaults()
    faults.add(read({"name": "lost-frame", "kind": "trade", "market": "KRW-ETH", "count": None}))
    frames = [frame(1), frame(2, "trade"), frame(3, "trade", "KRW-ETH"), frame(4, "orderbook", "KRW-ETH")]
    assert sent(faults, *frames) == [1, 2, 4]
    assert faults.rows()[0]["drawn"] == 1


def test_a_probability_is_drawn_from_the_seed() -> None:
    def run() -> list[int]:
        faults = SocketFaults(seed=3)
        faults.add(read({"name": "lost-frame", "count": None, "probability": 0.3}))
        return sent(faults, *(frame(number) for number in range(1000)))

    assert run() == run()
    assert 600 < len(run()) < 800


def test_a_frozen_feed_thaws() -> None:
    now = [100.0]
    faults = SocketFaults(now=lambda: now[0])
    faults.add(read({"name": "freeze-feed", "kind": "orderbook", "seconds": 5}))
    assert sent(faults, frame(1), frame(2, "trade")) == [2]
    now[0] = 104.9
    assert sent(faults, frame(3)) == []
    now[0] = 105.0
    assert sent(faults, frame(4)) == [4]


def test_a_held_frame_does_not_change() -> None:
    """A feed spells from its living book; a frame that is sent later must tell what it was."""
    book = [1]
    living = Frame("orderbook", "KRW-BTC", 1, lambda _style: str(book[0]).encode())
    held = pinned(living, [PLAIN])
    book[0] = 2
    assert held.spell(PLAIN) == b"1"


def test_a_skewed_clock_moves_every_time_of_a_frame() -> None:
    payload = (
        b'{"type":"trade","timestamp":1788335180423,"trade_date":"2026-09-02","trade_time":"07:46:20",'
        b'"trade_timestamp":1788335180377,"sequential_id":17883351803770004}'
    )
    assert skew(payload, -21_000) == (
        b'{"type":"trade","timestamp":1788335159423,"trade_date":"2026-09-02","trade_time":"07:45:59",'
        b'"trade_timestamp":1788335159377,"sequential_id":17883351803770004}'
    )
    short = b'{"ty":"ticker","tdt":"20260902","ttm":"235959","ttms":1788393599000,"tms":1788393599100}'
    assert skew(short, 1000) == (
        b'{"ty":"ticker","tdt":"20260903","ttm":"000000","ttms":1788393600000,"tms":1788393600100}'
    )


@pytest.mark.parametrize(
    "values",
    [
        {"kind": 1}, {"market": None}, {"count": 0}, {"count": True}, {"probability": 0}, {"probability": 2},
        {"seconds": -1}, {"seconds": 1e9}, {"seconds": float("nan")}, {"path": "/v1/orders"}, {"extra": 1},
    ],
)  # fmt: skip
def test_nonsense_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(OrderRefused):
        read({"name": "lost-frame"} | values)


def opcodes_until_cut(client: websocket.WebSocket) -> list[int]:
    """Read until the line ends without a word, or nothing comes for the client's timeout."""
    opcodes = []
    try:
        while True:
            opcodes.append(client.recv_data(control_frame=True)[0])
    except (websocket.WebSocketConnectionClosedException, ConnectionError):
        return opcodes


# --- as a client sees them --------------------------------------------------------------------------------------------


def test_every_name_is_listed(sandbox: SandboxThread) -> None:
    assert set(SOCKET_NAMES) <= set(sandbox.control("GET", "/sandbox/faults")["names"])
    with pytest.raises(urllib.error.HTTPError):
        sandbox.fault("lost-frame", count=-1)


def test_a_line_is_cut_without_a_close_frame(sandbox: SandboxThread) -> None:
    client = connect(sandbox.ws_url, BOOK)
    other = connect(sandbox.ws_url, {"type": "orderbook", "codes": ["KRW-ETH"]})
    receive(client)
    sandbox.fault("drop-connection", kind="orderbook", market="KRW-BTC")
    assert ABNF.OPCODE_CLOSE not in opcodes_until_cut(client)
    assert receive(other)[1]["code"] == "KRW-ETH"
    client.shutdown()
    other.shutdown()


def test_books_come_twice_and_out_of_order(sandbox: SandboxThread) -> None:
    client = connect(sandbox.ws_url, BOOK)
    receive(client)
    sandbox.fault("duplicate-frame", kind="orderbook", market="KRW-BTC", count=3)
    payloads = Counter(client.recv_data()[1] for _ in range(20))
    assert sorted(payloads.values())[-3:] == [2, 2, 2]
    sandbox.clear_faults()
    sandbox.fault("reorder-frames", kind="orderbook", market="KRW-BTC", count=2)
    times = [receive(client)[1]["timestamp"] for _ in range(12)]
    assert sum(later < earlier for earlier, later in itertools.pairwise(times)) == 2
    client.shutdown()


def test_the_feed_freezes_and_the_line_lives(sandbox: SandboxThread) -> None:
    client = connect(sandbox.ws_url, BOOK)
    receive(client)
    sandbox.fault("freeze-feed", seconds=0.6)
    client.settimeout(0.4)
    with pytest.raises(websocket.WebSocketTimeoutException):
        opcodes_until_cut(client)
    client.settimeout(5)
    client.ping("alive")
    while client.recv_data(control_frame=True)[0] != ABNF.OPCODE_PONG:
        pass
    assert receive(client)[1]["code"] == "KRW-BTC"
    client.shutdown()


def test_the_clock_of_the_feed_is_off(sandbox: SandboxThread) -> None:
    client = connect(sandbox.ws_url, BOOK)
    receive(client)
    sandbox.fault("clock-skew", seconds=-60, count=5)
    ages = [time.time() - receive(client)[1]["timestamp"] / 1000 for _ in range(12)]
    assert sum(59 < age < 62 for age in ages) == 5
    client.shutdown()


def test_a_maintenance_window_cuts_refuses_and_ends(sandbox: SandboxThread) -> None:
    client = connect(sandbox.ws_url, BOOK)
    receive(client)
    sandbox.fault("maintenance", seconds=1.0)
    opcodes_until_cut(client)
    assert error_of(call(sandbox, "GET", "/v1/accounts")) == (403, "market_offline")
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        connect(sandbox.ws_url, BOOK)
    assert refused.value.status_code == 403
    assert sandbox.status()["connections"] <= 1
    until(lambda: call(sandbox, "GET", "/v1/accounts")[0] == 200)
    again = connect(sandbox.ws_url, BOOK)
    assert receive(again)[1]["code"] == "KRW-BTC"
    again.shutdown()
    client.shutdown()


# --- private events ---------------------------------------------------------------------------------------------------


def private(sandbox: SandboxThread, *parts: dict[str, Any]) -> websocket.WebSocket:
    token = signing.sign(sandbox.access_key, sandbox.secret_key)
    client = connect(sandbox.ws_url + "/private", *parts, header=[f"Authorization: {token}"])
    client.send('[{"ticket":"t"},{"method":"LIST_SUBSCRIPTIONS"}]')
    assert "result" in receive(client)[1]
    return client


def test_events_come_long_after_the_answer(sandbox: SandboxThread) -> None:
    client = private(sandbox, {"type": "myOrder"})
    sandbox.fault("late-events", kind="myOrder", count=1, seconds=0.7)
    status, order, _ = call(sandbox, "POST", "/v1/orders", limit(identifier="late-event"))
    answered = time.monotonic()
    assert status == 201
    assert call(sandbox, "GET", "/v1/order", query=f"uuid={order['uuid']}")[0] == 200
    body: dict[str, Any] = {}
    while body.get("uuid") != order["uuid"]:
        body = receive(client)[1]
    assert body["state"] == "wait"
    assert time.monotonic() - answered > 0.4
    call(sandbox, "DELETE", "/v1/order", query=f"uuid={order['uuid']}")
    client.shutdown()


def test_events_come_before_the_answer(sandbox: SandboxThread) -> None:
    """`late-answer` holds the answer back: the private side tells of the whole order first."""
    client = private(sandbox, {"type": "myOrder", "codes": ["KRW-BTC"]})
    sandbox.fault("late-answer", seconds=0.6)
    body = {"market": "KRW-BTC", "side": "bid", "price": "10000", "ord_type": "price", "identifier": "early-event"}
    _, order, _ = call(sandbox, "POST", "/v1/orders", body)
    client.settimeout(0.05)
    states = []
    while not states or states[-1] not in {"cancel", "done"}:
        message = receive(client)[1]  # it is there already: no waiting
        if message["uuid"] == order["uuid"]:
            states.append(message["state"])
    assert states[:2] == ["wait", "trade"]
    client.shutdown()


def test_private_events_twice_and_cut(sandbox: SandboxThread) -> None:
    client = private(sandbox, {"type": "myOrder"})
    sandbox.fault("duplicate-frame", kind="myOrder")
    call(sandbox, "POST", "/v1/orders", limit(identifier="twice"))
    assert client.recv_data()[1] == client.recv_data()[1]
    sandbox.fault("drop-connection", kind="myOrder")
    call(sandbox, "DELETE", "/v1/order", query="identifier=twice")
    assert ABNF.OPCODE_CLOSE not in opcodes_until_cut(client)
    client.shutdown()
