"""A day's report as plain values: every order with its difference and the parts of it, sums, and two figures on top.

Called by `consumers.report.command_line` and `consumers.verify.nightly`. The figures are the money of the day and
whether live equals replay; a day without data says so and is never called equal.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext
from typing import Any, NamedTuple

import msgspec

from consumers.archive.holes import ledger
from consumers.report.clock import clocks_of
from consumers.report.day import Day, Traced, read_day
from consumers.report.market import Moment, expected_of
from consumers.report.split import CAUSES, CONTEXT, NOTHING, Split, Traded, added, missed, split
from consumers.report.verdict import is_different, read_parity, texts_of, verdict_of
from consumers.verify.session import day_ms
from consumers.verify.session_source import source_of
from infra.errors import ObservatorError
from infra.settings import Settings
from streams import messages as m
from streams.history import History


class Order(NamedTuple):
    """One order of the report."""

    traced: Traced
    split: Split
    notes: list[str]
    """Words of `consumers.report.words`: why something is not explained."""


def report(history: History, settings: Settings, day: str) -> dict[str, Any]:
    """The report of a KST day; raises `BadSettings` where that is no day."""
    found, source = read_day(history, settings, day), source_of(history)
    clocks = clocks_in(history, found)
    holes = holes_of(history, settings, found)
    orders = [order_of(one, found) for one in found.in_time()]
    parity = read_parity(settings.home, day, source)
    verdict, reasons = verdict_of(found, parity, source)
    korean, english = texts_of(reasons)
    return {
        "day": day,
        "source": source,
        "verdict": verdict,
        "reason": english,
        "reason_korean": korean,
        "money": {quote: _text(amount) for quote, amount in sorted(money_of(found).items())},
        "records": found.records,
        "market_records": found.market_records,
        "difference": [{"quote": quote, **_told(one)} for quote, one in _sums(orders, lambda o: (_quote(o),))],
        "by_ledger": [_ledger_row(key, one) for key, one in _sums(orders, _ledger)],
        "orders": [row_of(one) for one in orders],
        "first_difference": next((row_of(one) for one in orders if is_different(one.traced, found)), None),
        "vetoes": veto_rows(found),
        "other_fills": [fill_row(one) for one in found.foreign],
        "parity": parity,
        "clock": clocks,
        "holes": holes,
        "problems": found.problems,
        "made_ms": time.time_ns() // 1_000_000,
    }


def clocks_in(history: History, found: Day) -> list[dict[str, Any]]:
    """The day's wrong clocks; counts its market data on the way."""
    try:
        rows, found.market_records = clocks_of(history, *day_ms(found.day))
    except ObservatorError as error:
        found.problems.append(f"clocks: {error}")
        return []
    return rows


def holes_of(history: History, settings: Settings, found: Day) -> dict[str, Any]:
    """The day's hole ledger: what each market lacks, and every stretch with the record that tells it."""
    try:
        whole = ledger(history, *day_ms(found.day), stale_ms=int(settings.feed.stale_seconds * 1000))
    except ObservatorError as error:
        found.problems.append(f"hole ledger: {error}")
        return {"days": [], "stretches": []}
    told: dict[str, Any] = msgspec.to_builtins(whole)
    return {name: [row for row in told[name] if row["day"] == found.day] for name in ("days", "stretches")}


# --- one order ------------------------------------------------------------------------------------------------------


def order_of(one: Traced, found: Day) -> Order:
    """Hold an order's fills against the book of its decision."""
    intent, notes = one.intent, []
    signal = found.signals.get(intent.cause_id)
    moment = Moment(m.key_of(intent.exchange, intent.market), intent.event_ms)
    fee_percent = found.fee_percent(intent.account, intent.event_ms)
    wanted = one.replayed or (one.recorded if found.not_replayed else None)
    expected = None
    if wanted is None:
        notes.append("only_recorded")
    elif fee_percent is None:
        notes.append("no_fee")
    else:
        expected = expected_of(wanted, found.books.at(moment), signal, fee_percent)
        if expected is None:
            notes.append("no_book")
    traded = _traded(one, found, signal, moment, notes)
    parts = split(intent.side, expected, traded, found.books.mid(moment))
    if one.recorded is None:
        notes.append("only_replayed")
        parts = missed(parts)
    elif not one.fills:
        notes.append("not_filled")
    if one.recorded is not None and one.replayed is not None and not one.is_equal:
        notes.append("decided_otherwise")
    return Order(one, parts, notes)


