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
from infra.log import Log, publish_one, slots_of
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


_SENTENCES: dict[str, tuple[str, str]] = {
    "unknown": (
        "there is no account {account!r}; `observator account list` names them",
        "{account!r} 계정이 없습니다. `observator account list`로 확인하세요",
    ),
    "not-paused": (
        "{account} is not paused: there is nothing to resume",
        "{account}: 일시 중지 상태가 아니므로 재개할 것이 없습니다",
    ),
    "look-first": (
        "look at the pocket at the exchange first, then say so with --yes-i-looked",
        "먼저 거래소의 계좌를 확인한 뒤 --yes-i-looked를 붙이세요",
    ),
    "question": (
        "{account} is paused ({reason}). What the exchange holds now will be accepted. Type {account} to go on",
        "{account} 계정은 일시 중지되었습니다({reason}). 지금 거래소의 보유량을 인정합니다. 계속하려면 {account} 입력",
    ),
    "mistyped": (
        "that was not {account}: nothing was changed",
        "{account}이(가) 아닙니다. 아무것도 바꾸지 않았습니다",
    ),
    "done": ("{account} may enter again.", "{account} 계정은 다시 진입할 수 있습니다."),
}


def person() -> str:
    """Who sits at the command line."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return "command line"


def _say(name: str, language: Language, **values: object) -> str:
    return _SENTENCES[name][language == "ko"].format(**values)


def done_words(account: str, language: Language) -> str:
    """What is said when an account may enter again."""
    return _say("done", language, account=account)


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


def resume(
    log: Log,
    account: str,
    *,
    has_looked: bool,
    ask: Callable[[str], str] | None,
    language: Language = "en",
    by: str = "",
) -> dict[str, Any]:
    """Say that a paused account may enter again, after a person typed its name; raises `BadSettings`."""
    found = accounts(log).get(account)
    if found is None:
        raise BadSettings(_say("unknown", language, account=account))
    if not found.paused:
        raise BadSettings(_say("not-paused", language, account=account))
    if not has_looked:
        if ask is None:
            raise BadSettings(_say("look-first", language))
        question = _say("question", language, account=account, reason=text_of(found.paused, language))
        if ask(question).strip() != account:
            raise BadSettings(_say("mistyped", language, account=account))
    message = AccountResumed(account=account, event_ms=time.time_ns() // 1_000_000, by=by or person())
    publish_one(log, "controls", account, encode(message))
    return {"account": account, "was_paused_for": found.paused, "by": message.by}
