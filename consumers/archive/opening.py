"""How the archive process begins: whose archive it is, where it goes on, and that the log is still the same one.

Called by the process. What it finds wrong it says with names and offsets, and writes nothing then.
"""

import fcntl
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from consumers.archive import days
from consumers.archive.root import Root, make_root, read_root, write_missing, write_root
from consumers.execute.crash import Reach, reach_nothing
from infra.errors import AlreadyRunning, ObservatorError, Stop
from infra.log import Log, Record, Slot, slots_of
from infra.store import FolderStore, Store
from streams.archive_spans import COPY, Missing, gaps_of, spans_of
from streams.parts import DamagedPart, Part, read_footer, records_of

logger = logging.getLogger(__name__)

CRASH_POINTS = ("before_root", "after_root", "after_adopted", "before_missing", "after_missing")
_READ_S = 0.5


class Gap(NamedTuple):
    """Offsets before a part or between two that are in none, and that the log still has."""

    slot: Slot
    first: int
    last: int


class Opened(NamedTuple):
    """Where the process goes on."""

    root: Root
    starts: dict[Slot, int]
    gaps: list[Gap]


def hold(local: FolderStore) -> int:
    """Be the only process that writes into this folder, for as long as the handle that this returns is open."""
    local.path.mkdir(parents=True, exist_ok=True)
    handle = os.open(local.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise AlreadyRunning(f"another process writes the archive in {local.path}") from None
    return handle


def open_archive(
    log: Log,
    topics: list[str],
    local: FolderStore,
    remote: Callable[[], Store] | None,
    now_ms: int,
    reach: Reach = reach_nothing,
) -> Opened:
    """Find or make the archive and where to go on; raises `Stop` where it belongs to another log."""
    slots = slots_of(log, topics)
    bounds = log.bounds(slots)
    source, root = _found(local, remote)
    spans = spans_of(source.names())
    if root is not None:
        _check_root(root, source, log)
        if source.size(COPY) is not None:
            raise Stop(
                f"{source.url} is a copy of some days (archive fetch): no log is written into it. Name another folder."
            )
        _check_same_log(log, source, root.run, {slot: spans[slot] for slot in slots if slot in spans}, bounds)
    local.sweep()
    if root is None:
        root = make_root(log.prefix, now_ms)
        reach("before_root")
        write_root(local, root)
        reach("after_root")
    elif source is not local:
        _adopt(local, source, root, reach)
    starts = {slot: max((last + 1 for _, last, _ in spans.get(slot, ())), default=0) for slot in slots}
    for slot, (first, _) in bounds.items():
        if starts[slot] < first:
            _tell_missing(local, root, Missing(slot, starts[slot], first - 1), now_ms, reach)
            starts[slot] = first
    return Opened(root, starts, _gaps(local, remote, root, spans, bounds, now_ms, reach))


def _found(local: FolderStore, remote: Callable[[], Store] | None) -> tuple[Store, Root | None]:
    """Where the archive is that is gone on with, and what it says of itself; None where a new one begins."""
    root = read_root(local)
    if root is not None:
        return local, root
    here = local.names()
    if remote is not None:
        bucket = remote()
        there = set(bucket.names())
        root = read_root(bucket)
        if root is None and there:
            raise Stop(f"{bucket.url} holds files, but no archive: set archive.target to an empty folder of the bucket")
        # Only what an adoption that was ended left is passed over.
        if root is not None and all(name in there and local.read(name) == bucket.read(name) for name in here):
            return bucket, root
    if here:
        raise Stop(f"{local.url} holds files, but no archive.json: name another run folder, or put it back")
    return local, None


def _adopt(local: FolderStore, remote: Store, root: Root, reach: Reach) -> None:
    """Go on with the bucket's archive on a machine that has nothing of it: what says that days are complete, the parts
    of days that are not, the newest part of each partition, and `archive.json` last. So this folder alone says where
    the archive ends, and has all that closing a day needs.
    """
    names = remote.names()
    closed = {days.day_of(name) for name in names if days.is_complete_name(name)}
    newest = {spans[-1][2] for spans in spans_of(names).values()}
    for name in names:
        is_needed = name in newest or (Part.of_name(name) is not None and days.day_of(name) not in closed)
        if is_needed or days.is_complete_name(name) or Missing.of_name(name) is not None:
            local.write(name, remote.read(name))
            reach("after_adopted")
    write_root(local, root)


def _check_root(root: Root, store: Store, log: Log) -> None:
    if root.kind != "log" or root.format != 1:
        raise Stop(f"{store.url} is an archive of kind {root.kind!r}, format {root.format}: no log is written into it")
    if root.prefix != log.prefix:
        raise Stop(
            f"the archive in {store.url} is of the topics with prefix {root.prefix!r}, this run's is {log.prefix!r}:"
            " name another run folder (--home), or archive.target"
        )


def _check_same_log(
    log: Log,
    store: Store,
    run: str,
    spans: Mapping[Slot, list[tuple[int, int, str]]],
    bounds: Mapping[Slot, tuple[int, int]],
) -> None:
    """Raise `Stop` unless the archive's last part of each partition is whole and ends with a record of the log."""
    newest: dict[Slot, tuple[Record, str]] = {}
    for slot, found in spans.items():
        _, last, name = found[-1]
        if last >= bounds[slot][1]:
            raise _another(store, f"{name} ends at {last}, the log at {bounds[slot][1] - 1}")
        if Part.of_name(name) is None:
            continue
        tail = _tail(store, name, run)
        if tail and tail[0].offset >= bounds[slot][0]:
            newest[slot] = (tail[0], name)
    for slot, there in first_records(log, {slot: one.offset for slot, (one, _) in newest.items()}, bounds).items():
        record, name = newest[slot]
        if there.offset == record.offset and there != record:
            raise _another(store, f"offset {record.offset} of {name} is another record in the log")


def _tail(store: Store, name: str, run: str) -> list[Record]:
    """The last record of a part, all of which was read; empty where it has none."""
    try:
        with store.open(name) as file:
            if (found := read_footer(file, name).run) != run:
                raise Stop(f"{store.url}/{name} is of another run ({found}; this archive is of {run}): take it out")
            return list(deque(records_of(file, name), maxlen=1))
    except DamagedPart as error:
        raise Stop(f"{error} Or take it out of {store.url}: what the log still has of it is written again.") from error


def _another(store: Store, why: str) -> Stop:
    return Stop(
        f"the archive in {store.url} is of another log: {why}. Nothing was written. Move that folder away (with a"
        " bucket name another folder of it, too), or run with the log that it belongs to."
    )


def first_records(log: Log, starts: Mapping[Slot, int], bounds: Mapping[Slot, tuple[int, int]]) -> dict[Slot, Record]:
    """The first record at or after an offset of each partition; partitions with none are left out."""
    found: dict[Slot, Record] = {}
    waiting = {slot for slot, start in starts.items() if start < bounds[slot][1]}
    if not waiting:
        return found
    reader = log.reader({slot: starts[slot] for slot in waiting})
    try:
        while waiting:
            for record in reader.read(500, _READ_S):
                if record.slot in waiting:
                    found[record.slot] = record
                    waiting.discard(record.slot)
                    reader.pause([record.slot])
            waiting = {slot for slot in waiting if reader.position(slot) < bounds[slot][1]}
    finally:
        reader.close()
    return found


def behind(log: Log, topics: Sequence[str], ends: Mapping[Slot, int]) -> dict[str, tuple[int, float]]:
    """Offsets that are not archived, and the age in seconds of the oldest record among them, by topic."""
    bounds = log.bounds(slots_of(log, topics))
    starts = {slot: max(ends.get(slot, 0), first) for slot, (first, _) in bounds.items()}
    oldest = first_records(log, starts, bounds)
    now_ms = time.time() * 1000
    found: dict[str, tuple[int, float]] = {}
    for slot, start in starts.items():
        count, age_s = found.get(slot.topic, (0, 0.0))
        if slot in oldest:
            count += bounds[slot][1] - start
            age_s = max(age_s, round(max(0.0, now_ms - oldest[slot].append_ms) / 1000, 1))
        found[slot.topic] = (count, age_s)
    return found


def _gaps(
    local: FolderStore,
    remote: Callable[[], Store] | None,
    root: Root,
    spans: Mapping[Slot, list[tuple[int, int, str]]],
    bounds: Mapping[Slot, tuple[int, int]],
    now_ms: int,
    reach: Reach,
) -> list[Gap]:
    """What somebody took out: what the log has of it is written again, the rest is named missing."""
    if remote is not None and any(gaps_of(found) for found in spans.values()):
        try:
            there = remote().names()
        except ObservatorError as error:
            logger.warning("whether parts are missing is not known: %s", error)
            return []
        spans = spans_of([*local.names(), *there])
    found: list[Gap] = []
    for slot, ranges in spans.items():
        if slot not in bounds:
            continue
        kept = bounds[slot][0]
        for first, last in gaps_of(ranges):
            if first < kept:
                _tell_missing(local, root, Missing(slot, first, min(last, kept - 1)), now_ms, reach)
            if last >= kept:
                found.append(Gap(slot, max(first, kept), last))
    return found


def _tell_missing(local: FolderStore, root: Root, missing: Missing, now_ms: int, reach: Reach) -> None:
    logger.error("%s are lost to the archive: the log had deleted them before they were read", missing)
    reach("before_missing")
    write_missing(local, root.run, missing, now_ms)
    reach("after_missing")
