"""The verb `import`; `observator.py` mounts it. Only translates: the work is done by `producers.imports.importing`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.command_line import Json, settings_of, show_object, show_table
from producers.imports.formats import Format

if TYPE_CHECKING:
    from infra.terminal import Phases

_SHOWN = ("name", "format", "rows", "books", "trades")


def import_(
    context: typer.Context,
    source: Annotated[list[Path], typer.Argument(help="Files; books and trades of the same time together.")],
    to: Annotated[str, typer.Option(help="Empty folder for the archive, or s3://bucket/folder.")],
    format_: Annotated[
        Format | None, typer.Option("--format", help="What the files are; without: found from their content.")
    ] = None,
    market: Annotated[str, typer.Option(help="Market of files that do not tell it, as ETHUSDT.")] = "",
    *,
    as_json: Json = False,
) -> None:
    """Read market data of elsewhere into an archive of its own: recordings, Parquet, CSV."""
    from infra.store import store_at  # noqa: PLC0415 - help must answer at once
    from infra.terminal import Screen  # noqa: PLC0415 - same
    from producers.imports.importing import import_files  # noqa: PLC0415 - same

    settings = settings_of(context)
    store = store_at(to, settings)
    with Screen(sys.stderr).phases() as phases:
        tell = _Told(phases)
        found = import_files(source, store, settings, wanted=format_, market=market, tell=tell)
        phases.finish()
    if as_json:
        show_object(found, is_json=True)
        return
    show_table("Files", [{name: one[name] for name in _SHOWN} for one in found.pop("files")], is_json=False)
    if "sessions" in found:
        show_table("Sessions", found.pop("sessions"), is_json=False)
    show_object(found, is_json=False)


class _Told:
    """Progress as phases of a screen."""

    def __init__(self, phases: "Phases") -> None:
        self._phases = phases
        self._what = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Say how far it is."""
        if what != self._what:
            self._what = what
            self._phases.begin(f"{what[:1].upper()}{what[1:]}")
        self._phases.progress(done, total, f"{done:,} rows")
