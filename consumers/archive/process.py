"""The process `archive`: reads every wanted topic by plain `assign` and keeps it as parts, for as long as it runs.

Started by the supervisor through `run`. It keeps no offsets anywhere: where each partition goes on is what the names of
its parts say, so it may be killed at any point. It never writes into the archive of another log.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from consumers.archive import days
from consumers.archive.opening import Gap, Opened, hold, open_archive
from consumers.archive.retention import Keeper
from consumers.archive.room import Room, Troubles
from consumers.archive.root import write_missing
from consumers.archive.writer import HELD_BYTES, Limits, PartWriter, Written
from consumers.execute.crash import Reach, reach_nothing
from consumers.trade.inputs import behind
from infra.errors import Retry, TopicMissing
from infra.log import Log, Reader, Record, Slot
from infra.settings import ArchiveSettings, Settings
from infra.store import FolderStore, Store, StoreFull, StoreRefused, StoreUnavailable, folder_at, local_store, store_at
from infra.watchdog import Watchdog
from streams.archive_spans import Missing
from streams.topics import DAY_MS, TOPICS

logger = logging.getLogger(__name__)

STATE = Path("run") / "archive.json"
_BATCH = 5_000
_READ_S = 0.2
_LOOK_S = 5.0
_RETRY_S = 2.0
_FINISH_S = 8.0
"""How long it reads on when it is told to stop; the supervisor waits longer (`infra.supervisor.ARCHIVE_STOP_S`)."""
_STUCK_S = 60.0
"""A disk may hold a write for long; the log keeps what waits meanwhile."""
_SKEW_MS = 60_000
"""How far the broker's clock may be from ours."""


class Clocks(NamedTuple):
    """The time of day and one that only goes on; a test gives its own."""

    wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    steady_s: Callable[[], float] = time.monotonic


def wanted_topics(archive: ArchiveSettings) -> list[str]:
    """The topics by the settings."""
    if archive.topics == ["all"]:
        return list(TOPICS)
    return archive.topics or [name for name in TOPICS if name != "logs"]


