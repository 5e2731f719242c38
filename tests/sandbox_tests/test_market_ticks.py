"""Tick sizes by date and price."""

import json
import os
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.market.ticks import E8, e8_of, is_on_tick, table_of, tick_e8

DATA = Path(os.environ.get("OBSERVATOR_DATA", "../shared/data"))
NOW, Y2025, Y2024, Y2021 = 1_790_000_000_000, 1_745_000_000_000, 1_707_000_000_000, 1_617_000_000_000


def tick(market: str, price: str, at_ms: int = NOW) -> Decimal:
    return Decimal(tick_e8(market, int(Decimal(price) * E8), at_ms)) / E8


@pytest.mark.parametrize(
    ("price", "now", "middle", "early"),
    [
        ("150000000", "1000", "1000", "1000"),
        ("2000000", "1000", "1000", "1000"),
        ("1999000", "1000", "500", "500"),
        ("500000", "500", "100", "100"),
        ("100000", "100", "50", "50"),
        ("50000", "50", "10", "10"),
        ("10000", "10", "10", "10"),
        ("5000", "5", "1", "5"),
        ("4999", "1", "1", "5"),
        ("999", "1", "0.1", "1"),
        ("99.9", "0.1", "0.01", "0.1"),
        ("1", "0.01", "0.001", "0.01"),
        ("0.5", "0.001", "0.0001", "0.001"),
        ("0.05", "0.0001", "0.00001", "0.0001"),
        ("0.002", "0.00001", "0.000001", "0.0001"),
        ("0.0003", "0.000001", "0.0000001", "0.0001"),
        ("0.00003", "0.0000001", "0.00000001", "0.0001"),
        ("0.000003", "0.00000001", "0.00000001", "0.0001"),
    ],
)
def test_won_markets(price: str, now: str, middle: str, early: str) -> None:
    found = tuple(tick("KRW-BTC", price, at) for at in (NOW, Y2024, Y2021))
    assert found == (Decimal(now), Decimal(middle), Decimal(early))


def test_exceptions_and_other_quotes() -> None:
    assert tick("KRW-ADA", "500", Y2025) == 1
    assert tick("KRW-ADA", "500", Y2024) == Decimal("0.1")
    assert tick("KRW-USDT", "1450", Y2025) == Decimal("0.5")
    assert tick("KRW-USDT", "1450", NOW) == 1
    assert tick("BTC-ETH", "0.03") == Decimal("0.00000001")
    assert tick("USDT-BTC", "60000") == Decimal("0.01")
    assert tick("USDT-X", "0.05") == Decimal("0.00001")
    with pytest.raises(KeyError):
        table_of("EUR-BTC", NOW)


def test_on_tick() -> None:
    assert is_on_tick("KRW-BTC", 150_000_000 * E8, NOW)
    assert not is_on_tick("KRW-BTC", 150_000_500 * E8, NOW)
    assert not is_on_tick("KRW-BTC", 0, NOW)


def test_every_recorded_price_fits_the_current_table() -> None:
    path = DATA / "upbit_rest" / "upbit_rest_recorded_202603.jsonl"
    if not path.exists():
        pytest.skip(f"no recorded answers at {path}")
    (pair,) = [
        row
        for row in map(json.loads, path.read_text().splitlines())
        if row["cassette"] == "quotation/get_tickers_by_quote.yaml"
    ]
    prices = [
        (row["market"], row[name])
        for row in json.loads(pair["response_body"], parse_float=Decimal)
        for name in ("opening_price", "high_price", "low_price", "trade_price")
    ]
    assert len(prices) == 976
    assert [p for p in prices if not is_on_tick(p[0], int(p[1] * E8), NOW)] == []


@given(st.integers(0, 10**17))
def test_a_number_of_the_wire_in_integers(e8: int) -> None:
    value = e8 / E8
    expected = int(Decimal(repr(value)).scaleb(8).to_integral_value())
    assert e8_of(value) == expected
    if e8 < 2**26 * E8:
        assert e8_of(value) == e8
    assert e8_of(e8 // E8) == e8 // E8 * E8
