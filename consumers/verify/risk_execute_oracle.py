"""The slow oracle of `verify risk` for the executor's own limits: what an order would break, from the list of events.

Shares no line with `consumers.execute.limits`: everything is summed anew for every question, in exact fractions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from consumers.execute.limits import RiskLimits
from streams import messages as m

Event = tuple[str, Any]
"""`time` (ms), `settings`, `market`, `price` (market, price), `came` (intent), `asked` (intent, answer), `sent` (id),
`fill` (id, quantity, funds, fee), `ended` (id).
"""

WORDS = (
    "bad-amount", "delisted", "caution", "under-minimum", "over-market-maximum", "over-maximum", "price-band",
    "too-many-today", "over-market-exposure", "over-exposure", "over-budget", "daily-loss", "drawdown", "too-many",
)  # fmt: skip
"""In the order in which they answer."""
PASSED = frozenset({"", "too-many", "daily-loss", "drawdown"})
"""Answers behind which the profit was looked at."""
ZERO = Fraction(0)
DAY_MS, KOREA_MS = 86_400_000, 32_400_000


@dataclass(slots=True)
class _Order:
    intent: m.OrderIntent
    number: int
    came_ms: int
    is_sent: bool = False
    has_ended: bool = False
    quantity: Fraction = ZERO
    funds: Fraction = ZERO
    fee: Fraction = ZERO


@dataclass(slots=True)
class _Past:
    account: str
    now_ms: int = 0
    settings: m.AccountSettings | None = None
    markets: dict[str, m.Market] = field(default_factory=dict)
    prices: dict[str, Fraction] = field(default_factory=dict)
    priced_ms: dict[str, int] = field(default_factory=dict)
    orders: dict[str, _Order] = field(default_factory=dict)
    passed_ms: list[int] = field(default_factory=list)
    day: int = -1
    start: Fraction = ZERO
    peak: Fraction | None = None

    def see(self, kind: str, one: Any) -> None:
        if kind == "time":
            self.now_ms = one
        elif kind == "settings":
            self.settings = one if one.account == self.account else self.settings
        elif kind == "market":
            self.markets[one.market] = one
        elif kind == "price":
            self.prices[one[0]], self.priced_ms[one[0]] = Fraction(one[1]), self.now_ms
        elif kind == "came":
            self.orders[one.id] = _Order(one, len(self.orders), self.now_ms)
        elif kind == "asked":
            self._on_asked(*one)
        elif kind == "sent":
            self.orders[one].is_sent = True
        elif kind == "ended":
            self.orders[one].has_ended = True
        else:
            order = self.orders[one[0]]
            order.quantity += Fraction(one[1])
            order.funds += Fraction(one[2])
            order.fee += Fraction(one[3])

    def _on_asked(self, intent: m.OrderIntent, name: str) -> None:
        if not name:
            self.passed_ms.append(self.now_ms)
        if intent.account != self.account or intent.purpose != "entry" or name not in PASSED or self.settings is None:
            return
        if self.settings.limits.daily_loss is not None or self.settings.limits.drawdown is not None:
            self.look()

    def look(self) -> None:
        """Take note of the profit, as the executor did."""
        now, day = self.profit(), (self.now_ms + KOREA_MS) // DAY_MS
        if day != self.day:
            self.day, self.start = day, now
        self.peak = now if self.peak is None else max(self.peak, now)

    def fresh(self, market: str) -> Fraction | None:
        """The last price, not older than a minute."""
        return self.prices.get(market) if self.now_ms - self.priced_ms.get(market, -60_000) < 60_000 else None

    def mine(self, *, is_manual: bool | None = None) -> list[_Order]:
        """The account's orders; of strategies, of a person, or all."""
        found = [one for one in self.orders.values() if one.intent.account == self.account]
        return [one for one in found if is_manual is None or (one.intent.purpose == "manual") is is_manual]

    def ledgers(self, *, is_manual: bool | None = None) -> dict[tuple[str, bool], tuple[Fraction, ...]]:
        """Bought, sold, spent and earned per market, a person's apart."""
        sums: dict[tuple[str, bool], tuple[Fraction, ...]] = {}
        for one in self.mine(is_manual=is_manual):
            key = one.intent.market, one.intent.purpose == "manual"
            bought, sold, spent, earned = sums.get(key, (ZERO, ZERO, ZERO, ZERO))
            if one.intent.side == "buy":
                sums[key] = bought + one.quantity, sold, spent + one.funds + one.fee, earned
            else:
                sums[key] = bought, sold + one.quantity, spent, earned + one.funds - one.fee
        return sums

    def profit(self) -> Fraction:
        """Of the strategies: earned less spent, and what is held at the last price, else at its cost."""
        total = ZERO
        for (market, _), (bought, sold, spent, earned) in self.ledgers(is_manual=False).items():
            left = max(bought - sold, ZERO)
            price = self.prices.get(market)
            worth = left * price if price is not None else (spent * left / bought if left else ZERO)
            total += earned - spent + worth
        return total


def broken(events: Sequence[Event], intent: m.OrderIntent, limits: RiskLimits) -> tuple[set[str], set[str]]:
    """What an order would break if it were sent now, and what lies so near the edge that rounding decides."""
    past = _Past(intent.account)
    for kind, one in events:
        past.see(kind, one)
    own = past.settings.limits if past.settings is not None else m.RiskLimits()
    words = _plain(past, intent, own, limits)
    unsure: set[str] = set()
    for word, amount, most in _amounts(past, intent, own, limits):
        if amount > most:
            words.add(word)
        if abs(amount - most) < Fraction(1, 10**6):
            unsure.add(word)
    return words, unsure


