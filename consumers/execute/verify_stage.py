"""What `verify orders` plays on: a real broker, a real sandbox exchange, and executor processes that can be killed.

Called by `verify`. The sandbox is started as a process of its own through the command line, because rooms beside this
one are not imported; it is spoken to over HTTP and websocket only.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from websocket import WebSocket, WebSocketException

from infra.errors import ExchangeUnavailable
from infra.kafka import KafkaLog
from infra.log import TopicSpec
from infra.servers.jars import default_cache
from infra.servers.kafka import KafkaServer
from infra.servers.ports import port_of
from streams import topics

POCKET = "paper-main"
INSTANCE = "verify"
MARKETS = 4
START_S = 240.0
NEEDED = (
    "order-intents", "order-events", "order-requests", "controls", "markets", "balances", "dead-letters", "orderbooks",
    "features", "signals", "commands",
)  # fmt: skip
RULES = {
    "longest_flight_s": 1.0,
    "settle_margin_s": 0.2,
    "look_up_every_s": 0.1,
    "follow_slowest_s": 0.3,
    "pause_s": 0.2,
    "longest_pause_s": 1.0,
    "sweep_every_s": 0.3,
    "sweep_for_s": 60.0,
}
TIMEOUT_S = 1.0
PATIENCE_S = 120.0
"""With a process that ends, on a machine that has much else to do."""
LEASE_S = 0.5
"""On PostgreSQL: a killed executor's lease runs out so fast."""


