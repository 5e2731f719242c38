from pathlib import Path

import pytest

from consumers.verify.leaks_battery import verify_leaks
from infra.errors import BadSettings

FORGETFUL = """
from models.strategies.order_book import OrderBook

STRATEGY = OrderBook
"""
REMEMBERS = """
import msgspec

from models.strategies.order_book import OrderBook

highest = {}


class Remembers(OrderBook, frozen=True, kw_only=True):
    def entry(self, chance):
        entry = super().entry(chance)
        best = highest[chance.market] = max(highest.get(chance.market, -1e9), entry.signal.expected_bp)
        return entry if entry.signal.expected_bp >= best else entry._replace(refusal="not the best of all times")


STRATEGY = Remembers
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nine_of_nine_are_found_and_nothing_else() -> None:
    result = verify_leaks(quick=True)
    figures = result["figures"]
    assert isinstance(figures, dict)
    assert result["passed"], result
    assert figures["planted leaks"] == figures["planted leaks found"] == 9
    assert (
        figures["honest twins: alarms"] == figures["clean runs: alarms"] == figures["clean runs: changed hashes"] == 0
    )
    assert figures["clean runs without outputs"] == 0
    assert figures["clean runs: random cut points"] == 2 * figures["clean runs"]


def test_a_strategy_that_remembers_what_came_later_is_found(tmp_path: Path) -> None:
    (tmp_path / "forgetful.py").write_text(FORGETFUL)
    result = verify_leaks(quick=True, strategies=tmp_path)
    assert result["passed"], result
    (tmp_path / "remembers.py").write_text(REMEMBERS)
    result = verify_leaks(quick=True, strategies=tmp_path)
    figures, conditions = result["figures"], result["conditions"]
    assert isinstance(figures, dict)
    assert isinstance(conditions, dict)
    assert not result["passed"]
    assert figures["strategy forgetful: histories with an alarm, of 1"] == 0
    assert figures["strategy remembers: histories with an alarm, of 1"] == 1
    assert "a second run" in conditions["alarms"][0]


def test_a_folder_without_a_strategy_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"my_rule\.py"):
        verify_leaks(quick=True, strategies=tmp_path)
