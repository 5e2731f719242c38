"""Owner: consumers/views. The questions that pages ask the tables of `infra.tables.views`; they never write.

Each answers with plain dictionaries whose JSON is read.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from sqlmodel import Session, text

Row = dict[str, Any]


def _rows(session: Session, sql: str, **values: Any) -> list[Row]:
    found = session.connection().execute(text(sql), values)
    return [dict(row) for row in found.mappings()]


def _read_json(rows: list[Row], *names: str) -> list[Row]:
    for row in rows:
        for name in names:
            row[name] = json.loads(row[name]) if row.get(name) else None
    return rows


def latest_markets(session: Session, market: str | None = None) -> list[Row]:
    """All markets by name, or one: names, mid, spread, best bid and ask, `features` (values in schema order), bins."""
    return _read_json(
        _rows(
            session,
            """SELECT m.*, b.bid, b.ask, b.exchange_ms, n.korean_name, n.english_name, n.tick_size, n.minimum_total,
                      n.is_caution, n.is_warning
               FROM market m LEFT JOIN book b USING (exchange, market) LEFT JOIN market_name n USING (exchange, market)
               WHERE :market IS NULL OR m.market = :market ORDER BY m.exchange, m.market""",
            market=market,
        ),
        "features",
    )


def latest_book(session: Session, market: str, exchange: str = "upbit") -> Row | None:
    """The newest book: `levels` is `{"bid_prices", "bid_sizes", "ask_prices", "ask_sizes"}`, best level first."""
    sql = "SELECT * FROM book WHERE exchange = :exchange AND market = :market"
    rows = _read_json(_rows(session, sql, exchange=exchange, market=market), "levels")
    return rows[0] if rows else None


def recent_trades(session: Session, market: str, limit: int = 50, exchange: str = "upbit") -> list[Row]:
    """Executions by others, newest first."""
    sql = """SELECT * FROM trade WHERE exchange = :exchange AND market = :market
             ORDER BY exchange_ms DESC, trade_id DESC LIMIT :limit"""
    return _rows(session, sql, exchange=exchange, market=market, limit=limit)


def recent_signals(
    session: Session, market: str, limit: int = 200, horizon_ms: int | None = None, exchange: str = "upbit"
) -> list[Row]:
    """Forecasts, newest first, each with `outcome_mid` and `outcome_bp` once the mid at its horizon's end is known.

    `outcome_bp` is the realised log return of the mid over the horizon in basis points.
    """
    rows = _rows(
        session,
        """SELECT s.*, o.mid AS outcome_mid
           FROM signal s LEFT JOIN mid o
             ON o.exchange = s.exchange AND o.market = s.market AND o.bin_ms = s.bin_ms + s.horizon_ms
           WHERE s.exchange = :exchange AND s.market = :market
             AND (:horizon_ms IS NULL OR s.horizon_ms = :horizon_ms)
           ORDER BY s.bin_ms DESC, s.horizon_ms LIMIT :limit""",
        exchange=exchange, market=market, limit=limit, horizon_ms=horizon_ms,
    )  # fmt: skip
    for row in rows:
        outcome, mid = row["outcome_mid"], row["mid"]
        row["outcome_bp"] = math.log(outcome / mid) * 1e4 if outcome is not None and outcome > 0 and mid > 0 else None
    return rows


def latest_signals(session: Session) -> list[Row]:
    """The newest bin's forecasts of every market."""
    return _rows(
        session,
        """SELECT s.* FROM signal s JOIN (
             SELECT exchange, market, max(bin_ms) AS bin_ms FROM signal GROUP BY exchange, market
           ) USING (exchange, market, bin_ms) ORDER BY s.exchange, s.market, s.horizon_ms""",
    )


def mids(session: Session, market: str, limit: int = 300, exchange: str = "upbit") -> list[Row]:
    """The mid price per bin, oldest first."""
    sql = """SELECT bin_ms, mid FROM mid WHERE exchange = :exchange AND market = :market
             ORDER BY bin_ms DESC LIMIT :limit"""
    return _rows(session, sql, exchange=exchange, market=market, limit=limit)[::-1]


