"""`observator bench replay`: records per second of a replay in memory and into Kafka, all stages on.

A made market is run through the live stages once; its records are archived, and read from there. Called by the command
line. The figures are of this machine's cores together: two processes in memory; writer, streams and predict on Kafka.
"""

import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import msgspec

from consumers.replay.apart import replay_apart
from consumers.replay.stages import records_of
from consumers.replay.summary import replay_here
from consumers.replay.write import write_run
from consumers.trade.replay import Shard
from consumers.trade.runner import Trader
from consumers.trade.start import MarketClock, paper_account, parameters_of
from consumers.verify.disturbed import Written, disturbed_log
from consumers.verify.processes import Children, own_broker, wait_until
from infra.figures import result_of
from infra.kafka import KafkaLog
from infra.log import Record, slots_of
from infra.memory_log import MemoryLog
from infra.settings import Settings
from infra.store import FolderStore
from streams.archived import FORMAT, MARK, Mark
from streams.history import ArchiveHistory, LogHistory, merged
from streams.messages import encode
from streams.parts import ROW_GROUP, Part, part_bytes
from streams.process import topic_specs
from streams.runner import FeatureLoop, options_of
from streams.stage import INPUTS
from streams.topics import TOPICS

_BOOKS_PER_SECOND = 5.0
_DONE_S = 1_800.0
_OUTPUTS = ("features", "signals", "order-intents")


class Size(NamedTuple):
    """Markets, and seconds of market time."""

    markets: int
    seconds: int


_FULL = (Size(10, 3_600), Size(250, 420))
_QUICK = (Size(4, 90),)


def bench_replay(*, quick: bool = False) -> dict[str, object]:
    """Measure both ways at each size; passes where every replay gave what the live stages gave."""
    figures: dict[str, float] = {}
    is_equal = True
    home = Path(tempfile.mkdtemp(prefix="observator-replay-"))
    try:
        for size in _QUICK if quick else _FULL:
            folder = home / str(size.markets)
            settings = _settings(folder, quick=quick)
            live = _play(size, settings, folder / "archive")
            is_equal &= _in_memory(settings, size, live, figures)
        if not quick:
            with own_broker(home / "broker") as broker:
                for size in _FULL:
                    is_equal &= _into_kafka(home / str(size.markets), size, broker.bootstrap, figures)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    conditions = {"quick": quick, "processes": 2, "books_per_second": _BOOKS_PER_SECOND, "on kafka": not quick}
    return result_of("replay", figures, conditions, passed=is_equal)


def _settings(home: Path, *, quick: bool) -> Settings:
    return Settings.model_validate(
        {
            "home": home,
            "grid": {"window_bins": 40 if quick else 300},
            "feed": {"kind": "synthetic", "warmup_seconds": 0},
            "paper": {"threshold_percent": "-5", "budget": "100000000"},
        }
    )


# --- the run ------------------------------------------------------------------------------------------------------


def _play(size: Size, settings: Settings, folder: Path) -> dict[str, int]:
    """Run the live stages over a made market and archive everything; gives how many records they wrote."""
    written = disturbed_log(size.markets, size.seconds, books_per_second=_BOOKS_PER_SECOND)
    clock = [written[0].at_ms]
    with MemoryLog(clock_ms=lambda: clock[0]) as log:
        log.create_topics(topic_specs())
        _run_live(log, settings, written, clock)
        archive_log(log, folder)
        return {topic: sum(1 for _ in records_of(log, topic)) for topic in _OUTPUTS}


def _run_live(log: MemoryLog, settings: Settings, written: list[Written], clock: list[int]) -> None:
    from consumers.predict import PredictLoop  # noqa: PLC0415 - beside the other stages of this one function

    publisher = log.publisher()
    account = paper_account(settings.paper, "paper", "paper-main", clock[0], is_trading=True)
    limits = msgspec.structs.replace(account.limits, order_funds=Decimal(100_000_000))
    publisher.publish("controls", "paper", encode(msgspec.structs.replace(account, limits=limits)))
    features = FeatureLoop(log, options_of(settings), batch=2_000, poll_s=0)
    predict = PredictLoop.of(settings, log)
    trader = Trader(log, Shard(), parameters_of(settings), MarketClock(1.0))
    for second in _seconds(written):
        for record in second:
            clock[0] = record.at_ms
            publisher.publish(record.topic, record.key, record.value, record.partition)
        while features.step():
            pass
        while predict.step(0):
            pass
        while trader.step(clock[0], 0.0):
            pass
    trader.commit(clock[0])
    for loop in (predict, trader):
        loop.close()
    features.vanish()


def _seconds(written: list[Written]) -> Iterator[list[Written]]:
    start = 0
    for at, record in enumerate(written):
        if record.at_ms - written[start].at_ms >= 1_000:
            yield written[start:at]
            start = at
    yield written[start:]


