"""Batch cancels, cancel-and-new, lists and their limits; many requests that share one flush of the journal."""

import asyncio
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from producers.sandbox.journal import REFUSE_SECONDS, Journal
from producers.sandbox.refusals import OrderRefused
from producers.sandbox.thread import SandboxThread
from streams.market.ledger import ATOMS, ATOMS_PER_LOT
from streams.market.ticks import E8

from .conftest import SMALL, book_line
from .test_sandbox_orders import call, ended, error_of, limit, until
from .test_sandbox_smp import Stage

Keys = tuple[str, str]


@pytest.fixture(scope="module")
def market(sandbox: SandboxThread) -> SandboxThread:
    """A synthetic market without rate limits."""
    return sandbox


@pytest.fixture
def keys(market: SandboxThread, request: pytest.FixtureRequest) -> Keys:
    """An account of the test's own."""
    name = request.node.name.partition("[")[0][:60]
    balances = {"KRW": "10000000", "BTC": "10", "ETH": "10"}
    made = market.control("POST", "/sandbox/accounts", {"access_key": name, "balances": balances})
    return made["access_key"], made["secret_key"]


def place(market: SandboxThread, keys: Keys, /, **change: Any) -> dict[str, Any]:
    status, order, _ = call(market, "POST", "/v1/orders", limit() | change, keys=keys)
    assert status == 201, order
    return dict(order)


def opened(market: SandboxThread, keys: Keys) -> list[str]:
    return [row["uuid"] for row in call(market, "GET", "/v1/orders/open", keys=keys)[1]]


def asked(body: dict[str, Any], part: str = "success") -> list[str]:
    assert body[part]["count"] == len(body[part]["orders"])
    return [row["uuid"] for row in body[part]["orders"]]


# --- batch cancels ----------------------------------------------------------------------------------------------------


def test_orders_are_cancelled_by_ids_newest_first(market: SandboxThread, keys: Keys) -> None:
    first, second = place(market, keys, identifier="batch-1"), place(market, keys)
    gone = place(market, keys)
    call(market, "DELETE", "/v1/order", query=f"uuid={gone['uuid']}", keys=keys)
    ended_row = until(lambda: gone["uuid"] not in opened(market, keys))
    assert ended_row
    query = "&".join(f"uuids[]={row['uuid']}" for row in (first, second, gone)) + "&uuids[]=unknown"
    status, body, headers = call(market, "DELETE", "/v1/orders/uuids", query=query, keys=keys)
    assert status == 200
    assert "group=default;" in headers["Remaining-Req"]
    assert body["success"]["orders"] == [
        {"uuid": second["uuid"], "market": "KRW-BTC"},
        {"uuid": first["uuid"], "market": "KRW-BTC", "identifier": "batch-1"},
    ]
    assert body["failed"] == {"count": 1, "orders": [{"uuid": gone["uuid"], "market": "KRW-BTC"}]}
    until(lambda: opened(market, keys) == [])
    assert asked(call(market, "DELETE", "/v1/orders/uuids", query="identifiers[]=batch-1", keys=keys)[1]) == []


def test_open_orders_are_cancelled_by_side_pair_quote_and_count(market: SandboxThread, keys: Keys) -> None:
    bids = [place(market, keys)["uuid"] for _ in range(4)]
    ask = place(market, keys, side="ask", price="900000000", volume="0.001")["uuid"]
    eth = place(market, keys, market="KRW-ETH", side="ask", price="900000000", volume="0.001")["uuid"]

    def cancel(query: str) -> list[str]:
        status, body, headers = call(market, "DELETE", "/v1/orders/open", query=query, keys=keys)
        assert status == 200, body
        assert body["failed"] == {"count": 0, "orders": []}
        assert "group=order-cancel-all;" in headers["Remaining-Req"]
        for uuid in asked(body):
            until(lambda uuid=uuid: uuid not in opened(market, keys))
        return asked(body)

    assert cancel("cancel_side=bid&count=1") == [bids[3]]
    assert cancel("cancel_side=bid&count=1&order_by=asc") == [bids[0]]
    assert cancel("quote_currencies=BTC,USDT") == []
    assert cancel("quote_currencies=KRW,BTC&excluded_pairs=KRW-BTC") == [eth]
    assert cancel("pairs=KRW-BTC,KRW-ETH&excluded_pairs=KRW-BTC") == []
    assert cancel("cancel_side=ask&pairs=KRW-BTC") == [ask]
    assert cancel("") == [bids[2], bids[1]]


