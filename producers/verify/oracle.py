"""A slow exchange in decimals and lists, written from Upbit's documentation and not from our matching or ledger.

Called by `sequence`, which gives it the same requests, books and trades as the real exchange. It keeps no balance:
what an account holds is computed anew from its deposits and its orders each time. It must import nothing of
`streams.market`.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from producers.verify.slow_market import Offer, SlowMarket
from producers.verify.wishes import LARGEST, LOT, SMALLEST, ZERO, Wish, tick_of, total_of, wrong_combination


class Met(NamedTuple):
    """One meeting of an incoming order."""

    price: Decimal
    maker: Wish | None
    traded: Decimal = ZERO
    prevented: Decimal = ZERO
    prevented_of_maker: Decimal = ZERO


class Oracle:
    """The slow exchange. `is_shared`: the market is ours, accounts meet and nobody queues; else each is alone in it."""

    def __init__(
        self, fill_delay_ms: int, cancel_delay_ms: int, *, is_burning: bool, is_shared: bool, smp_default: str
    ) -> None:
        self.now_ms = 0
        self.wishes: list[Wish] = []
        """Every order that came into being, in order."""
        self.deposits: list[tuple[str, str, Decimal]] = []
        self.used: list[tuple[str, str]] = []
        self._fill_delay_ms = fill_delay_ms
        self._cancel_delay_ms = cancel_delay_ms
        self._is_burning = is_burning
        self._market = SlowMarket(is_shared=is_shared)
        self._smp_default = smp_default
        self._agenda: list[tuple[int, str, Wish]] = []
        self._late: list[Wish] = []
        """Orders that found no book yet."""

    # --- accounts -------------------------------------------------------------------------------------------------

    def holdings(self, account: str) -> dict[str, tuple[Decimal, Decimal]]:
        """Currency -> (free, locked), from nothing but deposits and orders."""
        total: dict[str, Decimal] = {}
        locked: dict[str, Decimal] = {}
        for owner, currency, amount in self.deposits:
            if owner == account:
                total[currency] = total.get(currency, ZERO) + amount
        for wish in self.wishes:
            if wish.account != account:
                continue
            if wish.fills:
                sign = 1 if wish.is_buy else -1
                total[wish.base] = total.get(wish.base, ZERO) + sign * wish.executed
                total[wish.quote] = total.get(wish.quote, ZERO) - sign * wish.funds - wish.paid_fee
            if wish.state == "wait":
                locked[wish.lock_currency] = locked.get(wish.lock_currency, ZERO) + wish.locked
        return {
            currency: (amount - locked.get(currency, ZERO), locked.get(currency, ZERO))
            for currency, amount in total.items()
        }

    def deposit(self, account: str, currency: str, amount: Decimal) -> None:
        """Money comes in."""
        self.deposits.append((account, currency, amount))

    # --- the market ---------------------------------------------------------------------------------------------

    def show(self, market: str, bids: list[Offer], asks: list[Offer]) -> None:
        """A new book: resting orders that the opposite side has reached are filled at their own price."""
        self._market.show(market, bids, asks)
        for is_buy in (True, False):
            resting = self.resting(market, is_buy=is_buy)
            pool = self._market.whole(market, asks=is_buy)
            for wish in resting:
                if not self._market.is_shared:
                    pool = self._market.visible(wish.account, market, asks=is_buy)
                self._fill_maker(wish, self._crossed(wish, pool))
        late = [wish for wish in self._late if wish.market == market]
        self._late = [wish for wish in self._late if wish.market != market]
        for wish in late:
            self._enter(wish)

    def _crossed(self, wish: Wish, pool: list[Offer]) -> Decimal:
        """What a resting order gets of the other side; it is taken out of the pool, or noted as gone."""
        got = ZERO
        for i, (price, size) in enumerate(pool):
            part = min(size, wish.remaining - got)
            if not wish.accepts(price, price):
                break
            if part <= 0:
                continue
            got += part
            pool[i] = (price, size - part)
            if not self._market.is_shared:
                self._market.take(wish, price, part)
        return got

    def trade(
        self, market: str, price: Decimal, size: Decimal, *, is_buy: bool, granted: Callable[[Wish], Decimal]
    ) -> None:
        """Others trade: resting orders on the other side at that price or better share the trade's size.

        Where real orders stand before ours in a queue, `granted` says what an order at the very price got of it.
        """
        if not self._market.has(market):
            return
        left: dict[str, Decimal] = {}
        for wish in self.resting(market, is_buy=not is_buy):
            owner = "" if self._market.is_shared else wish.account
            room = min(left.setdefault(owner, size), wish.remaining)
            if wish.price == price and not self._market.is_shared:
                room = min(room, granted(wish))
            elif not (wish.price >= price if wish.is_buy else wish.price <= price):
                continue
            left[owner] -= room
            self._fill_maker(wish, room)

    def resting(self, market: str, *, is_buy: bool) -> list[Wish]:
        """Best price first, then the order of acceptance."""
        found = [w for w in self.wishes if w.market == market and w.is_buy == is_buy and w.state == "wait"]
        found = [wish for wish in found if wish.has_entered]
        for i in range(len(found)):  # a plain insertion sort: equal prices stay in the order of acceptance
            j = i
            while j and (found[j].price > found[j - 1].price if is_buy else found[j].price < found[j - 1].price):
                found[j], found[j - 1] = found[j - 1], found[j]
                j -= 1
        return found

    def _fill_maker(self, wish: Wish, size: Decimal) -> None:
        if size > 0:
            wish.fills.append((wish.price, size, True))
            wish.end_if_empty()

    def forget(self) -> None:
        """The feed starts anew and has no book yet."""
        self._market.forget()

    # --- requests -----------------------------------------------------------------------------------------------

    def create(self, account: str, body: Mapping[str, Any]) -> set[str]:
        """A new order; gives every reason to refuse it, or accepts it and gives none."""
        identifier = str(body.get("identifier") or "")
        if (account, identifier) in self.used:
            return {"duplicated_identifier"}
        reasons = self.reasons(account, body)
        if identifier and (not reasons or self._is_burning):
            self.used.append((account, identifier))
        if not reasons:
            self._accept(Wish.of(account, body, self._smp_default))
        return reasons

    def _accept(self, wish: Wish) -> None:
        wish.state = "wait"
        self.wishes.append(wish)
        self._agenda.append((self.now_ms + self._fill_delay_ms, "enter", wish))

    def waiting(self, account: str, market: str) -> list[Wish]:
        """An account's open orders of a market, newest first."""
        found = [w for w in self.wishes if (w.account, w.market, w.state) == (account, market, "wait")]
        return found[::-1]

    def cancel(self, wish: Wish) -> set[str]:
        """Ask for an order's end; it comes a moment later."""
        if wish.state != "wait":
            return {"order_not_found"}
        if not wish.is_cancelling:
            wish.is_cancelling = True
            self._agenda.append((self.now_ms + self._cancel_delay_ms, "stop", wish))
        return set()

    def replace(self, old: Wish, body: Mapping[str, Any]) -> tuple[set[str], Wish | None]:
        """Ask for an order's end and another in its place, `body` as a request for that one."""
        identifier = str(body.get("identifier") or "")
        if (old.account, identifier) in self.used:
            return {"duplicated_identifier"}, None
        is_rest = body.get("volume") == "remain_only"
        asked = {**body, "volume": str(old.remaining)} if is_rest else body
        reasons = self.reasons(old.account, asked, freed=old.locked if old.state == "wait" else ZERO)
        if old.state != "wait" or old.is_cancelling:
            reasons = {"order_not_found"}
        if identifier and (not reasons or self._is_burning):
            self.used.append((old.account, identifier))
        if reasons:
            return reasons, None
        new = Wish.of(old.account, asked, self._smp_default)
        new.state = "asked"
        old.replacement, old.is_for_the_rest = new, is_rest
        return self.cancel(old), new

    def _stop(self, wish: Wish) -> None:
        """A cancel comes true; what takes the order's place is checked anew with what is free then."""
        new = wish.replacement
        if new is not None and wish.is_for_the_rest:
            new.volume = wish.remaining
        is_good = new is not None and not self._amount_reasons(new, wish.locked)
        wish.state = "cancel"
        if new is not None and is_good:
            self._accept(new)

    def reasons(self, account: str, body: Mapping[str, Any], freed: Decimal = ZERO) -> set[str]:
        """Every reason to refuse a request whose fields have the right form; `freed` is what will be free as well."""
        found = wrong_combination(body, self._smp_default)
        if not found and str(body["market"]).endswith("-NONE"):
            found.add("notfoundmarket")
        return found or self._amount_reasons(Wish.of(account, body, self._smp_default), freed)

    def _amount_reasons(self, wish: Wish, freed: Decimal) -> set[str]:
        side, market = "bid" if wish.is_buy else "ask", wish.market
        if not self._market.has(market):
            return {"market_offline"}
        found: set[str] = set()
        if wish.price and wish.price % tick_of(market, wish.price) != 0:
            found.add(f"invalid_price_{side}")
        bids, asks = (self._market.visible(wish.account, market, asks=is_ask) for is_ask in (False, True))
        worth = wish.total or (wish.price or (bids[0][0] if bids else ZERO)) * wish.volume
        if worth < SMALLEST[wish.quote]:
            found.add(f"under_min_total_{side}")
        if worth > LARGEST[wish.quote]:
            found.add(f"over_krw_funds_{side}")
        if wish.kind == "price" and wish.total > total_of([price * size for price, size in asks]):
            found.add("volume_too_large")
        if wish.kind == "market" and wish.volume > total_of([size for _, size in bids]):
            found.add("volume_too_large")
        if self.holdings(wish.account).get(wish.lock_currency, (ZERO, ZERO))[0] + freed < wish.locked:
            found.add(f"insufficient_funds_{side}")
        return found

    # --- time ---------------------------------------------------------------------------------------------------

    def advance(self, ms: int) -> None:
        """Let time pass: first matches and ends that fall due happen in their order."""
        until_ms = self.now_ms + ms
        while self._agenda:
            due = min(self._agenda, key=lambda row: row[0])
            if due[0] > until_ms:
                break
            self._agenda.remove(due)
            self.now_ms, what, wish = due
            if wish.state == "wait":
                (self._enter if what == "enter" else self._stop)(wish)
        self.now_ms = until_ms

    def restart(self) -> None:
        """Read what was accepted again: what was asked for is still asked for."""
        self._agenda.clear()
        self._late.clear()
        self._market.give_back()
        for wish in self.wishes:
            if wish.state == "wait":
                if not wish.has_entered:
                    self._agenda.append((self.now_ms + self._fill_delay_ms, "enter", wish))
                if wish.is_cancelling:
                    self._agenda.append((self.now_ms + self._cancel_delay_ms, "stop", wish))

    def _enter(self, wish: Wish) -> None:
        """First match: take what the other side offers, then rest or end."""
        if wish.state != "wait" or wish.has_entered:
            return
        if not self._market.has(wish.market):
            self._late.append(wish)
            return
        facing = self._facing(wish)
        if wish.rule == "post_only" and facing and wish.accepts(facing[0][0], facing[0][0]):
            wish.state = "cancel"
            return
        wish.has_entered = True
        met = self._plan(wish, facing)
        if wish.rule == "fok" and not _is_whole(wish, met):
            met = []
        for one in met:
            self._meet(wish, one)
        wish.end_if_empty()
        if wish.state == "wait" and not wish.rests:
            wish.state = "done" if wish.is_complete else "cancel"

    def _facing(self, wish: Wish) -> list[tuple[Decimal, Decimal, Wish | None]]:
        """The other side, best price first; at one price orders of users stand before the book's level."""
        facing: list[tuple[Decimal, Decimal, Wish | None]] = []
        users = self.resting(wish.market, is_buy=not wish.is_buy)
        users = [user for user in users if self._market.is_shared or user.account == wish.account]
        for price, size in self._market.visible(wish.account, wish.market, asks=wish.is_buy):
            while users and (users[0].price <= price if wish.is_buy else users[0].price >= price):
                facing.append((users[0].price, users[0].remaining, users.pop(0)))
            facing.append((price, size, None))
        return facing + [(user.price, user.remaining, user) for user in users]

    def _plan(self, wish: Wish, facing: list[tuple[Decimal, Decimal, Wish | None]]) -> list[Met]:
        """What it meets until it is empty; the quantity that money buys is cut to eight decimals."""
        met: list[Met] = []
        for price, size, maker in facing:
            gone = [(one.price, one.traded + one.prevented) for one in met]
            if wish.total:
                money = wish.total - total_of([at * part for at, part in gone])
                room = money // (price * LOT) * LOT
            else:
                room = wish.volume - total_of([part for _, part in gone])
            if room <= 0 or not wish.accepts(price, facing[0][0]):
                break
            part = min(size, room)
            if maker is None or maker.account != wish.account or wish.smp in {"", "none"}:
                met.append(Met(price, maker, traded=part))
            elif wish.smp == "cancel_maker":
                met.append(Met(price, maker, prevented_of_maker=size))
            elif wish.smp == "cancel_taker":
                met.append(Met(price, maker, prevented=room))
            else:
                met.append(Met(price, maker, prevented=part, prevented_of_maker=part))
        return met

    def _meet(self, wish: Wish, one: Met) -> None:
        if one.traded:
            wish.fills.append((one.price, one.traded, False))
            if one.maker is None:
                self._market.take(wish, one.price, one.traded)
        if one.prevented:
            wish.prevented.append((one.price, one.prevented))
        if one.maker is not None:
            if one.prevented_of_maker:
                one.maker.prevented.append((one.price, one.prevented_of_maker))
            self._fill_maker(one.maker, one.traded)
            one.maker.end_if_empty()


def _is_whole(wish: Wish, met: list[Met]) -> bool:
    """Whether a fill-or-kill gets everything: all its volume, or all but what buys no lot at the one best price."""
    if not met or any(one.prevented for one in met):
        return False
    if not wish.total:
        return total_of([one.traded for one in met]) == wish.volume
    return wish.total - total_of([one.price * one.traded for one in met]) < met[-1].price * LOT
