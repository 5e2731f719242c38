"""Paper fills are made again from the log and the journal: equal to the digit, or the first difference is named."""

import json
import random
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from infra.errors import BadSettings, RecordsLost
from infra.log import Slot
from infra.memory_log import MemoryLog
from producers.sandbox.replayed import read_groups, replay_fills
from producers.sandbox.replayed_told import hold_against_events
from producers.sandbox.thread import SandboxThread
from streams.history import LogHistory
from streams.market.matching import Fill
from streams.messages import OrderFilled, encode
from streams.process import topic_specs

from .test_sandbox_follow import ASK, BID, MARKET, PARTITION, Writer
from .test_sandbox_orders import call, ended, limit, until

JOURNAL = Path("db") / "sandbox.journal"


@pytest.fixture
def log() -> Iterator[MemoryLog]:
    with MemoryLog() as log:
        log.create_topics(topic_specs())
        yield log


@pytest.fixture
def start(log: MemoryLog, tmp_path: Path) -> Callable[[], SandboxThread]:
    def start() -> SandboxThread:
        return SandboxThread(
            tmp_path, kind="follow", followed_log=lambda: MemoryLog("", beside=log), is_limited=False,
            stale_seconds=600.0,
        )  # fmt: skip

    return start


def order(sandbox: SandboxThread, body: dict[str, Any]) -> str:
    status, answer, _ = call(sandbox, "POST", "/v1/orders", body)
    assert status == 201, answer
    return str(answer["uuid"])


def played(writer: Writer, start: Callable[[], SandboxThread]) -> int:
    """Takers, a queue, partial fills, a cancel and a restart in between; gives the number of fills."""
    writer.market()
    writer.book()
    rng = random.Random(5)
    with start() as sandbox:
        until(lambda: sandbox.status()["is_warm"])
        ended(sandbox, order(sandbox, limit("100000000", "0.01", time_in_force="ioc")))
        ended(sandbox, order(sandbox, limit("99999000", "0.01", time_in_force="ioc")))  # reaches nothing
        rests = order(sandbox, limit("99999000", "0.05"))
        gone = order(sandbox, limit("99998000", "0.01"))
        until(lambda: len(sandbox.sandbox.exchange.state.resting[MARKET]) == 2)
        for number in range(12):
            writer.book(bid=(BID, 0.3 + rng.random()))
            writer.trade(BID, 0.01 + 0.02 * rng.random(), trade_id=1_000 + number)
        call(sandbox, "DELETE", "/v1/order", query=f"uuid={gone}")
        ended(sandbox, gone)
        writer.book(bid=(BID, 0.02))
        for number in range(3):
            writer.trade(BID, 0.015, trade_id=2_000 + number)
        until(lambda: len(sandbox.sandbox.exchange.orders[rests].fills) >= 2)
    writer.trade(BID - 1000, 0.001)
    with start() as sandbox:
        until(lambda: sandbox.status()["is_warm"])
        writer.book(ask=(ASK, 0.004), bid=(BID, 0.5))
        until(lambda: sandbox.sandbox.exchange._trading._feed.book(MARKET).asks[0].lots == 400_000)
        ended(sandbox, order(sandbox, limit("100000000", "0.003", time_in_force="ioc")))
        ended(sandbox, order(sandbox, limit("100000000", "0.003", time_in_force="ioc")))  # what is left of the level
        writer.trade(BID - 1000, 3.0)
        ended(sandbox, rests)
        return len(dict(sandbox.control("GET", "/sandbox/truth"))["fills"])


def test_fills_are_reproduced_to_the_digit(log: MemoryLog, start: Callable[[], SandboxThread], tmp_path: Path) -> None:
    fills = played(Writer(log), start)
    found = replay_fills(LogHistory(log), read_groups(tmp_path / JOURNAL))
    assert found.first is None
    assert (found.fills, found.equal, found.is_equal) == (fills, fills, True)
    assert found.makers >= 2
    assert fills - found.makers >= 3


