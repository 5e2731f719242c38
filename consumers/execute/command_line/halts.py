"""The verbs `halt` and `resume`, and how a verb of this room ends; `observator.py` mounts them."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from infra.command_line import Json, Language, settings_of, show_object, to_people

if TYPE_CHECKING:
    from consumers.execute.halts_verbs import Outcome


def end(outcome: "Outcome", *, is_json: bool) -> None:
    """Print a verb's figures where they are asked for, and end with its exit code."""
    if is_json:
        show_object(outcome.figures, is_json=True)
    if outcome.code:
        raise typer.Exit(outcome.code)


def halt(
    context: typer.Context,
    account: Annotated[str, typer.Option(help="One account; without: all of them.")] = "*",
    kind: Annotated[
        Literal["no-new-orders", "sell-all"], typer.Option(help="Keep the stops, or cancel and sell everything.")
    ] = "no-new-orders",
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait until nothing is open any more.")] = 60,
    language: Language = "en",
    *,
    as_json: Json = False,
) -> None:
    """Stop new orders at once, with or without Kafka; code 3 if unsettled, 4 where no executor runs (it holds all the
    same).
    """
    from consumers.execute.halts_verbs import Verbs  # noqa: PLC0415 - help must answer at once

    end(Verbs(settings_of(context), to_people(is_json=as_json), language).halt(account, kind, timeout), is_json=as_json)


def resume(
    context: typer.Context,
    account: Annotated[str, typer.Option(help="One account; without: the halt of all.")] = "*",
    language: Language = "en",
    *,
    has_looked: Annotated[bool, typer.Option("--yes-i-looked", help="Instead of typing the account's name.")] = False,
    as_json: Json = False,
) -> None:
    """Lift a halt; asks for the account's name first, and says what is still open."""
    from consumers.execute.halts_verbs import Verbs, asker  # noqa: PLC0415 - help must answer at once

    verbs = Verbs(settings_of(context), to_people(is_json=as_json), language)
    end(verbs.resume(account, has_looked=has_looked, ask=asker()), is_json=as_json)
