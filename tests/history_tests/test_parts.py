import contextlib
import errno
import io
import itertools
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.log import Record, Slot
from infra.store import StoreUnavailable
from streams import parts
from streams.messages import Balance, LogLine, Message, encode
from streams.part_seal import sealed
from streams.parts import DamagedPart, Digest, MixedRuns, Part, part_bytes, read_footer, records_of, table_of
from streams.topics import TOPICS

from .conftest import FLAT_OF, RUN, START_MS, beat, book, features, hole, part_of, recorded, trade

ODD: list[bytes] = [
    b"",
    b"{",
    b"\xff\xfe",
    b"[" * 5_000,
    encode(book(1)).replace(b'"session":', b'"colour":"red","session":'),
    encode(book(2)) + b" ",
    encode(book(3)).replace(b"100.0", b"1e2"),
    encode(book(4, received_ns=10**20)),
    encode(book(5)).replace(b"KRW-A", b"\\u004bRW-A"),
    encode(book(6, bid_prices=[-0.0, 0.0, 1e-300, 5e-324, 1.7976931348623157e308], bid_sizes=[0.0, -0.0])),
    encode(book(7, market='한\u0000\n"국', bid_prices=[], ask_prices=[])),
    encode(book(8, session=2**63)),
    encode(book(9, session=2**63 - 1, exchange_ms=-(2**63))),
]


def written(records: list[Record], part: Part | None = None, run: str = RUN) -> tuple[Part, bytes]:
    part = part or part_of(records)
    return part, part_bytes(run, part, records)


def read(data: bytes, part: Part, *span: int) -> list[Record]:
    return list(records_of(io.BytesIO(data), part.name, *span))


@pytest.mark.parametrize("topic", FLAT_OF)
def test_flat_messages_come_back_from_their_columns_alone(topic: str) -> None:
    records = recorded(topic, map(FLAT_OF[topic], range(50)))
    part, data = written(records)
    assert read(data, part) == records
    table = table_of(io.BytesIO(data), part.name)
    assert table["record_value"].null_count == len(records)
    assert set(table["type"].to_pylist()) == {FLAT_OF[topic](0).__struct_config__.tag}


def test_all_else_comes_back_from_its_kept_bytes() -> None:
    values: list[Message | bytes] = [book(0), beat(1), *ODD, hole(2, 3), book(10)]
    records = recorded("orderbooks", values)
    part, data = written(records)
    assert read(data, part) == records
    table = table_of(io.BytesIO(data), part.name, ["type", "record_value", "exchange_ms", "markets", "bid_prices"])
    kept = [value is not None for value in table["record_value"].to_pylist()]
    assert not kept[0]
    assert not kept[-1]
    assert sum(kept) == 2 + 10  # heartbeat, hole, what cannot be read, is written otherwise or does not fit
    assert table["markets"].to_pylist()[1] == ["KRW-A"]
    assert table["type"].to_pylist()[2] is None
    assert table["type"].to_pylist()[-3] == "order-book"


def test_minus_nought_is_not_nought() -> None:
    zeros = itertools.cycle([[0.0, -0.0], [-0.0, 0.0]])
    records = recorded("orderbooks", (book(i, bid_sizes=next(zeros)) for i in range(3_000)))
    part, data = written(records)
    assert read(data, part) == records


@settings(max_examples=40)
@given(st.lists(st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False)), min_size=1, max_size=20))
def test_lists_of_numbers_and_nulls_come_back(lists: list[list[float | None]]) -> None:
    records = recorded("features", (features(i, one) for i, one in enumerate(lists)))
    part, data = written(records)
    assert read(data, part) == records


@settings(max_examples=40)
@given(st.lists(st.tuples(st.text(), st.binary() | st.text().map(str.encode))), st.sampled_from(list(TOPICS)))
def test_any_bytes_and_keys_come_back(rows: list[tuple[str, bytes]], topic: str) -> None:
    records = [Record(topic, 3, 2 * i, START_MS - i, key, value) for i, (key, value) in enumerate(rows)]
    part, data = written(records, Part("2025-11-21", 10, Slot(topic, 3), 0, 50_000))
    assert read(data, part) == records


def test_a_topic_of_another_version_keeps_its_bytes() -> None:
    records = recorded("tomorrows", [b"\x00", b"{}"])
    part, data = written(records)
    assert read(data, part) == records


