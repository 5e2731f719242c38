"""`observator verify matching`: the real exchange's matching and ledger against the slow oracle, over random sequences.

Called by the command line and tests. A sequence that fails is named by its seed, with the first difference.
"""

import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from infra.figures import result_of
from producers.verify.sequence import Run

SEQUENCES = 20_000
QUICK_SEQUENCES = 150
OPERATIONS = 50
_CHUNK = 100
_WORKERS = 2


class Part(NamedTuple):
    """What a stretch of seeds showed."""

    sequences: int
    counts: Counter[str]
    failures: list[str]


def run_part(first_seed: int, sequences: int, operations: int) -> Part:
    """Run sequences one after the other."""
    logging.getLogger("producers.sandbox").setLevel(logging.CRITICAL)  # it tells of every refusing disk
    counts: Counter[str] = Counter()
    failures = []
    for seed in range(first_seed, first_seed + sequences):
        try:
            Run(seed, counts).run(operations)
        except Exception as error:  # noqa: BLE001 - the outermost loop: what the exchange raises is a difference too
            failures.append(f"seed {seed}, {type(error).__name__}: {error}")
    return Part(sequences, counts, failures)


def verify_matching(*, quick: bool = False, trials: int | None = None, seed: int = 1) -> dict[str, object]:
    """Run the sequences; passes where none differs. `trials` is their number."""
    sequences = trials or (QUICK_SEQUENCES if quick else SEQUENCES)
    began_s = time.monotonic()
    counts: Counter[str] = Counter()
    failures: list[str] = []
    with Progress(
        TextColumn("sequences"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(file=sys.stderr), transient=True, disable=quick,
    ) as progress:  # fmt: skip
        task = progress.add_task("", total=sequences)
        for part in _parts(seed, sequences, is_alone=sequences <= 2 * _CHUNK):
            counts += part.counts
            failures += part.failures
            progress.advance(task, part.sequences)
    figures: dict[str, float] = {
        "sequences": sequences,
        "operations": sequences * OPERATIONS,
        "sequences that differ": len(failures),
        "seconds": round(time.monotonic() - began_s, 1),
    }
    figures |= {name: counts[name] for name in sorted(counts)}
    conditions = {
        "quick": quick,
        "seed": seed,
        "operations per sequence": OPERATIONS,
        "first difference": failures[0] if failures else "none",
    }
    return result_of("matching", figures, conditions, passed=not failures)


def _parts(seed: int, sequences: int, *, is_alone: bool) -> Iterator[Part]:
    starts = range(0, sequences, _CHUNK)
    jobs = [(seed * 1_000_000 + start, min(_CHUNK, sequences - start), OPERATIONS) for start in starts]
    if is_alone:
        yield from (run_part(*job) for job in jobs)
        return
    with ProcessPoolExecutor(_WORKERS, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(run_part, *job) for job in jobs]):
            yield done.result()
