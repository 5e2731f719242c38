"""A client that places orders over REST and times the answers, in a process of its own.

Started by `bench_sandbox`, which writes a JSON object to its input: address, keys, seconds, lanes (connections), orders
per second (none: as fast as the answers come). Orders rest far below the market; it prints one JSON object of figures.
"""

import asyncio
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import aiohttp
import numpy as np
import uvloop

from infra.upbit.signing import query_of, sign
from infra.upbit.wire import plain_e8
from producers.sandbox.catalogue import listings
from streams.market.ticks import E8, tick_e8

_WORTH = 10_000


def orders(market_count: int) -> Iterator[dict[str, str]]:
    """Buy orders at half the price, market after market."""
    now_ms = time.time_ns() // 1_000_000
    rows = []
    for row in listings(market_count):
        price = row.price_e8 // 2
        price -= price % tick_e8(row.market, price, now_ms)
        terms = {"price": plain_e8(price), "volume": plain_e8(_WORTH * E8 * E8 // price)}
        rows.append({"market": row.market, "side": "bid", "ord_type": "limit"} | terms)
    yield from itertools.cycle(rows)


class Client:
    """Places orders until the time is over."""

    def __init__(self, described: dict[str, Any]) -> None:
        self._described = described
        self._orders = orders(described["markets"])
        self._times_ms: list[float] = []
        self._failed: Counter[str] = Counter()

    async def run(self) -> dict[str, Any]:
        """Place them all; gives rate and percentiles of the answers' times."""
        seconds, lanes = self._described["seconds"], self._described["lanes"]
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=lanes)) as session:
            await self._place(session)
            self._times_ms.clear()
            started = time.monotonic()
            await asyncio.gather(*(self._lane(session, started + seconds, lane) for lane in range(lanes)))
            elapsed = time.monotonic() - started
        return {
            "orders_per_second": len(self._times_ms) / elapsed,
            "p50_ms": float(np.quantile(self._times_ms, 0.5)) if self._times_ms else 0.0,
            "p99_ms": float(np.quantile(self._times_ms, 0.99)) if self._times_ms else 0.0,
            "orders": len(self._times_ms),
            "failed": dict(self._failed),
        }

    async def _lane(self, session: aiohttp.ClientSession, until: float, lane: int) -> None:
        pace, lanes = self._described["per_second"], self._described["lanes"]
        due = time.monotonic() + (lane / pace if pace else 0.0)
        while time.monotonic() < until:
            if pace:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                due += lanes / pace
            await self._place(session)

    async def _place(self, session: aiohttp.ClientSession) -> None:
        body = next(self._orders)
        headers = {"Authorization": sign(self._described["access_key"], self._described["secret_key"], query_of(body))}
        started = time.perf_counter()
        async with session.post(self._described["url"] + "/v1/orders", json=body, headers=headers) as answer:
            text = await answer.text()
        if answer.status == 201:
            self._times_ms.append((time.perf_counter() - started) * 1e3)
        else:
            self._failed[f"{answer.status} {text[:80]}"] += 1


def main() -> None:
    """Be the child."""
    print(json.dumps(uvloop.run(Client(json.load(sys.stdin)).run())))


if __name__ == "__main__":
    main()
