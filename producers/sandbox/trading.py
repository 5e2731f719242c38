"""Where orders meet: an incoming order with the market's book and with orders of users, resting orders with the market.

Called by `exchange` when an order's turn comes, and by the feed's driver with every frame. It decides what happens and
hands entries to `record`, which journals and applies them; it must never change an order or the ledger itself.
"""

import logging
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from producers.sandbox.feeds import BookView, Feed, Frame
from producers.sandbox.queues import Queues
from producers.sandbox.state import Entry, State, end_entry, fill_entry, prevented_entry
from producers.sandbox.taken import Taken
from streams.market import crossing, matching
from streams.market.crossing import Offer, Step
from streams.market.matching import Fill, Level, Order

logger = logging.getLogger(__name__)

Record = Callable[[Sequence[Entry]], None]
"""Journal entries and apply them; raises `OSError` and changes nothing where the disk refuses."""


class Trading:
    """The meeting place of one exchange."""

    def __init__(
        self,
        state: State,
        feed: Feed,
        *,
        record: Record,
        publish: Callable[[list[Frame]], None],
        now_ms: Callable[[], int],
    ) -> None:
        self._state = state
        self._feed = feed
        self._record = record
        self._publish = publish
        self._now_ms = now_ms
        self._taken = Taken()
        self.queues = Queues(self._taken)
        self._early: defaultdict[str, list[str]] = defaultdict(list)
        """Orders whose turn came before their market showed its first book, or while it was halted, by market."""

    @property
    def is_halted(self) -> bool:
        """Whether nothing is matched; see `resume`."""
        return self._state.halted is not None

    def forget(self) -> None:
        """For the journal to be read anew: what it does not tell (levels taken, places in queues) may not have been."""
        self._taken.forget()
        self.queues.forget()
        self._early.clear()

    def queue(self, order: Order) -> None:
        """A resting order stands behind what its market's newest book shows, where that is somebody else's."""
        if self._feed.has_queue and (book := self._feed.book(order.market)) is not None:
            self.queues.rest(order, book)

    def visible(self, account: str, market: str) -> BookView | None:
        """The newest book as the account can take from it."""
        book = self._feed.book(market)
        if book is None or self._feed.is_synthetic:
            return book
        return self._taken.visible(account, market, book)

    def kept(self, market: str) -> dict[str, Any]:
        """For the journal of a followed market: who stands where, and what was taken from its newest book."""
        return {"q": self.queues.kept(self._state.resting[market].values()), "t": self._taken.kept(market)}

    def restore(self, entry: Entry) -> None:
        """Take up what `kept` gave, as the journal tells it."""
        self.queues.restore(entry["q"])
        self._taken.restore(entry["m"], entry["t"])

    def take_again(self, market: str, taken: Iterable[tuple[Order, Fill]]) -> None:
        """Remember what takers took from the newest book."""
        book = self._feed.book(market)
        for order, fill in taken if book is not None else ():
            assert book is not None
            level = Level(fill.price_e8, fill.lots)
            self._taken.take(order.account, market, book, [level], is_ask=order.is_buy)

    def resume(self) -> None:
        """Match again, first the orders whose turn came meanwhile."""
        for market in list(self._early):
            self._match_early(market)

    def match(self, order: Order) -> None:
        """An order's turn: take what is offered, then rest or end. Raises `OSError` where the disk refuses."""
        book = self.visible(order.account, order.market)
        if order.state != "wait" or order.uuid in self._state.resting[order.market]:
            return
        if book is None or self.is_halted:
            self._early[order.market].append(order.uuid)
            return
        now_ms = self._now_ms()
        resting = [
            other
            for other in self._state.resting[order.market].values()
            if self._feed.is_synthetic or other.account == order.account  # accounts meet where the market is ours
        ]
        met = crossing.offers(order, book.asks if order.is_buy else book.bids, resting)
        if order.time_in_force == "post_only" and _crosses(order, met):
            self._record([end_entry(order, now_ms)])
            return
        steps = crossing.cross(order, met)
        entries = [entry for step in steps for entry in self._step_entries(order, step, book, now_ms)]
        gone = sum(step.lots + step.prevented for step in steps)
        is_over = not order.can_rest or gone == order.remaining_lots
        entries.append(end_entry(order, now_ms) if is_over else {"e": "rest", "u": order.uuid})
        self._record(entries)
        if not is_over:
            self.queue(order)
        self._tell_market(order, [step for step in steps if step.lots])

    def _step_entries(self, order: Order, step: Step, book: BookView, now_ms: int) -> Iterable[Entry]:
        if step.lots:
            level = Level(step.price_e8, step.lots)
            yield _fill(order, level, (book.exchange_ms, book.source), now_ms, is_maker=False)
            if step.maker is not None:
                yield _fill(step.maker, level, (book.exchange_ms, book.source), now_ms, is_maker=True)
        if step.prevented:
            yield prevented_entry(order, step.prevented, step.price_e8)
        if step.maker is not None:
            if step.prevented_of_maker:
                yield prevented_entry(step.maker, step.prevented_of_maker, step.price_e8)
            if step.lots + step.prevented_of_maker == step.maker.remaining_lots:
                yield end_entry(step.maker, now_ms)

    def _tell_market(self, order: Order, traded: list[Step]) -> None:
        crossed = [Level(step.price_e8, step.lots) for step in traded if step.maker is not None]
        if crossed:
            self._publish(self._feed.cross(order.market, crossed, is_buy=order.is_buy))
        levels = [Level(step.price_e8, step.lots) for step in traded if step.maker is None]
        book = self._feed.book(order.market)
        if not levels or book is None:
            return
        if not self._feed.is_synthetic:
            self._taken.take(order.account, order.market, book, levels, is_ask=order.is_buy)
        self._publish(self._feed.take(order.market, levels, is_buy=order.is_buy))

    def on_frame(self, frame: Frame) -> None:
        """Let waiting orders see a new book or trade: first those that rest, then those that waited for a book."""
        if self.is_halted:
            return
        if frame.kind in {"trade", "backfill"}:
            self._reach(frame)
        elif frame.kind == "orderbook":
            if not self._feed.is_synthetic and (book := self._feed.book(frame.market)) is not None:
                self._taken.see(frame.market, book)
            self._reach(frame)
            self._match_early(frame.market)

    def _reach(self, frame: Frame) -> None:
        orders: Iterable[Order] = self._state.resting.get(frame.market, {}).values()
        if frame.kind == "backfill":  # it happened to those who waited then
            orders = [order for order in orders if order.created_ms < frame.exchange_ms]
        if not orders:
            return
        entries: list[Entry] = []
        now_ms = self._now_ms()
        for order, level in self._reached(frame, orders):
            entries.append(_fill(order, level, (frame.exchange_ms, frame.source), now_ms, is_maker=True))
            if level.lots == order.remaining_lots:
                entries.append(end_entry(order, now_ms))
        if not entries:
            return
        try:
            self._record(entries)
        except OSError:
            logger.exception("the journal cannot be written; resting orders of %s missed a frame", frame.market)

    def _match_early(self, market: str) -> None:
        for order_uuid in self._early.pop(market, ()):
            order = self._state.waiting.get(order_uuid)
            try:
                if order is not None:
                    self.match(order)
            except OSError:
                logger.exception("the journal cannot be written; order %s waits for the next book", order_uuid)
                self._early[market].append(order_uuid)

    def _reached(self, frame: Frame, orders: Iterable[Order]) -> list[tuple[Order, Level]]:
        if self._feed.has_queue:
            return self._queued(frame, list(orders))
        if frame.kind == "trade":
            trade = frame.print  # not the newest: due orders may have met others since the frame was made
            if trade is None:
                return []
            return matching.reached_by_trade(orders, Level(trade.price_e8, trade.lots), is_buy=trade.is_buy)
        book = self._feed.book(frame.market)
        return [] if book is None else matching.reached_by_book(list(orders), book.bids, book.asks)

    def _queued(self, frame: Frame, orders: list[Order]) -> list[tuple[Order, Level]]:
        """Whom a frame reaches where orders stand in a queue of others."""
        if frame.print is not None:
            return self.queues.on_trade(orders, frame.print, frame.exchange_ms)
        book = self._feed.book(frame.market) if frame.kind == "orderbook" else None
        return [] if book is None else self.queues.on_book(frame.market, orders, book)


def _fill(order: Order, level: Level, where: tuple[int, str], now_ms: int, *, is_maker: bool) -> Entry:
    """One execution; `where` is the time and the name of the record it happened on."""
    name, (book_ms, book) = str(uuid.uuid4()), where
    execution = matching.executed(
        order, level, name, is_maker=is_maker, at_ms=now_ms, book_ms=book_ms, book=book
    )  # fmt: skip
    return fill_entry(order, execution)


def _crosses(order: Order, met: Sequence[Offer]) -> bool:
    return bool(met) and matching.crosses(order, [Level(met[0].price_e8, met[0].lots)])
