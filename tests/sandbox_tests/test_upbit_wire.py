"""Number and time spelling of the REST side, and what the query hash covers."""

from decimal import Decimal

import pytest

from infra.upbit import signing, wire


@pytest.mark.parametrize(
    ("value", "text"),
    [("5002.50", "5002.5"), ("0", "0"), ("0.000", "0"), ("-0", "0"), ("1E+7", "10000000"), ("1E-8", "0.00000001")],
)
def test_plain_numbers(value: str, text: str) -> None:
    assert wire.plain(Decimal(value)) == text


def test_scaled_numbers_and_times() -> None:
    assert wire.scaled_text(-150, 2) == "-1.5"
    assert wire.plain_e8(100_000_000) == "1"
    assert wire.korean_time(1_774_183_342_999) == "2026-03-22T21:42:22+09:00"


def test_what_is_hashed() -> None:
    pairs = {"market": "KRW-BTC", "states": ["wait", "watch"], "none": None, "flag": True, "uuids[]": ["a"]}
    assert signing.query_of(pairs) == "market=KRW-BTC&states[]=wait&states[]=watch&flag=true&uuids[]=a"
    assert signing.query_of_request("uuids%5B%5D=a&x=1", b"{}") == "uuids[]=a&x=1"
    assert signing.query_of_request("", b'{"b":"2","a":1}') == "b=2&a=1"
    assert signing.query_of_request("", b"") == ""
