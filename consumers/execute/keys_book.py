"""The keys in use as rows: in memory for reading, in the journal for good, and what is told of every change.

`keys_keeper` decides, this writes: a change and its `KeyTold` become durable in one transaction. It opens no box.
"""

import logging
from collections.abc import Callable

from consumers.execute.journal import Journal
from consumers.execute.keys_store import IN_USE, KeyRow, KeyStore
from consumers.execute.keys_words import words_of
from streams.messages import KeyTold

logger = logging.getLogger(__name__)

_WAS_USED = frozenset({"taken", "blocked", "replaced", "removed"})


class KeyBook:
    """One thread writes, others may read."""

    def __init__(self, journal: Journal, wall_ms: Callable[[], int]) -> None:
        self._journal = journal
        self._wall_ms = wall_ms
        self.store = KeyStore(journal.transaction)
        rows = self.store.rows()
        self._rows = {row.box_id: row for row in rows if row.state in IN_USE}
        self._had = {row.pocket for row in rows if row.state in _WAS_USED}

    def rows(self) -> list[KeyRow]:
        """Every key whose box is kept, oldest first."""
        return list(self._rows.values())

    def of(self, pocket: str, *states: str) -> list[KeyRow]:
        """Those of a pocket in these states, or all."""
        return [row for row in self.rows() if row.pocket == pocket and (not states or row.state in states)]

    def now(self, box_id: str) -> KeyRow | None:
        """A key as it stands; None where its box is not kept any more."""
        return self._rows.get(box_id)

    def ever_had(self, pocket: str) -> bool:
        """Whether a deposited key is, or ever was, in use for a pocket."""
        return pocket in self._had

    def add(self, row: KeyRow) -> None:
        """A new key, not checked yet."""
        self.store.add(row)
        self._rows[row.box_id] = row

    def save(self, row: KeyRow) -> None:
        """Write what nobody needs to be told."""
        self.store.put(row)
        if row.state in IN_USE:
            self._rows[row.box_id] = row
        else:
            self._rows.pop(row.box_id, None)

    def change(self, row: KeyRow, state: str, reason: str = "") -> KeyRow:
        """Write and tell, together."""
        row = row._replace(state=state, reason=reason)
        with self._journal.transaction():
            self.save(row)
            self.tell(row, state, reason)
        if state in _WAS_USED:
            self._had.add(row.pocket)
        logger.info("key %s of %s: %s", row.key_id, row.pocket, f"{state} ({reason})" if reason else state)
        return row

    def tell(self, row: KeyRow, state: str, reason: str = "") -> None:
        """Tell without writing."""
        self._journal.tell([told_of(row, state, reason, self._wall_ms())])


def told_of(row: KeyRow, state: str, reason: str, event_ms: int) -> KeyTold:
    """What people are told of a key."""
    return KeyTold(
        account=row.account,
        pocket=row.pocket,
        key_id=row.key_id,
        state=state,  # type: ignore[arg-type]  # the states of a row are a part of those that are told
        reason=reason,
        text=words_of(reason),
        access_key=row.access_key,
        expires_ms=row.expires_ms,
        box_id=row.box_id,
        event_ms=event_ms,
    )
