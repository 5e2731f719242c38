"""Copies a day of an archive to a folder, every part checked; begun again, it goes on where it was.

Called by `observator archive fetch`. It never overwrites what another run has put into the folder.
"""

from typing import NamedTuple

import msgspec

from consumers.archive import days
from consumers.archive.checking import Progress
from consumers.archive.copies import OtherRecords, SaysMore, check_replaces, content, whole
from consumers.archive.root import ROOT, read_root
from infra.errors import Stop
from infra.log import Slot
from infra.store import FolderStore, Store
from streams.archive_spans import COPY, Copy, Missing, copied, read_copy, slot_of, spans_of, uncovered
from streams.parts import DamagedPart, Part, read_footer


class Fetched(NamedTuple):
    """What a fetch did."""

    files: int
    bytes: int
    already_there: int
    is_complete: bool
    """Whether the day was closed; else more may come."""


def fetch(store: Store, wanted: list[str], to: FolderStore, progress: Progress = lambda _done, _of: None) -> Fetched:
    """Copy the days and what belongs to all of them. Raises `Stop` for a folder of another run or a day without data,
    and at the end for files that are not whole, or other than those that are there: the others were copied, but nothing
    then says that a day is complete.
    """
    root = read_root(store)
    if root is None:
        raise Stop(f"{store.url} holds no archive: there is no {ROOT} in it")
    there = read_root(to)
    if there is not None and there.run != root.run:
        raise Stop(f"{to.url} holds the archive of another run ({there.run}): name another folder")
    by_day = {day: store.names(f"dt={day}") for day in wanted}
    if empty := [day for day, names in by_day.items() if not names]:
        raise Stop(f"{store.url} has nothing of {', '.join(empty)}")
    is_complete = all(days.complete_name(day) in names for day, names in by_day.items())
    names = [name for names in by_day.values() for name in names] + store.names("missing")
    names.sort(key=lambda name: (Part.of_name(name) is None, name))  # what says "complete" comes last
    copied = size = already = 0
    faults: list[str] = []
    faults += _begin(store, to, wanted, by_day)
    for number, name in enumerate(names):
        progress(number, len(names))
        if Part.of_name(name) is None and not days.is_complete_name(name) and Missing.of_name(name) is None:
            raise Stop(f"{store.url}/{name} is no file of an archive; nothing further was copied")
        if faults and days.is_complete_name(name):
            continue  # nothing may say that a day is complete
        try:
            bytes_copied = _copied(store, to, name)
        except (DamagedPart, OtherRecords, SaysMore, FileNotFoundError) as error:
            faults.append(str(error))
            continue
        already += bytes_copied is None
        copied += bytes_copied is not None
        size += bytes_copied or 0
    progress(len(names), len(names))
    if faults:
        raise DamagedPart(f"{' '.join(faults)} Everything else was copied ({copied} files), but what says complete.")
    return Fetched(copied, size, already, is_complete)


def _begin(store: Store, to: FolderStore, wanted: list[str], by_day: dict[str, list[str]]) -> list[str]:
    """Say in the folder of which days it is a copy and what those have; returns what the source itself lacks of them.
    A whole archive that is there stays one.
    """
    spans = spans_of(store.names())
    source, copy = read_copy(store), read_copy(to)
    found = {}
    for day in wanted:
        complete = days.read_complete(store, day) if days.complete_name(day) in by_day[day] else None
        found[day] = source.days[day] if source and day in source.days else _pieces(day, spans, complete)
    if copy is not None or to.size(ROOT) is None:
        to.write(COPY, msgspec.json.encode(Copy(days={**(copy.days if copy else {}), **found})))
    if to.size(ROOT) is None:
        to.write(ROOT, store.read(ROOT))
    lacking = (
        (place, gap)
        for _, place, first, last in copied(Copy(days=found))
        for gap in uncovered(spans.get(slot_of(place), ()), first, last)
    )
    return [f"{store.url} lacks {place} offsets {low} to {high}." for place, (low, high) in lacking]


def _pieces(
    day: str, spans: dict[Slot, list[tuple[int, int, str]]], complete: days.Complete | None
) -> dict[str, list[tuple[int, int]]]:
    """A day's stretches by partition; what no part holds before one of its parts is the day's too."""
    found: dict[str, list[tuple[int, int]]] = {}
    for slot, own in spans.items():
        end = -1
        for first, last, name in own:
            if days.day_of(name) == day:
                found.setdefault(f"{slot.topic}/{slot.partition}", []).append((min(first, end + 1), last))
            end = max(end, last)
    for place, told in complete.slots.items() if complete is not None else ():
        pieces = [(first, last, "") for first, last in found.get(place, ())]
        found.setdefault(place, []).extend(uncovered(pieces, told.first, told.last))
    return found


def _copied(store: Store, to: FolderStore, name: str) -> int | None:
    """Copy one file; its bytes, or None where an earlier fetch brought it whole."""
    if _is_there(to, name, store):
        return None
    data = store.read(name)
    check_replaces(data, content(to, name), name)
    to.write(name, data)
    return len(data)


def _is_there(to: FolderStore, name: str, store: Store) -> bool:
    """Whether an earlier fetch brought it whole."""
    if to.size(name) is None:
        return False
    if Part.of_name(name) is None:
        return to.read(name) == store.read(name)
    try:
        with store.open(name) as file:
            return whole(to, name) == read_footer(file, name)
    except DamagedPart:
        return False
