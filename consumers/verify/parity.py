"""`observator verify parity`: the same records give the same features and signals, whatever runs them.

Faust, the plain loop and the in-memory runner, over 1, 2 and 4 workers and batches of 1, 7 and 500 (pairwise
covering), with workers that are killed, join and leave while they work. Compared by hash after de-duplication; a
repeated record must be equal. The control alters one byte of one record and must find it.
"""

import random
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from consumers.predict import PredictLoop
from consumers.verify.disturbed import Written, disturbed_log
from consumers.verify.processes import Children, create_all_topics, insist, own_broker, wait_until
from infra.figures import result_of
from infra.kafka import KafkaLog
from infra.log import Log, Slot, TopicSpec, slots_of
from infra.memory_log import MemoryLog
from infra.settings import Settings
from streams import topics
from streams.messages import Features, Signal, hash_of
from streams.runner import GROUP, FeatureLoop, options_of
from streams.stage import INPUTS
from streams.topics import TOPICS


class Way(NamedTuple):
    """One way to run the stages."""

    runner: str
    workers: int
    batch: int


WAYS = (
    Way("memory", 1, 1), Way("memory", 2, 7), Way("memory", 4, 500),
    Way("loop", 1, 7), Way("loop", 2, 500), Way("loop", 4, 1),
    Way("faust", 1, 500), Way("faust", 2, 1), Way("faust", 4, 7),
)  # fmt: skip
"""Every pair of runner, workers and batch occurs once."""

QUICK_WAYS = (Way("memory", 2, 7), Way("loop", 2, 500), Way("faust", 1, 7))


@dataclass(slots=True)
class Outcome:
    """What a run wrote: hashes by identity, and what was wrong with it by itself."""

    features: dict[tuple[str, int], bytes] = field(default_factory=dict)
    signals: dict[str, bytes] = field(default_factory=dict)
    full_rows: int = 0
    repeated: int = 0
    conflicts: int = 0
    kills: int = 0
    stuck: int = 0
    seconds: float = 0.0

    def difference(self, other: "Outcome") -> int:
        """Records that one has and the other has not, or not equal."""
        features = self.features.keys() | other.features.keys()
        signals = self.signals.keys() | other.signals.keys()
        return sum(self.features.get(key) != other.features.get(key) for key in features) + sum(
            self.signals.get(key) != other.signals.get(key) for key in signals
        )


def verify_parity(
    recordings: Mapping[str, Sequence[Written]], *, quick: bool = False, seed: int = 1
) -> dict[str, object]:
    """Run every input through every way; `recordings` are inputs made by the caller, by name."""
    markets, seconds, window = (12, 120, 40) if quick else (60, 3_000, 300)
    disturbed = disturbed_log(markets, seconds, seed, lost_share=2e-4 if quick else 2e-5)
    if quick:
        recordings = dict(sorted(recordings.items(), key=lambda item: len(item[1]))[:1])
    figures: dict[str, float] = {}
    differing = conflicts = kills = 0
    home = Path(tempfile.mkdtemp(prefix="observator-parity-"))
    ways = QUICK_WAYS if quick else WAYS
    try:
        with own_broker(home / "broker") as broker:
            for name, records, window_bins in (
                *((name, records, 300) for name, records in recordings.items()),
                ("synthetic", disturbed, window),
            ):
                settings = _settings(home, window_bins, 500)
                reference = run_in_memory(settings, records, 1)
                figures |= _of_reference(name, records, reference)
                for way in ways:
                    outcome = _run(way, _settings(home, window_bins, way.batch), records, broker.bootstrap, home, seed)
                    different = outcome.difference(reference)
                    differing, conflicts, kills = (
                        differing + different,
                        conflicts + outcome.conflicts,
                        kills + outcome.kills,
                    )
                    label = f"{name} {way.runner} {way.workers} workers batch {way.batch}"
                    figures[f"{label}: differing"] = different
                    figures[f"{label}: repeated"] = outcome.repeated
                    figures[f"{label}: ended by a watchdog"] = outcome.stuck
                    figures[f"{label}: seconds"] = round(outcome.seconds, 1)
                if name == "synthetic":
                    altered = run_in_memory(settings, list(alter_one_byte(records, seed)), 1)
                    figures["control: differing after one altered byte"] = altered.difference(reference)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    figures |= {"differing": differing, "conflicting repeats": conflicts, "kills": kills}
    enough = quick or (
        len(recordings) >= 2
        and figures["synthetic: rows with a book and a full window"] >= 100_000
        and figures["synthetic: signals"] >= 100_000
    )
    passed = not differing and not conflicts and figures["control: differing after one altered byte"] > 0 and enough
    return result_of(
        "parity",
        figures,
        {
            "quick": quick,
            "recordings": sorted(recordings),
            "markets": markets,
            "market_seconds": seconds,
            "window_bins": window,
            "seed": seed,
        },
        passed=bool(passed),
    )


def _of_reference(name: str, records: Sequence[Written], reference: Outcome) -> dict[str, float]:
    return {
        f"{name}: records": len(records),
        f"{name}: feature rows": len(reference.features),
        f"{name}: rows with a book and a full window": reference.full_rows,
        f"{name}: signals": len(reference.signals),
    }


def _settings(home: Path, window_bins: int, batch: int) -> Settings:
    return Settings.model_validate(
        {"home": home, "grid": {"window_bins": window_bins}, "streams": {"batch": batch}, "feed": {"kind": "synthetic"}}
    )


