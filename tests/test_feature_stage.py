"""The stage: which records count, holes, hand-overs, interleaving, restarts."""

import asyncio
import random
from types import SimpleNamespace

import msgspec
import pytest

from consumers.verify.disturbed import disturbed_log
from infra.errors import LogUnavailable
from infra.log import Slot, TopicSpec, slots_of
from infra.memory_log import MemoryLog
from streams import agents, topics
from streams.market import kernels
from streams.messages import DeadLetter, Heartbeat, Hole, OrderBook, Trade, encode, hash_of
from streams.runner import FeatureLoop, FeatureStage
from streams.stage import PartitionStage, StageOptions, row_of
from streams.topics import TOPICS

OPTIONS = StageOptions(1000, 60)
M = "KRW-BTC"


def beat(event_ms, count, *, source="s", session=1, complete_from_ms=0, markets=(M,)):
    return Heartbeat(
        exchange="upbit", source=source, session=session, count=count, event_ms=event_ms,
        complete_from_ms=complete_from_ms, markets=list(markets),
    )  # fmt: skip


def book(at, bid=100.0, *, source="s", session=1):
    return OrderBook(
        exchange="upbit", market=M, source=source, session=session, exchange_ms=at, received_ns=at * 1_000_000,
        bid_prices=[bid, bid - 1], bid_sizes=[1.0, 2.0], ask_prices=[bid + 1], ask_sizes=[3.0],
    )  # fmt: skip


def trade(at, trade_id, *, source="s", session=1, origin="stream"):
    return Trade(
        exchange="upbit", market=M, source=source, session=session, exchange_ms=at, trade_ms=at, received_ns=at,
        trade_id=trade_id, price=100.0, size=1.0, is_buy=True, origin=origin,
    )  # fmt: skip


def fold(*steps):
    stage = PartitionStage(OPTIONS)
    rows = []
    for topic, message in steps:
        rows += stage.apply(topic, message)
    return stage, rows


def both(message):
    return (("orderbooks", message), ("trades", message))


def test_a_quiet_market_closes_its_bins_too():
    _, rows = fold(
        *both(beat(0, 0)), ("orderbooks", book(500)), ("orderbooks", beat(3000, 1)), ("trades", beat(3000, 0))
    )
    assert [(row.bin_ms, row.n_bins, row.n_books, row.mid) for row in rows] == [
        (1000, 1, 1, 100.5), (2000, 2, 0, 100.5), (3000, 3, 0, 100.5),
    ]  # fmt: skip


def test_late_ahead_duplicate_and_back_filled_records_never_enter():
    stage, rows = fold(
        *both(beat(0, 0)),
        ("trades", trade(100, 1)), ("trades", trade(100, 1)), ("trades", trade(200, 2, origin="backfill")),
        ("trades", trade(8_000, 3)), ("trades", beat(1000, 4)), ("trades", trade(900, 4)), ("trades", beat(2000, 5)),
        ("orderbooks", beat(2000, 0)),
    )  # fmt: skip
    assert [row.n_trades for row in rows] == [1, 0]
    assert stage.counts() == {
        "orderbooks session": 1, "trades session": 1, "trades trade": 1, "trades duplicate trade": 1,
        "trades back-filled": 1, "trades ahead": 1, "trades late": 1,
    }  # fmt: skip


def wide(at, levels, sizes=None):
    """A book of so many levels a side, and `sizes` of the bids' sizes."""
    steps = [float(i) for i in range(levels)]
    return msgspec.structs.replace(
        book(at),
        bid_prices=[100.0 - step for step in steps],
        bid_sizes=[1.0] * (levels if sizes is None else sizes),
        ask_prices=[101.0 + step for step in steps],
        ask_sizes=[2.0] * levels,
    )


