"""One random sequence of operations, given to the real exchange and to the slow oracle, compared after every operation.

Called by `matching`. Raises `Mismatch` with the seed and the operation's number, which repeat it exactly.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from decimal import Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow, localcontext
from typing import Any

from producers.sandbox.refusals import OrderRefused
from producers.verify.comparing import check_everything, compare
from producers.verify.operations import ACCOUNTS, BAD_REQUESTS, Draw
from producers.verify.twins import Mismatch, Twins, integer
from producers.verify.wishes import Wish

EXACT = Context(prec=80, traps=[Inexact, DivisionByZero, InvalidOperation, Overflow])


class Run:
    """A sequence of operations on both exchanges."""

    def __init__(self, seed: int, counts: Counter[str]) -> None:
        self._draw = draw = Draw(seed)
        self._counts = counts
        self._twins = Twins(draw)
        self._used: list[tuple[str, str]] = []

    def run(self, operations: int) -> None:
        """Do and compare; raises `Mismatch`."""
        with localcontext(EXACT):
            for account in ACCOUNTS:
                self._deposit(account, is_first=True)
            for market in self._draw.markets:
                self._book(market)
            for number, name in enumerate(self._draw.operations(operations)):
                try:
                    self._do(name)
                    compare(self._twins)
                except Mismatch as error:
                    raise Mismatch(f"operation {number} ({name}): {error}") from None
            check_everything(self._twins)
            self._twins.count_outcomes(self._counts)

    # --- operations -----------------------------------------------------------------------------------------------

    def _do(self, name: str) -> None:
        r = self._draw.random
        plain: dict[str, Callable[[], None]] = {
            "deposit": lambda: self._deposit(self._draw.account()),
            "book": lambda: self._book(self._draw.market()),
            "trade": self._trade,
            "advance": lambda: self._twins.advance(r.choice((1, 5, 10, 30, 31, 61))),
            "cancel": self._cancel,
            "cancel_and_new": self._cancel_and_new,
            "cancel many": self._cancel_many,
            "cancel unknown": self._cancel_unknown,
            "lost writes": self._lost_writes,
            "same identifier": self._same_identifier,
            "restart": self._restart,
            "disk full": self._disk_full,
            "test": lambda: self._test(self._draw.order("limit")),
        }
        if name in plain:
            self._counts[name] += 1
            plain[name]()
        elif name == "bad request":
            what = r.choice(BAD_REQUESTS)
            self._counts[f"bad request: {what}"] += 1
            self._create(self._draw.bad_request(what))
        else:
            self._counts[name] += 1
            self._create(self._draw.order(name))

    def _deposit(self, account: str, *, is_first: bool = False) -> None:
        r = self._draw.random
        amounts: dict[str, Decimal] = {}
        for market in self._draw.markets:
            quote, base = market.split("-")
            amounts[quote] = Decimal(r.choice((5_000_000, 20_000_000) if is_first else (0, 5_000, 2_000_000)))
            if quote == "BTC":
                amounts[quote] /= 100_000_000
            worth = Decimal(r.choice((3_000_000, 10_000_000) if is_first else (0, 300_000, 2_000_000)))
            worth = worth if quote == "KRW" else worth / 100_000_000
            amounts.setdefault(base, worth * 10**8 // Decimal(self._draw.markets[market]) / 10**8)
        atoms = {currency: integer(amount, 20) for currency, amount in amounts.items()}
        self._twins.exchange.open_account(account, atoms)
        for currency, amount in amounts.items():
            self._twins.oracle.deposit(account, currency, amount)

    def _book(self, market: str) -> None:
        self._twins.advance(1)  # two books of a market never have one time here
        bids, asks = self._draw.book(market)
        self._twins.show(market, bids, asks)

    def _trade(self) -> None:
        self._twins.advance(1)  # and no trade has the time of a book
        market = self._draw.market()
        price, size, is_buy = self._draw.trade(market)
        if price > 0:
            self._twins.trade(market, price, size, is_buy=is_buy)

    def _create(self, body: Mapping[str, Any]) -> None:
        account = self._draw.account()
        if identifier := body.get("identifier"):
            self._used.append((account, str(identifier)))
        wanted = self._twins.oracle.create(account, body)
        try:
            order = self._twins.exchange.accept(account, body)
        except OrderRefused as refusal:
            self._judge(refusal, wanted, body)
        else:
            self._judge(None, wanted, body)
            self._twins.know(order.uuid, self._twins.oracle.wishes[-1])

    def _judge(self, refusal: OrderRefused | None, wanted: set[str], body: object) -> None:
        if refusal is None and wanted:
            raise Mismatch(f"accepted although {wanted}: {body}")
        if refusal is not None:
            self._counts[f"refused: {refusal.name}"] += 1
            if refusal.name not in wanted:
                raise Mismatch(f"refused with {refusal.name}, expected {wanted or 'an order'}: {body}")

    def _test(self, body: Mapping[str, Any]) -> None:
        account = self._draw.account()
        wanted = self._twins.oracle.reasons(account, body)
        try:
            self._twins.exchange.check(account, body)
        except OrderRefused as refusal:
            self._judge(refusal, wanted, body)
        else:
            self._judge(None, wanted, body)

    def _recent(self) -> tuple[str, Wish] | None:
        known = [pair for pair in self._twins.pairs[-8:] if pair[0] in self._twins.exchange.orders]
        return self._draw.random.choice(known) if known else None

    def _cancel(self) -> None:
        pair = self._recent()
        if pair is None:
            return
        uuid, wish = pair
        wanted = self._twins.oracle.cancel(wish)
        try:
            self._twins.exchange.cancel(self._twins.exchange.find(wish.account, uuid, None))
        except OrderRefused as refusal:
            self._judge(refusal, wanted, uuid)
        else:
            self._judge(None, wanted, uuid)

    def _cancel_and_new(self) -> None:
        r = self._draw.random
        pair = self._recent()
        if pair is None:
            return
        uuid, old = pair
        kind = r.choice(("limit", "limit", "limit", "limit ioc", "post_only", "market" if not old.is_buy else "price"))
        body = self._draw.order(kind, old.market, "bid" if old.is_buy else "ask")
        if "volume" in body and r.random() < 0.3:
            body["volume"] = "remain_only"
        if identifier := body.get("identifier"):
            self._used.append((old.account, str(identifier)))
        wanted, new = self._twins.oracle.replace(old, body)
        names = {
            "ord_type": "new_ord_type", "price": "new_price", "volume": "new_volume", "identifier": "new_identifier",
            "time_in_force": "new_time_in_force", "smp_type": "new_smp_type",
        }  # fmt: skip
        try:
            asked = {names[name]: value for name, value in body.items() if name in names}
            order = self._twins.exchange.replace(self._twins.exchange.orders[uuid], asked)
        except OrderRefused as refusal:
            self._judge(refusal, wanted, body)
        else:
            self._judge(None, wanted, body)
            assert new is not None
            self._twins.know(order.uuid, new)

    def _cancel_many(self) -> None:
        account, market, count = self._draw.account(), self._draw.market(), self._draw.random.randint(1, 5)
        orders = [order for order in self._twins.exchange.waiting(account) if order.market == market]
        wishes = self._twins.oracle.waiting(account, market)
        if [order.uuid for order in orders] != [self._uuid_of(wish) for wish in wishes]:
            raise Mismatch(f"{account} waits for {orders}, expected {wishes}")
        self._twins.exchange.cancel_all(orders[:count])
        for wish in wishes[:count]:
            self._twins.oracle.cancel(wish)

    def _uuid_of(self, wish: Wish) -> str:
        return next(uuid for uuid, one in self._twins.pairs if one is wish)

    def _cancel_unknown(self) -> None:
        names = [("beta" if wish.account == "alpha" else "alpha", uuid) for uuid, wish in self._twins.pairs[-3:]]
        for account, uuid in [("alpha", "no-such-order"), *names]:
            try:
                self._twins.exchange.find(account, uuid, None)
            except OrderRefused:
                continue
            raise Mismatch(f"{account} found {uuid}")

    def _same_identifier(self) -> None:
        if not self._used:
            return
        account, identifier = self._draw.random.choice(self._used)
        body = self._draw.order("limit") | {"identifier": identifier}
        is_used = (account, identifier) in self._twins.oracle.used
        if not is_used:  # a refused request that burned nothing
            return
        try:
            self._twins.exchange.accept(account, body)
        except OrderRefused as refusal:
            self._judge(refusal, {"duplicated_identifier"}, body)
        else:
            raise Mismatch(f"{identifier} of {account} was used twice")

    def _restart(self) -> None:
        self._twins.restart()
        check_everything(self._twins)

    def _lost_writes(self) -> None:
        """Requests, and fills, that could not be stored: the exchange is again as it was before them."""
        self._twins.journal.hold()
        for _ in range(self._draw.random.randint(1, 3)):
            try:
                self._twins.exchange.accept(self._draw.account(), self._draw.order("limit") | {"identifier": "lost"})
            except OrderRefused:
                self._counts["lost writes: refused"] += 1
        for uuid, wish in self._twins.live[-1:]:
            if wish.state == "wait":
                self._twins.exchange.cancel(self._twins.exchange.orders[uuid])
        if not self._twins.is_shared:  # what is taken from a book of our own stays taken
            self._twins.advance_unstored(self._draw.fill_delay_ms)
        self._twins.journal.lose()
        self._twins.oracle.restart()
        check_everything(self._twins)

    def _disk_full(self) -> None:
        """Nothing may change where the journal cannot be written."""
        self._twins.journal.is_full = True
        try:
            account, body = self._draw.account(), self._draw.order("limit")
            if not self._twins.oracle.reasons(account, body):
                _must_fail(lambda: self._twins.exchange.accept(account, body))
            waiting = [uuid for uuid, wish in self._twins.live if wish.state == "wait" and not wish.is_cancelling]
            if waiting:
                _must_fail(lambda: self._twins.exchange.cancel(self._twins.exchange.orders[waiting[-1]]))
        finally:
            self._twins.journal.is_full = False


def _must_fail(call: Callable[[], object]) -> None:
    try:
        call()
    except OSError:
        return
    raise Mismatch("it was done although the journal could not be written")
