"""What the executor's own journal says of an order; read beside the executor, never written.

Called by `lineage`. Where the journal cannot be reached from here (another machine) the log alone speaks.
"""

from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from streams.messages import OrderIntent

_READ = msgspec.json.Decoder(OrderIntent)
_INTENT = ("state", "attempt", "uuid", "topic", "partition", "offset", "append_ms", "payload")
_ATTEMPT = ("identifier", "number", "state", "burn", "uuid", "executed_quantity", "executed_funds", "paid_fee")
_FILL = ("fill_id", "uuid", "price", "quantity", "funds", "fee")
_NAMES = (("intent", "intent_id"), ("attempt", "identifier"), ("attempt", "uuid"), ("fills", "fill_id"))
"""Under what an order may be asked for."""


class OrderJournal:
    """The journal of one run folder; every question is answered with nothing where there is none."""

    def __init__(self, home: Path, database: str = "") -> None:
        """`database` is the address of a PostgreSQL database where the journal is not a file of the run folder."""
        path = home / "db" / "execution.sqlite"
        url = f"sqlite:///file:{path}?mode=ro&uri=true" if path.exists() else ""
        if database:
            url = make_url(database).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        self._engine = create_engine(url, poolclass=NullPool) if url else None

    def intent_of(self, asked: str) -> str:
        """The intent that an intent id, an identifier, an order's id at the exchange or a fill's id belongs to."""
        for table, column in _NAMES:
            rows = self._rows(f"SELECT intent_id FROM {table} WHERE {column} = :value LIMIT 1", asked)  # noqa: S608 - constants
            if rows:
                return str(rows[0][0])
        return ""

    def intent(self, intent_id: str) -> OrderIntent | None:
        """The decision as it was journalled."""
        rows = self._rows("SELECT payload FROM intent WHERE intent_id = :value", intent_id)
        return _READ.decode(bytes(rows[0][0])) if rows else None

    def told(self, intent_id: str) -> dict[str, Any] | None:
        """State, attempts and fills as the journal has them; None where it does not know the intent."""
        columns = ", ".join(f'"{name}"' for name in _INTENT[:-1])
        rows = self._rows(f"SELECT {columns} FROM intent WHERE intent_id = :value", intent_id)  # noqa: S608 - constants
        if not rows:
            return None
        return {
            **dict(zip(_INTENT, rows[0], strict=False)),
            "attempts": self._named("attempt", _ATTEMPT, intent_id, "number"),
            "fills": self._named("fills", _FILL, intent_id, "fill_id"),
        }

    def _named(self, table: str, columns: tuple[str, ...], intent_id: str, order: str) -> list[dict[str, Any]]:
        statement = f"SELECT {', '.join(columns)} FROM {table} WHERE intent_id = :value ORDER BY {order}"  # noqa: S608 - constants
        return [dict(zip(columns, row, strict=True)) for row in self._rows(statement, intent_id)]

    def _rows(self, statement: str, value: str) -> list[tuple[Any, ...]]:
        if self._engine is None:
            return []
        try:
            with self._engine.connect() as connection:
                return [tuple(row) for row in connection.execute(text(statement), {"value": value})]
        except SQLAlchemyError:  # it is not reached from here, or has no such table yet
            return []
