"""All stages of a run once more, into a log in memory: what parity compares with what was written at the time.

Called by the parity of a session and by tests; a long run goes to a sink instead (`memory.run_features`,
`decisions.run_decisions`), because a log in memory grows with what is written.
"""

from collections.abc import Iterator

from consumers.replay.conditions import Conditions
from consumers.replay.decisions import run_decisions
from consumers.replay.memory import Sink, Spans, run_features
from infra.log import Record, Slot
from infra.memory_log import MemoryLog
from streams.history import History
from streams.messages import Message, encode
from streams.process import topic_specs


def run_stages(
    history: History, spans: Spans, conditions: Conditions, *, batch: int = 500, workers: int = 1
) -> MemoryLog:
    """Run them: features and signals from the raw records, decisions from the recorded inputs of trade.

    Trade folds what it read at the time (rows, signals, events) in the order that it recorded, not the rows computed
    here: so one difference is told once, where it begins.
    """
    log = new_log()
    sink = into(log)
    run_features(history, spans, conditions, sink, batch=batch, workers=workers)
    run_decisions(history, spans, conditions, sink)
    return log


def new_log() -> MemoryLog:
    """An empty log in memory with all topics, and a clock that stands."""
    log = MemoryLog(clock_ms=lambda: 0)
    log.create_topics(topic_specs())
    return log


def into(log: MemoryLog) -> Sink:
    """A sink that keeps everything in a log in memory."""
    publisher = log.publisher()

    def write(topic: str, key: str, message: Message) -> None:
        publisher.publish(topic, key, encode(message))

    return write


def records_of(log: MemoryLog, topic: str) -> Iterator[Record]:
    """What stands in one topic of a log in memory, partition by partition."""
    for partition in range(log.partitions(topic)):
        slot = Slot(topic, partition)
        first, end = log.bounds([slot])[slot]
        reader = log.reader({slot: first})
        while reader.position(slot) < end:
            yield from reader.read(5_000, 0)
        reader.close()
