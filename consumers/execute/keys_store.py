"""Keys, armed accounts and venues in the executor's own database; the statements fit SQLite and PostgreSQL.

`keys_keeper` uses it inside the journal's transactions, so that what changed and what is told of it become durable
together; the command line's verbs use it beside a running executor (`keys_verbs`). It never opens a box.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

from consumers.execute.journal_store import Database

_COLUMNS = (
    "box_id, account, pocket, key_id, state, reason, sealed, public_key_id, access_key, expires_ms, deposited_ms,"
    " checked_ms, warned_days"
)
IN_USE = ("waiting", "taken", "blocked")
"""States of keys whose boxes are kept."""


class KeyRow(NamedTuple):
    """A deposited key as it stands; nothing in it can be used without the private key."""

    box_id: str
    account: str
    pocket: str
    key_id: str
    state: str
    reason: str
    sealed: str
    public_key_id: str
    access_key: str
    expires_ms: int | None
    deposited_ms: int
    checked_ms: int
    warned_days: int | None


class ArmedRow(NamedTuple):
    """An account that somebody armed on this host."""

    account: str
    armed_ms: int
    by: str
    mark: str


class KeyStore:
    """Every method is one transaction, or part of the one that is open."""

    def __init__(self, transaction: Callable[[], AbstractContextManager[Database]]) -> None:
        self.transaction = transaction

    def row(self, box_id: str) -> KeyRow | None:
        """A key by the name of its box."""
        rows = self._rows("WHERE box_id = ?", box_id)
        return rows[0] if rows else None

    def rows(self, *states: str) -> list[KeyRow]:
        """The keys in these states, or all, in the order they were deposited."""
        if not states:
            return self._rows("")
        return self._rows(f"WHERE state IN ({','.join('?' * len(states))})", *states)

    def of(self, pocket: str, *states: str) -> list[KeyRow]:
        """The keys of a pocket."""
        return [row for row in self.rows(*states) if row.pocket == pocket]

    def add(self, row: KeyRow) -> None:
        """A new key."""
        with self.transaction() as db:
            marks = ",".join("?" * len(row))
            db.execute(f"INSERT INTO exchange_key({_COLUMNS}) VALUES ({marks})", row)  # noqa: S608 - constants

    def put(self, row: KeyRow) -> None:
        """Write what changed; a key that is not in use any more loses its box."""
        with self.transaction() as db:
            db.execute(
                "UPDATE exchange_key SET state = ?, reason = ?, expires_ms = ?, checked_ms = ?, warned_days = ?"
                " WHERE box_id = ?",
                (row.state, row.reason, row.expires_ms, row.checked_ms, row.warned_days, row.box_id),
            )
            if row.state not in IN_USE:
                db.execute("UPDATE exchange_key SET sealed = '' WHERE box_id = ?", (row.box_id,))

    def seal_anew(self, box_id: str, sealed: str, public_key_id: str) -> None:
        """Another box with the same content takes a key's place."""
        with self.transaction() as db:
            db.execute(
                "UPDATE exchange_key SET sealed = ?, public_key_id = ? WHERE box_id = ? AND sealed <> ''",
                (sealed, public_key_id, box_id),
            )

    def known_order(self, pocket: str) -> str:
        """The newest order of a pocket that the exchange accepted; empty for none."""
        with self.transaction() as db:
            rows = db.execute(
                "SELECT uuid FROM intent WHERE pocket = ? AND uuid <> '' ORDER BY seq DESC LIMIT 1", (pocket,)
            ).fetchall()
        return str(rows[0][0]) if rows else ""

    # --- live

    def arm(self, row: ArmedRow) -> None:
        """Arm an account."""
        with self.transaction() as db:
            db.execute("DELETE FROM armed WHERE account = ?", (row.account,))
            db.execute("INSERT INTO armed(account, armed_ms, by, mark) VALUES (?, ?, ?, ?)", row)

    def disarm(self, account: str) -> bool:
        """Take it back; False where it was not armed."""
        with self.transaction() as db:
            return bool(db.execute("DELETE FROM armed WHERE account = ?", (account,)).rowcount)

    def armed(self) -> list[ArmedRow]:
        """Every armed account."""
        with self.transaction() as db:
            rows = db.execute("SELECT account, armed_ms, by, mark FROM armed ORDER BY account").fetchall()
        return [ArmedRow(*row) for row in rows]

    def set_venue(self, account: str, venue: str) -> None:
        """Note where an account trades."""
        with self.transaction() as db:
            db.execute("DELETE FROM venue WHERE account = ?", (account,))
            db.execute("INSERT INTO venue(account, venue) VALUES (?, ?)", (account, venue))

    def venues(self) -> dict[str, str]:
        """Where each account trades."""
        with self.transaction() as db:
            return {str(row[0]): str(row[1]) for row in db.execute("SELECT account, venue FROM venue").fetchall()}

    def _rows(self, where: str, *values: str) -> list[KeyRow]:
        statement = f"SELECT {_COLUMNS} FROM exchange_key {where} ORDER BY deposited_ms, box_id"  # noqa: S608 - constants
        with self.transaction() as db:
            return [KeyRow(*row) for row in db.execute(statement, values).fetchall()]
