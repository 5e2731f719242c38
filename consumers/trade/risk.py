"""What an entry must not do: the account's own limits, the exchange's, and fair play between accounts. Pure.

Called by `consumers.trade.entries` before an entry, with the one reason why not as the answer, and by
`consumers.trade.fold` to keep what the limits are measured from. Exits are never asked.

Measured are: money from the account's own orders, positions and dust; profit at the best bids of the last books; what
traded in a market from the sums in its feature rows; the book from the best five levels of its last row.
"""

import hashlib
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple

from consumers.trade.ledgers import ZERO, Order, market_of
from consumers.trade.reasons import Reason
from consumers.trade.state import Account, Parameters, Shared, State, Turnover
from streams import messages as m
from streams.market import costs

HUNDRED = Decimal(100)
STRETCH_MS = 10_000
STRETCHES = 6
"""Whole stretches up to the newest one: 50 to 60 s, so that never more than a minute counts as traded."""
MINUTE_MS = 60_000
RATIO_FROM = 20
"""A cancel ratio says nothing of fewer orders."""
BOUGHT_FUNDS, SOLD_FUNDS = -8, -7
"""Where `Features.accumulators` carries what the bin's trades were worth."""


class Wanted(NamedTuple):
    """An entry that somebody would like to make."""

    exchange: str
    market: str
    funds: Decimal
    """Quote currency, fee left out."""
    bin_ms: int
    price: Decimal | None = None
    """Limit price; none: it takes what the book gives."""

    @property
    def key(self) -> str:
        """Key of its market."""
        return m.key_of(self.exchange, self.market)