def alter_one_byte(records: Iterable[Written], seed: int) -> Iterator[Written]:
    """Change one digit of one best bid size in the middle of the log."""
    records = list(records)
    rng = random.Random(seed)  # noqa: S311 a test input
    middle = [i for i, record in enumerate(records) if b'"bid_sizes":[0.' in record.value]
    chosen = middle[len(middle) // 2 + rng.randrange(100)] if len(middle) > 300 else middle[len(middle) // 2]
    for number, record in enumerate(records):
        if number != chosen:
            yield record
            continue
        at = record.value.index(b'"bid_sizes":[0.') + len(b'"bid_sizes":[0.')
        digit = b"7" if record.value[at : at + 1] != b"7" else b"3"
        yield record._replace(value=record.value[:at] + digit + record.value[at + 1 :])


def write_all(log: Log, records: Iterable[Written]) -> None:
    """Write an input into a log, in order."""
    publisher = log.publisher()
    for record in records:
        publisher.publish(record.topic, record.key, record.value, record.partition)
    publisher.flush(60)
    publisher.close()


def outcome_of(log: Log, window_bins: int) -> Outcome:
    """Read `features` and `signals` back and hash them."""
    outcome = Outcome()
    slots = slots_of(log, ["features", "signals"])
    bounds = insist(lambda: log.bounds(slots), 60, "the log's bounds")
    for slot, (_, end) in bounds.items():
        reader = log.reader({slot: 0})
        while reader.position(slot) < end:
            for record in reader.read(5_000, 1.0):
                _take(outcome, topics.decode(slot.topic, record.value), window_bins)
        reader.close()
    return outcome


def _take(outcome: Outcome, message: Features | Signal, window_bins: int) -> None:
    digest = hash_of(message)
    if isinstance(message, Features):
        known = outcome.features.get((message.market, message.bin_ms))
        if known is None:
            outcome.features[message.market, message.bin_ms] = digest
            outcome.full_rows += message.mid is not None and message.n_bins == window_bins
    else:
        known = outcome.signals.get(message.id)
        outcome.signals[message.id] = digest
    if known is not None:
        outcome.repeated += 1
        outcome.conflicts += known != digest


def _run(way: Way, settings: Settings, records: Sequence[Written], bootstrap: str, home: Path, seed: int) -> Outcome:
    started = time.monotonic()
    if way.runner == "memory":
        outcome = run_in_memory(settings, records, way.workers, random.Random(seed))  # noqa: S311 a test schedule
    else:
        outcome = run_on_kafka(way, settings, records, bootstrap, home)
    outcome.seconds = time.monotonic() - started
    return outcome


def run_in_memory(
    settings: Settings, records: Sequence[Written], workers: int, rng: random.Random | None = None
) -> Outcome:
    """Run both stages over the in-memory log; with `rng`, workers join, leave and vanish while they work."""
    log = MemoryLog(clock_ms=lambda: 0)
    log.create_topics([TopicSpec(topic.name, topic.partitions, topic.config) for topic in TOPICS.values()])
    write_all(log, records)
    options, batch = options_of(settings), settings.streams.batch
    loops = [FeatureLoop(log, options, batch=batch, poll_s=0) for _ in range(workers)]
    kills = 0
    next_event = rng.randrange(2_000, 20_000) if rng else -1
    done = 0
    while read := [loop.step() for loop in loops]:
        done += sum(read)
        if rng and done > next_event:
            next_event = done + rng.randrange(2_000, len(records) // 4 + 2_001)
            chosen = rng.randrange(len(loops))
            if rng.random() < 0.5:
                loops[chosen].commit()
            loops.pop(chosen).vanish()
            loops.append(FeatureLoop(log, options, batch=batch, poll_s=0))
            kills += 1
        elif not any(read):
            break
        if rng and rng.random() < 0.05:
            loops[0].commit()
    for loop in loops:
        loop.commit()
        loop.vanish()
    predict = PredictLoop.of(settings, log)
    while predict.step(0):
        pass
    predict.commit()
    predict.close()
    outcome = outcome_of(log, settings.grid.window_bins)
    outcome.kills = kills
    return outcome


def run_on_kafka(way: Way, settings: Settings, records: Sequence[Written], bootstrap: str, home: Path) -> Outcome:
    """Run both stages as processes over the broker, under a prefix of their own, killing and adding workers."""
    prefix = f"p{time.monotonic_ns()}-"
    folder = home / prefix
    folder.mkdir()
    with KafkaLog(bootstrap, prefix) as log, Children(folder) as children:
        create_all_topics(log)
        names = [f"{way.runner}-{number}" for number in range(way.workers)]
        children.start_stage(names[0], way.runner, bootstrap, prefix, settings)
        children.start_stage("predict", "predict", bootstrap, prefix, settings)
        write_all(log, records)
        for name in names[1:]:
            children.start_stage(name, way.runner, bootstrap, prefix, settings)
            time.sleep(1.5)
        for round_number in range(2):
            if insist(lambda: _is_done(log, GROUP, INPUTS), 60, "the log's bounds"):
                break
            victim = names[round_number % len(names)]
            children.kill(victim)
            children.start_stage(victim, way.runner, bootstrap, prefix, settings)
            time.sleep(4.0)
        wait_until(lambda: _is_done(log, GROUP, INPUTS, children), 900, f"{way}: features", 0.5)
        wait_until(lambda: _is_done(log, "predict", ["features"], children), 300, f"{way}: signals", 0.5)
        outcome = outcome_of(log, settings.grid.window_bins)
        outcome.kills = children.kills
        outcome.stuck = children.stuck
    return outcome


def _is_done(log: KafkaLog, group: str, names: Sequence[str], children: Children | None = None) -> bool:
    if children:
        children.require_alive(restart_stuck=True)
    slots = slots_of(log, names)
    ends: dict[Slot, int] = {slot: end for slot, (_, end) in log.bounds(slots).items()}
    committed = log.committed(group, slots)
    return all(committed.get(slot, 0) == end for slot, end in ends.items())
