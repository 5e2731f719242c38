"""People's requests inside the executor: read, journalled, fired when due, told.

`executor` runs `serve` in a thread. A request ends at the journal's primary key when it comes twice; a firing, its
count and its first order are one transaction, so each fires once, wherever the process is killed. Sending is `desk`'s:
what is journalled here goes through its limits like any order.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from threading import Event

import msgspec

from consumers.execute.crash import Reach, reach_nothing
from consumers.execute.desk_parts import Task
from consumers.execute.intake import bury
from consumers.execute.journal import Journal
from consumers.execute.requests import schedule, tell
from consumers.execute.requests.check import Problem, problem_of
from consumers.execute.requests.clock import RequestClock
from consumers.execute.requests.firings import Firings, is_assistable
from consumers.execute.requests.store import Kept, Store
from consumers.execute.requests.watch import Ask, Watch
from infra.errors import Retry, TopicMissing
from infra.log import Log, Record, Slot, slots_of
from streams import topics
from streams.market.patience import Patience
from streams.messages import OrderRequested, RequestCancelled, RequestChanged, RequestTold

logger = logging.getLogger(__name__)

TOPIC = "order-requests"
BATCH = 100
POLL_S = 0.05
TROUBLE_S = 0.25
SOON_MS = 30_000
"""A market is followed from so long before an order in it is due."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What it is put together from."""

    journal: Journal
    log: Log
    route: Callable[[Task], None]
    clock: RequestClock
    now_s: Callable[[], float]
    ask: Ask
    late_ms: int = 600_000
    """A time that was missed by more is not made up for."""
    speed: float = 1.0
    rule: Patience = field(default_factory=Patience)
    reach: Reach = reach_nothing
    on_price: Callable[[str, Decimal], None] = lambda _market, _price: None
    """Hears of prices that are known: for the executor's own limits."""


