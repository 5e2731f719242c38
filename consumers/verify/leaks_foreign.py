"""Leaks planted by somebody who has not seen the checks that must find them, and honest twins that must pass.

Used by `observator verify leaks` and its tests; each is what a competent but careless developer would write on the real
stage. Nothing here may ever be called by a process that forecasts or trades.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import msgspec
import numpy as np
import numpy.typing as npt

from consumers.verify.disturbed import Written
from consumers.verify.leaks_subjects import Label, Output, Study, Subject
from models.forecast.dataset import Rows, collect, labels
from streams.market import kernels
from streams.market.bins import HalfBins, OpenBin, Source, WholeBin
from streams.messages import Features, OrderBook, Trade, key_of
from streams.stage import BOOKS, INPUTS, TRADES, PartitionStage, Run, StageOptions
from streams.topics import decode

OPTIONS = StageOptions(grid_ms=1_000, window_bins=60)
HORIZON_MS = 5_000
_MEMORY = 0.8
"""What one step leaves of the weight in an exponentially weighted mean."""

Floats = npt.NDArray[np.float64]
Missed = Mapping[tuple[str, int], Sequence[Trade]]
"""Back-filled trades by market and bin."""


# --- (a) the label in the features ----------------------------------------------------------------------------------


def _rounded_drift(records: Sequence[Written], fit_end_ms: int) -> Iterator[Output]:
    """LEAK. A "drift of late" that holds most of the label.

    The developer wants the return over the last five seconds beside the honest features, sees that the label column is
    just such a return, and lags it so that only known labels are used: by the delay of a decision. But the label of a
    row is known one delay *and one horizon* later, so four of the label's own five seconds stand in the feature.
    Rounding to whole basis points, against noise as he thinks, and a 0 where there is none yet hide it further.
    """
    del fit_end_ms
    rows = _table(records)
    target = labels(rows, HORIZON_MS)
    drift = np.nan_to_num(np.rint(_lagged(target.y, rows, target.delta_ms // rows.grid_ms)))
    yield from _outputs(rows, rows.features[:, :10], drift, rows.features[:, 10:])


# --- (b) a back-filled trade let in ---------------------------------------------------------------------------------


class _RepairedBins(HalfBins):
    """Adds the trades that the stream had lost to their bins when these close."""

    def __init__(self, grid_ms: int, missed: Missed) -> None:
        super().__init__(grid_ms, reads_from_start=True)
        self._missed = missed

    def _close(self, market: str, source: Source, name: str) -> bool:
        half = self.halves.get(market)
        if half is not None and half.owner == (source.session, name):
            for index in range(half.next_bin, source.event_ms // self._grid_ms):
                for trade in self._missed.get((market, index), ()):
                    self._repair(half.open.setdefault(index, OpenBin()), trade)
        return super()._close(market, source, name)

    @staticmethod
    def _repair(bin_: OpenBin, trade: Trade) -> None:
        if trade.trade_id not in bin_.trade_ids:
            bin_.trade_ids.add(trade.trade_id)
            kernels.apply_trade(bin_.row, trade.price, trade.size, trade.is_buy, float(trade.exchange_ms))


def _repaired(records: Sequence[Written]) -> Iterator[Output]:
    """LEAK. A past that is more complete than it was.

    The developer builds his rows from the archive, finds that REST brought trades later that the websocket had lost,
    and puts them where they belong by their time: why train on worse data than one has? Live, at the end of that bin,
    nobody knew them. Everything else is the real stage, and the counts of the heartbeats still agree.
    """
    missed: dict[tuple[str, int], list[Trade]] = {}
    for one in records:
        trade = _read(one) if one.topic == TRADES else None
        if isinstance(trade, Trade) and trade.origin == "backfill":
            place = key_of(trade.exchange, trade.market), trade.exchange_ms // OPTIONS.grid_ms
            missed.setdefault(place, []).append(trade)
    return _run(records, lambda: _with_bins({TRADES: _RepairedBins(OPTIONS.grid_ms, missed)}))


# --- (c) the trade's own time as event time -------------------------------------------------------------------------


class _OwnTimeBins(HalfBins):
    """Puts trades where their own time says, or into the oldest bin that is still open."""

    def take_trade(self, trade: Trade) -> None:
        source = self._sources.get(trade.source)
        open_from_ms = source.event_ms if source else 0
        super().take_trade(msgspec.structs.replace(trade, exchange_ms=max(trade.trade_ms, open_from_ms)))


def _by_own_time(records: Sequence[Written]) -> Iterator[Output]:
    """LEAK. The time of the match instead of the time of the message.

    A trade has a time of its own, and "when it happened" sounds better than "when it was told". But the exchange cuts
    it to whole seconds, up to two before the message: a trade told after a bin's end, while the bin waits for late
    records, falls into it. Half of the trades came out as late then; the developer mended that by giving them to the
    oldest open bin, which hides the mistake in every count.
    """
    return _run(records, lambda: _with_bins({TRADES: _OwnTimeBins(OPTIONS.grid_ms, reads_from_start=True)}))


# --- (d) the last bin peeks at its own close ------------------------------------------------------------------------


class _FreshQuoteStage(PartitionStage):
    """Shows the newest book it has where the bin that ends has none of its own."""

    def _row(self, exchange: str, market: str, run: Run, whole: WholeBin) -> Features:
        at = run.end - 1
        fresh = self.sides[BOOKS].halves[key_of(exchange, market)].open.get(whole.index + 1)
        if run.ring[at, kernels.N_BOOKS] > 0.0 or fresh is None or fresh.row[kernels.BID] <= 0.0:
            return super()._row(exchange, market, run, whole)
        row, mid = run.ring[at].copy(), run.mids[at]
        run.ring[at, : kernels.TRADES] = fresh.row[: kernels.TRADES]
        run.ring[at, [kernels.OFI, kernels.MOFI, kernels.IMBALANCE_SUM]] = 0.0
        run.mids[at] = kernels.own_mid(fresh.row)
        try:
            return super()._row(exchange, market, run, whole)
        finally:
            run.ring[at], run.mids[at] = row, mid


def _fresh_quote(records: Sequence[Written]) -> Iterator[Output]:
    """LEAK. A quiet bin is closed with the book that came after it.

    A row is written half a second after its bin's end, when the lateness has passed. In a quiet market the developer
    sees rows with an old price although a newer book is in memory, in the bin that is open already, and takes that one
    "only for the newest row". It is a price from after the row's time: the label begins where the row already is.
    """
    return _run(records, lambda: _FreshQuoteStage(OPTIONS))


class _RightClosedBins(HalfBins):
    """Bins of the kind (start, end]."""

    def _bin_for(self, record: OrderBook | Trade, event_ms: int) -> OpenBin | None:
        return super()._bin_for(record, event_ms - 1)


def _right_closed(records: Sequence[Written]) -> Iterator[Output]:
    """LEAK. Bins closed on the right, as `resample(closed="right", label="right")` of a notebook made them.

    A record at exactly the end of a bin belongs to the next one; here it comes into the bin that ends. One record in a
    thousand lies there, or nearly all where an exchange writes on a round grid. The hardest of these to find.
    """
    return _run(
        records, lambda: _with_bins({name: _RightClosedBins(OPTIONS.grid_ms, reads_from_start=True) for name in INPUTS})
    )


# --- honest twins ---------------------------------------------------------------------------------------------------


def _known_drift(records: Sequence[Written], fit_end_ms: int) -> Iterator[Output]:
    """HONEST twin of (a): it reads the label column too, but lagged by delay and horizon: what is known by then.

    An exponentially weighted mean of those past labels, started anew with each run, stands beside them.
    """
    del fit_end_ms
    rows = _table(records)
    target = labels(rows, HORIZON_MS)
    known = _lagged(target.y, rows, (target.delta_ms + target.horizon_ms) // rows.grid_ms)
    yield from _outputs(rows, rows.features[:, :10], known, _weighted_mean(known, rows), rows.features[:, 10:])


def _centred_but_told_late(records: Sequence[Written]) -> Iterator[Output]:
    """HONEST twin of (d) and of centred smoothing: a centred mean of five mids, told with the window's last bin.

    It looks two bins ahead of its centre, but its centre lies two bins before the row. With it go the features of the
    bin before and the step from its mid to this one's.
    """
    rows = _table(records)
    before, centred = _lagged(rows.mid, rows, 1), _centred_mean(rows)
    past = np.column_stack([_lagged(column, rows, 1) for column in rows.features.T])
    return _outputs(rows, before, rows.mid - before, _lagged(centred, rows, 2), past)


# --- what they share ------------------------------------------------------------------------------------------------


def _read(one: Written) -> object:
    """The message; None where it cannot be read or is none of the stage's."""
    if one.topic not in INPUTS:
        return None
    try:
        return decode(one.topic, one.value)
    except msgspec.DecodeError:
        return None


