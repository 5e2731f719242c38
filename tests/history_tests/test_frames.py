import random
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from consumers.archive import frames as frames_of
from consumers.archive.blocks import columns_of
from consumers.archive.frames import Wanted, day_ms, frames
from consumers.archive.kernel_columns import joined, kernel_columns
from consumers.archive.walk import LOST, SESSION, Mark, Walk
from infra.errors import BadSettings, RecordsLost
from infra.log import Record, Slot, TopicSpec, partition_of
from infra.memory_log import MemoryLog
from streams.archived import ArchiveHistory
from streams.history import History, LogHistory
from streams.market import kernels
from streams.messages import Heartbeat, Hole, Message, OrderBook, OrderSent, Trade, encode, key_of
from streams.stage import PartitionStage, StageOptions
from streams.topics import TOPICS, decode

from .conftest import DAY, START_MS, Archive, beat, book, hole, recorded, trade

PLACE = partition_of("upbit:KRW-A", 12)
OTHER = next(name for name in (f"KRW-B{i}" for i in range(99)) if partition_of(f"upbit:{name}", 12) == PLACE)
MARKETS = ("KRW-A", OTHER)


def session(bins: int = 12, *, holes: bool = True) -> dict[str, list[Message]]:
    """Two markets in one partition of both topics; books and trades at every 100 ms, with a hole in the other."""
    rng = random.Random(7)
    found: dict[str, list[Message]] = {"orderbooks": [], "trades": []}
    counts = dict.fromkeys(found, 0)
    for i in range(10 * bins + 1):
        if i % 10 == 0:
            for topic, rows in found.items():
                rows.append(beat(i, MARKETS, count=counts[topic]))
                if holes and i == 50:
                    rows.append(hole(53, 58, [OTHER]))
        market = MARKETS[i % 3 == 0]
        width = rng.choice((2, 2, 3))
        sizes = [rng.random() for _ in range(width)]
        mid = 100.0 + rng.choice((0, 1, 2))
        found["orderbooks"].append(
            book(i, market, exchange_ms=START_MS + 100 * i + 7, bid_sizes=sizes, ask_sizes=sizes[:2],
                 bid_prices=[mid - k for k in range(width)], ask_prices=[mid + 1, mid + 2])
        )  # fmt: skip
        counts["orderbooks"] += 1
        if i % 4 == 0:
            origin = "backfill" if i == 40 else "stream"
            found["trades"].append(trade(i, market, price=mid, size=sizes[0], origin=origin))
            counts["trades"] += 1
    return found


def records_of_session(found: dict[str, list[Message]]) -> list[Record]:
    """Append times follow the order in which the messages were made."""
    records = []
    for topic, messages in found.items():
        for offset, message in enumerate(messages):
            event = getattr(message, "exchange_ms", None) or getattr(message, "event_ms", None) or START_MS + 5_000
            key = key_of("upbit", getattr(message, "market", "")) if hasattr(message, "market") else ""
            records.append(Record(topic, PLACE, offset, event + 20, key, encode(message)))
    return records


@pytest.fixture(params=["archive", "log"])
def history_of(request: pytest.FixtureRequest, archive: Archive) -> Callable[[list[Record]], History]:
    def in_archive(records: list[Record]) -> History:
        for slot in {record.slot for record in records}:
            own = [record for record in records if record.slot == slot]
            for at in range(0, len(own), 60):
                archive.put(own[at : at + 60])
        return ArchiveHistory(archive.store)

    def in_log(records: list[Record]) -> History:
        log = MemoryLog()
        log.create_topics([TopicSpec(name, 12, {}) for name in TOPICS])
        for record in records:
            log.append(record)
        return LogHistory(log)

    return in_archive if request.param == "archive" else in_log


def test_a_frame_has_the_rows_and_their_marks(history_of: Callable[[list[Record]], History]) -> None:
    found = session()
    history = history_of(records_of_session(found))
    for topic, kind in (("orderbooks", OrderBook), ("trades", Trade)):
        rows = [one for one in found[topic] if isinstance(one, kind)]
        frame = pd.concat(frames(history, Wanted(topic)))
        assert frame["exchange_ms"].tolist() == [row.exchange_ms for row in rows]
        assert frame["market"].tolist() == [row.market for row in rows]
        expected = [row.market == OTHER and START_MS + 5_300 <= row.exchange_ms < START_MS + 5_800 for row in rows]
        assert frame["is_marked"].tolist() == expected
        assert any(expected) or topic == "trades"
    books = pd.concat(frames(history, Wanted("orderbooks", markets=("KRW-A",))))
    assert set(books["market"]) == {"KRW-A"}


