"""`observator verify nightly`: what the night would say of three recorded days, two of them with something planted.

Called by the command line and tests. Parity and the daily report run as they do every night; the one must find the
changed code, the other the wrong clock, each with its first record, and the clean day must raise no alarm.
"""

import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

from consumers.report import orders, verdict
from consumers.report.command_line import keep, text_of
from consumers.report.made_days import DAYS, MadeDays
from consumers.report.page import page
from consumers.report.split import CAUSES
from consumers.verify.session import verify_session
from infra.figures import result_of
from streams.history import LogHistory

SECONDS, QUICK_SECONDS = 600, 90
MARKETS, QUICK_MARKETS = 6, 3


def verify_nightly(*, quick: bool = False) -> dict[str, object]:
    """Make the days, run the night on each; passes where both plants are found by name and nothing else is."""
    seconds, markets = (QUICK_SECONDS, QUICK_MARKETS) if quick else (SECONDS, MARKETS)
    with tempfile.TemporaryDirectory(prefix="observator-nightly-") as folder:
        return verified(MadeDays(Path(folder), seconds=seconds, markets=markets), seconds, markets)


def verified(made: MadeDays, seconds: int, markets: int) -> dict[str, object]:
    """The night on each of the made days, and what it must find."""
    began = time.monotonic()
    history = LogHistory(made.log)
    days = {day: night(history, made, day) for day in DAYS}
    planted = made.planted
    found = {
        "clean day without alarm": _is_clean(days[DAYS[0]]),
        "changed code found by parity": days[DAYS[1]]["parity"]["verdict"] == "different",
        "changed code: first record named": _place_of_parity(days[DAYS[1]]) in planted["code"].places[:markets],
        "changed code told by the report": days[DAYS[1]]["report"]["verdict"] == verdict.NO,
        "wrong clock found by the report": bool(days[DAYS[2]]["report"]["clock"]),
        "wrong clock: first record named": _place_of_clock(days[DAYS[2]]) == planted["clock"].places[0],
        "no clock alarm without one": not any(days[day]["report"]["clock"] for day in DAYS[:2]),
        "parts add up to the whole": all(_adds_up(one["report"]) for one in days.values()),
    }
    figures: dict[str, float] = {name: float(value) for name, value in found.items()}
    figures |= {f"orders, day {number}": len(days[day]["report"]["orders"]) for number, day in enumerate(DAYS, 1)}
    figures["records"] = sum(one["report"]["records"] for one in days.values())
    figures["seconds"] = round(time.monotonic() - began, 1)
    conditions = {
        "days": ", ".join(DAYS), "market seconds per day": seconds, "markets": markets,
        "changed code, first record": _place_of_parity(days[DAYS[1]]),
        "wrong clock, first record": _place_of_clock(days[DAYS[2]]),
    }  # fmt: skip
    return result_of("nightly", figures, conditions, passed=all(found.values()))


def night(history: LogHistory, made: MadeDays, day: str) -> dict[str, Any]:
    """Parity and report of one day, kept in the run folder as every night."""
    parity = verify_session(history, made.settings, "log", day)
    report = orders.report(history, made.settings, day)
    folder = made.settings.home / "reports"
    keep(folder / f"report-{day}.json", text_of(report))
    keep(folder / f"report-{day}.html", page(report))
    conditions: Any = parity["conditions"]
    return {"parity": {"verdict": conditions["verdict"], "differences": parity["differences"]}, "report": report}


def _is_clean(one: dict[str, Any]) -> bool:
    return (one["parity"]["verdict"], one["report"]["verdict"]) == ("equal", verdict.YES)


def _place_of_parity(one: dict[str, Any]) -> str:
    for difference in one["parity"]["differences"]:
        if place := difference.get("place"):
            return f"{place['topic']}/{place['partition']}/{place['offset']}"
    return ""


def _place_of_clock(one: dict[str, Any]) -> str:
    rows = one["report"]["clock"]
    return str(min(rows, key=lambda row: row["append_ms"])["first"]) if rows else ""


def _adds_up(report: dict[str, Any]) -> bool:
    rows = [*report["orders"], *report["difference"], *report["by_ledger"]]
    return all(sum(Decimal(row[name]) for name in CAUSES) == Decimal(row["total"]) for row in rows)
