from decimal import Decimal
from types import SimpleNamespace

import msgspec
import pytest

from consumers.trade.fold import Fold
from consumers.trade.state import Parameters, Shadow, State, encode, money_context
from streams import messages as m

KEY = "upbit:KRW-BTC"
T0 = 1_700_000_000_000


def shadow_of(fold: Fold) -> Shadow:
    return fold.state.accounts["paper"].shadow


def test_the_older_rule_buys_for_threshold_and_one_fee_and_sells_at_the_horizon(make: SimpleNamespace) -> None:
    """Oracle: bought at 100,005, sold at 100,495, 5 bp of fee on each side."""
    fold = make.started()
    assert make.orders_of(make.one_bin(fold, T0, 10.0, 9.0)) == []
    held = shadow_of(fold).open[KEY]
    assert (held.due_ms, held.quantity, held.cost) == (T0 + 5000, pytest.approx(6000 / 100_005), 6003.0)
    fold.take(make.features(T0 + 4000, 200_000.0))
    back = Fold(Parameters(), money_context(), state=msgspec.json.decode(encode(fold.state), type=State))
    for one in (fold, back):
        one.take(make.features(T0 + 5000, 100_500.0))
        assert (shadow_of(one).trades, shadow_of(one).open) == (1, {})
        assert float(shadow_of(one).result) == pytest.approx(6000 / 100_005 * 100_495 * 0.9995 - 6003.0, abs=1e-6)
    assert shadow_of(fold).result == shadow_of(back).result


def test_it_buys_nothing_below_its_own_edge_or_where_nobody_may(make: SimpleNamespace) -> None:
    fold = make.started()
    make.one_bin(fold, T0, 9.9, 9.9)
    assert shadow_of(fold).open == {}
    for changes in ({"markets": ["KRW-ETH"]}, {"is_trading": False}, {"entry_funds": Decimal(10**8)}):
        fold = make.started(**changes)
        make.one_bin(fold, T0, 50.0, 50.0)
        assert shadow_of(fold).open == {}
    fold = make.started(m.Warmed(event_ms=T0 + 1, by="t"))
    make.one_bin(fold, T0, 50.0, 50.0)
    assert shadow_of(fold).open == {}


def test_it_asks_for_no_licence_and_holds_one_position_per_market(make: SimpleNamespace) -> None:
    fold = make.started(horizons_ms=[5000])
    make.feed(fold, [make.features(T0), make.signal(T0, is_licensed=False)])
    make.feed(fold, [make.features(T0 + 1000), make.signal(T0 + 1000, is_licensed=False)])
    assert (len(shadow_of(fold).open), shadow_of(fold).open[KEY].due_ms) == (1, T0 + 5000)


def test_it_waits_for_a_book_that_can_bear_its_sale(make: SimpleNamespace) -> None:
    fold = make.started()
    make.one_bin(fold, T0, 10.0, 9.0)
    thin = make.features(T0 + 5000, levels=make.levels(100_000.0, size=0.001))
    fold.take(thin)
    assert (shadow_of(fold).trades, len(shadow_of(fold).open)) == (0, 1)
    fold.take(make.features(T0 + 6000))
    assert shadow_of(fold).trades == 1
