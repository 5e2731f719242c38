import itertools
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import msgspec
import pandas as pd
import pyarrow.parquet as pq
import pytest

from infra.log import Log, TopicSpec
from infra.memory_log import MemoryLog
from streams import columns
from streams.columns import Stretch, event_ms_of, expand_features, read_frame, read_records, schema_of, to_table
from streams.market.features import NAMES, SCHEMA
from streams.messages import (
    ALL,
    DeadLetter,
    Features,
    Heartbeat,
    Hole,
    Message,
    OrderBook,
    OrderIntent,
    OrderSent,
    Refusals,
    RunManifest,
    encode,
)
from streams.topics import TOPICS

START_MS = 1_700_000_000_000


def book(i: int) -> OrderBook:
    return OrderBook(
        exchange="upbit", market="KRW-A", source="upbit", session=1, exchange_ms=START_MS + i, received_ns=i,
        bid_prices=[1.0, 0.5], bid_sizes=[2.0, 3.0], ask_prices=[1.5], ask_sizes=[4.0],
    )  # fmt: skip


def beat(i: int) -> Heartbeat:
    return Heartbeat(
        exchange="upbit", source="upbit", session=1, count=i, event_ms=START_MS + i, complete_from_ms=0, markets=[]
    )


def hole(i: int) -> Hole:
    return Hole(
        exchange="upbit", source="upbit", session=1, from_ms=START_MS, to_ms=START_MS + i, markets=["KRW-A"], reason="r"
    )


def features(i: int, schema: str = SCHEMA) -> Features:
    values: list[float | None] = [float(i), None, *([0.5] * (len(NAMES) - 2))]
    return Features(
        exchange="upbit", market="KRW-A", bin_ms=START_MS + 1_000 * i, grid_ms=1_000, schema=schema, source="upbit",
        session=1, n_bins=i, n_books=1, n_trades=0, mid=None if i == 2 else 10.0, spread=1.0, values=values, levels=[],
        accumulators=[1.0, None],
    )  # fmt: skip


def intent() -> OrderIntent:
    return OrderIntent(
        id="i", account="paper", pocket="p", exchange="upbit", market="KRW-A", side="buy", order_type="price",
        price=None, quantity=None, funds=Decimal("6000.10"), time_in_force="", purpose="entry", cause_kind="signal",
        cause_id="c", event_ms=START_MS, expires_ms=START_MS, reason="r",
    )  # fmt: skip


def new_log(clock: Callable[[], int] | None = None) -> MemoryLog:
    log = MemoryLog(clock_ms=clock or itertools.count(1).__next__)
    log.create_topics([TopicSpec(name, 2, {}) for name in TOPICS])
    return log


def put(log: Log, topic: str, *messages: Message, partition: int = 0) -> None:
    publisher = log.publisher()
    for message in messages:
        publisher.publish(topic, "k", encode(message), partition)
    publisher.close()


def test_every_message_has_a_time_and_a_schema() -> None:
    for kind in ALL:
        schema = schema_of(kind)
        assert schema.names[:4] == ["record_partition", "record_offset", "append_ms", "type"]
        assert set(kind.__struct_fields__) <= set(schema.names)
    assert event_ms_of(hole(7)) == START_MS + 7
    assert event_ms_of(Refusals(process="p", counts={}, event_ms=3)) == 3
    with pytest.raises(TypeError, match="no time"):
        event_ms_of(Message())


def test_records_come_by_event_time_partition_by_partition() -> None:
    log = new_log()
    put(log, "orderbooks", book(5), beat(6), book(1), partition=1)
    put(log, "orderbooks", book(3), book(9))
    assert [event_ms_of(m) - START_MS for _, m in read_records(log, "orderbooks")] == [3, 9, 5, 6, 1]
    found = read_records(log, "orderbooks", START_MS + 3, START_MS + 9)
    assert [(r.partition, event_ms_of(m) - START_MS) for r, m in found] == [(0, 3), (1, 5), (1, 6)]
    assert len(list(read_records(log, "orderbooks", limit=3))) == 3
    assert len(list(read_records(log, "orderbooks", limit=2))) == 2
    assert list(read_records(log, "signals")) == []


def test_what_cannot_be_read_is_named() -> None:
    log = new_log()
    put(log, "orderbooks", book(1))
    log.publisher().publish("orderbooks", "k", b"{", 0)
    put(log, "orderbooks", book(2))
    stretch = Stretch()
    assert len(list(read_records(log, "orderbooks", stretch=stretch))) == 2
    assert stretch.unreadable == [("orderbooks", 0, 1)]
    assert stretch.counts == {"order-book": 2}


