"""People's requests while the executor's process is killed (`kill -9`) between due and told: each fires once."""

import time
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from consumers.execute.crash import REQUEST_CRASH_POINTS
from consumers.execute.verify_stage import POCKET, Stage
from infra.log import slots_of
from streams import messages as m
from streams import topics

if TYPE_CHECKING:
    from infra.servers.kafka import KafkaServer

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

FINAL = {"done", "missed", "refused", "cancelled"}
D = Decimal
LIFE_S = 90.0
CASES = [(point, 1) for point in REQUEST_CRASH_POINTS] + [
    ("after_request_journal", 7), ("after_firing", 4), ("before_request_told", 4),
]  # fmt: skip


@pytest.fixture(scope="module")
def stage(broker: "KafkaServer") -> Iterator[Stage]:
    with Stage(broker.bootstrap) as stage:
        bases = {market.partition("-")[2]: "1000000000" for market in stage.sandbox.prices}
        stage.sandbox.control(
            "POST", "/sandbox/accounts", {"access_key": POCKET, "balances": {"KRW": "10000000000"} | bases}
        )
        yield stage


def requests_of(stage: Stage, point: str) -> list[m.OrderRequested]:
    """Plain ones, one at a time to come, and small assisted ones both ways: where the book leans, these wait."""
    now_ms = time.time_ns() // 1_000_000
    fields: dict[str, Any] = {
        "account": "paper", "pocket": POCKET, "exchange": "upbit", "event_ms": now_ms, "by": "test",
        "patience_ms": 1500,
    }  # fmt: skip
    buy: dict[str, Any] = {**fields, "side": "buy", "order_type": "price", "funds": D(6_000)}
    found = []
    for market, price in sorted(stage.sandbox.prices.items()):
        name = f"{point}-{market}"
        quantity = (D(7_000) / D(str(price))).quantize(D("1e-8"))
        sell = {**fields, "side": "sell", "order_type": "market", "quantity": quantity}
        found.append(m.OrderRequested(id=f"{name}-a", market=market, is_assisted=False, **buy))
        found.append(m.OrderRequested(id=f"{name}-b", market=market, is_assisted=False, at_ms=now_ms + 500, **buy))
        found.append(m.OrderRequested(id=f"{name}-c", market=market, **buy))
        found.append(m.OrderRequested(id=f"{name}-d", market=market, **sell))
    return found


class Words:
    """What was told of requests, as it comes."""

    def __init__(self, stage: Stage) -> None:
        slots = slots_of(stage.log, ["order-events"])
        self._reader = stage.log.reader({slot: end for slot, (_, end) in stage.log.bounds(slots).items()})
        self.found: defaultdict[str, list[m.RequestTold]] = defaultdict(list)

    def read(self) -> None:
        for record in self._reader.read(1000, 0.2):
            event = topics.decode("order-events", record.value)
            if isinstance(event, m.RequestTold):
                self.found[event.id].append(event)

    def has_ended(self, request: m.OrderRequested) -> bool:
        return any(event.state in FINAL for event in self.found[request.id])

    def close(self) -> None:
        self._reader.close()


@pytest.mark.parametrize(("point", "nth"), CASES)
def test_each_fires_once_although_the_process_is_killed(stage: Stage, point: str, nth: int) -> None:
    requests = requests_of(stage, f"{point}{nth}".replace("_", ""))
    words = Words(stage)
    publisher = stage.log.publisher(linger_ms=0)
    for request in [*requests, *requests[::3]]:
        publisher.publish("order-requests", POCKET, m.encode(request))
    publisher.flush(60)
    publisher.close()
    stage.executors.begin(point, nth)
    is_killed = stage.executors.has_ended(LIFE_S)
    stage.executors.kill()
    stage.executors.begin()
    end_s = time.monotonic() + LIFE_S
    while not all(words.has_ended(request) for request in requests):
        words.read()
        lines = (stage.home / "execute.log").read_text()[-3000:]
        assert time.monotonic() < end_s, f"{ {r.id: [e.state for e in words.found[r.id]] for r in requests} } {lines}"
    words.close()
    stage.executors.kill()
    assert is_killed, "the point was never reached"
    truth = stage.sandbox.control("GET", "/sandbox/truth")["orders"]
    by_intent: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for order in truth:
        by_intent[order["identifier"].split("-")[1]].append(order)
    done = 0
    for request in requests:
        names = [f"{request.id}/1", *(f"{request.id}/1/{leg}" for leg in range(2, 9))]
        legs = [by_intent[m.intent_id("paper", "request", name, "manual")] for name in names]
        assert all(len(orders) <= 1 for orders in legs), "sent twice"
        second = m.intent_id("paper", "request", f"{request.id}/2", "manual")
        assert not by_intent[second], "fired twice"
        executed = sum((D(order["executed_volume"]) for orders in legs for order in orders), D(0))
        if request.quantity is not None:
            assert executed <= request.quantity
        else:
            asked_for = sum((D(order["price"]) for orders in legs for order in orders), D(0))
            assert asked_for <= D(6_000)
        last = next(event for event in words.found[request.id] if event.state in FINAL)
        assert (last.state == "done") == (executed > 0)
        done += last.state == "done"
    assert done >= len(requests) - 4, "only orders that were on their way may expire"
