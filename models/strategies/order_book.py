"""The order-book rule: enter on the best licensed forecast, leave when what remains of it is not expected any more.

Pure; the first line of `models.strategies.registry`. It forecasts nothing itself and knows neither cost nor budget.
"""

from decimal import Decimal

import msgspec

from models.strategies.rule import UNLICENSED, Chance, Entry, Holding
from streams import messages as m


class OrderBook(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of the rule; null: the account's own value."""

    threshold_percent: Decimal | None = None
    hysteresis_percent: Decimal | None = None

    def entry(self, chance: Chance) -> Entry:
        """The largest licensed expectation; the cost is the same for every horizon, so it is the best net one too."""
        threshold = chance.threshold_percent if self.threshold_percent is None else self.threshold_percent
        best: m.Signal | None = None
        for signal in chance.signals:
            if signal.is_licensed and (best is None or signal.expected_bp > best.expected_bp):
                best = signal
        if best is not None:
            return Entry(best, threshold)
        best = max(chance.signals, key=lambda signal: signal.expected_bp)
        return Entry(best, threshold, best.refusal or UNLICENSED)

    def leave(self, holding: Holding, chance: Chance) -> m.Signal | None:
        """The new forecast that over what remains of the horizon expects less than the hysteresis.

        Of the licensed horizons the shortest that covers the rest counts, else the longest.
        """
        licensed = [signal for signal in chance.signals if signal.is_licensed]
        if not licensed or chance.bin_ms <= holding.due_ms - holding.horizon_ms:
            return None
        left_ms = holding.due_ms - chance.now_ms
        signal = next((one for one in licensed if one.horizon_ms >= left_ms), licensed[-1])
        limit = chance.hysteresis_percent if self.hysteresis_percent is None else self.hysteresis_percent
        return signal if signal.expected_bp < float(limit) * 100.0 else None
