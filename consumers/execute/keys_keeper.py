"""Keeps the deposited keys: opens them into memory only, has the exchange check them, rotates, watches their end.

A `KeyRing` for the executor's gateways; `keys_reader` brings what people command, in a thread of its own. A key is used
after the exchange has proven what it may do and not before; a new key takes an old one's place in one step, so that
every request finds one of the two. Nothing here may log a key or put one into a record.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Protocol

from consumers.execute.journal import Journal
from consumers.execute.keyring import ExchangeKey, KeyRing
from consumers.execute.keys_book import KeyBook
from consumers.execute.keys_check import Asking, Checked
from consumers.execute.keys_content import BadBox, Content, check_names, opened
from consumers.execute.keys_store import KeyRow
from consumers.execute.keys_words import KeyReason
from infra.errors import ExchangeUnavailable
from infra.secrets import Secret, masked
from infra.secrets_box import CannotOpen, box_id, keep_pair, read_pairs
from streams.messages import KeyCheckRequested, KeyDeposited, KeyRemoved

logger = logging.getLogger(__name__)

DAY_MS = 86_400_000
WARN_DAYS = (1, 7, 14)
AGAIN_MS = 2_000
"""A key that could not be checked, because the exchange does not answer, is asked for again after this."""
EVERY_MS = {"waiting": 0, "blocked": 60_000, "taken": DAY_MS}
"""How long after a check the next one is due."""


class Asker(Protocol):
    """Opens one key's questions to the exchange."""

    def __call__(self, pocket: str, access_key: str, secret_key: Secret) -> Asking:
        """Questions of one key."""


