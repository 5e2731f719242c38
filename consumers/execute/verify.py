"""`observator verify orders`: an order is sent at most once per attempt, and none is lost, whatever happens.

Three proofs: every case of one order in memory (`verify_cases`), executors killed with a real broker and a real
sandbox exchange, half of them on SQLite and half on PostgreSQL (`verify_trials`), and the requests that the wire sees
(`verify_posts`).
"""

import logging
import os
import random
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from consumers.execute.crash import CRASH_POINTS
from consumers.execute.verify_cases import Tally, run_cases
from consumers.execute.verify_posts import count_posts
from consumers.execute.verify_stage import RULES, TIMEOUT_S, Stage
from consumers.execute.verify_trials import INTENTS, LONG_FLIGHT_S, SHORT_FLIGHT_S, Score, Trials
from infra.servers.jars import default_cache
from infra.servers.kafka import KafkaServer
from infra.servers.postgres import PostgresServer

logger = logging.getLogger(__name__)

TRIALS = 250
"""Give some 440 kills at crash points."""
QUICK_TRIALS = 8
QUICK_STRIDE = 7
KILLS_NEEDED = 400
ACCEPTED_NEEDED = 0.95
QUICK_ACCEPTED_NEEDED = 0.8
"""Of some twenty intents one or two entries are killed between journal and exchange, and expire as they must."""
JOURNALS = ("sqlite", "postgresql")


def verify_orders(trials: int = TRIALS, *, quick: bool = False, bootstrap: str = "", seed: int = 7) -> dict[str, Any]:
    """Run all three; passes with nothing doubled, lost, differing or untold, one POST per attempt, enough kills, and
    95 % accepted without faults.

    `bootstrap` names a broker that already runs; without it one is started for this run.
    """
    began_s = time.monotonic()
    count = min(trials, QUICK_TRIALS) if quick else trials
    posts = count_posts()
    score, kills, restarts = _kill(count, bootstrap, seed, quick=quick)
    killed_s = time.monotonic() - began_s
    tally = cases(quick=quick)
    needed = QUICK_ACCEPTED_NEEDED if quick else ACCEPTED_NEEDED
    clean, faulty = (_share(score, has_faults=flag) for flag in (False, True))
    is_clean = score.doubled == score.lost == score.differing == score.untold == 0
    is_proven = tally.doubled == tally.lost == tally.posted_twice == tally.unsold == 0
    figures: dict[str, float] = {
        "trials": count,
        "intents": sum(score.intents.values()),
        "kills": score.kills,
        **{f"kills_on_{journal}": number for journal, number in kills.items()},
        "kills_between_trials": score.idle_kills,
        "doubled": score.doubled + tally.doubled,
        "lost": score.lost + tally.lost,
        "differing_amounts": score.differing,
        "untold_in_log": score.untold,
        "accepted_share_without_faults": clean,
        "accepted_share_with_faults": faulty,
        "expired": score.expired,
        "appeared_late": score.late,
        "attempts": score.attempts,
        "sandbox_restarts": restarts,
        "seconds_killing": round(killed_s, 1),
        "cases": tally.cases,
        "cases_doubled": tally.doubled,
        "cases_lost": tally.lost,
        "cases_posted_twice": tally.posted_twice,
        "cases_exits_given_up": tally.unsold,
        "seconds": round(time.monotonic() - began_s, 1),
    }
    figures |= {f"posts_per_attempt_{fault}": number for fault, number in posts.items()}
    figures |= {f"kills_{point}": score.points[point] for point in CRASH_POINTS}
    figures |= {f"fault_{name.replace('-', '_')}": number for name, number in sorted(score.faults.items())}
    figures |= {
        f"cases_{dimension}_{value.replace('-', '_')}": number
        for dimension, values in tally.dimensions.items()
        for value, number in sorted(values.items())
    }
    figures |= {f"cases_ended_{state.lower()}": number for state, number in sorted(tally.ends.items())}
    is_passed = is_clean and is_proven and set(posts.values()) == {1} and clean >= needed
    is_enough = score.kills > 0 if quick or trials < TRIALS else score.kills >= KILLS_NEEDED
    conditions = _conditions(quick=quick, needed=needed, seed=seed)
    if tally.failures:
        conditions["failures"] = tally.failures
    return {"name": "orders", "passed": is_passed and is_enough, "figures": figures, "conditions": conditions}


def cases(*, quick: bool = False) -> Tally:
    """All cases in memory, spread over the machine's cores."""
    stripes = max(1, os.cpu_count() or 1)
    total = Tally()
    with ProcessPoolExecutor(stripes, mp_context=get_context("spawn")) as pool:
        for one in pool.map(_stripe, [(number, stripes, quick) for number in range(stripes)]):
            total.add(one)
    return total


def _stripe(part: tuple[int, int, bool]) -> Tally:
    number, stripes, quick = part
    return run_cases(number, stripes, quick=quick)


def _kill(count: int, bootstrap: str, seed: int, *, quick: bool) -> tuple[Score, dict[str, int], int]:
    """The trials, half of them on each kind of journal; the score, kills by kind, restarts of the exchange."""
    score, kills, restarts = Score(), {}, 0
    with ExitStack() as stack:
        broker = bootstrap or stack.enter_context(_broker())
        for half, journal in enumerate(JOURNALS):
            before = score.kills
            address = stack.enter_context(PostgresServer()).address if journal == "postgresql" else ""
            with Stage(broker, address) as stage:
                runner = Trials(stage, random.Random(seed + half), score)  # noqa: S311 - repeatable plans, no secret
                runner.stock(count)
                for number in range(half, count, len(JOURNALS)):
                    runner.run(number * QUICK_STRIDE if quick else number)
                    logger.info("trial %d of %d: %d kills", number + 1, count, score.kills)
                runner.finish()
                restarts += stage.sandbox.starts - 1
            kills[journal] = score.kills - before
    return score, kills, restarts


@contextmanager
def _broker() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="observator-orders-broker-") as home:
        server = KafkaServer(Path(home), default_cache(os.environ), heap_mb=256)
        try:
            server.start()
            yield server.bootstrap
        finally:
            server.stop()


def _share(score: Score, *, has_faults: bool) -> float:
    total = score.intents[has_faults]
    return round(score.accepted[has_faults] / total, 4) if total else 1.0


def _conditions(*, quick: bool, needed: float, seed: int) -> dict[str, Any]:
    return {
        "quick": quick,
        "accepted_share_needed": needed,
        "seed": seed,
        "intents_per_trial": INTENTS,
        "without_faults": "trials without faults of the exchange; kills happen in them too",
        "longest_flight_s": RULES["longest_flight_s"],
        "request_timeout_s": TIMEOUT_S,
        "late_requests": f"{LONG_FLIGHT_S} s where refused identifiers are burned, {SHORT_FLIGHT_S} s where not",
        "kafka": "one real broker on this machine",
        "journal": "half SQLite (WAL, synchronous=FULL), half a real PostgreSQL (fsync on, lease of 0.5 s)",
        "cases": "the executor's own desk and journal in memory; --quick plays every 41st of them",
    }