def _rows(records: Sequence[Written], stage: Callable[[], PartitionStage]) -> Iterator[Features]:
    stages: dict[int, PartitionStage] = {}
    for one in records:
        message = _read(one)
        if message is not None:
            if one.partition not in stages:
                stages[one.partition] = stage()
            yield from stages[one.partition].apply(one.topic, message)  # type: ignore[arg-type] # a topic's own kinds


def _run(records: Sequence[Written], stage: Callable[[], PartitionStage]) -> Iterator[Output]:
    for row in _rows(records, stage):
        yield Output(row.bin_ms, row.market, (row.mid, *row.values))


def _with_bins(sides: Mapping[str, HalfBins]) -> PartitionStage:
    stage = PartitionStage(OPTIONS)
    stage.sides.update(sides)
    return stage


def _table(records: Sequence[Written]) -> Rows:
    return collect(_rows(records, lambda: PartitionStage(OPTIONS)))


def _outputs(rows: Rows, *columns: Floats) -> Iterator[Output]:
    """One output per row; NaN becomes None."""
    for at, values in enumerate(np.column_stack(columns).tolist()):
        market = rows.markets[rows.market[at]].split(":", 1)[1]
        shown = tuple(None if value != value else value for value in values)  # noqa: PLR0124 NaN alone differs from itself
        yield Output(int(rows.bin_ms[at]), market, shown)


