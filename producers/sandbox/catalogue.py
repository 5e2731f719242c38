"""The markets that the synthetic exchange lists: real names with plausible prices, then made-up ones. Pure data."""

from typing import NamedTuple

from streams.market.ticks import E8, KRW_SINCE_2025_07_31_MS, tick_e8


class Listing(NamedTuple):
    """One market of the synthetic exchange."""

    market: str
    korean_name: str
    english_name: str
    price_e8: int
    trades_per_second: float
    """Trades that leave the best price where it is, in calm times."""


_KNOWN = (
    ("BTC", "비트코인", "Bitcoin", "150000000", 1.2),
    ("ETH", "이더리움", "Ethereum", "4900000", 0.9),
    ("XRP", "리플", "XRP", "3900", 1.0),
    ("SOL", "솔라나", "Solana", "320000", 0.6),
    ("LINK", "체인링크", "Chainlink", "34000", 0.3),
    ("NEAR", "니어프로토콜", "NEAR Protocol", "4200", 0.25),
    ("BCH", "비트코인캐시", "Bitcoin Cash", "880000", 0.2),
    ("AVAX", "아발란체", "Avalanche", "41000", 0.25),
    ("APT", "앱토스", "Aptos", "8600", 0.2),
    ("DOGE", "도지코인", "Dogecoin", "320", 0.8),
    ("ATOM", "코스모스", "Cosmos", "9100", 0.15),
    ("DOT", "폴카닷", "Polkadot", "8200", 0.15),
    ("SUI", "수이", "Sui", "4400", 0.5),
    ("TRX", "트론", "TRON", "480", 0.3),
    ("ADA", "에이다", "Cardano", "1300", 0.4),
    ("AAVE", "에이브", "Aave", "410000", 0.12),
    ("UNI", "유니스왑", "Uniswap", "14500", 0.15),
    ("ETC", "이더리움클래식", "Ethereum Classic", "31000", 0.2),
    ("SHIB", "시바이누", "Shiba Inu", "0.0172", 0.3),
    ("XLM", "스텔라루멘", "Stellar Lumens", "560", 0.3),
)

_MADE_UP_PRICES = (
    "44000", "3700", "370000", "8700", "4300", "39000", "1700000", "830000", "4600", "92000", "36000", "410000",
    "8300", "720", "4000", "2900", "46000", "0.42", "3500", "87",
)  # fmt: skip


def _e8(text: str) -> int:
    whole, _, fraction = text.partition(".")
    return int(whole) * E8 + int(fraction.ljust(8, "0") or "0")


def _on_tick(market: str, price_e8: int) -> int:
    return price_e8 - price_e8 % tick_e8(market, price_e8, KRW_SINCE_2025_07_31_MS)


def listings(count: int) -> list[Listing]:
    """The first `count` markets, always the same; behind the known names come `KRW-OB021` and so on."""
    rows = []
    for i in range(count):
        if i < len(_KNOWN):
            code, korean, english, price, rate = _KNOWN[i]
        else:
            code = f"OB{i + 1:03d}"
            korean, english = f"가상코인 {i + 1}", f"Synthetic Coin {i + 1}"
            price, rate = _MADE_UP_PRICES[i % len(_MADE_UP_PRICES)], 0.05 + 0.1 * ((i * 7) % 10) / 10
        market = "KRW-" + code
        rows.append(Listing(market, korean, english, _on_tick(market, _e8(price)), rate))
    return rows
