"""Trades missed in a hole, fetched by REST after a reconnect or a restart. Run in a thread beside the feed's.

They are published with `origin=backfill` for people and audits; they never enter features. Books cannot be fetched
after the fact. The stream never replays anything, hence this module.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from threading import Event

from infra.errors import BadMessage, ExchangeUnavailable
from producers.upbit.rest import Quotation, Tick
from producers.upbit.source import Stretch
from streams.messages import Trade

logger = logging.getLogger(__name__)

PAGE = 200
PAGES_PER_MARKET = 50
MARGIN_MS = 2_000
"""A match lies up to this much before its message, by which the hole is measured."""
DAY_MS = 86_400_000
_LONGEST_DAYS = 7


class Backfill:
    """Fetches the trades of a stretch of market time for one session of a source."""

    def __init__(self, quotation: Quotation, exchange: str, source: str, session: int) -> None:
        self._quotation = quotation
        self._exchange = exchange
        self._source = source
        self._session = session

    def trades(self, markets: Sequence[str], stretch: Stretch, stop: Event) -> Iterator[Trade]:
        """All that can be had, market by market, oldest first; a market whose call fails is named in the log."""
        for market in markets:
            if stop.is_set():
                return
            try:
                found = [self._trade(tick) for tick in self._ticks(market, stretch, stop)]
            except (ExchangeUnavailable, BadMessage) as error:
                logger.warning("trades of %s in the hole cannot be fetched: %s", market, error)
            else:
                yield from reversed(found)

    def _ticks(self, market: str, stretch: Stretch, stop: Event) -> Iterator[Tick]:
        """Newest first, page by page, day by day, until the stretch is passed."""
        days = min(_LONGEST_DAYS, stretch.to_ms // DAY_MS - (stretch.from_ms - MARGIN_MS) // DAY_MS)
        cursor: int | None = None
        days_ago = 0
        for _ in range(PAGES_PER_MARKET):
            page = self._quotation.ticks(market, count=PAGE, cursor=cursor, days_ago=days_ago)
            for tick in page:
                if tick.timestamp < stretch.from_ms - MARGIN_MS:
                    return
                if tick.timestamp < stretch.to_ms:
                    yield tick
            if stop.is_set():
                return
            if len(page) < PAGE:
                if days_ago >= days:
                    return
                days_ago += 1
                cursor = None
            else:
                cursor = page[-1].sequential_id
        most = PAGE * PAGES_PER_MARKET
        logger.warning("the hole of %s holds more than %d trades: the older ones are left out", market, most)

    def _trade(self, tick: Tick) -> Trade:
        return Trade(
            exchange=self._exchange,
            source=self._source,
            session=self._session,
            market=tick.market,
            exchange_ms=tick.timestamp,
            trade_ms=tick.timestamp,
            received_ns=time.time_ns(),
            trade_id=tick.sequential_id,
            price=tick.trade_price,
            size=tick.trade_volume,
            is_buy=tick.ask_bid == "BID",
            origin="backfill",
        )
