"""A day's report as plain values: every order with its difference and the parts of it, sums, and two figures on top.

Called by `consumers.report.command_line` and `consumers.verify.nightly`. The figures are the money of the day and
whether live equals replay; a day without data says so and is never called equal.
"""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from consumers.archive.holes import ledger
from consumers.report.clock import clock_rows
from consumers.report.day import Day, Traced, read_day
from consumers.report.market import Moment, expected_of
from consumers.report.split import CAUSES, CONTEXT, NOTHING, Split, Traded, added, missed, split
from consumers.verify.session import day_ms
from infra.errors import ObservatorError
from infra.settings import Settings
from streams import messages as m
from streams.history import History

YES, NO, NOT_COMPARABLE, NO_DATA = "yes", "no", "not comparable", "no data"
_OF_PARITY = {"equal": YES, "different": NO, "no data": NO_DATA}


class Order(NamedTuple):
    """One order of the report."""

    traced: Traced
    split: Split
    notes: list[str]
    """Words of `consumers.report.words`: why something is not explained."""


def report(history: History, settings: Settings, day: str) -> dict[str, Any]:
    """The report of a KST day; raises `BadSettings` where that is no day."""
    found = read_day(history, settings, day)
    orders = [order_of(one, found) for one in _in_time(found.orders.values())]
    parity = read_parity(settings.home, day)
    verdict, reason = verdict_of(found, orders, parity)
    return {
        "day": day,
        "verdict": verdict,
        "reason": reason,
        "money": {quote: _text(amount) for quote, amount in sorted(money_of(found).items())},
        "records": found.records,
        "difference": [{"quote": quote, **_told(one)} for quote, one in _sums(orders, lambda o: (_quote(o),))],
        "by_ledger": [_ledger_row(key, one) for key, one in _sums(orders, _ledger)],
        "orders": [row_of(one) for one in orders],
        "first_difference": next((row_of(one) for one in orders if is_different(one, found)), None),
        "vetoes": veto_rows(found),
        "other_fills": [fill_row(one) for one in found.foreign],
        "parity": parity,
        "clock": clock_rows(history, *day_ms(day)),
        "holes": holes_of(history, settings, found),
        "problems": found.problems,
        "made_ms": time.time_ns() // 1_000_000,
    }


def holes_of(history: History, settings: Settings, found: Day) -> dict[str, Any]:
    """The day's hole ledger: what each market lacks, and every stretch with the record that tells it."""
    try:
        whole = ledger(history, *day_ms(found.day), stale_ms=int(settings.feed.stale_seconds * 1000))
    except ObservatorError as error:
        found.problems.append(f"hole ledger: {error}")
        return {"days": [], "stretches": []}
    told: dict[str, Any] = msgspec.to_builtins(whole)
    return {name: [row for row in told[name] if row["day"] == found.day] for name in ("days", "stretches")}


def _in_time(orders: Iterable[Traced]) -> list[Traced]:
    return sorted(orders, key=lambda one: (one.intent.event_ms, one.intent_id))


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


# --- live equals replay ---------------------------------------------------------------------------------------------


def is_different(one: Order, found: Day) -> bool:
    """Whether the replay decided otherwise than trade did."""
    return not found.not_replayed and not one.traced.is_equal


def verdict_of(found: Day, orders: Sequence[Order], parity: Mapping[str, Any] | None) -> tuple[str, str]:
    """Whether live equals replay, and why not; `no` where one check says so, `yes` only where nothing is in doubt."""
    if not found.records:
        return NO_DATA, "the history holds no record of this day"
    said = None if parity is None else _OF_PARITY.get(str(parity["verdict"]), NOT_COMPARABLE)
    if reason := _difference(found, orders) or (
        f"parity found a difference: {_first_of(parity)}" if said == NO else ""
    ):
        return NO, reason
    if doubt := found.not_replayed or next(iter(found.problems), ""):
        return NOT_COMPARABLE, doubt
    if said is None:
        return YES, "decisions only: parity of the day was not run"
    return said, "" if said == YES or parity is None else f"parity says: {parity['verdict']}"


def _difference(found: Day, orders: Sequence[Order]) -> str:
    """What the replay decided otherwise, the first order by name."""
    if found.not_replayed:
        return ""
    differing = [one.traced for one in orders if is_different(one, found)]
    if differing:
        first = differing[0]
        return f"{len(differing)} of {len(orders)} orders differ, the first is {first.intent_id} {first.place}".strip()
    return f"refusals differ: {reasons}" if (reasons := _vetoes_differ(found)) else ""


def _vetoes_differ(found: Day) -> str:
    then, again = found.vetoes["recorded"], found.vetoes["replayed"]
    found_reasons: Counter[str] = Counter({name: again[name] - then[name] for name in {*then, *again}})
    return ", ".join(f"{name} {count:+d}" for name, count in sorted(found_reasons.items()) if count)


def _first_of(parity: Mapping[str, Any] | None) -> str:
    differences = (parity or {}).get("differences") or [{}]
    first = differences[0]
    place = first.get("place") or {}
    where = "/".join(str(place[name]) for name in ("topic", "partition", "offset") if name in place)
    return f"{where} {first.get('kind', '')} {first.get('identity', '')}".strip() or "see its report"


def read_parity(home: Path, day: str) -> dict[str, Any] | None:
    """What the day's parity found, where it was run: verdict, problems, and the first differences."""
    file = home / "reports" / f"parity-{day}.json"
    if not file.is_file():
        return None
    try:
        whole = json.loads(file.read_bytes())
        names = ("verdict", "differences", "not_comparable", "problems")
        return {name: whole[name] for name in names} | {"file": file.name}
    except (ValueError, KeyError, TypeError) as error:
        return {"verdict": "unreadable", "differences": [], "not_comparable": [], "problems": [f"{file.name}: {error}"]}