def _lagged(column: Floats, rows: Rows, steps: int) -> Floats:
    """The column's value so many rows before, NaN where the run is not that old."""
    past = np.full(len(rows), np.nan)
    if steps < len(rows):
        is_same = rows.run[steps:] == rows.run[: len(rows) - steps]
        past[steps:] = np.where(is_same, column[: len(rows) - steps], np.nan)
    return past


def _weighted_mean(column: Floats, rows: Rows) -> Floats:
    """Exponentially weighted mean of the column up to each row, inside its run."""
    means = np.nan_to_num(column)
    for before, at in pairwise(range(len(rows))):
        if rows.run[before] == rows.run[at]:
            means[at] = _MEMORY * means[before] + (1.0 - _MEMORY) * means[at]
    return means


def _centred_mean(rows: Rows) -> Floats:
    """Mean of five mids around each row, NaN at the edges of a run."""
    means = np.full(len(rows), np.nan)
    if len(rows) >= 5:
        is_same = rows.run[4:] == rows.run[:-4]
        means[2:-2] = np.where(is_same, np.lib.stride_tricks.sliding_window_view(rows.mid, 5).mean(axis=1), np.nan)
    return means


def _labels(records: Sequence[Written]) -> Iterable[Label]:
    rows = _table(records)
    target = labels(rows, HORIZON_MS)
    for at in np.flatnonzero(target.usable).tolist():
        market = rows.markets[rows.market[at]].split(":", 1)[1]
        yield Label(int(rows.bin_ms[at]), market, float(target.y[at]), int(target.span_end_ms[at]))


LEAKS: tuple[Subject | Study, ...] = (
    Study("rounded drift", _rounded_drift, _labels),
    Subject("repaired past", _repaired),
    Subject("trade's own time", _by_own_time),
    Subject("fresh quote", _fresh_quote),
)
"""The four that must be found."""

HARDEST: tuple[Subject | Study, ...] = (Subject("closed on the right", _right_closed),)
"""Beyond the four: of the kind of `fresh quote`, but in one record of a thousand."""

HONEST: tuple[Subject | Study, ...] = (
    Study("known drift", _known_drift, _labels),
    Subject("centred but told late", _centred_but_told_late),
)
"""These only look suspicious: an alarm for one of them is false."""
