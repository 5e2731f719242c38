"""The pockets that one executor works for: each with its key, its rate budget, its way to the exchange and its desk.

Made when a pocket is first needed, cheap enough for a thousand: all share the connections, which close when they are
idle. A pocket without a key, or with one that the exchange refuses, orders nothing and asks nothing, until its key is
another one; the others do not notice. `executor` owns them.
"""

import logging
from collections.abc import Callable, Sequence
from threading import Lock

from consumers.execute.desk import Desk, Task
from consumers.execute.gateway import UpbitGateway
from consumers.execute.interference_watch import Watch
from consumers.execute.keyring import ExchangeKey, KeyRing
from consumers.execute.limits import Refusal
from consumers.execute.reconcile import Reconciliation
from consumers.execute.venue import KEY_RETRY_S, Answer, Holding, KeyRefused, Order, OrderRequest, Refused
from infra.upbit.pace import Pace

logger = logging.getLogger(__name__)

ASK_AGAIN_S, LONGEST_S = 1.0, 60.0
"""A refused key is tried again after the first, then after twice as long each time, up to the second: a refusal may be
false, and an address or a right may have been mended at the exchange.
"""
Connect = Callable[[ExchangeKey, Pace, Callable[[str], None]], UpbitGateway]


class PocketVenue:
    """The exchange as one pocket sees it, with whatever key is the pocket's at the moment. Threads may share it."""

    def __init__(self, pocket: str, keys: KeyRing, connect: Connect, now_s: Callable[[], float]) -> None:
        self.pace = Pace()
        self._pocket = pocket
        self._keys = keys
        self._connect = connect
        self._now_s = now_s
        self._lock = Lock()
        self._key: ExchangeKey | None = None
        self._gateway: UpbitGateway | None = None
        self._refused: tuple[ExchangeKey, str] | None = None
        self._pause_s = self._again_s = 0.0

    def trouble(self) -> Refusal | None:
        """Why nothing can be ordered now."""
        key = self._keys.key_of(self._pocket)
        if key is None:
            return Refusal("no-key", f"there is no key here for {self._pocket}")
        with self._lock:
            if self._refused is None or self._refused[0] != key or self._now_s() >= self._again_s:
                return None
            return Refusal("key-refused", f"the exchange refuses the key of {self._pocket} ({self._refused[1]})")

    def _open(self) -> UpbitGateway:
        """The way to the exchange; raises `KeyRefused`."""
        if (trouble := self.trouble()) is not None:
            raise KeyRefused(trouble.text, self._left_s() if trouble.name == "key-refused" else KEY_RETRY_S)
        key = self._keys.key_of(self._pocket)
        if key is None:
            raise KeyRefused(f"there is no key here for {self._pocket}")
        with self._lock:
            if self._gateway is None or key != self._key:
                self._gateway = self._connect(key, self.pace, lambda reason: self._note(key, reason))
                self._key = key
            return self._gateway

    def _left_s(self) -> float:
        """Until a refused key is tried again."""
        with self._lock:
            return max(self._again_s - self._now_s(), 0.0)

    def _note(self, key: ExchangeKey, reason: str) -> None:
        """The exchange refuses the key: this pocket stops for a while; said once. What was under way already when it
        stopped does not make it stop for longer.
        """
        with self._lock:
            now_s = self._now_s()
            is_new = self._refused is None or self._refused[0] != key
            if is_new or now_s > self._again_s + LONGEST_S:
                self._pause_s = ASK_AGAIN_S
            elif now_s >= self._again_s:
                self._pause_s = min(self._pause_s * 2, LONGEST_S)
            self._refused = key, reason
            if is_new or now_s >= self._again_s:
                self._again_s = now_s + self._pause_s
        if is_new:
            logger.error("the exchange refuses the key of %s (%s): the pocket stops", self._pocket, reason)
            self._keys.refused(self._pocket, reason)

    def place(self, request: OrderRequest, identifier: str) -> Answer:
        """One order; refused here where there is no key."""
        try:
            gateway = self._open()
        except KeyRefused as error:
            return Refused("no-key", str(error))
        return gateway.place(request, identifier)

    def replace(self, uuid: str, request: OrderRequest, identifier: str) -> Answer:
        """One cancel-and-replace; refused here where there is no key."""
        try:
            gateway = self._open()
        except KeyRefused as error:
            return Refused("no-key", str(error))
        return gateway.replace(uuid, request, identifier)

    def find(self, identifier: str) -> Order | None:
        """The order with this identifier."""
        return self._open().find(identifier)

    def by_identifiers(self, identifiers: Sequence[str]) -> list[Order]:
        """Those of many identifiers."""
        return self._open().by_identifiers(identifiers)

    def by_uuids(self, uuids: Sequence[str]) -> list[Order]:
        """Those of many ids."""
        return self._open().by_uuids(uuids)

    def order(self, uuid: str) -> Order | None:
        """The order with this id and its executions."""
        return self._open().order(uuid)

    def open_orders(self) -> list[Order]:
        """All open orders of the pocket."""
        return self._open().open_orders()

    def closed_orders(self, market: str) -> list[Order]:
        """The newest ended orders of a market."""
        return self._open().closed_orders(market)

    def cancel(self, uuid: str) -> bool:
        """Ask for an order's cancellation."""
        return self._open().cancel(uuid)

    def holdings(self) -> list[Holding]:
        """What the pocket holds."""
        return self._open().holdings()


class Pocket:
    """One pocket at work. Until it is ready its tasks are parked here."""

    def __init__(self, name: str, venue: PocketVenue, desk: Desk, reconciliation: Reconciliation, watch: Watch) -> None:
        self.name = name
        self.venue = venue
        self.desk = desk
        self.reconciliation = reconciliation
        self.watch = watch
        self._lock = Lock()
        self._is_ready = False
        self._parked: list[Task] = []

    @property
    def is_ready(self) -> bool:
        """Whether journal and exchange agree, so that it may trade."""
        return self._is_ready

    def park(self, task: Task) -> bool:
        """Keep a task until the pocket is ready; False where it is."""
        with self._lock:
            if not self._is_ready:
                self._parked.append(task)
            return not self._is_ready

    def open(self) -> list[Task]:
        """Ready from here on: what was parked."""
        with self._lock:
            self._is_ready = True
            parked, self._parked = self._parked, []
            return parked

    def unsendable(self) -> list[Task]:
        """Parked orders of a pocket that cannot order anything: to be refused at once."""
        with self._lock:
            sends = [task for task in self._parked if task.kind == "send"]
            self._parked = [task for task in self._parked if task.kind != "send"]
            return sends


class Pockets:
    """All pockets of this executor, by name."""

    def __init__(self, make: Callable[[str], Pocket]) -> None:
        self._make = make
        self._pockets: dict[str, Pocket] = {}
        self._lock = Lock()

    def find(self, name: str) -> tuple[Pocket, bool]:
        """The pocket, and whether it was made just now."""
        with self._lock:
            pocket = self._pockets.get(name)
            if pocket is not None:
                return pocket, False
            pocket = self._pockets[name] = self._make(name)
            return pocket, True

    def pace_of(self, name: str) -> Pace | None:
        """The rate budget of a pocket that was needed already."""
        with self._lock:
            pocket = self._pockets.get(name)
            return pocket.venue.pace if pocket is not None else None

    def names(self) -> list[str]:
        """All that were needed so far."""
        with self._lock:
            return list(self._pockets)

    def wake(self) -> None:
        """Whoever waits for a rate budget asks again whether it may still send."""
        with self._lock:
            pockets = list(self._pockets.values())
        for pocket in pockets:
            pocket.venue.pace.wake()
