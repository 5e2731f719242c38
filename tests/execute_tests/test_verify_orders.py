"""`verify orders`: real kills on the real broker, the plan that covers every pair of points, the cases in memory."""

import random
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from consumers.execute import attempts, doubts, verify_cases
from consumers.execute.crash import CRASH_POINTS
from consumers.execute.desk import Task
from consumers.execute.journal import AttemptRow, IntentRow, Journal
from consumers.execute.venue import Accepted, Answer, Refused, burning_request
from consumers.execute.verify_cases import Tally, all_cases, run_cases
from consumers.execute.verify_model import RULES, Case
from consumers.execute.verify_posts import count_posts
from consumers.execute.verify_stage import Stage
from consumers.execute.verify_trials import LONG_FLIGHT_S, Score, Trials, plan_of

if TYPE_CHECKING:
    from infra.servers.kafka import KafkaServer
    from infra.servers.postgres import PostgresServer

STRIDE = 401


@pytest.mark.kafka
@pytest.mark.postgres
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_killed_executors_neither_double_nor_lose(
    broker: "KafkaServer", request: pytest.FixtureRequest, kind: str
) -> None:
    address = ""
    if kind == "postgresql":
        server: PostgresServer = request.getfixturevalue("empty_postgres")
        address = server.address
    score = Score()
    with Stage(broker.bootstrap, address) as stage:
        trials = Trials(stage, random.Random(7), score)
        trials.stock(2)
        for number in (3, 21):
            trials.run(number)
        trials.finish()
    assert score.kills >= 1
    assert score.doubled == score.lost == score.differing == score.untold == 0


def test_every_pair_of_points_is_planned() -> None:
    plans = [plan_of(number, random.Random(number)) for number in range(110)]
    pairs = {tuple(point for point, _ in plan.points) for plan in plans}
    assert pairs == {(a,) for a in CRASH_POINTS} | {(a, b) for a in CRASH_POINTS for b in CRASH_POINTS}
    assert 50 <= sum(bool(plan.faults) for plan in plans) <= 60
    for plan in plans:
        assert plan.burns or all(fault.get("seconds") != LONG_FLIGHT_S for fault in plan.faults)


