"""Opens the views database for reading only. Called by the page; creates nothing and never waits long."""

import sqlite3
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool

_WAIT_S = 2.0


def open_for_reading(path: Path) -> Engine:
    """Each session opens the file anew: a database that was missing, or is built again, is found once it is there.

    Sessions raise `sqlalchemy.exc.OperationalError` where the file is missing, locked or not ready yet.
    """

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=_WAIT_S, check_same_thread=False)

    return create_engine("sqlite://", creator=connect, poolclass=NullPool)
