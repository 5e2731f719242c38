"""Files of others into an archive: looked over first, then written. Called by the verb `import` and by checks.

It says what it did with every row, keeps memory constant, and leaves an archive behind that is whole or none. No path
of a machine enters the archive: files are told by name and hash.
"""

import heapq
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from infra.errors import BadSettings
from infra.manifest import as_fields, content_hash, make_manifest, project_version
from infra.settings import Settings
from infra.store import Store
from producers.imports.archive import Parts, Target
from producers.imports.files import open_file
from producers.imports.formats import Format
from producers.imports.session import PROCESS, Session, Timed
from producers.imports.survey import Group, Survey, Tell, groups_of, survey_of
from producers.upbit.source import Output
from streams.messages import RunManifest, encode

_TELL_EVERY = 5_000


def import_files(
    paths: Sequence[Path],
    store: Store,
    settings: Settings,
    *,
    wanted: Format | None = None,
    market: str = "",
    tell: Tell = lambda _what, _done, _total: None,
) -> dict[str, Any]:
    """Import `paths` as one archive; returns what was done. Raises `BadSettings` with file and row, and the store's."""
    surveys = [survey_of(open_file(path, wanted, market), tell) for path in paths]
    groups = groups_of(surveys)
    if not groups:
        raise BadSettings("no file to import")
    run = run_of(surveys, groups, settings)
    target = Target(store, run)
    if target.is_done:
        return {"archive": store.url, "run": run, "imported": "before: nothing was done", "files": _told(surveys)}
    counts: Counter[str] = Counter()
    parts = Parts(store, run)
    for timed in timed_records(groups, surveys, settings, counts, tell):
        parts.take(timed)
    parts.close()
    target.finish(parts.written)
    return {
        "archive": store.url,
        "run": run,
        "imported": "resumed" if target.is_resumed else "now",
        "files": _told(surveys),
        "sessions": [_session_of(group) for group in groups],
        "first_ms": parts.first_ms,
        "last_ms": parts.last_ms,
        "records": parts.records,
        "parts": len(parts.written),
        "bytes": parts.bytes,
        **dict(sorted(counts.items())),
    }


def run_of(surveys: Sequence[Survey], groups: Sequence[Group], settings: Settings) -> str:
    """The run's id, the same for the same files and settings: an import that is begun again finds its own."""
    return content_hash(
        {
            "files": sorted((survey.file.path.name, survey.sha256, survey.file.format) for survey in surveys),
            "markets": [group.markets for group in groups],
            "grid": settings.grid.model_dump(mode="json"),
            "version": project_version(),
        }
    )


def timed_records(
    groups: Sequence[Group], surveys: Sequence[Survey], settings: Settings, counts: Counter[str], tell: Tell
) -> Iterator[Timed]:
    """The manifest, then all records of all sessions in order of append time; counts when each session is through."""
    total = sum(survey.rows for survey in surveys)
    sessions = [Session(group, settings.grid.grid_ms, settings.grid.lateness_ms) for group in groups]
    merged = heapq.merge(*(session.records() for session in sessions), key=lambda timed: timed.append_ms)
    for number, timed in enumerate(merged):
        if number == 0:
            yield _manifest(groups, surveys, settings, timed.append_ms - 1)
        if number % _TELL_EVERY == 0:
            tell("writing", sum(session.counts["rows"] for session in sessions), total)
        yield timed
    for session in sessions:
        counts.update(session.counts)
    for survey in surveys:
        counts.update({f"skipped: {reason}": times for reason, times in survey.skipped.items() if times})


def _manifest(groups: Sequence[Group], surveys: Sequence[Survey], settings: Settings, append_ms: int) -> Timed:
    """What was imported, as the record that opens the run: just before the first one."""
    content = {
        "grid": settings.grid.model_dump(mode="json"),
        "import": {
            "files": {str(number): _file_of(survey) for number, survey in enumerate(surveys)},
            "sessions": {str(number): _session_of(group) for number, group in enumerate(groups)},
        },
    }
    manifest = make_manifest(
        PROCESS, content, started_ms=time.time_ns() // 1_000_000, root=Path(__file__).resolve().parents[2]
    )
    return Timed(append_ms, Output("manifests", 0, PROCESS, encode(RunManifest(**as_fields(manifest)))))


def _told(surveys: Sequence[Survey]) -> list[dict[str, Any]]:
    return [_file_of(survey) for survey in surveys]


def _file_of(survey: Survey) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": survey.file.path.name,
        "sha256": survey.sha256,
        "format": survey.file.format,
        "exchange": survey.file.exchange,
        "rows": survey.rows,
        "books": survey.books,
        "trades": survey.trades,
        "rows_whose_time_went_back": survey.went_back,
    }
    return found | {f"skipped {name}": times for name, times in sorted((survey.skipped + survey.dead).items())}


def _session_of(group: Group) -> dict[str, Any]:
    return {
        "exchange": group.exchange,
        "session": group.session,
        "markets": ", ".join(group.markets),
        "append_time": "receive time" if group.is_received else "event time: the files have no receive time",
        "topics": ", ".join(
            name for name, there in (("orderbooks", group.has_books), ("trades", group.has_trades)) if there
        ),
    }
