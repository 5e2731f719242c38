"""Holds records of a topic against the same records computed again: by identity and hash, in bounded memory.

Called by `session_stages` and `session_decisions`. Pure bookkeeping; a record that was recorded twice must be equal.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from consumers.verify.session_segments import Segment, segment_at
from infra.log import Record, Slot
from streams.messages import Message, hash_of

KEPT = 40_000
"""Compared records per market that are remembered, to hold a repetition against."""
NEWER = "newer than the last one recorded"
OLDER = "older than the first one recorded"
NO_RAW = "computed from records before the first one that could be read"
LATE_REPEAT = "repeated too late to be held against the first one"


class Item(NamedTuple):
    """One record of either side. `group` is its market or account, `at` orders it within its partition."""

    key: Hashable
    group: str
    at: int
    message: Message


@dataclass(frozen=True, slots=True)
class Difference:
    """Where recorded and recomputed part; `place` is the recorded one's, `computed` is None where nothing came."""

    topic: str
    kind: str
    key: Hashable
    at: int
    place: tuple[Slot, int, int] | None
    """Partition, offset, append time."""
    computed: Message | None
    segment: Segment | None
    first_place: tuple[Slot, int, int] | None = None
    """Of a repetition that differs: where it was recorded first."""


@dataclass(slots=True)
class Tally:
    """What was found in one topic (or in one segment of it)."""

    compared: int = 0
    differing: int = 0
    missing: int = 0
    """Computed again, but never recorded."""
    extra: int = 0
    """Recorded, but not computed again."""
    repeated: int = 0
    conflicts: int = 0
    """Repetitions that are not equal."""
    not_comparable: int = 0
    not_covered: Counter[str] = field(default_factory=Counter)

    @property
    def wrong(self) -> int:
        """How many records are not what they should be."""
        return self.differing + self.missing + self.extra + self.conflicts

    def told(self) -> dict[str, object]:
        """As plain values."""
        names = ("compared", "differing", "missing", "extra", "repeated", "conflicts", "not_comparable")
        return {name: getattr(self, name) for name in names} | {"not_covered": dict(self.not_covered)}


class Tallies:
    """Of one topic: the sum, per segment, and the first difference."""

    def __init__(self, topic: str, segments: Sequence[Segment]) -> None:
        self.topic = topic
        self.total = Tally()
        self.first: Difference | None = None
        self._segments = segments
        self._by_segment: dict[int, tuple[Segment | None, Tally]] = {}

    def count(self, name: str, append_ms: int, number: int = 1) -> None:
        """Count something under the sum and under the segment of its time."""
        for tally in (self.total, self._of(append_ms)):
            setattr(tally, name, getattr(tally, name) + number)

    def leave_out(self, why: str, append_ms: int, number: int = 1) -> None:
        """Count records that nothing is claimed of."""
        for tally in (self.total, self._of(append_ms)):
            tally.not_covered[why] += number

    def note(self, difference: Difference) -> None:
        """Keep the first one."""
        if self.first is None or difference.at < self.first.at:
            self.first = difference

    def segment(self, append_ms: int) -> Segment | None:
        """The segment in force."""
        return segment_at(self._segments, append_ms)

    def by_segment(self) -> list[tuple[Segment | None, Tally]]:
        """In order of time."""
        return [self._by_segment[offset] for offset in sorted(self._by_segment)]

    def _of(self, append_ms: int) -> Tally:
        segment = self.segment(append_ms)
        offset = -1 if segment is None else segment.offset
        if offset not in self._by_segment:
            self._by_segment[offset] = (segment, Tally())
        return self._by_segment[offset][1]


class _Seen(NamedTuple):
    """A recorded one that waits, or waited, for the one computed again."""

    digest: bytes
    place: tuple[Slot, int, int]
    group: str
    at: int


class Matcher:
    """One partition of one topic: takes both sides in any interleaving, each in its own order."""

    def __init__(self, tallies: Tallies) -> None:
        self._tallies = tallies
        self._recorded: dict[Hashable, _Seen] = {}
        self._computed: dict[Hashable, Item] = {}
        self._done: dict[str, dict[Hashable, _Seen]] = {}
        self._forgotten: dict[str, int] = {}
        self._append_ms = 0
        self.oldest: dict[str, int] = {}
        self.newest: dict[str, int] = {}

    def recorded(self, item: Item, record: Record) -> None:
        """Take a record as it stands in the history."""
        self._append_ms = record.append_ms
        seen = _Seen(hash_of(item.message), (record.slot, record.offset, record.append_ms), item.group, item.at)
        first = self._done.get(item.group, {}).get(item.key) or self._recorded.get(item.key)
        if first is not None:
            self._repeated(item, seen, first)
            return
        if item.at <= self._forgotten.get(item.group, -1):
            self._tallies.leave_out(LATE_REPEAT, record.append_ms)
            return
        self.oldest[item.group] = min(self.oldest.get(item.group, item.at), item.at)
        self.newest[item.group] = max(self.newest.get(item.group, item.at), item.at)
        computed = self._computed.pop(item.key, None)
        if computed is None:
            self._recorded[item.key] = seen
        else:
            self._compare(item.key, seen, computed)

    def computed(self, item: Item) -> None:
        """Take what was computed again."""
        seen = self._recorded.pop(item.key, None)
        if seen is None:
            self._computed[item.key] = item
        else:
            self._compare(item.key, seen, item)

    def finish(self, why_no_record: Callable[[Item], str], why_no_row: Callable[[str, int, int], str]) -> None:
        """Judge what has no counterpart; the functions say why nothing is claimed of it, or nothing.

        `why_no_record` is asked with an item computed again, `why_no_row` with group, place in order and append time
        of a recorded one.
        """
        for item in self._computed.values():
            if why := why_no_record(item):
                self._tallies.leave_out(why, self._append_ms)
                continue
            self._tallies.count("missing", self._append_ms)
            self._note("computed again, but not recorded", item.key, item.at, None, item.message)
        for key, seen in self._recorded.items():
            if why := why_no_row(seen.group, seen.at, seen.place[2]):
                self._tallies.leave_out(why, seen.place[2])
                continue
            self._tallies.count("extra", seen.place[2])
            self._note("recorded, but not computed again", key, seen.at, seen.place, None)
        self._computed.clear()
        self._recorded.clear()

    def _compare(self, key: Hashable, seen: _Seen, computed: Item) -> None:
        self._tallies.count("compared", seen.place[2])
        if seen.digest != hash_of(computed.message):
            self._tallies.count("differing", seen.place[2])
            self._note("differs", key, seen.at, seen.place, computed.message)
        done = self._done.setdefault(seen.group, {})
        done[key] = seen
        if len(done) > KEPT:
            for old in list(done)[: KEPT // 4]:
                forgotten = done.pop(old)
                self._forgotten[seen.group] = max(self._forgotten.get(seen.group, -1), forgotten.at)

    def _repeated(self, item: Item, seen: _Seen, first: _Seen) -> None:
        self._tallies.count("repeated", seen.place[2])
        if seen.digest != first.digest:
            self._tallies.count("conflicts", seen.place[2])
            self._note("a repeated record is not equal", item.key, item.at, seen.place, None, first.place)

    def _note(
        self,
        kind: str,
        key: Hashable,
        at: int,
        place: tuple[Slot, int, int] | None,
        computed: Message | None,
        first_place: tuple[Slot, int, int] | None = None,
    ) -> None:
        segment = self._tallies.segment(self._append_ms if place is None else place[2])
        self._tallies.note(Difference(self._tallies.topic, kind, key, at, place, computed, segment, first_place))
