"""Named places in the life of an order where `verify orders` may kill the process.

Production passes `reach_nothing`; `verify_child` passes one that kills. No product code asks the environment.
"""

from collections.abc import Callable

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


def reach_nothing(_point: str) -> None:
    """Go on."""
