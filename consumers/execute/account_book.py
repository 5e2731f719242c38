"""What the journal says of one account for the executor's own limits: ledgers, open buys, orders of the day, losses.

`limits.RiskGate` asks it right before an order is sent; nothing in it is kept in memory, so a restart changes nothing.
"""

from collections.abc import Callable
from decimal import Decimal, localcontext

import msgspec

from consumers.execute.journal import Journal
from consumers.execute.journal_rows import MANUAL, ledger_of
from consumers.execute.limits import Held, Marks, OpenBuy
from streams.messages import AccountSettings, OrderIntent, encode

OPEN = ("SENDING", "UNKNOWN", "RETRY", "ACKED", "LOST")
DAY_MS = 86_400_000
KOREA_MS = 9 * 3_600_000

_decode_intent = msgspec.json.Decoder(OrderIntent).decode
_decode_settings = msgspec.json.Decoder(AccountSettings).decode


class AccountBook:
    """The journal as a `limits.Book`; `wall_ms` says which day it is."""

    def __init__(self, journal: Journal, wall_ms: Callable[[], int]) -> None:
        self._journal = journal
        self._wall_ms = wall_ms

    def ledgers(self, account: str) -> list[Held]:
        """All that an account ever bought and sold here, by strategy and market."""
        with self._journal.transaction() as db:
            rows = db.execute(
                "SELECT market, bought, sold, spent, earned, strategy FROM held WHERE account = ?"
                " ORDER BY market, strategy",
                (account,),
            ).fetchall()
        return [
            Held(market, Decimal(bought), Decimal(sold), Decimal(spent), Decimal(earned), strategy == MANUAL)
            for market, bought, sold, spent, earned, strategy in rows
        ]

    def open_buys(self, intent: OrderIntent) -> list[OpenBuy]:
        """The other buys of an intent's account that may still execute, and those that wait to be sent before it."""
        found: list[OpenBuy] = []
        with self._journal.transaction() as db, localcontext(prec=50):
            rows = db.execute(
                "SELECT payload FROM intent WHERE account = ? AND side = 'buy' AND intent_id NOT IN (?, ?)"  # noqa: S608 - question marks
                f" AND (state IN ({','.join('?' * len(OPEN))})"
                " OR (state = 'NEW' AND seq < (SELECT seq FROM intent WHERE intent_id = ?))) ORDER BY seq",
                (intent.account, intent.id, intent.replaces, *OPEN, intent.id),
            ).fetchall()
            for row in rows:
                other = _decode_intent(row[0])
                total = other.funds if other.funds is not None else (other.price or 0) * (other.quantity or Decimal(0))
                done = sum((one.executed_funds for one in self._journal.attempts_of(other.id)), Decimal(0))
                left = max(total - done, Decimal(0))
                found.append(OpenBuy(other.id, other.market, left, is_manual=ledger_of(other) == MANUAL))
        return found

    def sent_today(self, account: str) -> int:
        """Orders sent for an account since 00:00 in Korea, by our own clock."""
        midnight_ms = self._day() * DAY_MS - KOREA_MS
        with self._journal.transaction() as db:
            rows = db.execute(
                "SELECT COUNT(*) FROM intent WHERE account = ? AND append_ms >= ? AND attempt > 0",
                (account, midnight_ms),
            ).fetchall()
        return int(rows[0][0])

    def marks(self, account: str, profit: Decimal) -> Marks:
        """Take note of an account's profit, and tell what losses are measured from."""
        day = str(self._day())
        with self._journal.transaction() as db:
            rows = db.execute("SELECT day, start, peak FROM equity WHERE account = ?", (account,)).fetchall()
            known = rows[0] if rows else ("", "0", str(profit))
            start = Decimal(known[1]) if known[0] == day else profit
            marks = Marks(start, max(Decimal(known[2]), profit))
            if (day, str(marks.start), str(marks.peak)) != tuple(known):
                db.execute(
                    "INSERT INTO equity(account, day, start, peak) VALUES (?, ?, ?, ?) ON CONFLICT (account) DO UPDATE"
                    " SET day = excluded.day, start = excluded.start, peak = excluded.peak",
                    (account, day, str(marks.start), str(marks.peak)),
                )
        return marks

    def settings(self) -> list[AccountSettings]:
        """The newest settings of every account that were kept."""
        with self._journal.transaction() as db:
            rows = db.execute("SELECT payload FROM account ORDER BY account").fetchall()
        return [_decode_settings(row[0]) for row in rows]

    def keep(self, settings: AccountSettings) -> None:
        """Keep an account's newest settings over a restart."""
        with self._journal.transaction() as db:
            db.execute(
                "INSERT INTO account(account, payload) VALUES (?, ?)"
                " ON CONFLICT (account) DO UPDATE SET payload = excluded.payload",
                (settings.account, encode(settings)),
            )

    def _day(self) -> int:
        return (self._wall_ms() + KOREA_MS) // DAY_MS
