"""Counts how often, and how long, the exchange has not known an order that it accepted. Pure.

`desk` asks it after every look at an open order, and stops the account where the exchange has forgotten one for good.
"""

ANSWERS = 30
SECONDS = 60.0
"""Both must be over. A minute outlives a lagging copy of the exchange's books and its restart, which mend themselves,
while a stop needs a person; the answers are counted too because none comes while the exchange cannot be asked.
"""


class Forgotten:
    """The answers "not found" per identifier, in a row."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[float, int]] = {}

    def is_for_good(self, identifier: str, now_s: float) -> bool:
        """Note one more answer that an order is not known; whether that is not going to change."""
        first_s, count = self._since.get(identifier, (now_s, 0))
        self._since[identifier] = first_s, count + 1
        return count + 1 >= ANSWERS and now_s - first_s >= SECONDS

    def knows(self, identifier: str) -> bool:
        """Whether it was missing at the last look."""
        return identifier in self._since

    def clear(self, identifier: str) -> None:
        """It was found, or is not followed any more."""
        self._since.pop(identifier, None)
