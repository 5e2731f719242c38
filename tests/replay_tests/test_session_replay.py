"""`verify replay`: how two runs are held against each other, and (with a real broker) the whole check in small."""

import pytest

import observator
from consumers.verify.replay_outputs import Outputs, Part
from consumers.verify.session import Session
from infra.log import Record, Slot
from infra.memory_log import MemoryLog
from infra.settings import Settings
from streams.history import LogHistory
from streams.messages import Veto, encode
from streams.process import topic_specs


def veto(reason: str, bin_ms: int = 1_000) -> Veto:
    return Veto(account="a", exchange="upbit", market="KRW-BTC", reason=reason, event_ms=bin_ms)


def outputs(*messages) -> Outputs:
    found = Outputs()
    for message in messages:
        found.take("order-events", "a", message)
    return found


def test_a_difference_is_what_one_has_and_the_other_has_not_or_otherwise():
    one = outputs(veto("hole"), veto("no-budget"), veto("hole", 2_000))
    assert one.differing(outputs(veto("hole"), veto("no-budget"), veto("hole", 2_000))) == 0
    assert one.differing(outputs(veto("hole"), veto("hole"), veto("hole", 2_000))) == 1
    assert one.differing(outputs(veto("hole"), veto("no-budget"))) == 1
    assert outputs().differing(one) == 3


def test_the_control_reads_one_partition_with_one_record_altered():
    with MemoryLog() as log:
        log.create_topics(topic_specs())
        publisher = log.publisher()
        for value in (b"1", b"2", b"3"):
            publisher.publish("trades", "", value, 4)
            publisher.publish("trades", "", value, 5)
        publisher.publish("manifests", "streams", b"{}")
        publisher.publish("controls", "", b"{}")
        part = Part(LogHistory(log), Record("trades", 4, 1, 0, "", b"altered"))
        spans = part.spans(["trades", "controls", "manifests"])
        assert set(spans) == {Slot("trades", 4), Slot("manifests", 0)}
        assert [one.value for one in part.read(Slot("trades", 4), 0, 3)] == [b"1", b"altered", b"3"]
        found = Session(part, Settings(), now=None, is_closed=True).compare()
        assert found.verdict == "no data"
        assert encode(veto("hole"))


@pytest.mark.kafka
@pytest.mark.slow
def test_a_small_session_is_replayed_without_a_difference():
    result = observator.replay_check(quick=True)
    figures = result["figures"]
    wrong = {name: value for name, value in figures.items() if name.endswith(": differing") and value}
    assert wrong == {}
    assert figures["session: paper fills"] > 0
    assert figures["control: differing after one altered byte"] > 0
    assert result["passed"], result
