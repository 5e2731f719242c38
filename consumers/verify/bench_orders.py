"""`observator bench signal-to-order`: from a signal's append to the first byte of its order request at the exchange.

Trade gets ten times 250 signals a second; trade, execute, broker and exchange are the real processes. The same run
without trade's transaction, and the time of an fsync in the journal's folder, stand beside it.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from consumers.verify.bench_orders_load import HORIZONS_MS, Books, Load
from consumers.verify.bench_orders_stage import ACCOUNT, FLAT, POCKET, account, markets_of, percentiles, publish, start
from consumers.verify.bench_orders_tap import Tap
from consumers.verify.deployment import Deployment, deployment
from consumers.verify.processes import wait_until
from infra.catch_up import read_range
from infra.figures import result_of
from infra.log import Slot
from infra.servers.ports import port_of
from streams import topics
from streams.messages import OrderIntent

logger = logging.getLogger(__name__)

TARGET_MS = 40.0
SIGNALS_PER_S, QUICK_SIGNALS_PER_S = 2_500, 250
TRADED, QUICK_TRADED = 200, 40
ORDERS_PER_S = 4
"""At most eight then come within any second: the places that the pace leaves to entries."""
SECONDS, QUICK_SECONDS = 120, 12
FIRST_S = 2
"""Trade enters no market before it has a book of it: an entry that it refuses would take the exit with it."""
WARM_S = 5
FSYNC_EVERY_S = 0.2


class Size(NamedTuple):
    """How much of everything."""

    signals_per_s: int
    traded: int
    seconds: int

    @property
    def markets(self) -> int:
        """Each has one bin a second with a signal per horizon."""
        return self.signals_per_s // len(HORIZONS_MS)


class Syncs(threading.Thread):
    """How long an append and its fsync take in a folder, now and then while everything runs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True, name="fsync")
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "fsync-probe"
        self._stop_asked = threading.Event()
        self.times_ms: list[float] = []

    def run(self) -> None:
        """Write until closed."""
        with self._file.open("ab", buffering=0) as out:
            while not self._stop_asked.wait(FSYNC_EVERY_S):
                began_s = time.perf_counter()
                out.write(b"\0" * 4_096)
                os.fsync(out.fileno())
                self.times_ms.append((time.perf_counter() - began_s) * 1000)

    def close(self) -> None:
        """End it."""
        self._stop_asked.set()
        self.join(5)


def bench_signal_to_order(*, quick: bool = False, runs: int = 1) -> dict[str, object]:
    """Both forms of trade; passes where p99 with the transaction meets the target."""
    size = Size(QUICK_SIGNALS_PER_S, QUICK_TRADED, QUICK_SECONDS) if quick else Size(SIGNALS_PER_S, TRADED, SECONDS)
    figures: dict[str, float] = {}
    for mode in ("transaction", "plain"):
        found = [_run(mode, size) for _ in range(runs)]
        label = "with transaction" if mode == "transaction" else "without"
        figures |= {f"{label}: {name}": float(np.median([one[name] for one in found])) for name in found[0]}
        logger.warning("%s: %s", label, found)
    conditions = {
        "quick": quick,
        "runs": runs,
        "seconds": size.seconds,
        "signals_per_s": size.signals_per_s,
        "orders_per_s": ORDERS_PER_S,
        "target_p99_ms": TARGET_MS,
        "times": "append times are whole milliseconds; an order's time is its first byte before the exchange",
    }
    is_met = (
        figures["with transaction: p99 ms"] <= TARGET_MS and figures["with transaction: signals without order"] == 0
    )
    return result_of("signal-to-order", figures, conditions, passed=is_met)


def _run(mode: str, size: Size) -> dict[str, float]:
    described: dict[str, Any] = {
        "feed": {"kind": "synthetic", "market_count": size.traded, "warmup_seconds": 0, "books_per_second": 0.5},
        "execute": {"orders_per_minute": 100_000, "orders_per_day": 1_000_000, "maximum_exposure": "1000000000"},
    }
    with deployment(described) as running:
        running.start("sandbox")
        port = port_of(running.settings.home, "sandbox")
        traded = markets_of(port, size.traded)
        books, tap, syncs = Books(port, traded), Tap(port), Syncs(running.settings.home / "db")
        books.start()
        try:
            wait_until(lambda: len(books.levels) >= len(traded), 120, "books of every market")
            publish(running, account(ACCOUNT, POCKET))
            start(running, tap.port, mode)
            load = Load(running.log, traded, _others(size), lambda market: books.levels.get(market, FLAT))
            load.run(FIRST_S, 0)
            load.run(WARM_S, ORDERS_PER_S)
            warm = len(load.chosen)
            syncs.start()
            began = running.bounds(["signals", "order-intents"])
            load.run(size.seconds, ORDERS_PER_S)
            time.sleep(2)
            load.close()
            running.children.require_alive()
            found = _found(running, load, warm, began, tap.first_ms)
        finally:
            for part in (books, tap, syncs):
                part.close()
    return (
        found
        | percentiles("fsync", syncs.times_ms)
        | {
            "signals per s": load.signals / (size.seconds + FIRST_S + WARM_S),
            "latest publish s": load.late_s,
        }
    )


def _others(size: Size) -> list[str]:
    return [f"KRW-Z{number:04d}" for number in range(size.markets - size.traded)]


def _found(
    running: Deployment,
    load: Load,
    warm: int,
    began: Mapping[Slot, tuple[int, int]],
    first_ms: Mapping[str, float],
) -> dict[str, float]:
    """Times of every chosen bin of the measured part."""
    chosen = load.chosen[warm:]
    of_signal = {name: number for number, one in enumerate(chosen) for name in one.signal_ids}
    appended: dict[int, int] = {}
    for record in read_range(running.log, _ends(began, "signals")):
        number = of_signal.get(topics.decode("signals", record.value).id)
        if number is not None:
            appended[number] = max(appended.get(number, 0), record.append_ms)
    sent_ms = {name.split("-")[1]: ms for name, ms in sorted(first_ms.items(), reverse=True)}
    decided: dict[int, tuple[int, float]] = {}
    for record in read_range(running.log, _ends(began, "order-intents")):
        intent = topics.decode("order-intents", record.value)
        number = of_signal.get(intent.cause_id.partition("/")[0]) if isinstance(intent, OrderIntent) else None
        if number is not None and intent.id in sent_ms:
            decided.setdefault(number, (record.append_ms, sent_ms[intent.id]))
    whole = [sent - appended[number] for number, (_, sent) in decided.items()]
    return {
        **percentiles("", whole),
        **percentiles("signal to intent", [at - appended[number] for number, (at, _) in decided.items()]),
        **percentiles("intent to order", [sent - at for at, sent in decided.values()]),
        "orders": len(decided),
        "signals without order": len(chosen) - len(decided),
    }


def _ends(bounds: Mapping[Slot, tuple[int, int]], topic: str) -> dict[Slot, int]:
    return {slot: end for slot, (_, end) in bounds.items() if slot.topic == topic}
