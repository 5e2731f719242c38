"""Archive processes of `verify archive`: a parent that loads everything once forks one after the other.

Started as `python -m consumers.verify.archive_child`; reads one JSON line per life from its input and writes one when
it begins, one for each thing it says, and one when it ends. The archive is the real one; only its clocks are the
trial's, and it kills itself where it is told to.
"""

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import s3fs  # noqa: F401 - loaded before the fork, so that no life pays for it

from consumers.archive.process import Archive, Clocks
from consumers.archive.room import Troubles
from consumers.execute.crash import Reach, kill_at, reach_nothing
from consumers.verify import drills_surroundings as around
from consumers.verify.archive_world import TOPICS, log_of, records_of_seed, wall_ms
from infra.errors import Retry, Stop
from infra.log import Log, Record, Slot
from infra.secrets import Secret
from infra.settings import ArchiveSettings
from infra.store import FolderStore, Store, StoreRefused
from infra.store_s3 import S3Store

Say = Callable[[dict[str, Any]], None]
_ROUND_S = 0.02
_QUIET_S = 4.0
"""A reader of Kafka needs a moment for its first records."""
_INSIDE = {"in_file": "fsync", "before_rename": "replace", "after_rename": "replace"}


@cache
def records(seed: int, count: int) -> list[Record]:
    """Made once, before the first life that needs them."""
    return records_of_seed(seed, count)


def watch_files(point: str, reach: Reach) -> None:
    """Reach `point` inside the writing of a file: before it is durable, before and after it gets its name."""
    call: Callable[..., Any] = getattr(os, _INSIDE[point])

    def watched(*arguments: Any, **named: Any) -> Any:
        if point != "after_rename":
            reach(point)
        found = call(*arguments, **named)
        if point == "after_rename":
            reach(point)
        return found

    setattr(os, _INSIDE[point], watched)


def live(wanted: dict[str, Any], say: Say) -> None:
    """Archive the part of the log that is there, until everything is written and brought away."""
    reach = kill_at(wanted["point"], wanted["nth"]) if wanted["point"] else reach_nothing
    if wanted["point"] in _INSIDE:
        watch_files(wanted["point"], reach)
    if wanted.get("file_bytes"):
        around.small_files(wanted["file_bytes"])
    log, end_ms = _log(wanted)
    local = FolderStore(Path(wanted["local"]))
    troubles = Troubles()
    settings = ArchiveSettings.model_validate(
        {"topics": TOPICS, "part_records": wanted["part_records"], "keep_days": 1, "budget_gb": 1}
    )
    clocks = Clocks(lambda: end_ms, time.monotonic)
    while True:
        try:
            archive = Archive(
                log, local, _remote(wanted), settings, troubles, clocks=clocks, batch=wanted["batch"], reach=reach
            )
            break
        except (Retry, StoreRefused) as error:
            say({"trouble": f"{type(error).__name__}: {error}"})
            time.sleep(_ROUND_S)
    if wanted["is_threaded"]:
        _live_on(archive, troubles, say)
    else:
        _live_once(archive, troubles, say, _QUIET_S if wanted.get("bootstrap") else 0.0)


def _live_once(archive: Archive, troubles: Troubles, say: Say, quiet_s: float) -> None:
    """One thread, so that the nth passage of a point is the same each time; nothing for `quiet_s` is the log's end."""
    while archive.step(quiet_s):
        archive.look()
        _turn(archive, say)
    _finish(archive, troubles, say)


def _live_on(archive: Archive, troubles: Troubles, say: Say) -> None:
    """As the process itself does it: the keeper in its own thread, and no hurry."""
    archive.keeper.start()
    told: dict[str, str] = {}
    while True:
        while archive.step(0.0):
            archive.look()
        is_written = archive.write(is_all=True)
        archive.look()
        if (now := troubles.all()) != told:
            told = now
            say({"troubles": told})
        if is_written and archive.writer.held_bytes == 0:
            say({"written": True})
            if not told and archive.keeper.waiting() == (0, 0):
                break
        time.sleep(_ROUND_S)
    archive.keeper.stop()
    _finish(archive, troubles, say)


def _turn(archive: Archive, say: Say) -> None:
    """The keeper's work, again until it is done, as its own thread does it."""
    while True:
        try:
            archive.keeper.turn()
        except Retry as error:
            say({"trouble": f"{type(error).__name__}: {error}"})
            time.sleep(_ROUND_S)
        else:
            return


def _finish(archive: Archive, troubles: Troubles, say: Say) -> None:
    while not archive.write(is_all=True):
        say({"troubles": troubles.all()})
        time.sleep(_ROUND_S)
    archive.look()
    _turn(archive, say)
    _turn(archive, say)
    say({"done": True, "went_back": len(archive.went_back)})


def _log(wanted: dict[str, Any]) -> tuple[Log, int]:
    firsts = {Slot(topic, int(partition)): first for topic, partition, first in wanted["firsts"]}
    all_of_them = records(wanted["seed"], wanted["count"])
    visible = all_of_them[: int(len(all_of_them) * wanted["share"])]
    if wanted.get("bootstrap"):
        from infra.kafka import KafkaLog  # noqa: PLC0415 - only trials on Kafka load it

        return KafkaLog(wanted["bootstrap"], wanted["prefix"]), int(time.time() * 1000)
    return log_of(visible, firsts), wall_ms(visible)


def _remote(wanted: dict[str, Any]) -> Callable[[], Store] | None:
    if not wanted["remote"]:
        return None
    url, endpoint, key, secret = wanted["remote"]
    return lambda: S3Store(url, endpoint, key, Secret(secret))


def serve(read_line: Callable[[], str], say: Say) -> None:
    """Fork one life per line, say its process id, wait for its end and say how it was."""
    while line := read_line():
        wanted = json.loads(line)
        records(wanted["seed"], wanted["count"])
        pid = os.fork()
        if pid == 0:
            os._exit(_live(wanted, say))
        say({"pid": pid})
        _, status = os.waitpid(pid, 0)
        how = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        say({"end": {"signal": how, "status": os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1}})


def _live(wanted: dict[str, Any], say: Say) -> int:
    try:
        live(wanted, say)
    except Stop as error:
        say({"stopped": f"{type(error).__name__}: {error}"})
        return 3
    except Exception as error:  # outermost of the life: the trial tells it
        say({"stopped": f"{type(error).__name__}: {error}"})
        raise
    finally:
        sys.stderr.flush()
    return 0


def main() -> None:
    """Serve lives until the input ends."""
    logging.disable(logging.ERROR)  # what is told goes through `say`
    lock = threading.Lock()

    def say(found: dict[str, Any]) -> None:
        with lock:
            os.write(1, (json.dumps(found) + "\n").encode())

    serve(sys.stdin.readline, say)


if __name__ == "__main__":
    main()
