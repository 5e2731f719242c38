"""What a run gave, as hashes by identity, and a history with one record altered: for `verify replay`. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from infra.log import Record, Slot
from streams import messages as m
from streams.history import History
from streams.stage import INPUTS

OUTPUTS = ("features", "signals", "order-intents", "order-events")
_KEPT_WHOLE = ("manifests", "model-events")


@dataclass(slots=True)
class Outputs:
    """What a run gave, as hashes by identity; a repetition must be equal."""

    found: dict[str, dict[Any, bytes]] = field(default_factory=lambda: {topic: {} for topic in OUTPUTS})
    conflicts: int = 0
    _vetoes: dict[tuple[object, ...], int] = field(default_factory=dict)

    def take(self, topic: str, _key: str, message: m.Message) -> None:
        """One record, of either side; what others write into a topic is passed over."""
        known = self.found[topic]
        identity: Any
        if isinstance(message, m.Features):
            identity = (message.exchange, message.market, message.bin_ms)
        elif isinstance(message, m.Veto):
            place = (message.account, message.strategy, message.exchange, message.market, message.event_ms)
            self._vetoes[place] = identity = self._vetoes.get(place, 0) + 1
            identity = (*place, identity)
        elif isinstance(message, m.Signal | m.OrderIntent | m.CancelIntent):
            identity = message.id
        else:
            return
        digest = m.hash_of(message)
        self.conflicts += known.setdefault(identity, digest) != digest

    def differing(self, other: "Outputs", names: Iterable[str] = OUTPUTS) -> int:
        """Records that one has and the other has not, or not equal."""
        total = 0
        for name in names:
            mine, others = self.found[name], other.found[name]
            total += sum(others.get(key) != digest for key, digest in mine.items()) + len(others.keys() - mine.keys())
        return total


class Part(NamedTuple):
    """One partition of a history with one record altered: what the control compares."""

    history: History
    altered: Record

    def spans(self, names: Iterable[str]) -> dict[Slot, tuple[int, int]]:
        """Its market's topics in this partition, and the manifests."""
        wanted = [name for name in names if name in {*INPUTS, "features", "signals", *_KEPT_WHOLE}]
        return {
            slot: span
            for slot, span in self.history.spans(wanted).items()
            if slot.partition == self.altered.partition or slot.topic in _KEPT_WHOLE
        }

    def read(self, slot: Slot, first: int, end: int) -> Iterator[Record]:
        """The records, one of them altered."""
        for record in self.history.read(slot, first, end):
            is_it = slot == self.altered.slot and record.offset == self.altered.offset
            yield self.altered if is_it else record

    def appended_at(self, slot: Slot, first: int, end: int, append_ms: int) -> int:
        """By the history itself."""
        return self.history.appended_at(slot, first, end, append_ms)
