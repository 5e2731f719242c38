"""Consumer groups of the in-memory log: membership, range assignment, rebalances, committed offsets.

Used by `infra.memory_log` only, always under its lock. Rebalances are eager as in Kafka's classic protocol: nobody
gets a partition before every member has let go of its own. There is no session time-out: a member is gone when closed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from infra.errors import Fenced, NotOwner
from infra.log import Slot


@dataclass(eq=False, slots=True)
class Member:
    """One reader in a group."""

    name: str
    """What members are sorted by: the instance where one is given, else the order of arrival."""
    topics: tuple[str, ...]
    slots: frozenset[Slot] = frozenset()
    has_rejoined: bool = False
    is_fresh: bool = False
    """Whether its slots were assigned and not yet taken note of."""
    is_fenced: bool = False


@dataclass(eq=False, slots=True)
class Group:
    """Members and committed offsets of one group; `partitions` tells the partition count of a topic."""

    name: str
    partitions: Callable[[str], int]
    members: dict[str, Member] = field(default_factory=dict)
    committed: dict[Slot, int] = field(default_factory=dict)
    is_rebalancing: bool = False
    arrivals: int = 0

    def join(self, topics: Sequence[str], instance: str | None) -> Member:
        """Add a member; an older holder of the same instance is fenced."""
        self.arrivals += 1
        name = f"instance-{instance}" if instance is not None else f"member-{self.arrivals:06d}"
        if (older := self.members.pop(name, None)) is not None:
            older.is_fenced = True
            older.slots = frozenset()
        member = self.members[name] = Member(name, tuple(topics))
        self._start_rebalance()
        return member

    def leave(self, member: Member) -> None:
        """Remove a member; the others share its partitions at their next read."""
        if self.members.get(member.name) is member:
            del self.members[member.name]
            member.slots = frozenset()
            self._start_rebalance()
            self._assign_when_all_rejoined()

    def must_let_go(self, member: Member) -> bool:
        """Whether the member has to give its partitions back now; raises `Fenced`."""
        if member.is_fenced:
            raise Fenced(f"another reader took over instance {member.name!r} of group {self.name!r}")
        return self.is_rebalancing and not member.has_rejoined

    def rejoin(self, member: Member) -> None:
        """Note that the member has let go; the last one to do so completes the rebalance."""
        member.slots = frozenset()
        member.has_rejoined = True
        self._assign_when_all_rejoined()

    def commit(self, member: Member | None, offsets: Mapping[Slot, int]) -> None:
        """Commit for a member, or without one for a group that has none; raises `Fenced`, `NotOwner`."""
        if member is None:
            if self.members:
                raise NotOwner(f"group {self.name!r} has members: only they commit")
        else:
            if member.is_fenced:
                raise Fenced(f"another reader took over instance {member.name!r} of group {self.name!r}")
            if not_ours := sorted(set(offsets) - member.slots):
                raise NotOwner(f"group {self.name!r} took these away: {not_ours}")
        self.committed.update(offsets)

    def _start_rebalance(self) -> None:
        self.is_rebalancing = bool(self.members)
        for member in self.members.values():
            member.has_rejoined = member.is_fresh = False

    def _assign_when_all_rejoined(self) -> None:
        if not self.is_rebalancing or not all(member.has_rejoined for member in self.members.values()):
            return
        shares = share_by_range({m.name: m.topics for m in self.members.values()}, self.partitions)
        for member in self.members.values():
            member.slots = shares[member.name]
            member.is_fresh = True
        self.is_rebalancing = False


def share_by_range(
    members: Mapping[str, Sequence[str]], partitions: Callable[[str], int]
) -> dict[str, frozenset[Slot]]:
    """Kafka's range assignment: per topic, consecutive partitions to its subscribers sorted by name."""
    shares: dict[str, set[Slot]] = {name: set() for name in members}
    for topic in sorted({topic for topics in members.values() for topic in topics}):
        subscribers = sorted(name for name, topics in members.items() if topic in topics)
        each, rest = divmod(partitions(topic), len(subscribers))
        first = 0
        for i, name in enumerate(subscribers):
            count = each + (i < rest)
            shares[name].update(Slot(topic, partition) for partition in range(first, first + count))
            first += count
    return {name: frozenset(slots) for name, slots in shares.items()}