def _traded(one: Traced, found: Day, signal: m.Signal | None, moment: Moment, notes: list[str]) -> Traded:
    with localcontext(CONTEXT):
        quantity = sum((fill.quantity for fill in one.fills), NOTHING)
        funds = sum((fill.funds for fill in one.fills), NOTHING)
        fee = sum((fill.fee for fill in one.fills), NOTHING)
        mids = [found.books.mid(Moment(moment.key, fill.event_ms)) for fill in one.fills]
        mid = None
        if quantity and all(known is not None for known in mids):
            weighted = (fill.quantity * (known or NOTHING) for fill, known in zip(one.fills, mids, strict=True))
            mid = sum(weighted, NOTHING) / quantity
        elif quantity:
            notes.append("no_book_at_fill")
        growth = None
        if signal is not None:
            begin, end = found.books.mid(moment), found.books.mid(moment._replace(at_ms=_horizon_end(signal)))
            growth = end / begin - 1 if begin and end else None
            if growth is None:
                notes.append("no_horizon")
    return Traded(quantity, funds, fee, mid, growth)


def _horizon_end(signal: m.Signal) -> int:
    return signal.bin_ms + signal.horizon_ms


def row_of(one: Order) -> dict[str, Any]:
    """An order as plain values; every amount as text, to the last digit."""
    intent, traced = one.traced.intent, one.traced
    return {
        "intent_id": traced.intent_id,
        "place": traced.place,
        "account": intent.account,
        "strategy": intent.strategy,
        "market": intent.market,
        "side": intent.side,
        "purpose": intent.purpose,
        "cause": intent.cause_kind,
        "event_ms": intent.event_ms,
        "is_recorded": traced.recorded is not None,
        "is_replayed": traced.replayed is not None,
        "fills": [fill_row(fill) for fill in traced.fills],
        "ended": [m.tag_of(type(end)) for end in traced.ends],
        "notes": one.notes,
        **_told(one.split),
    }


def fill_row(fill: m.OrderFilled) -> dict[str, Any]:
    """A fill as plain values."""
    names = ("fill_id", "intent_id", "account", "market", "side", "event_ms", "purpose", "strategy")
    amounts = {name: _text(getattr(fill, name)) for name in ("price", "quantity", "funds", "fee")}
    return {name: getattr(fill, name) for name in names} | amounts


# --- sums -----------------------------------------------------------------------------------------------------------


def money_of(found: Day) -> dict[str, Decimal]:
    """What the day's own fills brought, per quote currency: sold minus bought minus fees, what is left of them valued
    at the market's last price in the day. What was held before the day is left alone.
    """
    money: defaultdict[str, Decimal] = defaultdict(Decimal)
    held: defaultdict[tuple[str, str], Decimal] = defaultdict(Decimal)
    with localcontext(CONTEXT):
        for fill in [fill for one in found.orders.values() for fill in one.fills] + found.foreign:
            quote, sign = fill.market.partition("-")[0], 1 if fill.side == "buy" else -1
            money[quote] -= sign * fill.funds + fill.fee
            held[quote, m.key_of(fill.exchange, fill.market)] += sign * fill.quantity
        for (quote, key), quantity in held.items():
            money[quote] += quantity * found.last_mids.get(key, NOTHING)
    return dict(money)


def _quote(one: Order) -> str:
    return one.traced.intent.market.partition("-")[0]


def _ledger(one: Order) -> tuple[str, str, str]:
    intent = one.traced.intent
    return intent.account, intent.strategy, intent.market


def _sums(orders: Sequence[Order], key: Callable[[Order], tuple[str, ...]]) -> list[tuple[Any, Split]]:
    groups: defaultdict[tuple[str, ...], list[Split]] = defaultdict(list)
    for one in orders:
        groups[key(one)].append(one.split)
    return [(name[0] if len(name) == 1 else name, added(found)) for name, found in sorted(groups.items())]


def _ledger_row(key: tuple[str, str, str], one: Split) -> dict[str, Any]:
    return dict(zip(("account", "strategy", "market"), key, strict=True)) | _told(one)


def veto_rows(found: Day) -> list[dict[str, Any]]:
    """How often each reason not to trade was written, then and in the replay."""
    then, again = found.vetoes["recorded"], found.vetoes["replayed"]
    return [{"reason": name, "recorded": then[name], "replayed": again[name]} for name in sorted({*then, *again})]


def _told(one: Split) -> dict[str, str]:
    names = ("expected", "traded", "total", *CAUSES)
    return {name: _text(getattr(one, name)) for name in names}


def _text(amount: Decimal) -> str:
    return format(amount, "f")
