"""Gives every task to the desk of its pocket, in the lane where it waits behind nothing less urgent.

`executor` owns one. A pocket is made, and brought to agree with the exchange, when its first task comes; until then its
tasks are parked, and those of other pockets go on.
"""

import logging
import time
from collections.abc import Callable
from threading import Event

import httpx

from consumers.execute.clock import MarketClock
from consumers.execute.crash import Reach, reach_nothing
from consumers.execute.desk import Desk, Parts, Task
from consumers.execute.gateway import UpbitGateway
from consumers.execute.halts import PASSING, HaltGate, rank_of
from consumers.execute.interference_watch import Watch
from consumers.execute.journal import Journal
from consumers.execute.keyring import ExchangeKey, KeyRing
from consumers.execute.lanes import Lane
from consumers.execute.limits import RiskGate
from consumers.execute.options import Options
from consumers.execute.pockets import Pocket, Pockets, PocketVenue
from consumers.execute.reconcile import Reconciliation
from consumers.execute.venue import Holding, KeyRefused
from infra.upbit.pace import Pace, Rank, errand
from streams.messages import Purpose

logger = logging.getLogger(__name__)

WORKERS = 16
URGENT_SHARE = 3
ORDINARY_SHARE = 1
"""Of a lane's threads for one pocket. Entries go one by one: each asks first what became of the one before."""
BALANCE_S = 0.5
IDLE_S = 30.0
KEPT_CONNECTIONS = 64
CLOSED_S = 0.2
"""Between two looks whether entries may be sent already."""
RECENT_S = 120.0
MOST_PLACES = 10_000
EVERY_NTH = 12
"""Attempts given up longer ago than `RECENT_S` are looked for in every so manieth sweep."""
_OF_POCKET = frozenset({"start", "poll", "sweep", "balances", "look"})
_LOOKS = frozenset({"follow", "poll", "sweep", "balances", "look"})
"""What only looks at what became of orders; no entry waits behind it."""


