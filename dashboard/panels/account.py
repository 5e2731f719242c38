"""Money, positions, orders and the reasons for not buying. Called by the page's fragments; reads only."""

from decimal import Decimal

from sqlmodel import Session

from dashboard import formats
from dashboard.markup import Cell, Figure, badges, figures, heading, note, table
from dashboard.words import Language, code_word, word
from infra.tables import view_questions as questions
from infra.tables.view_questions import Row

ORDER_ROWS = 15


def money(session: Session, language: Language) -> None:
    """Each account's money and its sign of life."""
    accounts = questions.money(session)
    if not accounts:
        heading("money", language)
        note(word("no_account", language), language)
    for account in accounts:
        heading("money", language, word("account", language, account=account["account"]))
        badges(language, _switches(account, language))
        figures(language, _amounts(account, language))
        note(_rules(account, language), language, "rules")
        note(_sign_of_life(account, language), language, "sign-of-life")
        if account["shadow_trades"]:
            note(_older_rule(account, language), language, "older-rule")


def _switches(account: Row, language: Language) -> list[tuple[str, str, str]]:
    is_live = account["venue"] == "live"
    found = [("account-venue", "live" if is_live else "", word("live" if is_live else "paper", language))]
    found.append(("switch", "quiet", word("trading_on" if account["is_trading"] else "trading_off", language)))
    if account["halt"]:
        found.append(("halt", "late", word("halted", language)))
    if account["is_ledger_broken"]:
        found.append(("ledger", "late", word("ledger_broken", language)))
    if account["paused"]:
        found.append(("paused", "late", word("paused", language)))
    return found


def _amounts(account: Row, language: Language) -> list[Figure]:
    def won(amount: object) -> str:
        return word("won", language, amount=amount)

    reserved = word("reserved", language, amount=won(formats.won(account["reserved"])))
    budget = word("budget_of", language, budget=won(formats.won(account["budget"])))
    unrealised, realised = account["unrealised"], account["realised"]
    return [
        Figure("free", word("free", language), won(formats.won(account["free"])), note=budget),
        Figure("invested", word("invested", language), won(formats.won(account["invested"])), note=reserved),
        Figure(
            "unrealised",
            word("unrealised", language),
            won(formats.signed_won(unrealised)),
            formats.direction(unrealised),
            word("unrealised_note", language),
        ),
        Figure(
            "realised",
            word("realised", language),
            won(formats.signed_won(realised)),
            formats.direction(realised),
            word("net_note", language),
        ),
        Figure("fees", word("fees", language), won(formats.won(account["paid_fees"]))),
    ]


def _rules(account: Row, language: Language) -> str:
    entry = word("won", language, amount=formats.won(account["entry_funds"]))
    threshold, stop = (formats.quantity(account[name]) for name in ("threshold_percent", "stop_percent"))
    return word("rules", language, threshold=threshold, entry=entry, stop=stop)


def _older_rule(account: Row, language: Language) -> str:
    result = word("won", language, amount=formats.signed_won(account["shadow_result"]))
    return word("older_rule", language, trades=f"{account['shadow_trades']:,}", result=result)


def _sign_of_life(account: Row, language: Language) -> str:
    best = formats.percent_of_bp(account["best_expected_bp"])
    if account["best_market"] and account["best_expected_bp"] is not None:
        best = f"{best} ({account['best_market']})"
    return word(
        "sign_of_life",
        language,
        n=f"{account['forecasts']:,}",
        best=best,
        needed=formats.percent_of_bp(account["best_needed_bp"]),
        entries=f"{account['entries']:,}",
        exits=f"{account['exits']:,}",
    )


