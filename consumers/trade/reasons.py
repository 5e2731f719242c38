"""Why nothing was traded: every refusal has one stored reason, with its words for people in Korean and English.

`consumers.trade.entries` picks them, `Veto` records and the day's counts carry them, pages show the words. A reason
that a model gives for an unlicensed signal (`Signal.refusal`) is stored as it is.
"""

from enum import StrEnum
from typing import Literal

Language = Literal["en", "ko"]


class Reason(StrEnum):
    """One word per refusal; stable, because it is stored."""

    EXIT_REFUSED = "exit-refused"
    HALTED = "halted"
    TRADING_STOPPED = "trading-stopped"
    LIVE_NOT_OFFERED = "live-not-offered"
    LEDGER_DIFFERS = "ledger-differs"
    PAUSED = "paused"
    WARM_UP = "warm-up"
    MARKET_NOT_CHOSEN = "market-not-chosen"
    HORIZON_NOT_CHOSEN = "horizon-not-chosen"
    CAUTION = "caution"
    STALE_SIGNAL = "stale-signal"
    STALE_FEED = "stale-feed"
    UNLICENSED = "unlicensed"
    NO_LICENCE = "no-licence"
    SYNTHETIC_MODEL = "synthetic-model"
    NO_BOOK = "no-book"
    THIN_BOOK = "thin-book"
    BELOW_COST = "below-cost"
    POSITION_OPEN = "position-open"
    ORDER_PENDING = "order-pending"
    COOL_DOWN = "cool-down"
    MAXIMUM_POSITIONS = "maximum-positions"
    BELOW_MINIMUM = "below-minimum"
    UNSELLABLE_AFTER_STOP = "unsellable-after-stop"
    BUDGET = "budget"


WORDS: dict[Reason, tuple[str, str]] = {
    Reason.EXIT_REFUSED: (
        "The sale of the open position is refused again and again; a person must look.",
        "보유 포지션의 매도가 거듭 거부되고 있습니다. 확인이 필요합니다.",
    ),
    Reason.HALTED: ("The kill switch is on.", "긴급 정지 상태입니다."),
    Reason.TRADING_STOPPED: ("Automatic trading is stopped.", "자동 매매가 중지되어 있습니다."),
    Reason.LIVE_NOT_OFFERED: ("Trading with real money is not offered yet.", "실거래는 아직 제공되지 않습니다."),
    Reason.LEDGER_DIFFERS: (
        "The account's ledger does not agree with its fills; a person must look.",
        "계좌 장부와 체결 내역이 일치하지 않습니다. 확인이 필요합니다.",
    ),
    Reason.PAUSED: (
        "Somebody else traded in the account: it waits for a person's word.",
        "계좌에서 다른 거래가 감지되어 확인을 기다리고 있습니다.",
    ),
    Reason.WARM_UP: ("The market is warming up.", "준비(워밍업) 구간입니다."),
    Reason.MARKET_NOT_CHOSEN: ("This market is not among the account's markets.", "선택하지 않은 마켓입니다."),
    Reason.HORIZON_NOT_CHOSEN: (
        "There was no forecast over a horizon that the account trades.",
        "선택한 예측 구간의 신호가 없습니다.",
    ),
    Reason.CAUTION: ("The exchange warns of this market.", "거래소가 유의·주의로 지정한 마켓입니다."),
    Reason.STALE_SIGNAL: ("The forecast came too late.", "예측이 너무 늦게 도착했습니다."),
    Reason.STALE_FEED: ("The market data are too old.", "시세 데이터가 오래되었습니다."),
    Reason.UNLICENSED: (
        "The model has not proven skill on this feed.",
        "이 시세에서 모델의 예측력이 입증되지 않았습니다.",
    ),
    Reason.NO_LICENCE: (
        "This horizon of the model has not proven skill beyond chance.",
        "이 예측 구간은 우연 이상의 예측력이 입증되지 않았습니다.",
    ),
    Reason.SYNTHETIC_MODEL: (
        "The model was trained on synthetic data; it trades nowhere else.",
        "합성 데이터로 학습한 모델이라 이 시세에서는 거래하지 않습니다.",
    ),
    Reason.NO_BOOK: ("There is no usable order book.", "사용할 수 있는 호가가 없습니다."),
    Reason.THIN_BOOK: ("The order book is too thin for the size.", "주문 금액에 비해 호가 잔량이 부족합니다."),
    Reason.BELOW_COST: (
        "The expected return is below the round-trip cost and the threshold.",
        "예상 수익률이 왕복 비용과 수익 임계값의 합보다 낮습니다.",
    ),
    Reason.POSITION_OPEN: ("A position is open in this market.", "이 마켓에 이미 보유 포지션이 있습니다."),
    Reason.ORDER_PENDING: ("An order is under way in this market.", "이 마켓에 미체결 주문이 있습니다."),
    Reason.COOL_DOWN: ("Pause after the last position.", "직전 청산 후 대기 시간입니다."),
    Reason.MAXIMUM_POSITIONS: ("The largest number of positions is open.", "최대 보유 포지션 수에 도달했습니다."),
    Reason.BELOW_MINIMUM: (
        "The entry is below the market's smallest order.",
        "주문 금액이 최소 주문 금액보다 작습니다.",
    ),
    Reason.UNSELLABLE_AFTER_STOP: (
        "After its stop the position could be too small to be sold.",
        "손절 후 최소 주문 금액에 못 미쳐 매도하지 못할 수 있습니다.",
    ),
    Reason.BUDGET: ("The free part of the budget is too small.", "남은 예산이 부족합니다."),
}


def text_of(reason: str, language: Language = "en") -> str:
    """Words for people; a model's own reason, which is not listed here, is put behind the words for `unlicensed`."""
    index = 0 if language == "en" else 1
    if reason in Reason.__members__.values():
        return WORDS[Reason(reason)][index]
    return f"{WORDS[Reason.UNLICENSED][index]} ({reason})"