class Dispatch:
    """Lanes, pockets and who does what. Threads may share it."""

    def __init__(
        self,
        options: Options,
        keys: KeyRing,
        journal: Journal,
        clock: MarketClock,
        gate: RiskGate,
        halts: HaltGate,
        reach: Reach,
        on_holdings: Callable[[str, list[Holding], int], None],
        on_open: Callable[[str], None],
        live: Callable[[str, str], str] = lambda _account, _pocket: "",
    ) -> None:
        """`on_holdings` takes what a pocket holds, `on_open` hears of pockets that have orders at the exchange,
        `live` says why an order for real money is not sent.
        """
        self._options = options
        self._keys = keys
        self._journal = journal
        self._clock = clock
        self._gate = gate
        self._halts = halts
        self._reach = reach
        self._on_holdings = on_holdings
        self._on_open = on_open
        self._live = live
        self._sweeps = 0
        self._is_open = Event()
        self.pockets = Pockets(self._make)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=KEPT_CONNECTIONS, keepalive_expiry=IDLE_S)
        self._transport = httpx.HTTPTransport(limits=limits, trust_env=False)
        self._places: dict[str, tuple[str, Purpose]] = {}
        now_s = time.monotonic
        self._urgent = Lane("protective exits and cancels", self._run, self.route, now_s, WORKERS, URGENT_SHARE)
        self._exits = Lane("exits", self._run, self.route, now_s, WORKERS, URGENT_SHARE)
        self._ordinary = Lane("entries", self._run, self.route, now_s, WORKERS, ORDINARY_SHARE)
        self._people = Lane("people's orders", self._run, self.route, now_s, WORKERS, ORDINARY_SHARE)
        self._looks = Lane("looks", self._run, self.route, now_s, WORKERS, ORDINARY_SHARE)
        self._lanes = {
            "protective-exit": self._urgent, "exit": self._exits, "manual": self._people, "entry": self._ordinary,
            "": self._looks,
        }  # fmt: skip

    # --- pockets

    def _make(self, name: str) -> Pocket:
        options, rules = self._options, self._options.rules
        venue = PocketVenue(name, self._keys, self._connect, time.monotonic)
        parts = Parts(
            journal=self._journal,
            venue=venue,
            gate=self._gate,
            clock=self._clock,
            now_s=time.monotonic,
            rules=rules,
            instance=options.instance,
            pocket=name,
            reach=self._reach,
            on_fill=lambda: self.route(Task("balances", name, BALANCE_S)),
            halts=self._halts,
            trouble=venue.trouble,
            live=self._live,
        )
        desk = Desk(parts)
        start = Reconciliation(desk, self._journal, venue, name, rules.look_up_every_s)
        return Pocket(name, venue, desk, start, Watch(self._journal, name, options.instance, rules.look_for_others_s))

    def _connect(self, key: ExchangeKey, pace: Pace, on_refused: Callable[[str], None]) -> UpbitGateway:
        """A way to the exchange over the connections that all pockets share."""
        reach = self._reach
        return UpbitGateway(
            self._options.address,
            key.access_key,
            key.secret_key,
            timeout_s=self._options.timeout_s,
            on_sent=None if reach is reach_nothing else lambda: reach("after_send"),
            pace=pace,
            transport=self._transport,
            on_refused_key=on_refused,
        )

    # --- lanes

    def route(self, task: Task) -> None:
        """Put a task into its lane: nothing waits behind what is less urgent."""
        name, purpose = self._where(task)
        if name is None:
            return
        lane = self._lane_of(task, purpose)
        if self.pockets.find(name)[1] and task.kind != "start":
            self._ordinary.put(Task("start", name, pocket=name))
        lane.put(task._replace(pocket=name))

    def _lane_of(self, task: Task, purpose: Purpose | None) -> Lane:
        if task.kind == "cancel":
            return self._urgent
        if task.kind in _LOOKS and purpose in {None, "entry"}:
            return self._looks
        return self._lanes[purpose or "entry"]

    def _where(self, task: Task) -> tuple[str | None, Purpose | None]:
        """A task's pocket, and the purpose of its order; no pocket where there is nothing to do."""
        if task.kind in _OF_POCKET:
            return task.id, None
        if task.kind == "cancel":
            cancel = self._journal.cancel(task.id)
            return (cancel.pocket if cancel else None), None
        intent_id = task.id
        if task.kind != "send":
            attempt = self._journal.attempt(task.id)
            intent_id = attempt.intent_id if attempt else ""
        return self._place_of(intent_id) or (None, None)

    def _place_of(self, intent_id: str) -> tuple[str, Purpose] | None:
        """Pocket and purpose of an intent, remembered once it is journalled."""
        found = self._places.get(intent_id)
        if found is None and (found := self._journal.place_of(intent_id)) is not None:
            if len(self._places) >= MOST_PLACES:
                self._places.clear()
            self._places[intent_id] = found
        return found

    def wake(self, identifier: str) -> None:
        """The exchange says that an order changed: look at it now."""
        if self._journal.attempt(identifier) is not None:
            self.route(Task("follow", identifier))

    def begin(self) -> None:
        """Start the lanes, and the pockets that have something to do. Nothing is opened before `open`."""
        for name in {self._options.pocket, *self._journal.busy_pockets()}:
            self.route(Task("start", name))
        for lane in self._lanes.values():
            lane.start()

    def open(self) -> None:
        """From here on entries and orders of people are sent too."""
        self._is_open.set()

    def sweep(self) -> None:
        """Plan a look for orders that were given up: the recent ones each time, old ones now and then."""
        self._sweeps += 1
        kept_s = self._options.rules.sweep_for_s
        since_s = kept_s if self._sweeps % EVERY_NTH == 0 else min(RECENT_S, kept_s)
        for name in self._journal.pockets_given_up(self._clock.wall_ms() - int(since_s * 1000)):
            self.route(Task("sweep", name))

    def end(self, timeout_s: float) -> bool:
        """Start nothing more; False where something still ran after the time-out."""
        are_closed = [lane.close(timeout_s) for lane in self._lanes.values()]  # every one, whatever the first says
        return all(are_closed)

    def close(self) -> None:
        """Close the connections to the exchange."""
        self._transport.close()

    @property
    def failure(self) -> BaseException | None:
        """What a lane ended by."""
        return next((lane.failure for lane in self._lanes.values() if lane.failure is not None), None)

    # --- tasks

    def _run(self, task: Task) -> list[Task]:
        pocket, _ = self.pockets.find(task.pocket)
        with errand(self._rank(task)):
            if task.kind == "start":
                return self._start(pocket)
            if task.kind == "send" and not self._is_open.is_set() and self._where(task)[1] not in PASSING:
                return [task._replace(delay_s=CLOSED_S)]
            is_refused = task.kind == "send" and pocket.venue.trouble() is not None
            if not is_refused and pocket.park(task):
                return []
            followers = self._steps(pocket)[task.kind](task.id)
        if any(follower.kind in {"follow", "poll", "resolve"} for follower in followers):
            self._on_open(pocket.name)
        return followers

    def _steps(self, pocket: Pocket) -> dict[str, Callable[[str], list[Task]]]:
        desk = pocket.desk
        return {
            "send": desk.send,
            "resolve": desk.resolve,
            "follow": desk.follow,
            "cancel": desk.cancel,
            "poll": lambda _: desk.poll(),
            "sweep": lambda _: desk.sweep(),
            "balances": lambda _: self._tell_balances(pocket),
            "look": lambda _: self._look(pocket),
        }

    def _rank(self, task: Task) -> Rank:
        """Whose call goes first within a pocket; its start holds up all of it."""
        if task.kind in {"start", "cancel"}:
            return Rank.PROTECTIVE
        purpose = self._where(task)[1]
        return Rank.ENTRY if purpose is None else rank_of(purpose)

    def _start(self, pocket: Pocket) -> list[Task]:
        """One step of a pocket's reconciliation; what cannot be sent for want of a key is refused meanwhile."""
        if pocket.is_ready:
            return []
        try:
            is_done, tasks = pocket.reconciliation.step(self._clock.wall_ms())
        except KeyRefused as error:
            return [*pocket.unsendable(), Task("start", pocket.name, error.retry_s)]
        if not is_done:
            return tasks
        self._reach("after_reconcile")
        logger.info("journal and exchange agree for %s, %d tasks go on", pocket.name, len(tasks))
        parked = pocket.open()
        return [*tasks, *parked, Task("balances", pocket.name), Task("look", pocket.name)]

    def _tell_balances(self, pocket: Pocket) -> list[Task]:
        self._on_holdings(pocket.name, pocket.venue.holdings(), self._clock.now_ms())
        return []

    def _look(self, pocket: Pocket) -> list[Task]:
        """Look for somebody else's hand."""
        pocket.watch.look(pocket.venue, self._clock.now_ms())
        return [Task("look", pocket.name, pocket.watch.next_s)]
