"""Whether live equals replay: the word on top of a daily report, and its reasons in both languages.

Called by `consumers.report.orders`. `yes` stands only where something was compared and nothing is in doubt, and with
what was left out; what parity found in another source is not used.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from consumers.report.day import Day, Traced
from consumers.report.words import both, time_of
from consumers.verify.session_source import kept_in

YES, NO, NOT_COMPARABLE, NO_DATA = "yes", "no", "not comparable", "no data"
_DECISIONS = ("order-intents", "order-events")


class Reason(NamedTuple):
    """A text of `consumers.report.words` and what stands in it."""

    key: str
    values: dict[str, str]


def texts_of(reasons: Sequence[Reason]) -> tuple[str, str]:
    """The reasons in Korean and in English; values that are words are told in that language too."""
    pairs = []
    for key, values in reasons:
        words = {name: both(value) for name, value in values.items()}
        pairs.append(tuple(both(key, **{n: pair[i] for n, pair in words.items()})[i] for i in (0, 1)))
    return "; ".join(korean for korean, _ in pairs), "; ".join(english for _, english in pairs)


def verdict_of(found: Day, parity: Mapping[str, Any] | None, source: str) -> tuple[str, list[Reason]]:
    """The word and why: `no` where one check says so, `yes` only where nothing is in doubt."""
    if differing := _difference(found) or _difference_of(parity):
        return NO, [differing]
    if not (found.records or found.market_records or found.problems):
        return NO_DATA, [Reason("no_record", {})]
    idle = [] if found.is_traded else [Reason("nothing_traded", {"records": f"{found.market_records:,}"})]
    if doubt := _doubt(found):
        return NOT_COMPARABLE, [doubt, *idle]
    if idle and not found.is_replayed and (parity is None or parity["verdict"] == "no data"):
        return NO_DATA, idle
    if parity is None:
        return YES, [Reason("decisions_only", {"source": source}), *idle]
    is_equal = parity["verdict"] == "equal"
    return (YES, [*_left_out(parity), *idle]) if is_equal else (NOT_COMPARABLE, [_said_by(parity), *idle])


def _doubt(found: Day) -> Reason | None:
    if found.problems:
        return Reason("unread", {"text": found.problems[0]})
    return Reason("not_replayed", {"text": found.not_replayed}) if found.not_replayed else None


def is_different(traced: Traced, found: Day) -> bool:
    """Whether the replay decided otherwise than trade did."""
    return not found.not_replayed and not traced.is_equal


def _difference(found: Day) -> Reason | None:
    """What the replay decided otherwise, the first order by name; nothing is known where records of it are unread."""
    if found.not_replayed or any(text.startswith(_DECISIONS) for text in found.problems):
        return None
    orders = found.in_time()
    differing = [one for one in orders if is_different(one, found)]
    if differing:
        first = f"{differing[0].intent_id} {differing[0].place}".strip()
        return Reason("orders_differ", {"differ": str(len(differing)), "all": str(len(orders)), "first": first})
    then, again = found.vetoes["recorded"], found.vetoes["replayed"]
    counts: Counter[str] = Counter({name: again[name] - then[name] for name in {*then, *again}})
    reasons = ", ".join(f"{name} {count:+d}" for name, count in sorted(counts.items()) if count)
    return Reason("refusals_differ", {"reasons": reasons}) if reasons else None


# --- parity -----------------------------------------------------------------------------------------------------------


def _difference_of(parity: Mapping[str, Any] | None) -> Reason | None:
    if parity is None or parity["verdict"] != "different":
        return None
    line, kind = line_of((parity["differences"] or [{}])[0])
    return Reason("parity_differs", {"line": line, "kind": kind})


def line_of(difference: Mapping[str, Any]) -> tuple[str, str]:
    """A difference of parity in one line: coordinates, market and time; and its kind."""
    place = difference.get("place") or {}
    where = "/".join(str(place[name]) for name in ("topic", "partition", "offset") if name in place)
    record = difference.get("recorded") or difference.get("computed") or {}
    at_ms = record.get("bin_ms") or record.get("event_ms")
    parts = [where or str(difference.get("topic", "")), str(record.get("market", "")), time_of(at_ms) if at_ms else ""]
    return " ".join(filter(None, parts)), str(difference.get("kind", ""))


def read_parity(home: Path, day: str, source: str) -> dict[str, Any] | None:
    """What the day's parity found in this very source, where it was run: its verdict, and what it left out."""
    file = kept_in(home, "parity", day, source)
    if not file.is_file():
        return None
    try:
        whole = json.loads(file.read_bytes())
        if whole.get("source") != source:
            return None
        names = ("verdict", "differences", "not_comparable", "problems", "source", "made_ms")
        left_out = {topic: sum(told["not_covered"].values()) for topic, told in whole["topics"].items()}
        return {name: whole[name] for name in names} | {"not_covered": left_out, "file": file.name}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        empty: dict[str, Any] = {"differences": [], "not_comparable": [], "not_covered": {}, "made_ms": None}
        return empty | {"verdict": "unreadable", "source": source, "problems": [f"{file.name}: {error}"]}


def _said_by(parity: Mapping[str, Any]) -> Reason:
    reasons = [*parity["problems"], *(str(one.get("reason", "")) for one in parity["not_comparable"])]
    return Reason("parity_says", {"verdict": str(parity["verdict"]), "why": reasons[0] if reasons else ""})


def _left_out(parity: Mapping[str, Any]) -> list[Reason]:
    """What an equal parity says nothing of."""
    not_comparable: Counter[str] = Counter()
    for one in parity["not_comparable"]:
        not_comparable[one["topic"]] += one["records"]
    found = {"not_covered": parity["not_covered"], "partly": not_comparable}
    texts = {key: ", ".join(f"{n:,} {topic}" for topic, n in counts.items() if n) for key, counts in found.items()}
    return [Reason(key, {"rows": text}) for key, text in texts.items() if text]
