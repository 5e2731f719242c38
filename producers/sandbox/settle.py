"""Paper orders over an outage of ours: what the journal keeps of a followed market, and how the gap happens to them.

Called by `exchange` in `follow` mode. Every line of the journal about an order begins with how far its market had come
in the log and who stood where (`mark`), in the same write, so after a kill at any point the records since then happen
to the orders that waited, each once, in the order of the log. It must never let an order end unfilled over records that
nobody has read: stretches without records are kept as holes.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from producers.sandbox.clock import MarketClock
from producers.sandbox.feeds import Frame
from producers.sandbox.follow import Follow, Place
from producers.sandbox.state import Entry, State
from producers.sandbox.trading import Trading

logger = logging.getLogger(__name__)

MARK_EVERY_MS = 60_000
"""Of market time: so much at most is read again after a kill, beside the gap itself."""
_OF_ALL = frozenset({"halted", "resumed"})
_CLOCKED = frozenset({"order", "cancelling", "replacing"})


class Settlement:
    """For one exchange and the market that it follows; `attach` comes first."""

    def __init__(self, feed: Follow, clock: MarketClock) -> None:
        self._feed = feed
        self.clock = clock
        self._marked_ms: dict[str, int] = {}
        self._is_on = False
        self._state: State
        self._trading: Trading
        self._record: Callable[[Sequence[Entry]], None]
        self.afterwards: Callable[[], None] | None = None
        """What is to happen when the past is over."""
        feed.settling = self

    @property
    def is_on(self) -> bool:
        """Whether the log's past is still to happen to waiting orders."""
        return self._is_on

    def attach(self, state: State, trading: Trading, record: Callable[[Sequence[Entry]], None]) -> None:
        """The parts of the exchange that it works on."""
        self._state, self._trading, self._record = state, trading, record

    # --- what is kept -----------------------------------------------------------------------------------------------

    def marked(self, entries: Sequence[Entry]) -> list[Entry]:
        """These entries with the market's time, behind the marks of the markets that they are about."""
        orders = self._state.orders
        markets = {entry.get("market") or orders[entry["u"]].market for entry in entries if _is_of_order(entry)}
        if any(entry["e"] in _OF_ALL for entry in entries):
            markets |= {order.market for order in self._state.waiting.values()}
        marks = [mark for market in sorted(markets) if (mark := self.mark(market)) is not None]
        clock_ms = self._feed.clock_ms if self._feed.is_warm else self._feed.now_ms()
        return marks + [entry | ({"c": clock_ms} if entry["e"] in _CLOCKED else {}) for entry in entries]

    def mark(self, market: str) -> Entry | None:
        """How far a market has come; None where that is known already, or nothing is."""
        place = self._feed.place(market)
        if place is None:
            return None
        self._marked_ms[market] = place.clock_ms
        return {"e": "at", "m": market, "p": list(place)} | self._trading.kept(market)

    def is_due(self, frame: Frame) -> bool:
        """Whether the market of a frame wants a mark although nothing became of its orders."""
        since_ms = frame.exchange_ms - self._marked_ms.get(frame.market, 0)
        return since_ms >= MARK_EVERY_MS and bool(self._state.resting.get(frame.market))

    # --- the gap ----------------------------------------------------------------------------------------------------

    def begin(self) -> set[str]:
        """Take up the places that the journal tells and have the log read from there; gives those markets."""
        wanted = {order.market for order in self._state.waiting.values()}
        places = {market: entry for market, entry in self._state.places.items() if market in wanted}
        self._marked_ms.clear()
        for entry in places.values():
            self._trading.restore(entry)
        self._is_on = bool(places)
        if places:
            self.clock.hold()
        self._feed.begin({market: Place(*entry["p"]) for market, entry in places.items()})
        for market in sorted(wanted - set(places)):
            logger.warning("no place of %s was kept: what came in the log since is not settled", market)
        return set(places)

    def on_begin(self, market: str) -> None:
        """What the last line of the journal did after its mark was taken."""
        for order in self._state.resting[market].values():
            self._trading.queue(order)
        self._trading.take_again(market, self._state.since.get(market, []))

    def on_hole(self, market: str, from_ms: int, to_ms: int) -> None:
        """Orders that waited in the stretch are not settled there."""
        waited = [o.uuid for o in self._state.waiting.values() if o.market == market and o.created_ms < to_ms]
        if waited and not any(_is_hole(hole, market, from_ms, to_ms) for hole in self._state.holes):
            self._keep({"e": "hole", "m": market, "f": from_ms, "t": to_ms, "o": waited})

    def on_covered(self, market: str, from_ms: int, to_ms: int) -> None:
        """Trades fetched later tell of the stretch, books do not."""
        holes = (hole for hole in self._state.holes if _is_hole(hole, market, from_ms, to_ms))
        if any(not hole.get("k") for hole in holes):
            self._keep({"e": "covered", "m": market, "f": from_ms, "t": to_ms})

    def on_caught_up(self) -> None:
        """The past is over."""
        self._is_on = False
        self.clock.release()
        work, self.afterwards = self.afterwards, None
        if work is not None:
            work()

    def _keep(self, entry: Entry) -> None:
        try:
            self._record([entry])
        except OSError:
            logger.exception("the journal cannot be written; a hole of %s is not kept", entry["m"])


def _is_of_order(entry: Entry) -> bool:
    return entry["e"] == "order" or "u" in entry


def _is_hole(hole: Entry, market: str, from_ms: int, to_ms: int) -> bool:
    return (hole["m"], hole["f"], hole["t"]) == (market, from_ms, to_ms)


def unsettled_rows(holes: Iterable[Entry]) -> list[dict[str, Any]]:
    """The stretches for `/sandbox/truth`: never "unfilled" where no record says so."""
    return [
        {
            "market": hole["m"],
            "from_ms": hole["f"],
            "to_ms": hole["t"],
            "orders": list(hole["o"]),
            "settled": "trades only" if hole.get("k") else "not settled: no data",
        }
        for hole in holes
    ]
