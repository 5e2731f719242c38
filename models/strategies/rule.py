"""What a strategy is: a frozen struct whose fields are its parameters and whose two methods are its rule. Pure.

`consumers.trade` gives it what it may see and asks; cost, limits and vetoes are not its business and cannot be passed
by. The same bytes in give the same answer, so a strategy has no clock, no file, no randomness and no memory.
"""

from decimal import Decimal
from typing import ClassVar, NamedTuple, Protocol

import msgspec

from streams import messages as m
from streams.market import costs

BROKEN = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError, RuntimeError,
    SyntaxError, TypeError, ValueError, msgspec.MsgspecError,
)  # fmt: skip
"""What somebody else's strategy may raise; anything beyond is not ours to hide."""
UNLICENSED = "unlicensed"
"""The refusal of a strategy that finds only forecasts which may not size an order, where the model gives no word."""


class Chance(NamedTuple):
    """One closed bin of one market, as an account's strategy sees it."""

    exchange: str
    market: str
    bin_ms: int
    now_ms: int
    """Market time."""
    signals: tuple[m.Signal, ...]
    """Over the horizons that the account has chosen, shortest first; at least one where an entry is asked for."""
    levels: costs.Levels | None
    """Best levels of the last book; null: there is no usable one."""
    threshold_percent: Decimal
    """The account's: return wanted beyond the whole cost."""
    hysteresis_percent: Decimal
    """The account's: below this expectation a position is left."""


class Entry(NamedTuple):
    """A strategy's answer; without a `refusal` it wants to enter."""

    signal: m.Signal
    """The forecast that it rests on, shown with a refusal too; its horizon is the position's planned life."""
    threshold_percent: Decimal
    """Return wanted beyond the whole cost, which the caller adds and holds the forecast against."""
    refusal: str = ""
    """Why not: a word of `consumers.trade.reasons`, or one of the strategy's own."""


class Holding(NamedTuple):
    """An open position of the strategy."""

    opened_ms: int
    due_ms: int
    """Planned end."""
    horizon_ms: int
    """Planned life; `due_ms` less this is the bin that it was entered on."""
    average_price: Decimal


class Strategy(Protocol):
    """A rule. Its parameters are the fields of the frozen `msgspec.Struct` that it is, each with a default."""

    __struct_fields__: ClassVar[tuple[str, ...]]

    def entry(self, chance: Chance) -> Entry:
        """Whether to enter; asked once per bin with forecasts."""
        ...

    def leave(self, holding: Holding, chance: Chance) -> m.Signal | None:
        """The forecast that ends a position by plan, or none; asked once per bin, `chance` may have no signals."""
        ...
