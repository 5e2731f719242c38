"""Two sets of feature rows of the same frames held against each other, and each difference against late records.

Pure. A row may differ only where a record came late in one of the two runs and not in the other: then the record's own
bin differs, and with it every later row whose run of bins holds that bin.
"""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from infra.log import Record
from streams import topics
from streams.market.bins import HalfBins
from streams.messages import Features, Heartbeat, Hole, MarketData, OrderBook, Trade, hash_of

_USED = ("book", "trade")
_SHOWN = 5

Bin = tuple[str, int]
"""Market and end of the bin in ms."""


class Unused(NamedTuple):
    """A record that entered no bin: which one, the bin that it belongs to, and why."""

    what: tuple[str, int, bytes]
    bin: Bin
    why: str


class Difference(NamedTuple):
    """What two runs over the same frames do not have in common."""

    compared: int
    differing: int
    explained: int
    unexplained: list[str]
    """A few of the rows that no late record explains, in words."""
    shown: list[str]
    """A few of those that one does."""
    missing: int
    """Rows of the first run that the second one lacks."""
    after_end: int
    """Rows of the first run, without data, after the second one's last: the clock of a live feed goes on."""


def unused(records: Iterable[Record], grid_ms: int) -> dict[tuple[str, int, bytes], Unused]:
    """The data records of a run that entered no bin, by what they are."""
    halves: dict[tuple[str, int], HalfBins] = {}
    found: dict[tuple[str, int, bytes], Unused] = {}
    for record in records:
        half = halves.get(record.slot)
        if half is None:
            half = halves[record.slot] = HalfBins(grid_ms, reads_from_start=True)
        message = topics.decode(record.topic, record.value)
        before = half.counts.copy()
        _take(half, message)
        if not isinstance(message, OrderBook | Trade) or any(half.counts[name] > before[name] for name in _USED):
            continue
        why = ", ".join(name for name, times in half.counts.items() if times > before[name])
        what = identity_of(message)
        found[what] = Unused(what, (message.market, (message.exchange_ms // grid_ms + 1) * grid_ms), why)
    return found


def identity_of(message: OrderBook | Trade) -> tuple[str, int, bytes]:
    """What makes it the same record in both runs: market, time and content."""
    return message.market, message.exchange_ms, hash_of(message)


def data_of(records: Iterable[Record]) -> set[tuple[str, int, bytes]]:
    """The books and trades of a run."""
    messages = (topics.decode(record.topic, record.value) for record in records)
    return {identity_of(message) for message in messages if isinstance(message, OrderBook | Trade)}


def compare(first: Iterable[Features], second: Iterable[Features], late: Iterable[Unused], grid_ms: int) -> Difference:
    """Hold rows against each other; `late` are the records that entered a bin in one of the two runs only."""
    one, other = _by_bin(first), _by_bin(second)
    causes = {item.bin: item for item in late}
    last_ms = max((bin_ms for _, bin_ms in other), default=0)
    differing = explained = missing = after_end = 0
    unexplained: list[str] = []
    shown: list[str] = []
    for place in sorted(one.keys() | other.keys()):
        left, right = one.get(place), other.get(place)
        if left is None or right is None:
            if left is not None and place[1] > last_ms and not left.n_books and not left.n_trades:
                after_end += 1
            else:
                missing += 1
                unexplained.append(f"{place[0]} {place[1]} is in {'the second' if left is None else 'the first'} only")
            continue
        if hash_of(left) == hash_of(right):
            continue
        differing += 1
        cause = _cause(left, right, causes, grid_ms)
        if cause is None:
            unexplained.append(f"{place[0]} {place[1]} differs: no late record in its bins")
        else:
            explained += 1
            shown.append(
                f"{place[0]} {place[1]} differs: in bin {cause.bin[1]} a record of {cause.what[1]} {cause.why}"
            )
    return Difference(
        len(one.keys() & other.keys()), differing, explained, unexplained[:_SHOWN], shown[:_SHOWN], missing, after_end
    )


def _cause(left: Features, right: Features, causes: dict[Bin, Unused], grid_ms: int) -> Unused | None:
    """The record that explains it. Where the bin's own sums differ, it must be one of this very bin."""
    here = causes.get((left.market, left.bin_ms))
    if here is not None or _sums(left) != _sums(right):
        return here
    begin_ms = left.bin_ms - grid_ms * max(left.n_bins, right.n_bins)
    bins = range(left.bin_ms, begin_ms, -grid_ms)
    return next((causes[left.market, at] for at in bins if (left.market, at) in causes), None)


def _sums(row: Features) -> tuple[object, ...]:
    return row.n_books, row.n_trades, row.accumulators


def _by_bin(rows: Iterable[Features]) -> dict[Bin, Features]:
    """By market and bin, without what tells only who wrote it and when."""
    return {(row.market, row.bin_ms): msgspec.structs.replace(row, source="", session=0, received_ns=0) for row in rows}


def _take(half: HalfBins, message: MarketData) -> None:
    if isinstance(message, OrderBook):
        half.take_book(message)
    elif isinstance(message, Trade):
        half.take_trade(message)
    elif isinstance(message, Hole):
        half.take_hole(message)
    else:
        assert isinstance(message, Heartbeat)
        half.take_heartbeat(message)
