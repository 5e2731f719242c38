"""The gateway over HTTP: one request per attempt whatever happens, and every answer typed."""

import contextlib
import http.server
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal

import pytest

from consumers.execute.gateway import UpbitGateway
from consumers.execute.guard import check_address, is_loopback, remove_exchange_variables
from consumers.execute.venue import Accepted, Duplicate, KeyRefused, OrderRequest, Refused, Replacing, Unclear
from infra.errors import ExchangeUnavailable, Unsupported

SECRET = "s" * 64
BUY = OrderRequest("KRW-BTC", "bid", "price", Decimal(6000), None, "")
ORDER = {
    "uuid": "u-1",
    "market": "KRW-BTC",
    "side": "bid",
    "ord_type": "price",
    "state": "wait",
    "price": "6000",
    "executed_volume": "0",
    "paid_fee": "0",
    "identifier": "ob-x-1",
    "trades_count": 0,
}


class Server:
    """An HTTP server whose answer to everything is settable, and that counts requests."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.bodies: list[bytes] = []
        self.status = 201
        self.body: object = ORDER
        self.raw: bytes | None = None
        self.before: Callable[[], None] = lambda: None
        self.drops = False
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                outer.bodies.append(self.rfile.read(length))
                outer.counts[self.command] += 1
                outer.before()
                if outer.drops:
                    self.connection.shutdown(2)
                    self.close_connection = True
                    return
                data = outer.raw if outer.raw is not None else json.dumps(outer.body).encode()
                self.send_response(outer.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                if outer.status in {302, 307}:
                    self.send_header("Location", "/v1/orders")
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(data)

            do_GET = do_POST = do_DELETE = answer  # noqa: N815 - the library's names

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def error(self, status: int, name: str) -> None:
        self.status, self.body = status, {"error": {"name": name, "message": "no"}}


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def gateway(server: Server) -> Iterator[UpbitGateway]:
    gateway = UpbitGateway(server.url, "key", SECRET, timeout_s=0.3)
    yield gateway
    gateway.close()


def test_accepted_once(server: Server, gateway: UpbitGateway) -> None:
    answer = gateway.place(BUY, "ob-x-1")
    assert isinstance(answer, Accepted)
    assert answer.order.uuid == "u-1"
    assert server.counts["POST"] == 1
    sent = json.loads(server.bodies[0])
    assert sent == {
        "market": "KRW-BTC",
        "side": "bid",
        "ord_type": "price",
        "identifier": "ob-x-1",
        "price": "6000",
    }


@pytest.mark.parametrize("kind", ["500", "timeout", "dropped", "unreadable", "redirect", "502 of a proxy"])
def test_one_post_when_unclear(server: Server, gateway: UpbitGateway, kind: str) -> None:
    if kind == "500":
        server.error(500, "server_error")
    elif kind == "timeout":
        server.before = lambda: time.sleep(0.6)
    elif kind == "dropped":
        server.drops = True
    elif kind == "unreadable":
        server.raw = b'{"uuid": 3'
    elif kind == "redirect":
        server.status = 307
    else:
        server.status, server.raw = 502, b"<html>bad gateway</html>"
    assert isinstance(gateway.place(BUY, "ob-x-1"), Unclear)
    time.sleep(0.5 if kind == "timeout" else 0.05)
    assert server.counts["POST"] == 1


def test_one_post_when_refused(server: Server, gateway: UpbitGateway) -> None:
    server.error(400, "insufficient_funds_bid")
    assert gateway.place(BUY, "i") == Refused("insufficient_funds_bid", "no")
    server.error(401, "jwt_verification")
    assert gateway.place(BUY, "i") == Refused("jwt_verification", "no")
    server.error(400, "duplicated_identifier")
    assert gateway.place(BUY, "i") == Duplicate()
    server.status, server.raw = 429, b"Too many API requests."
    limited = gateway.place(BUY, "i")
    assert isinstance(limited, Refused)
    assert limited.is_passing
    assert server.counts["POST"] == 4
    server.status, server.raw = 400, b"not json"
    assert isinstance(gateway.place(BUY, "i"), Unclear)


def test_no_connection_is_proven(server: Server) -> None:
    server.server.shutdown()
    server.server.server_close()
    gateway = UpbitGateway(server.url, "key", SECRET, timeout_s=0.3)
    answer = gateway.place(BUY, "i")
    assert isinstance(answer, Refused)
    assert answer.is_passing
    with pytest.raises(ExchangeUnavailable):
        gateway.find("i")
    gateway.close()


def test_look_ups(server: Server, gateway: UpbitGateway) -> None:
    server.status = 200
    server.body = ORDER | {
        "state": "cancel",
        "executed_volume": "6",
        "paid_fee": "3",
        "trades": [{"uuid": "t-1", "price": "1000", "volume": "6", "funds": "6000"}],
    }
    order = gateway.find("ob-x-1")
    assert order is not None
    assert order.has_ended
    assert order.executions[0].funds == Decimal(6000)
    assert gateway.order("u-1") == order
    assert gateway.cancel("u-1")
    server.error(404, "order_not_found")
    assert gateway.find("i") is None
    assert not gateway.cancel("u-1")
    server.error(404, "something_else")
    with pytest.raises(ExchangeUnavailable):
        gateway.find("i")
    server.status, server.body = 200, [ORDER]
    assert [order.uuid for order in gateway.open_orders()] == ["u-1"]
    assert [order.uuid for order in gateway.closed_orders("KRW-BTC")] == ["u-1"]
    server.body = [{"currency": "KRW", "balance": "5.5", "locked": "0", "avg_buy_price": "0"}]
    assert gateway.holdings()[0].available == Decimal("5.5")
    server.body = {"unexpected": True}
    with pytest.raises(ExchangeUnavailable):
        gateway.holdings()


def test_told_when_the_order_has_left(server: Server) -> None:
    told: list[int] = []
    gateway = UpbitGateway(server.url, "key", SECRET, on_sent=lambda: told.append(server.counts["POST"]))
    server.before = lambda: time.sleep(0.05)
    gateway.place(BUY, "i")
    gateway.find("i")
    gateway.close()
    assert len(told) == 1


def test_only_this_machine() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert is_loopback("localhost")
    assert not is_loopback("api.upbit.com")
    assert not is_loopback("10.0.0.1")
    for address in ("https://api.upbit.com", "http://127.0.0.1.evil.example", ""):
        with pytest.raises(Unsupported):
            check_address(address)
    with pytest.raises(Unsupported):
        UpbitGateway("https://api.upbit.com", "key", SECRET)


def test_variables_are_removed() -> None:
    environ = {"UPBIT_ACCESS_KEY": "a", "UPBIT_BASE_URL": "b", "PATH": "c"}
    assert sorted(remove_exchange_variables(environ)) == ["UPBIT_ACCESS_KEY", "UPBIT_BASE_URL"]
    assert environ == {"PATH": "c"}


def test_the_whole_process_is_kept_from_the_real_exchange() -> None:
    code = """
