"""The verbs that write what an account may do: its settings, and a ledger that a person accepts. All through the log.

Called by the command line, which asks between `draft_...` and `write`; keys and the exchange are never touched.
"""

import json
import re
import time
import tomllib
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from consumers.execute.account_form import MARKET, PLACES, change, differences, shown
from consumers.execute.account_words import Language, words
from consumers.execute.interference_verbs import accounts, person, row_of
from consumers.execute.requests.answers import decoded, tail, whole
from consumers.trade.ledgers import market_of
from consumers.trade.start import paper_account
from consumers.trade.state import Account
from infra.errors import BadSettings
from infra.log import Log, Slot, partition_of, publish_one
from infra.settings import PaperSettings
from models.strategies.registry import Kinds
from streams.messages import (
    AccountSettings,
    Balance,
    LedgerAccepted,
    TradingStarted,
    TradingStopped,
    encode,
)

ZERO = Decimal(0)
ACCOUNT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
BALANCES = 400
"""How many of the pocket's last records are read: every holding is told again whenever one changes."""


class Draft(NamedTuple):
    """What will be written, with what a person should know before."""

    message: AccountSettings | LedgerAccepted
    lines: list[str]
    figures: dict[str, Any]
    is_switch: bool = False
    """Whether it changes if the account trades."""
    is_new: bool = False
    """Whether the account must not be there yet."""


class AccountVerbs:
    """The command line's side of one account."""

    def __init__(self, log: Log, account: str, language: Language = "en") -> None:
        self._log = log
        self._account = account
        self._language: Language = language

    def show(self) -> dict[str, Any]:
        """Its settings by their dotted names, and how it stands by what trade wrote last."""
        found: dict[str, Any] = dict(shown(self._settings()))
        account = accounts(self._log).get(self._account)
        if account is not None:
            row = row_of(account, self._language)
            found |= {name: row[name] for name in ("halt", "paused", "free", "realised")}
            found["is_ledger_stopped"] = is_stopped(account)
            found |= {f"held.{key}": str(quantity) for key, quantity in sorted(held(account).items())}
        return found

    def draft_settings(self, wanted: Mapping[str, object], kinds: Kinds) -> Draft:
        """The account with changed settings; raises `BadSettings` with every field that is refused."""
        before = self._settings()
        after, wrong = change(before, wanted, kinds)
        if wrong:
            raise BadSettings(self._say("refused", fields="; ".join(one.text(self._language) for one in wrong)))
        changes = differences(before, after)
        lines = [self._say("change", field=name, before=old, after=new) for name, old, new in changes]
        figures = {
            "account": self._account,
            "changes": [{"field": name, "before": old, "after": new} for name, old, new in changes],
        }
        is_switch = before.is_trading != after.is_trading
        return Draft(msgspec.structs.replace(after, event_ms=_now_ms()), lines, figures, is_switch)

    def draft_new(self, pocket: str, wanted: Mapping[str, object], kinds: Kinds, paper: PaperSettings) -> Draft:
        """Another paper account with the values of the settings and the wanted ones; it does not trade unless wanted.

        The default account's name and pocket are left to trade, which makes that account at its first start.
        """
        if self._account == paper.account or self.known() is not None:
            raise BadSettings(self._say("exists", account=self._account))
        for name in (self._account, pocket):
            if not ACCOUNT_NAME.fullmatch(name):
                raise BadSettings(self._say("bad-name", text=name))
        if pocket == paper.pocket and AccountVerbs(self._log, paper.account).known() is None:
            raise BadSettings(self._say("default-first", account=paper.account, pocket=pocket))
        fresh = paper_account(paper, self._account, pocket, _now_ms(), is_trading=False)
        after, wrong = change(fresh, wanted, kinds)
        if wrong:
            raise BadSettings(self._say("refused", fields="; ".join(one.text(self._language) for one in wrong)))
        found = shown(after)
        lines = [f"{name} = {value}" for name, value in found.items() if value not in {"none", "", "[]"}]
        return Draft(after, lines, {"account": self._account, "settings": found}, is_new=True)

    def draft_ledger(self, holdings: Sequence[str]) -> Draft:
        """The ledger as a person says that it is; markets that are in no doubt stay as they are in our books."""
        account = accounts(self._log).get(self._account)
        if account is None:
            raise BadSettings(self._say("no-account", account=self._account))
        books, pocket = held(account), self._pocket(account.settings.pocket)
        is_short = any(quantity > pocket.get(_currency(key), quantity) for key, quantity in books.items())
        if not is_stopped(account) and not is_short:
            raise BadSettings(self._say("not-stopped", account=self._account))
        lost = [order for order in account.orders.values() if order.is_lost]
        named = self._named(holdings, {*books, *(market_of(order.ledger) for order in lost)}, pocket)
        in_doubt = {market_of(order.ledger) for order in lost}
        in_doubt |= {key for key, quantity in books.items() if quantity > pocket.get(_currency(key), quantity)}
        if unsaid := sorted(_market(key) for key in in_doubt - named.keys()):
            raise BadSettings(self._say("say-holding", markets=", ".join(unsaid)))
        after = {key: quantity for key, quantity in sorted((books | named).items()) if quantity}
        lines = [self._say("lost", side=one.side, market=one.market, intent=one.intent_id) for one in lost]
        lines += [self._line(key, books, after, pocket) for key in sorted(books | named)]
        lines = lines or [self._say("holds-nothing")]
        message = LedgerAccepted(account=self._account, holdings=after, event_ms=_now_ms(), by=person())
        told = {_market(key): str(quantity) for key, quantity in after.items()}
        return Draft(message, lines, {"account": self._account, "holdings": told, "lost": [o.intent_id for o in lost]})

    def write(self, draft: Draft) -> None:
        """Into `controls`; it is in the log when this returns.

        Whether the account trades is what was said last, unless that is what is changed: a stop stays a stop, however
        long the person was asked.
        """
        message = draft.message
        if draft.is_new and self.known() is not None:
            raise BadSettings(self._say("exists", account=self._account))
        if isinstance(message, AccountSettings) and not (draft.is_switch or draft.is_new):
            message = msgspec.structs.replace(message, is_trading=self._settings().is_trading, event_ms=_now_ms())
        publish_one(self._log, "controls", self._account, encode(message))

    def known(self) -> AccountSettings | None:
        """The newest settings, and whether it trades by what was said after them."""
        found: AccountSettings | None = None
        for record in whole(self._log, ["controls"]):
            message = decoded(record)
            if isinstance(message, AccountSettings) and message.account == self._account:
                found = message
            elif isinstance(message, TradingStarted | TradingStopped) and message.account in {self._account, "*"}:
                is_trading = isinstance(message, TradingStarted)
                found = None if found is None else msgspec.structs.replace(found, is_trading=is_trading)
        return found

    # --- parts

    def _settings(self) -> AccountSettings:
        found = self.known()
        if found is None:
            raise BadSettings(self._say("no-account", account=self._account))
        return found

    def _named(self, holdings: Sequence[str], known: set[str], pocket: Mapping[str, Decimal]) -> dict[str, Decimal]:
        found: dict[str, Decimal] = {}
        for text in holdings:
            market, quantity = self._read(text)
            keys = [key for key in known if _market(key) == market]
            if not keys:
                raise BadSettings(self._say("no-ledger", account=self._account, market=market))
            currency = _currency(keys[0])
            if quantity > pocket.get(currency, quantity):
                values = {"pocket": f"{pocket[currency]:f}", "currency": currency, "quantity": f"{quantity:f}"}
                raise BadSettings(self._say("too-much", account=self._account, **values))
            found[keys[0]] = quantity
        return found

    def _read(self, text: str) -> tuple[str, Decimal]:
        market, _, amount = text.partition("=")
        try:
            quantity = Decimal(amount.strip())
            is_good = quantity.is_finite() and quantity >= 0 and quantity == round(quantity, PLACES)
        except InvalidOperation:
            is_good = False
        if not is_good or not MARKET.fullmatch(market.strip().upper()):
            raise BadSettings(self._say("bad-holding", text=text))
        return market.strip().upper(), quantity

    def _pocket(self, pocket: str) -> dict[str, Decimal]:
        """What the exchange last said that the pocket has in all, by currency: more than ours may be in it."""
        slot = Slot("balances", partition_of(pocket, self._log.partitions("balances")))
        found: dict[str, Decimal] = {}
        for record in tail(self._log, slot, BALANCES):
            message = decoded(record)
            if isinstance(message, Balance) and message.pocket == pocket:
                found[message.currency] = message.available + message.locked
        return found

    def _line(
        self, key: str, books: Mapping[str, Decimal], after: Mapping[str, Decimal], pocket: Mapping[str, Decimal]
    ) -> str:
        currency = _currency(key)
        total = f"{pocket[currency]:f}" if currency in pocket else self._say("unknown")
        before, now = f"{books.get(key, ZERO):f}", f"{after.get(key, ZERO):f}"
        values = {"before": before, "after": now, "pocket": total, "currency": currency}
        return self._say("holding", market=_market(key), **values)

    def say(self, name: str) -> str:
        """A sentence about the account."""
        return self._say(name, account=self._account)

    def _say(self, name: str, **values: object) -> str:
        return words(name, self._language, **values)


