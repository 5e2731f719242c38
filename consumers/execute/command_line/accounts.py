"""The verbs `account ...`: what an account may do, and how it stands; `observator.py` mounts them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from infra.command_line import Json, Language, Words, Yes, settings_of, show_object, show_table, to_people

if TYPE_CHECKING:
    from consumers.execute.account_verbs import AccountVerbs
    from consumers.execute.account_verbs import Draft as AccountDraft

app = typer.Typer(help="The trading accounts.", no_args_is_help=True)


@app.command("list")
def account_list(context: typer.Context, language: Language = "en", *, as_json: Json = False) -> None:
    """List the accounts, with why one is paused."""
    from consumers.execute.interference_verbs import accounts, row_of  # noqa: PLC0415 - help must answer at once
    from infra.servers.broker import open_log  # noqa: PLC0415 - same

    with open_log(settings_of(context)) as log:
        rows = [row_of(account, language) for account in accounts(log).values()]
    if rows or as_json:
        show_table("Accounts", rows, is_json=as_json)
    else:
        typer.echo("There is no account yet.")


@app.command("resume")
def account_resume(
    context: typer.Context,
    account: Annotated[str, typer.Argument(help="The paused account.")],
    language: Language = "en",
    *,
    has_looked: Annotated[bool, typer.Option("--yes-i-looked", help="Instead of typing the account's name.")] = False,
    as_json: Json = False,
) -> None:
    """Let an account enter again that was paused because somebody else traded in it."""
    from consumers.execute.halts_verbs import asker  # noqa: PLC0415 - help must answer at once
    from consumers.execute.interference_verbs import done_words  # noqa: PLC0415 - same
    from consumers.execute.interference_verbs import resume as resume_account  # noqa: PLC0415 - same
    from infra.servers.broker import open_log  # noqa: PLC0415 - same

    with open_log(settings_of(context)) as log:
        done = resume_account(log, account, has_looked=has_looked, ask=asker(), language=language)
    show_object(done, is_json=True) if as_json else typer.echo(done_words(account, language))


@app.command("show")
def account_show(
    context: typer.Context,
    account: Annotated[str, typer.Argument(help="The account.")],
    language: Language = "en",
    *,
    as_json: Json = False,
) -> None:
    """Print an account's settings and how it stands."""
    with _account_verbs(context, account, language) as verbs:
        show_object(verbs.show(), is_json=as_json)


@app.command("set")
def account_set(
    context: typer.Context,
    account: Annotated[str, typer.Argument(help="The account.")],
    budget: Annotated[str | None, typer.Option(help="Quote currency (won) given to the bot.")] = None,
    entry: Annotated[str | None, typer.Option(help="Quote currency per entry.")] = None,
    threshold: Annotated[str | None, typer.Option(help="Per cent wanted beyond the whole cost.")] = None,
    stop: Annotated[str | None, typer.Option(help="Stop loss, per cent.")] = None,
    pairs: Annotated[
        list[str] | None, typer.Option("--set", help="Any field, as limits.daily_loss=50000; `none`: no such limit.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="JSON or TOML with the fields.")] = None,
    language: Language = "en",
    *,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Change an account's settings; shows what changes and asks before it does."""
    from consumers.execute.account_verbs import read_wanted  # noqa: PLC0415 - help must answer at once
    from models.strategies.folder import load  # noqa: PLC0415 - same

    options = {"budget": budget, "entry_funds": entry, "threshold_percent": threshold, "stop_percent": stop}
    wanted = read_wanted(file, options, pairs or [])
    kinds = load(settings_of(context).trade.strategies_folder).kinds
    with _account_verbs(context, account, language) as verbs:
        _write_account(verbs, verbs.draft_settings(wanted, kinds), "set", yes=yes, is_json=as_json)


@app.command("add")
def account_add(
    context: typer.Context,
    account: Annotated[str, typer.Argument(help="A name for the account.")],
    pocket: Annotated[str, typer.Option(help="Its pocket at the exchange.")],
    pairs: Annotated[
        list[str] | None, typer.Option("--set", help="Any field, as budget=500000; without: as the settings say.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="JSON or TOML with the fields.")] = None,
    language: Language = "en",
    *,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Make another paper account; it does not trade until it is told to."""
    from consumers.execute.account_verbs import read_wanted  # noqa: PLC0415 - help must answer at once
    from models.strategies.folder import load  # noqa: PLC0415 - same

    wanted, settings = read_wanted(file, {}, pairs or []), settings_of(context)
    kinds = load(settings.trade.strategies_folder).kinds
    with _account_verbs(context, account, language) as verbs:
        draft = verbs.draft_new(pocket, wanted, kinds, settings.paper)
        _write_account(verbs, draft, "add", yes=yes, is_json=as_json)


@app.command("accept-ledger")
def account_accept_ledger(
    context: typer.Context,
    account: Annotated[
        str, typer.Argument(help="An account that was stopped for its ledger, or holds less than its books say.")
    ],
    holdings: Annotated[
        list[str] | None, typer.Option("--holding", help="What it holds, as KRW-BTC=0.5; without: as in our books.")
    ] = None,
    language: Language = "en",
    *,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Say what an account holds, after its ledger was in doubt; it may enter again then."""
    with _account_verbs(context, account, language) as verbs:
        _write_account(verbs, verbs.draft_ledger(holdings or []), "accept", yes=yes, is_json=as_json)


@contextmanager
def _account_verbs(context: typer.Context, account: str, language: Words) -> Iterator["AccountVerbs"]:
    from consumers.execute.account_verbs import AccountVerbs  # noqa: PLC0415 - help must answer at once
    from infra.servers.broker import open_log  # noqa: PLC0415 - same

    with open_log(settings_of(context)) as log:
        yield AccountVerbs(log, account, language)


def _write_account(
    verbs: "AccountVerbs", draft: "AccountDraft", act: Literal["add", "set", "accept"], *, yes: bool, is_json: bool
) -> None:
    """Show what will be written, ask, write."""
    tell = to_people(is_json=is_json)
    for line in draft.lines or [verbs.say("nothing")]:
        tell(line)
    is_wanted = bool(draft.lines) and (yes or typer.confirm(verbs.say(f"ask-{act}"), err=is_json))
    if is_wanted:
        verbs.write(draft)
        tell(verbs.say({"add": "added", "set": "set", "accept": "accepted"}[act]))
    elif draft.lines:
        tell(verbs.say("unwritten"))
    if is_json:
        show_object({**draft.figures, "is_written": is_wanted}, is_json=True)
    if draft.lines and not is_wanted:
        raise typer.Exit(1)
