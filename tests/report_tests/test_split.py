"""The parts of a difference: each by hand, and together the whole to the last digit."""

from decimal import Decimal, localcontext
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.report.market import Books, Moment, expected_of
from consumers.report.split import CAUSES, CONTEXT, Expected, Traded, added, missed, split
from streams.messages import Features, OrderIntent, Signal

D = Decimal
MEANT = Expected(D(10), D(1000), D("0.5"), D("99.9"), D("0.002"), is_in_funds=False)
AS_MEANT = Traded(D(10), D(1000), D("0.5"), D("99.9"), D("0.002"))


def test_an_order_as_expected_differs_in_nothing() -> None:
    found = split("buy", MEANT, AS_MEANT, None)
    assert found.expected == D(10) * D("99.9") * D("1.002") - 1000 - D("0.5")
    assert found.total == 0
    assert set(found.parts().values()) == {0}


@pytest.mark.parametrize(
    ("change", "cause", "amount"),
    [
        ({"fee": D("0.7")}, "fee", "-0.2"),
        ({"growth": D("0.001")}, "model", "-0.999"),
        ({"funds": D(1010)}, "spread", "-10"),
        ({"funds": D(1020), "mid": D("101.9")}, "latency", "-20"),
        ({"quantity": D(0), "funds": D(0), "fee": D(0), "mid": None}, "queue", "-0.498"),
        ({"quantity": D(5), "funds": D(500), "fee": D("0.25")}, "queue", "-0.249"),
    ],
)  # fmt: skip
def test_each_cause_alone(change: dict[str, D], cause: str, amount: str) -> None:
    values = {name: getattr(AS_MEANT, name) for name in ("quantity", "funds", "fee", "mid", "growth")}
    found = split("buy", MEANT, Traded(**values | change), None)
    assert found.parts() == {name: D(amount) if name == cause else D(0) for name in CAUSES}
    assert found.total == D(amount)


def test_a_sale_counts_the_other_way() -> None:
    found = split("sell", MEANT, Traded(D(10), D(990), D("0.5"), D("98.9"), D("0.002")), None)
    assert (found.latency, found.spread, found.total) == (D(-10), D(0), D(-10))


def test_what_only_one_side_knows_is_not_explained() -> None:
    assert missed(split("buy", MEANT, AS_MEANT, None)).parts() == {
        name: D("-0.498") if name == "unexplained" else D(0) for name in CAUSES
    }
    alone = split("buy", None, AS_MEANT, D(100))
    assert (alone.expected, alone.total, alone.unexplained) == (D(0), D("1.5"), D("1.5"))


amounts = st.decimals(min_value="0.00000001", max_value="100000000", places=8)


@given(*[amounts] * 5, st.sampled_from(["funds", "quantity"]), st.sampled_from(["buy", "sell"]))
def test_the_parts_add_up_to_the_last_digit(
    q: Decimal, f: Decimal, a: Decimal, mid: Decimal, other: Decimal, given_in: str, side: Literal["buy", "sell"]
) -> None:
    expected = Expected(q, f, f / 2000, mid, D("0.00123456789"), given_in == "funds")
    traded = Traded(other, a, a / 1999, mid * 2, D("-0.0002"))
    found = split(side, expected, traded, None)
    whole = added([found, found, found])
    with localcontext(CONTEXT):  # absurd prices have more digits than the default holds
        assert sum(found.parts().values()) == found.total
        assert found.expected + found.total == found.traded
        assert sum(whole.parts().values()) == whole.total == 3 * found.total


# --- what the book says -------------------------------------------------------------------------------------------


def row(bin_ms: int, mid: float = 100.0) -> Features:
    levels = [mid - 1 - i for i in range(5)] + [2.0] * 5 + [mid + 1 + i for i in range(5)] + [2.0] * 5
    return Features(
        exchange="upbit", market="KRW-BTC", bin_ms=bin_ms, grid_ms=1000, schema="s", source="s", session=1, n_bins=1,
        n_books=1, n_trades=0, mid=mid, spread=2.0, values=[], levels=list(levels), accumulators=[],
    )  # fmt: skip


def intent(side: str, **values: object) -> OrderIntent:
    common: dict[str, object] = {
        "id": "i", "account": "a", "pocket": "p", "exchange": "upbit", "market": "KRW-BTC", "side": side,
        "order_type": "market", "price": None, "quantity": None, "funds": None, "time_in_force": "",
        "purpose": "entry", "cause_kind": "signal", "cause_id": "s", "event_ms": 5_000, "expires_ms": 9_000,
        "reason": "",
    }  # fmt: skip
    return OrderIntent(**common | values)  # type: ignore[arg-type]  # values of one table


def test_an_order_walks_the_book_of_its_bin() -> None:
    buy = expected_of(intent("buy", funds=D(304)), row(5_000), None, D("0.05"))
    assert buy is not None
    assert (buy.quantity, buy.funds, buy.fee, buy.growth) == (D("3.0"), D(304), D("0.152"), D(0))
    sell = expected_of(intent("sell", quantity=D(3)), row(5_000), None, D("0.05"))
    assert sell is not None
    assert (sell.funds, sell.mid) == (D(2) * D("99.0") + D("98.0"), D("100.0"))
    rests = expected_of(intent("sell", quantity=D(1), price=D(105), order_type="limit"), row(5_000), None, D(0))
    assert rests is not None
    assert rests.funds == D(105)
    signal = Signal(
        id="s", exchange="upbit", market="KRW-BTC", bin_ms=5_000, horizon_ms=5_000, schema="s", model_id="m",
        expected_bp=10.0, sigma_bp=1.0, mid=100.0, is_licensed=True, feed="synthetic",
    )  # fmt: skip
    licensed = expected_of(intent("buy", funds=D(101)), row(5_000), signal, D(0))
    assert licensed is not None
    assert abs(licensed.growth - D("0.0010005001667")) < D("1e-12")


def test_too_thin_a_book_or_none_expects_nothing() -> None:
    assert expected_of(intent("buy", funds=D(10**9)), row(5_000), None, D(0)) is None
    assert expected_of(intent("sell", quantity=D(10**6)), row(5_000), None, D(0)) is None
    assert expected_of(intent("buy", funds=D(1)), None, None, D(0)) is None


def test_the_newest_row_at_or_before_a_moment_counts_and_an_old_one_does_not() -> None:
    key = "upbit:KRW-BTC"
    moments = [Moment(key, at_ms) for at_ms in (4_999, 5_000, 5_999, 15_999, 16_001)]
    books = Books(moments)
    for one in (row(6_000, 102.0), row(5_000, 101.0), row(5_000, 101.0)):
        books.see(one)
    assert [books.mid(moment) for moment in moments] == [None, D("101.0"), D("101.0"), D("102.0"), None]
