"""A deployment with marked keys in which everything happens that touches a key; `secrets` searches what it left.

Broker, sandbox exchange and processes are real. The sandbox has a run folder of its own and stands for the exchange:
its keys are ours to choose there, so every access key and secret begins with the run's marker. The executor speaks to
it over a wire that can break answers. Keys are handed over by the command line itself, as people do it.
"""

import json
import secrets
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from consumers.execute.keys_content import sealed_for
from consumers.verify.deployment import Deployment, deployment
from consumers.verify.processes import Children, wait_until
from consumers.verify.secrets_canaries import POCKET, YEAR_MS, Canaries, now_ms, prepare_exchange
from consumers.verify.secrets_wire import Wire
from infra.configuration import save
from infra.log import slots_of
from infra.secrets import Secret
from infra.secrets_box import PUBLIC, id_of, put_pairs, read_public
from infra.servers.ports import port_of
from infra.settings import Settings
from streams import topics
from streams.messages import KeyDeposited, Message, OrderFilled, OrderIntent, encode, tag_of

ACCOUNT = "canary"
MARKET = "KRW-BTC"
START_S = 240.0
STEP_S = 150.0
"""A pocket whose key the exchange refused is tried again after a minute."""
FULL = ("feed", "streams", "predict", "trade", "execute", "views", "archive", "page", "api")
QUICK = ("feed", "trade", "execute", "views", "api")
API_TOKEN = "API's token"  # noqa: S105 - what it is called in the results


