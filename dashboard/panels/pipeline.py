"""How the pipeline is: freshness, records per topic, what happened to the feed. Called by fragments; reads only."""

from sqlmodel import Session

from dashboard import formats
from dashboard.markup import Cell, heading, table
from dashboard.words import Language, code_word, word
from infra.tables import view_questions as questions

FEED_ROWS = 8


def freshness(session: Session, now_ms: int, stale_ms: int, language: Language) -> list[tuple[str, str, str]]:
    """A badge that says how old the newest market data is; a warning where it is older than the feed may be."""
    found = {row["topic"]: row["last_append_ms"] for row in questions.stages(session)}
    if "orderbooks" not in found:
        return []
    age_ms = max(0, now_ms - found["orderbooks"])
    is_late = age_ms > stale_ms
    text = word("late" if is_late else "updated", language, s=f"{age_ms // 1000:,}")
    return [("freshness", "late" if is_late else "quiet", text)]


def check(session: Session, language: Language) -> list[tuple[str, str, str]]:
    """A badge where last night's look back found something wrong; what it was stands among the feed's events."""
    failed = any(row["kind"] == "check-failed" for row in questions.last_checks(session))
    return [("check", "late", word("check_failed", language))] if failed else []


def stages(session: Session, now_ms: int, language: Language) -> None:
    """Records per topic, and how long ago the last one came."""
    heading("stages", language)
    rows = [
        [
            Cell(code_word("topic", row["topic"], language)),
            Cell(f"{row['records']:,}", "number"),
            Cell(word("ago", language, s=f"{max(0, now_ms - row['last_append_ms']) // 1000:,}"), "number"),
        ]
        for row in questions.stages(session)
    ]
    table("stages", language, [word(key, language) for key in ("topic", "records", "age")], rows)


def feed(session: Session, language: Language) -> None:
    """What happened to the sources of market data, newest first."""
    heading("feed", language)
    rows = [
        [
            Cell(formats.moment(row["received_ns"] // 1_000_000)),
            Cell(code_word("kind", row["kind"], language)),
            Cell(row["text"], "text"),
        ]
        for row in questions.feed_events(session, FEED_ROWS)
    ]
    table("feed", language, [word(key, language) for key in ("time", "event", "details")], rows)