def test_only_the_wanted_columns_and_rows_come(history_of: Callable[[list[Record]], History]) -> None:
    history = history_of(records_of_session(session()))
    wanted = Wanted("trades", START_MS + 2_000, START_MS + 4_000, columns=("price", "append_ms"))
    frame = pd.concat(frames(history, wanted, rows=5))
    assert list(frame) == ["record_partition", "record_offset", "type", "price", "append_ms", "is_marked"]
    assert frame["append_ms"].between(START_MS + 2_000, START_MS + 3_999).all()
    assert len(frame) == 5
    holes = pd.concat(frames(history, Wanted("orderbooks", kind=Hole)))
    assert holes["reason"].tolist() == ["reconnect"]
    assert all(len(piece) <= 60 for piece in frames(history, Wanted("trades")))
    with pytest.raises(BadSettings, match="trades has no column colour"):
        next(frames(history, Wanted("trades", columns=("colour",))))
    with pytest.raises(BadSettings, match="no market"):
        next(frames(history, Wanted("balances", markets=("KRW-A",))))
    with pytest.raises(BadSettings, match="no topic"):
        next(frames(history, Wanted("nothing")))


def test_features_are_marked_by_both_topics(archive: Archive) -> None:
    records = records_of_session(session())
    stage = PartitionStage(StageOptions())
    rows = [row for one in records for row in stage.apply(one.topic, decode(one.topic, one.value))]
    assert {row.market for row in rows} == set(MARKETS)
    late = recorded("features", rows, partition=PLACE)
    for topic in ("orderbooks", "trades"):
        archive.put([one for one in records if one.topic == topic])
    archive.put(late)
    frame = pd.concat(frames(ArchiveHistory(archive.store), Wanted("features")))
    assert not frame["is_marked"].any()  # the stage writes no row for a bin in a hole
    touched = [row for row in rows if row.market == "KRW-A"][5]
    other = type(touched)(**{name: getattr(touched, name) for name in touched.__struct_fields__} | {"market": OTHER})
    archive.put(recorded("features", [other], partition=PLACE, first=len(rows)))
    frame = pd.concat(frames(ArchiveHistory(archive.store), Wanted("features", columns=("market",))))
    assert frame["is_marked"].tolist() == [False] * len(rows) + [True]


def test_money_and_rows_without_a_market_come(archive: Archive) -> None:
    sent = OrderSent(account="a", pocket="p", intent_id="i", attempt=1, identifier="x", event_ms=START_MS)
    archive.put(recorded("order-events", [sent]))
    history = ArchiveHistory(archive.store)
    frame = pd.concat(frames(history, Wanted("order-events")))
    assert frame["identifier"].tolist() == ["x"]
    assert frame["is_marked"].tolist() == [False]
    assert frame["funds"].tolist() == [None]
    assert list(frames(history, Wanted("trades"))) == []


def test_a_day(archive: Archive) -> None:
    archive.put(recorded("trades", map(trade, range(10))))
    low, high = day_ms(DAY)
    assert high - low == 86_400_000
    history = ArchiveHistory(archive.store)
    assert sum(map(len, frames(history, Wanted("trades", low, high)))) == 10
    assert list(frames(history, Wanted("trades", high, high + 1))) == []  # a day without data
    with pytest.raises(BadSettings, match="no day"):
        day_ms("21.11.2025")


def test_kernel_columns_give_the_features_of_the_live_stage(history_of: Callable[[list[Record]], History]) -> None:
    found = session(40, holes=False)
    records = records_of_session(found)
    history = history_of(records)
    stage = PartitionStage(StageOptions())
    live: dict[str, list[list[float | None]]] = {}
    for one in sorted(records, key=lambda record: record.append_ms):
        for row in stage.apply(one.topic, decode(one.topic, one.value)):
            live.setdefault(row.market, []).append(row.values)
    found_pieces = list(kernel_columns(history, START_MS, START_MS + 60_000, step_ms=15_000))
    for market in MARKETS:
        pieces = [one for one in found_pieces if one.market == market]
        assert len(pieces) == 3
        columns = joined(pieces)
        rows = columns.run()[: len(live[market]), : kernels.N_FEATURES]
        expected = np.array([[np.nan if value is None else value for value in row] for row in live[market]])
        first = int(columns.event_ms[0] - START_MS) // 1000
        assert rows.tobytes() == expected[first : first + len(rows)].tobytes()
        assert not columns.is_marked.any()
        assert sum(columns.kinds) == len(columns.trades)
        assert len(columns.books) == len(columns.counts)