class KeyKeeper:
    """The ring. `files` gives the keys of pockets that never had a deposited one (the sandbox exchange's own)."""

    def __init__(self, home: Path, journal: Journal, files: KeyRing, ask: Asker, wall_ms: Callable[[], int]) -> None:
        self._home = home
        self._files = files
        self._ask = ask
        self._wall_ms = wall_ms
        self._journal = journal
        self._due_ms: dict[str, int] = {}
        self._asked: set[str] = set()
        self._held: dict[str, ExchangeKey] = {}
        keep_pair(home)
        self._pairs = read_pairs(home)
        self.book = KeyBook(journal, wall_ms)
        self.news = Event()
        """Set when a key came, changed or went."""
        for row in self.book.rows():
            if row.state == "taken":
                self._hold(row)

    # --- the ring

    def key_of(self, pocket: str) -> ExchangeKey | None:
        """The pocket's key, checked; a pocket that ever had a deposited one never falls back to a file."""
        held = self._held.get(pocket)
        return held if held is not None or self.book.ever_had(pocket) else self._files.key_of(pocket)

    def refused(self, pocket: str, reason: str) -> None:
        """The exchange refuses the key: it is asked what is wrong before the key is put away."""
        if not self.book.ever_had(pocket):
            self._files.refused(pocket, reason)
            return
        logger.warning("the exchange refuses the key of %s (%s): it is checked", pocket, reason)
        for row in self.book.of(pocket, "taken"):
            self._due_ms[row.box_id] = 0

    def is_checked(self, pocket: str) -> bool:
        """Whether the pocket's key was deposited, is checked, and has not run out."""
        now_ms = self._wall_ms()
        return any(row.expires_ms is None or row.expires_ms > now_ms for row in self.book.of(pocket, "taken"))

    # --- commands: each is carried out inside a transaction of `keys_reader`, no exchange is asked

    def on_deposited(self, message: KeyDeposited) -> None:
        """Take a box in: open it, hold the names inside against those outside, keep it sealed until it is checked."""
        try:
            name = box_id(message.sealed)
            content = self._looked_into(message)
        except (BadBox, CannotOpen) as error:
            self._refuse(message, error.reason if isinstance(error, BadBox) else KeyReason.UNREADABLE_BOX)
            return
        row = KeyRow(
            box_id=name,
            account=message.account,
            pocket=message.pocket,
            key_id=message.key_id,
            state="waiting",
            reason="",
            sealed=message.sealed,
            public_key_id=message.public_key_id,
            access_key=masked(content.access_key),
            expires_ms=None,
            deposited_ms=self._wall_ms(),
            checked_ms=0,
            warned_days=None,
        )
        self.book.add(row)

    def _looked_into(self, message: KeyDeposited) -> Content:
        """What a new box holds, where it is what it says outside; raises `BadBox`, `CannotOpen`."""
        if self.book.store.row(box_id(message.sealed)) is not None:
            raise BadBox(KeyReason.REPLAYED)
        self._pairs = read_pairs(self._home)
        if message.public_key_id != self._pairs[0].id:  # a pair that was made anew counts from that moment on
            raise BadBox(KeyReason.OTHER_PUBLIC_KEY)
        content, _ = self._open(message.sealed, message.public_key_id)
        check_names(message, content)
        return content

    def _refuse(self, message: KeyDeposited, reason: KeyReason) -> None:
        """A box that is not taken in leaves nothing but this word."""
        logger.warning("a key for %s is refused: %s", message.pocket, reason)
        try:
            name = box_id(message.sealed)
        except CannotOpen:
            name = ""
        names = (name, message.account, message.pocket, message.key_id)
        self.book.tell(KeyRow(*names, "refused", reason, "", "", "", None, 0, 0, None), "refused", reason)

    def on_removed(self, message: KeyRemoved) -> None:
        """Erase a pocket's key of that name, whatever its state."""
        for row in self.book.of(message.pocket):
            if (row.account, row.key_id) == (message.account, message.key_id):
                self.book.change(row, "removed")
                self._drop(row)

    def on_check_requested(self, message: KeyCheckRequested) -> None:
        """Check a pocket's keys next, and tell what was found even where nothing changed."""
        for row in self.book.of(message.pocket):
            if row.account == message.account:
                self._due_ms[row.box_id] = 0
                self._asked.add(row.box_id)

    # --- the exchange's word

    def tick(self) -> None:
        """Do what is due: first and daily checks, keys that the exchange refused, warnings before the end."""
        for row in self.book.rows():
            self._warn(row)
            due_ms = self._due_ms.get(row.box_id, row.checked_ms + EVERY_MS[row.state])
            if self._wall_ms() >= due_ms:
                self._check(row.box_id)

    def _check(self, name: str) -> None:
        """Ask the exchange, and act by its answer; no answer leaves everything as it is."""
        row = self.book.store.row(name)  # from the database: it may have been sealed anew meanwhile
        if row is None or not row.sealed:
            return
        try:
            content, secret = self._open(row.sealed, row.public_key_id)
            with self._ask(row.pocket, content.access_key, secret) as asking:
                checked = asking.check(self._wall_ms())
                if checked.reason is None and row.state == "waiting" and not self._is_same_pocket(row, checked, asking):
                    checked = Checked(KeyReason.OTHER_POCKET, checked.expires_ms)
        except BadBox as error:
            self._put_away(row._replace(checked_ms=self._wall_ms()), error.reason)
        except ExchangeUnavailable as error:
            self._postpone(row, error)
        else:
            row = row._replace(checked_ms=self._wall_ms(), expires_ms=checked.expires_ms or row.expires_ms)
            self._due_ms.pop(name, None)
            if checked.reason is not None:
                self._put_away(row, checked.reason)
            else:
                self._take(row, ExchangeKey(content.access_key, secret.reveal()))

    def _is_same_pocket(self, row: KeyRow, checked: Checked, asking: Asking) -> bool:
        """A key that replaces another one must belong to the same pocket: else orders under way could not be found."""
        before = self._held.get(row.pocket)
        if before is not None and before.access_key in checked.keys:
            return True
        known = self.book.store.known_order(row.pocket)
        return asking.knows_order(known) if known else before is None

    def _postpone(self, row: KeyRow, error: ExchangeUnavailable) -> None:
        self._due_ms[row.box_id] = self._wall_ms() + AGAIN_MS
        if row.state == "waiting" and not row.reason:
            logger.warning("the key of %s could not be checked yet: %s", row.pocket, error)
            self.book.change(row, "waiting", KeyReason.NOT_CHECKED)
        elif row.box_id in self._asked:
            self._asked.discard(row.box_id)
            self.book.tell(row, row.state, KeyReason.NOT_CHECKED)

    def _take(self, row: KeyRow, key: ExchangeKey) -> None:
        """The key is good: from here on it is the pocket's, and the one before it is erased."""
        is_asked = row.box_id in self._asked
        self._asked.discard(row.box_id)
        if row.state == "taken" and self._held.get(row.pocket) == key:
            self.book.save(row)
            if is_asked:
                self.book.tell(row, "taken")
        else:
            with self._journal.transaction():
                row = self.book.change(row, "taken")
                for other in self.book.of(row.pocket, "taken", "blocked"):
                    if other.box_id != row.box_id:
                        self.book.change(other, "replaced")
            self._held[row.pocket] = key
            self.news.set()
        self._warn(row)

    def _put_away(self, row: KeyRow, reason: KeyReason) -> None:
        """A new key that is not good is erased; one that was in use is kept, but not used until it is good again."""
        is_asked = row.box_id in self._asked
        self._asked.discard(row.box_id)
        state = "refused" if row.state == "waiting" else "blocked"
        if (row.state, row.reason) == (state, reason):
            self.book.save(row)
            if is_asked:
                self.book.tell(row, state, reason)
            return
        self.book.change(row, state, reason)
        self._drop(row)

    def _drop(self, row: KeyRow) -> None:
        """Out of memory, where it was in use."""
        if row.state == "taken":
            self._held.pop(row.pocket, None)
            self.news.set()

    # --- the end of a key

    def _warn(self, row: KeyRow) -> None:
        """Tell once each at 14, 7 and 1 days before a key's end; a key that has run out is put away."""
        if row.expires_ms is None or row.state != "taken":
            return
        left_ms = row.expires_ms - self._wall_ms()
        if left_ms <= 0:
            self._put_away(row, KeyReason.EXPIRED)
            return
        reached = next((days for days in WARN_DAYS if left_ms <= days * DAY_MS), None)
        if reached is None or (row.warned_days is not None and row.warned_days <= reached):
            return
        row = row._replace(warned_days=reached)
        with self._journal.transaction():
            self.book.save(row)
            self.book.tell(row, "expiring", KeyReason.EXPIRES_SOON)
        logger.warning("the key %s of %s runs out within %d days", row.key_id, row.pocket, reached)

    # --- boxes

    def _hold(self, row: KeyRow) -> None:
        try:
            content, secret = self._open(row.sealed, row.public_key_id)
        except BadBox as error:
            self.book.change(row, "blocked", error.reason)
            return
        self._held[row.pocket] = ExchangeKey(content.access_key, secret.reveal())

    def _open(self, sealed: str, public_key_id: str) -> tuple[Content, Secret]:
        """What is in a box; a pair that was made meanwhile is read from its file. Raises `BadBox`."""
        if all(pair.id != public_key_id for pair in self._pairs):
            self._pairs = read_pairs(self._home)
        pair = next((pair for pair in self._pairs if pair.id == public_key_id), None)
        if pair is None:
            raise BadBox(KeyReason.OTHER_PUBLIC_KEY)
        return opened(pair, sealed)