@dataclass(slots=True)
class Happened:
    """What the run did, and everything that was said to people meanwhile."""

    counts: dict[str, int] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What did not happen as it must; empty in a run that counts."""

    def count(self, what: str, number: int = 1) -> None:
        """Something happened."""
        self.counts[what] = self.counts.get(what, 0) + number

    def require(self, what: str, *, is_so: bool) -> None:
        """Something must have happened."""
        if not is_so:
            self.wrong.append(what)


class Stage:
    """The running deployment, its exchange, and the people who act."""

    def __init__(self, running: Deployment, wire: Wire, canaries: Canaries, exchange: Path) -> None:
        self.running = running
        self.wire = wire
        self.canaries = canaries
        self.happened = Happened()
        self._exchange = exchange
        self._port = port_of(exchange, "sandbox")
        self._number = 0
        self._answer = ""

    @property
    def home(self) -> Path:
        """The deployment's run folder."""
        return self.running.settings.home

    # --- people

    def command(self, *arguments: str, given: str = "", expected: int = 0) -> dict[str, Any]:
        """A verb of the command line with `given` on its standard input; what it says is kept."""
        file = str(self.home / "settings.json")
        done = subprocess.run(  # noqa: S603 - our own interpreter and arguments
            [sys.executable, "-P", "-m", "observator", "--settings", file, *arguments],
            input=given,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        self.happened.said += [done.stdout, done.stderr]
        self.happened.count("verbs called")
        self.happened.require(f"{arguments[:2]} ended with {done.returncode}", is_so=done.returncode == expected)
        try:
            found = json.loads(done.stdout.splitlines()[-1])
        except (ValueError, IndexError):
            return {}
        return found if isinstance(found, dict) else {"rows": found}

    def hand_over(self, verb: str, name: str, access_key: str, secret_key: str, expected: str) -> None:
        """`keys add` or `keys rotate`; `expected` is the state, or the reason of a refusal."""
        given = json.dumps({"access_key": access_key, "secret_key": secret_key})
        code = 0 if expected == "taken" else 1
        named = ("--account", ACCOUNT, "--pocket", POCKET, "--key", name)
        found = self.command("keys", verb, *named, "--from", "-", "--wait", "30", "--json", given=given, expected=code)
        self.happened.count(f"keys: {expected}")
        state = found.get("state") if expected == "taken" else found.get("reason")
        self.happened.require(f"the key {name} is {state}, not {expected}", is_so=state == expected)

    def publish(self, topic: str, value: Message | bytes) -> None:
        """Put a record into a topic."""
        publisher = self.running.log.publisher(linger_ms=0)
        publisher.publish(topic, ACCOUNT, value if isinstance(value, bytes) else encode(value))
        publisher.flush()
        publisher.close()

    def box(self, name: str, account: str = ACCOUNT) -> KeyDeposited:
        """A sealed key whose outside may say another account than its inside."""
        public = read_public(self.home / PUBLIC)
        access, secret = self.canaries.access(name), Secret(self.canaries.secret(name))
        sealed = sealed_for(public, ACCOUNT, POCKET, name, access, secret)
        return KeyDeposited(
            account=account,
            pocket=POCKET,
            key_id=name,
            sealed=sealed,
            public_key_id=id_of(public),
            event_ms=now_ms(),
            by="verify secrets",
        )

    # --- orders

    def order(self, count: int, *, must_fill: bool = True) -> None:
        """Orders, one after the other; waits until each has ended."""
        intents = [self.intent() for _ in range(count)]
        for intent in intents:
            self.publish("order-intents", intent)
        ids = {intent.id for intent in intents}
        try:
            wait_until(lambda: self._ended(ids) == ids, STEP_S, "orders")
        except TimeoutError:
            self.happened.wrong.append(f"{len(ids - self._ended(ids))} orders did not end")
        filled = {one.intent_id for one in self._events() if isinstance(one, OrderFilled)} & ids
        self.happened.count("orders filled", len(filled))
        self.happened.count("orders refused", len(ids - filled))
        self.happened.require(f"{len(filled)} of {count} orders filled", is_so=not must_fill or len(filled) == count)

    def intent(self) -> OrderIntent:
        """A small market buy that never comes too late."""
        self._number += 1
        at_ms = now_ms()
        return OrderIntent(
            id=f"secrets{self._number:04d}{secrets.token_hex(4)}",
            account=ACCOUNT,
            pocket=POCKET,
            exchange="upbit",
            market=MARKET,
            side="buy",
            order_type="price",
            price=None,
            quantity=None,
            funds=Decimal(6000),
            time_in_force="",
            purpose="entry",
            cause_kind="signal",
            cause_id=str(self._number),
            event_ms=at_ms,
            expires_ms=at_ms + YEAR_MS,
            reason="verify secrets",
        )

    def _events(self) -> list[Any]:
        log = self.running.log
        bounds = log.bounds(slots_of(log, ["order-events"]))
        reader = log.reader({slot: begin for slot, (begin, _) in bounds.items()})
        found = []
        while any(reader.position(slot) < end for slot, (_, end) in bounds.items()):
            found += [topics.decode(one.topic, one.value) for one in reader.read(1000, 1.0)]
        reader.close()
        return found

    def _ended(self, ids: set[str]) -> set[str]:
        ended = {"order-rejected", "order-expired", "order-cancelled"}
        return {
            one.intent_id
            for one in self._events()
            if getattr(one, "intent_id", "") in ids
            and (tag_of(type(one)) in ended or (isinstance(one, OrderFilled) and one.is_final))
        }

    # --- the exchange

    def fault(self, name: str, **values: Any) -> None:
        """Something goes wrong there."""
        self._control("POST", "/sandbox/faults", {"name": name, **values})
        self.happened.count("faults")

    def clear_faults(self) -> None:
        """All is well there again."""
        self._control("DELETE", "/sandbox/faults")

    def _control(self, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        token = (self._exchange / "run" / "secrets" / "sandbox-control").read_text().strip()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - our own address
            answer.read()


@contextmanager
def stage(canaries: Canaries, names: tuple[str, ...]) -> Iterator[Stage]:
    """Everything running: the broker, the exchange behind the wire, the deployment."""
    with ExitStack() as stack:
        exchange = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="observator-exchange-")))
        prepare_exchange(exchange, canaries)
        wire = stack.enter_context(Wire(port_of(exchange, "sandbox")))
        feed = {"kind": "synthetic", "market_count": 3, "warmup_seconds": 0, "books_per_second": 2.0}
        described = {"feed": feed, "sandbox": {"port": wire.port}, "streams": {"runner": "loop"}}
        running = stack.enter_context(deployment(described))
        _start_exchange(stack, exchange, running.settings)
        folder = running.settings.home / "run" / "secrets"
        folder.mkdir(parents=True, mode=0o700)
        (folder / POCKET).write_text(canaries.plain("secret in the executor's file"))
        (folder / POCKET).chmod(0o600)
        (folder / "api-token").touch(mode=0o600)
        (folder / "api-token").write_text(canaries.plain(API_TOKEN))
        put_pairs(running.settings.home, [canaries.pair("executor's private key")])
        running.start(*names)
        wait_until((running.settings.home / PUBLIC).exists, START_S, "the executor's public key")
        yield Stage(running, wire, canaries, exchange)


def _start_exchange(stack: ExitStack, home: Path, settings: Settings) -> None:
    """The sandbox in a run folder of its own, on the port behind the wire."""
    port = port_of(home, "sandbox")
    own = settings.model_copy(update={"home": home, "sandbox": settings.sandbox.model_copy(update={"port": port})})
    save(own, home / "settings.json")
    children = stack.enter_context(Children(home))
    environ = {"OBSERVATOR_SETTINGS": str(home / "settings.json")}
    children.start("sandbox", ["-m", "observator", "process", "sandbox"], environ)

    def answers() -> bool:
        children.require_alive()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/sandbox/status", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    wait_until(answers, START_S, "the sandbox exchange")