def positions(session: Session, language: Language) -> None:
    """What is held."""
    heading("positions", language)
    heads = [word(key, language) for key in ("market", "quantity", "average", "cost", "unrealised", "due")]
    rows = [
        [
            Cell(f"{row['market']} · {row['strategy']}" if row["strategy"] else row["market"]),
            Cell(formats.quantity(row["quantity"]), "number"),
            Cell(_average(row["funds"], row["quantity"]), "number"),
            Cell(formats.won(row["cost"]), "number"),
            Cell(formats.signed_won(row["unrealised"]), f"number {formats.direction(row['unrealised'])}"),
            Cell(word("dust", language) if row["is_dust"] else formats.clock(row["due_ms"])),
        ]
        for row in questions.positions(session)
    ]
    table("positions", language, heads, rows)


def balances(session: Session, language: Language) -> None:
    """What the exchange says the pockets hold."""
    heading("balances", language)
    rows = []
    seen: set[tuple[str, str]] = set()
    for account in questions.money(session):
        for row in account["balances"]:
            is_empty = not Decimal(row["available"]) and not Decimal(row["locked"])
            if is_empty or (row["pocket"], row["currency"]) in seen:
                continue
            seen.add((row["pocket"], row["currency"]))
            to_text = formats.won if row["currency"] == "KRW" else formats.quantity
            is_coin = row["currency"] != "KRW" and Decimal(row["average_price"]) > 0
            rows.append(
                [
                    Cell(row["currency"]),
                    Cell(to_text(row["available"]), "number"),
                    Cell(to_text(row["locked"]), "number"),
                    Cell(formats.price(row["average_price"]) if is_coin else formats.DASH, "number"),
                ]
            )
    heads = [word(key, language) for key in ("currency", "available", "locked", "average")]
    table("balances", language, heads, rows)


def orders(session: Session, language: Language) -> None:
    """Orders, newest first."""
    heading("orders", language)
    keys = ("time", "market", "side", "purpose", "state", "fill_price", "quantity", "funds", "fee")
    found = questions.orders(session, limit=ORDER_ROWS)
    rows = [
        [
            Cell(formats.moment(row["event_ms"] or row["changed_ms"])),
            Cell(row["market"]),
            Cell(code_word("side", row["side"], language), _colour(row["side"])),
            Cell(code_word("purpose", row["purpose"], language)),
            Cell(state_of(row, language)),
            Cell(_average(row["executed_funds"], row["executed_quantity"]), "number"),
            Cell(formats.quantity(row["executed_quantity"]), "number"),
            Cell(formats.won(row["executed_funds"]), "number"),
            Cell(formats.fee(row["paid_fee"]), "number"),
        ]
        for row in found
    ]
    version = str(max((row["changed_ms"] for row in found), default=""))
    table("orders", language, [word(key, language) for key in keys], rows, data=version)


def state_of(row: Row, language: Language) -> str:
    """The state for people. A market buy ends as cancelled once the rest is less than a lot: that is a fill.

    Why it was refused follows behind, in words where there are some, else as the exchange said it.
    """
    state = row["state"]
    if state == "cancelled" and Decimal(row["executed_quantity"]) > 0:
        state = "filled" if row["order_type"] == "price" else "filling"
    said = str(row["text"] or "") if state in {"rejected", "unknown"} else ""
    if state == "rejected":
        name = said.partition(": ")[0]
        known = code_word("refused", name, language)
        said = known if known != name else said
    return code_word("state", state, language) + (f" ({said})" if said else "")


def reasons(session: Session, language: Language) -> None:
    """Why nothing was bought, counted per day."""
    found = questions.reasons(session)
    heading("reasons", language, word("on_day", language, day=found[0]["day"]) if found else "")
    text = "korean" if language == "ko" else "english"
    rows = [[Cell(row[text] or row["reason"], "text"), Cell(f"{row['count']:,}", "number")] for row in found]
    table("reasons", language, [word("reason", language), word("count", language)], rows)


def _colour(side: str) -> str:
    return {"buy": "rise", "sell": "fall"}.get(side, "")


def _average(funds: str, quantity: str) -> str:
    """Funds over quantity to the eighth digit at most, or to the won above a thousand."""
    if not Decimal(quantity):
        return formats.DASH
    average = Decimal(funds) / Decimal(quantity)
    return formats.price(round(average, 0 if average >= 1000 else 2 if average >= 1 else 8))