def test_the_book_before_leaves_nothing_behind_whatever_its_size():
    _, alone = fold(
        *both(beat(0, 0)), ("orderbooks", wide(1010, 3)), ("orderbooks", beat(2000, 1)), ("trades", beat(2000, 0))
    )
    _, rows = fold(
        *both(beat(0, 0)), ("orderbooks", wide(10, 90)), ("orderbooks", wide(1010, 3)), ("orderbooks", beat(2000, 2)),
        ("trades", beat(2000, 0)),
    )  # fmt: skip
    assert (rows[1].levels, rows[1].accumulators) == (alone[1].levels, alone[1].accumulators)
    assert rows[0].n_books == rows[1].n_books == 1


def test_a_book_that_lacks_a_size_is_counted_away():
    stage, rows = fold(
        *both(beat(0, 0)),
        ("orderbooks", wide(10, 3, sizes=2)),
        ("orderbooks", beat(1000, 1)),
        ("trades", beat(1000, 0)),
    )
    assert rows[0].n_books == 0
    assert stage.counts()["orderbooks book without a size to each price"] == 1


def test_a_declared_hole_ends_the_run_and_gives_no_row():
    hole = Hole(
        exchange="upbit", source="s", session=1, from_ms=1500, to_ms=2500, markets=[M], reason="reconnect"
    )  # fmt: skip
    _, rows = fold(*both(beat(0, 0)), ("orderbooks", hole), *both(beat(5000, 0)))
    assert [(row.bin_ms, row.n_bins) for row in rows] == [(1000, 1), (4000, 1), (5000, 2)]


def test_a_later_complete_from_is_a_hole():
    _, rows = fold(*both(beat(0, 0)), *both(beat(2000, 0)), *both(beat(6000, 0, complete_from_ms=4000)))
    assert [(row.bin_ms, row.n_bins) for row in rows] == [(1000, 1), (2000, 2), (5000, 1), (6000, 2)]


def test_a_lost_record_is_found_by_the_count():
    stage, rows = fold(
        *both(beat(0, 0)), *both(beat(1000, 0)), ("orderbooks", book(1500)), ("orderbooks", beat(2000, 2)),
        ("trades", beat(2000, 0)), ("orderbooks", beat(12_000, 2)), ("trades", beat(12_000, 0)),
    )  # fmt: skip
    assert stage.counts()["orderbooks records lost on the way"] == 1
    # Every bin that could have held the record is given up, also those it may have been ahead for.
    assert [row.bin_ms for row in rows] == [1000, 11_000, 12_000]
    assert rows[1].n_bins == 1


def test_a_newer_session_takes_over_and_the_zombie_is_counted_away():
    new = {"source": "t", "session": 9}
    stage, rows = fold(
        *both(beat(0, 0)), *both(beat(2000, 0)),
        *both(beat(3000, 0, complete_from_ms=3000, **new)),
        ("orderbooks", book(3500, 500.0, **new)), ("orderbooks", book(3600)),
        *both(beat(4000, 0)),
        ("orderbooks", beat(5000, 1, complete_from_ms=3000, **new)),
        ("trades", beat(5000, 0, complete_from_ms=3000, **new)),
    )  # fmt: skip
    assert [(row.bin_ms, row.n_bins, row.source) for row in rows] == [
        (1000, 1, "s"), (2000, 2, "s"), (4000, 1, "t"), (5000, 2, "t"),
    ]  # fmt: skip
    assert rows[2].mid == 500.5
    assert stage.counts()["orderbooks of another owner"] == 1


def test_a_seamless_hand_over_keeps_the_run():
    new = {"source": "t", "session": 9, "complete_from_ms": 1000}
    _, rows = fold(
        *both(beat(0, 0)), *both(beat(1000, 0, **new)), *both(beat(2000, 0)), *both(beat(3000, 0, **new)),
    )  # fmt: skip
    assert [row.bin_ms for row in rows] == [2000, 3000]
    _, rows = fold(
        *both(beat(0, 0)), *both(beat(2000, 0)), *both(beat(1000, 0, **new)), *both(beat(4000, 0, **new)),
    )  # fmt: skip
    assert [(row.bin_ms, row.n_bins) for row in rows] == [(1000, 1), (2000, 2), (3000, 3), (4000, 4)]


