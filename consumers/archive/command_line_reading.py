"""The verbs `observator archive holes` and `archive export`, and `read --from`; heavy imports stay inside the verbs."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.command_line import Json, Language, settings_of, show_object, show_table, to_people
from infra.errors import BadSettings, Stop

if TYPE_CHECKING:
    from consumers.archive.frames import Wanted
    from consumers.archive.holes import Ledger
    from infra.settings import Settings

From = Annotated[str, typer.Option("--from", help="`archive`, `log`, the folder of an archive, or s3://bucket/folder.")]
Day = Annotated[str | None, typer.Option(help="One KST day (of append time), 2026-11-21; without: everything.")]
Markets = Annotated[list[str] | None, typer.Option("--market", help="Market, as KRW-BTC; may stand several times.")]


def holes(
    context: typer.Context,
    day: Day = None,
    source: From = "archive",
    picture: Annotated[
        Path | None, typer.Option(help="Write the timeline of every market into this HTML file.")
    ] = None,
    stale_seconds: Annotated[
        float | None, typer.Option(min=0.1, help="From how long without a book on a market counts as stale.")
    ] = None,
    language: Language = "en",
    *,
    as_json: Json = False,
) -> None:
    """Show every hole, late share and stale stretch of the market data, per market and day."""
    from consumers.archive import holes as found_holes  # noqa: PLC0415 - help must answer at once
    from consumers.archive.holes_page import page  # noqa: PLC0415 - same
    from streams.history import open_history  # noqa: PLC0415 - same

    settings = settings_of(context)
    stale_ms = int(1000 * (stale_seconds or settings.feed.stale_seconds))
    with open_history(settings, source, to_people(is_json=True)) as history, _bar("Reading") as progress:
        ledger = found_holes.ledger(
            history, *_between(day), stale_ms=stale_ms, grid_ms=settings.grid.grid_ms, progress=progress
        )
    if not ledger.days:
        raise Stop(f"{source} holds no market data{f' of {day}' if day else ''}: nothing is known of what is missing.")
    if picture is not None:
        picture.write_text(page(ledger, language), encoding="utf-8")
    if as_json:
        show_object(_plain(ledger), is_json=True)
        return
    _show(ledger, language)
    if picture is not None:
        typer.echo(f"The picture stands in {picture}.")


def export(
    context: typer.Context,
    topic: Annotated[str, typer.Option(help="Topic, as trades.")],
    to: Annotated[Path, typer.Option(help="File; it appears when it is whole.")],
    day: Day = None,
    market: Markets = None,
    column: Annotated[list[str] | None, typer.Option(help="Column; may stand several times. Default: all.")] = None,
    source: From = "archive",
    *,
    csv: Annotated[bool, typer.Option("--csv", help="As CSV; there is no other form yet.")] = True,
    as_json: Json = False,
) -> None:
    """Write a topic's rows into a CSV file, each with its mark: whether it lies in a hole of its market."""
    from consumers.archive.export import export_csv  # noqa: PLC0415 - help must answer at once
    from consumers.archive.frames import Wanted  # noqa: PLC0415 - same
    from streams.history import open_history  # noqa: PLC0415 - same

    del csv
    settings = settings_of(context)
    wanted = Wanted(topic, *_between(day), tuple(market or ()), tuple(column or ()))
    with open_history(settings, source, to_people(is_json=True)) as history, _bar("Writing") as progress:
        rows = export_csv(history, wanted, to, progress)
    show_object({"file": str(to), "rows": rows}, is_json=as_json)


def is_place(text: str) -> bool:
    """Whether the value of `read --from` names a history, and no time."""
    return text in {"log", "archive"} or text.startswith("s3://") or "/" in text or Path(text).is_dir()


def read_rows(
    settings: "Settings", source: str, wanted: "Wanted", limit: int | None, parquet: Path | None
) -> Iterator[str]:
    """Rows of a history as JSON lines with their marks; with `parquet` they go into that file, and one line says so."""
    from consumers.archive.frames import batches  # noqa: PLC0415 - help must answer at once
    from streams.history import open_history  # noqa: PLC0415 - same

    left = limit
    with open_history(settings, source, to_people(is_json=True)) as history, _parquet(parquet) as writer:
        for batch in batches(history, wanted):
            taken = batch if left is None else batch.slice(0, left)
            if parquet is not None:
                writer(taken)
            else:
                yield from map(_json_line, taken.to_pylist())
            if left is not None:
                left -= len(taken)
                if left == 0:
                    break
    if parquet is not None:
        yield f"Written into {parquet}."


@contextmanager
def _parquet(file: Path | None) -> Iterator[Callable[[Any], None]]:
    """Where pieces go; the file gets its name when all of them are in it."""
    if file is None:
        yield lambda _: None
        return
    import pyarrow.parquet as pq  # noqa: PLC0415 - help must answer at once

    aside = file.with_name(f".{file.name}.unfinished")
    opened: list[Any] = []

    def write(batch: Any) -> None:
        if not opened:
            opened.append(pq.ParquetWriter(aside, batch.schema, compression="zstd"))
        opened[0].write_batch(batch)

    try:
        yield write
        if not opened:
            raise BadSettings("There are no such rows: nothing was written.")
        opened.pop().close()
        aside.replace(file)
    finally:
        for writer in opened:
            writer.close()
        aside.unlink(missing_ok=True)


def _json_line(row: dict[str, Any]) -> str:
    return json.dumps({name: value for name, value in row.items() if value is not None}, ensure_ascii=False)


def _between(day: str | None) -> tuple[int | None, int | None]:
    from consumers.archive.frames import day_ms  # noqa: PLC0415 - help must answer at once

    return (None, None) if day is None else day_ms(day)


def _plain(ledger: "Ledger") -> dict[str, Any]:
    import msgspec  # noqa: PLC0415 - help must answer at once

    return dict(msgspec.to_builtins(ledger))


def _show(ledger: "Ledger", language: str) -> None:
    from consumers.archive.holes_page import WORDS, clock  # noqa: PLC0415 - help must answer at once

    words = WORDS[language]
    found = _plain(ledger)
    show_table(words["title"], [{words.get(k, k): v for k, v in row.items()} for row in found["days"]], is_json=False)
    rows = [
        {
            words["day"]: one.day,
            words["market"]: one.market,
            "": words[one.kind],
            words["time"]: f"{clock(one.from_ms)} - {clock(one.to_ms)}",
            "s": (one.to_ms - one.from_ms) / 1000,
            "why": one.reason,
            "record": f"{one.topic}-{one.partition} {one.offset}" if one.offset >= 0 else one.topic,
        }
        for one in ledger.stretches
    ]
    if rows:
        show_table("", rows, is_json=False)
    else:
        typer.echo(words["none"])


@contextmanager
def _bar(what: str) -> Iterator[Callable[[float], None]]:
    """A bar on stderr where that is a terminal."""
    from rich.console import Console  # noqa: PLC0415 - help must answer at once
    from rich.progress import Progress  # noqa: PLC0415 - same

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(what, total=1.0)
        yield lambda share: progress.update(task, completed=share)
