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
    STALE_POSITION = "stale-position"
    HALTED = "halted"
    TRADING_STOPPED = "trading-stopped"
    LIVE_NOT_OFFERED = "live-not-offered"
    LEDGER_DIFFERS = "ledger-differs"
    PAUSED = "paused"
    STRATEGY_UNUSABLE = "strategy-unusable"
    WARM_UP = "warm-up"
    MARKET_NOT_CHOSEN = "market-not-chosen"
    HORIZON_NOT_CHOSEN = "horizon-not-chosen"
    DELISTED = "delisted"
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
    MARKET_TAKEN = "market-taken"
    ORDER_PENDING = "order-pending"
    COOL_DOWN = "cool-down"
    MAXIMUM_POSITIONS = "maximum-positions"
    BELOW_MINIMUM = "below-minimum"
    UNSELLABLE_AFTER_STOP = "unsellable-after-stop"
    ABOVE_MAXIMUM = "above-maximum"
    ORDER_FUNDS = "order-funds"
    PRICE_BAND = "price-band"
    BUDGET = "budget"
    MARKET_EXPOSURE = "market-exposure"
    EXPOSURE = "exposure"
    ORDERS_PER_DAY = "orders-per-day"
    CANCEL_RATIO = "cancel-ratio"
    DAILY_LOSS = "daily-loss"
    DRAWDOWN = "drawdown"
    MARKET_SHARE = "market-share"
    NOT_ITS_TURN = "not-its-turn"
    CAPACITY = "capacity"
    OWN_ORDER = "own-order"


WORDS: dict[Reason, tuple[str, str]] = {
    Reason.EXIT_REFUSED: (
        "The sale of the open position is refused again and again; a person must look.",
        "보유 포지션의 매도가 거듭 거부되고 있습니다. 확인이 필요합니다.",
    ),
    Reason.STALE_POSITION: (
        "The market data of an open position are too old: its stop cannot be watched; a person must look.",
        "보유 포지션의 시세가 끊겨 손절을 감시할 수 없습니다. 확인이 필요합니다.",
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
    Reason.STRATEGY_UNUSABLE: (
        "The strategy is not known here, its parameters are wrong, or it failed.",
        "전략을 찾을 수 없거나 매개변수가 잘못되었거나 전략 실행에 실패했습니다.",
    ),
    Reason.WARM_UP: ("The market is warming up.", "준비(워밍업) 구간입니다."),
    Reason.MARKET_NOT_CHOSEN: ("This market is not among the account's markets.", "선택하지 않은 마켓입니다."),
    Reason.HORIZON_NOT_CHOSEN: (
        "There was no forecast over a horizon that the account trades.",
        "선택한 예측 구간의 신호가 없습니다.",
    ),
    Reason.DELISTED: (
        "The exchange ends trading in this market, or has.",
        "거래지원이 종료되었거나 종료될 예정인 마켓입니다.",
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
    Reason.MARKET_TAKEN: (
        "Another strategy of the account holds this market.",
        "계좌의 다른 전략이 이미 이 마켓을 보유하고 있습니다.",
    ),
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
    Reason.ABOVE_MAXIMUM: (
        "The entry is above the market's largest order.",
        "주문 금액이 최대 주문 가능 금액보다 큽니다.",
    ),
    Reason.ORDER_FUNDS: ("The order is larger than the account allows.", "계좌에 정한 1회 주문 한도를 넘습니다."),
    Reason.PRICE_BAND: (
        "The limit price is too far from the order book.",
        "지정가가 현재 호가에서 허용 범위보다 멀리 떨어져 있습니다.",
    ),
    Reason.BUDGET: ("The free part of the budget is too small.", "남은 예산이 부족합니다."),
    Reason.MARKET_EXPOSURE: (
        "The account would hold more of this market than it allows.",
        "이 마켓에 정한 보유 한도를 넘습니다.",
    ),
    Reason.EXPOSURE: (
        "The account would hold more in all than it allows.",
        "계좌에 정한 전체 보유 한도를 넘습니다.",
    ),
    Reason.ORDERS_PER_DAY: ("The account's orders of the day are used up.", "하루 주문 횟수 한도에 도달했습니다."),
    Reason.CANCEL_RATIO: (
        "Too many of the day's orders were cancelled.",
        "오늘 주문 중 취소 비율이 한도를 넘었습니다.",
    ),
    Reason.DAILY_LOSS: ("The largest loss of a day is reached.", "하루 최대 손실 한도에 도달했습니다."),
    Reason.DRAWDOWN: (
        "The largest fall from the account's highest value is reached.",
        "최고 평가액 대비 최대 낙폭 한도에 도달했습니다.",
    ),
    Reason.MARKET_SHARE: (
        "Our part of what trades in this market would be too large.",
        "이 마켓의 최근 거래에서 차지하는 비중이 한도를 넘습니다.",
    ),
    Reason.OWN_ORDER: (
        "The entry could meet a resting sell order of the same person.",
        "본인의 다른 매도 주문과 체결될 수 있는 주문입니다.",
    ),
    Reason.NOT_ITS_TURN: (
        "Many accounts share this market: this one's turn comes within seconds.",
        "여러 계좌가 순서대로 주문합니다. 몇 초 안에 차례가 옵니다.",
    ),
    Reason.CAPACITY: (
        "The accounts together have taken what this market's book can bear for now.",
        "지금 호가 잔량에서 함께 쓸 수 있는 몫을 다른 계좌들이 이미 사용했습니다.",
    ),
}


def text_of(reason: str, language: Language = "en") -> str:
    """Words for people; a model's own reason, which is not listed here, is put behind the words for `unlicensed`."""
    index = 0 if language == "en" else 1
    if reason in Reason.__members__.values():
        return WORDS[Reason(reason)][index]
    return f"{WORDS[Reason.UNLICENSED][index]} ({reason})"