def test_a_record_gives_its_row_back_exactly():
    _, rows = fold(
        *both(beat(0, 0)), ("orderbooks", book(500)), ("trades", trade(600, 1)),
        ("orderbooks", beat(1000, 1)), ("trades", beat(1000, 1)),
    )  # fmt: skip
    again = topics.decode("features", encode(rows[0]))
    row = row_of(again)
    assert row[kernels.N_BOOKS] == 1
    assert row[kernels.BOUGHT] == 1.0
    assert row[kernels.LEVELS : kernels.LEVELS + 2].tolist() == [100.0, 99.0]


# --- over a disturbed log -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written():
    return disturbed_log(12, 200, seed=11)


def reference_of(written):
    stages = [PartitionStage(OPTIONS) for _ in range(12)]
    rows = {}
    for record in written:
        if b"torn" not in record.value:
            for row in stages[record.partition].apply(record.topic, topics.decode(record.topic, record.value)):
                rows[row.market, row.bin_ms] = hash_of(row)
    return rows


def log_of(written):
    log = MemoryLog(clock_ms=lambda: 0)
    log.create_topics([TopicSpec(topic.name, topic.partitions, topic.config) for topic in TOPICS.values()])
    publisher = log.publisher()
    for record in written:
        publisher.publish(record.topic, record.key, record.value, record.partition)
    publisher.flush()
    return log


def rows_in(log):
    rows = {}
    for slot in slots_of(log, ["features"]):
        reader = log.reader({slot: 0})
        while records := reader.read(10_000, 0):
            for record in records:
                row = topics.decode("features", record.value)
                digest = hash_of(row)
                assert rows.setdefault((row.market, row.bin_ms), digest) == digest
    return rows


def test_the_disturbed_log_holds_what_it_promises(written):
    stages = [PartitionStage(OPTIONS) for _ in range(12)]
    total = {}
    for record in written:
        if b"torn" not in record.value:
            stages[record.partition].apply(record.topic, topics.decode(record.topic, record.value))
    for stage in stages:
        for why, n in stage.counts().items():
            total[why] = total.get(why, 0) + n
    for why in (
        "late", "ahead", "hole", "hand-over", "bin in a hole", "of another session", "of another owner",
        "heartbeat of an older session",
    ):  # fmt: skip
        assert any(name.endswith(why) for name in total), why
    assert total["trades back-filled"] > 0


def test_the_interleaving_of_the_topics_does_not_matter(written):
    reference = reference_of(written)
    for order in (
        sorted(written, key=lambda record: record.topic),
        sorted(written, key=lambda record: record.topic, reverse=True),
    ):
        assert reference_of(order) == reference


@pytest.mark.parametrize("seed", range(8))
def test_restarts_at_random_positions_change_nothing(written, seed):
    rng = random.Random(seed)
    reference = reference_of(written)
    log = log_of(written)
    is_done = False
    while not is_done:
        loop = FeatureLoop(log, OPTIONS, batch=rng.choice((1, 7, 500)), poll_s=0)
        left = rng.randrange(200, 4_000)
        while left > 0 and not is_done:
            read = loop.step()
            left -= read
            is_done = read == 0
            if rng.random() < 0.05:
                loop.commit()
        if is_done:
            loop.commit()
        loop.vanish()
    assert rows_in(log) == reference


def test_one_topic_committed_alone_loses_nothing(written):
    reference = reference_of(written)
    books = [record for record in written if record.topic == "orderbooks"]
    log = log_of(books)
    loop = FeatureLoop(log, OPTIONS, poll_s=0)
    while loop.step():
        pass
    loop.commit()
    loop.vanish()
    publisher = log.publisher()
    for record in written:
        if record.topic == "trades":
            publisher.publish(record.topic, record.key, record.value, record.partition)
    publisher.flush()
    for _ in range(2):  # the second worker finds nothing new, and must not need to
        loop = FeatureLoop(log, OPTIONS, poll_s=0)
        while loop.step():
            pass
        loop.commit()
        loop.vanish()
    assert rows_in(log) == reference