def told(fill_id: str, fill: Fill, **changes: Any) -> bytes:
    """The executor's word on a fill, as trade reads it."""
    money = {name: Decimal(getattr(fill, name)).scaleb(-20) for name in ("funds", "fee")}
    fields: dict[str, Any] = {
        "account": "paper", "pocket": "paper-main", "intent_id": "i", "uuid": fill_id, "fill_id": fill_id,
        "exchange": "upbit", "market": MARKET, "side": "buy", "price": Decimal(fill.price_e8).scaleb(-8),
        "quantity": Decimal(fill.lots).scaleb(-8), **money, "executed_quantity": Decimal(1),
        "executed_funds": Decimal(1), "paid_fee": Decimal(1), "is_final": False, "event_ms": 1,
    }  # fmt: skip
    return encode(OrderFilled(**fields | changes))


def test_what_trade_was_told_is_held_against_it(
    log: MemoryLog, start: Callable[[], SandboxThread], tmp_path: Path
) -> None:
    fills = played(Writer(log), start)
    found = replay_fills(LogHistory(log), read_groups(tmp_path / JOURNAL))
    publisher = log.publisher()
    for fill_id, fill in found.by_uuid.items():
        publisher.publish("order-events", "paper-main", told(fill_id, fill))
    publisher.publish("order-events", "paper-main", told("somebody-else", next(iter(found.by_uuid.values()))))
    assert hold_against_events(LogHistory(log), found) == (fills, 0, "")
    fill_id, fill = next(iter(found.by_uuid.items()))
    publisher.publish("order-events", "paper-main", told(fill_id, fill, quantity=Decimal(7), fee=Decimal(0)))
    again = hold_against_events(LogHistory(log), found)
    assert (again.compared, again.differing) == (fills + 1, 2)  # the fill, and its order's fees
    assert "quantity 7" in again.first


def test_an_altered_record_is_named(log: MemoryLog, start: Callable[[], SandboxThread], tmp_path: Path) -> None:
    played(Writer(log), start)
    groups = list(read_groups(tmp_path / JOURNAL))
    tape = log.store.topics["orderbooks"][PARTITION]
    for at, row in enumerate(tape.rows):
        if row is None or b'"ask_sizes":[0.004]' not in row.value:
            continue
        tape.rows[at] = row._replace(value=row.value.replace(b'"ask_sizes":[0.004]', b'"ask_sizes":[0.002]'))
    found = replay_fills(LogHistory(log), groups)
    assert not found.is_equal
    assert found.first is not None
    assert (found.first.text, found.first.market) == ("differs", MARKET)
    assert found.equal > 0


def test_missing_records_and_other_markets_are_refused_by_name(
    log: MemoryLog, start: Callable[[], SandboxThread], tmp_path: Path
) -> None:
    played(Writer(log), start)
    groups = list(read_groups(tmp_path / JOURNAL))
    unmarked = [[entry for entry in group if entry["e"] != "at"] for group in groups]
    with pytest.raises(BadSettings, match="does not say where in the log"):
        replay_fills(LogHistory(log), unmarked)
    log.truncate(Slot("orderbooks", PARTITION), 3)
    with pytest.raises(RecordsLost, match=f"orderbooks.{PARTITION}"):
        replay_fills(LogHistory(log), groups)


def test_a_damaged_journal_is_named_and_a_cut_line_left_out(tmp_path: Path) -> None:
    path = tmp_path / "sandbox.journal"
    path.write_text(json.dumps([{"e": "account", "a": "x"}]) + "\n[{")
    assert list(read_groups(path)) == [[{"e": "account", "a": "x"}]]
    path.write_text("[{\n" + json.dumps([{"e": "account", "a": "x"}]) + "\n")
    with pytest.raises(BadSettings, match="line 1"):
        list(read_groups(path))
