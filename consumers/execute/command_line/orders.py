"""The verbs `order ...`: what people order by hand; `observator.py` mounts them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from infra.command_line import Json, Language, Words, Yes, settings_of, show_object, show_table

if TYPE_CHECKING:
    from consumers.execute.requests.verbs import Counter, Draft
    from streams.messages import RequestTold

app = typer.Typer(help="Orders by hand: at once, at a time, again and again, at a price.", no_args_is_help=True)

Ordering = Annotated[str, typer.Option("--account", help="Trading account; default: the paper account.")]
Funds = Annotated[str | None, typer.Option(help="Amount in quote currency (won).")]
Quantity = Annotated[str | None, typer.Option(help="Amount in base currency (coins).")]
Percent = Annotated[str | None, typer.Option(help="Per cent of what is available now.")]
Price = Annotated[
    str | None, typer.Option(help="Limit price, or `bid` or `ask` for the best one; without: at the market.")
]
At = Annotated[str | None, typer.Option(help='Not before, as "2026-11-22 09:00" (Korean time).')]
Every = Annotated[str | None, typer.Option(help="Again after this: 30m, 12h, 1d, 2w.")]
Times = Annotated[int | None, typer.Option(min=1, help="How often in all; without: until cancelled.")]
WhenBelow = Annotated[str | None, typer.Option(help="Once the other side's best price is at or below this.")]
WhenAbove = Annotated[str | None, typer.Option(help="Once the other side's best price is at or above this.")]
Until = Annotated[str | None, typer.Option(help="Not after, written like --at.")]
Assisted = Annotated[
    bool | None, typer.Option("--assisted/--at-once", help="Whether to wait for a better price; default: it may.")
]
Patience = Annotated[float | None, typer.Option(min=0, max=3600, help="Seconds it may wait; default 30.")]


@app.command("buy")
def order_buy(
    context: typer.Context,
    market: Annotated[str, typer.Argument(help="Market, as KRW-BTC.")],
    funds: Funds = None,
    quantity: Quantity = None,
    percent: Percent = None,
    price: Price = None,
    at: At = None,
    every: Every = None,
    times: Times = None,
    when_below: WhenBelow = None,
    when_above: WhenAbove = None,
    until: Until = None,
    patience: Patience = None,
    account: Ordering = "",
    language: Language = "en",
    *,
    assisted: Assisted = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Buy: shows fee, spread cost and what selling at once would give, asks, sends, and tells what became of it."""
    from consumers.execute.requests.form import Typed  # noqa: PLC0415 - help must answer at once

    typed = Typed(funds, quantity, price, percent, at, every, times, when_below, when_above, until, assisted, patience)
    _order(
        context,
        account,
        lambda counter: counter.draft("buy", market, typed),
        language,
        is_change=False,
        yes=yes,
        is_json=as_json,
    )


