"""Asks, before an order is sent, whether its account is one for real money, and what is missing for that.

`desk` calls `refusal` for every order. Where an account trades is learned from its settings in `controls` and kept in
the executor's own database; whether it is armed stands there too, with a mark that only the holder of the executor's
private key can make, so that a row written by anybody else arms nothing.
"""

import hmac
from collections.abc import Callable
from pathlib import Path

from consumers.execute.guard import live_refusal, missing_for_live
from consumers.execute.keys_store import ArmedRow, KeyStore
from infra.errors import BadSettings
from infra.secrets_box import KeyPair, read_pair
from streams.messages import AccountSettings


class LiveGate:
    """The executor's own answer to `live`, independent of what `trade` thinks."""

    def __init__(self, home: Path, store: KeyStore, is_checked: Callable[[str], bool], *, is_allowed: bool) -> None:
        """`is_checked` says whether a pocket has a key that was checked at the exchange."""
        self._home = home
        self._store = store
        self._is_checked = is_checked
        self._is_allowed = is_allowed
        self._venues = store.venues()

    def learn(self, settings: AccountSettings) -> None:
        """Where an account trades from here on."""
        if self._venues.get(settings.account) != settings.venue:
            self._store.set_venue(settings.account, settings.venue)
            self._venues[settings.account] = settings.venue

    def refusal(self, account: str, pocket: str) -> str:
        """Why an account's order must not be sent because it is for real money; empty for a paper account."""
        if self._venues.get(account, "paper") == "paper":
            return ""
        return live_refusal(
            missing_for_live(
                account,
                is_allowed=self._is_allowed,
                is_armed=is_armed(self._home, self._store, account),
                has_checked_key=self._is_checked(pocket),
            )
        )


def mark_of(pair: KeyPair, account: str, armed_ms: int) -> str:
    """The mark of an armed account."""
    return pair.sign("armed", account, str(armed_ms)).hex()


def is_armed(home: Path, store: KeyStore, account: str) -> bool:
    """Whether somebody with the private key has armed the account, for the key pair that is in use now."""
    rows = [row for row in store.armed() if row.account == account]
    try:
        return bool(rows) and _is_genuine(read_pair(home), rows[0])
    except BadSettings:
        return False


def _is_genuine(pair: KeyPair, row: ArmedRow) -> bool:
    return hmac.compare_digest(mark_of(pair, row.account, row.armed_ms), row.mark)
