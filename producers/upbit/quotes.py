"""Prices over REST for markets of which the stream brings nothing: open positions go on being watched by them.

A thread beside the feed's, so that it works while the feed waits for a connection. They go to a topic of their own
(`quotes`): nothing here enters `orderbooks`, so no feature, forecast or entry ever rests on them.
"""

import logging
import time
from collections.abc import Callable, Sequence
from threading import Event

from infra.errors import ObservatorError
from infra.log import Log
from producers.upbit.backoff import Backoff
from producers.upbit.rest import Depth, Quotation
from streams.messages import Quote, encode, key_of

logger = logging.getLogger(__name__)

EVERY_S = 1.0
LONGEST_PAUSE_S = 10.0
FLUSH_S = 3.0
LEVELS = 5
QUIET_MARKET_MS = 60_000
"""A book older than this is not carried into further bins (`streams.market.bins`): trade sees no price of it."""


class Silence:
    """Since when each market has brought no book. The feed's thread notes, the other one asks."""

    def __init__(self, stream_s: float, market_s: float) -> None:
        self._stream_ns = int(stream_s * 1e9)
        self._market_ns = int(market_s * 1e9)
        self._seen_ns: dict[str, int] = {}

    def begin(self, markets: Sequence[str], now_ns: int) -> None:
        """Watch these; nothing of them has been missed yet."""
        self._seen_ns = dict.fromkeys(markets, now_ns)

    def note(self, market: str, now_ns: int) -> None:
        """A book came; of a market that was left out it means nothing."""
        if market in self._seen_ns:
            self._seen_ns[market] = now_ns

    def leave_out(self, market: str) -> None:
        """The exchange lists it no longer: it would refuse the question for all of them."""
        self._seen_ns.pop(market, None)

    def end(self) -> None:
        """Nothing is expected any more."""
        self._seen_ns = {}

    def silent(self, now_ns: int) -> list[str]:
        """All markets where the whole stream is silent, else those that are silent far longer."""
        seen = self._seen_ns.copy()
        if seen and now_ns - max(seen.values()) > self._stream_ns:
            return list(seen)
        return [market for market, seen_ns in seen.items() if now_ns - seen_ns > self._market_ns]


class Quotes:
    """Asks once a second for the books of silent markets; slower where the exchange does not answer."""

    def __init__(
        self, log: Log, quotation: Quotation, exchange: str, source: str, silent: Callable[[int], list[str]],
        estimate_ms: Callable[[int], int],
    ) -> None:  # fmt: skip
        self._publisher = log.publisher()
        self._quotation = quotation
        self._exchange = exchange
        self._source = source
        self._silent = silent
        self._estimate_ms = estimate_ms
        self._backoff = Backoff(EVERY_S, LONGEST_PAUSE_S)
        self._has_trouble = False

    def run(self, stop: Event) -> None:
        """Ask until `stop` is set; what fails is tried again."""
        pause_s = EVERY_S
        while not stop.wait(pause_s):
            pause_s = EVERY_S
            if not (markets := self._silent(time.monotonic_ns())):
                continue
            try:
                self.ask(markets)
            except ObservatorError as error:
                pause_s = EVERY_S + self._backoff.pause_s()
                if not self._has_trouble:
                    logger.warning("no prices over REST of %d silent markets, trying again: %s", len(markets), error)
                self._has_trouble = True
            else:
                self._backoff.reset()
                self._has_trouble = False

    def ask(self, markets: Sequence[str]) -> int:
        """Write what the exchange shows now; the number of books. Raises what the exchange's answer and the log say."""
        asked_ns, asked_wall_ns = time.monotonic_ns(), time.time_ns()
        rows = self._quotation.books(markets, LEVELS)
        event_ms = self._estimate_ms(asked_ns) or max((row.timestamp for row in rows), default=0)
        quotes = [self._quote(row, event_ms, asked_wall_ns) for row in rows if is_sound(row)]
        for quote in quotes:
            self._publisher.publish("quotes", key_of(self._exchange, quote.market), encode(quote))
        self._publisher.flush(FLUSH_S)
        return len(quotes)

    def close(self) -> None:
        """Let go of the log."""
        try:
            self._publisher.close()
        except ObservatorError as error:
            logger.warning("the last prices over REST may be missing from the log: %s", error)

    def _quote(self, row: Depth, event_ms: int, received_ns: int) -> Quote:
        bids = [unit for unit in row.orderbook_units if unit.bid_price > 0.0][:LEVELS]
        asks = [unit for unit in row.orderbook_units if unit.ask_price > 0.0][:LEVELS]
        return Quote(
            exchange=self._exchange,
            market=row.market,
            source=self._source,
            event_ms=event_ms,
            exchange_ms=row.timestamp,
            received_ns=received_ns,
            bid_prices=[unit.bid_price for unit in bids],
            bid_sizes=[unit.bid_size for unit in bids],
            ask_prices=[unit.ask_price for unit in asks],
            ask_sizes=[unit.ask_size for unit in asks],
        )


def is_sound(row: Depth) -> bool:
    """Whether a position may be sold by it: its best bid, where there is one, lies below its best ask."""
    if not row.orderbook_units:
        return False
    best = row.orderbook_units[0]
    return best.ask_price <= 0.0 or best.bid_price < best.ask_price
