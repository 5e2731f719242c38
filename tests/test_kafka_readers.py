"""What a member of a group does with records that it fetched before a rebalance; no broker is needed for it."""

from types import SimpleNamespace
from typing import Any

from confluent_kafka import TopicPartition

from infra.kafka_clients import Connection
from infra.kafka_readers import KafkaGroupReader


def message(partition: int, offset: int) -> Any:
    return SimpleNamespace(
        error=lambda: None, topic=lambda: "p-left", partition=lambda: partition, offset=lambda: offset,
        key=lambda: b"k", value=lambda: b"v", timestamp=lambda: (1, 5),
    )  # fmt: skip


def test_records_of_partitions_taken_away_meanwhile_are_passed_over() -> None:
    connection = Connection("127.0.0.1:1", "p-", 6_000, 15_000, 1_000, 0.1)
    reader = KafkaGroupReader(connection, "g", ["left"], None, None, None)
    try:
        reader._assigned(reader.consumer, [TopicPartition("p-left", 0), TopicPartition("p-left", 1)])
        assert [one.partition for one in reader._records([message(0, 7), message(1, 3)])] == [0, 1]
        reader._revoked(reader.consumer, [])
        reader._assigned(reader.consumer, [TopicPartition("p-left", 1)])
        assert [one.partition for one in reader._records([message(0, 8), message(1, 4)])] == [1]
        assert [one.offset for one in reader._records([message(1, 5)])] == [5]
        reader._revoked(reader.consumer, [])
        assert reader._records([message(1, 6)]) == []
    finally:
        reader.close()
