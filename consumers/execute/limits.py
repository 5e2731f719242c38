"""The executor's own limits, written apart from `trade`'s: few, simple, and asked right before sending.

`desk` asks `refusal` for every entry and every order of a person; exits and protective exits are never asked, but
nothing is sold that was not bought here (`sellable`). All it knows are the journal, what the exchange says of markets,
prices that it was told, the deployment's largest values and the accounts' settings.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from threading import Lock
from typing import NamedTuple, Protocol

from streams.messages import AccountSettings, Market, OrderIntent
from streams.messages import RiskLimits as AccountLimits

ZERO = Decimal(0)
FRESH_S = 60.0
"""A price older than this says nothing of an order's own price or worth."""


class Refusal(NamedTuple):
    """Why an order is not sent: a stable name and a sentence."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class RiskLimits:
    """The deployment's largest values, whatever an account's settings allow. Money in quote currency."""

    maximum_funds: Decimal = Decimal(1_000_000)
    """One order."""
    orders_per_minute: int = 120
    """Over all accounts."""
    orders_per_day: int = 20_000
    """Per account, since 00:00 KST."""
    market_exposure: Decimal = Decimal(10_000_000)
    """Per account and market."""
    exposure: Decimal = Decimal(100_000_000)
    """Per account."""
    price_band_percent: Decimal = Decimal(10)
    """How much worse than the last price a limit price may be; one that waits far from the market costs nothing."""


class Held(NamedTuple):
    """One ledger of an account in one market, as the journal sums it."""

    market: str
    bought: Decimal
    sold: Decimal
    spent: Decimal
    """Fees included."""
    earned: Decimal
    """Fees taken off."""
    is_manual: bool = False

    @property
    def cost(self) -> Decimal:
        """What the quantity still held was paid for, at the average of all that was bought."""
        left = self.bought - self.sold
        return self.spent * left / self.bought if left > 0 else ZERO


class OpenBuy(NamedTuple):
    """A buy that may still execute, with what it may still cost, fee left out."""

    intent_id: str
    market: str
    funds: Decimal
    is_manual: bool = False


class Marks(NamedTuple):
    """What losses are measured from."""

    start: Decimal
    """Profit when the day began."""
    peak: Decimal
    """Highest profit seen."""


class Book(Protocol):
    """What the journal says of an account."""

    def ledgers(self, account: str) -> list[Held]:
        """All that it ever bought and sold here."""

    def open_buys(self, intent: OrderIntent) -> list[OpenBuy]:
        """The other buys of its account that may still execute, and those that wait to be sent before it."""

    def sent_today(self, account: str) -> int:
        """Orders sent for it since 00:00 KST."""

    def marks(self, account: str, profit: Decimal) -> Marks:
        """Take note of its profit, and tell what losses are measured from."""

    def settings(self) -> Iterable[AccountSettings]:
        """The newest settings of every account that were kept."""

    def keep(self, settings: AccountSettings) -> None:
        """Keep an account's newest settings over a restart."""


def sellable(bought: Decimal, sold: Decimal, open_sells: Decimal) -> Decimal:
    """The most that an exit may sell: what was bought here, less what was sold and what open sells hold."""
    return max(bought - sold - open_sells, ZERO)