def orders(session: Session, account: str | None = None, limit: int = 100) -> list[Row]:
    """Intents with their state, newest first."""
    sql = """SELECT * FROM order_intent WHERE (:account IS NULL OR account = :account)
             ORDER BY event_ms DESC, changed_ms DESC LIMIT :limit"""
    return _rows(session, sql, account=account, limit=limit)


def fills(session: Session, account: str | None = None, limit: int = 100) -> list[Row]:
    """Fills of ours, newest first."""
    sql = """SELECT * FROM fill WHERE (:account IS NULL OR account = :account)
             ORDER BY event_ms DESC, rowid DESC LIMIT :limit"""
    return _rows(session, sql, account=account, limit=limit)


def positions(session: Session, account: str | None = None) -> list[Row]:
    """What is held, each with the newest `mid` and its unrealised result before the exit's costs (`unrealised`)."""
    return _rows(
        session,
        """SELECT p.*, m.mid, CASE WHEN m.mid IS NOT NULL
                  THEN CAST(p.quantity AS REAL) * m.mid - CAST(p.cost AS REAL) END AS unrealised
           FROM position p LEFT JOIN market m USING (exchange, market)
           WHERE (:account IS NULL OR p.account = :account) ORDER BY p.account, p.market, p.is_dust""",
        account=account,
    )


def money(session: Session) -> list[Row]:
    """All accounts: budget, free, invested, realised (net of fees), the day's forecasts and best, and `balances`."""
    accounts = _rows(session, "SELECT * FROM account ORDER BY account")
    balances = _rows(session, "SELECT * FROM balance ORDER BY pocket, currency")
    for account in accounts:
        account["balances"] = [row for row in balances if row["pocket"] == account["pocket"]]
        account["unrealised"] = sum(row["unrealised"] or 0.0 for row in positions(session, account["account"]))
    return accounts


def reasons(session: Session, day: str | None = None, account: str | None = None) -> list[Row]:
    """Why there was no entry, most frequent first, in words (`english`, `korean`; null for an unknown reason).

    `day` is a KST day, by default the newest one.
    """
    return _rows(
        session,
        """SELECT c.*, t.english, t.korean FROM reason_count c LEFT JOIN reason_text t USING (reason)
           WHERE c.day = coalesce(:day, (SELECT max(day) FROM reason_count))
             AND (:account IS NULL OR c.account = :account)
           ORDER BY c.count DESC, c.reason""",
        day=day, account=account,
    )  # fmt: skip


def vetoes(session: Session, account: str | None = None, limit: int = 100) -> list[Row]:
    """Changes of the reason per market, newest first, with the best forecast and what was needed."""
    sql = """SELECT v.*, t.english, t.korean FROM veto v LEFT JOIN reason_text t USING (reason)
             WHERE (:account IS NULL OR v.account = :account)
             ORDER BY v.event_ms DESC, v."offset" DESC LIMIT :limit"""
    return _rows(session, sql, account=account, limit=limit)


def feed_events(session: Session, limit: int = 50) -> list[Row]:
    """What happened to the sources, newest first."""
    sql = """SELECT * FROM feed_event ORDER BY received_ns DESC, "offset" DESC LIMIT :limit"""
    return _read_json(_rows(session, sql, limit=limit), "markets")


def last_checks(session: Session) -> list[Row]:
    """What the last nightly checks came to, newest first: those of the same night."""
    sql = """SELECT * FROM feed_event WHERE source = 'nightly'
             AND received_ns > (SELECT max(received_ns) FROM feed_event WHERE source = 'nightly') - 43200000000000
             ORDER BY received_ns DESC"""
    return _rows(session, sql)


def stages(session: Session) -> list[Row]:
    """Records per topic and when the last one came."""
    return _rows(session, "SELECT * FROM stage ORDER BY topic")


def offsets(session: Session) -> Mapping[tuple[str, int], int]:
    """The next offset to take per topic and partition."""
    rows = _rows(session, "SELECT topic, partition, next FROM input_offset")
    return {(row["topic"], row["partition"]): row["next"] for row in rows}