def test_kernel_columns_know_the_holes(archive: Archive) -> None:
    for topic in ("orderbooks", "trades"):
        archive.put([one for one in records_of_session(session()) if one.topic == topic])
    by_market = {one.market: one for one in kernel_columns(ArchiveHistory(archive.store), START_MS, START_MS + 60_000)}
    marked = by_market[OTHER].event_ms[by_market[OTHER].is_marked]
    assert len(marked)
    assert ((marked >= START_MS + 5_300) & (marked < START_MS + 5_800)).all()
    assert not by_market["KRW-A"].is_marked.any()


def test_a_missing_part_ends_the_reading(archive: Archive) -> None:
    records = recorded("trades", map(trade, range(30)))
    parts = [archive.put(records[at : at + 10]) for at in (0, 10, 20)]
    (archive.folder / parts[1].name).unlink()
    with pytest.raises(RecordsLost, match="trades-0: offsets 10 to 19"):
        list(frames(ArchiveHistory(archive.store), Wanted("trades")))


# --- what heartbeats and holes say ----------------------------------------------------------------------------------


def walk(messages: list[Message], size: int) -> tuple[list[Mark], list[bool]]:
    """Marks, and which data rows were late, read in pieces of `size`."""
    log = MemoryLog()
    log.create_topics([TopicSpec("orderbooks", 1, {})])
    for record in recorded("orderbooks", messages):
        log.append(record)
    slot = Slot("orderbooks", 0)
    state = Walk(slot, 1000)
    marks, late = [], []
    for at in range(0, len(messages), size):
        end = min(at + size, len(messages))
        for batch in frames_of.blocks(LogHistory(log), slot, at, end, columns_of("orderbooks")):
            for rows in state.take(batch):
                late.extend(zip(rows.event_ms.tolist(), rows.is_late.tolist(), strict=True))
            marks.extend(state.marks)
    return marks, [flag for _, flag in sorted(late)]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_what_a_session_says(size: int) -> None:
    again = {"session": START_MS + 20_000, "complete_from_ms": START_MS + 21_000}
    messages: list[Message] = [
        beat(0, count=0), book(1), beat(10, count=1), book(5), book(11),
        beat(20, count=4),  # one more than was written
        hole(21, 23), beat(30, count=4),
        beat(40, count=4, complete_from_ms=START_MS + 3_500),
        beat(210, count=0, **again), book(211, session=again["session"]), beat(220, count=1, **again),
    ]  # fmt: skip
    marks, late = walk(messages, size)
    told = [(mark.reason, mark.from_ms - START_MS, mark.to_ms - START_MS, mark.offset) for mark in marks[1:]]
    assert marks[0][:5] == ("upbit", "KRW-A", 0, START_MS, "beginning")
    assert sorted(told, key=lambda one: one[3]) == [
        (LOST, 1_000, 2_000 + 8_000, 5),
        ("reconnect", 2_100, 2_300, 6),
        (SESSION, 3_000, 3_500, 8),
        (SESSION, 4_000, 21_000, 9),
    ]
    assert late == [False, True, False, False]  # book(5) came after the heartbeat of 1.0 s


def test_the_marks_are_where_the_stage_closes_no_bin() -> None:
    """The walk against `streams.market.bins` on the same records."""
    records = records_of_session(session())
    assert any(isinstance(decode(one.topic, one.value), Heartbeat) for one in records)
    stage = PartitionStage(StageOptions())
    rows = [row for one in records for row in stage.apply(one.topic, decode(one.topic, one.value))]
    bins = {market: {row.bin_ms for row in rows if row.market == market} for market in MARKETS}
    assert bins["KRW-A"] - bins[OTHER] == {START_MS + 6_000}
