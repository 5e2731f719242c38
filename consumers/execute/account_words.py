"""What the verbs on an account's settings and ledger say, in English and Korean. Pure; used by those verbs only."""

from typing import Literal

Language = Literal["en", "ko"]

_WORDS: dict[str, tuple[str, str]] = {
    # why a field is refused
    "no-field": ("there is no such field", "없는 항목입니다"),
    "fixed": ("it is fixed for the account's life", "계정이 있는 동안 바꿀 수 없습니다"),
    "type": ("it cannot be read: {text}", "읽을 수 없습니다: {text}"),
    "range": ("it must lie between {low} and {high}", "{low}에서 {high} 사이여야 합니다"),
    "too-fine": ("more than {places} digits after the point", "소수점 아래 {places}자리를 넘습니다"),
    "market": ("{text} is no market code such as KRW-BTC", "{text}: KRW-BTC 같은 종목 코드가 아닙니다"),
    "name": ("only letters, digits, - and _ , 64 at most", "영문, 숫자, -, _만 64자까지 쓸 수 있습니다"),
    "empty": ("at least one is needed", "하나 이상 필요합니다"),
    "twice": ("{text} stands there twice", "{text}이(가) 두 번 있습니다"),
    "strategy": ("{text}", "{text}"),
    # sentences
    "refused": (
        "nothing was changed; refused fields: {fields}",
        "아무것도 바꾸지 않았습니다. 거부된 항목: {fields}",
    ),
    "no-account": (
        "there is no account {account!r}; `observator account list` names them",
        "{account!r} 계정이 없습니다. `observator account list`로 확인하세요",
    ),
    "exists": (
        "the account {account!r} is there already, or is made by trade; `observator account set` changes it",
        "{account!r} 계정은 이미 있거나 trade가 만듭니다. `observator account set`으로 바꾸세요",
    ),
    "bad-name": (
        "{text!r} is no name: letters, digits, - and _ , 64 at most, a letter or digit first",
        "{text!r}: 이름은 영문이나 숫자로 시작하고 영문, 숫자, -, _만 64자까지 쓸 수 있습니다",
    ),
    "default-first": (
        "the pocket {pocket} belongs to the account {account!r}, which trade makes at its first start: start it first",
        "계좌 {pocket}은(는) trade가 처음 시작할 때 만드는 {account!r} 계정의 것입니다. 먼저 시작하세요",
    ),
    "ask-add": ("Make the account {account} so?", "{account} 계정을 이렇게 만들까요?"),
    "added": (
        (
            "Written. Its pocket needs a key (`observator keys add --account {account}`) unless another account has one"
            " in it; `observator account set {account} --set is_trading=true` lets it enter."
        ),
        (
            "기록했습니다. 계좌에 키가 없으면 `observator keys add --account {account}`로 등록하세요."
            " `observator account set {account} --set is_trading=true`로 진입을 시작합니다."
        ),
    ),
    "nothing": ("Nothing changes.", "바뀌는 것이 없습니다."),
    "change": ("{field}: {before} -> {after}", "{field}: {before} -> {after}"),
    "ask-set": ("Change {account} so?", "{account} 계정을 이렇게 바꿀까요?"),
    "set": (
        "Written. It holds for {account} as soon as trade and the executor read it.",
        "기록했습니다. trade와 실행기가 읽는 대로 {account} 계정에 적용됩니다.",
    ),
    "unwritten": ("Nothing was written.", "아무것도 기록하지 않았습니다."),
    "not-stopped": (
        "{account} is not stopped for its ledger and its pocket holds all of it: there is nothing to accept",
        "{account}: 장부 때문에 멈춘 상태가 아니고 보유량도 장부보다 적지 않으므로 인정할 것이 없습니다",
    ),
    "holding": (
        "{market}: our ledger {before}, from now on {after}; its pocket holds {pocket} of {currency} in all.",
        "{market}: 장부 {before}, 앞으로 {after}. 이 계좌의 {currency} 총 보유량은 {pocket}.",
    ),
    "holds-nothing": ("Our books hold nothing.", "장부상 보유량이 없습니다."),
    "lost": (
        "A lost order, given up by this: {side} {market} ({intent}).",
        "분실된 주문이며 이로써 포기합니다: {side} {market} ({intent}).",
    ),
    "say-holding": (
        "say by --holding MARKET=QUANTITY what it holds of {markets}: an order is lost there, or the pocket holds less",
        "{markets} 보유량을 --holding 종목=수량으로 알려 주세요. 분실된 주문이 있거나 계좌 보유량이 부족합니다",
    ),
    "bad-holding": (
        "{text!r} is no MARKET=QUANTITY such as KRW-BTC=0.5, with eight digits after the point at most",
        "{text!r}: KRW-BTC=0.5 같은 종목=수량(소수점 아래 8자리까지)이 아닙니다",
    ),
    "no-ledger": (
        "{account} has no ledger of {market} and no lost order there: nothing would come of it",
        "{account} 계정에는 {market}의 장부도 분실된 주문도 없어 아무 효과가 없습니다",
    ),
    "too-much": (
        "the pocket holds {pocket} of {currency}: {account} cannot hold {quantity}",
        "계좌의 {currency} 보유량은 {pocket}이므로 {account} 계정이 {quantity}을(를) 가질 수 없습니다",
    ),
    "ask-accept": (
        "This becomes the truth for {account}, and it may enter again. Go on?",
        "{account} 계정의 장부가 이렇게 확정되고 다시 진입할 수 있습니다. 계속할까요?",
    ),
    "accepted": (
        "Written: the ledger of {account} is accepted.",
        "기록했습니다: {account} 계정의 장부를 인정했습니다.",
    ),
    "unknown": ("an unknown amount", "알 수 없는 수량"),
}


def words(name: str, language: Language, **values: object) -> str:
    """One sentence."""
    return _WORDS[name][language == "ko"].format(**values)