def is_stopped(account: Account) -> bool:
    """Whether its entries wait for an accepted ledger."""
    return account.is_ledger_broken or any(order.is_lost for order in account.orders.values())


def held(account: Account) -> dict[str, Decimal]:
    """What our books say it holds, dust included, by the key of the market, over all strategies."""
    found: dict[str, Decimal] = {}
    for ledgers in (account.positions, account.rests):
        for ledger, one in ledgers.items():
            found[market_of(ledger)] = found.get(market_of(ledger), ZERO) + one.quantity
    return found


def read_wanted(file: Path | None, options: Mapping[str, object], pairs: Sequence[str]) -> dict[str, object]:
    """The wanted fields: of a file (JSON or TOML), then of options that were given, then of `NAME=VALUE` pairs."""
    found: dict[str, object] = {} if file is None else _read_file(file)
    found |= {name: value for name, value in options.items() if value is not None}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign:
            raise BadSettings(f"{pair!r} is no NAME=VALUE, such as limits.daily_loss=50000.")
        try:
            value = json.loads(text, parse_float=str)
        except ValueError:
            value = text.split(",") if name.strip() == "markets" else text
        section, _, inner = name.strip().rpartition(".")
        below = found.get(section)
        if section and isinstance(below, dict):
            found[section] = below | {inner: value}  # what is given here goes before the file
        else:
            found[name.strip()] = value
    return found


def _read_file(file: Path) -> dict[str, object]:
    try:
        text = file.read_text(encoding="utf-8")
        is_toml = file.suffix.lower() == ".toml"
        found = tomllib.loads(text, parse_float=str) if is_toml else json.loads(text, parse_float=str)
    except FileNotFoundError:
        raise BadSettings(f"The file {file} does not exist.") from None
    except ValueError as error:  # of both readers, and of bytes that are no text
        raise BadSettings(f"{file} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise BadSettings(f"{file} must hold one object: field to value.")
    return found


def _currency(key: str) -> str:
    return key.rpartition("-")[2]


def _market(key: str) -> str:
    return key.partition(":")[2]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
