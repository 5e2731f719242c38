"""`observator verify halts`: kill switches under load, at three latencies of the exchange, with restarts and no broker.

A trial is one account's halt. "Gate closed" is measured at the exchange's door, from just before the command is written
to the last order request of that account that comes by; beside it stands when the executor said so. "Settled" is the
executor's word; whatever the exchange accepts of that account between it and the lifting is counted against it. In most
trials the executor's journal is a file, in some it is in PostgreSQL.
"""

import logging
import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from consumers.verify.halts_stage import HaltStage, account_of
from consumers.verify.halts_trials import Plan, Special, Store, Trial, run_round
from consumers.verify.halts_wire import Passed
from infra.figures import result_of
from infra.servers.postgres import PostgresServer

logger = logging.getLogger(__name__)

TRIALS = 1_000
ACCOUNTS = 12
QUICK_ACCOUNTS = 4
LATENCIES_S = (0.0, 0.3, 3.0)
TARGET_MS = 50.0
"""Of the whole run: a dozen trials beside other tests say nothing about times."""
CLOCK_MS = 50
"""The exchange dates orders by this machine's clock; it and the monotonic one are compared to within this."""
STORES: tuple[Store, ...] = ("sqlite", "postgresql")
_RARE: dict[int, Special] = {3: "everybody", 6: "restart", 13: "restart", 20: "restart"}
_NO_LOG = 9
_ON_POSTGRES: tuple[tuple[str, Special], ...] = (
    ("late-answer", ""), ("late-request", "restart"), ("late-answer", "everybody"),
)  # fmt: skip


class Seen(NamedTuple):
    """What was seen in all rounds; `placed` are accounts and times (ms by the monotonic clock) of accepted orders."""

    trials: list[Trial]
    passed: list[Passed]
    placed: list[tuple[str, float]]
    refused: list[int]


def verify_halts(
    trials: int | None = None, *, quick: bool = False, stores: Sequence[Store] = STORES
) -> dict[str, object]:
    """Run all rounds; passed where the gate closes in time, nothing is placed after rest, and every halt holds."""
    accounts = [f"h{number:02d}" for number in range(QUICK_ACCOUNTS if quick else ACCOUNTS)]
    every = quick_plans() if quick else [*plans_of(trials or TRIALS, len(accounts)), *plans_on_postgres()]
    seen = Seen([], [], [], [])
    began_s = time.monotonic()
    for store in stores:
        _run_on(store, [plan for plan in every if plan.store == store], accounts, seen)
    refused = sum(seen.refused)
    figures = figures_of(seen.trials, seen.passed, seen.placed)
    figures |= {"answers 429": refused, "seconds": round(time.monotonic() - began_s)}
    is_good = (
        (quick or figures["gate closed, p99 ms"] <= TARGET_MS)
        and not any(figures[name] for name in ("placed after settled", "requests after settled", "trials with a flaw"))
        and not refused
    )
    conditions = {
        "accounts": len(accounts), "rounds": len(every), "latencies s": LATENCIES_S,
        "target ms": None if quick else TARGET_MS, "orders offered per second": 4 * len(accounts),
        "flaws": "; ".join(sorted({note for trial in seen.trials for note in trial.notes})) or "none",
    }  # fmt: skip
    return result_of("halts", figures, conditions, passed=bool(is_good))


def _run_on(store: Store, plans: list[Plan], accounts: list[str], seen: Seen) -> None:
    """The rounds that have the executor's journal there."""
    draw = random.Random(5)  # noqa: S311 - moments of halts are no secret
    with ExitStack() as stack:
        database = stack.enter_context(PostgresServer()).address if store == "postgresql" else ""
        stage = stack.enter_context(HaltStage(accounts, database=database))
        for number, plan in enumerate(plans):
            seen.trials.extend(run_round(stage, plan, number, draw))
            logger.info("%s: round %d of %d: %d trials", store, number + 1, len(plans), len(seen.trials))
        seen.passed.extend(stage.wire.passed())
        seen.refused.append(stage.wire.statuses.get(429, 0))
        ahead_ms = _wall_less_monotonic_ms()
        seen.placed.extend(
            (account_of(str(order["identifier"])), order["created_ms"] - ahead_ms)
            for order in stage.truth()
            if order["identifier"]
        )


def _wall_less_monotonic_ms() -> float:
    """How far the wall clock is ahead of the monotonic one; of many readings the one that was interrupted least."""
    readings = []
    for _ in range(50):
        before_s, wall_s, after_s = time.monotonic(), time.time(), time.monotonic()
        readings.append((after_s - before_s, wall_s - (before_s + after_s) / 2))
    return min(readings)[1] * 1000


