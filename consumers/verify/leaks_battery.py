"""`observator verify leaks`: nine planted leaks are found, and the real stages raise no alarm.

Five leaks are planted by `consumers.verify.leaks_planted`, four by `consumers.verify.leaks_foreign`, whose writer had
not read the checks. With `--strategies` the strategies of a folder are examined instead. Needs no log and no broker.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from rich.console import Console
from rich.progress import track

from consumers.verify import leaks_foreign, leaks_planted
from consumers.verify.disturbed import Written
from consumers.verify.leaks import Examination, Finding, examine
from consumers.verify.leaks_market import made_log
from consumers.verify.leaks_stages import DECISIONS, FEATURES, SIGNALS, TRAINING, strategy_subject
from consumers.verify.leaks_studies import DRAWS, examine_study
from consumers.verify.leaks_subjects import Study, Subject
from infra.errors import BadSettings
from infra.figures import result_of
from models.strategies import folder
from models.strategies.registry import STRATEGIES

_T = TypeVar("_T")
_GROUPS = ("planted", "harder", "twins", "clean")

_FOREIGN_KINDS = {
    "rounded drift": "label in features",
    "repaired past": "back-filled trade let in",
    "trade's own time": "trade's own second-resolution time as event time",
    "fresh quote": "last bin peeking at its close",
}
"""What the leaks of `leaks_foreign`, which say what their developer thought, are instances of."""
PLANTED = 9
_TURN = (FEATURES, SIGNALS, DECISIONS, FEATURES, SIGNALS, DECISIONS, FEATURES, SIGNALS, DECISIONS, TRAINING)
"""Which real stage each of ten clean runs examines."""


class Plan(NamedTuple):
    """How much is done."""

    clean_runs: int = 100
    clean_cuts: int = 10
    planted_runs: int = 10
    planted_cuts: int = 8
    seconds: int = 75
    disturbed_seconds: int = 110
    """Holes begin the runs of bins anew: a disturbed history must be longer for a model to say something."""

    def history(self, seed: int, markets: int, *, is_disturbed: bool) -> list[Written]:
        """Records to examine a pipeline over."""
        seconds = self.disturbed_seconds if is_disturbed else self.seconds
        return made_log(seed, markets, seconds, is_disturbed=is_disturbed)


QUICK = Plan(clean_runs=10, clean_cuts=2, planted_runs=1, planted_cuts=4, seconds=50, disturbed_seconds=80)


class Case(NamedTuple):
    """One pipeline over one history."""

    group: str
    what: Subject | Study
    seed: int
    markets: int
    is_disturbed: bool
    cuts: int
    plan: Plan

    def records(self) -> list[Written]:
        """The history."""
        return self.plan.history(self.seed, self.markets, is_disturbed=self.is_disturbed)


@dataclass(slots=True)
class Tally:
    """What the runs of one group came to."""

    runs: Counter[str] = field(default_factory=Counter)
    alarms: Counter[str] = field(default_factory=Counter)
    """Runs with a finding, by pipeline."""
    checks: dict[str, set[str]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    cuts: int = 0
    compared: int = 0
    changed: int = 0
    silent: int = 0
    """Runs in which the pipeline gave no output: nothing was checked."""

    @property
    def found(self) -> list[str]:
        """Pipelines in which something was found in every run."""
        return [name for name, runs in self.runs.items() if self.alarms[name] == runs]

    def take(self, name: str, examined: Sequence[Examination], findings: Sequence[Finding]) -> None:
        """Add one run."""
        self.runs[name] += 1
        self.alarms[name] += bool(findings)
        self.checks.setdefault(name, set()).update(finding.check for finding in findings)
        self.findings += findings
        self.cuts += examined[0].cuts
        self.compared += sum(one.compared for one in examined)
        self.changed += sum(sum(one.changed.values()) for one in examined)
        self.silent += not examined[0].outputs


def verify_leaks(*, quick: bool = False, strategies: Path | None = None) -> dict[str, object]:
    """Find the planted leaks and nothing else; or, with a folder of strategies, examine those."""
    plan, begun = QUICK if quick else Plan(), time.monotonic()
    if strategies is not None:
        return _of_strategies(strategies, plan, quick=quick)
    tallies = _tallied([case for group in (_planted(plan), _clean(plan)) for case in group])
    planted, harder, twins, clean = (tallies[group] for group in _GROUPS)
    figures: dict[str, float] = {
        "planted leaks": len(planted.runs),
        "planted leaks found": len(planted.found),
        **{
            f"{_kind(name)}: found, of {runs} histories": tally.alarms[name]
            for tally in (planted, harder)
            for name, runs in tally.runs.items()
        },
        "honest twins: runs": twins.runs.total(),
        "honest twins: alarms": twins.alarms.total(),
        "clean runs": clean.runs.total(),
        "clean runs: alarms": clean.alarms.total(),
        "clean runs: random cut points": clean.cuts,
        "clean runs: changed hashes": clean.changed,
        "clean runs: outputs held against each other": clean.compared,
        "clean runs without outputs": clean.silent,
        "placebo: false alarms to be expected per study, at most": 3 / (DRAWS + 1),
        "seconds": round(time.monotonic() - begun, 1),
    }
    conditions = {
        "quick": quick,
        **{
            f"{_kind(name)}: found by": ", ".join(sorted(checks))
            for tally in (planted, harder)
            for name, checks in tally.checks.items()
        },
        "alarms": [finding.text for finding in (*twins.findings, *clean.findings)][:5],
        "seconds of market": [plan.seconds, plan.disturbed_seconds],
    }
    passed = (
        len(planted.runs) == len(planted.found) == PLANTED and len(harder.runs) == len(harder.found)
        and not twins.alarms.total() and not clean.alarms.total() and not clean.silent
    )  # fmt: skip
    return result_of("leaks", figures, conditions, passed=passed)


def _kind(name: str) -> str:
    return f"{_FOREIGN_KINDS[name]} ({name})" if name in _FOREIGN_KINDS else name


def _planted(plan: Plan) -> Iterator[Case]:
    groups = {
        "planted": (*leaks_planted.LEAKS, *leaks_foreign.LEAKS),
        "harder": leaks_foreign.HARDEST,
        "twins": (*leaks_planted.TWINS, *leaks_foreign.HONEST),
    }
    for group, pipelines in groups.items():
        for place, what in enumerate(pipelines):
            for number in range(plan.planted_runs):
                is_disturbed = (place + number) % 2 == 1
                yield Case(group, what, 500 + number, 2 + number % 3, is_disturbed, plan.planted_cuts, plan)


def _clean(plan: Plan) -> Iterator[Case]:
    for number in range(plan.clean_runs):
        what = _TURN[number % len(_TURN)]
        is_disturbed = (number + number // len(_TURN)) % 2 == 1
        yield Case("clean", what, 1 + number, 2 + number % 3, is_disturbed, plan.clean_cuts, plan)


def _tallied(cases: Sequence[Case]) -> dict[str, Tally]:
    tallies = {group: Tally() for group in _GROUPS}
    for case in _shown(cases, "histories"):
        records = case.records()
        tally = tallies[case.group]
        if isinstance(case.what, Subject):
            examined = examine(case.what, records, cuts=case.cuts, seed=case.seed)
            tally.take(case.what.name, [examined], examined.findings)
        else:
            studied = examine_study(case.what, records, cuts=case.cuts, seed=case.seed)
            tally.take(case.what.name, [studied.features, studied.labels], studied.findings)
    return tallies


def _shown(cases: Sequence[_T], text: str) -> Iterable[_T]:
    console = Console(file=sys.stderr)
    return track(cases, text, console=console, transient=True, disable=not console.is_terminal)


def _of_strategies(where: Path, plan: Plan, *, quick: bool) -> dict[str, object]:
    """Examine trade's decisions with every strategy of a folder; raises `BadSettings` where there is none."""
    loaded = folder.load(where)
    kinds = [kind for kind in loaded.kinds if kind not in STRATEGIES]
    if not kinds:
        raise BadSettings(f"`--strategies`: there is no strategy in {where}; a file `my_rule.py` there would be one.")
    tally = Tally()
    for kind in _shown(kinds, "strategies"):
        for number in range(plan.planted_runs):
            subject = strategy_subject(kind, loaded.kinds)
            records = plan.history(700 + number, 2, is_disturbed=number % 2 == 1)
            examined = examine(subject, records, cuts=plan.clean_cuts, seed=number)
            tally.take(kind, [examined], examined.findings)
    figures: dict[str, float] = {
        **{f"strategy {kind}: histories with an alarm, of {tally.runs[kind]}": tally.alarms[kind] for kind in kinds},
        "random cut points": tally.cuts,
        "changed hashes": tally.changed,
        "decisions held against each other": tally.compared,
        "runs without decisions": tally.silent,
    }
    conditions = {
        "quick": quick,
        "strategies": kinds,
        "digest": loaded.digest,
        "alarms": [finding.text for finding in tally.findings][:5],
    }
    return result_of("leaks", figures, conditions, passed=not tally.alarms.total() and not tally.silent)