def test_a_stretch_of_a_part_and_its_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "ROW_GROUP", 10)
    monkeypatch.setattr(parts, "_CHUNK", 3)
    records = [one._replace(offset=3 * one.offset) for one in recorded("trades", map(trade, range(40)))]
    part, data = written(records, part_of(records, last=200))
    assert pq.ParquetFile(io.BytesIO(data)).num_row_groups == 4
    for low, high in ((0, 201), (0, 1), (1, 3), (29, 31), (30, 91), (117, 118), (118, 201), (500, 600)):
        assert read(data, part, low, high) == [one for one in records if low <= one.offset < high]


def test_a_part_may_cover_markers_alone() -> None:
    part = Part("2025-11-21", 10, Slot("order-intents", 2), 7, 9)
    data = part_bytes(RUN, part, [])
    assert read(data, part) == []
    assert read_footer(io.BytesIO(data), part.name).count == 0


def test_the_footer_says_what_is_in_it() -> None:
    records = recorded("trades", map(trade, range(5)), partition=4, first=100)
    records[2] = records[2]._replace(append_ms=START_MS - 5)
    part, data = written(records, part_of(records, first=98, last=105))
    footer = read_footer(io.BytesIO(data), part.name)
    digest = Digest()
    digest.add(records)
    assert footer == (
        RUN, "trades", 4, 98, 105, 5, digest.text(), START_MS + 10_000, START_MS + 10_400, True,
    )  # fmt: skip


@pytest.mark.parametrize("change", ["offset", "append_ms", "key", "value"])
def test_the_digest_holds_every_field(change: str) -> None:
    records = recorded("trades", map(trade, range(3)))
    other: dict[str, object] = {"offset": 9, "append_ms": 9, "key": "x", "value": b"x"}
    found = set()
    for rows in (records, [*records[:2], records[2]._replace(**{change: other[change]})]):  # type: ignore[arg-type]  # one field
        digest = Digest()
        digest.add(rows)
        found.add(digest.text())
    assert len(found) == 2


def test_names() -> None:
    part = Part("2026-11-21", 9, Slot("order-events", 11), 5, 70)
    assert part.name == "dt=2026-11-21/hour=09/order-events/p11-5-70.parquet"
    assert Part.of_name(part.name) == part
    for name in ("archive.json", part.name + ".tmp", part.name.replace("09", "9"), part.name.replace("5-70", "71-70")):
        assert Part.of_name(name) is None


@pytest.mark.parametrize(
    "wrong", [lambda r: [r[1], r[0]], lambda r: [r[0], r[0]], lambda r: [r[0]._replace(partition=1)]]
)
def test_records_of_elsewhere_or_out_of_order_are_refused(wrong: Callable[[list[Record]], list[Record]]) -> None:
    records = recorded("trades", map(trade, range(2)))
    with pytest.raises(ValueError, match="does not follow"):
        written(wrong(records), part_of(records))


# --- bad input ----------------------------------------------------------------------------------------------------


