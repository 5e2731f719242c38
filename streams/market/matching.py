"""Orders and how they are filled, in exact integers: prices and lots of 1e-8, money in the ledger's atoms. Pure.

Called by the sandbox exchange and the backtest. Lock and fee arithmetic follows the recorded orders of the exchange to
the digit. What a taker meets is in `crossing`. Resting orders here are filled as soon as a trade or the opposite side
reaches their price, ahead of the queue that stood there before them: the optimistic bound. Places in a queue are in
`queue`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from streams.market.ledger import ATOMS_PER_LOT, Ledger

Kind = Literal["limit", "price", "market", "best"]
State = Literal["wait", "done", "cancel"]

NOTIONAL = 10**4
"""Atoms in a price of 1e-8 times a lot of 1e-8."""


class Level(NamedTuple):
    """A price and the lots that stand there or were taken there."""

    price_e8: int
    lots: int


class Fill(NamedTuple):
    """One execution of an order; `book_ms` is the time of the book or trade it happened on, `book` names its record."""

    uuid: str
    price_e8: int
    lots: int
    funds: int
    fee: int
    is_maker: bool
    at_ms: int
    book_ms: int
    book: str = ""


@dataclass(slots=True)
class Order:
    """An order as the exchange keeps it. `total` (atoms) stands for orders given in quote money, `lots` for the rest.

    `locked` and `remaining_fee` keep their last values when the order ends, as the exchange shows them.
    """

    uuid: str
    account: str
    market: str
    is_buy: bool
    kind: Kind
    price_e8: int | None
    total: int | None
    lots: int | None
    fee_e4: int
    time_in_force: str = ""
    identifier: str = ""
    smp_type: str = ""
    created_ms: int = 0
    state: State = "wait"
    reserved_fee: int = 0
    paid_fee: int = 0
    executed_lots: int = 0
    executed_funds: int = 0
    prevented_lots: int = 0
    prevented_funds: int = 0
    """Quote money that self-match prevention took out of a buy, without its fee."""
    is_cancelling: bool = False
    ended_ms: int = 0
    fills: list[Fill] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reserved_fee = self._reserved_fee()

    def _reserved_fee(self) -> int:
        if not self.is_buy:
            return 0
        if self.total is not None:
            return self.total * self.fee_e4 // NOTIONAL
        assert self.price_e8 is not None
        assert self.lots is not None
        return self.price_e8 * self.lots * self.fee_e4

    @property
    def quote(self) -> str:
        """The currency it is paid in."""
        return self.market.partition("-")[0]

    @property
    def base(self) -> str:
        """The currency that is traded."""
        return self.market.partition("-")[2]

    @property
    def lock_currency(self) -> str:
        """What is set aside for it."""
        return self.quote if self.is_buy else self.base

    @property
    def remaining_lots(self) -> int:
        """Lots still wanted; 0 for an order given in quote money."""
        return 0 if self.lots is None else self.lots - self.executed_lots - self.prevented_lots

    @property
    def remaining_total(self) -> int:
        """Quote money still to be spent; 0 for an order given in lots."""
        return 0 if self.total is None else self.total - self.executed_funds - self.prevented_funds

    @property
    def prevented_fee(self) -> int:
        """The fee of what was prevented, given back."""
        return self.prevented_funds * self.fee_e4 // NOTIONAL

    @property
    def prevented_locked(self) -> int:
        """What self-match prevention set free: money with its fee for a buy, the volume for a sale."""
        return self.prevented_funds + self.prevented_fee if self.is_buy else self.prevented_lots * ATOMS_PER_LOT

    @property
    def remaining_fee(self) -> int:
        """Reserved and neither paid nor prevented; 0 for sales."""
        return self.reserved_fee - self.paid_fee - self.prevented_fee if self.is_buy else 0

    @property
    def locked(self) -> int:
        """What is still set aside, in atoms of `lock_currency`."""
        if not self.is_buy:
            return self.remaining_lots * ATOMS_PER_LOT
        if self.total is not None:
            return self.remaining_total + self.remaining_fee
        assert self.price_e8 is not None
        return self.remaining_lots * self.price_e8 * NOTIONAL + self.remaining_fee

    @property
    def can_rest(self) -> bool:
        """Whether what is not filled at once stays in the book."""
        return self.kind == "limit" and self.time_in_force in {"", "post_only"}

    @property
    def is_filled(self) -> bool:
        """All was filled, nothing prevented; a market buy only where its money is spent to the last atom."""
        return self.total == self.executed_funds if self.lots is None else self.lots == self.executed_lots


def place(ledger: Ledger, order: Order) -> None:
    """Lock what the order needs; raises `InsufficientFunds`."""
    ledger.lock(order.account, order.lock_currency, order.locked)


def crosses(order: Order, levels: Sequence[Level]) -> bool:
    """Whether a limit order would meet the opposite side at once."""
    if not levels or order.price_e8 is None or order.kind != "limit":
        return False
    return levels[0].price_e8 <= order.price_e8 if order.is_buy else levels[0].price_e8 >= order.price_e8


def reaches(order: Order, level: Level, best: Level) -> bool:
    """Whether an order may trade at a level of the opposite side whose best one is `best`."""
    if order.kind == "best":
        return level.price_e8 == best.price_e8
    if order.kind == "limit":
        assert order.price_e8 is not None
        return level.price_e8 <= order.price_e8 if order.is_buy else level.price_e8 >= order.price_e8
    return True


def fill(ledger: Ledger, order: Order, execution: Fill) -> None:
    """Apply one execution to the order and the ledger; a better price than the limit gives the difference back."""
    before = order.locked
    order.executed_lots += execution.lots
    order.executed_funds += execution.funds
    order.paid_fee += execution.fee
    order.fills.append(execution)
    spent = execution.funds + execution.fee if order.is_buy else execution.lots * ATOMS_PER_LOT
    ledger.spend(order.account, order.lock_currency, spent)
    ledger.unlock(order.account, order.lock_currency, before - order.locked - spent)
    if order.is_buy:
        ledger.bought(order.account, order.base, execution.lots, execution.price_e8)
    else:
        ledger.deposit(order.account, order.quote, execution.funds - execution.fee)


def prevent(ledger: Ledger, order: Order, lots: int, funds: int) -> None:
    """Shrink an order because it met one of its own account; `funds` is the money of `lots` where it is a buy."""
    before = order.locked
    order.prevented_lots += lots
    order.prevented_funds += funds
    ledger.unlock(order.account, order.lock_currency, before - order.locked)


def executed(
    order: Order, level: Level, uuid: str, *, is_maker: bool, at_ms: int, book_ms: int, book: str = ""
) -> Fill:
    """The amounts of one execution: nothing is rounded."""
    notional = level.price_e8 * level.lots
    return Fill(
        uuid, level.price_e8, level.lots, notional * NOTIONAL, notional * order.fee_e4, is_maker, at_ms, book_ms, book
    )  # fmt: skip


def end(ledger: Ledger, order: Order, at_ms: int) -> None:
    """Close the order and free what it still locks; `done` where it is wholly filled, else `cancel` (also dust)."""
    ledger.unlock(order.account, order.lock_currency, order.locked)
    order.state = "done" if order.is_filled else "cancel"
    order.ended_ms = at_ms


def priority(orders: Iterable[Order]) -> list[Order]:
    """Resting orders of one side in price-time priority."""
    return sorted(
        orders,
        key=lambda order: (-(order.price_e8 or 0) if order.is_buy else (order.price_e8 or 0), order.created_ms),
    )


def reached_by_trade(orders: Iterable[Order], trade: Level, *, is_buy: bool) -> list[tuple[Order, Level]]:
    """Which resting orders a trade by others fills, at their own price and together at most by the trade's lots."""
    left = trade.lots
    reached = []
    for order in priority(order for order in orders if order.is_buy != is_buy):
        assert order.price_e8 is not None
        is_reached = order.price_e8 >= trade.price_e8 if order.is_buy else order.price_e8 <= trade.price_e8
        lots = min(left, order.remaining_lots)
        if is_reached and lots > 0:
            reached.append((order, Level(order.price_e8, lots)))
            left -= lots
    return reached


def reached_by_book(orders: Iterable[Order], bids: Sequence[Level], asks: Sequence[Level]) -> list[tuple[Order, Level]]:
    """Which resting orders the opposite side of a new book has crossed, at their own price."""
    reached = []
    for is_buy, levels in ((True, asks), (False, bids)):
        left = [level.lots for level in levels]
        for order in priority(order for order in orders if order.is_buy == is_buy):
            assert order.price_e8 is not None
            wanted = order.remaining_lots
            for i, level in enumerate(levels):
                if wanted == 0 or not reaches(order, level, levels[0]):
                    break
                lots = min(left[i], wanted)
                left[i] -= lots
                wanted -= lots
            if wanted < order.remaining_lots:
                reached.append((order, Level(order.price_e8, order.remaining_lots - wanted)))
    return reached
