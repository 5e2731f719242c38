"""Where a resting order of ours stands in a queue that is only seen from outside, in integers of 1e-8. Pure.

Called by the sandbox exchange and the backtest for recorded and followed books, which do not show our orders. Upbit
sends snapshots without order ids, so a place is never known: it is kept under three assumptions side by side.

An order of `wanted` lots at a price has `ahead` lots of others before it:

* optimistic: `ahead = 0` always, everything that trades at the price is ours first;
* pessimistic: what left the level without a trade stood behind us; `ahead` falls by trades only, and to the level's
  size where that is smaller (`RiskAdverseQueueModel` of hftbacktest, "front = min(front, new_qty)");
* estimate: of the lots that left the level without a trade a share `ahead^n / (ahead^n + behind^n)` stood before us
  (E. Rigtorp, Estimating order queue position, 2013; `ProbQueueModel` with `PowerProbQueueFunc` of hftbacktest),
  rounded down, with `n = POWER`: 1 says that every lot is as likely to be taken away as every other.

A trade of `v` lots at the price fills `max(0, v - ahead)`; a trade through the price, and the other side of a book that
reaches it, fill without a queue. What a snapshot already contains must not be counted again: a trade whose match is
not later than the last book moves no pessimistic place, one whose message is not later moves no estimate.
So `pessimistic <= estimate <= optimistic <= what traded or crossed` holds after every event. Calibrating `n` and a hole
in the records stand outside: what was not seen moves nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from streams.market.matching import Level

POWER: Final = 1


class Bounds(NamedTuple):
    """Lots under the three assumptions."""

    pessimistic: int
    estimate: int
    optimistic: int

    def plus(self, other: "Bounds") -> "Bounds":
        """Sum."""
        return Bounds(*(a + b for a, b in zip(self, other, strict=True)))

    def minus(self, other: "Bounds") -> "Bounds":
        """Difference."""
        return Bounds(*(a - b for a, b in zip(self, other, strict=True)))


NOTHING = Bounds(0, 0, 0)


def everywhere(lots: int) -> Bounds:
    """The same lots under every assumption."""
    return Bounds(lots, lots, lots)


class Print(NamedTuple):
    """A trade by others as a queue sees it; `taken` is what orders of ours with priority have already got of it."""

    lots: int
    taken: Bounds
    is_through: bool
    """Whether its price lies beyond ours: then nobody stands before us."""
    trade_ms: int
    """Of the match."""
    event_ms: int
    """Of the message; never before the match."""


def shown_at(price_e8: int, side: Sequence[Level], *, is_buy: bool) -> int | None:
    """Lots of others at a price of one side (best first); None where the price lies behind the last level shown."""
    for level in side:
        if level.price_e8 == price_e8:
            return level.lots
        if (level.price_e8 < price_e8) == is_buy:
            return 0
    return None


@dataclass(slots=True)
class QueuePlace:
    """One order's place. `ahead` is None while the level was never shown: then only what passes through fills."""

    wanted: int
    placed_ms: int
    """Exchange time of the book on which it came to rest."""
    book_ms: int
    shown: int | None
    ahead: Bounds | None
    traded: int = 0
    """Lots that left the level by trades since the last book."""
    filled: Bounds = NOTHING

    def on_trade(self, trade: Print) -> Bounds:
        """What a trade at or through the price fills; it is added to `filled`."""
        since_ms = self.placed_ms if trade.is_through else self.book_ms
        has_moved = Bounds(min(trade.trade_ms, trade.event_ms) > since_ms, trade.event_ms > since_ms, optimistic=True)
        left = everywhere(trade.lots).minus(trade.taken)
        volume = Bounds(*(max(lots, 0) * counts for lots, counts in zip(left, has_moved, strict=True)))
        if trade.is_through:
            if has_moved.pessimistic or self.ahead is not None:
                self.ahead = Bounds(*(a * (not m) for a, m in zip(self.ahead or NOTHING, has_moved, strict=True)))
            return self._fill(volume)
        self.traded += trade.lots * has_moved.estimate
        if self.ahead is None:
            return self._fill(Bounds(0, 0, volume.optimistic))
        reaching = Bounds(*(max(0, v - a) for v, a in zip(volume, self.ahead, strict=True)))
        self.ahead = Bounds(*(max(0, a - v) for v, a in zip(volume, self.ahead, strict=True)))
        return self._fill(reaching)

    def on_book(self, shown: int | None, at_ms: int) -> None:
        """Move up by what left the level without a trade; `shown` as `shown_at` gives it."""
        before, traded = self.shown, self.traded
        self.shown, self.book_ms, self.traded = shown, max(self.book_ms, at_ms), 0
        if shown is None:
            return
        if self.ahead is None:
            self.ahead = Bounds(shown, shown, 0)
            return
        pessimistic = min(self.ahead.pessimistic, shown)
        estimate = self.ahead.estimate
        if before is not None:
            left = max(before - traded, estimate)
            estimate -= _cancelled_ahead(estimate, left - estimate, left - shown)
        self.ahead = Bounds(pessimistic, min(estimate, pessimistic), 0)

    def on_cross(self, lots: int) -> Bounds:
        """What the other side of a book fills that stands at or beyond the price."""
        return self._fill(everywhere(lots))

    def _fill(self, reaching: Bounds) -> Bounds:
        got = Bounds(*(max(0, min(lots, self.wanted - has)) for lots, has in zip(reaching, self.filled, strict=True)))
        self.filled = self.filled.plus(got)
        return got


def _cancelled_ahead(ahead: int, behind: int, gone: int) -> int:
    """Of `gone` lots the share that stood before us, at most all of them, rounded down."""
    if gone <= 0 or ahead <= 0:
        return 0
    weight = ahead**POWER
    return min(ahead, max(gone * weight // (weight + behind**POWER), gone - behind))


def join(wanted: int, shown: int | None, at_ms: int, filled: Bounds = NOTHING) -> QueuePlace:
    """Place an order of `wanted` lots, `filled` of them already, behind everything that is shown at its price."""
    ahead = None if shown is None else Bounds(shown, shown, 0)
    return QueuePlace(wanted, placed_ms=at_ms, book_ms=at_ms, shown=shown, ahead=ahead, filled=filled)