class Sandbox:
    """The exchange's process; ended and started again at will, with the same data."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self.url = f"http://127.0.0.1:{port_of(home, 'sandbox')}"
        self._prices: dict[str, float] = {}
        self._is_open = True
        self._reader = threading.Thread(target=self._subscribe, name="subscription", daemon=True)

    def start(self) -> None:
        """Start it and wait until it answers and every market has a price."""
        self.starts += 1
        environ = {
            **os.environ,
            "OBSERVATOR_FEED__KIND": "synthetic",
            "OBSERVATOR_FEED__MARKET_COUNT": str(MARKETS),
            "OBSERVATOR_FEED__BOOKS_PER_SECOND": "2",
            "OBSERVATOR_FEED__WARMUP_SECONDS": "0",
            "OBSERVATOR_PAPER__POCKET": POCKET,
        }
        command = [sys.executable, "-m", "observator", "--home", str(self._home), "process", "sandbox"]
        with (self._home / "sandbox.out").open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
                command, cwd=self._home, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        end_s = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end_s:
                last = (self._home / "sandbox.out").read_text(errors="replace")[-2_000:]
                raise ExchangeUnavailable(f"the sandbox does not start: {last}")
            time.sleep(0.05)
        if self._reader.ident is None:
            self._reader.start()
        while len(self._prices) < MARKETS and time.monotonic() < end_s:
            time.sleep(0.05)

    @property
    def has_died(self) -> bool:
        """Whether it ended by itself (a fault that kills it)."""
        return self._process is not None and self._process.poll() is not None

    def kill(self) -> None:
        """`kill -9`, where it has not ended by itself."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def prices(self) -> dict[str, float]:
        """Best bid per market, as last seen."""
        return dict(self._prices)

    def close(self) -> None:
        """End it."""
        self._is_open = False
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._reader.ident is not None:
            self._reader.join(5)

    def control(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One call of the control interface."""
        token = (self._home / "run" / "secrets" / "sandbox-control").read_text().strip()
        request = urllib.request.Request(  # noqa: S310 - an address on this machine
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - same
            return json.loads(answer.read())

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + "/sandbox/status", timeout=2):  # noqa: S310 - same
                return True
        except OSError:
            return False

    def _subscribe(self) -> None:
        """Keep a subscription, so that the market moves; remember the best bids."""
        while self._is_open:
            socket = WebSocket()
            try:
                with urllib.request.urlopen(self.url + "/v1/market/all", timeout=2) as answer:  # noqa: S310 - same
                    codes = [row["market"] for row in json.loads(answer.read())][:MARKETS]
                socket.settimeout(2)
                address = f"ws{self.url.removeprefix('http')}/websocket/v1"
                socket.connect(address, http_no_proxy=["127.0.0.1"], suppress_origin=True)  # type: ignore[no-untyped-call]  # the library's
                socket.send(json.dumps([{"ticket": "verify"}, {"type": "orderbook", "codes": codes}]))
                while self._is_open:
                    book = json.loads(socket.recv())
                    if book.get("type") == "orderbook":
                        self._prices[book["code"]] = float(book["orderbook_units"][0]["bid_price"])
            except (WebSocketException, OSError, ValueError):
                time.sleep(0.2)
            finally:
                socket.close(timeout=1)
                socket.shutdown()  # type: ignore[no-untyped-call]  # `close` leaves it open where the other side closed first


class Executors:
    """Lives of the executor, one after the other."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        command = [sys.executable, "-m", "consumers.execute.verify_child", json.dumps(options)]
        self._parent = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._pid = 0
        self._ended = threading.Event()
        self._signal = 0

    def begin(self, point: str = "", nth: int = 1) -> None:
        """Begin a life that ends at the `nth` passage of `point`, or lives on."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(json.dumps({"point": point, "nth": nth}) + "\n")
        self._parent.stdin.flush()
        self._pid = int(json.loads(self._parent.stdout.readline())["pid"])
        self._ended = threading.Event()
        threading.Thread(target=self._wait, args=(self._ended,), daemon=True).start()

    def _wait(self, ended: threading.Event) -> None:
        assert self._parent.stdout is not None
        self._signal = int(json.loads(self._parent.stdout.readline() or '{"signal": 9}')["signal"])
        ended.set()

    def has_ended(self, timeout_s: float = 0.0) -> bool:
        """Whether the life is over."""
        return self._ended.wait(timeout_s)

    def kill(self) -> bool:
        """`kill -9`; whether it was this that ended the life."""
        if self.has_ended():
            return False
        os.kill(self._pid, signal.SIGKILL)
        self._ended.wait(10)
        return True

    def close(self) -> None:
        """End the last life and the parent."""
        if self._pid:
            self.kill()
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.close()
        self._parent.wait(PATIENCE_S)
        self._parent.stdout.close()


class Stage:
    """Everything together; leaving it ends every process."""

    def __init__(self, bootstrap: str = "", database: str = "") -> None:
        """`database` is the address of a PostgreSQL for the journal; empty: an SQLite file."""
        self._stack = ExitStack()
        self._bootstrap = bootstrap
        self._database = database
        self.home = Path()
        self.log: KafkaLog
        self.sandbox: Sandbox
        self.executors: Executors

    def __enter__(self) -> Self:
        """Start everything; what was started is ended again where something fails."""
        with ExitStack() as stack:
            self.home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="observator-orders-")))
            if not self._bootstrap:
                server = KafkaServer(self.home, default_cache(os.environ), heap_mb=256)
                stack.callback(server.stop)
                server.start()
                self._bootstrap = server.bootstrap
            prefix = f"verify-orders-{time.time_ns() // 1_000_000}-"
            self.log = stack.enter_context(KafkaLog(self._bootstrap, prefix))
            named = [topics.TOPICS[name] for name in NEEDED]
            self.log.create_topics([TopicSpec(topic.name, topic.partitions, topic.config) for topic in named])
            self.sandbox = Sandbox(self.home)
            stack.callback(self.sandbox.close)
            self.sandbox.start()
            self.executors = Executors(self.options())
            stack.callback(self.executors.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End everything."""
        self._stack.__exit__(kind, error, trace)

    def options(self) -> dict[str, Any]:
        """What an executor is told."""
        return {
            "home": str(self.home),
            "bootstrap": self._bootstrap,
            "prefix": self.log.prefix,
            "address": self.sandbox.url,
            "pocket": POCKET,
            "database": self._database,
            "lease_s": LEASE_S,
            "instance": INSTANCE,
            "timeout_s": TIMEOUT_S,
            "rules": RULES,
            "logfile": str(self.home / "execute.log"),
        }

    def rows(self, statement: str, values: Sequence[str] = ()) -> list[tuple[Any, ...]]:
        """What stands in the executor's journal, read beside the executor; nothing before its tables are there."""
        if self._database:
            try:
                with psycopg.connect(self._database, autocommit=True) as connection:
                    return connection.execute(statement.replace("?", "%s"), values).fetchall()
            except psycopg.errors.UndefinedTable:
                return []
        return self.rows_of(self.home / "db" / "execution.sqlite", statement, values)

    def rows_of(self, path: Path, statement: str, values: Sequence[str] = ()) -> list[tuple[Any, ...]]:
        """The same of a journal in a file."""
        if not path.exists():
            return []
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as connection:
                return connection.execute(statement, values).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return []
            raise
