"""What every fault has, whether it meets requests (`faults`) or frames (`socket_faults`): how long and how often it is
on, how it is read from the control interface, and how it is drawn. Pure.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from producers.sandbox.refusals import OrderRefused

Types = Mapping[str, tuple[type, ...]]
"""Field -> what its value may be."""
TYPES: Types = {
    "name": (str,),
    "count": (int, type(None)),
    "probability": (int, float),
    "seconds": (int, float),
}
"""The fields of all faults; `drawn` is ours."""


@dataclass(slots=True)
class Switched:
    """One switched-on fault; `count` null means until switched off."""

    name: str
    count: int | None = 1
    probability: float = 1.0
    seconds: float = 1.0
    drawn: int = 0

    def happens(self, draw: random.Random) -> bool:
        """Whether what it is meant for meets it now; that counts as once."""
        if self.count == 0 or draw.random() >= self.probability:
            return False
        if self.count is not None:
            self.count -= 1
        self.drawn += 1
        return True


def checked(body: Mapping[str, Any], types: Types) -> dict[str, Any]:
    """The fields of a fault whose name is known; raises `OrderRefused` (`bad_request`) for others and for nonsense."""
    for key, value in body.items():
        if (
            key not in types
            or not isinstance(value, types[key])
            or (isinstance(value, bool) and bool not in types[key])
        ):
            raise OrderRefused("bad_request", f"{key} is unknown or has a wrong value")
    return dict(body)


def check_range(fault: Switched, least_s: float, most_s: float) -> None:
    """Refuse what can never happen or never ends."""
    is_count_good = fault.count is None or fault.count > 0
    if not (0 < fault.probability <= 1 and least_s <= fault.seconds <= most_s and is_count_good):
        raise OrderRefused("bad_request", "count, probability or seconds is out of range")
