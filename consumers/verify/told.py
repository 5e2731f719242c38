"""What the clients of `verify journal` were told of one order: the exchange may never fall behind it.

Called by `journal_clients`, which fills it from answers and messages, and by `journal`, which judges by it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

_BURNING = ("insufficient_funds", "under_min_total", "over_krw_funds", "volume_too_large", "invalid_price")
"""How refusals begin that come after an order's identifier was read."""


@dataclass(slots=True)
class Told:
    """What answers and messages said of one order."""

    identifier: str
    body: Mapping[str, Any]
    uuid: str = ""
    """Empty while no answer was seen."""
    state: str = "wait"
    executed: Decimal = Decimal(0)
    fills: set[str] = field(default_factory=set)
    is_cancelled: bool = False
    """A cancel was accepted."""
    refused: str = ""
    is_replacement: bool = False
    """Asked for by cancel_and_new: it comes into being only when the old one has ended."""

    @property
    def is_burned(self) -> bool:
        """Whether a refused request used its identifier up, as the exchange is switched by default."""
        return not self.is_replacement and self.refused.startswith(_BURNING)