def test_an_unreadable_record_becomes_a_dead_letter_with_its_coordinates(written):
    log = log_of([*written[:200], written[0]._replace(value=b"\xff{nonsense")])
    loop = FeatureLoop(log, OPTIONS, poll_s=0)
    while loop.step():
        pass
    loop.commit()
    loop.vanish()
    letters = []
    for slot in slots_of(log, ["dead-letters"]):
        letters += [topics.decode("dead-letters", record.value) for record in log.reader({slot: 0}).read(100, 0)]
    end = log.bounds([Slot(written[0].topic, written[0].partition)])[Slot(written[0].topic, written[0].partition)][1]
    assert [(one.topic, one.partition, one.offset) for one in letters if one.reason] == [
        (written[0].topic, written[0].partition, end - 1)
    ]


def test_no_reader_ends_at_bytes_that_are_no_text(written):
    raw = encode(beat(0, 0)).replace(b"KRW-BTC", b"KRW-\xff")
    deep = encode(beat(0, 0)).replace(b"{", b'{"x":' + b"[" * 100_000, 1)
    for value in (raw, deep):
        with pytest.raises(msgspec.DecodeError):
            topics.decode("orderbooks", value)
        log = log_of([*written[:200], written[0]._replace(value=value)])
        loop = FeatureLoop(log, OPTIONS, poll_s=0)
        while loop.step():
            pass
        loop.vanish()
        assert sum(end for _, end in log.bounds(slots_of(log, ["dead-letters"])).values()) == 1


def test_a_dead_letter_of_a_long_record_fits_into_the_log():
    letter = DeadLetter.of("streams", "orderbooks", 1, 2, "k", "no JSON", b"x" * 1_000_000)
    assert len(encode(letter)) < 1_000_000
    assert letter.reason == "no JSON (first 500000 of 1000000 bytes)"


def test_rows_made_before_the_log_went_away_are_still_written(written):
    class Shaky(MemoryLog):
        is_away = False

        def reader(self, starts):
            inner = super().reader(starts)
            if not self.is_away:
                return inner
            read, left = inner.read, [1]

            def failing(_max_records, timeout_s):
                if not left:
                    raise LogUnavailable("away")
                left.pop()
                return read(200, timeout_s)

            inner.read = failing
            return inner

    reference = reference_of(written)
    log = log_of(written)
    ends = {slot: end for slot, (_, end) in log.bounds(slots_of(log, ["orderbooks"])).items()}
    books = max(ends, key=lambda slot: ends[slot])
    shaky = Shaky(beside=log)
    stage = FeatureStage(shaky, "features", OPTIONS)
    rows = []
    for topic in ("trades", "orderbooks"):
        slot = Slot(topic, books.partition)
        records = []
        reader = log.reader({slot: 0})
        while found := reader.read(10_000, 0):
            records += found
        if topic == "trades":
            for record in records:
                rows += stage.apply(record)
            continue
        rows += stage.apply(records[0])
        shaky.is_away = True
        for _ in range(2):
            with pytest.raises(LogUnavailable):
                stage.apply(records[-1])
        shaky.is_away = False
        rows += stage.apply(records[-1])
    made = {(row.market, row.bin_ms): hash_of(row) for row in rows}
    assert made
    assert made == {key: digest for key, digest in reference.items() if key[0] in {market for market, _ in made}}


def test_faust_waits_where_the_log_does_not_answer(monkeypatch):
    monkeypatch.setattr(agents, "RETRY_S", 0.0)
    partition = object()
    app = SimpleNamespace(consumer=SimpleNamespace(assignment=lambda: {partition}))
    agent = agents.FeatureAgent(app, log_of([]), OPTIONS, group="features", prefix="")
    answers = [LogUnavailable("away"), LogUnavailable("away"), [book(500)]]

    def apply(_record):
        answer = answers.pop(0)
        if isinstance(answer, LogUnavailable):
            raise answer
        return []

    agent.stage.apply = apply
    message = SimpleNamespace(tp=partition, topic="orderbooks", partition=0, offset=0, key=b"", value=b"")
    assert asyncio.run(agent._folded(message)) == []
    assert answers == []
