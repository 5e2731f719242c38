"""The gate in front of the exchange: what a kill switch stops, and from which moment on.

`desk` asks it before every attempt and sends inside `HaltGate.sending`; `gateway` shows every order request to `watch`;
`halts_keeper` closes and opens it. No I/O and no clock here.

**The moment.** A gate is closed for an account from the moment at which `apply` sets it under the gate's lock. An order
request passes the gate, under the same lock, when the connection stands and its first byte is about to be written (the
start of httpcore's `send_request_headers`), after every wait for the journal and for the rate budget. So a request that
passes before that moment is being written already, and one that comes to it afterwards is never begun: no byte of it
leaves. `wait_sent` then waits for the few that are being written, until their last byte is at the socket; only after it
is "gate closed" told to anybody. After that no new POST of an entry or a person's order leaves.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpx

from consumers.execute.halts_file import ALL_ACCOUNTS
from consumers.execute.journal_rows import halt_id
from infra.errors import ObservatorError
from infra.upbit.pace import Rank, errand
from streams.messages import Halt, OrderIntent, Purpose

PASSING: frozenset[Purpose] = frozenset({"exit", "protective-exit"})
"""What a halt never stops: it closes something that we hold."""
_BEGINS = "send_request_headers.started"
_SENT = ("send_request_body.complete", "send_request_body.failed", "send_request_headers.failed")
_RANKS: dict[Purpose, Rank] = {
    "protective-exit": Rank.PROTECTIVE, "exit": Rank.EXIT, "manual": Rank.MANUAL, "entry": Rank.ENTRY,
}  # fmt: skip


class Halted(ObservatorError):  # noqa: N818 - named by what happened
    """The gate is closed for this request: no byte of it was sent."""


class Permit:
    """One order request on its way to the gate and through it."""

    def __init__(self, gate: "HaltGate", account: str) -> None:
        self._gate = gate
        self._account = account
        self._is_inside = False

    def check(self) -> None:
        """Raise `Halted` where the gate is closed."""
        if kind := self._gate.halt_of(self._account):
            raise Halted(f"the account is halted ({kind})")

    def trace(self, event: str) -> None:
        """One of httpcore's trace events; raises `Halted` at the first byte where the gate is closed."""
        if event.endswith(_BEGINS):
            self._gate.enter(self._account)
            self._is_inside = True
        elif event.endswith(_SENT):
            self.leave()

    def leave(self) -> None:
        """Its last byte is at the socket, or none will be."""
        if self._is_inside:
            self._is_inside = False
            self._gate.leave(self._account)


_permit: ContextVar[Permit | None] = ContextVar("permit", default=None)


class HaltGate:
    """The kill switches in force, and the requests that are being written. Threads share it."""

    def __init__(self, on_close: Callable[[], None] = lambda: None) -> None:
        """`on_close` is called after every closing: who waits for the rate budget then asks again."""
        self._on_close = on_close
        self._changed = threading.Condition()
        self._halts: dict[str, Halt] = {}
        self._seen: set[str] = set()
        self._writing: Counter[str] = Counter()

    # --- what holds

    def start_from(self, halts: list[Halt], seen: set[str]) -> None:
        """What the executor's database knows; what was applied before from files stays on top of it."""
        with self._changed:
            before, self._halts = self._halts, {halt.account: halt for halt in halts}
            later = [halt for halt in before.values() if halt_id(halt) not in seen]
            self._seen |= seen
            for halt in later:
                self._put(halt)

    def apply(self, halt: Halt) -> bool | None:
        """Take over a kill switch or its end; True where it holds from now on, False where it is older than what it
        would lift, None where this very one was taken over before.
        """
        with self._changed:
            if halt_id(halt) in self._seen:
                return None
            self._seen.add(halt_id(halt))
            is_in_force = self._put(halt)
        if is_in_force and halt.kind != "lifted":
            self._on_close()
        return is_in_force

    def _put(self, halt: Halt) -> bool:
        if is_in_force := holds_after(halt, self._halts.get(halt.account)):
            self._halts[halt.account] = halt
        return is_in_force

    def halts(self) -> dict[str, Halt]:
        """The newest kill switch, or end of one, by account."""
        with self._changed:
            return dict(self._halts)

    def halt_of(self, account: str) -> str:
        """The kind of halt that holds for an account, its own or everybody's, the harder one; empty for none."""
        found = (self._halts.get(account), self._halts.get(ALL_ACCOUNTS))
        return max((halt.kind for halt in found if halt is not None and halt.kind != "lifted"), default="")

    def refusal(self, account: str, purpose: Purpose) -> str:
        """Why an order of this purpose must not be sent; empty where it may."""
        if purpose in PASSING or not (kind := self.halt_of(account)):
            return ""
        return f"the account is halted ({kind})"

    # --- requests

    @contextmanager
    def sending(self, intent: OrderIntent) -> Iterator[None]:
        """Around the one request of an attempt: it keeps its rank in the rate budget and passes the gate, or not."""
        permit = None if intent.purpose in PASSING else Permit(self, intent.account)
        token = _permit.set(permit)
        try:
            with errand(rank_of(intent.purpose), None if permit is None else permit.check):
                yield
        finally:
            _permit.reset(token)
            if permit is not None:
                permit.leave()

    def enter(self, account: str) -> None:
        """Pass the gate; raises `Halted`."""
        with self._changed:
            if kind := self.halt_of(account):
                raise Halted(f"the account is halted ({kind})")
            self._writing[account] += 1

    def leave(self, account: str) -> None:
        """A request that passed is written."""
        with self._changed:
            self._writing[account] -= 1
            self._changed.notify_all()

    def wait_sent(self, account: str, timeout_s: float) -> bool:
        """Wait until nothing that passed the gate is being written any more; False where that did not come about."""

        def is_written() -> bool:
            return not (sum(self._writing.values()) if account == ALL_ACCOUNTS else self._writing[account])

        with self._changed:
            return self._changed.wait_for(is_written, timeout_s)


def holds_after(halt: Halt, current: Halt | None) -> bool:
    """A kill switch always holds; its end only where it is newer than what it lifts: a late one opens nothing."""
    return halt.kind != "lifted" or current is None or halt.event_ms > current.event_ms


def rank_of(purpose: Purpose) -> Rank:
    """The place of an order, and of all that is asked about it, in the rate budget."""
    return _RANKS[purpose]


def watch(request: httpx.Request, on_sent: Callable[[], None] | None) -> None:
    """Let a request that orders something pass the gate; `on_sent` is called when its last byte has left."""
    permit = _permit.get()
    if request.method != "POST" or (permit is None and on_sent is None):
        return

    def trace(event: str, _info: Any) -> None:
        if permit is not None:
            permit.trace(event)
        if on_sent is not None and event.endswith("send_request_body.complete"):
            on_sent()

    request.extensions = {**request.extensions, "trace": trace}
