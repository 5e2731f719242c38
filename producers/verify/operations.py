"""Random operations for the check of matching and ledger, drawn from a seed: orders, bad requests, books, trades.

Called by `matching`. Amounts are decimal texts as a client would send them; sizes are drawn so that orders meet often.
"""

import random
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from producers.verify.slow_market import Offer
from producers.verify.wishes import LOT, tick_of

ACCOUNTS = ("alpha", "beta")
MARKETS: tuple[tuple[str, str], ...] = (
    ("KRW-BTC", "100000000"), ("KRW-ETH", "4000000"), ("KRW-SOL", "250000"), ("KRW-LINK", "25000"),
    ("KRW-ATOM", "7000"), ("KRW-XRP", "800"), ("KRW-ADA", "50"), ("KRW-ZIL", "5"), ("KRW-SHIB", "0.5"),
    ("BTC-ETH", "0.04"), ("BTC-XRP", "0.00001"),
)  # fmt: skip
"""Every band of the tick table and a second quote currency, which is the base of another market."""

MARKET_OPERATIONS = (("book", 16), ("trade", 9), ("advance", 14))
ORDER_OPERATIONS = (
    ("limit", 20), ("limit ioc", 5), ("limit fok", 5), ("post_only", 6), ("price", 5), ("market", 5), ("best ioc", 4),
    ("best fok", 4),
)  # fmt: skip
OTHER_OPERATIONS = (
    ("deposit", 3), ("cancel", 8), ("cancel_and_new", 5), ("cancel many", 2), ("cancel unknown", 1), ("test", 2),
    ("same identifier", 3), ("bad request", 7), ("restart", 2), ("disk full", 1), ("lost writes", 2),
)  # fmt: skip
OPERATIONS = MARKET_OPERATIONS + ORDER_OPERATIONS + OTHER_OPERATIONS
BAD_REQUESTS = (
    "off tick", "too small", "too large", "no funds", "unknown market", "wrong side", "missing field", "surplus field",
    "wrong rule", "nine decimals", "zero", "too deep", "post_only with smp",
    "unknown smp",
)  # fmt: skip


