"""The archive's days: which day and hour (KST) a record belongs to, and the file that says that a day is complete.

Called by the writer, the keeper and the verbs. A day is told complete from what its parts say of themselves, never
from what somebody remembers.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import pairwise

import msgspec

from infra.errors import Stop
from infra.log import Slot
from infra.store import Store
from streams.archive_spans import gaps_of, slot_of, spans_of, uncovered
from streams.parts import Footer, Part, read_footer

KST = timezone(timedelta(hours=9))
CLOSE_AFTER_MS = 5 * 60_000
"""After midnight: what was appended before has been read by then, and clocks that differ a little do not matter."""
_LONGEST_EMPTY_DAYS = 366
"""A longer stretch without a record is a clock that stood wrong; its days are not told one by one."""


class SlotDay(msgspec.Struct, frozen=True, kw_only=True):
    """One partition's share of a day."""

    first: int
    last: int
    count: int
    chain: str
    """Hash over the digests of its parts in order of offsets."""


class Complete(msgspec.Struct, frozen=True, kw_only=True):
    """`complete.json` of a day."""

    format: int
    run: str
    day: str
    closed_ms: int
    parts: int
    slots: dict[str, SlotDay]
    """By `topic/partition`; partitions in which nothing was appended are left out."""


def place_of(append_ms: int) -> tuple[str, int]:
    """KST day and hour."""
    at = datetime.fromtimestamp(append_ms // 1000, KST)
    return at.date().isoformat(), at.hour


def start_ms(day: str) -> int:
    """When a KST day begins."""
    return int(datetime.fromisoformat(day).replace(tzinfo=KST).astimezone(UTC).timestamp() * 1000)


def following(day: str, days: int = 1) -> str:
    """So many days later."""
    return (date.fromisoformat(day) + timedelta(days=days)).isoformat()


def day_of(name: str) -> str | None:
    """The day in whose folder a file stands; None for a file of no day."""
    folder = name.split("/", 1)[0]
    try:
        day = date.fromisoformat(folder.removeprefix("dt=")).isoformat()
    except ValueError:
        return None
    return day if folder == f"dt={day}" else None


def complete_name(day: str) -> str:
    """The file that says that a day is complete."""
    return f"dt={day}/complete.json"


def is_complete_name(name: str) -> bool:
    """Whether it is such a file."""
    return name.endswith("/complete.json") and (day := day_of(name)) is not None and name == complete_name(day)


def read_complete(store: Store, day: str) -> Complete | None:
    """What a closed day says; None while it is open. Raises `msgspec.DecodeError` where it cannot be read."""
    try:
        return msgspec.json.decode(store.read(complete_name(day)), type=Complete)
    except FileNotFoundError:
        return None


def slots_of_day(footers: Iterable[Footer]) -> dict[str, SlotDay]:
    """The footers of a day's parts, summed up per partition."""
    found: dict[Slot, list[Footer]] = defaultdict(list)
    for footer in footers:
        found[Slot(footer.topic, footer.partition)].append(footer)
    told: dict[str, SlotDay] = {}
    for slot in sorted(found):
        parts = _each_once(found[slot])
        chain = hashlib.blake2b("".join(one.digest for one in parts).encode(), digest_size=16).hexdigest()
        count = sum(one.count for one in parts)
        told[f"{slot.topic}/{slot.partition}"] = SlotDay(
            first=parts[0].first, last=parts[-1].last, count=count, chain=chain
        )
    return told


def _each_once(parts: list[Footer]) -> list[Footer]:
    """A partition's parts in order, without those whose offsets others hold too; raises `Stop` where two still tell the
    same offsets: how many records that are, footers do not say.
    """
    kept = sorted(parts, key=lambda one: (one.first, one.last))
    if any(later.first <= one.last for one, later in pairwise(kept)):
        for one in sorted(parts, key=lambda one: (one.first - one.last, one.first)):  # the longest first
            others = [other for other in kept if other is not one and _meet(one, other)]
            if not uncovered(sorted((o.first, o.last, "") for o in others), one.first, one.last):
                kept = [other for other in kept if other is not one]
    for one, later in pairwise(kept):
        if later.first <= one.last:
            raise Stop(
                f"{one.topic}-{one.partition}: the parts {one.first} to {one.last} and {later.first} to {later.last}"
                " hold the same offsets. Take one of them out: what is missing then is written again from the log."
            )
    return kept


def _meet(one: Footer, other: Footer) -> bool:
    return other.first <= one.last and other.last >= one.first


def sum_up(store: Store, run: str, day: str, closed_ms: int, beside: Store | None = None) -> Complete:
    """A day as its parts in the store tell it, and those that are only in the one `beside` it."""
    found = dict.fromkeys(store.names(f"dt={day}"), store)
    if beside is not None:
        found = dict.fromkeys(beside.names(f"dt={day}"), beside) | found
    footers = []
    for name, place in sorted(found.items()):
        if Part.of_name(name) is not None:
            with place.open(name) as file:
                footers.append(read_footer(file, name, run=run))
    slots = slots_of_day(footers)
    return Complete(format=1, run=run, day=day, closed_ms=closed_ms, parts=len(footers), slots=slots)


def days_to_close(names: Iterable[str], passed_ms: int, now_ms: int) -> list[str]:
    """Days that are over in every partition and not closed: those that have parts, and from the day after the last
    closed one, else from the first that has parts, those in which nothing was appended.
    """
    names = list(names)
    days = {day for name in names if (day := day_of(name)) is not None}
    closed = {day for name in names if is_complete_name(name) and (day := day_of(name)) is not None}
    today, _ = place_of(min(passed_ms, now_ms - CLOSE_AFTER_MS))
    if not days:
        return []
    found = {day for day in days - closed if day < today}
    day = max(following(max(closed)) if closed else min(days), following(today, -_LONGEST_EMPTY_DAYS))
    while day < today:
        found.add(day)
        day = following(day)
    return sorted(found)


def gaps_at(day: str, names: Iterable[str]) -> list[str]:
    """The offsets that no part holds and nothing names missing, next to a part of this day."""
    found = []
    for slot, spans in spans_of(names).items():
        for first, last in gaps_of(spans):
            if any(day_of(name) == day and (begin == last + 1 or end == first - 1) for begin, end, name in spans):
                found.append(f"{slot.topic}-{slot.partition} offsets {first} to {last}")
    return found


def lacks(complete: Complete, names: Iterable[str]) -> list[str]:
    """The partitions of which a closed day says more than files of these names hold."""
    spans = spans_of(names)
    found = []
    for place, told in complete.slots.items():
        if uncovered(spans.get(slot_of(place), ()), told.first, told.last):
            found.append(place)
    return found


def covers(one: Complete, other: Complete) -> bool:
    """Whether the first says at least as much of the day as the other."""
    return one.run == other.run and all(
        (mine := one.slots.get(place)) is not None
        and (mine.first <= told.first and mine.last >= told.last and mine.count >= told.count)
        for place, told in other.slots.items()
    )
