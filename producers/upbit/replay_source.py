"""A recording turned into the records that a feed would have written, without sockets: the same bytes every time.

Used by the parity check and by tests. The recording's receive times stand in for the monotonic clock; heartbeats come
at the very nanosecond they are due. Never reads the log.
"""

from collections.abc import Iterable
from pathlib import Path

from infra.errors import BadMessage
from producers.recordings import Frame, Recording
from producers.upbit.parse import Parser
from producers.upbit.source import Output, Source
from streams.messages import OrderBook, Trade

PARTITIONS = 12


def records_of_recording(
    path: Path, grid_ms: int, lateness_ms: int, session: int, *, partitions: int = PARTITIONS
) -> list[Output]:
    """All records of `orderbooks` and `trades` that the recording gives, in order, heartbeats included."""
    frames = list(Recording(path))
    parser = Parser("upbit", "upbit", session)
    markets = sorted({item.market for frame in frames for item in _data_of(parser, frame)})
    source = Source(
        "upbit",
        "upbit",
        session,
        markets,
        grid_ms=grid_ms,
        lateness_ms=lateness_ms,
        speed=1.0,
        partitions=partitions,
    )
    return records_of_frames(frames, parser, source)


def records_of_frames(frames: Iterable[Frame], parser: Parser, source: Source) -> list[Output]:
    """Run a source over frames; frames that cannot be used are left out."""
    outputs: list[Output] = []
    for frame in frames:
        outputs += _ticks_until(source, frame.received_ns)
        for item in _data_of(parser, frame):
            outputs += source.take(item, frame.received_ns)
    return outputs + source.finish()


def _ticks_until(source: Source, now_ns: int) -> list[Output]:
    outputs: list[Output] = []
    while (due_ns := source.due_ns()) is not None and due_ns <= now_ns:
        said = source.tick(due_ns)
        if not said:
            break
        outputs += said
    return outputs


def _data_of(parser: Parser, frame: Frame) -> list[OrderBook | Trade]:
    try:
        return [item for item in parser.parse(frame.raw, frame.received_ns) if isinstance(item, OrderBook | Trade)]
    except BadMessage:
        return []
