"""`observator report`: a day against its replay, as a table, as JSON and as a page.

Mounted by `observator.py`. What it needs is imported when it runs.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.command_line import Json, settings_of, show_table, to_people


def report(
    context: typer.Context,
    day: Annotated[str | None, typer.Option(help="Day in Korea, 2026-11-20; without: yesterday.")] = None,
    source: Annotated[
        str, typer.Option("--from", help="`log`, `archive`, the folder of an archive, or s3://bucket/folder.")
    ] = "log",
    html: Annotated[Path | None, typer.Option(help="Write the page into this file, Korean and English.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Hold a day's trades against what its replay says, with the difference in money split into its causes."""
    from consumers.report import orders  # noqa: PLC0415 - help must answer at once
    from consumers.report.page import page  # noqa: PLC0415 - same
    from consumers.verify.session import day_before, day_ms  # noqa: PLC0415 - same
    from consumers.verify.session_source import kept_in  # noqa: PLC0415 - same
    from infra.memory_log import wall_ms  # noqa: PLC0415 - same
    from streams.history import open_history  # noqa: PLC0415 - same

    settings = settings_of(context)
    chosen = day or day_before(wall_ms())
    day_ms(chosen)  # no broker is started for what is no day
    tell = to_people(is_json=True)
    tell(f"Reading and replaying {chosen} ...")
    with open_history(settings, source, tell) as history:
        found = orders.report(history, settings, chosen)
    keep(kept_in(settings.home, "report", chosen, found["source"]), text_of(found))
    if html is not None:
        keep(html, page(found))
        tell(f"The page stands in {html}.")
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        show(found)
    if found["verdict"] == "no" or found["problems"]:
        raise typer.Exit(1)


def text_of(found: Mapping[str, Any]) -> str:
    """The report as it is kept."""
    return json.dumps(found, ensure_ascii=False, indent=1) + "\n"


def keep(file: Path, text: str) -> None:
    """Write a file whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(file.name + ".new")
    with fresh.open("w", encoding="utf-8") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    fresh.replace(file)


def show(found: Mapping[str, Any]) -> None:
    """For people at a terminal."""
    typer.echo(f"Live equals replay: {found['verdict']}. {found['reason']}".strip())
    typer.echo(f"Read from: {found['source']}")
    for quote, amount in found["money"].items():
        typer.echo(f"Money of the day: {amount} {quote}")
    if found["difference"]:
        show_table(f"Difference from the replay, {found['day']}", found["difference"], is_json=False)
        show_table("By account, strategy and market", found["by_ledger"], is_json=False)
    for row in found["clock"]:
        typer.echo(f"A clock is wrong: {row['records']} records {row['kind']}, the first is {row['first']}.")
    for text in found["problems"]:
        typer.echo(f"Could not be read: {text}")
