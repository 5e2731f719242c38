"""A halt's sales that the executor ordered by itself, while trade could not: they are booked like trade's own."""

from types import SimpleNamespace

import msgspec

from streams import messages as m

T0 = 1_700_000_000_000
HOUR_MS = 3_600_000


def halt(kind: str = "sell-all") -> m.Halt:
    return m.Halt(account="paper", kind=kind, event_ms=T0, by="test")  # type: ignore[arg-type]  # the kinds as text


def sale(make: SimpleNamespace, entry: m.OrderIntent, quantity: str, **changes: object) -> m.OrderFilled:
    """What the executor tells of its own sale of an entry's market."""
    order = msgspec.structs.replace(entry, id="halt-sale", side="sell", purpose="protective-exit")
    told: m.OrderFilled = make.filled(order, quantity, "100000", T0 + 3_000, purpose="protective-exit", **changes)
    return told


def test_a_sale_of_the_executors_closes_the_position_and_trades_own_is_not_repeated(make: SimpleNamespace) -> None:
    fold = make.started()
    entry = make.entered(fold, T0)
    fold.take(sale(make, entry, "0.06"))
    fold.take(sale(make, entry, "0.06"))
    outputs = fold.take(halt())
    account = fold.state.accounts["paper"]
    assert (account.positions, account.is_ledger_broken) == ({}, False)
    assert make.orders_of(outputs) == []


def test_trades_sale_that_came_too_late_is_refused_and_not_tried_again(make: SimpleNamespace) -> None:
    fold = make.started()
    entry = make.entered(fold, T0)
    own = make.order_of(fold.take(halt()))
    fold.take(sale(make, entry, "0.06"))
    fold.take(make.ended("rejected", own, T0 + 3_100))
    account = fold.state.accounts["paper"]
    assert (account.positions, account.is_ledger_broken) == ({}, False)
    assert [one for second in range(4, 40) for one in make.orders_of(fold.pulse(T0 + second * 1000))] == []


def test_of_a_partial_sale_the_rest_is_still_held(make: SimpleNamespace) -> None:
    fold = make.started()
    entry = make.entered(fold, T0)
    fold.take(sale(make, entry, "0.02", is_final=False))
    (position,) = fold.state.accounts["paper"].positions.values()
    assert str(position.quantity) == "0.04"


def test_a_sale_of_what_is_not_held_stays_a_matter_for_a_person(make: SimpleNamespace) -> None:
    fold = make.started()
    entry = make.entered(fold, T0)
    fold.take(sale(make, entry, "0.06", market="KRW-ETH"))
    assert fold.state.accounts["paper"].is_ledger_broken


def test_a_sale_that_was_made_while_trade_was_away_is_booked_once_however_old(make: SimpleNamespace) -> None:
    fold = make.started()
    entry = make.entered(fold, T0)
    fold.pulse(T0 + HOUR_MS)
    fold.take(sale(make, entry, "0.02"))
    fold.pulse(T0 + 2 * HOUR_MS)
    fold.take(sale(make, entry, "0.02"))
    (position,) = fold.state.accounts["paper"].positions.values()
    assert (str(position.quantity), str(position.sold)) == ("0.04", "0.02")
    fold.take(sale(make, entry, "0.06"))
    account = fold.state.accounts["paper"]
    assert (account.positions, account.is_ledger_broken) == ({}, False)
    account.prune(T0 + 3 * HOUR_MS, fold.parameters)
    assert "halt-sale" not in account.orders  # kept as long as its position


def test_an_entry_and_its_sale_that_are_told_late_both_count(make: SimpleNamespace) -> None:
    fold = make.started()
    entry = make.order_of(make.one_bin(fold, T0, 50.0, 20.0))
    fold.pulse(T0 + HOUR_MS)
    fold.take(make.filled(entry, "0.06", "100000", T0 + 700))
    fold.take(sale(make, entry, "0.06"))
    account = fold.state.accounts["paper"]
    assert (account.positions, account.is_ledger_broken) == ({}, False)


def test_an_old_sale_of_an_earlier_position_sells_nothing_of_the_next(make: SimpleNamespace) -> None:
    fold = make.started()
    entry = make.entered(fold, T0)
    fold.take(sale(make, entry, "0.06"))
    account = fold.state.accounts["paper"]
    account.prune(T0 + HOUR_MS, fold.parameters)
    make.entered(fold, T0 + HOUR_MS)
    assert "halt-sale" not in account.orders
    fold.take(sale(make, entry, "0.06"))
    assert [str(one.quantity) for one in account.positions.values()] == ["0.06"]
    assert not account.is_ledger_broken
