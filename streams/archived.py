"""The records of an archive: its parts put together per partition, each offset once.

Called through `streams.history`. It deletes and mends nothing: a missing stretch, a damaged or foreign file, and two
files that tell a stretch differently are errors that name them.
"""

import bisect
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import pairwise, zip_longest
from typing import BinaryIO, NamedTuple

import msgspec

from infra.errors import RecordsLost, Stop
from infra.log import Record, Slot
from infra.store import Store
from streams.archive_spans import Copy, beginning_of, copied, read_copy, slot_of, spans_of
from streams.parts import DamagedPart, Footer, Part, read_footer, records_of, table_of

MARK = "archive.json"
FORMAT = 1
_DAY = re.compile(r"dt=\d{4}-\d{2}-\d{2}/complete\.json", re.ASCII)
_PLACE = re.compile(r"([a-z0-9][a-z0-9-]*)/(\d{1,6})", re.ASCII)


class Overlap(Stop):
    """Two parts tell the same offsets differently; the message names both. Neither may be used for them."""


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """`archive.json`: which run an archive belongs to; written once."""

    format: int
    run: str
    prefix: str
    kind: str
    made_ms: int
    by: str
    ends: dict[str, int] = {}
    """Of what never grows (an import): the next offset after the last, by `topic/partition`."""


class Stretch(NamedTuple):
    """What one part is read for: offsets [`first`, `end`)."""

    part: Part
    first: int
    end: int


