"""The stage of `verify archive`: folders, the bucket, and the process that lives and is killed, over and over.

Called by `archive_trials` and `archive`. It ends only processes that it started.
"""

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from consumers.verify.archive_bucket import KEY, NAME, SECRET, Bucket
from consumers.verify.archive_world import Judged, judge, records_of_seed
from infra.errors import Stop
from infra.log import Record, Slot
from infra.store import FolderStore, Store

PATIENCE_S = 300.0


class Ended(NamedTuple):
    """How a life ended."""

    is_killed: bool
    is_done: bool
    said: list[dict[str, Any]]

    @property
    def stopped(self) -> str:
        """Why it gave up; empty where it did not."""
        return next((str(one["stopped"]) for one in self.said if "stopped" in one), "")


class Children:
    """The forking parent, and what the life under way says."""

    def __init__(self) -> None:
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "consumers.verify.archive_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def live(self, wanted: dict[str, Any], on_said: Callable[[int, dict[str, Any]], None] | None = None) -> Ended:
        """One life to its end; `on_said` gets its process id and whatever it says, its beginning first."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        pid = int(self._next()["pid"])
        said: list[dict[str, Any]] = []
        if on_said:
            on_said(pid, {})
        while True:
            try:
                line = self._next()
            except queue.Empty:
                os.kill(pid, signal.SIGKILL)
                raise TimeoutError(f"a life did not end in {PATIENCE_S:.0f} s; it said {said[-3:]}") from None
            if "end" in line:
                return Ended(line["end"]["signal"] == signal.SIGKILL, any("done" in one for one in said), said)
            said.append(line)
            if on_said:
                on_said(pid, line)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _next(self) -> dict[str, Any]:
        found = self._lines.get(timeout=PATIENCE_S)
        if found is None:
            raise Stop("the process that forks the trials' processes ended")
        return found

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(json.loads(line))
        self._lines.put(None)


@dataclass(slots=True)
class Scene:
    """One trial: its folder, its part of the bucket, its log, and what was killed."""

    children: Children
    bucket: Bucket
    folder: Path
    is_bucket: bool
    seed: int
    count: int
    kills: int = 0
    lost: dict[Slot, range] = field(default_factory=dict)
    secret: str = SECRET

    @property
    def local(self) -> FolderStore:
        """The archive's folder."""
        return FolderStore(self.folder / "archive")

    @property
    def store(self) -> Store:
        """Where the whole archive is."""
        return self.bucket.store(self.folder.name) if self.is_bucket else self.local

    @property
    def records(self) -> list[Record]:
        """What the log holds in the end."""
        return records_of_seed(self.seed, self.count)

    def live(
        self,
        *,
        share: float = 1.0,
        point: str = "",
        nth: int = 1,
        on_said: Callable[[int, dict[str, Any]], None] | None = None,
        **further: Any,
    ) -> Ended:
        """One life of the archive process over the first `share` of the log."""
        remote = [f"s3://{NAME}/{self.folder.name}", self.bucket.endpoint, KEY, self.secret] if self.is_bucket else []
        wanted = {
            "local": str(self.local.path), "remote": remote, "seed": self.seed, "count": self.count, "share": share,
            "firsts": [[slot.topic, slot.partition, lost.stop] for slot, lost in self.lost.items()],
            "point": point, "nth": nth, "batch": 97, "part_records": 40, "is_threaded": False, **further,
        }  # fmt: skip
        ended = self.children.live(wanted, on_said)
        self.kills += ended.is_killed
        if ended.stopped:
            raise Stop(f"the archive gave up: {ended.stopped}")
        return ended

    def live_until_killed_at(self, seconds: float, **further: Any) -> Ended:
        """A life with its threads, killed from outside so long after it began."""

        def kill(pid: int, said: dict[str, Any]) -> None:
            if not said:
                threading.Timer(seconds, _kill, (pid,)).start()

        return self.live(on_said=kill, is_threaded=True, **further)

    def lose_folder(self) -> None:
        """The machine's folder is gone; the bucket is not."""
        shutil.rmtree(self.local.path)

    def judge(self) -> Judged:
        """Read the archive back and hold it against the log."""
        return judge(self.store, self.records, self.lost)


class Hall:
    """What all trials share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self.bucket = Bucket(folder / "s3")
        self.children = Children()

    def scene(self, *, is_bucket: bool, seed: int, count: int) -> Scene:
        """A trial's own folder."""
        self._number += 1
        folder = self._folder / f"trial-{self._number}"
        folder.mkdir()
        return Scene(self.children, self.bucket, folder, is_bucket, seed, count)

    def clear(self, scene: Scene) -> None:
        """Its files are not needed any more."""
        shutil.rmtree(scene.folder, ignore_errors=True)
        if scene.is_bucket:
            self.bucket.forget(scene.folder.name)

    def __enter__(self) -> Self:
        self.bucket.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.children.close()
        self.bucket.stop()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def wait_for(is_so: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """Until it is so."""
    end = time.monotonic() + patience_s
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {patience_s:.0f} s: {what}")
        time.sleep(0.01)
