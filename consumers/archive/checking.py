"""Reads an archive back: every part's count and digest, whether parts abut, and what closed days say of themselves.

Called by `observator archive verify` and by `verify archive`. It changes nothing, and names the file and the range of
every fault.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from consumers.archive import days
from consumers.archive.copies import whole
from consumers.archive.root import ROOT, Missing, Root, gaps_of, read_root, spans_of
from infra.errors import Stop
from infra.log import Log, Record, Slot
from infra.store import Store
from streams.parts import DamagedPart, Digest, Footer, Part, records_of
from streams.topics import TOPICS

Progress = Callable[[int, int], None]
_BATCH = 5_000


@dataclass(slots=True)
class Checked:
    """What was read and what is wrong with it."""

    parts: int = 0
    records: int = 0
    bytes: int = 0
    held_against_the_log: int = 0
    """Records that stand in the log just so."""
    days: list[str] = field(default_factory=list)
    """Closed days that were checked."""
    faults: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Ranges that the archive itself says it lacks; no fault of what is there."""


def check(
    store: Store, *, day: str | None = None, log: Log | None = None, progress: Progress = lambda _done, _of: None
) -> Checked:
    """Read everything, or what stands under one KST day; with `log` hold it against what the log still has."""
    found = Checked()
    root = read_root(store)
    if root is None:
        raise Stop(f"{store.url} holds no archive: there is no {ROOT} in it")
    sizes = store.sizes()
    names = [name for name in sizes if day is None or days.day_of(name) == day]
    if day is not None and not names:
        found.faults.append(f"dt={day}: there is nothing of this day, not even that it was empty")
    footers: dict[str, Footer] = {}
    for number, name in enumerate(names):
        progress(number, len(names))
        _check_file(store, root, name, footers, found)
        found.bytes += sizes[name]
    _check_spans(list(sizes), day, found)
    _check_days(store, root, names, footers, found)
    if log is not None:
        bounds = log.bounds({Slot(one.topic, one.partition) for one in footers.values()})
        for name, footer in footers.items():
            _check_log(store, log, name, footer, bounds, found)
    progress(len(names), len(names))
    return found


def _check_file(store: Store, root: Root, name: str, footers: dict[str, Footer], found: Checked) -> None:
    part = Part.of_name(name)
    if part is None:
        if missing := Missing.of_name(name):
            found.missing.append(str(missing))
        elif name != ROOT and not days.is_complete_name(name):
            found.faults.append(f"{name}: no file of an archive; take it out")
        return
    try:
        footer = whole(store, name)
    except DamagedPart as error:
        found.faults.append(f"{error} Offsets {part.first} to {part.last}.")
        return
    except FileNotFoundError:
        found.faults.append(f"{name}: gone while the archive was read")
        return
    if footer.run != root.run:
        found.faults.append(f"{name}: of another run ({footer.run}; this archive is of {root.run}); take it out")
        return
    footers[name] = footer
    found.parts += 1
    found.records += footer.count


def _check_spans(names: list[str], day: str | None, found: Checked) -> None:
    """Parts of a partition follow each other without a gap and without an overlap."""
    for slot, spans in spans_of(names).items():
        told = f"{slot.topic}-{slot.partition}"
        end, before = -1, ""
        for first, last, name in spans:
            if first <= end and (day is None or day in (days.day_of(name), days.day_of(before))):
                found.faults.append(f"{name}: overlaps {before} at {told} offsets {first} to {min(end, last)}")
            if last > end:
                end, before = last, name
        for first, last in gaps_of(spans):
            after = next(name for begin, _, name in spans if begin == last + 1)
            if day is None or days.day_of(after) == day:
                found.faults.append(f"{told} offsets {first} to {last}: no part holds them (before {after})")


def _check_days(store: Store, root: Root, names: list[str], footers: Mapping[str, Footer], found: Checked) -> None:
    """A closed day says of itself what its parts say."""
    for name in names:
        day = days.day_of(name)
        if day is None or not days.is_complete_name(name):
            continue
        found.days.append(day)
        try:
            told = days.read_complete(store, day)
        except msgspec.DecodeError as error:
            found.faults.append(f"{name}: cannot be read ({error})")
            continue
        try:
            there = days.slots_of_day(one for part, one in footers.items() if days.day_of(part) == day)
        except Stop as error:
            found.faults.append(f"{name}: {error}")
            continue
        if told is None or (told.run, told.slots) != (root.run, there):
            said = {} if told is None else told.slots
            other = [slot for slot in sorted(said.keys() | there.keys()) if said.get(slot) != there.get(slot)]
            found.faults.append(f"{name}: its parts hold something else in {', '.join(other) or 'another run'}")


def _check_log(
    store: Store, log: Log, name: str, footer: Footer, bounds: Mapping[Slot, tuple[int, int]], found: Checked
) -> None:
    """The log's own records of a part's range give the part's digest, where it still has all of them. Of a topic that
    is compacted the log keeps fewer: each that it keeps stands in the part.
    """
    slot = Slot(footer.topic, footer.partition)
    first, end = bounds[slot]
    if footer.first < first:
        return
    if footer.last >= end:
        found.faults.append(f"{name}: ends at {footer.last}, the log at {end - 1}: it is another log")
        return
    digest, count = Digest(), 0
    is_compact = slot.topic in TOPICS and TOPICS[slot.topic].is_compact
    in_part: set[Record] = set()
    if is_compact:
        with store.open(name) as file:
            in_part = set(records_of(file, name))
    others = 0
    reader = log.reader({slot: footer.first})
    try:
        while reader.position(slot) <= footer.last:
            records = [record for record in reader.read(_BATCH, 1.0) if record.offset <= footer.last]
            digest.add(records)
            count += len(records)
            others += sum(record not in in_part for record in records) if is_compact else 0
    finally:
        reader.close()
    if others or (not is_compact and (count, digest.text()) != (footer.count, footer.digest)):
        found.faults.append(f"{name}: {footer.count} records, the log has {count} or others in its range")
        return
    found.held_against_the_log += count
