"""Attacks on part files and on reading an archive: odd bytes, damage, overlaps, gaps, clocks that go back."""

import io
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from consumers.archive import days
from consumers.archive.marks import walked
from consumers.archive.root import make_root, write_root
from infra.errors import RecordsLost, Stop
from infra.log import Record, Slot, TopicSpec
from infra.memory_log import MemoryLog
from infra.store import FolderStore
from streams.history import ArchiveHistory, LogHistory, loaded, merged, spans_between
from streams.messages import Features, Heartbeat, Hole, OrderBook, Signal, Trade, TradeInput, encode
from streams.parts import DamagedPart, Part, part_bytes, read_footer, records_of

RUN = "0123456789abcdef0123456789abcdef"
TRADES = Slot("trades", 0)
MIDNIGHT_MS = 1_800_025_200_000
"""2027-01-16 00:00 in Korea, 15:00 of the day before in UTC."""


def trade(i: int = 0, **changes) -> Trade:
    return Trade(
        exchange="upbit", market="KRW-A", source="upbit", session=1, exchange_ms=MIDNIGHT_MS + i,
        trade_ms=MIDNIGHT_MS, received_ns=i, trade_id=i, price=1.5, size=0.1, is_buy=True, **changes,
    )  # fmt: skip


def record(offset, value=None, *, at=MIDNIGHT_MS, key="upbit:KRW-A", topic="trades", partition=0) -> Record:
    return Record(topic, partition, offset, at, key, encode(trade(offset)) if value is None else value)


def part_of(records, first=None, last=None) -> Part:
    head = records[0]
    low, high = head.offset if first is None else first, records[-1].offset if last is None else last
    return Part(*days.place_of(head.append_ms), head.slot, low, high)


def round_trip(records) -> list[Record]:
    part = part_of(records)
    return list(records_of(io.BytesIO(part_bytes(RUN, part, records)), part.name))


@pytest.fixture
def store(tmp_path) -> FolderStore:
    """An empty archive of the run RUN."""
    store = FolderStore(tmp_path / "archive")
    write_root(store, msgspec.structs.replace(make_root("", 0), run=RUN))
    return store


def put(store, records, first=None, last=None, run=RUN) -> Part:
    part = part_of(records, first, last)
    store.write(part.name, part_bytes(run, part, records))
    return part


# --- bytes that must come back --------------------------------------------------------------------------------------

PLAIN = encode(trade(7))
ODD_VALUES = {
    "empty, as a tombstone is read": b"",
    "not UTF-8": b'{"type":"trade","market":"\xff\xfe"}',
    "null bytes": b"\x00" * 9,
    "negative zero": PLAIN.replace(b'"size":0.1', b'"size":-0.0'),
    "smallest": PLAIN.replace(b'"size":0.1', b'"size":1e-320'),
    "largest": PLAIN.replace(b'"size":0.1', b'"size":1e308'),
    "beyond floats": PLAIN.replace(b'"size":0.1', b'"size":1e400'),
    "integer in a float": PLAIN.replace(b'"size":0.1', b'"size":1'),
    "long spelling": PLAIN.replace(b'"size":0.1', b'"size":0.1000'),
    "float in an integer": PLAIN.replace(b'"trade_id":7', b'"trade_id":7.0'),
    "integer of 64 bits": PLAIN.replace(b'"trade_id":7', b'"trade_id":9223372036854775807'),
    "integer of 65 bits": PLAIN.replace(b'"trade_id":7', b'"trade_id":9223372036854775808'),
    "integer of 100 bits": PLAIN.replace(b'"trade_id":7', b'"trade_id":1' + b"0" * 30),
    "time of 65 bits": PLAIN.replace(b'"received_ns":7', b'"received_ns":-9223372036854775809'),
    "unknown field": PLAIN[:-1] + b',"venue":"x"}',
    "field twice": PLAIN[:-1] + b',"size":0.2}',
    "other order": b'{"origin":"stream",' + PLAIN[1:].replace(b',"origin":"stream"', b""),
    "blanks": PLAIN.replace(b":", b": "),
    "escaped": PLAIN.replace(b"KRW-A", b"\\u004bRW-A"),
    "null character": PLAIN.replace(b"KRW-A", b"KRW\\u0000A"),
    "half a surrogate": PLAIN.replace(b"KRW-A", b"\\ud800"),
    "other tag": PLAIN.replace(b'"trade"', b'"trade-v9"'),
    "origin left out": PLAIN.replace(b',"origin":"stream"', b""),
    "twice in one": PLAIN + PLAIN,
    "no object": b"[]",
}


