"""What the exchange says about a market beside its prices: caution flags, warning, delisting date, state.

Everything is quiet until the control interface says otherwise. Read by the quotation and the tickers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from producers.sandbox.refusals import OrderRefused

CAUTIONS = (
    "PRICE_FLUCTUATIONS", "TRADING_VOLUME_SOARING", "DEPOSIT_AMOUNT_SOARING", "GLOBAL_PRICE_DIFFERENCES",
    "CONCENTRATION_OF_SMALL_ACCOUNTS",
)  # fmt: skip
"""In the order in which the exchange lists them."""
STATES = ("PREVIEW", "ACTIVE", "DELISTED")


@dataclass(frozen=True, slots=True)
class Notice:
    """One market's."""

    is_warning: bool = False
    cautions: tuple[str, ...] = ()
    delisting_date: date | None = None
    state: str = "ACTIVE"

    def event(self) -> dict[str, object]:
        """`market_event` as market/all tells it."""
        return {"warning": self.is_warning, "caution": {name: name in self.cautions for name in CAUTIONS}}


QUIET = Notice()


def read(body: Mapping[str, Any]) -> tuple[str, Notice]:
    """A market and its notice from the control interface; raises `OrderRefused`."""
    if not body.keys() <= {"market", "warning", "caution", "delisting_date", "state"}:
        raise OrderRefused("bad_request", "a notice has market, warning, caution, delisting_date and state")
    market, warning, caution = body.get("market"), body.get("warning", False), body.get("caution", [])
    state, delisting = body.get("state", "ACTIVE"), body.get("delisting_date")
    if not isinstance(market, str) or not isinstance(warning, bool) or state not in STATES:
        raise OrderRefused("bad_request", "market, warning or state has a wrong value")
    if not isinstance(caution, list) or any(name not in CAUTIONS for name in caution):
        raise OrderRefused("bad_request", f"caution names are {', '.join(CAUTIONS)}")
    try:
        day = None if delisting is None else date.fromisoformat(delisting)
    except (TypeError, ValueError):
        raise OrderRefused("bad_request", "delisting_date must look like 2026-12-31") from None
    return market, Notice(warning, tuple(caution), day, state)


class Notices:
    """All markets'."""

    def __init__(self) -> None:
        self._of: dict[str, Notice] = {}

    def of(self, market: str) -> Notice:
        """One market's; a quiet one where nothing was said."""
        return self._of.get(market, QUIET)

    def set(self, market: str, notice: Notice) -> None:
        """Say something about a market from now on."""
        self._of[market] = notice
