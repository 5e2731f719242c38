"""`observator bench sandbox`: what the sandbox exchange carries, and what of a core that takes.

250 synthetic markets at the real market's rate (1,250 books a second) and at ten times, to one subscriber of all books
and trades and to twenty, each a process of its own whose time does not count; orders through REST meanwhile.
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.figures import result_of
from producers.sandbox.catalogue import listings
from producers.verify.sandbox_process import SandboxProcess, Subscriber, running_sandbox

MARKETS = 250
BOOKS_PER_SECOND = 5.0
SHARE_OF_A_CORE = 0.25
DELIVERED = 0.95
"""Of the books that are due; a market whose steps are drawn gives a few more or fewer."""
ACCOUNT = "bench"
PACED = 50.0
LANES = 8
_SETTLE_S = 20.0
"""Until the made-up past of all markets is there, which is worked out once, beside the stream."""
_ROOT = Path(__file__).parents[2]


def bench_sandbox(*, quick: bool = False) -> dict[str, object]:
    """Measure every rate and number of subscribers; passes where the real rate takes a small enough share of a core."""
    markets, seconds = (20, 4.0) if quick else (MARKETS, 20.0)
    figures: dict[str, float] = {}
    is_met = True
    for rate, speed in (("real rate", 1.0),) if quick else (("real rate", 1.0), ("ten times", 10.0)):
        for subscribers in (2,) if quick else (1, 20):
            found = _measure(markets, speed, subscribers, seconds, 2.0 if quick else _SETTLE_S)
            figures |= {f"{rate}, {subscribers} subscribers: {name}": value for name, value in found.items()}
            due = DELIVERED * subscribers * markets * BOOKS_PER_SECOND
            if speed == 1.0:
                is_met = is_met and is_carried(found, due)
    conditions = {
        "quick": quick, "markets": markets, "books per second and market": BOOKS_PER_SECOND, "seconds": seconds,
        "levels": 30, "format": "DEFAULT", "paced orders per second": PACED, "lanes": LANES,
    }  # fmt: skip
    return result_of("sandbox", figures, conditions, passed=is_met)


def is_carried(found: Mapping[str, float], due: float) -> bool:
    """Whether so many books a second arrived, trades not counted, at a small enough share of a core."""
    is_cheap = found["share of a core"] <= SHARE_OF_A_CORE
    return is_cheap and found["books per second"] >= due and found["orders refused"] == 0


def _measure(markets: int, speed: float, subscribers: int, seconds: float, settle_s: float) -> dict[str, float]:
    codes = [row.market for row in listings(markets)]
    request = json.dumps([{"ticket": "bench"}, *({"type": kind, "codes": codes} for kind in ("orderbook", "trade"))])
    plan = {"market_count": markets, "books_per_second": BOOKS_PER_SECOND}
    with running_sandbox(plan=plan, warmup_seconds=0, speed=speed, is_limited=False) as sandbox:
        readers: list[Subscriber] = []
        try:
            readers += [Subscriber(sandbox.port, request) for _ in range(subscribers)]
            time.sleep(settle_s)
            found = _stream(sandbox, readers, speed, seconds)
            secret = sandbox.open_account(ACCOUNT, {"KRW": "1000000000000"})
            paced = _orders(sandbox, secret, markets, seconds, lanes=1, per_second=PACED)
            fastest = _orders(sandbox, secret, markets, seconds / 2, lanes=LANES, per_second=None)
            for reader in readers:
                reader.counts()  # raises where one was cut off
        finally:
            for reader in readers:
                reader.close()
    return found | {
        "order answer, p50 ms": round(paced["p50_ms"], 2),
        "order answer, p99 ms": round(paced["p99_ms"], 2),
        "orders per second": round(fastest["orders_per_second"]),
        "order answer at that rate, p99 ms": round(fastest["p99_ms"], 2),
        "orders refused": sum(paced["failed"].values()) + sum(fastest["failed"].values()),
    }


def _stream(sandbox: SandboxProcess, readers: list[Subscriber], speed: float, seconds: float) -> dict[str, float]:
    """Messages that arrived, and what that took, without any order."""
    cpu, started, clock_ms = sandbox.cpu_seconds(), time.monotonic(), sandbox.control("GET", "/sandbox/clock")
    before = [reader.counts() for reader in readers]
    time.sleep(seconds)
    after = [reader.counts() for reader in readers]
    elapsed, cpu = time.monotonic() - started, sandbox.cpu_seconds() - cpu
    passed_ms = sandbox.control("GET", "/sandbox/clock")["exchange_ms"] - clock_ms["exchange_ms"]
    messages, size, books = (
        sum(late[i] - early[i] for early, late in zip(before, after, strict=True)) for i in range(3)
    )
    return {
        "messages per second": round(messages / elapsed),
        "messages per second, each": round(messages / elapsed / len(readers)),
        "books per second": round(books / elapsed),
        "MB per second": round(size / elapsed / 1e6, 1),
        "share of a core": round(cpu / elapsed, 3),
        "us per published message": round(1e6 * cpu * len(readers) / messages, 1),
        "market time over due time": round(passed_ms / 1e3 / elapsed / speed, 3),
        "MB of memory": round(sandbox.own_memory_mb(), 1),
    }


def _orders(
    sandbox: SandboxProcess, secret: str, markets: int, seconds: float, *, lanes: int, per_second: float | None
) -> dict[str, Any]:
    described = {
        "url": sandbox.url, "access_key": ACCOUNT, "secret_key": secret, "markets": markets, "seconds": seconds,
        "lanes": lanes, "per_second": per_second,
    }  # fmt: skip
    command = [sys.executable, "-P", "-m", "producers.verify.order_client"]
    done = subprocess.run(  # noqa: S603 - our own module
        command, input=json.dumps(described), cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found
