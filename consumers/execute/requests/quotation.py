"""Order books over REST, for prices while the feed is stale. One request per call, below the exchange's rate limit."""

import time
from collections.abc import Sequence

import httpx
import msgspec

from consumers.execute.guard import check_address
from consumers.execute.requests.watch import Book, Level
from infra.errors import ExchangeUnavailable
from infra.upbit.pace import Pace

TIMEOUT_S = 1.0


class _Unit(msgspec.Struct):
    ask_price: float
    bid_price: float
    ask_size: float
    bid_size: float


class _WireBook(msgspec.Struct):
    market: str
    orderbook_units: list[_Unit]


class Quotation:
    """The public part of an exchange that speaks Upbit's REST."""

    def __init__(self, address: str) -> None:
        """`address` is the base without `/v1`."""
        check_address(address)
        self._http = httpx.Client(
            base_url=address, timeout=TIMEOUT_S, trust_env=False, follow_redirects=False, event_hooks=Pace().hooks()
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def books(self, markets: Sequence[str]) -> dict[str, Book]:
        """Books of those markets that the exchange has; raises `ExchangeUnavailable`."""
        try:
            answer = self._http.get("/v1/orderbook", params={"markets": ",".join(markets)})
            answer.raise_for_status()
            found = msgspec.json.decode(answer.content, type=list[_WireBook])
        except (httpx.HTTPError, msgspec.MsgspecError) as error:
            raise ExchangeUnavailable(f"no order book over REST ({type(error).__name__})") from error
        wall_ms = time.time_ns() // 1_000_000
        return {book.market: Book(*_sides(book.orderbook_units), wall_ms) for book in found}


def _sides(units: Sequence[_Unit]) -> tuple[tuple[Level, ...], tuple[Level, ...]]:
    """Both sides without the zeros that pad the shorter one."""
    bids = tuple((unit.bid_price, unit.bid_size) for unit in units if unit.bid_price > 0)
    asks = tuple((unit.ask_price, unit.ask_size) for unit in units if unit.ask_price > 0)
    return bids, asks
