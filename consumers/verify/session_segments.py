"""Cuts a recorded session into segments, one per `RunManifest`, and says which can be compared with what runs now.

Called by `session`. Reads manifests, runs nothing. A segment reaches from one manifest of a process to its next one.
"""

import subprocess
import time
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec

from consumers.predict import manifest_of as predict_manifest
from consumers.trade.start import manifest_of as trade_manifest
from infra.log import Record
from infra.settings import Settings
from models.strategies.folder import load
from streams import topics
from streams.messages import RunManifest
from streams.process import manifest_of

ROOT = Path(__file__).resolve().parents[2]
END_MS = 2**62
NO_MANIFEST = "no manifest says what it was recorded with"
_CODE = ("streams", "consumers", "models", "infra", "observator.py", "requirements")
"""What decides about features, signals and decisions; a change of a page or of the docs is no upgrade."""
_COMPARED: dict[str, tuple[str, ...]] = {
    "streams": ("version", "lock_hash", "kernel_hash", "python"),
    "predict": ("version", "lock_hash", "kernel_hash", "python", "backend", "cpu"),
    "trade": ("version", "lock_hash", "python", "backend"),
}
"""Per process what must be equal beside the code: signals alone are bound to a class of processor."""
_SETTINGS: dict[str, tuple[str, ...]] = {
    "streams": ("grid.grid_ms", "grid.window_bins"),
    "predict": ("serving", "predict.model", "predict.window_rows", "predict.windows_per_call", "feed.kind"),
    "trade": ("trade.workers", "feed.kind", "feed.speed", "feed.stale_seconds", "feed.warmup_seconds"),
}
"""The settings that a process's output depends on: where they change, it is computed with the new ones from there."""


class Segment(NamedTuple):
    """One process from a manifest to its next one, in append time; `reason` says why it cannot be compared."""

    process: str
    manifest: RunManifest
    offset: int
    from_ms: int
    to_ms: int
    reason: str

    @property
    def options(self) -> tuple[str, ...]:
        """The settings that its output depends on."""
        return tuple(self.manifest.settings.get(name, "") for name in _SETTINGS[self.process])

    @property
    def kind(self) -> tuple[str, tuple[str, ...]]:
        """Neighbours of one kind are computed again in one piece: a restart changes nothing."""
        return self.reason, self.options


def manifests_now(settings: Settings) -> dict[str, RunManifest]:
    """What the processes would run with if they were started now."""
    now_ms = time.time_ns() // 1_000_000
    return {
        "streams": manifest_of("streams", settings),
        "predict": predict_manifest(settings, ""),
        "trade": trade_manifest(settings, load(settings.trade.strategies_folder), now_ms),
    }


def segments_of(records: Iterable[Record], now: Mapping[str, RunManifest] | None) -> dict[str, list[Segment]]:
    """The segments of every process whose output is compared, in order; without `now` all can be compared."""
    opened: dict[str, list[tuple[Record, RunManifest]]] = {process: [] for process in _COMPARED}
    for record in records:
        try:
            manifest: RunManifest = topics.decode("manifests", record.value)
        except msgspec.DecodeError:
            continue
        if manifest.process in opened:
            opened[manifest.process].append((record, manifest))
    found: dict[str, list[Segment]] = {}
    for process, all_of_it in opened.items():
        ends = [*(record.append_ms for record, _ in all_of_it[1:]), END_MS][: len(all_of_it)]
        found[process] = [
            Segment(process, manifest, record.offset, record.append_ms, end_ms, _reason(manifest, now))
            for (record, manifest), end_ms in zip(all_of_it, ends, strict=True)
        ]
    return found


def segment_at(segments: Sequence[Segment], append_ms: int) -> Segment | None:
    """The one in force when a record was appended."""
    place = bisect_right(segments, append_ms, key=lambda one: one.from_ms) - 1
    return segments[place] if place >= 0 else None


class Stretch(NamedTuple):
    """An interval of append time within which nothing that matters changes, for some processes at once."""

    from_ms: int
    to_ms: int
    segments: dict[str, Segment | None]

    def reason(self, *processes: str) -> str:
        """Why what these processes wrote in it cannot be compared; empty where it can."""
        for process in processes:
            segment = self.segments[process]
            if segment is None:
                return f"{process}: {NO_MANIFEST}"
            if segment.reason:
                return f"{process}: {segment.reason}"
        return ""


def stretches(segments: Mapping[str, Sequence[Segment]], processes: Sequence[str]) -> list[Stretch]:
    """The whole of time as stretches; restarts and settings without meaning here do not end one."""
    cuts = sorted({one.from_ms for process in processes for one in segments[process]})
    found: list[Stretch] = []
    for from_ms, to_ms in zip([0, *cuts], [*cuts, END_MS], strict=True):
        held = {process: segment_at(segments[process], from_ms) for process in processes}
        if found and all(_kind(found[-1].segments[one]) == _kind(held[one]) for one in processes):
            found[-1] = found[-1]._replace(to_ms=to_ms)
        else:
            found.append(Stretch(from_ms, to_ms, held))
    return found


def _kind(segment: Segment | None) -> tuple[str, tuple[str, ...]] | None:
    return None if segment is None else segment.kind


def _reason(then: RunManifest, now: Mapping[str, RunManifest] | None) -> str:
    """What was changed since; empty where the same code would run on the same class of machine."""
    if now is None:
        return ""
    today = now[then.process]
    for name in _COMPARED[then.process]:
        before, after = getattr(then, name), getattr(today, name)
        if before != after:
            return f"{name} was {before or 'unknown'}, now it is {after or 'unknown'}"
    if then.git_sha != today.git_sha and _is_other_code(then.git_sha, today.git_sha):
        return f"git_sha was {then.git_sha or 'unknown'}, now it is {today.git_sha or 'unknown'}"
    digest = "strategies.digest"
    if then.settings.get(digest, "") != today.settings.get(digest, ""):
        return f"{digest} was {then.settings.get(digest)}, now it is {today.settings.get(digest)}"
    return ""


@cache
def _is_other_code(then: str, now: str) -> bool:
    """Whether two commits differ in what decides; uncommitted changes cannot be told apart and count as other code."""
    if not then or not now or then.endswith("+") or now.endswith("+"):
        return True
    try:
        done = subprocess.run(  # noqa: S603 - commits from manifests are passed as they are, without a shell
            ["git", "-C", str(ROOT), "diff", "--quiet", then, now, "--", *_CODE],  # noqa: S607 - found on the path
            capture_output=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return True
    return done.returncode != 0
