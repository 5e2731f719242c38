"""What fired and has not ended: places the orders that the assistant decides on, and tells the end.

`runner` calls it in its one thread. Every order is journalled before the desk hears of it, in one transaction with the
firing's count of orders, so a restart goes on exactly where the journal stands.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import ROUND_FLOOR, Decimal

from consumers.execute.crash import Reach, reach_nothing
from consumers.execute.desk_parts import Task
from consumers.execute.journal import Journal
from consumers.execute.requests import tell
from consumers.execute.requests.assistant import (
    Cancel,
    Finish,
    Job,
    Leg,
    Now,
    Post,
    Step,
    is_control,
    next_step,
)
from consumers.execute.requests.check import Problem, minimum_of, problem_of, total_of
from consumers.execute.requests.clock import RequestClock
from consumers.execute.requests.saving import Level
from consumers.execute.requests.schedule import Fire, Standing, State
from consumers.execute.requests.store import Firing, Kept, Store
from consumers.execute.requests.watch import Book, Watch
from infra.log import Record
from streams.market.patience import Patience
from streams.messages import CancelIntent, OrderIntent, OrderRequested, content_id

LOOK_S = 0.1
LOOK_RARELY_S = 0.3
"""At an order that nobody may change but its person."""
KEPT_SHARE = 2.0
"""Of the amount: how deep the book of the firing moment is kept."""

Key = tuple[str, int]
End = Callable[[Kept, State], Standing]


class Firings:
    """All firings under way."""

    def __init__(
        self,
        journal: Journal,
        store: Store,
        watch: Watch,
        clock: RequestClock,
        now_s: Callable[[], float],
        rule: Patience,
        *,
        late_ms: int,
        speed: float = 1.0,
        reach: Reach = reach_nothing,
    ) -> None:
        """`late_ms`: how long an order that was fired may wait to be sent."""
        self._journal = journal
        self._store = store
        self._watch = watch
        self._clock = clock
        self._now_s = now_s
        self._rule = rule
        self._late_ms = late_ms
        self._speed = speed
        self._reach = reach
        self._open = {firing.key: firing for firing in store.open_firings()}
        self._begun_s = dict.fromkeys(self._open, now_s())
        self._look_s: dict[Key, float] = {}
        self._rests_s: dict[str, float] = {}
        self._ended: dict[str, Leg] = {}

    @property
    def markets(self) -> set[str]:
        """Markets in which something waits for a better price."""
        return {firing.request.market for firing in self._open.values() if may_wait(firing)}

    def has(self, request_id: str) -> bool:
        """Whether an order of this request is under way."""
        return any(key[0] == request_id for key in self._open)

    def cancel(self, request_id: str) -> bool:
        """Nothing more of this request is wanted; whether something of it is under way."""
        for key, firing in self._open.items():
            if key[0] == request_id:
                self._open[key] = replace(firing, is_cancelled=True)
                self._store.save_firing(self._open[key])
                self._look_s.pop(key, None)
        return self.has(request_id)

    def trigger_price(self, request: OrderRequested) -> Decimal | None:
        """The other side's best price; None where it is not known now."""
        book = self._watch.book(request.market) if request.trigger else None
        if book is None:
            return None
        levels = book.asks if request.side == "buy" else book.bids
        return Decimal(repr(levels[0][0])) if levels else None

    # --- beginning

    def prepare(self, kept: Kept, fire: Fire) -> Firing:
        """All that must be known before the transaction; asks for the book where the feed has none."""
        request = kept.request
        firing = Firing(request, fire.number, fire.due_ms, self._clock.now_ms())
        book = self._watch.book(request.market) if request.order_type in {"price", "market"} else None
        if not is_assistable(request):
            return firing
        levels = () if book is None else _kept_levels(request, book)
        return replace(firing, is_control=is_control(request.id, fire.number), levels=levels)

    def begin(self, kept: Kept, firing: Firing) -> list[Task]:
        """Journal a firing with its first order, if that is to go out now (inside the transaction of its count)."""
        self._store.add_firing(firing)
        self._open[firing.key] = firing
        self._begun_s[firing.key] = self._now_s()
        step, problem = self._decide(firing, [])
        if problem is not None:
            return []
        tasks = self._place(firing, kept, step) if isinstance(step, Post | Now) else []
        word = tell.fired(firing, may_wait=may_wait(firing))
        event = tell.told(
            firing.request, "fired", word, firing.fired_ms, intent_id=firing.leg_id(1), is_control=firing.is_control
        )
        self._journal.tell([event])
        return tasks

    # --- going on

    def advance(self, alive: Mapping[str, Kept], end: End) -> list[Task]:
        """One step of every firing that is due to be looked at; returns the desk's tasks."""
        tasks: list[Task] = []
        for key, firing in list(self._open.items()):
            is_ready = not may_wait(firing) or self._watch.is_ready(firing.request.market)
            if self._now_s() < self._look_s.get(key, 0.0) or not is_ready:
                continue
            self._look_s[key] = self._now_s() + (LOOK_S if may_wait(firing) else LOOK_RARELY_S)
            kept = alive.get(key[0]) or self._store.get(key[0])
            if kept is not None:
                tasks += self._advance(firing, kept, end)
        return tasks

    def _advance(self, firing: Firing, kept: Kept, end: End) -> list[Task]:
        legs = [self._leg(firing, number) for number in range(1, firing.legs + 1)]
        step, problem = self._decide(firing, legs)
        tasks: list[Task] = []
        if isinstance(step, Post | Now):
            self._reach("before_leg")
            with self._journal.transaction():
                tasks = self._place(firing, kept, step)
            self._reach("after_leg")
        elif isinstance(step, Cancel):
            tasks = self._cancel_leg(firing)
        elif isinstance(step, Finish):
            self._reach("before_request_told")
            with self._journal.transaction():
                self._finish(firing, kept, legs, step, problem, end)
            self._reach("after_request_told")
        return tasks

    def _decide(self, firing: Firing, legs: list[Leg]) -> tuple[Step, Problem | None]:
        """The next step; a `Problem` is why the first order cannot be one."""
        request = firing.request
        book = self._watch.book(request.market) if may_wait(firing) or request.order_type == "market" else None
        best_bid = book.bids[0][0] if book is not None and book.bids else None
        rules = self._watch.rules(request.market)
        if not legs and not firing.is_cancelled:
            is_known = self._watch.is_known(request.market)
            if (problem := problem_of(request, rules, best_bid, is_known=is_known)) is not None:
                return Finish("refused", problem.reason), problem
        job = Job(request.side, _amount(request), minimum_of(request.market, rules), may_wait(firing))
        outlook = self._watch.outlook(request.market) if may_wait(firing) else None
        is_over = self._is_over(firing)
        return next_step(job, legs, outlook, self._rule, is_over=is_over, is_cancelled=firing.is_cancelled), None

    def _is_over(self, firing: Firing) -> bool:
        """Whether the deadline has passed, by the market's time or, should that stand still or go back, by our own."""
        passed_ms = (self._now_s() - self._begun_s[firing.key]) * 1000 * self._speed
        return max(passed_ms, self._clock.now_ms() - firing.fired_ms) >= firing.request.patience_ms

    def _leg(self, firing: Firing, number: int) -> Leg:
        of = firing.leg_id(number)
        if of in self._ended:
            return self._ended[of]
        leg = self._store.leg(firing, number, 0)
        if leg.state == "open":
            since_s = self._rests_s.setdefault(of, self._now_s())
            leg = leg._replace(rested_ms=int((self._now_s() - since_s) * 1000 * self._speed))
        elif leg.state == "ended":
            self._ended[of] = leg
        return leg

    def _place(self, firing: Firing, kept: Kept, step: Post | Now) -> list[Task]:
        """Journal the next order (inside a transaction)."""
        after = replace(firing, legs=firing.legs + 1)
        intent = self._intent(after, step)
        wall_ms = self._clock.wall_ms()
        self._journal.add_intent(
            intent, Record("order-requests", kept.partition, kept.offset, wall_ms, intent.pocket, b"")
        )
        self._store.save_firing(after)
        self._open[firing.key] = after
        return [Task("send", intent.id)]

    def _intent(self, firing: Firing, step: Post | Now) -> OrderIntent:
        request, now_ms = firing.request, self._clock.now_ms()
        order_type, price, quantity, funds = request.order_type, request.price, request.quantity, request.funds
        time_in_force = request.time_in_force
        if isinstance(step, Post):
            order_type, price, quantity, funds, time_in_force = "limit", step.price, step.quantity, None, "post_only"
        elif firing.legs > 1 and request.side == "buy":
            funds = _whole(request.market, step.amount)
        elif firing.legs > 1:
            quantity = step.amount
        return OrderIntent(
            id=firing.leg_id(firing.legs),
            account=request.account,
            pocket=request.pocket,
            exchange=request.exchange,
            market=request.market,
            side=request.side,
            order_type=order_type,
            price=price,
            quantity=quantity,
            funds=funds,
            time_in_force=time_in_force,
            purpose="manual",
            cause_kind="request",
            cause_id=firing.cause(firing.legs),
            event_ms=now_ms,
            expires_ms=now_ms + int(self._late_ms * max(1.0, self._speed)),
            reason=f"request {request.id}, time {firing.number}",
            replaces=firing.leg_id(firing.legs - 1) if firing.legs > 1 else "",
        )

    def _cancel_leg(self, firing: Firing) -> list[Task]:
        request, leg_id = firing.request, firing.leg_id(firing.legs)
        cancel = CancelIntent(
            id=content_id("cancel", leg_id),
            account=request.account,
            pocket=request.pocket,
            intent_id=leg_id,
            event_ms=self._clock.now_ms(),
            reason="request cancelled" if firing.is_cancelled else "assistant",
        )
        self._journal.add_cancel(cancel)
        return [Task("cancel", cancel.id)]

    # --- ending

    def _finish(
        self, firing: Firing, kept: Kept, legs: list[Leg], finish: Finish, problem: Problem | None, end: End
    ) -> None:
        """Tell how a firing ended, and how its request stands (inside a transaction)."""
        if not self._store.end_firing(firing):
            return
        self._forget(firing)
        total = tell.sums(legs)
        of = firing.leg_id(firing.legs) if firing.legs else ""
        text = self._store.why_refused(of, firing.request.pocket)[1] if finish.outcome == "refused" else ""
        ended, word = tell.ended(finish, total, text)
        state = self._state_of_request(kept, ended, end)
        event = tell.told(
            firing.request,
            state,
            problem or word,
            self._clock.now_ms(),
            intent_id=of,
            is_control=firing.is_control,
            funds=total.funds,
            saved=tell.saved_by(firing, total),
        )
        self._journal.tell([event])

    def _state_of_request(self, kept: Kept, ended: State, end: End) -> State:
        """What the request is after one of its firings ended so."""
        state = kept.standing.state
        if state == "fired" and not self.has(kept.request.id):
            return end(kept, ended).state
        if state == "cancelled" and not self.has(kept.request.id):
            return end(kept, "cancelled").state
        return state

    def _forget(self, firing: Firing) -> None:
        for kept_of in (self._open, self._begun_s, self._look_s):
            kept_of.pop(firing.key, None)
        for number in range(1, firing.legs + 1):
            self._rests_s.pop(firing.leg_id(number), None)
            self._ended.pop(firing.leg_id(number), None)


