"""Faults by name, switched on through the control interface: what a real exchange and a real network do at times.

Called by `rest` around every request it serves. Decides only; `rest` carries out. Draws come from a seeded generator.
Those of the websockets stand in `socket_faults` and are switched on and off together with these.
"""

import random
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from producers.sandbox import socket_faults
from producers.sandbox.fault import TYPES, Switched, Types, check_range, checked
from producers.sandbox.refusals import OrderRefused
from producers.sandbox.socket_faults import SOCKET_NAMES, SocketFault, SocketFaults

Name = Literal[
    "lost-request", "lost-answer", "late-answer", "late-request", "refused", "server-error", "rate-limited", "blocked",
    "get-lag", "crash-before", "crash-unwritten", "crash-halfway", "crash-after",
]  # fmt: skip
NAMES: tuple[str, ...] = (*get_args(Name), *SOCKET_NAMES)
"""lost-request: dropped unread. lost-answer: done, then the connection drops. late-answer: done, answered after
`seconds`. late-request: held for `seconds`, then done, whether or not the client is still there. refused: `error`, the
identifier burned as `burn` says (null: as the exchange is switched). server-error: 500, done before where `is_done`.
rate-limited: 429. blocked: 418 that names `seconds`. get-lag: done, but look-ups do not see the order for `seconds`.
crash-before and crash-after: the process kills itself before the request is done, or after it is done and before the
answer; crash-unwritten and crash-halfway: when what the request did is to be written, nothing or half of it on the
disk."""


_LONGEST_SECONDS = 3600


@dataclass(slots=True)
class Fault(Switched):
    """A fault of requests."""

    method: str = "POST"
    path: str = "/v1/orders"
    error: str = "insufficient_funds_bid"
    burn: bool | None = None
    is_done: bool = False

    def matches(self, method: str, path: str) -> bool:
        """Whether it is meant for such a request."""
        return self.method in {"*", method} and self.path in {"*", path}


_TYPES: Types = {
    **TYPES,
    "method": (str,),
    "path": (str,),
    "error": (str,),
    "burn": (bool, type(None)),
    "is_done": (bool,),
}


def read(body: Any) -> Fault | SocketFault:
    """Read one fault; raises `OrderRefused` (`bad_request`) for nonsense."""
    if not isinstance(body, dict) or body.get("name") not in NAMES:
        raise OrderRefused("bad_request", f"name must be one of {', '.join(NAMES)}")
    if body["name"] in SOCKET_NAMES:
        return socket_faults.read(body)
    fault = Fault(**checked(body, _TYPES))
    check_range(fault, 0, _LONGEST_SECONDS)
    return fault


class Faults:
    """The faults that are switched on, in order: the first one that matches and is drawn happens."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)  # noqa: S311 - drawing faults is no secret
        self._faults: list[Fault] = []
        self.sockets = SocketFaults(seed)

    def add(self, fault: Fault | SocketFault) -> None:
        """Switch one on."""
        if isinstance(fault, SocketFault):
            self.sockets.add(fault)
        else:
            self._faults.append(fault)

    def clear(self) -> None:
        """Switch all off."""
        self._faults.clear()
        self.sockets.clear()

    def rows(self) -> list[dict[str, Any]]:
        """What is switched on, and how often each happened."""
        return [asdict(fault) for fault in self._faults] + self.sockets.rows()

    def draw(self, method: str, path: str) -> Fault | None:
        """The fault that this request meets, if any."""
        return next((one for one in self._faults if one.matches(method, path) and one.happens(self._random)), None)