def archive_log(log: MemoryLog, folder: Path) -> None:
    """The log as an archive: parts of up to a row group each."""
    store = FolderStore(folder)
    run = uuid.uuid4().hex
    mark = Mark(format=FORMAT, run=run, prefix="", kind="log", made_ms=0, by="bench replay")
    store.write(MARK, msgspec.json.encode(mark))
    history = LogHistory(log)
    for slot, span in history.spans(TOPICS).items():
        records = list(history.read(slot, *span))
        for start in range(0, len(records), ROW_GROUP):
            chunk = records[start : start + ROW_GROUP]
            is_last = start + ROW_GROUP >= len(records)
            last = span[1] - 1 if is_last else records[start + ROW_GROUP].offset - 1
            _put(store, run, chunk, span[0] if start == 0 else chunk[0].offset, last)


def _put(store: FolderStore, run: str, records: list[Record], first: int, last: int) -> None:
    part = Part("2023-11-15", 7, records[0].slot, first, last)
    store.write(part.name, part_bytes(run, part, records))


# --- in memory ----------------------------------------------------------------------------------------------------


def _in_memory(settings: Settings, size: Size, live: dict[str, int], figures: dict[str, float]) -> bool:
    """In two processes; where it is quick, held against one process and other batches, too."""
    source = str(settings.home / "archive")
    history = ArchiveHistory(FolderStore(settings.home / "archive"))
    tally = replay_apart(settings, source, history, (None, None), 500, 2)
    label = f"in memory, {size.markets} markets"
    records = tally.counts["records"]
    hours = size.markets * size.seconds / 3_600
    figures[f"{label}: raw records"] = records
    for topic in _OUTPUTS:
        figures[f"{label}: {topic}"] = tally.counts[topic]
        figures[f"{label}: {topic} more or fewer than live"] = tally.counts[topic] - live[topic]
    figures[f"{label}: raw records a second"] = round(records / tally.seconds)
    figures[f"{label}: seconds of the slower process, without its start"] = round(tally.busy_s, 2)
    figures[f"{label}: market-hours a minute"] = round(hours / (tally.seconds / 60), 1)
    is_equal = all(tally.counts[topic] == live[topic] for topic in _OUTPUTS)
    started = time.monotonic()
    for _ in merged(history, history.spans(INPUTS)):
        pass
    figures[f"{label}: raw records a second, reading alone"] = round(records / (time.monotonic() - started))
    alone = replay_here(settings, history, (None, None), 7)
    figures[f"{label}: raw records a second, one process, batches of 7"] = round(records / alone.seconds)
    figures[f"{label}: partitions that differ between both"] = sum(
        alone.digests.get(name) != tally.digests.get(name) for name in alone.digests.keys() | tally.digests.keys()
    )
    return is_equal and alone.digests == tally.digests


# --- into Kafka ---------------------------------------------------------------------------------------------------


def _into_kafka(home: Path, size: Size, bootstrap: str, figures: dict[str, float]) -> bool:
    """The raw topics alone, then once more with streams and predict at work on them."""
    history = ArchiveHistory(FolderStore(home / "archive"))
    spans = history.spans(INPUTS)
    label = f"into Kafka, {size.markets} markets"
    with KafkaLog(bootstrap, f"replay-alone-{size.markets}-") as log:
        outcome = write_run(history, spans, log, source="bench")
        figures[f"{label}: records a second, written alone"] = round(outcome.records / outcome.seconds)
    prefix = f"replay-staged-{size.markets}-"
    settings = _settings(home, quick=False)
    with KafkaLog(bootstrap, prefix) as log, Children(home) as children:
        started = time.monotonic()
        thread = threading.Thread(target=write_run, args=(history, spans, log), name="replay")
        thread.start()
        children.start_stage("streams", "loop", bootstrap, prefix, settings)
        children.start_stage("predict", "predict", bootstrap, prefix, settings)
        thread.join()
        wait_until(lambda: _is_done(log, "features", INPUTS, children), _DONE_S, f"{label}: features", 0.2)
        wait_until(lambda: _is_done(log, "predict", ("features",), children), _DONE_S, f"{label}: signals", 0.2)
        seconds = time.monotonic() - started
        held = LogHistory(log)
        counts = {topic: sum(end - first for first, end in held.spans([topic]).values()) for topic in _OUTPUTS[:2]}
    figures[f"{label}: records a second with streams and predict"] = round(outcome.records / seconds)
    figures[f"{label}: market-hours a minute"] = round(size.markets * size.seconds / 3_600 / (seconds / 60), 1)
    wanted = {topic: figures[f"in memory, {size.markets} markets: {topic}"] for topic in counts}
    for topic, count in counts.items():
        figures[f"{label}: {topic} more or fewer than in memory"] = count - wanted[topic]
    return counts == wanted


def _is_done(log: KafkaLog, group: str, names: tuple[str, ...], children: Children) -> bool:
    children.require_alive()
    ends = {slot: end for slot, (_, end) in log.bounds(slots_of(log, names)).items()}
    committed = log.committed(group, ends)
    return any(ends.values()) and all(committed.get(slot, 0) >= end for slot, end in ends.items())
