"""The verbs `observator archive ...`; `observator.py` mounts them. Heavy imports stay inside the verbs."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consumers.archive import command_line_reading as reading
from infra.command_line import Json, settings_of, show_object, show_table, to_people

if TYPE_CHECKING:
    from consumers.archive.checking import Progress
    from infra.log import Log
    from infra.settings import Settings

app = typer.Typer(help="The archive: what the topics held, as Parquet files.", no_args_is_help=True)
for verb in (reading.holes, reading.export):
    app.command()(verb)


@app.command()
def status(context: typer.Context, *, as_json: Json = False) -> None:
    """Show per topic what is archived and what is not yet; with the broker down what is on the disk."""
    from consumers.archive import status as figures  # noqa: PLC0415 - help must answer at once

    settings = settings_of(context)
    with _log_if_there(settings) as log:
        found = figures.status(settings, log)
    if as_json:
        show_object(found, is_json=True)
        return
    for line in figures.sentences(found):
        typer.echo(line)
    show_table("Topics", found["topics"], is_json=False)


@app.command()
def verify(
    context: typer.Context,
    day: Annotated[str | None, typer.Option(help="One KST day, 2026-11-21; without: everything.")] = None,
    where: Annotated[str | None, typer.Option(help="A folder or `s3://...` instead of the settings' target.")] = None,
    *,
    all_: Annotated[bool, typer.Option("--all", help="Everything, which is the default.")] = False,
    local: Annotated[bool, typer.Option("--local", help="What is on this machine instead of the bucket.")] = False,
    against_log: Annotated[bool, typer.Option("--log", help="Hold it against the log, where that has it.")] = False,
    as_json: Json = False,
) -> None:
    """Read every part back: count, digest, gaps, overlaps, closed days; exit code 1 where anything is wrong."""
    from consumers.archive.checking import check, counted  # noqa: PLC0415 - help must answer at once
    from consumers.archive.process import wanted_topics  # noqa: PLC0415 - same
    from infra.servers.broker import kept_log  # noqa: PLC0415 - same
    from infra.store import local_store, open_store, store_at  # noqa: PLC0415 - same

    if all_ and day is not None:
        raise typer.BadParameter("--day and --all exclude each other")
    settings = settings_of(context)
    is_bucket = settings.archive.target.startswith("s3://")
    if where is not None:
        store = store_at(where, settings)
    else:
        store = local_store(settings) if local and is_bucket else open_store(settings)
    is_partial = local and is_bucket and where is None
    with _progress("Reading", is_quiet=as_json) as progress, ExitStack() as stack:
        log = stack.enter_context(kept_log(settings, to_people(is_json=True))) if against_log else None
        found = check(
            store, day=_day(day), log=log, topics=wanted_topics(settings.archive), is_partial=is_partial,
            progress=progress,
        )  # fmt: skip
    if as_json:
        show_object(
            {"archive": store.url, "passed": not found.faults, "verdict": found.verdict(), **asdict(found)},
            is_json=True,
        )
    else:
        for line in found.faults:
            typer.echo(f"FAULT {line}")
        for line in found.missing:
            typer.echo(f"lost to the archive, and said so by it: {line}")
        held = f", {found.held_against_the_log:,} of them the same in the log" if against_log else ""
        read = f"{counted(found.parts, 'part')}, {counted(found.records, 'record')}{held}"
        here = " (what is on this machine)" if is_partial else ""
        typer.echo(f"{store.url}{here}: {read}: {found.verdict()}.")
    if found.faults:
        raise typer.Exit(1)


@app.command()
def fetch(
    context: typer.Context,
    day: Annotated[list[str], typer.Option(help="A KST day, 2026-11-21; may stand several times.")],
    to: Annotated[Path, typer.Option(help="Folder; what it has of the days already is kept.")],
    *,
    as_json: Json = False,
) -> None:
    """Copy days of the archive into a folder, each part checked; begun again, it goes on."""
    from consumers.archive.fetch import fetch as copy  # noqa: PLC0415 - help must answer at once
    from infra.store import folder_at, open_store  # noqa: PLC0415 - same

    store = open_store(settings_of(context))
    with _progress("Fetching", is_quiet=as_json) as progress:
        found = copy(store, [_day(one) or one for one in day], folder_at(str(to)), progress)
    show_object({"from": store.url, "to": str(to), **found._asdict()}, is_json=as_json)
    if not found.is_complete:
        to_people(is_json=as_json)("Not every day of these is closed yet: fetch again for the rest.")


def _day(text: str | None) -> str | None:
    from datetime import date  # noqa: PLC0415 - help must answer at once

    try:
        return None if text is None else date.fromisoformat(text).isoformat()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no day: 2026-11-21") from None


@contextmanager
def _log_if_there(settings: "Settings") -> "Iterator[Log | None]":
    from infra.servers.broker import bootstrap_of, listens, open_log  # noqa: PLC0415 - help must answer at once

    if not listens(bootstrap_of(settings)):
        yield None
        return
    with open_log(settings) as log:
        yield log


@contextmanager
def _progress(what: str, *, is_quiet: bool) -> "Iterator[Progress]":
    """A bar on stderr where that is a terminal."""
    from rich.console import Console  # noqa: PLC0415 - help must answer at once
    from rich.progress import Progress as Bar  # noqa: PLC0415 - same

    console = Console(stderr=True)
    if is_quiet or not console.is_terminal:
        yield lambda _done, _of: None
        return
    with Bar(console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)
