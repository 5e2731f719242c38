"""What recorded records were read from, as text that tells one source from another, and the files named after it.

Called by `session` and by the daily report, so that what was found in one place is never said of another.
"""

import hashlib
import os
import re
from pathlib import Path

from streams.history import ArchiveHistory, History, LogHistory

LOG = "log"


def source_of(history: History) -> str:
    """`log` with its prefix, or an archive with its run and its place; no secret is in it."""
    if isinstance(history, ArchiveHistory):
        url = history.store.url
        place = url if "://" in url else os.path.realpath(url)
        return f"archive {place} of run {history.mark.run}"
    prefix = history.log.prefix if isinstance(history, LogHistory) else ""
    return f"{LOG} {prefix}*" if prefix else LOG


def kept_in(home: Path, kind: str, name: str, source: str) -> Path:
    """`reports/KIND-NAME.json` for the run's own log; of any other source the name tells which it is."""
    end = ""
    if not source.startswith(LOG):
        last = source.rpartition(" of run ")[0].rstrip("/").rpartition("/")[2]
        tail = re.sub(r"[^A-Za-z0-9._-]+", "-", last)[-40:]
        end = f"-from-{tail}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"
    return home / "reports" / f"{kind}-{name}{end}.json"
