"""Every recorded answer of the exchange side against ours: same keys in order, same JSON types, same digits."""

import json
import re
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from producers.sandbox.thread import SandboxThread

from .test_sandbox_orders import BOOK, call, ended, recorded_pairs, until

CASSETTES = [
    "accounts/list.yaml",
    "orders/create_test.yaml",
    "orders/get_chance.yaml",
    "orders/lifecycle_bulk_cancel_by_ids.yaml",
    "orders/lifecycle_cancel_and_new.yaml",
    "orders/lifecycle_cancel_open.yaml",
    "orders/lifecycle_create_get_cancel.yaml",
    "orders/lifecycle_list_by_ids.yaml",
    "orders/list_closed.yaml",
    "orders/list_open.yaml",
    "orders/market_buy_sell.yaml",
]
CASH = "50000.47088291"
"""What the recorded account held."""
TIMES = {"created_at"}
NAMES = {"uuid", "new_order_uuid"}
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def alike(ours: Any, theirs: Any, names: dict[str, str], where: str = "") -> None:
    """The same, but for times and for uuids, which must stand for each other one to one."""
    assert type(ours) is type(theirs), where
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs), where
        for key, value in theirs.items():
            if key in TIMES:
                assert datetime.fromisoformat(ours[key]).utcoffset() == datetime.fromisoformat(value).utcoffset()
                assert len(ours[key]) == len(value), where
            elif key in NAMES:
                assert UUID.fullmatch(ours[key]), where
                assert names.setdefault(value, ours[key]) == ours[key], where
            else:
                alike(ours[key], value, names, f"{where}.{key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), where
        for i, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            alike(mine, other, names, f"{where}[{i}]")
    else:
        assert ours == theirs, where


@pytest.fixture
def exchange(recorded: Callable[..., SandboxThread]) -> SandboxThread:
    """The recorded book and the recorded account's cash."""
    return recorded(BOOK, cash=CASH)


def renamed(text: str, names: dict[str, str]) -> str:
    for theirs, ours in names.items():
        text = text.replace(theirs, ours)
    return text


def played(exchange: SandboxThread, pair: dict[str, Any], names: dict[str, str]) -> tuple[int, Any, Any]:
    """Send what was recorded, with our names for the orders in it, when the exchange has got as far as theirs."""
    path, _, query = pair["uri"].removeprefix("https://api.upbit.com").partition("?")
    query = renamed(query.replace("%5B%5D", "[]"), names)
    body = json.loads(renamed(pair["request_body"], names)) if pair["request_body"] else None
    theirs = json.loads(pair["response_body"])
    if pair["method"] == "GET" and isinstance(theirs, dict) and theirs.get("state", "wait") != "wait":
        ended(exchange, query.partition("=")[2])
    if pair["method"] == "DELETE" and path == "/v1/order":  # an order that replaces another appears a moment later
        until(lambda: call(exchange, "GET", "/v1/order", query=query)[0] == 200)
    return call(exchange, pair["method"], path, body, query=query)


@pytest.mark.parametrize("cassette", [name for name in CASSETTES if name != "orders/list_closed.yaml"])
def test_every_recorded_answer_is_ours(exchange: SandboxThread, cassette: str) -> None:
    names: dict[str, str] = {}
    pairs = recorded_pairs(cassette)
    assert pairs
    for pair in pairs:
        status, ours, headers = played(exchange, pair, names)
        assert status == pair["status"], ours
        alike(ours, json.loads(pair["response_body"]), names)
        group = pair["remaining_req"].partition("; sec")[0]
        assert headers["Remaining-Req"].partition("; sec")[0] == group
        assert headers["Content-Type"].replace(" ", "").lower() == pair["content_type"].lower()


def test_the_recorded_closed_list_comes_of_the_same_lives(exchange: SandboxThread) -> None:
    """The list holds the orders of other recordings and more like them: make each again, oldest first, cancel, list."""
    theirs = json.loads(recorded_pairs("orders/list_closed.yaml")[0]["response_body"])
    exchange.control("POST", "/sandbox/accounts", {"access_key": exchange.access_key, "balances": {"BTC": "1"}})
    for row in reversed(theirs):
        body = {key: row[key] for key in ("market", "side", "volume", "price", "ord_type") if key in row}
        while (made := call(exchange, "POST", "/v1/orders", body))[0] == 429:
            time.sleep(0.1)
        assert made[0] == 201, made
        if row["state"] == "cancel" and row["ord_type"] == "limit":
            call(exchange, "DELETE", "/v1/order", query=f"uuid={made[1]['uuid']}")
        ended(exchange, made[1]["uuid"])
    status, ours, _ = call(exchange, "GET", "/v1/orders/closed")
    assert status == 200
    alike(ours, theirs, {})