def _total(past: _Past, intent: m.OrderIntent) -> Fraction | None:
    if intent.funds is not None:
        return Fraction(intent.funds)
    price = Fraction(intent.price) if intent.price is not None else past.fresh(intent.market)
    return None if price is None or intent.quantity is None else price * Fraction(intent.quantity)


def _plain(past: _Past, intent: m.OrderIntent, own: m.RiskLimits, limits: RiskLimits) -> set[str]:
    """What is or is not so, and what is counted."""
    words: set[str] = set()
    total, facts = _total(past, intent), past.markets.get(intent.market)
    amount = total if total is not None else (Fraction(intent.quantity or 0) if intent.side == "sell" else ZERO)
    if amount <= 0:
        words.add("bad-amount")
    if facts is not None and intent.side == "buy":
        is_ending = facts.delisting_ms is not None and intent.purpose == "entry"
        words |= {"delisted"} if facts.is_delisted or is_ending else set()
        words |= {"caution"} if (facts.is_caution or facts.is_warning) and intent.purpose == "entry" else set()
    midnight_ms = (past.now_ms + KOREA_MS) // DAY_MS * DAY_MS - KOREA_MS
    today = [one for one in past.mine() if one.is_sent and one.came_ms >= midnight_ms]
    most = min([limits.orders_per_day] + ([] if own.orders_per_day is None else [own.orders_per_day]))
    if len(today) >= most:
        words.add("too-many-today")
    if len([at for at in past.passed_ms if past.now_ms - at < 60_000]) >= limits.orders_per_minute:
        words.add("too-many")
    return words


def _amounts(
    past: _Past, intent: m.OrderIntent, own: m.RiskLimits, limits: RiskLimits
) -> list[tuple[str, Fraction, Fraction]]:
    """Amounts that must not be above another: word, amount, the most."""
    total, facts, price = _total(past, intent), past.markets.get(intent.market), past.fresh(intent.market)
    found: list[tuple[str, Fraction, Fraction]] = []
    if total is not None:
        found.append(("over-maximum", total, _least(limits.maximum_funds, own.order_funds)))
        if facts is not None:
            found.append(("under-minimum", Fraction(facts.minimum_total), total))
            found.append(("over-market-maximum", total, Fraction(facts.maximum_total)))
    if intent.price is not None and price is not None:
        band = _least(limits.price_band_percent, own.price_band_percent)
        worse = (Fraction(intent.price) - price) * (1 if intent.side == "buy" else -1)
        found.append(("price-band", worse * 100, band * price))
    if intent.side == "buy" and total is not None:
        found += _exposures(past, intent, total, own, limits)
    return found


def _exposures(
    past: _Past, intent: m.OrderIntent, total: Fraction, own: m.RiskLimits, limits: RiskLimits
) -> list[tuple[str, Fraction, Fraction]]:
    factor = 1 + (Fraction(past.settings.fee_percent) / 100 if past.settings is not None else ZERO)
    number = past.orders[intent.id].number
    waiting: dict[tuple[str, bool], Fraction] = {}
    for one in past.mine():
        is_before = one.is_sent or one.number < number
        if one.has_ended or one.intent.side != "buy" or one.intent.id == intent.id or not is_before:
            continue
        key = one.intent.market, one.intent.purpose == "manual"
        asked = one.intent.funds or (one.intent.price or 0) * (one.intent.quantity or 0)
        left = max(Fraction(asked) - one.funds, ZERO) * factor
        waiting[key] = waiting.get(key, ZERO) + left
    costs = {
        key: spent * (bought - sold) / bought if bought > sold else ZERO
        for key, (bought, sold, spent, _) in past.ledgers().items()
    }
    total *= factor
    every = [*costs.items(), *waiting.items()]
    here = total + sum((one for (market, _), one in every if market == intent.market), ZERO)
    found = [
        ("over-market-exposure", here, _least(limits.market_exposure, own.market_exposure)),
        ("over-exposure", total + sum((one for _, one in every), ZERO), _least(limits.exposure, own.exposure)),
    ]
    if intent.purpose != "entry" or past.settings is None:
        return found
    out = sum((one for (_, is_manual), one in waiting.items() if not is_manual), ZERO)
    out += sum((spent - earned for _, _, spent, earned in past.ledgers(is_manual=False).values()), ZERO)
    found.append(("over-budget", out + total, Fraction(past.settings.budget)))
    return found + _losses(past, own)


def _losses(past: _Past, own: m.RiskLimits) -> list[tuple[str, Fraction, Fraction]]:
    """Reaching the limit is too much, so the least step is taken off it."""
    past.look()
    now, step = past.profit(), Fraction(1, 10**9)
    peak = now if past.peak is None else past.peak
    losses = [("daily-loss", past.start - now, own.daily_loss), ("drawdown", peak - now, own.drawdown)]
    return [(word, loss, Fraction(most) - step) for word, loss, most in losses if most is not None]


def _least(one: Any, other: Any) -> Fraction:
    return Fraction(one) if other is None else min(Fraction(one), Fraction(other))