def test_a_crash_point_kills() -> None:
    code = """
from consumers.execute.crash import kill_at
reach = kill_at("a", 2)
reach("b")
reach("a")
print(1, flush=True)
reach("a")
print(2, flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.PIPE, timeout=60)
    assert done.stdout.strip() == b"1"
    assert done.returncode == -signal.SIGKILL


# --- in memory


def cases(monkeypatch: pytest.MonkeyPatch, stride: int = STRIDE, **only: object) -> Tally:
    """Every so manieth of the cases that are like `only`."""
    chosen = [case for case in all_cases() if all(getattr(case, name) == value for name, value in only.items())]
    monkeypatch.setattr(verify_cases, "all_cases", lambda: iter(chosen))
    monkeypatch.setattr(verify_cases, "QUICK_STRIDE", stride)
    return run_cases(quick=True)


def test_all_dimensions_and_nothing_doubled_or_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = cases(monkeypatch)
    assert tally.cases > 400
    assert (tally.doubled, tally.lost, tally.posted_twice, tally.unsold) == (0, 0, 0, 0), tally.failures
    assert {name: len(values) for name, values in tally.dimensions.items()} == {
        "purpose": 4, "request": 2, "answer": 9, "late": 4, "lag": 2, "burn_rule": 2, "crash": 12, "second_crash": 12,
        "zombie": 4, "burning": 3, "database": 3,
    }  # fmt: skip
    assert set(tally.ends) == {"DONE", "CANCELLED", "EXPIRED", "REJECTED"}


def test_a_woken_process_with_a_request_in_its_buffer_where_nothing_is_burned(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = cases(
        monkeypatch, 1, purpose="protective-exit", is_replacing=False, burns=False, first="in_buffer", lag_s=0.0,
        answer="late", wakes_s=40.0, burning="",
    )  # fmt: skip
    assert tally.cases == 24
    assert (tally.doubled, tally.lost, tally.unsold) == (0, 0, 0), tally.failures


def test_a_process_that_wakes_right_after_it_was_seen_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = cases(
        monkeypatch, 1, purpose="exit", is_replacing=False, burns=False, first="in_buffer", second="", lag_s=1.0,
        answer="late", late_s=1.5, wakes_s=40.0,
    )  # fmt: skip
    assert tally.cases == 3
    assert (tally.doubled, tally.lost, tally.unsold) == (0, 0, 0), tally.failures


def test_the_cases_see_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    right = attempts.on_absent
    zombies: dict[str, object] = {"first": "in_buffer", "lag_s": 0.0, "wakes_s": 40.0, "second": "", "answer": "ok"}

    def entries_again(_purpose: str, *values: object, **more: object) -> attempts.OnAbsent:
        return right("exit", *values, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(doubts, "on_absent", entries_again)
        assert cases(patch, 1, purpose="entry", is_replacing=False, burns=False, **zombies).cases == 1
    with monkeypatch.context() as patch:
        patch.setattr(doubts.Doubts, "_waited_s", lambda *_: 1000.0)
        assert cases(patch, 1, purpose="exit", is_replacing=False, burns=False, **zombies).doubled == 1
    with monkeypatch.context() as patch:
        patch.setattr(doubts.Doubts, "sweep", lambda _: [])
        late: dict[str, object] = {"answer": "late", "late_s": 30.0, "lag_s": 0.0, "first": "", "second": ""}
        assert cases(patch, 1, purpose="entry", is_replacing=False, burns=True, **late).lost == 1
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "must_hold", lambda _: None)
        stopped = zombies | {"first": "after_journal_sending"}
        tally = cases(patch, 1, purpose="entry", is_replacing=False, burns=True, **stopped)
        assert tally.ends == {"DONE": 1}  # it was sent by a process that had lost the lease


def test_the_cases_see_a_burn_that_was_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def counts_every_refusal(burn: attempts.Burn, answer: Answer) -> attempts.Burn:
        named = Refused("invalid_price_ask", "") if isinstance(answer, Refused) else answer
        return attempts.after_burning(burn, named)

    def accepts_first(self: doubts.Doubts, row: IntentRow, attempt: AttemptRow) -> list[Task]:
        answer = self._venue.place(burning_request(row.intent), attempt.identifier)
        assert isinstance(answer, Accepted)
        tasks = self._acknowledge(row, attempt, answer.order)
        self._venue.cancel(answer.order.uuid)
        return tasks

    only: dict[str, object] = {"purpose": "exit", "is_replacing": False, "burns": True, "lag_s": 0.0, "first": ""}
    never: dict[str, object] = {"answer": "late", "late_s": 30.0, "burning": "key"}
    taken: dict[str, object] = {"answer": "request-lost", "burning": "taken"}
    for values in (never, taken):
        right = cases(monkeypatch, 1, **only, **values)
        assert (right.cases, right.doubled, right.lost) == (1, 0, 0), right.failures
    with monkeypatch.context() as patch:
        patch.setattr(doubts, "after_burning", counts_every_refusal)
        assert cases(patch, 1, **only, **never).doubled == 1
    with monkeypatch.context() as patch:
        patch.setattr(doubts.Doubts, "_burn", accepts_first)
        assert cases(patch, 1, **only, **taken).lost == 1


def test_every_statement_of_the_journal_may_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = [case.fails_at for case in all_cases() if case.fails_at]
    assert set(failing) == {*range(1, 61), *range(-60, 0)}
    for at in (7, -7, 9, -9, 12, -12, 15, -15):
        tally = cases(monkeypatch, 1, fails_at=at, is_replacing=False)
        assert tally.cases == 20
        assert (tally.doubled, tally.lost, tally.posted_twice, tally.unsold) == (0, 0, 0, 0), tally.failures


def test_conditions_of_the_cases() -> None:
    every = list(all_cases())
    assert len(set(every)) == len(every) > 150_000
    for case in every:
        assert isinstance(case, Case)
        assert case.late_s <= RULES.longest_flight_s or case.burns or case.purpose in {"entry", "manual"}


def test_one_post_per_attempt_whatever_the_wire_does() -> None:
    posts = count_posts()
    assert len(posts) == 10
    assert set(posts.values()) == {1}
