"""`observator verify risk`: no limit of trade or of the executor is ever passed, and each of them refuses at times.

Sequences of events by lot, once through trade's real fold and once through the executor's own limits; every decision is
held against an oracle that works everything out anew from the list of events, in exact fractions.
"""

import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median

from consumers.execute.journal import Journal
from consumers.trade.reasons import Reason
from consumers.verify.risk_execute import ExecuteSequence
from consumers.verify.risk_execute_oracle import WORDS
from consumers.verify.risk_trade import Tally, TradeSequence
from infra.figures import result_of

SEQUENCES, QUICK_SEQUENCES = 20_000, 60
LENGTH = 60
"""Events per sequence at least."""
JOURNAL_EVERY = 20
"""Of the executor's sequences one in so many reads the real journal; the others read lists."""
PER_JOURNAL = 50
TOLD = 5


def verify_risk(*, quick: bool = False, trials: int | None = None) -> dict[str, object]:
    """Run the sequences; `trials` is their number, for trade and for the executor each."""
    count = trials or (QUICK_SEQUENCES if quick else SEQUENCES)
    started = time.process_time()
    trade, execute = Tally(), Tally()
    for seed in range(count):
        TradeSequence(seed, trade).run(LENGTH)
    _run_execute(count, execute)
    missing = sorted({str(reason) for reason in Reason} - set(trade.reasons))
    missing += sorted(f"execute: {word}" for word in set(WORDS) - set(execute.reasons))
    violations = [*trade.violations, *(f"execute: {one}" for one in execute.violations)]
    figures: dict[str, float] = {
        "sequences": 2 * count,
        "events": trade.events + execute.events,
        "trade: decisions": trade.decisions,
        "trade: decisions held against the oracle": trade.checked,
        "trade: entries": trade.entries,
        "execute: orders asked about": execute.decisions,
        "execute: orders let through": execute.entries,
        "violations": len(violations),
        "vetoes never reached": len(missing),
        **_histogram("trade", trade.reasons),
        **_histogram("execute", execute.reasons),
        **_times(trade, execute),
        "seconds of CPU": round(time.process_time() - started, 1),
    }
    conditions = {
        "events per sequence": LENGTH,
        "violations, the first ones": violations[:TOLD],
        "vetoes never reached": missing,
        "is everything reached": quick or not missing,
    }
    passed = not violations and (quick or not missing) and trade.entries > 0 and execute.entries > 0
    return result_of("risk", figures, conditions, passed=passed)


def _run_execute(count: int, tally: Tally) -> None:
    """The executor's sequences; those with the real journal use one database for some of them."""
    memory = Path("/dev/shm")  # noqa: S108 - synchronous commits would only measure the disk
    folder = Path(tempfile.mkdtemp(prefix="observator-risk-", dir=memory if memory.is_dir() else None))
    try:
        for seed in range(count):
            if seed % JOURNAL_EVERY:
                ExecuteSequence(seed, tally).run(LENGTH)
        for first in range(0, count, JOURNAL_EVERY * PER_JOURNAL):
            journal = Journal(folder / f"{first}.sqlite")
            try:
                for seed in range(first, min(first + JOURNAL_EVERY * PER_JOURNAL, count), JOURNAL_EVERY):
                    ExecuteSequence(seed, tally, journal).run(LENGTH)
            finally:
                journal.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _histogram(name: str, reasons: Counter[str]) -> dict[str, float]:
    return {f"{name}: {reason}": number for reason, number in sorted(reasons.items(), key=lambda one: -one[1])}


def _times(trade: Tally, execute: Tally) -> dict[str, float]:
    """Median microseconds that the limits add to an intent: a decision with them less the same one without."""
    figures: dict[str, float] = {}
    if trade.times_us:
        with_limits, without = median(trade.times_us), median(trade.times_without_us)
        added = median(one - other for one, other in zip(trade.times_us, trade.times_without_us, strict=True))
        figures["trade: decision with limits (us, median)"] = round(with_limits, 1)
        figures["trade: decision without limits (us, median)"] = round(without, 1)
        figures["trade: added per intent (us, median)"] = round(added, 1)
        figures["trade: intents timed"] = len(trade.times_us)
    if execute.times_us:
        figures["execute: added per intent (us, median)"] = round(median(execute.times_us), 1)
        figures["execute: intents timed"] = len(execute.times_us)
    return figures
