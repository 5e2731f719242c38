"""What a process gives to the consumer loop (`infra.loop`): its handler, and how fast it wants to be served."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from infra.log import Record, Slot
from infra.watchdog import LIMIT_S


class Output(NamedTuple):
    """One record to be published; without `partition` the key decides."""

    topic: str
    key: str
    value: bytes
    partition: int | None = None


class Handler(Protocol):
    """What a process does with its records. Subclass it and override what is needed."""

    def handle(self, record: Record) -> Iterable[Output]:
        """Take one record in.

        `Skip` or `msgspec.DecodeError` makes it a dead letter. `Retry` brings the same record again after a pause:
        raise it before any state is changed. Anything else ends the process.
        """

    def finish(self) -> Iterable[Output]:
        """End a batch (also an empty one, several times a second): for work that is done per batch, not per record.

        `Retry` brings the same call again. Offsets are committed after this only.
        """
        return ()

    def assigned(self, slots: frozenset[Slot]) -> None:
        """Learn of partitions that are read from now on."""

    def drop(self, slots: frozenset[Slot]) -> None:
        """Forget the state of partitions that were taken away."""


@dataclass(slots=True)
class Counts:
    """What a loop did since it was made."""

    handled: int = 0
    repeated: int = 0
    """Records that came again within one assignment and were skipped."""
    read_in: int = 0
    """Records that were missing in the stream and read from the side."""
    dead_letters: int = 0
    published: int = 0
    published_again: int = 0
    retries: int = 0


class Pace(NamedTuple):
    """How much at once and how often."""

    batch: int = 500
    poll_s: float = 0.1
    """Longest wait for a first record, and so the rhythm of `Handler.finish` in a quiet topic."""
    commit_every_s: float = 0.5
    watchdog_limit_s: float = LIMIT_S


DEFAULT_PACE = Pace()
DeadLetterMaker = Callable[[Record, str], Output]
"""Makes the dead letter of a record from the reason."""
