"""Reads an archive back: every part's count and digest, whether parts abut, and what closed days say of themselves.

Called by `observator archive verify` and by `verify archive`. It changes nothing, and names the file and the range of
every fault.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from consumers.archive import days
from consumers.archive.copies import whole
from consumers.archive.opening import behind
from consumers.archive.root import ROOT, Root, read_root
from infra.errors import Stop, TopicMissing
from infra.log import Log, Record, Slot, slots_of
from infra.store import Store
from streams.archive_spans import COPY, Copy, Missing, copied, gaps_of, read_copy, slot_of, spans_of, uncovered
from streams.parts import DamagedPart, Digest, Footer, Part, records_of
from streams.topics import TOPICS

Progress = Callable[[int, int], None]
_BATCH = 5_000
_OPEN = "up to the newest part; a complete day or --log shows more"


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
    copied_days: list[str] = field(default_factory=list)
    """The days that a copy is of (`archive fetch`); empty for an archive that is none."""
    is_end_known: bool = False
    """Whether a last part that is gone would have been missed: by complete days, an import's counts, or the log."""
    behind: dict[str, int] = field(default_factory=dict)
    """Of the log's records those that are not archived yet, at most so many, by topic."""

    def verdict(self) -> str:
        """In words."""
        if self.faults:
            return f"{counted(len(self.faults), 'fault')}, nothing was changed"
        if self.behind:
            told = ", ".join(f"{topic} up to {counted(count, 'record')}" for topic, count in self.behind.items())
            return f"no fault, but the log has records that are not archived yet: {told}"
        whole_ = f"whole as a copy of {', '.join(self.copied_days)}" if self.copied_days else "whole"
        return whole_ if self.is_end_known else f"{whole_} as far as it goes ({_OPEN})"


def counted(count: int, what: str) -> str:
    """1 part, 2 parts."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def check(
    store: Store,
    *,
    day: str | None = None,
    log: Log | None = None,
    topics: Sequence[str] = (),
    is_partial: bool = False,
    progress: Progress = lambda _done, _of: None,
) -> Checked:
    """Read everything, or what stands under one KST day; with `log` hold it against what the log still has, and count
    what of `topics` is not archived yet. `is_partial`: parts that a bucket has may be gone from here.
    """
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
    copy = read_copy(store)
    found.copied_days = sorted(copy.days) if copy is not None else []
    _check_overlaps(list(sizes), day, found)
    for told, first, last, where in _gaps(list(sizes), day, root, copy, is_partial=is_partial):
        found.faults.append(f"{told} offsets {first} to {last}: no part holds them ({where})")
    _check_days(store, root, names, footers, found, is_partial=is_partial)
    seen = {one for name in footers if (one := days.day_of(name)) is not None}
    found.is_end_known = bool(root.ends) or (bool(seen | set(found.days)) and seen <= set(found.days))
    if log is not None and (day is None or not found.is_end_known):
        ends = {slot: max(last for _, last, _ in spans) + 1 for slot, spans in spans_of(sizes).items()}
        waits = behind(log, [topic for topic in topics if _is_there(log, topic)], ends)
        found.behind = {topic: count for topic, (count, _) in waits.items() if count}
        found.is_end_known = True
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
        elif name not in (ROOT, COPY) and not days.is_complete_name(name):
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


def _check_overlaps(names: list[str], day: str | None, found: Checked) -> None:
    """No two parts of a partition hold the same offsets."""
    for slot, spans in spans_of(names).items():
        end, before = -1, ""
        for first, last, name in spans:
            if first <= end and (day is None or day in (days.day_of(name), days.day_of(before))):
                told = f"{slot.topic}-{slot.partition} offsets {first} to {min(end, last)}"
                found.faults.append(f"{name}: overlaps {before} at {told}")
            if last > end:
                end, before = last, name


def _gaps(
    names: list[str], day: str | None, root: Root, copy: Copy | None, *, is_partial: bool
) -> Iterator[tuple[str, int, int, str]]:
    """What no part holds and nothing names missing: partition, first and last offset, and where that is. An archive
    holds each partition from offset 0 on, a copy what its days had, an import all that it wrote.
    """
    spans = spans_of(names)
    if copy is not None:
        for own, place, first, last in copied(copy):
            if day is None or own == day:
                slot = slot_of(place)
                for low, high in uncovered(spans.get(slot, ()), first, last):
                    yield f"{slot.topic}-{slot.partition}", low, high, f"dt={own}"
        return
    for slot, found in spans.items():
        for first, last in gaps_of(found, found[0][0] if is_partial else 0):
            after = next(name for begin, _, name in found if begin == last + 1)
            if day is None or days.day_of(after) == day:
                yield f"{slot.topic}-{slot.partition}", first, last, f"before {after}"
    for place, end in root.ends.items() if day is None else ():
        slot = slot_of(place)
        after_last = max((last for _, last, _ in spans.get(slot, ())), default=-1) + 1
        if after_last < end:
            yield f"{slot.topic}-{slot.partition}", after_last, end - 1, "at the end of what was imported"


def _is_there(log: Log, topic: str) -> bool:
    try:
        return bool(slots_of(log, [topic]))
    except TopicMissing:
        return False


def _check_days(
    store: Store, root: Root, names: list[str], footers: Mapping[str, Footer], found: Checked, *, is_partial: bool
) -> None:
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
        if is_partial and told is not None and days.lacks(told, names):
            continue  # what is gone from here the bucket has
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