@pytest.mark.parametrize("name", ODD_VALUES)
def test_odd_values_come_back_among_plain_ones(name):
    assert ODD_VALUES[name] != PLAIN
    records = [record(1), record(2, ODD_VALUES[name]), record(3)]
    assert round_trip(records) == records


def test_all_odd_values_together_and_a_record_of_a_megabyte():
    values = [*ODD_VALUES.values(), b"\xf0" * 1_000_000, PLAIN]
    records = [record(i, value) for i, value in enumerate(values * 3)]
    assert round_trip(records) == records


def test_odd_keys_come_back():
    keys = ["", " ", "\x00", "\n", "upbit:KRW-원", "a/../b", "\N{GRINNING FACE}", "�", "x" * 100_000, '"', "null"]
    records = [record(i, key=key) for i, key in enumerate(keys)]
    assert round_trip(records) == records


def test_lists_with_nulls_empty_lists_and_signs_of_zero_come_back():
    numbers = [[], [None], [0.0, -0.0], [None, 1e-320, -1e308], [5e-324, None, None, 0.1 + 0.2]]
    rows = [
        Features(
            exchange="u", market="M", bin_ms=1, grid_ms=1000, schema="s", source="s", session=1, n_bins=1, n_books=0,
            n_trades=0, mid=one[0] if one else None, spread=-0.0, values=one, levels=one[::-1], accumulators=[],
        )
        for one in numbers
    ]  # fmt: skip
    records = [record(i, encode(row), topic="features") for i, row in enumerate(rows * 3)]
    records.append(record(99, b"", topic="features"))
    assert round_trip(records) == records
    book = OrderBook(
        exchange="u", market="M", source="s", session=1, exchange_ms=-1, received_ns=0, bid_prices=[], bid_sizes=[-0.0],
        ask_prices=[0.0, -0.0, 1e308], ask_sizes=[],
    )  # fmt: skip
    books = [record(i, encode(book), topic="orderbooks") for i in range(3)]
    assert round_trip(books) == books
    signal = Signal(
        id="i", exchange="u", market="M", bin_ms=1, horizon_ms=1, schema="s", model_id="m", expected_bp=-0.0,
        sigma_bp=1e-320, mid=1e308, is_licensed=False, feed="upbit",
    )  # fmt: skip
    assert round_trip([record(0, encode(signal), topic="signals")])[0].value == encode(signal)


@pytest.mark.parametrize("topic", ["account-states", "trade-inputs", "a-topic-of-tomorrow"])
def test_tombstones_and_topics_that_keep_their_bytes(topic):
    values = [b"", encode(TradeInput(kind="pulse", event_ms=3)), b"{}", b""]
    records = [record(5 * i, value, topic=topic, key="" if i else "a") for i, value in enumerate(values)]
    assert round_trip(records) == records


def test_times_of_a_clock_that_was_never_set_come_back():
    records = [record(0, at=-1), record(1, at=0), record(2, at=2**62), record(3, at=-1)]
    assert round_trip(records) == records


# --- damage ---------------------------------------------------------------------------------------------------------

RECORDS = [record(100 + 2 * i, b"odd" if i % 5 == 0 else None, at=MIDNIGHT_MS + i) for i in range(40)]
LOW, HIGH = 120, 150


def outcomes(data: bytes, name: str) -> Counter[str]:
    """How whole and partial reads and the footer of a damaged file end."""
    told = read_footer(io.BytesIO(part_bytes(RUN, part_of(RECORDS), RECORDS)), name)
    found: Counter[str] = Counter()
    for what, first, end in (("whole", None, None), ("partial", LOW, HIGH)):
        wanted = [one for one in RECORDS if first is None or first <= one.offset < end]
        try:
            right = list(records_of(io.BytesIO(data), name, first, end)) == wanted
            found[f"{what} " + ("right" if right else "WRONG")] += 1
        except DamagedPart:
            found[f"{what} refused"] += 1
        except Exception as error:  # noqa: BLE001 whatever else it is, is told
            found[f"{what} {type(error).__name__}"] += 1
    try:
        found["footer " + ("right" if read_footer(io.BytesIO(data), name) == told else "WRONG")] += 1
    except DamagedPart:
        found["footer refused"] += 1
    except Exception as error:  # noqa: BLE001 same
        found[f"footer {type(error).__name__}"] += 1
    return found


