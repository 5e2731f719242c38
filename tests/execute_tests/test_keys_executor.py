"""Deposited keys in a whole executor: orders before, during and after a rotation, and accounts for real money."""

import dataclasses
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from consumers.execute import keys_host
from consumers.execute.keyring import HeldKeys
from consumers.execute.keys_content import sealed_for
from infra.secrets import Secret
from infra.secrets_box import PUBLIC, id_of, read_public
from infra.settings import Settings
from producers.sandbox.synthetic import Plan
from producers.sandbox.thread import SandboxThread
from streams import messages as m

from .test_executor import Running, until
from .test_keys_live import settings_of

TRADING = ["view_account", "view_orders", "make_orders"]


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxThread]:
    home = tmp_path_factory.mktemp("sandbox")
    plan = Plan(markets=("KRW-BTC", "KRW-ETH"))
    with SandboxThread(home, kind="synthetic", plan=plan, warmup_seconds=0) as sandbox:
        yield sandbox


@pytest.fixture
def start(tmp_path: Path, sandbox: SandboxThread) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(**options: Any) -> Running:
        running = Running(tmp_path, sandbox)
        running.options = dataclasses.replace(running.options, **options)
        started.append(running.start())
        until((tmp_path / PUBLIC).exists)
        return running

    yield start
    for one in started:
        one.end()
    for key in sandbox.control("GET", f"/sandbox/keys?account={sandbox.access_key}")["keys"][1:]:
        sandbox.control("DELETE", f"/sandbox/keys/{key['access_key']}")


def deposit(running: Running, key_id: str, permissions: list[str] = TRADING) -> None:
    made = running.sandbox.control(
        "POST", "/sandbox/keys", {"account": running.sandbox.access_key, "permissions": permissions}
    )
    public = read_public(running.options.home / PUBLIC)
    names = {"account": "paper", "pocket": "paper-main", "key_id": key_id}
    sealed = sealed_for(public, **names, access_key=made["access_key"], secret_key=Secret(made["secret_key"]))
    running.publish(m.KeyDeposited(**names, sealed=sealed, public_key_id=id_of(public), event_ms=1, by="t"), "commands")


def told(running: Running) -> list[tuple[str, str]]:
    return [(one.key_id, one.state) for one in running.records("order-events") if isinstance(one, m.KeyTold)]


def ended(running: Running, intents: list[m.OrderIntent]) -> dict[str, int]:
    """How many of the intents had which last event."""
    last: dict[str, str] = {}
    for event in running.records("order-events"):
        if getattr(event, "intent_id", ""):
            last[event.intent_id] = m.tag_of(type(event))
    counts: dict[str, int] = {}
    for intent in intents:
        name = last.get(intent.id, "nothing")
        counts[name] = counts.get(name, 0) + 1
    return counts


def test_no_order_is_lost_between_two_keys(start: Callable[..., Running]) -> None:
    running = start(keys=HeldKeys({}))
    first = running.intent(market="KRW-BTC")
    running.publish(first)
    until(lambda: ended(running, [first]) == {"order-rejected": 1})
    assert [one.name for one in running.events(first)] == ["no-key"]
    deposit(running, "old")
    until(lambda: told(running) == [("old", "taken")])
    intents = []
    for number in range(16):
        intents.append(running.intent(market="KRW-BTC"))
        running.publish(intents[-1])
        if number in {4, 9}:
            deposit(running, f"new-{number}")
            until(lambda: is_done(running, intents) >= len(intents) - 4, 30)
    until(lambda: is_done(running, intents) == len(intents), 30)
    assert told(running) == [
        ("old", "taken"), ("new-4", "taken"), ("old", "replaced"), ("new-9", "taken"), ("new-4", "replaced"),
    ]  # fmt: skip
    placed = [order["identifier"] or "" for order in running.sandbox.truth()]
    assert [sum(f"-{intent.id}-" in one for one in placed) for intent in intents] == [1] * len(intents)


def is_done(running: Running, intents: list[m.OrderIntent]) -> int:
    """How many have been bought and ended."""
    ids = {intent.id for intent in intents}
    return len(
        {
            event.intent_id
            for event in running.records("order-events")
            if isinstance(event, m.OrderFilled) and event.is_final and event.intent_id in ids
        }
    )


def test_orders_for_real_money_are_refused_even_with_all_three(
    start: Callable[..., Running], tmp_path: Path, sandbox: SandboxThread
) -> None:
    running = start(is_live_allowed=True, keys=HeldKeys({}))
    deposit(running, "good")
    until(lambda: told(running) == [("good", "taken")])
    keys_host.arm(Settings(home=tmp_path), "paper", "paper", "test")
    before = len(sandbox.truth())
    running.publish(settings_of("live", "paper"), "controls")
    seen: list[str] = []
    while not seen:
        intent = running.intent(market="KRW-BTC")
        running.publish(intent)
        until(lambda intent=intent: bool(ended(running, [intent]).keys() - {"nothing", "order-sent", "order-accepted"}))
        seen = [one.text for one in running.events(intent) if isinstance(one, m.OrderRejected)]
        before += not seen
    assert "no address of the real exchange" in seen[0]
    exit_ = running.intent(
        market="KRW-BTC", purpose="protective-exit", side="sell", order_type="market", funds=None, quantity=Decimal(1)
    )
    running.publish(exit_)
    until(lambda: ended(running, [exit_]) == {"order-rejected": 1})
    assert [one.name for one in running.events(exit_)] == ["live-refused"]
    assert len(sandbox.truth()) == before
