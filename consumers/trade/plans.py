"""What all accounts' settings come to, and which accounts wait for which signals; worked out once per change of them.

Held by `consumers.trade.fold` beside the state, never stored: the settings say it again.
"""

from collections.abc import Mapping

from consumers.trade.rules import Plan, plan_of
from consumers.trade.state import Account, Bin
from models.strategies.registry import Kinds

_Groups = dict[int, list[tuple[frozenset[int], list[str]]]]
"""By horizon: the choices of horizons that hold it, each with its accounts."""


class Plans:
    """The strategies of each account, and the accounts by their choice of horizons."""

    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds
        self._plans: dict[str, Plan] = {}
        self._accounts: Mapping[str, Account] | None = None
        self._count = -1
        self._groups: _Groups = {}

    def of(self, account: Account) -> Plan:
        """The plan of an account."""
        name = account.settings.account
        found = self._plans.get(name)
        if found is None or found.settings is not account.settings:
            found = self._plans[name] = plan_of(account.settings, self._kinds)
        return found

    def problems(self, account: Account) -> list[str]:
        """What keeps the account's strategies from being used, in words."""
        return [f"strategy {rule.id!r}: {rule.problem}" for rule in self.of(account).rules.values() if rule.problem]

    def forget(self) -> None:
        """Some account has other settings."""
        self._accounts = None

    def completed(self, accounts: Mapping[str, Account], found: Bin, horizon_ms: int) -> set[str]:
        """The accounts whose last signal of a bin this horizon's was."""
        if accounts is not self._accounts or len(accounts) != self._count:
            self._accounts, self._count, self._groups = accounts, len(accounts), _groups_of(accounts)
        chosen = self._groups.get(horizon_ms, [])
        return {name for wanted, names in chosen if wanted <= found.signals.keys() for name in names}


def _groups_of(accounts: Mapping[str, Account]) -> _Groups:
    by_choice: dict[frozenset[int], list[str]] = {}
    for name, account in accounts.items():
        by_choice.setdefault(frozenset(account.settings.horizons_ms), []).append(name)
    groups: _Groups = {}
    for wanted, names in by_choice.items():
        for horizon in wanted:
            groups.setdefault(horizon, []).append((wanted, names))
    return groups
