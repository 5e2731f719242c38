"""What people see of their accounts on the command line, and their word that a paused one may enter again."""

import getpass
import time
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from consumers.execute.interference import Kind
from consumers.trade.inputs import read_to_end
from consumers.trade.state import MARKET_VIEW, Account, decode_account
from infra.errors import BadSettings
from infra.log import Log, slots_of
from streams import topics
from streams.messages import AccountResumed, AccountState, encode

Language = Literal["en", "ko"]

WORDS: dict[Kind, tuple[str, str]] = {
    "coins-missing": (
        "the exchange holds less of a coin than was bought here",
        "여기서 매수한 코인이 거래소에 부족합니다",
    ),
    "coins-moved": (
        "a coin that the account holds was moved by somebody else",
        "보유 중인 코인이 다른 경로로 입출금되거나 거래되었습니다",
    ),
    "order-ended": (
        "an order of ours was cancelled by somebody else",
        "다른 경로에서 주문이 취소되었습니다",
    ),
    "order-foreign": (
        "an order under our mark that we never sent is open",
        "이 프로그램이 보내지 않은 주문이 같은 식별자로 열려 있습니다",
    ),
    "external-coins": ("coins beside ours", "여기서 매수하지 않은 코인"),
    "external-order": ("an order made elsewhere", "다른 경로에서 만든 주문"),
}


def text_of(reason: str, language: Language = "en") -> str:
    """A pause's reason in words; a word that has none stands for itself."""
    found = {str(kind): words for kind, words in WORDS.items()}.get(reason)
    return reason if found is None else found[language == "ko"]


def accounts(log: Log) -> dict[str, Account]:
    """The newest state of every account, as trade wrote it."""
    found: dict[str, Account] = {}
    for record in read_to_end(log, slots_of(log, ["account-states"])):
        try:
            state: AccountState = topics.decode("account-states", record.value)
            if state.account != MARKET_VIEW:
                found[state.account] = decode_account(state.state)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue  # trade tells of it
    return dict(sorted(found.items()))


def row_of(account: Account, language: Language = "en") -> dict[str, Any]:
    """A line of the list."""
    return {
        "account": account.settings.account,
        "pocket": account.settings.pocket,
        "venue": account.settings.venue,
        "trading": account.is_trading,
        "halt": account.halt,
        "paused": text_of(account.paused, language) if account.paused else "",
        "positions": len(account.positions),
        "free": str(account.free),
        "realised": str(account.realised),
    }


def resume(log: Log, account: str, *, has_looked: bool, ask: Callable[[str], str] | None) -> dict[str, Any]:
    """Say that a paused account may enter again, after a person typed its name; raises `BadSettings`."""
    found = accounts(log).get(account)
    if found is None:
        raise BadSettings(f"there is no account {account!r}; `observator account list` names them")
    if not found.paused:
        raise BadSettings(f"{account} is not paused: there is nothing to resume")
    if not has_looked:
        if ask is None:
            raise BadSettings("look at the pocket at the exchange first, then say so with --yes-i-looked")
        question = f"{account} is paused ({text_of(found.paused)}). What the exchange holds now will be accepted."
        if ask(f"{question} Type {account} to go on").strip() != account:
            raise BadSettings(f"that was not {account}: nothing was changed")
    message = AccountResumed(account=account, event_ms=time.time_ns() // 1_000_000, by=getpass.getuser())
    publisher = log.publisher(linger_ms=0)
    try:
        publisher.publish("controls", account, encode(message))
        publisher.flush()
    finally:
        publisher.close()
    return {"account": account, "was_paused_for": found.paused, "by": message.by}
