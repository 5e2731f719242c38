"""What happens to parts after they are written: a bucket gets them, local ones that are safe there leave, days close.

Runs beside the process's loop, in a thread of its own, so that a bucket that does not answer holds up nothing. It
deletes a local part only after it has read the bucket's copy back and found the same bytes, and nothing at all where
the archive is a folder. A file that is damaged, gone or other than its copy is told by name and holds up no other one.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable

import msgspec

from consumers.archive import days
from consumers.archive.copies import check_replaces, check_whole, content, said_of
from consumers.archive.room import Room, Troubles
from consumers.archive.root import ROOT, Root, check_run, claim, read_root
from consumers.execute.crash import Reach, reach_nothing
from infra.errors import ObservatorError, Stop
from infra.store import FolderStore, Store, StoreFull, StoreRefused
from streams.archive_spans import spans_of
from streams.parts import Part

logger = logging.getLogger(__name__)

CRASH_POINTS = (
    "before_put", "after_put", "after_read_back", "before_complete", "after_complete", "before_delete", "after_delete",
)  # fmt: skip
_ROUND_S = 1.0
_LONGEST_WAIT_S = 60.0
_RETIRE_EVERY_S = 600.0
_AGAIN_S = 600.0
"""When a file or a day with which something is wrong is looked at again."""


class Keeper:
    """One archive's uploads, retention and closing of days. `passed_ms`: what was appended before it is archived."""

    def __init__(
        self,
        local: FolderStore,
        remote: Callable[[], Store] | None,
        root: Root,
        keep_days: int,
        room: Room,
        troubles: Troubles,
        *,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        reach: Reach = reach_nothing,
    ) -> None:
        self.passed_ms = 0
        self._local = local
        self._open_remote = remote
        self._remote: Store | None = None
        self._there: dict[str, int] = {}
        """What the bucket holds, by name."""
        self._root = root
        self._keep_days = keep_days
        self._room = room
        self._troubles = troubles
        self._wall_ms = wall_ms
        self._reach = reach
        self._waiting: dict[str, int] = local.sizes()
        """Local files that may not be in the bucket yet; only this thread takes from it."""
        self._added: list[tuple[str, int]] = []
        self._put_off: dict[str, float] = {}
        """Files with which something is wrong, and when they are looked at again."""
        self._changed: set[str] = set()
        """Closed days into which a part was written again."""
        self._looked_day = ""
        self._close_again_s = float("inf")
        self._retired_s = float("-inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="archive-keeper", daemon=True)

    def added(self, name: str, size: int) -> None:
        """A file was written; called by the loop."""
        self._added.append((name, size))

    def changed(self, closed: Iterable[str]) -> None:
        """Parts of days that may be closed were written again; called before the thread starts."""
        self._changed.update(closed)

    def waiting(self) -> tuple[int, int]:
        """Files and bytes that are not known to be in the bucket; 0 where there is none."""
        if self._open_remote is None:
            return 0, 0
        left = dict(self._waiting)
        return len(left) + len(self._added), sum(left.values()) + sum(size for _, size in list(self._added))

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; an upload under way is waited for a little and done again the next time."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2.0)

    def turn(self) -> None:
        """Do once what is to do; raises what went wrong, and begins with a new look at the bucket the next time."""
        self._room.look()
        try:
            self.close_days()
            if self._open_remote is None:
                self._added.clear()
                return
            self.upload()
            if time.monotonic() - self._retired_s >= _RETIRE_EVERY_S:
                self.retire()
                self._retired_s = time.monotonic()
        except ObservatorError:
            self._remote = None  # somebody may have changed what is there
            raise

    def close_days(self) -> None:
        """Write `complete.json` of every day that is over."""
        looked, _ = days.place_of(min(self.passed_ms, self._wall_ms() - days.CLOSE_AFTER_MS))
        if looked == self._looked_day and not self._changed and time.monotonic() < self._close_again_s:
            return
        names = self._local.names()
        closed = {days.day_of(name) for name in names if days.is_complete_name(name)}
        wanted = set(days.days_to_close(names, self.passed_ms, self._wall_ms())) | (self._changed & closed)
        closes = [self._close_day(day) for day in sorted(wanted)]
        self._changed.clear()
        self._close_again_s = float("inf") if all(closes) else time.monotonic() + _AGAIN_S
        self._looked_day = looked
        self._retired_s = float("-inf")

    def _close_day(self, day: str) -> bool:
        """Write that a day is complete, and what it holds; False where that cannot be said: a trouble tells why then.

        What was said of the day before, here or in the bucket, is never replaced by less.
        """
        name = days.complete_name(day)
        beside = self._reached() if self._open_remote is not None else None
        try:
            self._write_complete(name, self._found_of(day, beside))
        except (Stop, StoreFull, FileNotFoundError) as error:
            self._troubles.say(name, f"The day {day} is not told complete: {error}")
            return False
        self._troubles.over(name, f"the day {day} is complete")
        return True

    def _found_of(self, day: str, beside: Store | None) -> days.Complete:
        """What a day holds; raises `Stop` where something is missing or was said before and cannot be found now."""
        if gaps := days.gaps_at(day, {*self._local.names(), *self._there}):
            raise Stop(f"no part holds {', '.join(gaps)}. Bring them back; a restart looks for them in the log.")
        found = days.sum_up(self._local, self._root.run, day, self._wall_ms(), beside)
        for store in (self._local, beside) if beside is not None else (self._local,):
            said = said_of(content(store, days.complete_name(day)), store.url)
            if said is not None and not days.covers(found, said):
                raise Stop(f"{store.url} has a file that says more of it than all parts hold; that stays as it is")
            if said is not None and said.slots == found.slots:
                return said
        return found

    def _write_complete(self, name: str, found: days.Complete) -> None:
        data = msgspec.json.format(msgspec.json.encode(found))
        self._reach("before_complete")
        size = self._local.size(name) or 0
        self._local.write(name, data)
        self._room.add(len(data) - size)
        self._reach("after_complete")
        self.added(name, len(data))
        count = sum(one.count for one in found.slots.values())
        logger.info("the day %s is complete: %d records in %d parts", found.day, count, found.parts)

    def upload(self) -> None:
        """Bring everything to the bucket, day files after the parts of their day."""
        remote = self._reached()
        while self._added:
            name, size = self._added.pop(0)
            self._wait_for(name, size)
        for name in sorted(self._waiting, key=lambda one: (days.is_complete_name(one), one)):
            if self._stop.is_set():
                return
            if time.monotonic() < self._put_off.get(name, 0.0):
                continue
            try:
                if name != ROOT and self._there.get(name) != self._waiting[name]:  # that one was put there at first
                    self._put(remote, name)
            except (Stop, FileNotFoundError) as error:
                if isinstance(error, StoreRefused):
                    raise  # that is the bucket, not this file
                self._troubles.say(name, f"{name} is not brought to the bucket: {error}")
                self._put_off[name] = time.monotonic() + _AGAIN_S
                continue
            del self._waiting[name]
            self._put_off.pop(name, None)
            self._troubles.over(name, f"{name} is in the bucket")

    def retire(self) -> None:
        """Delete local parts of closed days beyond `keep_days` whose copy in the bucket is read back and the same."""
        names = self._local.names()
        newest = {spans[-1][2] for spans in spans_of(names).values()}
        closed = {days.day_of(name) for name in names if days.is_complete_name(name)}
        today, _ = days.place_of(self._wall_ms())
        for name in names:
            day = days.day_of(name)
            if day is None or Part.of_name(name) is None or name in newest or day not in closed:
                continue
            if days.following(day, self._keep_days) >= today or self._stop.is_set():
                continue
            self._retire(name)

    def _retire(self, name: str) -> None:
        try:
            here = self._local.read(name)
        except FileNotFoundError:
            return  # somebody removed it since it was listed
        there = content(self._reached(), name)
        if there == here:
            self._reach("before_delete")
            self._local.delete(name)
            self._reach("after_delete")
            self._room.add(-len(here))
            self._troubles.over(name, f"{name} is in the bucket")
            return
        try:
            check_replaces(here, there, name)
        except Stop as error:
            self._troubles.say(name, f"{error} It is not deleted.")
        else:
            logger.warning("the bucket's copy of %s is not whole, it is put there again", name)
            self._there[name] = -1
            self._wait_for(name, len(here))

    def _wait_for(self, name: str, size: int) -> None:
        """Have a file brought to the bucket, whatever is there under its name."""
        self._waiting[name] = size
        self._put_off.pop(name, None)
        if name in self._there:
            self._there[name] = -1

    def _put(self, remote: Store, name: str) -> None:
        """Bring one file; raises `Stop` and writes nothing where it is not fit to be there."""
        data = self._local.read(name)
        if days.is_complete_name(name):
            self._check_complete(data, name)
        if name in self._there:
            there = content(remote, name)
            if there == data:
                self._there[name] = len(data)
                return
            check_replaces(data, there, name)
        elif Part.of_name(name) is not None:
            check_whole(data, name)
        self._reach("before_put")
        remote.write(name, data)
        self._reach("after_put")
        if content(remote, name) != data:
            self._there[name] = -1
            raise Stop(f"{remote.url} gives back other bytes than were written; it is put again")
        self._reach("after_read_back")
        self._there[name] = len(data)

    def _check_complete(self, data: bytes, name: str) -> None:
        """Raise `Stop` unless everything that a closed day says it has is in the bucket."""
        day = days.day_of(name)
        if any(days.day_of(one) == day and Part.of_name(one) is not None for one in self._waiting):
            raise Stop("parts of this day are not there yet")
        told = said_of(data, self._local.url)
        if told is not None and (lacking := days.lacks(told, self._there)):
            raise Stop(f"the bucket lacks parts of {', '.join(lacking)} that were here when the day was closed")

    def _reached(self) -> Store:
        """The bucket, once it has answered and is known to hold nothing of another run."""
        if self._remote is None:
            assert self._open_remote is not None
            remote = self._open_remote()
            if read_root(remote) is None:
                claim(remote, self._root, self._local.read(ROOT))
            check_run(remote, self._root)
            self._there = remote.sizes()
            self._remote = remote
        return self._remote

    def _run(self) -> None:
        wait_s = _ROUND_S
        while not self._stop.wait(wait_s):
            try:
                self.turn()
                wait_s = _ROUND_S
                self._troubles.over("keeper", "the archive's uploads and days go on")
            except ObservatorError as error:
                wait_s = min(_LONGEST_WAIT_S, wait_s * 2)
                self._troubles.say("keeper", f"{error} Parts stay on this machine; it is tried again.")
            except Exception:  # the outermost loop of this thread: uploads that died would fill the disk unseen
                logger.exception("the keeper failed; it tries again")
                wait_s = _LONGEST_WAIT_S