def test_a_batch_takes_twenty_unless_told_and_at_most_three_hundred(market: SandboxThread, keys: Keys) -> None:
    market.control("POST", "/sandbox/accounts", {"access_key": keys[0], "balances": {"KRW": "90000000"}})
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: place(market, keys), range(325)))
    assert len(asked(call(market, "DELETE", "/v1/orders/open", keys=keys)[1])) == 20
    until(lambda: market.sandbox.exchange.ledger.holding(keys[0], "KRW").locked == 305 * 50025 * 10**19)
    assert len(asked(call(market, "DELETE", "/v1/orders/open", query="count=1000", keys=keys)[1])) == 300
    until(lambda: len(opened(market, keys)) == 5)


@pytest.mark.parametrize(
    ("path", "query", "name"),
    [
        ("uuids", "", "invalid_parameter"),
        ("uuids", "uuids[]=", "invalid_parameter"),
        ("uuids", "uuids[]=a&identifiers[]=b", "invalid_parameter"),
        ("uuids", "&".join(f"uuids[]={i}" for i in range(21)), "invalid_parameter"),
        ("open", "cancel_side=buy", "invalid_parameter"),
        ("open", "count=0", "invalid_parameter"),
        ("open", "count=many", "invalid_parameter"),
        ("open", "order_by=up", "invalid_parameter"),
        ("open", "pairs=KRW-BTC&quote_currencies=KRW", "invalid_parameter"),
        ("open", "quote_currencies=EUR", "invalid_parameter"),
        ("open", "pairs=KRW-BTC,", "invalid_parameter"),
        ("open", "pairs=" + ",".join(f"KRW-X{i}" for i in range(21)), "invalid_parameter"),
        ("open", "excluded_pairs=" + ",".join(f"KRW-X{i}" for i in range(21)), "invalid_parameter"),
    ],
)
def test_a_bad_batch_is_refused_by_name(market: SandboxThread, path: str, query: str, name: str) -> None:
    assert error_of(call(market, "DELETE", f"/v1/orders/{path}", query=query)) == (400, name)


def test_batches_take_no_body(market: SandboxThread) -> None:
    for path, query in (("uuids", "uuids[]=x"), ("open", "count=1")):
        refused = call(market, "DELETE", f"/v1/orders/{path}", raw=b"{}", query=query)
        assert error_of(refused) == (400, "QUERY_PARAMETER_NOT_SUPPORTED")


# --- cancel and new ---------------------------------------------------------------------------------------------------


def replace(market: SandboxThread, keys: Keys, **body: Any) -> tuple[int, Any, Any]:
    return call(market, "POST", "/v1/orders/cancel_and_new", {"new_ord_type": "limit"} | body, keys=keys)


def test_an_order_takes_anothers_place(market: SandboxThread, keys: Keys) -> None:
    old = place(market, keys, identifier="old")
    status, body, headers = replace(
        market, keys, prev_order_identifier="old", new_price="10500000", new_volume="0.0006", new_identifier="new"
    )
    assert status == 200
    assert "group=order;" in headers["Remaining-Req"]
    assert list(body)[-2:] == ["new_order_uuid", "new_order_identifier"]
    assert {key: body[key] for key in old} == old
    new = until(lambda: found(market, keys, body["new_order_uuid"]))
    assert (new["price"], new["volume"], new["identifier"], new["state"]) == ("10500000", "0.0006", "new", "wait")
    assert ended(_As(market, keys), old["uuid"])["state"] == "cancel"
    again = replace(market, keys, prev_order_uuid=new["uuid"], new_price="1", new_volume="1", new_identifier="old")
    assert error_of(again) == (400, "duplicated_identifier")


