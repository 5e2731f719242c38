"""What the journal says, in memory: accounts, balances, orders, identifiers. It changes by `apply` only.

Called by `exchange` and `trading`, live with each entry they journal and at the start with every entry read back, so
that a restart cannot know anything else than the life before it. No clock, no I/O.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from streams.market import matching
from streams.market.ledger import Ledger
from streams.market.matching import Fill, Order

STORED = (
    "uuid", "account", "market", "is_buy", "kind", "price_e8", "total", "lots", "fee_e4", "time_in_force",
    "identifier", "smp_type", "created_ms",
)  # fmt: skip

Entry = dict[str, Any]

_OF_MARKETS = frozenset({"at", "hole", "covered", "halted", "resumed"})


def order_entry(order: Order) -> Entry:
    """A new order."""
    return {"e": "order"} | {name: getattr(order, name) for name in STORED}


def fill_entry(order: Order, fill: Fill) -> Entry:
    """One execution."""
    return {"e": "fill", "u": order.uuid, "f": list(fill)}


def prevented_entry(order: Order, lots: int, price_e8: int) -> Entry:
    """Lots that met an order of the same account; a limit buy sets its own price free, others the other's price."""
    own = order.price_e8 if order.price_e8 is not None else price_e8
    return {"e": "prevented", "u": order.uuid, "n": lots, "q": lots * own * matching.NOTIONAL if order.is_buy else 0}


def end_entry(order: Order, at_ms: int) -> Entry:
    """An order's end; whether `done` or `cancel` follows from its fills."""
    return {"e": "end", "u": order.uuid, "t": at_ms}


class State:
    """Everything the exchange knows."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.accounts: list[str] = []
        self.orders: dict[str, Order] = {}
        self.by_account: defaultdict[str, list[Order]] = defaultdict(list)
        self.identifiers: dict[tuple[str, str], str | None] = {}
        """(account, identifier) -> uuid, or None where a refused request burned it."""
        self.refused: list[dict[str, Any]] = []
        self.waiting: dict[str, Order] = {}
        """Orders that have not ended, by uuid, oldest first."""
        self.resting: defaultdict[str, dict[str, Order]] = defaultdict(dict)
        """Orders that stand in the book, by market and uuid, oldest first."""
        self.replacements: dict[str, Mapping[str, Any]] = {}
        """uuid of an order that is being cancelled -> what is to take its place."""
        self.places: dict[str, Entry] = {}
        """How far each followed market had come in the log, and who stood where, at its last entry (`settle`)."""
        self.since: dict[str, list[tuple[Order, Fill]]] = {}
        """Market -> what takers got of its book at that very entry."""
        self.asked_ms: dict[tuple[str, bool], int] = {}
        """(uuid, whether it is a cancel) -> the market's time at the request."""
        self.halted: dict[str, int] | None = None
        """In a maintenance window: the last price of each market before it."""
        self.holes: list[Entry] = []
        """Stretches of market time of which nothing is known while orders waited."""

    def reset(self) -> None:
        """Know nothing; everybody who holds a part of it sees that."""
        self.ledger.holdings.clear()
        self.halted = None
        for part in (self.accounts, self.refused, self.holes):
            part.clear()
        for known in (
            self.orders, self.by_account, self.identifiers, self.waiting, self.resting, self.replacements,
            self.places, self.since, self.asked_ms,
        ):  # fmt: skip
            known.clear()

    def apply(self, entry: Mapping[str, Any]) -> Order | None:
        """Change by one entry; gives the order that it is about."""
        kind = entry["e"]
        if kind == "account":
            self.accounts.append(entry["a"])
        elif kind == "deposit":
            self.ledger.deposit(entry["a"], entry["c"], entry["n"])
        elif kind == "order":
            if "c" in entry:
                self.asked_ms[entry["uuid"], False] = entry["c"]
            return self._add(Order(**{name: entry[name] for name in STORED}))
        elif kind == "refused":
            self._refuse(entry["a"], entry["i"], entry["n"], is_burned=entry["b"])
        elif kind in _OF_MARKETS:
            self._apply_to_market(kind, entry)
        else:
            return self._change(self.orders[entry["u"]], entry)
        return None

    def _apply_to_market(self, kind: str, entry: Mapping[str, Any]) -> None:
        if kind == "at":
            self.places[entry["m"]], self.since[entry["m"]] = dict(entry), []
        elif kind == "hole":
            self.holes.append(dict(entry))
        elif kind == "covered":
            for hole in self.holes:
                hole["k"] = hole.get("k") or (hole["m"], hole["f"], hole["t"]) == (entry["m"], entry["f"], entry["t"])
        else:
            self.halted = dict(entry["p"]) if kind == "halted" else None

    def _add(self, order: Order) -> Order:
        matching.place(self.ledger, order)
        self.orders[order.uuid] = self.waiting[order.uuid] = order
        self.by_account[order.account].append(order)
        if order.identifier:
            self.identifiers[order.account, order.identifier] = order.uuid
        return order

    def _refuse(self, account: str, identifier: str, name: str, *, is_burned: bool) -> None:
        self.refused.append({"account": account, "identifier": identifier, "name": name, "is_burned": is_burned})
        if is_burned:
            self.identifiers[account, identifier] = None

    def _change(self, order: Order, entry: Mapping[str, Any]) -> Order:
        kind = entry["e"]
        if kind == "fill":
            execution = Fill(*entry["f"])
            matching.fill(self.ledger, order, execution)
            self._note_taken(order, execution)
        elif kind == "prevented":
            matching.prevent(self.ledger, order, entry["n"], entry["q"])
        elif kind == "rest":
            self.resting[order.market][order.uuid] = order
        elif kind == "cancelling":
            self._note_cancel(order, entry)
        elif kind == "replacing":
            self._note_cancel(order, entry)
            self.replacements[order.uuid] = new = entry["o"]
            if new["identifier"]:
                self.identifiers[order.account, new["identifier"]] = new["uuid"]
        else:
            self._end(order, entry["t"])
        return order

    def _note_cancel(self, order: Order, entry: Mapping[str, Any]) -> None:
        order.is_cancelling = True
        if "c" in entry:
            self.asked_ms[order.uuid, True] = entry["c"]

    def _note_taken(self, order: Order, execution: Fill) -> None:
        """Since the market's mark; what a taker got of another user's order it did not take from the book."""
        taken = self.since.get(order.market)
        if taken is None:
            return
        if not execution.is_maker:
            taken.append((order, execution))
        elif taken and (taken[-1][1].price_e8, taken[-1][1].lots) == (execution.price_e8, execution.lots):
            taken.pop()

    def _end(self, order: Order, at_ms: int) -> None:
        matching.end(self.ledger, order, at_ms)
        del self.waiting[order.uuid]
        self.replacements.pop(order.uuid, None)
        self.resting[order.market].pop(order.uuid, None)
        self.asked_ms.pop((order.uuid, False), None)
        self.asked_ms.pop((order.uuid, True), None)
