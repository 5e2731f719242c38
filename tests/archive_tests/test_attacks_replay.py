"""Attacks on a copy of a run: two writers at once, sources that lack a stretch, foreign records, odd bytes."""

import threading
from collections.abc import Callable, Iterator

import pytest

from consumers.replay.write import Copy, write_run
from infra.errors import ObservatorError, RecordsLost, Stop
from infra.log import Record, Slot
from infra.memory_log import MemoryLog
from streams.history import LogHistory, Spans
from streams.messages import AccountState, TradeInput, encode
from streams.process import topic_specs
from streams.topics import TOPICS

TRADES = Slot("trades", 3)
ODD = [b"", b"\xff\xfe", b'{"type":"trade"', b"x" * 100_000]


@pytest.fixture
def source() -> MemoryLog:
    """Trades, trade's inputs that name them, and states with tombstones; offsets with holes, a clock that goes back."""
    log = MemoryLog(clock_ms=lambda: 0)
    log.create_topics(topic_specs())
    for i in range(12):
        at = 1_000 + (i if i != 7 else 2)
        log.append(Record("trades", 3, 5 + 2 * i, at, "" if i % 3 else "upbit:KRW-원", ODD[i % 4]))
        named = TradeInput(kind="range", topic="trades", partition=3, first=5 + 2 * i, last=5 + 2 * i)
        log.append(Record("trade-inputs", 0, i, at, "p", encode(named)))
    state = AccountState(account="a", state=b"{}", cursor={"trades/3": 9, "trade-inputs/0": 3}, event_ms=1)
    log.append(Record("account-states", 2, 1, 1_004, "a", encode(state)))
    log.append(Record("account-states", 2, 4, 1_005, "a", b""))
    return log


def run_of() -> MemoryLog:
    return MemoryLog("replay-a-", clock_ms=lambda: 0, beside=MemoryLog(clock_ms=lambda: 0))


def written(log: MemoryLog, slot: Slot) -> list[tuple[str, bytes]]:
    history = LogHistory(log)
    span = history.spans([slot.topic]).get(slot, (0, 0))
    return [(record.key, record.value) for record in history.read(slot, *span)]


def test_odd_bytes_keys_and_holes_are_copied_and_named_offsets_follow(source):
    history, copy = LogHistory(source), run_of()
    outcome = write_run(history, history.spans(TOPICS), copy)
    assert outcome.is_complete
    assert written(copy, TRADES) == written(source, TRADES)
    entries = [value for _, value in written(copy, Slot("trade-inputs", 0))]
    assert entries == [
        encode(TradeInput(kind="range", topic="trades", partition=3, first=i, last=i)) for i in range(12)
    ]
    assert [value for _, value in written(copy, Slot("account-states", 2))][1] == b""


class Meanwhile(LogHistory):
    """Does something before it gives its `number`-th trade."""

    def __init__(self, log: MemoryLog, number: int, act: Callable[[], None]) -> None:
        super().__init__(log)
        self.number = number
        self.act = act

    def read_together(self, spans: Spans) -> dict[Slot, Iterator[Record]]:
        together = super().read_together(spans)
        return together | {TRADES: self._watched(together[TRADES])} if TRADES in together else together

    def _watched(self, records: Iterator[Record]) -> Iterator[Record]:
        for i, record in enumerate(records):
            if i == self.number:
                self.act()
            yield record


@pytest.mark.parametrize("number", [0, 5])
def test_two_writers_of_one_copy_leave_each_record_once(source, number):
    """Two people start it at the same moment, or a supervisor starts it while the first one still runs."""
    copy = run_of()
    spans = LogHistory(source).spans(TOPICS)
    refused: list[ObservatorError] = []

    def run(writer: Copy) -> None:
        try:
            writer.run(None, threading.Event(), None)
        except ObservatorError as error:
            refused.append(error)

    history = Meanwhile(source, -1, lambda: run(other))
    one = Copy(history, spans, copy, "")
    other = Copy(LogHistory(source), spans, copy, "")
    history.number = number
    run(one)
    assert written(copy, TRADES) == written(source, TRADES)
    assert len(written(copy, Slot("trade-inputs", 0))) == 12
    assert len(refused) == 1


def test_a_source_that_lacks_a_stretch_is_no_complete_copy(source):
    history, copy = LogHistory(source), run_of()
    spans = history.spans(["trades"])
    source.truncate(TRADES, 12)
    with pytest.raises(RecordsLost):
        write_run(history, spans, copy)
    source.store.tape(TRADES).base = 12
    with pytest.raises(ObservatorError):
        write_run(history, spans, copy)


def test_a_finished_or_foreign_run_is_refused_and_nothing_is_added(source):
    history, copy = LogHistory(source), run_of()
    spans = history.spans(TOPICS)
    write_run(history, spans, copy)
    kept = {slot: written(copy, slot) for slot in spans}
    with pytest.raises(Stop, match="complete already"):
        write_run(history, spans, copy)
    with pytest.raises(Stop, match="another replay"):
        write_run(history, history.spans(["trades"]), copy)
    assert {slot: written(copy, slot) for slot in spans} == kept


def test_a_record_that_somebody_wrote_between_is_found(source):
    history, copy = LogHistory(source), run_of()
    spans = history.spans(["trades"])
    first = Copy(history, spans, copy, "")
    copy.publisher().publish("trades", "", b"foreign", 3)
    with pytest.raises(Stop, match="trades/3"):
        first.run(None, threading.Event(), None)
    with pytest.raises(Stop, match="offset 0"):
        write_run(history, spans, copy)
