"""A replay in memory in several processes, each with some of the partitions: as fast as the machine goes.

Called by `observator replay memory --workers` and the bench. Each process opens the archive itself; decisions are
folded in this one meanwhile. The result is the same as that of one process.
"""

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

from consumers.replay.conditions import Segment
from consumers.replay.decisions import run_decisions
from consumers.replay.memory import Spans
from consumers.replay.summary import Tally, decided, run_part, stretches
from infra.settings import Settings
from streams.history import History, open_store_history
from streams.topics import BY_MARKET


class _Share(NamedTuple):
    """What one process is told."""

    settings: Settings
    source: str
    spans: Spans
    segment: Segment
    batch: int
    partitions: tuple[int, ...]


def replay_apart(
    settings: Settings,
    source: str,
    history: History,
    between_ms: tuple[int | None, int | None],
    batch: int,
    workers: int,
) -> Tally:
    """Replay a stretch of an archive in `workers` processes; see `summary.replay_here`."""
    started = time.monotonic()
    tally = Tally()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for segment, spans in stretches(settings, history, between_ms):
            tally.segments += 1
            shares = [
                _Share(settings, source, spans, segment, batch, tuple(range(number, BY_MARKET, workers)))
                for number in range(workers)
            ]
            parts = [pool.submit(_work, share) for share in shares]
            run_decisions(history, decided(history, segment, between_ms), segment.conditions, tally.write)
            for part in parts:
                tally.add(part.result())
    tally.seconds = time.monotonic() - started
    return tally


def _work(share: _Share) -> Tally:
    """One process's part."""
    tally = Tally()
    started = time.monotonic()
    history = open_store_history(share.settings, share.source)
    run_part(history, share.spans, share.segment, tally, share.batch, share.partitions)
    tally.busy_s = time.monotonic() - started
    return tally
