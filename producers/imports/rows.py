"""What every reader of a foreign file gives: rows with books and trades, or with the reason why they cannot be used.

Called by the readers (`frames`, `tables`, `sheets`). Pure. What a row lacks is 0 (a time) or makes it unusable; nothing
is made up. A unit that cannot be right stops the import, because then the whole file is in that unit.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from infra.errors import BadMessage, BadSettings
from producers.imports.formats import Format
from producers.upbit.parse import check_sides, cut_padding
from streams.messages import OrderBook, Trade

NS_PER_MS = 1_000_000
EARLIEST_MS = 1_000_000_000_000
"""September 2001. A smaller number is a time in seconds."""
LATEST_MS = 10_000_000_000_000
"""The year 2286. A larger number is a time in microseconds or nanoseconds."""
_MARKET = re.compile(r"[A-Z0-9][A-Z0-9._-]{0,39}")
_LAST_ID = (1 << 63) - 1
_UNITS = {"seconds": 10**9, "milliseconds": 10**12, "microseconds": 10**15, "nanoseconds": 10**18}
"""About what a time of our years is in each; ten times that is its year 2286."""


class WrongUnit(Exception):  # noqa: N818 - named by what it says
    """A number that cannot be in the unit that its column has."""


class Row(NamedTuple):
    """One line or row of a file: what it says, and what of it cannot be used (reason, bytes)."""

    number: int
    """From 1; of a text file the line."""
    received_ns: int
    """0 where the file does not say."""
    items: tuple[OrderBook | Trade, ...]
    dead: tuple[tuple[str, bytes], ...] = ()


class File(Protocol):
    """One file of others; reading it again gives the same rows."""

    path: Path
    format: Format
    exchange: str

    def rows(self, session: int, skipped: Counter[str]) -> Iterator[Row]:
        """Read it, as session `session` of its source; counts by reason what is no row. Raises `BadSettings`."""


class Columns(NamedTuple):
    """Which column says what. An empty name: the file has none for it."""

    at_ms: str
    market: str = ""
    received: str = ""
    ns_per_received: int = 1
    matched_ms: str = ""
    trade_id: str = ""
    price: str = ""
    size: str = ""
    taker: str = ""
    taker_buys: Mapping[Any, bool] = {}


class Voice(NamedTuple):
    """Who speaks: stands in every message."""

    exchange: str
    session: int
    market: str = ""
    """Of files without a column for it."""


Cells = Mapping[str, Any]
"""One row by column; numbers are numbers, what is missing is None."""


def refused(path: Path, number: int, why: object) -> BadSettings:
    """The error that stops an import at a row."""
    return BadSettings(f"{path.name}, row {number}: {why}. Nothing was imported.")


def received_of(cells: Cells, columns: Columns) -> int:
    """Receive time in ns, 0 where the row has none; raises `WrongUnit`."""
    value = cells.get(columns.received) if columns.received else None
    if value is None:
        return 0
    received_ns = int(value * columns.ns_per_received)
    _check_ms(received_ns // NS_PER_MS, columns.received, value)
    return received_ns


def book_of(cells: Cells, columns: Columns, levels: int, voice: Voice) -> OrderBook:
    """A book; raises `WrongUnit`, and `BadMessage` for one that cannot be used."""
    bids, bid_sizes = _side(cells, "bid", levels)
    asks, ask_sizes = _side(cells, "ask", levels)
    if not bids and not asks:
        raise BadMessage("a book without a level")
    check_sides(bids, asks)
    return OrderBook(
        exchange=voice.exchange,
        source=voice.exchange,
        session=voice.session,
        market=_market(cells, columns, voice),
        exchange_ms=_time_ms(cells, columns.at_ms),
        received_ns=received_of(cells, columns),
        bid_prices=bids,
        bid_sizes=bid_sizes,
        ask_prices=asks,
        ask_sizes=ask_sizes,
    )


def trade_of(cells: Cells, columns: Columns, voice: Voice) -> Trade:
    """A trade; raises `WrongUnit`, and `BadMessage` where it lacks what a trade must have."""
    price, size = cells.get(columns.price), cells.get(columns.size)
    if price is None or not math.isfinite(price) or price <= 0.0:
        raise WrongUnit(f"{columns.price} is {price}: no price")
    if size is None or not math.isfinite(size) or size <= 0.0:
        raise BadMessage(f"a trade of {size}")
    taker = cells.get(columns.taker)
    if taker not in columns.taker_buys:
        raise BadMessage("nobody says whether the taker bought" if taker is None else f"{columns.taker} is {taker!r}")
    trade_id = cells.get(columns.trade_id)
    if trade_id is None:
        raise BadMessage("no trade id: a repeated trade could not be told from a new one")
    if not 0 <= trade_id <= _LAST_ID:
        raise BadMessage(f"trade id {trade_id} is no int64")
    matched = columns.matched_ms and cells.get(columns.matched_ms) is not None
    return Trade(
        exchange=voice.exchange,
        source=voice.exchange,
        session=voice.session,
        market=_market(cells, columns, voice),
        exchange_ms=_time_ms(cells, columns.at_ms),
        trade_ms=_time_ms(cells, columns.matched_ms) if matched else 0,
        received_ns=received_of(cells, columns),
        trade_id=trade_id,
        price=price,
        size=size,
        is_buy=columns.taker_buys[taker],
    )


def _side(cells: Cells, name: str, levels: int) -> tuple[list[float], list[float]]:
    """A side of the book, its padding cut; a level is missing or 0 only behind all others."""
    prices = [cells[column] or 0.0 for column in _names(name, "price", levels)]
    sizes = [cells[column] or 0.0 for column in _names(name, "size", levels)]
    if not math.isfinite(sum(prices) + sum(sizes)) or min(prices) < 0.0 or min(sizes) < 0.0:
        raise WrongUnit(f"a {name} below zero or no number")
    cut_padding(prices, sizes)
    if 0.0 in prices:
        raise WrongUnit(f"{name}_price_{prices.index(0.0) + 1} is 0 before levels that have a price")
    return prices, sizes


@cache
def _names(side: str, what: str, levels: int) -> tuple[str, ...]:
    """Of the columns of a side, best level first."""
    return tuple(f"{side}_{what}_{level}" for level in range(1, levels + 1))


def _market(cells: Cells, columns: Columns, voice: Voice) -> str:
    market = cells.get(columns.market) if columns.market else voice.market
    if not market:
        raise BadMessage("no market in it")
    if not _MARKET.fullmatch(str(market)):
        raise BadMessage(f"market {str(market)[:40]!r} is no code of an exchange")
    return str(market)


def _time_ms(cells: Cells, name: str) -> int:
    value = cells.get(name)
    if value is None:
        raise WrongUnit(f"{name} is missing")
    _check_ms(value, name, value)
    return int(value)


def _check_ms(milliseconds: int, name: str, value: int | Decimal) -> None:
    if EARLIEST_MS <= milliseconds < LATEST_MS:
        return
    unit = next((unit for unit, low in _UNITS.items() if low <= value < 10 * low), "")
    words = f"it looks like {unit}" if unit else "that is no time of this century"
    raise WrongUnit(f"{name} is {value}: {words}")
