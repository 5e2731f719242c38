"""Looks for somebody else's hand in a pocket and writes what it finds: external coins and orders, paused accounts.

The executor calls `look` when it has reconciled a pocket and again every while. A pause goes out once, through the
journal's outbox, and holds over restarts until `resume`; entries of a paused account are refused in `desk`.
"""

import logging
from collections.abc import Collection, Iterable
from decimal import Decimal, localcontext

import msgspec

from consumers.execute.interference import Finding, Ledger, Stake, check, ended_elsewhere, pauses
from consumers.execute.journal import Journal
from consumers.execute.journal_rows import MANUAL
from consumers.execute.venue import Order, Venue, is_burning
from streams.messages import AccountPaused, OrderIntent

logger = logging.getLogger(__name__)

MOVING = ("SENDING", "UNKNOWN", "RETRY", "ACKED", "LOST")
LOOK_SOON_S = 2.0
_decode_intent = msgspec.json.Decoder(OrderIntent).decode
ANYTHING = "*"
"""Stands for a currency: a person has accepted whatever the pocket holds when it is looked at next."""


class Watch:
    """What was seen of one pocket. What pauses must be seen twice, because the exchange tells holdings late."""

    def __init__(self, journal: Journal, pocket: str, instance: str, every_s: float = 30.0) -> None:
        self._journal = journal
        self._pocket = pocket
        self._instance = instance
        self._seen: set[tuple[str, str, str]] = set()
        self._every_s = self.next_s = every_s
        """When to look again: soon where something was seen once that would stop an account."""

    def look(self, venue: Venue, event_ms: int) -> list[Finding]:
        """Compare once and write what is new; raises `ExchangeUnavailable`. Empty where our own orders moved."""
        before = stakes_of(self._journal, self._pocket)
        holdings, orders = venue.holdings(), venue.open_orders()
        if stakes_of(self._journal, self._pocket) != before:
            return []
        known = {one.identifier: self._journal.attempt(one.identifier) for one in orders}
        ours = frozenset(name for name, attempt in known.items() if attempt is not None)
        still = {
            attempt.intent_id
            for one in orders
            if (attempt := known[one.identifier]) is not None and attempt.executed_quantity == one.executed_quantity
        }
        stakes = stakes_of(self._journal, self._pocket, still)
        beside = self._beside()
        is_accepted = beside.pop(ANYTHING, None) is not None
        if is_accepted and any(stake.is_moving for stake in stakes):
            return []
        ledger = Ledger(stakes, ours, self._instance, beside)
        findings = check(holdings, orders, ledger)
        certain = [] if is_accepted else self._seen_twice(findings)
        is_soon = len(pauses(findings)) > len(pauses(certain))
        self.next_s = min(LOOK_SOON_S, self._every_s) if is_soon else self._every_s
        with self._journal.transaction():
            self._note_coins(findings, event_ms, takes_all=is_accepted)
            self._note_orders(findings, orders, event_ms)
            for account, finding in pauses(certain).items():
                pause(self._journal, self._pocket, account, finding, event_ms)
        return findings

    def _seen_twice(self, findings: Iterable[Finding]) -> list[Finding]:
        now = {(one.kind, one.account, one.text): one for one in findings}
        certain = [one for key, one in now.items() if key in self._seen]
        self._seen = set(now)
        return certain

    def _beside(self) -> dict[str, Decimal]:
        with self._journal.transaction() as db:
            rows = db.execute(
                "SELECT currency, quantity FROM foreign_coin WHERE pocket = ?", (self._pocket,)
            ).fetchall()  # fmt: skip
        return {row[0]: Decimal(row[1]) for row in rows}

    def _note_coins(self, findings: Iterable[Finding], event_ms: int, *, takes_all: bool) -> None:
        """Keep what lies beside ours. What an account is to be paused for is kept only once a person accepted it."""
        paused = {one.subject for one in findings if one.kind in {"coins-missing", "coins-moved"}}
        with self._journal.transaction() as db:
            if takes_all:
                db.execute("DELETE FROM foreign_coin WHERE pocket = ? AND currency = ?", (self._pocket, ANYTHING))
            for finding in findings:
                is_coin = finding.kind in {"external-coins", "coins-missing"}
                if not is_coin or (finding.subject in paused and not takes_all):
                    continue
                write_beside(self._journal, self._pocket, finding.subject, finding.quantity, event_ms)
                logger.warning("%s: %s", self._pocket, finding.text)

    def _note_orders(self, findings: Iterable[Finding], orders: Iterable[Order], event_ms: int) -> None:
        external = {one.subject: one.text for one in findings if one.kind == "external-order"}
        for order in orders:
            text = external.get(order.uuid)
            if text and self._journal.add_external(order.uuid, order.identifier, order.market, event_ms):
                logger.warning("%s: %s", self._pocket, text)


