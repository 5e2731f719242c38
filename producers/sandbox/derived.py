"""Tickers and candles of the public websocket: when a trade makes which of them go out.

Called by the hub with every trade. A ticker follows every trade at once; a candle is told at most once per second, and
one that ended meanwhile is told as it ended before the next. Times are the market's own.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from producers.sandbox import stream_views
from producers.sandbox.candles import Candles, row_of
from producers.sandbox.feeds import Frame
from producers.sandbox.periods import start_of
from producers.sandbox.spelling import Speller
from producers.sandbox.tickers import Tickers

CANDLE_EVERY_MS = 1_000
_NEVER = 1 << 62


@dataclass(slots=True)
class _Pace:
    """When a market's candle of one unit was told last, and the starts of those that changed since."""

    told_ms: int = -CANDLE_EVERY_MS
    changed: list[int] = field(default_factory=list)


class Derived:
    """What is made from trades, for all markets."""

    def __init__(self, candles: Candles, tickers: Tickers) -> None:
        self._candles = candles
        self._tickers = tickers
        self._speller = Speller()
        self._paces: dict[tuple[str, str], _Pace] = {}
        self._waiting: set[tuple[str, str]] = set()
        self.due_ms = _NEVER
        """Before this nothing that was held back may be sent."""

    def newest(self, market: str, kind: str) -> Frame | None:
        """The newest frame of a kind; None before the market's first trade."""
        if kind == "ticker":
            row = self._tickers.row(market)
            return None if row is None else stream_views.frame(self._speller, stream_views.TICKER, row)
        row = self._candles.row(market, _unit(kind))
        return None if row is None else stream_views.frame(self._speller, stream_views.CANDLE, row)

    def take(self, frame: Frame) -> None:
        """Count a trade in; before `on_trade` and for every trade, wanted or not."""
        self._candles.on_frame(frame)

    def on_trade(self, frame: Frame, kinds: Collection[str]) -> list[Frame]:
        """What follows a trade now, of the kinds that somebody wants."""
        if frame.print is None:
            return []
        found = []
        for kind in sorted(kinds):
            if kind == "ticker":
                if (ticker := self.newest(frame.market, kind)) is not None:
                    found.append(ticker)
                continue
            pace = self._paces.setdefault((frame.market, kind), _Pace())
            start_ms = start_of(_unit(kind), frame.print.trade_ms)
            if start_ms not in pace.changed:
                pace.changed.append(start_ms)
            found += self._told(frame.market, kind, frame.exchange_ms)
        return found

    def due(self, exchange_ms: int) -> list[Frame]:
        """Candles that were held back and may be sent now."""
        waiting, self._waiting, self.due_ms = self._waiting, set(), _NEVER
        return [frame for market, kind in sorted(waiting) for frame in self._told(market, kind, exchange_ms)]

    def _told(self, market: str, kind: str, exchange_ms: int) -> list[Frame]:
        """The candles that changed, oldest first, where their second is over; else they wait."""
        pace = self._paces[market, kind]
        if exchange_ms - pace.told_ms < CANDLE_EVERY_MS:
            self._waiting.add((market, kind))
            self.due_ms = min(self.due_ms, pace.told_ms + CANDLE_EVERY_MS)
            return []
        pace.told_ms = exchange_ms
        changed, pace.changed = pace.changed, []
        rows = [
            row_of(market, _unit(kind), candle)
            for start_ms in changed
            if (candle := next(self._candles.before(market, _unit(kind), start_ms + 1), None)) is not None
        ]
        return [stream_views.frame(self._speller, stream_views.CANDLE, row) for row in rows]


def _unit(kind: str) -> str:
    return kind.removeprefix("candle.")
