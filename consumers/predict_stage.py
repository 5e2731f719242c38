"""The inference stage: feature rows in, signals out. Pure: no clock, no log, no settings object.

Called by `consumers.predict` and by the in-memory runner. The same rows give the same signals whatever the batches,
the duplicates and the restarts.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from infra.errors import BadSettings
from models.forecast.registry import Predictor, Served, has_single_bits
from streams.messages import Features, Feed, Signal, SignalIds, hash_of, key_of

Floats = npt.NDArray[np.float64]

SCHEMA_MISMATCH = "schema-mismatch"
STALE = "stale"
HOLE = "hole"
WINDOW_SHORT = "window-short"
NULL_FEATURE = "null-feature"
REFUSALS = (SCHEMA_MISMATCH, STALE, HOLE, WINDOW_SHORT, NULL_FEATURE)
"""Why a row gives no signal: other schema or grid; no usable price; a hole or a start too near; an empty feature."""


@dataclass(slots=True)
class MarketState:
    """The last rows of one market. `run` of them, the newest, follow each other without a missing bin."""

    rows: deque[Features]
    run: int = 0
    is_from_start: bool = False
    """Whether the run is known from its first bin."""
    is_after_hole: bool = False

    def is_settled(self, window_rows: int) -> bool:
        """Whether nothing before the first row kept can matter."""
        return self.is_from_start or self.run >= window_rows

    def take(self, row: Features) -> str:
        """Fold a row. Says "new"; or for a bin not after the newest: "duplicate", "conflict", "old"."""
        if not self.rows:
            self.run, self.is_from_start = 1, row.n_bins == 1
            self.rows.append(row)
            return "new"
        step_ms = row.bin_ms - self.rows[-1].bin_ms
        if step_ms <= 0:
            return self._repeated(row)
        if row.n_bins * row.grid_ms <= step_ms:
            self.run, self.is_from_start, self.is_after_hole = 1, True, True
        elif step_ms == row.grid_ms:
            self.run += 1
        else:
            self.run, self.is_from_start, self.is_after_hole = 1, False, True
        self.rows.append(row)
        return "new"

    def _repeated(self, row: Features) -> str:
        for known in reversed(self.rows):
            if known.bin_ms == row.bin_ms:
                return "duplicate" if known == row or hash_of(known) == hash_of(row) else "conflict"
        return "old"


def states_of(rows: Iterable[Features], window_rows: int) -> dict[str, MarketState]:
    """State of every market after `rows`, in log order."""
    states: dict[str, MarketState] = {}
    for row in rows:
        key = key_of(row.exchange, row.market)
        state = states.get(key)
        if state is None:
            state = states[key] = MarketState(deque(maxlen=window_rows))
        state.take(row)
    return states


@dataclass(slots=True)
class _Turn:
    """A model, from which bin on it serves, and how many windows go into one call."""

    from_bin_ms: int
    served: Served
    per_call: int
    ids: SignalIds


@dataclass(slots=True)
class PredictStage:
    """The last T rows per market and the models in their turns.

    `window_rows` is T; a model that wants more is refused. A bin that is not after its market's newest one is ignored
    and counted, so that duplicates never become signals.
    """

    feed: Feed
    served: Served
    """The model that serves until another is promoted."""
    window_rows: int
    windows_per_call: int = 25
    counts: Counter[str] = field(default_factory=Counter)
    """Refusals by reason; beside them rows, signals, duplicates, conflicts, old rows, promotions that came too late."""
    conflicts: list[Features] = field(default_factory=list)
    """Rows that say something else than an earlier one for the same bin; the caller logs and clears them."""
    states: dict[str, MarketState] = field(default_factory=dict)
    newest_bin_ms: int = 0
    _turns: list[_Turn] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Let the first model serve from the beginning."""
        self.promote(0, self.served)

    def promote(self, from_bin_ms: int, served: Served) -> None:
        """Let a model serve from a bin on; raises `BadSettings` when it wants more rows than are kept.

        Whoever promotes names a bin that has not been closed yet, else a replay differs from what was live.
        """
        if served.model.window_rows > self.window_rows:
            raise BadSettings(
                f"model {served.model.name} wants {served.model.window_rows} rows per market,"
                f" predict.window_rows keeps {self.window_rows}"
            )
        if self._turns and from_bin_ms <= self.newest_bin_ms:
            self.counts["late-promotion"] += 1
        per_call = self.windows_per_call if has_single_bits(served.model) else 1
        ids = SignalIds(served.model.id, served.model.schema, served.model.horizons_ms)
        self._turns.append(_Turn(from_bin_ms, served, per_call, ids))
        self._turns.sort(key=lambda turn: turn.from_bin_ms)

    def adopt(self, states: Mapping[str, MarketState]) -> None:
        """Take over what a restart has read."""
        self.states.update(states)

    def on_rows(self, rows: Iterable[Features]) -> list[Signal]:
        """Fold rows in log order and give their signals: per row, one per horizon."""
        signals: list[Signal] = []
        waiting: list[tuple[Features, list[list[float]]]] = []
        turn: _Turn | None = None
        for row in rows:
            window_turn = self._turn_at(row.bin_ms)
            if waiting and window_turn is not turn and turn is not None:
                signals += self._predict(turn, waiting)
                waiting = []
            turn = window_turn
            window = self._window(row, turn.served.model)
            if window is not None:
                waiting.append((row, window))
        if waiting and turn is not None:
            signals += self._predict(turn, waiting)
        self.counts["signals"] += len(signals)
        return signals

    def _turn_at(self, bin_ms: int) -> _Turn:
        for turn in reversed(self._turns):
            if turn.from_bin_ms <= bin_ms:
                return turn
        return self._turns[0]

    def _window(self, row: Features, model: Predictor) -> list[list[float]] | None:
        """The model's window that ends at a row, or None and a counted refusal."""
        key = key_of(row.exchange, row.market)
        state = self.states.get(key)
        if state is None:
            state = self.states[key] = MarketState(deque(maxlen=self.window_rows))
        self.counts["rows"] += 1
        outcome = state.take(row)
        if outcome != "new":
            self.counts[outcome] += 1
            if outcome == "conflict":
                self.conflicts.append(row)
            return None
        self.newest_bin_ms = max(self.newest_bin_ms, row.bin_ms)
        refusal = _refusal(state, row, model)
        if refusal:
            self.counts[refusal] += 1
            return None
        newest = [state.rows[i] for i in range(-model.window_rows, 0)]
        window = [[one.values[at] for at in model.columns] for one in newest]
        if any(value is None for line in window for value in line):
            self.counts[NULL_FEATURE] += 1
            return None
        return window  # type: ignore[return-value]  # no None is left

    def _predict(self, turn: _Turn, waiting: list[tuple[Features, list[list[float]]]]) -> list[Signal]:
        signals: list[Signal] = []
        for at in range(0, len(waiting), turn.per_call):
            part = waiting[at : at + turn.per_call]
            expected, sigma = turn.served.model.predict(np.array([window for _, window in part], dtype=np.float64))
            for (row, _), forecasts, deviations in zip(part, expected.tolist(), sigma.tolist(), strict=True):
                signals += _signals(row, turn, self.feed, forecasts, deviations)
        return signals


