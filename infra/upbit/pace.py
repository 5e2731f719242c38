"""Keeps a client of ours below Upbit's rate limits; used by the order gateway and by the feed's REST calls.

A call holds one of its group's places from before it is sent until a full interval after its answer. So of the calls
in any interval, as the exchange sees them arrive, there are never more than its size: neither a token bucket nor a
window, sliding or fixed, refuses one, however long they were under way. Who waits goes by rank, protective exits and
cancels first; the last third is kept for them, half of that from ordinary exits too, and at least one place each time.
A call that never left gives its place back.
The size is the documented one, or less where the exchange's `Remaining-Req` never told of so much; before its first
answer, and after a refusal, it is `FIRST_SIZE`. What others take from the same pocket shows in what is left: for an
interval so many places fewer are given. A refusal, if one comes all the same, is waited out.
"""

import json
import re
import threading
import time
from bisect import insort
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import httpx

from infra.errors import Limited, ObservatorError
from infra.upbit.rates import RATES, Rate, group_of

FIRST_SIZE = 2
FLIGHT_S = 5.0
"""A call without an answer has arrived by then or never will; its place is held for so long and an interval."""
POLL_S = 0.25
"""How long a waiting call sleeps at most; a place that becomes free, or `wake`, ends it earlier."""
SHORTEST_S = 0.0005
PATIENCE_S = 1.5
"""Longer blocks are not sat out here: the caller is told at once that nothing was sent."""
UNKNOWN_BLOCK_S = 60.0
_LEFT = re.compile(r"\bsec=(\d{1,9})\b")
_SECONDS = re.compile(r"(\d+(?:\.\d+)?)\s*(?:초|s\b|sec)")
_PLACE = "observator.place"
_NOT_SENT = ("connect_tcp.failed", "start_tls.failed")
"""How httpcore's trace events end where no connection came about."""


class Rank(IntEnum):
    """Whose call goes first where several wait; lower goes before higher."""

    PROTECTIVE = 0
    """Protective exits and cancels."""
    EXIT = 1
    MANUAL = 2
    ENTRY = 3


class Errand(NamedTuple):
    """What the calls of a thread are made for, until `errand` ends."""

    rank: Rank
    check: Callable[[], None] | None = None
    """Asked while a call waits for its place; raises where it must not be sent any more."""


_NO_ERRAND = Errand(Rank.ENTRY)
_errand: ContextVar[Errand] = ContextVar("errand", default=_NO_ERRAND)


@contextmanager
def errand(rank: Rank, check: Callable[[], None] | None = None) -> Iterator[None]:
    """Every call that this thread makes inside has this rank, whichever client makes it."""
    token = _errand.set(Errand(rank, check))
    try:
        yield
    finally:
        _errand.reset(token)


@dataclass(eq=False, slots=True)
class Place:
    """One call's place; free from `free_s` on."""

    group: str
    free_s: float
    number: int = 0
    """How many places of the group were given before."""
    held: int = 0
    """How many were held when it was given, itself included."""


