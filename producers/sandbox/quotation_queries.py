"""Reads the query of a quotation call as the exchange does: what is wrong raises `QuotationError`. Pure."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from producers.sandbox.periods import DAY_MS

INVALID = "Invalid parameter. Check the given value!"
TYPE = "Type mismatch error. Check the parameters type!"
MISSING = "Missing request parameter error. Check the required parameters!"
NOT_FOUND = "Code not found"
FOREVER_MS = 1 << 45
"""Later than every trade."""

_MOMENT = re.compile(r"(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}:\d{2}(?:\.\d{1,6})?)(Z|[+-]\d{2}:?\d{2})?)?", re.ASCII)
_TIME = re.compile(r"(\d{2}):?(\d{2}):?(\d{2})", re.ASCII)
_LEVEL = re.compile(r"(\d{1,12})(?:\.(\d{1,8}))?", re.ASCII)


class QuotationError(Exception):
    """Answered as `{"error":{"name":<status>,"message":...}}`."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def required(query: Mapping[str, str], name: str) -> str:
    """A text that must be there."""
    value = query.get(name, "")
    if not value:
        raise QuotationError(400, MISSING)
    return value


def whole(text: str) -> int:
    """A whole number of at most nineteen digits."""
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 19:
        raise QuotationError(400, TYPE)
    return int(text)


def integer(query: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    """A whole number between two."""
    text = query.get(name)
    if text is None:
        return default
    value = whole(text)
    if not least <= value <= most:
        raise QuotationError(400, INVALID)
    return value


def boolean(query: Mapping[str, str], name: str) -> bool:
    """`true` or `false`, false where it is not given."""
    text = query.get(name, "false").lower()
    if text not in {"true", "false"}:
        raise QuotationError(400, TYPE)
    return text == "true"


def moment_ms(text: str | None) -> int:
    """An ISO 8601 time, in UTC where it has no zone; `FOREVER_MS` where none is given.

    A `+` that was not URL-encoded arrives as a space and is refused.
    """
    if text is None:
        return FOREVER_MS
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise QuotationError(400, INVALID)
    day, time, zone = match[1], match[2] or "00:00:00", match[3] or "Z"
    try:
        moment = datetime.fromisoformat(f"{day}T{time}{zone}")
    except ValueError:
        raise QuotationError(400, INVALID) from None
    return min(max(int(moment.timestamp() * 1000), 0), FOREVER_MS)


def day_span(to: str | None, days_ago: int, now_ms: int) -> tuple[int, int]:
    """[from, to) of a trades call: the day, `days_ago` back, up to a UTC time of it."""
    day_ms = now_ms - now_ms % DAY_MS - days_ago * DAY_MS
    if to is None:
        return day_ms, day_ms + DAY_MS
    match = _TIME.fullmatch(to)
    if match is None:
        raise QuotationError(400, INVALID)
    try:
        moment = datetime(1970, 1, 1, int(match[1]), int(match[2]), int(match[3]), tzinfo=UTC)
    except ValueError:
        raise QuotationError(400, INVALID) from None
    return day_ms, day_ms + int(moment.timestamp()) * 1000


def level_e8(text: str) -> int:
    """A grouping level: an integer or a decimal as text."""
    match = _LEVEL.fullmatch(text)
    if match is None:
        raise QuotationError(400, TYPE)
    return int(match[1]) * 10**8 + int((match[2] or "").ljust(8, "0"))
