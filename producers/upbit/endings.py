"""The days on which markets end, as far as the exchange names them: `delisting_date` of its tickers.

REST tells only of warnings (`market/all`), so a short websocket connection of its own asks for one ticker per market.
Called by the feed from an errand's thread, every few minutes; what is known stays known where the exchange is silent.
"""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone

import msgspec

from infra.errors import ExchangeUnavailable
from producers.upbit.connection import Connection

logger = logging.getLogger(__name__)

EVERY_S = 300.0
PATIENCE_S = 3.0
KOREA = timezone(timedelta(hours=9))


class _Day(msgspec.Struct, frozen=True):
    year: int
    month: int
    day: int


class _Ticker(msgspec.Struct, frozen=True):
    """One ticker; the official SDK knows the day as year, month and day, the documentation as a date."""

    code: str
    market_state: str = "ACTIVE"
    delisting_date: _Day | str | None = None


class Ending(msgspec.Struct, frozen=True):
    """What a ticker says of a market's end."""

    is_over: bool
    day_ms: int | None
    """00:00 in Korea of the day that is named."""


class Endings:
    """Remembers what the tickers said; asks again after `EVERY_S`."""

    def __init__(self, url: str, now_s: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._now_s = now_s
        self._asked_s: float | None = None
        self._known: dict[str, Ending] = {}

    def of(self, markets: Sequence[str]) -> dict[str, Ending]:
        """What is known of these markets."""
        if self._asked_s is None or self._now_s() - self._asked_s >= EVERY_S:
            self._asked_s = self._now_s()
            try:
                self._known |= ask(self._url, markets)
            except ExchangeUnavailable as error:
                logger.info("the exchange could not be asked when markets end: %s", error)
        return self._known


def ask(url: str, markets: Sequence[str]) -> dict[str, Ending]:
    """Ask for one ticker per market, and wait a few seconds for them; raises `ExchangeUnavailable`."""
    connection = Connection(url)
    found: dict[str, Ending] = {}
    end_s = time.monotonic() + PATIENCE_S
    try:
        connection.ask_tickers(markets)
        while len(found) < len(markets) and (left_s := end_s - time.monotonic()) > 0:
            raw = connection.receive(lambda left_s=left_s: left_s)  # type: ignore[misc]  # bound per turn
            if raw is not None and (one := read(raw)) is not None:
                found[one[0]] = one[1]
    finally:
        connection.close()
    return found


def read(raw: bytes) -> tuple[str, Ending] | None:
    """A market and its ending out of a frame; None for what is no ticker or names no day that there is."""
    try:
        ticker = msgspec.json.decode(raw, type=_Ticker)
        return ticker.code, Ending(is_over=ticker.market_state == "DELISTED", day_ms=_day_ms(ticker.delisting_date))
    except (msgspec.DecodeError, ValueError, OverflowError) as error:
        logger.warning("a ticker cannot be read: %s", error)
        return None


def _day_ms(named: _Day | str | None) -> int | None:
    if named is None:
        return None
    if isinstance(named, str):
        day = datetime.fromisoformat(named)
        named = _Day(day.year, day.month, day.day)
    return int(datetime(named.year, named.month, named.day, tzinfo=KOREA).timestamp() * 1000)
