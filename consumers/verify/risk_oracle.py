"""The slow oracle of `verify risk`: what an entry would break, worked out anew from the list of all that happened.

Shares no line with `consumers.trade`: one pass over the events per question, exact fractions, no state that is kept.
"""

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from consumers.trade.state import Parameters
from consumers.verify.risk_past import ZERO, Past, Pool, exact
from streams import messages as m

Side = list[tuple[Fraction, Fraction]]
"""Prices and sizes, best first."""
Event = tuple[str, Any]
"""`take` a message, `pulse` a market time, `asked` an account for a decision, `out` an intent."""

FORBIDDEN = (
    "halted", "trading-stopped", "live-not-offered", "ledger-differs", "paused", "delisted", "caution", "stale-signal",
    "stale-feed",
)  # fmt: skip
"""What no entry may pass; a strategy's own tests stand between."""
LIMITS = (
    "below-minimum", "unsellable-after-stop", "above-maximum", "order-funds", "price-band", "budget",
    "market-exposure", "exposure", "orders-per-day", "cancel-ratio", "daily-loss", "drawdown", "market-share",
    "not-its-turn", "capacity", "own-order",
)  # fmt: skip
"""In the order in which they answer."""


class Question(NamedTuple):
    """An entry that an account would make."""

    account: str
    exchange: str
    market: str
    funds: Fraction
    bin_ms: int
    price: Fraction | None = None


class Answer(NamedTuple):
    """What the entry would break; `unsure`: so near to the edge that rounding decides."""

    broken: frozenset[str]
    unsure: frozenset[str]


def answer(events: Sequence[Event], question: Question, parameters: Parameters) -> Answer:
    """What an entry would break if it were made after these events."""
    past = Past(question.account)
    for kind, one in events:
        past.see(kind, one)
    asks = _best_asks(past.books.get(m.key_of(question.exchange, question.market)))
    broken: set[str] = set()
    unsure: set[str] = set()
    for word, amount, most in _amounts(past, question, parameters, asks):
        if amount > most:
            broken.add(word)
        if abs(amount - most) <= abs(most) / 10**12 + Fraction(1, 10**6):
            unsure.add(word)
    broken |= {word for word, is_broken in _facts(past, question, parameters, asks).items() if is_broken}
    return Answer(frozenset(broken), frozenset(unsure))


