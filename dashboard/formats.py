"""Numbers as people read them: prices by their tick, won whole, quantities trimmed, percent, KST times. Pure."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

KST = timezone(timedelta(hours=9), "KST")
DASH = "-"


def price(value: float | None, tick: str | None = None) -> str:
    """A price with as many decimals as its tick has; without a tick, as many as it needs (at most 8)."""
    if value is None:
        return DASH
    if tick:
        places = max(0, -int(Decimal(tick).normalize().as_tuple().exponent))
        return f"{value:,.{places}f}"
    return trimmed(f"{value:,.8f}")


def won(value: str | float | None) -> str:
    """Whole won."""
    return DASH if value is None else f"{Decimal(str(value)):,.0f}"


def signed_won(value: str | float | None) -> str:
    """Whole won with the sign people look for: ▲ for more, ▼ for less."""
    if value is None:
        return DASH
    amount = Decimal(str(value)).quantize(Decimal(1))
    mark = "▲ " if amount > 0 else "▼ " if amount < 0 else ""
    return f"{mark}{abs(amount):,}"


def quantity(value: str | float | None) -> str:
    """Up to 8 digits, trimmed."""
    return DASH if value is None else trimmed(f"{Decimal(str(value)):,.8f}")


def percent_of_bp(value: float | None) -> str:
    """Basis points as per cent."""
    return DASH if value is None else f"{value / 100:+.4f} %"


def number(value: float | None) -> str:
    """A feature's value: four significant places."""
    return DASH if value is None else f"{value:,.4f}"


def clock(event_ms: int | None) -> str:
    """Time of day in Korea."""
    if not event_ms:
        return DASH
    return datetime.fromtimestamp(event_ms / 1000, UTC).astimezone(KST).strftime("%H:%M:%S")


def trimmed(text: str) -> str:
    """Without trailing zeros."""
    return text.rstrip("0").rstrip(".") if "." in text else text