class RiskGate:
    """Says no to entries and to orders of people; thread-safe, one for the whole executor."""

    def __init__(self, limits: RiskLimits, now_s: Callable[[], float], book: Book | None = None) -> None:
        self._limits = limits
        self._now_s = now_s
        self._book = book
        self._sent_s: deque[float] = deque()
        self._markets: dict[str, Market] = {}
        self._prices: dict[str, tuple[Decimal, float]] = {}
        self._lock = Lock()
        self._accounts = {one.account: one for one in book.settings()} if book is not None else {}

    def take_market(self, market: Market) -> None:
        """Learn what the exchange says of a market."""
        self._markets[market.market] = market

    def take_account(self, settings: AccountSettings) -> None:
        """Learn an account's settings; the newest replace the earlier, over restarts too."""
        if self._book is not None:
            self._book.keep(settings)
        self._accounts[settings.account] = settings

    def take_price(self, market: str, price: Decimal) -> None:
        """Learn a market's price."""
        if price > 0:
            self._prices[market] = price, self._now_s()

    def refusal(self, intent: OrderIntent) -> Refusal | None:
        """Why this order must not be sent; None counts it as sent."""
        total = self._total_of(intent)
        if total is None or total <= 0:
            return Refusal("bad-amount", "neither funds, nor a quantity with a price, above zero")
        settings = self._accounts.get(intent.account)
        own = settings.limits if settings is not None else AccountLimits()
        refused = self._of_market(intent, total) or self._of_order(intent, total, own)
        if refused is not None:
            return refused
        with self._lock:
            return self._of_account(intent, total, own, settings) or self._of_minute()

    # --- one order by itself

    def _total_of(self, intent: OrderIntent) -> Decimal | None:
        """What an order is worth; a market sell by the last price, and what was never priced by its quantity alone."""
        if intent.funds is not None:
            return intent.funds
        if intent.quantity is None:
            return None
        price = intent.price or self._price(intent.market)
        if price is None:
            return intent.quantity if intent.side == "sell" else None
        return price * intent.quantity

    def _of_market(self, intent: OrderIntent, total: Decimal) -> Refusal | None:
        facts = self._markets.get(intent.market)
        if facts is None:
            return None
        is_entry = intent.side == "buy" and intent.purpose == "entry"
        if (intent.side == "buy" and facts.is_delisted) or (is_entry and facts.delisting_ms is not None):
            return Refusal("delisted", f"the exchange ends trading in {intent.market}, or has")
        if is_entry and (facts.is_caution or facts.is_warning):
            return Refusal("caution", f"the exchange warns of {intent.market}")
        is_priced = self._is_priced(intent)
        if is_priced and total < facts.minimum_total:
            return Refusal("under-minimum", f"{total} is less than the market's minimum of {facts.minimum_total}")
        if is_priced and total > facts.maximum_total:
            return Refusal("over-market-maximum", f"{total} is more than the market's maximum of {facts.maximum_total}")
        return None

    def _is_priced(self, intent: OrderIntent) -> bool:
        return intent.funds is not None or intent.price is not None or self._price(intent.market) is not None

    def _price(self, market: str) -> Decimal | None:
        """The last price, while it is fresh."""
        found = self._prices.get(market)
        return found[0] if found is not None and self._now_s() - found[1] < FRESH_S else None

    def _of_order(self, intent: OrderIntent, total: Decimal, own: AccountLimits) -> Refusal | None:
        most = _least(self._limits.maximum_funds, own.order_funds)
        if self._is_priced(intent) and total > most:
            return Refusal("over-maximum", f"{total} is more than the {most} allowed per order")
        last, band = self._price(intent.market), _least(self._limits.price_band_percent, own.price_band_percent)
        if intent.price is None or last is None:
            return None
        beyond = intent.price - last if intent.side == "buy" else last - intent.price
        if beyond * 100 > band * last:
            return Refusal("price-band", f"{intent.price} is more than {band} % worse than the last price {last}")
        return None

    # --- together with the account's others

    def _of_account(
        self, intent: OrderIntent, total: Decimal, own: AccountLimits, settings: AccountSettings | None
    ) -> Refusal | None:
        if self._book is None:
            return None
        sent, most = self._book.sent_today(intent.account), self._limits.orders_per_day
        most = most if own.orders_per_day is None else min(most, own.orders_per_day)
        if sent >= most:
            return Refusal("too-many-today", f"{sent} orders were sent today, {most} are allowed")
        if intent.side == "sell":
            return None
        factor = 1 if settings is None else 1 + settings.fee_percent / 100
        total, ledgers = total * factor, self._book.ledgers(intent.account)
        buys = [one._replace(funds=one.funds * factor) for one in self._book.open_buys(intent)]
        refused = self._of_exposure(intent.market, total, own, ledgers, buys)
        if refused is None and intent.purpose == "entry" and settings is not None:
            return self._of_money(settings, total, ledgers, buys)
        return refused

    def _of_exposure(
        self, market: str, total: Decimal, own: AccountLimits, ledgers: list[Held], buys: list[OpenBuy]
    ) -> Refusal | None:
        here = total + sum((one.cost for one in ledgers if one.market == market), ZERO)
        here += sum((one.funds for one in buys if one.market == market), ZERO)
        if here > (most := _least(self._limits.market_exposure, own.market_exposure)):
            return Refusal("over-market-exposure", f"{here} would be in {market}, {most} is allowed")
        every = total + sum((one.cost for one in ledgers), ZERO) + sum((one.funds for one in buys), ZERO)
        if every > (most := _least(self._limits.exposure, own.exposure)):
            return Refusal("over-exposure", f"{every} would be invested, {most} is allowed")
        return None

    def _of_money(
        self, settings: AccountSettings, total: Decimal, ledgers: list[Held], buys: list[OpenBuy]
    ) -> Refusal | None:
        """The budget and the losses of what strategies do; a person's own orders are not part of it."""
        mine = [one for one in ledgers if not one.is_manual]
        out = sum((one.spent - one.earned for one in mine), ZERO)
        out += sum((one.funds for one in buys if not one.is_manual), ZERO)
        if out + total > settings.budget:
            return Refusal("over-budget", f"{out} of the budget of {settings.budget} is used, {total} more is too much")
        if self._book is None or (settings.limits.daily_loss is None and settings.limits.drawdown is None):
            return None
        profit = sum((one.earned - one.spent + self._worth(one) for one in mine), ZERO)
        marks = self._book.marks(settings.account, profit)
        limits = settings.limits
        if limits.daily_loss is not None and marks.start - profit >= limits.daily_loss:
            return Refusal("daily-loss", f"{marks.start - profit} was lost since 00:00, {limits.daily_loss} is allowed")
        if limits.drawdown is not None and marks.peak - profit >= limits.drawdown:
            return Refusal("drawdown", f"{marks.peak - profit} below the highest, {limits.drawdown} is allowed")
        return None

    def _worth(self, held: Held) -> Decimal:
        """What is still held, at the last price; without one, at what it cost."""
        known = self._prices.get(held.market)
        return held.cost if known is None else max(held.bought - held.sold, ZERO) * known[0]

    def _of_minute(self) -> Refusal | None:
        now_s = self._now_s()
        while self._sent_s and now_s - self._sent_s[0] >= 60.0:
            self._sent_s.popleft()
        if len(self._sent_s) >= self._limits.orders_per_minute:
            return Refusal("too-many", f"{self._limits.orders_per_minute} orders were sent within a minute")
        self._sent_s.append(now_s)
        return None


def _least(one: Decimal, other: Decimal | None) -> Decimal:
    return one if other is None else min(one, other)
