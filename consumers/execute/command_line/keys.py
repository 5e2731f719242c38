"""The verbs `keys ...`, `arm` and `disarm`: exchange keys and real money; `observator.py` mounts them."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consumers.execute.command_line.halts import end
from infra.command_line import Json, Language, Words, settings_of, show_table, to_people

if TYPE_CHECKING:
    from consumers.execute.keys_command import KeyVerbs

app = typer.Typer(help="The exchange keys: sealed here for the executor, which alone opens them.", no_args_is_help=True)

Account = Annotated[str, typer.Option(help="The trading account.")]
Pocket = Annotated[str, typer.Option(help="Its pocket at the exchange; without: by the account's settings.")]
KeySource = Annotated[
    str | None, typer.Option("--from", help="File with the key, `-` for the standard input; without: a prompt.")
]
PublicKey = Annotated[Path | None, typer.Option(help="The executor's public key, where it runs on another host.")]
Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait for the executor's answer.")]


@app.command("add")
def keys_add(
    context: typer.Context,
    account: Account,
    pocket: Pocket = "",
    key: Annotated[str, typer.Option(help="A name for the key; without: today's date.")] = "",
    source: KeySource = None,
    public_key: PublicKey = None,
    wait: Wait = 20,
    language: Language = "en",
    *,
    as_json: Json = False,
) -> None:
    """Seal a key for the executor and hand it over; it is asked for without echo, and never an argument."""
    verbs = _key_verbs(context, language, as_json=as_json)
    end(verbs.add(account, pocket, key, source, public_key, wait), is_json=as_json)


@app.command("rotate")
def keys_rotate(
    context: typer.Context,
    account: Account,
    pocket: Pocket = "",
    key: Annotated[str, typer.Option(help="A name for the new key; without: today's date.")] = "",
    source: KeySource = None,
    public_key: PublicKey = None,
    wait: Wait = 20,
    language: Language = "en",
    *,
    as_json: Json = False,
) -> None:
    """Put another key in the place of the one in use; the old one is used until the new one is checked."""
    verbs = _key_verbs(context, language, as_json=as_json)
    end(verbs.rotate(account, pocket, key, source, public_key, wait), is_json=as_json)


@app.command("check")
def keys_check(
    context: typer.Context,
    account: Account,
    pocket: Pocket = "",
    wait: Wait = 20,
    language: Language = "en",
    *,
    as_json: Json = False,
) -> None:
    """Have the executor ask the exchange what the key in use is good for; code 1 unless it is good."""
    verbs = _key_verbs(context, language, as_json=as_json)
    end(verbs.check(account, pocket, wait), is_json=as_json)


@app.command("remove")
def keys_remove(
    context: typer.Context,
    account: Account,
    key: Annotated[str, typer.Option(help="The key's name, as `keys list` shows it.")],
    pocket: Pocket = "",
    wait: Wait = 20,
    language: Language = "en",
    *,
    as_json: Json = False,
) -> None:
    """Have the executor erase a key."""
    verbs = _key_verbs(context, language, as_json=as_json)
    end(verbs.remove(account, pocket, key, wait), is_json=as_json)


@app.command("list")
def keys_list(
    context: typer.Context,
    account: Annotated[str, typer.Option(help="One account; without: all.")] = "",
    language: Language = "en",
    *,
    as_json: Json = False,
) -> None:
    """List the keys that ever came, masked, with state and expiry; on the executor's host."""
    rows = _key_verbs(context, language, as_json=as_json).list_keys(account)
    if rows or as_json:
        show_table("Keys", rows, is_json=as_json)
    else:
        typer.echo("No key was ever deposited.")


@app.command("reseal")
def keys_reseal(context: typer.Context, language: Language = "en", *, as_json: Json = False) -> None:
    """Make a new key pair for the executor and seal all keys for it; on the executor's host, as its user."""
    end(_key_verbs(context, language, as_json=as_json).reseal(), is_json=as_json)


def arm(context: typer.Context, account: Account, language: Language = "en", *, as_json: Json = False) -> None:
    """Arm an account for real money: one of the three things that it needs; asks for the account's name."""
    verbs = _key_verbs(context, language, as_json=as_json)
    end(verbs.arm(account, lambda words: _read_line(words, is_json=as_json)), is_json=as_json)


def disarm(context: typer.Context, account: Account, language: Language = "en", *, as_json: Json = False) -> None:
    """Take back that an account was armed."""
    end(_key_verbs(context, language, as_json=as_json).disarm(account), is_json=as_json)


def _key_verbs(context: typer.Context, language: Words, *, as_json: bool) -> "KeyVerbs":
    from consumers.execute.keys_command import KeyVerbs  # noqa: PLC0415 - help must answer at once

    return KeyVerbs(settings_of(context), to_people(is_json=as_json), language)


def _read_line(words: str, *, is_json: bool) -> str:
    typer.echo(words, err=is_json, nl=False)
    return sys.stdin.readline()
