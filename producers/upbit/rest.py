"""Upbit's public quotation calls that the feed needs, through the official SDK. No key is used or read here.

Called by `producers.upbit.markets`, `quotes` and `backfill`, from threads beside the feed's. The answers are
typed at this door: an answer that cannot be read is `BadMessage`, everything else that fails `ExchangeUnavailable`.
"""

import logging
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, TypeVar

import msgspec
import upbit

from infra.errors import BadMessage, ExchangeUnavailable
from infra.upbit.pace import Pace

CODES_PER_CALL = 100
TIMEOUT_S = 3.0


class _Event(msgspec.Struct, frozen=True):
    warning: bool = False
    caution: dict[str, bool] = {}


class Listing(msgspec.Struct, frozen=True):
    """One line of `market/all`."""

    market: str
    korean_name: str = ""
    english_name: str = ""
    market_event: _Event = _Event()

    @property
    def is_caution(self) -> bool:
        """Whether any of the exchange's caution flags is up."""
        return any(self.market_event.caution.values())


class Instrument(msgspec.Struct, frozen=True):
    """One line of `orderbook/instruments`; the tick size is that of the current price."""

    market: str
    tick_size: Decimal


class _Level(msgspec.Struct, frozen=True):
    bid_price: float
    bid_size: float
    ask_price: float
    ask_size: float


class Depth(msgspec.Struct, frozen=True):
    """One line of `orderbook`: best level first, the shorter side padded with zeros."""

    market: str
    timestamp: int
    orderbook_units: list[_Level]


class Tick(msgspec.Struct, frozen=True):
    """One line of `trades/ticks`; `timestamp` is the match's time in ms."""

    market: str
    timestamp: int
    trade_price: float
    trade_volume: float
    ask_bid: str
    sequential_id: int


T = TypeVar("T")


class Quotation:
    """The calls, at one address. Nothing is retried here: the caller knows when it wants to try again."""

    def __init__(self, address: str, *, is_local: bool) -> None:
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it writes a line per call
        self._address = address
        self._client = upbit.Upbit(
            access_key="",
            secret_key="",
            base_url=address,
            max_retries=0,
            timeout=TIMEOUT_S,
            http_client=upbit.DefaultHttpxClient(trust_env=not is_local, event_hooks=Pace().hooks()),
        )

    def markets(self) -> list[Listing]:
        """Every market that the exchange lists."""
        return self._call(list[Listing], self._client.trading_pairs.with_raw_response.list, is_details=True)

    def instruments(self, markets: Sequence[str]) -> list[Instrument]:
        """Tick sizes; the markets must exist."""
        found: list[Instrument] = []
        for start in range(0, len(markets), CODES_PER_CALL):
            codes = ",".join(markets[start : start + CODES_PER_CALL])
            call = self._client.orderbooks.with_raw_response.list_instruments
            found += self._call(list[Instrument], call, markets=codes)
        return found

    def books(self, markets: Sequence[str], levels: int) -> list[Depth]:
        """The best levels of books as they stand now; the markets must exist."""
        found: list[Depth] = []
        for start in range(0, len(markets), CODES_PER_CALL):
            codes = ",".join(markets[start : start + CODES_PER_CALL])
            call = self._client.orderbooks.with_raw_response.list
            found += self._call(list[Depth], call, markets=codes, count=levels)
        return found

    def ticks(self, market: str, *, count: int, cursor: int | None, days_ago: int) -> list[Tick]:
        """Trades of a market before `cursor`, newest first; `days_ago` 0 is the current day (UTC)."""
        query: dict[str, Any] = {"market": market, "count": count}
        if cursor is not None:
            query["cursor"] = str(cursor)
        if days_ago:
            query["days_ago"] = days_ago
        return self._call(list[Tick], self._client.trades.with_raw_response.list, **query)

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def _call(self, kind: type[T], call: Any, **query: Any) -> T:
        try:
            body = call(**query).read()
        except upbit.APIStatusError as error:
            raise ExchangeUnavailable(f"{self._address} answered {error.status_code}: {error.message}") from error
        except upbit.UpbitError as error:
            raise ExchangeUnavailable(f"{self._address} cannot be reached: {error.__cause__ or error}") from error
        try:
            return msgspec.json.decode(body, type=kind, strict=False)
        except (msgspec.DecodeError, UnicodeError) as error:
            raise BadMessage(f"the answer of {self._address} cannot be read: {error}") from error
