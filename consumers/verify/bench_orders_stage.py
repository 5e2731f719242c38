"""What the benches of orders share: accounts that enter on a strong forecast, trade and execute behind the tap.

Called by `bench_orders` and `bench_accounts`.
"""

import json
import time
import urllib.request
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from consumers.verify.bench_orders_load import HORIZONS_MS
from consumers.verify.deployment import Deployment
from consumers.verify.processes import insist, wait_until
from infra.catch_up import read_range
from infra.configuration import save
from streams.messages import AccountSettings, encode

ACCOUNT, POCKET = "paper", "paper-main"
NEVER_MS = 1e9
"""A time where nothing came; JSON knows no infinity."""
FLAT: list[float | None] = [99.0, 98.0, 97.0, 96.0, 95.0, *[1e6] * 5, 101.0, 102.0, 103.0, 104.0, 105.0, *[1e6] * 5]
"""The book of a market that nobody trades."""


def account(name: str, pocket: str, **changes: Any) -> AccountSettings:
    """An account that enters whenever a forecast is strong."""
    fields: dict[str, Any] = {
        "account": name,
        "pocket": pocket,
        "venue": "paper",
        "is_trading": True,
        "budget": Decimal(9_000_000),
        "entry_funds": Decimal(6_000),
        "threshold_percent": Decimal("0.05"),
        "fee_percent": Decimal("0.05"),
        "stop_percent": Decimal("1.5"),
        "hysteresis_percent": Decimal(0),
        "horizons_ms": list(HORIZONS_MS),
        "markets": [],
        "maximum_positions": 1_000,
        "cooldown_ms": 0,
        "event_ms": time.time_ns() // 1_000_000,
    }
    return AccountSettings(**{**fields, **changes})


def markets_of(port: int, count: int) -> list[str]:
    """Codes that the sandbox serves, as soon as it answers."""
    codes: list[str] = []

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/market/all", timeout=2) as answer:
                codes[:] = [row["market"] for row in json.loads(answer.read())]
        except OSError:
            return False
        return len(codes) >= count

    wait_until(answers, 240, "the sandbox")
    return codes[:count]


def publish(running: Deployment, *accounts: AccountSettings) -> None:
    """Write accounts' settings where people do."""
    publisher = running.log.publisher()
    for one in accounts:
        publisher.publish("controls", one.account, encode(one))
    publisher.close()


def start(running: Deployment, tap_port: int, mode: str) -> None:
    """Trade in the form asked for, and execute behind the tap."""
    settings = running.settings
    described = json.dumps(settings.model_dump(mode="json"))
    running.children.start("trade", ["-m", "consumers.verify.bench_orders_child", described, mode])
    tapped = settings.model_copy(update={"sandbox": settings.sandbox.model_copy(update={"port": tap_port})})
    file = settings.home / "tapped.json"
    save(tapped, file)
    running.children.start("execute", ["-m", "observator", "process", "execute"], {"OBSERVATOR_SETTINGS": str(file)})
    wait_until(lambda: "execute" in _told(running), 120, "execute is there")
    wait_until(lambda: running.count("account-states") > 0, 120, "trade knows its accounts")


def _told(running: Deployment) -> set[str]:
    """Processes that have said what they run with: each does so when it is about to work."""
    begins = {slot: begin for slot, (begin, _) in running.bounds(["manifests"]).items()}
    return {record.key for record in insist(lambda: list(read_range(running.log, begins)), 30, "the manifests")}


def percentiles(name: str, values: Sequence[float]) -> dict[str, float]:
    """p50, p99 and the worst; without any value they are `NEVER_MS`."""
    before = f"{name} " if name else ""
    found = np.percentile(values, [50, 99, 100]) if len(values) else [NEVER_MS] * 3
    return {
        f"{before}{label} ms": round(float(one), 2) for label, one in zip(("p50", "p99", "worst"), found, strict=True)
    }
