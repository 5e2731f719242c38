"""Who may call how often: a bucket per pocket (or address) and group, 429 over it, then 418 with a growing block.

Called by `rest` for every answer and every websocket that is opened, and by the sockets for messages. Runs on real
time, not on the market's: requests come at the pace of their clients.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from aiohttp import web

from infra.upbit.rates import RATES, Rate, rates_with

REMAINING = web.RequestKey("remaining", str)
"""Where a request keeps its `Remaining-Req` for the answer."""
REFUSALS_BEFORE_BLOCK = 5
"""So many 429 without a pause of the group's interval between them, then 418. The real number is not documented."""
FIRST_BLOCK_S = 10.0
LONGEST_BLOCK_S = 3600.0
"""Every block is twice as long as the one before. The real lengths are not documented."""
FORGIVEN_S = 600.0
"""After so long without a block the next one is short again. Not documented either."""
_REMEMBERED = 20_000
_ALMOST_ONE = 1.0 - 1e-9


def wall_second_s() -> Callable[[], float]:
    """A clock that never goes back and whose full seconds are those of the wall clock at its start."""
    offset_s = time.time() - time.monotonic()
    return lambda: time.monotonic() + offset_s


class Verdict(NamedTuple):
    """What becomes of a request: 200, 429 or 418, the seconds until it may come again, and `Remaining-Req`."""

    status: int
    wait_s: float
    header: str

    @property
    def is_allowed(self) -> bool:
        """Whether the request may go on."""
        return self.status == 200


@dataclass(eq=False, slots=True)
class _Bucket:
    """What one pocket or address has left in one group, and its record of refusals."""

    left: float
    at_s: float
    refusals: int = 0
    refused_s: float = float("-inf")
    blocks: int = 0
    blocked_until_s: float = float("-inf")


class Limited(Exception):  # noqa: N818 - named by what happened
    """Raised for a request that is over its limit; answered as 429 or 418."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(f"{verdict.status} for {verdict.wait_s:.3f} s")
        self.verdict = verdict


class Limits:
    """All buckets of one exchange."""

    def __init__(
        self,
        sizes: Mapping[str, int] | None = None,
        *,
        is_limited: bool = True,
        now_s: Callable[[], float] | None = None,
    ) -> None:
        """`sizes` replaces sizes by group; without `is_limited` only `Remaining-Req` is told."""
        self.rates = rates_with(sizes or {}) if sizes else dict(RATES)
        self.is_limited = is_limited
        self.now_s = now_s or wall_second_s()
        self.refused: Counter[str] = Counter()
        """How many requests were answered with 429 and with 418."""
        self._buckets: OrderedDict[tuple[str, str], _Bucket] = OrderedDict()

    def take(self, pocket: str, group: str) -> Verdict:
        """Count one request of a pocket (an address, a connection) to a group."""
        verdict = self._judge(pocket, group)
        if not verdict.is_allowed:
            self.refused[str(verdict.status)] += 1
        return verdict

    def _judge(self, pocket: str, group: str) -> Verdict:
        rate, now_s = self.rates[group], self.now_s()
        bucket = self._bucket(pocket, group, rate, now_s)
        if bucket.blocked_until_s > now_s and self.is_limited:
            return Verdict(418, bucket.blocked_until_s - now_s, _header(group, rate, 0))
        _refill(bucket, rate, now_s)
        if bucket.left >= _ALMOST_ONE:
            bucket.left -= 1.0
            return Verdict(200, 0.0, _header(group, rate, bucket.left))
        if not self.is_limited:
            return Verdict(200, 0.0, _header(group, rate, 0))
        return _refusal(bucket, group, rate, now_s)

    def check(self, pocket: str, group: str) -> str:
        """Count one request and give its `Remaining-Req`; raises `Limited`."""
        verdict = self.take(pocket, group)
        if not verdict.is_allowed:
            raise Limited(verdict)
        return verdict.header

    def forget(self, pocket: str, group: str) -> None:
        """Drop what is known of one (a connection that has gone)."""
        self._buckets.pop((pocket, group), None)

    def _bucket(self, pocket: str, group: str, rate: Rate, now_s: float) -> _Bucket:
        key = (pocket, group)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(float(rate.size), now_s)
            if len(self._buckets) > _REMEMBERED:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket


def _refill(bucket: _Bucket, rate: Rate, now_s: float) -> None:
    if rate.is_window:
        if now_s // rate.seconds > bucket.at_s // rate.seconds:
            bucket.left = float(rate.size)
    else:
        bucket.left = min(float(rate.size), bucket.left + (now_s - bucket.at_s) * rate.size / rate.seconds)
    bucket.at_s = now_s


def _refusal(bucket: _Bucket, group: str, rate: Rate, now_s: float) -> Verdict:
    """429, or from the sixth refusal in a row on a block, twice as long as the last one."""
    header = _header(group, rate, 0)
    if now_s - bucket.refused_s >= rate.seconds:
        bucket.refusals = 0
    bucket.refused_s = now_s
    bucket.refusals += 1
    if bucket.refusals <= REFUSALS_BEFORE_BLOCK:
        if rate.is_window:
            return Verdict(429, rate.seconds - now_s % rate.seconds, header)
        return Verdict(429, (1.0 - bucket.left) * rate.seconds / rate.size, header)
    if now_s - bucket.blocked_until_s > FORGIVEN_S:
        bucket.blocks = 0
    block_s = min(FIRST_BLOCK_S * 2**bucket.blocks, LONGEST_BLOCK_S)
    bucket.blocks = min(bucket.blocks + 1, 32)
    bucket.refusals = 0
    bucket.blocked_until_s = now_s + block_s
    return Verdict(418, block_s, header)


def _header(group: str, rate: Rate, left: float) -> str:
    return f"group={group}; min={rate.minute}; sec={int(left + 1e-9)}"
