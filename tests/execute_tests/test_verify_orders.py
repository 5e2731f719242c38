"""`verify orders` on the real broker: executors killed for real, and the plan that covers every pair of points."""

import random
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from consumers.execute.crash import CRASH_POINTS
from consumers.execute.verify import LONG_FLIGHT_S, plan_of, verify_orders

if TYPE_CHECKING:
    from infra.servers.kafka import KafkaServer


@pytest.mark.kafka
@pytest.mark.slow
def test_killed_executors_neither_double_nor_lose(broker: "KafkaServer") -> None:
    result = verify_orders(4, quick=True, bootstrap=broker.bootstrap)
    figures = result["figures"]
    assert result["passed"], figures
    assert figures["kills"] >= 3
    assert figures["doubled"] == figures["lost"] == figures["differing_amounts"] == figures["untold_in_log"] == 0


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
