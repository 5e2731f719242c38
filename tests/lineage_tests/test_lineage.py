"""`observator explain`: every link with its true coordinates, from every name an order has, and what retention took."""

import sqlite3
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from consumers.execute.journal import Journal
from consumers.lineage import Lineage, OrderUnheard
from consumers.lineage_words import lines
from infra.log import Log, Publisher, Record, Slot, TopicSpec, partition_of, slots_of
from infra.memory_log import MemoryLog
from infra.servers.postgres import PostgresServer
from models.forecast.artefact import read
from models.forecast.registry import shipped
from streams import messages as m
from streams import topics

BIN_MS = 1_700_000_010_000
MARKET, KEY, POCKET, OWNER = "KRW-BTC", "upbit:KRW-BTC", "paper-main", ("upbit-0", 7)
MODEL = read(shipped("synthetic"))


@dataclass
class World:
    """A log with one trade's whole story, and where its records should stand."""

    log: Log
    home: Path
    places: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    counts: dict[Slot, int] = field(default_factory=dict)

    def write(self, publisher: Publisher, name: str, topic: str, key: str, message: m.Message) -> None:
        """Publish one record and note where it stands."""
        slot = Slot(topic, partition_of(key, topics.TOPICS[topic].partitions))
        publisher.publish(topic, key, m.encode(message), slot.partition)
        offset = self.counts.get(slot, 0)
        self.counts[slot] = offset + 1
        self.places[name] = (slot.topic, slot.partition, offset)


def book(exchange_ms: int, market: str = MARKET, owner: tuple[str, int] = OWNER) -> m.OrderBook:
    return m.OrderBook(
        exchange="upbit", market=market, source=owner[0], session=owner[1], exchange_ms=exchange_ms, received_ns=0,
        bid_prices=[100.0], bid_sizes=[1.0], ask_prices=[101.0], ask_sizes=[1.0],
    )  # fmt: skip


def trade(exchange_ms: int, trade_id: int, **more: Any) -> m.Trade:
    return m.Trade(
        exchange="upbit", market=MARKET, source=OWNER[0], session=OWNER[1], exchange_ms=exchange_ms,
        trade_ms=exchange_ms, received_ns=0, trade_id=trade_id, price=100.0, size=1.0, is_buy=True, **more,
    )  # fmt: skip


def beat(event_ms: int) -> m.Heartbeat:
    return m.Heartbeat(
        exchange="upbit", source=OWNER[0], session=OWNER[1], count=0, event_ms=event_ms, complete_from_ms=BIN_MS - 5000,
        markets=[MARKET],
    )  # fmt: skip


FEATURES = m.Features(
    exchange="upbit", market=MARKET, bin_ms=BIN_MS, grid_ms=1000, schema=MODEL.payload.schema, source=OWNER[0],
    session=OWNER[1], n_bins=300, n_books=2, n_trades=1, mid=100.5, spread=1.0, values=[0.5], levels=[],
    accumulators=[],
)  # fmt: skip
SIGNAL = m.Signal(
    id=m.signal_id("upbit", MARKET, BIN_MS, 5000, MODEL.id, FEATURES.schema), exchange="upbit", market=MARKET,
    bin_ms=BIN_MS, horizon_ms=5000, schema=FEATURES.schema, model_id=MODEL.id, expected_bp=21.5, sigma_bp=9.0,
    mid=100.5, is_licensed=True, feed="synthetic",
)  # fmt: skip


def intent(purpose: m.Purpose, cause_kind: Any, cause_id: str, **changes: Any) -> m.OrderIntent:
    fields: dict[str, Any] = {
        "id": m.intent_id("paper", cause_kind, cause_id, purpose), "account": "paper", "pocket": POCKET,
        "exchange": "upbit", "market": MARKET, "side": "buy" if purpose == "entry" else "sell", "order_type": "price",
        "price": None, "quantity": None, "funds": Decimal(6000), "time_in_force": "", "purpose": purpose,
        "cause_kind": cause_kind, "cause_id": cause_id, "event_ms": BIN_MS, "expires_ms": BIN_MS + 5000,
        "reason": "test",
    }  # fmt: skip
    return m.OrderIntent(**{**fields, **changes})


ENTRY = intent("entry", "signal", SIGNAL.id)
STOP = intent("protective-exit", "stop", f"{ENTRY.id}/2")
IDENTIFIER = f"ob-{ENTRY.id}-1"
UUID = "11111111-2222-3333-4444-555555555555"