@pytest.mark.parametrize("appended_from", [0, 1, 40, 41, 79, 80, 99, 100, 500])
def test_reading_from_an_append_time_is_the_filter_of_all(monkeypatch: pytest.MonkeyPatch, appended_from: int) -> None:
    monkeypatch.setattr(columns, "_BATCH", 3)
    log = new_log(itertools.count(0).__next__)
    put(log, "orderbooks", *(book(i % 7) for i in range(100)))
    transactor = log.transactor("t")
    transactor.begin()
    transactor.publish("orderbooks", "k", encode(book(1)), 0)
    transactor.commit(None, "g", {})
    everything = [record for record, _ in read_records(log, "orderbooks")]
    found = [record for record, _ in read_records(log, "orderbooks", appended_from_ms=appended_from)]
    assert found == [record for record in everything if record.append_ms >= appended_from]


def test_a_frame_of_books_holds_books_only_and_lists_stay_lists() -> None:
    log = new_log()
    put(log, "orderbooks", beat(0), book(1), hole(2), book(3))
    frame = read_frame(log, "orderbooks")
    assert frame["exchange_ms"].tolist() == [START_MS + 1, START_MS + 3]
    assert frame["record_offset"].tolist() == [1, 3]
    assert frame["bid_prices"].tolist() == [[1.0, 0.5]] * 2
    assert isinstance(frame["bid_prices"].iloc[0], list)
    assert read_frame(log, "orderbooks", kind=Hole)["reason"].tolist() == ["r"]


def test_a_frame_of_features_can_be_expanded_by_name() -> None:
    log = new_log()
    put(log, "features", features(1), features(2))
    frame = read_frame(log, "features")
    assert frame["mid"].tolist()[0] == 10.0
    assert math.isnan(frame["mid"].tolist()[1])
    wide = expand_features(frame)
    assert wide[NAMES[0]].tolist() == [1.0, 2.0]
    assert wide[NAMES[1]].isna().all()
    assert "values" not in wide
    put(log, "features", features(3, "v0"))
    with pytest.raises(ValueError, match="v0"):
        expand_features(read_frame(log, "features"))


def test_frames_of_several_kinds_have_all_columns_and_money_is_exact() -> None:
    log = new_log()
    sent = OrderSent(account="a", pocket="p", intent_id="i", attempt=1, identifier="x", event_ms=START_MS)
    put(log, "order-events", sent)
    frame = read_frame(log, "order-events")
    assert frame["type"].tolist() == ["order-sent"]
    assert frame["attempt"].tolist() == [1]
    assert pd.isna(frame["uuid"].iloc[0])
    put(log, "order-intents", intent())
    intents = read_frame(log, "order-intents")
    assert intents["funds"].tolist() == [Decimal("6000.10")]
    assert intents["price"].tolist() == [None]


def test_coordinates_of_messages_do_not_hide_those_of_their_records() -> None:
    log = new_log()
    letter = DeadLetter.of("p", "features", 5, 77, "k", "why", b"\x00")
    put(log, "dead-letters", letter)
    frame = read_frame(log, "dead-letters")
    assert frame[["record_partition", "record_offset", "partition", "offset"]].iloc[0].tolist() == [0, 0, 5, 77]


def test_an_empty_topic_gives_an_empty_frame_with_its_columns() -> None:
    for name in TOPICS:
        frame = read_frame(new_log(), name)
        assert not len(frame)
        assert "append_ms" in frame


def test_columns_survive_parquet(tmp_path: Path) -> None:
    manifest = RunManifest(
        id="m", process="p", version="1", git_sha="", lock_hash="", kernel_hash="", backend="", cpu="", python="",
        settings={"a": "b"}, started_ms=START_MS,
    )  # fmt: skip
    log = new_log()
    put(log, "manifests", manifest)
    put(log, "features", features(1))
    for topic in ("manifests", "features"):
        table = to_table(list(read_records(log, topic)), TOPICS[topic].kinds)
        pq.write_table(table, tmp_path / "t.parquet")
        assert pq.read_table(tmp_path / "t.parquet").equals(table)
    assert read_frame(log, "manifests")["settings"].tolist() == [{"a": "b"}]
    assert msgspec.json.decode(encode(manifest))["settings"] == {"a": "b"}
