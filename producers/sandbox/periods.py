"""The units of candles and where their periods begin: in UTC, weeks on Monday. Pure."""

from datetime import UTC, datetime, timedelta

SECOND_MS = 1_000
MINUTE_MS = 60_000
DAY_MS = 86_400_000
MINUTES = (1, 3, 5, 10, 15, 30, 60, 240)
FIXED_MS = {"1s": SECOND_MS} | {f"{minutes}m": minutes * MINUTE_MS for minutes in MINUTES} | {"1d": DAY_MS}
"""Units of a fixed length; weeks, months and years are made of days."""
WEEK, MONTH, YEAR = "1w", "1M", "1y"


def _ms(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000


def start_of(unit: str, at_ms: int) -> int:
    """Start of the period that holds `at_ms`."""
    length_ms = FIXED_MS.get(unit)
    if length_ms is not None:
        return at_ms - at_ms % length_ms
    day = datetime.fromtimestamp(at_ms // DAY_MS * DAY_MS // 1000, UTC)
    if unit == WEEK:
        return _ms(day - timedelta(days=day.weekday()))
    return _ms(day.replace(day=1) if unit == MONTH else day.replace(month=1, day=1))


def end_of(unit: str, at_ms: int) -> int:
    """End of the period that holds `at_ms`, which is the start of the next."""
    length_ms = FIXED_MS.get(unit)
    start_ms = start_of(unit, at_ms)
    if length_ms is not None:
        return start_ms + length_ms
    if unit == WEEK:
        return start_ms + 7 * DAY_MS
    return start_of(unit, start_ms + (32 if unit == MONTH else 367) * DAY_MS)