def told(one: m.OrderIntent, uuid: str, fill_id: str) -> list[m.Message]:
    base: dict[str, Any] = {"account": "paper", "pocket": POCKET, "intent_id": one.id, "event_ms": BIN_MS}
    numbered = base | {"attempt": 1, "identifier": f"ob-{one.id}-1"}
    amount = {"price": Decimal(101), "quantity": Decimal(59), "funds": Decimal(5959), "fee": Decimal("2.9795")}
    totals = {"executed_quantity": Decimal(59), "executed_funds": Decimal(5959), "paid_fee": Decimal("2.9795")}
    place = {"uuid": uuid, "fill_id": fill_id, "exchange": "upbit", "market": MARKET, "side": one.side}
    return [
        m.OrderSent(**numbered),
        m.OrderAccepted(**numbered, uuid=uuid),
        m.OrderFilled(**base, **place, **amount, **totals, is_final=True),
    ]


def manifest(process: str, version: str) -> m.RunManifest:
    return m.RunManifest(
        id=f"{process}-{version}", process=process, version=version, git_sha="abc", lock_hash="", kernel_hash="",
        backend="", cpu="", python="", settings={}, started_ms=BIN_MS,
    )  # fmt: skip


@pytest.fixture
def world(memory_log: MemoryLog, tmp_path: Path) -> World:
    return story_in(memory_log, tmp_path)


def story_in(log: Log, home: Path) -> World:
    specs = [TopicSpec(topic.name, topic.partitions, topic.config) for topic in topics.TOPICS.values()]
    log.create_topics(specs)
    made = World(log, home)
    publisher = log.publisher()
    story: list[tuple[str, str, str, m.Message]] = [
        ("", "manifests", process, manifest(process, "1"))
        for process in ("feed", "streams", "predict", "trade", "execute")
    ]
    story += [
        *(("", topic, KEY, beat(BIN_MS - 1000)) for topic in ("orderbooks", "trades")),
        ("", "orderbooks", KEY, book(BIN_MS - 1001)),
        ("book 1", "orderbooks", KEY, book(BIN_MS - 1000)),
        ("", "orderbooks", KEY, book(BIN_MS - 500, market="KRW-ETH")),
        ("", "orderbooks", KEY, book(BIN_MS - 400, owner=("upbit-0", 6))),
        ("book 2", "orderbooks", KEY, book(BIN_MS - 1)),
        ("", "orderbooks", KEY, book(BIN_MS)),
        ("books closed", "orderbooks", KEY, beat(BIN_MS)),
        ("", "orderbooks", KEY, book(BIN_MS - 300)),  # late: it is in no bin
        ("trade 1", "trades", KEY, trade(BIN_MS - 700, 1)),
        ("", "trades", KEY, trade(BIN_MS - 700, 1)),  # the same once more
        ("", "trades", KEY, trade(BIN_MS - 600, 2, origin="backfill")),
        ("trades closed", "trades", KEY, beat(BIN_MS)),
        ("features", "features", KEY, FEATURES),
        ("signal", "signals", KEY, SIGNAL),
        ("entry", "order-intents", POCKET, ENTRY),
        *(("entry event", "order-events", POCKET, event) for event in told(ENTRY, UUID, "fill-1")),
        ("", "order-events", POCKET, told(ENTRY, UUID, "fill-1")[0]),  # published twice
        ("stop", "order-intents", POCKET, STOP),
        *(("stop event", "order-events", POCKET, event) for event in told(STOP, "other", "fill-2")),
    ]
    for row in story:
        made.write(publisher, *row)
    publisher.flush()
    for process in ("feed", "streams", "predict", "trade", "execute"):
        made.write(publisher, "", "manifests", process, manifest(process, "2"))
    publisher.close()
    return made


def where(place: dict[str, Any]) -> tuple[str, int, int]:
    return place["topic"], place["partition"], place["offset"]


@pytest.mark.parametrize("asked", [ENTRY.id, IDENTIFIER, UUID, "fill-1"])
def test_every_link_has_its_coordinates(world: World, asked: str) -> None:
    chain = Lineage(world.log, world.home).explain(asked)
    assert chain["intent_id"] == ENTRY.id
    assert [event["record"]["type"] for event in chain["events"]] == ["order-sent", "order-accepted", "order-filled"]
    assert where(chain["intent"]) == world.places["entry"]
    assert where(chain["signal"]) == world.places["signal"]
    assert where(chain["features"]) == world.places["features"]
    assert chain["features"]["hash"] == m.hash_of(FEATURES).hex()
    books, trades = chain["raw"]["orderbooks"], chain["raw"]["trades"]
    assert (where(books["first"]), where(books["last"])) == (world.places["book 1"], world.places["book 2"])
    assert len(books["offsets"]) == books["counted_in_the_row"] == 2
    assert where(books["closed_by"]) == world.places["books closed"]
    assert trades["offsets"] == [world.places["trade 1"][2]]
    assert where(trades["closed_by"]) == world.places["trades closed"]
    assert chain["model"]["id"] == MODEL.id
    assert chain["model"]["card"]["rows"] == MODEL.payload.card.rows
    assert chain["model"]["score"]["horizon_ms"] == 5000
    assert chain["journal"] is None
    assert chain["missing"] == []
    assert set(chain["manifests"]) == {"execute", "feed", "predict", "streams", "trade"}


