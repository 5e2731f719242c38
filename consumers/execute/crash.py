"""Named places in the life of an order where `verify orders` may kill the process.

Production passes `reach_nothing`; `verify_child` passes one that kills. No product code asks the environment.
"""

import os
import signal
from collections.abc import Callable
from threading import Lock

Reach = Callable[[str], None]

CRASH_POINTS: tuple[str, ...] = (
    "after_poll",
    "after_journal_new",
    "before_journal_sending",
    "after_journal_sending",
    "after_send",
    "after_response",
    "after_journal_acked",
    "before_commit",
    "after_commit",
    "after_reconcile",
)

REQUEST_CRASH_POINTS: tuple[str, ...] = (
    "after_request_poll",
    "after_request_journal",
    "before_firing",
    "after_firing",
    "before_leg",
    "after_leg",
    "before_request_told",
    "after_request_told",
)
"""The same for people's requests, between a request and the word of what became of it."""


def reach_nothing(_point: str) -> None:
    """Go on."""


def act_at(point: str, nth: int, act: Callable[[], None]) -> Reach:
    """A crash point at which something is done, once: when it is reached for the `nth` time."""
    lock = Lock()
    left = nth

    def reach(name: str) -> None:
        nonlocal left
        if name != point:
            return
        with lock:
            left -= 1
            is_now = left == 0
        if is_now:
            act()

    return reach


def kill_at(point: str, nth: int) -> Reach:
    """A crash point that kills this process (`kill -9`) when it is reached for the `nth` time."""
    return act_at(point, nth, lambda: os.kill(os.getpid(), signal.SIGKILL))