class _As:
    """A sandbox as another account sees it."""

    def __init__(self, sandbox: SandboxThread, keys: Keys) -> None:
        self.url = sandbox.url
        self.access_key, self.secret_key = keys


def found(market: SandboxThread, keys: Keys, uuid: str) -> dict[str, Any] | None:
    status, body, _ = call(market, "GET", "/v1/order", query=f"uuid={uuid}", keys=keys)
    return dict(body) if status == 200 else None


def test_the_money_of_the_old_order_pays_for_the_new_one(market: SandboxThread, keys: Keys) -> None:
    old = place(market, keys, volume="0.9")  # 9,004,500 of 10,000,000
    _, body, _ = replace(market, keys, prev_order_uuid=old["uuid"], new_price="10500000", new_volume="0.9")
    assert until(lambda: found(market, keys, body["new_order_uuid"]))["locked"] == "9454725"
    refused = replace(market, keys, prev_order_uuid=body["new_order_uuid"], new_price="10500000", new_volume="0.99")
    assert error_of(refused) == (400, "insufficient_funds_bid")
    assert found(market, keys, body["new_order_uuid"])["state"] == "wait"


def test_what_remains_is_ordered_anew(recorded: Any) -> None:
    sandbox = recorded(book_line(1774183627.0, "KRW-BTC", [(102945000.0, 0.01)], [(102902000.0, 1.0)]))
    keys = (sandbox.access_key, sandbox.secret_key)
    old = place(sandbox, keys, price="102945000", volume="0.015")
    until(lambda: (found(sandbox, keys, old["uuid"]) or {})["remaining_volume"] == "0.005")
    _, body, _ = replace(
        sandbox, keys, prev_order_uuid=old["uuid"], new_price="102000000", new_volume="remain_only", new_identifier="r"
    )
    assert body["remaining_volume"] == "0.005"
    new = until(lambda: found(sandbox, keys, body["new_order_uuid"]))
    assert (new["volume"], new["identifier"], new["state"]) == ("0.005", "r", "wait")


def test_no_new_order_appears_where_the_old_one_fills_first() -> None:
    stage = Stage()
    stage.place("b", "ask", "100000000", "0.001")
    old = stage.exchange.accept("a", limit("100000000", "0.001"))
    stage.clock.advance(20)
    new = stage.exchange.replace(old, {"new_ord_type": "limit", "new_price": "90000000", "new_volume": "0.001"})
    stage.clock.advance(1000)
    assert old.state == "done"
    with pytest.raises(OrderRefused, match="order_not_found"):
        stage.exchange.find("a", new.uuid, None)
    assert stage.exchange.ledger.holding("a", "KRW").locked == 0