class Requests:
    """All requests of this executor; one thread calls it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._journal = parts.journal
        self._clock = parts.clock
        self._store = Store(parts.journal)
        bounds = parts.log.bounds(slots_of(parts.log, [TOPIC]))
        self._watch = Watch(parts.log, parts.clock, parts.now_s, parts.ask)
        self._firings = Firings(
            parts.journal, self._store, self._watch, parts.clock, parts.now_s, parts.rule,
            late_ms=parts.late_ms, speed=parts.speed, reach=parts.reach,
        )  # fmt: skip
        self._alive = {kept.request.id: kept for kept in self._store.alive()}
        self._waiting: deque[Record] = deque()  # read, but not taken: the reader will not bring them again
        self._reader = parts.log.reader({slot: self._start(slot, *bounds[slot]) for slot in bounds})

    def _start(self, slot: Slot, first: int, end: int) -> int:
        """Where to go on; a topic that was made anew since (its end lies before) is read from its start."""
        kept = self._journal.cursor(_name(slot))
        return max(first, kept) if kept <= end else first

    def close(self) -> None:
        """Leave; what is not journalled comes again."""
        self._reader.close()
        self._watch.close()

    def step(self, timeout_s: float = POLL_S) -> int:
        """Take what has come, fire what is due, carry on what fired; returns the number of records."""
        trouble: Retry | None = None
        count = 0
        try:
            count = self._read(timeout_s)
        except Retry as error:  # what is due is due without the log too: deadlines do not wait for it
            trouble = error
        for market, book in self._watch.books(self._priced()).items():
            if book.bids and book.asks:
                self._parts.on_price(market, Decimal(repr(book.bids[0][0] + book.asks[0][0])) / 2)
        for kept in list(self._alive.values()):
            self._judge(kept)
        for task in self._firings.advance(self._alive, self._end):
            self._parts.route(task)
        if trouble is not None:
            raise trouble
        return count

    def _read(self, timeout_s: float) -> int:
        """Take what people wrote, and what the feed says."""
        if not self._waiting:
            self._waiting.extend(self._reader.read(BATCH, timeout_s))
        count = len(self._waiting)
        while self._waiting:
            self._parts.reach("after_request_poll")
            self._take(self._waiting[0])
            self._waiting.popleft()
        self._watch.follow(self._markets())
        self._watch.step()
        return count

    def _markets(self) -> set[str]:
        """Markets whose prices matter now or soon."""
        now_ms = self._clock.now_ms()
        waiting = {
            kept.request.market
            for kept in self._alive.values()
            if kept.standing.state == "waiting" and kept.standing.next_ms - now_ms < SOON_MS
        }
        return waiting | self._firings.markets

    def _priced(self) -> set[str]:
        """Markets whose price is needed now."""
        now_ms = self._clock.now_ms()
        waiting = {
            kept.request.market
            for kept in self._alive.values()
            if kept.standing.state == "waiting" and kept.request.trigger and kept.standing.next_ms <= now_ms
        }
        return waiting | self._firings.markets

    # --- what people write

    def _take(self, record: Record) -> None:
        """Take a record, or put one that cannot be taken aside: nobody's record may end the executor."""
        try:
            message = topics.decode(TOPIC, record.value)
            with self._journal.transaction():
                if isinstance(message, OrderRequested):
                    self._add(message, record)
                elif isinstance(message, RequestChanged):
                    self._change(message)
                else:
                    self._cancel(message)
                self._journal.set_cursor(_name(record.slot), record.offset + 1)
        except (ValueError, ArithmeticError) as error:  # what cannot be read, or has numbers that nothing can hold
            self._alive = {kept.request.id: kept for kept in self._store.alive()}  # as it was before the record
            bury(self._parts.log, record, str(error), self._clock.wall_ms())
            self._journal.set_cursor(_name(record.slot), record.offset + 1)
            return
        self._parts.reach("after_request_journal")

    def _add(self, request: OrderRequested, record: Record) -> None:
        problem = self._problem(request)
        standing = schedule.first(request)
        if problem is not None:
            standing = replace(standing, state="refused", next_ms=self._clock.now_ms())  # its own may fit no table
        if not self._store.add(standing, record):
            return
        now_ms = self._clock.now_ms()
        word = problem or tell.waiting(standing, now_ms)
        self._tell(tell.told(request, standing.state, word, now_ms))
        if problem is None:
            self._alive[request.id] = Kept(standing, record.partition, record.offset)

    def _change(self, change: RequestChanged) -> None:
        request, now_ms = change.request, self._clock.now_ms()
        kept = self._found(request, change.account)
        if kept is None:
            return
        if kept.standing.state != "waiting":
            word = Problem("already-over", {"state": kept.standing.state})
            self._tell(tell.told(kept.request, kept.standing.state, word, now_ms))
            return
        if (problem := self._problem(request)) is not None:
            self._tell(tell.told(kept.request, kept.standing.state, problem, now_ms))
            return
        request = msgspec.structs.replace(
            request, account=kept.request.account, pocket=kept.request.pocket, event_ms=max(now_ms, request.event_ms)
        )
        standing = self._keep(kept, schedule.changed(kept.standing, request))
        self._tell(tell.told(request, standing.state, tell.waiting(standing, now_ms), now_ms))

    def _cancel(self, cancel: RequestCancelled) -> None:
        named = _nobody(cancel)
        now_ms = self._clock.now_ms()
        kept = self._found(named, cancel.account)
        if kept is None:
            return
        if kept.standing.state not in {"waiting", "fired"}:
            word = Problem("already-over", {"state": kept.standing.state})
            self._tell(tell.told(kept.request, kept.standing.state, word, now_ms))
            return
        self._keep(kept, schedule.cancelled(kept.standing))
        if not self._firings.cancel(kept.request.id):
            self._tell(tell.told(kept.request, "cancelled", tell.Word("cancelled", {"funds": "0"}), now_ms))

    def _found(self, request: OrderRequested, account: str) -> Kept | None:
        """The request that is meant; tells where there is none, or where it is another account's."""
        kept = self._alive.get(request.id) or self._store.get(request.id)
        if kept is not None and kept.request.account == account:
            return kept
        word = Problem("no-request" if kept is None else "not-yours", {})
        self._tell(tell.told(request, "refused", word, self._clock.now_ms()))
        return None

    def _problem(self, request: OrderRequested) -> Problem | None:
        market = request.market
        rules = self._watch.rules(market)
        return problem_of(request, rules, is_known=self._watch.is_known(market))

    # --- what is due

    def _judge(self, kept: Kept) -> None:
        """Fire a request, or pass over its times, where that is due."""
        standing, now_ms = kept.standing, self._clock.now_ms()
        if standing.state != "waiting" or (standing.next_ms > now_ms and standing.request.expires_ms is None):
            return
        if is_assistable(standing.request) and not self._watch.is_ready(standing.request.market):
            return
        price = self._firings.trigger_price(standing.request) if standing.next_ms <= now_ms else None
        found = schedule.judge(standing, now_ms, price, self._parts.late_ms)
        if found is None:
            return
        if isinstance(found, schedule.Miss):
            with self._journal.transaction():
                after = self._keep(kept, found.after)
                self._tell(_missed(found, kept.request, after.state, now_ms))
            return
        self._parts.reach("before_firing")
        firing = self._firings.prepare(kept, found)
        with self._journal.transaction():
            if found.missed:
                late = tell.Word("late", {"missed": str(found.missed)})
                self._tell(tell.told(kept.request, "waiting", late, now_ms))
            tasks = self._firings.begin(kept, firing)
            self._keep(kept, found.after)
        self._parts.reach("after_firing")
        for task in tasks:
            self._parts.route(task)

    def _end(self, kept: Kept, state: schedule.State) -> schedule.Standing:
        """The last order of a request has ended: so has the request."""
        return self._keep(kept, replace(kept.standing, state=state))

    def _keep(self, kept: Kept, standing: schedule.Standing) -> schedule.Standing:
        """Write where a request stands; one that fires no more and has no order under way is done."""
        is_under_way = self._firings.has(kept.request.id)
        if standing.state == "fired" and not is_under_way:
            standing = replace(standing, state="done")
        self._store.save(standing)
        self._alive[kept.request.id] = kept._replace(standing=standing)
        if standing.state not in {"waiting", "fired"} and not is_under_way:
            del self._alive[kept.request.id]
        return standing

    def _tell(self, event: RequestTold) -> None:
        self._journal.tell([event])


