"""What a leak check examines: a pipeline as a function of records, told by types alone.

Called by `consumers.verify.leaks` and by anybody who has a feature, a model or a strategy of their own to check. It
must never know a check: whoever plants a leak reads this file and no other.

The claim that is held against every output: it may depend on market data whose event time (`exchange_ms` of books and
trades) is before its `time_ms` and that were written by `time_ms + lateness_ms`, and on nothing else. A module that
plants leaks names them in `LEAKS: tuple[Subject | Study, ...]`, and their honest twins in `TWINS`, of the same type.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from consumers.verify.disturbed import LATENESS_MS, Written

Shuffle = Literal["topics", "markets", "trades"]
"""Ways to change the order inside a bin. `topics`: how books and trades lie between each other; `markets`: the order of
the markets in a partition; `trades`: the trades of one market in one bin.
"""


class Output(NamedTuple):
    """One output of a pipeline: at `time_ms` (market time, the end of its bin) it is claimed to be known."""

    time_ms: int
    market: str
    values: tuple[float | None, ...]


class Subject(NamedTuple):
    """A pipeline: raw records of `orderbooks` and `trades` in log order (heartbeats and holes among them) to outputs.

    `run` starts afresh at every call, gives the same for the same records, and may give its outputs in any order.
    """

    name: str
    run: Callable[[Sequence[Written]], Iterable[Output]]
    lateness_ms: int = LATENESS_MS
    """How long it waits, in the time of writing, for what happened before an output's `time_ms`."""
    independent: tuple[tuple[Shuffle, tuple[int, ...]], ...] = ()
    """Which positions of `values` are declared to be independent of an order inside a bin, by kind of shuffle."""


class Label(NamedTuple):
    """What a row of a study shall forecast; `known_ms` is the market time at which it is known."""

    time_ms: int
    market: str
    value: float
    known_ms: int


class Study(NamedTuple):
    """A pipeline that learns: a table of feature rows and the labels that belong to them by (time_ms, market).

    `features(records, fit_end_ms)` may fit (a scaler, a selection) on records of before `fit_end_ms`; the rows up to
    there are training rows. The rows after it are held to the claim above, with what was fitted as it is.
    """

    name: str
    features: Callable[[Sequence[Written], int], Iterable[Output]]
    label: Callable[[Sequence[Written]], Iterable[Label]]
    lateness_ms: int = LATENESS_MS
    delay_ms: int = 0
    """How long after its row's time a label's span begins; features newer by no more than this know nothing of it."""