@pytest.mark.parametrize(
    ("side", "body", "expected"),
    [
        ("ask", {"new_ord_type": "market", "new_volume": "remain_only"}, ("market", "done", E8 // 10)),
        ("ask", {"new_ord_type": "best", "new_volume": "remain_only", "new_time_in_force": "ioc"}, ("best", "done", 0)),
        ("bid", {"new_ord_type": "price", "new_price": "11000000"}, ("price", "done", E8 // 10)),
        ("bid", {"new_ord_type": "best", "new_price": "11000000", "new_time_in_force": "fok"}, ("best", "done", 0)),
        (
            "bid",
            {"new_ord_type": "limit", "new_price": "91000000", "new_volume": "0.2", "new_time_in_force": "post_only"},
            ("limit", "wait", 0),
        ),
    ],
)
def test_every_kind_can_take_a_limit_orders_place(
    side: str, body: dict[str, str], expected: tuple[str, str, int]
) -> None:
    stage = Stage()
    old = stage.place("a", side, "100000000", "0.1")
    uuid = stage.exchange.replace(old, body).uuid
    stage.clock.advance(1000)
    new = stage.exchange.orders[uuid]
    assert (old.state, new.kind, new.state) == ("cancel", *expected[:2])
    assert expected[2] in {0, new.executed_lots}
    assert stage.totals()[1] == 200 * ATOMS - sum(f.lots for f in new.fills) * ATOMS_PER_LOT * (
        1 if side == "ask" else -1
    )


def test_a_new_order_that_cannot_be_paid_any_more_does_not_appear() -> None:
    stage = Stage()
    old = stage.place("a", "bid", "100000000", "0.001")
    new = stage.exchange.replace(old, {"new_ord_type": "limit", "new_price": "100000000", "new_volume": "9"})
    stage.place("a", "bid", "10000000", "90")
    stage.clock.advance(1000)
    assert old.state == "cancel"
    assert new.uuid not in stage.exchange.orders


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"prev_order_uuid": None}, (400, "invalid_parameter")),
        ({"prev_order_uuid": 7}, (400, "invalid_parameter")),
        ({"prev_order_uuid": "unknown"}, (404, "order_not_found")),
        ({"new_ord_type": None}, (400, "validation_error")),
        ({"new_ord_type": "market", "new_price": None}, (400, "create_bid_error")),
        ({"new_volume": None}, (400, "create_bid_error")),
        ({"new_volume": "all"}, (400, "validation_error")),
        ({"new_price": "10000500"}, (400, "invalid_price_bid")),
        ({"new_volume": "0.0001"}, (400, "under_min_total_bid")),
        ({"new_identifier": "x" * 65}, (400, "invalid_parameter")),
        ({"new_time_in_force": "gtc"}, (400, "invalid_time_in_force")),
        ({"new_smp_type": "reduce", "new_time_in_force": "post_only"}, (400, "invalid_post_only")),
    ],
)
def test_a_bad_replacement_is_refused_by_name(
    market: SandboxThread, keys: Keys, change: dict[str, Any], expected: tuple[int, str]
) -> None:
    old = place(market, keys)
    body = {"prev_order_uuid": old["uuid"], "new_price": "10000000", "new_volume": "0.0005"} | change
    assert error_of(replace(market, keys, **body)) == expected
    assert found(market, keys, old["uuid"])["state"] == "wait"


def test_a_replacement_survives_a_restart(tmp_path: Path) -> None:
    with SandboxThread(tmp_path / "home", plan=SMALL, warmup_seconds=1, cancel_delay_ms=60_000) as first:
        keys = (first.access_key, first.secret_key)
        old = place(first, keys, identifier="kept")
        _, body, _ = replace(
            first, keys, prev_order_uuid=old["uuid"], new_price="10500000", new_volume="0.0005", new_identifier="next"
        )
        assert found(first, keys, old["uuid"])["state"] == "wait"
    with SandboxThread(tmp_path / "home", plan=SMALL, warmup_seconds=1) as second:
        assert until(lambda: found(second, keys, body["new_order_uuid"]))["identifier"] == "next"
        assert found(second, keys, old["uuid"])["state"] == "cancel"
        assert error_of(call(second, "POST", "/v1/orders", limit(identifier="next"))) == (400, "duplicated_identifier")


# --- lists ------------------------------------------------------------------------------------------------------------


