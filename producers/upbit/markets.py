"""Which markets the feed subscribes to, and what the exchange says of each. Called by the feed."""

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from infra.settings import FeedSettings
from producers.upbit.rest import Listing, Quotation
from streams.messages import Market

_LIMITS = {
    "KRW": (Decimal(5000), Decimal(1_000_000_000)),
    "BTC": (Decimal("0.00005"), Decimal(10)),
    "USDT": (Decimal("0.5"), Decimal(1_000_000)),  # the largest is not documented: a bound of our own
}
"""Smallest and largest order total per quote currency, as documented; the order path asks the exchange itself."""


class Chosen(NamedTuple):
    """The markets to subscribe to, those asked for that the exchange does not list, and what it says of the former."""

    markets: list[str]
    unknown: list[str]
    listings: list[Listing]


def choose(feed: FeedSettings, listings: Sequence[Listing]) -> Chosen:
    """Pick: what the settings name; else all in won (a recording or a synthetic market: all that there are)."""
    listed = {listing.market: listing for listing in listings if listing.market.partition("-")[0] in _LIMITS}
    if feed.markets:
        wanted = list(dict.fromkeys(feed.markets))
    else:
        wanted = [market for market in listed if feed.kind != "upbit" or market.startswith("KRW-")]
    known = [market for market in wanted if market in listed]
    unknown = [market for market in wanted if market not in listed]
    return Chosen(known, unknown, [listed[market] for market in known])


def described(quotation: Quotation, exchange: str, chosen: Chosen, event_ms: int) -> list[Market]:
    """The `Market` messages; raises `ExchangeUnavailable`."""
    ticks = {row.market: row.tick_size for row in quotation.instruments(chosen.markets)}
    return [
        Market(
            exchange=exchange,
            market=listing.market,
            event_ms=event_ms,
            tick_size=ticks[listing.market],
            minimum_total=_LIMITS[listing.market.partition("-")[0]][0],
            maximum_total=_LIMITS[listing.market.partition("-")[0]][1],
            is_caution=listing.is_caution,
            is_warning=listing.market_event.warning,
            korean_name=listing.korean_name,
            english_name=listing.english_name,
        )
        for listing in chosen.listings
        if listing.market in ticks
    ]
