"""The journal as `verify risk` writes it for the executor's limits: the real one, and plain lists for the bulk.

Used by `consumers.verify.risk_execute`.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Protocol

from consumers.execute import events as told
from consumers.execute.account_book import AccountBook
from consumers.execute.journal import Journal
from consumers.execute.limits import Book, Held, Marks, OpenBuy
from consumers.execute.venue import Execution
from consumers.verify.risk_execute_oracle import DAY_MS, KOREA_MS
from infra.log import Record
from streams import messages as m


class Books(Book, Protocol):
    """A book that the sequence can write."""

    def came(self, intent: m.OrderIntent) -> None:
        """An intent came."""

    def sent(self, intent: m.OrderIntent) -> None:
        """It went out."""

    def fill(self, intent: m.OrderIntent, quantity: Decimal, funds: Decimal, fee: Decimal) -> None:
        """Some of it executed."""

    def ended(self, intent: m.OrderIntent, *, was_sent: bool) -> None:
        """It is over."""


class JournalBook(AccountBook):
    """The real journal behind the real book."""

    def __init__(self, journal: Journal, wall_ms: Callable[[], int]) -> None:
        super().__init__(journal, wall_ms)
        self._own, self._clock, self._count = journal, wall_ms, 0

    def came(self, intent: m.OrderIntent) -> None:
        """Journal it as `intake` does."""
        record = Record("order-intents", 0, self._count, self._clock(), intent.pocket, b"")
        self._count += 1
        self._own.add_intent(intent, record)

    def sent(self, intent: m.OrderIntent) -> None:
        """Journal its attempt and the exchange's answer."""
        name = f"{intent.id}-1"
        self._own.begin_attempt(intent.id, 1, name, told.sent(intent, 1, name, 0), self._clock())
        attempt = self._own.attempt(name)
        if attempt is not None:
            self._own.settle(attempt, attempt_state="ACKED", intent_state="ACKED", uuid=f"u-{intent.id}")

    def fill(self, intent: m.OrderIntent, quantity: Decimal, funds: Decimal, fee: Decimal) -> None:
        """Journal an execution."""
        attempt = self._own.attempt(f"{intent.id}-1")
        if attempt is None:
            return
        self._count += 1
        execution = Execution(f"f{self._count}", funds / quantity, quantity, funds)
        self._own.add_fill(attempt, attempt.uuid, execution, fee)
        done = attempt.executed_quantity + quantity, attempt.executed_funds + funds, attempt.paid_fee + fee
        self._own.set_totals(attempt.identifier, *done)

    def ended(self, intent: m.OrderIntent, *, was_sent: bool) -> None:
        """Journal its end."""
        attempt = self._own.attempt(f"{intent.id}-1")
        if was_sent and attempt is not None:
            self._own.settle(attempt, attempt_state="CANCELLED", intent_state="CANCELLED", uuid=attempt.uuid)
        else:
            self._own.end_intent(intent.id, "REJECTED", told.rejected(intent, 0, "x", "", 0))


class ListBook:
    """The same in lists: sums are kept as they grow, which the oracle does not do."""

    def __init__(self, wall_ms: Callable[[], int]) -> None:
        self._wall_ms = wall_ms
        self._held: dict[tuple[str, str, bool], Held] = {}
        self._open: dict[str, OpenBuy] = {}
        self._waiting: dict[str, m.OrderIntent] = {}
        self._intents: dict[str, m.OrderIntent] = {}
        self._sent: list[tuple[str, int]] = []
        self._came_ms: dict[str, int] = {}
        self._marks: dict[str, tuple[int, Marks]] = {}

    def came(self, intent: m.OrderIntent) -> None:
        """Note it."""
        self._intents[intent.id] = self._waiting[intent.id] = intent
        self._came_ms[intent.id] = self._wall_ms()

    def sent(self, intent: m.OrderIntent) -> None:
        """Note it."""
        self._waiting.pop(intent.id, None)
        self._sent.append((intent.account, self._came_ms[intent.id]))
        if intent.side == "buy":
            self._open[intent.id] = _open_buy(intent)

    def fill(self, intent: m.OrderIntent, quantity: Decimal, funds: Decimal, fee: Decimal) -> None:
        """Note it."""
        key = intent.account, intent.market, intent.purpose == "manual"
        zero = Decimal(0)
        held = self._held.get(key, Held(intent.market, zero, zero, zero, zero, key[2]))
        if intent.side == "buy":
            self._held[key] = held._replace(bought=held.bought + quantity, spent=held.spent + funds + fee)
            one = self._open[intent.id]
            self._open[intent.id] = one._replace(funds=max(one.funds - funds, zero))
        else:
            self._held[key] = held._replace(sold=held.sold + quantity, earned=held.earned + funds - fee)

    def ended(self, intent: m.OrderIntent, *, was_sent: bool) -> None:
        """Note it."""
        (self._open if was_sent else self._waiting).pop(intent.id, None)

    def ledgers(self, account: str) -> list[Held]:
        """As `limits.Book` says."""
        return [held for key, held in self._held.items() if key[0] == account]

    def open_buys(self, intent: m.OrderIntent) -> list[OpenBuy]:
        """As `limits.Book` says."""
        found = [one for name, one in self._open.items() if self._is_beside(intent, name)]
        names = list(self._intents)
        before = names[: names.index(intent.id)]
        return found + [
            _open_buy(one)
            for name, one in self._waiting.items()
            if name in before and one.side == "buy" and self._is_beside(intent, name)
        ]

    def _is_beside(self, intent: m.OrderIntent, name: str) -> bool:
        return name != intent.id and self._intents[name].account == intent.account

    def sent_today(self, account: str) -> int:
        """As `limits.Book` says."""
        day = (self._wall_ms() + KOREA_MS) // DAY_MS
        return sum(name == account and (at + KOREA_MS) // DAY_MS == day for name, at in self._sent)

    def marks(self, account: str, profit: Decimal) -> Marks:
        """As `limits.Book` says."""
        day = (self._wall_ms() + KOREA_MS) // DAY_MS
        known_day, known = self._marks.get(account, (day, Marks(profit, profit)))
        marks = Marks(known.start if known_day == day else profit, max(known.peak, profit))
        self._marks[account] = day, marks
        return marks

    def settings(self) -> list[m.AccountSettings]:
        """Nothing was kept."""
        return []

    def keep(self, settings: m.AccountSettings) -> None:
        """Nothing is kept."""


def _open_buy(intent: m.OrderIntent) -> OpenBuy:
    funds = intent.funds or (intent.price or Decimal(0)) * (intent.quantity or Decimal(0))
    return OpenBuy(intent.id, intent.market, funds, intent.purpose == "manual")