import socket
from consumers.execute.guard import refuse_real_exchange
from infra.errors import Unsupported
refuse_real_exchange()
for host in ("api.upbit.com", "sg-api.upbit.com.", b"API.UPBIT.COM"):
    try:
        socket.getaddrinfo(host, 443)
    except Unsupported:
        continue
    raise SystemExit(f"{host} was looked up")
import httpx
try:
    httpx.get("https://api.upbit.com/v1/market/all")
except Unsupported:
    pass
socket.getaddrinfo("localhost", 80)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_hundred_at_a_time_and_one_post_for_a_replacement(server: Server, gateway: UpbitGateway) -> None:
    server.body = [ORDER]
    assert len(gateway.by_identifiers([f"ob-{number}-1" for number in range(250)])) == 3
    assert len(gateway.by_uuids(["u"])) == 1
    assert gateway.by_uuids([]) == []
    assert server.counts["GET"] == 4
    server.status, server.body = 200, ORDER | {"new_order_uuid": "new"}
    request = OrderRequest("KRW-BTC", "ask", "limit", Decimal(1000), Decimal(6), "post_only")
    assert gateway.replace("old", request, "ob-x-1") == Replacing("new")
    sent = json.loads(server.bodies[-1])
    assert sent == {
        "prev_order_uuid": "old", "new_ord_type": "limit", "new_identifier": "ob-x-1", "new_volume": "remain_only",
        "new_price": "1000", "new_time_in_force": "post_only",
    }  # fmt: skip
    server.error(500, "internal_server_error")
    assert isinstance(gateway.replace("old", request, "ob-x-2"), Unclear)
    server.error(400, "duplicated_identifier")
    assert isinstance(gateway.replace("old", request, "ob-x-2"), Duplicate)
    assert server.counts["POST"] == 3


def test_a_refused_key_is_told_and_stops_asking(server: Server) -> None:
    told: list[str] = []
    gateway = UpbitGateway(server.url, "key", SECRET, timeout_s=3.0, on_refused_key=told.append)
    request = OrderRequest("KRW-BTC", "bid", "price", Decimal(6000), None, "")
    server.error(400, "insufficient_funds_bid")
    gateway.place(request, "ob-x-1")
    assert told == []
    server.error(401, "expired_access_key")
    assert gateway.place(request, "ob-x-2") == Refused("expired_access_key", "no")
    with pytest.raises(KeyRefused):
        gateway.find("ob-x-2")
    assert told == ["expired_access_key", "expired_access_key"]
    gateway.close()
