"""What became of a person's request: every state has one stable word, with its sentence in English and Korean. Pure.

`RequestTold.reason` is the word, `RequestTold.values` fill its sentence, and `RequestTold.text` is the English one.
"""

from datetime import datetime, timedelta, timezone
from typing import Literal

Language = Literal["en", "ko"]
KOREA = timezone(timedelta(hours=9))

WORDS: dict[str, tuple[str, str]] = {
    # waiting and fired
    "taken": ("Taken; the order is due now.", "접수되었습니다. 바로 주문합니다."),
    "waits-for-time": ("Waits until {at}.", "{at}까지 기다립니다."),
    "waits-for-price": ("Waits for a price {how} {price}.", "가격 조건({price} {how})을 기다립니다."),
    "waits-for-next": ("The next order is due at {at}.", "다음 주문 예정: {at}."),
    "changed": ("Changed.", "변경되었습니다."),
    "sent": ("Due: the order goes out.", "주문 시각이 되어 주문을 보냅니다."),
    "sent-by-lot": (
        "Due: sent at once by lot, to measure what waiting is worth.",
        "기다림의 효과를 재기 위해 무작위로 선택되어 바로 보냅니다.",
    ),
    "waits-for-better": (
        "Due: waits up to {seconds} s for a better price.",
        "더 나은 가격을 최대 {seconds}초 동안 기다립니다.",
    ),
    # ended
    "done": ("Traded {quantity} for {funds}, fee {fee}.", "{quantity}개, {funds} 체결, 수수료 {fee}."),
    "done-in-part": (
        "Traded {quantity} for {funds}, fee {fee}; the rest was refused: {name}.",
        "{quantity}개, {funds} 체결, 수수료 {fee}. 나머지는 거부되었습니다: {name}.",
    ),
    "rest-too-small": (
        "Traded {quantity} for {funds}, fee {fee}; the rest is below the exchange's smallest order.",
        "{quantity}개, {funds} 체결, 수수료 {fee}. 나머지는 거래소 최소 주문 금액보다 작습니다.",
    ),
    "cancelled": ("Cancelled; {funds} had been traded.", "취소되었습니다. 그 전에 체결된 금액: {funds}."),
    "late": (
        "{missed} time(s) passed while no order could be sent; they are not made up for.",
        "주문을 보낼 수 없는 동안 {missed}회의 시각이 지났습니다. 소급하여 주문하지 않습니다.",
    ),
    "over": ("Its time was over before it could fire.", "조건이 충족되기 전에 유효 기간이 끝났습니다."),
    "not-sent-in-time": ("The order could not be sent in time.", "제시간에 주문을 보내지 못했습니다."),
    "not-proven": (
        "The order was sent and never found at the exchange; nothing is sent again, look at the account.",
        "주문을 보냈으나 거래소에서 확인되지 않았습니다. 다시 보내지 않으니 계좌를 확인하세요.",
    ),
    # refused
    "refused": ("Refused: {name} ({text}).", "거부되었습니다: {name} ({text})."),
    "no-market": ("There is no market {market}.", "{market} 마켓이 없습니다."),
    "no-exchange": ("Orders go to upbit only, not to {exchange}.", "주문은 upbit에서만 가능합니다: {exchange}."),
    "bad-amount": (
        "A limit order needs price and quantity, a buy at the market funds, a sale at the market a quantity; above 0.",
        "지정가는 가격과 수량, 시장가 매수는 금액, 시장가 매도는 수량이 필요하며 0보다 커야 합니다.",
    ),
    "bad-time-in-force": (
        "This kind of order does not take {time_in_force!r}: best needs ioc or fok, market orders none.",
        "이 주문 유형에는 {time_in_force!r} 조건을 쓸 수 없습니다.",
    ),
    "bad-times": (
        "A repetition is every 1 s to 366 days, a number of times needs one and is at least 1; times lie before 2100.",
        "반복 간격은 1초 이상 366일 이하이어야 하고, 횟수는 간격과 함께 1 이상으로, 시각은 2100년 이전으로 지정하세요.",
    ),
    "bad-trigger": ("A price condition needs its price and its direction.", "감시 가격과 방향을 함께 지정하세요."),
    "bad-patience": ("Waiting is possible for at most {seconds} s.", "최대 {seconds}초까지만 기다릴 수 있습니다."),
    "off-tick": (
        "{price} is not a valid price: the next ones are {below} and {above}.",
        "{price}은(는) 호가 단위에 맞지 않습니다. 가능한 가격: {below}, {above}.",
    ),
    "under-minimum": (
        "{total} is below the smallest order of {minimum}.",
        "{total}은(는) 최소 주문 금액 {minimum}보다 작습니다.",
    ),
    "over-maximum": (
        "{total} is above the largest order of {maximum}.",
        "{total}은(는) 최대 주문 금액 {maximum}보다 큽니다.",
    ),
    "delisted": ("The exchange lists {market} no longer.", "{market}은(는) 거래 지원이 종료되었습니다."),
    "already-over": ("It is over already: {state}.", "이미 끝난 요청입니다: {state}."),
    "no-request": ("There is no such request.", "해당 요청이 없습니다."),
    "not-yours": ("The request belongs to another account.", "다른 계좌의 요청입니다."),
}  # fmt: skip
"""Word -> (English, Korean)."""


def sentence(reason: str, values: dict[str, str], language: Language = "en") -> str:
    """The word's sentence; an unknown word stands as it is."""
    english, korean = WORDS.get(reason, (reason, reason))
    return (korean if language == "ko" else english).format_map(_Values(values))


class _Values(dict[str, str]):
    """A value that an older record lacks is shown as a question mark."""

    def __missing__(self, _key: str) -> str:
        return "?"


def korean(at_ms: int) -> str:
    """A time in Korea, as people write it; one that no calendar has stands as its number."""
    try:
        return f"{datetime.fromtimestamp(at_ms / 1000, KOREA):%Y-%m-%d %H:%M:%S} KST"
    except (ValueError, OverflowError, OSError):
        return f"{at_ms} ms"
