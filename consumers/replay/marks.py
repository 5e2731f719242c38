"""The marks of a copy in its own run: what it copies from where, that it was begun, and that it is complete.

Called by `write`. They stand in the topic `manifests` under the process `replay`, beside the manifests that are copied
and those of processes that run on the copy.
"""

import time
import uuid
from collections.abc import Iterator, Mapping

import msgspec

from consumers.replay.memory import Spans
from infra.catch_up import read_range
from infra.errors import AlreadyRunning, BadSettings, LogUnavailable, Stop, TopicMissing
from infra.log import Log, Record, Slot, publish_one, slots_of
from infra.manifest import content_hash, project_version
from streams import topics
from streams.messages import RunManifest, encode
from streams.process import topic_specs
from streams.topics import TOPICS

PREFIX = "replay-"
MARKS = Slot("manifests", 0)
PROCESS = "replay"
"""Stands as the process in a mark."""
SHARED = ("manifests", "model-events", "logs", "dead-letters")
"""Topics that processes running on the copy write, too."""
BEAT_GROUP = "replay-writer"
"""Under which group the writer at work commits its own time, for others to see that it lives."""
BEAT_S = 1.0
LEASE_S = 5.0
"""A writer that was silent for so long is taken to be gone."""
_FLUSH_S = 60.0
_SLEEP_S = 0.2
_SERVED_S = 60.0