@app.command("sell")
def order_sell(
    context: typer.Context,
    market: Annotated[str, typer.Argument(help="Market, as KRW-BTC.")],
    funds: Funds = None,
    quantity: Quantity = None,
    percent: Percent = None,
    price: Price = None,
    at: At = None,
    every: Every = None,
    times: Times = None,
    when_below: WhenBelow = None,
    when_above: WhenAbove = None,
    until: Until = None,
    patience: Patience = None,
    account: Ordering = "",
    language: Language = "en",
    *,
    assisted: Assisted = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Sell: shows what it gives now, asks, sends, and tells what became of it."""
    from consumers.execute.requests.form import Typed  # noqa: PLC0415 - help must answer at once

    typed = Typed(funds, quantity, price, percent, at, every, times, when_below, when_above, until, assisted, patience)
    _order(
        context,
        account,
        lambda counter: counter.draft("sell", market, typed),
        language,
        is_change=False,
        yes=yes,
        is_json=as_json,
    )


@app.command("change")
def order_change(
    context: typer.Context,
    request: Annotated[str, typer.Argument(help="Id of the request, or its beginning.")],
    funds: Funds = None,
    quantity: Quantity = None,
    price: Price = None,
    at: At = None,
    every: Every = None,
    times: Times = None,
    when_below: WhenBelow = None,
    when_above: WhenAbove = None,
    until: Until = None,
    patience: Patience = None,
    account: Ordering = "",
    language: Language = "en",
    *,
    assisted: Assisted = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Change a request that waits; what it fired already stays as it is."""
    from consumers.execute.requests.form import Typed  # noqa: PLC0415 - help must answer at once

    typed = Typed(funds, quantity, price, None, at, every, times, when_below, when_above, until, assisted, patience)
    _order(
        context,
        account,
        lambda counter: counter.redraft(request, typed),
        language,
        is_change=True,
        yes=yes,
        is_json=as_json,
    )


@app.command("cancel")
def order_cancel(
    context: typer.Context,
    request: Annotated[str, typer.Argument(help="Id of the request, or its beginning.")],
    account: Ordering = "",
    language: Language = "en",
    *,
    as_json: Json = False,
) -> None:
    """Cancel a request; an order that it has at the exchange is cancelled too."""
    with _counter(context, account) as counter:
        _show_told(counter.cancel(request), language, is_json=as_json)


@app.command("list")
def order_list(
    context: typer.Context,
    account: Ordering = "",
    *,
    everything: Annotated[bool, typer.Option("--all", help="Ended ones too.")] = False,
    as_json: Json = False,
) -> None:
    """List the requests that wait or are under way."""
    from consumers.execute.requests.answers import FINAL, row_of, short_row_of  # noqa: PLC0415 - help must answer at once

    as_row = row_of if as_json else short_row_of
    with _counter(context, account) as counter:
        rows = [as_row(one) for one in counter.requests() if everything or one.state not in FINAL]
    if rows or as_json:
        show_table("Requests", rows, is_json=as_json)
    else:
        typer.echo("Nothing waits; --all shows what has ended.")


@app.command("savings")
def order_savings(context: typer.Context, account: Ordering = "", *, as_json: Json = False) -> None:
    """Show what the execution assistant saved, beside the orders that were sent at once by lot."""
    with _counter(context, account) as counter:
        found = counter.savings()
    if as_json:
        show_object(found, is_json=True)
        return
    rows = [{"group": name, **found[name]} for name in ("assisted", "control")]
    rows.append({"group": "difference", "orders": "", "saved": "", **found["difference"]})
    for row in rows:
        row |= {key: f"{value:,.2f}" for key, value in row.items() if isinstance(value, float)}
    show_table("Saved against sending at once, basis points with their 95 % interval", rows, is_json=False)


@contextmanager
def _counter(context: typer.Context, account: str) -> Iterator["Counter"]:
    """The command line's side of people's orders."""
    from consumers.execute.requests.verbs import Counter  # noqa: PLC0415 - help must answer at once
    from infra.servers.broker import open_log  # noqa: PLC0415 - same

    settings = settings_of(context)
    with open_log(settings) as log:
        yield Counter(settings, log, account)


def _order(
    context: typer.Context,
    account: str,
    draft: Callable[["Counter"], "Draft"],
    language: Words,
    *,
    is_change: bool,
    yes: bool,
    is_json: bool,
) -> None:
    """Show what will happen, ask, send, and tell what became of it."""
    with _counter(context, account) as counter:
        made = draft(counter)
        for line in made.lines:
            typer.echo(line, err=is_json)
        if not yes:
            typer.confirm("Send it?", abort=True, err=is_json)
        _show_told(counter.send(made.request, is_change=is_change), language, is_json=is_json)


def _show_told(told: "RequestTold", language: Words, *, is_json: bool) -> None:
    """Print the executor's word; exit code 1 where nothing came of it."""
    from consumers.execute.requests.answers import as_dict, line_of  # noqa: PLC0415 - help must answer at once

    if is_json:
        show_object(as_dict(told), is_json=True)
    else:
        typer.echo(line_of(told, language))
    if told.state in {"refused", "missed"}:
        raise typer.Exit(1)
