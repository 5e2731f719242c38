"""The exchange behind REST and the private websocket: requests for accounts and orders, and when they take effect.

Called by `rest_orders`, `control` and the feed's driver, in one thread. Every change is an entry of the journal first;
its owner is told when the disk has it (`settled`), so a kill -9 at any point leaves accepted orders, balances and used
identifiers as they were. What the disk refuses never happened: the memory is read again from the journal.
"""

import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

from producers.sandbox import order_views
from producers.sandbox.admission import Admission, replacing_entry, replacing_request
from producers.sandbox.feeds import Feed, Frame
from producers.sandbox.journal import Journal
from producers.sandbox.maintenance import beyond
from producers.sandbox.refusals import OrderRefused
from producers.sandbox.settle import Settlement, unsettled_rows
from producers.sandbox.state import Entry, State, end_entry, order_entry
from producers.sandbox.trading import Trading
from streams.market.ledger import Ledger
from streams.market.matching import Fill, Order

logger = logging.getLogger(__name__)

Later = Callable[[float, Callable[[], None]], object]
Listener = Callable[[str, str, str, dict[str, Any]], None]
"""(account, kind of message, market, body)."""

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
        smp_default: str = "",
        settlement: Settlement | None = None,
    ) -> None:
        self._journal = journal
        self._journal.lost = self._reopen
        self.now_ms = now_ms
        self._later = later
        self.burn_refused_identifiers = burn_refused_identifiers
        self.smp_default = smp_default
        self._fill_delay_s = fill_delay_s
        self._cancel_delay_s = cancel_delay_s
        self.state = State()
        self._trading = Trading(self.state, feed, record=self._record, publish=publish, now_ms=now_ms)
        self._settlement = settlement
        if settlement is not None:
            settlement.attach(self.state, self._trading, self._record)
        self._admission = Admission(self.state, feed, self._trading.visible, now_ms)
        self._life = 0
        """Grows when the memory is read again: what was to come before then is void."""
        self.hidden_until_ms: dict[str, int] = {}
        self.listeners: list[Listener] = []

    @property
    def ledger(self) -> Ledger:
        """Who holds what."""
        return self.state.ledger

    @property
    def orders(self) -> dict[str, Order]:
        """Every order ever accepted, in order."""
        return self.state.orders

    @property
    def accounts(self) -> list[str]:
        """Every account."""
        return self.state.accounts

    @property
    def refused(self) -> list[dict[str, Any]]:
        """Every refused request that named an identifier."""
        return self.state.refused

    # --- journal ----------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Read the journal and take up every order that was still open; a window that was on ended with the process."""
        self._take_up()
        if self.state.halted is not None:
            last_e8 = dict(self.state.halted)
            self._when_settled(lambda: self.resume(lambda orders: beyond(orders, last_e8.get)))

    def _when_settled(self, work: Callable[[], None]) -> None:
        """Now, or where the log's past is to happen first, behind it."""
        if self._settlement is None or not self._settlement.is_on:
            work()
        else:
            self._settlement.afterwards = work

    def _take_up(self) -> None:
        self._life += 1
        self.state.reset()
        self._trading.forget()
        for entry in self._journal.entries():
            order = self.state.apply(entry)
            if order is not None:
                self._trading.queues.replay(order, entry)
        settled = set() if self._settlement is None else self._settlement.begin()
        asked_ms = self.state.asked_ms
        for order in self.state.waiting.values():
            if order.market not in settled:
                if order.uuid in self.state.resting[order.market]:
                    self._trading.queue(order)
                self._soon(self._fill_delay_s, self._match, order.uuid)
            elif order.uuid not in self.state.resting[order.market]:
                self._soon(self._fill_delay_s, self._match, order.uuid, asked_ms.get((order.uuid, False), 0))
            if order.is_cancelling:
                at_ms = asked_ms.get((order.uuid, True), 0) if order.market in settled else None
                self._soon(self._cancel_delay_s, self._end_cancelled, order.uuid, at_ms)

    def close(self) -> None:
        """Let nothing more happen and let go of the journal."""
        self._life += 1
        self._journal.close()

    def _reopen(self) -> None:
        logger.error("the journal cannot be written; going back to what the disk has")
        self._take_up()

    def die_at_next_write(self, share: float) -> None:
        """Kill this process when it next writes its journal, after this share of the bytes (a fault)."""
        self._journal.die_at_next_write(share)

    async def settled(self) -> None:
        """Wait until everything that was done so far is on the disk; raises `OSError` where it is undone instead."""
        await self._journal.synced()

    def _record(self, entries: Sequence[Entry]) -> None:
        """Journal, apply, and tell the owners once it is stored; raises `OSError` where the disk refuses."""
        queues = self._trading.queues
        if self._settlement is not None:
            entries = self._settlement.marked(entries)
        self._journal.append(*(entry | queues.journalled(entry.get("u", "")) for entry in entries))
        for entry in entries:
            order = self.state.apply(entry)
            if order is not None:
                self._tell(order, entry)
                if entry["e"] == "order":
                    self._soon(self._fill_delay_s, self._match, order.uuid)

    def _soon(self, delay_s: float, work: Callable[[str], None], order_uuid: str, at_ms: int | None = None) -> None:
        """Have it done a moment from now, or after this time of a market whose past is read again."""
        life = self._life

        def due() -> None:
            if life == self._life:
                work(order_uuid)

        if at_ms is None or self._settlement is None:
            self._later(delay_s, due)
        else:
            self._settlement.clock.at(at_ms + round(delay_s * 1000), due)

    def open_account(self, account: str, balances: Mapping[str, int]) -> None:
        """Make an account with deposits (currency -> atoms); again only deposits."""
        entries: list[Entry] = [] if account in self.accounts else [{"e": "account", "a": account}]
        entries += [{"e": "deposit", "a": account, "c": currency, "n": atoms} for currency, atoms in balances.items()]
        if entries:
            self._record(entries)

    # --- new orders ---------------------------------------------------------------------------------------------

    def accept(self, account: str, body: Mapping[str, Any]) -> Order:
        """Take a new order; the answer is `wait`, fills follow. Raises `OrderRefused`, the identifier burned or not."""
        identifier = self._admission.unused_identifier(account, body.get("identifier"))
        try:
            order = self._admission.order(account, body, self.smp_default)
        except OrderRefused as refusal:
            self._burn(account, identifier, refusal.name, is_burned=self.burn_refused_identifiers)
            raise
        self._record([order_entry(order)])
        return self.orders[order.uuid]

    def check(self, account: str, body: Mapping[str, Any]) -> Order:
        """Everything that is checked before an order exists; raises `OrderRefused`."""
        self._admission.unused_identifier(account, body.get("identifier"))
        return self._admission.order(account, body, self.smp_default)

    def refuse(self, account: str, body: Mapping[str, Any], name: str, *, is_burned: bool | None) -> OrderRefused:
        """Refuse on purpose (a fault); burns as told, or as the exchange is switched."""
        try:
            identifier = self._admission.unused_identifier(account, body.get("identifier", body.get("new_identifier")))
        except OrderRefused as refusal:
            return refusal
        burned = self.burn_refused_identifiers if is_burned is None else is_burned
        self._burn(account, identifier, name, is_burned=burned)
        return OrderRefused(name)

    def _burn(self, account: str, identifier: str, name: str, *, is_burned: bool) -> None:
        if identifier:
            self._record([{"e": "refused", "a": account, "i": identifier, "n": name, "b": is_burned}])

    # --- look-ups and cancels -----------------------------------------------------------------------------------

    def _is_hidden(self, order: Order) -> bool:
        return self.hidden_until_ms.get(order.uuid, 0) > self.now_ms()

    def find(self, account: str, order_uuid: str | None, identifier: str | None) -> Order:
        """One order of the account; the uuid wins. Raises `order_not_found`, also while a look-up lags."""
        found = order_uuid or self.state.identifiers.get((account, identifier or ""))
        order = self.orders.get(found or "")
        if order is None or order.account != account or self._is_hidden(order):
            raise OrderRefused("order_not_found")
        return order

    def find_named(self, account: str, order_uuid: object, identifier: object) -> Order:
        """As `find`, by what a request names; raises `invalid_parameter` where that is nothing or no text."""
        names = [name for name in (order_uuid, identifier) if name is not None]
        if not names or not all(isinstance(name, str) and name for name in names):
            raise OrderRefused("invalid_parameter", "uuid 또는 identifier 가 필요합니다.")
        return self.find(account, cast("str | None", order_uuid), cast("str | None", identifier))

    def of(self, account: str) -> Iterator[Order]:
        """The account's visible orders, newest first."""
        return (order for order in reversed(self.state.by_account[account]) if not self._is_hidden(order))

    def waiting(self, account: str) -> Iterator[Order]:
        """The account's visible orders that have not ended, newest first."""
        return (
            order
            for order in reversed(self.state.waiting.values())
            if order.account == account and not self._is_hidden(order)
        )

    def cancel(self, order: Order) -> None:
        """Accept a cancel; the order ends a moment later unless a fill comes first. Raises `order_not_found`."""
        if order.state != "wait":
            raise OrderRefused("order_not_found")
        self.cancel_all([order])

    def cancel_all(self, orders: Iterable[Order]) -> None:
        """Accept the cancel of orders that wait, all of them or none."""
        asked = [order for order in orders if not order.is_cancelling]
        if asked:
            self._record([{"e": "cancelling", "u": order.uuid} for order in asked])
        for order in asked:
            self._soon(self._cancel_delay_s, self._end_cancelled, order.uuid)

    def replace(self, order: Order, body: Mapping[str, Any]) -> Order:
        """Accept a cancel and an order to take its place; gives the new one, which exists when the cancel is done."""
        identifier = self._admission.unused_identifier(order.account, body.get("new_identifier"))
        try:
            wanted = replacing_request(order, body)
            new = self._admission.order(order.account, wanted, self.smp_default, freed=order.locked)
        except OrderRefused as refusal:
            self._burn(order.account, identifier, refusal.name, is_burned=self.burn_refused_identifiers)
            raise
        self._record([replacing_entry(order, new, body)])
        self._soon(self._cancel_delay_s, self._end_cancelled, order.uuid)
        return new

    # --- what comes later ---------------------------------------------------------------------------------------

    def _match(self, order_uuid: str) -> None:
        try:
            self._trading.match(self.orders[order_uuid])
        except OSError:
            logger.exception("the journal cannot be written; order %s is tried again", order_uuid)
            self._soon(_RETRY_SECONDS, self._match, order_uuid)

    def _end_cancelled(self, order_uuid: str) -> None:
        order = self.state.waiting.get(order_uuid)
        if order is None:
            return
        new = self._admission.replacement(order)
        try:
            self._record([end_entry(order, self.now_ms()), *([] if new is None else [order_entry(new)])])
        except OSError:
            logger.exception("the journal cannot be written; the cancel of %s is tried again", order_uuid)
            self._soon(_RETRY_SECONDS, self._end_cancelled, order_uuid)

    def on_frame(self, frame: Frame) -> None:
        """Let resting orders see a new book or trade."""
        self._trading.on_frame(frame)
        settlement = self._settlement
        if settlement is not None and settlement.is_due(frame) and (mark := settlement.mark(frame.market)) is not None:
            try:
                self._record([mark])
            except OSError:
                logger.exception("the journal cannot be written; how far %s has come is kept later", frame.market)

    def halt(self, last_e8: Mapping[str, int] | None = None) -> None:
        """Match nothing until `resume`, also over a restart; with the markets' last prices."""
        try:
            self._record([{"e": "halted", "p": dict(last_e8 or {})}])
        except OSError:
            logger.exception("the journal cannot be written; a restart would not know of the window")
            self.state.halted = dict(last_e8 or {})

    def resume(self, left_behind: Callable[[Iterable[Order]], list[Order]]) -> None:
        """End at once those that it picks of all waiting orders, then match again."""
        try:
            ends = [end_entry(order, self.now_ms()) for order in left_behind(self.state.waiting.values())]
            self._record([*ends, {"e": "resumed"}])
        except OSError:
            logger.exception("the journal cannot be written; matching begins later")
            self._later(_RETRY_SECONDS, partial(self.resume, left_behind))
            return
        self._trading.resume()

    # --- what is told ---------------------------------------------------------------------------------------------

    def _tell(self, order: Order, entry: Entry) -> None:
        """Keep messages as things are now and send them once they are on the disk."""
        kind = entry["e"]
        is_left = order.remaining_lots > 0 or order.remaining_total > 0
        told = {"order": "wait", "fill": "trade", "end": order.state, "prevented": "prevented" if is_left else ""}
        if not (state := told.get(kind, "")) or not self.listeners:
            return
        now_ms = self.now_ms()
        fill = Fill(*entry["f"]) if kind == "fill" else None
        currencies = (order.quote, order.base)
        body = order_views.my_order(order, state, now_ms, fill)
        asset = order_views.my_asset(self.ledger, order.account, currencies, str(uuid.uuid4()), now_ms)
        for listener in self.listeners:
            self._journal.after(partial(listener, order.account, "myOrder", order.market, body))
            self._journal.after(partial(listener, order.account, "myAsset", order.market, asset))

    def truth(self) -> list[dict[str, Any]]:
        """Every order ever accepted, in order, with what it would have got at worst and at best of its queue."""
        bounds = self._trading.queues.bounds
        return [order_views.truth_row(seq, order, bounds(order)) for seq, order in enumerate(self.orders.values())]

    def balances(self) -> list[dict[str, str]]:
        """What every account holds, to the last digit."""
        money = order_views.money
        return [
            {"account": account, "currency": currency, "balance": money(held.available), "locked": money(held.locked)}
            for (account, currency), held in self.ledger.holdings.items()
        ]

    def unsettled(self) -> list[dict[str, Any]]:
        """Stretches of market time in which orders waited and nothing was recorded."""
        return unsettled_rows(self.state.holes)

    def fills(self) -> list[dict[str, Any]]:
        """Every fill, with time and name of the record it happened on and its order's bounds; money in atoms."""
        bounds = self._trading.queues.bounds
        return [
            {"order": order.uuid, "market": order.market} | fill._asdict() | order_views.bounds_row(bounds(order))
            for order in self.orders.values()
            for fill in order.fills
        ]
