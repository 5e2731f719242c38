"""The bodies of `observator order ...`: everything goes through the log, nothing is sent from here.

They write to `order-requests` only, then wait for the executor's word (`RequestTold`) and hand it back. Called by the
command line alone; keys and the exchange are never touched.
"""

import secrets
import time
from decimal import Decimal
from typing import Any, NamedTuple

from consumers.execute.interference_verbs import person as person_here
from consumers.execute.requests.answers import (
    EVENTS,
    FINAL,
    REQUESTS,
    Standing,
    answer,
    decoded,
    requests_in,
    savings_in,
    tail,
    whole,
    words_on,
)
from consumers.execute.requests.check import problem_of
from consumers.execute.requests.clock import RequestClock
from consumers.execute.requests.form import (
    Estimate,
    Person,
    Typed,
    changed_request,
    description,
    estimate,
    new_request,
    priced,
)
from consumers.execute.requests.watch import Book, Watch
from consumers.execute.requests.words import sentence
from infra.errors import BadSettings
from infra.log import Log, Slot, partition_of, publish_one
from infra.settings import Settings
from streams.messages import (
    AccountSettings,
    Balance,
    Message,
    OrderRequested,
    RequestCancelled,
    RequestChanged,
    RequestTold,
    Side,
    content_id,
    encode,
)

BOOK_S = 1.5
ANSWER_S = 10.0
END_S = 20.0
BALANCES = 400
"""How many of the pocket's last records are read: every holding is told again whenever one changes."""
SHORTEST_PREFIX = 4


class Draft(NamedTuple):
    """A request before it is sent, with what a person should know."""

    request: OrderRequested
    lines: list[str]
    found: Estimate | None