class Marks:
    """The marks of one copy; `open` comes first."""

    def __init__(self, log: Log, source: str, spans: Spans) -> None:
        if not log.prefix.startswith(PREFIX):
            raise BadSettings(f"A replay is written under a prefix that begins with {PREFIX!r}, not {log.prefix!r}.")
        if unknown := {slot.topic for slot in spans} - TOPICS.keys():
            raise BadSettings(f"There is no topic {', '.join(sorted(unknown))}; there are {', '.join(TOPICS)}.")
        self._log = log
        self._source = source
        self.spans: dict[Slot, tuple[int, int]] = dict(sorted(spans.items()))
        self.first = 0
        """Where the copies of manifests begin."""
        self._writer = uuid.uuid4().hex
        self._beaten_s = 0.0
        self._looked_at = -1
        """End of the marks' partition when it was looked at last."""

    def open(self) -> None:
        """Begin the copy, or take up the spans of the one that was begun; raises `Stop` where that is another one."""
        self._make_topics()
        found = next(self._found(), None)
        if found is None:
            self._refuse_foreign()
            self._put("begun")
            found = next(self._found())
        offset, mark = found
        held = _spans_of(mark)
        if mark.settings.get("source") != self._source or not self._is_same(held):
            raise Stop(
                f"The run {self._log.prefix!r} holds another replay (from {mark.settings.get('source', '?')}): name"
                " another run, or the same source, topics and range to go on with that one."
            )
        self.spans, self.first = held, offset + 1
        if any(one.settings.get("state") == "done" for _, one in self._found()):
            raise Stop(f"The replay {self._log.prefix!r} is complete already: name another run to have it again.")

    def claim(self) -> None:
        """Become the one writer; raises `AlreadyRunning` beside one that lives, waits until a killed one is gone."""
        last = self._last_claim()
        if last is not None and last.settings["state"] == "claimed" and self._is_alive():
            raise AlreadyRunning(f"The replay {self._log.prefix!r} is being written by another process already.")
        self._put("claimed")
        self._beaten_s = 0.0
        self.beat()

    def beat(self) -> None:
        """Now and then say that this writer lives, and look whether it still is the one; raises `AlreadyRunning`."""
        now_s = time.monotonic()
        if now_s - self._beaten_s < BEAT_S:
            return
        end = self._log.bounds([MARKS])[MARKS][1]
        if end != self._looked_at:
            last = self._last_claim()
            if last is None or last.settings["writer"] != self._writer:
                raise AlreadyRunning(f"The replay {self._log.prefix!r} was taken over by another; this one stops.")
            self._looked_at = end
        self._log.commit(BEAT_GROUP, {MARKS: time.time_ns() // 1_000_000})
        self._beaten_s = now_s

    def release(self) -> None:
        """Say that nobody writes, so that another need not wait."""
        self._put("released")

    def close(self) -> None:
        """Say that it is complete."""
        self._put("done")

    def _is_alive(self) -> bool:
        """Whether the writer that claimed it last gives a sign of life."""
        before = self._log.committed(BEAT_GROUP, [MARKS])
        deadline = time.monotonic() + LEASE_S
        while time.monotonic() < deadline:
            time.sleep(_SLEEP_S)
            if self._log.committed(BEAT_GROUP, [MARKS]) != before:
                return True
        return False

    def _last_claim(self) -> RunManifest | None:
        states = {"claimed", "released", "done"}
        return next((mark for _, mark in reversed(list(self._found())) if mark.settings.get("state") in states), None)

    def _is_same(self, held: Spans) -> bool:
        """Whether what is asked for is the copy that was begun, from a source that may have grown since."""
        names = {slot.topic for slot in held}
        return all(
            slot in self.spans and self.spans[slot][0] == first and self.spans[slot][1] >= end
            for slot, (first, end) in held.items()
        ) and all(slot.topic in names for slot in self.spans)

    def _make_topics(self) -> None:
        """Create what is missing, and wait until a new partition's leader serves."""
        deadline = time.monotonic() + _SERVED_S
        while True:
            try:
                self._log.create_topics(topic_specs())
                self._log.bounds(slots_of(self._log, TOPICS))
            except (LogUnavailable, TopicMissing):
                if time.monotonic() > deadline:
                    raise
                time.sleep(_SLEEP_S)
            else:
                return

    def _refuse_foreign(self) -> None:
        """Raise `Stop` where a run without a mark holds records: they are no replay's."""
        slots = [slot for slot in slots_of(self._log, TOPICS) if slot.topic not in SHARED]
        held = [slot for slot, (first, end) in self._log.bounds(slots).items() if first < end]
        if held:
            raise Stop(
                f"The run {self._log.prefix!r} holds records ({held[0].topic}/{held[0].partition} among others), but"
                " none of a replay: name another run."
            )

    def _found(self) -> Iterator[tuple[int, RunManifest]]:
        """Offset and content of this run's marks; processes may have told of themselves before the first."""
        for record in read_range(self._log, {MARKS: self._log.bounds([MARKS])[MARKS][0]}):
            mark = _mark_of(record)
            if mark is not None and mark.settings.get("prefix") == self._log.prefix:
                yield record.offset, mark

    def _put(self, state: str) -> None:
        told = _told(self.spans) | {"source": self._source, "prefix": self._log.prefix}
        mark = RunManifest(
            id=content_hash(dict(told)), process=PROCESS, version=project_version(), git_sha="", lock_hash="",
            kernel_hash="", backend="", cpu="", python="", settings=told | {"state": state, "writer": self._writer},
            started_ms=time.time_ns() // 1_000_000,
        )  # fmt: skip
        publish_one(self._log, MARKS.topic, PROCESS, encode(mark), _FLUSH_S)


def _told(spans: Mapping[Slot, tuple[int, int]]) -> dict[str, str]:
    return {f"{slot.topic}/{slot.partition}": f"{first}-{end}" for slot, (first, end) in spans.items()}


def _spans_of(mark: RunManifest) -> dict[Slot, tuple[int, int]]:
    spans = {}
    for name, text in mark.settings.items():
        topic, is_slot, partition = name.partition("/")
        first, _, end = text.partition("-")
        if is_slot:
            spans[Slot(topic, int(partition))] = (int(first), int(end))
    return dict(sorted(spans.items()))


def _mark_of(record: Record) -> RunManifest | None:
    try:
        mark: RunManifest = topics.decode(MARKS.topic, record.value)
    except msgspec.DecodeError:
        return None
    return mark if mark.process == PROCESS else None
