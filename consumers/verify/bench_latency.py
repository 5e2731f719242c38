"""`observator bench tick-to-signal`: from a bin's end to its last signal readable in Kafka, and whether lag grows.

The sandbox's clock is the machine's at live speed, so a bin's end and the time of reading stand on one clock.
"""

import logging
import statistics
import threading
import time
from collections import defaultdict
from typing import Any

import numpy as np

from consumers.verify.deployment import Deployment, deployment, settle
from infra.figures import result_of
from streams import topics
from streams.messages import OrderBook

logger = logging.getLogger(__name__)

_HORIZONS = 4
_TARGETS_MS = {10: 50.0, 250: 250.0}
_LATE_SHARE = 0.01


class _Watch(threading.Thread):
    """Reads `signals` and notes when each bin's last signal came."""

    def __init__(self, running: Deployment) -> None:
        super().__init__(daemon=True)
        self._reader = running.log.reader({slot: end for slot, (_, end) in running.bounds(["signals"]).items()})
        self._stop_asked = threading.Event()
        self.last_ms: dict[int, float] = {}
        self.counts: dict[int, int] = defaultdict(int)

    def run(self) -> None:
        """Read until stopped."""
        while not self._stop_asked.is_set():
            records = self._reader.read(5_000, 0.2)
            now_ms = time.time() * 1000
            for record in records:
                signal = topics.decode("signals", record.value)
                self.last_ms[signal.bin_ms] = now_ms
                self.counts[signal.bin_ms] += 1

    def finish(self) -> None:
        """Stop and let go."""
        self._stop_asked.set()
        self.join(5)
        self._reader.close()


def bench_tick_to_signal(*, quick: bool = False, runs: int = 3) -> dict[str, object]:
    """Run every size under both runners; passes where the plain loop meets its targets."""
    sizes, runs, seconds = ((10,), 1, 15.0) if quick else ((10, 250), runs, 180.0)
    figures: dict[str, float] = {}
    is_met = True
    for markets in sizes:
        for runner in ("loop",) if quick else ("loop", "faust"):
            label = f"{runner}, {markets} markets"
            found = [_told(label, _run(markets, runner, seconds)) for _ in range(runs)]
            for name in found[0]:
                figures[f"{label}: {name}"] = round(statistics.median(one[name] for one in found), 4)
            if runner == "loop":
                is_met = is_met and all(one["bins with all signals"] >= 0.99 * one["bins"] for one in found)
                is_met = is_met and figures[f"{label}: signals per bin"] >= 0.95 * markets * _HORIZONS
                is_met = is_met and figures[f"{label}: p99 beyond lateness ms"] <= _TARGETS_MS[markets]
                is_met = is_met and figures[f"{label}: late share"] <= _LATE_SHARE
                is_met = is_met and figures[f"{label}: lag growth records/s"] < markets * 0.05
    conditions = {"quick": quick, "runs": runs, "seconds": seconds, "lateness_ms": 500, "books_per_second": 5}
    return result_of("tick-to-signal", figures, conditions, passed=is_met)


def _told(label: str, found: dict[str, float]) -> dict[str, float]:
    """Say what one run gave: the next ones may take half an hour."""
    logger.warning("%s: %s", label, {name: round(value, 4) for name, value in found.items()})
    return found


def _run(markets: int, runner: str, seconds: float) -> dict[str, float]:
    described: dict[str, Any] = {
        "feed": {"kind": "synthetic", "market_count": markets, "warmup_seconds": 90},
        "streams": {"runner": runner},
    }
    with deployment(described) as running:
        running.start("sandbox", "feed", "streams", "predict")
        settle(running, "signals", markets * _HORIZONS * 20, 300)
        _wait_for_live(running)
        watch = _Watch(running)
        watch.start()
        lags = []
        started = time.monotonic()
        from_ms = time.time() * 1000
        while time.monotonic() - started < seconds:
            time.sleep(min(5.0, seconds / 3))
            running.children.require_alive()
            lags.append((time.monotonic(), running.lag("features", ["orderbooks", "trades"])))
        watch.finish()
        late = _late_share(running)
    bins = sorted(b for b, n in watch.counts.items() if from_ms + 1000 < b < from_ms + seconds * 1000 - 3000)
    most = max((watch.counts[b] for b in bins), default=0)
    whole = [b for b in bins if watch.counts[b] == most]
    delays = np.array([watch.last_ms[b] - b for b in bins])  # also the bins that lack some: they are not left out
    if not len(delays):
        raise RuntimeError(f"no bin of {len(bins)} had the signals of its {markets} markets")
    growth = np.polyfit([t for t, _ in lags], [n for _, n in lags], 1)[0] if len(lags) > 2 else 0.0
    p50, p99 = np.percentile(delays, [50, 99])
    return {
        "p50 ms": float(p50),
        "p99 ms": float(p99),
        "p50 beyond lateness ms": float(p50) - 500,
        "p99 beyond lateness ms": float(p99) - 500,
        "worst ms": float(delays.max()),
        "bins": len(bins),
        "bins with all signals": len(whole),
        "signals per bin": float(np.median([watch.counts[b] for b in whole])),
        "late share": late,
        "lag growth records/s": float(growth),
    }


def _wait_for_live(running: Deployment) -> None:
    """Wait until the warm-up is over and every stage has caught up; the broker is warm by then."""
    started = time.monotonic()
    while time.monotonic() - started < 300:
        if running.count("controls"):  # the feed writes `Warmed` there
            break
        time.sleep(0.5)
    time.sleep(20)


def _late_share(running: Deployment) -> float:
    """Share of order books that came after the heartbeat which closed their bin, over the newest records."""
    late = total = 0
    for slot, (begin, end) in running.bounds(["orderbooks"]).items():
        reader = running.log.reader({slot: max(begin, end - 5_000)})
        closed_to = 0
        while reader.position(slot) < end:
            for record in reader.read(2_000, 1.0):
                message = topics.decode("orderbooks", record.value)
                if isinstance(message, OrderBook):
                    total += 1
                    late += message.exchange_ms < closed_to
                elif hasattr(message, "event_ms"):
                    closed_to = max(closed_to, message.event_ms)
        reader.close()
    return late / total if total else 0.0
