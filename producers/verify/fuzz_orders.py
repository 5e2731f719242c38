"""What the sandbox keeps of every order that it accepts: all of it, for each can be asked for as long as it runs.

Called by `fuzz`, which tells that apart from the memory of refused requests, of which nothing may be kept.
"""

import asyncio
import json
import uuid

import aiohttp

from infra.upbit.signing import query_of_request, sign
from producers.verify.sandbox_process import SandboxProcess

_UNFILLED = {"market": "KRW-XRP", "side": "bid", "ord_type": "limit", "price": "2000", "volume": "5"}
"""Far below the market: with `ioc` it is accepted and ends at once without a fill."""


class OrderWriter:
    """Makes orders, each under an identifier of its own."""

    def __init__(self, sandbox: SandboxProcess, access_key: str, secret_key: str, lanes: int) -> None:
        self._url = sandbox.url + "/v1/orders"
        self._keys = access_key, secret_key
        self._lanes = lanes
        self._left = 0
        self.accepted = 0

    async def run(self, count: int) -> None:
        """Make so many."""
        self._left = count
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(self._lane(session) for _ in range(self._lanes)))

    async def _lane(self, session: aiohttp.ClientSession) -> None:
        while self._left > 0:
            self._left -= 1
            body = json.dumps(_UNFILLED | {"time_in_force": "ioc", "identifier": str(uuid.uuid4())}).encode()
            headers = {
                "Authorization": sign(*self._keys, query_of_request("", body)),
                "Content-Type": "application/json",
            }
            async with session.post(self._url, data=body, headers=headers) as answer:
                await answer.read()
            self.accepted += answer.status == 201


async def kept_per_order(
    sandbox: SandboxProcess, access_key: str, secret_key: str, count: int, lanes: int
) -> tuple[int, float]:
    """How many of `count` orders were accepted, and the bytes kept of each; a first tenth fills what is reused."""
    writer = OrderWriter(sandbox, access_key, secret_key, lanes)
    await writer.run(count // 10)
    await asyncio.sleep(1.0)  # their ends are journalled
    before_mb, before = sandbox.own_memory_mb(), writer.accepted
    await writer.run(count)
    await asyncio.sleep(1.0)
    accepted = writer.accepted - before
    return accepted, (sandbox.own_memory_mb() - before_mb) * 2**20 / max(1, accepted)