def test_a_part_that_is_cut_off_anywhere_is_named() -> None:
    part, data = written(recorded("orderbooks", map(book, range(200))))
    for length in (0, 1, 4, 100, len(data) // 2, len(data) - 100, len(data) - 9, len(data) - 1):
        with pytest.raises(DamagedPart, match=part.name):
            read(data[:length], part)


def test_a_flipped_bit_never_gives_other_records() -> None:
    records = recorded("orderbooks", [book(0), beat(1), *map(book, range(2, 60))])
    part, data = written(records)
    rng = np.random.default_rng(5)
    found = 0
    for at in rng.integers(0, len(data), 400).tolist():
        changed = bytearray(data)
        changed[at] ^= 1 << int(rng.integers(0, 8))
        try:
            assert read(bytes(changed), part) == records
        except DamagedPart:
            found += 1
        with contextlib.suppress(DamagedPart):
            assert len(table_of(io.BytesIO(bytes(changed)), part.name)) == 60
    assert found > 200


def test_records_changed_by_another_tool_are_found_by_the_digest() -> None:
    part, data = written(recorded("trades", map(trade, range(10))))
    table = pq.read_table(io.BytesIO(data))
    assert table_of(io.BytesIO(data), part.name).equals(table)
    prices = table["price"].to_pylist()
    for changed in (
        table.slice(0, 9),
        table.set_column(table.schema.get_field_index("price"), "price", pa.array([*prices[:9], 7.0])),
    ):
        sink = io.BytesIO()
        pq.write_table(changed.replace_schema_metadata(table.schema.metadata), sink)
        with pytest.raises(DamagedPart, match="another tool wrote it"):
            read(sink.getvalue(), part)
        with pytest.raises(DamagedPart, match=r"its footer says 10"):
            read(sealed(sink.getvalue()), part)


def test_a_turned_bit_is_found_before_parquet_s_reader_sees_it() -> None:
    """Any byte of seal and footer, in this process: Parquet's reader ends it over some."""
    part, data = written(recorded("controls", [b"a", b"b"]))
    after_columns = data.index(b"OBSEAL01") - 28
    for at in (*range(0, after_columns, 31), *range(after_columns, len(data))):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        for reader in (read, lambda bytes_, part: table_of(io.BytesIO(bytes_), part.name)):
            with pytest.raises(DamagedPart, match=part.name):
                reader(bytes(changed), part)


def test_a_turned_bit_is_found_where_it_is_read_and_named() -> None:
    records = recorded("controls", [np.random.default_rng(i).bytes(1_000) for i in range(400)])
    part, data = written(records)
    changed = bytearray(data)
    changed[150_000] ^= 1
    assert read_footer(io.BytesIO(changed), part.name).count == 400
    assert len(table_of(io.BytesIO(changed), part.name, ["append_ms"])) == 400
    for span in ((), (0, 1), (399, 400)):
        with pytest.raises(DamagedPart, match=rf"{part.name}.* its bytes 131072 to 196607 are not"):
            read(bytes(changed), part, *span)


def test_other_readers_of_parquet_pass_over_the_seal() -> None:
    part, data = written(recorded("trades", map(trade, range(10))))
    sink = pa.BufferOutputStream()
    length = int.from_bytes(data[-8:-4], "little")
    assert b"OBSEAL01" in data[-8 - length - 40 : -8 - length]
    pq.write_table(pq.read_table(io.BytesIO(data)), sink)
    assert pq.read_table(sink.getvalue()).equals(table_of(io.BytesIO(data), part.name))


def test_a_foreign_file_is_refused() -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"price": [1.0]}), sink)
    part, data = written(recorded("trades", map(trade, range(10))))
    for foreign in (sink.getvalue(), b"not Parquet at all"):
        with pytest.raises(DamagedPart, match=part.name):
            read(foreign, part)
    with pytest.raises(DamagedPart, match="its own name"):
        read(data, part._replace(last=77))
    with pytest.raises(DamagedPart, match="its own name"):
        read(data, part._replace(slot=Slot("trades", 9)))


def test_a_part_of_another_run_is_refused() -> None:
    part, data = written(recorded("trades", map(trade, range(10))), run="b" * 32)
    assert read_footer(io.BytesIO(data), part.name, run="b" * 32).count == 10
    with pytest.raises(MixedRuns, match=r"is of run b+, the archive is of run a+"):
        list(records_of(io.BytesIO(data), part.name, run=RUN))


def test_messages_of_other_topics_are_bytes_only() -> None:
    line = LogLine(process="p", level="INFO", logger="l", text="t", event_ms=1)
    records = recorded(
        "trades", [line, Balance(pocket="p", currency="KRW", available=1, locked=2, average_price=3, event_ms=4)]
    )  # type: ignore[arg-type]  # as text
    part, data = written(records)
    assert read(data, part) == records
    assert table_of(io.BytesIO(data), part.name)["type"].to_pylist() == [None, None]


class Failing(io.BytesIO):
    """A file of a store that fails after some reads."""

    def __init__(self, data: bytes, error: Exception, reads: int) -> None:
        super().__init__(data)
        self.error, self.reads = error, reads

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads -= 1
        if self.reads < 0:
            raise self.error
        return super().read(size)


@pytest.mark.parametrize("error", [StoreUnavailable("the bucket does not answer"), OSError(errno.EIO, "disk")])
def test_a_store_that_fails_is_not_a_damaged_part(error: Exception) -> None:
    part, data = written(recorded("orderbooks", map(book, range(200))))
    for reads in range(2):
        with pytest.raises(type(error)):
            list(records_of(Failing(data, error, reads), part.name))
        with pytest.raises(type(error)):
            table_of(Failing(data, error, reads), part.name)
