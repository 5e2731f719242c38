"""Who holds what, in exact integers: available and locked amounts per account and currency. Pure.

Called by the sandbox exchange and the backtest. One unit of any currency is 10**20 atoms: a price of 1e-8 times a lot
of 1e-8 times a fee rate of 1e-4 is a whole number of atoms, so nothing is ever rounded. It must never hold a negative
amount.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

ATOM_DIGITS = 20
ATOMS = 10**ATOM_DIGITS
ATOMS_PER_LOT = 10**12
"""Atoms in 1e-8 of a currency."""


class InsufficientFunds(Exception):  # noqa: N818 - named by what happened
    """Less is available than is to be locked or spent."""


@dataclass(slots=True)
class Holding:
    """One currency of one account, in atoms; `average_e8` is the mean buying price in 1e-8 of the quote currency."""

    available: int = 0
    locked: int = 0
    average_e8: int = 0

    @property
    def total(self) -> int:
        """Available and locked."""
        return self.available + self.locked


@dataclass(slots=True)
class Ledger:
    """All holdings."""

    holdings: dict[tuple[str, str], Holding] = field(default_factory=dict)

    def holding(self, account: str, currency: str) -> Holding:
        """A holding, an empty one where the account never had any (it is not kept)."""
        return self.holdings.get((account, currency)) or Holding()

    def of(self, account: str) -> Iterator[tuple[str, Holding]]:
        """Every currency an account ever held."""
        return ((currency, held) for (owner, currency), held in self.holdings.items() if owner == account)

    def _kept(self, account: str, currency: str) -> Holding:
        return self.holdings.setdefault((account, currency), Holding())

    def deposit(self, account: str, currency: str, atoms: int) -> None:
        """Add to what is available."""
        if atoms < 0:
            raise ValueError("a deposit is never negative")
        self._kept(account, currency).available += atoms

    def lock(self, account: str, currency: str, atoms: int) -> None:
        """Set aside for an order; raises `InsufficientFunds`."""
        held = self.holding(account, currency)
        if atoms < 0 or held.available < atoms:
            raise InsufficientFunds(currency)
        held = self._kept(account, currency)
        held.available -= atoms
        held.locked += atoms

    def unlock(self, account: str, currency: str, atoms: int) -> None:
        """Give back what an order no longer needs."""
        held = self._kept(account, currency)
        if atoms < 0 or held.locked < atoms:
            raise InsufficientFunds(currency)
        held.locked -= atoms
        held.available += atoms

    def spend(self, account: str, currency: str, atoms: int) -> None:
        """Pay out of what is locked."""
        held = self._kept(account, currency)
        if atoms < 0 or held.locked < atoms:
            raise InsufficientFunds(currency)
        held.locked -= atoms

    def bought(self, account: str, currency: str, lots: int, price_e8: int) -> None:
        """Receive `lots` bought at a price; keeps the mean buying price (rounded down to 1e-8)."""
        held = self._kept(account, currency)
        before = held.total // ATOMS_PER_LOT
        held.average_e8 = (held.average_e8 * before + price_e8 * lots) // (before + lots)
        held.available += lots * ATOMS_PER_LOT