class ArchiveHistory:
    """The records that an archive keeps; raises `FileNotFoundError` where there is none, `Stop` for a newer format."""

    def __init__(self, store: Store) -> None:
        self.store = store
        try:
            self.mark = msgspec.json.decode(store.read(MARK), type=Mark)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DamagedPart(f"{store.url}/{MARK} cannot be read ({error}): it was changed.") from error
        if self.mark.format != FORMAT:
            raise Stop(f"{store.url} is an archive of format {self.mark.format}; this version reads {FORMAT}.")
        self._footers: dict[Part, Footer] = {}
        self._parts: dict[Slot, list[Part]] | None = None

    @property
    def parts(self) -> dict[Slot, list[Part]]:
        """Every part, by first offset, then the longer one first. Kept; `spans` looks anew."""
        if self._parts is None:
            self._parts = _by_slot(self.store.names(), self.store.url)
        return self._parts

    def spans(self, topics: Iterable[str]) -> dict[Slot, tuple[int, int]]:
        """What the archive keeps now, and what it says that it has. Where a partition's first part is gone it begins
        with what is missing, so that whoever reads from the beginning is told.
        """
        wanted = set(topics)
        names = self.store.names()
        self._parts = _by_slot(names, self.store.url)
        copy = read_copy(self.store)
        ranges = spans_of(names)
        found: dict[Slot, tuple[int, int]] = {}
        for slot, parts in self._parts.items():
            low = parts[0].first if copy is not None else min(parts[0].first, beginning_of(ranges[slot]))
            found[slot] = (low, 1 + max(part.last for part in parts))
        for slot, first, end in self._told(names, copy):
            low, high = found.get(slot, (first, end))
            found[slot] = (min(low, first), max(high, end))
        return {slot: found[slot] for slot in sorted(found) if slot.topic in wanted}

    def _told(self, names: Iterable[str], copy: Copy | None) -> Iterator[tuple[Slot, int, int]]:
        """What complete days, a copy and an import say that they have, whatever parts there are."""
        for name in filter(_DAY.fullmatch, names):
            yield from complete_spans(self.store.read(name), f"{self.store.url}/{name}")
        if copy is not None:
            yield from ((slot_of(place), first, last + 1) for _, place, first, last in copied(copy))
        yield from ((slot_of(place), 0, end) for place, end in self.mark.ends.items())

    def read(self, slot: Slot, first: int, end: int) -> Iterator[Record]:
        """Records of one partition."""
        for stretch in self.stretches(slot, first, end):
            yield from self._records(*stretch)

    def stretches(self, slot: Slot, first: int, end: int) -> list[Stretch]:
        """The parts that tell [`first`, `end`) and what each is to be read for; raises as `read` does.

        Where two tell the same offsets they are held against each other.
        """
        return list(self._stretches(slot, first, end))

    def footer(self, part: Part) -> Footer:
        """What a part says of itself, held against this archive; raises `DamagedPart`, `MixedRuns`."""
        found = self._footers.get(part)
        if found is None:
            with closing(self.open(part)) as source:
                found = read_footer(source, part.name, run=self.mark.run)
            self._footers[part] = found
        return found

    def open(self, part: Part) -> BinaryIO:
        """Open a part; raises `RecordsLost` where it is gone since it was listed."""
        try:
            return self.store.open(part.name)
        except FileNotFoundError:
            raise RecordsLost(
                f"{part.slot.topic}-{part.slot.partition}: offsets {part.first} to {part.last} are gone:"
                f" {part.name} was removed from {self.store.url} meanwhile"
            ) from None

    def appended_at(self, slot: Slot, first: int, end: int, append_ms: int) -> int:
        """By bisection over the parts' footers, then within one part; over all where the names show that the clock
        went back. Where a missing stretch may hold it, its beginning: whoever reads from there is told what is missing.
        """
        stretches = list(self._told_by(slot, first, end))
        ends = [first, *(stretch.end for stretch in stretches)]
        if all(
            (one.part.day, one.part.hour) <= (later.part.day, later.part.hour) for one, later in pairwise(stretches)
        ):
            at = bisect.bisect_left(range(len(stretches)), append_ms, key=lambda i: self._latest(stretches, i))
        else:
            at = 0
        for (part, low, high), before in zip(stretches[at:], ends[at:], strict=False):
            if self.footer(part).append_last_ms < append_ms:
                continue
            with closing(self.open(part)) as source:
                table = table_of(source, part.name, ["record_offset", "append_ms"])
            pairs = zip(table["record_offset"].to_pylist(), table["append_ms"].to_pylist(), strict=True)
            inside = [(offset, at_ms) for offset, at_ms in pairs if low <= offset < high]
            found = next((offset for offset, at_ms in inside if at_ms >= append_ms), None)
            if found is not None:
                return before if before < low and found == inside[0][0] else int(found)
        return ends[-1]

    def _latest(self, stretches: Sequence[Stretch], at: int) -> int:
        """The latest append time in a part; in the one before it where it has no records (markers alone)."""
        footers = (self.footer(stretches[i].part) for i in range(at, -1, -1))
        return next((footer.append_last_ms for footer in footers if footer.count), -(2**63))

    def _told_by(self, slot: Slot, first: int, end: int) -> Iterator[Stretch]:
        """Which part tells which offsets, whatever is missing or told twice: of two the one that begins first."""
        at = first
        for part in self.parts.get(slot, []):
            if part.last >= at and part.first < end:
                yield Stretch(part, max(part.first, at), min(part.last + 1, end))
                at = part.last + 1

    def _stretches(self, slot: Slot, first: int, end: int) -> Iterator[Stretch]:
        """Which part tells which offsets; where two do, they are held against each other first."""
        at = first
        before: Part | None = None
        for part in self.parts.get(slot, []):
            if part.last < first or part.first >= end:
                continue
            if part.first > at:
                raise self._lost(slot, at, part.first)
            if before is not None and part.first < at:
                self._hold_against(before, part, max(part.first, first), min(at, part.last + 1, end))
            if part.last >= at:
                yield Stretch(part, at, min(part.last + 1, end))
                at, before = part.last + 1, part
        if at < end:
            raise self._lost(slot, at, end)

    def _lost(self, slot: Slot, first: int, end: int) -> RecordsLost:
        return RecordsLost(
            f"{slot.topic}-{slot.partition}: offsets {first} to {end - 1} are missing in the archive {self.store.url}."
            " Bring their parts back (`observator archive verify` names what is missing), or read another stretch."
        )

    def _hold_against(self, one: Part, other: Part, first: int, end: int) -> None:
        pairs = zip_longest(self._records(one, first, end), self._records(other, first, end))
        for left, right in pairs:
            if left != right:
                offset = min(record.offset for record in (left, right) if record is not None)
                raise Overlap(
                    f"{one.name} and {other.name} both tell {one.slot.topic}-{one.slot.partition} {first} to {end - 1},"
                    f" and differ from offset {offset} on. Keep the one that agrees with the log."
                )

    def _records(self, part: Part, first: int, end: int) -> Iterator[Record]:
        with closing(self.open(part)) as source:
            yield from records_of(source, part.name, first, end, run=self.mark.run)


def complete_spans(data: bytes, name: str) -> list[tuple[Slot, int, int]]:
    """What a day's `complete.json` says that the day has: partition, first offset, next after the last."""
    try:
        told = msgspec.json.decode(data, type=_Complete)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedPart(f"{name} cannot be read ({error}): it was changed.") from error
    found = []
    for place, span in told.slots.items():
        named = _PLACE.fullmatch(place)
        if named is None or not 0 <= span.first <= span.last:
            raise DamagedPart(f"{name} cannot be read ({place}, {span.first} to {span.last}): it was changed.")
        found.append((Slot(named[1], int(named[2])), span.first, span.last + 1))
    return found


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    first: int
    last: int


class _Complete(msgspec.Struct, frozen=True, kw_only=True):
    slots: dict[str, _Told]


def _by_slot(names: Iterable[str], url: str) -> dict[Slot, list[Part]]:
    found: dict[Slot, list[Part]] = {}
    for name in names:
        part = Part.of_name(name)
        if part is not None:
            found.setdefault(part.slot, []).append(part)
        elif name.endswith(".parquet"):
            raise DamagedPart(f"{name} in {url} is not named like a part of an archive. Take it out of there.")
    for parts in found.values():
        parts.sort(key=lambda part: (part.first, -part.last))
    return found