def _missed(miss: schedule.Miss, request: OrderRequested, state: schedule.State, now_ms: int) -> RequestTold:
    word = tell.Word("late", {"missed": str(miss.missed)}) if miss.missed else tell.Word("over", {})
    return tell.told(request, state, word, now_ms)


def _nobody(cancel: RequestCancelled) -> OrderRequested:
    """Stands for a request that only its id is known of, to tell of it."""
    return OrderRequested(
        id=cancel.request_id,
        account=cancel.account,
        pocket=cancel.pocket,
        exchange="",
        market="",
        side="buy",
        order_type="price",
        event_ms=cancel.event_ms,
        by=cancel.by,
    )


def _name(slot: Slot) -> str:
    return f"{slot.topic}/{slot.partition}"


def serve(parts: Parts, stop: Event) -> None:
    """Run until `stop`; a log that does not answer is waited for."""
    requests: Requests | None = None
    has_trouble = False
    while not stop.is_set():
        try:
            requests = requests or Requests(parts)
            requests.step()
            if has_trouble:
                logger.info("requests are taken again")
            has_trouble = False
        except (Retry, TopicMissing) as error:
            if not has_trouble:
                logger.warning("requests are waited for: %s", error)
            has_trouble = True
            stop.wait(TROUBLE_S)
    if requests is not None:
        requests.close()