class Archive:
    """One archive and the log that it is of; made anew after every error."""

    def __init__(
        self,
        log: Log,
        local: FolderStore,
        remote: Callable[[], Store] | None,
        archive: ArchiveSettings,
        troubles: Troubles,
        *,
        clocks: Clocks = Clocks(),  # noqa: B008 - immutable
        batch: int = _BATCH,
        reach: Reach = reach_nothing,
    ) -> None:
        self._log = log
        self._clocks = clocks
        self._batch = batch
        self._reach = reach
        self._troubles = troubles
        self._lock = hold(local)
        try:
            self.opened: Opened = open_archive(log, wanted_topics(archive), local, remote, clocks.wall_ms(), reach)
        except BaseException:  # whatever it is, it goes on: without an archive nobody would let go of the lock
            os.close(self._lock)
            raise
        self._local = local
        self._room = Room(local.path, sum(local.sizes().values()), archive.budget_gb, troubles)
        self.keeper = Keeper(
            local, remote, self.opened.root, archive.keep_days, self._room, troubles,
            wall_ms=clocks.wall_ms, reach=reach,
        )  # fmt: skip
        self._limits = Limits(archive.part_seconds, archive.part_records)
        self.writer = self._writer(self.opened.starts)
        closed = [day for name in local.names() if days.is_complete_name(name) and (day := days.day_of(name))]
        self.writer.earliest = days.following(max(closed)) if closed else ""
        self.went_back: list[str] = []
        """Parts in which the log's clock went back."""
        self._latest_ms: dict[Slot, int] = {}
        self._waits_since_s: float | None = None
        for gap in self.opened.gaps:
            self._fill(gap)
        self._reader: Reader = log.reader(self.opened.starts)

    def step(self, timeout_s: float = _READ_S) -> bool:
        """Read what is there and write what is due; whether anything was read."""
        records: list[Record] = []
        if self.writer.held_bytes <= 2 * HELD_BYTES:
            records = self._reader.read(self._batch, timeout_s)
            self.writer.take(records)
            self._reach("after_read")
        else:
            time.sleep(timeout_s)
        now_s = self._clocks.steady_s()
        if self._waits_since_s is None or now_s - self._waits_since_s >= _RETRY_S:
            self._waits_since_s = None if self.write() else now_s
        return bool(records)

    def write(self, *, is_all: bool = False) -> bool:
        """Write what is due; False where there is no room or no disk now: what waits is kept, and the log has it."""
        try:
            for written in self.writer.write(self._reader.position, is_all=is_all):
                self._note(written)
        except (StoreFull, StoreUnavailable) as error:
            self._troubles.say("disk", f"nothing can be written into the archive: {error}")
            return False
        self._troubles.over("disk", "the archive is written again")
        return True

    def look(self) -> int:
        """Work out up to when everything is archived, for closing days; tell records that the log will delete soon."""
        now_ms = self._clocks.wall_ms()
        bounds = self._log.bounds(self.opened.starts)
        passed, late = now_ms - _SKEW_MS, ""
        for slot, (_, end) in bounds.items():
            oldest = self.writer.oldest_ms(slot)
            if oldest is None:
                if self._reader.position(slot) >= end:
                    continue
                oldest = self.keeper.passed_ms  # nothing is known of what is still to be read
            passed = min(passed, oldest)
            kept = TOPICS[slot.topic].days
            if kept and oldest and oldest + (kept - 1) * DAY_MS < now_ms:
                late = f"{slot.topic}-{slot.partition} since {days.place_of(oldest)[0]}"
        if late:
            self._troubles.say("late", f"the log deletes within a day what the archive does not have yet: {late}")
        else:
            self._troubles.over("late", "nothing of what waits is about to be deleted by the log")
        if passed > self.keeper.passed_ms:
            self.writer.earliest = max(self.writer.earliest, days.place_of(passed)[0])
            self.keeper.passed_ms = passed
        return passed

    def finish(self, within_s: float = _FINISH_S) -> None:
        """Read on to where the log ends now, for at most so long, and write everything; say where that is not all."""
        end_s = time.monotonic() + within_s
        unread = -1
        try:
            ends = {slot: end for slot, (_, end) in self._log.bounds(self.opened.starts).items()}
            while unread := sum(max(0, end - self._reader.position(slot)) for slot, end in ends.items()):
                if time.monotonic() > end_s:
                    break
                self.step()
        except Retry as error:
            logger.warning("the log does not answer while the archive ends: %s", error)
        if not self.write(is_all=True) or unread:
            what = "records" if unread < 0 else f"{unread} offsets and what could not be written"
            logger.warning("%s may be in the log alone: the next start of the archive goes on there", what)

    def behind(self) -> str | None:
        """What could be read but is not; nothing is while a full disk makes reading wait."""
        if self.writer.held_bytes > 2 * HELD_BYTES:
            return None
        return behind(self._log, {slot: self._reader.position(slot) for slot in self.opened.starts})

    def state(self) -> dict[str, object]:
        """As `archive status` shows it."""
        files, size = self.keeper.waiting()
        return {
            "at_ms": self._clocks.wall_ms(), "pid": os.getpid(), "run": self.opened.root.run,
            "passed_ms": self.keeper.passed_ms, "waiting_files": files, "waiting_bytes": size,
            "used_bytes": self._room.used, "limit_bytes": self._room.limit,
            "went_back": self.went_back[-20:], "troubles": self._troubles.all(),
        }  # fmt: skip

    def close(self) -> None:
        """Let go of the log and the folder."""
        self.keeper.stop()
        self._reader.close()
        os.close(self._lock)

    def _writer(self, starts: dict[Slot, int]) -> PartWriter:
        return PartWriter(
            self._local, self.opened.root.run, starts, self._limits,
            clock_s=self._clocks.steady_s, check_room=self._room.check, reach=self._reach,
        )  # fmt: skip

    def _note(self, written: Written) -> None:
        self._room.add(written.bytes)
        self.keeper.added(written.part.name, written.bytes)
        slot, footer = written.part.slot, written.footer
        if footer.went_back or footer.append_first_ms < self._latest_ms.get(slot, 0):
            logger.warning("the log's clock went back in %s", written.part.name)
            self.went_back.append(written.part.name)
        self._latest_ms[slot] = max(footer.append_last_ms, self._latest_ms.get(slot, 0))

    def _fill(self, gap: Gap) -> None:
        """Write again what somebody took out of the archive's middle."""
        logger.warning("writing again: %s-%d offsets %d to %d", *gap.slot, gap.first, gap.last)
        writer = self._writer({gap.slot: gap.first})
        reader = self._log.reader({gap.slot: gap.first})
        touched: set[str] = set()

        def write(end: int, *, is_all: bool) -> None:
            for written in writer.write(lambda _: end, is_all=is_all):
                self._note(written)
                touched.add(written.part.day)

        try:
            while reader.position(gap.slot) <= gap.last:
                records = reader.read(_BATCH, _READ_S)
                writer.take(record for record in records if record.offset <= gap.last)
                write(min(reader.position(gap.slot), gap.last + 1), is_all=False)
            write(gap.last + 1, is_all=True)
        finally:
            reader.close()
        if writer.next[gap.slot] <= gap.last:
            lost = Missing(gap.slot, writer.next[gap.slot], gap.last)
            write_missing(self._local, self.opened.root.run, lost, self._clocks.wall_ms())
            self.keeper.added(lost.name, self._local.size(lost.name) or 0)
        self.keeper.changed(touched)


def run(settings: Settings, log: Log, stop: threading.Event) -> None:
    """Keep the archive until `stop` is set; after a `Retry` go on from what the parts say."""
    if not settings.archive.is_on:
        logger.info("archive.is_on is false: nothing is archived")
        stop.wait()
        return
    with suppress(OSError):
        os.nice(5)  # decisions and orders come first: what waits here loses nothing
    troubles = Troubles()
    target = settings.archive.target
    remote = (lambda: store_at(target, settings)) if target.startswith("s3://") else None
    local = folder_at(target) if target and remote is None else local_store(settings)
    while not stop.is_set():
        archive: Archive | None = None
        try:
            archive = Archive(log, local, remote, settings.archive, troubles)
            troubles.over("start", "the archive goes on")
            _keep(archive, settings.home / STATE, stop)
        except (Retry, TopicMissing, StoreRefused) as error:
            troubles.say("start", f"the archive starts over from its parts: {error}")
            _write_state(settings.home / STATE, {"pid": os.getpid(), "troubles": troubles.all()})
            stop.wait(_RETRY_S)
        finally:
            if archive is not None:
                archive.close()


def _keep(archive: Archive, state: Path, stop: threading.Event) -> None:
    """Turn until `stop`; a watchdog ends the process where it hangs."""
    watchdog = Watchdog(archive.behind, limit_s=_STUCK_S)
    watchdog.start()
    archive.keeper.start()
    looked_s = float("-inf")
    try:
        while not stop.is_set():
            if archive.step():
                watchdog.progress()
            watchdog.beat()
            if time.monotonic() - looked_s >= _LOOK_S:
                archive.look()
                _write_state(state, archive.state())
                looked_s = time.monotonic()
        archive.finish()
    finally:
        watchdog.stop()


def _write_state(path: Path, found: dict[str, object]) -> None:
    with suppress(OSError):  # a full disk is told elsewhere
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(found))
        fresh.replace(path)
