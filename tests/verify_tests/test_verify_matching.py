"""The check of matching and ledger in its short form, and that it finds what is wrong."""

from collections.abc import Callable
from typing import Any

import pytest

from producers.sandbox.queues import Queues
from producers.sandbox.state import State
from producers.sandbox.taken import Taken
from producers.verify.matching import verify_matching
from producers.verify.operations import BAD_REQUESTS, OPERATIONS
from streams.market import crossing, matching
from streams.market.ledger import Ledger


def test_matching_and_ledger_do_as_the_slow_exchange() -> None:
    result = verify_matching(quick=True)
    figures: Any = result["figures"]
    assert result["passed"], result["conditions"]
    assert figures["sequences that differ"] == 0
    wanted = {name for name, _ in OPERATIONS} - {"bad request"} | {f"bad request: {name}" for name in BAD_REQUESTS}
    assert {name for name in wanted if not figures.get(name)} == set()
    for name in ("fills as maker", "fills as taker", "self-matches prevented", "orders: done", "orders: never came"):
        assert figures[name] > 20, name


def dearer(honest: Callable[..., Any]) -> Callable[..., Any]:
    """A fee of one atom too much."""

    def executed(*values: Any, **more: Any) -> Any:
        fill = honest(*values, **more)
        return fill._replace(fee=fill.fee + 1)

    return executed


def latest_first(honest: Callable[..., Any]) -> Callable[..., Any]:
    """Among equal prices the last one first."""
    return lambda orders: honest(list(orders)[::-1])


def forgetful(honest: Callable[..., Any]) -> Callable[..., Any]:
    """A used identifier is not remembered where its request was refused."""
    return lambda self, account, identifier, name, **_: honest(self, account, identifier, name, is_burned=False)


def keeping(honest: Callable[..., Any]) -> Callable[..., Any]:
    """One atom stays locked."""
    return lambda self, account, currency, atoms: honest(self, account, currency, max(0, atoms - 1))


def remembering(_honest: Callable[..., Any]) -> Callable[..., Any]:
    """What the disk refused is kept in mind."""
    return lambda _self: None


@pytest.mark.parametrize(
    ("owner", "name", "change"),
    [
        (matching, "executed", dearer),
        (crossing, "priority", latest_first),
        (State, "_refuse", forgetful),
        (Ledger, "unlock", keeping),
        (Taken, "forget", remembering),
        (Queues, "forget", remembering),
    ],
)
def test_a_planted_fault_is_found(owner: Any, name: str, change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, name, change(getattr(owner, name)))
    result = verify_matching(trials=60)
    assert not result["passed"]
    assert "seed" in str(result["conditions"]["first difference"])  # type: ignore[index]