class Pace:
    """The calls of one pocket or address, kept in the memory of its only owner. Threads may share it."""

    def __init__(self, rates: Mapping[str, Rate] = RATES, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._rates = rates
        self._now_s = now_s
        self._places: dict[str, list[Place]] = {group: [] for group in rates}
        self._given = dict.fromkeys(rates, 0)
        self._sizes = {group: min(FIRST_SIZE, rate.size) for group, rate in rates.items()}
        self._others: dict[str, tuple[int, float]] = dict.fromkeys(rates, (0, 0.0))
        self._closed_until_s = dict.fromkeys(rates, 0.0)
        self._waiting: dict[str, list[tuple[int, int]]] = {group: [] for group in rates}
        self._tickets = 0
        self._changed = threading.Condition()

    def take(self, group: str, rank: Rank = Rank.ENTRY) -> Place | float:
        """A place, or the seconds after which to ask again. Raises `Limited` where the exchange closed the group."""
        with self._changed:
            return self._take(group, rank)

    def _take(self, group: str, rank: Rank) -> Place | float:
        rate, now_s = self._rates[group], self._now_s()
        closed_s = self._closed_until_s[group] - now_s
        if closed_s > PATIENCE_S:
            raise Limited(f"the exchange takes no calls of the group {group} for {closed_s:.0f} s")
        if closed_s > 0:
            return closed_s
        places = self._places[group] = [place for place in self._places[group] if place.free_s > now_s]
        allowed = self._allowed(group, rank, now_s)
        if len(places) >= allowed:
            return sorted(place.free_s for place in places)[len(places) - allowed] - now_s
        place = Place(group, now_s + FLIGHT_S + rate.seconds, self._given[group], len(places) + 1)
        self._given[group] += 1
        places.append(place)
        return place

    def _allowed(self, group: str, rank: Rank, now_s: float) -> int:
        """How many places may be held for a call of this rank to get one more."""
        size = self._sizes[group]
        others, until_s = self._others[group]
        kept = 0 if rank is Rank.PROTECTIVE else max(1, size // (6 if rank is Rank.EXIT else 3))
        return max(1, size - kept - (others if now_s < until_s else 0))

    def wait(self, group: str, rank: Rank = Rank.ENTRY, check: Callable[[], None] | None = None) -> Place:
        """Wait for a place, behind better ranks and earlier calls of this one. Raises `Limited`, and what `check`
        raises (asked before a place is taken, and again after every `wake`).
        """
        with self._changed:
            self._tickets += 1
            ticket, queue = (int(rank), self._tickets), self._waiting[group]
            insort(queue, ticket)
            try:
                while True:
                    if check is not None:
                        check()
                    pause_s = POLL_S
                    if queue[0] == ticket:
                        taken = self._take(group, rank)
                        if isinstance(taken, Place):
                            return taken
                        pause_s = min(max(taken, SHORTEST_S), POLL_S)
                    self._changed.wait(pause_s)
            finally:
                queue.remove(ticket)
                self._changed.notify_all()

    def wake(self) -> None:
        """Whoever waits asks its `check` again."""
        with self._changed:
            self._changed.notify_all()

    def waiting(self, group: str) -> int:
        """How many calls wait for a place now."""
        with self._changed:
            return len(self._waiting[group])

    def answered(self, place: Place, remaining: str | None) -> None:
        """The answer is here: the place is free a full interval from now. `remaining` is its `Remaining-Req`."""
        group, rate = place.group, self._rates[place.group]
        found = _LEFT.search(remaining or "")
        with self._changed:
            now_s = self._now_s()
            place.free_s = now_s + rate.seconds
            if found is None:
                told = rate.size
            else:
                told = int(found[1]) + 1
                ours = place.held + self._given[group] - place.number - 1
                others = self._sizes[group] - ours - int(found[1])
                if others > 0:
                    self._others[group] = others, now_s + rate.seconds
            self._sizes[group] = min(rate.size, max(self._sizes[group], told))
            self._changed.notify_all()

    def give_back(self, place: Place) -> None:
        """Nothing was sent: the place is free at once."""
        with self._changed:
            place.free_s = self._now_s()
            self._changed.notify_all()

    def close(self, group: str, seconds: float) -> None:
        """The exchange refused a call of the group for its rate: send none for so long, then few."""
        with self._changed:
            self._sizes[group] = min(FIRST_SIZE, self._rates[group].size)
            self._closed_until_s[group] = max(self._closed_until_s[group], self._now_s() + seconds)

    def hooks(self) -> dict[str, list[Callable[..., Any]]]:
        """What an `httpx` client needs (`event_hooks`) to keep to this pace with every request it sends.

        A request outside every `errand` has the last rank.
        """

        def before(request: httpx.Request) -> None:
            rank, check = _errand.get()
            place = self.wait(group_of(request.method, request.url.path), rank, check)
            told = request.extensions.get("trace")

            def trace(event: str, info: Any) -> None:
                if event.endswith(_NOT_SENT):
                    self.give_back(place)
                try:
                    if told is not None:
                        told(event, info)
                except ObservatorError:  # called back before its first byte
                    self.give_back(place)
                    raise

            request.extensions = {**request.extensions, _PLACE: place, "trace": trace}

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