class Counter:
    """The command line's side of the log."""

    def __init__(self, settings: Settings, log: Log, account: str = "") -> None:
        self._settings = settings
        self._log = log
        self._clock = RequestClock(_wall_ms, settings.feed.speed)
        self.person = self._person(account or settings.paper.account)

    def _person(self, account: str) -> Person:
        """Pocket and fee of an account, from its newest settings."""
        paper = self._settings.paper
        person = Person(account, paper.pocket, Decimal(paper.fee_percent), person_here())
        is_known = account == paper.account
        for record in whole(self._log, ["controls"]):
            message = decoded(record)
            if isinstance(message, AccountSettings) and message.account == account:
                person, is_known = person._replace(pocket=message.pocket, fee_percent=message.fee_percent), True
        if not is_known:
            raise BadSettings(f"There is no account {account!r}; --account names one of those in `controls`.")
        return person

    # --- asking

    def draft(self, side: Side, market: str, typed: Typed) -> Draft:
        """Fill the form: the request, checked by the exchange's rules, and what it will cost."""
        market = market.upper()
        watch = Watch(self._log, self._clock, time.monotonic, lambda _: {})
        try:
            book = self._book(watch, market)
            available = self._available(side, market) if typed.percent is not None else None
            now_ms = self._clock.now_ms()
            request_id = content_id("request", self.person.account, now_ms, secrets.token_hex(16))
            request = new_request(request_id, self.person, side, market, priced(typed, book), available, now_ms)
            _check(request, watch, book)
        finally:
            watch.close()
        found = estimate(request, book, self.person.fee_percent)
        return Draft(request, description(request, found), found)

    def redraft(self, request_id: str, typed: Typed) -> Draft:
        """A waiting request with changes."""
        old = self.find(request_id)
        if old.state in FINAL:
            raise BadSettings(f"The request {old.request.id} is over ({old.state}): there is nothing to change.")
        watch = Watch(self._log, self._clock, time.monotonic, lambda _: {})
        try:
            book = self._book(watch, old.request.market)
            request = changed_request(old.request, priced(typed, book), self._clock.now_ms())
            _check(request, watch, book)
        finally:
            watch.close()
        found = estimate(request, book, self.person.fee_percent)
        return Draft(request, description(request, found), found)

    def _book(self, watch: Watch, market: str) -> Book | None:
        """A fresh book, if one comes within a moment."""
        watch.follow([market])
        end_s = time.monotonic() + BOOK_S
        while (book := watch.book(market)) is None and time.monotonic() < end_s:
            watch.step()
            time.sleep(0.02)
        return book

    def _available(self, side: Side, market: str) -> Decimal | None:
        """What the pocket has of the currency that is spent."""
        quote, _, base = market.partition("-")
        currency = quote if side == "buy" else base
        slot = Slot("balances", partition_of(self.person.pocket, self._log.partitions("balances")))
        found: Decimal | None = None
        for record in tail(self._log, slot, BALANCES):
            message = decoded(record)
            if isinstance(message, Balance) and (message.pocket, message.currency) == (self.person.pocket, currency):
                found = message.available
        return found

    # --- sending and waiting

    def send(self, request: OrderRequested, *, is_change: bool = False) -> RequestTold:
        """Publish a request (or its change) and wait for the word that answers the person."""
        message: Message = request
        if is_change:
            message = RequestChanged(
                account=request.account,
                pocket=request.pocket,
                request=request,
                event_ms=request.event_ms,
                by=self.person.by,
            )
        is_now = request.at_ms is None and not request.trigger and not is_change
        wait_s = END_S + request.patience_ms / 1000 if is_now and request.order_type != "limit" else 0.0
        return self._ask(message, request.pocket, request.id, wait_s, is_now=is_now)

    def cancel(self, request_id: str) -> RequestTold:
        """Publish a cancellation and wait for the end."""
        request = self.find(request_id).request
        message = RequestCancelled(
            account=request.account,
            pocket=request.pocket,
            request_id=request.id,
            event_ms=self._clock.now_ms(),
            by=self.person.by,
        )
        return self._ask(message, request.pocket, request.id, END_S, is_now=True)

    def _ask(self, message: Message, pocket: str, request_id: str, wait_s: float, *, is_now: bool) -> RequestTold:
        slot = Slot(EVENTS, partition_of(pocket, self._log.partitions(EVENTS)))
        reader = self._log.reader({slot: self._log.bounds([slot])[slot][1]})
        try:
            publish_one(self._log, REQUESTS, pocket, encode(message))
            return answer(words_on(reader.read, request_id, ANSWER_S, wait_s), request_id, is_now=is_now)
        finally:
            reader.close()

    # --- looking

    def requests(self) -> list[Standing]:
        """The account's requests, oldest first."""
        return requests_in(self._log, self.person.account)

    def savings(self) -> dict[str, Any]:
        """What the assistant saved the account."""
        return savings_in(self._log, self.person.account)

    def find(self, request_id: str) -> Standing:
        """A request by its id or the beginning of it."""
        if len(request_id) < SHORTEST_PREFIX:
            raise BadSettings(f"Write at least {SHORTEST_PREFIX} letters of the request's id; `order list` shows it.")
        found = [one for one in self.requests() if one.request.id.startswith(request_id)]
        if len(found) != 1:
            what = "no request" if not found else f"{len(found)} requests"
            raise BadSettings(f"There is {what} of {self.person.account} with the id {request_id}: see `order list`.")
        return found[0]


def _check(request: OrderRequested, watch: Watch, book: Book | None) -> None:
    """Refuse here what the executor would refuse, with what would be valid."""
    best_bid = book.bids[0][0] if book is not None and book.bids else None
    rules, is_known = watch.rules(request.market), watch.is_known(request.market)
    problem = problem_of(request, rules, best_bid, is_known=is_known)
    if problem is None:
        return
    text = sentence(problem.reason, problem.values)
    near = watch.near(request.market) if problem.reason == "no-market" else []
    raise BadSettings(f"{text} {'There are ' + ', '.join(near) + '.' if near else ''}".rstrip())


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
