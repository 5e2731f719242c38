from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard import formats

prices = st.decimals(min_value=0, max_value=10**9, places=8, allow_nan=False)
amounts = st.decimals(min_value=-(10**12), max_value=10**12, places=8, allow_nan=False)
ticks = st.sampled_from(["1000", "500", "10", "1", "0.1", "0.05", "0.0001", "0.00000001"])


def read(text: str) -> Decimal:
    return Decimal(text.replace(",", "").replace("▲ ", "").replace("▼ ", "-").rstrip("%"))


@given(value=prices, tick=st.none() | ticks)
def test_a_price_is_never_shown_as_another_one(value: Decimal, tick: str | None) -> None:
    assert read(formats.price(value, tick)) == value


@given(steps=st.integers(0, 10**6), tick=ticks)
def test_prices_on_a_tick_have_its_decimals(steps: int, tick: str) -> None:
    shown = formats.price(steps * Decimal(tick), tick)
    decimals = len(tick.partition(".")[2])
    assert len(shown.partition(".")[2]) == decimals


@given(value=st.floats(0, 10**9, allow_nan=False))
def test_a_price_of_a_float_is_near_it_to_the_eighth_place(value: float) -> None:
    assert abs(read(formats.price(value)) - Decimal(repr(value))) <= Decimal("0.5e-8")


@given(value=amounts)
def test_won_are_whole_and_signs_agree(value: Decimal) -> None:
    shown = read(formats.won(value))
    assert abs(shown - value) <= Decimal("0.5")
    assert shown == shown.to_integral_value()
    assert not formats.won(value).startswith("-0")
    signed = formats.signed_won(value)
    assert read(signed) == shown
    expected = {"rise": "▲ ", "fall": "▼ ", "": ""}[formats.direction(value)]
    assert signed == f"{expected}{abs(int(shown)):,}"


@given(value=amounts)
def test_quantities_lose_nothing_and_no_zero_trails(value: Decimal) -> None:
    shown = formats.quantity(value)
    assert read(shown) == value
    assert "." not in shown or shown[-1] not in "0."


@given(value=st.floats(-10_000, 10_000, allow_nan=False))
def test_basis_points_become_per_cent(value: float) -> None:
    shown = formats.percent_of_bp(value)
    assert abs(float(read(shown)) - value / 100) <= 0.0005 + 1e-9
    assert "-0.000" not in shown
    assert shown.startswith("+") == (float(read(shown)) > 0)
    assert not formats.percent_of_bp(value, is_signed=False).startswith("+")


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (formats.price(0.0123, "0.0001"), "0.0123"),
        (formats.price(8560.0, "5"), "8,560"),
        (formats.price(9.99, "0.1"), "9.99"),  # the price fell below the range of the tick we were told
        (formats.price("151824000"), "151,824,000"),
        (formats.won("5998.7"), "5,999"),
        (formats.won(-0.4), "0"),
        (formats.signed_won("-1234.5"), "▼ 1,234"),
        (formats.quantity("0.10000000"), "0.1"),
        (formats.quantity(100.0), "100"),
        (formats.fee("2.99937388"), "3"),
        (formats.fee("3.01264284"), "3.01"),
        (formats.percent_of_bp(17.42), "+0.174%"),
        (formats.percent_of_bp(0.0), "0.000%"),
        (formats.number(0.50001), "0.5"),
        (formats.number(-0.00001), "0"),
        (formats.clock(1_700_000_000_000), "07:13:20"),
        (formats.moment(1_700_000_000_000), "11-15 07:13:20"),
        (formats.axis_time(1_700_000_000_500), "2023-11-15 07:13:20.500000"),
    ],
)
def test_examples(shown: str, expected: str) -> None:
    assert shown == expected


@pytest.mark.parametrize(
    "to_text",
    [
        formats.price, formats.won, formats.signed_won, formats.quantity, formats.fee, formats.percent_of_bp,
        formats.number, formats.clock, formats.moment,
    ],
)  # fmt: skip
def test_what_is_unknown_is_a_dash(to_text: object) -> None:
    assert callable(to_text)
    assert to_text(None) == "-"
    assert formats.direction(None) == ""
