"""Why a key is not used: one stable word each, with its sentence for people in Korean and English.

`keys_keeper` and `keys_check` pick them, `KeyTold` carries them, the command line shows the sentences. Pure.
"""

from enum import StrEnum
from typing import Literal


class KeyReason(StrEnum):
    """Stable, because it is stored and told."""

    UNREADABLE_BOX = "unreadable-box"
    OTHER_PUBLIC_KEY = "other-public-key"
    NOT_THIS_ACCOUNT = "not-this-account"
    REPLAYED = "replayed"
    WRONG_KEY = "wrong-key"
    EXPIRED = "expired"
    ADDRESS_NOT_ALLOWED = "address-not-allowed"
    MAY_WITHDRAW = "may-withdraw"
    NO_ASSET_RIGHT = "no-asset-right"
    NO_VIEW_RIGHT = "no-view-right"
    NO_ORDER_RIGHT = "no-order-right"
    OTHER_POCKET = "other-pocket"
    NOT_CHECKED = "not-checked"
    EXPIRES_SOON = "expires-soon"


KEY_WORDS: dict[KeyReason, tuple[str, str]] = {
    KeyReason.UNREADABLE_BOX: (
        "The sealed key cannot be opened: it was damaged on its way, add it again.",
        "봉인된 키를 열 수 없습니다. 전달 중 손상되었으니 다시 등록해 주세요.",
    ),
    KeyReason.OTHER_PUBLIC_KEY: (
        "It was sealed for another public key of the executor: fetch the newest one and add the key again.",
        "다른 공개키로 봉인되었습니다. 최신 공개키를 받아 키를 다시 등록해 주세요.",
    ),
    KeyReason.NOT_THIS_ACCOUNT: (
        "The sealed key names another account, pocket or key: somebody swapped it; nothing was taken.",
        "봉인된 키의 계정·포켓·키 이름이 다릅니다. 바꿔치기된 것으로 보여 등록하지 않았습니다.",
    ),
    KeyReason.REPLAYED: (
        "The same sealed key came before; nothing was taken. To use the key again, add it again.",
        "이미 받은 봉인 키입니다. 등록하지 않았습니다. 다시 쓰려면 키를 새로 등록해 주세요.",
    ),
    KeyReason.WRONG_KEY: (
        "The exchange does not know this key, or the secret does not fit.",
        "거래소가 이 키를 알지 못하거나 시크릿 키가 맞지 않습니다.",
    ),
    KeyReason.EXPIRED: (
        "The key has run out: make a new one at the exchange.",
        "키가 만료되었습니다. 새로 발급해 주세요.",
    ),
    KeyReason.ADDRESS_NOT_ALLOWED: (
        "The exchange does not accept this key from this machine's address: add the address to the key.",
        "이 컴퓨터의 IP 주소가 키의 허용 목록에 없습니다. 거래소에서 주소를 추가해 주세요.",
    ),
    KeyReason.MAY_WITHDRAW: (
        "The key may withdraw money. Such keys are never taken: make one without that right.",
        "출금 권한이 있는 키는 등록할 수 없습니다. 출금 권한 없이 새로 발급해 주세요.",
    ),
    KeyReason.NO_ASSET_RIGHT: (
        "The key may not look at the assets: add that right at the exchange.",
        "자산 조회 권한이 없습니다. 거래소에서 권한을 추가해 주세요.",
    ),
    KeyReason.NO_VIEW_RIGHT: (
        "The key may not look at orders: add that right at the exchange.",
        "주문 조회 권한이 없습니다. 거래소에서 권한을 추가해 주세요.",
    ),
    KeyReason.NO_ORDER_RIGHT: (
        "The key may not place orders: add that right at the exchange.",
        "주문하기 권한이 없습니다. 거래소에서 권한을 추가해 주세요.",
    ),
    KeyReason.OTHER_POCKET: (
        "The key belongs to another pocket than the one it would replace; the old one stays in use.",
        "교체하려는 키와 다른 포켓의 키입니다. 기존 키를 계속 사용합니다.",
    ),
    KeyReason.NOT_CHECKED: (
        "The exchange could not be asked yet; the key is checked as soon as it answers.",
        "거래소에 아직 확인하지 못했습니다. 응답하는 대로 확인합니다.",
    ),
    KeyReason.EXPIRES_SOON: (
        "The key runs out soon: make a new one and rotate.",
        "키가 곧 만료됩니다. 새 키로 교체해 주세요.",
    ),
}


def words_of(reason: str, language: Literal["en", "ko"] = "en") -> str:
    """The sentence for people; empty for no reason."""
    return KEY_WORDS[KeyReason(reason)][0 if language == "en" else 1] if reason else ""


STATE_WORDS: dict[str, tuple[str, str]] = {
    "waiting": ("is kept, but not checked yet", "확인 대기 중입니다"),
    "taken": ("is in use", "사용 중입니다"),
    "refused": ("was refused and erased", "거부되어 삭제되었습니다"),
    "blocked": ("is kept, but not used", "보관 중이며 사용하지 않습니다"),
    "replaced": ("was replaced and erased", "교체되어 삭제되었습니다"),
    "removed": ("was erased", "삭제되었습니다"),
    "unanswered": (
        "was handed over, but the executor did not answer yet: it goes on when it runs",
        "전달했지만 실행기가 아직 응답하지 않았습니다. 실행되면 처리합니다",
    ),
}
"""What a state says of a key, after its name."""


def sentence(key: str, state: str, reason: str, language: Literal["en", "ko"] = "en") -> str:
    """One line for people about one key."""
    state_words = STATE_WORDS[state][0 if language == "en" else 1]
    because = words_of(reason, language)
    begin = f"The key {key} {state_words}." if language == "en" else f"키 {key}: {state_words}."
    return f"{begin} {because}".rstrip()