def stakes_of(journal: Journal, pocket: str, still: Collection[str] = ()) -> list[Stake]:
    """What every account of a pocket has here, by the journal; `still`: open orders that have not moved."""
    marks = ",".join("?" * len(MOVING))
    with journal.transaction() as db, localcontext(prec=50):
        rows = db.execute(
            "SELECT account, market, strategy, bought, sold FROM held h WHERE EXISTS (SELECT 1 FROM intent i"
            " WHERE i.account = h.account AND i.market = h.market AND i.pocket = ?)",
            (pocket,),
        ).fetchall()
        moving = db.execute(
            f"SELECT account, market, intent_id, state FROM intent WHERE pocket = ? AND state IN ({marks})",  # noqa: S608 - question marks
            (pocket, *MOVING),
        ).fetchall()
        moving = [row for row in moving if row[3] != "ACKED" or row[2] not in still]
        found = {(row[0], row[1]): Stake(row[0], row[1], Decimal(0), is_moving=True) for row in moving}
        for account, market, strategy, bought, sold in rows:
            one, more = (
                found.get((account, market), Stake(account, market, Decimal(0))),
                Decimal(bought) - Decimal(sold),
            )
            more_manual = more if strategy == MANUAL else Decimal(0)
            found[account, market] = one._replace(held=one.held + more - more_manual, manual=one.manual + more_manual)
    return [found[place] for place in sorted(found)]


def write_beside(journal: Journal, pocket: str, currency: str, quantity: Decimal, event_ms: int) -> None:
    """Keep how much of a coin lies beside ours."""
    with journal.transaction() as db:
        db.execute(
            "INSERT INTO foreign_coin(pocket, currency, quantity, seen_ms) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (pocket, currency) DO UPDATE SET quantity = excluded.quantity, seen_ms = excluded.seen_ms",
            (pocket, currency, str(quantity), event_ms),
        )


def pause(journal: Journal, pocket: str, account: str, finding: Finding, event_ms: int) -> bool:
    """Stop an account's entries and tell it, in one transaction; False where it is stopped already."""
    with journal.transaction() as db:
        cursor = db.execute(
            "INSERT INTO paused(account, reason, text, event_ms) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (account, finding.kind, finding.text, event_ms),
        )
        if cursor.rowcount != 1:
            return False
        journal.tell(
            [AccountPaused(account=account, pocket=pocket, reason=finding.kind, text=finding.text, event_ms=event_ms)]
        )
    logger.error("%s takes no entries until a person has looked: %s", account, finding.text)
    return True


def note_end(journal: Journal, intent: OrderIntent, order: Order, event_ms: int) -> None:
    """Stop the account where a strategy's order has been ended by another hand than ours."""
    if intent.purpose == "manual" or is_burning(order, intent):
        return
    finding = ended_elsewhere(intent, order, is_cancelled_by_us=_is_ended_by_us(journal, intent))
    if finding is not None:
        pause(journal, intent.pocket, intent.account, finding, event_ms)


def _is_ended_by_us(journal: Journal, intent: OrderIntent) -> bool:
    """Whether its cancellation was asked for here, or another order of ours takes its place."""
    with journal.transaction() as db:
        if db.execute("SELECT 1 FROM cancel WHERE intent_id = ? LIMIT 1", (intent.id,)).fetchall():
            return True
        rows = db.execute(
            "SELECT payload FROM intent WHERE account = ? AND market = ? AND side = ?"
            " AND seq > (SELECT seq FROM intent WHERE intent_id = ?)",
            (intent.account, intent.market, intent.side, intent.id),
        ).fetchall()
    return any(_decode_intent(row[0]).replaces == intent.id for row in rows)


def paused_of(journal: Journal, account: str) -> str:
    """Why an account is paused, in words; empty: it is not."""
    with journal.transaction() as db:
        rows = db.execute("SELECT text FROM paused WHERE account = ?", (account,)).fetchall()
    return str(rows[0][0]) if rows else ""


def resume(journal: Journal, account: str, event_ms: int) -> bool:
    """A person has looked: the account may enter again, and what the exchange holds at the next look is accepted."""
    with journal.transaction() as db:
        if db.execute("DELETE FROM paused WHERE account = ?", (account,)).rowcount != 1:
            return False
        accept_holdings(journal, account, event_ms)
    return True


def accept_holdings(journal: Journal, account: str, event_ms: int) -> None:
    """Whatever the account's pockets hold when they are looked at next is right: a person says so."""
    with journal.transaction() as db:
        rows = db.execute("SELECT DISTINCT pocket FROM intent WHERE account = ?", (account,)).fetchall()
        for row in rows:
            write_beside(journal, row[0], ANYTHING, Decimal(0), event_ms)
