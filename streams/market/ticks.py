"""Tick sizes by price, from the exchange's dated tables, in exact integers; called by the sandbox and by replays.

Prices and ticks are integers of 1e-8 of the quote currency (`price_e8`). Live code asks the exchange's instruments
call instead: this table is pure input for the past, and must never decide what a live price may be.
"""

from bisect import bisect_right
from decimal import Decimal

E8 = 100_000_000
"""Scale of every integer price and lot here."""

KRW_SINCE_2025_07_31_MS = 1_753_887_600_000
"""2025-07-31 00:00 in Korea, milliseconds since the epoch."""
KRW_SINCE_2024_01_29_MS = 1_706_454_000_000

Table = tuple[tuple[int, int], ...]
"""(lower bound, tick), both e8, ascending."""


def _table(*rows: tuple[str, str]) -> Table:
    return tuple(sorted((_e8(bound), _e8(tick)) for bound, tick in rows))


def _e8(text: str) -> int:
    whole, _, fraction = text.partition(".")
    return int(whole) * E8 + int(fraction.ljust(8, "0") or "0")


_EXACT_BELOW = 2**26


def e8_of(value: float) -> int:
    """A number of the wire in 1e-8: the nearest one to its shortest decimal text. Fast where eight decimals fit."""
    whole = int(value)
    if value < _EXACT_BELOW:
        return whole * E8 + round((value - whole) * E8)
    return int(Decimal(repr(value)).scaleb(8).to_integral_value())


KRW_2025 = _table(
    ("1000000", "1000"), ("500000", "500"), ("100000", "100"), ("50000", "50"), ("10000", "10"), ("5000", "5"),
    ("100", "1"), ("10", "0.1"), ("1", "0.01"), ("0.1", "0.001"), ("0.01", "0.0001"), ("0.001", "0.00001"),
    ("0.0001", "0.000001"), ("0.00001", "0.0000001"), ("0", "0.00000001"),
)  # fmt: skip
KRW_2024 = _table(
    ("2000000", "1000"), ("1000000", "500"), ("500000", "100"), ("100000", "50"), ("10000", "10"), ("1000", "1"),
    ("100", "0.1"), ("10", "0.01"), ("1", "0.001"), ("0.1", "0.0001"), ("0.01", "0.00001"), ("0.001", "0.000001"),
    ("0.0001", "0.0000001"), ("0", "0.00000001"),
)  # fmt: skip
KRW_EARLIER = _table(
    ("2000000", "1000"), ("1000000", "500"), ("500000", "100"), ("100000", "50"), ("10000", "10"), ("1000", "5"),
    ("100", "1"), ("10", "0.1"), ("1", "0.01"), ("0.1", "0.001"), ("0", "0.0001"),
)  # fmt: skip
USDT_2024 = _table(
    ("10", "0.01"), ("1", "0.001"), ("0.1", "0.0001"), ("0.01", "0.00001"), ("0.001", "0.000001"),
    ("0.0001", "0.0000001"), ("0", "0.00000001"),
)  # fmt: skip
BTC_FLAT = _table(("0", "0.00000001"))

_ONE_WON_2024_10 = frozenset(
    "KRW-" + code
    for code in (
        "ADA", "ALGO", "BLUR", "CELO", "ELF", "EOS", "GRS", "GRT", "ICX", "MANA", "MINA", "POL", "SAND", "SEI", "STG",
        "TRX",
    )
)  # fmt: skip
_ONE_WON_SINCE_MS = 1_727_708_400_000
"""2024-10-01 in Korea; the page names the month only."""
_HALF_WON = frozenset({"KRW-USDT", "KRW-USDC"})
_HALF_WON_SINCE_MS = 1_742_482_800_000
"""2025-03-21 in Korea."""


def table_of(market: str, at_ms: int) -> Table:
    """The table that was in force for the market's quote currency; raises `KeyError` for a quote nobody lists."""
    quote = market.partition("-")[0]
    if quote == "KRW":
        if at_ms >= KRW_SINCE_2025_07_31_MS:
            return KRW_2025
        return KRW_2024 if at_ms >= KRW_SINCE_2024_01_29_MS else KRW_EARLIER
    return {"BTC": BTC_FLAT, "USDT": USDT_2024}[quote]


def tick_e8(market: str, price_e8: int, at_ms: int) -> int:
    """Tick size of `market` at a price (both e8) at a time, the exceptions of 2024-10 and 2025-03 included."""
    if KRW_SINCE_2024_01_29_MS <= at_ms < KRW_SINCE_2025_07_31_MS:
        if market in _ONE_WON_2024_10 and at_ms >= _ONE_WON_SINCE_MS and 100 * E8 <= price_e8 < 1000 * E8:
            return E8
        if market in _HALF_WON and at_ms >= _HALF_WON_SINCE_MS and 1000 * E8 <= price_e8 < 10_000 * E8:
            return E8 // 2
    table = table_of(market, at_ms)
    return table[bisect_right(table, (price_e8, E8 * E8)) - 1][1]


def is_on_tick(market: str, price_e8: int, at_ms: int) -> bool:
    """Whether an order may stand at this price."""
    return price_e8 > 0 and price_e8 % tick_e8(market, price_e8, at_ms) == 0
