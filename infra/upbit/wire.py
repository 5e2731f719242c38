"""How Upbit's REST side spells numbers and times; shared by the order gateway and the sandbox. Without meaning.

Amounts are strings without exponent and without trailing zeros; times are Korean with seconds.
"""

from datetime import datetime, timedelta, timezone
from decimal import Decimal

KST = timezone(timedelta(hours=9))


def plain(value: Decimal) -> str:
    """`Decimal` as the exchange writes it: `5002.5`, `0`, `10000000`."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in {"", "-0"} else text


def scaled_text(value: int, digits: int) -> str:
    """An integer of 10**-digits as the exchange writes it."""
    sign = "-" if value < 0 else ""
    whole, rest = divmod(abs(value), 10**digits)
    if rest == 0:
        return f"{sign}{whole}"
    return f"{sign}{whole}.{rest:0{digits}d}".rstrip("0")


def plain_e8(value: int) -> str:
    """An integer of 1e-8 as the exchange writes it."""
    return scaled_text(value, 8)


def korean_time(at_ms: int) -> str:
    """`2026-03-22T21:42:22+09:00`."""
    return datetime.fromtimestamp(at_ms // 1000, KST).isoformat(timespec="seconds")
