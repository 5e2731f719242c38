"""Which offsets the files of an archive stand for, by their names alone, and which of them none stands for.

Called by whatever reads, checks or goes on with an archive; pure but for `read_copy`.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from infra.log import Slot
from infra.store import Store
from streams.parts import DamagedPart, Part

COPY = "copy.json"
_MISSING = re.compile(r"missing/([a-z0-9][a-z0-9-]*)/p(\d{1,6})-(\d{1,19})-(\d{1,19})\.json")


class Missing(NamedTuple):
    """Offsets that the log had deleted before the archive had read them."""

    slot: Slot
    first: int
    last: int

    @property
    def name(self) -> str:
        """The file that says so."""
        return f"missing/{self.slot.topic}/p{self.slot.partition}-{self.first}-{self.last}.json"

    @classmethod
    def of_name(cls, text: str) -> "Missing | None":
        """The range that a name stands for; None for any other name."""
        found = _MISSING.fullmatch(text)
        return cls(Slot(found[1], int(found[2])), int(found[3]), int(found[4])) if found else None

    def __str__(self) -> str:
        return f"{self.slot.topic}-{self.slot.partition} offsets {self.first} to {self.last}"


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """`copy.json`: this is a copy of some days of an archive, and what those had there."""

    days: dict[str, dict[str, list[tuple[int, int]]]]
    """By day and `topic/partition`: first and last offset of each stretch."""


def read_copy(store: Store) -> Copy | None:
    """What a copy says of itself; None for an archive that is none. Raises `DamagedPart` where it cannot be read."""
    try:
        return msgspec.json.decode(store.read(COPY), type=Copy)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedPart(f"{store.url}/{COPY} cannot be read ({error}): it was changed.") from error


def copied(copy: Copy) -> Iterator[tuple[str, str, int, int]]:
    """Day, `topic/partition`, first and last offset of each stretch that a copy says it has."""
    for day, slots in sorted(copy.days.items()):
        for place, pieces in slots.items():
            yield from ((day, place, first, last) for first, last in pieces)


def slot_of(place: str) -> Slot:
    """The partition that `topic/partition` names."""
    topic, _, partition = place.rpartition("/")
    return Slot(topic, int(partition))


def spans_of(names: Iterable[str]) -> dict[Slot, list[tuple[int, int, str]]]:
    """First and last offset of every part and every named missing range, per partition, in order of offsets."""
    found: dict[Slot, list[tuple[int, int, str]]] = defaultdict(list)
    for name in names:
        one = Part.of_name(name) or Missing.of_name(name)
        if one is not None:
            found[one.slot].append((one.first, one.last, name))
    return {slot: sorted(spans) for slot, spans in sorted(found.items())}


def gaps_of(spans: list[tuple[int, int, str]], start: int = 0) -> list[tuple[int, int]]:
    """First and last offset of what lies from `start` to the end of a partition's spans and in none of them."""
    return uncovered(spans, start, max((last for _, last, _ in spans), default=-1))


def uncovered(spans: Iterable[tuple[int, int, str]], first: int, last: int) -> list[tuple[int, int]]:
    """The stretches of [`first`, `last`] that lie in none of the spans (in order of offsets)."""
    found: list[tuple[int, int]] = []
    at = first
    for begins, ends, _ in spans:
        if begins > last:
            break
        if begins > at:
            found.append((at, begins - 1))
        at = max(at, ends + 1)
    if at <= last:
        found.append((at, last))
    return found


def beginning_of(spans: Iterable[tuple[int, int, str]]) -> int:
    """Where a partition's records begin: 0, or what follows the range that is named missing from there on."""
    at = 0
    for first, last, name in spans:
        if first > at or Missing.of_name(name) is None:
            break
        at = max(at, last + 1)
    return at
