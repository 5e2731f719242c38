"""The executor's own limits on entries, independent of `trade`: simple, few, and asked right before sending.

`desk` asks `refusal` for every entry. Exits and protective exits are never asked: they must pass.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from threading import Lock
from typing import NamedTuple

from streams.messages import OrderIntent


class Refusal(NamedTuple):
    """Why an entry is not sent: a stable name and a sentence."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class RiskLimits:
    """Largest total of one entry in quote currency, and entries per minute over all accounts."""

    maximum_funds: Decimal = Decimal(1_000_000)
    orders_per_minute: int = 120


class RiskGate:
    """Counts the entries of the last minute and knows the markets' minimum totals, as far as they were told."""

    def __init__(self, limits: RiskLimits, now_s: Callable[[], float]) -> None:
        self._limits = limits
        self._now_s = now_s
        self._sent_s: deque[float] = deque()
        self._minimums: dict[str, Decimal] = {}
        self._lock = Lock()

    def set_minimum(self, market: str, total: Decimal) -> None:
        """Learn a market's smallest order total."""
        self._minimums[market] = total

    @property
    def minimums(self) -> Mapping[str, Decimal]:
        """Smallest order totals known so far."""
        return self._minimums

    def refusal(self, intent: OrderIntent) -> Refusal | None:
        """Why this entry must not be sent; None counts it as sent."""
        total = _total_of(intent)
        if total is None or total <= 0:
            return Refusal("bad-amount", "neither funds, nor a price with a quantity, above zero")
        if total > self._limits.maximum_funds:
            return Refusal("over-maximum", f"{total} is more than {self._limits.maximum_funds} allowed per order")
        minimum = self._minimums.get(intent.market)
        if minimum is not None and total < minimum:
            return Refusal("under-minimum", f"{total} is less than the market's minimum of {minimum}")
        with self._lock:
            now_s = self._now_s()
            while self._sent_s and now_s - self._sent_s[0] >= 60.0:
                self._sent_s.popleft()
            if len(self._sent_s) >= self._limits.orders_per_minute:
                return Refusal("too-many", f"{self._limits.orders_per_minute} entries were sent within a minute")
            self._sent_s.append(now_s)
        return None


def _total_of(intent: OrderIntent) -> Decimal | None:
    if intent.funds is not None:
        return intent.funds
    if intent.price is not None and intent.quantity is not None:
        return intent.price * intent.quantity
    return None
