"""The trials of `verify archive`: what is done to an archive while it is written. Each ends with a life to the end.

Called by `archive`. Every trial is a function of its scene and a seeded generator, and says what it saw as figures.
"""

import random
from collections.abc import Callable
from typing import Any

from consumers.archive import opening, retention, writer
from consumers.verify import archive_disk as disk
from consumers.verify.archive_stage import Ended, Scene
from infra.errors import Stop
from infra.log import Slot
from streams.archive_spans import spans_of

Figures = dict[str, float]
Trial = Callable[[Scene, random.Random], Figures]

POINTS = (*writer.CRASH_POINTS, *retention.CRASH_POINTS, *opening.CRASH_POINTS)
OF_THE_BUCKET = ("before_put", "after_put", "after_read_back", "before_delete", "after_delete", "after_adopted")
AGAIN = tuple(one for one in POINTS if not one.endswith(("missing", "adopted", "root")))
"""Where a second life may be killed too."""
_HIGHEST = {
    "after_read": 4, "before_part": 20, "after_part": 20, "in_file": 40, "before_rename": 20, "after_rename": 20,
    "before_put": 25, "after_put": 25, "after_read_back": 25, "before_complete": 3, "after_complete": 3,
    "before_delete": 8, "after_delete": 8, "after_adopted": 5,
}  # fmt: skip
"""Up to which passage of a point a life of the trial's log surely comes."""


def killed_at(point: str) -> Trial:
    """Killed at this point, then once more at any, then left alone."""

    def play(scene: Scene, rng: random.Random) -> Figures:
        share = 1.0 if "delete" in point else rng.choice((0.6, 1.0))
        if point.endswith("missing"):
            _let_the_log_delete(scene, rng)
            share = 1.0
        elif point == "after_adopted":
            scene.live(share=0.6)
            scene.lose_folder()
        ended = scene.live(share=share, point=point, nth=rng.randint(1, _HIGHEST.get(point, 1)))
        if not ended.is_killed:
            raise Stop(f"{point} was not reached")
        other = rng.choice([one for one in AGAIN if scene.is_bucket or one not in OF_THE_BUCKET])
        scene.live(point=other, nth=rng.randint(1, _HIGHEST.get(other, 1)))
        scene.live()
        return {f"killed {point}": 1}

    return play


def killed_at_any_time(scene: Scene, rng: random.Random) -> Figures:
    """Killed from outside at random times, with the keeper in its own thread."""
    before = scene.kills
    for share in (0.5, 0.8, 1.0):
        scene.live_until_killed_at(rng.uniform(0.02, 0.9), share=share)
    _end(scene)
    return {"killed from outside": scene.kills - before}


def bucket_gone(scene: Scene, rng: random.Random) -> Figures:
    """The bucket vanishes in the middle and comes back: local parts go on, and all of it arrives."""
    del rng
    scene.live(share=0.5)
    seen = {"told": 0.0}

    def on_said(_pid: int, said: dict[str, Any]) -> None:
        if not said:
            scene.bucket.vanish()
        if "keeper" in said.get("troubles", {}) and not seen["told"]:
            seen["told"] = 1
            scene.bucket.come_back()

    ended = scene.live(is_threaded=True, on_said=on_said)
    return {"bucket gone: told and come back": seen["told"] * ended.is_done}


def server_killed(scene: Scene, rng: random.Random) -> Figures:
    """The S3 server is killed in the middle and starts again."""
    del rng
    scene.live(share=0.5)
    seen = {"told": 0.0}

    def on_said(_pid: int, said: dict[str, Any]) -> None:
        if not said:
            scene.bucket.stop()
        if "keeper" in said.get("troubles", {}) and not seen["told"]:
            seen["told"] = 1
            scene.bucket.start()

    ended = scene.live(is_threaded=True, on_said=on_said)
    return {"server killed: told and come back": seen["told"] * ended.is_done}


def wrong_secret(scene: Scene, rng: random.Random) -> Figures:
    """A wrong secret is refused and told; the local copy goes on, and with the right one all of it arrives."""
    scene.live(share=0.4)
    right, scene.secret = scene.secret, "not-the-secret-of-the-bucket"
    seen: list[str] = []
    is_written = {"so": False}

    def on_said(pid: int, said: dict[str, Any]) -> None:
        seen.extend(said.get("troubles", {}).values())
        is_written["so"] = is_written["so"] or "written" in said
        if any("refused" in one for one in seen) and is_written["so"]:
            disk.kill(pid)

    scene.live(is_threaded=True, on_said=on_said, share=rng.uniform(0.7, 0.9))
    is_hidden = not any(scene.secret in one for one in seen)
    scene.secret = right
    _end(scene)
    return {"wrong secret: told, and not shown": float(is_hidden and any("refused" in one for one in seen))}


def disk_full(scene: Scene, rng: random.Random) -> Figures:
    """The archive's folder is a real small file system that is full, until it is made larger."""
    del rng
    with disk.small(scene.local.path, disk.SMALL_KILOBYTES) as is_real:
        seen = {"told": 0.0}

        def on_said(_pid: int, said: dict[str, Any]) -> None:
            if "disk" in said.get("troubles", {}) and not seen["told"]:
                seen["told"] = 1
                disk.grow(scene.local.path)

        if is_real:
            ended = scene.live(is_threaded=True, on_said=on_said)
            found = scene.judge()
            if not found.is_exact:
                raise Stop(f"after the disk was full: {found}")
            scene.lost.clear()
            return {"disk full: told and gone on": seen["told"] * ended.is_done, "disk full: real file system": 1}
    return small_files(scene, random.Random(1))  # noqa: S311 - a trial's


def small_files(scene: Scene, rng: random.Random) -> Figures:
    """No file may grow beyond some bytes, which stops a part in the middle; killed so, then without the limit."""
    del rng
    seen = {"told": 0.0}

    def on_said(pid: int, said: dict[str, Any]) -> None:
        if "disk" in said.get("troubles", {}):
            seen["told"] = 1
            disk.kill(pid)

    scene.live(is_threaded=True, on_said=on_said, file_bytes=8_000)
    _end(scene)
    return {"file too large: told and gone on": seen["told"]}


def folder_lost(scene: Scene, rng: random.Random) -> Figures:
    """The machine's folder is lost between two lives; the bucket's archive goes on."""
    scene.live(share=rng.uniform(0.4, 0.8))
    scene.lose_folder()
    _end(scene)
    return {"folder lost: gone on": 1}


def log_deleted(scene: Scene, rng: random.Random) -> Figures:
    """The log deletes records before they are read: named in the archive, and nothing else is missing."""
    _let_the_log_delete(scene, rng)
    _end(scene)
    return {"deleted by the log and named": sum(len(one) for one in scene.lost.values())}


def _let_the_log_delete(scene: Scene, rng: random.Random) -> None:
    """After a first life, records that it has not read yet are gone from two partitions."""
    scene.live(share=0.4)
    ends = {slot: spans[-1][1] + 1 for slot, spans in spans_of(scene.local.names()).items()}
    last = {record.slot: record.offset for record in scene.records}
    for slot in (Slot("trades", 0), Slot("orderbooks", 1)):
        if slot in ends and last[slot] > ends[slot] + 2:
            scene.lost[slot] = range(ends[slot], ends[slot] + rng.randint(1, last[slot] - ends[slot] - 1))


def _end(scene: Scene) -> Ended:
    ended = scene.live()
    if not ended.is_done:
        raise Stop("the last life did not come to its end")
    return ended
