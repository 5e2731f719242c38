"""How many POSTs an order takes under faults of the wire: counted by a server that stands in for the exchange.

A part of `verify orders`. The executor's own desk, journal, gateway and the official SDK send; the server answers every
POST with the same fault and knows no order afterwards, so that whoever sent twice is seen.
"""

import http.server
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path

from consumers.execute.attempts import Rules
from consumers.execute.clock import MarketClock
from consumers.execute.desk import ENDED, Desk, Parts, Task
from consumers.execute.gateway import UpbitGateway
from consumers.execute.journal import Journal
from consumers.execute.limits import RiskGate, RiskLimits
from infra.errors import Retry
from infra.log import Record
from streams.messages import OrderIntent

FAULTS = ("500", "503", "timeout", "dropped", "cut", "garbage", "duplicate", "429", "refused", "redirect")
TIMEOUT_S = 0.5
LONGEST_S = 20.0
RULES = Rules(longest_flight_s=0.1, settle_margin_s=0.0, look_up_every_s=0.02)
_NOT_FOUND = {"error": {"name": "order_not_found", "message": "no"}}
_ANSWERS: dict[str, tuple[int, object]] = {
    "500": (500, {"error": {"name": "internal_server_error", "message": "no"}}),
    "503": (503, {}),
    "garbage": (201, "this is no order"),
    "duplicate": (400, {"error": {"name": "duplicated_identifier", "message": "no"}}),
    "429": (429, {}),
    "refused": (400, {"error": {"name": "insufficient_funds_bid", "message": "no"}}),
    "redirect": (307, {}),
}


class _Exchange(http.server.ThreadingHTTPServer):
    """Answers every POST with one fault."""

    daemon_threads = True

    def __init__(self, fault: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fault = fault
        self.posts: Counter[str] = Counter()
        self.stop = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone is what the faults make."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Exchange
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Count it, then do what the fault says."""
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        self.server.posts[body["identifier"]] += 1
        fault = self.server.fault
        if fault == "timeout":
            self.server.stop.wait(LONGEST_S)
        if fault in {"timeout", "dropped"}:
            self.close_connection = True
        elif fault == "cut":
            self.send_response(201)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"uuid":')
            self.close_connection = True
        else:
            self._answer(*_ANSWERS[fault])

    def do_GET(self) -> None:
        """There is no order."""
        if self.path.startswith("/v1/orders/"):
            self._answer(200, [])
        else:
            self._answer(404, _NOT_FOUND)

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status == http.HTTPStatus.TEMPORARY_REDIRECT:
            self.send_header("Location", "/v1/orders")
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


def count_posts() -> dict[str, int]:
    """The most POSTs that any attempt took, by fault."""
    return {fault: _count(fault) for fault in FAULTS}


def _count(fault: str) -> int:
    with _serving(fault) as server, tempfile.TemporaryDirectory(prefix="observator-posts-") as home:
        journal = Journal(Path(home) / "execution.sqlite")
        gateway = UpbitGateway(f"http://127.0.0.1:{server.server_address[1]}", "key", "s" * 64, timeout_s=TIMEOUT_S)
        try:
            _play(journal, gateway)
        finally:
            gateway.close()
            journal.close()
        return max(server.posts.values(), default=0)


@contextmanager
def _serving(fault: str) -> Iterator[_Exchange]:
    server = _Exchange(fault)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _play(journal: Journal, gateway: UpbitGateway) -> None:
    """One entry from its decision to its end."""
    clock = MarketClock(time.monotonic, lambda: 0)
    desk = Desk(Parts(journal, gateway, RiskGate(RiskLimits(), time.monotonic), clock, time.monotonic, RULES))
    intent = OrderIntent(
        id="posts", account="paper", pocket="paper-main", exchange="upbit", market="KRW-BTC", side="buy",
        order_type="price", price=None, quantity=None, funds=Decimal(6000), time_in_force="", purpose="entry",
        cause_kind="signal", cause_id="posts", event_ms=0, expires_ms=10**15, reason="verify",
    )  # fmt: skip
    journal.add_intent(intent, Record("order-intents", 0, 0, 0, "", b""))
    steps: dict[str, Callable[[str], list[Task]]] = {"send": desk.send, "resolve": desk.resolve, "follow": desk.follow}
    tasks = [Task("send", intent.id)]
    end_s = time.monotonic() + LONGEST_S
    while tasks and time.monotonic() < end_s:
        task = tasks.pop(0)
        time.sleep(task.delay_s)
        try:
            tasks += [follower for follower in steps[task.kind](task.id) if follower.kind in steps]
        except Retry:
            tasks.append(task)  # a look-up that got no answer
    row = journal.intent(intent.id)
    if row is None or row.state not in ENDED:
        raise TimeoutError("an order did not come to its end")
