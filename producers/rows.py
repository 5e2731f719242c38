"""Feature rows without a log: a recording or the synthetic market, through source and feature stage, in memory.

Called by `observator train --source` and by tests; the rows are those that the live path writes. Never publishes.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from producers.sandbox.feeds import Style
from producers.sandbox.synthetic import Plan, Synthetic
from producers.upbit.parse import Parser
from producers.upbit.replay_source import PARTITIONS, records_of_recording
from producers.upbit.source import Output, Source
from streams import topics
from streams.messages import Features, OrderBook, Trade
from streams.stage import PartitionStage, StageOptions

START_MS = 1_700_000_000_000
"""When an in-memory synthetic market begins: any whole second, always the same."""


def synthetic_rows(plan: Plan, seconds: int, options: StageOptions, lateness_ms: int = 500) -> Iterator[Features]:
    """Rows of `seconds` of the synthetic market; equal arguments give equal rows."""
    market = Synthetic(plan, START_MS)
    parser = Parser("upbit", "upbit", 1)
    source = Source(
        "upbit",
        "upbit",
        1,
        [row.market for row in market.rows],
        grid_ms=options.grid_ms,
        lateness_ms=lateness_ms,
        speed=1.0,
        partitions=PARTITIONS,
    )
    style = Style(is_simple=True, is_list=False)

    def outputs() -> Iterator[Output]:
        for frame in market.run_until(START_MS + 1_000 * seconds):
            received_ns = frame.exchange_ms * 1_000_000
            for item in parser.parse(frame.spell(style), received_ns):
                if isinstance(item, OrderBook | Trade):
                    yield from source.take(item, received_ns)
        yield from source.finish()

    yield from _rows(outputs(), options)


def recording_rows(paths: Sequence[Path], options: StageOptions, lateness_ms: int = 500) -> Iterator[Features]:
    """Rows of some recordings, each a session of its own, in the order given."""
    for session, path in enumerate(paths, start=1):
        outputs = records_of_recording(path, options.grid_ms, lateness_ms, session)
        yield from _rows(outputs, options)


def _rows(outputs: Iterable[Output], options: StageOptions) -> Iterator[Features]:
    stages: dict[int, PartitionStage] = {}
    for output in outputs:
        if output.partition not in stages:
            stages[output.partition] = PartitionStage(options)
        yield from stages[output.partition].apply(output.topic, topics.decode(output.topic, output.value))
