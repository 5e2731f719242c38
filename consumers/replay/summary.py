"""What a replay in memory came to, without keeping what it computed: counts, and one hash per partition and topic.

Called by `observator replay memory`, by `apart` in each of its processes, and by the bench. Two replays of the same
records have the same hashes, whatever their speed, batch size and number of workers.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from consumers.replay.conditions import Segment, segments_of
from consumers.replay.decisions import run_decisions
from consumers.replay.memory import Spans, lead_ms, run_features
from infra.errors import BadSettings
from infra.log import Slot, partition_of
from infra.settings import Settings
from streams.history import History, spans_between
from streams.messages import Message, encode
from streams.stage import INPUTS
from streams.topics import TOPICS

DECIDED = ("trade-inputs",)
"""What the decisions are read by."""
Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Tally:
    """A sink that counts and hashes."""

    counts: Counter[str] = field(default_factory=Counter)
    digests: dict[str, bytes] = field(default_factory=dict)
    seconds: float = 0.0
    busy_s: float = 0.0
    """Of the slowest process, its start left out."""
    segments: int = 0

    def write(self, topic: str, key: str, message: Message) -> None:
        """Take one record; the hash of a partition is a chain over its records in order."""
        self.counts[topic] += 1
        slot = f"{topic}/{partition_of(key, TOPICS[topic].partitions)}"
        chain = hashlib.blake2b(self.digests.get(slot, b""), digest_size=16)
        chain.update(key.encode() + b"\0" + encode(message))
        self.digests[slot] = chain.digest()

    def add(self, other: "Tally") -> None:
        """Put two parts of a replay together; each partition belongs to one of them."""
        self.counts.update(other.counts)
        self.digests |= other.digests
        self.busy_s = max(self.busy_s, other.busy_s)

    def hash_of(self, topic: str) -> str:
        """One hash over all partitions of a topic; empty where nothing was written."""
        known = sorted(self.digests.items())
        parts = [name.encode() + digest for name, digest in known if name.startswith(f"{topic}/")]
        return hashlib.blake2b(b"".join(parts), digest_size=16).hexdigest() if parts else ""

    def told(self) -> dict[str, object]:
        """As one object."""
        hashes = {f"{topic} hash": self.hash_of(topic) for topic in ("features", "signals", "order-intents")}
        records = self.counts["records"]
        rate = {"seconds": round(self.seconds, 2), "records_per_second": round(records / max(self.seconds, 1e-9))}
        return {"segments": self.segments, **dict(sorted(self.counts.items())), **rate, **hashes}


def replay_here(
    settings: Settings,
    history: History,
    between_ms: tuple[int | None, int | None],
    batch: int,
    progress: Progress | None = None,
) -> Tally:
    """Replay a stretch in this process, segment by segment, each with the settings of its time."""
    started = time.monotonic()
    tally = Tally()
    for segment, spans in stretches(settings, history, between_ms):
        tally.segments += 1
        total = sum(end - first for first, end in spans.values())
        run_part(history, spans, segment, tally, batch, None, progress, total)
        run_decisions(history, decided(history, segment, between_ms), segment.conditions, tally.write)
    tally.seconds = time.monotonic() - started
    return tally


def run_part(
    history: History,
    spans: Spans,
    segment: Segment,
    tally: Tally,
    batch: int,
    partitions: Collection[int] | None = None,
    progress: Progress | None = None,
    total: int = 0,
) -> None:
    """Features and signals of some partitions into a tally."""
    report = None if progress is None else (lambda done: progress(done, total))
    counts = run_features(
        history, spans, segment.conditions, tally.write, batch=batch, partitions=partitions,
        since_ms=segment.first_ms, progress=report,
    )  # fmt: skip
    tally.counts.update(counts)


def stretches(
    settings: Settings, history: History, between_ms: tuple[int | None, int | None]
) -> list[tuple[Segment, dict[Slot, tuple[int, int]]]]:
    """The segments that a stretch touches, each with the raw records to read: those before it that it needs, too.

    Raises `BadSettings` where there is nothing.
    """
    found = []
    from_ms, to_ms = between_ms
    for segment in segments_of(history, settings):
        first_ms = max(segment.first_ms, from_ms or 0)
        ends = [one for one in (segment.end_ms, to_ms) if one is not None]
        if ends and first_ms >= min(ends):
            continue
        lead = max(0, first_ms - lead_ms(segment.conditions)) if first_ms else None
        spans = spans_between(history, INPUTS, lead, min(ends) if ends else None)
        if spans:
            found.append((segment._replace(first_ms=first_ms), spans))
    if not found:
        raise BadSettings("There are no order books and trades in this range: nothing is replayed.")
    return found


def decided(history: History, segment: Segment, between_ms: tuple[int | None, int | None]) -> Spans:
    """The recorded inputs of trade within a segment and a stretch."""
    first_ms = max(segment.first_ms, between_ms[0] or 0) or None
    ends = [one for one in (segment.end_ms, between_ms[1]) if one is not None]
    return spans_between(history, DECIDED, first_ms, min(ends) if ends else None)
