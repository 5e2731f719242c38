"""Logs of every version stay readable: each message as each version wrote it is archived and read back exactly."""

import io
from pathlib import Path

import msgspec
import pytest

from infra.log import Record, Slot
from streams.archived import ArchiveHistory
from streams.history import merged
from streams.messages import ALL, Features, encode, hash_of, tag_of
from streams.parts import Part, part_bytes, records_of, table_of
from streams.stage import PartitionStage, StageOptions
from streams.topics import TOPICS, decode

from .conftest import RUN, START_MS, Archive, recorded
from .old_lines import FOLDER, all_lines, filled, missing_lines, without_defaults

TOPIC_OF = {tag_of(kind): topic.name for topic in TOPICS.values() for kind in reversed(topic.kinds)}
KINDS = {tag_of(kind): kind for kind in ALL}
LINES = [pytest.param(line, id=f"{file}-{i}") for i, (file, line) in enumerate(all_lines())]


def is_within(old: object, new: object) -> bool:
    """Whether everything that an older line says stands in the newer one."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(name in new and is_within(value, new[name]) for name, value in old.items())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(is_within, old, new))
    return old == new


def topic_of(line: bytes) -> str:
    return TOPIC_OF[msgspec.json.decode(line)["type"]]


def test_every_message_of_today_has_its_lines() -> None:
    missing = [line.decode() for line in missing_lines(ALL, encode)]
    assert missing == [], "run tests/history_tests/old_lines.py and keep what it prints as a new file in old_messages/"


@pytest.mark.parametrize("kind", ALL)
def test_a_new_message_or_field_without_a_line_would_be_found(kind: type[msgspec.Struct]) -> None:
    grown = msgspec.defstruct(
        kind.__name__, [("fresh", int, 1)], bases=(kind,), kw_only=True, tag=tag_of(kind), frozen=True
    )  # type: ignore[arg-type]  # a message
    named = msgspec.defstruct("Fresh", [], bases=(kind,), tag="fresh-one", frozen=True)
    for changed in (grown, named):
        assert missing_lines([changed], encode)


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_any_version_is_read_archived_and_given_back(line: bytes) -> None:
    told = msgspec.json.decode(line)
    topic = topic_of(line)
    message = decode(topic, line)
    assert tag_of(type(message)) == told["type"]
    assert is_within(told, msgspec.json.decode(encode(message)))
    newer = line[:-1] + b',"from_tomorrow":{"a":[1,null]}}'
    assert decode(topic, newer) == message
    records = recorded(topic, [line, newer, b'{"type":"from-tomorrow"}'])
    part = Part("2025-11-21", 10, Slot(topic, 0), 0, 2)
    data = part_bytes(RUN, part, records)
    assert list(records_of(io.BytesIO(data), part.name)) == records
    assert table_of(io.BytesIO(data), part.name, ["type"])["type"].to_pylist() == [told["type"], told["type"], None]


def test_optional_fields_are_left_out_in_some_line() -> None:
    lines = {line for _, line in all_lines()}
    for kind in ALL:
        bare = without_defaults(kind, encode(filled(kind)))
        needed = set(msgspec.json.decode(bare))
        shapes = [set(told) for told in map(msgspec.json.decode, lines) if told["type"] == tag_of(kind)]
        assert needed in shapes or any(shape <= needed for shape in shapes), kind


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.session.tsv")), ids=lambda file: file.name)
def test_market_data_of_any_version_go_through_the_feature_stage(file: Path, archive: Archive) -> None:
    """Fourteen seconds of two markets, with a hole in one: the same rows from the archive as from the lines."""
    records = session(file)
    for topic in ("orderbooks", "trades"):
        archive.put([one for one in records if one.topic == topic])
    history = ArchiveHistory(archive.store)
    replayed = list(merged(history, history.spans(["orderbooks", "trades"])))
    rows = features(replayed)
    assert [hash_of(row) for row in rows] == [hash_of(row) for row in features(records)]
    assert {row.market: sum(one.market == row.market for one in rows) for row in rows} == {"KRW-A": 14, "KRW-B": 13}
    assert sorted(one.value for one in replayed) == sorted(one.value for one in records)


def session(file: Path) -> list[Record]:
    counts: dict[str, int] = {}
    records = []
    for i, line in enumerate(file.read_bytes().splitlines()):
        topic, key, value = line.split(b"\t", 2)
        offset = counts.get(topic.decode(), 0)
        records.append(Record(topic.decode(), 0, offset, START_MS + i, key.decode(), value))
        counts[topic.decode()] = offset + 1
    return records


def features(records: list[Record]) -> list[Features]:
    stage = PartitionStage(StageOptions())
    return [row for one in records for row in stage.apply(one.topic, decode(one.topic, one.value))]
