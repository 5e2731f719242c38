from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest

from consumers.trade.reasons import WORDS, Reason
from infra.errors import BadSettings
from models.strategies.folder import load
from models.strategies.order_book import OrderBook
from models.strategies.registry import STRATEGIES
from models.strategies.registry import make as make_strategy
from models.strategies.rule import UNLICENSED
from streams import messages as m

T0 = 1_700_000_000_000
OWN = """
from __future__ import annotations

import msgspec

from models.strategies.rule import Chance, Entry, Holding
from streams import messages as m


class Eager(msgspec.Struct, frozen=True, kw_only=True):
    edge: float = 0.0

    def entry(self, chance: Chance) -> Entry:
        longest = chance.signals[-1]
        return Entry(longest, chance.threshold_percent, "" if longest.expected_bp > self.edge else "no-edge")

    def leave(self, holding: Holding, chance: Chance) -> m.Signal | None:
        return chance.signals[0] if chance.now_ms - holding.opened_ms >= 1000 else None


STRATEGY = Eager
"""


def folder_of(tmp_path: Path, **files: str) -> Path:
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def test_the_house_has_its_strategies_by_name() -> None:
    assert STRATEGIES["order-book"] is OrderBook
    made = make_strategy("order-book", {"threshold_percent": "0.25"})
    assert made == OrderBook(threshold_percent=Decimal("0.25"))
    assert UNLICENSED == Reason.UNLICENSED
    assert UNLICENSED in WORDS


@pytest.mark.parametrize(
    ("kind", "parameters", "words"),
    [
        ("nobody", {}, "there is no strategy 'nobody', there are order-book"),
        ("order-book", {"x": "1"}, "no parameter 'x', it has threshold_percent, hysteresis_percent"),
        ("order-book", {"threshold_percent": "much"}, "threshold_percent"),
    ],
)
def test_a_wrong_strategy_is_named(kind: str, parameters: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_strategy(kind, parameters)


def test_a_strategy_from_outside_trades(make: SimpleNamespace, tmp_path: Path) -> None:
    loaded = load(folder_of(tmp_path, my_eager=OWN, _mine="this is no Python"))
    assert sorted(loaded.kinds) == ["my-eager", "order-book"]
    chosen = [m.StrategySettings(id="e", kind="my-eager", parameters={"edge": "20"})]
    fold = make.started(kinds=loaded.kinds, strategies=chosen)
    assert make.reasons_of(make.one_bin(fold, T0, 90.0, 20.0)) == ["no-edge"]
    intent = make.order_of(make.one_bin(fold, T0 + 1000, 90.0, 21.0))
    assert (intent.strategy, intent.expected_bp) == ("e", 21.0)
    fold.take(make.filled(intent, "0.06", "100000", T0 + 1700))
    sale = make.order_of(make.one_bin(fold, T0 + 3000, 99.0, 99.0))
    assert (sale.cause_kind, sale.strategy) == ("expectation", "e")


def test_no_strategy_passes_cost_or_licence(make: SimpleNamespace, tmp_path: Path) -> None:
    kinds = load(folder_of(tmp_path, my_eager=OWN)).kinds
    chosen = [m.StrategySettings(id="e", kind="my-eager")]
    fold = make.started(kinds=kinds, strategies=chosen)
    assert make.reasons_of(make.one_bin(fold, T0, 90.0, 1.0)) == [Reason.BELOW_COST]
    signals = [make.signal(T0 + 1000, 5000), make.signal(T0 + 1000, 10000, is_licensed=False)]
    assert make.reasons_of(make.feed(fold, [make.features(T0 + 1000), *signals])) == [Reason.UNLICENSED]


def test_a_strategy_that_fails_enters_nothing_and_the_others_go_on(make: SimpleNamespace, tmp_path: Path) -> None:
    failing = OWN.replace("longest = chance.signals[-1]", "longest = chance.signals[9]")
    nonsense = OWN.replace("return Entry(", "return (")
    kinds = load(folder_of(tmp_path, failing=failing, nonsense=nonsense)).kinds
    names = ["failing", "nonsense", "order-book"]
    fold = make.started(kinds=kinds, strategies=[m.StrategySettings(id=name, kind=name) for name in names])
    outputs = make.one_bin(fold, T0, 90.0, 90.0)
    assert make.reasons_of(outputs) == [Reason.STRATEGY_UNUSABLE] * 2
    assert make.order_of(outputs).strategy == "order-book"


def test_a_strategy_that_fails_to_leave_leaves_by_the_exit_rules(make: SimpleNamespace, tmp_path: Path) -> None:
    kinds = load(folder_of(tmp_path, bad=OWN.replace("chance.signals[0] if", "1 / 0 if"))).kinds
    fold = make.started(kinds=kinds, strategies=[m.StrategySettings(id="e", kind="bad")])
    make.entered(fold, T0)
    assert make.orders_of(make.one_bin(fold, T0 + 3000, -50.0, -50.0)) == []
    assert make.order_of(fold.pulse(T0 + 10_000)).cause_kind == "time-stop"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def broken(:\n", "SyntaxError"),
        ("import nothing_of_that_name\n", "nothing_of_that_name"),
        ("x = 1\n", "must set STRATEGY"),
        (OWN.replace("frozen=True, ", ""), "must be frozen"),
        (OWN.replace("def leave", "def depart"), "no method `leave`"),
        (OWN.replace("edge: float = 0.0", "edge: float"), "edge"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadSettings, match=words) as raised:
        load(folder_of(tmp_path, rule_of_mine=text))
    assert "rule_of_mine.py" in str(raised.value)
    assert "trade.strategies_folder" in str(raised.value)


def test_a_missing_folder_and_a_taken_name_are_told(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="is no folder"):
        load(tmp_path / "nothing")
    with pytest.raises(BadSettings, match="'order-book' already"):
        load(folder_of(tmp_path, order_book=OWN))


def test_the_digest_follows_names_and_bytes(tmp_path: Path) -> None:
    assert load(None) == (STRATEGIES, "")
    first = load(folder_of(tmp_path, mine=OWN)).digest
    assert load(tmp_path).digest == first
    assert load(folder_of(tmp_path, mine=OWN + "\n")).digest != first