class Crowd:
    """What the accounts of one process do beside one another. Not stored: the accounts' orders say it again."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._uses: dict[str, tuple[int, Decimal]] = {}
        self._sells: dict[tuple[str, str, str], dict[str, str]] | None = None
        """Limit sells by market, and pocket or person: intent and account. None: collected at the next question."""

    def used(self, key: str, bin_ms: int) -> Decimal:
        """What all of them have put into a market in one bin, fees included."""
        found = self._uses.get(key)
        return found[1] if found is not None and found[0] == bin_ms else ZERO

    def note(self, order: Order) -> None:
        """Count an entry that was just made."""
        key, bin_ms = m.key_of(order.exchange, order.market), order.due_ms - order.horizon_ms
        self._uses[key] = bin_ms, self.used(key, bin_ms) + order.reserved

    def recount(self) -> None:
        """Count again from the accounts' orders, after they were put back."""
        self._uses = {}
        self.regroup()
        for account in self.state.accounts.values():
            for order in account.orders.values():
                found = self._uses.get(m.key_of(order.exchange, order.market))
                if order.purpose == "entry" and (found is None or found[0] <= order.due_ms - order.horizon_ms):
                    self.note(order)

    def in_turn(self, key: str, bin_ms: int) -> Sequence[Account]:
        """All accounts, beginning at another one in every bin, so that nobody is always the first at a small book."""
        accounts = list(self.state.accounts.values())
        if len(accounts) < 2:
            return accounts
        first = _drawn(len(accounts), key, bin_ms)
        return accounts[first:] + accounts[:first]

    def has_turn(self, account: str, key: str, bin_ms: int, parameters: Parameters) -> bool:
        """Whether an account may enter a market in this bin; with few accounts all may."""
        wanted = -(-len(self.state.accounts) // parameters.turn_accounts)
        turns = min(wanted, parameters.longest_turns)
        return turns < 2 or _drawn(turns, account, key) == bin_ms // parameters.turn_ms % turns

    def resting_sells(self, account: Account, key: str) -> Iterator[Decimal]:
        """Prices of the open limit sells in a market behind which the same person stands."""
        if self._sells is None:
            self._sells = {}
            for other in self.state.accounts.values():
                for order in other.orders.values():
                    self.note_sell(other, order)
        for owner in _owners(account.settings):
            placed = self._sells.get((key, *owner), {})
            for intent_id, name in list(placed.items()):
                found = self.state.accounts[name].orders.get(intent_id)
                if found is None:
                    del placed[intent_id]
                elif found.is_open and found.price is not None:
                    yield found.price

    def note_sell(self, account: Account, order: Order) -> None:
        """Remember a limit sell that was just made; other orders are passed over."""
        if self._sells is None or order.price is None or order.side != "sell":
            return
        key = m.key_of(order.exchange, order.market)
        for owner in _owners(account.settings):
            self._sells.setdefault((key, *owner), {})[order.intent_id] = account.settings.account

    def regroup(self) -> None:
        """Accounts came, went, or changed hands: who stands behind which order is looked up anew."""
        self._sells = None


def _owners(settings: m.AccountSettings) -> list[tuple[str, str]]:
    """What two accounts of one person have in common: the pocket, or the person's name."""
    pocket = ("pocket", settings.pocket)
    return [pocket, ("user", settings.user)] if settings.user else [pocket]


def _drawn(count: int, *parts: str | int) -> int:
    """One of `count`, by lot, but always the same one."""
    data = "\0".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") % count


# --- what the limits are measured from ----------------------------------------------------------------------------


def profit(account: Account, shared: Shared) -> Decimal:
    """Realised and unrealised, net of fees paid, at the best bids; what has no price counts as it was paid."""
    total = account.realised
    for held in (account.positions, account.rests):
        for name, one in held.items():
            book = shared.books.get(market_of(name))
            bid = None if book is None else (book.levels[0] if book.levels else None) or book.mid
            if bid is not None:
                total += one.quantity * Decimal(repr(bid)) - one.cost
    return total


def note_profit(account: Account, shared: Shared) -> None:
    """Keep the highest profit seen; called with every pulse and every event of an order."""
    now = profit(account, shared)
    if account.day.start is None:
        account.day.start = now
    if account.peak is None or now > account.peak:
        account.peak = now


def note_turnover(features: m.Features, shared: Shared) -> None:
    """Add what a bin traded."""
    numbers = features.accumulators
    if len(numbers) < -BOUGHT_FUNDS:
        return
    funds = (numbers[BOUGHT_FUNDS] or 0.0) + (numbers[SOLD_FUNDS] or 0.0)
    key, newest = m.key_of(features.exchange, features.market), (features.bin_ms - 1) // STRETCH_MS
    found = shared.turnovers.get(key)
    if found is None:
        found = shared.turnovers[key] = Turnover(newest=newest, sums=[0.0])
    if newest > found.newest:
        passed = min(newest - found.newest, STRETCHES)
        found.sums = ([0.0] * passed + found.sums)[:STRETCHES]
        found.newest = newest
    found.sums[0] += funds


def turnover(key: str, shared: Shared) -> float:
    """What traded in a market within the last minute, quote currency."""
    found = shared.turnovers.get(key)
    if found is None:
        return 0.0
    passed = (shared.now_ms - 1) // STRETCH_MS - found.newest
    return sum(found.sums[: max(STRETCHES - passed, 0)])


def own_turnover(account: Account, key: str, now_ms: int) -> Decimal:
    """What the account's orders of the last minute traded in a market, and what its open entries may trade."""
    total = ZERO
    for order in account.orders.values():
        if m.key_of(order.exchange, order.market) == key and (order.is_open or now_ms - order.ended_ms < MINUTE_MS):
            total += order.executed_funds + order.held
    return total


def total_of(funds: Decimal, settings: m.AccountSettings) -> Decimal:
    """Budget that an entry needs: its funds and the fee on them."""
    return funds * (1 + settings.fee_percent / HUNDRED)


# --- the tests ----------------------------------------------------------------------------------------------------


def market_refusal(key: str, shared: Shared, parameters: Parameters) -> Reason | None:
    """Why nobody may enter a market now."""
    facts, book = shared.facts.get(key), shared.books.get(key)
    if facts is not None and (facts.is_delisted or facts.delisting_ms is not None):
        return Reason.DELISTED
    if facts is not None and facts.is_suspect:
        return Reason.CAUTION
    if book is not None and shared.now_ms - book.bin_ms > parameters.stale_feed_ms:
        return Reason.STALE_FEED
    return None


def refusal(account: Account, wanted: Wanted, crowd: Crowd, parameters: Parameters) -> Reason | None:
    """The first limit that an entry would break; none: it may be made."""
    shared = crowd.state.shared
    for tests in (
        _of_size(account, wanted, shared, parameters),
        _of_exposure(account, wanted),
        _of_the_day(account, shared),
        _of_the_market(account, wanted, crowd, parameters),
    ):
        for is_refused, reason in tests:
            if is_refused:
                return reason
    return None


def _of_size(account: Account, wanted: Wanted, shared: Shared, parameters: Parameters) -> Iterator[tuple[bool, Reason]]:
    settings, limits, facts = account.settings, account.settings.limits, shared.facts.get(wanted.key)
    minimum = facts.minimum_total if facts is not None else parameters.minimum_total
    yield wanted.funds < minimum, Reason.BELOW_MINIMUM
    yield wanted.funds * (1 - settings.stop_percent / HUNDRED) < minimum, Reason.UNSELLABLE_AFTER_STOP
    maximum = facts.maximum_total if facts is not None else None
    yield maximum is not None and wanted.funds > maximum, Reason.ABOVE_MAXIMUM
    yield limits.order_funds is not None and wanted.funds > limits.order_funds, Reason.ORDER_FUNDS
    band = limits.price_band_percent
    is_off = band is not None and wanted.price is not None and _is_off(wanted.price, band, wanted.key, shared)
    yield is_off, Reason.PRICE_BAND


def _is_off(price: Decimal, band: Decimal, key: str, shared: Shared) -> bool:
    """Whether a limit price lies further from the mid price than allowed, or there is no mid price."""
    book = shared.books.get(key)
    if book is None or book.mid is None:
        return True
    mid = Decimal(repr(book.mid))
    return abs(price - mid) * HUNDRED > band * mid


def _of_exposure(account: Account, wanted: Wanted) -> Iterator[tuple[bool, Reason]]:
    limits, total = account.settings.limits, total_of(wanted.funds, account.settings)
    yield total > account.free, Reason.BUDGET
    one, every = limits.market_exposure, limits.exposure
    yield one is not None and account.exposure(wanted.key) + total > one, Reason.MARKET_EXPOSURE
    yield every is not None and account.exposure() + total > every, Reason.EXPOSURE


def _of_the_day(account: Account, shared: Shared) -> Iterator[tuple[bool, Reason]]:
    limits, day = account.settings.limits, account.day
    yield limits.orders_per_day is not None and day.orders >= limits.orders_per_day, Reason.ORDERS_PER_DAY
    ratio = limits.cancel_ratio
    yield ratio is not None and day.orders >= RATIO_FROM and day.cancels > ratio * day.orders, Reason.CANCEL_RATIO
    if limits.daily_loss is None and limits.drawdown is None:
        return
    now = profit(account, shared)
    start = now if day.start is None else day.start
    yield limits.daily_loss is not None and start - now >= limits.daily_loss, Reason.DAILY_LOSS
    peak = now if account.peak is None else max(account.peak, now)
    yield limits.drawdown is not None and peak - now >= limits.drawdown, Reason.DRAWDOWN


def _of_the_market(
    account: Account, wanted: Wanted, crowd: Crowd, parameters: Parameters
) -> Iterator[tuple[bool, Reason]]:
    key, shared = wanted.key, crowd.state.shared
    share = account.settings.limits.market_share_percent
    if share is not None:
        own = own_turnover(account, key, shared.now_ms) + wanted.funds
        yield own * HUNDRED > share * Decimal(repr(turnover(key, shared))), Reason.MARKET_SHARE
    book = shared.books.get(key)
    levels = costs.levels_of(book.levels) if book is not None else None
    yield not crowd.has_turn(account.settings.account, key, wanted.bin_ms, parameters), Reason.NOT_ITS_TURN
    used = crowd.used(key, wanted.bin_ms) + total_of(wanted.funds, account.settings)
    yield levels is None or used * HUNDRED > parameters.capacity_percent * _worth(levels.asks), Reason.CAPACITY
    yield _meets_own(account, wanted, levels, crowd), Reason.OWN_ORDER  # looks at every account, so it comes last


def _meets_own(account: Account, wanted: Wanted, levels: costs.Levels | None, crowd: Crowd) -> bool:
    """Whether a sell of the same person rests where the entry may reach: its limit, else the best five asks."""
    reach = wanted.price
    if reach is None and levels is not None:
        reach = Decimal(repr(levels.asks.prices[-1]))
    return any(reach is None or price <= reach for price in crowd.resting_sells(account, wanted.key))


def _worth(side: costs.Ladder) -> Decimal:
    return Decimal(repr(sum(price * size for price, size in zip(side.prices, side.sizes, strict=True))))