def test_the_manifest_is_the_one_in_force_then(memory_log: MemoryLog, tmp_path: Path) -> None:
    specs = [TopicSpec(topic.name, topic.partitions, topic.config) for topic in topics.TOPICS.values()]
    memory_log.create_topics(specs)
    intents = Slot("order-intents", partition_of(POCKET, 12))
    memory_log.append(Record(*intents, 0, 2_000, POCKET, m.encode(intent("entry", "request", "r1"))))
    for offset, (append_ms, version) in enumerate([(1_000, "1"), (1_999, "2"), (2_001, "3")]):
        memory_log.append(Record("manifests", 0, offset, append_ms, "trade", m.encode(manifest("trade", version))))
    chain = Lineage(memory_log, tmp_path).explain(intent("entry", "request", "r1").id)
    assert chain["manifests"]["trade"]["record"]["version"] == "2"
    assert chain["missing"] == [{"link": "request", "reason": "absent", "text": "order-requests"}]


def test_an_exit_goes_on_to_the_entry_it_closes(any_log: Log, tmp_path: Path) -> None:
    world = story_in(any_log, tmp_path)
    chain = Lineage(world.log, world.home).explain("other")
    assert chain["intent_id"] == STOP.id
    assert chain["signal"] is None
    assert chain["entry"]["intent_id"] == ENTRY.id
    assert where(chain["entry"]["signal"]) == world.places["signal"]
    for language, words in (("en", "closes the position"), ("ko", "포지션을 닫은")):
        text = "\n".join(lines(chain, language))  # type: ignore[arg-type]  # the two languages
        assert words in text
        assert "{}/{}@{}".format(*world.places["features"]) in text
        assert MODEL.id in text


def test_an_exit_by_a_forecast_goes_to_that_and_to_its_own_entry(memory_log: MemoryLog, tmp_path: Path) -> None:
    world = story_in(memory_log, tmp_path)
    leave = intent("exit", "expectation", SIGNAL.id, event_ms=BIN_MS + 1)
    publisher = world.log.publisher()
    other = intent("entry", "signal", "other", market="KRW-ETH", id="other-market")
    for name, one in (("", other), ("leave", leave), ("", intent("entry", "signal", "later", id="later"))):
        world.write(publisher, name, "order-intents", POCKET, one)
    publisher.close()
    chain = Lineage(world.log, world.home).explain(leave.id)
    assert where(chain["intent"]) == world.places["leave"]
    assert where(chain["signal"]) == world.places["signal"]
    assert chain["entry"]["intent_id"] == ENTRY.id
    assert chain["entry"]["entry"] is None


def test_no_place_is_printed_where_nothing_stands(world: World) -> None:
    chain = Lineage(world.log, world.home).explain(ENTRY.id)
    chain["raw"]["trades"] |= {"offsets": [], "counted_in_the_row": 0}
    for language, words in (("en", "of that bin in trades: 0 of 0"), ("ko", "원본 레코드 trades: 0건 중 0건")):
        assert any(line.endswith(words) for line in lines(chain, language))  # type: ignore[arg-type]  # the two languages
    assert any("KRW-BTC 매수, 진입" in line for line in lines(chain, "ko"))


def test_the_journal_on_the_same_machine_is_told(world: World) -> None:
    journal = Journal(world.home / "db" / "execution.sqlite")
    journal.add_intent(ENTRY, Record("order-intents", 1, 5, 77, POCKET, b""))
    sent = m.OrderSent(
        account="paper", pocket=POCKET, intent_id=ENTRY.id, attempt=1, identifier=IDENTIFIER, event_ms=BIN_MS
    )
    assert journal.begin_attempt(ENTRY.id, 1, IDENTIFIER, sent, 1)
    try:
        chain = Lineage(world.log, world.home).explain(IDENTIFIER)
    finally:
        journal.close()
    assert chain["journal"]["state"] == "SENDING"
    assert [attempt["identifier"] for attempt in chain["journal"]["attempts"]] == [IDENTIFIER]
    assert any("SENDING" in line for line in lines(chain))


