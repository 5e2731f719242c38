"""What `verify halts` and `bench saturation` play on: broker, sandbox exchange with its limits, one executor, a wire.

Every account has a pocket of its own at the exchange, so that each has its own rate budget, as the exchange counts it.
"""

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from consumers.execute.halts_file import HaltFolder, Standing
from consumers.execute.verify_stage import POCKET, START_S, Executors, Sandbox
from consumers.verify.halts_wire import Wire
from infra.errors import Stop
from infra.kafka import KafkaLog
from infra.log import Publisher, TopicSpec
from infra.servers.jars import default_cache
from infra.servers.kafka import KafkaServer
from streams.messages import CancelIntent, OrderIntent, Purpose, encode
from streams.topics import TOPICS

INSTANCE = "halts"
CASH = "1000000000000"
PRICE = Decimal(1000)
"""Far below every market: an order at it rests."""
RULES = {
    "longest_flight_s": 4.0,
    "settle_margin_s": 0.2,
    "look_up_every_s": 0.2,
    "follow_slowest_s": 0.5,
    "pause_s": 0.2,
    "longest_pause_s": 1.0,
    "sweep_every_s": 1.0,
    "sweep_for_s": 60.0,
}
LIFE_MS = 120_000


class HaltStage:
    """Everything together; leaving it ends every process."""

    def __init__(
        self,
        accounts: Sequence[str],
        *,
        timeout_s: float = 3.0,
        rules: dict[str, float] | None = None,
        database: str = "",
    ) -> None:
        """`database` is the address of a PostgreSQL for the journal; empty: a file."""
        self.accounts = accounts
        self._database = database
        self._timeout_s = timeout_s
        self._rules = {**RULES, **(rules or {})}
        self._stack = ExitStack()
        self._numbers = itertools.count()
        self.home = Path()
        self.kafka: KafkaServer
        self.log: KafkaLog
        self.sandbox: Sandbox
        self.wire: Wire
        self.executors: Executors
        self.folder: HaltFolder
        self._publisher: Publisher | None = None

    def __enter__(self) -> Self:
        """Start everything; what was started is ended again where something fails."""
        with ExitStack() as stack:
            self.home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="observator-halts-")))
            self.folder = HaltFolder(self.home)
            self.kafka = KafkaServer(self.home, default_cache(os.environ), heap_mb=256)
            stack.callback(self.kafka.stop)
            self.kafka.start(START_S)
            self.log = stack.enter_context(KafkaLog(self.kafka.bootstrap, ""))
            specs = [TopicSpec(topic.name, topic.partitions, topic.config) for topic in TOPICS.values()]
            self.log.create_topics(specs)
            self.sandbox = Sandbox(self.home)
            stack.callback(self.sandbox.close)
            self.sandbox.start()
            for account in self.accounts:
                self.sandbox.control("POST", "/sandbox/accounts", {"access_key": account, "balances": {"KRW": CASH}})
            self.wire = stack.enter_context(Wire(self.sandbox.url))
            self.executors = Executors(self._options())
            stack.callback(self.executors.close)
            self.executors.begin()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End everything."""
        self.forget_publisher()
        self._stack.__exit__(kind, error, trace)

    def _options(self) -> dict[str, Any]:
        return {
            "home": str(self.home),
            "bootstrap": self.kafka.bootstrap,
            "prefix": "",
            "address": self.wire.url,
            "pocket": POCKET,
            "instance": INSTANCE,
            "database": self._database,
            "lease_s": 5.0,
            "timeout_s": self._timeout_s,
            "rules": self._rules,
            "logfile": str(self.home / "execute.log"),
        }

    # --- orders

    def intent(self, account: str, purpose: Purpose = "entry", **values: Any) -> OrderIntent:
        """A decision of now; by default a buy that rests."""
        now_ms = time.time_ns() // 1_000_000
        number = next(self._numbers)
        fields: dict[str, Any] = {
            "id": f"{account}-{number:06d}", "account": account, "pocket": account, "exchange": "upbit",
            "market": min(self.sandbox.prices), "side": "buy", "order_type": "limit", "price": PRICE,
            "quantity": Decimal(10), "funds": None, "time_in_force": "", "purpose": purpose,
            "cause_kind": "signal", "cause_id": str(number), "event_ms": now_ms,
            "expires_ms": now_ms + LIFE_MS, "reason": "verify",
        }  # fmt: skip
        return OrderIntent(**(fields | values))

    def publish(self, *intents: OrderIntent | CancelIntent) -> None:
        """Into `order-intents`, as `trade` would."""
        if self._publisher is None:
            self._publisher = self.log.publisher(linger_ms=0)
        for intent in intents:
            self._publisher.publish("order-intents", intent.pocket, encode(intent))

    def forget_publisher(self) -> None:
        """Before the broker goes away."""
        if self._publisher is not None:
            publisher, self._publisher = self._publisher, None
            publisher.close()

    def must_live(self) -> None:
        """Raise where the executor has ended by itself."""
        if self.executors.has_ended():
            last = (self.home / "execute.log").read_text(errors="replace")[-2_000:]
            raise Stop(f"the executor has ended: {last}")

    # --- the executor's word

    def standings(self) -> dict[str, Standing]:
        """What the executor says of every account with a halt."""
        answer = self.folder.answer()
        return {} if answer is None else answer.standings

    def truth(self) -> list[dict[str, Any]]:
        """Every order that the exchange ever accepted."""
        found: list[dict[str, Any]] = self.sandbox.control("GET", "/sandbox/truth")["orders"]
        return found


def account_of(identifier: str) -> str:
    """Whose order an identifier is (`intent` names them so)."""
    return identifier.partition("-")[2].partition("-")[0]


def wait_for(check: Callable[[], bool], timeout_s: float, every_s: float = 0.02) -> bool:
    """Whether it came about in time."""
    end_s = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > end_s:
            return False
        time.sleep(every_s)
    return True
