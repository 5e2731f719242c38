"""Leak checks of any pipeline that is a function of records: does an output know what came after it?

`examine` takes a `Subject`, `examine_study` a `Study` (`consumers.verify.leaks_subjects`); both are called by
`consumers.verify.leaks_battery` (`observator verify leaks`) and by people with a pipeline of their own. They only run
it, again and again, over histories with another future; they never look into it.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from consumers.verify.disturbed import GRID_MS, Written
from consumers.verify.leaks_futures import FUTURES, Tape
from consumers.verify.leaks_orders import shuffled, with_other_backfill, without_backfill
from consumers.verify.leaks_subjects import Output, Shuffle, Subject

_CLOSE = 1e-9
"""Relative difference that another order of additions may make."""


class Finding(NamedTuple):
    """The first difference that a check met."""

    check: str
    cut_ms: int
    """After this time the histories differ; 0 where the check has no cut."""
    time_ms: int
    market: str
    position: int | None
    """Of the value; none: the output is there in one of the two only."""
    before: str
    """As it was in the history itself."""
    after: str

    @property
    def text(self) -> str:
        """One line for people."""
        where = "" if self.position is None else f", value {self.position}"
        when = f" by what lies after {self.cut_ms}" if self.cut_ms else ""
        return f"{self.check}: output {self.time_ms} {self.market}{where} changed{when}: {self.before} -> {self.after}"


@dataclass(slots=True)
class Examination:
    """What came out for one pipeline over one history."""

    name: str
    outputs: int = 0
    cuts: int = 0
    runs: int = 0
    compared: int = 0
    """Outputs held against each other, all runs together."""
    changed: dict[str, int] = field(default_factory=dict)
    """By check: in how many runs the hash of the outputs changed."""
    findings: list[Finding] = field(default_factory=list)
    """The first one of each check that found something."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found; of a pipeline without outputs nothing can be said, see `outputs`."""
        return not self.changed

    def note(self, finding: Finding) -> None:
        """Count a difference; keep the first of its check."""
        if finding.check not in self.changed:
            self.findings.append(finding)
        self.changed[finding.check] = self.changed.get(finding.check, 0) + 1


class _Line(NamedTuple):
    time_ms: int
    market: str
    packed: bytes
    values: tuple[float | None, ...]


_pack = msgspec.msgpack.Encoder().encode


def lines_of(outputs: Iterable[Output]) -> list[_Line]:
    """The outputs in one order, each with the exact bytes of its values."""
    lines = []
    for time_ms, market, values in outputs:
        plain = tuple(None if value is None else float(value) for value in values)
        lines.append(_Line(int(time_ms), str(market), _pack(plain), plain))
    lines.sort()
    return lines


def digest_of(lines: Iterable[_Line]) -> str:
    """Hash of outputs, BLAKE2b-128."""
    hasher = blake2b(digest_size=16)
    for line in lines:
        hasher.update(f"{line.time_ms}|{line.market}|{len(line.packed)}|".encode() + line.packed)
    return hasher.hexdigest()


def first_difference(check: str, cut_ms: int, before: Sequence[_Line], after: Sequence[_Line]) -> Finding | None:
    """Where two sorted lists of outputs part; None where their hashes agree."""
    if digest_of(before) == digest_of(after):
        return None
    there = object()
    for number in range(max(len(before), len(after))):
        one = before[number] if number < len(before) else None
        two = after[number] if number < len(after) else None
        if one is not None and two is not None and one[:3] == two[:3]:
            continue
        if one is None or two is None or one[:2] != two[:2]:
            lone = min((line for line in (one, two) if line is not None), key=lambda line: line[:2])
            words = ("there", "not there") if lone is one else ("not there", "there")
            return Finding(check, cut_ms, lone.time_ms, lone.market, None, *words)
        pairs = enumerate(zip([*one.values, there], [*two.values, there], strict=False))
        at = next(number for number, (left, right) in pairs if repr(left) != repr(right))
        shown = [repr(line.values[at]) if at < len(line.values) else "no such value" for line in (one, two)]
        return Finding(check, cut_ms, one.time_ms, one.market, at, *shown)
    return None


