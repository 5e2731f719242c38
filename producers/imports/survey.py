"""The first pass over the files of an import: what is in them, and whether all of it can be imported.

Called by `producers.imports.importing`. It writes nothing; whatever makes an import impossible is found here, so that
the second pass only has to write.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from infra.errors import BadSettings
from producers.imports.rows import NS_PER_MS, File, Row, refused
from streams.messages import OrderBook

BACK_LIMIT_MS = 60_000
"""Times may go back a little (messages overtake each other); by more, the file is not in order."""
_TELL_EVERY = 5_000
_DIGITS = re.compile(r"\d[\d.eE+-]*")

Tell = Callable[[str, int, int], None]
"""Told now and then: the file's name, rows done, rows in all (0: not known yet)."""


@dataclass(slots=True)
class Survey:
    """What one file holds."""

    file: File
    sha256: str
    rows: int = 0
    books: int = 0
    trades: int = 0
    went_back: int = 0
    """Rows whose time lies before that of an earlier row."""
    markets: set[str] = field(default_factory=set)
    skipped: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    is_received: bool = True
    """Whether every row says when it was received."""
    first_ms: int = 0
    last_ms: int = 0


@dataclass(slots=True)
class Group:
    """Files of one exchange whose times overlap: books and trades of the same stretch are one session."""

    surveys: list[Survey]

    @property
    def exchange(self) -> str:
        """Whose data it is."""
        return self.surveys[0].file.exchange

    @property
    def is_received(self) -> bool:
        """Whether the times of receipt can be its clock; else the exchange's own times are."""
        return all(survey.is_received for survey in self.surveys)

    @property
    def session(self) -> int:
        """When it began, ms."""
        return min(survey.first_ms for survey in self.surveys)

    @property
    def markets(self) -> list[str]:
        """All that occur."""
        return sorted(set().union(*(survey.markets for survey in self.surveys)))

    @property
    def has_books(self) -> bool:
        """Whether there are books in it."""
        return any(survey.books for survey in self.surveys)

    @property
    def has_trades(self) -> bool:
        """Whether there are trades in it."""
        return any(survey.trades for survey in self.surveys)


def survey_of(file: File, tell: Tell) -> Survey:
    """Read a file once; raises `BadSettings` with file and row where it cannot be imported."""
    with file.path.open("rb") as whole:
        found = Survey(file, hashlib.file_digest(whole, "sha256").hexdigest())
    newest_ms = 0
    for row in file.rows(0, found.skipped):
        found.rows += 1
        if found.rows % _TELL_EVERY == 0:
            tell(f"reading {file.path.name}", found.rows, 0)
        _count(found, row)
        at_ms = time_ms(row, is_received=bool(row.received_ns))
        if at_ms is None:
            continue
        if at_ms < newest_ms - BACK_LIMIT_MS:
            back_s = (newest_ms - at_ms) / 1000
            raise refused(
                file.path, row.number, f"its time lies {back_s:,.1f} s before an earlier row's: sort the file"
            )
        found.went_back += at_ms < newest_ms
        newest_ms = max(newest_ms, at_ms)
        found.first_ms = min(found.first_ms or at_ms, at_ms)
        found.last_ms = newest_ms
    if not found.books and not found.trades:
        why = ", ".join(f"{times} x {reason}" for reason, times in (found.skipped + found.dead).items())
        raise BadSettings(
            f"{file.path.name} holds no book and no trade{': ' if why else ''}{why}. Nothing was imported."
        )
    return found


def time_ms(row: Row, *, is_received: bool) -> int | None:
    """When a row came: its time of receipt, else its messages' own time; None where nothing tells."""
    if is_received:
        return row.received_ns // NS_PER_MS
    return max((item.exchange_ms for item in row.items), default=None)


def kind_of(reason: str) -> str:
    """A reason without its numbers, to be counted by."""
    return _DIGITS.sub("#", reason)


def groups_of(surveys: Sequence[Survey]) -> list[Group]:
    """Put files together that are one session; raises `BadSettings` for a file that is given twice."""
    by_hash: dict[str, str] = {}
    for survey in surveys:
        name = survey.file.path.name
        if survey.sha256 in by_hash:
            raise BadSettings(
                f"{name} is the same file as {by_hash[survey.sha256]}: name it once. Nothing was imported."
            )
        by_hash[survey.sha256] = name
    return [
        Group(group)
        for exchange in sorted({survey.file.exchange for survey in surveys})
        for group in _overlapping([survey for survey in surveys if survey.file.exchange == exchange])
    ]


def _overlapping(surveys: Sequence[Survey]) -> Iterator[list[Survey]]:
    group: list[Survey] = []
    for survey in sorted(surveys, key=lambda survey: (survey.first_ms, survey.sha256)):
        if group and survey.first_ms > max(one.last_ms for one in group):
            yield group
            group = []
        group.append(survey)
    if group:
        yield group


def _count(found: Survey, row: Row) -> None:
    found.is_received = found.is_received and row.received_ns > 0
    for item in row.items:
        found.markets.add(item.market)
        if isinstance(item, OrderBook):
            found.books += 1
        else:
            found.trades += 1
    for reason, _ in row.dead:
        found.dead[kind_of(reason)] += 1
