"""The sandbox exchange killed under load, in its short form, and the sums that judge it."""

from decimal import Decimal

import pytest

from consumers.verify.journal import recomputed, verify_journal


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_exchange_remembers_everything() -> None:
    result = verify_journal(quick=True)
    figures = result["figures"]
    assert result["passed"], result
    assert isinstance(figures, dict)
    assert figures["lost"] == figures["went back"] == figures["cancels forgotten"] == 0
    assert figures["identifiers doubled"] == figures["identifiers free again"] == figures["ledgers differing"] == 0
    assert figures["ended by kill"] >= 1
    assert figures["messages heard"] > 0


def test_balances_follow_from_the_orders_alone() -> None:
    base = {"account": "a", "market": "KRW-BTC", "prevented_volume": "0", "prevented_locked": "0"}
    bought = base | {
        "side": "bid", "ord_type": "limit", "state": "wait", "price": "1000", "volume": "4",
        "executed_volume": "1", "executed_funds": "900",
    }  # fmt: skip
    sold = base | {
        "side": "ask", "ord_type": "market", "state": "done", "price": None, "volume": "2",
        "executed_volume": "2", "executed_funds": "1800",
    }  # fmt: skip
    found = recomputed([bought, sold], ["a"], {"KRW": "10000", "BTC": "5"})
    # 10,000 - 900 - 0.45 + 1,800 - 0.9, of which 3,000 and the fee left of 2 are locked.
    assert found["a", "KRW"] == (Decimal("10898.65") - Decimal("3001.55"), Decimal("3001.55"))
    assert found["a", "BTC"] == (Decimal(4), Decimal(0))