def test_closed_orders_come_in_windows_of_seven_days(market: SandboxThread, keys: Keys) -> None:
    uuids = [place(market, keys)["uuid"] for _ in range(3)]
    call(market, "DELETE", "/v1/orders/uuids", query="&".join(f"uuids[]={uuid}" for uuid in uuids), keys=keys)
    until(lambda: opened(market, keys) == [])
    now = datetime.now(UTC)

    def closed(query: str = "") -> list[str]:
        status, rows, _ = call(market, "GET", "/v1/orders/closed", query=query, keys=keys)
        assert status == 200, rows
        return [row["uuid"] for row in rows]

    def at(days: float) -> str:
        return (now + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")

    assert closed() == uuids[::-1]
    assert closed("order_by=asc&limit=2") == uuids[:2]
    assert closed(f"start_time={at(-6)}") == uuids[::-1]
    assert closed(f"start_time={at(-7.5)}") == []
    assert closed(f"end_time={at(1)}") == uuids[::-1]
    assert closed(f"start_time={int(now.timestamp() * 1000) - 3_600_000}&market=KRW-BTC") == uuids[::-1]
    assert closed("states[]=done") == []
    assert closed("state=cancel&market=KRW-ETH") == []
    for query in (
        f"start_time={at(-8)}&end_time={at(0)}", f"start_time={at(0)}&end_time={at(-1)}", "state=wait",
        "state=done&states[]=done", "limit=0", "start_time=2026-13-01", "end_time=99999999999999999999",
    ):  # fmt: skip
        assert error_of(call(market, "GET", "/v1/orders/closed", query=query, keys=keys)) == (400, "invalid_parameter")


def test_open_orders_come_in_pages(market: SandboxThread, keys: Keys) -> None:
    uuids = [place(market, keys)["uuid"] for _ in range(5)]

    def page(query: str) -> list[str]:
        return [row["uuid"] for row in call(market, "GET", "/v1/orders/open", query=query, keys=keys)[1]]

    assert page("limit=2") == uuids[:2:-1]
    assert page("limit=2&page=3") == uuids[:1]
    assert page("order_by=asc&limit=2&page=2") == uuids[2:4]
    assert page("state=watch") == []
    assert page("states[]=wait&states[]=watch&market=KRW-BTC") == uuids[::-1]


# --- the journal's common flush ---------------------------------------------------------------------------------------


def test_many_requests_share_a_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fdatasync

    def slow(file: int) -> None:
        time.sleep(0.05)
        sync(file)

    with SandboxThread(tmp_path, plan=SMALL, warmup_seconds=1, is_limited=False) as market:
        keys = (market.access_key, market.secret_key)
        monkeypatch.setattr(os, "fdatasync", slow)
        flushes = market.sandbox.journal.flushes
        with ThreadPoolExecutor(20) as pool:
            orders = list(pool.map(lambda _: place(market, keys), range(60)))
        assert len({order["uuid"] for order in orders}) == 60
        assert market.sandbox.journal.flushes - flushes < 30
        text = market.configuration.journal_path.read_text()
        lines = [entry for line in text.splitlines() for entry in json.loads(line)]
        assert {row["uuid"] for row in orders} <= {row.get("uuid") for row in lines if row["e"] == "order"}


def test_nothing_is_answered_before_the_disk_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, may_sync = os.fdatasync, threading.Event()

    def held(file: int) -> None:
        may_sync.wait(10)
        sync(file)

    with SandboxThread(tmp_path, plan=SMALL, warmup_seconds=1) as market, ThreadPoolExecutor(2) as pool:
        keys = (market.access_key, market.secret_key)
        monkeypatch.setattr(os, "fdatasync", held)
        made = pool.submit(place, market, keys, identifier="held")
        until(lambda: len(market.sandbox.exchange.orders) == 1)
        seen = pool.submit(call, market, "GET", "/v1/order", query="identifier=held", keys=keys)
        journal = market.sandbox.journal
        until(lambda: sum(len(group.waiters) for group in (journal._group, journal._flying) if group) == 2)
        assert (made.done(), seen.done()) == (False, False)
        may_sync.set()
        assert made.result(10)["identifier"] == "held"
        assert seen.result(10)[0] == 200


def test_a_refused_flush_undoes_all_that_was_built_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        journal = Journal(tmp_path / "journal")
        assert list(journal.entries()) == []
        told: list[str] = []
        journal.lost = lambda: told.append("lost")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", _full)
            journal.append({"e": "account", "a": "x"})
            journal.after(lambda: told.append("x"))
            with pytest.raises(OSError, match="could not be written"):
                await journal.synced()
            with pytest.raises(OSError, match="a moment ago"):
                journal.append({"e": "account", "a": "y"})
        await asyncio.sleep(REFUSE_SECONDS)
        journal.append({"e": "account", "a": "z"})
        journal.after(lambda: told.append("z"))
        await journal.synced()
        journal.after(lambda: told.append("at once"))
        await journal.synced()
        assert told == ["lost", "z", "at once"]
        journal.append({"e": "account", "a": "last"})
        journal.close()

    asyncio.run(play())
    journal = Journal(tmp_path / "journal")
    assert [entry["a"] for entry in journal.entries()] == ["z", "last"]
    journal.close()


def _full(_file: int) -> None:
    raise OSError(28, "No space left on device")