def _facts(past: Past, question: Question, parameters: Parameters, asks: Side | None) -> dict[str, bool]:
    """What is or is not so."""
    key = m.key_of(question.exchange, question.market)
    settings, facts, book = past.settings[question.account], past.facts.get(key), past.books.get(key)
    limits = settings.limits
    ratio = limits.cancel_ratio
    count = -(-len(past.settings) // parameters.turn_accounts)
    turns = min(count, parameters.longest_turns)
    lot = hashlib.blake2b(f"{question.account}\0{key}".encode(), digest_size=8).digest()
    is_late = past.now_ms - question.bin_ms > parameters.stale_signal_ms
    return {
        "halted": bool(past.halts.get("*") or past.halts.get(question.account)),
        "trading-stopped": not past.is_trading,
        "live-not-offered": settings.venue == "live",
        "ledger-differs": past.is_broken,
        "paused": past.is_paused,
        "delisted": facts is not None and (facts.is_delisted or facts.delisting_ms is not None),
        "caution": facts is not None and (facts.is_caution or facts.is_warning),
        "stale-signal": is_late and question.price is None,
        "stale-feed": book is not None and past.now_ms - book.bin_ms > parameters.stale_feed_ms,
        "price-band": question.price is not None
        and limits.price_band_percent is not None
        and (book is None or book.mid is None),
        "orders-per-day": limits.orders_per_day is not None and past.asked_for >= limits.orders_per_day,
        "cancel-ratio": ratio is not None and past.asked_for >= 20 and past.cancelled > ratio * past.asked_for,
        "own-order": _meets_own(past, question, key, asks),
        "not-its-turn": turns > 1
        and int.from_bytes(lot, "little") % turns != question.bin_ms // parameters.turn_ms % turns,
        "capacity": asks is None,
    }


def _amounts(
    past: Past, question: Question, parameters: Parameters, asks: Side | None
) -> list[tuple[str, Fraction, Fraction]]:
    """Amounts that must not be above another: word, amount, the most."""
    key = m.key_of(question.exchange, question.market)
    settings, facts, book = past.settings[question.account], past.facts.get(key), past.books.get(key)
    limits, total = settings.limits, question.funds * (1 + Fraction(settings.fee_percent) / 100)
    minimum = Fraction(facts.minimum_total if facts is not None else parameters.minimum_total)
    mine = [order for order in past.orders.values() if order.account == question.account]
    reserved = sum((order.held for order in mine), ZERO)
    held = sum((pool.cost for pool in past.pools.values()), ZERO)
    here = sum((pool.cost for name, pool in past.pools.items() if name.split("|")[-1] == key), ZERO)
    here += sum((order.held for order in mine if order.key == key), ZERO)
    here += past.manual.get(key, Pool()).cost
    every = held + reserved + sum((pool.cost for pool in past.manual.values()), ZERO)
    found = [
        ("below-minimum", minimum, question.funds),
        ("unsellable-after-stop", minimum, question.funds * (1 - Fraction(settings.stop_percent) / 100)),
        ("budget", total, Fraction(settings.budget) + past.realised - held - reserved),
    ]
    if facts is not None:
        found.append(("above-maximum", question.funds, Fraction(facts.maximum_total)))
    for word, amount, most in (
        ("order-funds", question.funds, limits.order_funds),
        ("market-exposure", here + total, limits.market_exposure),
        ("exposure", every + total, limits.exposure),
    ):
        if most is not None:
            found.append((word, amount, Fraction(most)))
    if question.price is not None and limits.price_band_percent is not None and book is not None and book.mid:
        mid = exact(book.mid)
        found.append(("price-band", abs(question.price - mid) * 100, Fraction(limits.price_band_percent) * mid))
    return found + _losses(past, limits) + _shares(past, question, total, parameters, asks)


def _losses(past: Past, limits: m.RiskLimits) -> list[tuple[str, Fraction, Fraction]]:
    """A loss must stay below its limit: reaching it is too much, so the least step is taken off the limit."""
    now, step = past.profit(), Fraction(1, 10**9)
    start = now if past.start is None else past.start
    peak = now if past.peak is None else max(past.peak, now)
    found = [("daily-loss", start - now, limits.daily_loss), ("drawdown", peak - now, limits.drawdown)]
    return [(word, loss, Fraction(most) - step) for word, loss, most in found if most is not None]


def _shares(
    past: Past, question: Question, total: Fraction, parameters: Parameters, asks: Side | None
) -> list[tuple[str, Fraction, Fraction]]:
    """Our part of what trades, and all accounts' part of the book."""
    key, found = m.key_of(question.exchange, question.market), list[tuple[str, Fraction, Fraction]]()
    share = past.settings[question.account].limits.market_share_percent
    if share is not None:
        newest = (past.now_ms - 1) // 10_000
        traded = sum((exact(one) for at, one in past.traded.get(key, []) if (at - 1) // 10_000 > newest - 6), ZERO)
        own = question.funds
        for order in past.orders.values():
            if order.account == question.account and order.key == key:
                own += order.held
                own += order.funds if order.is_open or past.now_ms - order.ended_ms < 60_000 else 0
        found.append(("market-share", own * 100, Fraction(share) * traded))
    if asks is not None:
        used = sum(
            (
                order.reserved
                for order in past.orders.values()
                if order.purpose == "entry" and order.key == key and order.bin_ms == question.bin_ms
            ),
            ZERO,
        )
        worth = sum((price * size for price, size in asks), ZERO)
        found.append(("capacity", (used + total) * 100, Fraction(parameters.capacity_percent) * worth))
    return found


def _best_asks(book: m.Features | None) -> Side | None:
    """The best five asks; None where the book cannot be used."""
    if book is None or len(book.levels) != 20:
        return None
    sides: list[list[tuple[Fraction, Fraction]]] = []
    for first in (0, 10):
        side: list[tuple[Fraction, Fraction]] = []
        for price, size in zip(book.levels[first : first + 5], book.levels[first + 5 : first + 10], strict=True):
            if not price or not size or price < 0 or size < 0:
                break
            side.append((exact(price), exact(size)))
        sides.append(side)
    bids, asks = sides
    return asks if bids and asks and bids[0][0] < asks[0][0] else None


def _meets_own(past: Past, question: Question, key: str, asks: Side | None) -> bool:
    mine = past.settings[question.account]
    reach = question.price if question.price is not None else (asks[-1][0] if asks else None)
    for order in past.orders.values():
        if order.side != "sell" or order.price is None or not order.is_open or order.key != key:
            continue
        other = past.settings[order.account]
        is_same = other.account == mine.account or other.pocket == mine.pocket
        if (is_same or (mine.user != "" and other.user == mine.user)) and (reach is None or order.price <= reach):
            return True
    return False