def is_assistable(request: OrderRequested) -> bool:
    """Whether waiting is the assistant's to decide: a limit order's person has decided it already."""
    return request.is_assisted and request.order_type in {"price", "market"}


def may_wait(firing: Firing) -> bool:
    """Whether a firing may wait for a better price; the control group never does."""
    return is_assistable(firing.request) and not firing.is_control


def _amount(request: OrderRequested) -> Decimal:
    """Quote currency for a buy, base currency for a sell."""
    amount = total_of(request, None) if request.side == "buy" else request.quantity
    return amount or Decimal(0)


def _whole(market: str, amount: Decimal) -> Decimal:
    """What is left of a buy, in the digits that the exchange takes: whole won, else eight decimals; never more."""
    return amount.quantize(Decimal(1) if market.startswith("KRW-") else Decimal("1e-8"), ROUND_FLOOR)


def _kept_levels(request: OrderRequested, book: Book) -> tuple[Level, ...]:
    """The other side of the book, as deep as twice the amount."""
    levels, wanted, depth = (book.asks if request.side == "buy" else book.bids), float(_amount(request)), 0.0
    for count, (price, size) in enumerate(levels, 1):
        depth += price * size if request.side == "buy" else size
        if depth >= wanted * KEPT_SHARE:
            return levels[:count]
    return levels
