"""What is done on the executor's own host, beside it or while it is away: listing, sealing anew, arming.

Called by the command line. Each needs the executor's own database, and all but `listed` and `disarm` its private file:
whoever may read that is the executor's user on its host. Nothing here opens a box to show it.
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from consumers.execute.journal_store import Cursor, Database
from consumers.execute.keys_live import is_armed, mark_of
from consumers.execute.keys_store import ArmedRow, KeyStore
from consumers.execute.keys_words import sentence
from infra.errors import BadSettings, Stop
from infra.secrets_box import CannotOpen, locked, new_pair, put_pairs, read_pair, read_pairs, seal
from infra.settings import Settings
from infra.tables.execution_keys import KeyTable

PATIENCE_S = 10.0


@contextmanager
def beside(settings: Settings) -> Iterator[KeyStore]:
    """The keys in the executor's database, whether or not it runs; raises `Stop` where there is none yet."""
    address = settings.execute.database
    with _postgres(address) if address else _sqlite(settings.home / "db" / "execution.sqlite") as database:

        @contextmanager
        def transaction() -> Iterator[Database]:
            """One transaction; inside another one, a part of it."""
            if depth:
                yield database
                return
            depth.append(1)
            database.execute("BEGIN" if address else "BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:  # whatever it is, it goes on: nothing half-done stays
                database.execute("ROLLBACK")
                raise
            finally:
                depth.clear()

        depth: list[int] = []
        yield KeyStore(transaction)


def listed(settings: Settings, language: Literal["en", "ko"] = "en") -> list[dict[str, Any]]:
    """Every key that ever came, newest last; nothing of it but its masked access key."""
    with beside(settings) as store:
        return [
            {
                "account": row.account,
                "pocket": row.pocket,
                "key": row.key_id,
                "state": row.state,
                "reason": row.reason,
                "text": sentence(row.key_id, row.state, row.reason, language),
                "access_key": row.access_key,
                "expires_ms": row.expires_ms,
                "checked_ms": row.checked_ms or None,
            }
            for row in store.rows()
        ]


def reseal(settings: Settings) -> dict[str, Any]:
    """Make a new key pair and seal every kept key for it; the old private key is gone afterwards.

    Until the database has the new boxes both pairs stand in the file, so that a crash in between loses no key. Accounts
    are disarmed, because their marks were made with the old one.
    """
    home = settings.home
    with beside(settings) as store, locked(home):
        pairs = read_pairs(home)
        by_id = {pair.id: pair for pair in pairs}
        new = new_pair()
        put_pairs(home, [new, *pairs])
        count = 0
        with store.transaction():
            for row in store.rows():
                if row.sealed and (pair := by_id.get(row.public_key_id)) is not None:
                    with suppress(CannotOpen):  # it could not be used before either, and says so where it is listed
                        store.seal_anew(row.box_id, seal(new.public, pair.open(row.sealed)), new.id)
                        count += 1
            armed = [row.account for row in store.armed()]
            for account in armed:
                store.disarm(account)
        put_pairs(home, [new])
    return {"public_key_id": new.id, "keys": count, "disarmed": armed}


def arm(settings: Settings, account: str, typed: str, by: str) -> dict[str, Any]:
    """Arm an account for real money; `typed` is the name as a person typed it."""
    if typed != account:
        raise BadSettings(f"{typed!r} is not the account's name {account!r}: nothing was armed")
    pair = read_pair(settings.home)
    now_ms = time.time_ns() // 1_000_000
    with beside(settings) as store:
        store.arm(ArmedRow(account, now_ms, by, mark_of(pair, account, now_ms)))
        return {"account": account, "is_armed": is_armed(settings.home, store, account)}


def disarm(settings: Settings, account: str) -> dict[str, Any]:
    """Take it back."""
    with beside(settings) as store:
        return {"account": account, "was_armed": store.disarm(account), "is_armed": False}


class _Spelled:
    """A PostgreSQL connection that takes the statements of this house."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Cursor:
        """One statement."""
        found: Cursor = self._connection.execute(statement.replace("?", "%s"), values)
        return found

    def executemany(self, statement: str, values: Any) -> Cursor:
        """One statement for each row of values."""
        cursor: Cursor = self._connection.cursor()
        cursor.executemany(statement.replace("?", "%s"), values)  # type: ignore[attr-defined]  # psycopg's cursor
        return cursor


@contextmanager
def _sqlite(path: Path) -> Iterator[Database]:
    if not path.exists():
        raise Stop(f"{path} is not there: the executor makes it when it is started first (`observator up`)")
    try:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=PATIENCE_S)) as connection:
            connection.execute(f"SELECT 1 FROM {KeyTable.__tablename__} LIMIT 1")  # noqa: S608 - a constant
            yield connection
    except sqlite3.Error as error:
        raise Stop(f"{path} cannot be used ({error}): start this version's executor once") from error


@contextmanager
def _postgres(address: str) -> Iterator[Database]:
    import psycopg  # noqa: PLC0415 - only where the setting names a database
    from sqlalchemy.engine import make_url  # noqa: PLC0415 - same

    plain = make_url(address).set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        with psycopg.connect(plain, autocommit=True, connect_timeout=5) as connection:
            yield _Spelled(connection)
    except psycopg.Error as error:
        raise Stop(f"the executor's database cannot be used ({error})") from error