class Draw:
    """Everything random of one sequence."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a repeatable check, no secret
        self.is_synthetic = self.random.random() < 0.5
        self.is_burning = self.random.random() < 0.5
        self.smp_default = self.random.choice(("", "", "cancel_maker"))
        self.fill_delay_ms = self.random.choice((0, 5, 30))
        self.cancel_delay_ms = self.random.choice((0, 5, 30, 60))
        self.markets = dict(self.random.sample(MARKETS, 2))
        if any(market.startswith("BTC-") for market in self.markets):
            self.markets["KRW-BTC"] = "100000000"
        self._middle = {market: Decimal(price) for market, price in self.markets.items()}
        names, weights = zip(*OPERATIONS, strict=True)
        self._names: Sequence[str] = names
        self._weights: Sequence[int] = weights
        self._identifiers = 0

    def operations(self, count: int) -> list[str]:
        """What happens, in order; it begins with money and a book of every market."""
        return self.random.choices(self._names, self._weights, k=count)

    def market(self) -> str:
        """One of the markets."""
        return self.random.choice(list(self.markets))

    def account(self) -> str:
        """One of the accounts."""
        return self.random.choice(ACCOUNTS)

    def _size(self, market: str, price: Decimal, low: int, high: int) -> Decimal:
        """A size worth about so many won, sometimes a round one."""
        won = Decimal(self.random.randint(low, high))
        worth = won if market.startswith("KRW-") else won / Decimal(100_000_000)
        if self.random.random() < 0.3:
            return max(Decimal(1), worth // price)
        return max(LOT, worth // (price * LOT) * LOT)

    def book(self, market: str) -> tuple[list[Offer], list[Offer]]:
        """A new book near the last one: one to six levels, now and then an empty side."""
        r = self.random
        tick = tick_of(market, self._middle[market])
        self._middle[market] += r.choice((-3, -2, -1, -1, 0, 0, 1, 1, 2, 3)) * tick
        bid = self._middle[market]
        ask = bid + r.choice((1, 1, 1, 2, 3)) * tick
        return self._levels(market, bid, -tick), self._levels(market, ask, tick)

    def _levels(self, market: str, price: Decimal, step: Decimal) -> list[Offer]:
        r = self.random
        levels: list[Offer] = []
        for _ in range(0 if r.random() < 0.02 else r.randint(1, 6)):
            if price <= 0 or tick_of(market, price) != abs(step):
                break
            levels.append((price, self._size(market, price, 3_000, 600_000)))
            price += step * r.choice((1, 1, 1, 2))
        return levels

    def trade(self, market: str) -> tuple[Decimal, Decimal, bool]:
        """A trade of others near the middle."""
        price = self._middle[market] + self.random.randint(-4, 5) * tick_of(market, self._middle[market])
        return price, self._size(market, price, 1_000, 900_000), self.random.random() < 0.5

    def identifier(self) -> str:
        """A new identifier."""
        self._identifiers += 1
        return f"id-{self._identifiers}"

    def order(self, name: str, market: str = "", side: str = "") -> dict[str, Any]:
        """A request of a kind; good in form, though money or the book may not suffice."""
        r = self.random
        market = market or self.market()
        kind, _, rule = name.partition(" ")
        if name == "post_only":
            kind, rule = "limit", "post_only"
        side = side or {"price": "bid", "market": "ask"}.get(kind) or r.choice(("bid", "ask"))
        middle = self._middle[market]
        price = middle + r.randint(-5, 6) * tick_of(market, middle)
        if tick_of(market, price) > tick_of(market, middle):
            price = middle
        body: dict[str, Any] = {"market": market, "side": side, "ord_type": kind}
        if kind == "limit":
            body["price"] = plain(price)
        if kind == "limit" or side == "ask":
            body["volume"] = plain(self._size(market, price, 5_500, 1_500_000))
        else:
            worth = Decimal(r.choice((5_000, 10_000, 123_456, r.randint(5_000, 2_000_000))))
            body["price"] = plain(worth if market.startswith("KRW-") else worth / Decimal(100_000_000))
        if rule:
            body["time_in_force"] = rule
        if rule != "post_only" and r.random() < 0.4:
            body["smp_type"] = r.choice(("cancel_maker", "cancel_taker", "reduce"))
        elif self.smp_default and r.random() < 0.2:
            body["smp_type"] = "none"
        if r.random() < 0.5:
            body["identifier"] = self.identifier()
        return body

    def bad_request(self, what: str) -> dict[str, Any]:
        """A request with one thing wrong."""
        body = self.order("limit")
        market, price = str(body["market"]), Decimal(body["price"])
        changes: dict[str, dict[str, Any]] = {
            "off tick": {"price": plain(price + tick_of(market, price) / 2) if price > 1 else plain(price)},
            "too small": {"volume": plain(LOT)},
            "too large": {"volume": plain(Decimal(10**10) // price)},
            "no funds": {"volume": plain(Decimal(9 * 10**8) // price)},
            "unknown market": {"market": "KRW-NONE"},
            "wrong side": {"ord_type": "price" if body["side"] == "ask" else "market"},
            "missing field": {"volume": None},
            "surplus field": {"ord_type": "market" if body["side"] == "ask" else "price"},
            "wrong rule": {"ord_type": "best", "time_in_force": "post_only"},
            "nine decimals": {"volume": body["volume"].split(".")[0] + ".123456789"},
            "zero": {"volume": "0"},
            "too deep": {"ord_type": "market", "side": "ask", "price": None, "volume": "99999999999"},
            "post_only with smp": {"time_in_force": "post_only", "smp_type": "cancel_maker"},
            "unknown smp": {"smp_type": "both"},
        }
        return body | changes[what]


def plain(value: Decimal) -> str:
    """A decimal as text, without exponent or trailing zeros."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
