"""Five planted leaks that `observator verify leaks` must find, each beside its honest twin, which must raise no alarm.

Called by `consumers.verify.leaks_battery` and by tests; the other four stand in `consumers.verify.leaks_foreign`. Every
leak is one changed argument of code that is right otherwise. Nothing of this may ever feed a model.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np

from consumers.verify.disturbed import LATENESS_MS, Written
from consumers.verify.leaks_futures import said
from consumers.verify.leaks_stages import TRAINING, feature_rows, features_of
from consumers.verify.leaks_subjects import Output, Study, Subject
from streams.market.features import NAMES
from streams.messages import OrderBook, Trade

_RETURN = NAMES.index("return_1s")
_REACH = 2
_FLOW_MS = 2_000
Books = dict[str, list[tuple[int, int, float]]]
"""Per market, by event time: event time, time of writing, mid price."""


def _books(records: Iterable[Written]) -> Books:
    books: Books = {}
    for record in records:
        message = said(record.topic, record.value)
        if isinstance(message, OrderBook) and message.bid_prices and message.ask_prices:
            mid = (message.bid_prices[0] + message.ask_prices[0]) / 2
            books.setdefault(message.market, []).append((message.exchange_ms, record.at_ms, mid))
    return {market: sorted(found) for market, found in books.items()}


def _last_mid(records: Sequence[Written], *, lets_late_in: bool) -> list[Output]:
    """The mid of the last book of before each row; honest where only books count that were there in time."""
    books, outputs = _books(records), []
    for row in feature_rows(records):
        found, mid = books.get(row.market, []), None
        for at in range(bisect_left(found, (row.bin_ms,)) - 1, -1, -1):
            if lets_late_in or found[at][1] <= row.bin_ms + LATENESS_MS:
                mid = found[at][2]
                break
        outputs.append(Output(row.bin_ms, row.market, (mid,)))
    return outputs


def _next_mid(records: Sequence[Written]) -> list[Output]:
    """The mid of the book next to each row in time, forwards: a join in the wrong direction."""
    books, outputs = _books(records), []
    for row in feature_rows(records):
        found = books.get(row.market, [])
        at = bisect_left(found, (row.bin_ms,))
        outputs.append(Output(row.bin_ms, row.market, (found[at][2] if at < len(found) else None,)))
    return outputs


def _flow(records: Sequence[Written], *, ahead_ms: int) -> list[Output]:
    """Bought less sold over two seconds that end `ahead_ms` after the row."""
    trades: dict[str, list[tuple[int, int, float]]] = {}
    for record in records:
        message = said(record.topic, record.value)
        if isinstance(message, Trade) and message.origin == "stream":
            size = message.size if message.is_buy else -message.size
            trades.setdefault(message.market, []).append((message.exchange_ms, record.at_ms, size))
    outputs = []
    for row in feature_rows(records):
        end_ms = row.bin_ms + ahead_ms
        sizes = [
            size
            for event_ms, at_ms, size in trades.get(row.market, [])
            if end_ms - _FLOW_MS <= event_ms < end_ms and at_ms <= end_ms + LATENESS_MS
        ]
        outputs.append(Output(row.bin_ms, row.market, (sum(sizes),)))
    return outputs


def _smoothed(records: Sequence[Written], *, is_centred: bool) -> list[Output]:
    """The mean of five rows' returns: of the last five, or of those around the row."""
    by_market: dict[str, list[Output]] = {}
    for row in features_of(records):
        by_market.setdefault(row.market, []).append(row)
    outputs = []
    for rows in by_market.values():
        for at, row in enumerate(rows):
            first, end = (at - _REACH, at + _REACH + 1) if is_centred else (at - 2 * _REACH, at + 1)
            near = [one.values[_RETURN] for one in rows[max(0, first) : end]]
            known = [value for value in near if value is not None]
            outputs.append(Output(row.time_ms, row.market, (sum(known) / len(known) if known else None,)))
    return outputs


def _scaled(records: Sequence[Written], fit_end_ms: int, *, is_fitted_on_all: bool) -> list[Output]:
    """The feature table, centred and scaled by the mean and deviation of all rows, or of the training rows."""
    rows = [row._replace(values=row.values[:-1]) for row in features_of(records)]
    fitted = [row.values for row in rows if is_fitted_on_all or row.time_ms <= fit_end_ms]
    if not fitted:
        return []
    table = np.nan_to_num(np.array(fitted, dtype=np.float64))
    means, spreads = table.mean(axis=0), table.std(axis=0) + 1e-9
    return [
        row._replace(
            values=tuple(
                None if value is None else float((value - mean) / spread)
                for value, mean, spread in zip(row.values, means, spreads, strict=True)
            )
        )
        for row in rows
    ]


def _study(name: str, *, is_fitted_on_all: bool) -> Study:
    return TRAINING._replace(name=name, features=partial(_scaled, is_fitted_on_all=is_fitted_on_all))


LEAKS: tuple[Subject | Study, ...] = (
    Subject("future book", _next_mid),
    Subject("future trade", partial(_flow, ahead_ms=1_000)),
    Subject("centred smoothing", partial(_smoothed, is_centred=True)),
    _study("scaler fitted on all", is_fitted_on_all=True),
    Subject("late record let in", partial(_last_mid, lets_late_in=True)),
)
TWINS: tuple[Subject | Study, ...] = (
    Subject("last book", partial(_last_mid, lets_late_in=False)),
    Subject("past trades", partial(_flow, ahead_ms=0)),
    Subject("trailing smoothing", partial(_smoothed, is_centred=False)),
    _study("scaler fitted on training rows", is_fitted_on_all=False),
)
