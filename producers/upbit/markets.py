"""Which markets the feed subscribes to, and what the exchange says of each. Called by the feed."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from infra.settings import FeedSettings
from producers.upbit.endings import Ending
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


def described(
    quotation: Quotation, exchange: str, chosen: Chosen, endings: Mapping[str, Ending], event_ms: int
) -> list[Market]:
    """The `Market` messages, by what the exchange says now; raises `ExchangeUnavailable`.

    A market that it lists no longer is told as delisted, with what was known of it.
    """
    listed = {listing.market: listing for listing in quotation.markets()}
    ticks = {
        row.market: row.tick_size for row in quotation.instruments([one for one in chosen.markets if one in listed])
    }
    return [
        _described(exchange, listed.get(old.market, old), ticks.get(old.market), endings.get(old.market), event_ms)
        for old in chosen.listings
        if old.market in ticks or (listed and old.market not in listed)
    ]


def _described(
    exchange: str, listing: Listing, tick_size: Decimal | None, ending: Ending | None, event_ms: int
) -> Market:
    minimum, maximum = _LIMITS[listing.market.partition("-")[0]]
    return Market(
        exchange=exchange,
        market=listing.market,
        event_ms=event_ms,
        tick_size=tick_size if tick_size is not None else Decimal(1),  # nobody can order there any more
        minimum_total=minimum,
        maximum_total=maximum,
        is_caution=listing.is_caution,
        is_warning=listing.market_event.warning,
        is_delisted=tick_size is None or (ending is not None and ending.is_over),
        delisting_ms=None if ending is None else ending.day_ms,
        korean_name=listing.korean_name,
        english_name=listing.english_name,
    )
