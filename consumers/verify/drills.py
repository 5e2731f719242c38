"""`observator verify drills`: named outages played on real processes, each judged by what three accounts say we hold.

The exchange's balances, the executor's journal and the order events in the log must say the same to the last digit
(exposure error 0), with no order doubled, lost or untold.
"""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

from consumers.verify import drills_machine as machine
from consumers.verify import drills_network as network
from consumers.verify.drills_stage import Hall, Scene
from infra.errors import BadSettings, Retry
from infra.figures import result_of
from infra.servers.postgres import PostgresServer

logger = logging.getLogger(__name__)

Play = Callable[[Scene], dict[str, float]]


class Drill(NamedTuple):
    """One outage; `least` names figures of its own that show that it really took place."""

    play: Play
    least: dict[str, float]
    most: dict[str, float]
    is_on_postgres: bool = False

    @property
    def what(self) -> str:
        """What is done, in words."""
        return " ".join((self.play.__doc__ or "").split())


DRILLS: dict[str, Drill] = {
    "names-gone": Drill(network.names_gone, {"in flight": network.IN_FLIGHT}, {}),
    "restart-with-position": Drill(machine.restart_with_position, {}, {"orders at the restart": 0, "still held": 0}),
    "broker-gone-at-commit": Drill(machine.broker_gone_at_commit, {}, {"executor ended": 0}),
    "database-full": Drill(machine.database_full, {}, {"sent while full": 0}),
    "clock-jump": Drill(machine.clock_jump, {"filled": 7}, {}),
    "hand-over": Drill(machine.hand_over, {}, {}),
    "hand-over-postgres": Drill(machine.hand_over, {}, {}, is_on_postgres=True),
    "paused-executor": Drill(machine.paused_executor, {"new one refused": 1}, {}),
    "paused-executor-postgres": Drill(machine.paused_executor, {"old one fenced": 1}, {}, is_on_postgres=True),
    "told-before-the-answer": Drill(network.told_before_the_answer, {"told before the answer": 3}, {}),
    "maintenance": Drill(network.maintenance, {"refused while closed": 1}, {}),
    "partial-fills": Drill(network.partial_fills, {"filled in part and cancelled": 1}, {}),
    "refunded-buys": Drill(network.refunded_buys, {"ended in cancel": 3, "taken as filled": 3}, {}),
}
QUICK = ("names-gone", "paused-executor", "partial-fills")
CONTROL = "control: error with one fill forgotten"
CLEAN = ("doubled", "lost", "untold", "exposure error")


def verify_drills(*, quick: bool = False, only: str = "") -> dict[str, object]:
    """Play all drills, three of them with `quick`, or the one that `only` names; passes where every one does."""
    if only and only not in DRILLS:
        raise BadSettings(f"There is no drill {only!r}; there are {', '.join(DRILLS)}.")
    names = (only,) if only else QUICK if quick else tuple(DRILLS)
    figures: dict[str, float] = {}
    conditions: dict[str, object] = {"quick": quick}
    with Hall() as hall:
        for name in names:
            found, problem = _played(hall, name, DRILLS[name])
            figures |= {f"{name}: {key}": value for key, value in found.items()}
            conditions[name] = DRILLS[name].what + (f" NOT PASSED: {problem}" if problem else "")
            logger.info("%s: %s", name, problem or "passed")
    figures["drills"] = len(names)
    figures["passed"] = sum(figures[f"{name}: passed"] for name in names)
    return result_of("drills", figures, conditions, passed=figures["passed"] == len(names))


def _played(hall: Hall, name: str, drill: Drill) -> tuple[dict[str, float], str]:
    """One drill's figures, and what was wrong with it in words."""
    began_s = time.monotonic()
    with ExitStack() as stack:
        database = stack.enter_context(PostgresServer()).address if drill.is_on_postgres else ""
        scene = Scene(hall, name, stack, database)
        problem, own = "", dict[str, float]()
        try:
            own = drill.play(scene)
        except (TimeoutError, Retry) as error:  # a drill that fails is told, and the others are played all the same
            problem = f"{type(error).__name__}: {error}"
        finally:
            scene.no_faults()
        found = {key: round(float(value), 3) for key, value in own.items()} | scene.judge()
    problem = problem or problem_of(drill, found)
    return {**found, "seconds": round(time.monotonic() - began_s, 1), "passed": 0 if problem else 1}, problem


def problem_of(drill: Drill, found: dict[str, float]) -> str:
    """What is wrong with a drill's figures; empty where nothing is."""
    wrong = [f"{name} is {found[name]:g}" for name in CLEAN if found[name] != 0]
    wrong += [f"{name} is {found.get(name, 0):g}" for name, value in drill.least.items() if found.get(name, 0) < value]
    wrong += [f"{name} is {found[name]:g}" for name, value in drill.most.items() if found.get(name, 0) > value]
    if not found[CONTROL]:
        wrong.append("a forgotten fill would not be seen")
    return "; ".join(wrong)
