"""`observator verify archive`: the archive killed at every step, on a folder and on a real S3 server, read back whole.

Called by the command line. After each trial every record of the log must stand in the archive once, byte for byte, and
nothing else; a loss that is planted in the end must be found.
"""

import logging
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import track

from consumers.verify import archive_trials as play
from consumers.verify.archive_kafka import kafka_trials
from consumers.verify.archive_stage import Hall, Scene
from consumers.verify.archive_world import Judged
from infra.errors import BadSettings, ObservatorError
from infra.figures import result_of
from streams.parts import Part

logger = logging.getLogger(__name__)

TRIALS = 200
_SEEDS = 12
"""Logs; each trial takes one of them."""
_RECORDS = 800
_ON_KAFKA = 5
SPECIAL: dict[str, tuple[play.Trial, bool]] = {
    "bucket-gone": (play.bucket_gone, True),
    "server-killed": (play.server_killed, True),
    "wrong-secret": (play.wrong_secret, True),
    "disk-full": (play.disk_full, False),
    "file-too-large": (play.small_files, False),
    "folder-lost": (play.folder_lost, True),
    "log-deleted": (play.log_deleted, False),
}
"""What is not a kill at a named point, and whether it needs the bucket."""


def trials_of(count: int) -> list[tuple[str, play.Trial, bool]]:
    """Name, trial and whether it is on the bucket: the special ones, every point on both, then points and any time."""
    found = [(name, trial, is_bucket) for name, (trial, is_bucket) in SPECIAL.items()]
    points = [(one, is_bucket) for is_bucket in (True, False) for one in play.POINTS]
    points = [(one, is_bucket) for one, is_bucket in points if is_bucket or one not in play.OF_THE_BUCKET]
    found += [(one, play.killed_at(one), is_bucket) for one, is_bucket in points]
    number = 0
    while len(found) < count:
        if number % 3 == 2:
            found.append(("any-time", play.killed_at_any_time, number % 2 == 0))
        else:
            one, is_bucket = points[number % len(points)]
            found.append((one, play.killed_at(one), is_bucket))
        number += 1
    return found


QUICK = ("bucket-gone", "wrong-secret", "file-too-large", "after_part", "before_rename", "after_put", "before_delete")


def verify_archive(*, quick: bool = False, trials: int | None = None, only: str = "") -> dict[str, object]:
    """Play the trials; `only` names a kind of them. Passes where nothing is missing, twice or other than in the log."""
    chosen = trials_of(trials or TRIALS)
    if only:
        chosen = [one for one in chosen if one[0] == only]
        if not chosen:
            raise BadSettings(
                f"There is no trial {only!r}; there are {', '.join((*SPECIAL, *play.POINTS, 'any-time'))}."
            )
    elif quick:
        by_name = {name: (name, trial, is_bucket) for name, trial, is_bucket in reversed(chosen)}
        chosen = [by_name[name] for name in QUICK]
    else:
        chosen = chosen[: trials or TRIALS]
    began_s = time.monotonic()
    figures: Counter[str] = Counter()
    sums = Judged()
    conditions: dict[str, object] = {
        "quick": quick,
        "bytes per record": "of parts of a few records, whose file alone takes 9 kB; `archive status` tells a real one",
    }
    with tempfile.TemporaryDirectory(prefix="archive-") as folder, Hall(Path(folder)) as hall:
        told = track(list(enumerate(chosen)), "trials", console=Console(stderr=True), transient=True)
        for number, (name, trial, is_bucket) in told:
            scene = hall.scene(is_bucket=is_bucket, seed=number % _SEEDS, count=120 if quick else _RECORDS)
            problem = _played(scene, trial, random.Random(number), figures, sums)  # noqa: S311 - of a trial
            figures["trials"] += 1
            figures["on S3" if is_bucket else "on a folder"] += 1
            figures["kills"] += scene.kills
            if problem:
                figures["failed"] += 1
                conditions.setdefault(f"{name} ({number})", problem)
            if number == len(chosen) - 1:
                figures["control: planted losses found"] = _planted(scene)
            hall.clear(scene)
        if not quick and not only:
            figures.update(kafka_trials(Path(folder), _ON_KAFKA, sums, conditions))
    found: dict[str, float] = {**figures, **_of_records(sums), "seconds": round(time.monotonic() - began_s, 1)}
    return result_of("archive", found, conditions, passed=_is_passed(found, is_whole=not quick and not only))


def _played(scene: Scene, trial: play.Trial, rng: random.Random, figures: Counter[str], sums: Judged) -> str:
    """Play one trial and judge what is there; what is wrong with it in words, empty where nothing is."""
    try:
        own = trial(scene, rng)
        found = scene.judge() if "disk full: real file system" not in own else Judged()
    except (ObservatorError, TimeoutError, OSError) as error:  # told, and the others are played all the same
        return f"{type(error).__name__}: {error}"
    for name, value in own.items():
        figures[name] += int(value)
    add(sums, found)
    return (
        ""
        if found.is_exact
        else f"missing {found.missing}, twice {found.twice}, other {found.other}, {found.faults[:3]}"
    )


def add(sums: Judged, found: Judged) -> None:
    """Sum up what was judged."""
    sums.records += found.records
    sums.missing += found.missing
    sums.twice += found.twice
    sums.other += found.other
    sums.told_missing += found.told_missing
    sums.faults += found.faults
    sums.bytes += found.bytes
    sums.json_bytes += found.json_bytes
    sums.counts += found.counts


def _of_records(sums: Judged) -> dict[str, float]:
    told: dict[str, float] = {
        "records read back": sums.records,
        "records missing": sums.missing,
        "records twice": sums.twice,
        "records other than in the log": sums.other,
        "offsets that the log deleted, all named": sums.told_missing,
        "faults": len(sums.faults),
    }
    for topic, count in sorted(sums.counts.items()):
        told[f"{topic}: bytes per record, archive"] = round(sums.bytes[topic] / count, 1)
        told[f"{topic}: bytes per record, JSON"] = round(sums.json_bytes[topic] / count, 1)
    return told


def _planted(scene: Scene) -> int:
    """Take a part out, and change one: both must be seen."""
    parts = [name for name in scene.store.names() if Part.of_name(name)]
    data = scene.store.read(parts[0])
    scene.store.delete(parts[0])
    is_missed = scene.judge().missing > 0
    scene.store.write(parts[0], data[: len(data) // 2])
    return int(is_missed) + int(bool(scene.judge().faults))


def _is_passed(found: dict[str, float], *, is_whole: bool) -> bool:
    is_clean = not any(found[name] for name in ("records missing", "records twice", "records other than in the log"))
    is_clean = is_clean and not found["faults"] and not found.get("failed", 0)
    has_all = all(found.get(f"killed {point}", 0) for point in play.POINTS) if is_whole else True
    return bool(is_clean and has_all and found["control: planted losses found"] == 2 and found["records read back"])
