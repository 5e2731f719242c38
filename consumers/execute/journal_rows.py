"""What stands in the executor's journal: its rows, typed, and the questions that the executor asks of them.

`journal` adds the transitions to it. Nothing here writes.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal, localcontext
from threading import RLock
from typing import Any, NamedTuple

import msgspec

from consumers.execute.attempts import Burn
from consumers.execute.journal_store import JournalFailed, Store
from consumers.execute.venue import Execution
from streams.messages import CancelIntent, Halt, OrderIntent, Purpose, content_id

BUSY = ("NEW", "RETRY", "SENDING", "UNKNOWN", "ACKED")
"""States of an intent that something is still to be done for."""


class IntentRow(NamedTuple):
    """An intent as journalled."""

    intent: OrderIntent
    state: str
    attempt: int
    uuid: str
    append_ms: int
    refusal: str
    """Name of what it was refused for; empty where it was not."""

    @property
    def purpose(self) -> Purpose:
        """What the order is for."""
        return self.intent.purpose


class AttemptRow(NamedTuple):
    """An identifier as journalled; amounts are what has been told in fills so far."""

    identifier: str
    intent_id: str
    number: int
    state: str
    burn: Burn
    uuid: str
    executed_quantity: Decimal
    executed_funds: Decimal
    paid_fee: Decimal
    epoch: int = 0


class OutboxRow(NamedTuple):
    """An event that waits to be published."""

    seq: int
    topic: str
    key: str
    payload: bytes


class Working(NamedTuple):
    """An intent at the exchange, or on its way there."""

    intent_id: str
    account: str
    purpose: Purpose
    state: str


class Held(NamedTuple):
    """What an account's strategy has of a market by the journal: all it bought, all it sold, and what its open sells
    may still sell.
    """

    bought: Decimal
    sold: Decimal
    open: Decimal


_ATTEMPT = "identifier, intent_id, number, state, burn, uuid, executed_quantity, executed_funds, paid_fee, epoch"
_decode_intent = msgspec.json.Decoder(OrderIntent).decode
_decode_cancel = msgspec.json.Decoder(CancelIntent).decode


class JournalRows:
    """The reading half of the journal."""

    _store: Store
    _mutex: RLock

    # --- intents

    def intent(self, intent_id: str) -> IntentRow | None:
        """An intent, None where it was never journalled."""
        rows = self._rows(
            "SELECT payload, state, attempt, uuid, append_ms, refusal FROM intent WHERE intent_id = ?", intent_id
        )
        return IntentRow(_decode_intent(rows[0][0]), *rows[0][1:]) if rows else None

    def newest_intent(self) -> IntentRow | None:
        """The intent that came last."""
        rows = self._rows("SELECT intent_id FROM intent ORDER BY seq DESC LIMIT 1")
        return self.intent(rows[0][0]) if rows else None

    def intents(self, *states: str, pocket: str = "") -> list[str]:
        """Ids of the intents in these states, in the order they came; of one pocket or of all."""
        rows = self._rows(
            f"SELECT intent_id FROM intent WHERE state IN ({_marks(states)}) AND (pocket = ? OR ? = '') ORDER BY seq",  # noqa: S608 - question marks
            *states, pocket, pocket,
        )  # fmt: skip
        return [row[0] for row in rows]

    def place_of(self, intent_id: str) -> tuple[str, Purpose] | None:
        """Pocket and purpose of an intent; they never change."""
        rows = self._rows("SELECT pocket, purpose FROM intent WHERE intent_id = ?", intent_id)
        return (rows[0][0], rows[0][1]) if rows else None

    def busy_pockets(self) -> list[str]:
        """Pockets for which something is still to be done."""
        rows = self._rows(f"SELECT DISTINCT pocket FROM intent WHERE state IN ({_marks(BUSY)}) ORDER BY pocket", *BUSY)  # noqa: S608 - question marks
        return [row[0] for row in rows]

    def has_doubt(self, account: str) -> bool:
        """Whether an attempt of this account is in doubt now."""
        return bool(self._rows("SELECT 1 FROM intent WHERE state = 'UNKNOWN' AND account = ? LIMIT 1", account))

    def lost(self, account: str) -> list[str]:
        """Intents of this account that the exchange accepted and does not know any more."""
        rows = self._rows("SELECT intent_id FROM intent WHERE state = 'LOST' AND account = ? ORDER BY seq", account)
        return [row[0] for row in rows]

    # --- attempts

    def attempt(self, identifier: str) -> AttemptRow | None:
        """An attempt by its identifier."""
        rows = self._rows(f"SELECT {_ATTEMPT} FROM attempt WHERE identifier = ?", identifier)  # noqa: S608 - constants
        return _attempt_row(rows[0]) if rows else None

    def attempts(self, *states: str, pocket: str = "", changed_after_ms: int = 0) -> list[AttemptRow]:
        """The attempts in these states, oldest first; of one pocket or of all."""
        rows = self._rows(
            f"SELECT {_ATTEMPT} FROM attempt WHERE state IN ({_marks(states)})"  # noqa: S608 - constants
            " AND changed_ms >= ? AND (pocket = ? OR ? = '') ORDER BY seq",
            *states, changed_after_ms, pocket, pocket,
        )  # fmt: skip
        return [_attempt_row(row) for row in rows]

    def attempts_of(self, intent_id: str) -> list[AttemptRow]:
        """All attempts of an intent, first to last."""
        rows = self._rows(f"SELECT {_ATTEMPT} FROM attempt WHERE intent_id = ? ORDER BY number", intent_id)  # noqa: S608 - constants
        return [_attempt_row(row) for row in rows]

    def given_up(self, since_ms: int, pocket: str = "") -> list[AttemptRow]:
        """Attempts that were given up and could still appear: absent since then and not burned, or lost."""
        absent = self.attempts("ABSENT", pocket=pocket, changed_after_ms=since_ms)
        return [a for a in absent if a.burn is not Burn.BURNED] + self.attempts("LOST", pocket=pocket)

    def pockets_given_up(self, since_ms: int) -> list[str]:
        """The pockets of such attempts."""
        rows = self._rows(
            "SELECT DISTINCT pocket FROM attempt WHERE (state = 'ABSENT' AND changed_ms >= ? AND burn <> 'BURNED')"
            " OR state = 'LOST' ORDER BY pocket",
            since_ms,
        )
        return [row[0] for row in rows]

    def is_sender_gone(self, attempt: AttemptRow) -> bool:
        """Whether the process that may have sent an attempt sends nothing any more, as far as it is not this one."""
        with self._mutex:
            try:
                return self._store.is_gone(attempt.epoch)
            except self._store.errors as error:
                raise JournalFailed(f"the order journal cannot be read ({error})") from error

    def new_executions(self, uuid: str, executions: Iterable[Execution]) -> list[Execution]:
        """Those of an order that are not in the journal yet, each once."""
        unique = {execution.id: execution for execution in executions}
        known = {row[0] for row in self._rows("SELECT fill_id FROM fills WHERE uuid = ?", uuid)}
        return [execution for execution in unique.values() if execution.id not in known]

    def held(self, intent: OrderIntent) -> Held:
        """What the account's strategy bought, sold and has on sale in an intent's market, by this journal alone; of an
        account that ordered from several pockets what it has in the intent's own, where that is less.

        The intent itself and the one that it replaces are not counted as on sale.
        """
        key = intent.account, ledger_of(intent), intent.market
        sums = self._rows("SELECT bought, sold FROM held WHERE account = ? AND strategy = ? AND market = ?", *key)
        bought, sold = map(Decimal, sums[0] if sums else ("0", "0"))
        every = Held(bought, sold, self._on_sale(intent))
        place = intent.account, intent.market, intent.pocket
        other = "SELECT 1 FROM intent WHERE account = ? AND market = ? AND pocket"  # each is one step in an index
        if not self._rows(f"{other} < ? LIMIT 1", *place) and not self._rows(f"{other} > ? LIMIT 1", *place):
            return every
        here = self._held_in_pocket(intent)
        return min(every, here, key=lambda one: one.bought - one.sold - one.open)

    def _held_in_pocket(self, intent: OrderIntent) -> Held:
        """The same from the fills of one pocket's orders alone."""
        rows = self._rows(
            "SELECT i.payload, f.quantity FROM fills f JOIN intent i ON i.intent_id = f.intent_id"
            " WHERE i.account = ? AND i.market = ? AND i.pocket = ?",
            intent.account, intent.market, intent.pocket,
        )  # fmt: skip
        sums = {"buy": Decimal(0), "sell": Decimal(0)}
        with localcontext(prec=50):
            for payload, quantity in rows:
                other = _decode_intent(payload)
                if ledger_of(other) == ledger_of(intent):
                    sums[other.side] += Decimal(quantity)
        return Held(sums["buy"], sums["sell"], self._on_sale(intent, intent.pocket))

    def _on_sale(self, intent: OrderIntent, pocket: str = "") -> Decimal:
        """What its ledger's open sells may still sell, those of one pocket or of all."""
        states = ("SENDING", "UNKNOWN", "RETRY", "ACKED", "LOST")
        rows = self._rows(
            "SELECT intent_id, payload FROM intent WHERE account = ? AND strategy = ? AND market = ? AND side = 'sell'"  # noqa: S608 - question marks
            f" AND state IN ({_marks(states)})",
            intent.account, intent.strategy, intent.market, *states,
        )  # fmt: skip
        on_sale = Decimal(0)
        with localcontext(prec=50):
            for intent_id, payload in rows:
                other = _decode_intent(payload)
                is_meant = ledger_of(other) == ledger_of(intent) and pocket in {"", other.pocket}
                if is_meant and intent_id not in {intent.id, intent.replaces}:
                    done = sum((a.executed_quantity for a in self.attempts_of(intent_id)), Decimal(0))
                    on_sale += max(Decimal(0), (other.quantity or Decimal(0)) - done)
        return on_sale

    def ledgers(self) -> list[tuple[str, str, str]]:
        """Account, strategy and market of everything that was ever bought or sold here."""
        rows = self._rows("SELECT account, strategy, market FROM held ORDER BY account, strategy, market")
        return [(row[0], row[1], row[2]) for row in rows]

    def left_of(self, account: str, ledger: str, market: str) -> Decimal:
        """What a ledger bought and has not sold."""
        rows = self._rows(
            "SELECT bought, sold FROM held WHERE account = ? AND strategy = ? AND market = ?", account, ledger, market
        )
        return Decimal(rows[0][0]) - Decimal(rows[0][1]) if rows else Decimal(0)

    def newest_of(self, account: str, market: str) -> OrderIntent | None:
        """The intent of an account and market that came last."""
        rows = self._rows(
            "SELECT payload FROM intent WHERE account = ? AND market = ? ORDER BY seq DESC LIMIT 1", account, market
        )
        return _decode_intent(rows[0][0]) if rows else None

    def knows_account(self, account: str) -> bool:
        """Whether an intent of this account ever came."""
        return bool(self._rows("SELECT 1 FROM intent WHERE account = ? LIMIT 1", account))

    def at_work(self) -> list[Working]:
        """The intents that are at the exchange or on their way there."""
        rows = self._rows(
            "SELECT intent_id, account, purpose, state FROM intent"
            " WHERE state IN ('SENDING', 'UNKNOWN', 'ACKED', 'LOST') ORDER BY seq"
        )
        return [Working(*row) for row in rows]

    # --- cancellations, outbox, halts, cursors

    def cancel(self, cancel_id: str) -> CancelIntent | None:
        """A cancellation that is still to be carried out."""
        rows = self._rows("SELECT payload FROM cancel WHERE cancel_id = ? AND state = 'NEW'", cancel_id)
        return _decode_cancel(rows[0][0]) if rows else None

    def cancels(self, pocket: str = "") -> list[str]:
        """Ids of the cancellations that are still to be carried out, of one pocket or of all."""
        rows = self._rows("SELECT cancel_id, payload FROM cancel WHERE state = 'NEW' ORDER BY seq")
        return [row[0] for row in rows if not pocket or _decode_cancel(row[1]).pocket == pocket]

    def unpublished(self, limit: int = 500) -> list[OutboxRow]:
        """The oldest events that wait to be published."""
        rows = self._rows(
            "SELECT seq, topic, key, payload FROM outbox WHERE published_at IS NULL ORDER BY seq LIMIT ?", limit
        )
        return [OutboxRow(*row) for row in rows]

    def seen_halts(self) -> set[str]:
        """`halt_id` of all that were read before."""
        return {row[0] for row in self._rows("SELECT id FROM halt_seen")}

    def halts(self) -> list[Halt]:
        """The newest kill switch, or end of one, of every account that ever had one."""
        rows = self._rows('SELECT account, kind, event_ms, "by" FROM halts ORDER BY account')
        return [Halt(account=row[0], kind=row[1], event_ms=row[2], by=row[3]) for row in rows]

    def cursor(self, slot: str) -> int:
        """Next offset to read of a topic that is read whole."""
        rows = self._rows("SELECT next_offset FROM cursor WHERE slot = ?", slot)
        return int(rows[0][0]) if rows else 0

    def rows(self, statement: str, *values: str | int) -> list[tuple[Any, ...]]:
        """An answer from the tables that `requests` keeps here; it asks its own questions."""
        return self._rows(statement, *values)

    def _rows(self, statement: str, *values: str | int) -> list[tuple[Any, ...]]:
        with self._mutex:
            try:
                return self._store.execute(statement, values).fetchall()
            except self._store.errors as error:
                raise JournalFailed(f"the order journal cannot be read ({error}): nothing is sent") from error


MANUAL = "|manual"
"""A person's own orders have a ledger apart: what a person buys or sells changes nothing for a strategy's exits."""


def ledger_of(intent: OrderIntent) -> str:
    """Whose ledger an order belongs to, within its account and market."""
    return MANUAL if intent.purpose == "manual" else intent.strategy


def halt_id(halt: Halt) -> str:
    """What makes two copies of a kill switch the same one, from the file or from the log."""
    return content_id("halt", halt.account, halt.kind, halt.event_ms, halt.by)


def _marks(values: Sequence[str]) -> str:
    return ",".join("?" * len(values))


def _attempt_row(row: tuple[Any, ...]) -> AttemptRow:
    identifier, intent_id, number, state, burn, uuid, quantity, funds, fee, epoch = row
    return AttemptRow(
        identifier, intent_id, number, state, Burn(burn), uuid, Decimal(quantity), Decimal(funds), Decimal(fee), epoch
    )
