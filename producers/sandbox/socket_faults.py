"""Faults of the websockets by name, switched on through the control interface: what a line and a feed do at times.

Called by `hub` and `private` for every frame while one is switched on, and by the server for the maintenance window.
Works on frames alone; the market itself and the orders in it are not touched. Draws come from a seeded generator.
"""

import asyncio
import random
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from producers.sandbox.fault import TYPES, Switched, Types, check_range, checked
from producers.sandbox.feeds import Frame, Style

Name = Literal[
    "drop-connection", "duplicate-frame", "lost-frame", "reorder-frames", "late-events", "freeze-feed", "clock-skew",
    "maintenance",
]  # fmt: skip
SOCKET_NAMES: tuple[str, ...] = get_args(Name)
"""drop-connection: the lines of all who get the frame are cut without a close frame. duplicate-frame: sent twice.
lost-frame: not sent. reorder-frames: sent after the next one of its kind and market. late-events: sent `seconds` later.
freeze-feed: for `seconds` nothing is sent, lines stay open. clock-skew: times in frames are `seconds` off.
maintenance: for `seconds` REST answers `market_offline`, no websocket opens and those that are open are cut."""

_LASTING = ("freeze-feed", "maintenance")
_ONCE = ("duplicate-frame", "lost-frame", "reorder-frames")
_LONGEST_SECONDS = 86_400
_TIMES = re.compile(rb'"(timestamp|tms|trade_timestamp|ttms|order_timestamp|otms|asset_timestamp|asttms)":(\d+)')
_DAYS = re.compile(rb'"(trade_date|td|tdt)":"(\d{4}-?\d\d-?\d\d)","(trade_time|ttm)":"(\d\d:?\d\d:?\d\d)"')


@dataclass(slots=True)
class SocketFault(Switched):
    """A fault of frames; `kind` and `market` say which ones meet it."""

    kind: str = "*"
    market: str = "*"

    def matches(self, frame: Frame) -> bool:
        """Whether it is meant for such a frame."""
        return self.kind in {"*", frame.kind} and self.market in {"*", frame.market}


_TYPES: Types = {**TYPES, "kind": (str,), "market": (str,)}


def read(body: dict[str, Any]) -> SocketFault:
    """Read one fault whose name is known; raises `OrderRefused` (`bad_request`) for nonsense."""
    values = checked(body, _TYPES)
    if values["name"] in _LASTING or values["name"] == "clock-skew":
        values.setdefault("count", None)
    fault = SocketFault(**values)
    check_range(fault, -_LONGEST_SECONDS if fault.name == "clock-skew" else 0, _LONGEST_SECONDS)
    return fault


