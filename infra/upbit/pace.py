"""Keeps a client of ours below Upbit's rate limits; used by the order gateway and by the feed's REST calls.

A call holds one of its group's places from before it is sent until a full interval after its answer. So of the calls
in any interval, as the exchange sees them arrive, there are never more than its size: neither a token bucket nor a
window, sliding or fixed, refuses one, however long they were under way. The last third is kept for urgent calls, of
two places one. The size is the documented one, or less where the exchange's `Remaining-Req` never told of so much;
before its first answer, and after a refusal, it is `FIRST_SIZE`. What others send from the same pocket, or a process
before this one sent a moment ago, is not known here: a refusal is waited out.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from infra.errors import Limited
from infra.upbit.rates import RATES, Rate, group_of

FIRST_SIZE = 2
FLIGHT_S = 5.0
"""A call without an answer has arrived by then or never will; its place is held for so long and an interval."""
POLL_S = 0.05
PATIENCE_S = 1.5
"""Longer blocks are not sat out here: the caller is told at once that nothing was sent."""
UNKNOWN_BLOCK_S = 60.0
_LEFT = re.compile(r"\bsec=(\d{1,9})\b")
_SECONDS = re.compile(r"(\d+(?:\.\d+)?)\s*(?:초|s\b|sec)")
_PLACE = "observator.place"


@dataclass(eq=False, slots=True)
class Place:
    """One call's place; free from `free_s` on."""

    group: str
    free_s: float


class Pace:
    """The calls of one pocket or address, kept in the memory of its only owner. Threads may share it."""

    def __init__(
        self,
        rates: Mapping[str, Rate] = RATES,
        *,
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._rates = rates
        self._now_s = now_s
        self._sleep = sleep
        self._places: dict[str, list[Place]] = {group: [] for group in rates}
        self._sizes = {group: min(FIRST_SIZE, rate.size) for group, rate in rates.items()}
        self._closed_until_s = dict.fromkeys(rates, 0.0)
        self._lock = threading.Lock()

    def take(self, group: str, *, is_urgent: bool) -> Place | float:
        """A place, or the seconds after which to ask again. Raises `Limited` where the exchange closed the group."""
        rate = self._rates[group]
        with self._lock:
            now_s = self._now_s()
            size = self._sizes[group]
            allowed = size if is_urgent else max(1, size - max(1, size // 3))
            closed_s = self._closed_until_s[group] - now_s
            if closed_s > PATIENCE_S:
                raise Limited(f"the exchange takes no calls of the group {group} for {closed_s:.0f} s")
            if closed_s > 0:
                return min(closed_s, POLL_S)
            places = [place for place in self._places[group] if place.free_s > now_s]
            self._places[group] = places
            if len(places) < allowed:
                place = Place(group, now_s + FLIGHT_S + rate.seconds)
                places.append(place)
                return place
            soonest_s = sorted(place.free_s for place in places)[len(places) - allowed]
        return min(soonest_s - now_s, POLL_S)

    def wait(self, group: str, *, is_urgent: bool = False) -> Place:
        """Wait for a place and take it. Raises `Limited`."""
        while not isinstance(taken := self.take(group, is_urgent=is_urgent), Place):
            self._sleep(taken)
        return taken

    def answered(self, place: Place, remaining: str | None) -> None:
        """The answer is here: the place is free a full interval from now. `remaining` is its `Remaining-Req`."""
        rate = self._rates[place.group]
        left = _LEFT.search(remaining or "")
        with self._lock:
            place.free_s = self._now_s() + rate.seconds
            told = rate.size if left is None else int(left[1]) + 1
            self._sizes[place.group] = min(rate.size, max(self._sizes[place.group], told))

    def close(self, group: str, seconds: float) -> None:
        """The exchange refused a call of the group for its rate: send none for so long, then few."""
        with self._lock:
            self._sizes[group] = min(FIRST_SIZE, self._rates[group].size)
            self._closed_until_s[group] = max(self._closed_until_s[group], self._now_s() + seconds)

    def hooks(self, *, is_urgent: bool = False) -> dict[str, list[Callable[..., Any]]]:
        """What an `httpx` client needs (`event_hooks`) to keep to this pace with every request it sends."""

        def before(request: httpx.Request) -> None:
            place = self.wait(group_of(request.method, request.url.path), is_urgent=is_urgent)
            request.extensions = {**request.extensions, _PLACE: place}

        def after(response: httpx.Response) -> None:
            place: Place = response.request.extensions[_PLACE]
            self.answered(place, response.headers.get("Remaining-Req"))
            if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
                self.close(place.group, self._rates[place.group].seconds)
            elif response.status_code == httpx.codes.IM_A_TEAPOT:
                self.close(place.group, block_seconds(response.read()))

        return {"request": [before], "response": [after]}


def block_seconds(body: bytes) -> float:
    """How long a 418 blocks, by its text; a minute where that cannot be read (its layout is not documented)."""
    text = body.decode("utf-8", "replace")
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if isinstance(found, dict) and isinstance(error := found.get("error"), dict):
        text = str(error.get("message", ""))
    seconds = _SECONDS.search(text)
    return float(seconds[1]) if seconds else UNKNOWN_BLOCK_S
