"""The real exchange and the slow oracle side by side, moved by hand: one clock, the same books, trades and requests.

Called by `sequence` and `comparing`. The exchange's journal is text in memory, so a restart reads real lines.
"""

from collections import Counter
from decimal import Decimal
from typing import cast

from producers.sandbox.exchange import Exchange
from producers.sandbox.journal import Journal
from producers.verify.operations import Draw
from producers.verify.oracle import Oracle
from producers.verify.scripted import Clock, MemoryJournal, ScriptedMarket
from producers.verify.slow_market import Offer
from producers.verify.wishes import Wish
from streams.market.matching import Level

START_MS = 1_767_225_600_000


class Mismatch(Exception):  # noqa: N818 - named by what was found
    """The exchange and the oracle, or the exchange and an invariant, differ."""


def integer(value: Decimal, digits: int) -> int:
    """A decimal as a whole number of 10**-digits; a rest is an error."""
    scaled = value.scaleb(digits)
    whole = int(scaled)
    if whole != scaled:
        raise Mismatch(f"{value} has more than {digits} decimals")
    return whole


class Twins:
    """Both exchanges and what is known of their orders."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._clock = Clock(START_MS)
        prices = {market: integer(Decimal(price), 8) for market, price in draw.markets.items()}
        self._market = ScriptedMarket(self._clock, prices, is_synthetic=draw.is_synthetic)
        self.is_shared = draw.is_synthetic
        self.journal = MemoryJournal()
        self.exchange = self._started()
        self.oracle = Oracle(
            draw.fill_delay_ms, draw.cancel_delay_ms,
            is_burning=draw.is_burning, is_shared=draw.is_synthetic, smp_default=draw.smp_default,
        )  # fmt: skip
        self.pairs: list[tuple[str, Wish]] = []
        """uuid and wish of every order that was accepted or asked for as a replacement."""
        self.live: list[tuple[str, Wish]] = []
        """Those that had not ended at the last comparison."""
        self.fills_seen: dict[str, int] = {}

    def _started(self) -> Exchange:
        draw = self._draw
        exchange = Exchange(
            self._market,
            cast("Journal", self.journal),
            now_ms=lambda: self._clock.now_ms,
            later=self._clock.later,
            publish=lambda _: None,
            burn_refused_identifiers=draw.is_burning,
            fill_delay_s=draw.fill_delay_ms / 1000,
            cancel_delay_s=draw.cancel_delay_ms / 1000,
            smp_default=draw.smp_default,
        )
        exchange.open()
        return exchange

    def restart(self) -> None:
        """Kill the exchange and start it from its journal; a market that is not ours shows no book at first."""
        self._clock.forget()
        if not self.is_shared:
            self._market.forget()
            self.oracle.forget()
        self.exchange = self._started()
        self.oracle.restart()

    def advance(self, ms: int) -> None:
        """Let time pass for both."""
        self._clock.advance(ms)
        self.oracle.advance(ms)

    def advance_unstored(self, ms: int) -> None:
        """Let time pass for an exchange whose writes will be lost: to the oracle nothing happens in it."""
        self._clock.advance(ms)
        self.oracle.now_ms += ms

    def show(self, market: str, bids: list[Offer], asks: list[Offer]) -> None:
        """A new book for both."""
        frame = self._market.show(market, _levels(bids), _levels(asks))
        self.oracle.show(market, bids, asks)
        self.exchange.on_frame(frame)

    def trade(self, market: str, price: Decimal, size: Decimal, *, is_buy: bool) -> None:
        """A trade of others for both; what a queue grants is taken from the exchange and held against the trade."""
        before = {id(wish): (uuid, wish.executed) for uuid, wish in self.live}
        frame = self._market.print(market, integer(price, 8), integer(size, 8), is_buy=is_buy)
        if self.is_shared:
            self.advance(self._draw.fill_delay_ms)  # as the driver does: whoever is due comes before the frame is shown
        self.exchange.on_frame(frame)

        def granted(wish: Wish) -> Decimal:
            uuid, executed = before[id(wish)]
            return Decimal(self.exchange.orders[uuid].executed_lots).scaleb(-8) - executed

        self.oracle.trade(market, price, size, is_buy=is_buy, granted=granted)

    def know(self, uuid: str, wish: Wish) -> None:
        """Remember an order of both."""
        self.pairs.append((uuid, wish))
        self.live.append((uuid, wish))

    def count_outcomes(self, counts: Counter[str]) -> None:
        """What became of the orders."""
        for _, wish in self.pairs:
            counts[f"orders: {'never came' if wish.state == 'asked' else wish.state}"] += 1
            counts["fills as maker"] += sum(is_maker for *_, is_maker in wish.fills)
            counts["fills as taker"] += sum(not is_maker for *_, is_maker in wish.fills)
            counts["self-matches prevented"] += len(wish.prevented)


def _levels(offers: list[Offer]) -> list[Level]:
    return [Level(integer(price, 8), integer(size, 8)) for price, size in offers]
