"""The exchange behind REST and the private websocket: accounts, orders, identifiers, fills, all journalled first.

Called by `rest`, `private`, `control` and the feed's driver, in one thread. Every change is on disk before it is told
to anybody, so a kill -9 at any point leaves accepted orders, balances and used identifiers as they were. Orders of
users never meet each other yet; in a recorded market what was taken from a level stays taken until the next book.
"""

import logging
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from producers.sandbox import order_requests, order_views
from producers.sandbox.feeds import BookView, Feed, Frame
from producers.sandbox.journal import Journal
from producers.sandbox.order_requests import FEE_E4, OrderRequest
from producers.sandbox.refusals import OrderRefused
from streams.market import matching
from streams.market.ledger import ATOMS_PER_LOT, Ledger
from streams.market.matching import Fill, Level, Order

logger = logging.getLogger(__name__)

Later = Callable[[float, Callable[[], None]], object]
Listener = Callable[[str, str, str, dict[str, Any]], None]
"""(account, kind of message, market, body)."""

_STORED = (
    "uuid", "account", "market", "is_buy", "kind", "price_e8", "total", "lots", "fee_e4", "time_in_force",
    "identifier", "smp_type", "created_ms",
)  # fmt: skip
_RETRY_SECONDS = 1.0


class Exchange:
    """One exchange. `open` reads the journal, then requests may come."""

    def __init__(
        self,
        feed: Feed,
        journal: Journal,
        *,
        now_ms: Callable[[], int],
        later: Later,
        publish: Callable[[list[Frame]], None],
        burn_refused_identifiers: bool,
        fill_delay_s: float,
        cancel_delay_s: float,
    ) -> None:
        self._feed = feed
        self._journal = journal
        self._now_ms = now_ms
        self._later = later
        self._publish = publish
        self.burn_refused_identifiers = burn_refused_identifiers
        self._fill_delay_s = fill_delay_s
        self._cancel_delay_s = cancel_delay_s
        self.ledger = Ledger()
        self.orders: dict[str, Order] = {}
        self.accounts: list[str] = []
        self.refused: list[dict[str, Any]] = []
        self._identifiers: dict[tuple[str, str], str | None] = {}
        """(account, identifier) -> uuid, or None where a refused request burned it."""
        self._resting: defaultdict[str, list[Order]] = defaultdict(list)
        self._taken: dict[str, tuple[int, dict[int, int]]] = {}
        self.hidden_until_ms: dict[str, int] = {}
        self.listeners: list[Listener] = []

    # --- journal ----------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Read the journal and take up every order that was still open."""
        for entry in self._journal.entries():
            self._replay(entry)
        for order in self.orders.values():
            if order.state == "wait":
                self._later(self._fill_delay_s, _bound(self._match, order))
                if order.is_cancelling:
                    self._later(self._cancel_delay_s, _bound(self._end_cancelled, order))

    def _replay(self, entry: Mapping[str, Any]) -> None:
        kind = entry["e"]
        if kind == "account":
            self.accounts.append(entry["a"])
        elif kind == "deposit":
            self.ledger.deposit(entry["a"], entry["c"], entry["n"])
        elif kind == "order":
            self._add(Order(**{name: entry[name] for name in _STORED}))
        elif kind == "refused":
            self._remember_refusal(entry["a"], entry["i"], entry["n"], is_burned=entry["b"])
        else:
            order = self.orders[entry["u"]]
            if kind == "fill":
                matching.fill(self.ledger, order, Fill(*entry["f"]))
            elif kind == "cancelling":
                order.is_cancelling = True
            else:
                matching.end(self.ledger, order, entry["t"])

    def open_account(self, account: str, balances: Mapping[str, int]) -> None:
        """Make an account with deposits (currency -> atoms); again only deposits."""
        entries: list[dict[str, Any]] = [] if account in self.accounts else [{"e": "account", "a": account}]
        entries += [{"e": "deposit", "a": account, "c": currency, "n": atoms} for currency, atoms in balances.items()]
        if entries:
            self._journal.append(*entries)
        for entry in entries:
            self._replay(entry)

    def _add(self, order: Order) -> None:
        matching.place(self.ledger, order)
        self.orders[order.uuid] = order
        if order.identifier:
            self._identifiers[order.account, order.identifier] = order.uuid

    def _remember_refusal(self, account: str, identifier: str, name: str, *, is_burned: bool) -> None:
        self.refused.append({"account": account, "identifier": identifier, "name": name, "is_burned": is_burned})
        if is_burned:
            self._identifiers[account, identifier] = None

    # --- requests -----------------------------------------------------------------------------------------------

    def accept(self, account: str, body: Mapping[str, Any]) -> Order:
        """Take a new order; the answer is `wait`, fills follow. Raises `OrderRefused`, the identifier burned or not."""
        identifier = order_requests.identifier_of(body)
        if identifier and (account, identifier) in self._identifiers:
            raise OrderRefused("duplicated_identifier")
        try:
            order = self.check(account, body)
        except OrderRefused as refusal:
            self._burn(account, identifier, refusal.name, is_burned=self.burn_refused_identifiers)
            raise
        self._journal.append({"e": "order"} | {name: getattr(order, name) for name in _STORED})
        self._add(order)
        self._tell(order, "wait")
        self._later(self._fill_delay_s, _bound(self._match, order))
        return order

    def refuse(self, account: str, body: Mapping[str, Any], name: str, *, is_burned: bool | None) -> OrderRefused:
        """Refuse on purpose (a fault); burns as told, or as the exchange is switched."""
        identifier = order_requests.identifier_of(body)
        if identifier and (account, identifier) in self._identifiers:
            return OrderRefused("duplicated_identifier")
        burned = self.burn_refused_identifiers if is_burned is None else is_burned
        self._burn(account, identifier, name, is_burned=burned)
        return OrderRefused(name)

    def _burn(self, account: str, identifier: str, name: str, *, is_burned: bool) -> None:
        if not identifier:
            return
        self._journal.append({"e": "refused", "a": account, "i": identifier, "n": name, "b": is_burned})
        self._remember_refusal(account, identifier, name, is_burned=is_burned)

    def check(self, account: str, body: Mapping[str, Any]) -> Order:
        """Everything that is checked before an order exists; raises `OrderRefused`."""
        request = order_requests.read(body)
        if self._feed.is_closed:
            raise OrderRefused("market_offline")
        if request.market not in {row.market for row in self._feed.markets()} or request.quote not in FEE_E4:
            raise OrderRefused("notfoundmarket", f"다음 마켓에 없는 종목입니다: {request.market}")
        book = self._visible(request.market)
        if book is None:
            raise OrderRefused("market_offline")
        order_requests.check_amounts(request, self._feed.clock_ms, book.bids, book.asks)
        order = self._order(account, request)
        if self.ledger.holding(account, order.lock_currency).available < order.locked:
            raise OrderRefused(f"insufficient_funds_{request.side}")
        return order

    def _order(self, account: str, request: OrderRequest) -> Order:
        return Order(
            uuid=str(uuid.uuid4()),
            account=account,
            market=request.market,
            is_buy=request.is_buy,
            kind=request.kind,
            price_e8=request.price_e8,
            total=None if request.total_e8 is None else request.total_e8 * ATOMS_PER_LOT,
            lots=request.lots,
            fee_e4=FEE_E4[request.quote],
            time_in_force=request.time_in_force,
            identifier=request.identifier,
            smp_type=request.smp_type,
            created_ms=self._now_ms(),
        )

    def find(self, account: str, order_uuid: str | None, identifier: str | None) -> Order:
        """One order of the account; the uuid wins. Raises `order_not_found`, also while a look-up lags."""
        found = order_uuid or self._identifiers.get((account, identifier or ""))
        order = self.orders.get(found or "")
        if order is None or order.account != account or self.hidden_until_ms.get(order.uuid, 0) > self._now_ms():
            raise OrderRefused("order_not_found")
        return order

    def of(self, account: str) -> Iterator[Order]:
        """The account's visible orders, oldest first."""
        now_ms = self._now_ms()
        return (
            order
            for order in self.orders.values()
            if order.account == account and self.hidden_until_ms.get(order.uuid, 0) <= now_ms
        )

    def cancel(self, order: Order) -> None:
        """Accept a cancel; the order ends a moment later unless a fill comes first. Raises `order_not_found`."""
        if order.state != "wait":
            raise OrderRefused("order_not_found")
        if not order.is_cancelling:
            self._journal.append({"e": "cancelling", "u": order.uuid})
            order.is_cancelling = True
            self._later(self._cancel_delay_s, _bound(self._end_cancelled, order))

    # --- matching -----------------------------------------------------------------------------------------------

    def _visible(self, market: str) -> BookView | None:
        """The newest book without what was taken from it (a recorded book does not change by itself)."""
        book = self._feed.book(market)
        if book is None or self._feed.is_synthetic:
            return book
        at_ms, taken = self._taken.get(market, (0, {}))
        if at_ms != book.exchange_ms:
            return book
        bids, asks = (
            [Level(level.price_e8, level.lots - taken.get(level.price_e8, 0)) for level in side]
            for side in (book.bids, book.asks)
        )
        return BookView([x for x in bids if x.lots > 0], [x for x in asks if x.lots > 0], book.exchange_ms)

    def _match(self, order: Order) -> None:
        """First match of an order: take what the book offers, then rest or end."""
        book = self._visible(order.market)
        if order.state != "wait" or book is None:
            return
        opposite = book.asks if order.is_buy else book.bids
        if order.time_in_force == "post_only" and matching.crosses(order, opposite) and not order.fills:
            self._commit(order, [], book.exchange_ms, is_maker=False, ends=True)
            return
        taken = matching.walk(order, opposite)
        is_whole = order.lots is not None and sum(level.lots for level in taken) == order.remaining_lots
        self._commit(order, taken, book.exchange_ms, is_maker=False, ends=is_whole or not order.can_rest)
        if order.state == "wait" and order not in self._resting[order.market]:
            self._resting[order.market].append(order)

    def watches(self, market: str) -> bool:
        """Whether an order rests there."""
        return bool(self._resting.get(market))

    def on_frame(self, frame: Frame) -> None:
        """Let resting orders see a new book or trade."""
        orders = self._resting.get(frame.market)
        if not orders:
            return
        if frame.kind == "trade":
            prints = self._feed.prints(frame.market)
            if not prints:
                return
            trade = prints[-1]
            reached = matching.reached_by_trade(orders, Level(trade.price_e8, trade.lots), is_buy=trade.is_buy)
        else:
            book = self._feed.book(frame.market)
            reached = [] if book is None else matching.reached_by_book(orders, book.bids, book.asks)
        for order, level in reached:
            ends = level.lots == order.remaining_lots
            self._commit(order, [level], frame.exchange_ms, is_maker=True, ends=ends)

    def _commit(self, order: Order, levels: list[Level], book_ms: int, *, is_maker: bool, ends: bool) -> None:
        """Journal fills and end together, then apply them, then tell. On a full disk the order is tried again."""
        now_ms = self._now_ms()
        fills = [
            matching.executed(order, level, str(uuid.uuid4()), is_maker=is_maker, at_ms=now_ms, book_ms=book_ms)
            for level in levels
        ]
        entries: list[dict[str, Any]] = [{"e": "fill", "u": order.uuid, "f": list(fill)} for fill in fills]
        if ends:
            entries.append({"e": "end", "u": order.uuid, "t": now_ms})
        if not entries:
            return
        try:
            self._journal.append(*entries)
        except OSError:
            logger.exception("the journal cannot be written; order %s is tried again", order.uuid)
            self._later(_RETRY_SECONDS, _bound(self._match, order))
            return
        for fill in fills:
            matching.fill(self.ledger, order, fill)
            self._tell(order, "trade", fill)
        if ends:
            self._end(order, now_ms)
        if levels and not is_maker:
            self._take(order, levels, book_ms)

    def _take(self, order: Order, levels: list[Level], book_ms: int) -> None:
        if not self._feed.is_synthetic:
            at_ms, taken = self._taken.get(order.market, (0, {}))
            if at_ms != book_ms:
                taken = {}
            for level in levels:
                taken[level.price_e8] = taken.get(level.price_e8, 0) + level.lots
            self._taken[order.market] = (book_ms, taken)
        self._publish(self._feed.take(order.market, levels, is_buy=order.is_buy))

    def _end_cancelled(self, order: Order) -> None:
        if order.state != "wait":
            return
        now_ms = self._now_ms()
        try:
            self._journal.append({"e": "end", "u": order.uuid, "t": now_ms})
        except OSError:
            logger.exception("the journal cannot be written; the cancel of %s is tried again", order.uuid)
            self._later(_RETRY_SECONDS, _bound(self._end_cancelled, order))
            return
        self._end(order, now_ms)

    def _end(self, order: Order, now_ms: int) -> None:
        matching.end(self.ledger, order, now_ms)
        if order in self._resting[order.market]:
            self._resting[order.market].remove(order)
        self._tell(order, order.state)

    def _tell(self, order: Order, state: str, fill: Fill | None = None) -> None:
        now_ms = self._now_ms()
        body = order_views.my_order(order, state, now_ms, fill)
        asset = order_views.my_asset(
            self.ledger, order.account, (order.quote, order.base), str(uuid.uuid4()), now_ms
        )  # fmt: skip
        for listener in self.listeners:
            listener(order.account, "myOrder", order.market, body)
            listener(order.account, "myAsset", order.market, asset)

    # --- truth ----------------------------------------------------------------------------------------------------

    def truth(self) -> list[dict[str, Any]]:
        """Every order ever accepted, in order."""
        return [order_views.truth_row(seq, order) for seq, order in enumerate(self.orders.values())]

    def fills(self) -> list[dict[str, Any]]:
        """Every fill, with the time of the book it happened on; funds and fee in atoms."""
        return [
            {"order": order.uuid, "market": order.market} | fill._asdict()
            for order in self.orders.values()
            for fill in order.fills
        ]


def _bound(work: Callable[[Order], None], order: Order) -> Callable[[], None]:
    return lambda: work(order)
