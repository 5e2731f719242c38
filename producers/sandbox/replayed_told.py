"""`observator replay fills`: paper fills made again, held against the sandbox's journal and the fills told in the log.

Mounted by `observator.py` beside the other verbs of replays. What it needs is imported when it runs.
"""

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from infra.command_line import Json, settings_of, show_object, to_people
from infra.errors import BadSettings, Stop

if TYPE_CHECKING:
    from infra.settings import Settings
    from producers.sandbox.replayed import Replayed
    from streams.history import History


class Told(NamedTuple):
    """Fills of the log (`OrderFilled`) held against those made again."""

    compared: int
    differing: int
    first: str
    """The first that differs, with both sides; empty for none."""


def hold_against_events(history: "History", found: "Replayed") -> Told:
    """Compare price, quantity and funds of every fill that trade was told, and the fees of its order, with those made
    again; the exchange tells fees per order alone. An order told in part only is a difference of its fees.

    A fill of the log that the journal does not know was somebody else's (another exchange, another run folder) and is
    not counted.
    """
    from streams import topics  # noqa: PLC0415 - help must answer at once
    from streams.history import merged  # noqa: PLC0415 - same
    from streams.messages import OrderFilled  # noqa: PLC0415 - same

    compared, differing, first = 0, 0, ""
    fees: dict[str, tuple[Decimal, Decimal]] = {}
    for record in merged(history, history.spans(["order-events"])):
        if b'"order-filled"' not in record.value:
            continue
        event = topics.decode("order-events", record.value)
        if not isinstance(event, OrderFilled) or event.fill_id not in found.by_uuid:
            continue
        fill = found.by_uuid[event.fill_id]
        made = (_e8(fill.price_e8), _e8(fill.lots), _money(fill.funds))
        compared += 1
        before = fees.get(event.uuid, (Decimal(0), Decimal(0)))
        fees[event.uuid] = (before[0] + event.fee, before[1] + _money(fill.fee))
        if made != (event.price, event.quantity, event.funds):
            differing += 1
            place = f"order-events/{record.partition} offset {record.offset}"
            told = _text((event.price, event.quantity, event.funds))
            first = first or f"{place}: fill {event.fill_id} was told as {told}, made again {_text(made)}"
    for order, (paid, made_again) in fees.items():
        if paid != made_again:
            differing += 1
            first = first or f"order {order}: fees of {paid} were told, {made_again} made again"
    return Told(compared, differing, first)


def _e8(value: int) -> Decimal:
    return Decimal(value).scaleb(-8)


def _money(atoms: int) -> Decimal:
    from streams.market.ledger import ATOM_DIGITS  # noqa: PLC0415 - help must answer at once

    return Decimal(atoms).scaleb(-ATOM_DIGITS)


def _text(values: tuple[Decimal, ...]) -> str:
    names = ("price", "quantity", "funds")
    return ", ".join(f"{name} {value.normalize():f}" for name, value in zip(names, values, strict=True))


def journal_of(settings: "Settings", given: Path | None) -> Path:
    """The journal to replay; raises `BadSettings` where there is none."""
    path = given or settings.home / "db" / "sandbox.journal"
    if not path.is_file():
        raise BadSettings(f"There is no sandbox's journal {path}: name it with --journal, or its run folder.")
    return path


def fills(
    context: typer.Context,
    source: Annotated[
        str, typer.Option("--from", help="`log`, `archive`, the folder of an archive, or s3://bucket/folder.")
    ] = "log",
    journal: Annotated[Path | None, typer.Option(help="The sandbox's journal; default: the run folder's.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Make the paper fills of a followed market again and compare; exit code 1 unless all are equal."""
    from producers.sandbox.replayed import read_groups, replay_fills  # noqa: PLC0415 - help must answer at once
    from streams.history import open_history  # noqa: PLC0415 - same

    settings = settings_of(context)
    path = journal_of(settings, journal)
    with open_history(settings, source, to_people(is_json=True)) as history:
        found = replay_fills(history, read_groups(path), settings.kafka.prefix)
        told = hold_against_events(history, found)
    first = "" if found.first is None else str(found.first._asdict())
    show_object(
        {
            "fills": found.fills, "equal": found.equal, "differing": found.differing, "makers": found.makers,
            "orders": found.orders, "records": found.records, "told": told.compared, "told_differing": told.differing,
            "first": first or told.first,
        },
        is_json=as_json,
    )  # fmt: skip
    if not found.is_equal or told.differing:
        raise Stop("Not every paper fill was reproduced: the first difference stands above.")
