"""The history of a real log: many partitions by one reader, with transaction markers between the records."""

import random
from typing import TYPE_CHECKING

import pytest

from infra.errors import RecordsLost
from infra.log import Record, Slot, TopicSpec
from streams import shared_reader
from streams.history import LogHistory, loaded, merged, spans_between
from streams.topics import TOPICS

if TYPE_CHECKING:
    from infra.kafka import KafkaLog

pytestmark = pytest.mark.kafka
CONFIG = {"message.timestamp.type": "LogAppendTime"}


def written(log: "KafkaLog", count: int) -> None:
    """Plain and transactional records in seven partitions."""
    log.create_topics([TopicSpec("orderbooks", 4, CONFIG), TopicSpec("trades", 3, CONFIG)])
    rng = random.Random(1)
    publisher, transactor = log.publisher(), log.transactor("t")
    for i in range(count):
        topic, parts = rng.choice((("orderbooks", 4), ("trades", 3)))
        if i % 40 == 0:
            transactor.begin()
            transactor.publish(topic, "k", b"t%d" % i, rng.randrange(parts))
            transactor.commit(None, "g", {})
        publisher.publish(topic, f"k{i}", b"%d" % i, rng.randrange(parts))
    publisher.close()
    transactor.close()


def test_a_real_log_is_told_in_one_order(kafka_log: "KafkaLog", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_reader, "_KEPT", 60)
    monkeypatch.setattr(shared_reader, "_BATCH", 40)
    written(kafka_log, 800)
    history = LogHistory(kafka_log)
    spans = history.spans(TOPICS)
    assert len(spans) == 7
    alone = {slot: list(history.read(slot, *span)) for slot, span in spans.items()}
    assert sum(map(len, alone.values())) == 800 + 20
    together = list(merged(history, spans))
    assert {slot: [one for one in together if one.slot == slot] for slot in spans} == alone
    ranks = list(TOPICS)
    assert together == sorted(together, key=lambda one: (one.append_ms, ranks.index(one.topic), *one.slot, one.offset))
    assert list(merged(LogHistory(loaded(history, spans)), spans)) == together
    _between(history, together)


def _between(history: LogHistory, together: list[Record]) -> None:
    low, high = together[300].append_ms, together[700].append_ms
    spans = spans_between(history, TOPICS, low, high)
    inside = [one for one in together if low <= one.append_ms < high]
    assert list(merged(history, spans)) == inside


def test_a_stretch_that_the_log_never_had_is_lost(kafka_log: "KafkaLog") -> None:
    written(kafka_log, 50)
    first, end = LogHistory(kafka_log).spans(["trades"])[Slot("trades", 0)]
    assert first == 0
    with pytest.raises(RecordsLost):
        list(LogHistory(kafka_log).read(Slot("trades", 0), end + 5, end + 9))