def quick_plans() -> list[Plan]:
    """One round of each kind, and one over a restart on PostgreSQL."""
    return [
        Plan(0.0, ""),
        Plan(0.3, "late-request", "restart"),
        Plan(0.0, "", "no-log"),
        Plan(0.3, "late-answer", "restart", "postgresql"),
    ]


def plans_on_postgres() -> list[Plan]:
    """Fewer rounds: each latency calm, over a restart and with a halt of everybody, and one without a broker."""
    plans = [
        Plan(latency_s, fault if latency_s else "", special, "postgresql")
        for latency_s in LATENCIES_S
        for fault, special in _ON_POSTGRES
    ]
    return [*plans, Plan(0.0, "", "no-log", "postgresql")]


def plans_of(trials: int, accounts: int) -> list[Plan]:
    """Rounds for so many trials, the latencies in equal parts; every latency has restarts and halts of everybody."""
    rounds = -(-trials // accounts)
    plans: list[Plan] = []
    for place, latency_s in enumerate(LATENCIES_S):
        count = rounds // 3 + (place < rounds % 3)
        for number in range(count):
            fault = ("late-answer", "late-request")[number % 2] if latency_s else ""
            special: Special = "no-log" if number == _NO_LOG and not latency_s else _RARE.get(number, "")
            plans.append(Plan(latency_s, fault, special))
    return plans


def figures_of(
    trials: Sequence[Trial], passed: Sequence[Passed], placed: Sequence[tuple[str, float]]
) -> dict[str, float]:
    """What the trials came to; `placed` are accounts and times (ms by the monotonic clock) of accepted orders."""
    orders: dict[str, list[float]] = {}
    for one in passed:
        if one.kind == "order":
            orders.setdefault(account_of(one.name), []).append(one.at_s)
    accepted: dict[str, list[float]] = {}
    for account, at_ms in placed:
        accepted.setdefault(account, []).append(at_ms / 1000)
    late = after = wrong = busy = 0
    closing: dict[float, list[float]] = {}
    on_postgres: list[float] = []
    for trial in trials:
        mine = orders.get(trial.account, [])
        last_s = max((at_s for at_s in mine if trial.began_s < at_s < trial.resumed_s), default=trial.began_s)
        closing.setdefault(trial.plan.latency_s, []).append((last_s - trial.began_s) * 1000)
        on_postgres += [(last_s - trial.began_s) * 1000] if trial.plan.store == "postgresql" else []
        busy += any(trial.began_s - 1 < at_s <= trial.began_s for at_s in mine)
        wrong += bool(trial.notes) or not trial.closed_s or not trial.settled_s
        if trial.settled_s:
            after += sum(trial.settled_s < at_s < trial.resumed_s for at_s in mine)
            margin_s = trial.settled_s + CLOCK_MS / 1000
            late += sum(margin_s < at_s < trial.resumed_s for at_s in accepted.get(trial.account, ()))
    everything = [value for values in closing.values() for value in values]
    figures: dict[str, float] = {
        "trials": len(trials),
        "trials with orders in the second before": busy,
        "gate closed, p50 ms": _share(everything, 0.5),
        "gate closed, p99 ms": _share(everything, 0.99),
        "gate closed, worst ms": _share(everything, 1.0),
        "trials on PostgreSQL": len(on_postgres),
        "gate closed on PostgreSQL, p99 ms": _share(on_postgres, 0.99),
    }
    told = [(trial.closed_s - trial.began_s) * 1000 for trial in trials if trial.closed_s and not _is_restarted(trial)]
    figures |= {"told closed, p50 ms": _share(told, 0.5), "told closed, p99 ms": _share(told, 0.99)}
    for latency_s, values in sorted(closing.items()):
        figures[f"gate closed at {latency_s * 1000:.0f} ms, p99 ms"] = _share(values, 0.99)
        for kind in ("no-new-orders", "sell-all"):
            rests = [
                trial.settled_s - trial.began_s
                for trial in trials
                if (trial.plan.latency_s, trial.kind) == (latency_s, kind) and trial.settled_s
            ]
            for name, share in (("p50", 0.5), ("p99", 0.99)) if rests else ():
                figures[f"settled at {latency_s * 1000:.0f} ms, {kind}, {name} s"] = _share(rests, share)
    return figures | {
        "requests after settled": after,
        "placed after settled": late,
        "halts over a restart": sum(_is_restarted(trial) for trial in trials),
        "halts without a log": sum(trial.plan.special == "no-log" for trial in trials),
        "trials with a flaw": wrong,
    }


def _is_restarted(trial: Trial) -> bool:
    return trial.plan.special in {"restart", "no-log"}


def _share(values: Sequence[float], share: float) -> float:
    """The value that this share of all does not exceed."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) if ordered else 0.0
