"""What the oracle of `verify risk` reads from the list of everything that happened: one account's past, in fractions.

Shares no line with `consumers.trade` or `consumers.execute`; made anew for every question.
"""

from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

from streams import messages as m

DAY_MS, KOREA_MS = 86_400_000, 32_400_000
ZERO = Fraction(0)


def exact(price: float) -> Fraction:
    """The number that a float shows."""
    return Fraction(Decimal(repr(price)))


@dataclass(slots=True)
class PastOrder:
    """An order that an account asked for."""

    account: str
    key: str
    side: str
    purpose: str
    pool: str
    price: Fraction | None
    reserved: Fraction
    bin_ms: int
    is_open: bool = True
    is_lost: bool = False
    ended_ms: int = 0
    quantity: Fraction = ZERO
    funds: Fraction = ZERO
    fee: Fraction = ZERO

    @property
    def held(self) -> Fraction:
        """Budget still held for it."""
        return max(self.reserved - self.funds - self.fee, ZERO) if self.is_open and self.side == "buy" else ZERO


@dataclass(slots=True)
class Pool:
    """What is held of a market in one ledger."""

    quantity: Fraction = ZERO
    cost: Fraction = ZERO


@dataclass(slots=True)
class Past:
    """Everything again, as far as one account's question needs it."""

    account: str
    now_ms: int = 0
    pulse_ms: int = 0
    halts: dict[str, str] = field(default_factory=dict)
    settings: dict[str, m.AccountSettings] = field(default_factory=dict)
    is_trading: bool = False
    is_broken: bool = False
    is_paused: bool = False
    books: dict[str, m.Features] = field(default_factory=dict)
    traded: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    facts: dict[str, m.Market] = field(default_factory=dict)
    orders: dict[str, PastOrder] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)
    manual: dict[str, Pool] = field(default_factory=dict)
    strangers: dict[str, tuple[Fraction, Fraction]] = field(default_factory=dict)
    realised: Fraction = ZERO
    day: int = -1
    asked_for: int = 0
    cancelled: int = 0
    start: Fraction | None = None
    peak: Fraction | None = None

    # --- one event after the other

    def see(self, kind: str, one: Any) -> None:
        """Take the next event."""
        if kind == "pulse":
            if one > self.pulse_ms:
                self.pulse_ms, self.now_ms = one, max(self.now_ms, one)
                self._look()
        elif kind == "asked":
            if one == self.account:
                self._turn()
        elif kind == "out":
            self._on_intent(one)
        elif isinstance(one, m.Features):
            self._on_features(one)
        elif isinstance(one, m.Signal):
            self.now_ms = max(self.now_ms, one.bin_ms)
        elif isinstance(one, m.Market):
            self.facts[m.key_of(one.exchange, one.market)] = one
        elif not isinstance(one, m.Quote) and not self._on_will(one):  # prices over REST must not matter here
            self._on_order_event(one)

    def _on_features(self, one: m.Features) -> None:
        key = m.key_of(one.exchange, one.market)
        if key in self.books and one.bin_ms <= self.books[key].bin_ms:
            return
        self.books[key], self.now_ms = one, max(self.now_ms, one.bin_ms)
        if len(one.accumulators) >= 12:
            bought, sold = one.accumulators[-8] or 0.0, one.accumulators[-7] or 0.0
            self.traded.setdefault(key, []).append((one.bin_ms, bought + sold))

    def _on_will(self, one: Any) -> bool:
        if isinstance(one, m.AccountSettings):
            self.settings[one.account] = one
            self.is_trading = one.is_trading if one.account == self.account else self.is_trading
        elif isinstance(one, m.TradingStarted | m.TradingStopped):
            if one.account in {self.account, "*"}:
                self.is_trading = isinstance(one, m.TradingStarted)
        elif isinstance(one, m.Halt):
            self.halts[one.account] = "" if one.kind == "lifted" else one.kind
        elif isinstance(one, m.AccountResumed):
            self.is_paused = self.is_paused and one.account not in {self.account, "*"}
        else:
            return isinstance(one, m.Warmed)
        return True

    def _on_intent(self, one: Any) -> None:
        if not isinstance(one, m.OrderIntent):
            return
        funds = Fraction(one.funds or 0)
        fee = Fraction(self.settings[one.account].fee_percent) / 100
        key = m.key_of(one.exchange, one.market)
        price = None if one.price is None else Fraction(one.price)
        reserved = funds * (1 + fee) if one.purpose == "entry" else ZERO
        pool = f"{one.strategy}|{key}"
        self.orders[one.id] = PastOrder(
            one.account, key, one.side, one.purpose, pool, price, reserved, one.event_ms
        )  # fmt: skip
        self.asked_for += one.account == self.account

    def _on_order_event(self, one: Any) -> None:
        is_mine = one.account == self.account
        if is_mine:
            self._turn()
        order = None if isinstance(one, m.AccountPaused) else self.orders.get(one.intent_id)
        if isinstance(one, m.AccountPaused):
            self.is_paused = self.is_paused or is_mine
        elif order is None:
            self._on_stranger(one, is_mine=is_mine)
        else:
            self._on_own(order, one)
        if is_mine:
            self._look()

    def _on_own(self, order: PastOrder, one: Any) -> None:
        if isinstance(one, m.OrderFilled | m.OrderCancelled):
            self._fill(order, Fraction(one.executed_quantity), Fraction(one.executed_funds), Fraction(one.paid_fee))
        if not order.is_open or (order.is_lost and isinstance(one, m.OrderExpired)):
            return
        if isinstance(one, m.OrderUnknown):
            order.is_lost = order.is_lost or one.is_lost
            self.is_broken = self.is_broken or (one.is_lost and order.account == self.account)
            return
        order.is_lost = False
        is_end = isinstance(one, m.OrderCancelled | m.OrderRejected | m.OrderExpired)
        if is_end or (isinstance(one, m.OrderFilled) and one.is_final):
            order.is_open, order.ended_ms = False, self.now_ms
            self.cancelled += isinstance(one, m.OrderCancelled) and order.account == self.account

    def _fill(self, order: PastOrder, quantity: Fraction, funds: Fraction, fee: Fraction) -> None:
        more, more_funds, more_fee = quantity - order.quantity, funds - order.funds, fee - order.fee
        if more <= 0:
            return
        order.quantity, order.funds, order.fee = quantity, funds, fee
        if order.account != self.account:
            return
        pool = self.pools.setdefault(order.pool, Pool())
        if order.side == "buy":
            pool.quantity, pool.cost = pool.quantity + more, pool.cost + more_funds + more_fee
            return
        self.is_broken = self.is_broken or more > pool.quantity
        cost = pool.cost if more >= pool.quantity else pool.cost * more / pool.quantity
        self.realised += more_funds - more_fee - cost
        pool.quantity, pool.cost = max(pool.quantity - more, ZERO), pool.cost - cost

    def _on_stranger(self, one: Any, *, is_mine: bool) -> None:
        if not isinstance(one, m.OrderFilled) or not is_mine:
            return
        if one.purpose != "manual":
            self.is_broken = self.is_broken or self.now_ms - one.event_ms < 300_000
            return
        before = self.strangers.get(one.intent_id, (ZERO, ZERO))
        quantity, paid = Fraction(one.executed_quantity), Fraction(one.executed_funds) + Fraction(one.paid_fee)
        more = quantity - before[0]
        if more <= 0:
            return
        self.strangers[one.intent_id] = quantity, paid
        pool = self.manual.setdefault(m.key_of(one.exchange, one.market), Pool())
        if one.side == "buy":
            pool.quantity, pool.cost = pool.quantity + more, pool.cost + paid - before[1]
        elif more < pool.quantity:
            pool.cost -= pool.cost * more / pool.quantity
            pool.quantity -= more
        else:
            pool.quantity = pool.cost = ZERO

    # --- profit

    def profit(self) -> Fraction:
        """Realised and unrealised, at the best bids."""
        total = self.realised
        for name, pool in self.pools.items():
            book = self.books.get(name.split("|")[-1])
            bid = None if book is None else (book.levels[0] if book.levels else None) or book.mid
            if bid is not None and pool.quantity:
                total += pool.quantity * exact(bid) - pool.cost
        return total

    def _look(self) -> None:
        now = self.profit()
        self.start = now if self.start is None else self.start
        self.peak = now if self.peak is None else max(self.peak, now)

    def _turn(self) -> None:
        day = (self.now_ms + KOREA_MS) // DAY_MS
        if day != self.day:
            self.day, self.asked_for, self.cancelled, self.start = day, 0, 0, None
            self._look()
