"""`verify risk`: it passes as things are, and finds a limit that is not held."""

from collections.abc import Iterator

import pytest

from consumers.execute.limits import RiskGate
from consumers.trade import risk
from consumers.verify.risk import verify_risk
from consumers.verify.risk_execute import ExecuteSequence
from consumers.verify.risk_trade import Tally, TradeSequence


def test_no_limit_is_passed() -> None:
    result = verify_risk(quick=True)
    figures = result["figures"]
    assert isinstance(figures, dict)
    assert result["passed"], result["conditions"]
    assert figures["violations"] == 0
    assert figures["events"] >= 2 * 60 * 50
    assert figures["trade: intents timed"] > 0
    assert figures["execute: intents timed"] > 0


@pytest.mark.parametrize("name", ["_of_size", "_of_exposure", "_of_the_day", "_of_the_market"])
def test_a_limit_of_trade_that_is_not_held_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def nothing(*_: object) -> Iterator[tuple[bool, str]]:
        return iter(())

    monkeypatch.setattr(risk, name, nothing)
    tally = Tally()
    for seed in range(40):
        TradeSequence(seed, tally).run(60)
    assert tally.violations


@pytest.mark.parametrize("name", ["_of_market", "_of_order", "_of_exposure", "_of_money", "_of_minute"])
def test_a_limit_of_the_executor_that_is_not_held_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(RiskGate, name, lambda *_: None)
    tally = Tally()
    for seed in range(60):
        ExecuteSequence(seed, tally).run(60)
    assert tally.violations
