"""What each entry of the feature vector is called on the page, Korean and English. Pure; a test holds it complete."""

from dashboard import formats
from dashboard.words import Language

NAMES: dict[str, tuple[str, str]] = {
    "spread_bp": ("호가 차이", "spread"),
    "spread_ticks": ("호가 차이(틱)", "spread in ticks"),
    "tick_bp": ("호가 단위", "tick size"),
    "return_1s": ("1초 수익률", "return, 1 s"),
    "return_5s": ("5초 수익률", "return, 5 s"),
    "return_15s": ("15초 수익률", "return, 15 s"),
    "return_30s": ("30초 수익률", "return, 30 s"),
    "return_60s": ("60초 수익률", "return, 60 s"),
    "imbalance_l1": ("잔량 불균형 1단계", "imbalance, best level"),
    "imbalance_l5": ("잔량 불균형 5단계", "imbalance, 5 levels"),
    "imbalance_l15": ("잔량 불균형 15단계", "imbalance, 15 levels"),
    "imbalance_mean_1s": ("평균 불균형 1초", "mean imbalance, 1 s"),
    "imbalance_mean_5s": ("평균 불균형 5초", "mean imbalance, 5 s"),
    "microprice_bp": ("잔량 가중 중간가", "size-weighted mid"),
    "ofi_1s": ("주문 흐름 1초", "order flow, 1 s"),
    "ofi_5s": ("주문 흐름 5초", "order flow, 5 s"),
    "ofi_30s": ("주문 흐름 30초", "order flow, 30 s"),
    "mofi_1s": ("5단계 주문 흐름 1초", "order flow, 5 levels, 1 s"),
    "mofi_5s": ("5단계 주문 흐름 5초", "order flow, 5 levels, 5 s"),
    "mofi_30s": ("5단계 주문 흐름 30초", "order flow, 5 levels, 30 s"),
    "trade_flow_1s": ("체결 흐름 1초", "trade flow, 1 s"),
    "trade_flow_5s": ("체결 흐름 5초", "trade flow, 5 s"),
    "trade_flow_30s": ("체결 흐름 30초", "trade flow, 30 s"),
    "is_silent_5s": ("5초간 체결 없음", "no trade in 5 s"),
    "buy_share_30s": ("매수 체결 비율 30초", "share of buys, 30 s"),
    "volatility_5_trades_bp": ("최근 5체결 변동폭", "deviation of 5 trades"),
    "volatility_5s": ("변동성 5초", "volatility, 5 s"),
    "volatility_30s": ("변동성 30초", "volatility, 30 s"),
    "volatility_60s": ("변동성 60초", "volatility, 60 s"),
    "volatility_w_bp": ("구간 변동성", "volatility of the run"),
    "depth_ratio": ("전체 대 5단계 잔량", "depth, all to 5 levels"),
    "depth_width_bp": ("5단계 호가 폭", "width of 5 levels"),
    "trade_age_s": ("마지막 체결 후", "since the last trade"),
    "book_age_s": ("마지막 호가 후", "since the last book"),
    "books_5s": ("초당 호가 수", "books per second"),
    "quarter_phase": ("15분 내 위치", "place in the quarter-hour"),
}

_UNITS = {"bp": ("%", "%"), "ticks": ("틱", " ticks"), "s": ("초", " s"), "1/s": ("/초", "/s")}


def name_of(feature: str, language: Language) -> str:
    """A feature's name for people; one that has none stands for itself."""
    korean, english = NAMES.get(feature, (feature, feature))
    return korean if language == "ko" else english


def value_of(unit: str, value: float | None, language: Language) -> str:
    """A feature's value with its unit; basis points are shown as per cent, ratios and shares stand alone."""
    if value is None:
        return formats.number(None)
    korean, english = _UNITS.get(unit, ("", ""))
    return formats.number(value / 100 if unit == "bp" else value) + (korean if language == "ko" else english)
