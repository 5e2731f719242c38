"""`observator verify restarts`: the feature worker and predict killed at random, at full size.

250 markets, W = 300 bins. Afterwards the log is audited: nothing lost, nothing different after de-duplication.
"""

import random
import time
from typing import Any

from consumers.verify.audit import audit
from consumers.verify.deployment import Deployment, deployment, settle
from infra.figures import result_of
from infra.log import slots_of
from streams import topics

_TARGET_S = {"loop": 15.0, "faust": 30.0}


def verify_restarts(*, quick: bool = False, seed: int = 1) -> dict[str, object]:
    """Kill each process three times per runner; passes where nothing is lost and the targets are met."""
    figures: dict[str, float] = {}
    is_met = True
    markets, kills = (20, 1) if quick else (250, 3)
    for runner in ("loop",) if quick else ("loop", "faust"):
        found, seconds, is_clean = _run(runner, markets, kills, random.Random(seed), 15 if quick else 300)  # noqa: S311 a test schedule
        figures |= found
        is_met = is_met and is_clean and (quick or max(seconds) <= _TARGET_S[runner])
    conditions = {"quick": quick, "markets": markets, "window_bins": 300, "kills of each process": kills, "seed": seed}
    return result_of("restarts", figures, conditions, passed=is_met)


def _run(
    runner: str, markets: int, kills: int, rng: random.Random, warm_seconds: int
) -> tuple[dict[str, float], list[float], bool]:
    described: dict[str, Any] = {
        "feed": {"kind": "synthetic", "market_count": markets, "warmup_seconds": warm_seconds},
        "streams": {"runner": runner},
    }
    with deployment(described) as running:
        running.start("sandbox", "feed", "streams", "predict")
        settle(running, "signals", markets * 4 * max(1, warm_seconds - 5), 600)
        wait_for_new_signals(running, time.time() * 1000, markets, 300)
        figures: dict[str, float] = {}
        all_seconds: list[float] = []
        for name in ("streams", "predict"):
            seconds = []
            for _ in range(kills):
                time.sleep(rng.uniform(2, 8))
                killed_s = time.time()
                running.children.kill(name)
                running.start(name)
                wait_for_new_signals(running, killed_s * 1000, markets, 180)
                seconds.append(time.time() - killed_s)
            figures[f"{runner}: worst seconds from the kill of {name} until signals flow"] = round(max(seconds), 1)
            figures[f"{runner}: mean seconds from the kill of {name} until signals flow"] = round(
                sum(seconds) / len(seconds), 1
            )
            all_seconds += seconds
        stop_quietly(running)
        found = audit(running.log, running.settings)
    return figures | found.figures(runner), all_seconds, found.is_clean


def wait_for_new_signals(running: Deployment, after_ms: float, markets: int, timeout_s: float) -> float:
    """Seconds until a bin that ended after `after_ms` has signals for at least 95 % of the markets."""
    started = time.monotonic()
    slots = slots_of(running.log, ["signals"])
    reader = running.log.reader({slot: end for slot, (_, end) in running.log.bounds(slots).items()})
    seen: dict[int, set[str]] = {}
    try:
        while time.monotonic() - started < timeout_s:
            running.children.require_alive()
            for record in reader.read(5_000, 0.1):
                signal = topics.decode("signals", record.value)
                if signal.bin_ms > after_ms:
                    seen.setdefault(signal.bin_ms, set()).add(signal.market)
            if any(len(one) >= 0.95 * markets for one in seen.values()):
                return time.monotonic() - started
        raise TimeoutError(f"no new signals within {timeout_s:.0f} s")
    finally:
        reader.close()


def stop_quietly(running: Deployment) -> None:
    """Stop the feed, let the stages finish what is there, then stop them."""
    running.children.stop("feed")
    started = time.monotonic()
    while time.monotonic() - started < 60:
        if not running.lag("features", ["orderbooks", "trades"]) and not running.lag("predict", ["features"]):
            break
        time.sleep(0.5)
    for name in ("streams", "predict"):
        running.children.stop(name)
