"""The strategies of an account, ready to be asked: what its settings say, with the account's values where they say
nothing. Called by `consumers.trade.fold`. Pure.
"""

from decimal import Decimal
from typing import NamedTuple

from consumers.trade.reasons import Reason
from models.strategies.registry import Kinds, make
from models.strategies.rule import BROKEN, Chance, Entry, Holding, Strategy
from streams import messages as m

ONLY = m.StrategySettings(id="")
"""What an account without a list of strategies has."""


class Rule(NamedTuple):
    """One strategy of one account."""

    id: str
    strategy: Strategy | None
    """Null: it cannot be used, `problem` says why; nothing is entered, and positions leave by the exit rules alone."""
    entry_funds: Decimal
    size: tuple[float, float]
    """Entry funds and fee of one side in per cent: what a round trip's cost is worked out for."""
    markets: frozenset[str]
    """Allowed markets; empty: all."""
    exits: m.ExitRules
    problem: str = ""


def rules_of(settings: m.AccountSettings, kinds: Kinds) -> dict[str, Rule]:
    """The strategies by id, in the account's order, which is the order in which they are asked.

    A second one of the same id is left out.
    """
    rules: dict[str, Rule] = {}
    for one in settings.strategies or (ONLY,):
        if one.id not in rules:
            rules[one.id] = _rule(settings, one, kinds)
    return rules


def _rule(settings: m.AccountSettings, one: m.StrategySettings, kinds: Kinds) -> Rule:
    strategy, problem = None, "its id must not hold a `|`"
    try:
        strategy = None if "|" in one.id else make(one.kind, one.parameters, kinds)
    except ValueError as error:
        problem = str(error)
    funds = settings.entry_funds if one.entry_funds is None else one.entry_funds
    return Rule(
        one.id,
        strategy,
        funds,
        (float(funds), float(settings.fee_percent)),
        frozenset(one.markets or settings.markets),
        settings.exits if one.exits is None else one.exits,
        problem if strategy is None else "",
    )


class Plan(NamedTuple):
    """What an account's settings come to; made once per settings."""

    settings: m.AccountSettings
    horizons: tuple[int, ...]
    """Shortest first."""
    rules: dict[str, Rule]
    shadow_bp: float
    """What the older rule asks for: the threshold and one fee."""


def plan_of(settings: m.AccountSettings, kinds: Kinds) -> Plan:
    """Work the settings out."""
    shadow_bp = float(settings.threshold_percent + settings.fee_percent) * 100.0
    return Plan(settings, tuple(sorted(set(settings.horizons_ms))), rules_of(settings, kinds), shadow_bp)


def exits_of(plan: Plan, strategy: str) -> m.ExitRules:
    """The exit rules of a position; one whose strategy was taken away leaves by the account's."""
    rule = plan.rules.get(strategy)
    return plan.settings.exits if rule is None else rule.exits


def entry_of(strategy: Strategy, chance: Chance) -> Entry:
    """Ask a strategy whether to enter; one from outside that fails, or answers nonsense, enters nothing."""
    try:
        entry = strategy.entry(chance)
    except BROKEN:
        entry = None
    if isinstance(entry, Entry) and entry.signal in chance.signals:
        return entry
    return Entry(chance.signals[0], chance.threshold_percent, Reason.STRATEGY_UNUSABLE)


def leave_of(strategy: Strategy, holding: Holding, chance: Chance) -> m.Signal | None:
    """Ask a strategy whether to leave; one that fails does not, and the exit rules stay."""
    try:
        signal = strategy.leave(holding, chance)
    except BROKEN:
        return None
    return signal if isinstance(signal, m.Signal) else None
