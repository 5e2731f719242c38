"""`observator verify parity --session` and `--day` as the command line calls it: opens the history, shows progress.

The comparison itself stands in `session`.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from consumers.verify.session import Tell, day_ms, verify_session
from infra.errors import ObservatorError
from infra.settings import Settings
from streams.history import History, open_history, open_store_history


def verify_recorded(settings: Settings, where: str, day: str | None) -> dict[str, object]:
    """Compare what stands in the log or in an archive with its replay; `day` is a KST day, None all of it."""
    if day is not None:
        day_ms(day)  # no broker is started for what is no day
    with open_history(settings, where, _say) as history, progress_bar() as tell:
        return verify_session(history, settings, where, day, archive=_archive(settings, where), tell=tell)


def _archive(settings: Settings, where: str) -> History | None:
    """The archive beside a log, where there is one."""
    if where != "log" or not settings.archive.is_on:
        return None
    try:
        return open_store_history(settings, "archive")
    except ObservatorError:
        return None


def _say(text: str) -> None:
    print(text, file=sys.stderr)


@contextmanager
def progress_bar() -> Iterator[Tell]:
    """Shows on stderr how far a comparison is; nothing where that is no terminal."""
    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as shown:
        tasks: dict[str, int] = {}
        yield _teller(shown, tasks)


def _teller(shown: Progress, tasks: dict[str, int]) -> Callable[[str, int, int], None]:
    def tell(what: str, done: int, of: int) -> None:
        if what not in tasks:
            tasks[what] = shown.add_task(what, total=of)
        shown.update(shown.tasks[tasks[what]].id, completed=done, total=of)

    return tell
