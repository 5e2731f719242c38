"""Numbers as people read them: prices by their tick, won whole, quantities trimmed, per cent, Korean time.

Called by the panels. Pure; rounds for the eye only, nothing is computed from what stands here.
"""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Literal

KST = timezone(timedelta(hours=9), "KST")
DASH = "-"
Number = str | float | Decimal
_MOST_PLACES = 8


def price(value: Number | None, tick: str | None = None) -> str:
    """A price with as many decimals as its tick has; more where the price itself has more (at most 8)."""
    if value is None:
        return DASH
    exact = round(Decimal(str(value)), _MOST_PLACES)
    return f"{exact:,.{max(_places(exact), _places(Decimal(tick)) if tick else 0)}f}"


def won(value: Number | None) -> str:
    """Whole won."""
    return DASH if value is None else f"{_whole(value):,}"


def signed_won(value: Number | None) -> str:
    """Whole won with the sign people look for: ▲ for more, ▼ for less."""
    if value is None:
        return DASH
    amount = _whole(value)
    mark = "▲ " if amount > 0 else "▼ " if amount < 0 else ""
    return f"{mark}{abs(amount):,}"


def fee(value: Number | None) -> str:
    """A fee in won: two decimals at most."""
    return DASH if value is None else price(round(Decimal(str(value)), 2))


def direction(value: Number | None) -> Literal["rise", "fall", ""]:
    """Which way an amount of won goes, as far as it is shown."""
    amount = 0 if value is None else _whole(value)
    return "rise" if amount > 0 else "fall" if amount < 0 else ""


def quantity(value: Number | None) -> str:
    """Up to 8 digits, trimmed."""
    return DASH if value is None else trimmed(f"{Decimal(str(value)):,.{_MOST_PLACES}f}")


def percent_of_bp(value: float | None, *, is_signed: bool = True) -> str:
    """Basis points as per cent."""
    if value is None:
        return DASH
    rounded = round(value / 100, 3) + 0.0  # no minus before a zero
    return f"{rounded:{'+' if is_signed and rounded else ''}.3f}%"


def number(value: float | None) -> str:
    """A feature's value: four decimals, trimmed."""
    return DASH if value is None else trimmed(f"{round(value, 4) + 0.0:,.4f}")


def clock(event_ms: int | None) -> str:
    """Time of day in Korea."""
    return _korean(event_ms, "%H:%M:%S")


def moment(event_ms: int | None) -> str:
    """Day and time in Korea."""
    return _korean(event_ms, "%m-%d %H:%M:%S")


def axis_time(event_ms: int) -> str:
    """A chart draws a time without a zone as it stands: give it Korea's."""
    return _korean(event_ms, "%Y-%m-%d %H:%M:%S.%f")


def trimmed(text: str) -> str:
    """Without trailing zeros."""
    return text.rstrip("0").rstrip(".") if "." in text else text


def _korean(event_ms: int | None, pattern: str) -> str:
    if not event_ms:
        return DASH
    return datetime.fromtimestamp(event_ms / 1000, UTC).astimezone(KST).strftime(pattern)


def _places(value: Decimal) -> int:
    return max(0, -int(value.normalize().as_tuple().exponent))


def _whole(value: Number) -> int:
    return int(Decimal(str(value)).to_integral_value())