def flipped(data: bytes, places: Iterable[int]) -> Counter[str]:
    """The same for files with one bit turned."""
    total: Counter[str] = Counter()
    for at in places:
        changed = bytearray(data)
        changed[at] ^= 1 << (2 if data[at] == 4 else at % 8)  # 4 is the type of 64-bit integers in a Parquet footer
        total += outcomes(bytes(changed), part_of(RECORDS).name)
    return total


def test_a_file_that_is_cut_off_anywhere_is_refused():
    part = part_of(RECORDS)
    data = part_bytes(RUN, part, RECORDS)
    total = sum((outcomes(data[:size], part.name) for size in range(0, len(data), 149)), Counter())
    assert {name for name in total if not name.endswith(" refused")} == set()
    assert set(outcomes(data + b"PAR1", part.name)) <= {"whole refused", "partial refused", "footer refused"}


@pytest.mark.parametrize("where", ["data", "footer"])
def test_one_turned_bit_is_refused_or_changes_nothing(where):
    """In a process of its own, because some of these end it: Parquet's own footer has no checksum."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-P", __file__, where], capture_output=True, env=environment, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-600:]
    total = json.loads(done.stdout)
    assert total.get("whole refused", 0) > 50
    wrong = {name: n for name, n in total.items() if name.split()[1] not in {"refused", "right"}}
    assert wrong == {}


def test_hashes_tell_apart_what_is_cut_at_other_places():
    pairs = [
        [record(1, b"bc", key="a")], [record(1, b"c", key="ab")], [record(1, b"abc", key="")],
        [record(1, b"", key="abc")], [record(1, b"", key="abc", at=MIDNIGHT_MS + 1)],
        [record(1, b"b", key="a"), record(2, b"c", key="")], [record(1, b"b", key="a"), record(3, b"c", key="")],
    ]  # fmt: skip
    digests = set()
    for records in pairs:
        part = part_of(records)
        digests.add(read_footer(io.BytesIO(part_bytes(RUN, part, records)), part.name).digest)
    assert len(digests) == len(pairs)


ARABIC = "\u0662\u0660\u0662\u0667"
GOOD_NAME = "dt=2027-01-16/hour=00/trades/p0-5-9.parquet"


@pytest.mark.parametrize(
    "name",
    [
        GOOD_NAME + "\n", "/" + GOOD_NAME, "copy/" + GOOD_NAME, GOOD_NAME + ".tmp", GOOD_NAME.replace("00", "24"),
        GOOD_NAME.replace("5-9", "9-5"), GOOD_NAME.replace("p0", "p00"), GOOD_NAME.replace("5-9", "05-9"),
        GOOD_NAME.replace("5-9", "-5-9"), GOOD_NAME.replace("hour=00", "hour=0"), GOOD_NAME.replace("trades", "Trades"),
        GOOD_NAME.replace("2027-01-16", "2027-13-45"), GOOD_NAME.replace("2027", ARABIC),
        GOOD_NAME.replace("p0", "p\u0660"), GOOD_NAME.replace("trades", "../trades"), "archive.json", "",
        GOOD_NAME.replace("5-9", f"5-{2**63}"),
    ],
)  # fmt: skip
def test_names_that_only_look_like_a_part_are_none(name):
    assert Part.of_name(GOOD_NAME) == Part("2027-01-16", 0, Slot("trades", 0), 5, 9)
    assert Part.of_name(name) is None


# --- reading an archive ---------------------------------------------------------------------------------------------


def read_all(history, slot=TRADES) -> list[Record]:
    return list(history.read(slot, *history.spans([slot.topic])[slot]))


def test_one_stretch_written_with_other_cuts_is_read_once(store):
    records = [record(i, at=MIDNIGHT_MS + i) for i in range(0, 60, 2)]
    cuts = [(0, 19), (0, 9), (10, 35), (20, 35), (30, 59), (36, 59), (58, 59)]
    for first, last in cuts:
        put(store, [one for one in records if first <= one.offset <= last], first, last)
    history = ArchiveHistory(store)
    assert read_all(history) == records
    for first, end in itertools.combinations(range(0, 61, 12), 2):
        wanted = [one for one in records if first <= one.offset < end]
        assert list(history.read(TRADES, first, end)) == wanted


@pytest.mark.parametrize("change", [{"key": "x"}, {"append_ms": MIDNIGHT_MS + 1}, {"value": b"x"}, None])
def test_two_files_that_differ_in_one_record_are_both_named(store, change):
    records = [record(i) for i in range(10)]
    others = [*records[4:6], records[6]._replace(**change), *records[7:]] if change else [*records[4:6], *records[7:]]
    one, other = put(store, records[:8], 0, 7), put(store, others, 4, 9)
    with pytest.raises(Stop) as told:
        read_all(ArchiveHistory(store))
    assert one.name in str(told.value)
    assert other.name in str(told.value)


def test_a_missing_stretch_is_named_and_never_stepped_over(store):
    put(store, [record(0)], 0, 4)
    put(store, [record(7)], 7, 9)
    history = ArchiveHistory(store)
    with pytest.raises(RecordsLost, match=r"trades-0: offsets 5 to 6"):
        read_all(history)
    assert list(history.read(TRADES, 7, 10)) == [record(7)]
    with pytest.raises(RecordsLost):
        list(history.read(TRADES, 7, 11))
    with pytest.raises(RecordsLost):
        list(history.read(Slot("trades", 1), 0, 1))


def test_what_a_complete_day_says_is_held_against_what_is_there(store):
    put(store, [record(0)], 0, 4)
    lost = put(store, [record(5)], 5, 9)
    day = lost.day
    store.write(days.complete_name(day), msgspec.json.encode(days.sum_up(store, RUN, day, 0)))
    assert read_all(ArchiveHistory(store)) == [record(0), record(5)]
    store.delete(lost.name)
    with pytest.raises(RecordsLost, match="5 to 9"):
        read_all(ArchiveHistory(store))


@pytest.mark.parametrize("content", [b"", b"{}", b'{"slots": {"trades": {"first": 0, "last": 1}}}'])
def test_a_complete_file_that_cannot_be_read_is_named(store, content):
    put(store, [record(0)])
    store.write("dt=2027-01-16/complete.json", content)
    with pytest.raises(DamagedPart, match=r"complete\.json"):
        ArchiveHistory(store).spans(["trades"])


def test_files_of_another_run_of_no_run_and_under_a_wrong_name_are_named(store):
    mine = put(store, [record(0)], 0, 4)
    foreign = put(store, [record(5)], 5, 9, run="f" * 32)
    with pytest.raises(Stop, match=foreign.name):
        read_all(ArchiveHistory(store))
    store.write(foreign.name, store.read(mine.name))
    with pytest.raises(DamagedPart, match=foreign.name):
        read_all(ArchiveHistory(store))
    store.delete(foreign.name)
    store.write("dt=2027-01-16/hour=00/trades/extra.parquet", store.read(mine.name))
    with pytest.raises(DamagedPart, match=r"extra\.parquet"):
        read_all(ArchiveHistory(store))


def test_a_part_of_markers_alone_joins_its_neighbours(store):
    put(store, [record(0)], 0, 4)
    empty = Part("2027-01-16", 0, TRADES, 5, 6)
    store.write(empty.name, part_bytes(RUN, empty, []))
    put(store, [record(7)], 7, 9)
    history = ArchiveHistory(store)
    assert read_all(history) == [record(0), record(7)]
    assert list(history.read(TRADES, 5, 7)) == []
    with loaded(history, history.spans(["trades"])) as log:
        assert [one.offset for one in read_all(LogHistory(log))] == [0, 7]


def test_the_recorded_order_of_records_of_one_moment(store):
    """Equal append times over partitions and topics, one clock that goes back: one order, whoever asks how."""
    times = [0, 0, 5, 3, 3, 5, 6]
    slots = [Slot("trades", 1), Slot("orderbooks", 11), TRADES, Slot("orderbooks", 2), Slot("markets", 0)]
    for slot in slots:
        rows = [record(i, b"x", at=MIDNIGHT_MS + at, topic=slot.topic, partition=slot.partition)
                for i, at in enumerate(times)]  # fmt: skip
        put(store, rows[:3])
        put(store, rows[3:])
    history = ArchiveHistory(store)
    spans = history.spans({slot.topic for slot in slots})
    order = [one[:3] for one in merged(history, spans)]
    assert order == [one[:3] for one in merged(history, dict(reversed(spans.items())))]
    with loaded(history, spans) as log:
        assert order == [one[:3] for one in merged(LogHistory(log), spans)]
    assert order[:4] == [("orderbooks", 2, 0), ("orderbooks", 2, 1), ("orderbooks", 11, 0), ("orderbooks", 11, 1)]
    for slot in slots:
        assert [one[2] for one in order if one[:2] == slot] == list(range(len(times)))


def back_and_forth(middle_ms, count=64) -> list[Record]:
    """Append times that climb over a moment, and go back over it three times."""
    steps = itertools.accumulate(-9 if i % 16 == 15 else 1 for i in range(count))
    return [record(i, b"x", at=middle_ms - 20_000 + 1_000 * step) for i, step in enumerate(steps)]


@pytest.mark.parametrize("middle_ms", [MIDNIGHT_MS, MIDNIGHT_MS + 1_800_000])
@pytest.mark.parametrize("kind", ["log", "archive"])
def test_stretches_join_without_a_record_lost_or_twice_where_the_clock_went_back(store, kind, middle_ms):
    records = back_and_forth(middle_ms)
    for start in range(0, 64, 4):
        put(store, records[start : start + 4])
    history = ArchiveHistory(store)
    with loaded(history, history.spans(["trades"])) as log:
        source = LogHistory(log) if kind == "log" else history
        edges = [middle_ms + 1_000 * seconds for seconds in (-16, -9, -4, 0, 5, 11)]
        for low, middle, high in itertools.combinations(edges, 3):
            before = spans_between(source, ["trades"], low, middle).get(TRADES)
            after = spans_between(source, ["trades"], middle, high).get(TRADES)
            if before and after:
                assert before[1] == after[0], (low, middle, high)


def test_marks_are_told_beside_records_that_nobody_can_read(store):
    """Torn and odd records count in no session; they must not end the walk over the others."""
    told = {"exchange": "upbit", "source": "upbit", "session": 1, "markets": ["KRW-A"]}
    messages: list[bytes] = [encode(Heartbeat(count=0, event_ms=0, complete_from_ms=0, **told))]
    messages += [value for value in ODD_VALUES.values() if value]
    messages += [b"", encode(Heartbeat(count=9, event_ms=1000, complete_from_ms=0, **told))]
    messages += [encode(Hole(from_ms=1000, to_ms=2000, reason="r", **told)), b"{}", b""]
    put(store, [record(i, value) for i, value in enumerate(messages)])
    history = ArchiveHistory(store)
    with loaded(history, history.spans(["trades"])) as log:
        for source in (history, LogHistory(log)):
            marks = walked(source, source.spans(["trades"]), 1_000)
            assert ("KRW-A", 1000, 2000, "r") in {(one.market, one.from_ms, one.to_ms, one.reason) for one in marks}


def test_korea_s_day_begins_at_15_utc():
    assert days.place_of(MIDNIGHT_MS) == ("2027-01-16", 0)
    assert days.place_of(MIDNIGHT_MS - 1) == ("2027-01-15", 23)
    assert days.start_ms("2027-01-16") == MIDNIGHT_MS
    assert days.start_ms(days.following("2027-01-15")) == MIDNIGHT_MS


@pytest.mark.timeout(6)
def test_a_log_that_ends_before_what_is_asked_for_is_no_endless_wait():
    """A range from an older log, or from an archive, that this log does not have."""
    with MemoryLog(clock_ms=lambda: 0) as log:
        log.create_topics([TopicSpec("trades", 1, {})])
        log.append(record(0))
        with pytest.raises(RecordsLost, match="trades-0"):
            list(LogHistory(log).read(TRADES, 0, 5))


def main() -> None:
    """What the test above runs in a process of its own."""
    data = part_bytes(RUN, part_of(RECORDS), RECORDS)
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    places = {"footer": range(footer, len(data), 11), "data": range(4, footer, 19)}[sys.argv[1]]
    numbers = [at for at in range(footer, len(data)) if data[at] == 4] if sys.argv[1] == "footer" else []
    print(json.dumps(flipped(data, [*places, *numbers])))


if __name__ == "__main__":
    main()