class SocketFaults:
    """The faults that are switched on. `is_quiet` is the one look that the sending of frames costs without any."""

    def __init__(self, seed: int = 0, now: Callable[[], float] = time.monotonic) -> None:
        self._random = random.Random(seed)  # noqa: S311 - drawing faults is no secret
        self._now = now
        self._faults: list[tuple[SocketFault, float]] = []
        """Each with the moment at which a lasting one ends."""
        self._held: dict[tuple[str, str], Frame] = {}
        self.is_quiet = True
        self.on_offline: list[Callable[[], None]] = []
        """What happens at the beginning of a maintenance window."""
        self.on_online: list[Callable[[], None]] = []
        """What happens at its end, while it is still on."""
        self._window: asyncio.TimerHandle | None = None
        """The end of the window that is on."""

    def add(self, fault: SocketFault) -> None:
        """Switch one on."""
        self._faults.append((fault, self._now() + fault.seconds))
        self.is_quiet = False
        if fault.name == "maintenance":
            fault.drawn += 1
            self._go_offline(fault.seconds)

    def clear(self) -> None:
        """Switch all off; a frame that was held back is lost, a maintenance window is at its end."""
        self._faults.clear()
        self._held.clear()
        self.is_quiet = True
        if self._window is not None:
            self._window.cancel()
            self._go_online()

    def rows(self) -> list[dict[str, Any]]:
        """What is switched on, and how often each happened."""
        return [asdict(fault) for fault, _ in self._faults]

    @property
    def is_offline(self) -> bool:
        """Whether a maintenance window is on."""
        return self._window is not None

    def _go_offline(self, seconds: float) -> None:
        """Begin a window, or make the one that is on as long as this one."""
        loop = asyncio.get_running_loop()
        if self._window is None:
            for tell in self.on_offline:
                tell()
        elif self._window.when() >= loop.time() + seconds:
            return
        else:
            self._window.cancel()
        self._window = loop.call_later(seconds, self._go_online)

    def _go_online(self) -> None:
        for tell in self.on_online:
            tell()
        self._window = None

    # --- frames -----------------------------------------------------------------------------------------------

    def changed(self, frame: Frame) -> list[Frame]:
        """What is sent instead of this frame."""
        if self.is_offline:
            return []
        for fault, until in self._faults:
            if fault.name == "freeze-feed" and fault.matches(frame) and self._now() < until:
                fault.drawn += 1
                return []
        for fault, _ in self._faults:
            if fault.name == "clock-skew" and self._draws(fault, frame):
                frame = _skewed(frame, int(fault.seconds * 1000))
        frames = self._once(frame)
        if frames and (held := self._held.pop((frame.kind, frame.market), None)) is not None:
            frames.append(held)
        return frames

    def _once(self, frame: Frame) -> list[Frame]:
        key = (frame.kind, frame.market)
        for fault, _ in self._faults:
            is_possible = fault.name in _ONCE and not (fault.name == "reorder-frames" and key in self._held)
            if not is_possible or not self._draws(fault, frame):
                continue
            if fault.name == "duplicate-frame":
                return [frame, frame]
            if fault.name == "reorder-frames":
                self._held[key] = frame
            return []
        return [frame]

    def is_dropping(self, frame: Frame) -> bool:
        """Whether the lines of those who get this frame are cut behind it."""
        return any(fault.name == "drop-connection" and self._draws(fault, frame) for fault, _ in self._faults)

    def delay_s(self, frame: Frame) -> float:
        """How many seconds later an event is told."""
        for fault, _ in self._faults:
            if fault.name == "late-events" and self._draws(fault, frame):
                return fault.seconds
        return 0.0

    def _draws(self, fault: SocketFault, frame: Frame) -> bool:
        return fault.matches(frame) and fault.happens(self._random)


def pinned(frame: Frame, styles: Iterable[Style]) -> Frame:
    """The frame as it stands now: a feed spells from its living books, and a held frame must not change."""
    spelled = {style: frame.spell(style) for style in styles}
    return frame._replace(spell=lambda style: spelled[style] if style in spelled else frame.spell(style))


def _skewed(frame: Frame, shift_ms: int) -> Frame:
    return frame._replace(spell=lambda style: skew(frame.spell(style), shift_ms))


def skew(payload: bytes, shift_ms: int) -> bytes:
    """The same frame by a clock that is `shift_ms` off: every time of it moves, dates with their trade's time."""
    trade_ms = [int(value) for name, value in _TIMES.findall(payload) if name in (b"trade_timestamp", b"ttms")]

    def days(match: re.Match[bytes]) -> bytes:
        moment = datetime.fromtimestamp((trade_ms[0] + shift_ms) // 1000, UTC)
        day, clock = ("%Y-%m-%d", "%H:%M:%S") if b"-" in match[2] else ("%Y%m%d", "%H%M%S")
        return b'"%b":"%b","%b":"%b"' % (
            match[1], moment.strftime(day).encode(), match[3], moment.strftime(clock).encode()
        )  # fmt: skip

    if trade_ms:
        payload = _DAYS.sub(days, payload)
    return _TIMES.sub(lambda match: b'"%b":%d' % (match[1], int(match[2]) + shift_ms), payload)
