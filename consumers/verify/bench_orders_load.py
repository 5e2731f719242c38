"""Signals at a steady rate, spread over the second, a few of which must become orders; and the sandbox's live books.

Called by `bench_orders` and `bench_accounts`. The signals are as predict writes them: four horizons per market and bin,
behind the bin's feature row.
"""

import json
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from websocket import WebSocket, WebSocketException

from consumers.trade.start import DEFAULT_HORIZONS_MS
from infra.log import Log
from streams.market.features import NAMES, SCHEMA
from streams.messages import Features, Signal, encode, key_of, signal_id

HORIZONS_MS = DEFAULT_HORIZONS_MS
MODEL = "bench"
EXCHANGE = "upbit"
STRONG_BP, WEAK_BP = 200.0, 1.0
_ACCUMULATORS = 24
_LEVELS = 5


class Chosen(NamedTuple):
    """One bin's signals that must become an order."""

    market: str
    is_entry: bool
    signal_ids: tuple[str, ...]


class Books(threading.Thread):
    """Keeps a subscription to the sandbox's books, so that its market moves, and the best levels of each."""

    def __init__(self, port: int, markets: Sequence[str]) -> None:
        super().__init__(daemon=True, name="books")
        self._address = f"ws://127.0.0.1:{port}/websocket/v1"
        self._request = json.dumps([{"ticket": "bench"}, {"type": "orderbook", "codes": list(markets)}])
        self._stop_asked = threading.Event()
        self.levels: dict[str, list[float | None]] = {}

    def run(self) -> None:
        """Read until closed."""
        while not self._stop_asked.is_set():
            socket = WebSocket()
            try:
                socket.settimeout(2)
                socket.connect(self._address, http_no_proxy=["127.0.0.1"], suppress_origin=True)  # type: ignore[no-untyped-call]  # the library's
                socket.send(self._request)
                while not self._stop_asked.is_set():
                    frame = json.loads(socket.recv())
                    if frame.get("type") == "orderbook":
                        self.levels[frame["code"]] = _levels(frame["orderbook_units"][:_LEVELS])
            except (WebSocketException, OSError, ValueError):
                self._stop_asked.wait(0.2)
            finally:
                socket.close(timeout=1)
                socket.shutdown()  # type: ignore[no-untyped-call]  # `close` leaves it open where the other side closed first

    def close(self) -> None:
        """End it."""
        self._stop_asked.set()
        self.join(5)


def _levels(units: Sequence[dict[str, float]]) -> list[float | None]:
    """As a feature row carries them: five bid prices, bid sizes, ask prices, ask sizes."""
    rows: list[float | None] = []
    for name in ("bid_price", "bid_size", "ask_price", "ask_size"):
        column: list[float | None] = [float(unit[name]) for unit in units]
        rows += column + [None] * (_LEVELS - len(column))
    return rows


class Load:
    """Publishes; `traded` markets exist at the exchange, `others` are there for the load alone."""

    def __init__(
        self, log: Log, traded: Sequence[str], others: Sequence[str], levels: Callable[[str], list[float | None]]
    ) -> None:
        self._publisher = log.publisher(linger_ms=1)
        self._markets = [*traded, *others]
        self._levels = levels
        order = list(traded)
        random.Random(5).shuffle(order)  # noqa: S311 - a repeatable order, no secret
        self._next = deque(order)
        self._is_held = dict.fromkeys(traded, False)
        self.chosen: list[Chosen] = []
        self.signals = 0
        self.late_s = 0.0

    def close(self) -> None:
        """Let go."""
        self._publisher.close()

    def run(self, seconds: int, orders_per_second: int, first: Sequence[str] = (), times: int = 1) -> None:
        """One bin of every market per second, each at its own moment of the second. In every second an order is wanted
        in so many markets; or in those of `first`, in as many seconds one after the other as `times` says.
        """
        begin_s = int(time.time()) + 1
        for second in range(begin_s, begin_s + seconds):
            wanted = set(first) if second < begin_s + times else set[str]()
            for _ in range(min(orders_per_second, len(self._next))):
                self._next.rotate(-1)
                wanted.add(self._next[-1])
            for place, market in enumerate(self._markets):
                due_s = second + place / len(self._markets)
                while (left_s := due_s - time.time()) > 0:
                    time.sleep(min(left_s, 0.05))
                self.late_s = max(self.late_s, -left_s)
                is_last = market not in first or second == begin_s + times - 1
                self.publish(market, second * 1000, is_wanted=market in wanted, is_last=is_last)
        self._publisher.flush()

    def publish(self, market: str, bin_ms: int, *, is_wanted: bool, is_last: bool = True) -> None:
        """A feature row and its signals; an order is wanted of a strong forecast, up where nothing is held. After the
        last one of a kind the market is taken as held, or as left.
        """
        key, levels = key_of(EXCHANGE, market), self._levels(market)
        row = features_of(market, bin_ms, levels)
        self._publisher.publish("features", key, encode(row))
        signals = [signal_of(row, one, self._expected_bp(market, one, is_wanted=is_wanted)) for one in HORIZONS_MS]
        for signal in signals:
            self._publisher.publish("signals", key, encode(signal))
        self.signals += len(signals)
        if is_wanted and is_last:
            is_entry = not self._is_held[market]
            self._is_held[market] = is_entry
            self.chosen.append(Chosen(market, is_entry, tuple(signal.id for signal in signals)))

    def _expected_bp(self, market: str, horizon_ms: int, *, is_wanted: bool) -> float:
        """Up over the longest horizon where an entry is wanted, down over all where an exit is."""
        if is_wanted and self._is_held[market]:
            return -STRONG_BP
        return STRONG_BP if is_wanted and horizon_ms == HORIZONS_MS[-1] else WEAK_BP


def features_of(market: str, bin_ms: int, levels: list[float | None]) -> Features:
    """A row of the usual size around a book."""
    bid, ask = levels[0] or 0.0, levels[2 * _LEVELS] or 0.0
    return Features(
        exchange=EXCHANGE,
        market=market,
        bin_ms=bin_ms,
        grid_ms=1000,
        schema=SCHEMA,
        source="bench-0",
        session=1,
        n_bins=300,
        n_books=5,
        n_trades=1,
        mid=(bid + ask) / 2,
        spread=ask - bid,
        values=[0.123456789] * len(NAMES),
        levels=levels,
        accumulators=[1.23456789] * _ACCUMULATORS,
    )


def signal_of(row: Features, horizon_ms: int, expected_bp: float) -> Signal:
    """What a licensed model says of a row."""
    return Signal(
        id=signal_id(row.exchange, row.market, row.bin_ms, horizon_ms, MODEL, row.schema),
        exchange=row.exchange,
        market=row.market,
        bin_ms=row.bin_ms,
        horizon_ms=horizon_ms,
        schema=row.schema,
        model_id=MODEL,
        expected_bp=expected_bp,
        sigma_bp=20.0,
        mid=row.mid or 0.0,
        is_licensed=True,
        feed="synthetic",
    )