def test_what_retention_took_is_said(memory_log: MemoryLog, tmp_path: Path) -> None:
    specs = [TopicSpec(topic.name, topic.partitions, topic.config) for topic in topics.TOPICS.values()]
    memory_log.create_topics(specs)
    made = World(memory_log, tmp_path)
    publisher = memory_log.publisher()
    made.write(publisher, "signal", "signals", KEY, SIGNAL)
    made.write(publisher, "features", "features", KEY, FEATURES)
    made.write(publisher, "book", "orderbooks", KEY, book(BIN_MS - 10))
    made.write(publisher, "entry", "order-intents", POCKET, ENTRY)
    publisher.close()
    for name in ("features", "orderbooks"):
        for slot in slots_of(memory_log, [name]):
            memory_log.truncate(slot, memory_log.bounds([slot])[slot][1])
    chain = Lineage(memory_log, tmp_path).explain(ENTRY.id)
    assert where(chain["signal"]) == made.places["signal"]
    assert chain["features"] is None
    assert {"link": "features", "reason": "retention", "text": "features"} in chain["missing"]
    assert any("deleted its oldest records" in line for line in lines(chain))
    assert any("보관 기간" in line for line in lines(chain, "ko"))


def test_an_order_nobody_knows_is_one_clear_line(memory_log: MemoryLog, tmp_path: Path) -> None:
    specs = [TopicSpec(topic.name, topic.partitions, topic.config) for topic in topics.TOPICS.values()]
    memory_log.create_topics(specs)
    with pytest.raises(OrderUnheard, match="no order 'nonsense'"):
        Lineage(memory_log, tmp_path).explain("nonsense")
    (tmp_path / "db").mkdir()
    sqlite3.connect(tmp_path / "db" / "execution.sqlite").close()  # a journal without tables
    with pytest.raises(OrderUnheard):
        Lineage(memory_log, tmp_path).explain("nonsense")


@pytest.mark.slow
def test_a_journal_on_postgresql_is_told_too(world: World) -> None:
    with PostgresServer(is_durable=False) as server:
        journal = Journal(server.address)
        journal.add_intent(ENTRY, Record("order-intents", 1, 5, 77, POCKET, b""))
        journal.close()
        chain = Lineage(world.log, world.home, server.address).explain(ENTRY.id)
        assert chain["journal"]["state"] == "NEW"
        assert chain["journal"]["offset"] == 5
    assert Lineage(world.log, world.home, server.address).explain(ENTRY.id)["journal"] is None  # it is away


def test_a_persons_order_goes_back_to_the_request_and_its_changes(memory_log: MemoryLog, tmp_path: Path) -> None:
    specs = [TopicSpec(topic.name, topic.partitions, topic.config) for topic in topics.TOPICS.values()]
    memory_log.create_topics(specs)
    made = World(memory_log, tmp_path)
    asked = m.OrderRequested(
        id="r1", account="paper", pocket=POCKET, exchange="upbit", market=MARKET, side="buy", order_type="price",
        funds=Decimal(6000), event_ms=BIN_MS, by="kim",
    )  # fmt: skip
    changed = m.RequestChanged(account="paper", pocket=POCKET, request=asked, event_ms=BIN_MS + 1, by="lee")
    gone = m.RequestCancelled(account="paper", pocket=POCKET, request_id="r1", event_ms=BIN_MS + 2, by="lee")
    other = m.RequestCancelled(account="paper", pocket=POCKET, request_id="r2", event_ms=BIN_MS + 2, by="lee")
    order = intent("manual", "request", "r1/3/2", side="buy")
    halted = m.Halt(account="*", kind="sell-all", event_ms=BIN_MS, by="kim")
    sale = intent("protective-exit", "halt", f"*|{BIN_MS}")
    publisher = memory_log.publisher()
    for name, topic, message in [
        ("asked", "order-requests", asked), ("changed", "order-requests", changed), ("", "order-requests", other),
        ("gone", "order-requests", gone), ("order", "order-intents", order), ("sale", "order-intents", sale),
    ]:  # fmt: skip
        made.write(publisher, name, topic, POCKET, message)
    publisher.publish("controls", "*", m.encode(halted))
    publisher.close()
    chain = Lineage(memory_log, tmp_path).explain(order.id)
    assert where(chain["request"]) == made.places["asked"]
    assert [where(one) for one in chain["request_changes"]] == [made.places["changed"], made.places["gone"]]
    assert any("kim" in line for line in lines(chain))
    chain = Lineage(memory_log, tmp_path).explain(sale.id)
    assert where(chain["halt"]) == ("controls", 0, 0)
    assert any("긴급 정지 sell-all" in line for line in lines(chain, "ko"))
