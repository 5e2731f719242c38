"""What the verbs of all rooms share: their common options, the settings in force, and how a result is printed.

Used by `observator.py` and the rooms' own verbs. What it needs is imported when a verb runs, so that help answers at
once.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from infra.settings import Settings

Words = Literal["en", "ko"]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Language = Annotated[Words, typer.Option(help="Language of the words.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Send without asking.")]


def settings_of(context: typer.Context, overrides: Mapping[str, Any] | None = None) -> "Settings":
    """The settings by the file and run folder that the command line names."""
    from infra.configuration import load  # noqa: PLC0415 - help must answer at once

    given = dict(overrides or {})
    if context.obj["home"] is not None:
        given.setdefault("home", context.obj["home"])
    return load(context.obj["file"], given)


def to_people(*, is_json: bool) -> Callable[[str], None]:
    """Where sentences go: beside the one object of `--json`, not into it."""
    return lambda text: typer.echo(text, err=is_json)


def show_object(found: dict[str, Any], *, is_json: bool) -> None:
    """Print one object: as JSON, or a line for each name."""
    if is_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    for name, value in found.items():
        typer.echo(f"{name} = {', '.join(value) if isinstance(value, list) else value}")


def show_table(title: str, rows: Sequence[dict[str, Any]], *, is_json: bool) -> None:
    """Print rows: as JSON, or a table."""
    from infra.terminal import Screen, Section  # noqa: PLC0415 - help must answer at once

    if is_json:
        typer.echo(json.dumps(list(rows), ensure_ascii=False))
        return
    cells = [["" if value is None else str(value) for value in row.values()] for row in rows]
    Screen().show([Section(title, cells, [name.replace("_", " ") for name in rows[0]] if rows else ())])


def time_ms(text: str | None) -> int | None:
    """A time in ms from ISO 8601 (with its zone, else local time) or digits."""
    if text is None:
        return None
    if text.isdigit():
        return int(text)
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither ISO 8601 nor milliseconds") from None