def examine(
    subject: Subject, records: Sequence[Written], *, cuts: int = 20, seed: int = 1, since_ms: int | None = None
) -> Examination:
    """Run a pipeline over other futures of a history, at `cuts` points in time drawn by `seed`.

    Half of the points are times of outputs, the other half any millisecond. Only outputs later than `since_ms` count.
    The pipeline runs once per point and kind of future (`FUTURES`), and some times for what must not matter at all.
    """
    tape, rng = Tape.of(records), random.Random(seed)  # noqa: S311 a test schedule
    whole = _lines(subject, tape.records, since_ms)
    found = Examination(subject.name, outputs=len(whole), cuts=cuts)
    _hold(found, "a second run", 0, whole, _lines(subject, tape.records, since_ms))
    if not whole:
        return found
    for cut_ms in cut_points(whole, tape, subject.lateness_ms, cuts, rng):
        known = _until(whole, cut_ms)
        for check, future in FUTURES.items():
            other = future(tape, cut_ms, subject.lateness_ms, rng)
            _hold(found, check, cut_ms, known, _until(_lines(subject, other, since_ms), cut_ms))
    for other in (without_backfill(tape), with_other_backfill(tape)):
        if other != tape.records:
            _hold(found, "back-filled trades", 0, whole, _lines(subject, other, since_ms))
    for kind, positions in subject.independent:
        for _ in range(3):
            _shuffle(found, subject, tape, kind, positions, since_ms, rng)
    return found


def _lines(subject: Subject, records: Sequence[Written], since_ms: int | None) -> list[_Line]:
    lines = lines_of(subject.run(records))
    return lines if since_ms is None else [line for line in lines if line.time_ms > since_ms]


def _until(lines: Sequence[_Line], cut_ms: int) -> list[_Line]:
    return [line for line in lines if line.time_ms <= cut_ms]


def cut_points(lines: Sequence[_Line], tape: Tape, lateness_ms: int, cuts: int, rng: random.Random) -> list[int]:
    """Points in time: half of them times of outputs, the rest any millisecond that leaves something on both sides."""
    times = sorted({line.time_ms for line in lines})
    last = max(times[0], tape.at_ms[-1] - lateness_ms - 1)
    return [rng.choice(times) if number % 2 == 0 else rng.randint(times[0], last) for number in range(cuts)]


def _hold(found: Examination, check: str, cut_ms: int, before: Sequence[_Line], after: Sequence[_Line]) -> None:
    found.runs += 1
    found.compared += len(before)
    finding = first_difference(check, cut_ms, before, after)
    if finding is not None:
        found.note(finding)


# --- order inside a bin -----------------------------------------------------------------------------------------------


def _shuffle(
    found: Examination,
    subject: Subject,
    tape: Tape,
    kind: Shuffle,
    positions: Sequence[int],
    since_ms: int | None,
    rng: random.Random,
) -> None:
    """Hold what is declared independent of an order against the same after a shuffle.

    Sums over trades in another order may differ in their last bits; everything else may not.
    """
    chosen = set(positions)
    mixed = shuffled(tape, kind, GRID_MS, subject.lateness_ms, rng)
    before, after = (_chosen(subject.run(one), chosen, since_ms) for one in (tape.records, mixed))
    if kind == "trades":
        after = _snapped(before, after)
    _hold(found, f"order of {kind} inside a bin", 0, before, after)


def _chosen(outputs: Iterable[Output], positions: set[int], since_ms: int | None) -> list[_Line]:
    kept = (
        Output(
            one.time_ms, one.market, tuple(value if at in positions else None for at, value in enumerate(one.values))
        )
        for one in outputs
        if since_ms is None or one.time_ms > since_ms
    )
    return lines_of(kept)


def _snapped(before: Sequence[_Line], after: Sequence[_Line]) -> list[_Line]:
    """The second list with the first one's value wherever both are equal but for rounding."""
    if len(before) != len(after):
        return list(after)
    snapped = []
    for one, two in zip(before, after, strict=True):
        values = tuple(
            left
            if left is not None and right is not None and abs(left - right) <= _CLOSE * max(1.0, abs(left))
            else right
            for left, right in zip(one.values, two.values, strict=False)
        )
        snapped.append(_Line(two.time_ms, two.market, _pack(values), values))
    return snapped
