"""What `observator archive status` shows: per topic what is archived and what is not yet, and how the process fares.

It reads names and sizes, the log's ends and the process's own state file; it changes nothing.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from consumers.archive import days
from consumers.archive.opening import behind
from consumers.archive.process import STATE, wanted_topics
from consumers.archive.root import read_root
from infra.errors import ObservatorError
from infra.log import Log
from infra.settings import Settings
from infra.store import Store, local_store, open_store
from streams.archive_spans import Missing, spans_of
from streams.parts import DamagedPart, Part, read_footer

_SAMPLE = 20
"""So many of a topic's newest parts say how many bytes a record takes."""


def status(settings: Settings, log: Log | None) -> dict[str, Any]:
    """Everything, as one object; `log` is None where the broker does not answer."""
    local: Store = local_store(settings)
    target = settings.archive.target
    remote: Store | None = None
    there: dict[str, int] = {}
    trouble = ""
    if target and not target.startswith("s3://"):
        local = open_store(settings)
    elif target:
        try:
            remote = open_store(settings)
            there = remote.sizes()
        except ObservatorError as error:
            trouble = str(error)
    here = local.sizes()
    root = read_root(local)
    sizes = there | here
    closed = sorted({day for name in sizes if days.is_complete_name(name) and (day := days.day_of(name))})
    state = _state(settings.home)
    return {
        "target": target or local.url,
        "run": root.run if root else None,
        "is_running": state.pop("is_running"),
        "days_complete": closed,
        "day_open": next((day for name in sorted(sizes, reverse=True) if (day := days.day_of(name))), None),
        "files_here": len(here), "bytes_here": sum(here.values()),
        "files_in_bucket": len(there) if remote else None, "bytes_in_bucket": sum(there.values()) if remote else None,
        "bucket_trouble": trouble,
        "budget_gb": settings.archive.budget_gb or None,
        "missing": [str(one) for name in sizes if (one := Missing.of_name(name))],
        "process": state,
        "topics": _rows(settings, log, local, sizes),
    }  # fmt: skip


def _rows(settings: Settings, log: Log | None, local: Store, sizes: Mapping[str, int]) -> list[dict[str, Any]]:
    spans = spans_of(sizes)
    waiting = (
        behind(log, wanted_topics(settings.archive), {slot: found[-1][1] + 1 for slot, found in spans.items()})
        if log
        else {}
    )
    rows = []
    for topic in wanted_topics(settings.archive):
        found = {slot: spans[slot] for slot in spans if slot.topic == topic}
        names = [name for one in found.values() for *_, name in one if Part.of_name(name)]
        waits, seconds = waiting.get(topic, (None, None))
        rows.append({
            "topic": topic,
            "partitions": len(found),
            "offsets": sum(last - first + 1 for one in found.values() for first, last, name in one if name in names),
            "parts": len(names),
            "bytes": sum(sizes[name] for name in names),
            "bytes_per_record": _bytes_per_record(local, names, sizes),
            "behind_records": waits,
            "behind_seconds": seconds,
        })  # fmt: skip
    return rows


def _bytes_per_record(local: Store, names: list[str], sizes: Mapping[str, int]) -> float | None:
    """Over the newest parts that are on this machine; None where none is."""
    count = size = 0
    for name in sorted(names)[-_SAMPLE:]:
        with suppress(FileNotFoundError, DamagedPart), local.open(name) as file:
            count += read_footer(file, name).count
            size += sizes[name]
    return round(size / count, 1) if count else None


def _state(home: Path) -> dict[str, Any]:
    """What the process said last, and whether it is alive."""
    try:
        found: dict[str, Any] = json.loads((home / STATE).read_text())
    except (OSError, ValueError):
        return {"is_running": False}
    found["is_running"] = psutil.pid_exists(int(found.get("pid", 0))) and int(found.get("pid", 0)) != os.getpid()
    return found


def sentences(found: Mapping[str, Any]) -> list[str]:
    """The same for people, above the table of topics."""
    lines = [f"Archive: {found['target']}, run {found['run'] or 'none yet'}"]
    lines.append("The process runs." if found["is_running"] else "The process does not run: `observator up` starts it.")
    complete = found["days_complete"]
    lines.append(f"Days complete: {len(complete)}{f', the last one {complete[-1]}' if complete else ''}")
    lines.append(f"Here: {found['files_here']} files, {found['bytes_here'] / 1e9:.3f} GB")
    state = found["process"]
    if state.get("limit_bytes"):
        lines.append(f"It may take {state['limit_bytes'] / 1e9:.1f} GB on this machine.")
    if found["files_in_bucket"] is not None:
        waits = f"; {state.get('waiting_files', 0)} files wait" if found["is_running"] else ""
        lines.append(f"Bucket: {found['files_in_bucket']} files, {found['bytes_in_bucket'] / 1e9:.3f} GB{waits}")
    if found["bucket_trouble"]:
        lines.append(f"! What the bucket holds is not known: {found['bucket_trouble']}")
    lines += [f"Lost to the archive: {one}" for one in found["missing"]]
    lines += [f"The log's clock went back in {name}" for name in state.get("went_back", [])]
    lines += [f"! {text}" for text in state.get("troubles", {}).values()]
    return lines