def _refusal(state: MarketState, row: Features, model: Predictor) -> str:
    """Why a model gives nothing for a row, empty where it does (null features aside)."""
    if row.grid_ms != model.grid_ms:
        return SCHEMA_MISMATCH
    kept = list(state.rows)[-model.window_rows :] if model.window_rows > 1 else (row,)
    if any(one.schema != model.schema for one in kept):
        return SCHEMA_MISMATCH
    if row.mid is None:
        return STALE
    if row.n_bins < max(model.min_bins, model.window_rows) or state.run < model.window_rows:
        return HOLE if state.is_after_hole else WINDOW_SHORT
    return ""


def _signals(row: Features, turn: _Turn, feed: Feed, expected: list[float], sigma: list[float]) -> list[Signal]:
    model = turn.served.model
    return [
        Signal(
            id=name,
            exchange=row.exchange,
            market=row.market,
            bin_ms=row.bin_ms,
            horizon_ms=horizon_ms,
            schema=row.schema,
            model_id=model.id,
            expected_bp=forecast,
            sigma_bp=deviation,
            mid=row.mid or 0.0,
            is_licensed=not refusal,
            feed=feed,
            refusal=refusal,
        )
        for name, horizon_ms, refusal, forecast, deviation in zip(
            turn.ids.of(row.exchange, row.market, row.bin_ms),
            model.horizons_ms,
            turn.served.refusals,
            expected,
            sigma,
            strict=True,
        )
    ]
